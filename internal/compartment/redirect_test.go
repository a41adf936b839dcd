// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// redirectBench is a namespace that was handed in, with a proxy of user 1337 on ports
// 15001 and 15006, and a neighbour with two addresses of each family.
type redirectBench struct {
	t       *testing.T
	h       *Host
	a, x    *nettest.NS
	proxied model.Redirect
}

func newRedirectBench(t *testing.T) *redirectBench {
	b := &redirectBench{t: t, h: openHost(t, newInstance(t)), a: nettest.NewNS(t), x: nettest.NewNS(t)}
	nettest.Veth(t, b.a, "eth0", b.x, "eth0", "10.9.0.2/24", "10.9.0.3/24", "fd09::2/64", "fd09::3/64", "", "10.9.0.4/24", "", "fd09::4/64")
	for _, ns := range []*nettest.NS{b.a, b.x} {
		for _, port := range []int{80, 81, 82} {
			b.serve(ns, port)
		}
	}
	b.proxied = model.Redirect{
		Local: []netip.Prefix{netip.MustParsePrefix("10.9.0.2/32"), netip.MustParsePrefix("fd09::2/128")},
		In:    model.ProxySide{Port: 15006}, Out: model.ProxySide{Port: 15001}, User: "1337",
	}
	return b
}

// serve greets on a port.
func (b *redirectBench) serve(ns *nettest.NS, port int) {
	l := ns.Listen(fmt.Sprintf(":%d", port))
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(c, "server", c.LocalAddr())
			go func() {
				defer c.Close()
				s := bufio.NewScanner(c)
				for s.Scan() {
					fmt.Fprintln(c, s.Text())
				}
			}()
		}
	}()
}

func (b *redirectBench) want(redirects ...model.Redirect) model.Desired {
	return model.Desired{Compartments: []model.Compartment{{ID: "a", Path: b.a.Path(), Foreign: true, Redirects: redirects, Redirected: true}}}
}

// rules with their handles: made anew they have others.
func (b *redirectBench) rules() []string {
	b.t.Helper()
	conn, err := nftables.New(nftables.WithNetNSFd(b.a.Fd()))
	if err != nil {
		b.t.Fatal(err)
	}
	all, err := conn.ListChains()
	if err != nil {
		b.t.Fatal(err)
	}
	var out []string
	for _, c := range all {
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			b.t.Fatal(err)
		}
		for _, r := range rules {
			out = append(out, fmt.Sprint(c.Table.Name, " ", c.Name, " ", r.Handle))
		}
	}
	return out
}

// dial is a connection from an address of a namespace, "" is any, as a user.
func dial(ns *nettest.NS, uid int, from, to string) (c net.Conn, err error) {
	d := net.Dialer{Timeout: time.Second}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}

	err = ns.Do(func() (err error) {
		if uid != 0 {
			_ = unix.Setfsuid(uid) // of this thread, whose the socket is
			defer unix.Setfsuid(0)
		}
		c, err = d.Dial("tcp", to)
		return err
	})
	return c, err
}

