// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// fabric is a segment with two hosts, each with a data plane of its own, and a
// machine that has none:
//
//	hosts 0, 1 (10.9.0.1, .2) == bridge == other (10.9.0.9)
type fabric struct {
	t     *testing.T
	ns    *nettest.NS
	hosts [2]*wireHost
	other *nettest.NS
}

// wireHost is a host whose network 1 is bound to its uplink.
type wireHost struct {
	f     *fabric
	n     int
	ns    *nettest.NS
	o     Options
	d     *Datapath
	s     vswitch.State
	facts vswitch.Facts
}

// newFabric makes the segment. The hosts' network is n; with a VLAN neither the
// other machine nor the hosts' own addresses are in it. The bridge does not look
// at tags and sends back by the port a frame came by, as L2Tunnel needs it.
func newFabric(t *testing.T, n vswitch.Network) *fabric {
	nettest.RequireRoot(t)
	f := &fabric{t: t, ns: nettest.NewNS(t), other: nettest.NewNS(t)}
	f.ns.Exec("ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
	if err := f.ns.Do(func() error {
		for _, name := range []string{"arptables", "iptables", "ip6tables"} { // on in every new namespace
			if err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+name, []byte("0"), 0o644); err != nil && !os.IsNotExist(err) {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	f.ns.Up("br0")
	f.plug("other", f.other, "eth0")
	address(f.other, "eth0", 9)
	for i := range f.hosts {
		f.hosts[i] = f.host(i, n)
	}
	return f
}

// plug connects a namespace to the bridge.
func (f *fabric) plug(port string, ns *nettest.NS, dev string) {
	nettest.Veth(f.t, f.ns, port, ns, dev)
	f.ns.Exec("ip", "link", "set", port, "master", "br0")
	f.ns.Exec("bridge", "link", "set", "dev", port, "hairpin", "on")
}

func address(ns *nettest.NS, dev string, n int) {
	ns.Addr(dev, fmt.Sprintf("10.9.0.%d/24", n))
	ns.Addr(dev, fmt.Sprintf("fd09::%x/64", n))
}

func (f *fabric) host(i int, n vswitch.Network) *wireHost {
	t := f.t
	h := &wireHost{f: f, n: i, ns: nettest.NewNS(t), facts: vswitch.Facts{Ifindex: map[string]int{}}}
	h.o = Options{Pins: fmt.Sprintf("/sys/fs/bpf/gatehouse-wire-%04x-%d", os.Getpid()&0xffff, i),
		Block: 0x47600000 | uint32(i)<<16 | uint32(os.Getpid()&0xffff)}
	destroy := func() error { return h.ns.Do(func() error { return Destroy(h.o) }) }
	if err := destroy(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if h.d != nil {
			h.d.Close()
		}
		if err := destroy(); err != nil {
			t.Error(err)
		}
	})
	f.plug(fmt.Sprintf("host%d", i), h.ns, "up")
	address(h.ns, "up", i+1)
	nettest.Veth(t, h.ns, "anchor", h.ns, "anchorp")
	h.join("anchor")
	h.ns.Exec("sysctl", "-qw", "net.ipv4.conf.anchor.forwarding=1", "net.ipv6.conf.anchor.forwarding=1")
	h.facts.Anchor = h.link("anchor").Attrs().Index
	h.uplink()
	n.ID, n.Zone, n.Name = 1, 1, "wire"
	n.Subnets = []vswitch.Subnet{{Prefix: netip.MustParsePrefix("10.9.0.0/24")}, {Prefix: netip.MustParsePrefix("fd09::/64")}}
	h.s.Networks = []vswitch.Network{n}
	return h
}

// uplink puts the uplink as it is now into the facts.
func (h *wireHost) uplink() {
	up := h.link("up").Attrs()
	u := vswitch.Uplink{Name: "up", Ifindex: up.Index, MAC: vswitch.MAC(up.HardwareAddr), MTU: 1500}
	h.facts.HostAddrs = nil
	for _, a := range []string{fmt.Sprintf("10.9.0.%d/24", h.n+1), fmt.Sprintf("fd09::%x/64", h.n+1)} {
		p := netip.MustParsePrefix(a)
		u.Addrs = append(u.Addrs, p)
		h.facts.HostAddrs = append(h.facts.HostAddrs, p.Addr())
	}
	h.facts.Uplinks = []vswitch.Uplink{u}
}

func (h *wireHost) link(name string) netlink.Link {
	h.f.t.Helper()
	x, err := h.ns.Netlink().LinkByName(name)
	if err != nil {
		h.f.t.Fatalf("device %s: %v", name, err)
	}
	return x
}

func (h *wireHost) join(name string) {
	h.f.t.Helper()
	err := h.ns.Netlink().QdiscAdd(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: h.link(name).Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
			IngressBlock: &h.o.Block},
		QdiscType: "clsact",
	})
	if err != nil {
		h.f.t.Fatalf("join %s to block: %v", name, err)
	}
}

// container plugs one in whose addresses end in n.
func (h *wireHost) container(n int) *nettest.NS {
	t := h.f.t
	t.Helper()
	ns := nettest.NewNS(t)
	dev := fmt.Sprintf("c%d", n)
	nettest.Veth(t, h.ns, dev, ns, "eth0")
	h.join(dev)
	address(ns, "eth0", n)
	inner, err := ns.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	h.facts.Ifindex[dev] = h.link(dev).Attrs().Index
	h.s.Ports = append(h.s.Ports, vswitch.Port{ID: vswitch.PortID(n), Kind: vswitch.PortContainer, Network: 1, Object: dev, Interface: dev,
		MAC: vswitch.MAC(inner.Attrs().HardwareAddr), Addrs: addrs(fmt.Sprintf("10.9.0.%d", n), fmt.Sprintf("fd09::%x", n)), Up: true})
	return ns
}

func (h *wireHost) apply() {
	t := h.f.t
	t.Helper()
	err := h.ns.Do(func() (err error) {
		if h.d == nil {
			if h.d, err = Open(h.o); err != nil {
				return err
			}
		}
		tables, err := vswitch.Compile(h.s, h.facts)
		if err != nil {
			return err
		}
		return h.d.Apply(context.Background(), tables)
	})
	if err != nil {
		t.Fatalf("host %d: %+v", h.n, err)
	}
}

func (h *wireHost) dump() {
	drops, err := h.d.Drops()
	h.f.t.Logf("host %d: drops: %+v, %v", h.n, drops, err)
	_ = h.d.Flows(func(f Flow) bool { h.f.t.Logf("flow: %+v", f); return true })
}

// TestWire: every way between ports, hosts and machines, for each kind of network
// that is bound to an uplink.
//
//covers:type Transparent L2Bridge L2Tunnel
func TestWire(t *testing.T) {
	const transparent = vswitch.NetL2 | vswitch.NetARPPass | vswitch.NetFlood
	const bridged = vswitch.NetL2 | vswitch.NetMACRewrite | vswitch.NetFlood
	for _, c := range []struct {
		name string
		n    vswitch.Network
	}{
		{"transparent", vswitch.Network{Flags: transparent, Uplink: "up"}},
		{"transparent on a VLAN", vswitch.Network{Flags: transparent, Uplink: "up", VLAN: 7}},
		{"l2bridge", vswitch.Network{Flags: bridged, Uplink: "up"}},
		{"l2bridge on a VLAN", vswitch.Network{Flags: bridged, Uplink: "up", VLAN: 7}},
		{"l2tunnel", vswitch.Network{Flags: bridged | vswitch.NetNoLocal, Uplink: "up"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFabric(t, c.n)
			a, b := f.hosts[0], f.hosts[1]
			a1, a2, b1 := a.container(11), a.container(12), b.container(21)
			a.apply()
			b.apply()
			defer func() {
				if t.Failed() && a.d != nil {
					a.dump()
					b.dump()
				}
			}()
			ends := map[int]*nettest.NS{11: a1, 12: a2, 21: b1}
			pinged := []string{"10.9.0.12", "10.9.0.21", "fd09::c", "fd09::15"}
			if c.n.VLAN == 0 {
				ends[1], ends[2], ends[9] = a.ns, b.ns, f.other
				pinged = append(pinged, "10.9.0.9", "fd09::9", "10.9.0.1", "fd09::1")
			} else {
				echo(f.other, "[::]:7")
				for _, to := range []string{"10.9.0.9:7", "[fd09::9]:7"} {
					if err := a1.Ask("udp", to, "hello", 300*time.Millisecond); err == nil {
						t.Errorf("%s answers although it is not in the VLAN", to)
					}
				}
			}
			for _, ns := range ends {
				echo(ns, "[::]:7")
			}
			for from, ns := range ends {
				for to := range ends {
					if from == to || from < 10 && to < 10 {
						continue
					}
					ask(t, fmt.Sprintf("%d to %d", from, to), ns, fmt.Sprintf("10.9.0.%d:7", to))
					ask(t, fmt.Sprintf("%d to %d v6", from, to), ns, fmt.Sprintf("[fd09::%x]:7", to))
				}
			}
			for _, to := range pinged {
				if err := ping(a1, netip.MustParseAddr(to)); err != nil {
					t.Errorf("ping %s: %v", to, err)
				}
			}
			a.heardByUplink(c.n.Flags&vswitch.NetMACRewrite == 0)
		})
	}
}

// TestWireUplinkReplaced: a network that is bound to an uplink works on when the
// device is deleted and another one comes by its name, be it told of at once or
// after a time without.
//
//covers:type Transparent L2Bridge
func TestWireUplinkReplaced(t *testing.T) {
	for name, flags := range map[string]vswitch.NetFlags{
		"transparent": vswitch.NetL2 | vswitch.NetARPPass | vswitch.NetFlood,
		"l2bridge":    vswitch.NetL2 | vswitch.NetMACRewrite | vswitch.NetFlood,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFabric(t, vswitch.Network{Flags: flags, Uplink: "up"})
			h := f.hosts[0]
			c := h.container(11)
			h.apply()
			echo(f.other, "[::]:7")
			echo(c, "[::]:7")
			works := func(when string) {
				t.Helper()
				ask(t, when, c, "10.9.0.9:7")
				ask(t, when+", v6", c, "[fd09::9]:7")
				ask(t, when+", from outside", f.other, "10.9.0.11:7")
				ask(t, when+", from outside v6", f.other, "[fd09::b]:7")
			}
			works("before")
			for _, between := range []bool{false, true} {
				was := h.facts.Uplinks[0].Ifindex
				h.ns.Exec("ip", "link", "del", "dev", "up")
				if between {
					h.facts.Uplinks, h.facts.HostAddrs = nil, nil
					h.apply()
					if err := c.Ask("udp", "10.9.0.9:7", "nobody", 200*time.Millisecond); err == nil {
						t.Error("an answer without an uplink")
					}
				}
				f.plug("host0", h.ns, "up")
				address(h.ns, "up", 1)
				h.uplink()
				if h.facts.Uplinks[0].Ifindex == was {
					t.Fatal("the same device")
				}
				h.apply()
				f.other.Exec("ip", "neigh", "flush", "dev", "eth0")
				works(fmt.Sprintf("after (a time without: %v)", between))
			}
		})
	}
}

