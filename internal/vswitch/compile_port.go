// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"net/netip"
	"slices"
)

// portMemo is a port as it was compiled last.
type portMemo struct {
	was     Port
	ifindex int // 0 = the device is not there
	nic     int
	shaper  shaperFacts
	net     *netContext
	nat     poolRef
	acls    portACLs
	trunk   trunkFacts
	only    PortID // the uplink it is bound to by itself; 0 = none
	block   *block
	round   uint64        // in which it was looked at
	part    *portPartMemo // that it is in; nil = in Ports
}

// passes reports whether packets can reach the port.
func (m *portMemo) passes() bool {
	return m != nil && m.was.Up && m.ifindex != 0 && m.shaper.ready(&m.was) && m.trunk.passes(&m.was)
}

func (m *portMemo) same(p *Port, ifindex, nic int, shaper shaperFacts, net *netContext, nat poolRef, acls portACLs, trunk trunkFacts, only PortID) bool {
	w := &m.was
	return m.only == only && m.trunk == trunk && w.Trunk == p.Trunk && w.VLAN == p.VLAN && w.TaggedOnly == p.TaggedOnly && m.net == net && m.nat == nat && m.acls == acls && m.shaper == shaper && sameLimits(w, p) && m.ifindex == ifindex && m.nic == nic && w.Kind == p.Kind && w.MAC == p.MAC &&
		w.Up == p.Up && w.Mirror == p.Mirror && w.Interface == p.Interface && w.HostNIC == p.HostNIC && w.Object == p.Object &&
		w.MaxFlows == p.MaxFlows && slices.Equal(w.Addrs, p.Addrs) && slices.Equal(w.ACLs, p.ACLs) && w.Forward == p.Forward && w.Host == p.Host &&
		slices.Equal(w.Routes, p.Routes) && slices.Equal(w.NAT, p.NAT) && slices.Equal(w.Proxies, p.Proxies) && w.MTU == p.MTU && w.Overhead == p.Overhead && slices.Equal(w.MACs, p.MACs) && w.AnyMAC == p.AnyMAC && w.AnyIP == p.AnyIP
}

// placed is a port and where its author finds it.
type placed struct {
	m *portMemo
	i int
}

func (x placed) invalid(err error) error {
	return invalid("Ports[%d] (port %d, %s): %w", x.i, x.m.was.ID, x.m.was.Object, err)
}

