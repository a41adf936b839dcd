// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// A segment is what endpoints see of an uplink, untagged or with the tag of a VLAN: a
// network of the switch. A document's network has one for each VLAN of its subnets and
// endpoints, and shares them with the other networks of its uplink, which are of the
// same type: on a wire they are one. One with the flag IsolateVSwitch has its own.

// hasSegments: frames go by MAC at an uplink.
func (n *Network) hasSegments() bool {
	return n.Uplink != "" && kinds[n.Doc.Type].flags&vswitch.NetL2 != 0
}

func (n *Network) isolated() bool { return n.Doc.Flags&isolateVSwitch != 0 }

// Numbers of the switch's networks that are n's.
func (n *Network) Numbers() []vswitch.NetworkID {
	out := []vswitch.NetworkID{n.Number}
	for _, v := range n.Segments {
		if v != n.Number {
			out = append(out, v)
		}
	}
	return out
}

// numberOf is the switch's network for endpoints in a VLAN.
func (n *Network) numberOf(vlan uint16) vswitch.NetworkID {
	if v, ok := n.Segments[vlan]; ok {
		return v
	}
	return n.Number
}

// takeNumbers gives a network its numbers in the switch: one, or one for each VLAN of
// its subnets. It keeps those that it has.
func (w *World) takeNumbers(n *Network) error {
	if !n.hasSegments() {
		if n.Number != 0 {
			return nil
		}
		var err error
		n.Number, err = w.takeNetworkNumber()
		return err
	}
	vlans := []uint16{}
	for _, s := range n.subnets {
		vlans = append(vlans, s.vlan)
	}
	if len(vlans) == 0 {
		vlans = append(vlans, 0)
	}
	for _, v := range vlans {
		if err := w.takeSegment(n, v); err != nil {
			return err
		}
	}
	if n.Number == 0 {
		n.Number = n.Segments[vlans[0]]
	}
	if err := w.checkWire(n); err != nil {
		return err
	}
	return w.checkSegments(n)
}

func (w *World) takeSegment(n *Network, vlan uint16) error {
	if _, has := n.Segments[vlan]; has {
		return nil
	}
	var number vswitch.NetworkID
	for o := range w.beside(n) {
		if v, has := o.Segments[vlan]; has && !o.isolated() && !n.isolated() {
			number = v
		}
	}
	if number == 0 {
		var err error
		if number, err = w.takeNetworkNumber(); err != nil {
			return err
		}
	}
	n.Segments = maps.Clone(n.Segments)
	if n.Segments == nil {
		n.Segments = map[uint16]vswitch.NetworkID{}
	}
	n.Segments[vlan] = number
	return nil
}

// beside yields the other networks of n's uplink.
func (w *World) beside(n *Network) func(yield func(*Network) bool) {
	return func(yield func(*Network) bool) {
		if !n.hasSegments() {
			return
		}
		for _, o := range w.networks.all {
			if o.Uplink == n.Uplink && o.Doc.Id != n.Doc.Id && !yield(o) {
				return
			}
		}
	}
}

// checkSegments refuses a network whose frames on its uplink could not be told from
// those of another that shares no switch with it.
func (w *World) checkSegments(n *Network) error {
	rewrite := kinds[n.Doc.Type].flags&vswitch.NetMACRewrite != 0
	for o := range w.beside(n) {
		for vlan, number := range n.Segments {
			other, there := o.Segments[vlan]
			if !there || other == number {
				continue
			}
			if !rewrite {
				return refuseAt(hcn.HCN_E_SHARED_SWITCH_MODIFICATION, "Flags", "IsolateVSwitch: uplink %q, %s, is the segment of %s; give one of them another VLAN",
					n.Uplink, vlanText(vlan), o.label())
			}
			for i, a := range n.subnets {
				for _, b := range o.subnets {
					if a.pool.Prefix.Overlaps(b.pool.Prefix) {
						return refuseAt(hcn.E_DUPLICATE_NAME, fmt.Sprintf("Ipams[0].Subnets[%d].IpAddressPrefix", i),
							"IsolateVSwitch: %s overlaps %s of %s on uplink %q, %s; frames from there could be for either", a.pool.Prefix, b.pool.Prefix, o.label(), n.Uplink, vlanText(vlan))
					}
				}
			}
		}
	}
	return nil
}

func vlanText(v uint16) string {
	if v == 0 {
		return "untagged"
	}
	return fmt.Sprintf("VLAN %d", v)
}

