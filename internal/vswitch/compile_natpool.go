// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"cmp"
	"net/netip"
	"slices"
)

// NATPoolID is the stable number of a pool in the data plane; 0 is none.
type NATPoolID uint16

// NATPool is a set of addresses that outbound NAT shows outside. The world must
// route them to this host; they need not be on an interface of it: answers are
// recognised by their flows at whichever uplink they come in.
//
// An endpoint always has the same address of the pool, chosen by a hash of its
// own; a conversation keeps the one it began with while that is in the pool.
type NATPool struct {
	ID    NATPoolID
	Name  string       // for people; appears in errors only
	Addrs []netip.Addr // both families, MaxNATAddrs of each at most
	// PortLow and PortHigh bound the source ports, echo ids included, that are
	// shown; both 0 = NATLow to NATHigh.
	PortLow, PortHigh uint16
}

const (
	// MaxNATPools is the highest NATPoolID.
	MaxNATPools = 240
	// MaxNATAddrs is how many addresses of one family a pool may have (GH_POOL_ADDRS).
	MaxNATAddrs = 8

	// firstPool is the natpool entry of pool 1, behind those of the uplinks. Each
	// pool has MaxNATAddrs entries for IPv4 and as many for IPv6.
	firstPool = 256

	// nodePortLow and nodePortHigh are Kubernetes' default range of NodePorts
	// (kube-apiserver --service-node-port-range).
	nodePortLow, nodePortHigh = 30000, 32767
	// localPortLow and localPortHigh are net.ipv4.ip_local_port_range as Linux
	// sets it (net/ipv4/af_inet.c, inet_init_net).
	localPortLow, localPortHigh = 32768, 60999
)

// natRange is an address and the ports that NAT may take of it.
type natRange struct {
	addr      netip.Addr
	low, high uint16
}

// poolRef is where the addresses of a pool begin in natpool, by family; 0 = none.
type poolRef struct{ v4, v6 uint16 }

// poolMemo remembers the pools as they were and what follows from them.
type poolMemo struct {
	made    bool
	was     []NATPool
	host    []netip.Addr
	local   [2]uint16
	left    [][2]uint16 // of local
	uplinks []natRange
	refs    map[NATPoolID]poolRef
	nat     []natRange // of all pools and uplinks
}

// ref is where a pool that State names begins.
func (m *poolMemo) ref(id NATPoolID) (poolRef, error) {
	r, ok := m.refs[id]
	if id != 0 && !ok {
		return poolRef{}, invalid("NATPool %d: no such pool", id)
	}
	return r, nil
}

func (c *Compiler) compilePools(s State, f Facts, t *Tables) error {
	m := &c.pools
	local := [2]uint16{f.LocalPortLow, f.LocalPortHigh}
	if m.made && slices.EqualFunc(m.was, s.NATPools, equalPool) && slices.Equal(m.host, f.HostAddrs) &&
		m.local == local && slices.Equal(m.left, f.LocalReserved) && slices.Equal(m.uplinks, c.uplinks.nat) {
		return nil
	}
	next := poolMemo{made: true, host: slices.Clone(f.HostAddrs), local: local, left: slices.Clone(f.LocalReserved), uplinks: c.uplinks.nat, refs: map[NATPoolID]poolRef{}}
	next.nat = slices.Clone(c.uplinks.nat)
	blocks := map[NATPoolID]*block{}
	for i := range s.NATPools {
		p := s.NATPools[i]
		if err := checkPool(&p, f); err != nil {
			return invalid("NATPools[%d] (%q): %w", i, p.Name, err)
		}
		if blocks[p.ID] != nil {
			return invalid("NATPools[%d] (%q): ID %d is also that of another pool", i, p.Name, p.ID)
		}
		b, ref, ranges := poolBlock(&p)
		if old := t.pools[p.ID]; old != nil && old.equal(&b.rows) {
			b = old
		}
		blocks[p.ID], next.refs[p.ID] = b, ref
		next.nat = append(next.nat, ranges...)
		p.Addrs = slices.Clone(p.Addrs)
		next.was = append(next.was, p)
	}
	t.pools, *m = blocks, next
	return nil
}

// poolBlock makes the rows of one pool. They are read under the epochs of
// whoever refers to it, which are many and seldom: all are told.
func poolBlock(p *NATPool) (*block, poolRef, []natRange) {
	b := &block{global: true}
	low, high := p.ports()
	base := firstPool + uint16(p.ID-1)*2*MaxNATAddrs
	var ref poolRef
	var ranges []natRange
	family := func(base uint16, is4 bool) uint16 {
		var own []natRange
		for _, a := range p.Addrs {
			if a.Is4() == is4 {
				own = append(own, natRange{a, low, high})
			}
		}
		for i, r := range own {
			count := 0
			if i == 0 {
				count = len(own)
			}
			b.natpool = append(b.natpool, Entry[uint32, NATPoolRow]{uint32(base) + uint32(i), natPoolRow(r, count)})
		}
		ranges = append(ranges, own...)
		if len(own) == 0 {
			return 0
		}
		return base
	}
	ref.v4 = family(base, true)
	ref.v6 = family(base+MaxNATAddrs, false)
	return b, ref, ranges
}

