// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"strings"
	"testing"
)

// segment makes the machine outside a router with a bridge, whose port to the host
// sends frames back, as a fabric for L2Tunnel does.
func (h *host) segment() {
	h.t.Helper()
	for _, line := range []string{
		"link add br0 type bridge forward_delay 0 mcast_snooping 0",
		"link set wire master br0", "addr flush dev wire", "link set br0 up",
		"addr add " + outV4 + "/24 dev br0", "addr add " + outV6 + "/64 dev br0 nodad",
	} {
		h.must("ip", append([]string{"-n", h.out}, strings.Fields(line)...)...)
	}
	h.mustAt(h.out, "bridge", "link", "set", "dev", "wire", "hairpin", "on")
}

// macSeen is the MAC that the machine outside has for an address.
func (h *host) macSeen(addr string) string {
	h.t.Helper()
	w := strings.Fields(h.must("ip", "-n", h.out, "neigh", "show", addr))
	for i, x := range w {
		if x == "lladdr" {
			return w[i+1]
		}
	}
	return "nobody's"
}

// TestTypesOnTheWire: networks that are bound to the host's interface. Endpoints reach
// each other, the host and the machine outside and are reached, and what the wire sees
// of them is what the type says.
//
//covers:type Transparent L2Bridge L2Tunnel
//covers:network NetAdapterName
func TestTypesOnTheWire(t *testing.T) {
	for _, typ := range []string{"transparent", "l2bridge", "l2tunnel"} {
		t.Run(typ, func(t *testing.T) {
			h := newHost(t)
			h.segment()
			h.start()
			h.background(h.out, h.hello, "serve")
			h.background(h.ns, h.hello, "serve")
			own := func() string {
				return strings.ReplaceAll(h.must("ip", "-n", h.ns, "addr", "show", "dev", "wire"), " tentative", "") + h.must("ip", "-n", h.ns, "route")
			}
			before := own()
			h.gh("network", "create", "seg", "--type", typ, "--uplink", "wire", "--subnet", "198.51.100.0/24", "--gateway", outV4, "--subnet", "2001:db8:100::/64", "--gateway", outV6)
			h.gh("run", "-d", "--name", "a", "--network", "seg", image)
			h.gh("run", "-d", "--name", "b", "--network", "seg", image)
			a4, a6 := h.addrs("a")
			b4, b6 := h.addrs("b")
			if a4 != "198.51.100.3" || b4 != "198.51.100.4" {
				t.Fatalf("a has %s, b %s: the router and the host have theirs already", a4, b4)
			}
			all := func() {
				t.Helper()
				for what, to := range map[string]string{"b": b4, "b by IPv6": "[" + b6 + "]", "outside": outV4, "outside by IPv6": "[" + outV6 + "]",
					"the host": hostV4, "the host by IPv6": "[" + hostV6 + "]"} {
					if _, errs, code := h.try("exec", "a", "/hello", "get", "-t", "5", "http://"+to+"/"); code != 0 {
						t.Errorf("a to %s: %s", what, errs)
					}
				}
				for _, ns := range []string{h.out, h.ns} {
					for _, to := range []string{a4, "[" + a6 + "]"} {
						if _, err := h.at(ns, h.hello, "get", "-t", "5", "http://"+to+"/"); err != nil {
							t.Errorf("%s to a at %s: %v", ns, to, err)
						}
					}
				}
			}
			all()
			wire := strings.Fields(h.must("ip", "-n", h.ns, "-br", "link", "show", "dev", "wire"))[2]
			pod := strings.Fields(h.gh("exec", "a", "/hello", "cat", "/sys/class/net/eth0/address"))[0]
			want := wire
			if typ == "transparent" {
				want = pod
			}
			for _, a := range []string{a4, a6} {
				if got := h.macSeen(a); got != want {
					t.Errorf("outside %s has %s; the uplink has %s, the endpoint %s", a, got, wire, pod)
				}
			}
			if after := own(); after != before {
				t.Errorf("the host's own:\n%s\nbefore:\n%s", after, before)
			}
			h.kill9()
			h.start()
			all()
			h.gh("rm", "-f", "a", "b")
			h.gh("network", "rm", "seg")
			h.mustAt(h.ns, h.hello, "get", "-t", "5", "http://"+outV4+"/")
			h.noLeaks()
		})
	}
}

// TestPrivate: endpoints reach each other and nobody else.
//
//covers:type Private
func TestPrivate(t *testing.T) {
	h := newHost(t)
	h.start()
	h.background(h.ns, h.hello, "serve")
	h.gh("network", "create", "own", "--type", "private", "--subnet", "10.66.0.0/24", "--subnet", "fd66::/64")
	for _, n := range []string{"a", "b"} {
		h.gh("run", "-d", "--name", n, "--network", "own", image)
	}
	b4, b6 := h.addrs("b")
	for _, to := range []string{b4, "[" + b6 + "]"} {
		if _, errs, code := h.try("exec", "a", "/hello", "get", "-t", "5", "http://"+to+"/"); code != 0 {
			t.Errorf("a to b: %s", errs)
		}
	}
	for _, to := range []string{hostV4, outV4} {
		if _, _, code := h.try("exec", "a", "/hello", "get", "-t", "1", "http://"+to+"/"); code == 0 {
			t.Errorf("a reaches %s", to)
		}
	}
	if _, err := h.at(h.ns, h.hello, "get", "-t", "1", "http://"+b4+"/"); err == nil {
		t.Error("the host reaches b")
	}
}
