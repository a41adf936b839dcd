// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import (
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
)

// poolLab has pool 1 with three addresses of each family at network 1, which no
// interface holds, and pool 2 with one.
func poolLab(t *testing.T) *lab {
	l := newLab(t, true)
	l.reset()
	put := func(first uint32, addrs ...string) {
		for i, a := range addrs {
			row := NATPool{Addr: addr(a), Lo: 20000, Hi: 29999}
			if i == 0 {
				row.Count = uint16(len(addrs))
			}
			l.put("natpool", first+uint32(i), row)
		}
	}
	put(256, "203.0.113.1", "203.0.113.2", "203.0.113.3")
	put(264, "2001:db8:9::1", "2001:db8:9::2", "2001:db8:9::3")
	put(272, "203.0.113.50")
	put(280, "2001:db8:9::50")
	l.setNet(1, func(n *Net) { n.Natpool4, n.Natpool6 = 256, 264 })
	return l
}

func (l *lab) setNet(id uint32, f func(*Net)) {
	l.t.Helper()
	var n Net
	if err := l.coll.Maps["net"].Lookup(id, &n); err != nil {
		l.t.Fatal(err)
	}
	f(&n)
	l.put("net", id, n)
	l.bump(8192 + id)
}

func (l *lab) setPort(name string, f func(*Port)) {
	l.t.Helper()
	id := l.port(name).id
	var p Port
	if err := l.coll.Maps["port"].Lookup(id, &p); err != nil {
		l.t.Fatal(err)
	}
	f(&p)
	l.put("port", id, p)
	l.bump(id)
}

// An endpoint shows one address of the pool, whatever it asks; answers come back
// although no interface has it; another endpoint's pool of its own goes before.
func TestPools(t *testing.T) {
	l := poolLab(t)
	for _, f := range fams() {
		l.reset()
		_, k := l.send(t, "a", fmt.Sprintf("%s.25000 > %s.80: tcp S", f.a, f.x))
		if k == nil || k.Src.String() == f.h {
			t.Fatalf("%s: got %v", f.name, k)
		}
		shown := k.Src
		for i := range 20 {
			_, k := l.send(t, "a", fmt.Sprintf("%s.%d > %s.%d: udp", f.a, 3000+i, f.x, 100+i))
			if k == nil || k.Src != shown || k.SrcPort < 20000 || k.SrcPort > 29999 {
				t.Fatalf("%s: got %v, first from %v", f.name, k, shown)
			}
			_, r := l.send(t, "x", k.Reverse().String())
			if r == nil || r.Dst.String() != f.a || int(r.DstPort) != 3000+i {
				t.Errorf("%s: answer %v", f.name, r)
			}
		}
		l.setPort("b", func(p *Port) { p.Natpool4, p.Natpool6 = 272, 280 })
		own := map[string]string{"4": "203.0.113.50", "6": "2001:db8:9::50"}[f.name]
		if _, k := l.send(t, "b", fmt.Sprintf("%s.25000 > %s.80: tcp S", f.b, f.x)); k == nil || k.Src.String() != own {
			t.Errorf("%s: got %v, want from %s", f.name, k, own)
		}
		l.setPort("b", func(p *Port) { p.Natpool4, p.Natpool6 = 0, 0 })
		// Network 2 has none: the uplink's own address.
		c := map[string]string{"4": "192.168.102.10", "6": "fd00:102::10"}[f.name]
		if _, k := l.send(t, "c", fmt.Sprintf("%s.45000 > %s.80: tcp S", c, f.x)); k == nil || k.Src.String() != f.h {
			t.Errorf("%s: got %v, want from %s", f.name, k, f.h)
		}
	}
}

// Endpoints spread over the addresses of a pool.
func TestPoolSpread(t *testing.T) {
	l := poolLab(t)
	l.setPort("a", func(p *Port) { p.Flags |= 1 })
	seen := map[string]int{}
	for i := range 60 {
		a := fmt.Sprintf("192.168.100.%d", 100+i)
		l.put("portip", PortIPKey{Port: 1, Addr: addr(a)}, uint8(1))
		_, k := l.send(t, "a", a+".25000 > 10.0.0.9.80: udp")
		if k == nil {
			t.Fatal("not forwarded")
		}
		seen[k.Src.String()]++
	}
	for _, a := range []string{"203.0.113.1", "203.0.113.2", "203.0.113.3"} {
		if seen[a] < 8 {
			t.Errorf("%s for %d of 60 endpoints: %v", a, seen[a], seen)
		}
	}
}

