// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"net/netip"
	"slices"
)

// checkElsewhere is checkService's part for a backend in an overlay, on another host.
func (c *Compiler) checkElsewhere(s *Service, b Backend) error {
	m := c.nets[b.Network]
	switch {
	case b.Network == 0:
		return nil
	case m == nil:
		return invalid("Network %d: no such network", b.Network)
	case b.At != 0:
		return invalid("Network %d: port %d (At) has the backend on this host; leave one of them out", b.Network, b.At)
	case m.was.Tunnel == 0:
		return invalid("Network %d: has no Tunnel, so nothing of it is on another host; name the backend's port (At), or leave Network out", b.Network)
	}
	n := &m.was
	isGateway := func(a netip.Addr) bool {
		return slices.ContainsFunc(n.Subnets, func(sub Subnet) bool { return sub.Gateway == a })
	}
	routed := slices.ContainsFunc(n.Routes, func(r Route) bool {
		return (r.To == RouteTunnel || r.To == RouteVia) && r.Prefix.Contains(b.Addr)
	})
	for i, f := range s.Frontends {
		if s.Flags&ServiceDSR != 0 && f.Scope&ScopeOutside != 0 && f.Addr.IsUnspecified() {
			return invalid("Network %d: with ServiceDSR the backend's host is to answer as Frontends[%d].Addr, but every address of this host is not one of its; "+
				"name a single address, or leave ServiceDSR out", n.ID, i)
		}
	}
	switch {
	case isGateway(b.Addr):
		return invalid("Addr %q: the gateway of network %d, which every host has itself", b.Addr, n.ID)
	case !inSubnets(n, b.Addr) && !routed:
		return invalid("Addr %q: in no subnet of network %d and on none of its Routes to other hosts", b.Addr, n.ID)
	case s.Flags&(ServiceLocal|ServiceDSR) != 0 || !slices.ContainsFunc(s.Frontends, func(f Frontend) bool { return f.Scope&ScopeOutside != 0 }):
		return nil
	}
	switch a := s.SourceVIP; {
	case !a.IsValid():
		return invalid("Network %d: clients outside need the service's SourceVIP, an address of this host in that network, or answers would not come back; "+
			"or set ServiceLocal or ServiceDSR", n.ID)
	case a.Is4() != b.Addr.Is4():
		return invalid("Network %d: SourceVIP %q is not of the backend's family", n.ID, a)
	case !inSubnets(n, a):
		return invalid("Network %d: SourceVIP %q is in none of its subnets, so its other hosts would not answer to it", n.ID, a)
	}
	return nil
}
