// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"net/netip"
	"slices"
)

// netContext is what ports and mappings take from their network. It is replaced
// when one of its fields changes and kept otherwise, so that a port can tell by
// the pointer whether it must be compiled again.
type netContext struct {
	id       NetworkID
	zone     Zone
	mtu      uint16
	mac      MAC // source of what the switch delivers
	hostPort PortID
	gateways []netip.Addr
	subnets  []Subnet // of an overlay
	bound    bound
	outer    uint16 // MTU of the uplink it is bound to, else of those with addresses
}

func (n *netContext) equal(o *netContext) bool {
	return n.id == o.id && n.zone == o.zone && n.mtu == o.mtu && n.mac == o.mac &&
		n.hostPort == o.hostPort && n.outer == o.outer && n.bound == o.bound && slices.Equal(n.gateways, o.gateways) && slices.Equal(n.subnets, o.subnets)
}

type netMemo struct {
	was     Network
	context *netContext
	nat     poolRef
	routes  []Entry[RouteKey, RouteRow]
	flood   []uint32 // members, sorted; nil where the network does not flood
	round   uint64
}

func (c *Compiler) compileNetworks(s State, _ Facts, t *Tables) error {
	hostPorts := map[PortID]*Port{}
	for _, p := range s.special() {
		if p.Kind == PortHost {
			hostPorts[p.ID] = p
		}
	}
	if err := checkWires(s.Networks); err != nil {
		return err
	}
	shared := true
	zones := map[Zone]int{}
	for i := range s.Networks {
		n := &s.Networks[i]
		if j, ok := zones[n.Zone]; ok {
			return invalid("Networks[%d] (%q): Zone %d is also that of %q; a zone belongs to one network", i, n.Name, n.Zone, s.Networks[j].Name)
		}
		zones[n.Zone] = i
		m := c.nets[n.ID]
		if m != nil && m.round == c.round {
			return invalid("Networks[%d] (%q): ID %d is also that of %q", i, n.Name, n.ID, m.was.Name)
		}
		outer := c.uplinks.mtu
		if u, ok := c.uplinks.named[n.Uplink]; ok {
			outer = u.mtu
		}
		context := contextOf(n, hostPorts, room(outer, c.overlay.overhead(n)))
		context.bound, context.outer = c.boundOf(n), outer
		nat, err := c.pools.ref(n.NATPool)
		if err != nil {
			return invalid("Networks[%d] (%q): %w", i, n.Name, err)
		}
		routes := c.overlay.routes(n, 0, n.Routes)
		if m != nil && equalNetwork(&m.was, n) && m.context.equal(context) && m.nat == nat && slices.Equal(m.routes, routes) {
			m.round = c.round
			continue
		}
		if err := checkNetwork(n, hostPorts); err != nil {
			return invalid("Networks[%d] (%q): %w", i, n.Name, err)
		}
		if m == nil {
			m = &netMemo{}
			c.nets[n.ID] = m
		}
		if m.context == nil || !m.context.equal(context) {
			m.context, c.contexts = context, c.round
		}
		m.was, m.round, m.nat, m.routes = *n, c.round, nat, routes
		m.was.Subnets, m.was.Routes = slices.Clone(n.Subnets), slices.Clone(n.Routes)
		m.was.NATExceptions, m.was.NATDestinations = slices.Clone(n.NATExceptions), slices.Clone(n.NATDestinations)
		m.was.Asked = slices.Clone(n.Asked)
		t.nets = with(t.nets, &shared, n.ID, networkBlock(n, context, nat, routes))
	}
	if len(c.nets) != len(s.Networks) {
		for id, m := range c.nets {
			if m.round != c.round {
				delete(c.nets, id)
				c.contexts = c.round
				t.nets = with(t.nets, &shared, id, nil)
			}
		}
	}
	return nil
}

func contextOf(n *Network, hostPorts map[PortID]*Port, uplinkMTU uint16) *netContext {
	x := &netContext{id: n.ID, zone: n.Zone, mtu: n.MTU, mac: networkMAC(n.ID), hostPort: n.HostPort}
	if x.mtu == 0 {
		x.mtu = uplinkMTU
	}
	if n.RouterMAC != (MAC{}) {
		x.mac = n.RouterMAC // stays the gateway's when a host port comes or goes
	}
	if p := hostPorts[n.HostPort]; p != nil {
		x.mac = p.MAC
	}
	for _, sub := range n.Subnets {
		if sub.Gateway.IsValid() {
			x.gateways = append(x.gateways, sub.Gateway)
		}
	}
	if n.Tunnel != 0 {
		x.subnets = slices.Clone(n.Subnets)
	}
	return x
}

