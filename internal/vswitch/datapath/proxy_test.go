// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

// TestProxies: what one endpoint begins is answered by its proxy, which is an
// endpoint, the host or a machine outside, and hears who asks or does not.
//
//covers:endpoint L4Proxy
func TestProxies(t *testing.T) {
	l := newLab(t)
	a, b, c := l.container(10), l.container(11), l.container(12)
	d := l.open()
	var here, host, far whoAsks
	here.serve(b, "[::]:5007")
	b.EchoTCP("[::]:5007")
	for _, addr := range []string{"10.1.0.1", "fd00:1::1"} {
		host.serve(l.host, net.JoinHostPort(addr, "5008"))
	}
	l.host.EchoTCP("[::]:5008")
	far.serve(l.outside, "[::]:7")
	l.outside.EchoTCP("[::]:7")
	to := func(v4, v6 string, snat bool) {
		t.Helper()
		var all []vswitch.Proxy
		for prefix, at := range map[string]string{"0.0.0.0/0": v4, "::/0": v6} {
			for _, proto := range []uint8{6, 17} {
				all = append(all, vswitch.Proxy{Proto: proto, Prefix: netip.MustParsePrefix(prefix), To: netip.MustParseAddrPort(at), SNAT: snat})
			}
		}
		l.portOf(10).Proxies = append(all, vswitch.Proxy{Proto: 6, Prefix: netip.MustParsePrefix("198.51.100.2/32")},
			vswitch.Proxy{Proto: 17, Prefix: netip.MustParsePrefix("198.51.100.2/32")},
			vswitch.Proxy{Proto: 6, Prefix: netip.MustParsePrefix("2001:db8:1::/64")}, vswitch.Proxy{Proto: 17, Prefix: netip.MustParsePrefix("2001:db8:1::/64")})
		l.apply(d)
	}
	sees := func(what string, who *whoAsks, want ...string) {
		t.Helper()
		for _, w := range want {
			if who.addr() == netip.MustParseAddr(w) {
				return
			}
		}
		t.Errorf("%s: it sees %v, want %v", what, who.addr(), want)
	}
	// Nobody has the first one, and on the other nobody listens.
	asked := []string{"203.0.113.77:80", "10.1.0.12:443"}
	asked6 := []string{"[2001:db8:77::77]:80", "[fd00:1::c]:443"}
	to("10.1.0.11:5007", "[fd00:1::b]:5007", false)
	for i := range asked {
		ask(t, "by an endpoint", a, asked[i])
		sees("an endpoint", &here, "10.1.0.10")
		ask(t, "by an endpoint, v6", a, asked6[i])
		sees("an endpoint, v6", &here, "fd00:1::a")
	}
	ask(t, "left alone", a, "198.51.100.2:7")
	sees("left alone", &far, "198.51.100.1")
	ask(t, "left alone, v6", a, "[2001:db8:1::2]:7")
	sees("left alone, v6", &far, "2001:db8:1::1")
	if err := c.Ask("tcp", asked[0], "x", 300*time.Millisecond); err == nil {
		t.Error("another endpoint is redirected, too")
	}

	to("10.1.0.11:5007", "[fd00:1::b]:5007", true)
	ask(t, "in silence", a, asked[0])
	sees("in silence", &here, "169.254.72.1")
	ask(t, "in silence, v6", a, asked6[0])
	sees("in silence, v6", &here, "fd67:6861:6972::1")

	to("10.1.0.1:5008", "[fd00:1::1]:5008", false)
	ask(t, "by the host", a, asked[0])
	sees("by the host", &host, "10.1.0.10")
	ask(t, "by the host, v6", a, asked6[0])
	sees("by the host, v6", &host, "fd00:1::a")

	to("198.51.100.2:7", "[2001:db8:1::2]:7", false)
	ask(t, "by a machine outside", a, asked[0])
	sees("by a machine outside", &far, "198.51.100.1")
	ask(t, "by a machine outside, v6", a, asked6[0])
	sees("by a machine outside, v6", &far, "2001:db8:1::1")

	// A conversation that began before goes on; one that the proxy has ends with it.
	l.portOf(10).Proxies = nil
	l.apply(d)
	before, err := a.Dial(context.Background(), "tcp", "198.51.100.2:7")
	if err != nil {
		t.Fatal(err)
	}
	to("10.1.0.11:5007", "[fd00:1::b]:5007", false)
	defer before.Close()
	if err := tells(before); err != nil {
		t.Errorf("a conversation from before: %v", err)
	}
	ours, err := a.Dial(context.Background(), "tcp", "203.0.113.77:80")
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	if err := tells(ours); err != nil {
		t.Errorf("a conversation with the proxy: %v", err)
	}
	l.portOf(10).Proxies = nil
	l.apply(d)
	if err := tells(ours); err == nil {
		t.Error("the proxy answers though it is none any more")
	}
}

// tells asks an echo server over a connection.
func tells(c net.Conn) error {
	_ = c.SetDeadline(time.Now().Add(answer))
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 5))
	return err
}
