// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"encoding/binary"
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// TestNonLinear sends packets of which nothing but the Ethernet header is in the
// linear part, as a ring of a packet socket makes them: the programs must fetch
// the headers. TEST_RUN has no such packets.
func TestNonLinear(t *testing.T) {
	l := newLab(t)
	a, b := l.container(2), l.container(3)
	d := l.open()
	l.apply(d)
	ring := newTXRing(t, a, "eth0")
	for _, c := range []struct{ name, src, dst string }{
		{"IPv4", "10.1.0.2", "10.1.0.3"}, {"IPv6", "fd00:1::2", "fd00:1::3"},
	} {
		in := b.ListenPacket(net.JoinHostPort(c.dst, "7000"))
		defer in.Close()
		sent := 0
		send := func(parts ...*pkt.Packet) {
			for _, k := range parts {
				k.From, k.To = pkt.MAC(l.s.Ports[1].MAC), pkt.MAC(l.s.Ports[0].MAC)
				ring.send(t, k.Bytes())
			}
			sent++
			buf := make([]byte, 4096)
			if err := in.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if n, _, err := in.ReadFrom(buf); err != nil {
				t.Fatalf("%s: datagram %d: %v", c.name, sent, err)
			} else if n != 1200 {
				t.Fatalf("%s: datagram %d: %d bytes", c.name, sent, n)
			}
		}
		k := pkt.MustParse(fmt.Sprintf("%s.6000 > %s.7000: udp", c.src, c.dst))
		k.Data = make([]byte, 1200)
		send(k) // a new conversation
		send(k) // a hit
		whole := *k
		send(whole.Fragments(77, 600)...)
	}
}

// txRing is the sending side of a memory-mapped packet socket.
type txRing struct {
	fd, next int
	mem      []byte
}

// Of linux/if_packet.h: TPACKET2_HDRLEN less its socket address, and the status
// that asks the kernel to send.
const (
	tpacket2Data             = 32
	tpacketSendRequest       = 1
	tpacketFrame             = 2048
	tpacketState, tpacketLen = 0, 4
)

func newTXRing(t *testing.T, ns *nettest.NS, dev string) *txRing {
	t.Helper()
	r := &txRing{}
	err := ns.Do(func() (err error) {
		i, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		if r.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2); err != nil {
			return err
		}
		req := unix.TpacketReq{Block_size: 4096, Block_nr: 1, Frame_size: tpacketFrame, Frame_nr: 4096 / tpacketFrame}
		if err := unix.SetsockoptTpacketReq(r.fd, unix.SOL_PACKET, unix.PACKET_TX_RING, &req); err != nil {
			return err
		}
		if r.mem, err = unix.Mmap(r.fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
			return err
		}
		return unix.Bind(r.fd, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: i.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Munmap(r.mem)
		unix.Close(r.fd)
	})
	return r
}

// send fills the next frame of the ring, which is the one that the kernel looks at.
func (r *txRing) send(t *testing.T, frame []byte) {
	t.Helper()
	slot := r.mem[r.next:][:tpacketFrame]
	binary.NativeEndian.PutUint32(slot[tpacketLen:], uint32(copy(slot[tpacket2Data:], frame)))
	binary.NativeEndian.PutUint32(slot[tpacketState:], tpacketSendRequest)
	if err := unix.Sendto(r.fd, nil, 0, nil); err != nil {
		t.Fatal(err)
	}
	r.next = (r.next + tpacketFrame) % len(r.mem)
}