func networkBlock(n *Network, x *netContext, nat poolRef, routes []Entry[RouteKey, RouteRow]) *block {
	b := &block{epochNets: []NetworkID{n.ID}}
	row := NetRow{Flags: uint32(n.Flags), Zone: uint16(n.Zone), HostPort: uint16(n.HostPort), Mtu: x.mtu,
		Natpool4: nat.v4, Natpool6: nat.v6, RouterMac: n.routerMAC(x)}
	row.Hairpin4.B, row.Hairpin6.B = hairpin4(n.ID).As16(), hairpin6(n.ID).As16()
	for _, gw := range x.gateways { // the first of each family
		if own := &row.Gw4; gw.Is4() && own.B == [16]byte{} {
			own.B = gw.As16()
		} else if own := &row.Gw6; gw.Is6() && own.B == [16]byte{} {
			own.B = gw.As16()
		}
	}
	bridgeNetwork(b, n, &row, x.bound)
	b.net = []Entry[uint32, NetRow]{{uint32(n.ID), row}}
	b.route = append(natTable(baseRoutes(n, routes), n.Zone, 0, networkNAT(n)), askedRoutes(n)...)
	return b
}

// baseRoutes are a network's subnets, the way outside, and the routes it names.
func baseRoutes(n *Network, routes []Entry[RouteKey, RouteRow]) (all []Entry[RouteKey, RouteRow]) {
	route := func(p netip.Prefix, kind uint16) {
		all = append(all, Entry[RouteKey, RouteRow]{routeKey(n.Zone, p), RouteRow{Kind: kind}})
	}
	for _, sub := range n.Subnets {
		route(sub.Prefix, routeLocal)
	}
	if n.Flags&NetUplink != 0 || n.Flags&(NetL2|NetSNAT) == NetL2|NetSNAT {
		// Both families: a source of a family without subnet is refused as spoofed.
		// Where a subnet is itself a default route, local wins.
		for _, p := range anywhere {
			if !slices.ContainsFunc(n.Subnets, func(s Subnet) bool { return s.Prefix == p }) &&
				!slices.ContainsFunc(n.Routes, func(r Route) bool { return r.Prefix == p }) {
				route(p, routeUplink)
			}
		}
	}
	return append(all, routes...)
}

func checkNetwork(n *Network, hostPorts map[PortID]*Port) error {
	switch {
	case n.ID == 0 || n.ID >= MaxNetworks:
		return invalid("ID %d: must be 1 to %d", n.ID, MaxNetworks-1)
	case n.Zone == zoneHost:
		return invalid("Zone 0: that is the host's own")
	case n.Zone >= Zone(FirstUplinkPort):
		return invalid("Zone %d: must be below %d", n.Zone, FirstUplinkPort)
	}
	for i, sub := range n.Subnets {
		p := sub.Prefix
		switch {
		case !p.IsValid() || p.Addr().Is4In6() || p.Addr().Zone() != "":
			return invalid("Subnets[%d].Prefix %q: not a prefix", i, p)
		case p != p.Masked():
			return invalid("Subnets[%d].Prefix %q: has bits below its length; %q is meant", i, p, p.Masked())
		case n.MTU != 0 && p.Addr().Is6() && n.MTU < minMTU6:
			return invalid("MTU %d: IPv6 needs %d", n.MTU, minMTU6)
		case sub.Gateway.IsValid() && !p.Contains(sub.Gateway):
			return invalid("Subnets[%d].Gateway %q: outside %q", i, sub.Gateway, p)
		}
		if sub.Gateway.IsValid() {
			if err := checkUnicast(sub.Gateway); err != nil {
				return invalid("Subnets[%d].Gateway %w", i, err)
			}
		}
		for j, other := range n.Subnets[:i] {
			if other.Prefix.Overlaps(p) {
				return invalid("Subnets[%d].Prefix %q: overlaps Subnets[%d] %q", i, p, j, other.Prefix)
			}
			if sub.Gateway.IsValid() && other.Gateway == sub.Gateway {
				return invalid("Subnets[%d].Gateway %q: also that of Subnets[%d]", i, sub.Gateway, j)
			}
		}
	}
	if err := checkBridge(n); err != nil {
		return err
	}
	if n.MTU != 0 && n.MTU < minMTU4 {
		return invalid("MTU %d: IPv4 needs %d", n.MTU, minMTU4)
	}
	if n.HostPort != 0 {
		p := hostPorts[n.HostPort]
		if p == nil {
			return invalid("HostPort %d: no such port of kind host", n.HostPort)
		}
		if p.Network != n.ID {
			return invalid("HostPort %d: belongs to network %d", n.HostPort, p.Network)
		}
	}
	if err := checkAsked(n); err != nil {
		return err
	}
	if err := checkNATPrefixes(n); err != nil {
		return err
	}
	if err := checkOverlay(n); err != nil {
		return err
	}
	return checkRoutes(n.Routes, n)
}

