// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"cmp"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
)

// vtepKey is a tunnel end of another host, as one of our tunnels sees it.
type vtepKey struct {
	tunnel PortID
	addr   netip.Addr
}

func (k vtepKey) compare(o vtepKey) int {
	return cmp.Or(cmp.Compare(k.tunnel, o.tunnel), k.addr.Compare(o.addr))
}

func (k vtepKey) hash() uint64 {
	h := fnv.New64a()
	a := k.addr.As16()
	h.Write(append(a[:], byte(k.tunnel>>8), byte(k.tunnel)))
	return h.Sum64()
}

// overlayMemo is what follows from remotes, routes and tunnels together. All is
// made anew when one of them changes; blocks that come out equal stay.
type overlayMemo struct {
	was    overlayInput
	number map[vtepKey]uint16        // index in the vtep map
	hops   map[hop]uint32            // index in the nh map
	peers  map[NetworkID][]vtepKey   // tunnel ends of a network, sorted
	tunnel map[PortID]*Tunnel        // of was
	again  bool                      // this State's input differs
	ports  map[AddrKey]PortID        // addresses of ports when last compared with remotes
	nets   map[NetworkID]*netContext // likewise, of overlays
}

type overlayInput struct {
	tunnels  []Tunnel
	ifindex  []int
	remotes  []Remote
	networks []Network // with a tunnel, routes, or such ports
	ports    []Port    // with routes or NAT rules
	uplinks  uint16
	nat      []natRange
	pools    map[NATPoolID]poolRef
	direct   bool // some service is answered by its backends' hosts
}

func (a *overlayInput) equal(b *overlayInput) bool {
	return slices.Equal(a.tunnels, b.tunnels) && slices.Equal(a.ifindex, b.ifindex) && slices.Equal(a.remotes, b.remotes) &&
		slices.EqualFunc(a.networks, b.networks, func(x, y Network) bool { return equalNetwork(&x, &y) }) &&
		slices.EqualFunc(a.ports, b.ports, func(x, y Port) bool {
			return x.ID == y.ID && x.Network == y.Network && slices.Equal(x.Routes, y.Routes) && slices.Equal(x.NAT, y.NAT)
		}) && a.uplinks == b.uplinks && slices.Equal(a.nat, b.nat) && maps.Equal(a.pools, b.pools) && a.direct == b.direct
}

// tunnelPorts are the UDP ports in wire order, as cfg holds them.
func tunnelPorts(ts []Tunnel) (udp [MaxTunnels]uint16) {
	for i := range ts[:min(len(ts), MaxTunnels)] {
		udp[i] = be16(ts[i].udp())
	}
	return udp
}

// overhead is what tunnels take from the MTU of a network's endpoints.
func (m *overlayMemo) overhead(n *Network) uint16 {
	if n.Tunnel == 0 {
		return 0
	}
	most := VXLANOverhead(netip.IPv4Unspecified())
	for _, k := range m.peers[n.ID] {
		most = max(most, VXLANOverhead(k.addr))
	}
	return most
}

// room is what a tunnel leaves of an MTU; never less than IPv4 demands.
func room(mtu, overhead uint16) uint16 {
	return max(mtu, overhead+minMTU4) - overhead
}

// floods are the members of a network's flood list that are tunnel ends.
func (m *overlayMemo) floods(n *Network) (members []uint32) {
	if n.Tunnel != 0 && n.FloodPeers {
		for _, k := range m.peers[n.ID] {
			members = append(members, uint32(m.number[k])<<16|uint32(n.Tunnel))
		}
	}
	return members
}