func (c *Compiler) compilePorts(s State, f Facts, t *Tables) error {
	// First let go of everything that changed or went, then claim: an address may
	// move from one port to another in one step.
	var changed []placed
	trunks := trunksOf(s, f)
	parts, total := c.keepPorts(s.PortParts, f)
	total += len(s.Ports)
	look := func(i int, p *Port, part *portPartMemo) (*portMemo, error) {
		var net *netContext
		if n := c.nets[p.Network]; n != nil {
			net = n.context
		}
		m := c.ports[p.ID]
		if m == nil {
			m = &portMemo{}
			c.ports[p.ID] = m
		} else if m.met(c.round) {
			return nil, invalid("Ports[%d]: ID %d is also that of another port (%s, %s)", i, p.ID, m.was.Object, p.Object)
		}
		m.round, m.part = c.round, part
		wrong := func(err error) error { return invalid("Ports[%d] (port %d, %s): %w", i, p.ID, p.Object, err) }
		trunk := trunks[p.Trunk]
		ifindex, nic := f.Ifindex[p.Interface], 0
		if p.Trunk != 0 {
			ifindex = trunk.ifindex
		}
		if p.Kind == PortHost {
			nic = f.Ifindex[p.HostNIC]
			if nic == 0 {
				ifindex = 0 // half a pair carries nothing
			}
		}
		shaper, only := shaperOf(p, f), c.onlyOf(p)
		nat, err := c.pools.ref(p.NATPool)
		if err != nil {
			return nil, wrong(err)
		}
		acls, err := c.aclsOf(p)
		if err != nil {
			return nil, wrong(err)
		}
		if m.block != nil && m.same(p, ifindex, nic, shaper, net, nat, acls, trunk, only) {
			return m, nil
		}
		err = checkPort(p, net, ifindex, nic, shaper)
		if err == nil {
			err = checkTrunk(p, trunk, trunks)
		}
		if err != nil {
			return nil, wrong(err)
		}
		c.release(m.block)
		*m = portMemo{was: *p, ifindex: ifindex, nic: nic, shaper: shaper, net: net, nat: nat, acls: acls, trunk: trunk, only: only, round: c.round, part: part}
		if part == nil {
			m.was.Addrs, m.was.ACLs, m.was.Routes = slices.Clone(p.Addrs), slices.Clone(p.ACLs), slices.Clone(p.Routes)
			m.was.MACs, m.was.NAT, m.was.Proxies = slices.Clone(p.MACs), slices.Clone(p.NAT), slices.Clone(p.Proxies)
		}
		changed = append(changed, placed{m, i})
		return m, nil
	}
	for i := range s.Ports {
		if _, err := look(i, &s.Ports[i], nil); err != nil {
			return err
		}
	}
	for k, p := range s.PortParts {
		if p == nil || parts[k] != nil {
			continue
		}
		parts[k] = &portPartMemo{was: p, memos: make([]*portMemo, len(p.Ports))}
		for i := range p.Ports {
			var err error
			if parts[k].memos[i], err = look(i, &p.Ports[i], parts[k]); err != nil {
				return err
			}
		}
	}
	w := setWriter[PortID]{set: &t.ports}
	c.moved = map[PortID]bool{}
	gone := func(m *portMemo) {
		if id := m.was.ID; !m.met(c.round) && c.ports[id] == m {
			c.release(m.block)
			delete(c.ports, id)
			w.put(id, nil)
			c.moved[id] = true
		}
	}
	for k, p := range c.portParts {
		if p != nil && len(c.ports) != total && (k >= len(parts) || parts[k] != p) {
			for _, m := range p.memos {
				gone(m)
			}
		}
	}
	if len(c.ports) != total {
		for _, m := range c.ports {
			gone(m)
		}
	}
	c.portParts = parts
	for _, x := range changed {
		x.m.block = portBlock(x.m)
		if err := c.claim(x.m); err != nil {
			return x.invalid(err)
		}
		w.put(x.m.was.ID, x.m.block)
		c.moved[x.m.was.ID] = true
	}
	if err := c.checkMirrors(s); err != nil {
		return err
	}
	// An uplink is never also a port of ours.
	if len(changed) > 0 || !slices.Equal(t.Uplinks, c.tables.Uplinks) {
		for _, u := range t.Uplinks {
			if id, ok := c.ifindexOwner[uint32(u.Ifindex)]; ok {
				return invalid("Facts.Uplinks %q: ifindex %d is the device of port %d", u.Name, u.Ifindex, id)
			}
		}
	}
	return nil
}

// onlyOf is the port of p's own Uplink. One that is not there is a number of no port.
func (c *Compiler) onlyOf(p *Port) PortID {
	if p.Uplink == "" {
		return 0
	}
	if u, ok := c.uplinks.named[p.Uplink]; ok {
		return u.port
	}
	return MaxPorts
}

func (c *Compiler) release(b *block) {
	if b == nil {
		return
	}
	for _, e := range b.addr {
		delete(c.addrOwner, e.Key)
	}
	for _, e := range b.fdb {
		delete(c.macOwner, e.Key)
	}
	for _, e := range b.wireip {
		delete(c.wireOwner, e.Key)
	}
	for _, e := range b.ifport {
		delete(c.ifindexOwner, e.Key)
	}
	for _, e := range b.segment {
		delete(c.vlanOwner, e.Key)
	}
}

