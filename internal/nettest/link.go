// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package nettest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// handle opens a netlink socket inside; the caller closes it.
func (n *NS) handle() (*netlink.Handle, error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(n.fd), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink in %s: %w", n.path, err)
	}
	return h, nil
}

// Netlink opens a netlink handle inside, closed at the test's end.
func (n *NS) Netlink() *netlink.Handle {
	n.t.Helper()
	h, err := n.handle()
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(h.Close)
	return h
}

// Veth joins two namespaces: nameA in a, nameB in b, both up. Addresses
// ("10.0.0.1/24") are given to A and B in turn: A's first, B's first, A's
// second...; "" leaves one out.
func Veth(t testing.TB, a *NS, nameA string, b *NS, nameB string, addrs ...string) {
	t.Helper()
	h := a.Netlink()
	v := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: nameA}, PeerName: nameB, PeerNamespace: netlink.NsFd(b.fd),
	}
	if err := h.LinkAdd(v); err != nil {
		t.Fatalf("add veth %s in %s to %s in %s: %v", nameA, a.label(), nameB, b.label(), err)
	}
	t.Cleanup(func() { // a namespace that ended took it along
		if l, err := h.LinkByName(nameA); err == nil {
			_ = h.LinkDel(l)
		}
	})
	a.Up(nameA)
	b.Up(nameB)
	for i, s := range addrs {
		if s == "" {
			continue
		}
		if i%2 == 0 {
			a.Addr(nameA, s)
		} else {
			b.Addr(nameB, s)
		}
	}
}

func (n *NS) link(h *netlink.Handle, name string) netlink.Link {
	n.t.Helper()
	l, err := h.LinkByName(name)
	if err != nil {
		n.t.Fatalf("%s: device %s: %v", n.label(), name, err)
	}
	return l
}

// Up brings a device up.
func (n *NS) Up(name string) {
	n.t.Helper()
	h := n.Netlink()
	if err := h.LinkSetUp(n.link(h, name)); err != nil {
		n.t.Fatalf("%s: bring %s up: %v", n.label(), name, err)
	}
}

// Addr adds an address with prefix length to a device.
func (n *NS) Addr(name, cidr string) {
	n.t.Helper()
	h := n.Netlink()
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		n.t.Fatal(err)
	}
	if addr.IP.To4() == nil {
		addr.Flags |= unix.IFA_F_NODAD
	}
	if err := h.AddrAdd(n.link(h, name), addr); err != nil {
		n.t.Fatalf("%s: add %s to %s: %v", n.label(), cidr, name, err)
	}
}

// Route adds a route; via "" means on-link through dev.
func (n *NS) Route(dst, via, dev string) {
	n.t.Helper()
	h := n.Netlink()
	p := netip.MustParsePrefix(dst)
	r := &netlink.Route{Dst: &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
	if via != "" {
		r.Gw = netip.MustParseAddr(via).AsSlice()
	}
	if dev != "" {
		r.LinkIndex = n.link(h, dev).Attrs().Index
	}
	if err := h.RouteAdd(r); err != nil {
		n.t.Fatalf("%s: route %s via %s dev %s: %v", n.label(), dst, via, dev, err)
	}
}

// DefaultRoute sends everything of via's family to via.
func (n *NS) DefaultRoute(via string) {
	n.t.Helper()
	dst := "0.0.0.0/0"
	if netip.MustParseAddr(via).Is6() {
		dst = "::/0"
	}
	n.Route(dst, via, "")
}

// Links names the devices inside.
func (n *NS) Links() []string {
	n.t.Helper()
	names, err := n.links()
	if err != nil {
		n.t.Fatal(err)
	}
	return names
}

func (n *NS) links() ([]string, error) {
	h, err := n.handle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	var links []netlink.Link
	for range 10 { // the kernel may change while it is listed
		if links, err = h.LinkList(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list devices in %s: %w", n.label(), err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return names, nil
}
