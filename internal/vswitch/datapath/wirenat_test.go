// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// pod is a container whose addresses are of the hosts' pods, 10.20.0.0/24 and
// fd20::/64, and whose router is the machine that has no data plane.
func (h *wireHost) pod(n int) *nettest.NS {
	ns := h.container(n)
	ns.Exec("ip", "address", "flush", "dev", "eth0", "scope", "global")
	ns.Addr("eth0", fmt.Sprintf("10.20.0.%d/24", n))
	ns.Addr("eth0", fmt.Sprintf("fd20::%x/64", n))
	ns.Exec("ip", "route", "add", "default", "via", "10.20.0.1")
	ns.Exec("ip", "-6", "route", "add", "default", "via", "fd20::1")
	h.s.Ports[len(h.s.Ports)-1].Addrs = addrs(fmt.Sprintf("10.20.0.%d", n), fmt.Sprintf("fd20::%x", n))
	return ns
}

// TestWireNAT: pods of an L2Bridge show the host's address outside, one of them
// another, and their own to the exceptions; on a VLAN, too, where what is in the
// host's name leaves as the host's own does.
//
//covers:type L2Bridge
//covers:endpoint OutBoundNAT
func TestWireNAT(t *testing.T) {
	const bridged = vswitch.NetL2 | vswitch.NetMACRewrite | vswitch.NetFlood | vswitch.NetSNAT
	for _, vlan := range []uint16{0, 7} {
		t.Run(fmt.Sprintf("VLAN %d", vlan), func(t *testing.T) {
			f := newFabric(t, vswitch.Network{Flags: bridged, Uplink: "up", VLAN: vlan,
				NATExceptions: []netip.Prefix{netip.MustParsePrefix("10.30.0.0/16"), netip.MustParsePrefix("fd30::/16")}})
			h := f.hosts[0]
			h.s.Networks[0].Subnets = []vswitch.Subnet{{Prefix: netip.MustParsePrefix("10.20.0.0/24")}, {Prefix: netip.MustParsePrefix("fd20::/64")}}
			a, b := h.pod(11), h.pod(12)
			h.s.NATPools = []vswitch.NATPool{{ID: 1, Addrs: addrs("10.9.0.50", "fd09::50")}}
			h.s.Ports[1].NATPool = 1
			h.s.Announced = []vswitch.Announcement{{Addr: netip.MustParseAddr("10.9.0.50")}, {Addr: netip.MustParseAddr("fd09::50")}}
			h.apply()
			defer func() {
				if t.Failed() {
					h.dump()
				}
			}()
			for _, addr := range []string{"10.20.0.1/24", "10.30.0.1/16", "fd20::1/64", "fd30::1/64"} {
				f.other.Addr("eth0", addr)
			}
			if vlan != 0 { // of which the other machine knows nothing: their router is there by name only
				for _, ns := range []*nettest.NS{a, b} {
					ns.Exec("ip", "neigh", "add", "10.20.0.1", "lladdr", "02:00:00:00:00:99", "dev", "eth0")
					ns.Exec("ip", "neigh", "add", "fd20::1", "lladdr", "02:00:00:00:00:99", "dev", "eth0")
				}
			}
			var who whoAsks
			for _, addr := range []string{"10.9.0.9", "fd09::9", "10.20.0.1", "fd20::1", "10.30.0.1", "fd30::1"} {
				who.serve(f.other, net.JoinHostPort(addr, "7")) // which it answers from
			}
			f.other.EchoTCP("[::]:7")
			echo(b, "[::]:7")
			from := func(what string, ns *nettest.NS, server, want string) {
				t.Helper()
				ask(t, what, ns, server)
				if who.addr() != netip.MustParseAddr(want) {
					t.Errorf("%s: outside sees %v, want %s", what, who.addr(), want)
				}
			}
			from("in the host's name", a, "10.9.0.9:7", "10.9.0.1")
			from("in the host's name, v6", a, "[fd09::9]:7", "fd09::1")
			from("by its own address outside", b, "10.9.0.9:7", "10.9.0.50")
			from("by its own address outside, v6", b, "[fd09::9]:7", "fd09::50")
			for _, to := range []string{"10.9.0.9", "fd09::9"} {
				if err := ping(a, netip.MustParseAddr(to)); err != nil {
					t.Errorf("ping %s: %v", to, err)
				}
			}
			ask(t, "between pods", a, "10.20.0.12:7")
			ask(t, "between pods, v6", a, "[fd20::c]:7")
			if vlan == 0 {
				from("to an exception", a, "10.30.0.1:7", "10.20.0.11")
				from("to an exception, v6", a, "[fd30::1]:7", "fd20::b")
				from("to their own prefix", b, "10.20.0.1:7", "10.20.0.12")
				from("to their own prefix, v6", b, "[fd20::1]:7", "fd20::c")
			}
			h.s.Networks[0].NATExceptions = append(h.s.Networks[0].NATExceptions, netip.MustParsePrefix("10.9.0.9/32"), netip.MustParsePrefix("fd09::9/128"))
			h.apply()
			if vlan == 0 {
				from("to a new exception", a, "10.9.0.9:7", "10.20.0.11")
				from("to a new exception, v6", a, "[fd09::9]:7", "fd20::b")
			}
		})
	}
}

