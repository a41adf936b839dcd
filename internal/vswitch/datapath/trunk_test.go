// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// tagtap is a wiretap that tells tags.
type tagtap struct {
	t  *testing.T
	fd int
}

func newTagtap(t *testing.T, ns *nettest.NS, dev string) tagtap {
	x := tagtap{t, wiretap(t, ns, dev)}
	if err := unix.SetsockoptInt(x.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
		t.Fatal(err)
	}
	return x
}

// send sends a frame with tags, the outer one first, in its bytes.
func (x tagtap) send(k *pkt.Packet, tags ...uint16) {
	x.t.Helper()
	b := k.Bytes()
	f := bytes.Clone(b[:12])
	for _, tag := range tags {
		f = binary.BigEndian.AppendUint16(append(f, 0x81, 0), tag)
	}
	if _, err := unix.Write(x.fd, append(f, b[12:]...)); err != nil {
		x.t.Fatal(err)
	}
}

const (
	nothing, untagged = -2, -1
	ethLen            = 14
)

// heard is the tag that k's payload came in with: nothing, or untagged.
func (x tagtap) heard(k *pkt.Packet, wait time.Duration) int {
	want := k.Bytes()[ethLen:]
	buf, oob := make([]byte, 2048), make([]byte, 128)
	for end := time.Now().Add(wait); ; time.Sleep(time.Millisecond) {
		for {
			n, oobn, _, from, err := unix.Recvmsg(x.fd, buf, oob, 0)
			if err != nil {
				break
			}
			if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING || n < ethLen+len(want) || !bytes.Equal(buf[ethLen:ethLen+len(want)], want) {
				continue
			}
			return tagBeside(oob[:oobn])
		}
		if time.Now().After(end) {
			return nothing
		}
	}
}

// tagBeside reads struct tpacket_auxdata (linux/if_packet.h).
func tagBeside(oob []byte) int {
	msgs, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 20 &&
			binary.NativeEndian.Uint32(m.Data)&unix.TP_STATUS_VLAN_VALID != 0 {
			return int(binary.NativeEndian.Uint16(m.Data[16:]))
		}
	}
	return untagged
}

