// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// farFamily is one address family of a test of services whose backends are on
// another host of an overlay.
type farFamily struct {
	vip, source, host, client string // VIP; this host's own address in the overlay; on the wire: node 1, and the client
	bits                      int
}

func farFamilies() []farFamily {
	return []farFamily{
		{"198.51.100.80", "10.1.1.250", "192.0.2.1", "192.0.2.9", 32},
		{"2001:db8:80::80", "fd00:1:1::fa", "2001:db8::1", "2001:db8::9", 128},
	}
}

// service is asked by everybody at VIP and, from outside, at port 30000 more of every address of the host.
func (f farFamily) service(id vswitch.ServiceID, port uint16, flags vswitch.ServiceFlags, backends ...vswitch.Backend) vswitch.Service {
	s := vswitch.Service{ID: id, Name: fmt.Sprint("far", id), Flags: flags, Backends: backends, SourceVIP: netip.MustParseAddr(f.source)}
	any := netip.IPv4Unspecified()
	if f.bits == 128 {
		any = netip.IPv6Unspecified()
	}
	for _, proto := range []uint8{6, 17} {
		s.Frontends = append(s.Frontends, vswitch.Frontend{Addr: netip.MustParseAddr(f.vip), Port: port, Proto: proto, Scope: vswitch.ScopeAll})
		if flags&vswitch.ServiceDSR == 0 {
			s.Frontends = append(s.Frontends, vswitch.Frontend{Addr: any, Port: 30000 + port, Proto: proto, Scope: vswitch.ScopeOutside})
		}
	}
	return s
}

// farLab is two hosts of an overlay and a client outside that reaches the VIPs
// by the first.
type farLab struct {
	n1, n2       *node
	a, b, c, out *nettest.NS
	at, by, far  []netip.Addr // of a and b, on the first host, and c, on the second
}

func newFarLab(t *testing.T, six bool) *farLab {
	wire := newWire(t)
	l := &farLab{n1: newNode(t, wire, 1, blueSubnets()...), n2: newNode(t, wire, 2, blueSubnets()...), out: nettest.NewNS(t)}
	l.a, l.at = l.n1.container(0, 11)
	l.b, l.by = l.n1.container(0, 13)
	l.c, l.far = l.n2.container(0, 12)
	l.n1.knows(six, l.n2)
	l.n2.knows(six, l.n1)
	plug(t, wire, l.out, 9)
	for _, f := range farFamilies() {
		l.out.Route(fmt.Sprintf("%s/%d", f.vip, f.bits), f.host, "")
		l.n2.s.Remotes = append(l.n2.s.Remotes, vswitch.Remote{Network: 1, Addr: netip.MustParseAddr(f.source), MAC: l.n1.s.Networks[0].RouterMAC, VTEP: l.n1.vtep(six)})
	}
	nameServer(l.a, "[::]:7", "a")
	nameServer(l.c, "[::]:7", "c")
	return l
}

// ask expects an answer of who, which sees the client as one of sees.
func (l *farLab) ask(t *testing.T, what string, from *nettest.NS, addr string, port int, who, sees string) {
	t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		is, seen := whoIs(t, from, network, netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(port)).String())
		if at := netip.MustParseAddrPort(seen); is != who || at.Addr().Unmap().String() != sees {
			t.Errorf("%s by %s: %s answers and sees %s; want %s and %s", what, network, is, seen, who, sees)
		}
	}
}

