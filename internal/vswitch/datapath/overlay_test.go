// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

const overlayTunnel vswitch.PortID = 300

// node is a host of its own: a namespace with an anchor, a VXLAN device, a host
// vNIC and an uplink to the wire that all nodes share.
//
//	node i: up0 192.0.2.i 2001:db8::i -- [wire, a bridge]
//	  network: 10.1.1.0/24 (VNI 4096), 10.1.2.0/24 (4097), fd00:1:1::/64 (4096), fd00:1:2::/64 (4097)
type node struct {
	t    *testing.T
	ns   *nettest.NS
	i    int
	o    Options
	dp   *Datapath
	s    vswitch.State
	f    vswitch.Facts
	next vswitch.PortID
}

func newWire(t *testing.T) *nettest.NS {
	wire := nettest.NewNS(t)
	wire.Exec("sh", "-c", "ip link add br0 type bridge && ip link set br0 up && echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad")
	return wire
}

// plug joins ns to the wire as host i.
func plug(t *testing.T, wire, ns *nettest.NS, i int) {
	w := fmt.Sprintf("w%d", i)
	nettest.Veth(t, ns, "up0", wire, w, fmt.Sprintf("192.0.2.%d/24", i), "", fmt.Sprintf("2001:db8::%x/64", i))
	wire.Exec("ip", "link", "set", w, "master", "br0")
}

