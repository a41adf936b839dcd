// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcs

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/containerd/errdefs"
)

// Code is an HRESULT of the Host Compute Service.
type Code uint32

// Codes, as in the public HCS error table (HCS_E_*); the last group is of
// facility Win32 and of COM.
const (
	CodeTerminatedDuringStart      Code = 0x80370100
	CodeImageMismatch              Code = 0x80370101
	CodeHypervNotInstalled         Code = 0x80370102
	CodeInvalidState               Code = 0x80370105
	CodeUnexpectedExit             Code = 0x80370106
	CodeTerminated                 Code = 0x80370107
	CodeConnectFailed              Code = 0x80370108
	CodeConnectionTimeout          Code = 0x80370109
	CodeConnectionClosed           Code = 0x8037010a
	CodeUnknownMessage             Code = 0x8037010b
	CodeUnsupportedProtocolVersion Code = 0x8037010c
	CodeInvalidJSON                Code = 0x8037010d
	CodeSystemNotFound             Code = 0x8037010e
	CodeSystemAlreadyExists        Code = 0x8037010f
	CodeSystemAlreadyStopped       Code = 0x80370110
	CodeProtocolError              Code = 0x80370111
	CodeInvalidLayer               Code = 0x80370112
	CodeServiceNotAvailable        Code = 0x80370114
	CodeOperationNotStarted        Code = 0x80370115
	CodeOperationAlreadyStarted    Code = 0x80370116
	CodeOperationPending           Code = 0x80370117
	CodeOperationTimeout           Code = 0x80370118
	CodeAccessDenied               Code = 0x8037011b
	CodeGuestCriticalError         Code = 0x8037011c
	CodeProcessInfoNotAvailable    Code = 0x8037011d
	CodeServiceDisconnect          Code = 0x8037011e
	CodeProcessAlreadyStopped      Code = 0x8037011f

	CodeOldPending     Code = 0xc0370103 // of the old interface; only understood
	CodeNotFound       Code = 0x80070490
	CodeNotSupported   Code = 0x80070032
	CodeNotImplemented Code = 0x80004001
	CodeInvalidData    Code = 0x8007000d
	CodeInvalidArg     Code = 0x80070057
	CodeDenied         Code = 0x80070005
	CodeExists         Code = 0x800700b7
	CodeSharing        Code = 0x80070020
	CodeNoMemory       Code = 0x8007000e
	CodeDiskFull       Code = 0x80070070
	CodeUnspecified    Code = 0x80004005
)

// codeRow is what a code means to a program.
type codeRow struct {
	name   string
	class  error // of errdefs
	status int
}

