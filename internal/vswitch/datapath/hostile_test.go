// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// marker is in everything that the attacker sends.
const marker = "gatehouse-hostile"

// rawSocket is a socket for whole frames at a device of a namespace.
func rawSocket(t *testing.T, ns *nettest.NS, device string) int {
	t.Helper()
	fd := -1
	err := ns.Do(func() error {
		i, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		all := int(binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}))
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: i.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// witness is somebody whom nothing of the attacker's may reach.
type witness struct {
	name string
	fd   int
}

// marked counts the attacker's frames that came in since the last call.
func (w *witness) marked() (n int) {
	buf := make([]byte, 4096)
	for {
		k, from, err := unix.Recvfrom(w.fd, buf, 0)
		if err != nil {
			return n
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype != unix.PACKET_OUTGOING && bytes.Contains(buf[:k], []byte(marker)) {
			n++
		}
	}
}

// hostile is a lab with an attacker at port 10, a victim at 11, and a host
// outside; the victim talks to outside and to port 12.
type hostile struct {
	*lab
	d                 *Datapath
	attacker, victim  *nettest.NS
	friend            *nettest.NS
	fd                int
	witnesses         []*witness
	mac, gwMAC, other pkt.MAC
}

func newHostile(t *testing.T) *hostile {
	l := newLab(t)
	h := &hostile{lab: l, attacker: l.container(10), victim: l.container(11), friend: l.container(12)}
	h.d = l.open()
	l.apply(h.d)
	h.fd = rawSocket(t, h.attacker, "eth0")
	for _, w := range []struct {
		name string
		ns   *nettest.NS
		dev  string
	}{{"the victim", h.victim, "eth0"}, {"its friend", h.friend, "eth0"}, {"the host", l.host, l.name("nic")}, {"outside", l.outside, "eth0"}} {
		h.witnesses = append(h.witnesses, &witness{name: w.name, fd: rawSocket(t, w.ns, w.dev)})
	}
	h.mac, h.other = pkt.MAC(l.portOf(10).MAC), pkt.MAC(l.portOf(11).MAC)
	h.gwMAC = pkt.MAC(l.portOf(hostPort).MAC)
	return h
}

// count is the sum of all drops at the attacker's port, by reason, and what it
// is said to have sent on.
func (h *hostile) count() (byReason map[string]uint64, drops, forwarded uint64) {
	h.t.Helper()
	all, err := h.d.Drops()
	if err != nil {
		h.t.Fatal(err)
	}
	byReason = map[string]uint64{}
	for _, d := range all {
		if d.Port == 10 || d.Port == 0 {
			byReason[d.Reason] += d.Packets
			drops += d.Packets
		}
	}
	s, err := h.d.Stats(10)
	if err != nil {
		h.t.Fatal(err)
	}
	return byReason, drops, s.TxPackets
}

// parse is a packet of the attacker's with its MACs and the marker.
func (h *hostile) parse(line string) *pkt.Packet {
	p := pkt.MustParse(line)
	p.From, p.To = h.mac, h.gwMAC
	if p.Ether != pkt.EtherARP && p.Inner == nil && (p.Proto != pkt.ICMP6 || p.Type < 133) {
		p.Data = append([]byte(marker), p.Data...)
	}
	if p.Dst.IsMulticast() {
		p.To = pkt.MAC{0x33, 0x33, 0, 0, 0, 1}
	}
	return p
}

// TestHostile: what a container may not send reaches nobody, and each frame is
// one drop with one reason; meanwhile its neighbours talk.
func TestHostile(t *testing.T) {
	h := newHostile(t)
	for _, ns := range []*nettest.NS{h.friend, h.outside} {
		echo(ns, "[::]:7")
	}
	frame := func(line string, change ...func(*pkt.Packet)) [][]byte {
		p := h.parse(line)
		for _, f := range change {
			f(p)
		}
		return [][]byte{p.Bytes()}
	}
	raw := func(line string, f func([]byte) []byte) [][]byte { return [][]byte{f(frame(line)[0])} }
	arp := func(op uint16, src, dst string, mac pkt.MAC, to pkt.MAC) [][]byte {
		p := &pkt.Packet{From: h.mac, To: to, Ether: pkt.EtherARP, Op: op, Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), ArpSrc: mac}
		return [][]byte{append(p.Bytes(), marker...)}
	}
	broadcast := pkt.MAC{255, 255, 255, 255, 255, 255}
	fragments := func(line string, offset int) [][]byte {
		parts := h.parse(line).Fragments(77, 64)
		late := *parts[1]
		late.Frag = &pkt.Frag{ID: 77, Off: offset}
		return [][]byte{late.Bytes()}
	}
	for _, c := range []struct {
		name, reason string
		frames       [][]byte
	}{
		{"another's MAC", "spoof_mac", frame("10.1.0.10.4000 > 10.1.0.11.7: udp", func(p *pkt.Packet) { p.From = h.other })},
		{"another's address", "spoof_ip", frame("10.1.0.11.4000 > 10.1.0.12.7: udp")},
		{"another's address, v6", "spoof_ip", frame("fd00:1::b.4000 > fd00:1::c.7: udp")},
		{"the gateway's address", "spoof_ip", frame("10.1.0.1.4000 > 10.1.0.11.7: tcp S")},
		{"an address from outside", "spoof_ip", frame("198.51.100.2.7 > 10.1.0.11.4000: udp")},
		{"the host's address", "spoof_ip", frame("198.51.100.1.7 > 198.51.100.2.4000: udp")},
		{"no address", "spoof_ip", frame("0.0.0.0.68 > 10.1.0.11.67: udp")},
		{"ARP: the victim is here", "spoof_arp", arp(2, "10.1.0.11", "10.1.0.12", h.mac, broadcast)},
		{"ARP: the gateway is here, to the victim", "spoof_arp", arp(2, "10.1.0.1", "10.1.0.11", h.mac, h.other)},
		{"ARP: announcement of the gateway", "spoof_arp", arp(1, "10.1.0.1", "10.1.0.1", h.mac, broadcast)},
		{"ARP: my address at another's MAC", "spoof_arp", arp(2, "10.1.0.10", "10.1.0.11", h.other, broadcast)},
		{"ND: the gateway is here", "spoof_arp", frame("fd00:1::a > fd00:1::b: icmp6 nd 136 fd00:1::1 mac "+h.mac.String(), func(p *pkt.Packet) { p.TTL = 255 })},
		{"router advertisement", "ra_guard", frame("fd00:1::a > ff02::1: icmp6 nd 134", func(p *pkt.Packet) { p.TTL = 255 })},
		{"ND redirect", "ra_guard", frame("fd00:1::a > fd00:1::b: icmp6 nd 137", func(p *pkt.Packet) { p.TTL = 255 })},
		{"ICMP redirect", "ra_guard", frame("10.1.0.10 > 10.1.0.11: icmp type 5 1")},
		{"DHCP server", "dhcp_guard", frame("10.1.0.10.67 > 10.1.0.11.68: udp")},
		{"DHCPv6 server", "dhcp_guard", frame("fd00:1::a.547 > fd00:1::b.546: udp")},
		{"IP header longer than the packet", "parse", raw("10.1.0.10.4000 > 10.1.0.11.7: udp", func(b []byte) []byte { b[14] = 0x4f; return b[:14+40] })},
		{"options cut short", "parse", raw("10.1.0.10.4000 > 10.1.0.11.7: tcp S", func(b []byte) []byte { b[14], b[17] = 0x4f, 56; return b[:14+56] })},
		{"length beyond the frame", "parse", raw("10.1.0.10.4000 > 10.1.0.11.7: udp", func(b []byte) []byte { b[17] += 40; return b })},
		{"IPv6 length beyond the frame", "parse", raw("fd00:1::a.4000 > fd00:1::b.7: udp", func(b []byte) []byte { b[19] += 40; return b })},
		{"too many extension headers", "ext_hdr", raw("fd00:1::a.4000 > fd00:1::b.7: udp", manyExtensions)},
		{"first fragment without ports", "frag_tiny", raw("10.1.0.10.4000 > 10.1.0.11.7: tcp S len 40", func(b []byte) []byte { b[20], b[17] = 0x20, 36; return b[:14+36] })},
		{"fragment into the TCP header", "frag_tiny", fragments("10.1.0.10.4000 > 10.1.0.11.7: tcp S len 300", 8)},
		{"fragment into the TCP header, v6", "frag_tiny", fragments("fd00:1::a.4000 > fd00:1::b.7: tcp S len 300", 16)},
		{"later fragment to outside", "frag_order", fragments("10.1.0.10.4000 > 198.51.100.2.7: udp len 300", 64)},
		{"error about another's flow", "icmp_noflow", frame("10.1.0.10 > 10.1.0.11: icmp error 3.3 0 [10.1.0.11.4000 > 10.1.0.12.7: udp]")},
		{"error about nobody's flow", "icmp_noflow", frame("10.1.0.10 > 198.51.100.2: icmp error 3.4 600 [198.51.100.2.7 > 10.1.0.10.9999: udp]")},
		{"VLAN tag", "vlan", raw("10.1.0.10.4000 > 10.1.0.11.7: udp", func(b []byte) []byte {
			return append(append(bytes.Clone(b[:12]), 0x81, 0, 0, 5), b[12:]...)
		})},
		{"two VLAN tags", "vlan", raw("10.1.0.10.4000 > 10.1.0.11.7: udp", func(b []byte) []byte {
			return append(append(bytes.Clone(b[:12]), 0x88, 0xa8, 0, 5, 0x81, 0, 0, 6), b[12:]...)
		})},
		{"another protocol", "l2_proto", raw("10.1.0.10.4000 > 10.1.0.11.7: udp", func(b []byte) []byte { b[12], b[13] = 0x88, 0xcc; return b })},
		{"middle of a connection to outside", "nostate", frame("10.1.0.10.4000 > 198.51.100.2.7: tcp .")},
		{"reset of a connection between others", "spoof_ip", frame("10.1.0.12.7 > 10.1.0.11.4000: tcp R")},
		{"loopback", "no_route", frame("10.1.0.10.4000 > 127.0.0.1.7: udp")},
		{"nobody's address", "unknown_dst", frame("10.1.0.10.4000 > 10.1.9.9.7: udp")},
		{"TTL 0", "ttl", frame("10.1.0.10.4000 > 198.51.100.2.7: udp", func(p *pkt.Packet) { p.TTL = 0 })},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, w := range h.witnesses {
				w.marked()
			}
			was, drops0, sent0 := h.count()
			const times = 5
			for range times {
				for _, f := range c.frames {
					if _, err := unix.Write(h.fd, f); err != nil {
						t.Fatal(err)
					}
				}
			}
			n := uint64(times * len(c.frames))
			var is map[string]uint64
			var drops, sent uint64
			for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(time.Millisecond) {
				if is, drops, sent = h.count(); drops-drops0 >= n || time.Now().After(deadline) {
					break
				}
			}
			if is[c.reason]-was[c.reason] != n || drops-drops0 != n || sent != sent0 {
				t.Errorf("%d frames: %d dropped for %s, %d in all, %d sent on", n, is[c.reason]-was[c.reason], c.reason, drops-drops0, sent-sent0)
				for r, k := range is {
					if k != was[r] {
						t.Logf("%s: %d", r, k-was[r])
					}
				}
			}
			for _, w := range h.witnesses {
				// Errors quote what they are about, and go to the attacker only.
				if k := w.marked(); k != 0 {
					t.Errorf("%d frames reached %s", k, w.name)
				}
			}
		})
	}
	ask(t, "the victim to its friend", h.victim, "10.1.0.12:7")
	ask(t, "the victim to outside", h.victim, "198.51.100.2:7")
	ask(t, "the victim to outside, v6", h.victim, "[2001:db8:1::2]:7")
}