func newNode(t *testing.T, wire *nettest.NS, i int, subnets ...string) *node {
	nettest.RequireRoot(t)
	n := &node{t: t, ns: nettest.NewNS(t), i: i, next: 10, f: vswitch.Facts{Ifindex: map[string]int{}}}
	tag := os.Getpid()&0xffff ^ i<<12
	n.o = Options{Pins: fmt.Sprintf("/sys/fs/bpf/gatehouse-test-%04x-%d", os.Getpid()&0xffff, i), Block: 0x47480000 | uint32(tag)}
	n.in(func() error { return Destroy(n.o) })
	plug(t, wire, n.ns, i)
	n.ns.Exec("sh", "-ec", fmt.Sprintf(`
ip link add anchor type veth peer name anchorp
tc qdisc add dev anchor ingress_block %[1]d clsact
ip link set anchor up
ip link set anchorp up
echo 1 > /proc/sys/net/ipv4/conf/anchor/forwarding
echo 1 > /proc/sys/net/ipv6/conf/anchor/forwarding
ip link add vx type vxlan external dstport 4789 udp6zerocsumrx
ip link set vx mtu 65000
echo 1 > /proc/sys/net/ipv6/conf/vx/disable_ipv6
tc qdisc add dev vx ingress_block %[1]d clsact
ip link set vx up
ip link add sw type veth peer name nic
echo 1 > /proc/sys/net/ipv6/conf/sw/disable_ipv6
tc qdisc add dev sw ingress_block %[1]d clsact
ip link set sw up
ip link set nic up`, n.o.Block))
	net := vswitch.Network{
		ID: 1, Zone: 1, Name: "blue", HostPort: 1, Flags: vswitch.NetSNAT | vswitch.NetHostNIC | vswitch.NetUplink,
		Overlay: vswitch.Overlay{Tunnel: overlayTunnel, RouterMAC: vswitch.MAC{2, 8, 0, 0, 0, byte(i)}},
	}
	for j, s := range subnets {
		p := netip.MustParsePrefix(s)
		gw := p.Addr().Next()
		net.Subnets = append(net.Subnets, vswitch.Subnet{Prefix: p, Gateway: gw, VNI: uint32(4096 + j/2)})
		n.ns.Addr("nic", netip.PrefixFrom(gw, p.Bits()).String())
		n.f.HostAddrs = append(n.f.HostAddrs, gw)
	}
	n.f.HostAddrs = append(n.f.HostAddrs, netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", i)), netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i)))
	for _, dev := range []string{"anchor", "vx", "sw", "nic", "up0"} {
		n.f.Ifindex[dev] = n.index(dev)
	}
	n.f.Anchor = n.f.Ifindex["anchor"]
	n.f.Uplinks = []vswitch.Uplink{{Name: "up0", Ifindex: n.f.Ifindex["up0"], MAC: n.mac(n.ns, "up0"), MTU: 1500, Addrs: []netip.Prefix{
		netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/24", i)), netip.MustParsePrefix(fmt.Sprintf("2001:db8::%x/64", i))}}}
	n.s = vswitch.State{
		Networks: []vswitch.Network{net},
		Ports: []vswitch.Port{{ID: 1, Kind: vswitch.PortHost, Network: 1, Object: "blue", Interface: "sw", HostNIC: "nic",
			MAC: n.mac(n.ns, "nic"), Up: true}},
		Tunnels: []vswitch.Tunnel{{ID: overlayTunnel, Interface: "vx", Up: true}},
	}
	t.Cleanup(func() {
		if n.dp != nil {
			n.dp.Close()
		}
		n.in(func() error { return Destroy(n.o) })
	})
	return n
}

func (n *node) in(f func() error) {
	n.t.Helper()
	if err := n.ns.Do(f); err != nil {
		n.t.Fatalf("node %d: %+v", n.i, err)
	}
}

func (n *node) index(dev string) int {
	l, err := n.ns.Netlink().LinkByName(dev)
	if err != nil {
		n.t.Fatal(err)
	}
	return l.Attrs().Index
}

func (n *node) mac(ns *nettest.NS, dev string) vswitch.MAC {
	l, err := ns.Netlink().LinkByName(dev)
	if err != nil {
		n.t.Fatal(err)
	}
	return vswitch.MAC(l.Attrs().HardwareAddr)
}

// container plugs a container in; its addresses are in the n-th pair of subnets.
func (n *node) container(pair int, last byte) (*nettest.NS, []netip.Addr) {
	n.t.Helper()
	ns, id := nettest.NewNS(n.t), n.next
	n.next++
	dev := fmt.Sprintf("p%d", id)
	nettest.Veth(n.t, n.ns, dev, ns, "eth0")
	n.ns.Exec("sh", "-ec", fmt.Sprintf("echo 1 > /proc/sys/net/ipv6/conf/%s/disable_ipv6; tc qdisc add dev %s ingress_block %d clsact", dev, dev, n.o.Block))
	p := vswitch.Port{ID: id, Kind: vswitch.PortContainer, Network: 1, Object: dev, Interface: dev, MAC: n.mac(ns, "eth0"), Up: true}
	for _, sub := range n.s.Networks[0].Subnets[2*pair : min(2*pair+2, len(n.s.Networks[0].Subnets))] {
		a := sub.Prefix.Addr().AsSlice()
		a[len(a)-1] = last
		at, _ := netip.AddrFromSlice(a)
		p.Addrs = append(p.Addrs, at)
		ns.Addr("eth0", netip.PrefixFrom(at, sub.Prefix.Bits()).String())
		ns.DefaultRoute(sub.Gateway.String())
	}
	n.f.Ifindex[dev] = n.index(dev)
	n.s.Ports = append(n.s.Ports, p)
	return ns, p.Addrs
}

// knows tells n of everything at the other nodes, by the underlay's family.
func (n *node) knows(six bool, others ...*node) {
	for _, o := range others {
		for _, p := range o.s.Ports {
			for _, a := range p.Addrs {
				if p.Kind == vswitch.PortContainer {
					n.s.Remotes = append(n.s.Remotes, vswitch.Remote{Network: 1, Addr: a, MAC: p.MAC, VTEP: o.vtep(six)})
				}
			}
		}
	}
}

func (n *node) vtep(six bool) netip.Addr {
	if six {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", n.i))
	}
	return netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", n.i))
}

func (n *node) apply() {
	n.t.Helper()
	tables, err := vswitch.Compile(n.s, n.f)
	if err != nil {
		n.t.Fatalf("node %d: %v", n.i, err)
	}
	n.in(func() (err error) {
		if n.dp == nil {
			if n.dp, err = Open(n.o); err != nil {
				return err
			}
		}
		return n.dp.Apply(context.Background(), tables)
	})
}

// drops are counted drops by reason.
func (n *node) drops() map[string]uint64 {
	n.t.Helper()
	list, err := n.dp.Drops()
	if err != nil {
		n.t.Fatal(err)
	}
	sum := map[string]uint64{}
	for _, d := range list {
		if d.Port != 0 { // devices that are no port: the anchor, which the kernel greets its neighbours by
			sum[d.Reason] += d.Packets
		}
	}
	return sum
}

func blueSubnets() []string {
	return []string{"10.1.1.0/24", "fd00:1:1::/64", "10.1.2.0/24", "fd00:1:2::/64"}
}

func port7(a netip.Addr) string { return netip.AddrPortFrom(a, 7).String() }

// TestOverlay is two hosts with real VXLAN between them, over both families.
//
//covers:type Overlay
func TestOverlay(t *testing.T) {
	for _, six := range []bool{false, true} {
		t.Run(map[bool]string{false: "over IPv4", true: "over IPv6"}[six], func(t *testing.T) { testOverlay(t, six) })
	}
}

func testOverlay(t *testing.T, six bool) {
	wire := newWire(t)
	n1, n2 := newNode(t, wire, 1, blueSubnets()...), newNode(t, wire, 2, blueSubnets()...)
	a, aAddrs := n1.container(0, 11)
	c, cAddrs := n2.container(0, 12)
	d, dAddrs := n2.container(1, 13) // in the other subnet
	n1.knows(six, n2)
	n2.knows(six, n1)
	n1.apply()
	n2.apply()
	defer func() {
		if t.Failed() {
			t.Logf("drops: %v, %v", n1.drops(), n2.drops())
			_ = n1.dp.Flows(func(f Flow) bool { t.Logf("n1: %+v", f); return true })
			_ = n2.dp.Flows(func(f Flow) bool { t.Logf("n2: %+v", f); return true })
			t.Log(n2.ns.Exec("ip", "-s", "link", "show", "vx"))
		}
	}()
	for _, ns := range []*nettest.NS{a, c, d} {
		echo(ns, "[::]:7")
	}
	for i := range 2 {
		ask(t, "inside a subnet", a, port7(cAddrs[i]))
		ask(t, "and back", c, port7(aAddrs[i]))
		ask(t, "between subnets", a, port7(dAddrs[i]))
		ask(t, "and back", d, port7(aAddrs[i]))
		for _, to := range []netip.Addr{cAddrs[i], dAddrs[i]} {
			if err := ping(a, to); err != nil {
				t.Errorf("ping %v: %v", to, err)
			}
		}
	}
	// Path MTU: the container's device takes 1500, the tunnel does not.
	mtu := 1450
	if six {
		mtu = 1430
	}
	for i, to := range []netip.Addr{cAddrs[0], cAddrs[1]} {
		if err := bulk(a, c, netip.AddrPortFrom(to, uint16(2000+i)), 4<<20); err != nil {
			t.Errorf("4 MiB to %v: %v", to, err)
		}
		if got := a.Exec("ip", "route", "get", to.String()); !strings.Contains(got, fmt.Sprintf("mtu %d", mtu)) {
			t.Errorf("path MTU to %v: %s, want %d", to, got, mtu)
		}
	}
	if f := n2.ns.Exec("sh", "-c", "awk '/^Ip:/ {n++; if (n == 2) print $15, $16}' /proc/net/snmp"); strings.TrimSpace(f) != "0 0" {
		t.Errorf("outer packets were fragmented: reassembly asked for and done %s", f)
	}
	// A way between the hosts that is known to be narrow counts for whoever begins anew.
	n1.ns.Exec("ip", "route", "replace", netip.PrefixFrom(n2.vtep(six), n2.vtep(six).BitLen()).String(), "dev", "up0", "mtu", "lock", "1400")
	for i, to := range []netip.Addr{cAddrs[0], cAddrs[1]} {
		if err := bulk(a, c, netip.AddrPortFrom(to, uint16(2010+i)), 1<<20); err != nil {
			t.Errorf("1 MiB to %v by a narrow way: %v", to, err)
		}
		if got := a.Exec("ip", "route", "get", to.String()); !strings.Contains(got, fmt.Sprintf("mtu %d", mtu-100)) {
			t.Errorf("path MTU to %v by a narrow way: %s, want %d", to, got, mtu-100)
		}
	}
	// Off the overlay: by the host's address.
	out := nettest.NewNS(t)
	plug(t, wire, out, 9)
	echo(out, "[::]:7")
	ask(t, "to the outside", a, "192.0.2.9:7")
	ask(t, "to the outside v6", a, "[2001:db8::9]:7")
	// The loader goes; what it made goes on, new conversations included.
	n1.dp.Close()
	n2.dp.Close()
	n1.dp, n2.dp = nil, nil
	for i := range 2 {
		ask(t, "without a daemon", a, port7(cAddrs[i]))
		ask(t, "without a daemon, other subnet", d, port7(aAddrs[i]))
	}
	n1.apply()
	n2.apply()
	ask(t, "with a new one", a, port7(cAddrs[0]))
	for _, n := range []*node{n1, n2} {
		for reason, k := range n.drops() {
			if reason != "mtu" && reason != "unknown_dst" { // neighbour discovery of the kernel's own
				t.Errorf("node %d dropped %d for %s", n.i, k, reason)
			}
		}
	}
}

// TestOverlayHostile: what comes to the tunnel's port from others than peers, and
// what endpoints send there.
func TestOverlayHostile(t *testing.T) {
	wire := newWire(t)
	n1, n2 := newNode(t, wire, 1, blueSubnets()...), newNode(t, wire, 2, blueSubnets()...)
	a, aAddrs := n1.container(0, 11)
	_, cAddrs := n2.container(0, 12)
	n1.knows(false, n2)
	n2.knows(false, n1)
	n1.apply()
	n2.apply()
	rogue := nettest.NewNS(t)
	plug(t, wire, rogue, 66)
	in := a.ListenPacket("0.0.0.0:9").(*net.UDPConn)
	frame := func(src, dst netip.Addr) []byte {
		return (&pkt.Packet{From: pkt.MAC{2, 0, 0, 0, 0, 0x66}, To: pkt.MAC{2, 0, 0, 0, 0, 0x67}, Ether: pkt.EtherIP, Src: src, Dst: dst, TTL: 64,
			Proto: pkt.UDP, SrcPort: 1, DstPort: 9, Data: []byte("evil")}).Bytes()
	}
	good := frame(cAddrs[0], aAddrs[0])
	free := netip.MustParseAddr("10.1.1.99")
	for _, c := range []struct {
		name   string
		from   *nettest.NS
		vni    uint32
		frame  []byte
		reason string // "" = it arrives
	}{
		{"a peer", n2.ns, 4096, good, ""},
		{"unknown peer", rogue, 4096, good, "tun_peer"},
		{"unknown peer, unknown VNI", rogue, 5, good, "tun_vni"},
		{"wrong VNI", n2.ns, 9999, good, "tun_vni"},
		{"VNI 0", n2.ns, 0, good, "tun_vni"},
		{"source that is here", n2.ns, 4096, frame(aAddrs[0], aAddrs[0]), "spoof_ip"},
		{"source that nobody has", n2.ns, 4096, frame(free, aAddrs[0]), "spoof_ip"},
		{"destination that nobody has", n2.ns, 4096, frame(cAddrs[0], free), "unknown_dst"},
		{"back into the tunnel", n2.ns, 4096, frame(cAddrs[0], cAddrs[0]), "loop"},
		{"by this host to the outside", n2.ns, 4096, frame(cAddrs[0], netip.MustParseAddr("192.0.2.66")), "no_route"},
		{"to this host", n2.ns, 4096, frame(cAddrs[0], netip.MustParseAddr("192.0.2.1")), "no_route"},
	} {
		before := n1.drops()
		if err := sendVXLAN(c.from, "192.0.2.1:4789", c.vni, c.frame); err != nil {
			t.Fatal(err)
		}
		if c.reason == "" {
			if err := in.SetReadDeadline(time.Now().Add(answer)); err != nil {
				t.Fatal(err)
			}
			if n, _, err := in.ReadFromUDPAddrPort(make([]byte, 64)); err != nil || n != 4 {
				t.Errorf("%s: %d bytes, %v", c.name, n, err)
			}
		}
		for end := time.Now().Add(answer); c.reason != "" && n1.drops()[c.reason] == before[c.reason] && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
		for reason, k := range n1.drops() {
			want := before[reason]
			if reason == c.reason {
				want++
			}
			if k != want {
				t.Errorf("%s: %s counted %d times, want %d", c.name, reason, k-before[reason], want-before[reason])
			}
		}
	}
	// From an endpoint it is a datagram like any other, but not in the host's name.
	before := n1.drops()["tun_peer"]
	if err := sendVXLAN(a, "192.0.2.2:4789", 4096, good); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(answer); n1.drops()["tun_peer"] == before && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	if n := n1.drops()["tun_peer"] - before; n != 1 {
		t.Errorf("VXLAN from an endpoint to a peer: dropped %d times", n)
	}
	if err := in.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, from, err := in.ReadFromUDPAddrPort(make([]byte, 64)); err == nil {
		t.Errorf("%d bytes of %v arrived that should not have", n, from)
	}
}

// TestOverlayThree is three hosts: broadcasts reach each of them once, an
// endpoint moves from one to another, and one routes for the others.
//
//covers:type Overlay
func TestOverlayThree(t *testing.T) {
	wire := newWire(t)
	var nodes []*node
	var ends []*nettest.NS
	var addrs [][]netip.Addr
	for i := range 3 {
		n := newNode(t, wire, i+1, blueSubnets()...)
		n.s.Networks[0].Flags |= vswitch.NetFlood
		n.s.Networks[0].FloodPeers = true
		e, at := n.container(0, byte(11+i))
		nodes, ends, addrs = append(nodes, n), append(ends, e), append(addrs, at)
	}
	// The third routes to 172.16.0.0/16, which is behind it.
	far := nettest.NewNS(t)
	nettest.Veth(t, ends[2], "behind", far, "eth0", "172.16.0.1/16", "172.16.0.9/16")
	far.DefaultRoute("172.16.0.1")
	ends[2].Exec("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
	for i, n := range nodes {
		n.s.Networks[0].Routes = []vswitch.Route{{Prefix: netip.MustParsePrefix("172.16.0.0/16"), To: vswitch.RouteVia, Via: addrs[2][0]}}
		n.knows(false, append(append([]*node{}, nodes[:i]...), nodes[i+1:]...)...)
	}
	nodes[2].s.Ports[1].Forward = true
	for _, n := range nodes {
		n.apply()
	}
	var ins []*net.UDPConn
	for _, e := range ends[1:] {
		ins = append(ins, e.ListenPacket("0.0.0.0:99").(*net.UDPConn))
	}
	cast, err := ends[0].Dial(context.Background(), "udp", "10.1.1.255:99")
	if err != nil {
		t.Fatal(err)
	}
	defer cast.Close()
	if _, err := cast.Write([]byte("all")); err != nil {
		t.Fatal(err)
	}
	for i, in := range ins {
		for k, wait := range []time.Duration{answer, 100 * time.Millisecond} {
			_ = in.SetReadDeadline(time.Now().Add(wait))
			if n, err := in.Read(make([]byte, 16)); (err == nil && n == 3) != (k == 0) {
				t.Errorf("broadcast at host %d, reading %d: %d bytes, %v", i+2, k, n, err)
			}
		}
	}
	echo(far, "0.0.0.0:7")
	ask(t, "through a router on another host", ends[0], "172.16.0.9:7")
	echo(ends[1], "0.0.0.0:7")
	ask(t, "back through it", far, port7(addrs[1][0]))

	// The second's endpoint moves to the first host, with its addresses.
	c, err := ends[0].Dial(context.Background(), "udp", port7(addrs[1][0]))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	talk := func(what string) {
		t.Helper()
		for end := time.Now().Add(answer); ; {
			_ = c.SetDeadline(time.Now().Add(200 * time.Millisecond))
			if _, err := c.Write([]byte("x")); err == nil {
				if _, err = c.Read(make([]byte, 4)); err == nil {
					return
				}
			}
			if time.Now().After(end) {
				t.Errorf("%s: no answer", what)
				return
			}
		}
	}
	talk("before it moves")
	moved := nodes[1].s.Ports[1]
	nodes[1].s.Ports = nodes[1].s.Ports[:1]
	home, _ := nodes[0].container(0, 12)
	home.Exec("ip", "link", "set", "eth0", "address", moved.MAC.String())
	nodes[0].s.Ports[2].MAC = moved.MAC
	for i, n := range nodes {
		for j := range n.s.Remotes {
			if r := &n.s.Remotes[j]; r.MAC == moved.MAC {
				r.VTEP = nodes[0].vtep(false)
			}
		}
		if i == 0 {
			var rest []vswitch.Remote
			for _, r := range n.s.Remotes {
				if r.MAC != moved.MAC {
					rest = append(rest, r)
				}
			}
			n.s.Remotes = rest
		}
		if i == 1 {
			n.knows(false, nodes[0])
			n.s.Remotes = n.s.Remotes[len(n.s.Remotes)-4:]
		}
		n.apply()
	}
	echo(home, "0.0.0.0:7")
	talk("after it moved")
	ask(t, "from the third", ends[2], port7(addrs[1][0]))
}

// TestOverlayRemoteSubnets: a subnet for each host, as flannel has it.
//
//covers:network RemoteSubnetRoute
func TestOverlayRemoteSubnets(t *testing.T) {
	wire := newWire(t)
	n1 := newNode(t, wire, 1, "10.244.1.0/24", "fd00:244:1::/64")
	n2 := newNode(t, wire, 2, "10.244.2.0/24", "fd00:244:2::/64")
	a, _ := n1.container(0, 11)
	c, cAddrs := n2.container(0, 12)
	for _, x := range []struct{ n, o *node }{{n1, n2}, {n2, n1}} {
		for _, sub := range x.o.s.Networks[0].Subnets {
			x.n.s.Networks[0].Routes = append(x.n.s.Networks[0].Routes, vswitch.Route{Prefix: sub.Prefix, To: vswitch.RouteTunnel, VTEP: x.o.vtep(false),
				VNI: 4096, MAC: x.o.s.Networks[0].RouterMAC})
			x.n.ns.Route(sub.Prefix.String(), "", "nic") // the host's own way to the other's endpoints
		}
		x.n.apply()
	}
	echo(c, "[::]:7")
	echo(n2.ns, "10.244.2.1:8")
	for _, to := range cAddrs {
		ask(t, "to a remote subnet", a, port7(to))
	}
	ask(t, "to the other host's gateway address", a, "10.244.2.1:8")
	ask(t, "from the host", n1.ns, port7(cAddrs[0]))
}

// bulk sends size bytes by TCP.
func bulk(from, to *nettest.NS, at netip.AddrPort, size int) error {
	return bulkTo(from, to, at, at.String(), size)
}

// bulkTo is bulk to an address that stands for the one where to listens.
func bulkTo(from, to *nettest.NS, at netip.AddrPort, listen string, size int) error {
	ln := to.Listen(listen)
	defer ln.Close()
	got := make(chan int64, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			got <- -1
			return
		}
		defer c.Close()
		n, _ := io.Copy(io.Discard, c)
		got <- n
	}()
	ctx, cancel := context.WithTimeout(context.Background(), answer)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", at.String())
	if err != nil {
		return err
	}
	_ = c.SetDeadline(time.Now().Add(4 * answer))
	if _, err = c.Write(make([]byte, size)); err != nil {
		return err
	}
	c.Close()
	select {
	case n := <-got:
		if n != int64(size) {
			return fmt.Errorf("%d of %d bytes arrived", n, size)
		}
	case <-time.After(4 * answer):
		return fmt.Errorf("timed out")
	}
	return nil
}

// ping sends one echo request and waits for its answer.
func ping(from *nettest.NS, to netip.Addr) error {
	network, kinds, skip := "ip4:icmp", [2]byte{8, 0}, 20
	if to.Is6() {
		network, kinds, skip = "ip6:ipv6-icmp", [2]byte{128, 129}, 0
	}
	c, err := from.Dial(context.Background(), network, to.String())
	if err != nil {
		return err
	}
	defer c.Close()
	b := []byte{kinds[0], 0, 0, 0, 0x12, 0x34, 0, 1}
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(b[2:], ^uint16(sum)) // of ICMPv6 the kernel makes it
	_ = c.SetDeadline(time.Now().Add(answer))
	if _, err := c.Write(b); err != nil {
		return err
	}
	for buf := make([]byte, 256); ; {
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		if n >= skip+8 && buf[skip] == kinds[1] && buf[skip+4] == 0x12 {
			return nil
		}
	}
}

// sendVXLAN sends a frame with a VXLAN header (RFC 7348 section 5) as a datagram.
func sendVXLAN(from *nettest.NS, to string, vni uint32, frame []byte) error {
	c, err := from.Dial(context.Background(), "udp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	b := binary.BigEndian.AppendUint32([]byte{8, 0, 0, 0}, vni<<8)
	_, err = c.Write(append(b, frame...))
	return err
}
