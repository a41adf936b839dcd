// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/containerd/errdefs"

	"gatehouse.dev/gatehouse/internal/resource"
	"gatehouse.dev/gatehouse/internal/store"
)

// HRESULTs that the door itself answers with; services bring their own.
const (
	codeInvalidJSON  uint32 = 0x803b001b // HCN_E_INVALID_JSON
	codeSysJSON      uint32 = 0x8037010d // HCS_E_INVALID_JSON
	codeInvalidArg   uint32 = 0x80070057 // E_INVALIDARG
	codeNotFound     uint32 = 0x80070490 // ERROR_NOT_FOUND
	codeAccessDenied uint32 = 0x80070005 // E_ACCESSDENIED
	codeNotImpl      uint32 = 0x80004001 // E_NOTIMPL
	codeFail         uint32 = 0x80004005 // E_FAIL
	codeStopped      uint32 = 0x803b0020 // HCN_E_MANAGER_STOPPED
)

// doorError is a refusal that the door itself makes.
type doorError struct {
	status int
	code   uint32
	text   string
}

func problem(status int, code uint32, format string, a ...any) *doorError {
	return &doorError{status, code, fmt.Sprintf(format, a...)}
}

func (e *doorError) Error() string { return e.text }

// dialect is how an error is written down: it differs by prefix.
type dialect int

const (
	dialectHost dialect = iota
	dialectHCN
	dialectHCS
)

func dialectOf(path string) dialect {
	switch {
	case strings.HasPrefix(path, "/hcn/"):
		return dialectHCN
	case strings.HasPrefix(path, "/hcs/"):
		return dialectHCS
	}
	return dialectHost
}

// hcnRecord is the error record of spec hcn §4.3.
type hcnRecord struct {
	Success   bool
	Error     string
	ErrorCode uint32
}

// hcsRecord is ResultError of spec hcs §1.8, as far as the door fills it.
type hcsRecord struct {
	Error        int32
	ErrorMessage string
}

// hostRecord is what /host/v1 and unknown paths answer.
type hostRecord struct{ Error string }

func (d dialect) record(code uint32, text string) any {
	switch d {
	case dialectHCN:
		return hcnRecord{Error: text + " ", ErrorCode: code}
	case dialectHCS:
		return hcsRecord{Error: int32(code), ErrorMessage: text}
	}
	return hostRecord{Error: text}
}

// fail writes err as the record and status that it asks for.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, body := describe(dialectOf(r.URL.Path), err)
	if status >= 500 && status != http.StatusNotImplemented && status != http.StatusServiceUnavailable {
		s.o.Log.Warn("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	writeJSON(w, status, body)
}

func describe(d dialect, err error) (int, any) {
	var door *doorError
	if errors.As(err, &door) {
		return door.status, d.record(door.code, door.text)
	}
	var re resource.Error
	if errors.As(err, &re) {
		return re.HTTPStatus(), re.Record()
	}
	var tooBig *http.MaxBytesError
	status, code := http.StatusInternalServerError, codeFail
	switch {
	case errors.As(err, &tooBig):
		status, code = http.StatusRequestEntityTooLarge, codeInvalidArg
		err = fmt.Errorf("request body is over %d MiB", tooBig.Limit>>20)
	case errors.Is(err, store.ErrTooOld):
		status, code = http.StatusGone, codeInvalidArg
		err = fmt.Errorf("%w; list again and go on from the answer's Gatehouse-Revision", err)
	case errdefs.IsNotFound(err):
		status, code = http.StatusNotFound, codeNotFound
	case errdefs.IsInvalidArgument(err):
		status, code = http.StatusBadRequest, codeInvalidArg
	case errdefs.IsAlreadyExists(err), errdefs.IsConflict(err), errdefs.IsFailedPrecondition(err):
		status = http.StatusConflict
	case errdefs.IsPermissionDenied(err):
		status, code = http.StatusForbidden, codeAccessDenied
	case errdefs.IsNotImplemented(err):
		status, code = http.StatusNotImplemented, codeNotImpl
	case errdefs.IsUnavailable(err):
		status = http.StatusServiceUnavailable
	case errdefs.IsResourceExhausted(err):
		status = http.StatusInsufficientStorage
	case errors.Is(err, context.DeadlineExceeded):
		status = http.StatusGatewayTimeout
	}
	return status, d.record(code, err.Error())
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"Error":"answer cannot be written as JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

// marshal is json.Marshal without its escaping of <, > and &: a policy's Settings
// are answered byte for byte as they came.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}
