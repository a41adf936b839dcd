// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/failpoint"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// protocol marks the routes that we make, so that those a workload adds are left
// alone: 71 ('G') is given to nobody in linux/rtnetlink.h.
const protocol = netlink.RouteProtocol(71)

// content is what a device carries besides its own settings. All three are
// comparable by ==, sorted order does not matter.
type content struct {
	addrs  []netip.Prefix
	routes []model.Route
	neighs []model.Neighbour
	// quiet: addresses bring no route along.
	quiet bool
}

// attachedMetric and its port's number make the metric of the prefixes of a vNIC in the
// host's own namespace: above what the kernel gives to prefixes (0, and 256 in IPv6), so
// that those of others win, and another one for each, so that several of one network
// stand beside each other.
const attachedMetric = 512

// contentOf returns what a vNIC should carry. A route to a prefix that an
// address brings along is the kernel's to make.
func contentOf(v model.VNIC) content {
	c := content{addrs: v.Addrs, neighs: v.Neighbours}
	if v.Host {
		c.quiet = true
		for _, a := range v.Addrs {
			if r := (model.Route{Dst: a.Masked(), Metric: attachedMetric + int(v.Port)}); !slices.Contains(c.routes, r) {
				c.routes = append(c.routes, r)
			}
		}
		return c
	}
	for _, r := range v.Routes {
		r.Dst = r.Dst.Masked()
		if r.Dst.Addr().Is6() && r.Metric == metric6 {
			r.Metric = 0
		}
		connected := !r.NextHop.IsValid() && slices.ContainsFunc(v.Addrs, func(a netip.Prefix) bool { return a.Masked() == r.Dst })
		if !connected {
			c.routes = append(c.routes, r)
		}
	}
	return c
}

// minus returns what a has and b has not.
func (a content) minus(b content) content {
	return content{addrs: minus(a.addrs, b.addrs), routes: minus(a.routes, b.routes), neighs: minus(a.neighs, b.neighs), quiet: a.quiet}
}

func minus[T comparable](a, b []T) []T {
	var rest []T
	for _, x := range a {
		if !slices.Contains(b, x) {
			rest = append(rest, x)
		}
	}
	return rest
}

// fill makes a device carry want. When it was just made there is nothing to list.
func fill(nl *netlink.Handle, index int, want content, fresh bool) error {
	var have content
	if !fresh {
		var err error
		if have, err = list(nl, index); err != nil {
			return err
		}
	}
	gone := have.minus(want)
	if err := remove(nl, index, gone); err != nil {
		return err
	}
	if len(gone.addrs) > 0 { // with an address the kernel takes the routes by its prefix
		var err error
		if have, err = list(nl, index); err != nil {
			return err
		}
	}
	return add(nl, index, want.minus(have), want.addrs)
}

func add(nl *netlink.Handle, index int, c content, addrs []netip.Prefix) error {
	if err := failpoint.Hit("compartment.call"); err != nil {
		return err
	}
	link := byIndex(index)
	for _, a := range c.addrs {
		addr := toAddr(a)
		if c.quiet {
			addr.Flags |= unix.IFA_F_NOPREFIXROUTE
		}
		if err := nl.AddrAdd(link, addr); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add address %s: %w", a, err)
		}
	}
	for _, n := range c.neighs {
		if err := nl.NeighSet(toNeigh(index, n)); err != nil {
			return fmt.Errorf("add neighbour %s: %w", n.Addr, err)
		}
	}
	for _, r := range c.routes {
		if err := nl.RouteAdd(toRoute(index, r, addrs)); err != nil {
			return fmt.Errorf("add route %s: %w", r.Dst, err)
		}
	}
	return nil
}

// remove is the reverse of add. What is already gone went along with something
// else: a route with its address, say.
func remove(nl *netlink.Handle, index int, c content) error {
	gone := func(err error) bool {
		return err == nil || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EADDRNOTAVAIL)
	}
	for _, r := range c.routes {
		if err := nl.RouteDel(toRoute(index, r, nil)); !gone(err) {
			return fmt.Errorf("remove route %s: %w", r.Dst, err)
		}
	}
	for _, n := range c.neighs {
		if err := nl.NeighDel(toNeigh(index, n)); !gone(err) {
			return fmt.Errorf("remove neighbour %s: %w", n.Addr, err)
		}
	}
	for _, a := range c.addrs {
		if err := nl.AddrDel(byIndex(index), toAddr(a)); !gone(err) {
			return fmt.Errorf("remove address %s: %w", a, err)
		}
	}
	return nil
}

