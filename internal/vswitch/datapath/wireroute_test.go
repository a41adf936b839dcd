// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"net"
	"net/netip"
	"testing"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// TestWireRouter: what a route of a pod gives to a router of the segment bears that
// one's MAC and the pod's address, though the pod sends it to its own gateway; a router
// that is a pod gets it likewise. A way to everything leaves out who is on the segment.
//
//covers:type L2Bridge L2Tunnel
//covers:endpoint SDNRoute
func TestWireRouter(t *testing.T) {
	for name, flags := range map[string]vswitch.NetFlags{
		"L2Bridge": vswitch.NetL2 | vswitch.NetMACRewrite | vswitch.NetFlood,
		"L2Tunnel": vswitch.NetL2 | vswitch.NetMACRewrite | vswitch.NetFlood | vswitch.NetNoLocal,
		"its MACs": vswitch.NetL2 | vswitch.NetARPPass | vswitch.NetFlood,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFabric(t, vswitch.Network{Flags: flags, Uplink: "up"})
			h := f.hosts[0]
			pod, hop := h.container(11), h.container(12)
			router := nettest.NewNS(t)
			f.plug("router", router, "eth0")
			address(router, "eth0", 8)
			for ns, behind := range map[*nettest.NS][]string{router: {"10.60.0.1/32", "fd60::1/128"}, hop: {"10.61.0.1/32", "fd61::1/128"}} {
				ns.Up("lo")
				for _, a := range behind {
					ns.Addr("lo", a)
				}
			}
			hop.Exec("sysctl", "-qw", "net.ipv4.conf.all.arp_announce=2") // a router, too, asks in its own name
			pod.Exec("ip", "route", "add", "default", "via", "10.9.0.9")
			pod.Exec("ip", "-6", "route", "add", "default", "via", "fd09::9")
			way := func(prefix, via string) vswitch.Route {
				return vswitch.Route{Prefix: netip.MustParsePrefix(prefix), To: vswitch.RouteVia, Via: netip.MustParseAddr(via)}
			}
			h.s.Ports[0].Routes = []vswitch.Route{way("10.60.0.0/16", "10.9.0.8"), way("fd60::/16", "fd09::8")}
			h.s.Ports[1].Forward = true
			asked := map[string]string{"10.60.0.1": "10.9.0.11", "fd60::1": "fd09::b"}
			if flags&vswitch.NetNoLocal == 0 {
				h.s.Ports[0].Routes = append(h.s.Ports[0].Routes, way("10.61.0.0/16", "10.9.0.12"), way("fd61::/16", "fd09::c"))
				asked["10.61.0.1"], asked["fd61::1"] = "10.9.0.11", "fd09::b"
			}
			h.apply()
			defer func() {
				if t.Failed() {
					h.dump()
				}
			}()
			var who whoAsks
			for _, a := range []string{"10.60.0.1", "fd60::1"} {
				who.serve(router, net.JoinHostPort(a, "7"))
			}
			for _, a := range []string{"10.61.0.1", "fd61::1"} {
				who.serve(hop, net.JoinHostPort(a, "7"))
			}
			for _, ns := range []*nettest.NS{pod, router, hop, f.other} {
				ns.EchoTCP("[::]:7")
			}
			all := func() {
				t.Helper()
				for to, want := range asked {
					ask(t, "by the router", pod, net.JoinHostPort(to, "7"))
					if who.addr() != netip.MustParseAddr(want) {
						t.Errorf("%s sees %v, want %s", to, who.addr(), want)
					}
					if err := pod.Ask("tcp", net.JoinHostPort(to, "7"), "hello", answer); err != nil {
						t.Errorf("%s by TCP: %v", to, err)
					}
					if err := ping(pod, netip.MustParseAddr(to)); err != nil {
						t.Errorf("ping %s: %v", to, err)
					}
				}
				for _, a := range []string{"10.9.0.9:7", "[fd09::9]:7"} {
					if err := pod.Ask("tcp", a, "hello", answer); err != nil {
						t.Errorf("%s, on the segment: %v", a, err)
					}
				}
			}
			all()
			h.s.Ports[0].Routes = append(h.s.Ports[0].Routes[2:], way("0.0.0.0/0", "10.9.0.8"), way("::/0", "fd09::8"))
			h.apply()
			all()
		})
	}
}
