// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"errors"
	"fmt"

	"gatehouse.dev/gatehouse/hcn"
)

// Error is a refusal: nothing was changed. It implements resource.Error.
type Error struct {
	Code hcn.ErrorCode // full HRESULT
	// Field is the member at fault, as a path; "" where none is.
	Field string
	Text  string
	// Status of HTTP where it is not the code's own.
	Status int
}

// Error is one line: member, what is wrong.
func (e *Error) Error() string {
	if e.Field != "" {
		return e.Field + ": " + e.Text
	}
	return e.Text
}

// Is answers for the classes of containerd's errdefs.
func (e *Error) Is(target error) bool { return e.Code.Class() == target }

// HTTPStatus that the refusal is answered with.
func (e *Error) HTTPStatus() int {
	if e.Status != 0 {
		return e.Status
	}
	return e.Code.HTTPStatus()
}

// Record is the body of the answer. The space at the end of the text is as
// Windows writes it.
func (e *Error) Record() any {
	return hcn.Record{Error: e.Error() + " ", ErrorCode: uint32(e.Code), Field: e.Field}
}

// codeOf an Error; 0 of any other.
func codeOf(err error) hcn.ErrorCode {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

// refuse makes an Error about no member in particular.
func refuse(code hcn.ErrorCode, format string, args ...any) *Error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

// refuseAt makes an Error about a member.
func refuseAt(code hcn.ErrorCode, field, format string, args ...any) *Error {
	return &Error{Code: code, Field: field, Text: fmt.Sprintf(format, args...)}
}

// at puts a prefix before the member of an Error.
func at(prefix string, err error) error {
	var e *Error
	if err == nil || !errors.As(err, &e) {
		return err
	}
	c := *e
	switch {
	case c.Field == "":
		c.Field = prefix
	case c.Field[0] == '[':
		c.Field = prefix + c.Field
	default:
		c.Field = prefix + "." + c.Field
	}
	return &c
}

// notBuilt is the answer for what the schema has and this service does not yet.
func notBuilt(field, format string, args ...any) *Error {
	return refuseAt(hcn.HCN_E_NOTIMPL, field, "%s: not implemented yet", fmt.Sprintf(format, args...))
}

func networkMissing(ref string) *Error {
	return refuse(hcn.HCN_E_NETWORK_NOT_FOUND, "network %q: the network was not found; list with: gatehouse network ls", ref)
}

func endpointMissing(ref string) *Error {
	return refuse(hcn.HCN_E_ENDPOINT_NOT_FOUND, "endpoint %q: The endpoint was not found", ref)
}

func namespaceMissing(ref string) *Error {
	return refuse(hcn.E_ELEMENT_NOT_FOUND, "namespace %q: Element not found.", ref)
}

func loadBalancerMissing(ref string) *Error {
	return refuse(hcn.E_ELEMENT_NOT_FOUND, "load balancer %q: Element not found.", ref)
}

func sdnRouteMissing(ref string) *Error {
	return refuse(hcn.E_ELEMENT_NOT_FOUND, "SDN route %q: Element not found.", ref)
}

func reservationMissing(ref string) *Error {
	return refuse(hcn.E_ELEMENT_NOT_FOUND, "port reservation %q: Element not found.", ref)
}

func serviceMissing(ref string) *Error {
	return refuse(hcn.E_ELEMENT_NOT_FOUND, "service %q: the service was not found; list with: gatehouse service ls", ref)
}

// versionMismatch is the answer to an If-Match that does not hold.
func versionMismatch(have, want uint64) *Error {
	return &Error{Code: hcn.E_INVALID_PARAMETER, Status: 412,
		Text: fmt.Sprintf("version is %d, not %d: the document was changed meanwhile; read it again", have, want)}
}
