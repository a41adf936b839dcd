// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/pcap"
	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// taken collects what a capture gets.
type taken struct {
	mu   sync.Mutex
	all  []Sample
	lost uint64
	end  chan error
}

func (c *taken) samples() []Sample {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.all)
}

// text is a sample as a person would note it.
func text(s Sample) string {
	what := pcap.Decode(s.Data).String()
	dir := "in"
	if s.Out {
		dir = "out"
	}
	for flag, word := range map[bool]string{s.Made: " made", s.Dropped: " dropped"} {
		if flag {
			dir += word
		}
	}
	return strings.Join(strings.Fields(dir+" "+s.Reason+" "+what), " ")
}

// has waits for a sample with all words.
func (c *taken) has(t *testing.T, words ...string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		for _, s := range c.samples() {
			all := true
			for _, w := range words {
				all = all && strings.Contains(text(s), w)
			}
			if all {
				return
			}
		}
	}
	var b strings.Builder
	for _, s := range c.samples() {
		fmt.Fprintln(&b, text(s))
	}
	t.Errorf("no sample with %q among:\n%s", words, b.String())
}

func startCapture(t *testing.T, d *Datapath, snap int, ports ...vswitch.PortID) (*taken, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &taken{end: make(chan error, 1)}
	go func() {
		c.end <- d.Capture(ctx, ports, snap, func(got Captured) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.all, c.lost = append(c.all, got.Samples...), got.Lost
			return nil
		})
	}()
	until(t, "captured", func() bool {
		row, _ := kernelPort(d, ports[0])
		return row.Snap != 0
	})
	return c, cancel
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// kernelPort is the row of a port as the programs see it.
func kernelPort(d *Datapath, id vswitch.PortID) (r bpf.Port, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return r, d.gen.coll.Maps["port"].Lookup(uint32(id), &r)
}

func TestCapture(t *testing.T) {
	l := newLab(t)
	a, b := l.container(10), l.container(11)
	l.publish(11, 17, 8080, 7)
	d := l.open()
	l.apply(d)
	for _, ns := range []*nettest.NS{b, l.outside} {
		echo(ns, "[::]:7")
	}
	ask(t, "before", a, "10.1.0.11:7") // a flow that exists when the capture begins
	c, cancel := startCapture(t, d, 0, 10)
	big := strings.Repeat("x", 1300)
	for _, to := range []string{"10.1.0.11:7", "[fd00:1::b]:7", "198.51.100.2:7", "198.51.100.1:8080"} {
		if err := a.Ask("udp", to, big, answer); err != nil {
			t.Error(err)
		}
	}
	ask(t, "connection", a, "10.1.0.11:7")
	a.Exec("ip", "neigh", "replace", "10.1.99.99", "lladdr", "02:00:00:00:00:99", "dev", "eth0")
	_ = a.Ask("udp", "10.1.99.99:7", "nobody", 100*time.Millisecond)
	_ = a.Ask("tcp", "198.51.100.1:8080", "closed", 100*time.Millisecond)
	c.has(t, "out udp 10.1.0.10", "> 10.1.0.11:7")
	c.has(t, "in udp 10.1.0.11:7 > 10.1.0.10")
	c.has(t, "out udp [fd00:1::a]", "> [fd00:1::b]:7")
	c.has(t, "in udp [fd00:1::b]:7 > [fd00:1::a]")
	c.has(t, "out udp 10.1.0.10", "> 198.51.100.2:7")
	c.has(t, "in udp 198.51.100.2:7 > 10.1.0.10") // after NAT was undone
	c.has(t, "in udp 198.51.100.1:8080 > 10.1.0.10")
	c.has(t, "in tcp 10.1.0.11:7 > 10.1.0.10", "[S.]")
	c.has(t, "out arp who-has 10.1.0.1 tell 10.1.0.10")
	c.has(t, "in made arp 10.1.0.1 tells 10.1.0.10")
	c.has(t, "out dropped unknown_dst udp 10.1.0.10", "> 10.1.99.99:7")
	c.has(t, "in made unknown_dst icmp 10.1.0.1 > 10.1.0.10 type 3 code 1")
	whole := false
	for i, s := range c.samples() {
		if len(s.Data) != s.Length {
			t.Errorf("cut: %d of %d bytes", len(s.Data), s.Length)
		}
		whole = whole || bytes.Contains(s.Data, []byte(big))
		if d := time.Since(s.Time); d < 0 || d > time.Minute {
			t.Errorf("time %v", s.Time)
		}
		if i > 0 && s.Time.Before(c.samples()[i-1].Time.Add(-time.Millisecond)) {
			t.Errorf("sample %d is earlier than the one before", i)
		}
		if s.Port != 10 {
			t.Errorf("port %d", s.Port)
		}
	}
	if !whole {
		t.Error("no packet is whole")
	}

	// A second capture wants less, and gets less.
	small, cancelSmall := startCapture(t, d, 60, 10, 11)
	ask(t, "second", a, "10.1.0.11:7")
	small.has(t, "out udp")
	for _, s := range small.samples() {
		if len(s.Data) > 60 || s.Length < len(s.Data) {
			t.Errorf("%d of %d bytes", len(s.Data), s.Length)
		}
	}
	cancelSmall()
	if err := <-small.end; !errors.Is(err, context.Canceled) {
		t.Errorf("end of the second: %v", err)
	}
	if row, err := kernelPort(d, 11); err != nil || row.Snap != 0 || row.Flags&0x80 != 0 {
		t.Errorf("port 11 stays watched: %+v, %v", row, err)
	}

	// A change meanwhile does not end it; the port's end does.
	l.container(12)
	l.apply(d)
	n := len(c.samples())
	ask(t, "after a change", a, "10.1.0.11:7")
	until(t, "more samples", func() bool { return len(c.samples()) > n })
	l.s.Ports = slices.DeleteFunc(l.s.Ports, func(p vswitch.Port) bool { return p.ID == 10 })
	l.apply(d)
	if err := <-c.end; !errors.Is(err, ErrPortGone) {
		t.Errorf("end with the port: %v", err)
	}
	cancel()
	if row, err := kernelPort(d, 10); err != nil || row.Snap != 0 {
		t.Errorf("port 10 stays watched: %+v, %v", row, err)
	}
	if err := d.Capture(context.Background(), []vswitch.PortID{10}, 0, nil); !errors.Is(err, ErrPortGone) {
		t.Errorf("capture of no port: %v", err)
	}
	if c.lost != 0 {
		t.Errorf("%d lost", c.lost)
	}
}

