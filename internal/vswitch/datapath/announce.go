// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

// How often neighbours are told, and in what time: MAX_NEIGHBOR_ADVERTISEMENT and
// RETRANS_TIMER of RFC 4861 section 10. For ARP, RFC 5227 section 2.3 asks for two.
const (
	announceTimes = 3
	announcePause = time.Second
)

// Announce tells the neighbours at an uplink that a is at its MAC from now on: by
// gratuitous ARP, or by unsolicited neighbour advertisements. Call it when this
// host takes an announced address over, and when the link comes up again. It
// takes two seconds, or less when ctx ends; after the first message, which is
// sent at once, that is no error. It works in the caller's network namespace.
//
// For IPv6 the device is also made to hear who asks for a, which needs Withdraw
// when the address goes elsewhere.
func Announce(ctx context.Context, ifindex int, mac vswitch.MAC, a netip.Addr) error {
	if err := announce(ctx, ifindex, mac, a); err != nil {
		return fmt.Errorf("announce %s at ifindex %d: %w", a, ifindex, err)
	}
	return nil
}

func announce(ctx context.Context, ifindex int, mac vswitch.MAC, a netip.Addr) error {
	var frame []byte
	if a.Is4() {
		frame = gratuitousARP(mac, a)
	} else {
		frame = unsolicitedNA(mac, a)
		if err := hearFor(ifindex, a, unix.SIOCADDMULTI); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	// Protocol 0: it receives nothing.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open packet socket: %w", err)
	}
	defer unix.Close(fd)
	to := &unix.SockaddrLinklayer{Ifindex: ifindex, Halen: 6}
	for i := range announceTimes {
		if i > 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(announcePause):
			}
		}
		if err := unix.Sendto(fd, frame, 0, to); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	return nil
}

// Withdraw lets a device no longer hear who asks for an IPv6 address. Nobody is
// told: who takes the address over announces it.
func Withdraw(ifindex int, a netip.Addr) error {
	if !a.Is6() {
		return nil
	}
	err := hearFor(ifindex, a, unix.SIOCDELMULTI)
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return fmt.Errorf("withdraw %s from ifindex %d: %w", a, ifindex, err)
}

// hearFor adds the solicited-node group of a to what the device receives, or takes
// it away. Nobody in the kernel has joined it, as nobody has the address.
func hearFor(ifindex int, a netip.Addr, what uint) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	dev, err := net.InterfaceByIndex(ifindex)
	if err != nil {
		return errors.Join(unix.ENODEV, err)
	}
	// struct ifreq with ifr_hwaddr, which package unix has no way to fill.
	r := struct {
		name   [unix.IFNAMSIZ]byte
		family uint16
		mac    vswitch.MAC
		_      [16]byte // the union's largest member has 24 bytes
	}{mac: solicitedMAC(a)}
	copy(r.name[:unix.IFNAMSIZ-1], dev.Name)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(what), uintptr(unsafe.Pointer(&r))); e != 0 {
		return e
	}
	return nil
}

// solicitedMAC is the Ethernet group of a's solicited-node address, RFC 4291
// section 2.7.1 and RFC 2464 section 7.
func solicitedMAC(a netip.Addr) vswitch.MAC {
	b := a.As16()
	return vswitch.MAC{0x33, 0x33, 0xff, b[13], b[14], b[15]}
}

// gratuitousARP is a request that names its sender as the target, to all.
func gratuitousARP(mac vswitch.MAC, a netip.Addr) []byte {
	f := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	f = append(f, mac[:]...)
	f = binary.BigEndian.AppendUint16(f, unix.ETH_P_ARP)
	f = append(f, 0, 1, 0x08, 0, 6, 4, 0, 1) // Ethernet, IPv4, request
	ip := a.As4()
	f = append(f, mac[:]...)
	f = append(f, ip[:]...)
	f = append(f, 0, 0, 0, 0, 0, 0)
	return append(f, ip[:]...)
}

// unsolicitedNA is an advertisement that overrides, to all nodes: RFC 4861
// section 7.2.6.
func unsolicitedNA(mac vswitch.MAC, a netip.Addr) []byte {
	all, src := netip.MustParseAddr("ff02::1").As16(), a.As16()
	na := append([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, src[:]...)
	na = append(na, 2, 1) // target link-layer address
	na = append(na, mac[:]...)
	sum := uint32(len(na)) + unix.IPPROTO_ICMPV6
	for _, b := range [][]byte{src[:], all[:], na} {
		for i := 0; i < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(na[2:], ^uint16(sum))

	f := append([]byte{0x33, 0x33, 0, 0, 0, 1}, mac[:]...)
	f = binary.BigEndian.AppendUint16(f, unix.ETH_P_IPV6)
	f = append(f, 0x60, 0, 0, 0)
	f = binary.BigEndian.AppendUint16(f, uint16(len(na)))
	f = append(f, unix.IPPROTO_ICMPV6, 255)
	f = append(f, src[:]...)
	f = append(f, all[:]...)
	return append(f, na...)
}