func (c Code) row() codeRow {
	switch c {
	case CodeTerminatedDuringStart:
		return codeRow{"HCS_E_TERMINATED_DURING_START", errdefs.ErrAborted, 409}
	case CodeImageMismatch:
		return codeRow{"HCS_E_IMAGE_MISMATCH", errdefs.ErrInvalidArgument, 422}
	case CodeHypervNotInstalled:
		return codeRow{"HCS_E_HYPERV_NOT_INSTALLED", errdefs.ErrFailedPrecondition, 503}
	case CodeInvalidState:
		return codeRow{"HCS_E_INVALID_STATE", errdefs.ErrFailedPrecondition, 409}
	case CodeUnexpectedExit:
		return codeRow{"HCS_E_UNEXPECTED_EXIT", errdefs.ErrAborted, 500}
	case CodeTerminated:
		return codeRow{"HCS_E_TERMINATED", errdefs.ErrAborted, 409}
	case CodeConnectFailed:
		return codeRow{"HCS_E_CONNECT_FAILED", errdefs.ErrUnavailable, 502}
	case CodeConnectionTimeout:
		return codeRow{"HCS_E_CONNECTION_TIMEOUT", errdefs.ErrUnavailable, 504}
	case CodeConnectionClosed:
		return codeRow{"HCS_E_CONNECTION_CLOSED", errdefs.ErrUnavailable, 502}
	case CodeUnknownMessage:
		return codeRow{"HCS_E_UNKNOWN_MESSAGE", errdefs.ErrNotImplemented, 501}
	case CodeUnsupportedProtocolVersion:
		return codeRow{"HCS_E_UNSUPPORTED_PROTOCOL_VERSION", errdefs.ErrFailedPrecondition, 502}
	case CodeInvalidJSON:
		return codeRow{"HCS_E_INVALID_JSON", errdefs.ErrInvalidArgument, 400}
	case CodeSystemNotFound:
		return codeRow{"HCS_E_SYSTEM_NOT_FOUND", errdefs.ErrNotFound, 404}
	case CodeSystemAlreadyExists:
		return codeRow{"HCS_E_SYSTEM_ALREADY_EXISTS", errdefs.ErrAlreadyExists, 409}
	case CodeSystemAlreadyStopped:
		return codeRow{"HCS_E_SYSTEM_ALREADY_STOPPED", errdefs.ErrFailedPrecondition, 409}
	case CodeProtocolError:
		return codeRow{"HCS_E_PROTOCOL_ERROR", errdefs.ErrInternal, 502}
	case CodeInvalidLayer:
		return codeRow{"HCS_E_INVALID_LAYER", errdefs.ErrInvalidArgument, 422}
	case CodeServiceNotAvailable:
		return codeRow{"HCS_E_SERVICE_NOT_AVAILABLE", errdefs.ErrUnavailable, 503}
	case CodeOperationNotStarted:
		return codeRow{"HCS_E_OPERATION_NOT_STARTED", errdefs.ErrFailedPrecondition, 409}
	case CodeOperationAlreadyStarted:
		return codeRow{"HCS_E_OPERATION_ALREADY_STARTED", errdefs.ErrFailedPrecondition, 409}
	case CodeOperationPending, CodeOldPending:
		return codeRow{"HCS_E_OPERATION_PENDING", errdefs.ErrUnavailable, 202}
	case CodeOperationTimeout:
		return codeRow{"HCS_E_OPERATION_TIMEOUT", context.DeadlineExceeded, 504}
	case CodeAccessDenied:
		return codeRow{"HCS_E_ACCESS_DENIED", errdefs.ErrPermissionDenied, 403}
	case CodeGuestCriticalError:
		return codeRow{"HCS_E_GUEST_CRITICAL_ERROR", errdefs.ErrInternal, 500}
	case CodeProcessInfoNotAvailable:
		return codeRow{"HCS_E_PROCESS_INFO_NOT_AVAILABLE", errdefs.ErrNotFound, 404}
	case CodeServiceDisconnect:
		return codeRow{"HCS_E_SERVICE_DISCONNECT", errdefs.ErrUnavailable, 503}
	case CodeProcessAlreadyStopped:
		return codeRow{"HCS_E_PROCESS_ALREADY_STOPPED", errdefs.ErrFailedPrecondition, 409}
	case CodeNotFound:
		return codeRow{"ERROR_NOT_FOUND", errdefs.ErrNotFound, 404}
	case CodeNotSupported:
		return codeRow{"ERROR_NOT_SUPPORTED", errdefs.ErrNotImplemented, 501}
	case CodeNotImplemented:
		return codeRow{"E_NOTIMPL", errdefs.ErrNotImplemented, 501}
	case CodeInvalidData:
		return codeRow{"ERROR_INVALID_DATA", errdefs.ErrInvalidArgument, 400}
	case CodeInvalidArg:
		return codeRow{"E_INVALIDARG", errdefs.ErrInvalidArgument, 400}
	case CodeDenied:
		return codeRow{"E_ACCESSDENIED", errdefs.ErrPermissionDenied, 403}
	case CodeExists:
		return codeRow{"ERROR_ALREADY_EXISTS", errdefs.ErrAlreadyExists, 409}
	case CodeSharing:
		return codeRow{"ERROR_SHARING_VIOLATION", errdefs.ErrFailedPrecondition, 409}
	case CodeNoMemory:
		return codeRow{"E_OUTOFMEMORY", errdefs.ErrResourceExhausted, 507}
	case CodeDiskFull:
		return codeRow{"ERROR_DISK_FULL", errdefs.ErrResourceExhausted, 507}
	}
	return codeRow{"E_FAIL", errdefs.ErrInternal, 500}
}

