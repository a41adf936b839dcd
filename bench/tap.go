// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"errors"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

// benchTap: a container to a virtual machine, whose VMM is played by a process
// that carries frames between the host's tap and one in the guest's namespace,
// checksums and segmentation left to the reader as virtio-net does.
func benchTap(b *bench, r *report, rounds int) error {
	s := &scope{b: b}
	h := s.switchHost("sw", 0, natFlags)
	client, _ := h.container("sw-c")
	guest, gp := h.guest("sw-vm")
	h.apply()
	if s.err != nil {
		return s.err
	}
	a4, a6 := h.addrsOf(gp.ID)

	host, bclient := s.node("brt"), s.node("brt-c")
	bguest := s.node("brt-vm")
	s.veth(host, "a", bclient, "eth0")
	s.tap(host, "b", bguest)
	host.ip("link add name br0 type bridge", "link set dev br0 up", "link set dev a master br0", "link set dev b master br0")
	onePrefix(bclient, bguest)
	const theirs = "tap + bridge, same VMM"
	paths := []*path{
		s.done(h.path(ours, client, guest, "eth0", a4, a6)),
		s.done(&path{name: theirs, client: bclient, server: bguest, dev: "eth0", addr4: "10.88.0.11", addr6: "fd00:88::11"}),
	}
	if s.err != nil {
		return s.err
	}
	return both(r, rounds, func(int) *contest {
		return &contest{
			title: "Container to virtual machine (tap)", paths: paths, metrics: []metric{metricPPS, metricTCP, metricRR},
			goals: []goal{{colGbit, ours, theirs, 0.97}, {colKpps, ours, theirs, 0}, {colP50, ours, theirs, 0}},
		}
	})
}

// guest plugs in a tap port with a guest behind it.
func (h *switchHost) guest(name string) (*node, vswitch.Port) {
	id := h.first + vswitch.PortID(len(h.State.Ports))
	n := h.s.node(name)
	dev := fmt.Sprintf("t%d", id)
	h.s.tap(h.node, dev, n)
	h.join(dev)
	p := vswitch.Port{ID: id, Kind: vswitch.PortVM, Network: benchNetwork, Object: name, Interface: dev, MAC: mac(n.device("eth0")), Up: true}
	h.address(n, &p)
	h.State.Ports = append(h.State.Ports, p)
	return n, p
}

// tap makes a tap on the host, eth0 in the guest, and the process between them.
func (s *scope) tap(host *node, dev string, guest *node) {
	if s.err != nil {
		return
	}
	p, err := host.start(serverCPU, "relay", dev, guest.path, "eth0")
	if err != nil {
		s.fail(err)
		return
	}
	s.b.defer_(p.kill)
	_, err = p.line(giveUp)
	s.fail(err)
	host.ip("link set dev " + dev + " up")
	guest.ip("link set dev eth0 up")
}

// vnetHdr is struct virtio_net_hdr without mergeable buffers, linux/virtio_net.h.
const vnetHdr = 10

// openTap makes a tap in the calling thread's namespace.
func openTap(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return -1, err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return -1, fmt.Errorf("tap %s: %w", name, err)
	}
	// linux/if_tun.h: checksums, TCPv4, TCPv6, ECN, as QEMU sets them.
	const offloads = 0x01 | 0x02 | 0x04 | 0x08
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETOFFLOAD, offloads); errno != 0 {
		return -1, fmt.Errorf("offloads of tap %s: %w", name, errno)
	}
	return fd, nil
}

// relay TAP NAMESPACE TAP2 makes both, says "ready" and carries frames until it is
// killed.
func relay(args []string) error {
	if len(args) != 3 {
		return errors.New("relay TAP NAMESPACE TAP2")
	}
	a, err := openTap(args[0])
	if err != nil {
		return err
	}
	ns, err := unix.Open(args[1], unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	runtime.LockOSThread() // this thread stays in the guest
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the guest: %w", err)
	}
	b, err := openTap(args[2])
	if err != nil {
		return err
	}
	fmt.Println("ready")
	go carry(a, b)
	carry(b, a)
	return nil
}

func carry(from, to int) {
	buf := make([]byte, vnetHdr+65536+18)
	for {
		n, _, errno := unix.Syscall(unix.SYS_READ, uintptr(from), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
		if errno != 0 {
			time.Sleep(time.Millisecond) // EIO while the device is down
			continue
		}
		_, _ = unix.Write(to, buf[:n])
	}
}