// heardByUplink: the MACs of ports are in the filter of the uplink, until they go.
func (h *wireHost) heardByUplink(want bool) {
	t := h.f.t
	t.Helper()
	if want { // the record of it comes back when it is unpinned
		if err := os.Remove(macsPin(h.o.Pins)); err != nil {
			t.Error(err)
		}
		if err := h.ns.Do(func() error { _, err := h.d.Repair(); return err }); err != nil {
			t.Error(err)
		}
	}
	count := func() int { return strings.Count(h.ns.Exec("bridge", "fdb", "show", "dev", "up"), "self permanent") }
	before := count()
	mac := h.s.Ports[0].MAC
	if has := strings.Contains(h.ns.Exec("bridge", "fdb", "show", "dev", "up"), mac.String()); has != want {
		t.Errorf("the uplink receives frames for %s: %v, want %v", mac, has, want)
	}
	h.s.Ports = h.s.Ports[1:]
	h.apply()
	if after := count(); want && after != before-1 || !want && after != before {
		t.Errorf("%d entries before a port went, %d after", before, after)
	}
	h.d.Close()
	h.d = nil
	if err := h.ns.Do(func() error { return Destroy(h.o) }); err != nil {
		t.Error(err)
	}
	if has := strings.Contains(h.ns.Exec("bridge", "fdb", "show", "dev", "up"), h.s.Ports[0].MAC.String()); has {
		t.Error("after Destroy the uplink still receives frames for a port")
	}
}
