// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// shut is long enough for an answer that must not come.
const shut = 300 * time.Millisecond

func lladdr(ns *nettest.NS, addr string) string {
	_, mac, _ := strings.Cut(ns.Exec("ip", "neigh", "show", addr), " lladdr ")
	mac, _, _ = strings.Cut(mac, " ")
	return mac
}

// TestWireMAC: another MAC than the uplink's stands for the endpoints on the wire, in
// frames, ARP and ND; what comes for it, or for the uplink's, reaches them, and the
// host's own traffic is as before.
//
//covers:network SourceMacAddress
func TestWireMAC(t *testing.T) {
	const bridged = vswitch.NetL2 | vswitch.NetMACRewrite | vswitch.NetFlood
	for name, flags := range map[string]vswitch.NetFlags{"l2bridge": bridged, "l2tunnel": bridged | vswitch.NetNoLocal} {
		t.Run(name, func(t *testing.T) {
			f := newFabric(t, vswitch.Network{Flags: flags, Uplink: "up"})
			h := f.hosts[0]
			const mac = "02:11:22:33:44:55"
			h.s.Networks[0].WireMAC = vswitch.MAC{2, 0x11, 0x22, 0x33, 0x44, 0x55}
			a, b := h.container(11), h.container(12)
			h.apply()
			defer func() {
				if t.Failed() {
					h.dump()
				}
			}()
			for _, ns := range []*nettest.NS{a, b, h.ns, f.other} {
				echo(ns, "[::]:7")
			}
			for _, c := range []struct {
				from *nettest.NS
				to   []string
			}{{a, []string{"10.9.0.12", "fd09::c", "10.9.0.9", "fd09::9", "10.9.0.1", "fd09::1"}}, {f.other, []string{"10.9.0.11", "fd09::b", "10.9.0.12", "10.9.0.1", "fd09::1"}},
				{h.ns, []string{"10.9.0.11", "fd09::b", "10.9.0.9", "fd09::9"}}} {
				for _, to := range c.to {
					if err := c.from.Ask("tcp", netip.AddrPortFrom(netip.MustParseAddr(to), 7).String(), "hello", answer); err != nil {
						t.Errorf("%s: %v", to, err)
					}
				}
			}
			for _, addr := range []string{"10.9.0.11", "fd09::b"} {
				if got := lladdr(f.other, addr); got != mac {
					t.Errorf("outside %s is at %s", addr, got)
				}
			}
			up := h.link("up").Attrs().HardwareAddr.String()
			if got := lladdr(f.other, "10.9.0.1"); got != up {
				t.Errorf("the host is at %s", got)
			}
			// Who has the route by the host sends to the uplink's MAC.
			f.other.Exec("ip", "neigh", "replace", "10.9.0.11", "lladdr", up, "dev", "eth0")
			ask(t, "by the uplink's MAC", f.other, "10.9.0.11:7")
		})
	}
}

// TestWireNoHost: the host is no member of the network behind its uplink: it and the
// endpoints do not reach each other, whatever MAC they use; all others do.
//
//covers:type Transparent L2Bridge
func TestWireNoHost(t *testing.T) {
	const bridged = vswitch.NetL2 | vswitch.NetMACRewrite | vswitch.NetFlood
	for name, flags := range map[string]vswitch.NetFlags{"transparent": vswitch.NetL2 | vswitch.NetARPPass | vswitch.NetFlood, "l2bridge": bridged, "l2tunnel": bridged | vswitch.NetNoLocal} {
		t.Run(name, func(t *testing.T) {
			f := newFabric(t, vswitch.Network{Flags: flags | vswitch.NetNoHost, Uplink: "up"})
			h := f.hosts[0]
			a, b := h.container(11), h.container(12)
			h.apply()
			for _, ns := range []*nettest.NS{a, b, h.ns, f.other} {
				echo(ns, "[::]:7")
			}
			for _, to := range []string{"10.9.0.12:7", "[fd09::c]:7", "10.9.0.9:7", "[fd09::9]:7"} {
				ask(t, "from an endpoint", a, to)
			}
			for _, to := range []string{"10.9.0.11:7", "[fd09::b]:7", "10.9.0.1:7", "[fd09::1]:7"} {
				ask(t, "from outside", f.other, to)
			}
			ask(t, "from the host", h.ns, "10.9.0.9:7")
			apart := func(what string) {
				t.Helper()
				for to, from := range map[string]*nettest.NS{"10.9.0.1:7": a, "[fd09::1]:7": a, "10.9.0.11:7": h.ns, "[fd09::b]:7": h.ns} {
					if err := from.Ask("tcp", to, "hello", shut); err == nil {
						t.Errorf("%s: %s answers", what, to)
					}
				}
			}
			apart("as they are")
			up := h.link("up").Attrs().HardwareAddr.String()
			for _, addr := range []string{"10.9.0.1", "fd09::1"} {
				a.Exec("ip", "neigh", "replace", addr, "lladdr", up, "dev", "eth0")
			}
			apart("by the host's MAC")
		})
	}
}

