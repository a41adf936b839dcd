// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf/bpfrun"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// The test bed, as in the design: host H with two uplinks, NAT network 1 with
// containers a, b, VM v; NAT network 2 (zone 2, overlapping nothing) with c;
// internal network 3 with d and e that floods. TEST_RUN looks devices up in the
// caller's network namespace, so one is made with a veth for each port.
type labPort struct {
	name  string
	id    uint32
	kind  PortKind
	net   uint16
	addrs []string
	mac   pkt.MAC
	gw    pkt.MAC
	dev   int // host-side device
	nic   int // host vNIC's device in the stack
}

func mac(n byte) pkt.MAC { return pkt.MAC{2, 0, 0, 0, 0, n} }

func labPorts() []*labPort {
	return []*labPort{
		{name: "a", id: 1, kind: SwitchGhPortKindGH_PORT_CONTAINER, net: 1, addrs: []string{"192.168.100.10", "fd00:100::10"}, mac: mac(0x0a), gw: mac(1)},
		{name: "b", id: 2, kind: SwitchGhPortKindGH_PORT_CONTAINER, net: 1, addrs: []string{"192.168.100.11", "fd00:100::11"}, mac: mac(0x0b), gw: mac(1)},
		{name: "v", id: 3, kind: SwitchGhPortKindGH_PORT_VM, net: 1, addrs: []string{"192.168.100.12", "fd00:100::12"}, mac: mac(0x0c), gw: mac(1)},
		{name: "s", id: 4, kind: SwitchGhPortKindGH_PORT_CONTAINER, net: 1, addrs: []string{"192.168.100.13", "fd00:100::13"}, mac: mac(0x0d), gw: mac(1)},
		{name: "h1", id: 10, kind: SwitchGhPortKindGH_PORT_HOST, net: 1, mac: mac(1), gw: mac(1)},
		{name: "c", id: 20, kind: SwitchGhPortKindGH_PORT_CONTAINER, net: 2, addrs: []string{"192.168.102.10", "fd00:102::10"}, mac: mac(0x2a), gw: mac(2)},
		{name: "h2", id: 21, kind: SwitchGhPortKindGH_PORT_HOST, net: 2, mac: mac(2), gw: mac(2)},
		{name: "d", id: 30, kind: SwitchGhPortKindGH_PORT_CONTAINER, net: 3, addrs: []string{"192.168.103.10", "fd00:103::10"}, mac: mac(0x3a), gw: mac(3)},
		{name: "e", id: 31, kind: SwitchGhPortKindGH_PORT_CONTAINER, net: 3, addrs: []string{"192.168.103.11", "fd00:103::11"}, mac: mac(0x3b), gw: mac(3)},
		{name: "h3", id: 32, kind: SwitchGhPortKindGH_PORT_HOST, net: 3, mac: mac(3), gw: mac(3)},
		{name: "x", id: 4095, kind: SwitchGhPortKindGH_PORT_UPLINK, addrs: []string{"10.0.0.4", "fd00:a::4"}, mac: mac(0xf1)},
		{name: "y", id: 4094, kind: SwitchGhPortKindGH_PORT_UPLINK, addrs: []string{"10.1.0.4", "fd00:b::4"}, mac: mac(0xf2)},
		{name: "down", id: 40, kind: SwitchGhPortKindGH_PORT_CONTAINER, net: 1, addrs: []string{"192.168.100.40", "fd00:100::40"}, mac: mac(0x40), gw: mac(1)},
	}
}

// lab is one loaded object with its devices, on a thread of its own.
type lab struct {
	t     testing.TB
	do    chan func()
	done  chan struct{}
	ports []*labPort
	coll  *ebpf.Collection
	svcs  uint32 // services so far
}

