// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// elsewhere is an overlay with one endpoint here and one on another host, and a
// service that clients outside ask.
func elsewhere() (State, Facts) {
	addr := netip.MustParseAddr
	f := testFacts()
	f.Ifindex["vx"] = 5000
	n := testNetwork(1)
	n.Overlay = Overlay{Tunnel: testTunnel}
	for i := range n.Subnets {
		n.Subnets[i].VNI = uint32(5000 + i)
	}
	p := testPort(10, 1, f)
	x := testService(1, Backend{Addr: p.Addrs[0], Port: 8080, At: 10}, Backend{Addr: addr("10.1.200.1"), Port: 8080, Network: 1})
	x.Frontends[0].Scope, x.SourceVIP = ScopeAll, addr("10.1.200.250")
	return State{
		Networks: []Network{n, testNetwork(2)}, Ports: []Port{testHostPort(1, f), p, testHostPort(2, f)}, Services: []Service{x},
		Tunnels: []Tunnel{{ID: testTunnel, Interface: "vx", Up: true}},
		Remotes: []Remote{{Network: 1, Addr: addr("10.1.200.1"), MAC: MAC{2, 3, 0, 0, 0, 1}, VTEP: addr("198.51.100.100")}},
	}, f
}

func TestElsewhereErrors(t *testing.T) {
	addr := netip.MustParseAddr
	for _, c := range []struct {
		name, want string // "" = it is taken
		change     func(s *State, x *Service)
	}{
		{"as it is", "", func(*State, *Service) {}},
		{"by a route", "", func(s *State, x *Service) {
			s.Networks[0].Routes = []Route{{Prefix: netip.MustParsePrefix("10.77.0.0/16"), To: RouteVia, Via: addr("10.1.200.1")}}
			x.Backends[1].Addr = addr("10.77.0.1")
		}},
		{"no network", "Backends[1].Network 7: no such network", func(_ *State, x *Service) { x.Backends[1].Network = 7 }},
		{"no overlay", "Backends[1].Network 2: has no Tunnel", func(_ *State, x *Service) { x.Backends[1].Network = 2 }},
		{"here too", "Backends[0].Network 1: port 10 (At) has the backend on this host", func(_ *State, x *Service) { x.Backends[0].Network = 1 }},
		{"gateway", "Backends[1].Addr \"10.1.0.1\": the gateway of network 1", func(_ *State, x *Service) { x.Backends[1].Addr = addr("10.1.0.1") }},
		{"nowhere", "Backends[1].Addr \"10.77.0.1\": in no subnet of network 1", func(_ *State, x *Service) { x.Backends[1].Addr = addr("10.77.0.1") }},
		{"no source", "Backends[1].Network 1: clients outside need the service's SourceVIP", func(_ *State, x *Service) { x.SourceVIP = netip.Addr{} }},
		{"no source, local", "", func(_ *State, x *Service) { x.SourceVIP, x.Flags = netip.Addr{}, ServiceLocal }},
		{"no source, direct", "", func(_ *State, x *Service) { x.SourceVIP, x.Flags = netip.Addr{}, ServiceDSR|ServiceConsistent }},
		{"direct, at every address", "Network 1: with ServiceDSR the backend's host is to answer as Frontends[0].Addr", func(_ *State, x *Service) {
			x.Frontends[0].Addr, x.Flags = addr("0.0.0.0"), ServiceDSR|ServiceConsistent
		}},
		{"VNI of services", "Subnets[0].VNI 16777215: must be 1 to 16777214", func(s *State, _ *Service) { s.Networks[0].Subnets[0].VNI = ServiceVNI }},
		{"no source, nobody outside", "", func(_ *State, x *Service) { x.SourceVIP, x.Frontends[0].Scope = netip.Addr{}, ScopeCluster }},
		{"source of the other family", "SourceVIP \"fd00:1::fa\" is not of the backend's family", func(_ *State, x *Service) { x.SourceVIP = addr("fd00:1::fa") }},
		{"source elsewhere", "SourceVIP \"192.0.2.10\" is in none of its subnets", func(_ *State, x *Service) { x.SourceVIP = addr("192.0.2.10") }},
		{"source for all", "SourceVIP \"224.0.0.1\": not a unicast address", func(_ *State, x *Service) { x.SourceVIP = addr("224.0.0.1") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, f := elsewhere()
			c.change(&s, &s.Services[0])
			_, err := Compile(s, f)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "%!")) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

// What clients outside have begun with a backend of an overlay is looked at again
// with that network, and when the address changes that the backend sees.
func TestElsewhereEpochs(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(x *Service)
		want   []uint32
	}{
		{"backend goes", func(x *Service) { x.Backends = x.Backends[:1] }, []uint32{EpochNet + 1, EpochGlobal}},
		{"source", func(x *Service) { x.SourceVIP = netip.MustParseAddr("10.1.200.251") }, []uint32{10, EpochNet + 1, EpochGlobal}},
		{"local inside", func(x *Service) { x.Flags ^= ServiceLocalInside }, []uint32{10, EpochNet + 1, EpochGlobal}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, f := elsewhere()
			before, err := Compile(s, f)
			if err != nil {
				t.Fatal(err)
			}
			s.Services = cloneServices(s.Services)
			c.change(&s.Services[0])
			after, err := Compile(s, f)
			if err != nil {
				t.Fatal(err)
			}
			if got := Diff(before, after).Epochs; !slices.Equal(got, c.want) {
				t.Errorf("epochs %v, want %v", got, c.want)
			}
		})
	}
}

// Hosts listen to what others relay only while a service is answered directly.
func TestRelayed(t *testing.T) {
	s, f := elsewhere()
	for _, want := range []int{0, 2} { // the VNI itself and one tunnel end
		tables, err := Compile(s, f)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for k, row := range tables.Rows().Peer {
			if k.Vni == ServiceVNI {
				if n++; row.Net != 0 || row.Zone != 0 || k.Port != uint16(testTunnel) {
					t.Errorf("%+v -> %+v", k, row)
				}
			}
		}
		if n != want {
			t.Errorf("flags %#x: %d rows, want %d", s.Services[0].Flags, n, want)
		}
		s.Services[0].Flags = ServiceDSR | ServiceConsistent
	}
}

// Of two backends, policies leave only that of this host.
func TestLocalInside(t *testing.T) {
	for _, c := range []struct {
		flags   ServiceFlags
		in, out uint16
	}{{0, 2, 2}, {ServiceLocal, 2, 1}, {ServiceLocalInside, 1, 2}, {ServiceLocal | ServiceLocalInside, 1, 1}} {
		s, f := elsewhere()
		s.Services[0].Flags = c.flags
		tables, err := Compile(s, f)
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range tables.Rows().Svc {
			if row.Count != c.in || row.OutCount != c.out {
				t.Errorf("flags %#x: %d slots inside, %d outside; want %d and %d", c.flags, row.Count, row.OutCount, c.in, c.out)
			}
		}
	}
}