// Name is the code's symbol, "HCS_E_SYSTEM_NOT_FOUND".
func (c Code) Name() string { return c.row().name }

// Class is the errdefs class of the code.
func (c Code) Class() error { return c.row().class }

// HTTPStatus is the answer's status.
func (c Code) HTTPStatus() int { return c.row().status }

// HRESULT is the signed form that documents carry.
func (c Code) HRESULT() int32 { return int32(c) }

func (c Code) String() string { return fmt.Sprintf("0x%08x", uint32(c)) }

// ResultError is the body of every refused request.
type ResultError struct {
	Error        int32
	ErrorMessage string              `json:",omitempty"`
	ErrorEvents  []ErrorEvent        `json:",omitempty"`
	Attribution  []AttributionRecord `json:",omitempty"`
	// Field [X] is the member of the request that is wrong.
	Field string `json:",omitempty"`
	// ExitCode [X] is set when a process could not be started: 127 not found, 126
	// not executable, 125 all else; what run and exec pass on.
	ExitCode int `json:",omitempty"`
}

// ErrorEvent is one step of what went wrong.
type ErrorEvent struct {
	Message    string `json:",omitempty"`
	StackTrace string `json:",omitempty"`
	Provider   string `json:",omitempty"`
	EventId    uint16 `json:",omitempty"`
	Flags      uint32 `json:",omitempty"`
	Source     string `json:",omitempty"`
	Data       []struct {
		Type  string `json:",omitempty"`
		Value string `json:",omitempty"`
	} `json:",omitempty"`
}

// Error is a refused or failed verb. errors.Is finds its errdefs class and its
// cause, errors.As the Error itself.
type Error struct {
	Code        Code
	Op, ID      string // "create", "web"
	Message     string
	Field       string
	ExitCode    int
	Events      []ErrorEvent
	Attribution []AttributionRecord
	Err         error // cause, or nil
}

// Error prints "op id: text (0x8037010e)".
func (e *Error) Error() string { return e.text() + " (" + e.Code.String() + ")" }

func (e *Error) text() string {
	s := e.Message
	if e.Err != nil {
		if s != "" {
			s += ": "
		}
		s += e.Err.Error()
	}
	if s == "" {
		s = e.Code.Name()
	}
	if e.Field != "" {
		s = e.Field + ": " + s
	}
	switch {
	case e.Op != "" && e.ID != "":
		return e.Op + " " + e.ID + ": " + s
	case e.Op != "":
		return e.Op + ": " + s
	}
	return s
}

// Unwrap returns the class and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Code.Class()}
	}
	return []error{e.Code.Class(), e.Err}
}

// HTTPStatus of the answer.
func (e *Error) HTTPStatus() int { return e.Code.HTTPStatus() }

// Record is the answer's body, a ResultError.
func (e *Error) Record() any { return e.Result() }

// Result is the error as a document.
func (e *Error) Result() ResultError {
	return ResultError{Error: e.Code.HRESULT(), ErrorMessage: e.text(), Field: e.Field, ExitCode: e.ExitCode,
		ErrorEvents: e.Events, Attribution: e.Attribution}
}

// FromResult turns a document back into an error.
func FromResult(r ResultError) *Error {
	return &Error{Code: Code(uint32(r.Error)), Message: r.ErrorMessage, ExitCode: r.ExitCode, Events: r.ErrorEvents,
		Attribution: r.Attribution}
}