func (c *Compiler) claim(m *portMemo) error {
	for _, e := range m.block.addr {
		if o, ok := c.addrOwner[e.Key]; ok {
			return invalid("Addrs: %s is also held by port %d", ip(e.Key.Addr.B), o)
		}
		c.addrOwner[e.Key] = m.was.ID
	}
	for _, e := range m.block.fdb {
		if o, ok := c.macOwner[e.Key]; ok {
			return invalid("MAC %s: is also that of port %d", MAC(e.Key.Mac), o)
		}
		c.macOwner[e.Key] = m.was.ID
	}
	for _, e := range m.block.wireip {
		if o, ok := c.wireOwner[e.Key]; ok {
			return invalid("Addrs: %s is also held by port %d, on the same uplink", ip(e.Key.Addr.B), o)
		}
		c.wireOwner[e.Key] = m.was.ID
	}
	for _, e := range m.block.segment {
		if o, ok := c.vlanOwner[e.Key]; ok {
			return invalid("VLAN %d: is also that of port %d of trunk %d", e.Key.Vlan, o, e.Key.At)
		}
		c.vlanOwner[e.Key] = m.was.ID
	}
	for _, e := range m.block.ifport {
		if o, ok := c.ifindexOwner[e.Key]; ok {
			return invalid("Interface %q: its ifindex %d is also that of port %d", m.was.Interface, e.Key, o)
		}
		c.ifindexOwner[e.Key] = m.was.ID
	}
	return nil
}

func portBlock(m *portMemo) *block {
	p, x := &m.was, m.net
	b := &block{epochPorts: []PortID{p.ID}, addrNets: []NetworkID{x.id}}
	row := PortRow{
		Ifindex: uint32(m.ifindex), NicIfindex: uint32(m.nic), Net: uint16(x.id), Zone: uint16(x.zone),
		Kind: uint8(p.Kind), Mtu: p.mtu(x), Mac: p.MAC, GwMac: x.mac, Natpool4: m.nat.v4, Natpool6: m.nat.v6, MaxFlows: p.MaxFlows,
		Acl: m.acls.numbers,
	}
	b.stamp = m.acls.members
	if m.passes() {
		row.Flags |= portUp
	}
	if p.Forward {
		row.Flags |= portForward
	}
	row.Only = uint16(m.only)
	if p.Host {
		row.Host = 1
	}
	if p.ownRoutes() {
		row.Flags |= portRoutes
	}
	if len(p.Proxies) > 0 {
		row.Proxied = 1
	}
	b.leftAlone(p)
	if row.Mirror = uint16(p.Mirror); p.Mirror != 0 {
		row.Flags |= portCopy
	}
	m.limits(&row)
	if p.AnyMAC {
		row.Flags |= portAnyMAC
	}
	if p.AnyIP {
		row.Flags |= portAnyIP
	}
	m.trunk.fill(&row, p)
	b.port = []Entry[uint32, PortRow]{{uint32(p.ID), row}}
	if !p.TaggedOnly {
		bridgePort(b, p, x)
	}
	switch {
	case p.Trunk != 0:
		b.segment = []Entry[SegmentKey, uint32]{{SegmentKey{At: uint16(p.Trunk), Vlan: p.VLAN}, uint32(p.ID)}}
	case m.ifindex != 0:
		b.ifport = []Entry[uint32, uint32]{{uint32(m.ifindex), uint32(p.ID)}}
	}
	if m.shaper.far != 0 {
		b.ifport = append(b.ifport, Entry[uint32, uint32]{uint32(m.shaper.far), uint32(p.ID)})
	}
	addrs := p.Addrs
	if p.ID == x.hostPort {
		// The host vNIC holds the gateway addresses whether or not the port lists them.
		addrs = slices.Clone(addrs)
		for _, g := range x.gateways {
			if !slices.Contains(addrs, g) {
				addrs = append(addrs, g)
			}
		}
	}
	if len(addrs) > 0 {
		b.port[0].Value.Vni = x.vni(addrs[0])
	}
	for _, a := range addrs {
		val := AddrRow{Port: uint16(p.ID), Mac: p.MAC, Vni: x.vni(a)}
		if p.ID == x.hostPort && slices.Contains(x.gateways, a) {
			val.Flags |= addrGateway
		}
		b.portip = append(b.portip, Entry[PortIPKey, uint8]{portIPKey(p.ID, a), 1})
		b.addr = append(b.addr, Entry[AddrKey, AddrRow]{addrKey(x.zone, a), val})
	}
	return b
}

