// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// changeBridge does one small thing to what forwards by MAC.
func (w *world) changeBridge(op, n byte) {
	s := &w.s
	if len(s.Networks) == 0 {
		return
	}
	x := &s.Networks[int(n)%len(s.Networks)]
	switch op {
	case 0: // another way of forwarding
		x.Flags &= NetHostNIC | NetFlood
		x.Uplink, x.VLAN = "", 0
		switch n % 5 {
		case 0:
			x.Flags |= NetSNAT | NetUplink
		case 1:
			x.Flags |= NetL2
		case 2:
			x.Flags |= NetL2 | NetARPPass
			x.Uplink, x.VLAN = "eth0", uint16(n/64)
		case 3:
			x.Flags |= NetL2 | NetMACRewrite | NetSNAT&NetFlags(n>>5)
			x.Uplink, x.VLAN = "eth2", uint16(n/64)
		case 4:
			x.Flags |= NetL2 | NetMACRewrite | NetNoLocal
			x.Uplink = "eth0"
		}
	case 1: // a port gets MACs, or loses them
		if len(s.Ports) > 0 {
			p := &s.Ports[int(n/3)%len(s.Ports)]
			p.MACs, p.AnyMAC, p.AnyIP = nil, n%3 == 0, n%7 == 0
			if n%2 == 0 {
				p.MACs = []MAC{{6, 0, 0, 0, 0, n % 8}}
			}
		}
	case 3: // a port becomes one VLAN of another, or a trunk without a native VLAN, or neither
		if len(s.Ports) > 1 {
			p, o := &s.Ports[int(n)%len(s.Ports)], &s.Ports[int(n/8)%len(s.Ports)]
			switch p.TaggedOnly = false; n / 4 % 4 {
			case 0, 1:
				p.Trunk, p.VLAN, p.Interface, p.PPS = o.ID, uint16(1+n/32), "", 0
			case 2:
				p.Trunk, p.VLAN, p.Interface = 0, 0, fmt.Sprintf("ghp%d", p.ID)
			default:
				p.TaggedOnly, p.Addrs = p.Trunk == 0, nil
			}
		}
	case 2: // an uplink gets another MAC
		u := w.f.Uplinks
		w.f.Uplinks = append([]Uplink{}, u...)
		if len(u) > 0 {
			w.f.Uplinks[int(n)%len(u)].MAC = MAC{2, 0, 0, 0, 1, n % 4}
		}
	}
}

