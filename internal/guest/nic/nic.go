// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package nic gives a network interface of a utility VM what its endpoint says:
// place, name, addresses, routes, neighbours.
package nic

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/guest/proto"
)

// wait is how long an interface may take to appear.
const wait = 5 * time.Second

// In runs f on a thread in a network namespace (a descriptor of it), which is given
// up afterwards. A negative ns is where the process is.
func In(ns int, f func() error) error {
	if ns < 0 {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the network: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// Add gives the interface that n means to the network ns and sets it up. A
// second Add of the same interface sets it up anew.
func Add(ns int, n proto.Network) error {
	mac, err := parseMAC(n.MacAddress)
	if err != nil {
		return err
	}
	here := false
	if err := In(ns, func() error { l, err := byMAC(mac); here = l != nil; return err }); err != nil {
		return err
	}
	if !here {
		if err := bring(ns, mac, n); err != nil {
			return err
		}
	}
	return In(ns, func() error { return setUp(mac, n) })
}

// Remove takes an interface back into the machine's own network, without addresses.
func Remove(ns int, address string) error {
	mac, err := parseMAC(address)
	if err != nil {
		return err
	}
	root, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return err
	}
	defer root.Close()
	return In(ns, func() error {
		l, err := byMAC(mac)
		if err != nil || l == nil {
			return err // removed already
		}
		if err := netlink.LinkSetDown(l); err != nil {
			return err
		}
		if err := flush(l); err != nil {
			return err
		}
		if ns < 0 {
			return nil
		}
		if err := netlink.LinkSetName(l, fmt.Sprintf("nic%d", l.Attrs().Index)); err != nil {
			return err
		}
		return netlink.LinkSetNsFd(l, int(root.Fd()))
	})
}

// Loopback brings up lo.
func Loopback(ns int) error {
	return In(ns, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
}

func parseMAC(s string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(strings.ReplaceAll(s, "-", ":"))
	if err != nil || len(mac) != 6 {
		return nil, &hcs.Error{Code: hcs.CodeInvalidArg, Field: "Network.MacAddress", Message: fmt.Sprintf("%q", s)}
	}
	return mac, nil
}

func byMAC(mac net.HardwareAddr) (netlink.Link, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	for _, l := range all {
		if bytes.Equal(l.Attrs().HardwareAddr, mac) {
			return l, nil
		}
	}
	return nil, nil
}

// bySlot is the slot-th virtio interface, from 1, in the order of the bus.
func bySlot(slot uint32) (netlink.Link, error) {
	dirs, err := filepath.Glob("/sys/bus/virtio/drivers/virtio_net/virtio*/net/*")
	if err != nil || int(slot) > len(dirs) {
		return nil, err
	}
	order := func(p string) (n int) {
		_, _ = fmt.Sscanf(filepath.Base(filepath.Dir(filepath.Dir(p))), "virtio%d", &n)
		return n
	}
	slices.SortFunc(dirs, func(a, b string) int { return order(a) - order(b) })
	return netlink.LinkByName(filepath.Base(dirs[slot-1]))
}

// bring waits for the interface and moves it.
func bring(ns int, mac net.HardwareAddr, n proto.Network) error {
	var l netlink.Link
	for end := time.Now().Add(wait); l == nil; time.Sleep(5 * time.Millisecond) {
		var err error
		if n.Slot > 0 {
			l, err = bySlot(n.Slot)
		} else {
			l, err = byMAC(mac)
		}
		if err != nil {
			return err
		}
		if l == nil && time.Now().After(end) {
			return &hcs.Error{Code: hcs.CodeNotFound, Field: "Network.MacAddress", Message: fmt.Sprintf("no interface %s (slot %d)", mac, n.Slot)}
		}
	}
	if n.Slot > 0 {
		if err := errors.Join(netlink.LinkSetDown(l), netlink.LinkSetHardwareAddr(l, mac)); err != nil {
			return fmt.Errorf("%s: address %s: %w", l.Attrs().Name, mac, err)
		}
	}
	if ns < 0 {
		return nil
	}
	// Two interfaces of one name may meet there: a name nobody has.
	if err := errors.Join(netlink.LinkSetDown(l), netlink.LinkSetName(l, fmt.Sprintf("nic%d", l.Attrs().Index))); err != nil {
		return err
	}
	if err := netlink.LinkSetNsFd(l, ns); err != nil {
		return fmt.Errorf("move %s: %w", l.Attrs().Name, err)
	}
	return nil
}

// setUp is called in the network of the interface.
func setUp(mac net.HardwareAddr, n proto.Network) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	l, err := byMAC(mac)
	if err != nil {
		return err
	}
	if l == nil {
		return &hcs.Error{Code: hcs.CodeNotFound, Field: "Network.MacAddress", Message: "the interface has gone"}
	}
	if n.Name != "" && n.Name != l.Attrs().Name {
		if err := errors.Join(netlink.LinkSetDown(l), netlink.LinkSetName(l, n.Name)); err != nil {
			return fmt.Errorf("name %s: %w", n.Name, err)
		}
		if l, err = netlink.LinkByName(n.Name); err != nil {
			return err
		}
	}
	if n.MTU > 0 {
		if err := netlink.LinkSetMTU(l, int(n.MTU)); err != nil {
			return fmt.Errorf("MTU %d: %w", n.MTU, err)
		}
	}
	// Nothing is learned from the network: the host has said it all.
	for name, value := range map[string]string{"accept_ra": "0", "accept_dad": "0", "autoconf": "0"} {
		err := os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", l.Attrs().Name, name), []byte(value), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without IPv6
			return err
		}
	}
	if err := flush(l); err != nil {
		return err
	}
	for i, s := range n.Addresses {
		a, err := netlink.ParseAddr(s)
		if err != nil {
			return &hcs.Error{Code: hcs.CodeInvalidArg, Field: fmt.Sprintf("Network.Addresses[%d]", i), Err: err}
		}
		if a.IP.To4() == nil {
			a.Flags |= unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(l, a); err != nil {
			return fmt.Errorf("address %s: %w", s, err)
		}
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return err
	}
	for i, x := range n.Neighbours {
		ip, hw := net.ParseIP(x.IP), net.HardwareAddr(nil)
		if hw, err = parseMAC(x.MAC); err != nil || ip == nil {
			return &hcs.Error{Code: hcs.CodeInvalidArg, Field: fmt.Sprintf("Network.Neighbours[%d]", i), Message: fmt.Sprintf("%q at %q", x.IP, x.MAC)}
		}
		if err := netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: ip, HardwareAddr: hw}); err != nil {
			return fmt.Errorf("neighbour %s: %w", x.IP, err)
		}
	}
	for i, r := range n.Routes {
		if err := route(l, n.Addresses, r); err != nil {
			return fmt.Errorf("Network.Routes[%d]: %w", i, err)
		}
	}
	return nil
}