// manyExtensions puts five destination options headers before the payload.
func manyExtensions(b []byte) []byte {
	next := b[20]
	b[20] = 60
	var ext []byte
	for i := range 5 {
		n := byte(60)
		if i == 4 {
			n = next
		}
		ext = append(ext, n, 0, 1, 4, 0, 0, 0, 0)
	}
	binary.BigEndian.PutUint16(b[18:], binary.BigEndian.Uint16(b[18:])+uint16(len(ext)))
	return append(append(bytes.Clone(b[:54]), ext...), b[54:]...)
}

// flood sends frames of the attacker's as fast as it can until stopped; next
// makes the nth one anew in buf.
func (h *hostile) flood(next func(n uint32, buf []byte)) (stop func() uint64) {
	var quit atomic.Bool
	var sent uint64
	var done sync.WaitGroup
	done.Add(1)
	go func() {
		defer done.Done()
		frame := h.parse("10.1.0.10.1000 > 198.51.100.2.7: tcp S").Bytes()
		for n := uint32(0); !quit.Load(); n++ {
			next(n, frame)
			if _, err := unix.Write(h.fd, frame); err == nil {
				sent++
			}
		}
	}()
	return func() uint64 {
		quit.Store(true)
		done.Wait()
		return sent
	}
}

// checksum4 makes the IPv4 header sum of a frame right; L4 sums are not looked at
// on the way.
func checksum4(b []byte) {
	b[24], b[25] = 0, 0
	s := uint32(0)
	for i := 14; i < 34; i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	s = s>>16 + s&0xffff
	s += s >> 16
	binary.BigEndian.PutUint16(b[24:], ^uint16(s))
}