// TestCaptureEndsWithTheProcess kills a capture with its process; the next one
// finds no port watched.
func TestCaptureEndsWithTheProcess(t *testing.T) {
	l := newLab(t)
	a, b := l.container(10), l.container(11)
	d := l.open()
	l.apply(d)
	echo(b, "[::]:7")
	c, cancel := startCapture(t, d, 0, 10)
	ask(t, "captured", a, "10.1.0.11:7")
	c.has(t, "out udp")
	// What a kill leaves: descriptors closed, programs and rows as they were.
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	cancel()
	<-c.end
	if err := d.closeAll(); err != nil {
		t.Fatal(err)
	}
	ask(t, "nobody reads", a, "10.1.0.11:7")
	d = l.open()
	l.apply(d)
	if row, err := kernelPort(d, 10); err != nil || row.Snap != 0 || row.Flags&0x80 != 0 {
		t.Errorf("port 10 stays watched: %+v, %v", row, err)
	}
	ask(t, "after", a, "10.1.0.11:7")
}

// TestMirror has a container see what another one sends and gets.
func TestMirror(t *testing.T) {
	l := newLab(t)
	a, b, m := l.container(10), l.container(11), l.container(12)
	for i := range l.s.Ports {
		if l.s.Ports[i].ID == 10 {
			l.s.Ports[i].Mirror = 12
		}
	}
	d := l.open()
	l.apply(d)
	echo(b, "[::]:7")
	echo(l.outside, "[::]:7")
	fd := -1
	err := m.Do(func() (err error) {
		if err := m.Command("ip", "link", "set", "eth0", "promisc", "on").Run(); err != nil {
			return err
		}
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0x0300) // ETH_P_ALL
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 500_000}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"10.1.0.10 > 10.1.0.11", "10.1.0.11 > 10.1.0.10", "fd00:1::a > fd00:1::b", "fd00:1::b > fd00:1::a",
		"10.1.0.10 > 198.51.100.2", "198.51.100.2 > 10.1.0.10",
	}
	for _, to := range []string{"10.1.0.11:7", "[fd00:1::b]:7", "198.51.100.2:7"} {
		if err := a.Ask("udp", to, "question", answer); err != nil {
			t.Error(err)
		}
	}
	buf := make([]byte, 2000)
	seen := map[string]int{}
	for {
		n, err := unix.Read(fd, buf)
		if err != nil {
			break
		}
		if h := pcap.Decode(buf[:n]); h.Proto == 17 && bytes.HasSuffix(buf[:n], []byte("question")) {
			seen[fmt.Sprintf("%s > %s", h.Src, h.Dst)]++
		}
	}
	for _, w := range want {
		if seen[w] != 1 {
			t.Errorf("%q seen %d times of %v", w, seen[w], seen)
		}
	}
}