// mtu is what the vNIC takes.
func (p *Port) mtu(x *netContext) uint16 {
	switch {
	case p.MTU != 0:
		return p.MTU
	case p.Overhead != 0:
		return min(x.mtu, max(p.least(), x.outer-min(p.Overhead, x.outer)))
	}
	return x.mtu
}

// least is the MTU below which the vNIC would lose its addresses.
func (p *Port) least() uint16 {
	if slices.ContainsFunc(p.Addrs, netip.Addr.Is6) {
		return minMTU6
	}
	return minMTU4
}

func checkPort(p *Port, net *netContext, ifindex, nic int, shaper shaperFacts) error {
	switch {
	case p.ID == UplinkAny || p.ID >= FirstUplinkPort:
		return invalid("ID: must be 1 to %d", FirstUplinkPort-1)
	case p.Kind != PortContainer && p.Kind != PortVM && p.Kind != PortHost:
		return invalid("Kind %d: not a port of a State", p.Kind)
	case net == nil:
		return invalid("Network %d: no such network", p.Network)
	case p.Interface == "" && p.Trunk == 0:
		return invalid("Interface: empty")
	case (p.Kind == PortHost) != (p.HostNIC != ""):
		return invalid("HostNIC %q: is for ports of kind host, which need it", p.HostNIC)
	case p.Kind == PortHost && p.ID != net.hostPort:
		return invalid("Kind host: network %d names port %d as its host port", p.Network, net.hostPort)
	case p.MAC == MAC{} || p.MAC[0]&1 != 0:
		return invalid("MAC %s: not the address of one interface", p.MAC)
	case p.MTU != 0 && p.MTU < p.least():
		return invalid("MTU %d: its addresses need %d", p.MTU, p.least())
	case p.MTU != 0 && p.Overhead != 0:
		return invalid("Overhead %d: is what is taken from the uplinks' MTU, where MTU does not say it", p.Overhead)
	case p.Host && (p.Kind != PortVM || p.Trunk != 0):
		return invalid("Host: is for ports of kind VM with a vNIC of their own")
	case p.Kind == PortHost && len(p.NAT) > 0:
		return invalid("NAT: is for endpoints; the host leaves by itself")
	case p.Kind == PortHost && p.NATPool != 0:
		return invalid("NATPool %d: is for endpoints; the host leaves by itself", p.NATPool)
	case ifindex < 0 || nic < 0:
		return invalid("Facts.Ifindex: negative for %q or %q", p.Interface, p.HostNIC)
	case ifindex != 0 && ifindex == nic:
		return invalid("HostNIC %q: is Interface itself", p.HostNIC)
	}
	if err := checkLimits(p, ifindex, shaper); err != nil {
		return err
	}
	if err := checkMACs(p, net); err != nil {
		return err
	}
	if err := checkProxies(p); err != nil {
		return err
	}
	for i, a := range p.Addrs {
		if err := checkUnicast(a); err != nil {
			return invalid("Addrs[%d]: %w", i, err)
		}
		if slices.Contains(p.Addrs[:i], a) {
			return invalid("Addrs[%d] %q: listed twice", i, a)
		}
		if net.hostPort == 0 && net.subnets != nil && slices.Contains(net.gateways, a) {
			return invalid("Addrs[%d] %q: the gateway of network %d", i, a, p.Network)
		}
	}
	return nil
}
