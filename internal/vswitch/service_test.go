// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// parter hands some of a State's services and ports over in parts, the same one again where
// nothing in it changed.
type parter struct {
	last  [4]*ServicePart
	ports [4]*PortPart
}

// of is the State in parts; epoch moves services and ports between them.
func (p *parter) of(s State, epoch int) State {
	var in [4][]Service
	var rest []Service
	for _, x := range cloneServices(s.Services) {
		switch i := (int(x.ID) + epoch) % 6; {
		case i < 4:
			in[i] = append(in[i], x)
		default:
			rest = append(rest, x)
		}
	}
	for i, list := range in {
		same := func(a, b Service) bool { return equalService(&a, &b) }
		if len(list) == 0 {
			p.last[i] = nil
		} else if p.last[i] == nil || !slices.EqualFunc(p.last[i].Services, list, same) {
			p.last[i] = NewServicePart(list)
		}
	}
	s.Services, s.ServiceParts = rest, slices.Clone(p.last[:])
	p.portsOf(&s, epoch)
	return s
}

func (p *parter) portsOf(s *State, epoch int) {
	var in [4]PortPart
	var rest PortPart
	at := func(id PortID) *PortPart {
		if i := (int(id) + epoch) % 6; i < 4 {
			return &in[i]
		}
		return &rest
	}
	for _, x := range s.Ports {
		x.Addrs, x.MACs, x.ACLs = slices.Clone(x.Addrs), slices.Clone(x.MACs), slices.Clone(x.ACLs)
		x.Routes, x.NAT, x.Proxies = slices.Clone(x.Routes), slices.Clone(x.NAT), slices.Clone(x.Proxies)
		to := at(x.ID)
		to.Ports = append(to.Ports, x)
	}
	for _, m := range s.Mappings {
		to := at(m.Port)
		to.Mappings = append(to.Mappings, m)
	}
	for i, x := range in {
		if len(x.Ports)+len(x.Mappings) == 0 {
			p.ports[i] = nil
		} else if was := p.ports[i]; was == nil || !reflect.DeepEqual(was.Ports, x.Ports) || !reflect.DeepEqual(was.Mappings, x.Mappings) {
			p.ports[i] = NewPortPart(x.Ports, x.Mappings)
		}
	}
	s.Ports, s.Mappings, s.PortParts = rest.Ports, rest.Mappings, slices.Clone(p.ports[:])
}

func cloneServices(l []Service) []Service {
	l = slices.Clone(l)
	for i := range l {
		l[i].Frontends, l[i].Backends = slices.Clone(l[i].Frontends), slices.Clone(l[i].Backends)
	}
	return l
}

// changeService does one small thing to the services of a world.
func (w *world) changeService(n byte, pick func(int) int) {
	s := &w.s
	if n%32 == 17 {
		s.Announced = []Announcement{{Addr: netip.AddrFrom4([4]byte{10, 96, 0, n % 5})}, {Addr: netip.MustParseAddr("192.0.2.10")}, {Addr: netip.AddrFrom4([4]byte{10, 96, 0, n % 3}), Uplink: "eth3"}}
		return
	}
	if len(s.Services) < 3 || n%8 == 0 {
		id := ServiceID(n%16 + 1)
		x := Service{ID: id, Name: fmt.Sprint("svc", id), Flags: ServiceFlags(n % 4), Affinity: uint32(n % 3)}
		if n%32 == 9 {
			x.Flags |= ServiceConsistent
		}
		f := Frontend{Addr: netip.AddrFrom4([4]byte{10, 96, 0, n % 5}), Port: 80 + uint16(n%3)*10000, Proto: 6, Scope: Scope(n%7 + 1)}
		switch n % 9 {
		case 1:
			f.Addr = netip.IPv4Unspecified()
		case 2:
			f.Addr = netip.MustParseAddr("192.0.2.10") // of the host
		case 3:
			if len(s.Networks) > 0 {
				f.Network, f.Scope = s.Networks[pick(len(s.Networks))].ID, 0
			}
		case 4, 5: // inside a subnet, seen by its endpoints or not
			if len(s.Networks) > 0 {
				if at := s.Networks[pick(len(s.Networks))]; len(at.Subnets) > 0 && at.Subnets[0].Prefix.Addr().Is4() {
					a := at.Subnets[0].Prefix.Addr().As4()
					a[3] = 200 + n%3
					if f.Addr = netip.AddrFrom4(a); n%2 == 0 {
						f.Network, f.Scope = at.ID, 0
					}
				}
			}
		}
		x.Frontends = []Frontend{f}
		if i := slices.IndexFunc(s.Services, func(x Service) bool { return x.ID == id }); i >= 0 {
			s.Services[i].Frontends = append(s.Services[i].Frontends, f)
			return
		}
		s.Services = append(s.Services, x)
		return
	}
	x := &s.Services[pick(len(s.Services))]
	switch n % 8 {
	case 1, 2: // a backend of another host
		x.Backends = append(x.Backends, Backend{Addr: netip.AddrFrom4([4]byte{10, 200, 0, n}), Port: 80, Weight: uint16(n % 4)})
	case 3, 4: // one of ours
		for _, p := range s.Ports {
			if int(p.ID)%4 == int(n)%4 && p.Kind == PortContainer && len(p.Addrs) > 0 && p.Addrs[0].Is4() {
				x.Backends = append(x.Backends, Backend{Addr: p.Addrs[0], Port: 8000 + uint16(n), At: p.ID})
			}
		}
	case 5:
		if len(x.Backends) > 0 {
			x.Backends[pick(len(x.Backends))].State ^= BackendDraining
		}
	case 6:
		if len(x.Backends) > 0 {
			i := pick(len(x.Backends))
			x.Backends = slices.Delete(x.Backends, i, i+1)
		}
	case 7:
		if n%16 == 7 {
			x.Flags ^= ServiceFlags(1 << (n >> 4 % 2))
		} else {
			i := pick(len(s.Services))
			s.Services = slices.Delete(s.Services, i, i+1)
		}
	}
}