func TestInvalidBridge(t *testing.T) {
	base := func() (State, Facts) {
		f := testFacts()
		a, b := testNetwork(1), testNetwork(2)
		a.Flags, a.HostPort, a.Uplink = NetL2|NetARPPass|NetFlood, 0, "eth0"
		b.Flags, b.HostPort, b.Uplink, b.VLAN = NetL2|NetMACRewrite, 0, "eth0", 7
		return State{Networks: []Network{a, b}, Ports: []Port{testPort(10, 1, f), testPort(11, 2, f), testPort(12, 1, f)}}, f
	}
	net := func(f func(a, b *Network)) func(*State) { return func(s *State) { f(&s.Networks[0], &s.Networks[1]) } }
	for _, c := range []struct {
		name, want string
		change     func(*State)
	}{
		{"flags without l2", "Flags arp-pass: arp-pass need l2", net(func(a, _ *Network) { a.Flags, a.Uplink = NetARPPass, "" })},
		{"l2 and routed", "l2 reaches outside by the uplink that Uplink names, not by uplink", net(func(a, _ *Network) { a.Flags |= NetSNAT | NetUplink })},
		{"nat of nothing", "snat needs an Uplink", net(func(a, _ *Network) { a.Flags, a.Uplink = NetL2|NetSNAT, "" })},
		{"uplink without l2", `Uplink "eth0": only networks with the flag l2`, net(func(a, _ *Network) { a.Flags = NetFlood })},
		{"large vlan", "VLAN 4095: tags are 1 to 4094", net(func(a, _ *Network) { a.VLAN = 4095 })},
		{"vlan of nothing", "VLAN 5: there is no uplink", net(func(a, _ *Network) { a.Uplink, a.VLAN = "", 5 })},
		{"neither", "needs one of mac-rewrite", net(func(a, _ *Network) { a.Flags = NetL2 })},
		{"both", "needs one of mac-rewrite", net(func(a, _ *Network) { a.Flags |= NetMACRewrite })},
		{"rewrite where", "mac-rewrite need an Uplink", net(func(_, b *Network) { b.Uplink, b.VLAN = "", 0 })},
		{"no-local alone", "no-local needs mac-rewrite", net(func(a, _ *Network) { a.Flags |= NetNoLocal })},
		{"two transparent", `Networks[1] ("net2"): Uplink "eth0", untagged: is also that of "net1"`,
			net(func(_, b *Network) { b.Flags, b.VLAN = NetL2|NetARPPass, 0 })},
		{"overlap", `Subnets[0].Prefix "10.1.2.0/24": overlaps "10.1.0.0/16" of "net1" on the same uplink "eth0", VLAN 7`, net(func(a, b *Network) {
			a.Flags, a.VLAN = NetL2|NetMACRewrite, 7
			b.Subnets = []Subnet{{Prefix: netip.MustParsePrefix("10.1.2.0/24")}}
		})},
		{"mac twice", "MAC 02:02:00:00:00:0a: is also that of port 10", func(s *State) { s.Ports[2].MAC = s.Ports[0].MAC }},
		{"further mac twice", "MAC 02:02:00:00:00:0a: is also that of port 10", func(s *State) { s.Ports[2].MACs = []MAC{s.Ports[0].MAC} }},
		{"further mac", "MACs[0] 01:00:00:00:00:00: not the address", func(s *State) { s.Ports[2].MACs = []MAC{{1}} }},
		{"mac listed twice", "MACs[0] 02:02:00:00:00:0c: listed twice", func(s *State) { s.Ports[2].MACs = []MAC{s.Ports[2].MAC} }},
		{"the host's in a container", "Host: is for ports of kind VM", func(s *State) { s.Ports[2].Host = true }},
		{"no host of nothing", "no-host needs an Uplink", net(func(a, _ *Network) { a.Flags, a.Uplink = NetL2|NetNoHost, "" })},
		{"a MAC for nobody", "WireMAC 02:00:00:00:00:09: only with mac-rewrite", net(func(a, _ *Network) { a.WireMAC = MAC{2, 0, 0, 0, 0, 9} })},
		{"a group stands for all", "WireMAC 01:00:00:00:00:09: not the address", net(func(_, b *Network) { b.WireMAC = MAC{1, 0, 0, 0, 0, 9} })},
		{"mac that stands for all", "MAC 02:02:00:00:00:0b: is that of the uplink", net(func(_, b *Network) { b.WireMAC = MAC{2, 2, 0, 0, 0, 11} })},
		{"asked twice", `Asked[1].Prefix "10.9.0.0/16": listed twice`, net(func(a, _ *Network) {
			a.Asked = []Asked{{netip.MustParsePrefix("10.9.0.0/16"), MAC{2, 1}}, {netip.MustParsePrefix("10.9.0.0/16"), MAC{2, 2}}}
		})},
		{"asked for all", `Asked[0].Prefix "::/0": keys of IPv4`, net(func(a, _ *Network) { a.Asked = []Asked{{netip.MustParsePrefix("::/0"), MAC{2, 1}}} })},
		{"asked for none", "Asked[0].MAC 00:00:00:00:00:00: not the address", net(func(a, _ *Network) { a.Asked = []Asked{{netip.MustParsePrefix("10.9.0.0/16"), MAC{}}} })},
		{"mac of the uplink", "MAC 02:00:00:00:00:02: is that of the uplink", func(s *State) { s.Ports[2].MAC = MAC{2, 0, 0, 0, 0, 2} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, f := base()
			if _, err := Compile(s, f); err != nil {
				t.Fatalf("the State before the change: %v", err)
			}
			c.change(&s)
			_, err := Compile(s, f)
			if err == nil || !strings.Contains(err.Error(), c.want) || !errdefs.IsInvalidArgument(err) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

// An uplink that goes takes its rows along and no more; when it is back, so are they.
func TestUplinkOfBridgeGoes(t *testing.T) {
	f := testFacts()
	n := testNetwork(1)
	n.Flags, n.HostPort, n.Uplink = NetL2|NetARPPass|NetFlood, 0, "eth0"
	s := State{Networks: []Network{n}, Ports: []Port{testPort(10, 1, f)}}
	var c Compiler
	with, err := c.Compile(s, f)
	if err != nil {
		t.Fatal(err)
	}
	gone := f
	gone.Uplinks = nil
	without, err := c.Compile(s, gone)
	if err != nil {
		t.Fatal(err)
	}
	if r := without.Rows(); len(r.Segment) != 0 || r.Net[1].Uplink != 0 || len(r.Fdb) != 1 {
		t.Errorf("rows without the uplink: %+v", r)
	}
	back, err := c.Compile(s, f)
	if err != nil {
		t.Fatal(err)
	}
	if d := Diff(with, back); !d.Empty() {
		t.Errorf("after it came back: %v", d)
	}
	d := Diff(without, back)
	if len(d.AttachOut) != 1 || d.AttachOut[0].Name != "eth0" {
		t.Errorf("egress program attached to %v", d.AttachOut)
	}
}
