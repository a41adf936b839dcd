// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/bpfnext"
)

// nextVersion compiles programs with other layouts of state and returns the file.
func nextVersion(t *testing.T) string {
	t.Helper()
	nettest.RequireRoot(t)
	dir := t.TempDir()
	if err := bpfnext.Sources("../bpf", dir); err != nil {
		t.Fatal(err)
	}
	file, err := bpfnext.Compile("../bpf/gen.go", dir)
	if errors.Is(err, exec.ErrNotFound) {
		t.Skipf("the compiler that makes the objects is not here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func fromFile(layout, file string) *object {
	return &object{layout, func() (*ebpf.CollectionSpec, error) { return ebpf.LoadCollectionSpec(file) }}
}

// transfer is a long TCP connection that is never idle.
type transfer struct {
	bytes atomic.Int64
	err   atomic.Pointer[error]
	c     net.Conn
	done  chan struct{}
}

func startTransfer(t *testing.T, from *nettest.NS, addr string, to *nettest.NS, listen string) *transfer {
	t.Helper()
	l := to.Listen(listen)
	x := &transfer{done: make(chan struct{})}
	fail := func(err error) { x.err.CompareAndSwap(nil, &err) }
	go func() {
		defer close(x.done)
		c, err := l.Accept()
		if err != nil {
			fail(err)
			return
		}
		defer c.Close()
		buf := make([]byte, 1<<16)
		for {
			n, err := c.Read(buf)
			x.bytes.Add(int64(n))
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				fail(fmt.Errorf("receiver: %w", err))
				return
			}
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), answer)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	x.c = c
	go func() {
		buf := make([]byte, 1<<14)
		for {
			if _, err := c.Write(buf); err != nil {
				if !errors.Is(err, net.ErrClosed) {
					fail(fmt.Errorf("sender: %w", err))
				}
				return
			}
			time.Sleep(time.Millisecond) // leave the processors to the datagrams
		}
	}()
	return x
}

func (x *transfer) end(t *testing.T) {
	t.Helper()
	x.c.Close()
	select {
	case <-x.done:
	case <-time.After(answer):
		t.Error("transfer does not end")
	}
	if err := x.err.Load(); err != nil {
		t.Errorf("transfer: %v", *err)
	}
	t.Logf("transfer: %d bytes", x.bytes.Load())
}

// binding is a conversation through NAT of which the far end notes who it sees.
type binding struct {
	conn net.Conn
	peer netip.AddrPort
}

// bindings makes conversations from one source port of several containers, so
// that NAT must find other ports.
func bindings(t *testing.T, l *lab, from ...*nettest.NS) func() {
	t.Helper()
	far := l.outside.ListenPacket("198.51.100.2:9000").(*net.UDPConn)
	var all []*binding
	say := func(b *binding) netip.AddrPort {
		t.Helper()
		buf := make([]byte, 64)
		for range 3 { // the first datagram of a flow may wait for a neighbour
			if _, err := b.conn.Write([]byte("who am I")); err != nil {
				t.Fatal(err)
			}
			_ = far.SetReadDeadline(time.Now().Add(answer))
			_, peer, err := far.ReadFromUDPAddrPort(buf)
			if err != nil {
				continue
			}
			if _, err := far.WriteToUDPAddrPort([]byte("you"), peer); err != nil {
				t.Fatal(err)
			}
			_ = b.conn.SetReadDeadline(time.Now().Add(answer))
			if _, err := b.conn.Read(buf); err == nil {
				return peer
			}
		}
		t.Error("no answer through NAT")
		return netip.AddrPort{}
	}
	for _, ns := range from {
		var c net.Conn
		err := ns.Do(func() (err error) {
			c, err = (&net.Dialer{LocalAddr: &net.UDPAddr{Port: 5555}}).Dial("udp4", "198.51.100.2:9000")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		b := &binding{conn: c}
		b.peer = say(b)
		all = append(all, b)
	}
	if all[0].peer == all[1].peer {
		t.Fatalf("two conversations share %v", all[0].peer)
	}
	return func() {
		t.Helper()
		for i, b := range all {
			if got := say(b); got != b.peer {
				t.Errorf("conversation %d was %v outside and is now %v", i, b.peer, got)
			}
		}
	}
}

// sticky is a service with affinity, at an address that nobody has: whoever asks
// it from a new port reaches the backend that it had before.
func sticky(t *testing.T, l *lab, client *nettest.NS, backends map[vswitch.PortID]*nettest.NS) func() {
	t.Helper()
	const at = "10.96.0.7:700"
	s := vswitch.Service{ID: 1, Object: "sticky", Affinity: 3600,
		Frontends: []vswitch.Frontend{{Addr: netip.MustParseAddr("10.96.0.7"), Port: 700, Proto: 17, Scope: vswitch.ScopeNetworks}}}
	for id, ns := range backends {
		addr := netip.MustParseAddr(fmt.Sprintf("10.1.0.%d", id))
		s.Backends = append(s.Backends, vswitch.Backend{Addr: addr, Port: 70, At: id})
		c := ns.ListenPacket(netip.AddrPortFrom(addr, 70).String())
		go func() {
			buf := make([]byte, 64)
			for {
				_, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = c.WriteTo([]byte(addr.String()), from)
			}
		}()
	}
	l.s.Services = append(l.s.Services, s)
	had := ""
	return func() {
		t.Helper()
		for range 8 {
			c, err := client.Dial(t.Context(), "udp", at)
			if err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 64)
			_, err = c.Write([]byte("who are you"))
			if err == nil {
				_ = c.SetReadDeadline(time.Now().Add(answer))
				var n int
				n, err = c.Read(buf)
				buf = buf[:n]
			}
			c.Close()
			if err != nil {
				t.Errorf("ask the service: %v", err)
				return
			}
			if had == "" {
				had = string(buf)
			}
			if string(buf) != had {
				t.Errorf("the service's client came to %s and now to %s", had, buf)
			}
		}
	}
}

// upgradeLab is a lab under traffic: pps packets a second in four streams, two of
// them through NAT, and a TCP transfer through NAT.
func upgradeLab(t *testing.T, pps int) (l *lab, d *Datapath, check, end func()) {
	l = newLab(t)
	a, b, c := l.container(10), l.container(11), l.container(12)
	l.publish(11, 17, 5353, 53)
	backend := sticky(t, l, a, map[vswitch.PortID]*nettest.NS{11: b, 12: c})
	d = l.open()
	l.apply(d)
	backend()
	streams := map[string]*stream{
		"between containers":    startStream(t, a, "10.1.0.11:5000", b, "10.1.0.11:5000", pps/4),
		"between containers v6": startStream(t, b, "[fd00:1::a]:5000", a, "[fd00:1::a]:5000", pps/4),
		"from outside":          startStream(t, l.outside, "198.51.100.1:5353", b, "10.1.0.11:53", pps/4),
		"to the outside":        startStream(t, a, "198.51.100.2:5001", l.outside, "198.51.100.2:5001", pps/4),
	}
	x := startTransfer(t, b, "198.51.100.2:6000", l.outside, "198.51.100.2:6000")
	same := bindings(t, l, a, b)
	for _, s := range streams {
		s.waitFlowing(t)
	}
	check = func() {
		t.Helper()
		same()
		backend()
		before := x.bytes.Load()
		for deadline := time.Now().Add(answer); x.bytes.Load() == before; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the transfer stands still")
			}
		}
	}
	end = func() {
		t.Helper()
		total := int64(0)
		for name, s := range streams {
			sent, lost := s.end()
			total += sent
			if lost != 0 || s.failed.Load() != 0 || sent == 0 {
				t.Errorf("%s: %d of %d lost, %d not sent", name, lost, sent, s.failed.Load())
			}
		}
		t.Logf("%d datagrams", total)
		x.end(t)
		left, err := os.ReadDir(l.o.Pins + "/state")
		if err != nil || len(left) != 1 {
			t.Errorf("state directories %v, %v; want one", left, err)
		}
	}
	return l, d, check, end
}