// compileVTEPs numbers the tunnel ends, which networks and routes then name.
func (c *Compiler) compileVTEPs(s State, f Facts, _ *Tables) error {
	m := &c.overlay
	in := overlayInput{tunnels: s.Tunnels, remotes: s.Remotes, uplinks: c.uplinks.mtu, nat: c.pools.nat, pools: c.pools.refs}
	in.direct = s.direct()
	for i := range s.Tunnels {
		in.ifindex = append(in.ifindex, f.Ifindex[s.Tunnels[i].Interface])
	}
	routed := map[NetworkID]bool{}
	for _, p := range s.special() {
		if p.ownRoutes() {
			in.ports = append(in.ports, *p)
			routed[p.Network] = true
		}
	}
	for i := range s.Networks {
		if n := &s.Networks[i]; n.Tunnel != 0 || len(n.Routes) > 0 || routed[n.ID] {
			in.networks = append(in.networks, *n)
		}
	}
	m.again = m.number == nil || !m.was.equal(&in)
	if !m.again {
		return nil
	}
	in.tunnels, in.remotes, in.ports = slices.Clone(in.tunnels), slices.Clone(in.remotes), slices.Clone(in.ports)
	for i := range in.networks {
		n := &in.networks[i]
		n.Subnets, n.Routes = slices.Clone(n.Subnets), slices.Clone(n.Routes)
	}
	for i := range in.ports {
		in.ports[i].Routes, in.ports[i].NAT = slices.Clone(in.ports[i].Routes), slices.Clone(in.ports[i].NAT)
	}
	m.was = in
	if err := m.numberVTEPs(); err != nil {
		return err
	}
	return m.numberHops()
}

func (m *overlayMemo) numberVTEPs() error {
	m.tunnel = map[PortID]*Tunnel{}
	udp := map[uint16]PortID{}
	for i := range m.was.tunnels {
		tu := &m.was.tunnels[i]
		if err := m.checkTunnel(tu, udp); err != nil {
			return invalid("Tunnels[%d]: %w", i, err)
		}
		m.tunnel[tu.ID], udp[tu.udp()] = tu, tu.ID
	}
	if len(m.was.tunnels) > MaxTunnels {
		return invalid("Tunnels: %d, over %d", len(m.was.tunnels), MaxTunnels)
	}
	sets := map[NetworkID]map[vtepKey]bool{}
	nets := map[NetworkID]*Network{}
	for i := range m.was.networks {
		n := &m.was.networks[i]
		nets[n.ID] = n
		if n.Tunnel == 0 {
			continue
		}
		if m.tunnel[n.Tunnel] == nil {
			return invalid("Network %d (%q): Tunnel %d: no such tunnel", n.ID, n.Name, n.Tunnel)
		}
		sets[n.ID] = map[vtepKey]bool{}
	}
	for i := range m.was.remotes {
		r := &m.was.remotes[i]
		n := nets[r.Network]
		if err := checkRemote(r, n); err != nil {
			return invalid("Remotes[%d] (network %d, %s): %w", i, r.Network, r.Addr, err)
		}
		sets[n.ID][vtepKey{n.Tunnel, r.VTEP}] = true
	}
	routes := func(n *Network, routes []Route) {
		for i := range routes {
			if r := &routes[i]; n != nil && n.Tunnel != 0 && r.To == RouteTunnel && r.VTEP.IsValid() {
				sets[n.ID][vtepKey{n.Tunnel, r.VTEP}] = true
			}
		}
	}
	for _, n := range nets {
		routes(n, n.Routes)
	}
	for i := range m.was.ports {
		routes(nets[m.was.ports[i].Network], m.was.ports[i].Routes)
	}
	m.peers = map[NetworkID][]vtepKey{}
	all := map[vtepKey]bool{}
	for id, set := range sets {
		m.peers[id] = slices.SortedFunc(maps.Keys(set), vtepKey.compare)
		maps.Copy(all, set)
	}
	if len(all) > MaxVTEPs {
		return invalid("Remotes, Routes: %d tunnel ends of other hosts, over %d", len(all), MaxVTEPs)
	}
	keys := slices.SortedFunc(maps.Keys(all), vtepKey.compare)
	m.number = make(map[vtepKey]uint16, len(keys))
	for i, id := range numbers(keys, vtepKey.compare, vtepKey.hash, MaxVTEPs) {
		m.number[keys[i]] = uint16(id)
	}
	return nil
}