// asks wants the proxy to be told that it is about via, "" if it should not be asked, and
// the server's answer.
func (b *redirectBench) asks(ns *nettest.NS, uid int, from, to, via string) {
	b.t.Helper()
	c, err := dial(ns, uid, from, to)
	if err != nil {
		b.t.Errorf("%s: %v", to, err)
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	s := bufio.NewScanner(c)
	var lines []string
	for s.Scan() {
		lines = append(lines, s.Text())
		if strings.HasPrefix(s.Text(), "server ") {
			break
		}
	}
	want := []string{"server " + to}
	if via != "" {
		want = []string{"proxy " + via, "server " + via}
	}
	if !slices.Equal(lines, want) {
		b.t.Errorf("user %d from %q to %s: got %q, want %q", uid, from, to, lines, want)
	}
}

// TestRedirects: whose connections come to the proxy of a namespace, and which.
func TestRedirects(t *testing.T) {
	b := newRedirectBench(t)
	nettest.Proxy(t, b.a.Path(), 1337, 15001, 15006)
	port := func(n uint16) []vswitch.PortRange { return []vswitch.PortRange{{First: n, Last: n}} }
	prefixes := func(all ...string) (out []netip.Prefix) {
		for _, s := range all {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	for _, c := range []struct {
		name   string
		change func(r *model.Redirect)
		// Redirected: out to port 80, 81 and 82 of the neighbour and to 80 of its second
		// address; in to port 80, 81 and 82 and, from the second address, to 80.
		out, in string
	}{
		{"all", func(*model.Redirect) {}, "80 81 82 other", "80 81 82 other"},
		{"out alone", func(r *model.Redirect) { r.In.Port = 0 }, "80 81 82 other", ""},
		{"in alone", func(r *model.Redirect) { r.Out.Port = 0 }, "", "80 81 82 other"},
		{"but ports", func(r *model.Redirect) {
			r.Out.ExceptPorts, r.In.ExceptPorts = port(81), []vswitch.PortRange{{First: 81, Last: 90}}
		}, "80 82 other", "80 other"},
		{"but addresses", func(r *model.Redirect) {
			r.Out.Except, r.In.Except = prefixes("10.9.0.4/32", "fd09::4/127"), prefixes("10.9.0.3/32", "fd09::3/128")
		}, "80 81 82", "other"},
		{"of ports", func(r *model.Redirect) { r.RemotePorts = append(port(80), port(82)...) }, "80 82 other", ""},
		{"of our ports", func(r *model.Redirect) { r.LocalPorts = port(81) }, "", "81"},
		{"of addresses", func(r *model.Redirect) { r.Remote = prefixes("10.9.0.4/31", "fd09::4/128", "192.0.2.0/24") }, "other", "other"},
		{"of everything", func(r *model.Redirect) {
			r.Remote, r.LocalPorts = prefixes("0.0.0.0/0", "::/0"), []vswitch.PortRange{{First: 0, Last: 65535}}
		}, "80 81 82 other", "80 81 82 other"},
		{"of another endpoint", func(r *model.Redirect) { r.Local = prefixes("10.9.0.7/32", "fd09::7/128") }, "", ""},
	} {
		r := b.proxied
		c.change(&r)
		ensure(t, b.h, b.want(r))
		for _, f := range []struct{ a, x, other string }{{"10.9.0.2", "10.9.0.3", "10.9.0.4"}, {"fd09::2", "fd09::3", "fd09::4"}} {
			t.Run(c.name+" "+f.a, func(t *testing.T) {
				b.t = t
				try := func(ns *nettest.NS, from, to, port, which, redirected string) {
					t.Helper()
					at, via := net.JoinHostPort(to, port), ""
					if slices.Contains(strings.Fields(redirected), which) {
						via = at
					}
					b.asks(ns, 0, from, at, via)
				}
				for _, p := range []string{"80", "81", "82"} {
					try(b.a, "", f.x, p, p, c.out)
					try(b.x, f.x, f.a, p, p, c.in)
				}
				try(b.a, "", f.other, "80", "other", c.out)
				try(b.x, f.other, f.a, "80", "other", c.in)
				// The user's own, what stays inside, and what is no TCP.
				b.asks(b.a, 1337, "", net.JoinHostPort(f.x, "80"), "")
				b.asks(b.a, 0, "", net.JoinHostPort(f.a, "80"), "")
			})
			b.t = t
		}
	}
}

// TestRedirectsLive: what is there already is left as it is, by rules that come and by
// those that stay; they are replaced, outlive who made them, and go.
func TestRedirectsLive(t *testing.T) {
	b := newRedirectBench(t)
	echo := func(c net.Conn) error {
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		if _, err := fmt.Fprintln(c, "ahoy"); err != nil {
			return err
		}
		for s := bufio.NewScanner(c); s.Scan(); {
			if s.Text() == "ahoy" {
				return nil
			}
		}
		return fmt.Errorf("no echo")
	}
	const to = "10.9.0.3:80"
	before, err := dial(b.a, 0, "", to)
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	nettest.Proxy(t, b.a.Path(), 1337, 15001, 15006)
	ensure(t, b.h, b.want(b.proxied))
	if err := echo(before); err != nil {
		t.Errorf("a connection from before the rules: %v", err)
	}
	b.asks(b.a, 0, "", to, to)
	redirected, err := dial(b.a, 0, "", to)
	if err != nil {
		t.Fatal(err)
	}
	defer redirected.Close()

	made := b.rules()
	again := openHost(t, b.h.inst) // another life
	ensure(t, again, b.want(b.proxied))
	if now := b.rules(); len(made) == 0 || !slices.Equal(now, made) {
		t.Errorf("rules that are right were made anew: %v, now %v", made, now)
	}
	r := b.proxied
	r.Out.ExceptPorts = []vswitch.PortRange{{First: 80, Last: 80}}
	r.Out.Except = many(2000)
	ensure(t, again, b.want(r))
	if now := b.rules(); len(now) < 2000 || slices.ContainsFunc(now, func(s string) bool { return slices.Contains(made, s) }) {
		t.Errorf("rules that were replaced: %d of %d", len(now), len(made))
	}
	b.asks(b.a, 0, "", to, "")
	for _, c := range []net.Conn{before, redirected} {
		if err := echo(c); err != nil {
			t.Errorf("after a change of the rules: %v", err)
		}
	}
	ensure(t, again, b.want())
	if now := b.rules(); len(now) != 0 {
		t.Errorf("left over: %v", now)
	}
	b.asks(b.a, 0, "", to, "")
	if err := echo(before); err != nil {
		t.Errorf("without rules: %v", err)
	}

	// With the compartment they go, too; and those of a life that did not get that far.
	ensure(t, again, b.want(b.proxied))
	third := openHost(t, b.h.inst)
	ensure(t, third, b.want())
	if now := b.rules(); len(now) != 0 {
		t.Errorf("another life's are left over: %v", now)
	}
	ensure(t, third, b.want(b.proxied))
	prune(t, third, model.Desired{})
	if now := b.rules(); len(now) != 0 {
		t.Errorf("left over by prune: %v", now)
	}
}

func many(n int) (out []netip.Prefix) {
	for i := range n {
		out = append(out, netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 32))
	}
	return out
}
