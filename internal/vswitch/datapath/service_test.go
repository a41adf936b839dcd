// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/bpfrun"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// nameServer serves TCP and UDP at addr: a line is answered with the server's name and
// the address that the client seems to have.
func nameServer(ns *nettest.NS, addr, name string) {
	ln := ns.Listen(addr)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for {
					if _, err := r.ReadString('\n'); err != nil {
						return
					}
					fmt.Fprintf(c, "%s %s\n", name, c.RemoteAddr())
				}
			}()
		}
	}()
	u := ns.ListenPacket(addr)
	go func() {
		b := make([]byte, 100)
		for {
			_, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = u.WriteTo([]byte(fmt.Sprintf("%s %s\n", name, from)), from)
		}
	}()
}

// client is an open conversation with somebody named.
type client struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, ns *nettest.NS, network, addr string) (*client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), answer)
	defer cancel()
	c, err := ns.Dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	return &client{t, c, bufio.NewReader(c)}, nil
}

// say asks once more; who answers, and whom it sees.
func (c *client) say() (who, sees string, err error) {
	if err := c.SetDeadline(time.Now().Add(answer)); err != nil {
		return "", "", err
	}
	if _, err := io.WriteString(c.Conn, "who\n"); err != nil {
		return "", "", err
	}
	line, err := c.r.ReadString('\n')
	if err != nil {
		return "", "", err
	}
	who, sees, _ = strings.Cut(strings.TrimSpace(line), " ")
	return who, sees, nil
}

// whoIs opens a conversation and asks once.
func whoIs(t *testing.T, ns *nettest.NS, network, addr string) (who, sees string) {
	t.Helper()
	c, err := dial(t, ns, network, addr)
	if err != nil {
		t.Fatalf("%s %s: %v", network, addr, err)
	}
	defer c.Close()
	if who, sees, err = c.say(); err != nil {
		t.Fatalf("%s %s: %v", network, addr, err)
	}
	return who, sees
}

// family is one address family of a test of services.
type family struct {
	name, vip, lb, outside, host, via string
	at                                func(vswitch.PortID) netip.Addr
}

func families() []family {
	return []family{
		{"4", "10.96.0.1", "192.0.2.80", "198.51.100.2", "198.51.100.1", "198.51.100.1",
			func(id vswitch.PortID) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("10.1.0.%d", id)) }},
		{"6", "fd00:96::1", "2001:db8:80::1", "2001:db8:1::2", "2001:db8:1::1", "2001:db8:1::1",
			func(id vswitch.PortID) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd00:1::%x", uint16(id))) }},
	}
}

func (f family) service(id vswitch.ServiceID, addr string, port uint16, scope vswitch.Scope, ports ...vswitch.PortID) vswitch.Service {
	s := vswitch.Service{ID: id, Object: "lb" + fmt.Sprint(id), Name: fmt.Sprint("svc", id), Frontends: []vswitch.Frontend{
		{Addr: netip.MustParseAddr(addr), Port: port, Proto: 6, Scope: scope}, {Addr: netip.MustParseAddr(addr), Port: port, Proto: 17, Scope: scope}}}
	for _, p := range ports {
		s.Backends = append(s.Backends, vswitch.Backend{Addr: f.at(p), Port: 7, At: p})
	}
	return s
}

func (f family) addr(a string, port int) string { return net.JoinHostPort(a, fmt.Sprint(port)) }

func TestServices(t *testing.T) {
	for _, f := range families() {
		t.Run(f.name, func(t *testing.T) {
			l := newLab(t)
			a, b, c := l.container(10), l.container(11), l.container(12)
			nameServer(a, "[::]:7", "a")
			nameServer(b, "[::]:7", "b")
			bits := 32
			if f.name == "6" {
				bits = 128
			}
			l.outside.Route(fmt.Sprintf("%s/%d", f.lb, bits), f.via, "")
			l.s.Services = []vswitch.Service{
				f.service(1, f.vip, 80, vswitch.ScopeCluster, 10, 11),
				f.service(2, f.lb, 80, vswitch.ScopeNetworks|vswitch.ScopeOutside, 10, 11),
				f.service(3, f.vip, 81, vswitch.ScopeCluster),
				f.service(4, f.lb, 81, vswitch.ScopeOutside),
			}
			d := l.open()
			l.apply(d)
			spread(t, f, l, c)
			draining(t, f, l, d, c)
			nobody(t, f, l, d, c)
		})
	}
}