// servicesWhole checks that every list a frontend names is there, and everyone on it.
func (k kernel) servicesWhole(t testing.TB, when string) {
	for key, v := range k["svc"] {
		s := v.(SvcRow)
		for _, bank := range [][2]uint16{{s.Bank, s.Count}, {s.OutBank, s.OutCount}} {
			for i := range bank[1] {
				id, ok := k["slot"][SlotKey{Svc: s.Id, Bank: bank[0], I: i}]
				if !ok {
					t.Errorf("%s: svc %v: slot %d of bank %d is not there", when, key, i, bank[0])
					continue
				}
				row, ok := k["member"][MemberKey{Svc: s.Id, Id: id.(uint32)}]
				if !ok {
					t.Errorf("%s: svc %v: member %v is not there", when, key, id)
					continue
				}
				if p := row.(MemberRow).Port; p != 0 && k["port"][uint32(p)] == nil {
					t.Errorf("%s: svc %v: port %d of member %v is not there", when, key, p, id)
				}
			}
		}
	}
}

func testService(id ServiceID, backends ...Backend) Service {
	return Service{
		ID: id, Object: fmt.Sprint("lb", id), Name: fmt.Sprint("svc", id), Backends: backends,
		Frontends: []Frontend{{Addr: netip.AddrFrom4([4]byte{10, 96, byte(id >> 8), byte(id)}), Port: 80, Proto: 6, Scope: ScopeCluster}},
	}
}