// TestOverlayServiceOutside: a client outside, at one host, a backend in an
// overlay on another.
func TestOverlayServiceOutside(t *testing.T) {
	for _, six := range []bool{false, true} {
		t.Run(map[bool]string{false: "over IPv4", true: "over IPv6"}[six], func(t *testing.T) {
			l := newFarLab(t, six)
			for i, f := range farFamilies() {
				here := vswitch.Backend{Addr: l.at[i], Port: 7, At: 10}
				there := vswitch.Backend{Addr: l.far[i], Port: 7, Network: 1}
				id := vswitch.ServiceID(10 * i)
				l.n1.s.Services = append(l.n1.s.Services,
					f.service(id+1, 80, 0, there),
					f.service(id+2, 81, 0, here),
					f.service(id+3, 82, vswitch.ServiceLocal, here, there),
					f.service(id+4, 83, vswitch.ServiceLocal, there),
					f.service(id+6, 85, vswitch.ServiceLocalInside, here, there),
					f.service(id+5, 84, 0, vswitch.Backend{Addr: l.far[i], Port: 2000, Network: 1}))
			}
			l.n1.apply()
			l.n2.apply()
			for i, f := range farFamilies() {
				for _, at := range []struct {
					addr string
					more int
				}{{f.vip, 0}, {f.host, 30000}} {
					l.ask(t, "on another host", l.out, at.addr, at.more+80, "c", f.source)
					l.ask(t, "on this host", l.out, at.addr, at.more+81, "a", f.client)
					for range 8 {
						l.ask(t, "local ones only", l.out, at.addr, at.more+82, "a", f.client)
					}
					if _, err := dial(t, l.out, "tcp", netip.AddrPortFrom(netip.MustParseAddr(at.addr), uint16(at.more+83)).String()); err == nil {
						t.Errorf("%s: there is no local backend, and it connects", at.addr)
					}
				}
				l.ask(t, "from inside", l.a, f.vip, 80, "c", l.at[i].String())
				for range 8 {
					l.ask(t, "from inside, local ones only", l.b, f.vip, 85, "a", l.by[i].String())
				}
				// What fits on the wire does not fit into the tunnel: the client hears it.
				if err := upload(l.out, l.c, f.vip, 84, 2000, 1<<20); err != nil {
					t.Errorf("1 MiB to %s: %v", f.vip, err)
				}
				// The conversation stays while the daemon is away, and a new one begins.
				c, err := dial(t, l.out, "tcp", netip.AddrPortFrom(netip.MustParseAddr(f.vip), 80).String())
				if err != nil {
					t.Fatal(err)
				}
				l.n1.dp.Close()
				l.n1.dp = nil
				if who, _, err := c.say(); who != "c" {
					t.Errorf("without a daemon: %q, %v", who, err)
				}
				l.ask(t, "without a daemon", l.out, f.vip, 80, "c", f.source)
				l.n1.apply()
				if who, _, err := c.say(); who != "c" {
					t.Errorf("with a new daemon: %q, %v", who, err)
				}
			}
			for reason, k := range l.n2.drops() {
				if reason != "unknown_dst" {
					t.Errorf("node 2 dropped %d for %s", k, reason)
				}
			}
		})
	}
}

// upload sends size bytes by TCP to a service, which a backend's socket takes.
func upload(from, to *nettest.NS, vip string, port, backend uint16, size int) error {
	return bulkTo(from, to, netip.AddrPortFrom(netip.MustParseAddr(vip), port), fmt.Sprintf("[::]:%d", backend), size)
}

