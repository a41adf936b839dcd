// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hostport

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// open binds a socket that nothing arrives at. An any-address takes both families
// with one socket, or IPv4 alone where there is no IPv6.
func open(k key) (int, error) {
	if k.port == 0 {
		return -1, fmt.Errorf("port 0: %w", errdefs.ErrInvalidArgument)
	}
	if k.addr.IsValid() {
		family := unix.AF_INET
		if k.addr.Is6() {
			family = unix.AF_INET6
		}
		return openFamily(k, family)
	}
	fd, err := openFamily(k, unix.AF_INET6)
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL) { // not built in; disable_ipv6 on lo
		return openFamily(k, unix.AF_INET)
	}
	return fd, err
}

func openFamily(k key, family int) (int, error) {
	kind := unix.SOCK_STREAM
	switch k.proto {
	case unix.IPPROTO_TCP, unix.IPPROTO_SCTP:
	case unix.IPPROTO_UDP:
		kind = unix.SOCK_DGRAM
	default:
		return -1, fmt.Errorf("%s has no ports: %w", protoName(k.proto), errdefs.ErrInvalidArgument)
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(k.proto))
	if err != nil {
		return -1, err
	}
	if err := set(fd, k, family); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func set(fd int, k key, family int) error {
	if family == unix.AF_INET6 {
		only := 0
		if k.addr.IsValid() {
			only = 1
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); err != nil {
			return err
		}
	}
	if k.proto == unix.IPPROTO_UDP {
		if err := dropAll(fd); err != nil {
			return err
		}
	}
	to := sockaddr(k, family)
	err := unix.Bind(fd, to)
	if err != unix.EADDRINUSE || k.proto != unix.IPPROTO_TCP {
		return err
	}
	// Connections of a server that just ended stay in TIME_WAIT for a minute and
	// are in nobody's way. SO_REUSEADDR looks past them, but not past a listener;
	// taken back at once, it lets no later listener past us either.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, to); err != nil {
		return err
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0)
}

// dropAll keeps a datagram socket empty.
func dropAll(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 0); err != nil { // the kernel's least
		return err
	}
	none := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0} // take 0 bytes of it
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &none})
}

func sockaddr(k key, family int) unix.Sockaddr {
	if family == unix.AF_INET6 {
		to := &unix.SockaddrInet6{Port: int(k.port)}
		if k.addr.IsValid() {
			to.Addr = k.addr.As16()
		}
		return to
	}
	to := &unix.SockaddrInet4{Port: int(k.port)}
	if k.addr.IsValid() {
		to.Addr = k.addr.As4()
	}
	return to
}

func release(fd int) {
	if fd >= 0 {
		unix.Close(fd)
	}
}