// spread: clients everywhere reach both backends, and those see who asks.
func spread(t *testing.T, f family, l *lab, c *nettest.NS) {
	for _, from := range []struct {
		name, addr, is string
		ns             *nettest.NS
	}{
		{"a container", f.addr(f.vip, 80), f.at(12).String(), c},
		{"outside", f.addr(f.lb, 80), f.outside, l.outside},
		{"a process of the host", f.addr(f.vip, 80), "", l.host},
	} {
		for _, network := range []string{"tcp", "udp"} {
			got := map[string]int{}
			for range 24 {
				who, sees := whoIs(t, from.ns, network, from.addr)
				if at := netip.MustParseAddrPort(sees); from.is != "" && at.Addr().Unmap().String() != from.is {
					t.Errorf("%s by %s: the backend sees %s", from.name, network, sees)
				}
				got[who]++
			}
			if got["a"] == 0 || got["b"] == 0 {
				t.Errorf("%s by %s: answered by %v", from.name, network, got)
			}
		}
	}
}

// draining: affinity, and what becomes of it and of open conversations.
func draining(t *testing.T, f family, l *lab, d *Datapath, c *nettest.NS) {
	l.s.Services[0].Affinity, l.s.Services[1].Affinity = 600, 600
	l.apply(d)
	for _, ns := range []*nettest.NS{c, l.outside, l.host} {
		svc, addr := &l.s.Services[0], f.addr(f.vip, 80)
		if ns == l.outside {
			svc, addr = &l.s.Services[1], f.addr(f.lb, 80)
		}
		first, _ := whoIs(t, ns, "tcp", addr)
		for range 12 {
			if who, _ := whoIs(t, ns, "tcp", addr); who != first {
				t.Fatalf("affinity: %s, then %s", first, who)
			}
		}
		tcp, err := dial(t, ns, "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		udp, err := dial(t, ns, "udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if who, _, err := tcp.say(); err != nil || who != first {
			t.Fatalf("before: %s, %v", who, err)
		}
		if who, _, err := udp.say(); err != nil || who != first {
			t.Fatalf("before by udp: %s, %v", who, err)
		}
		i := 0
		if first == "b" {
			i = 1
		}
		svc.Backends[i].State = vswitch.BackendDraining
		l.apply(d)
		if who, _, err := tcp.say(); err != nil || who != first {
			t.Errorf("draining: an open connection is answered by %q, %v", who, err)
		}
		if who, _ := whoIs(t, ns, "tcp", addr); who == first {
			t.Errorf("draining: a new connection goes to %s", who)
		}
		// A socket of the host that connected is with its backend, not with the service.
		if who, _, err := udp.say(); ns != l.host && (err != nil || who == first) {
			t.Errorf("draining: udp is answered by %q, %v", who, err)
		}
		was := svc.Backends
		svc.Backends = append([]vswitch.Backend{}, was[1-i])
		l.apply(d)
		if ns != l.host {
			if who, _, err := tcp.say(); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("removed: an open connection gives %q, %v", who, err)
			}
		}
		if who, _ := whoIs(t, ns, "tcp", addr); who == first {
			t.Errorf("removed: a new connection goes to %s", who)
		}
		svc.Backends = was
		svc.Backends[i].State = vswitch.BackendActive
		l.apply(d)
	}
}

