// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"net/netip"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/internal/instance"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// netPart is what one network adds to Desired.
type netPart struct {
	network  vswitch.Network
	segments []vswitch.Network // network and those of other VLANs, where it has segments
	hostPort vswitch.Port
	hostNIC  HostNIC
	resolver Resolver
	services []vswitch.Service // that lead to it
	addrSets []vswitch.AddrSet
	hasHost  bool
}

// endpointPart is what one endpoint adds, its vNIC aside.
type endpointPart struct {
	attached  bool
	port      vswitch.Port
	mappings  []vswitch.PortMapping
	hostPorts []HostPort
	names     []NameRecord
	lease     Lease // without Device: none
	tap       Tap   // without Name: none
}

func compileNetwork(n *Network, inst instance.Instance) netPart {
	p := netPart{network: vswitch.Network{
		ID: n.Number, Zone: n.Zone, Name: n.Doc.Name, HostPort: n.HostPort, Flags: kinds[n.Doc.Type].flags,
	}}
	if p.network.Flags&vswitch.NetL2 != 0 {
		p.network.Uplink = n.Uplink
	}
	p.addrSets = n.addrSets()
	p.hasHost = n.HostPort != 0
	var addrs []netip.Addr
	for _, s := range n.subnets {
		vs := vswitch.Subnet{Prefix: s.pool.Prefix}
		if p.hasHost && s.gateway.IsValid() {
			vs.Gateway = s.gateway
			addrs = append(addrs, s.gateway)
			p.hostNIC.Addrs = append(p.hostNIC.Addrs, netip.PrefixFrom(s.gateway, s.pool.Prefix.Bits()))
		}
		p.network.Subnets = append(p.network.Subnets, vs)
	}
	n.compileOverlay(&p)
	p.network.Asked = n.asked
	if n.hostless() {
		p.network.Flags |= vswitch.NetNoHost
	}
	if n.hasSegments() {
		p.network.WireMAC = vswitch.MAC(n.sourceMAC)
	}
	if n.hasSegments() {
		p.segments = compileSegments(n, p.network)
		p.network = p.segments[slices.IndexFunc(p.segments, func(s vswitch.Network) bool { return s.ID == n.Number })]
	}
	if !p.hasHost {
		return p
	}
	p.network.Flags |= vswitch.NetHostNIC
	if servesDHCP(&n.Doc) {
		p.network.Flags |= vswitch.NetDHCP
	}
	p.hostNIC.Network = n.Doc.Id
	p.hostNIC.Name = inst.HostDevice(uint16(n.Number))
	p.hostNIC.SwitchName = inst.SwitchDevice(uint16(n.Number))
	p.hostNIC.MAC, p.hostNIC.Overhead = vswitch.MAC(n.gatewayMAC()), n.overhead()
	p.hostPort = vswitch.Port{
		ID: n.HostPort, Kind: vswitch.PortHost, Network: n.Number, Object: n.Doc.Id,
		Interface: p.hostNIC.SwitchName, HostNIC: p.hostNIC.Name, MAC: p.hostNIC.MAC, Addrs: addrs, Up: true,
	}
	p.resolver = Resolver{Network: n.Doc.Id, Listen: addrs, Domain: canonicalName(n.Doc.Dns.Domain)}
	for _, s := range n.subnets {
		p.resolver.Clients = append(p.resolver.Clients, s.pool.Prefix)
	}
	p.services, p.resolver.Through = resolverServices(n, addrs)
	for _, s := range n.Doc.Dns.ServerList {
		if a, err := netip.ParseAddr(s); err == nil && !slices.Contains(addrs, a) {
			p.resolver.Upstream = append(p.resolver.Upstream, a)
		}
	}
	return p
}