// TestOverlayServiceDirect: the same, but the backend's host answers by itself.
func TestOverlayServiceDirect(t *testing.T) {
	for _, six := range []bool{false, true} {
		t.Run(map[bool]string{false: "over IPv4", true: "over IPv6"}[six], func(t *testing.T) {
			l := newFarLab(t, six)
			direct := vswitch.ServiceConsistent | vswitch.ServiceDSR
			for i, f := range farFamilies() {
				for _, x := range []struct {
					n       *node
					at, far vswitch.Backend // a and c
				}{
					{l.n1, vswitch.Backend{Addr: l.at[i], At: 10}, vswitch.Backend{Addr: l.far[i], Network: 1}},
					{l.n2, vswitch.Backend{Addr: l.at[i], Network: 1}, vswitch.Backend{Addr: l.far[i], At: 10}},
				} {
					on := func(b vswitch.Backend, port uint16) vswitch.Backend { b.Port = port; return b }
					id := vswitch.ServiceID(10 * i)
					x.n.s.Services = append(x.n.s.Services,
						f.service(id+1, 80, direct, on(x.far, 7)),
						f.service(id+2, 81, direct, on(x.far, 7), on(x.at, 7)),
						f.service(id+3, 84, direct, on(x.far, 2000)),
						f.service(id+4, 86, direct, on(x.far, 9)))
				}
			}
			l.n1.apply()
			l.n2.apply()
			for i, f := range farFamilies() {
				before := l.settled(t)
				l.ask(t, "on another host", l.out, f.vip, 80, "c", f.client)
				seen := map[string]bool{}
				for range 16 {
					who, sees := whoIs(t, l.out, "tcp", netip.AddrPortFrom(netip.MustParseAddr(f.vip), 81).String())
					if seen[who] = true; netip.MustParseAddrPort(sees).Addr().Unmap().String() != f.client {
						t.Errorf("%s sees %s", who, sees)
					}
				}
				if !seen["a"] || !seen["c"] {
					t.Errorf("of two backends on two hosts answered %v", seen)
				}
				if err := upload(l.out, l.c, f.vip, 84, 2000, 1<<20); err != nil {
					t.Errorf("1 MiB to %s: %v", f.vip, err)
				}
				if got := l.out.Exec("ip", "route", "get", f.vip); !strings.Contains(got, "mtu "+map[bool]string{false: "1450", true: "1430"}[six]) {
					t.Errorf("path MTU of the client: %s", got)
				}
				c, err := dial(t, l.out, "udp", netip.AddrPortFrom(netip.MustParseAddr(f.vip), 86).String())
				if err != nil {
					t.Fatal(err)
				}
				if _, _, err := c.say(); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("nobody listens at the backend: %v", err)
				}
				if n := l.back(t); n != before {
					t.Errorf("%d packets came back through the tunnel", n-before)
				}
				l.ask(t, "from inside", l.b, f.vip, 80, "c", l.by[i].String())
			}
			// A backend's host that forgot a connection says so to the client.
			f := farFamilies()[0]
			c, err := dial(t, l.out, "tcp", f.vip+":80")
			if err != nil {
				t.Fatal(err)
			}
			if who, _, err := c.say(); who != "c" {
				t.Fatalf("%q, %v", who, err)
			}
			services := l.n2.s.Services
			l.n2.s.Services = services[1:]
			l.n2.apply()
			if _, err := io.WriteString(c.Conn, "who\n"); err != nil {
				t.Fatal(err)
			}
			l.dropped(t, "while there is no service", "no_backend", 0)
			l.n2.s.Services = services
			l.n2.apply()
			watch, cancel := startCapture(t, l.n2.dp, 0, l.n2.dp.base.Uplinks[0].Port)
			_ = c.SetDeadline(time.Now().Add(answer))
			if _, err := c.r.ReadString('\n'); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("a connection whose host forgot it: %v", err)
			}
			watch.has(t, "out made nostate tcp "+f.vip+":80 > "+f.client, "[R")
			cancel()
			<-watch.end
			// What is relayed to where there is no such service, and by whom nobody knows.
			frame := func(dst string, port uint16) []byte {
				return (&pkt.Packet{From: pkt.MAC{2, 0, 0, 0, 0, 0x66}, To: pkt.MAC{2, 0, 0, 0, 0, 0x67}, Ether: pkt.EtherIP, Src: netip.MustParseAddr(f.client),
					Dst: netip.MustParseAddr(dst), TTL: 64, Proto: pkt.UDP, SrcPort: 1, DstPort: port, Data: []byte("evil")}).Bytes()
			}
			for _, x := range []struct {
				name   string
				from   *nettest.NS
				frame  []byte
				reason string
			}{
				{"no such service", l.n1.ns, frame(f.vip, 99), "no_backend"},
				{"not to a service", l.n1.ns, frame(l.far[0].String(), 7), "no_backend"},
				{"by a stranger", l.out, frame(f.vip, 80), "tun_peer"},
			} {
				if six { // where the tunnel end of the first host is another one
					x.reason = "tun_peer"
				}
				before := l.n2.drops()[x.reason]
				if err := sendVXLAN(x.from, "192.0.2.2:4789", vswitch.ServiceVNI, x.frame); err != nil {
					t.Fatal(err)
				}
				l.dropped(t, x.name, x.reason, before)
			}
		})
	}
}

// dropped waits until the second host has dropped more than n packets for a reason.
func (l *farLab) dropped(t *testing.T, what, reason string, n uint64) {
	t.Helper()
	for end := time.Now().Add(answer); l.n2.drops()[reason] <= n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("%s: not dropped for %s: %v", what, reason, l.n2.drops())
			return
		}
	}
}

// settled is back once the last words of conversations through the tunnel are over.
func (l *farLab) settled(t *testing.T) uint64 {
	n := l.back(t)
	for {
		time.Sleep(200 * time.Millisecond)
		now := l.back(t)
		if now == n {
			return n
		}
		n = now
	}
}

// back counts what has come to the first host through the tunnel.
func (l *farLab) back(t *testing.T) uint64 {
	link, err := l.n1.ns.Netlink().LinkByName("vx")
	if err != nil {
		t.Fatal(err)
	}
	return link.Attrs().Statistics.RxPackets
}