// newLab makes namespace, devices, programs and rows. unit = false loads the
// object as production does (for benchmarks).
func newLab(t testing.TB, unit bool) *lab {
	t.Helper()
	spec := loadSpec(t)
	if unit {
		if err := spec.Variables["unit"].Set(uint32(1)); err != nil {
			t.Fatal(err)
		}
	}
	l := &lab{t: t, do: make(chan func()), done: make(chan struct{}), ports: append(labPorts(), bridgePorts()...)}
	ready := make(chan error)
	go func() {
		// Never unlocked: the thread dies with its namespace.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = l.devices()
		}
		ready <- err
		for f := range l.do {
			f()
		}
		close(l.done)
	}()
	if err := <-ready; err != nil {
		close(l.do)
		t.Fatal(err)
	}
	var err error
	l.in(func() { l.coll, err = ebpf.NewCollection(spec) })
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() {
		l.coll.Close()
		close(l.do)
		<-l.done
	})
	l.configure()
	return l
}

// in runs f inside the lab's namespace.
func (l *lab) in(f func()) {
	end := make(chan struct{})
	l.do <- func() { defer close(end); f() }
	<-end
}

func (l *lab) devices() error {
	var b strings.Builder
	fmt.Fprintln(&b, "link set lo up")
	fmt.Fprintln(&b, "link add anchor type veth peer name anchorp")
	for _, p := range l.ports {
		// The device has the MAC of what is behind it only for uplinks; a
		// container's host side has one of its own, which nobody addresses.
		m := pkt.MAC{6, 0, 0, 0, 0, p.mac[5]}
		if p.kind == SwitchGhPortKindGH_PORT_UPLINK {
			m = p.mac
		}
		fmt.Fprintf(&b, "link add name %s address %v type veth peer name %s.peer address %v\n", p.name, m, p.name, p.mac)
		fmt.Fprintf(&b, "link set dev %s up\nlink set dev %s.peer up\n", p.name, p.name)
	}
	fmt.Fprintln(&b, "link set anchor up\nlink set anchorp up")
	for _, a := range []string{"10.0.0.4/24 dev x", "fd00:a::4/64 dev x nodad", "10.1.0.4/24 dev y", "fd00:b::4/64 dev y nodad"} {
		fmt.Fprintln(&b, "addr add", a)
	}
	for _, a := range []string{"192.168.100.1/24 dev h1.peer", "192.168.102.1/24 dev h2.peer", "fd00:102::1/64 dev h2.peer nodad"} {
		fmt.Fprintln(&b, "addr add", a)
	}
	fmt.Fprintln(&b, "route add default via 10.0.0.254 dev x")
	fmt.Fprintln(&b, "route add default via inet6 fd00:a::fe dev x")
	fmt.Fprintln(&b, "route add 203.0.113.0/24 via 10.1.0.254 dev y mtu lock 1300")
	fmt.Fprintln(&b, "route add prohibit 198.51.100.0/24")
	for _, to := range []string{"198.18.0.0/15", "2001:2::/48"} { // on link at the uplink that networks are bound to
		fmt.Fprintln(&b, "route add", to, "dev z")
	}
	for _, w := range []string{"10.0.0.9 lladdr 02:00:00:00:00:99 dev x", "10.0.0.254 lladdr 02:00:00:00:00:98 dev x", "10.1.0.254 lladdr 02:00:00:00:00:97 dev y"} {
		fmt.Fprintln(&b, "neigh add", w)
	}
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(b.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, out)
	}
	cmd = exec.Command("sysctl", "-qw", "net.ipv4.conf.anchor.forwarding=1", "net.ipv6.conf.anchor.forwarding=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("sysctl: %w: %s", err, out)
	}
	for _, p := range l.ports {
		for dev, at := range map[string]*int{p.name: &p.dev, p.name + ".peer": &p.nic} {
			i, err := net.InterfaceByName(dev)
			if err != nil {
				return err
			}
			*at = i.Index
		}
	}
	return nil
}

func (l *lab) port(name string) *labPort {
	for _, p := range l.ports {
		if p.name == name {
			return p
		}
	}
	l.t.Fatalf("no port %q in the lab", name)
	return nil
}

func (l *lab) put(m string, k, v any) {
	l.t.Helper()
	if err := l.coll.Maps[m].Put(k, v); err != nil {
		l.t.Fatalf("%s: put %+v: %v", m, k, err)
	}
}