func TestInvalidService(t *testing.T) {
	addr := netip.MustParseAddr
	base := func() (State, Facts) {
		f := testFacts()
		p := testPort(10, 1, f)
		return State{
			Networks: []Network{testNetwork(1)}, Ports: []Port{testHostPort(1, f), p},
			Services: []Service{
				testService(1, Backend{Addr: p.Addrs[0], Port: 8080, At: 10}, Backend{Addr: addr("10.9.0.1"), Port: 8080}),
				testService(2),
			},
		}, f
	}
	for _, c := range []struct {
		name, want string
		change     func(s *State, x *Service)
	}{
		{"id", "ID 0: must be 1 to 2147483647", func(_ *State, x *Service) { x.ID = 0 }},
		{"id of published ports", "ID 2147483648: must be", func(_ *State, x *Service) { x.ID = MaxServiceID + 1 }},
		{"id twice", "Services[1] (svc2): ID 1 is also that of svc1", func(s *State, _ *Service) { s.Services[1].ID = 1 }},
		{"no frontend", "Frontends: none", func(_ *State, x *Service) { x.Frontends = nil }},
		{"frontend twice", "Frontends[0]: tcp 80 on 10.96.0.2 is also that of svc", func(s *State, x *Service) { x.Frontends = slices.Clone(s.Services[1].Frontends) }},
		{"frontend and published port", "is also that of", func(s *State, x *Service) {
			x.Frontends[0] = Frontend{Addr: addr("0.0.0.0"), Port: 8080, Proto: 6, Scope: ScopeAll}
			s.Mappings = []PortMapping{testMapping(s.Ports[1], 6, 8080)}
		}},
		{"proto", "Frontends[0].Proto 1: only", func(_ *State, x *Service) { x.Frontends[0].Proto = 1 }},
		{"port", "Frontends[0].Port 0", func(_ *State, x *Service) { x.Frontends[0].Port = 0 }},
		{"no address", "Frontends[0].Addr no address", func(_ *State, x *Service) { x.Frontends[0].Addr = netip.Addr{} }},
		{"scope", "Frontends[0].Scope 0x8", func(_ *State, x *Service) { x.Frontends[0].Scope = 8 }},
		{"nobody", "nobody would see it", func(_ *State, x *Service) { x.Frontends[0].Scope = 0 }},
		{"scope and network", "is seen there only", func(_ *State, x *Service) { x.Frontends[0].Network = 1 }},
		{"network", "Network 7: no such network", func(_ *State, x *Service) { x.Frontends[0].Network, x.Frontends[0].Scope = 7, 0 }},
		{"any of a network", "leave Network out", func(_ *State, x *Service) {
			x.Frontends[0] = Frontend{Addr: addr("0.0.0.0"), Port: 80, Proto: 6, Network: 1}
		}},
		{"loopback", "Scope must be 0x2", func(_ *State, x *Service) { x.Frontends[0].Addr = addr("127.0.0.1") }},
		{"frontend family", "make a service for each family", func(_ *State, x *Service) {
			x.Frontends = append(x.Frontends, Frontend{Addr: addr("fd00:96::1"), Port: 80, Proto: 6, Scope: ScopeAll})
		}},
		{"backend family", "Backends[0].Addr \"fd00:1::a\": not of the family", func(s *State, x *Service) { x.Backends[0].Addr = s.Ports[1].Addrs[1] }},
		{"backend port", "Backends[0].Port 0", func(_ *State, x *Service) { x.Backends[0].Port = 0 }},
		{"backend state", "Backends[0].State 2", func(_ *State, x *Service) { x.Backends[0].State = 2 }},
		{"backend at", "Backends[0].At 77: no such port", func(_ *State, x *Service) { x.Backends[0].At = 77 }},
		{"backend elsewhere", "not an address of port 10", func(_ *State, x *Service) { x.Backends[0].Addr = addr("10.1.9.9") }},
		{"backend twice", "10.9.0.1:8080 is listed twice", func(_ *State, x *Service) { x.Backends = append(x.Backends, x.Backends[1]) }},
		{"backend multicast", "not a unicast address", func(_ *State, x *Service) { x.Backends[1].Addr = addr("224.0.0.1") }},
		{"weights", "need 5001 slots, over 4096", func(_ *State, x *Service) { x.Backends[0].Weight, x.Backends[1].Weight = 5000, 1 }},
		{"sctp", "it must equal Frontends[0].Port 80", func(_ *State, x *Service) { x.Frontends[0].Proto = 132 }},
		{"flags", "Flags 0x40: not known", func(_ *State, x *Service) { x.Flags = 64 }},
		{"dsr alone", "ServiceDSR needs ServiceConsistent", func(_ *State, x *Service) { x.Flags = ServiceDSR }},
		{"as it was sent, elsewhere", "each must be on this host", func(_ *State, x *Service) { x.Flags, x.Backends[0].At = ServicePreserve, 0 }},
		{"as it was sent, from the host", "cannot serve processes of the host", func(_ *State, x *Service) {
			x.Flags, x.Frontends[0].Scope = ServicePreserve, ScopeCluster
			x.Backends = slices.DeleteFunc(slices.Clone(x.Backends), func(b Backend) bool { return b.At == 0 })
		}},
		{"dsr and local", "which ServiceLocal excludes", func(_ *State, x *Service) { x.Flags = ServiceDSR | ServiceConsistent | ServiceLocal }},
		{"announced", "Announced[0] (lb1): Addr \"224.0.0.1\": not a unicast address", func(s *State, _ *Service) {
			s.Announced = []Announcement{{Object: "lb1", Addr: addr("224.0.0.1")}}
		}},
		{"announced link-local", "nobody else's to ask for", func(s *State, _ *Service) { s.Announced = []Announcement{{Addr: addr("fe80::1")}} }},
		{"affinity", "over a week", func(_ *State, x *Service) { x.Affinity = 1e6 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, f := base()
			if _, err := Compile(s, f); err != nil {
				t.Fatalf("the State before the change: %v", err)
			}
			c.change(&s, &s.Services[0])
			if _, err := Compile(s, f); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "%!") {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

// Only flows that a change is about are looked at again.
func TestServiceEpochs(t *testing.T) {
	addr := netip.MustParseAddr
	f := testFacts()
	p, q := testPort(10, 1, f), testPort(11, 1, f)
	s := State{Networks: []Network{testNetwork(1)}, Ports: []Port{testHostPort(1, f), p, q}}
	local, local2, remote := Backend{Addr: p.Addrs[0], Port: 80, At: 10}, Backend{Addr: q.Addrs[0], Port: 80, At: 11}, Backend{Addr: addr("10.9.0.1"), Port: 80}
	x := testService(1, local, local2, remote)
	one := testService(2, remote)
	one.Frontends[0].Network, one.Frontends[0].Scope = 1, 0
	for _, c := range []struct {
		name   string
		change func(x, one *Service)
		want   []uint32
	}{
		{"a backend more", func(x, _ *Service) { x.Backends = append(x.Backends, Backend{Addr: addr("10.9.0.2"), Port: 80}) }, nil},
		{"weights", func(x, _ *Service) { x.Backends[0].Weight = 2 }, nil},
		{"affinity", func(x, _ *Service) { x.Affinity = 10 }, nil},
		{"local backend drains", func(x, _ *Service) { x.Backends[0].State = BackendDraining }, []uint32{10}},
		{"local backend goes", func(x, _ *Service) { x.Backends = x.Backends[1:] }, []uint32{10}},
		{"remote backend goes", func(x, _ *Service) { x.Backends = x.Backends[:2] }, []uint32{EpochNet, EpochGlobal}},
		{"remote backend goes from one network's", func(_, one *Service) { one.Backends = nil }, []uint32{EpochNet, EpochNet + 1}},
		{"frontend goes", func(x, _ *Service) { x.Frontends[0].Port = 81; x.Backends = x.Backends[:2] }, []uint32{10, 11, EpochNet, EpochGlobal}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := s
			s.Services = cloneServices([]Service{x, one})
			before, err := Compile(s, f)
			if err != nil {
				t.Fatal(err)
			}
			c.change(&s.Services[0], &s.Services[1])
			after, err := Compile(s, f)
			if err != nil {
				t.Fatal(err)
			}
			d := Diff(before, after)
			if len(d.Steps) == 0 || !slices.Equal(d.Epochs, c.want) {
				t.Errorf("%d steps, epochs %v, want %v", len(d.Steps), d.Epochs, c.want)
			}
		})
	}
}

func TestMaglev(t *testing.T) {
	make := func(n, weight int) (of []choice) {
		for i := range n {
			b := Backend{Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), Port: 80}
			of = append(of, choice{uint32(i + 1), 1 + i%weight, backendHash(b)})
		}
		return of
	}
	for _, n := range []int{1, 2, 3, 10, 11, 50, 80} {
		table := maglev(make(n, 1))
		want := maglevSmall
		if n > 10 {
			want = maglevLarge
		}
		if len(table) != want {
			t.Fatalf("%d backends: %d slots, want %d", n, len(table), want)
		}
		share := map[uint32]int{}
		for _, id := range table {
			share[id]++
		}
		for id := range n {
			if got := share[uint32(id+1)]; got < len(table)/n || got > len(table)/n+1 {
				t.Errorf("%d backends: %d has %d of %d slots", n, id, got, len(table))
			}
		}
		// In another order the same, and without the last nearly the same.
		of := make(n, 1)
		slices.Reverse(of)
		if !slices.Equal(maglev(of), table) {
			t.Errorf("%d backends: the table follows from their order", n)
		}
		if n < 3 || n == 11 {
			continue
		}
		moved, fewer := 0, maglev(make(n-1, 1))
		for i := range table {
			if table[i] != uint32(n) && table[i] != fewer[i] {
				moved++
			}
		}
		if moved > len(table)/4 {
			t.Errorf("%d backends: without one %d of %d other slots move", n, moved, len(table))
		}
	}
	share := map[uint32]int{}
	for _, id := range maglev(make(2, 2)) { // weights 1 and 2
		share[id]++
	}
	if share[2] < 2*share[1]-3 || share[2] > 2*share[1]+3 {
		t.Errorf("weights 1 and 2: shares %v", share)
	}
}

// manyServices is n services of ten backends each, on this host and others.
func manyServices(n int, f Facts) State {
	s := State{Networks: []Network{testNetwork(1)}, Ports: []Port{testHostPort(1, f)}}
	for i := range 100 {
		s.Ports = append(s.Ports, testPort(PortID(i+10), 1, f))
	}
	for i := range n {
		x := testService(ServiceID(i + 1))
		for j := range 10 {
			b := Backend{Addr: netip.AddrFrom4([4]byte{10, 200 + byte(j), byte(i >> 8), byte(i)}), Port: 8080}
			if j == 0 {
				p := s.Ports[1+i%100]
				b.Addr, b.At = p.Addrs[0], p.ID
			}
			x.Backends = append(x.Backends, b)
		}
		s.Services = append(s.Services, x)
	}
	return s
}

func BenchmarkServiceChange(b *testing.B) {
	for _, n := range []int{100, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			f := testFacts()
			s := manyServices(n, f)
			var parts [256][]Service // as the model gives them
			for i, x := range s.Services {
				parts[i%256] = append(parts[i%256], x)
			}
			s.Services = nil
			for _, p := range parts {
				s.ServiceParts = append(s.ServiceParts, NewServicePart(p))
			}
			var c Compiler
			start := time.Now()
			last, err := c.Compile(s, f)
			if err != nil {
				b.Fatal(err)
			}
			whole := time.Since(start)
			start = time.Now()
			Diff(Tables{}, last)
			b.ReportMetric(float64(whole.Milliseconds()), "ms/whole")
			b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms/wholediff")
			for i := 0; b.Loop(); i++ {
				k := i % n % 256
				list := slices.Clone(s.ServiceParts[k].Services)
				x := &list[i%n/256]
				x.Backends = slices.Clone(x.Backends)
				x.Backends[1].State ^= BackendDraining
				s.ServiceParts = slices.Clone(s.ServiceParts)
				s.ServiceParts[k] = NewServicePart(list)
				next, err := c.Compile(s, f)
				if err != nil {
					b.Fatal(err)
				}
				if d := Diff(last, next); len(d.Steps) == 0 {
					b.Fatal("no change")
				}
				last = next
			}
			b.ReportMetric(float64(whole.Milliseconds()), "ms/whole")
		})
	}
}

