// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"net/netip"
	"slices"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/network/ipam"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// What policies say of a network's segments of the uplink: the MAC that stands for its
// endpoints, who stands for addresses that nobody here has, and whether the host is on
// them.

const neighborDiscovery hcn.NetworkPolicyType = "NeighborDiscovery"

// neighborSettings are those of NeighborDiscovery. SenderIpAddress is stored only: an
// answer is in the name of who was asked for.
type neighborSettings struct{ TargetIpPrefix, SenderIpAddress, SenderMacAddress string }

// parseSourceMAC reads a SourceMacAddress policy on a network of a type.
func parseSourceMAC(p hcn.NetworkPolicy, t hcn.NetworkType) (ipam.MAC, error) {
	if kinds[t].flags&vswitch.NetMACRewrite == 0 {
		return ipam.MAC{}, refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "Type", "%s is for networks whose endpoints share one MAC outside, L2Bridge and L2Tunnel, not %s", p.Type, t)
	}
	var s hcn.SourceMacAddressNetworkPolicySetting
	if err := decodeMembers(p.Settings, &s); err != nil {
		return ipam.MAC{}, at("Settings", err)
	}
	m, err := parseRouterMAC(s.SourceMacAddress, "SourceMacAddress")
	return m, at("Settings", err)
}

// parseNeighbors reads a NeighborDiscovery policy.
func parseNeighbors(p hcn.NetworkPolicy) (vswitch.Asked, error) {
	var (
		s   neighborSettings
		out vswitch.Asked
	)
	if err := decodeMembers(p.Settings, &s); err != nil {
		return out, at("Settings", err)
	}
	prefix, err := parsePrefix(s.TargetIpPrefix)
	if err != nil || prefix.Addr().Is6() && prefix.Contains(netip.AddrFrom16(netip.IPv4Unspecified().As16())) {
		return out, refuseAt(hcn.HCN_E_INVALID_PREFIX, "Settings.TargetIpPrefix", "%q is not the prefix of addresses to answer for, such as 10.1.0.0/24", s.TargetIpPrefix)
	}
	if s.SenderIpAddress != "" {
		if a, err := netip.ParseAddr(s.SenderIpAddress); err != nil || a.Is4() != prefix.Addr().Is4() {
			return out, refuseAt(hcn.HCN_E_INVALID_IP, "Settings.SenderIpAddress", "%q is no address of the family of %s", s.SenderIpAddress, prefix)
		}
	}
	mac, err := parseRouterMAC(s.SenderMacAddress, "SenderMacAddress")
	if err != nil {
		return out, at("Settings", err)
	}
	return vswitch.Asked{Prefix: prefix, MAC: vswitch.MAC(mac)}, nil
}

// parseWire derives the policies' meaning from the document.
func (n *Network) parseWire() error {
	n.sourceMAC, n.asked = ipam.MAC{}, nil
	for i, p := range n.Doc.Policies {
		switch p.Type {
		case hcn.SourceMacAddress:
			m, err := parseSourceMAC(p, n.Doc.Type)
			if err != nil {
				return at(fmt.Sprintf("Policies[%d]", i), err)
			}
			n.sourceMAC = m
		case neighborDiscovery:
			a, err := parseNeighbors(p)
			if err != nil {
				return at(fmt.Sprintf("Policies[%d]", i), err)
			}
			n.asked = append(n.asked, a)
		}
	}
	return nil
}

// hostless: the host is no member of the network's segments.
func (n *Network) hostless() bool {
	return n.hasSegments() && n.Doc.Flags&hcn.DisableHostPort != 0
}

// checkWire refuses what the networks that share a segment with n, or its endpoints,
// contradict.
func (w *World) checkWire(n *Network) error {
	if n.sourceMAC != (ipam.MAC{}) {
		ranges, _ := macRanges(n.Doc.MacPool)
		if slices.ContainsFunc(ranges, func(r ipam.MACRange) bool { return r.Contains(n.sourceMAC) }) {
			return refuseAt(hcn.HCN_E_INVALID_POLICY, "SourceMacAddress", "%s is in MacPool, which is for endpoints; take another", n.sourceMAC)
		}
		if id, held := w.macs.get(macKey(n.Doc.Id, n.sourceMAC)); held {
			return refuseAt(hcn.HCN_E_INVALID_POLICY, "SourceMacAddress", "%s is held by %s", n.sourceMAC, w.endpointLabel(id))
		}
	}
	for o := range w.beside(n) {
		for vlan, number := range n.Segments {
			if o.Segments[vlan] != number {
				continue
			}
			where := fmt.Sprintf("%s shares uplink %q, %s, with it; make them alike, or set IsolateVSwitch", o.label(), n.Uplink, vlanText(vlan))
			switch {
			case o.hostless() != n.hostless():
				return refuseAt(hcn.HCN_E_SHARED_SWITCH_MODIFICATION, "Flags", "DisableHostPort is set on one of two: %s", where)
			case o.sourceMAC != n.sourceMAC:
				return refuseAt(hcn.HCN_E_SHARED_SWITCH_MODIFICATION, "SourceMacAddress", "is another than that of the second: %s", where)
			}
			for _, a := range n.asked {
				if slices.ContainsFunc(o.asked, func(b vswitch.Asked) bool { return a.Prefix == b.Prefix && a.MAC != b.MAC }) {
					return refuseAt(hcn.HCN_E_SHARED_SWITCH_MODIFICATION, "NeighborDiscovery", "%s is answered with another MAC: %s", a.Prefix, where)
				}
			}
		}
	}
	return nil
}

// constrain binds e, whose policies are those, to the interface that an
// InterfaceConstraint on it means.
func (w *World) constrain(e *Endpoint, policies []hcn.EndpointPolicy, n *Network, in Input) error {
	was := e.Doc.Policies
	uplink := e.Uplink
	e.Uplink = ""
	for i, p := range policies {
		if p.Type != hcn.NetworkInterfaceConstraint {
			continue
		}
		if uplink != "" && slices.ContainsFunc(was, func(q hcn.EndpointPolicy) bool {
			return q.Type == p.Type && canonical(q.Settings) == canonical(p.Settings)
		}) {
			e.Uplink = uplink // whether it is there now or not
			continue
		}
		field := fmt.Sprintf("Policies[%d].Settings", i)
		c, err := parseInterfaceConstraint(p.Settings)
		if err != nil {
			return at(field, err)
		}
		u, err := w.choose(c, in.uplinks())
		if err == nil && n.Uplink != "" && u.Name != n.Uplink {
			err = refuse(hcn.HCN_E_ADAPTER_NOT_FOUND, "means %q, but %s is bound to uplink %q, by which its endpoints leave", u.Name, n.label(), n.Uplink)
		}
		if err != nil {
			return at(field+"."+c.member, err)
		}
		e.Uplink = u.Name
	}
	return nil
}