func (p *NATPool) ports() (low, high uint16) {
	if p.PortLow == 0 && p.PortHigh == 0 {
		return NATLow, NATHigh
	}
	return p.PortLow, p.PortHigh
}

func checkPool(p *NATPool, f Facts) error {
	low, high := p.ports()
	switch {
	case p.ID == 0 || p.ID > MaxNATPools:
		return invalid("ID %d: must be 1 to %d", p.ID, MaxNATPools)
	case len(p.Addrs) == 0:
		return invalid("Addrs: empty; name at least one address")
	case low == 0 || high < low:
		return invalid("PortLow %d and PortHigh %d: not a range; the lower one comes first and is not 0", low, high)
	}
	of4 := 0
	for i, a := range p.Addrs {
		if err := checkUnicast(a); err != nil {
			return invalid("Addrs[%d]: %w", i, err)
		}
		if a.IsLoopback() || a.IsLinkLocalUnicast() {
			return invalid("Addrs[%d] %q: is not known outside this host", i, a)
		}
		if slices.Contains(p.Addrs[:i], a) {
			return invalid("Addrs[%d] %q: listed twice", i, a)
		}
		if a.Is4() {
			of4++
		}
		if slices.Contains(f.HostAddrs, a) {
			if err := checkHostPorts(a, low, high, f); err != nil {
				return err
			}
		}
	}
	if of4 > MaxNATAddrs || len(p.Addrs)-of4 > MaxNATAddrs {
		return invalid("Addrs: %d of IPv4 and %d of IPv6, over %d of one family; use a second pool", of4, len(p.Addrs)-of4, MaxNATAddrs)
	}
	return nil
}

// checkHostPorts keeps NAT off the ports that sockets of the host use on a, an
// address of the host: an answer to such a socket would be taken for a flow's.
func checkHostPorts(a netip.Addr, low, high uint16, f Facts) error {
	if low == NATLow && high == NATHigh {
		return nil // as on the uplinks' own addresses, whatever else the host is set to
	}
	local := [2]uint16{f.LocalPortLow, f.LocalPortHigh}
	if local[1] == 0 {
		local = [2]uint16{localPortLow, localPortHigh}
	}
	for _, r := range []struct {
		name      string
		low, high uint16
	}{
		{"the ports that Linux gives to sockets of the host (net.ipv4.ip_local_port_range without ip_local_reserved_ports)", local[0], local[1]},
		{"the NodePorts of Kubernetes", nodePortLow, nodePortHigh},
		{"the ports of system services", 1, 1023},
		{"the port of VXLAN tunnels", VXLANPort, VXLANPort},
	} {
		first, last := max(low, r.low), min(high, r.high)
		if r.low == local[0] && r.high == local[1] {
			for _, left := range slices.SortedFunc(slices.Values(f.LocalReserved), func(a, b [2]uint16) int { return cmp.Compare(a[0], b[0]) }) {
				if left[0] <= first && first <= left[1] && first <= last {
					if left[1] >= last {
						first, last = 1, 0 // all of them
						break
					}
					first = left[1] + 1
				}
			}
		}
		if first <= last {
			return invalid("PortLow %d and PortHigh %d: overlap %d-%d, %s, and %s is an address of the host; choose others", low, high, r.low, r.high, r.name, a)
		}
	}
	return nil
}

func equalPool(a, b NATPool) bool {
	return a.ID == b.ID && a.Name == b.Name && a.PortLow == b.PortLow && a.PortHigh == b.PortHigh && slices.Equal(a.Addrs, b.Addrs)
}

// busyRows says that NAT must leave port alone on every address that host, which
// may be unspecified, stands for.
func busyRows(nat []natRange, host netip.Addr, port uint16, proto uint8) []Entry[BusyKey, uint8] {
	var rows []Entry[BusyKey, uint8]
	for _, r := range nat {
		e := Entry[BusyKey, uint8]{busyKey(r.addr, port, proto), 1}
		same := r.addr == host || host.IsUnspecified() && r.addr.Is4() == host.Is4()
		if same && port >= r.low && port <= r.high && !slices.Contains(rows, e) {
			rows = append(rows, e)
		}
	}
	slices.SortFunc(rows, func(a, b Entry[BusyKey, uint8]) int { return ip(a.Key.Addr.B).Compare(ip(b.Key.Addr.B)) })
	return rows
}

// natRule is what outside destinations of a prefix see: with routeNAT an address of
// the pool that begins at nh (0 = the port's, the network's or the uplink's), else
// the endpoint's own.
type natRule struct {
	prefix netip.Prefix
	flags  uint16
	nh     uint32
}

// natRules are sorted, the longest prefix first.
type natRules []natRule

