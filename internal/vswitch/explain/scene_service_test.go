// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

func sceneVIPs() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("10.96.0.2"), netip.MustParseAddr("fd00:96::1"), netip.MustParseAddr("fd00:96::2"),
		netip.MustParseAddr("192.168.100.99"), netip.MustParseAddr("fd00:100::99")} // the last are inside subnets
}

// serve adds random services.
func (s *scene) serve(r *rand.Rand) {
	s.addrs = append(s.addrs, append(sceneVIPs(), sceneVIPs()...)...)
	s.state.Announced = nil
	for _, a := range append(sceneVIPs(), s.facts.HostAddrs...) {
		if one(r, 2) {
			n := vswitch.Announcement{Addr: a}
			if one(r, 4) {
				n.Uplink = pickOf(r, s.facts.Uplinks).Name
			}
			s.state.Announced = append(s.state.Announced, n)
		}
	}
	for range r.IntN(8) {
		x := vswitch.Service{ID: vswitch.ServiceID(len(s.state.Services) + 1), Affinity: pickOf(r, []uint32{0, 0, 10, 1000})}
		x.Flags = pickOf(r, []vswitch.ServiceFlags{0, 0, vswitch.ServiceDrop, vswitch.ServiceLocal, vswitch.ServiceLocalInside, vswitch.ServiceConsistent,
			vswitch.ServiceConsistent | vswitch.ServiceDSR, vswitch.ServiceDSR | vswitch.ServiceConsistent | vswitch.ServiceDrop, vswitch.ServicePreserve, vswitch.ServicePreserve | vswitch.ServiceConsistent})
		is4 := !one(r, 3)
		for range 1 + r.IntN(3) {
			f := vswitch.Frontend{Port: pickOf(r, scenePorts()), Proto: pickOf(r, []uint8{6, 6, 6, 17, 17, 132}), Scope: vswitch.Scope(1 + r.IntN(7))}
			switch r.IntN(8) {
			case 0:
				f.Addr = netip.IPv4Unspecified()
				if !is4 {
					f.Addr = netip.IPv6Unspecified()
				}
			case 1:
				for _, h := range s.facts.HostAddrs {
					if h.Is4() == is4 {
						f.Addr = h
					}
				}
			case 2:
				f.Network, f.Scope = pickOf(r, s.state.Networks).ID, 0
			}
			for !f.Addr.IsValid() || f.Addr.Is4() != is4 {
				f.Addr = pickOf(r, sceneVIPs())
			}
			x.Frontends = append(x.Frontends, f)
		}
		for range r.IntN(5) {
			x.Backends = append(x.Backends, s.backend(r, is4))
		}
		s.sourceVIP(r, &x)
		s.preserve(&x)
		s.keep(x, len(s.state.Services))
	}
	s.serveElsewhere(r)
	s.proxies(r)
}

// proxies redirects what some endpoints send.
func (s *scene) proxies(r *rand.Rand) {
	for i := range s.state.Ports {
		p := &s.state.Ports[i]
		if p.Proxies = nil; p.Kind == vswitch.PortHost || p.TaggedOnly || !one(r, 5) {
			continue
		}
		for _, prefix := range []string{"0.0.0.0/0", "::/0", "8.8.0.0/16", "203.0.113.0/24", "10.0.0.0/8", "192.168.0.0/16", "2001:db8:1::/48", "fd00::/8"} {
			q := netip.MustParsePrefix(prefix)
			for _, proto := range []uint8{6, 17} {
				x := vswitch.Proxy{Proto: proto, Prefix: q}
				if one(r, 3) {
					continue
				}
				for range 4 {
					if b := s.backend(r, q.Addr().Is4()); b.Addr.IsValid() && !one(r, 4) {
						x.To, x.SNAT = netip.AddrPortFrom(b.Addr, b.Port), one(r, 2)
					}
				}
				p.Proxies = append(p.Proxies, x)
			}
		}
	}
}