func flush(l netlink.Link) error {
	addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if a.IP.IsLinkLocalUnicast() && a.IP.To4() == nil {
			continue // the kernel's own
		}
		if err := netlink.AddrDel(l, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return err
		}
	}
	return nil
}

// route adds one; a next hop outside of every subnet is on the link.
func route(l netlink.Link, addresses []string, r proto.Route) error {
	_, dst, err := net.ParseCIDR(r.Destination)
	if err != nil {
		return &hcs.Error{Code: hcs.CodeInvalidArg, Err: err}
	}
	nr := netlink.Route{LinkIndex: l.Attrs().Index, Dst: dst, Priority: int(r.Metric)}
	if hop, err := netip.ParseAddr(r.NextHop); err == nil && !hop.IsUnspecified() {
		nr.Gw = hop.AsSlice()
		inside := slices.ContainsFunc(addresses, func(a string) bool {
			p, err := netip.ParsePrefix(a)
			return err == nil && p.Contains(hop)
		})
		if !inside {
			nr.Flags |= int(netlink.FLAG_ONLINK)
		}
	} else if r.NextHop != "" && err != nil {
		return &hcs.Error{Code: hcs.CodeInvalidArg, Err: err}
	}
	scope, ok := map[string]netlink.Scope{"": netlink.SCOPE_UNIVERSE, "global": netlink.SCOPE_UNIVERSE, "link": netlink.SCOPE_LINK, "host": netlink.SCOPE_HOST}[r.Scope]
	if !ok {
		return &hcs.Error{Code: hcs.CodeInvalidArg, Message: fmt.Sprintf("scope %q", r.Scope)}
	}
	if nr.Gw == nil && r.Scope == "" && dst.IP.To4() != nil {
		scope = netlink.SCOPE_LINK
	}
	nr.Scope = scope
	return netlink.RouteReplace(&nr)
}
