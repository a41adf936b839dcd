// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// mac is the address of the guest's card.
func guestMAC(t *testing.T, g *nettest.Guest) vswitch.MAC {
	t.Helper()
	x, err := g.NS.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	return vswitch.MAC(x.Attrs().HardwareAddr)
}

// send sends many bytes over one connection and checks what arrives.
func send(t *testing.T, what string, from *nettest.NS, addr string, to *nettest.NS, listen string) {
	t.Helper()
	l := to.Listen(listen)
	defer l.Close()
	const size = 4 << 20
	data := make([]byte, size)
	_, _ = rand.Read(data)
	got := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- err
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		sum := sha256.New()
		n, err := io.Copy(sum, c)
		if err == nil && (n != size || [32]byte(sum.Sum(nil)) != sha256.Sum256(data)) {
			err = fmt.Errorf("%d bytes arrived, or others than were sent", n)
		}
		got <- err
	}()
	ctx, cancel := context.WithTimeout(context.Background(), answer)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", addr)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	_, err = c.Write(data)
	err = errors.Join(err, c.(*net.TCPConn).CloseWrite())
	if err := errors.Join(err, <-got); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	c.Close()
}

// offloads: the switch saw frames that are not finished, both ways.
func offloads(t *testing.T, g *nettest.Guest) {
	t.Helper()
	if g.Partial.Load() == 0 || g.Large.Load() == 0 {
		t.Errorf("%d frames with partial checksums and %d large ones passed the tap: offloads are off", g.Partial.Load(), g.Large.Load())
	}
	t.Logf("tap: %d frames with partial checksums, %d to be cut", g.Partial.Load(), g.Large.Load())
}

// TestGuestOnNAT: a machine behind a tap in a routed network with NAT.
func TestGuestOnNAT(t *testing.T) {
	l := newLab(t)
	b := l.container(11)
	tap := l.name("vm")
	g := nettest.NewGuest(t, l.host.Do, tap)
	l.host.Up(tap)
	l.join(l.link(tap))
	g.NS.Addr("eth0", "10.1.0.12/16")
	g.NS.Addr("eth0", "fd00:1::c/64")
	g.NS.DefaultRoute("10.1.0.1")
	g.NS.DefaultRoute("fd00:1::1")
	l.s.Ports = append(l.s.Ports, vswitch.Port{ID: 12, Kind: vswitch.PortVM, Network: testNetwork, Object: "vm", Interface: tap,
		MAC: guestMAC(t, g), Addrs: addrs("10.1.0.12", "fd00:1::c"), Up: true})
	l.publish(12, 6, 8080, 7)
	d := l.open()
	l.apply(d)
	for _, ns := range []*nettest.NS{b, g.NS, l.outside, l.host} {
		echo(ns, "[::]:7")
	}
	ask(t, "guest to container", g.NS, "10.1.0.11:7")
	ask(t, "guest to container v6", g.NS, "[fd00:1::b]:7")
	ask(t, "container to guest", b, "10.1.0.12:7")
	ask(t, "container to guest v6", b, "[fd00:1::c]:7")
	ask(t, "guest to gateway", g.NS, "10.1.0.1:7")
	ask(t, "host to guest", l.host, "10.1.0.12:7")
	ask(t, "guest to outside", g.NS, "198.51.100.2:7")
	ask(t, "guest to outside v6", g.NS, "[2001:db8:1::2]:7")
	if err := l.outside.Ask("tcp", "198.51.100.1:8080", "published", answer); err != nil {
		t.Errorf("outside to guest: %v", err)
	}
	send(t, "guest to container", g.NS, "10.1.0.11:9", b, "10.1.0.11:9")
	send(t, "container to guest", b, "10.1.0.12:9", g.NS, "10.1.0.12:9")
	send(t, "guest to outside", g.NS, "198.51.100.2:9", l.outside, "198.51.100.2:9")
	send(t, "guest to outside v6", g.NS, "[2001:db8:1::2]:9", l.outside, "[2001:db8:1::2]:9")
	offloads(t, g)
}

// TestGuestOnTheWire: a machine behind a tap whose MAC is seen at the uplink, and
// one behind the uplink's, on a VLAN.
func TestGuestOnTheWire(t *testing.T) {
	for name, n := range map[string]vswitch.Network{
		"transparent":        {Flags: vswitch.NetL2 | vswitch.NetARPPass | vswitch.NetFlood, Uplink: "up"},
		"l2bridge on a VLAN": {Flags: vswitch.NetL2 | vswitch.NetMACRewrite | vswitch.NetFlood, Uplink: "up", VLAN: 7},
		"l2tunnel":           {Flags: vswitch.NetL2 | vswitch.NetMACRewrite | vswitch.NetNoLocal | vswitch.NetFlood, Uplink: "up"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFabric(t, n)
			a, b := f.hosts[0], f.hosts[1]
			a1, b1 := a.container(11), b.container(21)
			g := nettest.NewGuest(t, a.ns.Do, "vm")
			a.ns.Up("vm")
			a.join("vm")
			address(g.NS, "eth0", 12)
			a.facts.Ifindex["vm"] = a.link("vm").Attrs().Index
			a.s.Ports = append(a.s.Ports, vswitch.Port{ID: 12, Kind: vswitch.PortVM, Network: 1, Object: "vm", Interface: "vm",
				MAC: guestMAC(t, g), Addrs: addrs("10.9.0.12", "fd09::c"), Up: true})
			a.apply()
			b.apply()
			for _, ns := range []*nettest.NS{a1, b1, g.NS} {
				echo(ns, "[::]:7")
			}
			ask(t, "guest to container", g.NS, "10.9.0.11:7")
			ask(t, "container to guest v6", a1, "[fd09::c]:7")
			ask(t, "guest to another host's container", g.NS, "10.9.0.21:7")
			ask(t, "another host's container to guest v6", b1, "[fd09::c]:7")
			send(t, "guest to another host's container", g.NS, "10.9.0.21:9", b1, "10.9.0.21:9")
			send(t, "another host's container to guest", b1, "[fd09::c]:9", g.NS, "[fd09::c]:9")
			send(t, "container to guest", a1, "10.9.0.12:9", g.NS, "10.9.0.12:9")
			offloads(t, g)
			if t.Failed() {
				a.dump()
				b.dump()
			}
		})
	}
}
