// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The other halves of a measurement: processes inside a namespace, pinned to a
// CPU. They use blocking system calls by hand, because a poller between them and
// the kernel would be measured too.

// trafficPort is where every server listens, TCP and UDP.
const trafficPort = 5300

// congestion is set on every stream: kernels whose default is BBR give figures
// without meaning where there is no fq.
const congestion = "cubic"

// giveUp ends a connect or read towards a host that does not answer.
const giveUp = 3 * time.Second

func peer(args []string) error {
	num := func(i int) int {
		n := 0
		if len(args) > i {
			n, _ = strconv.Atoi(args[i])
		}
		return n
	}
	target := func() (netip.AddrPort, error) {
		if len(args) < 2 {
			return netip.AddrPort{}, errors.New("no address")
		}
		return netip.ParseAddrPort(args[1])
	}
	switch args[0] {
	case "sink", "echo", "accept":
		return tcpServer(args[0])
	case "udp-echo":
		return udpEcho()
	case "switch":
		return switchChild()
	case "relay":
		return relay(args[1:])
	}
	to, err := target()
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	for_ := time.Duration(num(2)) * time.Millisecond
	switch args[0] {
	case "stream":
		return tcpStream(to, for_)
	case "rr":
		return tcpRR(to, for_)
	case "crr":
		return tcpCRR(to, for_)
	case "udp":
		return udpSource(to, for_)
	case "flows":
		return newFlows(to, num(2), num(3))
	}
	return fmt.Errorf("peer %q", args[0])
}

func sockaddr(a netip.AddrPort) (int, unix.Sockaddr) {
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func dialTCP(to netip.AddrPort) (int, error) {
	family, sa := sockaddr(to)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	tv := unix.NsecToTimeval(giveUp.Nanoseconds())
	err = errors.Join(unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, congestion),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
	if err == nil {
		err = unix.Connect(fd, sa)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("connect %s: %w", to, err)
	}
	return fd, nil
}

// tcpServer says "ready", then serves: sink prints the bytes and seconds of one
// connection, echo answers one connection, accept answers one byte of each.
func tcpServer(mode string) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0),
		unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, congestion),
		unix.Bind(fd, &unix.SockaddrInet6{Port: trafficPort}), unix.Listen(fd, 1024))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	fmt.Println("ready")
	buf := make([]byte, 512<<10)
	for {
		c, _, err := unix.Accept(fd)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		_ = unix.SetsockoptInt(c, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		switch mode {
		case "accept":
			if n, err := unix.Read(c, buf[:1]); err == nil && n == 1 {
				_, _ = unix.Write(c, buf[:1])
				_, _ = unix.Read(c, buf[:1])
			}
			unix.Close(c)
		case "echo":
			for {
				n, err := unix.Read(c, buf[:64])
				if err == unix.EINTR {
					continue
				}
				if err != nil || n == 0 {
					break
				}
				if _, err := unix.Write(c, buf[:n]); err != nil {
					break
				}
			}
			unix.Close(c)
		case "sink":
			bytes, t0 := 0, time.Now()
			for {
				n, err := unix.Read(c, buf)
				if err == unix.EINTR {
					continue
				}
				if err != nil || n == 0 {
					break
				}
				bytes += n
			}
			fmt.Println(bytes, time.Since(t0).Seconds())
			return nil
		}
	}
}

func tcpStream(to netip.AddrPort, d time.Duration) error {
	fd, err := dialTCP(to)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	buf := make([]byte, 128<<10)
	for end := time.Now().Add(d); time.Now().Before(end); {
		if _, err := unix.Write(fd, buf); err != nil && err != unix.EINTR {
			return fmt.Errorf("write: %w", err)
		}
	}
	return nil
}

// exchange sends b and waits for as many bytes.
func exchange(fd int, b []byte) error {
	for {
		_, err := unix.Write(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		break
	}
	for got := 0; got < len(b); {
		n, err := unix.Read(fd, b[got:])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return errors.New("closed")
		default:
			got += n
		}
	}
	return nil
}

