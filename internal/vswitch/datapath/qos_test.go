// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"context"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// tcpStream is one TCP connection that sends as fast as it can, as long as the test.
type tcpStream struct {
	conn     net.Conn
	received atomic.Int64
	err      atomic.Value
}

func startBulk(t *testing.T, from, to *nettest.NS, addr string) *tcpStream {
	t.Helper()
	b := &tcpStream{}
	l := to.Listen(addr)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 1<<18)
		for {
			n, err := c.Read(buf)
			b.received.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	c, err := from.Dial(context.Background(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	b.conn = c
	t.Cleanup(func() { c.Close() })
	// The kernel's default may be BBR, which needs fq.
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic")
	})
	go func() {
		buf := make([]byte, 1<<16)
		for {
			if _, err := c.Write(buf); err != nil {
				b.err.Store(err)
				return
			}
		}
	}()
	return b
}

// rate is the bytes a second that arrive from now on.
func (b *tcpStream) rate(d time.Duration) float64 {
	was, start := b.received.Load(), time.Now()
	time.Sleep(d)
	return float64(b.received.Load()-was) / time.Since(start).Seconds()
}

// tbf limits a device as whoever makes it does, 0 = no more.
func (l *lab) tbf(name string, rate uint64) {
	l.t.Helper()
	x, err := l.nl.LinkByName(name)
	if err != nil {
		l.t.Fatal(err)
	}
	q := &netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: x.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)},
		Rate: rate, Buffer: netlink.Xmittime(max(rate, 1), 66<<10), Limit: 1 << 18}
	if rate == 0 {
		err = l.nl.QdiscDel(q)
	} else {
		err = l.nl.QdiscReplace(q)
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) portOf(id vswitch.PortID) *vswitch.Port {
	i := slices.IndexFunc(l.s.Ports, func(p vswitch.Port) bool { return p.ID == id })
	return &l.s.Ports[i]
}

// TestLimits sets and removes limits of both directions under one connection,
// which keeps to them and lives on.
//
//covers:endpoint QOS
func TestLimits(t *testing.T) {
	l := newLab(t)
	a, b := l.container(10), l.container(11)
	near, far := l.pair("x", "y", nil)
	for _, x := range []netlink.Link{near, far} {
		if err := l.nl.LinkSetMTU(x, 65535); err != nil {
			t.Fatal(err)
		}
		l.up(x)
	}
	l.join(far)
	d := l.open()
	l.apply(d)
	const limit = 8_000_000
	for _, c := range []struct{ name, addr string }{{"v4", "10.1.0.11:5001"}, {"v6", "[fd00:1::b]:5002"}} {
		stream := startBulk(t, a, b, c.addr)
		free := func(when string) {
			t.Helper()
			for deadline := time.Now().Add(10 * time.Second); ; {
				r := stream.rate(200 * time.Millisecond)
				if r > 3*limit {
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("%s, %s: %.0f bytes a second (%v)", c.name, when, r, stream.err.Load())
				}
			}
		}
		kept := func(when string) {
			t.Helper()
			time.Sleep(500 * time.Millisecond) // what was on its way
			r := stream.rate(2 * time.Second)
			t.Logf("%s, %s: %.3f of the limit", c.name, when, r/limit)
			if r > 1.02*limit || r < 0.8*limit {
				t.Errorf("%s, %s: %.0f bytes a second, limit %d (%v)", c.name, when, r, limit, stream.err.Load())
			}
		}
		free("without a limit")

		p := l.portOf(10)
		p.EgressBps, p.Shaper, p.ShaperPeer = limit, near.Attrs().Name, far.Attrs().Name
		l.tbf(p.Shaper, limit)
		l.apply(d)
		kept("from the sender")
		p.EgressBps, p.Shaper, p.ShaperPeer = 0, "", ""
		l.apply(d)
		l.tbf(near.Attrs().Name, 0)
		free("after the limit from the sender")

		p = l.portOf(11)
		p.IngressBps = limit
		l.tbf(p.Interface, limit)
		l.apply(d)
		kept("towards the receiver")
		p.IngressBps = 0
		l.tbf(p.Interface, 0)
		l.apply(d)
		free("after the limit towards the receiver")
		stream.conn.Close()
	}
	// A port whose shaper is not there is closed, not free.
	p := l.portOf(10)
	p.EgressBps, p.Shaper, p.ShaperPeer = limit, "ghost", far.Attrs().Name
	l.apply(d)
	echo(b, "10.1.0.11:7")
	if err := a.Ask("udp", "10.1.0.11:7", "x", 300*time.Millisecond); err == nil {
		t.Error("a limited port without its shaper is open")
	}
}

// TestClassOfUplink: an HTB on an uplink gives each port's traffic its class.
func TestClassOfUplink(t *testing.T) {
	l := newLab(t)
	a, b := l.container(10), l.container(11)
	l.portOf(10).Class = 0x10
	const limit = 4_000_000
	up := l.f.Uplinks[0].Name
	l.host.Exec("tc", "qdisc", "add", "dev", up, "root", "handle", "1:", "htb")
	l.host.Exec("tc", "class", "add", "dev", up, "parent", "1:", "classid", "1:10", "htb", "rate", "32mbit", "burst", "70k")
	d := l.open()
	l.apply(d)
	limited := startBulk(t, a, l.outside, "198.51.100.2:5001")
	free := startBulk(t, b, l.outside, "198.51.100.2:5002")
	time.Sleep(500 * time.Millisecond)
	was := free.received.Load()
	r := limited.rate(2 * time.Second)
	others := float64(free.received.Load()-was) / 2
	t.Logf("class: %.3f of its rate; another port %.0f", r/limit, others)
	if r > 1.02*limit || r < 0.8*limit || others < 2*limit {
		t.Errorf("in its class %.0f bytes a second of %d, another port %.0f", r, limit, others)
	}
}