// nobody: refused everywhere, and counted.
func nobody(t *testing.T, f family, l *lab, d *Datapath, c *nettest.NS) {
	for _, from := range []struct {
		ns   *nettest.NS
		addr string
	}{{c, f.addr(f.vip, 81)}, {l.outside, f.addr(f.lb, 81)}, {l.host, f.addr(f.vip, 81)}} {
		start := time.Now()
		if _, err := dial(t, from.ns, "tcp", from.addr); !errors.Is(err, syscall.ECONNREFUSED) || time.Since(start) > time.Second {
			t.Errorf("nobody behind %s: %v after %v", from.addr, err, time.Since(start))
		}
	}
	all, err := d.Services()
	if err != nil || len(all) != 4 {
		t.Fatalf("services: %+v, %v", all, err)
	}
	for i, want := range []struct{ fresh, refused uint64 }{{90, 0}, {60, 0}, {0, 2}, {0, 1}} {
		if s := all[i]; s.ID != vswitch.ServiceID(i+1) || s.Object != fmt.Sprint("lb", i+1) || s.New < want.fresh || s.Refused < want.refused {
			t.Errorf("counters: %+v, want at least %+v", s, want)
		}
	}
	// What sockets asked for goes with them, but for those that only sent.
	var left []any
	var k, v []byte
	it := d.state["sockrev"].Iterate()
	for it.Next(&k, &v) {
		left = append(left, k)
	}
	if len(left) > 4 {
		t.Errorf("%d rows in sockrev after all sockets are closed", len(left))
	}
	l.s.Services = l.s.Services[:1]
	l.apply(d)
	if _, err := d.Sweep(); err != nil {
		t.Fatal(err)
	}
	if all, err = d.Services(); err != nil || len(all) != 1 || all[0].New < 90 {
		t.Errorf("services: %+v, %v", all, err)
	}
}

// twoHosts are hosts A and B on one wire with a machine "outside".
//
//	outside 198.51.100.2 -- A 198.51.100.1, B 198.51.100.3
func twoHosts(t *testing.T) (a, b *lab, outside *nettest.NS) {
	nettest.RequireRoot(t)
	a, b, outside = newHost(t, nettest.Host(t), ""), newHost(t, nettest.NewNS(t), "b"), nettest.NewNS(t)
	nl := outside.Netlink()
	if err := nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "wire"}}); err != nil {
		t.Fatal(err)
	}
	wire, err := nl.LinkByName("wire")
	if err != nil {
		t.Fatal(err)
	}
	outside.Addr("wire", "198.51.100.2/24")
	outside.Addr("wire", "2001:db8:1::2/64")
	outside.Up("wire")
	for i, l := range []*lab{a, b} {
		up, end := l.name("up"), fmt.Sprint("eth", i)
		v4, v6 := fmt.Sprintf("198.51.100.%d/24", 1+2*i), fmt.Sprintf("2001:db8:1::%d/64", 1+2*i)
		nettest.Veth(t, l.host, up, outside, end, v4, "", v6, "")
		port, err := nl.LinkByName(end)
		if err != nil {
			t.Fatal(err)
		}
		if err := nl.LinkSetMaster(port, wire); err != nil {
			t.Fatal(err)
		}
		l.addUplink(up, v4, v6)
	}
	return a, b, outside
}