func (m *overlayMemo) checkTunnel(tu *Tunnel, udp map[uint16]PortID) error {
	switch {
	case tu.ID == UplinkAny || tu.ID >= FirstUplinkPort:
		return invalid("ID %d: must be 1 to %d", tu.ID, FirstUplinkPort-1)
	case m.tunnel[tu.ID] != nil:
		return invalid("ID %d: also that of another tunnel", tu.ID)
	case tu.Interface == "":
		return invalid("Interface: empty")
	case udp[tu.udp()] != 0:
		return invalid("UDPPort %d: also that of tunnel %d; one device has all networks of a UDP port", tu.udp(), udp[tu.udp()])
	}
	for i, a := range tu.Sources {
		if !a.IsValid() {
			continue
		}
		if err := checkUnicast(a); err != nil {
			return invalid("Sources[%d] %w", i, err)
		}
		if i > 0 && tu.Sources[0].IsValid() && tu.Sources[0].Is4() == a.Is4() {
			return invalid("Sources[%d] %q: of the family of Sources[0]", i, a)
		}
	}
	return nil
}

func checkRemote(r *Remote, n *Network) error {
	switch {
	case n == nil || n.Tunnel == 0:
		return invalid("Network %d: no such network with a Tunnel", r.Network)
	case r.MAC == MAC{} || r.MAC[0]&1 != 0:
		return invalid("MAC %s: not the address of one interface", r.MAC)
	case slices.ContainsFunc(n.Subnets, func(s Subnet) bool { return s.Gateway == r.Addr }):
		return invalid("Addr: the gateway, which every host has itself")
	}
	if err := checkUnicast(r.Addr); err != nil {
		return invalid("Addr %w", err)
	}
	if err := checkUnicast(r.VTEP); err != nil {
		return invalid("VTEP %w", err)
	}
	if !inSubnets(n, r.Addr) {
		return invalid("Addr %q: in no subnet of the network", r.Addr)
	}
	return nil
}

// checkOverlay is checkNetwork's part for overlays.
func checkOverlay(n *Network) error {
	for i, sub := range n.Subnets {
		switch {
		case n.Tunnel == 0 && sub.VNI != 0:
			return invalid("Subnets[%d].VNI %d: the network has no Tunnel", i, sub.VNI)
		case n.Tunnel != 0:
			if err := checkVNI(sub.VNI); err != nil {
				return invalid("Subnets[%d].%w", i, err)
			}
		}
	}
	switch {
	case n.RouterMAC[0]&1 != 0:
		return invalid("RouterMAC %s: not the address of one interface", n.RouterMAC)
	case n.Tunnel == 0 && (n.FloodPeers || n.RouterMAC != MAC{}):
		return invalid("FloodPeers, RouterMAC: the network has no Tunnel")
	}
	return nil
}

// compileOverlay makes the rows of tunnels, tunnel ends, routes and remotes.
func (c *Compiler) compileOverlay(_ State, _ Facts, t *Tables) error {
	m := &c.overlay
	nets := map[NetworkID]*netContext{}
	for i := range m.was.networks {
		nets[m.was.networks[i].ID] = c.nets[m.was.networks[i].ID].context
	}
	if err := c.checkTunnels(t); err != nil {
		return err
	}
	if !m.again && maps.Equal(nets, m.nets) && (len(m.was.remotes) == 0 || maps.Equal(c.addrOwner, m.ports)) {
		return nil
	}
	m.nets = nets
	if len(m.was.remotes) > 0 {
		m.ports = maps.Clone(c.addrOwner)
	}
	for i := range m.was.ports {
		p := &m.was.ports[i]
		if err := checkRoutes(p.Routes, &c.nets[p.Network].was); err != nil {
			return invalid("Port %d: %w", p.ID, err)
		}
	}
	if err := c.compileTunnels(t); err != nil {
		return err
	}
	overlays, err := c.overlayBlocks()
	if err != nil {
		return err
	}
	ways := map[PortID]*block{}
	for i := range m.was.ports {
		p := &m.was.ports[i]
		routes, err := m.portRoutes(&c.nets[p.Network].was, p, &c.pools)
		if err != nil {
			return invalid("Port %d (%s): %w", p.ID, p.Object, err)
		}
		ways[p.ID] = &block{epochPorts: []PortID{p.ID}, rows: rows{route: routes}}
	}
	remotes := map[AddrKey]*block{}
	for i := range m.was.remotes {
		r := &m.was.remotes[i]
		x := nets[r.Network]
		k := addrKey(x.zone, r.Addr)
		if o, ok := c.addrOwner[k]; ok {
			return invalid("Remotes[%d] (network %d, %s): is also held by port %d", i, r.Network, r.Addr, o)
		}
		if remotes[k] != nil {
			return invalid("Remotes[%d] (network %d, %s): listed twice", i, r.Network, r.Addr)
		}
		tunnel := c.nets[r.Network].was.Tunnel
		remotes[k] = &block{addrNets: []NetworkID{r.Network}, rows: rows{addr: []Entry[AddrKey, AddrRow]{{k, AddrRow{
			Port: uint16(tunnel), Mac: r.MAC, Vtep: m.number[vtepKey{tunnel, r.VTEP}], Vni: x.vni(r.Addr),
		}}}}}
	}
	t.overlays, t.ways, t.remotes = keep(t.overlays, overlays), keep(t.ways, ways), keep(t.remotes, remotes)
	return nil
}