// A conversation keeps its address while the pool has it, and is made anew when
// the pool has it no longer.
func TestPoolChanges(t *testing.T) {
	l := poolLab(t)
	first := func() string {
		_, k := l.send(t, "a", "192.168.100.10.25000 > 10.0.0.9.53: udp")
		if k == nil {
			t.Fatal("not forwarded")
		}
		return k.Src.String()
	}
	was := first()
	addrs := []string{"203.0.113.1", "203.0.113.2", "203.0.113.3"}
	// The same addresses in every other order: hashes point elsewhere now.
	for _, order := range [][]int{{1, 2, 0}, {2, 0, 1}, {0, 2, 1}} {
		for i, j := range order {
			row := NATPool{Addr: addr(addrs[j]), Lo: 20000, Hi: 29999}
			if i == 0 {
				row.Count = 3
			}
			l.put("natpool", uint32(256+i), row)
		}
		l.bump(16383)
		if is := first(); is != was {
			t.Errorf("order %v: shown as %s, before as %s", order, is, was)
		}
	}
	rest := slices.DeleteFunc(addrs, func(a string) bool { return a == was })
	l.put("natpool", uint32(256), NATPool{Addr: addr(rest[0]), Lo: 20000, Hi: 29999, Count: 2})
	l.put("natpool", uint32(257), NATPool{Addr: addr(rest[1]), Lo: 20000, Hi: 29999})
	l.put("natpool", uint32(258), NATPool{})
	l.bump(16383)
	if is := first(); is == was {
		t.Errorf("shown as %s, which the pool has no more", is)
	}
	if o, _ := l.send(t, "x", fmt.Sprintf("10.0.0.9.53 > %s.25000: udp", was)); SwitchGhResultVerdict(o.res.Verdict) != SwitchGhResultVerdictGH_RESULT_NEXT {
		t.Errorf("the old binding still answers: %+v", o.res)
	}
}

// Destinations that the route excepts see the endpoint itself, and answer it;
// when the exception goes, so does the flow.
func TestNoNATRoutes(t *testing.T) {
	l := newLab(t, true)
	for _, f := range fams() {
		l.reset()
		key := RouteKey{Prefixlen: 32 + 96 + 24, Zone: 1, Addr: addr("10.0.0.0")}
		if f.name == "6" {
			key = RouteKey{Prefixlen: 32 + 64, Zone: 1, Addr: addr("fd00:a::")}
		}
		l.put("route", key, RouteVal{Kind: uint16(SwitchGhRouteKindGH_ROUTE_UPLINK)})
		l.bump(8193)
		_, k := l.send(t, "a", fmt.Sprintf("%s.25000 > %s.80: tcp S", f.a, f.x))
		if k == nil || k.Src.String() != f.a || k.SrcPort != 25000 || k.TTL != 63 {
			t.Fatalf("%s: got %v", f.name, k)
		}
		if _, r := l.send(t, "x", k.Reverse().String()); r == nil || r.Dst.String() != f.a {
			t.Errorf("%s: answer %v", f.name, r)
		}
		// What the outside begins is not for the endpoint.
		if o, _ := l.send(t, "x", fmt.Sprintf("%s.5 > %s.80: tcp S", f.x, f.a)); SwitchGhResultVerdict(o.res.Verdict) != SwitchGhResultVerdictGH_RESULT_NEXT {
			t.Errorf("%s: %+v", f.name, o.res)
		}
		if err := l.coll.Maps["route"].Delete(key); err != nil {
			t.Fatal(err)
		}
		l.bump(8193)
		if _, k := l.send(t, "a", fmt.Sprintf("%s.25001 > %s.80: tcp S", f.a, f.x)); k == nil || k.Src.String() != f.h {
			t.Errorf("%s: after the exception: %v", f.name, k)
		}
	}
}

