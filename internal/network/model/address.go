// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/network/ipam"
)

// usedIn yields the addresses in use on a network in ascending order within a family.
func (w *World) usedIn(network string) func(yield func(netip.Addr) bool) {
	return func(yield func(netip.Addr) bool) {
		for k := range w.addrs.prefixed(network + "/") {
			a, ok := netip.AddrFromSlice([]byte(k[len(network)+1:]))
			if ok && !yield(a) {
				return
			}
		}
	}
}

// unusedIn returns the lowest address from a on that no endpoint of the network
// has, here or elsewhere, nor is in also. The index holds addresses in order, so a run of used ones
// is a run of ranks, whose end is found by halving.
func (w *World) unusedIn(network string, also []IpConfig) func(netip.Addr) netip.Addr {
	return func(a netip.Addr) netip.Addr {
		for {
			first := w.addrs.rank(addrKey(network, a))
			n := sort.Search(w.addrs.len()-first, func(i int) bool {
				b, ok := addPlus(a, i)
				return !ok || w.addrs.at(first+i) != addrKey(network, b)
			})
			a, _ = addPlus(a, n)
			if !w.isRemoteAddr(network, a) && !slices.ContainsFunc(also, func(c IpConfig) bool { return sameAddr(c.IpAddress, a) }) {
				return a
			}
			a = a.Next()
		}
	}
}

// addPlus is the address n after a; false beyond the end of the family.
func addPlus(a netip.Addr, n int) (netip.Addr, bool) {
	b := a.AsSlice()
	carry := uint64(n)
	for i := len(b) - 1; i >= 0 && carry > 0; i-- {
		carry += uint64(b[i])
		b[i] = byte(carry)
		carry >>= 8
	}
	if carry > 0 || len(b) == 0 {
		return netip.Addr{}, false
	}
	sum, _ := netip.AddrFromSlice(b)
	return sum, true
}

func (w *World) releasedIn(network string) func(netip.Addr) (time.Time, bool) {
	return func(a netip.Addr) (time.Time, bool) { return w.released.get(addrKey(network, a)) }
}

func (w *World) fillAddresses(e *Endpoint, n *Network, in Input) error {
	var out []IpConfig
	for i, c := range e.Doc.IpConfigurations {
		field := fmt.Sprintf("IpConfigurations[%d]", i)
		if c.IpAddress == "" && c.IpSubnetId == "" {
			continue // {}: as if absent
		}
		if c.IpAddress == "" {
			sub, pool, ok := n.poolByID(c.IpSubnetId)
			if !ok {
				return refuseAt(hcn.HCN_E_SUBNET_NOT_FOUND, field+".IpSubnetId", "no pool %q on %s", c.IpSubnetId, n.label())
			}
			if sub.dhcp {
				return refuseAt(hcn.HCN_E_INVALID_IP, field+".IpSubnetId", "%s is given out by the segment's DHCP server; leave this out", sub.pool.Prefix)
			}
			a, err := w.lowest(n, sub.vlan, pool, in, out)
			if err != nil {
				return at(field, err)
			}
			c.IpAddress, c.PrefixLength = a.String(), uint8(sub.pool.Prefix.Bits())
			out = append(out, c)
			continue
		}
		a, err := netip.ParseAddr(c.IpAddress)
		if err != nil || a.Zone() != "" || a.Is4In6() {
			return refuseAt(hcn.HCN_E_INVALID_IP, field+".IpAddress", "%q is not an address", c.IpAddress)
		}
		sub, err := w.checkAddress(e, n, a, int(c.PrefixLength), in)
		if err != nil {
			return at(field, err)
		}
		if slices.ContainsFunc(out, func(o IpConfig) bool { return sameAddr(o.IpAddress, a) }) {
			return refuseAt(hcn.HCN_E_ADDR_INVALID_OR_RESERVED, field+".IpAddress", "%s is listed twice", a)
		}
		switch {
		case c.PrefixLength == 0:
			c.PrefixLength = uint8(sub.pool.Prefix.Bits())
		case int(c.PrefixLength) > a.BitLen():
			return refuseAt(hcn.E_INVALID_PARAMETER, field+".PrefixLength", "%d is over %d", c.PrefixLength, a.BitLen())
		}
		c.IpAddress = a.String()
		out = append(out, c)
	}
	if len(out) == 0 {
		if len(n.subnets) == 0 && e.Lease == nil {
			return refuseAt(hcn.HCN_E_INVALID_IP, "IpConfigurations", "%s has no subnets: give the endpoint its addresses, or the flag EnableDhcp (%d)", n.label(), enableDhcp)
		}
		anyVLAN := true
		var vlan uint16
		for _, v4 := range []bool{true, false} {
			if v4 && e.Lease != nil {
				continue
			}
			c, err := w.anyAddress(n, func(s *subnet) bool {
				return s.pool.Prefix.Addr().Is4() == v4 && !s.dhcp && (anyVLAN || s.vlan == vlan)
			}, in)
			if err != nil {
				return err
			}
			if c != nil {
				out = append(out, c.IpConfig)
				anyVLAN, vlan = false, c.vlan
			}
		}
	}
	e.Doc.IpConfigurations = out
	return nil
}