// preserve leaves a service with ServicePreserve what it can have.
func (s *scene) preserve(x *vswitch.Service) {
	if x.Flags&vswitch.ServicePreserve == 0 {
		return
	}
	x.Backends = slices.DeleteFunc(x.Backends, func(b vswitch.Backend) bool { return b.At == 0 })
	for i := range x.Frontends {
		if f := &x.Frontends[i]; f.Network == 0 {
			f.Scope = f.Scope&^vswitch.ScopeHost | vswitch.ScopeNetworks
		}
	}
}

// serveElsewhere adds a service whose backends are all in an overlay.
func (s *scene) serveElsewhere(r *rand.Rand) {
	x := vswitch.Service{ID: vswitch.ServiceID(len(s.state.Services) + 1), Flags: pickOf(r, []vswitch.ServiceFlags{0, 0, vswitch.ServiceConsistent | vswitch.ServiceDSR})}
	vip := pickOf(r, sceneVIPs())
	for range 3 {
		b := vswitch.Backend{Port: pickOf(r, scenePorts())}
		if s.remote(r, &b, vip.Is4()); b.Addr.IsValid() {
			x.Backends = append(x.Backends, b)
		}
	}
	if len(x.Backends) == 0 {
		return
	}
	for range 4 {
		if b := s.backend(r, vip.Is4()); b.At != 0 && b.State == vswitch.BackendActive && !one(r, 3) {
			x.Backends = append(x.Backends, b)
			break
		}
	}
	x.Frontends = []vswitch.Frontend{{Addr: vip, Port: 9091, Proto: 6, Scope: vswitch.ScopeAll}, {Addr: vip, Port: 9091, Proto: 17, Scope: vswitch.ScopeAll}}
	s.sourceVIP(r, &x)
	s.keep(x, len(s.state.Services))
}

// backend is one of an endpoint, or of somewhere else.
func (s *scene) backend(r *rand.Rand, is4 bool) vswitch.Backend {
	b := vswitch.Backend{Port: pickOf(r, scenePorts()), Weight: uint16(r.IntN(3))}
	if one(r, 5) {
		b.State = vswitch.BackendDraining
	}
	if p := pickOf(r, s.state.Ports); !one(r, 3) && p.Kind != vswitch.PortHost {
		for _, a := range p.Addrs {
			if a.Is4() == is4 {
				b.Addr, b.At = a, p.ID
			}
		}
		if b.At != 0 && one(r, 8) {
			b.At = 0 // found by its address
		}
	}
	if b.At == 0 && one(r, 3) {
		s.remote(r, &b, is4)
	}
	elsewhere := []string{"10.0.0.9", "203.0.113.9", "203.0.114.9", "198.51.100.9", "8.8.8.8", "192.168.100.99", "10.0.0.4",
		"fd00:a0::9", "2001:db8:1::8", "2001:db8::8", "2001:db8:2::8"}
	for !b.Addr.IsValid() || b.Addr.Is4() != is4 {
		b.Addr = netip.MustParseAddr(pickOf(r, elsewhere))
	}
	return b
}

// remote makes b one of an overlay.
func (s *scene) remote(r *rand.Rand, b *vswitch.Backend, is4 bool) {
	if len(s.state.Remotes) == 0 {
		return
	}
	x := pickOf(r, s.state.Remotes)
	if b.Addr.IsValid() || x.Addr.Is4() != is4 {
		return
	}
	b.Addr, b.Network = x.Addr, x.Network
	if one(r, 6) { // by a route, or on no way at all
		b.Addr = netip.MustParseAddr("10.77.0.9")
		if !is4 {
			b.Addr = netip.MustParseAddr("fd00:77::9")
		}
	}
}