// Clients outside ask host A: for backends of A and of B, by each policy.
func TestServicesOfTwoHosts(t *testing.T) {
	a, b, outside := twoHosts(t)
	onA, onB := a.container(10), b.container(20)
	nameServer(onA, "[::]:7", "a")
	nameServer(onB, "[::]:7", "b")
	b.publish(20, 6, 8080, 7)
	b.publish(20, 17, 8080, 7)
	id := vswitch.ServiceID(0)
	next := func(f family, port uint16, flags vswitch.ServiceFlags, ports ...vswitch.PortID) vswitch.Service {
		id++
		s := f.service(id, f.lb, port, vswitch.ScopeOutside, ports...)
		s.Flags = flags
		return s
	}
	const direct = vswitch.ServiceDSR | vswitch.ServiceConsistent
	for _, f := range families() {
		bits, hostB := 32, "198.51.100.3"
		if f.name == "6" {
			bits, hostB = 128, "2001:db8:1::3"
		}
		outside.Route(fmt.Sprintf("%s/%d", f.lb, bits), f.via, "")
		// B's container from A: that B has it.
		a.host.Route(fmt.Sprintf("%s/%d", f.at(20), bits), hostB, "")
		published := vswitch.Backend{Addr: netip.MustParseAddr(hostB), Port: 8080}
		inB := vswitch.Backend{Addr: f.at(20), Port: 7}
		inA := vswitch.Backend{Addr: f.at(10), Port: 7}
		cluster, local, dsr := next(f, 80, 0, 10), next(f, 81, vswitch.ServiceLocal, 10), next(f, 82, direct, 10)
		cluster.Backends = append(cluster.Backends, published)
		local.Backends = append(local.Backends, published)
		dsr.Backends = append(dsr.Backends, inB)
		a.s.Services = append(a.s.Services, cluster, local, dsr)
		there := next(f, 82, direct, 20)
		there.Backends = append(there.Backends, inA)
		b.s.Services = append(b.s.Services, there)
	}
	da, db := a.open(), b.open()
	a.apply(da)
	b.apply(db)
	for _, f := range families() {
		for _, network := range []string{"tcp", "udp"} {
			for _, c := range []struct {
				name      string
				port      int
				seenBy    string // what B's container sees
				reachesIn bool
			}{{"cluster", 80, f.host, true}, {"local", 81, "", false}, {"direct", 82, f.outside, true}} {
				got := map[string]string{}
				for range 24 {
					who, sees := whoIs(t, outside, network, f.addr(f.lb, c.port))
					got[who] = netip.MustParseAddrPort(sees).Addr().Unmap().String()
				}
				want := map[string]string{"a": f.outside}
				if c.reachesIn {
					want["b"] = c.seenBy
				}
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("%s, IPv%s, %s: %v, want %v", c.name, f.name, network, got, want)
				}
			}
		}
	}
	if t.Failed() {
		for _, d := range []*Datapath{da, db} {
			drops, _ := d.Drops()
			t.Logf("drops: %+v", drops)
			_ = d.Flows(func(f Flow) bool { t.Logf("flow: %+v", f); return true })
		}
	}
}

// BenchmarkServices is ten backends for each service: what it takes to apply all
// of them at once, one that changes, and the first packet of a conversation
// (a system call to TEST_RUN included). Times but the last are of CPU, that of the
// garbage collector included.
func BenchmarkServices(b *testing.B) {
	for _, n := range []int{1, 100, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchmarkServices(b, n) })
	}
}

func benchmarkServices(b *testing.B, n int) {
	l := newLab(b)
	l.container(10)
	l.container(11)
	d := l.open()
	l.apply(d)
	for i := range n {
		s := vswitch.Service{ID: vswitch.ServiceID(i + 1), Frontends: []vswitch.Frontend{
			{Addr: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Port: 80, Proto: 6, Scope: vswitch.ScopeCluster}}}
		for j := range 10 {
			x := vswitch.Backend{Addr: netip.AddrFrom4([4]byte{10, 200 + byte(j), byte(i >> 8), byte(i)}), Port: uint16(8080 + j)}
			if i == n-1 {
				x.Addr, x.At = netip.MustParseAddr("10.1.0.10"), 10
			}
			s.Backends = append(s.Backends, x)
		}
		l.s.Services = append(l.s.Services, s)
	}
	var c vswitch.Compiler
	change := func() (compile, apply time.Duration) {
		start := cpuTime(b)
		t, err := c.Compile(l.s, l.f)
		if err != nil {
			b.Fatal(err)
		}
		compile = cpuTime(b) - start
		start += compile
		if err := d.Apply(context.Background(), t); err != nil {
			b.Fatal(err)
		}
		return compile, cpuTime(b) - start
	}
	compile, apply := change()
	first := l.firstPacket(b, d, l.s.Services[n-1].Frontends[0].Addr)
	var compiles, applies time.Duration
	for i := 0; b.Loop(); i++ {
		l.s.Services[i%n].Backends[0].State ^= vswitch.BackendDraining
		compile, apply := change()
		compiles, applies = compiles+compile, applies+apply
	}
	b.ReportMetric(float64(compile.Microseconds())/1000, "ms/whole-compile")
	b.ReportMetric(float64(apply.Microseconds())/1000, "ms/whole-apply")
	b.ReportMetric(float64(compiles.Microseconds())/float64(b.N), "us/compile")
	b.ReportMetric(float64(applies.Microseconds())/float64(b.N), "us/apply")
	b.ReportMetric(float64(first.Nanoseconds()), "ns/first-packet")
}