// checkAddress refuses an address that cannot be the endpoint's, and finds the subnet
// that it is in.
func (w *World) checkAddress(e *Endpoint, n *Network, a netip.Addr, bits int, in Input) (*subnet, error) {
	sub, ok := n.subnetOf(a)
	lent := e.Lease != nil && a.Is4() && !slices.ContainsFunc(n.subnets, func(s subnet) bool { return s.pool.Prefix.Addr().Is4() })
	if !ok && (len(n.subnets) == 0 || lent) {
		// A network without subnets takes what it is told.
		if bits == 0 {
			return nil, refuseAt(hcn.E_INVALID_PARAMETER, "PrefixLength", "is not given, and %s has no subnet that says it", n.label())
		}
		sub, ok = &subnet{pool: ipam.Pool{Prefix: netip.PrefixFrom(a, a.BitLen())}}, true
	}
	if !ok {
		return nil, refuseAt(hcn.HCN_E_INVALID_IP, "IpAddress", "%s is in no subnet of %s (%s)", a, n.label(), join(n.prefixes()))
	}
	if err := sub.pool.Check(a); err != nil {
		return nil, refuseAt(hcn.HCN_E_ADDR_INVALID_OR_RESERVED, "IpAddress", "%v", trimClass(err))
	}
	if n.isHostAddr(in, a) {
		return nil, refuseAt(hcn.HCN_E_ADDR_INVALID_OR_RESERVED, "IpAddress", "%s is the host's own", a)
	}
	if other, ok := w.addrs.get(addrKey(n.Doc.Id, a)); ok && other != e.Doc.Id {
		return nil, refuseAt(hcn.HCN_E_ADDR_INVALID_OR_RESERVED, "IpAddress", "%s is held by %s", a, w.endpointLabel(other))
	}
	if id, ok := w.serving.get(a.String()); ok {
		return nil, refuseAt(hcn.HCN_E_ADDR_INVALID_OR_RESERVED, "IpAddress", "%s is held by %s", a, w.serviceLabel(id))
	}
	return sub, nil
}

// chosenAddress is one of our choice, and the VLAN that it is in.
type chosenAddress struct {
	IpConfig
	vlan uint16
}

// anyAddress takes the lowest free address of the first subnet that will do and
// has one; nil where none will do.
func (w *World) anyAddress(n *Network, will func(*subnet) bool, in Input) (*chosenAddress, error) {
	var full error
	for i := range n.subnets {
		s := &n.subnets[i]
		if !will(s) {
			continue
		}
		a, err := w.lowest(n, s.vlan, s.pool, in, nil)
		if err == nil {
			return &chosenAddress{IpConfig{IpConfig: hcn.IpConfig{IpAddress: a.String(), PrefixLength: uint8(s.pool.Prefix.Bits())}}, s.vlan}, nil
		}
		full = err
	}
	if full != nil {
		return nil, at("IpConfigurations", full)
	}
	return nil, nil
}

func (w *World) lowest(n *Network, vlan uint16, pool ipam.Pool, in Input, chosen []IpConfig) (netip.Addr, error) {
	// What the document itself chose before is not in the index yet.
	free := w.unusedIn(n.Doc.Id, chosen)
	a, err := pool.Lowest(in.Now, func(a netip.Addr) netip.Addr {
		for a = free(a); ; a = free(a.Next()) {
			if _, held := w.heldBeside(n, vlan, a); !held && !n.isHostAddr(in, a) && !w.serving.has(a.String()) {
				return a
			}
		}
	}, w.releasedIn(n.Doc.Id))
	if err != nil {
		return a, refuse(hcn.HCN_E_ADDR_INVALID_OR_RESERVED, "no address is free in %s of %s; delete endpoints or use another network", pool.Prefix, n.label())
	}
	return a, nil
}

// poolByID finds a subnet, or a smaller pool in one, by its id.
func (n *Network) poolByID(id string) (*subnet, ipam.Pool, bool) {
	for i := range n.subnets {
		for pid, prefix := range n.subnets[i].pools {
			if strings.EqualFold(pid, id) {
				p := n.subnets[i].pool
				p.Prefix = prefix
				return &n.subnets[i], p, true
			}
		}
	}
	return nil, ipam.Pool{}, false
}

func sameAddr(s string, a netip.Addr) bool {
	b, err := netip.ParseAddr(s)
	return err == nil && a == b
}

// trimClass drops the class that ipam appends: the code says it.
func trimClass(err error) string {
	s := err.Error()
	for _, c := range []error{ipam.ErrReserved, ipam.ErrOutside} {
		s = strings.TrimSuffix(s, ": "+c.Error())
	}
	return s
}

func join(ps []netip.Prefix) string {
	var s []string
	for _, p := range ps {
		s = append(s, p.String())
	}
	return strings.Join(s, ", ")
}
