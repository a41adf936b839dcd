// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

const silence = 400 * time.Millisecond

// rules makes the rules the only ACL set of port 10, and applies.
func (l *lab) rules(d *Datapath, rules ...vswitch.ACLRule) {
	l.t.Helper()
	l.s.ACLs = nil
	for i := range l.s.Ports {
		if p := &l.s.Ports[i]; p.ID == 10 {
			p.ACLs = nil
			if len(rules) > 0 {
				l.s.ACLs, p.ACLs = []vswitch.ACLSet{{ID: 1, Name: "test", Rules: rules}}, []vswitch.ACLID{1}
			}
		}
	}
	l.apply(d)
}

// TestACLs holds rules against sockets: a conversation under way is cut and goes
// on, what is rejected is told at once, and what is published is filtered.
//
//covers:endpoint ACL
func TestACLs(t *testing.T) {
	l := newLab(t)
	a, b := l.container(10), l.container(11)
	l.publish(10, 6, 8080, 7)
	d := l.open()
	l.apply(d)
	echo(a, "[::]:7")
	echo(b, "[::]:7")
	echo(l.outside, "[::]:7")

	block := vswitch.ACLRule{ID: 1, Name: "no way out", Direction: vswitch.ACLOut, Action: vswitch.ACLBlock}
	for _, addr := range []string{"198.51.100.2:7", "[2001:db8:1::2]:7", "10.1.0.11:7", "[fd00:1::b]:7"} {
		l.rules(d)
		ctx, cancel := context.WithTimeout(context.Background(), answer)
		c, err := a.Dial(ctx, "tcp", addr)
		cancel()
		if err != nil {
			t.Fatalf("%s: %v", addr, err)
		}
		say(t, c, addr, answer, true)
		l.rules(d, block)
		say(t, c, addr+" cut", silence, false)
		l.rules(d)
		got := make([]byte, 5)
		if err := c.SetDeadline(time.Now().Add(answer)); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
			t.Errorf("%s: after the rule went: %q, %v", addr, got, err)
		}
		c.Close()
	}

	reject := vswitch.ACLRule{ID: 2, Name: "told", Direction: vswitch.ACLOut, Action: vswitch.ACLReject}
	l.rules(d, reject)
	for addr, errno := range map[string]error{"10.1.0.11:7": unix.EHOSTUNREACH, "[fd00:1::b]:7": unix.EACCES} {
		if err := a.Ask("tcp", addr, "rejected", answer); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("tcp %s: %v, want a refused connection", addr, err)
		}
		if err := a.Ask("udp", addr, "rejected", answer); !errors.Is(err, errno) {
			t.Errorf("udp %s: %v, want %v", addr, err, errno)
		}
	}
	if err := b.Ask("tcp", "10.1.0.10:7", "the other way", answer); err != nil {
		t.Error(err)
	}
	stats, err := d.RuleStats()
	if err != nil || len(stats) != 1 || stats[0].Rule != 2 || stats[0].Name != "told" || stats[0].Set != "test" || stats[0].Packets < 4 || stats[0].Bytes < 4*40 {
		t.Errorf("counters %+v, %v", stats, err)
	}

	l.rules(d, vswitch.ACLRule{ID: 3, Name: "inside only", Priority: 1, Direction: vswitch.ACLIn, Remote: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}},
		vswitch.ACLRule{ID: 4, Name: "rest", Priority: 2, Direction: vswitch.ACLIn, Action: vswitch.ACLBlock})
	if err := l.outside.Ask("tcp", "198.51.100.1:8080", "from outside", silence); err == nil {
		t.Error("a blocked published port answers outside")
	}
	if err := b.Ask("tcp", "198.51.100.1:8080", "from inside", answer); err != nil {
		t.Error(err)
	}
	if err := l.host.Ask("tcp", "10.1.0.10:7", "from the host", answer); err != nil {
		t.Error(err)
	}
	if err := a.Ask("tcp", "198.51.100.2:7", "out", answer); err != nil {
		t.Error(err)
	}
	drops, err := d.Drops()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, x := range drops {
		seen[x.Layer+" "+x.Reason] = true
	}
	if !seen["acl_out acl_out"] || !seen["acl_in acl_in"] {
		t.Errorf("drops %+v", drops)
	}
	l.rules(d)
	if stats, err := d.RuleStats(); err != nil || len(stats) != 0 {
		t.Errorf("after the rules went: counters %+v, %v", stats, err)
	}
}

// say sends a word on c and wants it back, or the time to run out.
func say(t *testing.T, c net.Conn, what string, timeout time.Duration, heard bool) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		t.Fatal(err)
	}
	_, err := c.Write([]byte("hello"))
	if err == nil {
		got := make([]byte, 5)
		_, err = io.ReadFull(c, got)
	}
	var ne net.Error
	switch {
	case heard && err != nil:
		t.Errorf("%s: %v", what, err)
	case !heard && (!errors.As(err, &ne) || !ne.Timeout()):
		t.Errorf("%s: %v, want silence", what, err)
	}
}
