// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"bytes"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// wiretap is a packet socket at a device.
func wiretap(t *testing.T, ns *nettest.NS, dev string) int {
	t.Helper()
	fd := -1
	err := ns.Do(func() error {
		i, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// heard reports whether a frame with the same payload from byte 14 on came in.
func heard(fd int, frame []byte) bool {
	buf := make([]byte, 2048)
	found := false
	for {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return found
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		found = found || n >= len(frame) && bytes.Equal(buf[14:len(frame)], frame[14:])
	}
}

// TestWireAttacks: what a container says in another's name, or as a server that
// it is not, reaches nobody and is counted once, for one reason.
func TestWireAttacks(t *testing.T) {
	for name, n := range map[string]vswitch.Network{
		"transparent": {Flags: vswitch.NetL2 | vswitch.NetARPPass | vswitch.NetFlood, Uplink: "up"},
		"l2bridge":    {Flags: vswitch.NetL2 | vswitch.NetMACRewrite | vswitch.NetFlood, Uplink: "up"},
		"l2tunnel":    {Flags: vswitch.NetL2 | vswitch.NetMACRewrite | vswitch.NetNoLocal | vswitch.NetFlood, Uplink: "up"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFabric(t, n)
			a := f.hosts[0]
			attacker, victim := a.container(11), a.container(12)
			a.apply()
			from := wiretap(t, attacker, "eth0")
			victims := map[string]int{"the neighbour": wiretap(t, victim, "eth0"), "the host": wiretap(t, a.ns, "up"), "the other machine": wiretap(t, f.other, "eth0")}
			own, theirs := pkt.MAC(a.s.Ports[0].MAC), pkt.MAC(a.s.Ports[1].MAC)
			link := func(m pkt.MAC) string { return " mac " + m.String() }
			local := linkLocal(own)
			all := pkt.MAC{255, 255, 255, 255, 255, 255}
			for _, c := range []struct {
				what, packet string
				from, to     pkt.MAC
				arp          pkt.MAC
				tag          []byte
				reason       string
			}{
				{what: "another's MAC", packet: "10.9.0.11.5000 > 10.9.0.12.7: udp \"x\"", from: theirs, to: theirs, reason: "spoof_mac"},
				{what: "another's address", packet: "10.9.0.9.5000 > 10.9.0.12.7: udp \"x\"", from: own, to: theirs, reason: "spoof_ip"},
				{what: "another's address v6", packet: "fd09::9.5000 > fd09::c.7: udp \"x\"", from: own, to: theirs, reason: "spoof_ip"},
				{what: "another's address to all", packet: "10.9.0.9.137 > 255.255.255.255.137: udp \"x\"", from: own, to: all, reason: "spoof_ip"},
				{what: "ARP poisoning", packet: "arp reply 10.9.0.9 is-at " + own.String(), from: own, to: theirs, arp: own, reason: "spoof_arp"},
				{what: "ARP poisoning of all", packet: "arp who-has 10.9.0.9 tell 10.9.0.9", from: own, to: all, arp: own, reason: "spoof_arp"},
				{what: "ARP for another's MAC", packet: "arp who-has 10.9.0.12 tell 10.9.0.11", from: own, to: all, arp: theirs, reason: "spoof_arp"},
				{what: "ARP probe for another's address", packet: "arp who-has 10.9.0.9 tell 0.0.0.0", from: own, to: all, arp: own, reason: "spoof_arp"},
				{what: "ND probe for another's address", packet: ":: > ff02::1:ff00:9: icmp6 nd 135 fd09::9", from: own, to: pkt.MAC{0x33, 0x33, 0xff, 0, 0, 9},
					reason: "spoof_arp"},
				{what: "ND poisoning", packet: local + " > ff02::1:ff00:c: icmp6 nd 135 fd09::c" + link(theirs), from: own, to: all, reason: "spoof_arp"},
				{what: "ND in another's name", packet: "fd09::9 > ff02::1:ff00:c: icmp6 nd 135 fd09::c" + link(own), from: own, to: all, reason: "spoof_arp"},
				{what: "rogue DHCP server", packet: "10.9.0.11.67 > 255.255.255.255.68: udp \"offer\"", from: own, to: all, reason: "dhcp_guard"},
				{what: "rogue DHCPv6 server", packet: "fd09::b.547 > fd09::c.546: udp \"offer\"", from: own, to: theirs, reason: "dhcp_guard"},
				{what: "rogue router", packet: local + " > ff02::1: icmp6 nd 134 fe80::1", from: own, to: pkt.MAC{0x33, 0x33, 0, 0, 0, 1}, reason: "ra_guard"},
				{what: "redirect", packet: "10.9.0.11 > 10.9.0.12: icmp redirect", from: own, to: theirs, reason: "ra_guard"},
				{what: "VLAN hopping", packet: "10.9.0.11.5000 > 10.9.0.12.7: udp \"x\"", from: own, to: theirs, tag: []byte{0x81, 0, 0, 7}, reason: "vlan"},
				{what: "VLAN hopping below a priority tag", packet: "10.9.0.11.5000 > 10.9.0.12.7: udp \"x\"", from: own, to: theirs,
					tag: []byte{0x81, 0, 0x60, 0, 0x81, 0, 0, 7}, reason: "vlan"},
				{what: "a stacked tag", packet: "10.9.0.11.5000 > 10.9.0.12.7: udp \"x\"", from: own, to: theirs,
					tag: []byte{0x88, 0xa8, 0, 7, 0x81, 0, 0, 7}, reason: "vlan"},
				{what: "forged ICMP error", packet: "10.9.0.11 > 10.9.0.12: icmp error 3.3 0 [10.9.0.12.5000 > 10.9.0.9.53: udp \"q\"]", from: own, to: theirs,
					reason: "icmp_noflow"},
			} {
				k, err := pkt.Parse(c.packet)
				if c.what == "redirect" {
					k, err = pkt.Parse("10.9.0.11 > 10.9.0.12: icmp echo 1")
				}
				if err != nil {
					t.Fatalf("%s: %v", c.what, err)
				}
				k.From, k.To, k.ArpSrc = c.from, c.to, c.arp
				if c.what == "redirect" {
					k.Type = 5
				}
				frame := k.Bytes()
				before := a.dropsOf(11)
				if _, err := unix.Write(from, slices.Concat(frame[:12], c.tag, frame[12:])); err != nil {
					t.Fatal(err)
				}
				time.Sleep(20 * time.Millisecond) // time enough to do harm
				total := uint64(0)
				after := a.dropsOf(11)
				for reason, n := range after {
					total += n - before[reason]
				}
				if total != 1 || after[c.reason]-before[c.reason] != 1 {
					t.Errorf("%s: drops before %v, after %v, want one more %s", c.what, before, after, c.reason)
				}
				for who, fd := range victims {
					if heard(fd, frame) {
						t.Errorf("%s reached %s", c.what, who)
					}
				}
			}
		})
	}
}

func linkLocal(m pkt.MAC) string {
	a := [16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]}
	return net.IP(a[:]).String()
}

func (h *wireHost) dropsOf(port vswitch.PortID) map[string]uint64 {
	h.f.t.Helper()
	all, err := h.d.Drops()
	if err != nil {
		h.f.t.Fatal(err)
	}
	n := map[string]uint64{}
	for _, x := range all {
		if x.Port == port {
			n[x.Reason] += x.Packets
		}
	}
	return n
}
