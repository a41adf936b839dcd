// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

const testTunnel PortID = 3000

// changeOverlay makes a small change to what reaches other hosts.
func (w *world) changeOverlay(op, n byte) {
	s := &w.s
	if len(s.Networks) == 0 {
		return
	}
	i := int(n) % len(s.Networks)
	x := &s.Networks[i]
	end := func(n byte) netip.Addr {
		if n%3 == 0 {
			return netip.MustParseAddr(fmt.Sprintf("2001:db8:f::%x", n%5+1))
		}
		return netip.AddrFrom4([4]byte{198, 51, 100, n%5 + 100})
	}
	at := func(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(x.ID), 200, n % 8}) }
	switch op % 8 {
	case 0: // the tunnel comes or goes, with its device or without
		if len(s.Tunnels) == 0 {
			s.Tunnels = []Tunnel{{ID: testTunnel + PortID(n%2), Interface: "vx", UDPPort: []uint16{0, 12345}[n/2%2], Up: n%5 != 0}}
		} else {
			s.Tunnels = nil
		}
		if w.f.Ifindex["vx"] = 0; n%3 != 0 {
			w.f.Ifindex["vx"] = 5000
		}
	case 1: // a network becomes an overlay or ceases to be one
		x.Subnets = slices.Clone(x.Subnets)
		if x.Tunnel != 0 {
			x.Overlay = Overlay{}
			for j := range x.Subnets {
				x.Subnets[j].VNI = 0
			}
			s.Remotes = slices.DeleteFunc(slices.Clone(s.Remotes), func(r Remote) bool { return r.Network == x.ID })
			x.Routes = nil
		} else {
			x.Overlay = Overlay{Tunnel: testTunnel, FloodPeers: n%2 == 0}
			for j := range x.Subnets {
				x.Subnets[j].VNI = 5000 + uint32(x.ID)*8 + uint32(j)
			}
		}
	case 2:
		s.Remotes = append(s.Remotes, Remote{Network: x.ID, Addr: at(n / 3), MAC: MAC{2, 3, 0, 0, 0, n}, VTEP: end(n)})
	case 3:
		if len(s.Remotes) > 0 {
			i := int(n) % len(s.Remotes)
			s.Remotes = slices.Delete(slices.Clone(s.Remotes), i, i+1)
		}
	case 4: // it moves
		if len(s.Remotes) > 0 {
			s.Remotes = slices.Clone(s.Remotes)
			s.Remotes[int(n)%len(s.Remotes)].VTEP = end(n / 7)
		}
	case 5:
		r := Route{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16 + n%4, 0, 0}), 16)}
		switch n % 5 {
		case 0:
			r.To = RouteReject
		case 1:
			r.To = RouteUplink
		case 2:
			r.To = RouteHost
		case 3:
			r.To, r.Via = RouteVia, at(n/5)
		case 4:
			r.To, r.VTEP, r.VNI, r.MAC = RouteTunnel, end(n/5), 6000+uint32(n%3), MAC{2, 4, 0, 0, 0, n % 2}
		}
		x.Routes = append(slices.Clone(x.Routes), r)
	case 6:
		if len(x.Routes) > 0 {
			x.Routes = slices.Delete(slices.Clone(x.Routes), 0, 1)
		}
	case 7:
		if len(s.Ports) > 0 {
			p := &s.Ports[int(n/2)%len(s.Ports)]
			p.Forward = n%2 == 0
			p.Routes = nil
			if n%3 == 0 {
				p.Routes = []Route{{Prefix: netip.MustParsePrefix("192.0.2.0/24"), To: RouteReject}}
			}
		}
	}
}

func (k kernel) wholeOverlay(t testing.TB, when string) {
	end := func(what any, vtep uint16) {
		if _, ok := k["vtep"][uint32(vtep)]; vtep != 0 && !ok {
			t.Errorf("%s: %v points to vtep %d, which is not there", when, what, vtep)
		}
	}
	for key, v := range k["addr"] {
		end(key, v.(AddrRow).Vtep)
	}
	for key, v := range k["nh"] {
		end(key, v.(NextHopRow).Vtep)
	}
	for key, v := range k["peer"] {
		p := v.(PeerRow)
		end(key, p.Vtep)
		if _, ok := k["net"][uint32(p.Net)]; p.Net != 0 && !ok {
			t.Errorf("%s: peer %v points to network %d, which is not there", when, key, p.Net)
		}
	}
	for key, v := range k["route"] {
		if r := v.(RouteRow); r.Nh != 0 {
			table := "nh"
			if r.Flags&routeNAT != 0 {
				table = "natpool"
			}
			if _, ok := k[table][r.Nh]; !ok {
				t.Errorf("%s: route %v points to %s %d, which is not there", when, key, table, r.Nh)
			}
		}
	}
}