func addr(s string) (a Addr) {
	a.B = netip.MustParseAddr(s).As16()
	return a
}

func be(n uint16) uint16 { return n<<8 | n>>8 }

// configure writes the rows that Compile would.
func (l *lab) configure() {
	anchor := 0
	l.in(func() {
		if i, err := net.InterfaceByName("anchor"); err == nil {
			anchor = i.Index
		}
	})
	l.put("cfg", uint32(0), Cfg{AnchorIfindex: uint32(anchor), EventRate: 1000})
	nets := map[uint32]Net{
		1: {Flags: 1 | 2 | 4, Zone: 1, HostPort: 10, Mtu: 1500, Hairpin4: addr("169.254.100.1"), Hairpin6: addr("fd00:ffff::1"),
			Gw4: addr("192.168.100.1"), Gw6: addr("fd00:100::1")},
		2: {Flags: 1 | 2 | 4, Zone: 2, HostPort: 21, Mtu: 1500, Hairpin4: addr("169.254.102.1"), Hairpin6: addr("fd00:ffff::2")},
		3: {Flags: 2 | 8 | 256, Zone: 3, HostPort: 32, Mtu: 1500},
	}
	for id, n := range nets {
		l.put("net", id, n)
		third := map[uint32]int{1: 100, 2: 102, 3: 103}[id]
		for _, a := range []string{fmt.Sprintf("192.168.%d.1", third), fmt.Sprintf("fd00:%d::1", third)} {
			l.put("addr", AddrKey{Zone: n.Zone, Addr: addr(a)}, AddrVal{Port: n.HostPort, Flags: 1, Mac: mac(byte(id))})
			l.put("addr", AddrKey{Addr: addr(a)}, AddrVal{Flags: 2})
		}
		kind := uint16(SwitchGhRouteKindGH_ROUTE_UPLINK)
		if n.Flags&4 == 0 {
			kind = uint16(SwitchGhRouteKindGH_ROUTE_REJECT)
		}
		flags := uint16(0)
		if n.Flags&uint32(SwitchGhNetFlagsGH_NET_SNAT) != 0 {
			flags = uint16(SwitchGhRouteFlagsGH_ROUTE_NAT)
		}
		l.put("route", RouteKey{Prefixlen: 32 + 96, Zone: n.Zone, Addr: addr("0.0.0.0")}, RouteVal{Kind: kind, Flags: flags})
		l.put("route", RouteKey{Prefixlen: 32, Zone: n.Zone}, RouteVal{Kind: kind, Flags: flags})
		l.put("route", RouteKey{Prefixlen: 32 + 96 + 24, Zone: n.Zone, Addr: addr(fmt.Sprintf("192.168.%d.0", third))}, RouteVal{Kind: 1})
		l.put("route", RouteKey{Prefixlen: 32 + 64, Zone: n.Zone, Addr: addr(fmt.Sprintf("fd00:%d::", third))}, RouteVal{Kind: 1})
	}
	members := map[uint16]uint16{}
	for _, p := range l.ports {
		trunk, vlan := trunkVLAN(p.name)
		if vlan != 0 {
			p.dev = l.port(trunk).dev
		}
		row := Port{Vlan: vlan, Ifindex: uint32(p.dev), Net: p.net, Zone: p.net, Kind: uint8(p.kind), Flags: 1, Mtu: 1500, Mac: p.mac, GwMac: p.gw}
		switch p.name {
		case "x":
			row.Natpool4, row.Natpool6 = 1, 2
		case "y":
			row.Natpool4, row.Natpool6 = 3, 4
		case "s":
			row.Flags |= 2 // NO_PEER
			row.Mtu = 1400
		case "down":
			row.Flags = 0
		case "free":
			row.Flags |= uint8(SwitchGhPortFlagsGH_PORT_ANY_MAC | SwitchGhPortFlagsGH_PORT_ANY_IP)
		case "g":
			row.Tagged = 1
			row.Flags |= uint8(SwitchGhPortFlagsGH_PORT_GUARD)
		case "o2":
			row.Natpool4, row.Natpool6 = 5, 6
		case "oh":
			row.Host = 1
			row.Flags |= uint8(SwitchGhPortFlagsGH_PORT_FORWARD)
		case "z":
			row.Flags |= uint8(SwitchGhPortFlagsGH_PORT_WIRES)
		}
		if p.kind == SwitchGhPortKindGH_PORT_HOST {
			row.NicIfindex = uint32(p.nic)
		}
		l.put("port", p.id, row)
		if vlan == 0 {
			l.put("ifport", uint32(p.dev), p.id)
		}
		for _, a := range p.addrs {
			if p.kind == SwitchGhPortKindGH_PORT_UPLINK {
				l.put("addr", AddrKey{Addr: addr(a)}, AddrVal{Flags: 2})
				continue
			}
			l.put("portip", PortIPKey{Port: uint16(p.id), Addr: addr(a)}, uint8(1))
			l.put("addr", AddrKey{Zone: p.net, Addr: addr(a)}, AddrVal{Port: uint16(p.id), Mac: p.mac})
			if row.Host != 0 {
				l.put("addr", AddrKey{Addr: addr(a)}, AddrVal{Flags: 2})
			}
		}
		if p.net != 0 {
			l.put("flood", FloodKey{Net: p.net, I: members[p.net]}, p.id)
			members[p.net]++
		}
	}
	for n, c := range members {
		l.put("floodn", uint32(n), uint32(c))
	}
	l.configureBridge()
	for id, a := range map[uint32]string{1: "10.0.0.4", 2: "fd00:a::4", 3: "10.1.0.4", 4: "fd00:b::4"} {
		l.put("natpool", id, NATPool{Addr: addr(a), Lo: 40000, Hi: 49999})
	}
	// 8080/tcp and 8053/udp of every host address -> a; 8081/tcp -> a too; 9090/tcp -> c
	// of network 2; 7070/tcp has no backend; 8132/sctp keeps its port; 6060/tcp at one address.
	publish := func(vip string, port uint16, proto uint8, portID uint16, to string, toPort uint16) {
		b := labBackend{portID, to, toPort}
		if to == "" {
			l.service(vip, port, proto, 0, 7)
		} else {
			l.service(vip, port, proto, 0, 7, b)
		}
	}
	for _, f := range []struct{ any, a, c, one, v string }{
		{"0.0.0.0", "192.168.100.10", "192.168.102.10", "10.0.0.4", "192.168.100.12"},
		{"::", "fd00:100::10", "fd00:102::10", "fd00:a::4", "fd00:100::12"},
	} {
		publish(f.any, 8080, pkt.TCP, 1, f.a, 80)
		publish(f.any, 8081, pkt.TCP, 1, f.a, 80)
		publish(f.any, 8053, pkt.UDP, 1, f.a, 53)
		publish(f.any, 9090, pkt.TCP, 20, f.c, 90)
		publish(f.any, 9053, pkt.UDP, 20, f.c, 53)
		publish(f.any, 7070, pkt.TCP, 0, "", 0)
		publish(f.any, 7053, pkt.UDP, 0, "", 0)
		publish(f.any, 8132, pkt.SCTP, 1, f.a, 8132)
		publish(f.any, 8133, pkt.SCTP, 1, f.a, 33)
		publish(f.one, 6060, pkt.TCP, 3, f.v, 60)
	}
	l.services()
}