// What one endpoint's own routes say of NAT comes before its network's, also where
// the network translates nothing and does not reach outside at all.
func TestNATOfOnePort(t *testing.T) {
	l := newLab(t, true)
	for _, f := range fams() {
		l.reset()
		key := RouteKey{Prefixlen: 32 + 96, Zone: 1, Addr: addr("0.0.0.0")}
		if f.name == "6" {
			key = RouteKey{Prefixlen: 32, Zone: 1}
		}
		l.put("route", key, RouteVal{Kind: uint16(SwitchGhRouteKindGH_ROUTE_UPLINK)})
		port := l.port("a")
		key.Port = uint16(port.id)
		l.setPort("a", func(p *Port) { p.Flags |= uint8(SwitchGhPortFlagsGH_PORT_ROUTES) })
		l.setNet(1, func(n *Net) { n.Flags &^= uint32(SwitchGhNetFlagsGH_NET_UPLINK) })
		way := RouteVal{Kind: uint16(SwitchGhRouteKindGH_ROUTE_UPLINK), Flags: uint16(SwitchGhRouteFlagsGH_ROUTE_NAT), Nh: 300}
		for i, shown := range map[uint32]string{300: f.x + "1", 301: f.x + "2"} {
			l.put("natpool", i, NATPool{Addr: addr(shown), Lo: 20000, Hi: 20009, Count: 1})
		}
		for nh, shown := range map[uint32]string{300: f.x + "1", 301: f.x + "2"} {
			way.Nh = nh
			l.put("route", key, way)
			l.bump(port.id)
			_, k := l.send(t, "a", fmt.Sprintf("%s.25000 > %s.80: tcp S", f.a, f.x))
			if k == nil || k.Src.String() != shown || k.SrcPort < 20000 || k.SrcPort > 20009 {
				t.Fatalf("%s: by pool %d got %v", f.name, nh, k)
			}
			if _, r := l.send(t, "x", k.Reverse().String()); r == nil || r.Dst.String() != f.a || r.DstPort != 25000 {
				t.Errorf("%s: answer %v", f.name, r)
			}
		}
		if _, k := l.send(t, "b", fmt.Sprintf("%s.25000 > %s.80: tcp S", f.b, f.x)); k != nil {
			t.Errorf("%s: another endpoint left as %v", f.name, k)
		}
	}
}

// A port that a socket of the host has bound by hand is not taken, whether the
// endpoint has it already or not.
func TestNATLeavesSockets(t *testing.T) {
	l := newLab(t, true)
	for _, f := range fams() {
		for _, proto := range []string{"tcp", "udp"} {
			l.reset()
			tuple := fmt.Sprintf("%s.45000 > %s.80: %s", f.a, f.x, map[string]string{"tcp": "tcp S", "udp": "udp"}[proto])
			if _, k := l.send(t, "a", tuple); k == nil || k.SrcPort != 45000 {
				t.Fatalf("%s %s: without a socket it leaves as %v", f.name, proto, k)
			}
			l.reset()
			var c io.Closer
			var err error
			l.in(func() {
				if proto == "udp" {
					c, err = net.ListenPacket("udp"+f.name, ":45000")
				} else {
					c, err = net.Listen("tcp"+f.name, ":45000")
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, k := l.send(t, "a", tuple); k == nil || k.SrcPort == 45000 {
				t.Errorf("%s %s: it leaves as %v, which the socket would get answers of", f.name, proto, k)
			}
			c.Close()
		}
	}
}

// Two networks may use the same addresses. Where neither is translated, the
// second one's conversation gets another source port; the first one's answers stay its own.
func TestSameTupleOfTwoZones(t *testing.T) {
	l := newLab(t, true)
	for _, f := range fams() {
		l.reset()
		for _, id := range []uint32{1, 2} {
			l.setNet(id, func(n *Net) { n.Flags &^= uint32(SwitchGhNetFlagsGH_NET_SNAT) })
			way := RouteVal{Kind: uint16(SwitchGhRouteKindGH_ROUTE_UPLINK)}
			l.put("route", RouteKey{Prefixlen: 32 + 96, Zone: uint16(id), Addr: addr("0.0.0.0")}, way)
			l.put("route", RouteKey{Prefixlen: 32, Zone: uint16(id)}, way)
		}
		l.put("portip", PortIPKey{Port: uint16(l.port("c").id), Addr: addr(f.a)}, uint8(1))
		tuple := fmt.Sprintf("%s.5000 > %s.53: udp", f.a, f.x)
		_, first := l.send(t, "a", tuple)
		_, second := l.send(t, "c", tuple)
		if first == nil || second == nil || first.SrcPort != 5000 || second.SrcPort == 5000 {
			t.Fatalf("%s: left as %v and %v", f.name, first, second)
		}
		o, r := l.send(t, "x", first.Reverse().String())
		if r == nil || o.res.OutPort != uint32(l.port("a").id) {
			t.Errorf("%s: the answer goes to port %d", f.name, o.res.OutPort)
		}
	}
}