func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// firstPacket is the median over many conversations from port 11 to vip.
func (l *lab) firstPacket(b *testing.B, d *Datapath, vip netip.Addr) time.Duration {
	p := l.s.Ports[2]
	dev := uint32(l.f.Ifindex[p.Interface])
	var all []time.Duration
	for i := range 2000 {
		k := pkt.Packet{From: pkt.MAC(p.MAC), To: pkt.MAC{2, 0, 0, 0, 0, 1}, Ether: pkt.EtherIP, Src: p.Addrs[0], Dst: vip, Proto: pkt.TCP, Flags: pkt.SYN,
			SrcPort: uint16(20000 + i), DstPort: 80, TTL: 64}
		ctx := bpfrun.Context{Ifindex: dev, IngressIfindex: dev}
		frame := k.Bytes()
		start := time.Now()
		ret, _, _, err := bpfrun.Run(d.gen.coll.Programs["ep_in"], &ctx, frame, 256)
		all = append(all, time.Since(start))
		if err != nil || ret != 7 { // TC_ACT_REDIRECT
			b.Fatalf("first packet: returned %d, %v", ret, err)
		}
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// A service of an overlay has backends on two hosts, which both see their client.
func TestServiceOfOverlay(t *testing.T) {
	wire := newWire(t)
	n1, n2 := newNode(t, wire, 1, blueSubnets()...), newNode(t, wire, 2, blueSubnets()...)
	client, clients := n1.container(0, 11)
	here, hereAddrs := n1.container(0, 12)
	there, thereAddrs := n2.container(0, 13)
	nameServer(here, "[::]:7", "here")
	nameServer(there, "[::]:7", "there")
	n1.knows(false, n2)
	n2.knows(false, n1)
	for i, f := range families() {
		s := f.service(vswitch.ServiceID(i+1), f.vip, 80, vswitch.ScopeCluster)
		s.Backends = []vswitch.Backend{{Addr: hereAddrs[i], Port: 7, At: n1.s.Ports[len(n1.s.Ports)-1].ID}, {Addr: thereAddrs[i], Port: 7}}
		n1.s.Services = append(n1.s.Services, s)
	}
	n1.apply()
	n2.apply()
	for i, f := range families() {
		for _, network := range []string{"tcp", "udp"} {
			got := map[string]int{}
			for range 24 {
				who, sees := whoIs(t, client, network, f.addr(f.vip, 80))
				got[who]++
				if at := netip.MustParseAddrPort(sees).Addr().Unmap(); at != clients[i] {
					t.Errorf("IPv%s, %s: %s sees %s, want %s", f.name, network, who, at, clients[i])
				}
			}
			if got["here"] == 0 || got["there"] == 0 {
				t.Errorf("IPv%s, %s: answered by %v", f.name, network, got)
			}
		}
	}
}

// A service inside the subnet of its clients, as libnetwork allocates them: they ask
// for it by ARP and ND.
func TestServiceInsideSubnet(t *testing.T) {
	l := newLab(t)
	a, c := l.container(10), l.container(12)
	nameServer(a, "[::]:7", "a")
	inside := map[string]string{"4": "10.1.0.200", "6": "fd00:1::200"}
	for i, f := range families() {
		s := f.service(vswitch.ServiceID(i+1), inside[f.name], 80, 0, 10)
		for j := range s.Frontends {
			s.Frontends[j].Network = l.s.Networks[0].ID
		}
		l.s.Services = append(l.s.Services, s)
	}
	d := l.open()
	l.apply(d)
	for _, f := range families() {
		for _, network := range []string{"tcp", "udp"} {
			if who, sees := whoIs(t, c, network, f.addr(inside[f.name], 80)); who != "a" || netip.MustParseAddrPort(sees).Addr().Unmap() != f.at(12) {
				t.Errorf("IPv%s, %s: %s sees %s", f.name, network, who, sees)
			}
			if who, _ := whoIs(t, a, network, f.addr(inside[f.name], 80)); who != "a" {
				t.Errorf("IPv%s, %s: the backend itself hears %s", f.name, network, who)
			}
		}
	}
}
