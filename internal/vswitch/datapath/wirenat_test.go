// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

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

// TestWireHostGateway: the pods' gateway is the host's own vNIC on their L2Bridge. What
// outbound NAT covers shows the host's address; the rest keeps its own, and its answers,
// which come straight by the wire, pass where nothing else comes in. What a route gives to
// the host's stack is forwarded there.
//
//covers:type L2Bridge
//covers:endpoint OutBoundNAT SDNRoute
func TestWireHostGateway(t *testing.T) {
	f := newFabric(t, vswitch.Network{Flags: vswitch.NetL2 | vswitch.NetMACRewrite | vswitch.NetFlood, Uplink: "up"})
	h := f.hosts[0]
	h.s.Networks[0].Subnets = []vswitch.Subnet{{Prefix: netip.MustParsePrefix("10.20.0.0/24")}, {Prefix: netip.MustParsePrefix("fd20::/64")}}
	pod := h.pod(11)
	nettest.Veth(t, h.ns, "he", h.ns, "own")
	h.join("he")
	h.ns.Addr("own", "10.20.0.2/24")
	h.ns.Addr("own", "fd20::2/64")
	h.ns.Exec("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	own := addrs("10.20.0.2", "fd20::2")
	h.facts.Ifindex["he"] = h.link("he").Attrs().Index
	h.facts.HostAddrs = append(h.facts.HostAddrs, own...)
	h.s.Ports = append(h.s.Ports, vswitch.Port{ID: 2, Kind: vswitch.PortVM, Network: 1, Object: "own", Interface: "he", Host: true, Forward: true,
		MAC: vswitch.MAC(h.link("own").Attrs().HardwareAddr), Addrs: own, Up: true})
	var rules []vswitch.NATRule
	for _, r := range []string{"0.0.0.0/0", "::/0", "10.30.0.0/16", "fd30::/16", "10.9.0.0/24", "fd09::/64"} {
		p := netip.MustParsePrefix(r)
		rules = append(rules, vswitch.NATRule{Prefix: p, Own: p.Bits() != 0})
	}
	h.s.Ports[0].NAT = rules
	for _, p := range []string{"10.40.0.0/16", "fd40::/16"} {
		h.s.Ports[0].Routes = append(h.s.Ports[0].Routes, vswitch.Route{Prefix: netip.MustParsePrefix(p), To: vswitch.RouteHost})
	}
	h.s.ACLs = []vswitch.ACLSet{{ID: 1, Name: "default deny", Rules: []vswitch.ACLRule{{ID: 1, Direction: vswitch.ACLIn, Action: vswitch.ACLBlock}}}}
	h.apply()
	defer func() {
		if t.Failed() {
			h.dump()
		}
	}()
	pod.Exec("ip", "route", "replace", "default", "via", "10.20.0.2")
	pod.Exec("ip", "-6", "route", "replace", "default", "via", "fd20::2")
	for _, a := range []string{"10.30.0.1/16", "fd30::1/64", "10.50.0.1/16", "fd50::1/64", "10.40.0.1/32", "fd40::1/128"} {
		f.other.Addr("eth0", a)
	}
	for prefix, via := range map[string]string{"10.20.0.0/24": "10.9.0.1", "fd20::/64": "fd09::1"} {
		f.other.Exec("ip", "route", "add", prefix, "via", via)
	}
	for prefix, via := range map[string]string{"10.30.0.0/16": "10.9.0.9", "fd30::/64": "fd09::9", "10.50.0.0/16": "10.9.0.9", "fd50::/64": "fd09::9", "10.40.0.0/16": "10.9.0.9", "fd40::/64": "fd09::9"} {
		h.ns.Exec("ip", "route", "add", prefix, "via", via)
	}
	var who whoAsks
	for _, a := range []string{"10.9.0.9", "fd09::9", "10.30.0.1", "fd30::1", "10.50.0.1", "fd50::1"} {
		who.serve(f.other, net.JoinHostPort(a, "7"))
	}
	f.other.EchoTCP("[::]:7")
	echo(pod, "[::]:7")
	h.ns.EchoTCP("[::]:7")
	all := func(what string) {
		t.Helper()
		for _, c := range [][2]string{{"10.9.0.9", "10.20.0.11"}, {"fd09::9", "fd20::b"}, {"10.30.0.1", "10.20.0.11"}, {"fd30::1", "fd20::b"}, {"10.50.0.1", "10.9.0.1"}, {"fd50::1", "fd09::1"}} {
			ask(t, what, pod, net.JoinHostPort(c[0], "7"))
			if who.addr() != netip.MustParseAddr(c[1]) {
				t.Errorf("%s: %s sees %v, want %s", what, c[0], who.addr(), c[1])
			}
			if err := ping(pod, netip.MustParseAddr(c[0])); err != nil {
				t.Errorf("%s: ping %s: %v", what, c[0], err)
			}
		}
		for _, a := range []string{"10.20.0.2", "fd20::2", "10.9.0.1", "fd09::1"} {
			if err := pod.Ask("tcp", net.JoinHostPort(a, "7"), "hello", answer); err != nil {
				t.Errorf("%s, the host at %s: %v", what, a, err)
			}
		}
	}
	all("anybody lets in")
	for _, a := range []string{"10.20.0.11:7", "[fd20::b]:7"} {
		ask(t, "from outside", f.other, a)
	}
	before := h.link("own").Attrs().Statistics.RxPackets
	for _, a := range []string{"10.40.0.1:7", "[fd40::1]:7"} {
		if err := pod.Ask("tcp", a, "hello", answer); err != nil {
			t.Errorf("by the host's stack, %s: %v", a, err)
		}
	}
	if h.link("own").Attrs().Statistics.RxPackets == before {
		t.Error("the host's stack got nothing of what a route gives it")
	}
	h.s.Ports[0].ACLs = []vswitch.ACLID{1}
	h.apply()
	all("default deny")
	for _, a := range []string{"10.20.0.11:7", "[fd20::b]:7"} {
		if err := f.other.Ask("tcp", a, "hello", 300*time.Millisecond); err == nil {
			t.Errorf("%s is reached from outside", a)
		}
	}
}
