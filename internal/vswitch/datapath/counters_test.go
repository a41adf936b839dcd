// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// deviceCounters are those of a container's own device.
func deviceCounters(t *testing.T, ns *nettest.NS) netlink.LinkStatistics {
	t.Helper()
	link, err := ns.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	return *link.Attrs().Statistics
}

// TestCounters lets real machines talk, be refused and shout, and holds the
// counters of the switch against those of their devices: what a device sent the
// switch took or dropped, what it got the switch delivered, and every drop has one
// reason.
func TestCounters(t *testing.T) {
	l := newLab(t)
	l.s.Networks[0].Flags |= vswitch.NetFlood
	inside := map[vswitch.PortID]*nettest.NS{10: l.container(10), 11: l.container(11), 12: l.container(12)}
	a, b := inside[10], inside[11]
	l.publish(11, 6, 8080, 7)
	d := l.open()
	l.apply(d)
	for _, ns := range []*nettest.NS{a, b, l.outside, l.host} {
		echo(ns, "[::]:7")
	}
	// Before the ports were known their devices may have spoken.
	var devices = map[vswitch.PortID]netlink.LinkStatistics{}
	var ports = map[vswitch.PortID]PortStats{}
	var drops []Drop
	read := func() {
		t.Helper()
		for id, ns := range inside {
			devices[id] = deviceCounters(t, ns)
			s, err := d.Stats(id)
			if err != nil {
				t.Fatal(err)
			}
			ports[id] = s
		}
		var err error
		if drops, err = d.Drops(); err != nil {
			t.Fatal(err)
		}
	}
	// settled reads until nothing moves any more.
	settled := func() {
		t.Helper()
		until(t, "silence", func() bool {
			read()
			was := fmt.Sprint(devices, ports)
			time.Sleep(150 * time.Millisecond)
			read()
			return fmt.Sprint(devices, ports) == was
		})
	}
	// Old kernels do not count at a device what is redirected to it from its peer.
	ask(t, "first", a, "10.1.0.11:7")
	settled()
	was := devices[10].RxPackets
	ask(t, "second", a, "10.1.0.11:7")
	settled()
	devicesCount := devices[10].RxPackets > was
	devices0, ports0, drops0 := maps.Clone(devices), maps.Clone(ports), slices.Clone(drops)

	for _, to := range []string{"10.1.0.11:7", "[fd00:1::b]:7", "198.51.100.2:7", "[2001:db8:1::2]:7", "10.1.0.1:7", "[fd00:1::1]:7"} {
		ask(t, "talk", a, to)
	}
	if err := l.outside.Ask("tcp", "198.51.100.1:8080", "published", answer); err != nil {
		t.Error(err)
	}
	// Nobody has it; not routed; its own source only; refused by its rules.
	b.Exec("ip", "neigh", "replace", "10.1.99.99", "lladdr", "02:00:00:00:00:99", "dev", "eth0")
	for _, to := range []string{"10.1.99.99:7", "[fd00:1::99]:7", "198.51.100.1:9"} {
		_ = b.Ask("udp", to, "nobody", 100*time.Millisecond)
	}
	for _, to := range []string{"10.1.0.255:9", "[ff02::1%eth0]:9"} { // a broadcast, a group
		err := b.Do(func() error {
			c, err := net.Dial("udp", to)
			if err != nil {
				return err
			}
			_, err = c.Write([]byte("all"))
			return errors.Join(err, c.Close())
		})
		if err != nil {
			t.Error(err)
		}
	}
	l.rules(d, vswitch.ACLRule{ID: 1, Name: "told", Direction: vswitch.ACLIn, Action: vswitch.ACLReject, Protocols: []uint8{6}},
		vswitch.ACLRule{ID: 2, Name: "silent", Direction: vswitch.ACLIn, Action: vswitch.ACLBlock})
	_ = b.Ask("tcp", "10.1.0.10:7", "refused", 100*time.Millisecond)
	_ = b.Ask("udp", "[fd00:1::a]:7", "blocked", 100*time.Millisecond)
	settled()

	counted := func(id vswitch.PortID, drops []Drop) (n uint64) {
		for _, x := range drops {
			if x.Port == id {
				n += x.Packets
			}
		}
		return n
	}
	for id := range inside {
		dev, dev0, p, p0 := devices[id], devices0[id], ports[id], ports0[id]
		t.Logf("port %d: %+v, then %+v", id, p0, p)
		if sent, took := dev.TxPackets-dev0.TxPackets, p.TxPackets-p0.TxPackets+p.TxDrops-p0.TxDrops; sent != took {
			t.Errorf("port %d: its device sent %d packets, the switch counts %d", id, sent, took)
		}
		if got, gave := dev.RxPackets-dev0.RxPackets, p.RxPackets-p0.RxPackets; devicesCount && got != gave {
			t.Errorf("port %d: its device got %d packets, the switch counts %d", id, got, gave)
		}
		if n, lost := counted(id, drops)-counted(id, drops0), p.TxDrops-p0.TxDrops; n != lost {
			t.Errorf("port %d: %d packets lost, %d for a reason", id, lost, n)
		}
	}
	if n := ports[10].RxDrops - ports0[10].RxDrops; n != 2 {
		t.Errorf("port 10's rules refused %d packets, want the SYN and the datagram", n)
	}
	if ports[12].RxPackets == ports0[12].RxPackets {
		t.Error("a port that floods reach got nothing")
	}
}
