// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/bpfnext"
)

const answer = 3 * time.Second

// ask tries TCP and UDP from ns to an echo server.
func ask(t *testing.T, what string, ns *nettest.NS, addr string) {
	t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		if err := ns.Ask(network, addr, what+" by "+network, answer); err != nil {
			t.Errorf("%s, %s %s: %v", what, network, addr, err)
		}
	}
}

func echo(ns *nettest.NS, addr string) {
	ns.EchoTCP(addr)
	ns.EchoUDP(addr)
}

func TestTraffic(t *testing.T) {
	l := newLab(t)
	a, b := l.container(10), l.container(11)
	l.publish(11, 6, 8080, 7)
	l.publish(11, 17, 8080, 7)
	d := l.open()
	l.apply(d)
	for _, ns := range []*nettest.NS{b, l.outside, l.host} {
		echo(ns, "[::]:7") // both families
	}
	dump := func() {
		if !t.Failed() {
			return
		}
		drops, err := d.Drops()
		t.Logf("drops: %+v, %v", drops, err)
		_ = d.Flows(func(f Flow) bool { t.Logf("flow: %+v", f); return true })
	}
	defer dump()
	ask(t, "container to container", a, "10.1.0.11:7")
	ask(t, "container to container v6", a, "[fd00:1::b]:7")
	ask(t, "container to gateway", a, "10.1.0.1:7")
	ask(t, "container to gateway v6", a, "[fd00:1::1]:7")
	// A UDP server on every address answers from the route's, so this one has its own.
	echo(l.host, "198.51.100.1:9")
	ask(t, "container to host address", a, "198.51.100.1:9")
	ask(t, "host to container", l.host, "10.1.0.11:7")
	ask(t, "host to container v6", l.host, "[fd00:1::b]:7")
	ask(t, "container to outside", a, "198.51.100.2:7")
	ask(t, "container to outside v6", a, "[2001:db8:1::2]:7")
	ask(t, "outside to published", l.outside, "198.51.100.1:8080")
	ask(t, "outside to published v6", l.outside, "[2001:db8:1::1]:8080")
	ask(t, "container to published", a, "198.51.100.1:8080")
	ask(t, "container to itself published", b, "198.51.100.1:8080")
	ask(t, "host to published", l.host, "198.51.100.1:8080")
	ask(t, "host to published on loopback", l.host, "127.0.0.1:8080")
	ask(t, "host to published on loopback v6", l.host, "[::1]:8080")

	s, err := d.Stats(11)
	if err != nil || s.RxPackets == 0 || s.TxPackets == 0 {
		t.Errorf("counters of port 11: %+v, %v", s, err)
	}
	flows := 0
	if err := d.Flows(func(f Flow) bool { flows++; return true }); err != nil || flows == 0 {
		t.Errorf("%d flows, %v", flows, err)
	}
	if r, err := d.Sweep(); err != nil || r.Entries4 == 0 || r.Entries6 == 0 {
		t.Errorf("sweep: %+v, %v", r, err)
	}

	// A port that goes: nothing passes, and no flow stays.
	l.s.Ports = l.s.Ports[:2]
	l.s.Mappings = nil
	l.apply(d)
	if err := a.Ask("udp", "10.1.0.11:7", "gone", 300*time.Millisecond); err == nil {
		t.Error("a removed port answers")
	}
	if _, err := d.Sweep(); err != nil {
		t.Error(err)
	}
	_ = d.Flows(func(f Flow) bool {
		if (f.In == 11 || f.Out == 11) && f.State != "tw" {
			t.Errorf("after the sweep: %+v", f)
		}
		return true
	})
}

func TestUnknownDeviceIsDropped(t *testing.T) {
	l := newLab(t)
	a, b := l.container(10), l.container(11)
	l.s.Ports = l.s.Ports[:2] // b is plugged in, but nobody said so
	d := l.open()
	w, err := d.Watch(WatchOptions{Drops: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	l.apply(d)
	echo(a, "0.0.0.0:7")
	if err := b.Ask("udp", "10.1.0.10:7", "hello", 300*time.Millisecond); err == nil {
		t.Error("an unknown device is served")
	}
	drops, err := d.Drops()
	if err != nil || len(drops) == 0 || drops[0].Reason != "port_down" || drops[0].Packets == 0 {
		t.Errorf("drops: %+v, %v", drops, err)
	}
	select {
	case e := <-w.C:
		if e.Reason != "port_down" || e.Ifindex == 0 || len(e.Data) == 0 {
			t.Errorf("event: %+v", e)
		}
	case <-time.After(3 * time.Second):
		t.Error("no event")
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("run: %v", err)
	}
}

// stream is a constant-rate flow of numbered datagrams that counts what is lost.
type stream struct {
	sent, received atomic.Int64
	failed         atomic.Int64
	stop           chan struct{}
	done           chan struct{}
}

// startStream sends pps datagrams a second from one namespace to addr, which the
// other listens at as listen.
func startStream(t *testing.T, from *nettest.NS, addr string, to *nettest.NS, listen string, pps int) *stream {
	t.Helper()
	s := &stream{stop: make(chan struct{}), done: make(chan struct{})}
	in := to.ListenPacket(listen).(*net.UDPConn)
	bigBuffer(t, in)
	go func() {
		buf := make([]byte, 64)
		for {
			if _, _, err := in.ReadFromUDPAddrPort(buf); err != nil {
				return
			}
			s.received.Add(1)
		}
	}()
	c, err := from.Dial(context.Background(), "udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(s.done)
		defer c.Close()
		buf := make([]byte, 18)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		start := time.Now()
		for {
			select {
			case <-s.stop:
				return
			case <-tick.C:
			}
			// Catch up in bounded bursts, so that a stall of the test makes no flood.
			due := int64(time.Since(start).Seconds() * float64(pps))
			for n := 0; s.sent.Load()+s.failed.Load() < due && n < 200; n++ {
				if _, err := c.Write(buf); err != nil {
					s.failed.Add(1)
					continue
				}
				s.sent.Add(1)
			}
		}
	}()
	return s
}

// end stops the stream and returns how many datagrams were sent and lost.
func (s *stream) end() (sent, lost int64) {
	close(s.stop)
	<-s.done
	deadline := time.Now().Add(2 * time.Second)
	for s.received.Load() < s.sent.Load() && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	return s.sent.Load(), s.sent.Load() - s.received.Load()
}

func bigBuffer(t *testing.T, c *net.UDPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if e := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
}

// waitFlowing fails unless datagrams arrive.
func (s *stream) waitFlowing(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(answer); s.received.Load() < 100; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no traffic: sent %d, received %d", s.sent.Load(), s.received.Load())
		}
	}
}

