// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package nettest

import (
	"errors"
	"os"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Guest is a machine behind a tap, as a VMM makes one: the switch's tap and the
// guest's network card, here another tap in a namespace, are joined in user space
// frame by frame, with the headers that carry partial checksums and segmentation.
type Guest struct {
	NS      *NS          // its card is eth0, which is up
	Partial atomic.Int64 // frames whose checksum is left to others
	Large   atomic.Int64 // frames to be cut into segments
}

const vnetHeader = 10 // struct virtio_net_hdr, linux/virtio_net.h

// NewGuest opens the tap where host calls a function, and makes it there if there
// is none.
func NewGuest(t testing.TB, host func(func() error) error, tap string) *Guest {
	t.Helper()
	g := &Guest{NS: NewNS(t)}
	a, b := openTap(t, host, tap), openTap(t, g.NS.Do, "eth0")
	g.NS.Up("eth0")
	done := make(chan struct{}, 2)
	relay := func(from, to *os.File) {
		defer func() { done <- struct{}{} }()
		buf := make([]byte, 70000)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			if n > vnetHeader && buf[0]&1 != 0 { // VIRTIO_NET_HDR_F_NEEDS_CSUM
				g.Partial.Add(1)
			}
			if n > vnetHeader && buf[1] != 0 { // not VIRTIO_NET_HDR_GSO_NONE
				g.Large.Add(1)
			}
			_, _ = to.Write(buf[:n]) // a device that is down loses frames
		}
	}
	go relay(a, b)
	go relay(b, a)
	t.Cleanup(func() {
		if err := errors.Join(a.Close(), b.Close()); err != nil {
			t.Error(err)
		}
		<-done
		<-done
	})
	return g
}

func openTap(t testing.TB, in func(func() error) error, name string) *os.File {
	t.Helper()
	var f *os.File
	err := in(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		req, err := unix.NewIfreq(name)
		if err == nil {
			req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
		}
		const csum, tso4, tso6 = 1, 2, 4 // TUN_F_*, linux/if_tun.h
		if err == nil {
			err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, csum|tso4|tso6)
		}
		if err != nil {
			unix.Close(fd)
			return err
		}
		f = os.NewFile(uintptr(fd), name)
		return nil
	})
	if err != nil {
		t.Fatalf("tap %s: %v", name, err)
	}
	return f
}