// sourceVIP gives x the address that backends in an overlay answer to.
func (s *scene) sourceVIP(r *rand.Rand, x *vswitch.Service) {
	for _, b := range x.Backends {
		if b.Network == 0 {
			continue
		}
		for _, sub := range s.state.Networks[slices.IndexFunc(s.state.Networks, func(n vswitch.Network) bool { return n.ID == b.Network })].Subnets {
			if a := sub.Prefix.Addr().AsSlice(); sub.Prefix.Addr().Is4() == b.Addr.Is4() {
				a[len(a)-1] = 250
				x.SourceVIP, _ = netip.AddrFromSlice(a)
				s.addrs = append(s.addrs, x.SourceVIP)
			}
		}
	}
}

// keep puts x at place i, if Compile takes it.
func (s *scene) keep(x vswitch.Service, i int) {
	for _, f := range x.Frontends {
		if f.Proto == 132 {
			for j := range x.Backends {
				x.Backends[j].Port = f.Port
			}
		}
	}
	with := s.state
	with.Services = slices.Clone(s.state.Services)
	if i < len(with.Services) {
		with.Services[i] = x
	} else {
		with.Services = append(with.Services, x)
	}
	if _, err := vswitch.Compile(with, s.facts); err == nil {
		s.state.Services = with.Services
	}
}

func (s *scene) changeService(r *rand.Rand) {
	if len(s.state.Services) == 0 {
		s.serve(r)
		return
	}
	i := r.IntN(len(s.state.Services))
	x := s.state.Services[i]
	x.Backends = slices.Clone(x.Backends)
	switch r.IntN(5) {
	case 0:
		x.Backends = append(x.Backends, s.backend(r, x.Frontends[0].Addr.Is4()))
	case 1, 2: // of all services
		for i, x := range s.state.Services {
			x.Backends = slices.Clone(x.Backends)
			for j := range x.Backends {
				if one(r, 2) {
					x.Backends[j].State ^= vswitch.BackendDraining
				}
			}
			s.keep(x, i)
		}
		return
	case 3:
		if len(x.Backends) > 0 {
			j := r.IntN(len(x.Backends))
			x.Backends = slices.Delete(x.Backends, j, j+1)
		}
	case 4:
		if one(r, 3) {
			s.state.Services = slices.Delete(slices.Clone(s.state.Services), i, i+1)
			return
		}
		x.Affinity ^= 10
	}
	s.keep(x, i)
}

// askService turns k into a packet to a service of its family, if there is one.
func (t *traffic) askService(at scenePort, k *pkt.Packet) {
	r := t.r
	x := pickOf(r, t.state.Services)
	if at.uplink && one(r, 2) {
		x = t.state.Services[len(t.state.Services)-1] // of backends elsewhere, mostly
	}
	f := pickOf(r, x.Frontends)
	if f.Addr.IsUnspecified() && len(t.facts.HostAddrs) > 0 {
		f.Addr = pickOf(r, t.facts.HostAddrs)
	}
	if f.Addr.Is4() != k.Src.Is4() {
		return
	}
	*k = pkt.Packet{Ether: k.Ether, Src: k.Src, Dst: f.Addr, Proto: f.Proto, DstPort: f.Port, SrcPort: uint16(40000 + r.IntN(3)), TTL: 64}
	if f.Proto == pkt.TCP {
		k.Flags = pickOf(r, []uint8{pkt.SYN, pkt.SYN, pkt.ACK})
	}
	if t.asked = append(t.asked, sentPacket{port: at, p: k}); len(t.asked) > 8 {
		t.asked = t.asked[1:]
	}
}