// connect counts how often a new connection to an echo server works, and how
// long the slowest took.
func connect(ns *nettest.NS, addr string, n int) (failed int, slowest time.Duration) {
	for i := range n {
		start := time.Now()
		if err := ns.Ask("tcp", addr, fmt.Sprint("hello ", i), answer); err != nil {
			failed++
		}
		slowest = max(slowest, time.Since(start))
	}
	return failed, slowest
}

// TestFloodFillsTable: a container that fills the flow table is stopped at its
// share; its neighbours make connections all the while. When its half-open
// connections are over, it may begin new ones.
func TestFloodFillsTable(t *testing.T) {
	h := newHostile(t)
	for _, ns := range []*nettest.NS{h.friend, h.outside} {
		echo(ns, "0.0.0.0:7")
	}
	h.host.Exec("ip", "route", "add", "198.18.0.0/15", "via", "198.51.100.2")
	// Every address and port outside: each packet a new connection.
	stop := h.flood(func(n uint32, b []byte) {
		copy(b[30:34], []byte{198, 18, byte(n >> 8), byte(n)})
		binary.BigEndian.PutUint16(b[34:], uint16(10000+n>>16))
		checksum4(b)
	})
	quota := func() uint64 {
		r, _, _ := h.count()
		return r["port_quota"]
	}
	for deadline := time.Now().Add(60 * time.Second); quota() == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			stop()
			r, _, sent := h.count()
			t.Fatalf("the attacker is never stopped: %v, %d sent on", r, sent)
		}
	}
	full := h.d.Live().Fill(4)
	failed, slowest := connect(h.victim, "10.1.0.12:7", 20)
	failedOut, slowestOut := connect(h.victim, "198.51.100.2:7", 20)
	sent := stop()
	t.Logf("%d frames; table at %d conversations when the attacker was stopped; slowest of 20 connections inside %v, to outside %v", sent, full, slowest, slowestOut)
	if failed+failedOut > 0 {
		t.Errorf("%d and %d of 20 connections failed", failed, failedOut)
	}
	if r, _, _ := h.count(); r["flow_full"] != 0 {
		t.Errorf("the table was full: %v", r)
	}
	all, err := h.d.Drops()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		if d.Port != 10 && (d.Reason == "port_quota" || d.Reason == "flow_full") {
			t.Errorf("a neighbour was refused: %+v", d)
		}
	}
	// Its half-open connections last 8 s now.
	if _, err := h.d.Sweep(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(9 * time.Second)
	r, err := h.d.Sweep()
	if err != nil || h.d.Live().Fill(4) > 2000 {
		t.Errorf("after 9 s: %+v, %v; %d conversations", r, err, h.d.Live().Fill(4))
	}
	if failed, _ := connect(h.attacker, "198.51.100.2:7", 3); failed > 0 {
		t.Errorf("the attacker is still refused, %d of 3", failed)
	}
}