// kernelsOwn reports whether the kernel gives a device this address by itself.
// IPv4's 169.254.0.0/16 are given by us alone: the resolvers' are of it.
func kernelsOwn(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }

func list(nl *netlink.Handle, index int) (content, error) {
	var c content
	if err := failpoint.Hit("compartment.call"); err != nil {
		return c, err
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return nl.AddrList(byIndex(index), netlink.FAMILY_ALL) })
	if err != nil {
		return c, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if p, ok := fromNet(a.IPNet); ok && !kernelsOwn(p.Addr()) {
			c.addrs = append(c.addrs, p)
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := dump(func() ([]netlink.Route, error) {
			return nl.RouteListFiltered(family, &netlink.Route{LinkIndex: index, Protocol: protocol},
				netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
		})
		if err != nil {
			return c, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			c.routes = append(c.routes, fromRoute(r, family))
		}
	}
	neighs, err := dump(func() ([]netlink.Neigh, error) { return nl.NeighList(index, netlink.FAMILY_ALL) })
	if err != nil {
		return c, fmt.Errorf("list neighbours: %w", err)
	}
	for _, n := range neighs {
		addr, ok := netip.AddrFromSlice(n.IP)
		if ok && n.State&netlink.NUD_PERMANENT != 0 && len(n.HardwareAddr) == 6 && !addr.IsMulticast() {
			c.neighs = append(c.neighs, model.Neighbour{Addr: addr.Unmap(), MAC: vswitch.MAC(n.HardwareAddr)})
		}
	}
	return c, nil
}

func toAddr(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: toNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

func toNeigh(index int, n model.Neighbour) *netlink.Neigh {
	family := netlink.FAMILY_V4
	if n.Addr.Is6() {
		family = netlink.FAMILY_V6
	}
	return &netlink.Neigh{
		LinkIndex: index, Family: family, State: netlink.NUD_PERMANENT,
		IP: n.Addr.AsSlice(), HardwareAddr: net.HardwareAddr(bytes.Clone(n.MAC[:])),
	}
}

// toRoute: a next hop that no address of ours covers is reached on the link all
// the same (a /32 with a gateway outside).
func toRoute(index int, r model.Route, addrs []netip.Prefix) *netlink.Route {
	out := &netlink.Route{LinkIndex: index, Dst: toNet(r.Dst.Masked()), Priority: r.Metric, Protocol: protocol}
	if !r.NextHop.IsValid() {
		out.Scope = netlink.SCOPE_LINK
		return out
	}
	out.Gw = r.NextHop.AsSlice()
	covered := slices.ContainsFunc(addrs, func(a netip.Prefix) bool { return a.Contains(r.NextHop) })
	if !covered && addrs != nil && !r.NextHop.IsLinkLocalUnicast() {
		out.Flags = int(netlink.FLAG_ONLINK)
	}
	return out
}

// metric6 is what the kernel writes for an IPv6 route without a metric,
// IP6_RT_PRIO_USER in net/ip6_route.h.
const metric6 = 1024

func fromRoute(r netlink.Route, family int) model.Route {
	out := model.Route{Metric: r.Priority}
	if family == netlink.FAMILY_V6 && out.Metric == metric6 {
		out.Metric = 0
	}
	if p, ok := fromNet(r.Dst); ok {
		out.Dst = p.Masked()
	} else if family == netlink.FAMILY_V6 {
		out.Dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	} else {
		out.Dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	if hop, ok := netip.AddrFromSlice(r.Gw); ok {
		out.NextHop = hop.Unmap()
	}
	return out
}

func toNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func fromNet(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	bits, size := n.Mask.Size()
	addr = addr.Unmap()
	if addr.BitLen() != size {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr, bits), true
}
