// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// What a method says about a document whose id cannot be one.
var (
	errNetworkID      = errors.New("invalid network ID")
	errEndpointID     = errors.New("invalid endpoint ID")
	errNamespaceID    = errors.New("invalid namespace ID")
	errLoadBalancerID = errors.New("invalid load balancer ID")
	errRouteID        = errors.New("invalid route ID")
)

// Record is the body of every error answer.
type Record struct {
	Success   bool
	Error     string
	ErrorCode uint32
	// Field is the member at fault, as a path: Policies[1].Settings.Protocols.
	Field string `json:",omitempty"`
}

// HnsError is what an HcnError carries: the call that failed, and why.
type HnsError struct {
	title string // "hcnCreateNetwork"
	rest  string // the record, as JSON
	// Err is the sentence that goes with the code.
	Err  error
	code ErrorCode
}

func (e *HnsError) Error() string {
	return fmt.Sprintf("%s failed in Win32: %s (0x%x) %s", e.title, e.Err, uint32(e.code), e.rest)
}

// HcnError is a refusal by the service.
type HcnError struct {
	*HnsError
	record Record
	status int
}

// Error gives the call, the code's sentence and the record.
func (e *HcnError) Error() string { return e.HnsError.Error() }

// Code is the code, cut to 16 bits for facility Win32.
func (e *HcnError) Code() ErrorCode { return e.code }

// Record is what the service said.
func (e *HcnError) Record() Record { return e.record }

// HTTPStatus of the answer. 412 is a version that is not the expected one, 410 a
// revision whose events are gone; the code says neither.
func (e *HcnError) HTTPStatus() int { return e.status }

// Is answers for the classes of containerd's errdefs.
func (e *HcnError) Is(target error) bool { return ErrorCode(e.record.ErrorCode).Class() == target }

// Class of a code in the words of containerd's errdefs.
func (c ErrorCode) Class() error {
	switch c {
	case HCN_E_REQUEST_UNSUPPORTED, HCN_E_ENTITY_HAS_REFERENCES, HCN_E_ENDPOINT_NOT_ATTACHED,
		HCN_E_ENDPOINT_ALREADY_ATTACHED, HCN_E_ENDPOINT_NAMESPACE_ALREADY_EXISTS, HCN_E_SHARED_SWITCH_MODIFICATION:
		return errdefs.ErrFailedPrecondition
	}
	switch c.HTTPStatus() {
	case 404:
		return errdefs.ErrNotFound
	case 409:
		return errdefs.ErrAlreadyExists
	case 400:
		return errdefs.ErrInvalidArgument
	case 403:
		return errdefs.ErrPermissionDenied
	case 501:
		return errdefs.ErrNotImplemented
	case 502, 503:
		return errdefs.ErrUnavailable
	}
	return errdefs.ErrInternal
}

// newError makes the error of a call ("hcnCreateNetwork") from the service's record.
func newError(call string, r Record, status int) error {
	code := ErrorCode(r.ErrorCode)
	text := code.Text()
	if text == "" {
		text = "unknown error"
	}
	raw, err := encode(r)
	if err != nil {
		return fmt.Errorf("%s: %w", call, err)
	}
	return &HcnError{
		HnsError: &HnsError{title: call, rest: string(raw), Err: errors.New(text), code: code.win32()},
		record:   r, status: status,
	}
}

// NetworkNotFoundError results from a failed search for a network by id or name.
type NetworkNotFoundError struct {
	NetworkName string
	NetworkID   string
}

func (e NetworkNotFoundError) Error() string {
	if e.NetworkName != "" {
		return fmt.Sprintf("Network name %q not found", e.NetworkName)
	}
	return fmt.Sprintf("Network ID %q not found", e.NetworkID)
}

// Is answers for errdefs' not-found class.
func (e NetworkNotFoundError) Is(target error) bool { return target == errdefs.ErrNotFound }

// EndpointNotFoundError results from a failed search for an endpoint by id or name.
type EndpointNotFoundError struct {
	EndpointName string
	EndpointID   string
}

func (e EndpointNotFoundError) Error() string {
	if e.EndpointName != "" {
		return fmt.Sprintf("Endpoint name %q not found", e.EndpointName)
	}
	return fmt.Sprintf("Endpoint ID %q not found", e.EndpointID)
}

// Is answers for errdefs' not-found class.
func (e EndpointNotFoundError) Is(target error) bool { return target == errdefs.ErrNotFound }