// TestFloodOfPackets: a meter leaves a flood at the attacker's port; a steady
// stream beside it loses nothing.
func TestFloodOfPackets(t *testing.T) {
	h := newHostile(t)
	h.portOf(10).PPS = 1000
	h.portOf(10).MaxFlows = 100
	h.apply(h.d)
	stream := startStream(t, h.victim, "10.1.0.12:5000", h.friend, "10.1.0.12:5000", 2000)
	stream.waitFlowing(t)
	was, _, forwarded0 := h.count()
	start := time.Now()
	stop := h.flood(func(n uint32, b []byte) {
		copy(b[30:34], []byte{10, 1, 0, 11 + byte(n&1)}) // its neighbours, at every port
		binary.BigEndian.PutUint32(b[34:], n*2654435761)
		checksum4(b)
	})
	time.Sleep(2 * time.Second)
	sent := stop()
	took := time.Since(start)
	total, lost := stream.end()
	is, drops, forwarded := h.count()
	forwarded -= forwarded0
	var before uint64
	for _, n := range was {
		before += n
	}
	t.Logf("%d frames in %v: %d sent on, drops %v; the stream lost %d of %d", sent, took, forwarded, is, lost, total)
	if lost > 0 || stream.failed.Load() > 0 {
		t.Errorf("the stream beside it lost %d of %d", lost, total)
	}
	if drops-before+forwarded != sent {
		t.Errorf("%d frames, but %d drops and %d sent on", sent, drops-before, forwarded)
	}
	if max := uint64(1000*took.Seconds()) + 200; forwarded > max || is["meter"] == 0 || is["port_quota"] == 0 || forwarded > 100 {
		t.Errorf("%d sent on, of at most %d; drops %v", forwarded, max, is)
	}
}