// relay is what another host sends on for a service that is answered directly;
// false where there is none.
func (t *traffic) relay() (scenePort, []byte, bool) {
	r := t.r
	at := slices.IndexFunc(t.ports, func(p scenePort) bool { return p.device == t.facts.Ifindex[tunnelDev] })
	i := slices.IndexFunc(t.state.Services, func(x vswitch.Service) bool { return x.Flags&vswitch.ServiceDSR != 0 })
	if at < 0 || i < 0 {
		return scenePort{}, nil, false
	}
	f := pickOf(r, t.state.Services[i].Frontends)
	k := &pkt.Packet{Ether: pkt.EtherIP, Src: netip.MustParseAddr("203.0.113.9"), Dst: f.Addr, Proto: f.Proto, SrcPort: uint16(40000 + r.IntN(2)), DstPort: f.Port, TTL: 64}
	if f.Addr.Is6() {
		k.Ether, k.Src = pkt.EtherIP6, netip.MustParseAddr("2001:db8:1::9")
	}
	if one(r, 4) {
		k.Src = pickOf(r, t.addrs)
	}
	if k.Src.Is4() != k.Dst.Is4() {
		return scenePort{}, nil, false
	}
	if f.Proto == pkt.TCP {
		k.Flags = pickOf(r, []uint8{pkt.SYN, pkt.ACK, pkt.ACK})
	}
	t.shell = &Outer{VNI: vswitch.ServiceVNI, From: pickOf(r, sceneEnds()[:4])}
	return t.ports[at], t.frame(t.ports[at], k), true
}

// askAgain is another packet of a client to its service.
func (t *traffic) askAgain(s sentPacket) (scenePort, []byte) {
	k := *s.p
	k.SrcPort = uint16(40000 + t.r.IntN(3))
	return s.port, t.frame(s.port, &k)
}

// askNeighbour is a question at an uplink for an address that may be announced.
func (t *traffic) askNeighbour(at scenePort) []byte {
	r := t.r
	a := pickOf(r, sceneVIPs())
	k := &pkt.Packet{To: pkt.MAC{255, 255, 255, 255, 255, 255}, Ether: pkt.EtherARP, Src: netip.MustParseAddr("10.0.0.9"), Dst: a,
		Op: pickOf(r, []uint16{1, 1, 1, 2}), ArpSrc: pkt.MAC{2, 0, 0, 0, 0, 0x99}}
	if a.Is6() {
		k = &pkt.Packet{To: pkt.MAC{0x33, 0x33, 0xff, 0, 0, 1}, Ether: pkt.EtherIP6, Src: netip.MustParseAddr("fd00:a0::9"), Dst: netip.MustParseAddr("ff02::1:ff00:1"),
			Proto: pkt.ICMP6, Type: pickOf(r, []uint8{135, 135, 135, 136}), TTL: pickOf(r, []uint8{255, 255, 255, 64}), Target: a}
		if one(r, 2) {
			k.Link = &pkt.MAC{2, 0, 0, 0, 0, 0x99}
		}
		if one(r, 4) {
			k.Src = netip.IPv6Unspecified()
		}
	}
	if one(r, 3) {
		k.To = pkt.MAC(at.mac) // a neighbour that makes sure
	}
	k.From = pkt.MAC{2, 0, 0, 0, 0, 0x99}
	return k.Bytes()
}

// serviceWords are what of services a trace shows.
func serviceWords(t Trace) (all []string) {
	for _, s := range t.Steps {
		if s.Layer == layerName(layNAT) && strings.Contains(s.Reason, "but by us") {
			all = append(all, "service in an overlay")
		}
		if s.Layer == layerName(layNAT) && strings.Contains(s.Reason, "not to see who asks") {
			all = append(all, "proxied in silence")
		}
		if s.Verdict == "reply" && strings.HasPrefix(s.Rule, "vip uplink ") {
			all = append(all, "announced")
		}
		if s.Verdict == "reply" && strings.HasPrefix(s.Rule, "vip zone ") {
			all = append(all, "announced inside")
		}
		if s.Layer == layerName(laySpoof) && strings.Contains(s.Reason, "where it was asked") {
			all = append(all, "answer from where it was asked")
		}
		if s.Layer != layerName(layLB) {
			continue
		}
		for word, in := range map[string]string{"service by affinity": "by affinity", "service drains": "drains", "service gone": "is gone",
			"service elsewhere": "on another host", "service direct": "answers by itself", "service as it was sent": "as it was sent", "service by client": "hash of its client", "service silent": "keeps silent", "proxied": "its proxy at"} {
			if strings.Contains(s.Reason, in) {
				all = append(all, word)
			}
		}
	}
	return all
}
