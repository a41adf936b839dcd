// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// TestWireGroups: what a wire brings to a group is judged by the rules of each
// receiver; what nobody can judge is the host's alone.
func TestWireGroups(t *testing.T) {
	f := newFabric(t, vswitch.Network{Flags: vswitch.NetL2 | vswitch.NetARPPass | vswitch.NetFlood, Uplink: "up"})
	h := f.hosts[0]
	strict, open := h.container(11), h.container(12)
	h.s.ACLs = []vswitch.ACLSet{{ID: 1, Name: "strict", DefaultIn: vswitch.ACLBlock, Rules: []vswitch.ACLRule{
		{ID: 1, Name: "names", Direction: vswitch.ACLIn, Protocols: []uint8{17}, LocalPorts: []vswitch.PortRange{{First: 5353, Last: 5353}},
			Remote: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24"), netip.MustParsePrefix("fd09::/64")}},
	}}}
	h.s.Ports[0].ACLs = []vswitch.ACLID{1}
	h.apply()
	const toStrict, toOpen, toHost = 1, 2, 4
	ends := map[int]int{toStrict: wiretap(t, strict, "eth0"), toOpen: wiretap(t, open, "eth0"), toHost: wiretap(t, h.ns, "up")}
	from, ring := wiretap(t, f.other, "eth0"), newTXRing(t, f.other, "eth0")
	v4, v6 := pkt.MAC{1, 0, 0x5e, 0, 0, 0xfb}, pkt.MAC{0x33, 0x33, 0, 0, 0, 0xfb}
	for _, c := range []struct {
		what, packet string
		to           pkt.MAC
		data, cut    int
		scattered    bool
		ether        uint16
		want         int
	}{
		{what: "allowed", packet: "10.9.0.9.5353 > 224.0.0.251.5353: udp", to: v4, want: toStrict | toOpen | toHost},
		{what: "allowed v6", packet: "fd09::9.5353 > ff02::fb.5353: udp", to: v6, want: toStrict | toOpen | toHost},
		{what: "blocked", packet: "10.9.0.9.137 > 224.0.0.251.137: udp", to: v4, want: toOpen | toHost},
		{what: "blocked v6", packet: "fd09::9.137 > ff02::fb.137: udp", to: v6, want: toOpen | toHost},
		{what: "allowed, scattered", packet: "10.9.0.9.5353 > 224.0.0.251.5353: udp", to: v4, data: 600, scattered: true, want: toStrict | toOpen | toHost},
		{what: "blocked, scattered", packet: "10.9.0.9.137 > 224.0.0.251.137: udp", to: v4, data: 600, scattered: true, want: toOpen | toHost},
		{what: "blocked v6, scattered", packet: "fd09::9.137 > ff02::fb.137: udp", to: v6, data: 600, scattered: true, want: toOpen | toHost},
		{what: "cut short", packet: "10.9.0.9.5353 > 224.0.0.251.5353: udp", to: v4, data: 40, cut: 20, want: toHost},
		{what: "cut short v6", packet: "fd09::9.5353 > ff02::fb.5353: udp", to: v6, data: 40, cut: 20, want: toHost},
		{what: "another protocol", packet: "10.9.0.9.5353 > 224.0.0.251.5353: udp", to: v4, ether: 0x88b5, want: toHost},
		{what: "a router", packet: "fe80::9 > ff02::1: icmp6 nd 134 fe80::9 ttl 255", to: v6, want: toStrict | toOpen | toHost},
		{what: "a router from afar", packet: "fe80::9 > ff02::1: icmp6 nd 134 fe80::9 ttl 254", to: v6, want: toHost},
	} {
		k := pkt.MustParse(c.packet)
		k.From, k.To, k.Data = pkt.MAC{2, 9, 0, 0, 0, 9}, c.to, make([]byte, c.data)
		frame := k.Bytes()
		frame = frame[:len(frame)-c.cut]
		if c.ether != 0 {
			frame[12], frame[13] = byte(c.ether>>8), byte(c.ether)
		}
		if c.scattered {
			ring.send(t, frame)
		} else if _, err := unix.Write(from, frame); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
		got := 0
		for who, fd := range ends {
			if heard(fd, frame) {
				got |= who
			}
		}
		if got != c.want {
			t.Errorf("%s: heard by %03b, want %03b (host, open, strict)", c.what, got, c.want)
		}
	}
}
