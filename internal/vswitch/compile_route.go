// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"encoding/binary"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
)

func checkRoutes(routes []Route, n *Network) error {
	for i := range routes {
		r := &routes[i]
		if err := checkRoute(r, n); err != nil {
			return invalid("Routes[%d]%w", i, err)
		}
		for j := range routes[:i] {
			if routes[j].Prefix == r.Prefix {
				return invalid("Routes[%d].Prefix %q: also that of Routes[%d]; one prefix has one way", i, r.Prefix, j)
			}
		}
	}
	return nil
}

func checkRoute(r *Route, n *Network) error {
	p := r.Prefix
	switch {
	case !p.IsValid() || p.Addr().Is4In6() || p.Addr().Zone() != "":
		return invalid(".Prefix %q: not a prefix", p)
	case p != p.Masked():
		return invalid(".Prefix %q: has bits below its length; %q is meant", p, p.Masked())
	case slices.ContainsFunc(n.Subnets, func(s Subnet) bool { return s.Prefix == p }):
		return invalid(".Prefix %q: is a subnet of the network, which is local", p)
	case r.To != RouteVia && r.Via.IsValid():
		return invalid(".Via %q: is for routes via a router", r.Via)
	case r.To != RouteTunnel && (r.VTEP.IsValid() || r.VNI != 0 || r.MAC != MAC{}):
		return invalid(".VTEP, VNI, MAC: are for routes into a tunnel")
	}
	switch r.To {
	case RouteReject:
		return nil
	case RouteUplink:
		if n.Flags&NetUplink == 0 {
			return invalid(".To uplink: the network does not reach uplinks (NetUplink)")
		}
	case RouteHost:
		if n.HostPort == 0 && n.Uplink == "" {
			return invalid(".To host: the network has no HostPort")
		}
	case RouteVia:
		if err := checkUnicast(r.Via); err != nil {
			return invalid(".Via %w", err)
		}
		if r.Via.Is4() != p.Addr().Is4() {
			return invalid(".Via %q: not of the family of %q", r.Via, p)
		}
		if !inSubnets(n, r.Via) {
			return invalid(".Via %q: in no subnet of the network", r.Via)
		}
	case RouteTunnel:
		if n.Tunnel == 0 {
			return invalid(".To tunnel: the network has no Tunnel")
		}
		if err := checkUnicast(r.VTEP); err != nil {
			return invalid(".VTEP %w", err)
		}
		if err := checkVNI(r.VNI); err != nil {
			return invalid(".%w", err)
		}
		if r.MAC == (MAC{}) || r.MAC[0]&1 != 0 {
			return invalid(".MAC %s: not the address of one interface", r.MAC)
		}
	default:
		return invalid(".To %d: no kind of route", r.To)
	}
	return nil
}

func inSubnets(n *Network, a netip.Addr) bool {
	return slices.ContainsFunc(n.Subnets, func(s Subnet) bool { return s.Prefix.Contains(a) })
}

func checkVNI(vni uint32) error {
	if vni == 0 || vni >= ServiceVNI {
		return invalid("VNI %d: must be 1 to %d; the one above is that of services", vni, ServiceVNI-1)
	}
	return nil
}

// hop is a next hop of a network's routes; equal ones are one.
type hop struct {
	net NetworkID
	row NextHopRow
}

// hopOf is what a route leads to; ok is false where its kind says it all.
func (m *overlayMemo) hopOf(n *Network, r *Route) (h hop, ok bool) {
	h.net = n.ID
	switch r.To {
	case RouteVia:
		h.row.Via.B = r.Via.As16()
	case RouteTunnel:
		h.row.Vni, h.row.Port, h.row.Mac = r.VNI, uint16(n.Tunnel), r.MAC
		h.row.Vtep = m.number[vtepKey{n.Tunnel, r.VTEP}]
	default:
		return h, false
	}
	return h, true
}

func (h hop) bytes() []byte {
	b := append(make([]byte, 0, 32), h.row.Via.B[:]...)
	b = append(b, h.row.Mac[:]...)
	b = binary.BigEndian.AppendUint32(b, h.row.Vni)
	b = binary.BigEndian.AppendUint16(b, h.row.Vtep)
	b = binary.BigEndian.AppendUint16(b, h.row.Port)
	return binary.BigEndian.AppendUint16(b, uint16(h.net))
}

