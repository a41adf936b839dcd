// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package mirror puts a utility VM in the place of a network namespace's
// interfaces. Be aware: what the namespace's own programs would receive goes to the
// machine.
package mirror

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/guest/proto"
)

// Interface is one of a network namespace that a machine has in its stead:
// all that arrives there goes to a tap beside it, and back. The interface keeps
// its addresses, so that whoever made it finds it as it was, and the switch's port
// at its other end sees the machine as it would see a process: the same policies
// hold.
type Interface struct {
	Tap     *os.File
	Network proto.Network
}

// All mirrors every interface of a namespace that is up. The taps are the
// descriptors': they go with them.
func All(netns string) (all []Interface, err error) {
	defer func() {
		if err != nil {
			Close(all)
			err = fmt.Errorf("mirror network %s: %w", netns, err)
		}
	}()
	err = inNetNs(netns, func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			a := l.Attrs()
			if a.Flags&net.FlagLoopback != 0 || a.Flags&net.FlagUp == 0 || len(a.HardwareAddr) != 6 {
				continue
			}
			m, err := mirror(l, len(all))
			if err != nil {
				return fmt.Errorf("%s: %w", a.Name, err)
			}
			all = append(all, m)
		}
		return nil
	})
	return all, err
}

// Close closes the taps.
func Close(all []Interface) {
	for _, m := range all {
		m.Tap.Close()
	}
}

// mirror makes the tap of one interface and reads what the guest is to have.
func mirror(l netlink.Link, n int) (m Interface, err error) {
	a := l.Attrs()
	if m.Network, err = describe(l); err != nil {
		return m, err
	}
	name := fmt.Sprintf("ghtap%d", n)
	if m.Tap, err = OpenTap(name); err != nil {
		return m, err
	}
	defer func() {
		if err != nil {
			m.Tap.Close()
		}
	}()
	tap, err := netlink.LinkByName(name)
	if err != nil {
		return m, err
	}
	if err := netlink.LinkSetMTU(tap, a.MTU); err != nil {
		return m, err
	}
	for _, d := range []struct{ from, to netlink.Link }{{l, tap}, {tap, l}} {
		if err := redirect(d.from, d.to.Attrs().Index); err != nil {
			return m, err
		}
	}
	return m, netlink.LinkSetUp(tap)
}

// redirect sends all that arrives at from out of another interface.
func redirect(from netlink.Link, to int) error {
	q := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: from.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS}}
	// What an earlier machine left in a namespace that is not ours.
	if err := netlink.QdiscDel(q); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("remove qdisc: %w", err)
	}
	if err := netlink.QdiscAdd(q); err != nil {
		return fmt.Errorf("add qdisc: %w", err)
	}
	f := &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: from.Attrs().Index, Parent: netlink.MakeHandle(0xffff, 0), Priority: 1, Protocol: unix.ETH_P_ALL},
		Actions:     []netlink.Action{netlink.NewMirredAction(to)},
	}
	if err := netlink.FilterAdd(f); err != nil {
		return fmt.Errorf("redirect: requires cls_u32 and act_mirred: %w", err)
	}
	return nil
}

// Undo takes the redirection away where the namespace outlives the machine.
func Undo(netns string) error {
	if _, err := os.Stat(netns); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return inNetNs(netns, func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			qs, err := netlink.QdiscList(l)
			if err != nil {
				return err
			}
			for _, q := range qs {
				if q.Type() == "ingress" {
					if err := netlink.QdiscDel(q); err != nil && !errors.Is(err, unix.ENOENT) {
						return err
					}
				}
			}
		}
		return nil
	})
}

// describe flattens an interface for the agent.
func describe(l netlink.Link) (proto.Network, error) {
	a := l.Attrs()
	d := proto.Network{MacAddress: a.HardwareAddr.String(), MTU: uint32(a.MTU), Name: a.Name}
	addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return d, err
	}
	for _, x := range addrs {
		if x.Scope != unix.RT_SCOPE_LINK { // those the guest makes by itself
			d.Addresses = append(d.Addresses, x.IPNet.String())
		}
	}
	routes, err := netlink.RouteList(l, netlink.FAMILY_ALL)
	if err != nil {
		return d, err
	}
	for _, r := range routes {
		if r.Protocol == unix.RTPROT_KERNEL || r.Type != unix.RTN_UNICAST || r.Table != unix.RT_TABLE_MAIN {
			continue
		}
		to := proto.Route{Metric: uint32(r.Priority)}
		switch {
		case r.Dst != nil:
			to.Destination = r.Dst.String()
		case r.Family == netlink.FAMILY_V6:
			to.Destination = "::/0"
		default:
			to.Destination = "0.0.0.0/0"
		}
		if r.Gw != nil {
			to.NextHop = r.Gw.String()
		} else {
			to.Scope = "link"
		}
		d.Routes = append(d.Routes, to)
	}
	neighbours, err := netlink.NeighList(a.Index, netlink.FAMILY_ALL)
	if err != nil {
		return d, err
	}
	for _, x := range neighbours {
		if x.State&netlink.NUD_PERMANENT != 0 && len(x.HardwareAddr) == 6 && !x.IP.IsMulticast() {
			d.Neighbours = append(d.Neighbours, proto.Neighbour{IP: x.IP.String(), MAC: x.HardwareAddr.String()})
		}
	}
	return d, nil
}

// inNetNs runs f on a thread in a namespace, which ends with it.
func inNetNs(path string, f func() error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is no good for others
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// OpenTap opens the queue of a tap, and makes it if it is not there.
func OpenTap(device string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	ifr, err := unix.NewIfreq(device)
	if err == nil {
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("tap %s: %w", device, err)
	}
	return os.NewFile(uintptr(fd), device), nil
}