func TestInvalidOverlay(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	base := func() (State, Facts) {
		f := testFacts()
		n := testNetwork(1)
		n.Overlay = Overlay{Tunnel: testTunnel}
		n.Subnets[0].VNI, n.Subnets[1].VNI = 4096, 4096
		f.Ifindex["vx"] = 50
		return State{
			Networks: []Network{n, testNetwork(2)},
			Ports:    []Port{testHostPort(1, f), testHostPort(2, f), testPort(10, 1, f)},
			Tunnels:  []Tunnel{{ID: testTunnel, Interface: "vx", Up: true}},
			Remotes:  []Remote{{Network: 1, Addr: addr("10.1.5.5"), MAC: MAC{2, 3, 0, 0, 0, 1}, VTEP: addr("192.0.2.20")}},
		}, f
	}
	if s, f := base(); true {
		if _, err := Compile(s, f); err != nil {
			t.Fatal(err)
		}
	}
	tunnel := Route{Prefix: prefix("10.7.0.0/16"), To: RouteTunnel, VTEP: addr("192.0.2.21"), VNI: 4097, MAC: MAC{2, 9}}
	for _, c := range []struct {
		name, want string
		change     func(*State)
	}{
		{"tunnel id", "Tunnels[0]: ID 0: must be 1 to 3968", func(s *State) { s.Tunnels[0].ID = 0 }},
		{"tunnel is a port", "Tunnels[0]: ID 10 is also that of a port", func(s *State) { s.Tunnels[0].ID, s.Networks[0].Tunnel = 10, 10 }},
		{"udp port twice", "UDPPort 4789: also that of tunnel 3000", func(s *State) { s.Tunnels = append(s.Tunnels, Tunnel{ID: 3001, Interface: "vy", UDPPort: 4789}) }},
		{"its port is published", "Tunnels[0]: udp 4789 on 0.0.0.0 is that of", func(s *State) {
			s.Services = append(s.Services, Service{ID: 1, Name: "dns", Frontends: []Frontend{{Addr: addr("0.0.0.0"), Port: 4789, Proto: 17, Scope: ScopeOutside}}})
		}},
		{"device of a port", `Tunnels[0]: Interface "dev10" is the device of port 10`, func(s *State) { s.Tunnels[0].Interface = "dev10" }},
		{"two sources", `Sources[1] "192.0.2.2": of the family of Sources[0]`, func(s *State) { s.Tunnels[0].Sources = [2]netip.Addr{addr("192.0.2.1"), addr("192.0.2.2")} }},
		{"no tunnel", "Tunnel 2999: no such tunnel", func(s *State) { s.Networks[0].Tunnel = 2999 }},
		{"no vni", "Subnets[1].VNI 0: must be 1 to 16777214", func(s *State) { s.Networks[0].Subnets[1].VNI = 0 }},
		{"vni without tunnel", "Subnets[0].VNI 7: the network has no Tunnel", func(s *State) { s.Networks[1].Subnets[0].VNI = 7 }},
		{"vni twice", `VNI 4096 is also that of network 1 on tunnel 3000`, func(s *State) {
			s.Networks[1].Overlay = Overlay{Tunnel: testTunnel}
			s.Networks[1].Subnets[0].VNI, s.Networks[1].Subnets[1].VNI = 4096, 4100
		}},
		{"flood without tunnel", "FloodPeers, RouterMAC: the network has no Tunnel", func(s *State) { s.Networks[1].FloodPeers = true }},
		{"router mac", "RouterMAC 01:00:00:00:00:00", func(s *State) { s.Networks[0].RouterMAC = MAC{1} }},
		{"remote elsewhere", `Addr "10.9.0.1": in no subnet`, func(s *State) { s.Remotes[0].Addr = addr("10.9.0.1") }},
		{"remote of no overlay", "Network 2: no such network with a Tunnel", func(s *State) { s.Remotes[0].Network = 2 }},
		{"remote is here", "Remotes[0] (network 1, 10.1.0.10): is also held by port 10", func(s *State) { s.Remotes[0].Addr = addr("10.1.0.10") }},
		{"remote is the gateway", "Addr: the gateway, which every host has itself", func(s *State) { s.Remotes[0].Addr = addr("10.1.0.1") }},
		{"remote twice", "Remotes[1] (network 1, 10.1.5.5): listed twice", func(s *State) { s.Remotes = append(s.Remotes, s.Remotes[0]) }},
		{"vtep", "VTEP no address", func(s *State) { s.Remotes[0].VTEP = netip.Addr{} }},
		{"route of a subnet", `Routes[0].Prefix "10.1.0.0/16": is a subnet`, func(s *State) { s.Networks[0].Routes = []Route{{Prefix: prefix("10.1.0.0/16"), To: RouteReject}} }},
		{"route twice", "Routes[1].Prefix", func(s *State) { s.Networks[0].Routes = []Route{tunnel, tunnel} }},
		{"route nowhere", "Routes[0].To 0: no kind of route", func(s *State) { s.Networks[0].Routes = []Route{{Prefix: prefix("10.7.0.0/16")}} }},
		{"route via elsewhere", `Routes[0].Via "10.9.0.1": in no subnet`, func(s *State) {
			s.Networks[0].Routes = []Route{{Prefix: prefix("10.7.0.0/16"), To: RouteVia, Via: addr("10.9.0.1")}}
		}},
		{"route via the other family", `Routes[0].Via "fd00:1::5": not of the family`, func(s *State) {
			s.Networks[0].Routes = []Route{{Prefix: prefix("10.7.0.0/16"), To: RouteVia, Via: addr("fd00:1::5")}}
		}},
		{"route too much", `Routes[0].Via "10.1.0.5": is for routes via a router`, func(s *State) {
			s.Networks[0].Routes = []Route{{Prefix: prefix("10.7.0.0/16"), To: RouteReject, Via: addr("10.1.0.5")}}
		}},
		{"route into no tunnel", "Routes[0].To tunnel: the network has no Tunnel", func(s *State) { s.Networks[1].Routes = []Route{tunnel} }},
		{"route of a port", `Port 10: Routes[0].To host: the network has no HostPort`, func(s *State) {
			s.Networks[0].HostPort = 0
			s.Ports = slices.Delete(s.Ports, 0, 1)
			s.Ports[1].Routes = []Route{{Prefix: prefix("10.7.0.0/16"), To: RouteHost}}
		}},
		{"published on the tunnel's port", "HostPort 4789: the UDP port of a tunnel", func(s *State) {
			s.Mappings = []PortMapping{testMapping(s.Ports[2], 17, 4789)}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, f := base()
			c.change(&s)
			_, err := Compile(s, f)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