func TestFlowEvents(t *testing.T) {
	l := newLab(t)
	a, b := l.container(10), l.container(11)
	l.publish(11, 17, 8080, 7)
	d := l.open()
	l.apply(d)
	echo(b, "[::]:7")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { _ = d.Run(ctx) }()
	ask(t, "unwatched", a, "10.1.0.11:7")
	w, err := d.Watch(WatchOptions{Flows: true})
	if err != nil {
		t.Fatal(err)
	}
	next := func(kind EventKind, dst string) Event {
		t.Helper()
		timeout := time.After(5 * time.Second)
		for {
			select {
			case e := <-w.C:
				if e.Kind == kind && e.Flow.Dst.String() == dst {
					return e
				}
			case <-timeout:
				t.Fatalf("no event %s of %s", kind, dst)
			}
		}
	}
	for _, c := range []struct{ to, becomes string }{{"198.51.100.1:8080", "10.1.0.11:7"}, {"[fd00:1::b]:7", "[fd00:1::b]:7"}} {
		if err := a.Ask("udp", c.to, "hello", answer); err != nil {
			t.Fatal(err)
		}
		e := next(EventFlowNew, c.to)
		if f := e.Flow; f.Proto != 17 || f.NewDst.String() != c.becomes || f.In != 10 || f.Out != 11 || f.State != "udp1" || e.Port != 10 ||
			(f.Service != 0) != (c.to != c.becomes) {
			t.Errorf("new: %+v", e)
		}
	}
	end := func(what, dst, why string) {
		t.Helper()
		e := next(EventFlowEnd, dst)
		if f := e.Flow; e.Why != why || f.Packets < 1 || f.Packets > 2 || f.ReplyPackets != 1 || f.Bytes == 0 || f.State != "udp2" || f.NewDst.Port() != 7 || f.Out != 11 {
			t.Errorf("%s: %+v", what, e)
		}
	}
	// It is silent for too long.
	now, err := monotonicSeconds()
	if err != nil {
		t.Fatal(err)
	}
	var k bpf.FlowKey6
	var v bpf.Flow6
	for it := d.state["flow6"].Iterate(); it.Next(&k, &v); {
		if k.Proto == 17 {
			v.LastS = now - 1000
			if err := d.state["flow6"].Put(k, v); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := d.Sweep(); err != nil {
		t.Fatal(err)
	}
	end("idle", "[fd00:1::b]:7", "idle")
	// Its backend goes, and its client goes on: what it was made with is not legal.
	c, err := a.Dial(ctx, "udp", "198.51.100.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 10)
	if _, err := c.Write([]byte("once")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(buf); err != nil {
		t.Fatal(err)
	}
	l.s.Mappings = nil
	l.apply(d)
	if _, err := c.Write([]byte("again")); err != nil {
		t.Fatal(err)
	}
	end("backend gone", "198.51.100.1:8080", "changed")
	if err := a.Ask("udp", "[fd00:1::b]:7", "straight", answer); err != nil {
		t.Fatal(err)
	}
	l.s.Ports = slices.DeleteFunc(l.s.Ports, func(p vswitch.Port) bool { return p.ID == 10 })
	l.apply(d)
	if _, err := d.Sweep(); err != nil {
		t.Fatal(err)
	}
	end("port gone", "[fd00:1::b]:7", "port-gone")
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	var cfg bpf.Cfg
	if err := d.gen.coll.Maps["cfg"].Lookup(uint32(0), &cfg); err != nil || cfg.FlowRate != 0 {
		t.Errorf("flow events go on: %+v, %v", cfg, err)
	}
}

func TestConversations(t *testing.T) {
	l := newLab(t)
	a, b := l.container(10), l.container(11)
	l.publish(11, 6, 8080, 7)
	d := l.open()
	l.apply(d)
	echo(b, "[::]:7")
	ask(t, "straight", a, "10.1.0.11:7")
	if err := a.Ask("tcp", "198.51.100.1:8080", "published", answer); err != nil {
		t.Fatal(err)
	}
	var got []string
	err := d.Conversations(func(f *Flow) bool { return f.Proto == 6 }, func(c Conversation) bool {
		got = append(got, fmt.Sprintf("%s=>%s answers %v service %v", c.Dst, c.NewDst, c.ReplyPackets > 0, c.Service != 0))
		if c.ReplySrc() != c.NewDst || c.ReplyDst() != c.NewSrc || c.Timeout == 0 {
			t.Errorf("%+v", c)
		}
		return true
	})
	slices.Sort(got)
	want := []string{"10.1.0.11:7=>10.1.0.11:7 answers true service false", "198.51.100.1:8080=>10.1.0.11:7 answers true service true"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

// Live cannot write, not even by the maps it holds.
func TestLiveIsReadOnly(t *testing.T) {
	l := newLab(t)
	d := l.open()
	v := d.Live()
	for _, name := range bpf.StateMaps() {
		if d.state[name].Type() == ebpf.RingBuf {
			continue
		}
		m := v.maps[name]
		if m == nil {
			t.Errorf("%s: not there for reading", name)
			continue
		}
		key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
		switch m.Type() {
		case ebpf.PerCPUArray, ebpf.PerCPUHash, ebpf.LRUCPUHash:
			n, err := ebpf.PossibleCPU()
			if err != nil {
				t.Fatal(err)
			}
			values := make([][]byte, n)
			for i := range values {
				values[i] = value
			}
			if err := m.Put(key, values); !errors.Is(err, unix.EPERM) {
				t.Errorf("%s: put: %v; want %v", name, err, unix.EPERM)
			}
		default:
			if err := m.Put(key, value); !errors.Is(err, unix.EPERM) {
				t.Errorf("%s: put: %v; want %v", name, err, unix.EPERM)
			}
		}
		if err := m.Delete(key); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: delete: %v; want %v", name, err, unix.EPERM)
		}
	}
}

// What a port's rules deny it is shown at that port, an answer too; what its own
// rules deny of what it says, at no other.
func TestCaptureRefused(t *testing.T) {
	l := newLab(t)
	a, b := l.container(10), l.container(11)
	d := l.open()
	l.apply(d)
	ca, cancelA := startCapture(t, d, 0, 10)
	defer cancelA()
	cb, cancelB := startCapture(t, d, 0, 11)
	defer cancelB()
	talk := func(from, to *nettest.NS, listen string) (asks net.Conn, answers func()) {
		var pc net.PacketConn
		err := to.Do(func() (err error) { pc, err = net.ListenPacket("udp", listen); return err })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { pc.Close() })
		asks, err = from.Dial(context.Background(), "udp", listen)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { asks.Close() })
		if _, err := asks.Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		if err := pc.SetDeadline(time.Now().Add(answer)); err != nil {
			t.Fatal(err)
		}
		_, peer, err := pc.ReadFrom(make([]byte, 16))
		if err != nil {
			t.Fatal(err)
		}
		return asks, func() {
			if _, err := pc.WriteTo([]byte("answer"), peer); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, f := range []struct{ a, b string }{{"10.1.0.10", "10.1.0.11"}, {"[fd00:1::a]", "[fd00:1::b]"}} {
		l.rules(d)
		_, bAnswers := talk(a, b, f.b+":9001")
		bAsks, aAnswers := talk(b, a, f.a+":9002")
		l.rules(d, vswitch.ACLRule{ID: 1, Name: "no way out", Direction: vswitch.ACLOut, Action: vswitch.ACLBlock},
			vswitch.ACLRule{ID: 2, Name: "no way in", Direction: vswitch.ACLIn, Action: vswitch.ACLBlock})
		before, err := d.Stats(10)
		if err != nil {
			t.Fatal(err)
		}
		bAnswers()
		ca.has(t, "in dropped acl_out udp "+f.b+":9001 > "+f.a)
		cb.has(t, "out dropped acl_out udp "+f.b+":9001 > "+f.a)
		if _, err := bAsks.Write([]byte("again")); err != nil {
			t.Fatal(err)
		}
		ca.has(t, "in dropped acl_in udp "+f.b, "> "+f.a+":9002")
		aAnswers()
		ca.has(t, "out dropped acl_in udp "+f.a+":9002 > "+f.b)
		after, err := d.Stats(10)
		if err != nil || after.RxDrops != before.RxDrops+2 || after.TxDrops < before.TxDrops+1 {
			t.Errorf("counters of the port whose rules these are: %+v, then %+v, %v", before, after, err)
		}
	}
	for _, s := range cb.samples() {
		if s.Dropped && !s.Out {
			t.Errorf("shown to who has no rules: %s", text(s))
		}
	}
}