// An address that only a service had becomes one of the host, where another service
// has the port on every address: neither stands in the other's way, and NAT leaves the
// port alone until both are gone.
func TestAddressBecomesHosts(t *testing.T) {
	s, f := State{}, testFacts()
	whole := f
	f.Uplinks = slices.Clone(f.Uplinks)
	vip := netip.MustParseAddr("192.0.2.10")
	for i := range f.Uplinks {
		f.Uplinks[i].Addrs = slices.DeleteFunc(slices.Clone(f.Uplinks[i].Addrs), func(p netip.Prefix) bool { return p.Addr() == vip })
	}
	f.HostAddrs = slices.DeleteFunc(slices.Clone(f.HostAddrs), func(a netip.Addr) bool { return a == vip })
	service := func(id ServiceID, at string) Service {
		return Service{ID: id, Frontends: []Frontend{{Addr: netip.MustParseAddr(at), Port: 12000, Proto: 6, Scope: ScopeAll}}}
	}
	every, one := service(1, "0.0.0.0"), service(2, vip.String())
	c, k, last := &Compiler{}, kernel{}, Tables{}
	for _, step := range []struct {
		name     string
		facts    Facts
		services []Service
		busy     bool
	}{
		{"nobody's", f, []Service{every, one}, false},
		{"the host's", whole, []Service{every, one}, true},
		{"without the one", whole, []Service{every}, true},
		{"with it again", whole, []Service{one, every}, true},
		{"without every", whole, []Service{one}, true},
		{"without both", whole, nil, false},
	} {
		s.Services = step.services
		next, err := c.Compile(s, step.facts)
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		for _, step := range Diff(last, next).Steps {
			k.do(t, step)
		}
		last = next
		if _, busy := k["portbusy"][busyKey(vip, 12000, 6)]; busy != step.busy {
			t.Errorf("%s: busy %v, want %v", step.name, busy, step.busy)
		}
	}
}
