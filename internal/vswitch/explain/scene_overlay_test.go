// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

const (
	labTunnel vswitch.PortID = 200
	tunnelDev                = "t0"
)

// sceneEnds are the tunnel ends of other hosts; the last is nobody's.
func sceneEnds() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("10.0.0.20"), netip.MustParseAddr("203.0.113.20"), netip.MustParseAddr("fd00:a0::20"),
		netip.MustParseAddr("2001:db8:1::20"), netip.MustParseAddr("10.0.0.66")}
}

// addOverlay extends some networks to other hosts.
func (l *lab) addOverlay(r *rand.Rand, s *scene) {
	s.facts.Ifindex[tunnelDev] = l.index[tunnelDev]
	s.state.Tunnels = []vswitch.Tunnel{{ID: labTunnel, Interface: tunnelDev, UDPPort: pickOf(r, []uint16{0, 0, 12345}), Up: !one(r, 10)}}
	at := scenePort{ifindex: l.index[tunnelDev], device: l.index[tunnelDev], mac: vswitch.MAC{2, 7, 0, 0, 0, 1}, gw: vswitch.MAC{2, 7, 0, 0, 0, 2}}
	for i := range s.state.Networks {
		n := &s.state.Networks[i]
		if one(r, 3) || len(n.Subnets) == 0 {
			continue
		}
		if n.Flags&vswitch.NetL2 != 0 {
			continue
		}
		n.Overlay = vswitch.Overlay{Tunnel: labTunnel, FloodPeers: one(r, 2)}
		if one(r, 3) {
			n.RouterMAC = vswitch.MAC{2, 8, 0, 0, 0, byte(i)}
		}
		for j := range n.Subnets {
			n.Subnets[j].VNI = uint32(5000 + 10*i + j)
		}
		for j := range 6 {
			sub := pickOf(r, n.Subnets)
			a := sub.Prefix.Addr().AsSlice()
			a[len(a)-1] = byte(40 + j)
			to, _ := netip.AddrFromSlice(a)
			s.state.Remotes = append(s.state.Remotes, vswitch.Remote{Network: n.ID, Addr: to, MAC: vswitch.MAC{2, 9, 0, 0, byte(i), byte(j)},
				VTEP: pickOf(r, sceneEnds()[:4])})
			s.addrs, at.addrs = append(s.addrs, to), append(at.addrs, to)
		}
		s.addRoutes(r, n)
	}
	at.addrs = append(at.addrs, netip.MustParseAddr("10.77.0.9"), netip.MustParseAddr("fd00:77::9"))
	s.addrs = append(s.addrs, at.addrs[len(at.addrs)-2:]...)
	s.addrs = append(s.addrs, sceneEnds()...)
	s.ports = append(s.ports, at, at)
}

// addRoutes gives a network ways to prefixes that nobody in it has.
func (s *scene) addRoutes(r *rand.Rand, n *vswitch.Network) {
	for _, p := range []netip.Prefix{netip.MustParsePrefix("10.77.0.0/16"), netip.MustParsePrefix("8.8.0.0/16"), netip.MustParsePrefix("fd00:77::/32"),
		netip.MustParsePrefix("2001:db8::/48")} {
		if rt, ok := s.route(r, n, p); ok {
			n.Routes = append(n.Routes, rt)
		}
	}
}

func (s *scene) route(r *rand.Rand, n *vswitch.Network, p netip.Prefix) (vswitch.Route, bool) {
	rt := vswitch.Route{Prefix: p}
	switch r.IntN(8) {
	case 0:
		rt.To = vswitch.RouteReject
	case 1:
		rt.To = vswitch.RouteUplink
		return rt, n.Flags&vswitch.NetUplink != 0
	case 2:
		rt.To = vswitch.RouteHost
		return rt, n.HostPort != 0 || n.Uplink != ""
	case 3, 4:
		return s.via(r, n, p)
	case 5, 6:
		if n.Tunnel == 0 {
			return rt, false
		}
		rt.To, rt.VTEP, rt.VNI, rt.MAC = vswitch.RouteTunnel, pickOf(r, sceneEnds()[:4]), uint32(6000+10*int(n.ID)+r.IntN(2)), vswitch.MAC{2, 10, 0, 0, 0, byte(n.ID)}
	default:
		return rt, false
	}
	return rt, true
}

// via is a way by somebody who may be in the network.
func (s *scene) via(r *rand.Rand, n *vswitch.Network, p netip.Prefix) (vswitch.Route, bool) {
	rt := vswitch.Route{Prefix: p, To: vswitch.RouteVia}
	for _, sub := range n.Subnets {
		if a := sub.Prefix.Addr().AsSlice(); sub.Prefix.Addr().Is4() == p.Addr().Is4() {
			a[len(a)-1] = pickOf(r, []byte{1, 10, 11, 12, 13, 14, 41, 99})
			rt.Via, _ = netip.AddrFromSlice(a)
			return rt, true
		}
	}
	return rt, false
}

