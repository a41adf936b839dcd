// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"iter"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

// plugged is what all endpoints and namespaces add to Desired, in the order of their
// ids and in parts, as balancing is. It is never changed in place.
type plugged struct {
	endpoints [parts]*endpointsPart // nil = they add nothing
	spaces    [parts][]Compartment
}

type endpointsPart struct {
	ports     *vswitch.PortPart // nil = none
	names     []NameRecord
	hostPorts []HostPort
	leases    []Lease
	taps      []Tap
	lent      []*Endpoint // that have their addresses by DHCP
}

// replug makes the part of an endpoint again, which came, changed or went.
func (w *World) replug(id string) {
	if w.loading {
		return
	}
	i, prefix := partOf(id)
	w.nextPlugged().endpoints[i] = w.endpointsPart(w.endpoints.prefixed(prefix))
}

// respace is replug for a namespace.
func (w *World) respace(id string) {
	if w.loading {
		return
	}
	i, prefix := partOf(id)
	w.nextPlugged().spaces[i] = spacesPart(w.namespaces.prefixed(prefix))
}

func (w *World) nextPlugged() *plugged {
	next := plugged{}
	if w.plugged != nil {
		next = *w.plugged
	}
	w.plugged = &next
	return &next
}

// plugAll makes all parts.
func (w *World) plugAll() {
	const digits = "0123456789abcdef"
	p := plugged{}
	for i := range parts {
		prefix := string([]byte{digits[i>>4], digits[i&15]})
		p.endpoints[i] = w.endpointsPart(w.endpoints.prefixed(prefix))
		p.spaces[i] = spacesPart(w.namespaces.prefixed(prefix))
	}
	w.plugged = &p
}

func (w *World) endpointsPart(all iter.Seq2[string, *Endpoint]) *endpointsPart {
	var p endpointsPart
	var ports []vswitch.Port
	var mappings []vswitch.PortMapping
	for _, e := range all {
		c := &e.compiled
		if c.attached {
			port := c.port
			port.Forward = port.Forward || w.forwards(e)
			ports = append(ports, port)
		}
		mappings = append(mappings, c.mappings...)
		p.names = append(p.names, c.names...)
		p.hostPorts = append(p.hostPorts, c.hostPorts...)
		if c.lease.Device != "" {
			p.leases = append(p.leases, c.lease)
		}
		if c.tap.Name != "" {
			p.taps = append(p.taps, c.tap)
		}
		if e.Lease != nil {
			p.lent = append(p.lent, e)
		}
	}
	if len(ports)+len(mappings) > 0 {
		p.ports = vswitch.NewPortPart(ports, mappings)
	}
	if p.ports == nil && len(p.names)+len(p.hostPorts)+len(p.leases)+len(p.taps)+len(p.lent) == 0 {
		return nil
	}
	return &p
}

func spacesPart(all iter.Seq2[string, *Namespace]) (out []Compartment) {
	for _, n := range all {
		if n.compiled.ID != "" {
			out = append(out, n.compiled)
		}
	}
	return out
}

// addPlugged adds all parts to d.
func (w *World) addPlugged(d *Desired) {
	p := w.plugged
	if p == nil {
		p = &plugged{}
	}
	d.Switch.PortParts = make([]*vswitch.PortPart, parts)
	d.Names = make([][]NameRecord, parts, parts+1)
	for i, x := range p.endpoints {
		if x == nil {
			continue
		}
		d.Switch.PortParts[i], d.Names[i] = x.ports, x.names
		d.HostPorts = append(d.HostPorts, x.hostPorts...)
		d.Leases = append(d.Leases, x.leases...)
		d.Taps = append(d.Taps, x.taps...)
		for _, e := range x.lent {
			n, _ := w.networks.get(e.Doc.HostComputeNetwork)
			d.Clients = append(d.Clients, e.client(n))
		}
	}
	d.CompartmentParts = p.spaces[:]
}