// TestTrunk: a vNIC that speaks in several VLANs, over real devices. Its frames of
// VLAN 70 are of network 2, which has the tag 7 on the wire; those without a tag
// are of network 1, or refused.
func TestTrunk(t *testing.T) {
	const transparent = vswitch.NetL2 | vswitch.NetARPPass | vswitch.NetFlood
	for _, kind := range []vswitch.PortKind{vswitch.PortContainer, vswitch.PortVM} {
		for _, native := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s native %v", kind, native), func(t *testing.T) {
				f := newFabric(t, vswitch.Network{Flags: transparent, Uplink: "up"})
				h := f.hosts[0]
				second := h.s.Networks[0]
				second.ID, second.Zone, second.Name, second.VLAN = 2, 2, "tagged", 7
				h.s.Networks = append(h.s.Networks, second)
				trunkNS, plain, inVLAN := h.container(11), h.container(12), h.container(13)
				h.s.Ports[2].Network = 2
				trunk := &h.s.Ports[0]
				trunk.Kind = kind
				if !native {
					trunk.TaggedOnly, trunk.Addrs = true, nil
				}
				h.s.Ports = append(h.s.Ports, vswitch.Port{ID: 111, Kind: kind, Network: 2, Object: "c11.70", MAC: trunk.MAC, Addrs: addrs("10.9.0.111", "fd09::6f"),
					Up: true, Trunk: 11, VLAN: 70})
				h.apply()
				defer func() {
					if t.Failed() {
						h.dump()
					}
				}()
				taps := map[string]tagtap{"trunk": newTagtap(t, trunkNS, "eth0"), "plain": newTagtap(t, plain, "eth0"), "tagged": newTagtap(t, inVLAN, "eth0"),
					"wire": newTagtap(t, f.ns, "host0"), "other": newTagtap(t, f.other, "eth0")}
				macs := map[string]pkt.MAC{"trunk": pkt.MAC(h.s.Ports[0].MAC), "plain": pkt.MAC(h.s.Ports[1].MAC), "tagged": pkt.MAC(h.s.Ports[2].MAC),
					"router": {2, 0, 0, 0, 0, 0x99}, "all": {255, 255, 255, 255, 255, 255}}
				here := func(tag int) int {
					if native {
						return tag
					}
					return nothing
				}
				n := 0
				for _, c := range []struct {
					from, to, packet string
					tags             []uint16
					want             map[string]int
				}{
					{"trunk", "tagged", "10.9.0.111.1 > 10.9.0.13.2: udp", []uint16{70}, map[string]int{"tagged": untagged}},
					{"trunk", "tagged", "fd09::6f.1 > fd09::d.2: udp", []uint16{0xe046}, map[string]int{"tagged": untagged}},
					{"tagged", "trunk", "10.9.0.13.2 > 10.9.0.111.1: udp", nil, map[string]int{"trunk": 70}},
					{"tagged", "trunk", "fd09::d.2 > fd09::6f.1: udp", nil, map[string]int{"trunk": 70}},
					{"trunk", "router", "10.9.0.111.1 > 10.8.8.8.2: udp", []uint16{70}, map[string]int{"wire": 7}},
					{"other", "trunk", "10.8.8.8.2 > 10.9.0.111.1: udp", []uint16{7}, map[string]int{"trunk": 70}},
					{"other", "trunk", "fd08::8.2 > fd09::6f.1: udp", []uint16{7}, map[string]int{"trunk": 70}},
					{"trunk", "all", "10.9.0.111.1 > 10.9.0.255.2: udp", []uint16{70}, map[string]int{"tagged": untagged, "wire": 7}},
					{"tagged", "all", "10.9.0.13.1 > 10.9.0.255.2: udp", nil, map[string]int{"trunk": 70, "wire": 7}},
					{"plain", "all", "10.9.0.12.1 > 10.9.0.255.2: udp", nil, map[string]int{"trunk": here(untagged), "wire": untagged}},
					{"trunk", "plain", "10.9.0.11.1 > 10.9.0.12.2: udp", nil, map[string]int{"plain": here(untagged)}},
					{"trunk", "plain", "10.9.0.11.1 > 10.9.0.12.2: udp", []uint16{0xe000}, map[string]int{"plain": here(untagged)}},
					// hopping
					{"trunk", "tagged", "10.9.0.111.1 > 10.9.0.13.2: udp", []uint16{7}, nil},
					{"trunk", "tagged", "10.9.0.111.1 > 10.9.0.13.2: udp", []uint16{4095}, nil},
					{"trunk", "tagged", "10.9.0.111.1 > 10.9.0.13.2: udp", []uint16{70, 70}, nil},
					{"trunk", "tagged", "10.9.0.111.1 > 10.9.0.13.2: udp", []uint16{70, 7}, nil},
					{"trunk", "tagged", "10.9.0.111.1 > 10.9.0.13.2: udp", []uint16{0, 70}, nil},
					{"trunk", "all", "10.9.0.111.1 > 10.9.0.255.2: udp", []uint16{0, 7}, nil},
					{"plain", "tagged", "10.9.0.12.1 > 10.9.0.13.2: udp", []uint16{70}, nil},
				} {
					n++
					k := pkt.MustParse(fmt.Sprintf("%s \"frame number %04d\"", c.packet, n))
					k.From, k.To = macs[c.from], macs[c.to]
					if c.from == "other" {
						k.From = macs["router"]
					}
					hop := len(c.want) == 0
					before := h.dropsOf(11)["vlan"] + h.dropsOf(12)["vlan"]
					taps[c.from].send(k, c.tags...)
					for name, x := range taps {
						want, ok := c.want[name]
						wait := time.Second
						if !ok || want == nothing {
							want, wait = nothing, 0
						}
						if name == c.from || name == "wire" && !hop && !ok || name == "other" {
							continue
						}
						if got := x.heard(k, wait); got != want {
							t.Errorf("%s to %s %s tags %v: %s hears tag %d, want %d", c.from, c.to, c.packet, c.tags, name, got, want)
						}
					}
					if hop {
						until(t, fmt.Sprintf("%s to %s tags %v is dropped for VLAN", c.from, c.to, c.tags), func() bool {
							return h.dropsOf(11)["vlan"]+h.dropsOf(12)["vlan"] == before+1
						})
					}
				}
				// Who speaks in a VLAN is asked there.
				k := pkt.MustParse(`10.9.0.11.1 > 10.9.0.13.2: udp "in another's name"`)
				k.From, k.To = macs["trunk"], macs["tagged"]
				taps["trunk"].send(k, 70)
				until(t, "a spoofed source is dropped at the port of VLAN 70", func() bool { return h.dropsOf(111)["spoof_ip"] == 1 })
			})
		}
	}
}