// vlanOf an endpoint: what its policy says, else that of its subnets.
func vlanOf(e *Endpoint, n *Network) (uint16, error) {
	for _, p := range e.Doc.Policies {
		if p.Type == policyVLAN {
			return parseVLAN(p.Settings)
		}
	}
	var (
		vlan  uint16
		known bool
	)
	for i, a := range e.addrs {
		s, ok := n.subnetOf(a.Addr())
		if !ok {
			continue
		}
		if known && s.vlan != vlan {
			return 0, refuseAt(hcn.HCN_E_INVALID_ENDPOINT, fmt.Sprintf("IpConfigurations[%d]", i), "%s is %s and another address %s; an endpoint is in one, choose with the policy VLAN",
				a.Addr(), vlanText(s.vlan), vlanText(vlan))
		}
		vlan, known = s.vlan, true
	}
	if !known && e.Lease != nil {
		return n.ownVLAN()
	}
	return vlan, nil
}

// plugIn has an endpoint's network reach the VLAN that it is in, where nobody else may
// have its addresses. It returns the network as it is then.
func (w *World) plugIn(e *Endpoint, n *Network) (*Network, error) {
	if !n.hasSegments() || e.IsRemote() {
		return n, nil
	}
	for i, a := range e.addrs {
		if o, held := w.heldBeside(n, e.vlan, a.Addr()); held {
			return n, refuseAt(hcn.HCN_E_ADDR_INVALID_OR_RESERVED, fmt.Sprintf("IpConfigurations[%d].IpAddress", i), "%s is held by %s on uplink %q, %s",
				a.Addr(), w.endpointLabel(o), n.Uplink, vlanText(e.vlan))
		}
	}
	if o, held := w.inBeside(n, e.vlan, w.macs, func(o *Network) string { return macKey(o.Doc.Id, e.mac) }); held {
		return n, refuseAt(hcn.HCN_E_INVALID_ENDPOINT, "MacAddress", "%s is held by %s on uplink %q, %s", e.mac, w.endpointLabel(o), n.Uplink, vlanText(e.vlan))
	}
	if e.mac == n.sourceMAC {
		return n, refuseAt(hcn.HCN_E_INVALID_ENDPOINT, "MacAddress", "%s stands for all endpoints of %s at its uplink (SourceMacAddress)", e.mac, n.label())
	}
	if _, has := n.Segments[e.vlan]; has {
		return n, nil
	}
	c := *n
	if err := w.takeSegment(&c, e.vlan); err != nil {
		return n, err
	}
	if err := w.checkWire(&c); err != nil {
		return n, err
	}
	if err := w.checkSegments(&c); err != nil {
		return n, err
	}
	w.putNetwork(&c)
	return &c, nil
}

// heldBeside finds who has an address in a VLAN of n's uplink by another network.
func (w *World) heldBeside(n *Network, vlan uint16, a netip.Addr) (endpoint string, held bool) {
	return w.inBeside(n, vlan, w.addrs, func(o *Network) string { return addrKey(o.Doc.Id, a) })
}

func (w *World) inBeside(n *Network, vlan uint16, index pmap[string], key func(*Network) string) (string, bool) {
	for o := range w.beside(n) {
		if id, ok := index.get(key(o)); ok {
			if e, ok := w.endpoints.get(id); ok && e.vlan == vlan {
				return id, true
			}
		}
	}
	return "", false
}

// compileSegments are the switch's networks of n, which differ from p by their VLAN.
func compileSegments(n *Network, p vswitch.Network) []vswitch.Network {
	var out []vswitch.Network
	for _, vlan := range slices.Sorted(maps.Keys(n.Segments)) {
		s := p
		s.ID, s.VLAN = n.Segments[vlan], vlan
		s.Zone = vswitch.Zone(s.ID)
		out = append(out, s)
	}
	return out
}

// addSegments adds a network's to those of the switch; what another has, too, gets the
// subnets and NeighborDiscovery policies of both.
func addSegments(all []vswitch.Network, shared map[vswitch.NetworkID]int, more []vswitch.Network) []vswitch.Network {
	for _, s := range more {
		i, there := shared[s.ID]
		if !there {
			shared[s.ID] = len(all)
			all = append(all, s)
			continue
		}
		all[i].Subnets = covering(all[i].Subnets, s.Subnets)
		for _, a := range s.Asked {
			if !slices.ContainsFunc(all[i].Asked, func(b vswitch.Asked) bool { return a.Prefix == b.Prefix }) {
				all[i].Asked = append(slices.Clip(all[i].Asked), a)
			}
		}
	}
	return all
}

// covering are the subnets of both lists that none of the others contains.
func covering(a, b []vswitch.Subnet) []vswitch.Subnet {
	var out []vswitch.Subnet
	for i, s := range slices.Concat(a, b) {
		inside := false
		for j, o := range slices.Concat(a, b) {
			inside = inside || i != j && o.Prefix.Overlaps(s.Prefix) && (o.Prefix.Bits() < s.Prefix.Bits() || o.Prefix == s.Prefix && j < i)
		}
		if !inside {
			out = append(out, s)
		}
	}
	return out
}