// reset empties every state map and the clock.
func (l *lab) reset() {
	for _, name := range []string{"flow4", "flow6", "frag4", "frag6", "drops", "sockrev", "affinity", "svcstat"} {
		m := l.coll.Maps[name]
		for {
			k, err := m.NextKeyBytes(nil)
			if err != nil {
				l.t.Fatal(err)
			}
			if k == nil {
				break
			}
			if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				l.t.Fatal(err)
			}
		}
	}
	var zero uint32
	l.put("pflows", zero, zero)
	l.put("fill", uint32(0), zero)
	l.put("fill", uint32(1), zero)
	for _, p := range l.ports {
		l.put("pflows", p.id, zero)
		l.put("rate", p.id, Rate{})
	}
	// A sweeper that speaks for ever: nothing is reaped unless a test wants it.
	l.put("reap", uint32(SwitchGhReapAtGH_REAP_BEAT), uint32(1<<30))
	l.clock(0)
}

// clock moves time: seconds after the real clock.
func (l *lab) clock(s uint64) {
	var c Cfg
	if err := l.coll.Maps["cfg"].Lookup(uint32(0), &c); err != nil {
		l.t.Fatal(err)
	}
	c.ClockOffsetNs = s * 1e9
	l.put("cfg", uint32(0), c)
}