func equalNetwork(a, b *Network) bool {
	return a.ID == b.ID && a.Zone == b.Zone && a.Name == b.Name && a.Flags == b.Flags && a.MTU == b.MTU &&
		a.HostPort == b.HostPort && a.Uplink == b.Uplink && a.VLAN == b.VLAN && a.WireMAC == b.WireMAC && slices.Equal(a.Asked, b.Asked) && slices.Equal(a.Subnets, b.Subnets) &&
		a.Overlay == b.Overlay && slices.Equal(a.Routes, b.Routes) &&
		slices.Equal(a.NATExceptions, b.NATExceptions) && slices.Equal(a.NATDestinations, b.NATDestinations)
}

// floodMemo is the ports that a broadcast in their network reaches, if it floods.
type floodMemo struct {
	at      map[PortID]NetworkID
	members map[NetworkID][]PortID // sorted
}

// follow takes over what became of a port; m is nil where it went.
func (f *floodMemo) follow(id PortID, m *portMemo) {
	now := NetworkID(0)
	if m.passes() && !m.was.TaggedOnly {
		now = m.was.Network
	}
	was := f.at[id]
	if was == now {
		return
	}
	if i, ok := slices.BinarySearch(f.members[was], id); ok {
		f.members[was] = slices.Delete(f.members[was], i, i+1)
	}
	if now == 0 {
		delete(f.at, id)
		return
	}
	i, _ := slices.BinarySearch(f.members[now], id)
	f.at[id], f.members[now] = now, slices.Insert(f.members[now], i, id)
}

// compileFloods lists who hears broadcasts. It is an object of its own because
// it changes with the ports.
func (c *Compiler) compileFloods(s State, _ Facts, t *Tables) error {
	for id := range c.moved {
		c.flooded.follow(id, c.ports[id])
	}
	shared := true
	floods := map[NetworkID]bool{}
	for i := range s.Networks {
		id := s.Networks[i].ID
		if s.Networks[i].Flags&NetFlood == 0 {
			continue
		}
		floods[id] = true
		m := c.nets[id]
		var all []uint32
		l := c.flooded.members[id]
		if _, ok := slices.BinarySearch(l, m.was.HostPort); ok { // the gateway comes first
			all = append(all, uint32(m.was.HostPort))
		}
		for _, p := range l[:min(len(l), MaxFlood)] {
			if p != m.was.HostPort {
				all = append(all, uint32(p))
			}
		}
		all = append(all, c.overlay.floods(&m.was)...)
		all = all[:min(len(all), MaxFlood)]
		if t.floods[id] != nil && slices.Equal(m.flood, all) {
			continue
		}
		m.flood = all
		b := &block{}
		for i, p := range all {
			b.flood = append(b.flood, Entry[FloodKey, uint32]{FloodKey{Net: uint16(id), I: uint16(i)}, p})
		}
		b.floodn = []Entry[uint32, uint32]{{uint32(id), uint32(len(all))}}
		t.floods = with(t.floods, &shared, id, b)
	}
	for id := range t.floods {
		if !floods[id] {
			t.floods = with(t.floods, &shared, id, nil)
			if m := c.nets[id]; m != nil {
				m.flood = nil
			}
		}
	}
	return nil
}