// routers makes some ports routers and gives some routes of their own.
func (s *scene) routers(r *rand.Rand) {
	own := rand.New(rand.NewPCG(uint64(len(s.addrs)), uint64(len(s.state.Ports)))) // the other scenes stay what they were
	for i := range s.state.Ports {
		p := &s.state.Ports[i]
		p.Forward = one(r, 3)
		p.Routes = nil
		n := &s.state.Networks[slices.IndexFunc(s.state.Networks, func(n vswitch.Network) bool { return n.ID == p.Network })]
		if one(r, 4) && p.Kind != vswitch.PortHost {
			if rt, ok := s.route(r, n, netip.MustParsePrefix(pickOf(r, []string{"8.8.8.0/24", "10.77.0.0/24", "2001:db8::/64", "fd00:77::/64"}))); ok {
				p.Routes = []vswitch.Route{rt}
			}
		}
		if n.Flags&(vswitch.NetL2|vswitch.NetSNAT) == vswitch.NetL2 && one(own, 8) && p.Kind != vswitch.PortHost {
			p.Routes = nil
			for _, prefix := range []string{"0.0.0.0/0", "::/0"} { // where most addresses are
				if rt, ok := s.via(own, n, netip.MustParsePrefix(prefix)); ok {
					p.Routes = append(p.Routes, rt)
				}
			}
		}
	}
}

// changeOverlay makes a small change to what is on other hosts.
func (s *scene) changeOverlay(r *rand.Rand, st *vswitch.State) {
	switch r.IntN(4) {
	case 0:
		if len(st.Remotes) > 0 {
			st.Remotes = slices.Clone(st.Remotes)
			st.Remotes[r.IntN(len(st.Remotes))].VTEP = pickOf(r, sceneEnds()[:4])
		}
	case 1:
		if len(st.Remotes) > 0 {
			i := r.IntN(len(st.Remotes))
			st.Remotes = slices.Delete(slices.Clone(st.Remotes), i, i+1)
		}
	case 2:
		n := &st.Networks[r.IntN(len(st.Networks))]
		if len(n.Routes) > 0 {
			was := n.Routes
			n.Routes = was[:len(was)-1]
			if _, err := vswitch.Compile(*st, s.facts); err != nil { // a backend is reached by it
				n.Routes = was
			}
		}
	case 3:
		p := &st.Ports[r.IntN(len(st.Ports))]
		p.Forward = !p.Forward
	}
}

// atTunnel makes some packets what an endpoint would send to be taken for a host.
func (t *traffic) atTunnel(k *pkt.Packet) {
	if len(t.state.Tunnels) == 0 || !one(t.r, 25) {
		return
	}
	for _, end := range sceneEnds() {
		if end.Is4() == k.Src.Is4() && one(t.r, 2) {
			*k = pkt.Packet{Ether: k.Ether, Src: k.Src, Dst: end, TTL: 64, Proto: pkt.UDP, SrcPort: k.SrcPort, DstPort: be(t.rows.Cfg.TunnelBe[0])}
			return
		}
	}
}

// narrower makes some packets at uplinks what routers say of shells that are too big.
func (t *traffic) narrower(at scenePort, k *pkt.Packet) {
	r := t.r
	if !at.uplink || len(t.state.Tunnels) == 0 || len(t.facts.HostAddrs) == 0 || !one(r, 25) {
		return
	}
	host, end := pickOf(r, t.facts.HostAddrs), pickOf(r, sceneEnds())
	if host.Is4() != end.Is4() {
		return
	}
	shell := &pkt.Packet{Ether: pkt.EtherIP, Src: host, Dst: end, TTL: 60, Proto: pkt.UDP, SrcPort: 50000, DstPort: be(t.rows.Cfg.TunnelBe[0]), Data: make([]byte, 8)}
	e := pkt.Packet{Ether: pkt.EtherIP, Src: k.Src, Dst: host, TTL: 64, Proto: pkt.ICMP, Type: 3, Code: pickOf(r, []uint8{4, 4, 4, 1}), MTU: 1300, Inner: shell}
	if host.Is6() {
		shell.Ether, e.Ether, e.Proto, e.Type, e.Code = pkt.EtherIP6, pkt.EtherIP6, pkt.ICMP6, pickOf(r, []uint8{2, 2, 2, 1}), 0
	}
	if e.Src.Is4() != host.Is4() {
		e.Src = end
	}
	*k = e
}

// outer makes up the shell of a tunnelled frame, now and then a wrong one.
func (t *traffic) outer() *Outer {
	r := t.r
	if t.shell != nil && !one(r, 8) {
		return t.shell
	}
	o := &Outer{VNI: uint32(r.IntN(3)), From: pickOf(r, sceneEnds())}
	if one(r, 40) {
		return o
	}
	// One that somebody listens to, mostly.
	var all []vswitch.PeerKey
	for k := range t.rows.Peer {
		if k.Vni != 0 && k.Addr.B != (addr{}) {
			all = append(all, k)
		}
	}
	if len(all) == 0 {
		return o
	}
	slices.SortFunc(all, func(a, b vswitch.PeerKey) int { return slices.Compare(fmt.Append(nil, a), fmt.Append(nil, b)) })
	k := pickOf(r, all)
	o.VNI = k.Vni
	if !one(r, 20) {
		o.From = ip(k.Addr.B)
	}
	return o
}