// TestNATExhausted: who uses up the ports of its pool gets no more, is reported,
// and nobody else is touched, even in the same pool, towards other far ends.
func TestNATExhausted(t *testing.T) {
	h := newHostile(t)
	h.s.NATPools = []vswitch.NATPool{{ID: 1, Addrs: addrs("198.51.100.1", "2001:db8:1::1"), PortLow: 20000, PortHigh: 20003}}
	h.s.Networks[0].NATPool = 1
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.d.Run(ctx) }()
	defer func() { cancel(); <-done }()
	h.apply(h.d)
	watch, err := h.d.Watch(WatchOptions{Drops: true})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	h.outside.EchoUDP("198.51.100.2:7")
	h.outside.EchoUDP("198.51.100.2:9")
	failed := 0
	for i := range 12 {
		if err := h.attacker.Ask("udp", "198.51.100.2:7", fmt.Sprint(i), 300*time.Millisecond); err != nil {
			failed++
		}
	}
	if r, _, _ := h.count(); failed != 8 || r["nat_ports"] < 8 {
		t.Errorf("%d of 12 failed, drops %v; want 8, for the pool has 4 ports", failed, r)
	}
	for deadline := time.After(5 * time.Second); ; {
		select {
		case e := <-watch.C:
			if e.Reason != "nat_ports" {
				continue
			}
			if e.Port != 10 || len(e.Data) == 0 {
				t.Errorf("event %+v", e)
			}
		case <-deadline:
			t.Error("no event tells of it")
		}
		break
	}
	if err := h.victim.Ask("udp", "198.51.100.2:9", "another far end", answer); err != nil {
		t.Errorf("the same pool towards another far end: %v", err)
	}
	// Room again: the pool grows, and who was refused is served at once.
	h.s.NATPools[0].PortHigh = 20100
	h.apply(h.d)
	if err := h.attacker.Ask("udp", "198.51.100.2:7", "more", answer); err != nil {
		t.Errorf("after the pool grew: %v", err)
	}
}

// TestUplinkGoesAndComes: a connection through NAT outlives its uplink, down and
// away from the switch's configuration for a while, with its port.
func TestUplinkGoesAndComes(t *testing.T) {
	h := newHostile(t)
	h.outside.EchoTCP("198.51.100.2:7")
	c, err := h.victim.Dial(context.Background(), "tcp", "198.51.100.2:7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	say := func(text string) error {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Write([]byte(text)); err != nil {
			return err
		}
		buf := make([]byte, len(text))
		for n := 0; n < len(buf); {
			k, err := c.Read(buf[n:])
			if err != nil {
				return err
			}
			n += k
		}
		if string(buf) != text {
			return fmt.Errorf("answer %q", buf)
		}
		return nil
	}
	port := func() (n uint16) {
		_ = h.d.Flows(func(f Flow) bool {
			if f.In == 11 && f.Proto == 6 && !f.Reply {
				n = f.NewSrc.Port()
			}
			return true
		})
		return n
	}
	if err := say("before"); err != nil {
		t.Fatal(err)
	}
	was := port()
	up := h.f.Uplinks[0].Name
	uplinks := h.f.Uplinks
	h.host.Exec("ip", "link", "set", up, "down")
	h.f.Uplinks = nil
	h.apply(h.d)
	if err := h.victim.Ask("udp", "198.51.100.2:7", "nobody", 200*time.Millisecond); err == nil {
		t.Error("an answer without an uplink")
	}
	drops, err := h.d.Drops()
	if err != nil {
		t.Fatal(err)
	}
	reported := false
	for _, d := range drops {
		reported = reported || d.Port == 11 && d.Reason == "no_route"
	}
	if !reported {
		t.Errorf("nothing says that there is no way: %+v", drops)
	}
	h.host.Exec("ip", "link", "set", up, "up")
	h.f.Uplinks = uplinks
	h.apply(h.d)
	if err := say("after"); err != nil {
		t.Errorf("the connection after the uplink came back: %v", err)
	}
	if is := port(); is != was || was == 0 {
		t.Errorf("its port outside: %d, before %d", is, was)
	}
}
