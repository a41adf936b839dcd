// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"net/netip"
	"slices"

	"gatehouse.dev/gatehouse/internal/network/ipam"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// protocolEncapsulated in an ACL is what goes through an overlay's tunnel, of whatever
// protocol: HNS's number for the payload of VXLAN. The endpoint's port sees such a packet
// without its outer headers, so it is told by the other end: an address that another
// host of the overlay has. They are a set of the switch, so that rules stay as they are
// while leases and remote endpoints come and go.
const protocolEncapsulated = 252

// farSet is where a network's SetNumbers have the number of the set of what other hosts
// have; no SetPolicy can be named so.
const farSet = ""

// encapsulated is a rule, whose ports and protocols are nothing here, about what goes
// through the tunnel.
func encapsulated(x vswitch.ACLRule, far vswitch.AddrSetID) vswitch.ACLRule {
	x.Protocols, x.LocalPorts, x.RemotePorts = nil, nil, nil
	x.RemoteSets = append(slices.Clip(x.RemoteSets), far)
	return x
}

// hasSet: one of the rules does.
func hasSet(s *vswitch.ACLSet, id vswitch.AddrSetID) bool {
	return slices.ContainsFunc(s.Rules, func(r vswitch.ACLRule) bool { return slices.Contains(r.RemoteSets, id) })
}

// farAddrs are the prefixes that other hosts of an overlay have; routes are the network's.
// Its own subnets are here, but for the remote endpoints in them.
func (w *World) farAddrs(n *Network, routes []vswitch.Route) vswitch.AddrSet {
	s := vswitch.AddrSet{ID: n.SetNumbers[farSet], Name: "on other hosts of " + n.label()}
	for _, r := range routes {
		if r.To == vswitch.RouteTunnel {
			s.Prefixes = append(s.Prefixes, without(r.Prefix, n.prefixes())...)
		}
	}
	for _, r := range w.far.prefixed(n.Doc.Id + "/") {
		s.Prefixes = append(s.Prefixes, netip.PrefixFrom(r.Addr, r.Addr.BitLen()))
	}
	slices.SortFunc(s.Prefixes, comparePrefix)
	s.Prefixes = slices.Compact(s.Prefixes)
	return s
}

// without is p less the prefixes in it that are smaller.
func without(p netip.Prefix, less []netip.Prefix) []netip.Prefix {
	inside := func(q netip.Prefix) bool { return q.Bits() >= p.Bits() && p.Contains(q.Addr()) }
	switch {
	case slices.Contains(less, p):
		return nil
	case !slices.ContainsFunc(less, inside):
		return []netip.Prefix{p}
	}
	low := netip.PrefixFrom(p.Addr(), p.Bits()+1)
	high := netip.PrefixFrom(ipam.Last(low).Next(), p.Bits()+1)
	return append(without(low, less), without(high, less)...)
}
