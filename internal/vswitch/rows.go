// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import "slices"

// Entry is one row of one configuration map.
type Entry[K, V comparable] struct {
	Key   K
	Value V
}

// rows are the rows of one object, by map. Keys are unique in the union of all
// objects of valid Tables, so the union needs no merging rules.
type rows struct {
	port    []Entry[uint32, PortRow]
	net     []Entry[uint32, NetRow]
	ifport  []Entry[uint32, uint32]
	portip  []Entry[PortIPKey, uint8]
	addr    []Entry[AddrKey, AddrRow]
	route   []Entry[RouteKey, RouteRow]
	svc     []Entry[SvcKey, SvcRow]
	slot    []Entry[SlotKey, uint32]
	member  []Entry[MemberKey, MemberRow]
	vip     []Entry[VIPKey, uint8]
	natpool []Entry[uint32, NATPoolRow]
	busy    []Entry[BusyKey, uint8]
	flood   []Entry[FloodKey, uint32]
	floodn  []Entry[uint32, uint32]
	fdb     []Entry[FdbKey, uint32]
	segment []Entry[SegmentKey, uint32]
	wireip  []Entry[WireIPKey, uint32]
	proxy   []Entry[ProxyKey, SvcRow]
	cfg     []Entry[uint32, CfgRow]
	nh      []Entry[uint32, NextHopRow]
	vtep    []Entry[uint32, VTEPRow]
	peer    []Entry[PeerKey, PeerRow]

	aclset   []Entry[ACLSetKey, ACLSetRow]
	aclrule  []Entry[ACLKey, ACLRow]
	aclclass []Entry[ACLClassKey, uint32]
}

// block is what one object contributes. Blocks are never changed once made:
// Tables share them, and Diff skips a block that both sides share.
type block struct {
	rows
	// What a change of this block makes stale: flows through ports, flows of
	// networks, or everything. addrNets only when addr rows change: somebody in
	// that network may hold a flow to an address that is now elsewhere.
	epochPorts []PortID
	epochNets  []NetworkID
	addrNets   []NetworkID
	global     bool
	// plain is the block without what is there only for somebody who looks; nil =
	// the block itself. See Watch.
	plain *block
	// served is of a service, which makes its flows stale one by one.
	served *served
	// stamp differs where the rows mean something else though they are the same:
	// a port's, with the members of the address sets that its ACLs name.
	stamp uint64
	acl   *aclInfo // of an ACL set
}

// sameHolders reports whether both say the same about who has which address.
func (r *rows) sameHolders(o *rows) bool {
	return slices.Equal(r.addr, o.addr) && slices.Equal(r.fdb, o.fdb) && slices.Equal(r.wireip, o.wireip)
}

// equal reports whether two objects contribute the same.
func (r *rows) equal(o *rows) bool {
	return slices.Equal(r.port, o.port) && slices.Equal(r.net, o.net) && slices.Equal(r.ifport, o.ifport) &&
		slices.Equal(r.portip, o.portip) && slices.Equal(r.addr, o.addr) && slices.Equal(r.route, o.route) &&
		slices.Equal(r.svc, o.svc) && slices.Equal(r.slot, o.slot) && slices.Equal(r.member, o.member) && slices.Equal(r.vip, o.vip) &&
		slices.Equal(r.natpool, o.natpool) && slices.Equal(r.busy, o.busy) && slices.Equal(r.flood, o.flood) &&
		slices.Equal(r.floodn, o.floodn) && slices.Equal(r.cfg, o.cfg) &&
		slices.Equal(r.aclset, o.aclset) && slices.Equal(r.aclrule, o.aclrule) && slices.Equal(r.aclclass, o.aclclass) &&
		slices.Equal(r.nh, o.nh) && slices.Equal(r.vtep, o.vtep) && slices.Equal(r.peer, o.peer) &&
		slices.Equal(r.fdb, o.fdb) && slices.Equal(r.segment, o.segment) && slices.Equal(r.wireip, o.wireip) &&
		slices.Equal(r.proxy, o.proxy)
}
