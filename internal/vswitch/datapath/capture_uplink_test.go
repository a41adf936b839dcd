// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// TestCaptureUplink: what passes an uplink, both ways, translated, whoever takes it.
func TestCaptureUplink(t *testing.T) {
	l := newLab(t)
	a := l.container(10)
	l.publish(10, 17, 8080, 7)
	d := l.open()
	l.apply(d)
	echo(a, "[::]:7")
	echo(l.outside, "[::]:7")
	ask(t, "before", a, "198.51.100.2:7") // a flow that exists when the capture begins
	up := d.base.Uplinks[0]
	c, cancel := startCapture(t, d, 0, up.Port)
	for _, to := range []string{"198.51.100.2:7", "[2001:db8:1::2]:7"} {
		ask(t, "outbound", a, to)
	}
	if err := l.outside.Ask("udp", "198.51.100.1:8080", "published", answer); err != nil {
		t.Error(err)
	}
	_ = l.outside.Ask("udp", "198.51.100.1:9", "the host's", 50*time.Millisecond)
	c.has(t, "out udp 198.51.100.1:", "> 198.51.100.2:7")
	c.has(t, "in udp 198.51.100.2:7 > 198.51.100.1:")
	c.has(t, "out udp [2001:db8:1::1]:", "> [2001:db8:1::2]:7")
	c.has(t, "in udp [2001:db8:1::2]:7 > [2001:db8:1::1]:")
	c.has(t, "in tcp 198.51.100.2:7 > 198.51.100.1:", "[S.]")
	c.has(t, "in udp 198.51.100.2:", "> 198.51.100.1:8080")
	c.has(t, "out udp 198.51.100.1:8080 > 198.51.100.2:")
	c.has(t, "in udp 198.51.100.2:", "> 198.51.100.1:9")
	row, _ := d.base.Port(up.Port)
	for _, s := range c.samples() {
		if s.Out && s.Port == up.Port && !bytes.Equal(s.Data[:12], slices.Concat(make([]byte, 6), row.Mac[:])) {
			t.Errorf("%s: MACs %x", text(s), s.Data[:12])
		}
	}
	cancel()
	if err := <-c.end; !errors.Is(err, context.Canceled) {
		t.Errorf("end: %v", err)
	}
	if row, err := kernelPort(d, up.Port); err != nil || row.Snap != 0 || row.Flags&0x80 != 0 {
		t.Errorf("the uplink stays watched: %+v, %v", row, err)
	}
	c, cancel = startCapture(t, d, 0, up.Port)
	defer cancel()
	l.f.Uplinks = slices.DeleteFunc(slices.Clone(l.f.Uplinks), func(u vswitch.Uplink) bool { return u.Name == up.Name })
	l.apply(d)
	if err := <-c.end; !errors.Is(err, ErrPortGone) {
		t.Errorf("end with the uplink: %v", err)
	}
}

// TestCaptureWire: an uplink that a network is bound to, with tags, what is dropped
// there and what is answered.
func TestCaptureWire(t *testing.T) {
	f := newFabric(t, vswitch.Network{Flags: vswitch.NetL2 | vswitch.NetMACRewrite | vswitch.NetFlood, Uplink: "up", VLAN: 7})
	h := f.hosts[0]
	c11 := h.container(11)
	h.container(12)
	h.apply()
	up := h.d.base.Uplinks[0]
	c, cancel := startCapture(t, h.d, 0, up.Port)
	defer cancel()
	c11.Exec("ip", "neigh", "add", "10.9.0.99", "lladdr", "02:00:00:00:00:99", "dev", "eth0")
	_ = c11.Ask("udp", "10.9.0.99:7", "to the wire", 50*time.Millisecond)
	c.has(t, "out vlan 7 udp 10.9.0.11:", "> 10.9.0.99:7")
	tap := newTagtap(t, f.other, "eth0")
	send := func(line string) {
		k := pkt.MustParse(line)
		k.From, k.To = pkt.MAC{2, 0, 0, 0, 0, 0x99}, pkt.MAC(h.facts.Uplinks[0].MAC)
		k.ArpSrc = k.From
		tap.send(k, 7)
	}
	send(`10.9.0.99.7 > 10.9.0.11.5: udp "hello"`)
	c.has(t, "in vlan 7 udp 10.9.0.99:7 > 10.9.0.11:5")
	send(`10.9.0.12.7 > 10.9.0.11.5: udp "in another's name"`)
	c.has(t, "in dropped spoof_ip vlan 7 udp 10.9.0.12:7 > 10.9.0.11:5")
	send("arp who-has 10.9.0.11 tell 10.9.0.99")
	c.has(t, "in vlan 7 arp who-has 10.9.0.11 tell 10.9.0.99")
	c.has(t, "out made vlan 7 arp 10.9.0.11 tells 10.9.0.99")
}