// TestWireNATOfOnePort: on an L2Bridge that translates nothing, what one pod's own
// rules say goes out in the host's name; the rest of it and the other pods go by MAC.
//
//covers:endpoint OutBoundNAT
func TestWireNATOfOnePort(t *testing.T) {
	f := newFabric(t, vswitch.Network{Flags: vswitch.NetL2 | vswitch.NetMACRewrite | vswitch.NetFlood, Uplink: "up"})
	h := f.hosts[0]
	h.s.Networks[0].Subnets = []vswitch.Subnet{{Prefix: netip.MustParsePrefix("10.20.0.0/24")}, {Prefix: netip.MustParsePrefix("fd20::/64")}}
	a, b := h.pod(11), h.pod(12)
	for _, addr := range []string{"10.20.0.1/24", "10.30.0.1/16", "fd20::1/64", "fd30::1/64"} {
		f.other.Addr("eth0", addr)
	}
	own := func(p string) vswitch.NATRule { return vswitch.NATRule{Prefix: netip.MustParsePrefix(p), Own: true} }
	h.s.Ports[0].NAT = []vswitch.NATRule{{Prefix: netip.MustParsePrefix("0.0.0.0/0")}, {Prefix: netip.MustParsePrefix("::/0")}, own("10.30.0.0/16"), own("fd30::/16")}
	h.apply()
	defer func() {
		if t.Failed() {
			h.dump()
		}
	}()
	var who whoAsks
	for _, addr := range []string{"10.9.0.9", "fd09::9", "10.30.0.1", "fd30::1"} {
		who.serve(f.other, net.JoinHostPort(addr, "7"))
	}
	f.other.EchoTCP("[::]:7")
	echo(b, "[::]:7")
	for _, c := range []struct {
		what       string
		ns         *nettest.NS
		to4, want4 string
		to6, want6 string
	}{
		{"in the host's name", a, "10.9.0.9:7", "10.9.0.1", "[fd09::9]:7", "fd09::1"},
		{"to an exception", a, "10.30.0.1:7", "10.20.0.11", "[fd30::1]:7", "fd20::b"},
		{"of another pod", b, "10.9.0.9:7", "10.20.0.12", "[fd09::9]:7", "fd20::c"},
	} {
		for to, want := range map[string]string{c.to4: c.want4, c.to6: c.want6} {
			ask(t, c.what, c.ns, to)
			if who.addr() != netip.MustParseAddr(want) {
				t.Errorf("%s, to %s: outside sees %v, want %s", c.what, to, who.addr(), want)
			}
		}
	}
	ask(t, "between pods", a, "10.20.0.12:7")
	ask(t, "between pods, v6", a, "[fd20::c]:7")
}