// tcpRR prints the median and 99th percentile, in µs, of 64 bytes there and back.
func tcpRR(to netip.AddrPort, d time.Duration) error {
	fd, err := dialTCP(to)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	buf := make([]byte, 64)
	t := make(series, 0, 1<<16)
	for start := time.Now(); ; {
		t0 := time.Now()
		if err := exchange(fd, buf); err != nil {
			return fmt.Errorf("exchange: %w", err)
		}
		t = append(t, float64(time.Since(t0).Nanoseconds())/1000)
		if t0.Sub(start) > d {
			break
		}
	}
	fmt.Println(t.median(), t.q(0.99))
	return nil
}

// tcpCRR prints how many times a second a connection is made, a byte goes there
// and back, and the connection is reset.
func tcpCRR(to netip.AddrPort, d time.Duration) error {
	n, start, b := 0, time.Now(), make([]byte, 1)
	for time.Since(start) < d {
		fd, err := dialTCP(to)
		if err != nil {
			return err
		}
		if err := exchange(fd, b); err != nil {
			unix.Close(fd)
			return fmt.Errorf("exchange: %w", err)
		}
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		unix.Close(fd)
		n++
	}
	fmt.Println(float64(n) / time.Since(start).Seconds())
	return nil
}

// mmsghdr is struct mmsghdr, sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// batch sends many messages by one system call.
type batch struct {
	messages []mmsghdr
	iovs     []unix.Iovec
}

func newBatch(size int) *batch {
	b := &batch{messages: make([]mmsghdr, size), iovs: make([]unix.Iovec, size)}
	for i := range b.messages {
		b.messages[i].hdr.Iov = &b.iovs[i]
		b.messages[i].hdr.SetIovlen(1)
	}
	return b
}

func (b *batch) set(i int, p []byte) {
	b.iovs[i].Base = &p[0]
	b.iovs[i].SetLen(len(p))
}

// send sends the first n messages and returns how many went.
func (b *batch) send(fd, n int) (int, error) {
	sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.messages[0])), uintptr(n), 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(sent), nil
}

// payload makes IPv4 frames of 60 bytes, the smallest that Ethernet has without
// its checksum.
const payload = 18

// greeting is larger than what the meter takes away.
const greeting = 4 * payload

// udpEcho says "ready" and answers datagrams, from a socket for each address, so
// that the answer's source is what was asked.
func udpEcho() error {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	errs := make(chan error, len(all))
	for _, a := range all {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil || prefix.Addr().IsLinkLocalUnicast() {
			continue
		}
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(prefix.Addr(), trafficPort)))
		if err != nil {
			return err
		}
		go func() {
			buf := make([]byte, 2048)
			for {
				n, from, err := c.ReadFromUDPAddrPort(buf)
				if err != nil {
					errs <- err
					return
				}
				_, _ = c.WriteToUDPAddrPort(buf[:n], from)
			}
		}()
	}
	fmt.Println("ready")
	return <-errs
}

// greet sends a datagram until it is answered.
func greet(fd int) error {
	tv := unix.NsecToTimeval((100 * time.Millisecond).Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return err
	}
	buf := make([]byte, greeting)
	for end := time.Now().Add(giveUp); time.Now().Before(end); {
		_, _ = unix.Write(fd, buf)
		if n, err := unix.Read(fd, buf); err == nil && n == greeting {
			return nil
		}
	}
	return errors.New("no datagram was answered")
}

// udpSource says "ready" once a first datagram was answered, and sends small ones
// as fast as it can.
func udpSource(to netip.AddrPort, d time.Duration) error {
	family, sa := sockaddr(to)
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sa); err != nil {
		return fmt.Errorf("connect %s: %w", to, err)
	}
	b, p := newBatch(64), make([]byte, payload)
	for i := range b.messages {
		b.set(i, p)
	}
	if err := greet(fd); err != nil {
		return err
	}
	fmt.Println("ready")
	for end := time.Now().Add(d); time.Now().Before(end); {
		// ECONNREFUSED is an ICMP error of an earlier one, ENOBUFS a full queue.
		if _, err := b.send(fd, len(b.messages)); err != nil && err != unix.ECONNREFUSED && err != unix.ENOBUFS && err != unix.EINTR {
			return fmt.Errorf("send: %w", err)
		}
	}
	return nil
}