// keep returns is with the blocks of was that are equal.
func keep[K comparable](was, is map[K]*block) map[K]*block {
	for k, b := range is {
		if old := was[k]; old != nil && old.equal(&b.rows) {
			is[k] = old
		}
	}
	return is
}

// checkTunnels holds tunnels against ports and uplinks, which may be new where
// the tunnels are not.
func (c *Compiler) checkTunnels(t *Tables) error {
	for i := range c.overlay.was.tunnels {
		tu, ifindex := &c.overlay.was.tunnels[i], c.overlay.was.ifindex[i]
		if c.ports[tu.ID] != nil {
			return invalid("Tunnels[%d]: ID %d is also that of a port", i, tu.ID)
		}
		if o, ours := c.ifindexOwner[uint32(ifindex)]; ifindex != 0 && ours {
			return invalid("Tunnels[%d]: Interface %q is the device of port %d", i, tu.Interface, o)
		}
		for _, u := range t.Uplinks {
			if ifindex != 0 && u.Ifindex == ifindex {
				return invalid("Tunnels[%d]: Interface %q is the uplink %s", i, tu.Interface, u.Name)
			}
		}
	}
	return nil
}

func (c *Compiler) compileTunnels(t *Tables) error {
	m := &c.overlay
	tunnels := map[PortID]*block{}
	taken := map[int]bool{}
	for i := range m.was.tunnels {
		tu, ifindex := &m.was.tunnels[i], m.was.ifindex[i]
		b := &block{global: true, epochPorts: []PortID{tu.ID}}
		row := PortRow{Ifindex: uint32(ifindex), Kind: uint8(PortTunnel)}
		if ifindex != 0 {
			if ifindex < 0 || taken[ifindex] {
				return invalid("Tunnels[%d]: Interface %q: ifindex %d is negative or another tunnel's", i, tu.Interface, ifindex)
			}
			taken[ifindex] = true
			b.ifport = []Entry[uint32, uint32]{{uint32(ifindex), uint32(tu.ID)}}
			if tu.Up {
				row.Flags |= portUp
			}
		}
		b.port = []Entry[uint32, PortRow]{{uint32(tu.ID), row}}
		// What comes to the host there is the tunnel's.
		b.busy = append(busyRows(c.pools.nat, netip.IPv4Unspecified(), tu.udp(), protoUDP),
			busyRows(c.pools.nat, netip.IPv6Unspecified(), tu.udp(), protoUDP)...)
		tunnels[tu.ID] = b
	}
	ends := &block{global: true}
	keys := slices.SortedFunc(maps.Keys(m.number), vtepKey.compare)
	for i, k := range keys {
		tu := m.tunnel[k.tunnel]
		row := VTEPRow{Mtu: room(c.uplinks.mtu, VXLANOverhead(k.addr))}
		row.Addr.B, row.Local.B = k.addr.As16(), tu.source(k.addr).As16()
		ends.vtep = append(ends.vtep, Entry[uint32, VTEPRow]{uint32(m.number[k]), row})
		guard := PeerKey{PortBe: be16(tu.udp())}
		guard.Addr.B = k.addr.As16()
		ends.peer = append(ends.peer, Entry[PeerKey, PeerRow]{guard, PeerRow{Vtep: m.number[k], Port: uint16(k.tunnel)}})
		if m.was.direct {
			relay := PeerKey{Vni: ServiceVNI, Port: uint16(k.tunnel)}
			if i == 0 || keys[i-1].tunnel != k.tunnel {
				ends.peer = append(ends.peer, Entry[PeerKey, PeerRow]{relay, PeerRow{}})
			}
			relay.Addr = guard.Addr
			ends.peer = append(ends.peer, Entry[PeerKey, PeerRow]{relay, PeerRow{Vtep: m.number[k]}})
		}
	}
	if len(ends.vtep) == 0 {
		ends = nil
	}
	if t.vteps == nil || ends == nil || !t.vteps.equal(&ends.rows) {
		t.vteps = ends
	}
	t.tunnels = keep(t.tunnels, tunnels)
	return nil
}