// TestUpgrade goes to a version with other programs and other layouts of state,
// and back, under traffic. Nothing is lost and NAT bindings stay.
func TestUpgrade(t *testing.T) {
	next := fromFile(bpfnext.Layout, nextVersion(t))
	l, d, check, end := upgradeLab(t, 50000)
	total := func(layout string) (packets uint64, epoch uint32) {
		t.Helper()
		spec, err := d.loadSpec()
		if err != nil {
			t.Fatal(err)
		}
		at, _, ok := fieldAt(spec.Maps["pstats"].Value, "rx_packets")
		if !ok {
			t.Fatalf("layout %s: no rx_packets", layout)
		}
		var all [][]byte
		if err := d.state["pstats"].Lookup(uint32(11), &all); err != nil {
			t.Fatal(err)
		}
		for _, b := range all {
			packets += natural(b[at : at+8])
		}
		if err := d.state["epoch"].Lookup(uint32(16383), &epoch); err != nil {
			t.Fatal(err)
		}
		return packets, epoch
	}
	packets, epoch := total("ours")
	for _, name := range []string{"flow4", "flow6"} { // what carrying over writes is what the programs write
		spec, _ := d.loadSpec()
		at, _, _ := fieldAt(spec.Maps[name].Value, "tag")
		n := 0
		err := eachEntry(d.state[name], func(k, v []byte) error {
			if tag := uint32(natural(v[at : at+4])); fold(k) != tag&0xffff0000 {
				t.Errorf("%s: tag %#x, fold %#x", name, tag, fold(k))
			}
			n++
			return nil
		})
		if err != nil || n == 0 {
			t.Errorf("%s: %d entries, %v", name, n, err)
		}
	}
	for i := range 4 {
		l.o.object = nil
		if i%2 == 0 {
			l.o.object = next
		}
		d.Close()
		d = l.open()
		l.apply(d)
		check()
		p, e := total(d.layout())
		if p <= packets || e <= epoch {
			t.Errorf("after switch %d: %d packets and epoch %d, before %d and %d", i, p, e, packets, epoch)
		}
		packets, epoch = p, e
	}
	end()
	checkMaps(t, d, l.tables())
}

