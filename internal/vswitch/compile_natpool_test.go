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

// changeNAT changes a pool or who uses one; some results are invalid on purpose.
func (w *world) changeNAT(n byte) {
	s := &w.s
	id := NATPoolID(n>>3%5 + 1)
	switch n % 10 {
	case 0, 1: // a pool comes, or has other addresses and ports
		p := NATPool{ID: id, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{203, 0, 113, n}), netip.MustParseAddr(fmt.Sprintf("2001:db8:9::%x", n))}}
		if n&64 != 0 {
			p.PortLow, p.PortHigh = 12000, 12000+uint16(n)
		}
		if n&128 != 0 {
			p.Addrs = p.Addrs[:1]
		}
		if i := slices.IndexFunc(s.NATPools, func(x NATPool) bool { return x.ID == id }); i >= 0 {
			s.NATPools[i] = p
		} else {
			s.NATPools = append(s.NATPools, p)
		}
	case 2:
		s.NATPools = slices.DeleteFunc(s.NATPools, func(p NATPool) bool { return p.ID == id })
	case 3, 4:
		if len(s.Networks) > 0 {
			s.Networks[int(n)%len(s.Networks)].NATPool = id - 1
		}
	case 5:
		if len(s.Ports) > 0 {
			s.Ports[int(n)%len(s.Ports)].NATPool = id - 1
		}
	case 6:
		if len(s.Ports) > 0 {
			p := &s.Ports[int(n)%len(s.Ports)]
			p.NAT = nil
			if n&32 != 0 {
				p.NAT = []NATRule{{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{n, 0, 0, 0}), 7).Masked(), Pool: id - 1},
					{Prefix: netip.MustParsePrefix("::/0"), Own: n&64 != 0}}
			}
		}
	case 7:
		if len(s.Ports) > 0 {
			p := &s.Ports[int(n)%len(s.Ports)]
			p.Proxies = nil
			if n&32 != 0 {
				p.Proxies = []Proxy{{Proto: 6, Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{n, 0, 0, 0}), 8), To: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, 9, 9}), uint16(n)), SNAT: n&64 != 0},
					{Proto: 17, Prefix: netip.MustParsePrefix("::/0")}}
			}
		}
	default:
		if len(s.Networks) > 0 {
			x := &s.Networks[int(n)%len(s.Networks)]
			x.NATExceptions = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{n, 0, 0, 0}), 8)}
			x.NATDestinations = nil
			if n&32 != 0 {
				x.NATDestinations = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{n, 9, 0, 0}), 16), netip.MustParsePrefix("fc00::/7")}
			}
		}
	}
}