func compileEndpoint(e *Endpoint, n *Network, ns *Namespace, inst instance.Instance) endpointPart {
	var p endpointPart
	for _, m := range e.mappings {
		if !m.reserved {
			p.hostPorts = append(p.hostPorts, m.hostPort(e.Doc.Id))
		}
	}
	addrs := make([]netip.Addr, len(e.addrs))
	for i, a := range e.addrs {
		addrs[i] = a.Addr()
	}
	if e.IsRemote() && n != nil {
		p.names = names(e, n, addrs)
	}
	inNamespace := ns != nil && ns.hasVNICs()
	if n == nil || !inNamespace && e.VM == nil {
		return p
	}
	p.attached = true
	p.port = vswitch.Port{
		ID: e.Port, Kind: vswitch.PortContainer, Network: n.numberOf(e.vlan), Object: e.Doc.Id,
		Interface: inst.PortDevice(uint16(e.Port)), MAC: vswitch.MAC(e.mac), Addrs: addrs, Up: true,
	}
	onHost := e.VM == nil && ns.isHostOwn()
	switch {
	case e.VM != nil:
		e.plugVM(&p.port, inst)
		p.tap = compileTap(e, n, inst)
	case onHost:
		p.port.Kind = vswitch.PortVM // both ends of the pair are in one namespace, as a tap is
		p.port.Forward = true        // the host answers, and routes, from all its addresses
		p.port.Host = true
	}
	for _, r := range e.ACLs {
		p.port.ACLs = append(p.port.ACLs, r.ID)
	}
	if p.port.EgressBps = e.egress(); p.port.EgressBps != 0 {
		p.port.Shaper, p.port.ShaperPeer = inst.ShaperDevice(uint16(e.Port)), inst.ShaperPeer(uint16(e.Port))
	}
	p.port.NAT, p.port.NATShare, p.port.Uplink = e.natRules(n), e.natShare(n), e.Uplink
	var ways []vswitch.NATRule
	p.port.Proxies, ways = e.proxies(n)
	for _, r := range ways {
		p.port.NAT = append(slices.DeleteFunc(p.port.NAT, func(o vswitch.NATRule) bool { return o.Prefix == r.Prefix }), r)
	}
	s := e.vnicSettings()
	p.port.MTU, p.port.Overhead = s.mtu, s.overhead
	for _, m := range e.mappings {
		p.mappings = append(p.mappings, vswitch.PortMapping{
			Object: e.Doc.Id, Proto: m.proto, HostAddr: m.host, HostPort: m.port,
			Port: e.Port, Addr: m.addr, AddrPort: m.addrPort,
		})
	}
	p.names = names(e, n, addrs)
	if l, ok := compileLease(e, n, p.port.Interface); ok && !onHost {
		p.lease = l
	}
	return p
}

// names of an endpoint on its network: each of its name and aliases alone, within
// the network's name and within its domain. The endpoint's own name comes first,
// which is the one a reverse look-up answers.
func names(e *Endpoint, n *Network, addrs []netip.Addr) []NameRecord {
	var out []NameRecord
	domains := []string{"", canonicalName(n.Doc.Name), canonicalName(n.Doc.Dns.Domain)}
	for _, name := range append([]string{e.Doc.Name}, e.aliases...) {
		name = canonicalName(name)
		if name == "" {
			continue
		}
		for i, d := range domains {
			full := name
			switch {
			case i == 0:
			case d == "" || i == 2 && d == domains[1]:
				continue
			default:
				full += "." + d
			}
			if !slices.ContainsFunc(out, func(r NameRecord) bool { return r.Name == full }) {
				out = append(out, NameRecord{Network: n.Doc.Id, Name: full, Addrs: addrs})
			}
		}
	}
	return out
}

// canonicalName is the lower-case form without final dot, "" for what is no host name.
func canonicalName(s string) string {
	s = strings.TrimSuffix(s, ".")
	if !isHostName(s) {
		return ""
	}
	return strings.ToLower(s)
}

func (w *World) compileNamespace(ns *Namespace) Compartment {
	if !ns.hasVNICs() {
		return Compartment{}
	}
	c := Compartment{ID: ns.Doc.Id, Path: ns.Doc.NetNsPath, Foreign: ns.Foreign}
	if ns.isHostOwn() {
		c.Path, c.Foreign = hostNetNs, true
	}
	yields := slices.ContainsFunc(ns.NICs, func(nic NIC) bool {
		e, ok := w.endpoints.get(nic.Endpoint)
		return ok && e.Doc.Flags&enableLowInterfaceMetric != 0
	})
	var inside []*Endpoint
	for _, nic := range ns.NICs {
		e, ok := w.endpoints.get(nic.Endpoint)
		if !ok || e.VM != nil {
			continue
		}
		inside = append(inside, e)
		n, ok := w.networks.get(e.Doc.HostComputeNetwork)
		if !ok {
			continue
		}
		v := compileVNIC(e, n, nic.Index, yields, w.inst)
		if ns.isHostOwn() { // which keeps its routes and resolvers
			v.Host, v.Name, v.Routes, v.Neighbours = true, w.inst.AttachedDevice(uint16(e.Port)), nil, nil
		}
		if ns.Taken {
			v.Addrs, v.Routes, v.Neighbours = nil, nil, nil
		}
		c.VNICs = append(c.VNICs, v)
	}
	if !ns.isHostOwn() {
		c.Redirects = compileRedirects(inside)
		c.Redirected = ns.Redirected || len(c.Redirects) > 0
	}
	return c
}

// hostNetNs is the namespace that the daemon runs in.
const hostNetNs = "/proc/thread-self/ns/net"

