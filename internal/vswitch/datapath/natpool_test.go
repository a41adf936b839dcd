// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// whoAsks is an echo server that remembers who asked last.
type whoAsks struct{ last atomic.Value }

func (w *whoAsks) serve(ns *nettest.NS, addr string) {
	c := ns.ListenPacket(addr).(*net.UDPConn)
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			w.last.Store(from)
			_, _ = c.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
}

func (w *whoAsks) addr() netip.Addr {
	a, _ := w.last.Load().(netip.AddrPort)
	return a.Addr().Unmap()
}

// TestPoolsOutside: addresses that no interface of the host has, but that the
// outside routes to it; a pool of one endpoint's own; destinations without NAT.
// Connections live through a change of the pool that keeps their address.
//
//covers:endpoint OutBoundNAT
func TestPoolsOutside(t *testing.T) {
	l := newLab(t)
	a, b := l.container(10), l.container(11)
	for _, r := range []string{"203.0.113.0/24", "10.1.0.0/16"} {
		l.outside.Exec("ip", "route", "add", r, "via", "198.51.100.1")
	}
	for _, r := range []string{"2001:db8:9::/64", "fd00:1::/64"} {
		l.outside.Exec("ip", "-6", "route", "add", r, "via", "2001:db8:1::1")
	}
	pool := func(id vswitch.NATPoolID, a ...string) vswitch.NATPool {
		return vswitch.NATPool{ID: id, Addrs: addrs(a...), PortLow: 5000, PortHigh: 5999}
	}
	l.s.NATPools = []vswitch.NATPool{pool(1, "203.0.113.1", "203.0.113.2", "2001:db8:9::1", "2001:db8:9::2"), pool(2, "203.0.113.50", "2001:db8:9::50")}
	l.s.Networks[0].NATPool = 1
	l.portOf(11).NATPool = 2
	d := l.open()
	l.apply(d)
	var who whoAsks
	who.serve(l.outside, "[::]:7")
	l.outside.EchoTCP("[::]:7")
	from := func(what string, ns *nettest.NS, server string, want ...string) netip.Addr {
		t.Helper()
		ask(t, what, ns, server)
		for _, w := range want {
			if who.addr() == netip.MustParseAddr(w) {
				return who.addr()
			}
		}
		t.Errorf("%s: outside sees %v, want one of %v", what, who.addr(), want)
		return who.addr()
	}
	v4 := from("by the network's pool", a, "198.51.100.2:7", "203.0.113.1", "203.0.113.2")
	from("by the network's pool, v6", a, "[2001:db8:1::2]:7", "2001:db8:9::1", "2001:db8:9::2")
	from("by its own pool", b, "198.51.100.2:7", "203.0.113.50")
	from("by its own pool, v6", b, "[2001:db8:1::2]:7", "2001:db8:9::50")

	stream := startBulk(t, a, l.outside, "198.51.100.2:5001")
	before := stream.rate(300e6)
	l.s.NATPools[0] = pool(1, "203.0.113.3", v4.String(), "203.0.113.4", "2001:db8:9::2")
	l.apply(d)
	if after := stream.rate(300e6); before == 0 || after == 0 || stream.err.Load() != nil {
		t.Errorf("a connection over a change of its pool: %.0f bytes a second before, %.0f after, %v", before, after, stream.err.Load())
	}
	from("by what is left of the pool, v6", a, "[2001:db8:1::2]:7", "2001:db8:9::2")

	l.s.Networks[0].NATExceptions = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:1::/64")}
	l.apply(d)
	from("without NAT", a, "198.51.100.2:7", "10.1.0.10")
	from("without NAT, v6", a, "[2001:db8:1::2]:7", "fd00:1::a")

	p := l.portOf(11)
	p.NAT = []vswitch.NATRule{{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Pool: 1}, {Prefix: netip.MustParsePrefix("::/0")}}
	l.apply(d)
	from("by the pool that its rule names", b, "198.51.100.2:7", "203.0.113.3", v4.String(), "203.0.113.4")
	from("by its own pool again, v6", b, "[2001:db8:1::2]:7", "2001:db8:9::50")
	from("without NAT, as before", a, "198.51.100.2:7", "10.1.0.10")
	p.NAT = []vswitch.NATRule{{Prefix: netip.MustParsePrefix("198.51.100.2/32"), Own: true}, {Prefix: netip.MustParsePrefix("2001:db8:1::/64"), Own: true}}
	l.s.Networks[0].NATExceptions = nil
	l.apply(d)
	from("without NAT by its own rule", b, "198.51.100.2:7", "10.1.0.11")
	from("without NAT by its own rule, v6", b, "[2001:db8:1::2]:7", "fd00:1::b")
	from("with NAT, whatever the other has", a, "198.51.100.2:7", "203.0.113.3", v4.String(), "203.0.113.4")
}

// An endpoint with a share of the ports outside keeps to a run of them.
func TestNATShare(t *testing.T) {
	l := newLab(t)
	a, b := l.container(10), l.container(11)
	l.portOf(11).NATShare = 2
	d := l.open()
	l.apply(d)
	var who whoAsks
	who.serve(l.outside, "[::]:7")
	l.outside.EchoTCP("[::]:7")
	spread := func(ns *nettest.NS, server string) int {
		low, high := 65535, 0
		for range 40 {
			ask(t, "outside", ns, server)
			from, _ := who.last.Load().(netip.AddrPort)
			low, high = min(low, int(from.Port())), max(high, int(from.Port()))
		}
		return high - low + 1
	}
	run := int(vswitch.NATHigh-vswitch.NATLow+1) * 2 / 100
	for _, server := range []string{"198.51.100.2:7", "[2001:db8:1::2]:7"} {
		if all, some := spread(a, server), spread(b, server); some > run || all <= run {
			t.Errorf("%s: ports over %d with a share, over %d without; the share is %d", server, some, all, run)
		}
	}
	l.portOf(11).NATShare = 0
	l.apply(d)
	if all := spread(b, "198.51.100.2:7"); all <= run {
		t.Errorf("ports over %d after the share went", all)
	}
}