// TestUpgradeKilled kills daemons of both versions at any moment of it.
func TestUpgradeKilled(t *testing.T) {
	file := nextVersion(t)
	l, d, check, end := upgradeLab(t, 10000)
	d.Close()
	killed := map[string]int{}
	for i := range 12 {
		l.o.object, l.objectFile = nil, ""
		if i/2%2 == 0 {
			l.o.object, l.objectFile = fromFile(bpfnext.Layout, file), file
		}
		if i%2 == 0 {
			killed[l.killed(t, "", time.Duration(rand.Int64N(int64(400*time.Millisecond))))]++
		} else {
			killed[l.killed(t, "open", time.Duration(rand.Int64N(int64(40*time.Millisecond))))]++
		}
		if i%4 == 3 {
			check()
		}
	}
	t.Logf("killed: %v", killed)
	l.o.object = nil
	d = l.open()
	l.apply(d)
	check()
	end()
	checkMaps(t, d, l.tables())
}

// TestSameVersionOtherLayout: two builds say the same version of different layouts.
func TestSameVersionOtherLayout(t *testing.T) {
	file := nextVersion(t)
	l, d, check, end := upgradeLab(t, 10000)
	d.Close()
	l.o.object = fromFile(bpf.StateLayout, file)
	d = l.open()
	l.apply(d)
	check()
	d.Close()
	l.o.object = nil
	d = l.open()
	l.apply(d)
	check()
	end()
}

// TestIncompatibleMap: one map that cannot be carried over does not keep the
// others from it.
func TestIncompatibleMap(t *testing.T) {
	l := newLab(t)
	d := l.open()
	l.apply(d)
	put := func(name string, k, v any) {
		t.Helper()
		if err := d.state[name].Put(k, v); err != nil {
			t.Fatal(err)
		}
	}
	put("frag4", bpf.FragKey4{SrcBe: 1}, bpf.FragVal{SportBe: 2, LastS: 1})
	put("sockrev", bpf.SockRevKey{Cookie: 1}, bpf.SockRevVal{PortBe: 2})
	d.Close()
	l.o.object = &object{"other", func() (*ebpf.CollectionSpec, error) {
		spec, err := bpf.LoadSwitch()
		if err == nil { // a structure became bytes, as many
			spec.Maps["frag4"].Value = &btf.Array{Type: &btf.Int{Name: "u8", Size: 1}, Index: &btf.Int{Name: "u32", Size: 4}, Nelems: 8}
		}
		return spec, err
	}}
	d = l.open()
	var f bpf.FragVal
	if err := d.state["frag4"].Lookup(bpf.FragKey4{SrcBe: 1}, &f); !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Errorf("an entry that cannot be converted: %+v, %v", f, err)
	}
	var s bpf.SockRevVal
	if err := d.state["sockrev"].Lookup(bpf.SockRevKey{Cookie: 1}, &s); err != nil || s.PortBe != 2 {
		t.Errorf("the other map: %+v, %v", s, err)
	}
}
