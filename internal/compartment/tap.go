// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/failpoint"
	"gatehouse.dev/gatehouse/internal/network/model"
)

type tapRecord struct {
	want   model.Tap
	mtu    int
	broken bool
}

// tapFlags: Ethernet frames without the driver's own header, with that of
// virtio-net, which carries what a guest leaves to be summed and cut.
const tapFlags = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR

// ensureTap makes a persistent tap, or adopts it. It is a port of the switch, and
// up, before anybody can open it. No user owns it: to open it is root's, who hands
// the descriptor on.
func (h *Host) ensureTap(t *model.Tap, mtu int) error {
	rec := h.taps[t.Name]
	if rec != nil && !rec.broken && rec.mtu == mtu && rec.want == *t {
		return nil
	}
	if rec == nil {
		rec = &tapRecord{}
		h.taps[t.Name] = rec
	}
	rec.want, rec.mtu, rec.broken = *t, mtu, true
	l, err := findLink(h.nl, t.Name)
	if err != nil {
		return err
	}
	if l != nil && (!isTap(l) || h.reaper.pending(l.Attrs().Index)) {
		if err := h.deleteNow(l.Attrs().Index, t.Name); err != nil {
			return err
		}
		l = nil
	}
	if l == nil {
		if err := addTap(t.Name); err != nil {
			return err
		}
		if l, err = findLink(h.nl, t.Name); err != nil {
			h.loaded = false // it is there, and only the kernel knows its number
			return err
		}
		if l == nil {
			return fmt.Errorf("tap %s went as it came", t.Name)
		}
	}
	index := l.Attrs().Index
	h.setDevice(t.Name, index)
	if err := failpoint.Hit("compartment.device"); err != nil {
		return err
	}
	if err := fit(h.nl, l, [6]byte{}, mtu); err != nil {
		return err
	}
	// The host's stack has no business with it.
	if err := h.sysctl6(t.Name, "disable_ipv6", "1"); err != nil {
		return err
	}
	if err := h.join(index, t.Name); err != nil {
		return err
	}
	if err := h.setAlias(index, t.Name, t.Alias); err != nil {
		return err
	}
	if err := setUp(h.nl, index, t.Name); err != nil {
		return err
	}
	rec.broken = false
	return nil
}

// addTap makes the device in the namespace of the process, where all its threads
// are but those that package thread locks.
func addTap(name string) error {
	if err := failpoint.Hit("compartment.call"); err != nil {
		return err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("add tap %s: /dev/net/tun: %w (is the module tun loaded?)", name, err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("add tap %s: %w", name, err)
	}
	req.SetUint16(tapFlags)
	err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	if err == nil {
		err = unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1)
	}
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("add tap %s: another device has that name: %w", name, err)
	}
	if err != nil {
		return fmt.Errorf("add tap %s: %w", name, err)
	}
	return nil
}

// isTap reports whether a device that is there can serve.
func isTap(l netlink.Link) bool {
	t, ok := l.(*netlink.Tuntap)
	return ok && t.Mode == netlink.TUNTAP_MODE_TAP && !t.NonPersist && t.Owner == 0 && t.Group == 0
}