func (h hop) hash() uint64 {
	f := fnv.New64a()
	f.Write(h.bytes())
	return f.Sum64()
}

func (h hop) compare(o hop) int { return slices.Compare(h.bytes(), o.bytes()) }

// numberHops numbers the next hops of all routes.
func (m *overlayMemo) numberHops() error {
	seen := map[hop]bool{}
	nets := map[NetworkID]*Network{}
	gather := func(n *Network, routes []Route) {
		for i := range routes {
			if h, ok := m.hopOf(n, &routes[i]); ok {
				seen[h] = true
			}
		}
	}
	for i := range m.was.networks {
		n := &m.was.networks[i]
		nets[n.ID] = n
		gather(n, n.Routes)
	}
	for i := range m.was.ports {
		if n := nets[m.was.ports[i].Network]; n != nil {
			gather(n, m.was.ports[i].Routes)
		}
	}
	if len(seen) > MaxNextHops {
		return invalid("Routes: %d next hops, over %d", len(seen), MaxNextHops)
	}
	hops := slices.SortedFunc(maps.Keys(seen), hop.compare)
	m.hops = make(map[hop]uint32, len(hops))
	for i, id := range numbers(hops, hop.compare, hop.hash, MaxNextHops) {
		m.hops[hops[i]] = id
	}
	return nil
}

// routes makes the rows of the routes of a network, or of one of its ports.
func (m *overlayMemo) routes(n *Network, port PortID, routes []Route) []Entry[RouteKey, RouteRow] {
	var rows []Entry[RouteKey, RouteRow]
	for i := range routes {
		r := &routes[i]
		h, _ := m.hopOf(n, r)
		k := routeKey(n.Zone, r.Prefix)
		k.Port = uint16(port)
		rows = append(rows, Entry[RouteKey, RouteRow]{k, RouteRow{Kind: uint16(r.To), Nh: m.hops[h]}})
	}
	return rows
}

// portRoutes makes the rows of a port with routes or NAT rules of its own. What it has
// is asked before its network's, so NAT rules need all of that beside them; so does a
// route around a subnet of the network's, which stays the longer one, and an IPv6 default
// route, which keys of IPv4 match where nothing longer does.
func (m *overlayMemo) portRoutes(n *Network, p *Port, pools *poolMemo) ([]Entry[RouteKey, RouteRow], error) {
	rows := m.routes(n, p.ID, p.Routes)
	covers := func(r Route) bool {
		return slices.ContainsFunc(n.Subnets, func(s Subnet) bool { return r.Prefix.Overlaps(s.Prefix) && r.Prefix.Bits() < s.Prefix.Bits() })
	}
	if len(p.NAT) == 0 && !slices.ContainsFunc(rows, holdsIPv4) && !slices.ContainsFunc(p.Routes, covers) {
		return natTable(rows, n.Zone, p.ID, networkNAT(n)), nil
	}
	if len(p.NAT) > 0 && n.Flags&NetL2 != 0 && n.Uplink == "" {
		return nil, invalid("NAT: network %d has no Uplink, so nothing leaves", n.ID)
	}
	rules, err := pools.portNAT(p)
	if err != nil {
		return nil, err
	}
	own := rows
	add := func(e Entry[RouteKey, RouteRow]) {
		if e.Key.Port = uint16(p.ID); e.Value.Kind == routeLocal || longestOver(own, prefixOf(e.Key)) == nil {
			rows = append(rows, e)
		}
	}
	base := baseRoutes(n, m.routes(n, 0, n.Routes))
	for _, e := range base {
		add(e)
	}
	for _, q := range anywhere {
		if e := (Entry[RouteKey, RouteRow]{routeKey(n.Zone, q), RouteRow{Kind: routeUplink}}); longestOver(base, q) == nil {
			add(e)
		}
	}
	return natTable(rows, n.Zone, p.ID, rules, networkNAT(n)), nil
}

// holdsIPv4: the key of any IPv4 address matches, though the prefix is of IPv6.
func holdsIPv4(e Entry[RouteKey, RouteRow]) bool {
	p := prefixOf(e.Key)
	return p.Addr().Is6() && p.Contains(netip.AddrFrom16(netip.IPv4Unspecified().As16()))
}
