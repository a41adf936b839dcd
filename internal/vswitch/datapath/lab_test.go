// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(child())
	}
	os.Exit(nettest.Main(m))
}

// lab is a small host: the test's namespace, with an anchor, one network, an
// uplink to a namespace "outside", and containers.
//
//	outside 198.51.100.2 -- up0 198.51.100.1 [host] nic 10.1.0.1 == switch == 10.1.0.x containers
type lab struct {
	t       testing.TB
	o       Options
	host    *nettest.NS
	outside *nettest.NS
	nl      *netlink.Handle
	tag     string
	s       vswitch.State
	f       vswitch.Facts
	// objectFile is the programs of daemons of another version; see killed.
	objectFile string
}

const (
	hostPort    vswitch.PortID    = 1
	testNetwork vswitch.NetworkID = 1
)

func newLab(t testing.TB) *lab {
	nettest.RequireRoot(t)
	l := newHost(t, nettest.Host(t), "")
	l.outside = nettest.NewNS(t)
	up := l.name("up")
	nettest.Veth(t, l.host, up, l.outside, "eth0", "198.51.100.1/24", "198.51.100.2/24", "2001:db8:1::1/64", "2001:db8:1::2/64")
	l.addUplink(up, "198.51.100.1/24", "2001:db8:1::1/64")
	return l
}

// newHost is a lab without uplinks in a namespace of its own; which tells several
// hosts of one test apart.
func newHost(t testing.TB, host *nettest.NS, which string) *lab {
	tag := fmt.Sprintf("%04x%s", os.Getpid()&0xffff, which)
	l := &lab{t: t, tag: tag, host: host}
	l.o = Options{
		Pins: "/sys/fs/bpf/gatehouse-test-" + tag, Block: 0x47490000 | uint32(os.Getpid()&0xffff),
		Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
	if err := l.in(func() error { return Destroy(l.o) }); err != nil {
		t.Fatal(err)
	}
	nettest.CheckLeaks(t, nettest.LeakOptions{Dirs: []string{l.o.Pins}})
	t.Cleanup(func() {
		_ = l.in(func() error {
			if err := Destroy(l.o); err != nil {
				t.Error(err)
			}
			if left, err := Owned(l.o); err != nil || len(left) > 0 {
				t.Errorf("left after Destroy: %v, %v", left, err)
			}
			return nil
		})
	})
	l.nl = l.host.Netlink()
	l.f = vswitch.Facts{Ifindex: map[string]int{}}
	_ = l.in(func() error { l.f.NetnsCookie = netnsCookie(t); return nil })

	anchor, _ := l.pair("anchor", "anchorp", nil)
	l.join(anchor)
	l.up(anchor)
	for _, family := range []string{"ipv4", "ipv6"} {
		file := fmt.Sprintf("/proc/sys/net/%s/conf/%s/forwarding", family, anchor.Attrs().Name)
		if err := l.in(func() error { return os.WriteFile(file, []byte("1"), 0o644) }); err != nil {
			t.Fatal(err)
		}
	}
	l.f.Anchor = anchor.Attrs().Index

	sw, nic := l.pair("sw", "nic", nil)
	l.join(sw)
	l.up(sw)
	l.host.Addr(nic.Attrs().Name, "10.1.0.1/16")
	l.host.Addr(nic.Attrs().Name, "fd00:1::1/64")
	l.up(nic)
	l.s = vswitch.State{
		Networks: []vswitch.Network{{
			ID: testNetwork, Zone: 1, Name: "nat", HostPort: hostPort,
			Flags: vswitch.NetSNAT | vswitch.NetHostNIC | vswitch.NetUplink | vswitch.NetFlood,
			Subnets: []vswitch.Subnet{
				{Prefix: netip.MustParsePrefix("10.1.0.0/16"), Gateway: netip.MustParseAddr("10.1.0.1")},
				{Prefix: netip.MustParsePrefix("fd00:1::/64"), Gateway: netip.MustParseAddr("fd00:1::1")},
			},
		}},
		Ports: []vswitch.Port{{
			ID: hostPort, Kind: vswitch.PortHost, Network: testNetwork, Object: "nat", Interface: sw.Attrs().Name, HostNIC: nic.Attrs().Name,
			MAC: vswitch.MAC(nic.Attrs().HardwareAddr), Up: true,
		}},
	}
	l.f.HostAddrs = addrs("10.1.0.1", "fd00:1::1")
	return l
}

// in runs f in the host's namespace, whose devices it opens or attaches to.
func (l *lab) in(f func() error) error { return l.host.Do(f) }

func (l *lab) name(role string) string { return "gt" + l.tag + role }

// pair makes a veth pair; the second end goes to ns, if any.
func (l *lab) pair(a, b string, ns *nettest.NS) (netlink.Link, netlink.Link) {
	l.t.Helper()
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: l.name(a)}, PeerName: l.name(b)}
	if ns != nil {
		v.PeerName, v.PeerNamespace = b, netlink.NsFd(ns.Fd())
	}
	if err := l.nl.LinkAdd(v); err != nil {
		l.t.Fatalf("add pair %s: %v", a, err)
	}
	l.t.Cleanup(func() {
		if x, err := l.nl.LinkByName(v.Name); err == nil {
			_ = l.nl.LinkDel(x)
		}
	})
	first := l.link(v.Name)
	if ns != nil {
		return first, nil
	}
	return first, l.link(v.PeerName)
}