func (l natRules) of(p netip.Prefix) (natRule, bool) {
	for _, r := range l {
		if r.prefix.Bits() <= p.Bits() && r.prefix.Contains(p.Addr()) {
			return r, true
		}
	}
	return natRule{}, false
}

// anywhere is both families' whole.
var anywhere = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}

// networkNAT are the rules of a network, whose last ones are about all the rest.
func networkNAT(n *Network) natRules {
	if n.Flags&NetSNAT == 0 {
		return nil
	}
	var rules natRules
	rest := uint16(routeNAT)
	for _, p := range n.NATExceptions {
		rules = append(rules, natRule{prefix: p})
	}
	for _, p := range n.NATDestinations {
		rules, rest = append(rules, natRule{prefix: p, flags: routeNAT}), 0
	}
	for _, p := range anywhere {
		rules = append(rules, natRule{prefix: p, flags: rest})
	}
	slices.SortStableFunc(rules, func(a, b natRule) int { return cmp.Compare(b.prefix.Bits(), a.prefix.Bits()) })
	return rules
}

// portNAT are the rules of one port.
func (m *poolMemo) portNAT(p *Port) (natRules, error) {
	var rules natRules
	for i, r := range p.NAT {
		ref, err := m.ref(r.Pool)
		switch {
		case err != nil:
			return nil, invalid("NAT[%d].%w", i, err)
		case !r.Prefix.IsValid() || r.Prefix.Addr().Is4In6() || r.Prefix.Addr().Zone() != "":
			return nil, invalid("NAT[%d].Prefix %q: not a prefix", i, r.Prefix)
		case r.Prefix != r.Prefix.Masked():
			return nil, invalid("NAT[%d].Prefix %q: has bits below its length; %q is meant", i, r.Prefix, r.Prefix.Masked())
		case slices.ContainsFunc(p.NAT[:i], func(o NATRule) bool { return o.Prefix == r.Prefix }):
			return nil, invalid("NAT[%d].Prefix %q: listed twice", i, r.Prefix)
		case r.Own && r.Pool != 0:
			return nil, invalid("NAT[%d].Pool %d: Own shows none of its addresses", i, r.Pool)
		}
		rule := natRule{prefix: r.Prefix, flags: routeNAT, nh: uint32(ref.v6)}
		if r.Prefix.Addr().Is4() {
			rule.nh = uint32(ref.v4)
		}
		if r.Own {
			rule.flags, rule.nh = 0, 0
		}
		rules = append(rules, rule)
	}
	slices.SortStableFunc(rules, func(a, b natRule) int { return cmp.Compare(b.prefix.Bits(), a.prefix.Bits()) })
	return rules, nil
}

// natTable puts rules, those of the first list before those of the next, into the
// routes of a network or of one port in it, so that no look-up of its own is needed:
// the route says what outside sees.
func natTable(routes []Entry[RouteKey, RouteRow], zone Zone, port PortID, lists ...natRules) []Entry[RouteKey, RouteRow] {
	given := slices.Clone(routes)
	for _, l := range lists {
		for _, r := range l {
			key := routeKey(zone, r.prefix)
			key.Port = uint16(port)
			if slices.ContainsFunc(routes, func(e Entry[RouteKey, RouteRow]) bool { return e.Key == key }) {
				continue
			}
			if over := longestOver(given, r.prefix); over != nil && over.Kind == routeUplink {
				routes = append(routes, Entry[RouteKey, RouteRow]{key, *over})
			}
		}
	}
	for i := range routes {
		if v := &routes[i].Value; v.Kind == routeUplink {
			for _, l := range lists {
				if r, ok := l.of(prefixOf(routes[i].Key)); ok {
					v.Flags, v.Nh = r.flags, r.nh
					break
				}
			}
		}
	}
	return routes
}

// longestOver is the longest route whose prefix holds all of p; nil = none does.
func longestOver(routes []Entry[RouteKey, RouteRow], p netip.Prefix) *RouteRow {
	var over *RouteRow
	bits := -1
	for i := range routes {
		q := prefixOf(routes[i].Key)
		if q.Bits() <= p.Bits() && q.Bits() > bits && q.Contains(p.Addr()) {
			over, bits = &routes[i].Value, q.Bits()
		}
	}
	return over
}

func checkNATPrefixes(n *Network) error {
	var seen []netip.Prefix
	for _, l := range []struct {
		field    string
		prefixes []netip.Prefix
	}{{"NATExceptions", n.NATExceptions}, {"NATDestinations", n.NATDestinations}} {
		for i, p := range l.prefixes {
			switch {
			case !p.IsValid() || p.Addr().Is4In6() || p.Addr().Zone() != "":
				return invalid("%s[%d] %q: not a prefix", l.field, i, p)
			case p != p.Masked():
				return invalid("%s[%d] %q: has bits below its length; %q is meant", l.field, i, p, p.Masked())
			case slices.Contains(seen, p):
				return invalid("%s[%d] %q: listed twice", l.field, i, p)
			}
			seen = append(seen, p)
		}
	}
	return nil
}