// overlayBlocks are next hops, and whose VNIs are listened to.
func (c *Compiler) overlayBlocks() (map[NetworkID]*block, error) {
	m := &c.overlay
	blocks := map[NetworkID]*block{}
	at := func(id NetworkID) *block {
		if blocks[id] == nil {
			blocks[id] = &block{epochNets: []NetworkID{id}, addrNets: []NetworkID{id}}
		}
		return blocks[id]
	}
	for _, h := range slices.SortedFunc(maps.Keys(m.hops), hop.compare) {
		b := at(h.net)
		b.nh = append(b.nh, Entry[uint32, NextHopRow]{m.hops[h], h.row})
	}
	vnis := map[PeerKey]NetworkID{}
	for i := range m.was.networks {
		if n := &m.was.networks[i]; n.Tunnel != 0 {
			if err := m.listen(at(n.ID), n, c.nets[n.ID].context, vnis); err != nil {
				return nil, err
			}
		}
	}
	return blocks, nil
}

// listen makes the rows of whom a network's VNIs are taken from, and those of
// gateways that no host port answers for.
func (m *overlayMemo) listen(b *block, n *Network, x *netContext, vnis map[PeerKey]NetworkID) error {
	set := map[uint32]bool{}
	for _, sub := range n.Subnets {
		set[sub.VNI] = true
		if n.HostPort == 0 && sub.Gateway.IsValid() {
			b.addr = append(b.addr, Entry[AddrKey, AddrRow]{addrKey(n.Zone, sub.Gateway), AddrRow{Flags: addrGateway, Mac: x.mac, Vni: sub.VNI}})
		}
	}
	for i := range n.Routes {
		if n.Routes[i].To == RouteTunnel {
			set[n.Routes[i].VNI] = true
		}
	}
	row := PeerRow{Net: uint16(n.ID), Zone: uint16(n.Zone)}
	for _, vni := range slices.Sorted(maps.Keys(set)) {
		k := PeerKey{Vni: vni, Port: uint16(n.Tunnel)}
		if o, ok := vnis[k]; ok {
			return invalid("Network %d (%q): VNI %d is also that of network %d on tunnel %d", n.ID, n.Name, vni, o, n.Tunnel)
		}
		vnis[k] = n.ID
		b.peer = append(b.peer, Entry[PeerKey, PeerRow]{k, row})
		for _, p := range m.peers[n.ID] {
			k.Addr.B, row.Vtep = p.addr.As16(), m.number[p]
			b.peer = append(b.peer, Entry[PeerKey, PeerRow]{k, row})
		}
		row.Vtep = 0
	}
	return nil
}

// checkTunnelPorts refuses services that outside would be asked for on the port
// of a tunnel: what comes there is the tunnel's.
func (c *Compiler) checkTunnelPorts() error {
	for i := range c.overlay.was.tunnels {
		tu := &c.overlay.was.tunnels[i]
		vips := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
		for _, r := range c.pools.nat {
			vips = append(vips, r.addr)
		}
		for _, vip := range vips {
			f := Frontend{Addr: vip, Port: tu.udp(), Proto: protoUDP}
			k := svcKey(f, zoneHost)
			if id, ok := c.services.owner[k]; ok && c.services.outside(id, k) {
				return invalid("Tunnels[%d]: udp %d on %s is that of %s; one of them needs another port", i, f.Port, vip, c.services.name(id))
			}
		}
	}
	return nil
}
