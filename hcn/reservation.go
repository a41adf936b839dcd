// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

import "context"

// PortProtocol is what a port reservation covers, by the numbers of HCN_PORT_PROTOCOL.
type PortProtocol uint32

// Protocols of reservations.
const (
	PortProtocolTCP  PortProtocol = 1
	PortProtocolUDP  PortProtocol = 2
	PortProtocolBoth PortProtocol = 3
)

// PortAccess says who else may reserve the same ports, by the numbers of HCN_PORT_ACCESS.
type PortAccess uint32

// Kinds of access.
const (
	PortAccessExclusive PortAccess = 1
	PortAccessShared    PortAccess = 2 // with others that say so
)

// PortReservation keeps a range of the host's ports from everybody but who publishes
// one of them with ExternalPortReserved.
type PortReservation struct {
	ID           string `json:",omitempty"`
	Name         string `json:",omitempty"`
	Owner        string `json:",omitempty"`
	Protocol     PortProtocol
	Access       PortAccess
	StartingPort uint16 // 0 = the service chooses Count ports in a row
	EndingPort   uint16 // inclusive
	Count        uint16 `json:",omitempty"`
	// SchemaVersion of the document.
	SchemaVersion SchemaVersion
	Version       uint64 `json:",omitempty"` // the service's; what If-Match and ETag are about
}

var reservations = kind[PortReservation]{"ports", "PortReservation", "PortReservations", E_ELEMENT_NOT_FOUND,
	func(id, name string) error { return PortReservationNotFoundError{ID: id + name} }, nil}

// ListPortReservations returns what the query selects; the zero query selects all.
func (c *Client) ListPortReservations(ctx context.Context, q HostComputeQuery) ([]PortReservation, error) {
	return reservations.list(ctx, c, q)
}

// PortReservation returns the reservation with that id, or a
// PortReservationNotFoundError.
func (c *Client) PortReservation(ctx context.Context, id string) (*PortReservation, error) {
	return reservations.get(ctx, c, id)
}

// ReservePorts makes a reservation and returns it with the ports that were chosen. A
// port that somebody has is refused with HCN_E_PORT_ALREADY_EXISTS and his name.
func (c *Client) ReservePorts(ctx context.Context, r *PortReservation) (*PortReservation, error) {
	return reservations.create(ctx, c, r)
}

// ReleasePorts ends a reservation.
func (c *Client) ReleasePorts(ctx context.Context, id string) error {
	return reservations.delete(ctx, c, id)
}