func (l *lab) link(name string) netlink.Link {
	l.t.Helper()
	x, err := l.nl.LinkByName(name)
	if err != nil {
		l.t.Fatalf("device %s: %v", name, err)
	}
	l.f.Ifindex[name] = x.Attrs().Index
	return x
}

func (l *lab) up(x netlink.Link) {
	l.t.Helper()
	if err := l.nl.LinkSetUp(x); err != nil {
		l.t.Fatal(err)
	}
}

// join makes a device a member of the shared block.
func (l *lab) join(x netlink.Link) {
	l.t.Helper()
	err := l.nl.QdiscAdd(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: x.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT, IngressBlock: &l.o.Block,
		},
		QdiscType: "clsact",
	})
	if err != nil {
		l.t.Fatalf("join %s to block: %v", x.Attrs().Name, err)
	}
}

func (l *lab) addUplink(name string, cidrs ...string) {
	l.t.Helper()
	x, err := l.nl.LinkByName(name)
	if err != nil {
		l.t.Fatal(err)
	}
	u := vswitch.Uplink{Name: name, Ifindex: x.Attrs().Index, MAC: vswitch.MAC(x.Attrs().HardwareAddr), MTU: uint16(x.Attrs().MTU)}
	for _, c := range cidrs {
		u.Addrs = append(u.Addrs, netip.MustParsePrefix(c))
		l.f.HostAddrs = append(l.f.HostAddrs, netip.MustParsePrefix(c).Addr())
	}
	l.f.Uplinks = append(l.f.Uplinks, u)
}

// container makes a namespace with one vNIC at port id; its addresses are
// 10.1.0.<id> and fd00:1::<id>.
func (l *lab) container(id vswitch.PortID) *nettest.NS {
	l.t.Helper()
	ns := nettest.NewNS(l.t)
	p := l.plug(id, ns)
	l.s.Ports = append(l.s.Ports, p)
	return ns
}

func (l *lab) plug(id vswitch.PortID, ns *nettest.NS) vswitch.Port {
	l.t.Helper()
	x, _ := l.pair(fmt.Sprintf("p%x", uint16(id)), "eth0", ns)
	l.join(x)
	v4, v6 := fmt.Sprintf("10.1.0.%d", id), fmt.Sprintf("fd00:1::%x", uint16(id))
	ns.Addr("eth0", v4+"/16")
	ns.Addr("eth0", v6+"/64")
	ns.Up("eth0")
	l.up(x)
	ns.DefaultRoute("10.1.0.1")
	ns.DefaultRoute("fd00:1::1")
	inner, err := ns.Netlink().LinkByName("eth0")
	if err != nil {
		l.t.Fatal(err)
	}
	return vswitch.Port{
		ID: id, Kind: vswitch.PortContainer, Network: testNetwork, Object: fmt.Sprintf("ep%d", id), Interface: x.Attrs().Name,
		MAC: vswitch.MAC(inner.Attrs().HardwareAddr), Addrs: addrs(v4, v6), Up: true,
	}
}

func (l *lab) publish(id vswitch.PortID, proto uint8, hostPort, port uint16) {
	i := slices.IndexFunc(l.s.Ports, func(p vswitch.Port) bool { return p.ID == id })
	for _, a := range l.s.Ports[i].Addrs {
		l.s.Mappings = append(l.s.Mappings, vswitch.PortMapping{
			Object: l.s.Ports[i].Object, Proto: proto, HostPort: hostPort, Port: id, Addr: a, AddrPort: port,
		})
	}
}

func (l *lab) tables() vswitch.Tables {
	l.t.Helper()
	t, err := vswitch.Compile(l.s, l.f)
	if err != nil {
		l.t.Fatal(err)
	}
	return t
}

func (l *lab) open() *Datapath {
	l.t.Helper()
	var d *Datapath
	if err := l.in(func() (err error) { d, err = Open(l.o); return err }); err != nil {
		l.t.Fatalf("%+v", err)
	}
	l.t.Cleanup(func() { d.Close() })
	return d
}

func (l *lab) apply(d *Datapath) {
	l.t.Helper()
	if err := l.in(func() error { return d.Apply(context.Background(), l.tables()) }); err != nil {
		l.t.Fatal(err)
	}
}

func addrs(s ...string) (all []netip.Addr) {
	for _, a := range s {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}

func netnsCookie(t testing.TB) uint64 {
	c, err := net.ListenUDP("udp", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var cookie uint64
	_ = raw.Control(func(fd uintptr) { cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE) })
	if err != nil {
		t.Fatal(err)
	}
	return cookie
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// childEnv makes the test binary a daemon that opens, applies and waits, so that
// it can be killed at any moment. Its order comes on standard input.
const childEnv = "GATEHOUSE_DATAPATH_CHILD"

type order struct {
	Pins  string
	Block uint32
	State vswitch.State
	Facts vswitch.Facts
	// Programs of another version, and its layout of state; "" = ours.
	Object, Layout string
}

func child() int {
	var o order
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		fmt.Println(err)
		return 1
	}
	t, err := vswitch.Compile(o.State, o.Facts)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	opts := Options{Pins: o.Pins, Block: o.Block}
	if o.Object != "" {
		opts.object = fromFile(o.Layout, o.Object)
	}
	d, err := Open(opts)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("open")
	if err := d.Apply(context.Background(), t); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("applied")
	// Not select {}: with nothing else to run, the Go runtime at times calls that a
	// deadlock and ends the process.
	time.Sleep(time.Hour)
	return 1
}
