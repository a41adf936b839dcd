// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"net/netip"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/hcn"
)

// Reservation is a stored row.
type Reservation struct {
	Doc      hcn.PortReservation
	Sequence uint64
	Created  time.Time
	Body     string
}

const (
	maxReserved             = 1024 // each is a socket of the host
	lowestChosen, lastPorts = 61000, 65535
)

// DecodeReservation reads a document; unknown members are ignored.
func DecodeReservation(body []byte) (hcn.PortReservation, error) {
	var d hcn.PortReservation
	err := decode(body, &d)
	return d, err
}

// Reservation by id.
func (w World) Reservation(id string) (*Reservation, bool) {
	return w.reservations.get(strings.ToLower(id))
}

// AllReservations in order of creation.
func (w World) AllReservations() []*Reservation {
	return sorted(w.reservations, func(r *Reservation) uint64 { return r.Sequence })
}

// ReservePorts keeps a range of the host's ports from everybody but who publishes one
// of them with ExternalPortReserved. created is false when the identical create, with
// its id, was done before.
func (w World) ReservePorts(body []byte, in Input) (next World, r *Reservation, created bool, err error) {
	before := w
	defer func() {
		if err != nil {
			next = before
		}
	}()
	d, err := DecodeReservation(body)
	if err != nil {
		return w, nil, false, err
	}
	id, err := takeID(d.ID, in.NewID)
	if err != nil {
		return w, nil, false, err
	}
	if old, ok := w.reservations.get(id); ok {
		if d.ID != "" && old.Body == digest(body) {
			return w, old, false, nil
		}
		return w, nil, false, refuseAt(hcn.E_ALREADY_EXISTS, "ID", "port reservation %s exists", id)
	}
	r = &Reservation{Doc: d, Created: in.Now, Body: digest(body)}
	r.Doc.ID, r.Doc.Version = id, 1
	if r.Doc.Owner == "" {
		r.Doc.Owner = in.Owner
	}
	if r.Doc.SchemaVersion, err = checkSchema(d.SchemaVersion); err != nil {
		return w, nil, false, err
	}
	if err := r.check(); err != nil {
		return w, nil, false, err
	}
	if r.Doc.StartingPort == 0 {
		err = w.choosePorts(r, in)
	} else {
		err = w.checkReserved(r, in)
	}
	if err != nil {
		return w, nil, false, err
	}
	r.Sequence = w.sequence()
	w.putReservation(r)
	return w, r, true, nil
}

func (r *Reservation) check() error {
	d := &r.Doc
	switch d.Protocol {
	case hcn.PortProtocolTCP, hcn.PortProtocolUDP, hcn.PortProtocolBoth:
	default:
		return refuseAt(hcn.E_INVALID_PARAMETER, "Protocol", "%d is none of 1 (TCP), 2 (UDP) and 3 (both)", d.Protocol)
	}
	switch d.Access {
	case 0:
		d.Access = hcn.PortAccessExclusive
	case hcn.PortAccessExclusive, hcn.PortAccessShared:
	default:
		return refuseAt(hcn.E_INVALID_PARAMETER, "Access", "%d is neither 1 (exclusive) nor 2 (shared)", d.Access)
	}
	if d.StartingPort == 0 {
		switch {
		case d.EndingPort != 0:
			return refuseAt(hcn.E_INVALID_PARAMETER, "EndingPort", "%d without a StartingPort; ask for a Count of ports to be chosen", d.EndingPort)
		case d.Count == 0:
			d.Count = 1
		case d.Count > maxReserved:
			return refuseAt(hcn.E_INVALID_PARAMETER, "Count", "%d is over %d ports in one reservation", d.Count, maxReserved)
		}
		return nil
	}
	switch {
	case d.EndingPort == 0 && d.Count == 0:
		d.EndingPort = d.StartingPort
	case d.EndingPort == 0 && int(d.StartingPort)+int(d.Count)-1 <= lastPorts:
		d.EndingPort = d.StartingPort + d.Count - 1
	case d.EndingPort == 0:
		return refuseAt(hcn.E_INVALID_PARAMETER, "Count", "%d ports from %d are more than there are", d.Count, d.StartingPort)
	case d.EndingPort < d.StartingPort:
		return refuseAt(hcn.E_INVALID_PARAMETER, "EndingPort", "%d is below StartingPort %d", d.EndingPort, d.StartingPort)
	case d.Count != 0 && int(d.Count) != int(d.EndingPort)-int(d.StartingPort)+1:
		return refuseAt(hcn.E_INVALID_PARAMETER, "Count", "%d is not what %d-%d holds; leave it out", d.Count, d.StartingPort, d.EndingPort)
	}
	if n := int(d.EndingPort) - int(d.StartingPort) + 1; n > maxReserved {
		return refuseAt(hcn.E_INVALID_PARAMETER, "EndingPort", "%d ports are over %d in one reservation", n, maxReserved)
	}
	d.Count = 0
	return nil
}