// NamespaceNotFoundError results from a failed search for a namespace.
type NamespaceNotFoundError struct {
	NamespaceID string
}

func (e NamespaceNotFoundError) Error() string {
	return fmt.Sprintf("Namespace ID %q not found", e.NamespaceID)
}

// Is answers for errdefs' not-found class.
func (e NamespaceNotFoundError) Is(target error) bool { return target == errdefs.ErrNotFound }

// LoadBalancerNotFoundError results from a failed search for a load balancer.
type LoadBalancerNotFoundError struct {
	LoadBalancerId string
}

func (e LoadBalancerNotFoundError) Error() string {
	return fmt.Sprintf("LoadBalancer %q not found", e.LoadBalancerId)
}

// Is answers for errdefs' not-found class.
func (e LoadBalancerNotFoundError) Is(target error) bool { return target == errdefs.ErrNotFound }

// RouteNotFoundError results from a failed search for a route.
type RouteNotFoundError struct {
	RouteId string
}

func (e RouteNotFoundError) Error() string { return fmt.Sprintf("SDN Route %q not found", e.RouteId) }

// Is answers for errdefs' not-found class.
func (e RouteNotFoundError) Is(target error) bool { return target == errdefs.ErrNotFound }

// PortReservationNotFoundError results from a failed search for a port reservation.
type PortReservationNotFoundError struct{ ID string }

func (e PortReservationNotFoundError) Error() string {
	return fmt.Sprintf("Port reservation %q not found", e.ID)
}

// Is answers for errdefs' not-found class.
func (e PortReservationNotFoundError) Is(target error) bool { return target == errdefs.ErrNotFound }

// CheckErrorWithCode reports whether err is an HcnError with that code.
func CheckErrorWithCode(err error, code ErrorCode) bool {
	var e *HcnError
	return errors.As(err, &e) && e.code == code
}

// IsElementNotFoundError reports code 0x490; not the typed errors.
func IsElementNotFoundError(err error) bool { return CheckErrorWithCode(err, ERROR_NOT_FOUND) }

// IsPortAlreadyExistsError reports that a port to publish is taken.
func IsPortAlreadyExistsError(err error) bool {
	return CheckErrorWithCode(err, HCN_E_PORT_ALREADY_EXISTS)
}

// IsNotImplemented reports a verb that is not built.
func IsNotImplemented(err error) bool { return CheckErrorWithCode(err, HCN_E_NOTIMPL) }

// IsNetworkNotFoundError reports the service's code; not the typed error.
func IsNetworkNotFoundError(err error) bool { return CheckErrorWithCode(err, HCN_E_NETWORK_NOT_FOUND) }

// IsEndpointNotFoundError reports the service's code; not the typed error.
func IsEndpointNotFoundError(err error) bool {
	return CheckErrorWithCode(err, HCN_E_ENDPOINT_NOT_FOUND)
}

// IsPortNotFoundError reports a missing switch port.
func IsPortNotFoundError(err error) bool { return CheckErrorWithCode(err, HCN_E_PORT_NOT_FOUND) }

// IsInvalidIPError reports an address that is in no subnet.
func IsInvalidIPError(err error) bool { return CheckErrorWithCode(err, HCN_E_INVALID_IP) }

// IsAdapterNotFoundError reports a missing uplink.
func IsAdapterNotFoundError(err error) bool { return CheckErrorWithCode(err, HCN_E_ADAPTER_NOT_FOUND) }

// IsNotFoundError reports the typed errors and the codes that say the same.
func IsNotFoundError(err error) bool {
	var (
		n  NetworkNotFoundError
		e  EndpointNotFoundError
		ns NamespaceNotFoundError
		lb LoadBalancerNotFoundError
		r  RouteNotFoundError
		p  PortReservationNotFoundError
		in *HnsError
	)
	if errors.As(err, &n) || errors.As(err, &e) || errors.As(err, &ns) || errors.As(err, &lb) || errors.As(err, &r) || errors.As(err, &p) {
		return true
	}
	if errors.As(err, &in) && in.code == ERROR_NOT_FOUND {
		return true
	}
	return IsElementNotFoundError(err) || IsNetworkNotFoundError(err) || IsEndpointNotFoundError(err)
}

// RecordText is the one line of a record: its text without the trailing space
// that the wire form has.
func (r Record) RecordText() string { return strings.TrimRight(r.Error, " ") }