// TestAsked: questions for addresses that nobody here has are answered with the MAC of
// who stands for them, who would not answer himself.
//
//covers:network NeighborDiscovery
func TestAsked(t *testing.T) {
	for name, flags := range map[string]vswitch.NetFlags{"transparent": vswitch.NetL2 | vswitch.NetARPPass | vswitch.NetFlood, "l2bridge": vswitch.NetL2 | vswitch.NetMACRewrite | vswitch.NetFlood} {
		t.Run(name, func(t *testing.T) {
			f := newFabric(t, vswitch.Network{Flags: flags, Uplink: "up"})
			h := f.hosts[0]
			a, b := h.container(11), h.container(12)
			other, err := f.other.Netlink().LinkByName("eth0")
			if err != nil {
				t.Fatal(err)
			}
			f.other.Exec("sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1")
			f.other.Up("lo")
			for _, addr := range []string{"10.9.0.77/32", "fd09::77/128"} {
				f.other.Addr("lo", addr)
			}
			h.apply()
			for _, ns := range []*nettest.NS{b, f.other} {
				echo(ns, "[::]:7")
			}
			hidden := []string{"10.9.0.77:7", "[fd09::77]:7"}
			for _, to := range hidden {
				if err := a.Ask("tcp", to, "hello", shut); err == nil {
					t.Errorf("%s answers by itself", to)
				}
			}
			for _, p := range []string{"10.9.0.0/24", "fd09::/64"} {
				h.s.Networks[0].Asked = append(h.s.Networks[0].Asked, vswitch.Asked{Prefix: netip.MustParsePrefix(p), MAC: vswitch.MAC(other.Attrs().HardwareAddr)})
			}
			h.apply()
			a.Exec("ip", "neigh", "flush", "all")
			a.Exec("ip", "-6", "neigh", "flush", "all")
			for _, to := range append(hidden, "10.9.0.12:7", "[fd09::c]:7") {
				if err := a.Ask("tcp", to, "hello", answer); err != nil {
					t.Errorf("%s: %v", to, err)
				}
			}
		})
	}
}

// TestOneUplink: an endpoint that uses one uplink alone leaves and is reached by that one
// only.
//
//covers:endpoint InterfaceConstraint
func TestOneUplink(t *testing.T) {
	l := newLab(t)
	second := l.name("up2")
	nettest.Veth(t, l.host, second, nettest.NewNS(t), "eth0", "203.0.113.1/24", "203.0.113.2/24", "2001:db8:2::1/64", "2001:db8:2::2/64")
	l.addUplink(second, "203.0.113.1/24", "2001:db8:2::1/64")
	c := l.container(10)
	l.publish(10, 6, 8080, 7)
	d := l.open()
	echo(l.outside, "[::]:7")
	echo(c, "[::]:7")
	first := l.f.Uplinks[0].Name
	for _, uplink := range []string{"", second, "gone", first} {
		l.s.Ports[1].Uplink = uplink
		l.apply(d)
		for to, from := range map[string]*nettest.NS{"198.51.100.2:7": c, "[2001:db8:1::2]:7": c, "198.51.100.1:8080": l.outside, "[2001:db8:1::1]:8080": l.outside} {
			if uplink == "" || uplink == first {
				if err := from.Ask("tcp", to, "hello", answer); err != nil {
					t.Errorf("uplink %q, %s: %v", uplink, to, err)
				}
			} else if err := from.Ask("tcp", to, "hello", shut); err == nil {
				t.Errorf("uplink %q: %s answers", uplink, to)
			}
		}
	}
}
