// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"cmp"
	"net/netip"
	"slices"
)

// UplinkPort is an uplink and the port number it got.
type UplinkPort struct {
	Port    PortID
	Ifindex int
	Name    string
	// Bound tells that networks are bound to it: what the host sends there may be
	// for their ports.
	Bound bool
}

// uplinkMemo remembers the uplinks as they were and what follows from them.
type uplinkMemo struct {
	made bool
	was  []Uplink
	mtu  uint16     // the smallest of those with addresses, or defaultMTU
	nat  []natRange // of every address

	bound []string // those that networks are bound to
	wires [][]MAC  // for each of these, further MACs that stand for endpoints
	named map[string]namedUplink
}

// namedUplink is what networks bound to an uplink take from it.
type namedUplink struct {
	port PortID
	mac  MAC
	mtu  uint16
}

func (c *Compiler) compileUplinks(s State, f Facts, t *Tables) error {
	m := &c.uplinks
	bound := boundNames(s.Networks)
	wires := make([][]MAC, len(bound))
	for i, name := range bound {
		wires[i] = wireMACs(s.Networks, name)
	}
	if m.made && slices.EqualFunc(m.was, f.Uplinks, equalUplink) && slices.Equal(m.bound, bound) && slices.EqualFunc(m.wires, wires, slices.Equal) {
		return nil
	}
	sorted := slices.Clone(f.Uplinks)
	slices.SortFunc(sorted, func(a, b Uplink) int { return a.Ifindex - b.Ifindex })
	if len(sorted) > MaxUplinks {
		return invalid("Facts.Uplinks: %d interfaces, over %d", len(sorted), MaxUplinks)
	}

	// A port number follows from the ifindex alone unless two collide modulo
	// MaxUplinks, in which case the later interface takes the next free number.
	// So numbers move only when a colliding, older interface comes or goes.
	taken := map[int]bool{}
	blocks := map[PortID]*block{}
	var list []UplinkPort
	mtu := uint16(0)
	var nat []natRange
	named := map[string]namedUplink{}
	for i, u := range sorted {
		if u.Ifindex <= 0 {
			return invalid("Facts.Uplinks %q: ifindex %d", u.Name, u.Ifindex)
		}
		if i > 0 && sorted[i-1].Ifindex == u.Ifindex {
			return invalid("Facts.Uplinks %q: ifindex %d is also %q", u.Name, u.Ifindex, sorted[i-1].Name)
		}
		slot := u.Ifindex % MaxUplinks
		for taken[slot] {
			slot = (slot + 1) % MaxUplinks
		}
		taken[slot] = true
		up := UplinkPort{Port: MaxPorts - 1 - PortID(slot), Ifindex: u.Ifindex, Name: u.Name}
		at, isBound := slices.BinarySearch(bound, u.Name)
		up.Bound = isBound
		list = append(list, up)
		named[u.Name] = namedUplink{up.Port, u.MAC, cmp.Or(u.MTU, defaultMTU)}
		// One without addresses is there for the networks that are bound to it.
		if len(u.Addrs) > 0 && u.MTU != 0 && (mtu == 0 || u.MTU < mtu) {
			mtu = u.MTU
		}
		b, pools := uplinkBlock(u, up.Port, slot)
		if up.Bound {
			b.port[0].Value.Flags |= portWires
			for _, mac := range wires[at] {
				b.fdb = append(b.fdb, Entry[FdbKey, uint32]{fdbKey(Zone(up.Port), mac), uint32(up.Port)})
			}
		}
		blocks[up.Port] = b
		nat = append(nat, pools...)
	}
	slices.SortFunc(list, func(a, b UplinkPort) int { return int(b.Port) - int(a.Port) })

	// Uplinks that did not change keep their block, so Diff need not look.
	for port, b := range blocks {
		if old := t.uplinks[port]; old != nil && old.equal(&b.rows) {
			blocks[port] = old
		}
	}
	t.uplinks, t.Uplinks = blocks, list
	*m = uplinkMemo{made: true, was: cloneUplinks(f.Uplinks), mtu: mtu, nat: nat, bound: bound, wires: wires, named: named}
	if m.mtu == 0 {
		m.mtu = defaultMTU
	}
	return nil
}

// uplinkBlock makes the rows of one uplink; slot numbers its NAT pools.
func uplinkBlock(u Uplink, port PortID, slot int) (*block, []natRange) {
	b := &block{global: true, epochPorts: []PortID{port}}
	row := PortRow{
		Ifindex: uint32(u.Ifindex), Kind: uint8(PortUplink), Flags: portUp, Mtu: u.MTU, Mac: u.MAC,
	}
	if row.Mtu == 0 {
		row.Mtu = defaultMTU
	}
	var pools []natRange
	pool := func(index uint32, a netip.Addr) uint16 {
		if !a.IsValid() {
			return 0
		}
		r := natRange{a, NATLow, NATHigh}
		pools = append(pools, r)
		b.natpool = append(b.natpool, Entry[uint32, NATPoolRow]{index, natPoolRow(r, 1)})
		return uint16(index)
	}
	row.Natpool4 = pool(uint32(1+2*slot), sourceAddr(u.Addrs, true))
	row.Natpool6 = pool(uint32(2+2*slot), sourceAddr(u.Addrs, false))
	b.port = []Entry[uint32, PortRow]{{uint32(port), row}}
	b.ifport = []Entry[uint32, uint32]{{uint32(u.Ifindex), uint32(port)}}
	return b, pools
}

// sourceAddr picks the address outbound NAT shows: the first global one of the
// family; for IPv6 a unique local one only where there is no other.
func sourceAddr(addrs []netip.Prefix, is4 bool) netip.Addr {
	var second netip.Addr
	for _, p := range addrs {
		a := p.Addr()
		switch {
		case a.Is4() != is4 || !a.IsGlobalUnicast() || a.Is4In6() || a.Zone() != "":
		case is4 || !a.IsPrivate():
			return a
		case !second.IsValid():
			second = a
		}
	}
	return second
}

func equalUplink(a, b Uplink) bool {
	return a.Name == b.Name && a.Ifindex == b.Ifindex && a.MAC == b.MAC && a.MTU == b.MTU && slices.Equal(a.Addrs, b.Addrs)
}

func cloneUplinks(us []Uplink) []Uplink {
	us = slices.Clone(us)
	for i := range us {
		us[i].Addrs = slices.Clone(us[i].Addrs)
	}
	return us
}