func TestInvalidNATPools(t *testing.T) {
	addr := netip.MustParseAddr
	prefix := netip.MustParsePrefix
	for _, c := range []struct {
		name, want string
		change     func(*State, *Facts)
	}{
		{"id", "NATPools[0] (\"p\"): ID 0: must be 1 to 240", func(s *State, _ *Facts) { s.NATPools[0].ID = 0 }},
		{"id twice", "ID 1 is also that of another pool", func(s *State, _ *Facts) { s.NATPools = append(s.NATPools, s.NATPools[0]) }},
		{"no address", "Addrs: empty", func(s *State, _ *Facts) { s.NATPools[0].Addrs = nil }},
		{"address twice", `Addrs[1] "203.0.113.1": listed twice`, func(s *State, _ *Facts) { s.NATPools[0].Addrs = append(s.NATPools[0].Addrs, s.NATPools[0].Addrs[0]) }},
		{"loopback", "is not known outside", func(s *State, _ *Facts) { s.NATPools[0].Addrs[0] = addr("127.0.0.1") }},
		{"too many", "9 of IPv4 and 0 of IPv6, over 8", func(s *State, _ *Facts) {
			for i := range 8 {
				s.NATPools[0].Addrs = append(s.NATPools[0].Addrs, netip.AddrFrom4([4]byte{203, 0, 114, byte(i)}))
			}
		}},
		{"range", "PortLow 20 and PortHigh 10: not a range", func(s *State, _ *Facts) { s.NATPools[0].PortLow, s.NATPools[0].PortHigh = 20, 10 }},
		{"ports of sockets", "overlap 32768-60999", func(s *State, _ *Facts) {
			s.NATPools[0].Addrs[0], s.NATPools[0].PortLow, s.NATPools[0].PortHigh = addr("192.0.2.10"), 33000, 34000
		}},
		{"ports of sockets as set", "overlap 5000-9000", func(s *State, f *Facts) {
			f.LocalPortLow, f.LocalPortHigh = 5000, 9000
			s.NATPools[0].Addrs[0], s.NATPools[0].PortLow, s.NATPools[0].PortHigh = addr("192.0.2.10"), 6000, 7000
		}},
		{"ports of sockets but for reserved ones", "overlap 5000-9000", func(s *State, f *Facts) {
			f.LocalPortLow, f.LocalPortHigh, f.LocalReserved = 5000, 9000, [][2]uint16{{6500, 7000}, {6000, 6498}}
			s.NATPools[0].Addrs[0], s.NATPools[0].PortLow, s.NATPools[0].PortHigh = addr("192.0.2.10"), 6000, 7000
		}},
		{"NodePorts", "overlap 30000-32767", func(s *State, _ *Facts) {
			s.NATPools[0].Addrs[0], s.NATPools[0].PortLow, s.NATPools[0].PortHigh = addr("192.0.2.10"), 29000, 30000
		}},
		{"tunnel", "overlap 4789-4789", func(s *State, _ *Facts) {
			s.NATPools[0].Addrs[0], s.NATPools[0].PortLow, s.NATPools[0].PortHigh = addr("192.0.2.10"), 4000, 5000
		}},
		{"network's pool", "NATPool 7: no such pool", func(s *State, _ *Facts) { s.Networks[0].NATPool = 7 }},
		{"port's pool", "NATPool 7: no such pool", func(s *State, _ *Facts) { s.Ports[1].NATPool = 7 }},
		{"host port's pool", "NATPool 1: is for endpoints", func(s *State, _ *Facts) { s.Ports[0].NATPool = 1 }},
		{"exception bits", `NATExceptions[0] "10.9.1.1/16": has bits below its length; "10.9.0.0/16" is meant`, func(s *State, _ *Facts) {
			s.Networks[0].NATExceptions = []netip.Prefix{prefix("10.9.1.1/16")}
		}},
		{"port's rules", "NAT[0].NATPool 7: no such pool", func(s *State, _ *Facts) { s.Ports[1].NAT = []NATRule{{Prefix: prefix("10.0.0.0/8"), Pool: 7}} }},
		{"rule bits", `NAT[0].Prefix "10.9.1.1/16": has bits below`, func(s *State, _ *Facts) { s.Ports[1].NAT = []NATRule{{Prefix: prefix("10.9.1.1/16")}} }},
		{"rule twice", `NAT[1].Prefix "10.0.0.0/8": listed twice`, func(s *State, _ *Facts) {
			s.Ports[1].NAT = []NATRule{{Prefix: prefix("10.0.0.0/8")}, {Prefix: prefix("10.0.0.0/8"), Own: true}}
		}},
		{"own and pool", "NAT[0].Pool 1: Own shows none", func(s *State, _ *Facts) {
			s.Ports[1].NAT = []NATRule{{Prefix: prefix("10.0.0.0/8"), Own: true, Pool: 1}}
		}},
		{"host port's rules", "NAT: is for endpoints", func(s *State, _ *Facts) { s.Ports[0].NAT = []NATRule{{Prefix: prefix("10.0.0.0/8")}} }},
		{"proxy's protocol", "Proxies[0].Proto 1: only 6 (TCP) and 17", func(s *State, _ *Facts) {
			s.Ports[1].Proxies = []Proxy{{Proto: 1, Prefix: prefix("10.0.0.0/8")}}
		}},
		{"proxy's family", `Proxies[0].To fd00::1: not of the family of "10.0.0.0/8"`, func(s *State, _ *Facts) {
			s.Ports[1].Proxies = []Proxy{{Proto: 6, Prefix: prefix("10.0.0.0/8"), To: netip.MustParseAddrPort("[fd00::1]:80")}}
		}},
		{"two proxies", `Proxies[1].Prefix "10.0.0.0/8": has two proxies`, func(s *State, _ *Facts) {
			s.Ports[1].Proxies = []Proxy{{Proto: 6, Prefix: prefix("10.0.0.0/8")}, {Proto: 6, Prefix: prefix("10.0.0.0/8"), To: netip.MustParseAddrPort("10.1.0.9:80")}}
		}},
		{"host port's proxies", "Proxies: are for endpoints", func(s *State, _ *Facts) { s.Ports[0].Proxies = []Proxy{{Proto: 6, Prefix: prefix("10.0.0.0/8")}} }},
		{"in both lists", `NATDestinations[0] "10.9.0.0/16": listed twice`, func(s *State, _ *Facts) {
			s.Networks[0].NATExceptions, s.Networks[0].NATDestinations = []netip.Prefix{prefix("10.9.0.0/16")}, []netip.Prefix{prefix("10.9.0.0/16")}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := testFacts()
			s := State{
				Networks: []Network{testNetwork(1)}, Ports: []Port{testHostPort(1, f), testPort(10, 1, f)},
				NATPools: []NATPool{{ID: 1, Name: "p", Addrs: []netip.Addr{addr("203.0.113.1")}}},
			}
			if _, err := Compile(s, f); err != nil {
				t.Fatalf("the State before the change: %v", err)
			}
			c.change(&s, &f)
			if _, err := Compile(s, f); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

// An address of the host may be in a pool, on the ports that are NAT's anyway.
func TestPoolOnHostAddress(t *testing.T) {
	f := testFacts()
	f.LocalPortLow, f.LocalPortHigh = 1024, 65535
	s := State{NATPools: []NATPool{{ID: 3, Addrs: f.HostAddrs}}}
	if _, err := Compile(s, f); err != nil {
		t.Error(err)
	}
	// So may others, which the kernel gives to nobody.
	f.LocalReserved = [][2]uint16{{6500, 7000}, {6000, 6499}}
	s.NATPools[0].PortLow, s.NATPools[0].PortHigh = 6000, 7000
	if _, err := Compile(s, f); err != nil {
		t.Error(err)
	}
}

func TestPortMTU(t *testing.T) {
	f := testFacts()
	for _, c := range []struct {
		mtu, overhead, uplink uint16
		v4only                bool
		want                  uint16 // 0 = refused
	}{
		{0, 0, 1500, false, 1500}, {1300, 0, 1500, false, 1300}, {9000, 0, 1500, false, 9000}, {1279, 0, 1500, false, 0}, {1279, 0, 1500, true, 1279}, {67, 0, 1500, true, 0},
		{0, 100, 1500, false, 1400}, {0, 300, 1500, false, 1280}, {0, 300, 1500, true, 1200}, {0, 2000, 1500, true, 68}, {0, 100, 9000, true, 8900}, {1300, 100, 1500, true, 0},
	} {
		f.Uplinks[0].MTU = c.uplink
		f.Uplinks = f.Uplinks[:1]
		p := testPort(10, 1, f)
		p.MTU, p.Overhead = c.mtu, c.overhead
		if c.v4only {
			p.Addrs = slices.DeleteFunc(p.Addrs, netip.Addr.Is6)
		} else {
			p.Addrs = append(p.Addrs, netip.MustParseAddr("fd00:77::1"))
		}
		tables, err := Compile(State{Networks: []Network{testNetwork(1)}, Ports: []Port{testHostPort(1, f), p}}, f)
		if (err == nil) != (c.want != 0) {
			t.Errorf("%+v: %v", c, err)
		}
		if got := tables.Rows().Port[10].Mtu; err == nil && got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

// What has no addresses is the matter of the networks that are bound to it.
func TestUplinkMTU(t *testing.T) {
	f := testFacts()
	f.Uplinks = append(f.Uplinks[:1:1], Uplink{Name: "eth9", Ifindex: 9, MAC: MAC{2, 0, 0, 0, 0, 9}, MTU: 1400})
	on := testNetwork(2)
	on.Flags, on.Uplink, on.HostPort, on.Subnets = NetL2|NetARPPass, "eth9", 0, nil
	p := testPort(11, 2, f)
	p.Overhead = 50
	tables, err := Compile(State{Networks: []Network{testNetwork(1), on}, Ports: []Port{testHostPort(1, f), testPort(10, 1, f), p}}, f)
	if err != nil {
		t.Fatal(err)
	}
	r := tables.Rows()
	if got := [3]uint16{r.Port[10].Mtu, r.Net[2].Mtu, r.Port[11].Mtu}; got != [3]uint16{1500, 1400, 1350} {
		t.Errorf("%v, want 1500 by NAT, 1400 on the uplink, 1350 of its endpoint", got)
	}
}
