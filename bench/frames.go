// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// firstSource is where the source ports of new flows begin.
const firstSource = 20000

// newFlows sends n datagrams, each the first of its conversation, as ready frames
// by a packet socket: sockets could not be made that fast. The destination ports
// are the given one and the next dports-1. It stops after burstTime and prints the
// seconds it took and how many it sent.
func newFlows(to netip.AddrPort, n, dports int) error {
	h, err := nextHop(to)
	if err != nil {
		return err
	}
	frames := make([][]byte, n)
	for i := range frames {
		frames[i] = h.udp(uint16(firstSource+i/dports), to.Port()+uint16(i%dports))
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: h.ifindex}); err != nil {
		return err
	}
	b := newBatch(64)
	t0, at := time.Now(), 0
	for at < n && time.Since(t0) < burstTime {
		k := min(len(b.messages), n-at)
		for i := range k {
			b.set(i, frames[at+i])
		}
		sent, err := b.send(fd, k)
		if err != nil && err != unix.ENOBUFS && err != unix.EINTR {
			return fmt.Errorf("send: %w", err)
		}
		at += sent
	}
	fmt.Println(time.Since(t0).Seconds(), at)
	return nil
}

// hop is what a frame towards an address bears.
type hop struct {
	src, dst       netip.Addr
	ifindex        int
	srcMAC, dstMAC net.HardwareAddr
}

// nextHop asks the routing table and, after a first datagram, the neighbours.
func nextHop(to netip.AddrPort) (*hop, error) {
	routes, err := netlink.RouteGet(to.Addr().AsSlice())
	if err != nil || len(routes) == 0 {
		return nil, fmt.Errorf("route to %s: %w", to.Addr(), err)
	}
	r := routes[0]
	h := &hop{dst: to.Addr(), ifindex: r.LinkIndex}
	src, _ := netip.AddrFromSlice(r.Src)
	h.src = src.Unmap()
	if to.Addr().Is6() {
		h.src = src
	}
	link, err := netlink.LinkByIndex(r.LinkIndex)
	if err != nil {
		return nil, err
	}
	h.srcMAC = link.Attrs().HardwareAddr
	via, family := net.IP(to.Addr().AsSlice()), netlink.FAMILY_V4
	if r.Gw != nil {
		via = r.Gw
	}
	if to.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	c, err := net.Dial("udp", netip.AddrPortFrom(to.Addr(), 9).String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	for end := time.Now().Add(giveUp); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		_, _ = c.Write([]byte("x"))
		all, err := netlink.NeighList(r.LinkIndex, family)
		if err != nil {
			return nil, err
		}
		for _, n := range all {
			if n.IP.Equal(via) && len(n.HardwareAddr) == 6 {
				h.dstMAC = n.HardwareAddr
				return h, nil
			}
		}
	}
	return nil, fmt.Errorf("no neighbour %s", via)
}

// udp is a whole frame with checksums.
func (h *hop) udp(sport, dport uint16) []byte {
	l4 := make([]byte, 8+payload)
	binary.BigEndian.PutUint16(l4[0:], sport)
	binary.BigEndian.PutUint16(l4[2:], dport)
	binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	// The pseudo header: addresses, protocol, length (RFC 768, RFC 8200 section 8.1).
	pseudo := append(h.src.AsSlice(), h.dst.AsSlice()...)
	pseudo = append(pseudo, 0, unix.IPPROTO_UDP, l4[4], l4[5])
	sum := checksum(append(pseudo, l4...))
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(l4[6:], sum)

	f := append(append(make([]byte, 0, 80), h.dstMAC...), h.srcMAC...)
	if h.dst.Is4() {
		ip := make([]byte, 20)
		ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(l4)))
		copy(ip[12:], h.src.AsSlice())
		copy(ip[16:], h.dst.AsSlice())
		binary.BigEndian.PutUint16(ip[10:], checksum(ip))
		f = append(append(f, 0x08, 0x00), ip...)
	} else {
		ip := make([]byte, 40)
		ip[0], ip[6], ip[7] = 0x60, unix.IPPROTO_UDP, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(l4)))
		copy(ip[8:], h.src.AsSlice())
		copy(ip[24:], h.dst.AsSlice())
		f = append(append(f, 0x86, 0xdd), ip...)
	}
	return append(f, l4...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