// claims of a reservation: its ports on every address of the host.
func (r *Reservation) claims() []claim {
	var out []claim
	for _, proto := range r.protos() {
		for port := int(r.Doc.StartingPort); port <= int(r.Doc.EndingPort); port++ {
			for _, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
				out = append(out, claim{proto: proto, port: uint16(port), publish: publish{
					kind: Reservations, id: r.Doc.ID, host: any, shared: r.Doc.Access == hcn.PortAccessShared,
				}})
			}
		}
	}
	return out
}

func (r *Reservation) protos() []uint8 {
	switch r.Doc.Protocol {
	case hcn.PortProtocolTCP:
		return []uint8{6}
	case hcn.PortProtocolUDP:
		return []uint8{17}
	}
	return []uint8{6, 17}
}

func (w *World) checkReserved(r *Reservation, in Input) error {
	for _, c := range r.claims() {
		if p, taken := w.holder(c, in, nil); taken {
			return refuse(hcn.HCN_E_PORT_ALREADY_EXISTS, "port %s is that of %s", c, w.holderLabel(p))
		}
		if in.Ports == nil {
			continue
		}
		if err := in.Ports.Check(c.hostPort()); err != nil {
			return refuse(hcn.HCN_E_PORT_ALREADY_EXISTS, "port %s cannot be reserved: %v", c, err)
		}
	}
	return nil
}

// choosePorts finds Count ports in a row, above those that the kernel and outbound
// NAT give out.
func (w *World) choosePorts(r *Reservation, in Input) error {
	count := int(r.Doc.Count)
	r.Doc.Count = 0
	for start := lowestChosen; start+count-1 <= lastPorts; start++ {
		free := true
		// From the end: what is in the way there lets the search leap.
		for port := start + count - 1; port >= start && free; port-- {
			r.Doc.StartingPort, r.Doc.EndingPort = uint16(port), uint16(port)
			if w.checkReserved(r, in) != nil {
				free, start = false, port
			}
		}
		if free {
			r.Doc.StartingPort, r.Doc.EndingPort = uint16(start), uint16(start+count-1)
			return nil
		}
	}
	return refuseAt(hcn.HCN_E_PORT_ALREADY_EXISTS, "Count", "no %d ports in a row are free from %d to %d", count, lowestChosen, lastPorts)
}

func (w *World) putReservation(r *Reservation) {
	w.publishAll(r.claims())
	w.reservations = w.reservations.set(r.Doc.ID, r)
	w.changed(Reservations, r.Doc.ID, r)
}

// hostPorts to hold for a reservation. One socket serves both families.
func (r *Reservation) hostPorts() []HostPort {
	var out []HostPort
	for _, c := range r.claims() {
		if c.host.Is4() {
			out = append(out, HostPort{Object: r.Doc.ID, Proto: c.proto, Port: c.port})
		}
	}
	return out
}

// ReleasePorts ends a reservation.
func (w World) ReleasePorts(id string, match uint64) (World, error) {
	r, ok := w.Reservation(id)
	if !ok {
		return w, reservationMissing(id)
	}
	if match != 0 && match != r.Doc.Version {
		return w, versionMismatch(r.Doc.Version, match)
	}
	w.unpublishAll(r.claims())
	w.reservations = w.reservations.del(r.Doc.ID)
	w.changed(Reservations, r.Doc.ID, nil)
	return w, nil
}