func (l *lab) bump(index uint32) {
	var n uint32
	if err := l.coll.Maps["epoch"].Lookup(index, &n); err != nil {
		l.t.Fatal(err)
	}
	l.put("epoch", index, n+1)
}

// outcome is everything one run shows.
type outcome struct {
	ret  uint32
	res  Result
	out  []byte
	mark uint32
	prio uint32
}

func progOf(p *labPort) string {
	if p.kind == SwitchGhPortKindGH_PORT_UPLINK {
		return "uplink_in"
	}
	return "ep_in"
}

// run puts a frame in at a port.
func (l *lab) run(p *labPort, frame []byte, gsoSize uint32) (outcome, error) {
	if err := l.coll.Maps["result"].Put(uint32(0), Result{}); err != nil {
		return outcome{}, err
	}
	ctx := bpfrun.Context{Ifindex: uint32(p.dev), IngressIfindex: uint32(p.dev), Mark: 0x77, Priority: 5, GsoSize: gsoSize}
	if gsoSize > 0 {
		ctx.GsoSegs = 2
	}
	var o outcome
	var got bpfrun.Context
	var err error
	l.in(func() { o.ret, o.out, got, err = bpfrun.Run(l.coll.Programs[progOf(p)], &ctx, frame, 256) })
	if err != nil {
		return o, err
	}
	o.mark, o.prio = got.Mark, got.Priority
	return o, l.coll.Maps["result"].Lookup(uint32(0), &o.res)
}

// frame fills the MACs a sender at p would use, unless the packet names them.
func (l *lab) frame(p *labPort, k *pkt.Packet) []byte {
	q := *k
	var zero pkt.MAC
	if q.From == zero {
		q.From = p.mac
		if p.kind == SwitchGhPortKindGH_PORT_UPLINK {
			q.From = mac(0x99)
		}
	}
	if q.To == zero {
		q.To = p.gw
		switch {
		case p.kind == SwitchGhPortKindGH_PORT_UPLINK:
			q.To = p.mac
		case q.Ether == pkt.EtherARP:
			q.To = pkt.MAC{255, 255, 255, 255, 255, 255}
		case q.Dst.Is6() && q.Dst.IsMulticast():
			d := q.Dst.As16()
			q.To = pkt.MAC{0x33, 0x33, d[12], d[13], d[14], d[15]}
		case q.Dst.IsMulticast():
			q.To = pkt.MAC{1, 0, 0x5e, 0, 0, 1}
		case q.Dst == netip.MustParseAddr("255.255.255.255"):
			q.To = pkt.MAC{255, 255, 255, 255, 255, 255}
		}
	}
	if q.Ether == pkt.EtherARP && q.ArpSrc == zero {
		q.ArpSrc = q.From
	}
	return q.Bytes()
}

// drops sums the drop counters of a reason over CPUs, ports and layers.
func (l *lab) drops() map[DropReason]uint64 {
	sum := map[DropReason]uint64{}
	var k DropKey
	var vs []DropVal
	it := l.coll.Maps["drops"].Iterate()
	for it.Next(&k, &vs) {
		for _, v := range vs {
			sum[DropReason(k.Reason)] += v.Packets
		}
	}
	if err := it.Err(); err != nil {
		l.t.Fatal(err)
	}
	return sum
}
