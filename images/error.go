// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package images

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/containerd/errdefs"
)

// Error is a refusal of the image store, with a class of errdefs (errors.Is) and
// a code of the Windows set that hcn and hcs use too.
type Error struct {
	Text string
	Code uint32
}

// Codes of Error. HRESULTs of Win32 errors, winerror.h.
const (
	CodeNotFound     = 0x80070490 // ERROR_NOT_FOUND
	CodeExists       = 0x800700B7 // ERROR_ALREADY_EXISTS
	CodeInvalid      = 0x80070057 // ERROR_INVALID_PARAMETER
	CodeInvalidData  = 0x8007000D // ERROR_INVALID_DATA: an archive, layer or manifest is wrong
	CodeInUse        = 0x80070020 // ERROR_SHARING_VIOLATION
	CodeAccessDenied = 0x80070005 // ERROR_ACCESS_DENIED: of us or of the registry
	CodeUnavailable  = 0x80070035 // ERROR_BAD_NETPATH: registry not reachable or failing
	CodeDiskFull     = 0x80070070 // ERROR_DISK_FULL
	CodeNotSupported = 0x80070032 // ERROR_NOT_SUPPORTED
	CodeCancelled    = 0x800704C7 // ERROR_CANCELLED
	CodeUnspecified  = 0x80004005 // E_FAIL
)

// Errorf makes an Error; an error among args that is wrapped by %w keeps no link:
// the text is what crosses the wire.
func Errorf(code uint32, format string, args ...any) *Error {
	return &Error{Code: code, Text: fmt.Errorf(format, args...).Error()}
}

func (e *Error) Error() string { return e.Text }

// Unwrap gives the errdefs class.
func (e *Error) Unwrap() error {
	switch e.Code {
	case CodeNotFound:
		return errdefs.ErrNotFound
	case CodeExists:
		return errdefs.ErrAlreadyExists
	case CodeInvalid, CodeInvalidData:
		return errdefs.ErrInvalidArgument
	case CodeInUse:
		return errdefs.ErrFailedPrecondition
	case CodeAccessDenied:
		return errdefs.ErrPermissionDenied
	case CodeUnavailable:
		return errdefs.ErrUnavailable
	case CodeDiskFull:
		return errdefs.ErrResourceExhausted
	case CodeNotSupported:
		return errdefs.ErrNotImplemented
	case CodeCancelled:
		return context.Canceled
	}
	return errdefs.ErrInternal
}

// HTTPStatus is the status the error travels with.
func (e *Error) HTTPStatus() int {
	switch e.Code {
	case CodeNotFound:
		return http.StatusNotFound
	case CodeExists, CodeInUse:
		return http.StatusConflict
	case CodeInvalid:
		return http.StatusBadRequest
	case CodeInvalidData:
		return http.StatusUnprocessableEntity
	case CodeAccessDenied:
		return http.StatusForbidden
	case CodeUnavailable:
		return http.StatusBadGateway
	case CodeDiskFull:
		return http.StatusInsufficientStorage
	case CodeNotSupported:
		return http.StatusNotImplemented
	case CodeCancelled:
		return 499 // client closed request, as nginx names it
	}
	return http.StatusInternalServerError
}

// record is the JSON form, that of hcn's error record.
type record struct {
	Success   bool
	Error     string
	ErrorCode uint32
}

// Record is the JSON body that the error becomes.
func (e *Error) Record() any { return record{Error: e.Text, ErrorCode: e.Code} }

// MarshalJSON writes the record.
func (e *Error) MarshalJSON() ([]byte, error) { return json.Marshal(e.Record()) }

// UnmarshalJSON reads the record.
func (e *Error) UnmarshalJSON(b []byte) error {
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return err
	}
	e.Text, e.Code = r.Error, r.ErrorCode
	return nil
}
