// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"math/rand/v2"
	"net/netip"
	"slices"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// bridge makes n a network that forwards by MAC, bound to an uplink or not.
func (s *scene) bridge(r *rand.Rand, n *vswitch.Network) {
	n.Flags = n.Flags&(vswitch.NetHostNIC|vswitch.NetFlood) | vswitch.NetL2
	if one(r, 5) {
		if one(r, 2) {
			n.Flags |= vswitch.NetARPPass
		}
		return
	}
	n.Uplink, n.VLAN = pickOf(r, s.facts.Uplinks).Name, pickOf(r, sceneVLANs())
	n.Flags |= pickOf(r, []vswitch.NetFlags{vswitch.NetARPPass, vswitch.NetARPPass, vswitch.NetMACRewrite, vswitch.NetMACRewrite | vswitch.NetNoLocal})
	if !one(r, 4) {
		n.Flags |= vswitch.NetFlood
	}
	if one(r, 3) {
		n.Flags |= vswitch.NetSNAT
	}
	if n.Flags&vswitch.NetMACRewrite != 0 && one(r, 3) {
		n.WireMAC = vswitch.MAC{2, 11, 0, 0, 0, byte(1 + r.IntN(2))}
	}
	if one(r, 4) {
		n.Flags |= vswitch.NetNoHost
	}
	taken := slices.ContainsFunc(s.state.Networks, func(o vswitch.Network) bool {
		return o.Uplink == n.Uplink && o.VLAN == n.VLAN && (n.Flags|o.Flags)&vswitch.NetMACRewrite == 0
	})
	if taken {
		n.VLAN = uint16(100 + len(s.state.Networks))
	}
}

// trunks makes trunks of some endpoints, with or without a native VLAN.
func (s *scene) trunks(r *rand.Rand) {
	for i := range s.state.Ports {
		trunk := &s.state.Ports[i]
		if trunk.Kind == vswitch.PortHost || trunk.ID >= 30 || !one(r, 4) {
			continue
		}
		at := slices.IndexFunc(s.ports, func(p scenePort) bool { return p.device == s.facts.Ifindex[trunk.Interface] })
		if at < 0 {
			continue
		}
		if one(r, 3) {
			trunk.TaggedOnly, trunk.Addrs = true, nil
		}
		for n, tag := range []uint16{5, 77, 4094} {
			if one(r, 3) {
				continue
			}
			net := pickOf(r, s.state.Networks)
			p := vswitch.Port{ID: trunk.ID + 30*vswitch.PortID(n+1), Kind: trunk.Kind, Network: net.ID, Object: trunk.Object, MAC: trunk.MAC,
				Up: !one(r, 8), Trunk: trunk.ID, VLAN: tag}
			if one(r, 2) || net.ID == s.state.Ports[i].Network {
				p.MAC[4] = byte(n + 1)
			}
			for _, sub := range net.Subnets {
				a := sub.Prefix.Addr().AsSlice()
				a[len(a)-1] = byte(120 + p.ID)
				ip, _ := netip.AddrFromSlice(a)
				p.Addrs = append(p.Addrs, ip)
			}
			with := s.state
			with.Ports = append(slices.Clone(s.state.Ports), p)
			if _, err := vswitch.Compile(with, s.facts); err != nil {
				continue // its MAC is known in that network
			}
			s.state = with
			trunk = &s.state.Ports[i]
			s.addrs = append(s.addrs, p.Addrs...)
			e := s.ports[at]
			e.mac, e.addrs, e.net, e.l2, e.tag = p.MAC, p.Addrs, net.ID, net.Flags&vswitch.NetL2 != 0, tag
			s.ports = append(s.ports, e)
		}
	}
}

func sceneVLANs() []uint16 { return []uint16{0, 0, 5, 6} }

// address gives a packet the MACs of where forwarding goes by them, and a tag.
func (t *traffic) address(at scenePort, k *pkt.Packet) {
	r := t.r
	t.tagged, t.tci = false, 0
	if at.uplink {
		t.tagged = one(r, 2)
		t.tci = pickOf(r, append(sceneVLANs(), 99, 0xe000))
		if one(r, 3) {
			t.tci |= 0x2000
		}
		if t.bound(at, k); one(r, 10) {
			k.From = pkt.MAC(at.mac) // the host's own, turned round
		}
		return
	}
	if at.net == 0 { // a tunnel
		return
	}
	if t.tagged, t.tci = at.tag != 0, at.tag; one(r, 40) {
		t.tagged, t.tci = true, pickOf(r, []uint16{0, 0x6000, 5, 6, 0x2005, 77})
	}
	if !at.l2 {
		return
	}
	n := t.network(at.net)
	choice := []pkt.MAC{{2, 0, 0, 0, 0, 0x99}, {2, 0, 0, 0, 0, 0x98}, {2, 11, 0, 0, 0, 1}, k.To}
	for _, u := range t.facts.Uplinks {
		if u.Name == n.Uplink {
			choice = append(choice, pkt.MAC(u.MAC))
		}
	}
	for _, p := range t.state.Ports {
		if p.Network != at.net {
			continue
		}
		choice = append(choice, pkt.MAC(p.MAC))
		for _, m := range p.MACs {
			choice = append(choice, pkt.MAC(m))
		}
		if slices.Contains(p.Addrs, k.Dst) && !one(r, 4) {
			k.To = pkt.MAC(p.MAC)
			return
		}
	}
	// The same destination mostly has the same next hop.
	h := int(k.Dst.As16()[15])
	if one(r, 8) {
		h = r.IntN(len(choice))
	}
	k.To = choice[h%len(choice)]
}

// bound addresses what comes by an uplink to a port of a network bound to it.
func (t *traffic) bound(at scenePort, k *pkt.Packet) {
	for _, p := range t.state.Ports {
		n := t.network(p.Network)
		if n.Uplink == "" || !slices.Contains(p.Addrs, k.Dst) || one(t.r, 8) {
			continue
		}
		t.tagged, t.tci = n.VLAN != 0 || one(t.r, 8), n.VLAN
		switch {
		case n.Flags&vswitch.NetMACRewrite == 0:
			k.To = pkt.MAC(p.MAC)
		case n.WireMAC != vswitch.MAC{} && !one(t.r, 3):
			k.To = pkt.MAC(n.WireMAC)
		}
		if q := pickOf(t.r, t.state.Ports); q.Network == p.Network && one(t.r, 3) { // in the name of a neighbour here
			for _, a := range q.Addrs {
				if a.Is4() == k.Dst.Is4() {
					k.Src = a
				}
			}
		}
	}
}

func (t *traffic) network(id vswitch.NetworkID) *vswitch.Network {
	for i := range t.state.Networks {
		if t.state.Networks[i].ID == id {
			return &t.state.Networks[i]
		}
	}
	return &vswitch.Network{}
}

// probeWord is a word for ARP and ND that asks in nobody's name.
func probeWord(t Trace, frame []byte) (string, bool) {
	if k, err := pkt.Decode(frame); err != nil || !k.Src.IsUnspecified() || k.Ether != pkt.EtherARP && k.Type != ndNS {
		return "", false
	}
	switch {
	case t.Verdict == Drop && t.Reason == "SPOOF_ARP":
		return "a probe for another's address", true
	case t.Verdict == Flood:
		return "a probe that others hear", true
	}
	return "", false
}
