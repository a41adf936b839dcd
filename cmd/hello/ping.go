// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ICMP types, RFC 792 and RFC 4443.
const (
	echoReply4, unreachable4, echoRequest4, exceeded4          = 0, 3, 8, 11
	unreachable6, tooBig6, exceeded6, echoRequest6, echoReply6 = 1, 2, 3, 128, 129
)

func ping(args []string) error {
	fs := flags()
	count := fs.Int("c", 1, "")
	interval := fs.Float64("i", 0.2, "")
	wait := fs.Float64("w", 2, "")
	size := fs.Int("s", 56, "")
	only4 := fs.Bool("4", false, "")
	only6 := fs.Bool("6", false, "")
	rest, err := parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	network := "ip"
	if *only4 {
		network = "ip4"
	} else if *only6 {
		network = "ip6"
	}
	to, err := net.ResolveIPAddr(network, rest[0])
	if err != nil {
		return err
	}
	p, err := newPinger(to)
	if err != nil {
		return err
	}
	defer unix.Close(p.fd)
	got := 0
	for seq := range *count {
		if seq > 0 {
			time.Sleep(time.Duration(*interval * float64(time.Second)))
		}
		rtt, err := p.once(uint16(seq+1), *size, time.Duration(*wait*float64(time.Second)))
		if err != nil {
			fmt.Printf("%s seq %d: %v\n", to, seq+1, err)
			continue
		}
		got++
		fmt.Printf("%s seq %d: %d bytes in %v\n", to, seq+1, *size, rtt)
	}
	fmt.Printf("%d sent, %d received\n", *count, got)
	if got < *count {
		return exitError(1)
	}
	return nil
}

// pinger holds an ICMP socket: raw where we may, since that hears errors too, else
// unprivileged (then the kernel chooses the identifier and hands on replies alone).
type pinger struct {
	fd  int
	to  unix.Sockaddr
	v6  bool
	raw bool
	id  uint16
}

func newPinger(to *net.IPAddr) (*pinger, error) {
	p := &pinger{id: uint16(os.Getpid()), v6: to.IP.To4() == nil}
	family, proto := unix.AF_INET, unix.IPPROTO_ICMP
	if p.v6 {
		family, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
		sa := &unix.SockaddrInet6{Addr: [16]byte(to.IP.To16())}
		if to.Zone != "" {
			ifi, err := net.InterfaceByName(to.Zone)
			if err != nil {
				return nil, err
			}
			sa.ZoneId = uint32(ifi.Index)
		}
		p.to = sa
	} else {
		p.to = &unix.SockaddrInet4{Addr: [4]byte(to.IP.To4())}
	}
	var err error
	p.fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto)
	p.raw = err == nil
	if err != nil {
		p.fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, proto)
	}
	if err != nil {
		return nil, fmt.Errorf("ICMP socket: %w (needs CAP_NET_RAW or net.ipv4.ping_group_range)", err)
	}
	return p, nil
}

func (p *pinger) once(seq uint16, size int, wait time.Duration) (time.Duration, error) {
	msg := make([]byte, 8+size)
	msg[0] = echoRequest4
	if p.v6 {
		msg[0] = echoRequest6
	}
	binary.BigEndian.PutUint16(msg[4:], p.id)
	binary.BigEndian.PutUint16(msg[6:], seq)
	for i := range msg[8:] {
		msg[8+i] = byte(i)
	}
	if !p.v6 { // the kernel sums ICMPv6 itself
		binary.BigEndian.PutUint16(msg[2:], checksum(msg))
	}
	start := time.Now()
	if err := unix.Sendto(p.fd, msg, 0, p.to); err != nil {
		return 0, err
	}
	buf := make([]byte, 65535)
	for {
		left := wait - time.Since(start)
		if left <= 0 {
			return 0, errors.New("no answer")
		}
		tv := unix.NsecToTimeval(left.Nanoseconds())
		if err := unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return 0, err
		}
		n, _, err := unix.Recvfrom(p.fd, buf, 0)
		if err == unix.EAGAIN || err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, err
		}
		done, err := p.judge(buf[:n], seq)
		if done {
			return time.Since(start), err
		}
	}
}

// judge says whether a packet is the answer, or an error about our request.
func (p *pinger) judge(b []byte, seq uint16) (bool, error) {
	if p.raw && !p.v6 {
		b = skipIPv4(b)
	}
	if len(b) < 8 {
		return false, nil
	}
	switch {
	case !p.v6 && b[0] == echoReply4, p.v6 && b[0] == echoReply6:
		mine := !p.raw || binary.BigEndian.Uint16(b[4:]) == p.id
		return mine && binary.BigEndian.Uint16(b[6:]) == seq, nil
	case !p.v6 && (b[0] == unreachable4 || b[0] == exceeded4):
		inner := skipIPv4(b[8:])
		if p.quotes(inner, seq) {
			return true, fmt.Errorf("ICMP error type %d code %d", b[0], b[1])
		}
	case p.v6 && (b[0] == unreachable6 || b[0] == tooBig6 || b[0] == exceeded6):
		if len(b) >= 48 && p.quotes(b[48:], seq) {
			return true, fmt.Errorf("ICMPv6 error type %d code %d", b[0], b[1])
		}
	}
	return false, nil
}

func (p *pinger) quotes(b []byte, seq uint16) bool {
	return len(b) >= 8 && binary.BigEndian.Uint16(b[4:]) == p.id && binary.BigEndian.Uint16(b[6:]) == seq
}

func skipIPv4(b []byte) []byte {
	if len(b) < 20 {
		return nil
	}
	n := int(b[0]&15) * 4
	if n < 20 || n > len(b) {
		return nil
	}
	return b[n:]
}

// checksum of the internet, RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