// ResultOf is any error as a document: an *Error's own, else unspecified or the
// code that fits its errdefs class.
func ResultOf(err error) ResultError {
	if e := (*Error)(nil); errors.As(err, &e) {
		r := e.Result()
		r.ErrorMessage = err.Error()
		return r
	}
	return ResultError{Error: CodeOf(err).HRESULT(), ErrorMessage: err.Error()}
}

// CodeOf is the code of an *Error, else the one that fits the errdefs class;
// 0 for nil.
func CodeOf(err error) Code {
	if err == nil {
		return 0
	}
	if e := (*Error)(nil); errors.As(err, &e) {
		return e.Code
	}
	switch {
	case errdefs.IsNotFound(err):
		return CodeNotFound
	case errdefs.IsAlreadyExists(err):
		return CodeExists
	case errdefs.IsInvalidArgument(err):
		return CodeInvalidArg
	case errdefs.IsPermissionDenied(err):
		return CodeDenied
	case errdefs.IsFailedPrecondition(err):
		return CodeInvalidState
	case errdefs.IsNotImplemented(err):
		return CodeNotSupported
	case errdefs.IsUnavailable(err):
		return CodeServiceNotAvailable
	case errdefs.IsResourceExhausted(err):
		return CodeNoMemory
	case errdefs.IsDeadlineExceeded(err):
		return CodeOperationTimeout
	case errdefs.IsAborted(err), errdefs.IsCanceled(err):
		return CodeTerminated
	}
	return CodeUnspecified
}

// The predicates agree with hcsshim's. A nil error is none of them.

// IsNotExist: the system, process or thing is not there.
func IsNotExist(err error) bool {
	c := CodeOf(err)
	return c == CodeSystemNotFound || c == CodeNotFound || c == CodeProcessInfoNotAvailable
}

// IsAlreadyStopped: the system or process has stopped, or is gone.
func IsAlreadyStopped(err error) bool {
	c := CodeOf(err)
	return c == CodeSystemAlreadyStopped || c == CodeProcessAlreadyStopped || c == CodeNotFound
}

// IsNotSupported: this service cannot do what was asked.
func IsNotSupported(err error) bool {
	switch CodeOf(err) {
	case CodeNotSupported, CodeInvalidJSON, CodeInvalidData, CodeUnknownMessage:
		return true
	}
	return false
}

// IsPending: the verb goes on; wait for its result.
func IsPending(err error) bool {
	c := CodeOf(err)
	return c == CodeOperationPending || c == CodeOldPending
}

// IsTimeout: a limit of time passed.
func IsTimeout(err error) bool {
	c := CodeOf(err)
	return c == CodeOperationTimeout || c == CodeConnectionTimeout
}

// ErrAlreadyClosed is answered by a handle that was closed here.
var ErrAlreadyClosed = errors.New("handle is closed")

// IsAlreadyClosed: the local handle was closed.
func IsAlreadyClosed(err error) bool { return errors.Is(err, ErrAlreadyClosed) }

// IsExists: the name is taken.
func IsExists(err error) bool {
	c := CodeOf(err)
	return c == CodeSystemAlreadyExists || c == CodeExists
}

// statusCode is for answers without a record.
func statusCode(status int) Code {
	switch status {
	case http.StatusNotFound:
		return CodeNotFound
	case http.StatusForbidden, http.StatusUnauthorized:
		return CodeDenied
	case http.StatusBadRequest:
		return CodeInvalidArg
	case http.StatusConflict:
		return CodeInvalidState
	case http.StatusServiceUnavailable:
		return CodeServiceNotAvailable
	case http.StatusNotImplemented, http.StatusMethodNotAllowed:
		return CodeNotImplemented
	case http.StatusRequestEntityTooLarge, http.StatusInsufficientStorage:
		return CodeNoMemory
	}
	return CodeUnspecified
}
