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

func pickOf[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

func one(r *rand.Rand, in int) bool { return r.IntN(in) == 0 }

// newScene makes a random State, valid by construction, and compiles it.
func (l *lab) newScene(r *rand.Rand) (*scene, error) {
	s := &scene{facts: vswitch.Facts{Ifindex: map[string]int{}, Anchor: l.index["anchor"]}}
	for name, i := range l.index {
		if name[0] == 'e' || name[0] == 'h' || name[0] == 's' {
			s.facts.Ifindex[name] = i
		}
	}
	for i := range 1 + r.IntN(labUplinks) {
		u := vswitch.Uplink{Name: uplinkDev(i), Ifindex: l.index[uplinkDev(i)], MAC: l.mac[uplinkDev(i)], MTU: pickOf(r, []uint16{1500, 1500, 1400, 0})}
		for _, a := range []string{fmt.Sprintf("10.%d.0.4/24", i), fmt.Sprintf("fd00:a%d::4/64", i)} {
			if !one(r, 8) {
				p := netip.MustParsePrefix(a)
				u.Addrs = append(u.Addrs, p)
				s.facts.HostAddrs = append(s.facts.HostAddrs, p.Addr())
			}
		}
		s.facts.Uplinks = append(s.facts.Uplinks, u)
		s.ports = append(s.ports, scenePort{ifindex: u.Ifindex, device: u.Ifindex, uplink: true, mac: u.MAC, gw: u.MAC})
	}
	for i := range 1 + r.IntN(labNetworks) {
		l.addNetwork(r, s, i)
	}
	for i := range labEndpoints {
		if !one(r, 5) {
			l.addEndpoint(r, s, i)
		}
	}
	s.trunks(r)
	s.pools(r)
	s.mirror(r)
	if !one(r, 3) {
		l.addOverlay(r, s)
	}
	if one(r, 2) {
		s.routers(r)
	}
	s.publish(r)
	s.serve(r)
	for _, a := range []string{"8.8.8.8", "203.0.113.9", "203.0.114.9", "198.51.100.9", "198.51.101.9", "198.51.102.9", "10.0.0.9", "10.1.0.9",
		"224.0.0.1", "255.255.255.255", "0.0.0.0", "127.0.0.1", "169.254.1.1", "169.254.72.1", "192.168.100.99",
		"2001:db8::8", "2001:db8:1::8", "2001:db8:2::8", "fd00:a0::9", "fe80::1", "ff02::1", "::", "::1", "fd67:6861:6972::1", "fd00:100::99"} {
		s.addrs = append(s.addrs, netip.MustParseAddr(a))
	}
	s.addrs = append(s.addrs, s.facts.HostAddrs...)
	s.addRules(r)
	t, err := vswitch.Compile(s.state, s.facts)
	if err != nil {
		return nil, err
	}
	s.tables, s.rows = t, t.Rows()
	return s, nil
}

func (l *lab) addNetwork(r *rand.Rand, s *scene, i int) {
	id := vswitch.NetworkID(i + 1)
	n := vswitch.Network{ID: id, Zone: vswitch.Zone(i + 1), Name: fmt.Sprintf("n%d", i), MTU: pickOf(r, []uint16{0, 1500, 1400, 1280})}
	n.Flags = vswitch.NetFlags(r.IntN(16))
	if one(r, 2) {
		n.Flags |= vswitch.NetDHCP
	}
	if !one(r, 3) {
		n.Flags |= vswitch.NetSNAT | vswitch.NetUplink
	}
	for _, sub := range []vswitch.Subnet{
		{Prefix: netip.MustParsePrefix(fmt.Sprintf("192.168.%d.0/24", 100+i)), Gateway: netip.MustParseAddr(fmt.Sprintf("192.168.%d.1", 100+i))},
		{Prefix: netip.MustParsePrefix(fmt.Sprintf("fd00:%d::/64", 100+i)), Gateway: netip.MustParseAddr(fmt.Sprintf("fd00:%d::1", 100+i))},
	} {
		if one(r, 8) {
			continue
		}
		if n.Flags&vswitch.NetHostNIC == 0 {
			sub.Gateway = netip.Addr{}
		} else {
			s.facts.HostAddrs = append(s.facts.HostAddrs, sub.Gateway)
		}
		n.Subnets = append(n.Subnets, sub)
	}
	for _, p := range []string{"192.168.0.0/16", "fd00::/16", "8.8.8.0/24"} {
		if one(r, 4) {
			n.Asked = append(n.Asked, vswitch.Asked{Prefix: netip.MustParsePrefix(p), MAC: vswitch.MAC{2, 12, 0, 0, 0, byte(i)}})
		}
	}
	if one(r, 3) {
		s.bridge(r, &n)
	}
	if n.Flags&vswitch.NetHostNIC != 0 {
		n.HostPort = vswitch.PortID(100 + i)
		p := vswitch.Port{ID: n.HostPort, Kind: vswitch.PortHost, Network: id, Object: n.Name, Interface: switchDev(i), HostNIC: nicDev(i),
			MAC: l.mac[switchDev(i)], Up: !one(r, 10)}
		for _, sub := range n.Subnets {
			p.Addrs = append(p.Addrs, sub.Gateway)
		}
		s.state.Ports = append(s.state.Ports, p)
		s.ports = append(s.ports, scenePort{ifindex: l.index[switchDev(i)], device: l.index[switchDev(i)], mac: p.MAC, gw: p.MAC, addrs: p.Addrs, net: id,
			l2: n.Flags&vswitch.NetL2 != 0})
	}
	s.state.Networks = append(s.state.Networks, n)
}

func (l *lab) addEndpoint(r *rand.Rand, s *scene, i int) {
	n := pickOf(r, s.state.Networks)
	p := vswitch.Port{ID: vswitch.PortID(i + 1), Kind: vswitch.PortContainer, Network: n.ID, Object: fmt.Sprintf("ep%d", i), Interface: endpointDev(i),
		MAC: vswitch.MAC{6, 1, 0, 0, 0, byte(i)}, Up: !one(r, 10)}
	if one(r, 4) {
		p.Kind = vswitch.PortVM
		if p.Host = one(r, 2); p.Host { // others' gateway
			defer func() { s.facts.HostAddrs = append(s.facts.HostAddrs, p.Addrs...) }()
		}
	}
	for _, sub := range n.Subnets {
		if one(r, 10) {
			continue
		}
		a := sub.Prefix.Addr().AsSlice()
		a[len(a)-1] = byte(10 + i)
		at, _ := netip.AddrFromSlice(a)
		p.Addrs = append(p.Addrs, at)
	}
	p.AnyMAC, p.AnyIP = one(r, 12), one(r, 12)
	if one(r, 6) {
		p.Uplink = pickOf(r, []string{uplinkDev(0), uplinkDev(1), "gone"})
	}
	if one(r, 4) {
		p.MACs = []vswitch.MAC{{6, 2, 0, 0, 0, byte(i)}}
	}
	s.state.Ports = append(s.state.Ports, p)
	s.addrs = append(s.addrs, p.Addrs...)
	in := p.Interface
	if i < labShapers && one(r, 2) {
		in = l.shape(&s.state.Ports[len(s.state.Ports)-1], i)
	}
	s.ports = append(s.ports, scenePort{ifindex: l.index[in], device: l.index[p.Interface], mac: p.MAC, gw: l.mac[switchDev(int(n.ID)-1)], addrs: p.Addrs,
		net: n.ID, l2: n.Flags&vswitch.NetL2 != 0})
}

// scenePorts are what packets are addressed to and published.
func scenePorts() []uint16 { return []uint16{80, 8080, 53, 9090, 12345, 20000, 67, 547, 4789} }

func (s *scene) publish(r *rand.Rand) {
	for _, p := range s.state.Ports {
		if p.Kind == vswitch.PortHost || len(p.Addrs) == 0 || one(r, 3) {
			continue
		}
		for range 1 + r.IntN(3) {
			a := pickOf(r, p.Addrs)
			m := vswitch.PortMapping{Object: p.Object, Proto: pickOf(r, []uint8{6, 6, 17, 132}), HostPort: pickOf(r, scenePorts()), Port: p.ID, Addr: a,
				AddrPort: pickOf(r, scenePorts())}
			if m.Proto == 132 {
				m.AddrPort = m.HostPort
			}
			if one(r, 4) {
				for _, h := range s.facts.HostAddrs {
					if h.Is4() == a.Is4() {
						m.HostAddr = h
					}
				}
			}
			with := s.state
			with.Mappings = append(append([]vswitch.PortMapping{}, s.state.Mappings...), m)
			if _, err := vswitch.Compile(with, s.facts); err == nil { // not taken
				s.state.Mappings = with.Mappings
			}
		}
	}
}

// change makes a small change of the State, as a verb would, so that flows are
// walked again under another configuration.
func (s *scene) change(r *rand.Rand) error {
	st, f := s.state, s.facts
	st.Services = slices.Clone(st.Services)
	st.Networks, st.Ports, st.Mappings = slices.Clone(st.Networks), slices.Clone(st.Ports), slices.Clone(st.Mappings)
	st.ACLs, st.AddrSets = slices.Clone(st.ACLs), slices.Clone(st.AddrSets)
	switch r.IntN(19) {
	case 17, 18:
		s.changeOverlay(r, &st)
	case 6:
		st.NATPools = slices.Clone(st.NATPools)
		s.state = st
		s.pools(r)
		st = s.state
	case 7:
		s.state = st
		s.mirror(r)
		st = s.state
	case 14, 15, 16:
		s.state = st
		s.changeRules(r)
		st = s.state
	case 8, 9, 10, 11, 12, 13:
		s.state = st
		s.changeService(r)
		st = s.state
	case 0:
		p := &st.Ports[r.IntN(len(st.Ports))]
		if p.Kind == vswitch.PortVM && p.Trunk == 0 && one(r, 2) {
			p.Host = !p.Host
			break
		}
		p.Up = !p.Up
	case 1:
		if len(st.Mappings) > 0 {
			i := r.IntN(len(st.Mappings))
			st.Mappings = slices.Delete(st.Mappings, i, i+1)
		}
	case 2:
		n := &st.Networks[r.IntN(len(st.Networks))]
		if n.Flags&vswitch.NetL2 != 0 {
			n.Flags ^= vswitch.NetFlood
			if n.Uplink != "" && one(r, 2) {
				n.Flags ^= vswitch.NetSNAT
			}
			break
		}
		n.Flags ^= pickOf(r, []vswitch.NetFlags{vswitch.NetSNAT, vswitch.NetUplink, vswitch.NetFlood})
		if routes := func(r vswitch.Route) bool { return r.To == vswitch.RouteUplink }; n.Flags&vswitch.NetUplink == 0 &&
			(slices.ContainsFunc(n.Routes, routes) || slices.ContainsFunc(st.Ports, func(p vswitch.Port) bool { return slices.ContainsFunc(p.Routes, routes) })) {
			n.Flags |= vswitch.NetUplink
		}
	case 3:
		n := &st.Networks[r.IntN(len(st.Networks))]
		n.MTU = pickOf(r, []uint16{1500, 1400, 1280})
	case 4:
		f.Uplinks = slices.Clone(f.Uplinks)
		u := &f.Uplinks[r.IntN(len(f.Uplinks))]
		u.MTU = pickOf(r, []uint16{1500, 1400, 1300})
	case 5:
		s.state = st
		s.publish(r)
		st = s.state
	}
	t, err := vswitch.Compile(st, f)
	if err != nil {
		return err
	}
	s.state, s.facts, s.tables, s.rows = st, f, t, t.Rows()
	return nil
}

// traffic makes packets, many of which go on where others ended.
type traffic struct {
	*scene
	r *rand.Rand
	// Packets that left by a port, to be answered or complained about there.
	sent []sentPacket
	// Packets to services, to be followed by more of the same client.
	asked []sentPacket
	// narrow traffic asks one server from many ports, so that NAT runs out of them.
	narrow bool
	seen   map[string]int // outcomes
	first  *sentPacket    // a first fragment that was put in
	later  []*pkt.Packet  // those that follow it
	// Of the packet that was made last.
	tagged bool
	tci    uint16
	shell  *Outer // of what is answered
}

type sentPacket struct {
	port  scenePort
	p     *pkt.Packet
	shell *Outer // it went into a tunnel with
}

// next is one packet at one port.
func (t *traffic) next() (scenePort, []byte) {
	r := t.r
	t.shell = nil
	if len(t.sent) > 0 && one(r, 3) {
		s := pickOf(r, t.sent)
		t.shell = s.shell
		return t.followUp(s)
	}
	if one(r, 12) {
		if at, frame, ok := t.relay(); ok {
			return at, frame
		}
	}
	if len(t.asked) > 0 && one(r, 6) {
		return t.askAgain(pickOf(r, t.asked))
	}
	if len(t.later) > 0 && one(r, 3) { // at the same port
		k := pickOf(r, t.later)
		t.later = slices.DeleteFunc(t.later, func(o *pkt.Packet) bool { return o == k })
		return t.first.port, k.Bytes()
	}
	if t.first != nil && one(r, 60) { // another one of the same datagram, with other ports
		k := *t.first.p
		k.Data = slices.Clone(k.Data)
		k.Data[1] ^= byte(r.IntN(2))
		k.Data[3] ^= byte(r.IntN(2))
		return t.first.port, k.Bytes()
	}
	at := pickOf(r, t.ports)
	if at.uplink && one(r, 8) {
		return at, t.askNeighbour(at)
	}
	k := &pkt.Packet{Src: pickOf(r, t.addrs), TTL: pickOf(r, []uint8{64, 64, 64, 2, 1, 255})}
	if len(at.addrs) > 0 && !one(r, 6) {
		k.Src = pickOf(r, at.addrs)
	}
	for k.Dst = pickOf(r, t.addrs); k.Dst.Is4() != k.Src.Is4(); k.Dst = pickOf(r, t.addrs) {
	}
	k.SrcPort, k.DstPort = pickOf(r, []uint16{40000, 40001, 12345, 20000, 67, 547}), pickOf(r, scenePorts())
	t.protocol(k)
	if k.Src.Is4() && k.Proto == pkt.UDP && one(r, 20) { // asks by DHCP
		k.Dst, k.SrcPort, k.DstPort = netip.AddrFrom4([4]byte{255, 255, 255, 255}), 68, 67
		if one(r, 2) {
			k.Src = netip.IPv4Unspecified()
		}
	}
	t.atTunnel(k)
	t.narrower(at, k)
	if len(t.state.Services) > 0 && one(r, 4) {
		t.askService(at, k)
	}
	if t.narrow && k.Src.Is4() && one(r, 2) {
		k.Dst, k.Proto, k.Flags, k.DstPort, k.SrcPort, k.TTL, k.Data = netip.AddrFrom4([4]byte{8, 8, 8, 8}), pkt.UDP, 0, 53, uint16(40000+r.IntN(60)), 64, nil
	}
	return at, t.frame(at, k)
}

func (t *traffic) protocol(k *pkt.Packet) {
	r := t.r
	six := k.Src.Is6()
	k.Ether = pkt.EtherIP
	if six {
		k.Ether = pkt.EtherIP6
	}
	switch r.IntN(12) {
	case 0, 1, 2, 3, 4:
		k.Proto, k.Flags = pkt.TCP, pickOf(r, []uint8{pkt.SYN, pkt.SYN, pkt.SYN, pkt.ACK, pkt.SYN | pkt.ACK, pkt.FIN | pkt.ACK, pkt.RST, 0})
	case 5, 6, 7:
		k.Proto = pkt.UDP
	case 8, 9:
		k.Proto, k.Type, k.ID = pkt.ICMP, pickOf(r, []uint8{8, 8, 0, 13, 5, 9}), uint16(r.IntN(3))
		if six {
			k.Proto, k.Type = pkt.ICMP6, pickOf(r, []uint8{128, 128, 129, 143})
			if one(r, 3) {
				k.Type, k.Target, k.TTL = pickOf(r, []uint8{133, 134, 135, 135, 135, 136, 137}), pickOf(r, t.addrs), 255
				if k.Target.Is4() {
					k.Target = k.Dst
				}
				if k.Type == 135 && one(r, 4) { // a probe
					k.Src = netip.IPv6Unspecified()
				}
				if one(r, 2) {
					m := pickOf(r, t.ports).mac
					link := pkt.MAC(m)
					k.Link = &link
				}
			}
		}
	case 10:
		k.Proto = pkt.SCTP
	default:
		k.Proto = pickOf(r, []uint8{47, 50, 136, 58, 1})
		if k.Proto == 58 && six || k.Proto == 1 && !six {
			k.Proto = 47
		}
		k.Data = make([]byte, pickOf(r, []int{8, 100}))
	}
	if k.Data == nil && k.Type != 135 {
		k.Data = make([]byte, pickOf(r, []int{0, 0, 4, 40, 1250, 1360, 1450, 1500}))
	}
}

// followUp answers a packet, repeats it, or complains about it.
func (t *traffic) followUp(s sentPacket) (scenePort, []byte) {
	r := t.r
	k := *s.p
	k.From, k.To = pkt.MAC{}, pkt.MAC{}
	k.Src, k.Dst, k.SrcPort, k.DstPort = k.Dst, k.Src, k.DstPort, k.SrcPort
	k.TTL = pickOf(r, []uint8{64, 64, 1})
	switch {
	case k.Proto == pkt.TCP:
		k.Flags = pickOf(r, []uint8{pkt.SYN | pkt.ACK, pkt.ACK, pkt.ACK, pkt.FIN | pkt.ACK, pkt.RST | pkt.ACK, pkt.SYN})
	case k.Proto == pkt.ICMP && k.Type == 8:
		k.Type = 0
	case k.Proto == pkt.ICMP6 && k.Type == 128:
		k.Type = 129
	}
	if k.Inner == nil && k.Frag == nil && k.Proto != pkt.ICMP && k.Proto != pkt.ICMP6 && one(r, 4) {
		e := &pkt.Packet{Ether: k.Ether, Src: pickOf(r, t.addrs), Dst: s.p.Src, TTL: 64, Proto: pkt.ICMP, Type: 3, Code: pickOf(r, []uint8{1, 3, 4}), MTU: 1300, Inner: s.p}
		if k.Ether == pkt.EtherIP6 {
			e.Proto, e.Type, e.Code = pkt.ICMP6, pickOf(r, []uint8{1, 2, 3}), 0
		}
		if e.Src.Is4() != e.Dst.Is4() || !one(r, 3) {
			e.Src = s.p.Dst
		}
		k = *e
	}
	return s.port, t.frame(s.port, &k)
}

// frame is the packet as a sender at the port would put it on the wire, now and
// then as a bad one would.
func (t *traffic) frame(at scenePort, k *pkt.Packet) []byte {
	r := t.r
	k.From, k.To = pkt.MAC(at.mac), pkt.MAC(at.gw)
	if at.uplink {
		k.From = pkt.MAC{2, 0, 0, 0, 0, 0x99}
	}
	t.address(at, k)
	switch {
	case one(r, 40):
		k.From = pkt.MAC(pickOf(r, t.ports).mac)
	case one(r, 40):
		k.To = pkt.MAC{2, 0, 0, 0, 0, 0x77}
	}
	if k.Dst.IsMulticast() || k.Dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || one(r, 60) {
		k.To = pkt.MAC{0x33, 0x33, 0, 0, 0, 1}
	}
	if k.Src.Is4() && (one(r, 25) || (at.l2 || at.uplink) && one(r, 12)) {
		to := pkt.MAC{255, 255, 255, 255, 255, 255}
		if (at.l2 || at.uplink) && one(r, 2) {
			to = k.To
		}
		k = &pkt.Packet{From: k.From, To: to, Ether: pkt.EtherARP, Src: k.Src, Dst: k.Dst, Op: pickOf(r, []uint16{1, 1, 1, 2}), ArpSrc: k.From}
		if one(r, 6) { // a probe
			k.Src = netip.IPv4Unspecified()
		}
		if one(r, 10) {
			k.ArpSrc = pkt.MAC{2, 0, 0, 0, 0, 0x66}
		}
	} else if k.Frag == nil && k.Inner == nil && len(k.Data) >= 40 && (one(r, 4) || !protoPorts(k.Proto) && one(r, 2)) {
		if parts := k.Fragments(uint32(r.IntN(4)), pickOf(r, []int{8, 24, 32, 600})); len(parts) > 0 {
			k = pickOf(r, parts[:min(len(parts), 3)])
			if k.Frag.Off == 0 {
				t.first, t.later = &sentPacket{port: at, p: k}, parts[1:min(len(parts), 3)]
			}
		}
	}
	b := k.Bytes()
	if one(r, 20) {
		for range 1 + r.IntN(3) {
			b[r.IntN(min(len(b), 80))] ^= byte(1 << r.IntN(8))
		}
	}
	if one(r, 100) && len(b) > 40 {
		b = b[:34+r.IntN(len(b)-34)]
	}
	return b
}
