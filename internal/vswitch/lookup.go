// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"cmp"
	"net/netip"
	"slices"
)

// Rows are Tables as the programs look things up in them: one Go map for each
// configuration map. They are for reading only.
type Rows struct {
	Cfg     CfgRow
	Port    map[uint32]PortRow
	Net     map[uint32]NetRow
	IfPort  map[uint32]uint32
	PortIP  map[PortIPKey]uint8
	Addr    map[AddrKey]AddrRow
	Svc     map[SvcKey]SvcRow
	Slot    map[SlotKey]uint32
	Member  map[MemberKey]MemberRow
	VIP     map[VIPKey]uint8
	NATPool map[uint32]NATPoolRow
	Busy    map[BusyKey]uint8
	Flood   map[FloodKey]uint32
	FloodN  map[uint32]uint32
	NextHop map[uint32]NextHopRow
	VTEP    map[uint32]VTEPRow
	Peer    map[PeerKey]PeerRow
	Fdb     map[FdbKey]uint32
	Segment map[SegmentKey]uint32
	WireIP  map[WireIPKey]uint32
	proxies map[ProxyKey]SvcRow

	// ServiceNames by number, for telling.
	ServiceNames map[ServiceID]string
	ACLSet       map[ACLSetKey]ACLSetRow
	ACL          map[ACLKey]ACLRow

	routes map[RouteKey]RouteRow
	bits   []uint32 // lengths that occur, longest first

	classes   map[ACLClassKey]uint32
	classBits []uint32 // likewise
	sets      map[uint32]*ACLSet
	rules     map[RuleID]RuleInfo
}

// Rows makes the maps of t. It costs a walk over all rows.
func (t Tables) Rows() *Rows {
	r := &Rows{
		Port: map[uint32]PortRow{}, Net: map[uint32]NetRow{}, IfPort: map[uint32]uint32{}, PortIP: map[PortIPKey]uint8{},
		Addr: map[AddrKey]AddrRow{}, Svc: map[SvcKey]SvcRow{}, Slot: map[SlotKey]uint32{}, Member: map[MemberKey]MemberRow{}, VIP: map[VIPKey]uint8{},
		NATPool: map[uint32]NATPoolRow{}, Busy: map[BusyKey]uint8{}, Flood: map[FloodKey]uint32{}, FloodN: map[uint32]uint32{},
		NextHop: map[uint32]NextHopRow{}, VTEP: map[uint32]VTEPRow{}, Peer: map[PeerKey]PeerRow{},
		Fdb: map[FdbKey]uint32{}, Segment: map[SegmentKey]uint32{}, WireIP: map[WireIPKey]uint32{}, proxies: map[ProxyKey]SvcRow{},
		routes: map[RouteKey]RouteRow{}, ServiceNames: map[ServiceID]string{},
		ACLSet: map[ACLSetKey]ACLSetRow{}, ACL: map[ACLKey]ACLRow{}, classes: map[ACLClassKey]uint32{}, sets: map[uint32]*ACLSet{},
	}
	r.rules = t.Rules()
	for b := range t.blocks {
		for _, e := range b.cfg {
			r.Cfg = e.Value
		}
		fill(r.Port, b.port)
		fill(r.Net, b.net)
		fill(r.IfPort, b.ifport)
		fill(r.PortIP, b.portip)
		fill(r.Addr, b.addr)
		fill(r.Svc, b.svc)
		fill(r.Slot, b.slot)
		fill(r.Member, b.member)
		fill(r.VIP, b.vip)
		fill(r.NATPool, b.natpool)
		fill(r.Busy, b.busy)
		fill(r.Flood, b.flood)
		fill(r.FloodN, b.floodn)
		fill(r.Fdb, b.fdb)
		fill(r.Segment, b.segment)
		fill(r.WireIP, b.wireip)
		fill(r.proxies, b.proxy)
		fill(r.routes, b.route)
		if b.served != nil {
			r.ServiceNames[b.served.id] = cmp.Or(b.served.name, b.served.object)
		}
		r.fillACL(b)
		fill(r.NextHop, b.nh)
		fill(r.VTEP, b.vtep)
		fill(r.Peer, b.peer)
	}
	for k := range r.routes {
		if !slices.Contains(r.bits, k.Prefixlen) {
			r.bits = append(r.bits, k.Prefixlen)
		}
	}
	slices.SortFunc(r.bits, func(a, b uint32) int { return cmp.Compare(b, a) })
	for k := range r.classes {
		if !slices.Contains(r.classBits, k.Prefixlen) {
			r.classBits = append(r.classBits, k.Prefixlen)
		}
	}
	slices.SortFunc(r.classBits, func(a, b uint32) int { return cmp.Compare(b, a) })
	return r
}

func fill[K, V comparable](m map[K]V, es []Entry[K, V]) {
	for _, e := range es {
		m[e.Key] = e.Value
	}
}

// Route is the longest match of a (16 bytes, IPv4 v4-mapped) in zone, among the
// routes of one port, or with port 0 those of the network.
func (r *Rows) Route(zone, port uint16, a [16]byte) (RouteRow, netip.Prefix, bool) {
	for _, n := range r.bits {
		k := RouteKey{Prefixlen: n, Zone: zone, Port: port}
		k.Addr.B = masked(a, n)
		if row, ok := r.routes[k]; ok {
			return row, prefixOf(k), true
		}
	}
	return RouteRow{}, netip.Prefix{}, false
}

// Proxy is the longest match of a among the proxies of a port for a protocol.
func (r *Rows) Proxy(port uint16, proto uint8, a [16]byte) (SvcRow, netip.Prefix, bool) {
	for n := uint32(160); n >= 32 && len(r.proxies) > 0; n-- {
		k := ProxyKey{Prefixlen: n, Port: port, Proto: proto, Fam: family(ip(a))}
		k.Addr.B = masked(a, n)
		if row, ok := r.proxies[k]; ok {
			return row, prefixOf(RouteKey{Prefixlen: n, Addr: k.Addr}), true
		}
	}
	return SvcRow{}, netip.Prefix{}, false
}

// masked is the part of a that a key of that length compares, whose first 32 bits
// are not the address's.
func masked(a [16]byte, prefixlen uint32) (m [16]byte) {
	for i := range m {
		switch left := int(prefixlen) - 32 - 8*i; {
		case left >= 8:
			m[i] = a[i]
		case left > 0:
			m[i] = a[i] & byte(0xff<<(8-left))
		}
	}
	return m
}