// TestRestartLosesNothing starts the data plane again and again, and kills
// starts half-way, under 20000 packets a second.
func TestRestartLosesNothing(t *testing.T) {
	l := newLab(t)
	a, b := l.container(10), l.container(11)
	l.publish(11, 17, 5353, 53)
	d := l.open()
	l.apply(d)
	inner := startStream(t, a, "10.1.0.11:5000", b, "10.1.0.11:5000", 10000)
	outer := startStream(t, l.outside, "198.51.100.1:5353", b, "10.1.0.11:53", 10000)
	inner.waitFlowing(t)
	outer.waitFlowing(t)

	killed := map[string]int{}
	for i := range 20 {
		if i%4 == 0 { // a start, whole
			d.Close()
			d = l.open()
			l.apply(d)
			continue
		}
		// Half of them while they load, half while they switch.
		if i%2 == 0 {
			killed[l.killed(t, "", time.Duration(rand.Int64N(int64(400*time.Millisecond))))]++
		} else {
			killed[l.killed(t, "open", time.Duration(rand.Int64N(int64(15*time.Millisecond))))]++
		}
	}
	d.Close()
	d = l.open()
	l.apply(d)
	t.Logf("killed: %v", killed)
	for name, s := range map[string]*stream{"between containers": inner, "from outside": outer} {
		if sent, lost := s.end(); lost != 0 || s.failed.Load() != 0 || sent == 0 {
			t.Errorf("%s: %d of %d lost, %d not sent", name, lost, sent, s.failed.Load())
		} else {
			t.Logf("%s: 0 of %d lost", name, sent)
		}
	}
	if n := dirs(t, l.o); len(n) != 1 {
		t.Errorf("generations %v, want one", n)
	}
	checkMaps(t, d, l.tables())
	if t.Failed() {
		drops, _ := d.Drops()
		t.Logf("drops: %+v", drops)
	}
}

// killed runs a daemon, kills it a while after it came to a point ("" = its
// start) and returns how far it had come.
func (l *lab) killed(t *testing.T, point string, after time.Duration) string {
	t.Helper()
	doc, err := json.Marshal(order{Pins: l.o.Pins, Block: l.o.Block, State: l.s, Facts: l.f, Object: l.objectFile, Layout: bpfnext.Layout})
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.Stdin = strings.NewReader(string(doc))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer // why, should it end by itself
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	came := "started"
	if point == "" {
		timer.Reset(after)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if came = lines.Text(); came == point {
			timer.Reset(after)
		}
	}
	err = cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() {
		t.Errorf("daemon ended by itself: %v, %s\n%s", err, came, &said)
	}
	return came
}

// TestNoDaemon: traffic goes on after Close, between Open and Apply, and stops
// with Destroy.
func TestNoDaemon(t *testing.T) {
	l := newLab(t)
	a, b := l.container(10), l.container(11)
	d := l.open()
	l.apply(d)
	b.EchoUDP("10.1.0.11:7")
	talk := func(when string) {
		t.Helper()
		for i := range 5 {
			if err := a.Ask("udp", "10.1.0.11:7", fmt.Sprint(when, i), answer); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
	}
	talk("with the daemon")
	d.Close()
	talk("without")
	d = l.open()
	talk("between Open and Apply")
	d.Close()
	talk("after a start was given up")
	if err := Destroy(l.o); err != nil {
		t.Error(err)
	}
	if left, err := Owned(l.o); err != nil || len(left) > 0 {
		t.Errorf("left after Destroy: %v, %v", left, err)
	}
	if err := a.Ask("udp", "10.1.0.11:7", "destroyed", 300*time.Millisecond); err == nil {
		t.Error("traffic after Destroy")
	}
}

func BenchmarkApplyOnePort(b *testing.B) {
	l := newLab(b)
	for i := range 1000 {
		id := vswitch.PortID(100 + i)
		l.f.Ifindex[fmt.Sprint("x", i)] = 100000 + i
		l.s.Ports = append(l.s.Ports, vswitch.Port{
			ID: id, Kind: vswitch.PortContainer, Network: testNetwork, Interface: fmt.Sprint("x", i), MAC: vswitch.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)},
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 1 + byte(i>>8), byte(i)})}, Up: true,
		})
	}
	l.s.Networks[0].Flags &^= vswitch.NetFlood
	var c vswitch.Compiler
	d := l.open()
	for i := 0; b.Loop(); i++ {
		p := &l.s.Ports[1+i%1000]
		p.Up = !p.Up
		t, err := c.Compile(l.s, l.f)
		if err != nil {
			b.Fatal(err)
		}
		if err := d.Apply(context.Background(), t); err != nil {
			b.Fatal(err)
		}
	}
}