func compileVNIC(e *Endpoint, n *Network, index int, yields bool, inst instance.Instance) VNIC {
	v := VNIC{
		Endpoint: e.Doc.Id, Port: e.Port, PortName: inst.PortDevice(uint16(e.Port)), Name: "eth" + itoa(index),
		MAC: vswitch.MAC(e.mac), Addrs: e.addrs,
	}
	s := e.vnicSettings()
	v.MTU, v.Overhead, v.Alias, v.Uplink = int(s.mtu), int(s.overhead), s.alias, n.Uplink
	if v.MTU == 0 && v.Overhead == 0 {
		v.Overhead = n.overhead()
	}
	has := func(a netip.Addr) bool {
		return slices.ContainsFunc(e.addrs, func(p netip.Prefix) bool { return p.Addr().Is4() == a.Is4() })
	}
	onLink := func(a netip.Addr) bool {
		return slices.ContainsFunc(e.addrs, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	var direct, routers []netip.Addr
	if n.HostPort != 0 || n.isOverlay() {
		routers = n.gateways()
	}
	for _, r := range e.Doc.Routes {
		dst, err := parsePrefix(r.DestinationPrefix)
		if err != nil || !has(dst.Addr()) {
			continue
		}
		route := Route{Dst: dst, Metric: int(r.Metric)}
		if hop, err := netip.ParseAddr(r.NextHop); err == nil && !hop.IsUnspecified() {
			route.NextHop = hop
			if n.isOverlay() && !slices.Contains(routers, hop) {
				// Whichever it is, the switch routes; and nobody else may be there to answer for it.
				routers = append(routers, hop)
			}
			if !onLink(hop) && !slices.Contains(direct, hop) {
				// A router outside the vNIC's prefix (a /32 address): reach it directly.
				direct = append(direct, hop)
				v.Routes = append(v.Routes, Route{Dst: netip.PrefixFrom(hop, hop.BitLen())})
			}
		}
		if r.Metric == 0 && dst.Bits() == 0 {
			route.Metric = defaultMetric(e, index, yields)
		}
		v.Routes = append(v.Routes, route)
	}
	for _, g := range routers {
		if onLink(g) || slices.ContainsFunc(v.Routes, func(r Route) bool { return r.NextHop == g }) {
			v.Neighbours = append(v.Neighbours, Neighbour{Addr: g, MAC: vswitch.MAC(n.gatewayMAC())})
		}
	}
	return v
}

// defaultMetric lets several default routes stand in one namespace: the first
// vNIC's wins (0 is the kernel's own choice, 1024 in IPv6), unless another asks
// for a low metric and all others yield.
func defaultMetric(e *Endpoint, index int, yields bool) int {
	switch {
	case e.Doc.Flags&enableLowInterfaceMetric != 0:
		return 1 + index
	case index == 0 && !yields:
		return 0
	}
	return 1024 + index
}

// Desired is what the hands should make true. Each object was compiled when its row
// was made; networks are walked, the rest comes in parts that are as they were. The slices inside are shared with the
// World and must not be changed.
func (w World) Desired() Desired {
	nn := w.networks.len()
	d := Desired{
		Switch: vswitch.State{
			Networks: make([]vswitch.Network, 0, nn),
			Ports:    make([]vswitch.Port, 0, nn+1),
		},
		HostNICs:  make([]HostNIC, 0, nn),
		Resolvers: make([]Resolver, 0, nn),
	}
	shared := map[vswitch.NetworkID]int{}
	for _, n := range w.networks.all {
		c := &n.compiled
		if n.hasSegments() {
			d.Switch.Networks = addSegments(d.Switch.Networks, shared, c.segments)
		} else {
			network := c.network
			if more := w.farRoutes(n); len(more) > 0 {
				network.Routes = slices.Concat(network.Routes, more)
			}
			d.Switch.Networks = append(d.Switch.Networks, network)
		}
		if c.hasHost {
			port := c.hostPort
			port.Forward = port.Forward || w.hops.has(hostHop(n.Doc.Id))
			d.Switch.Ports = append(d.Switch.Ports, port)
			d.HostNICs = append(d.HostNICs, c.hostNIC)
			if len(c.resolver.Listen) > 0 {
				d.Resolvers = append(d.Resolvers, c.resolver)
				d.Switch.Services = append(d.Switch.Services, c.services...)
			}
		}
	}
	d.Switch.NATPools = w.switchPools()
	far := map[vswitch.AddrSetID]bool{}
	for _, s := range w.aclSets.all {
		d.Switch.ACLs = append(d.Switch.ACLs, s.set)
		if s.far != 0 {
			far[s.far] = true
		}
	}
	i := 0
	for _, n := range w.networks.all {
		d.Switch.AddrSets = append(d.Switch.AddrSets, n.compiled.addrSets...)
		if far[n.SetNumbers[farSet]] {
			d.Switch.AddrSets = append(d.Switch.AddrSets, w.farAddrs(n, d.Switch.Networks[i].Routes))
		}
		i++
	}
	w.addPlugged(&d)
	d.Switch.Remotes = make([]vswitch.Remote, 0, w.far.len())
	for _, r := range w.far.all {
		d.Switch.Remotes = append(d.Switch.Remotes, r)
	}
	w.balancing.into(&d)
	var names []NameRecord
	for _, s := range w.services.all {
		names = append(names, s.compiled.names...)
		d.Switch.Announced = append(d.Switch.Announced, s.compiled.announced...)
	}
	d.Names = append(d.Names, names)
	for _, r := range w.reservations.all {
		d.HostPorts = append(d.HostPorts, r.hostPorts()...)
	}
	w.addTunnels(&d)
	addResolvers(&d, w.inst)
	return d
}
