// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/hcn"
)

// modifySubnets adds subnets to a network or takes some away.
func (w *World) modifySubnets(n *Network, r modifyRequest, in Input) error {
	var req struct{ Subnets []Subnet }
	if r.RequestType == hcn.RequestTypeRefresh {
		return nil
	}
	if err := decode(r.Settings, &req); err != nil {
		return at("Settings", err)
	}
	n.Doc.Ipams = slices.Clone(n.Doc.Ipams)
	for i := range n.Doc.Ipams {
		n.Doc.Ipams[i].Subnets = slices.Clone(n.Doc.Ipams[i].Subnets)
	}
	switch r.RequestType {
	case hcn.RequestTypeAdd:
		if err := w.addSubnets(n, req.Subnets, in); err != nil {
			return err
		}
	case hcn.RequestTypeRemove:
		for i, s := range req.Subnets {
			if err := w.removeSubnet(n, s); err != nil {
				return at(fmt.Sprintf("Settings.Subnets[%d]", i), err)
			}
		}
	default:
		return refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "RequestType", "%q: Add and Remove are what subnets know", r.RequestType)
	}
	if err := w.fillVSIDs(&n.Doc); err != nil {
		return err
	}
	if err := n.parse(); err != nil {
		return err
	}
	if kinds[n.Doc.Type].host && len(n.subnets) == 0 {
		return refuseAt(hcn.HCN_E_INVALID_NETWORK, "Settings.Subnets", "a network of type %s keeps at least one", n.Doc.Type)
	}
	if err := w.takeNumbers(n); err != nil {
		return err
	}
	return w.checkBound(n, in)
}

func (w *World) addSubnets(n *Network, add []Subnet, in Input) error {
	keep := w.keepClear(&n.Doc, in)
	if keep.taken == nil {
		keep.taken = map[netip.Prefix]string{}
		for _, p := range n.prefixes() {
			keep.taken[p] = n.label()
		}
	}
	to := slices.IndexFunc(n.Doc.Ipams, func(i Ipam) bool { return !isDHCP(i.Type) })
	if to < 0 {
		to = len(n.Doc.Ipams)
		n.Doc.Ipams = append(n.Doc.Ipams, Ipam{Type: "Static"})
	}
	own := map[string]netip.Prefix{}
	for i, s := range add {
		field := fmt.Sprintf("Settings.Subnets[%d]", i)
		p, err := fillPrefix(&s, &n.Doc, field, own, keep)
		if err != nil {
			return err
		}
		own[field] = p
		if _, _, known := n.poolByID(s.ID); known && s.ID != "" {
			return refuseAt(hcn.E_ALREADY_EXISTS, field+".ID", "%s has a subnet %s", n.label(), s.ID)
		}
		if err := fillSubnet(&s, p, &n.Doc, in); err != nil {
			return at(field, err)
		}
		n.Doc.Ipams[to].Subnets = append(n.Doc.Ipams[to].Subnets, s)
	}
	return nil
}

// removeSubnet by its id, or by its prefix. One that is not there is gone already.
func (w *World) removeSubnet(n *Network, gone Subnet) error {
	p, err := parsePrefix(gone.IpAddressPrefix)
	if gone.ID == "" && err != nil {
		return refuseAt(hcn.HCN_E_INVALID_PREFIX, "IpAddressPrefix", "%q: %v; or give the ID", gone.IpAddressPrefix, err)
	}
	for i := range n.Doc.Ipams {
		subnets := n.Doc.Ipams[i].Subnets
		for j, s := range subnets {
			have, _ := parsePrefix(s.IpAddressPrefix)
			if gone.ID != "" && !strings.EqualFold(gone.ID, s.ID) || gone.ID == "" && have != p {
				continue
			}
			if err := w.checkUnused(n, have); err != nil {
				return err
			}
			n.Doc.Ipams[i].Subnets = slices.Delete(subnets, j, j+1)
			return nil
		}
	}
	return nil
}

// checkUnused refuses to take a prefix from a network in which somebody is.
func (w *World) checkUnused(n *Network, p netip.Prefix) error {
	for _, e := range w.EndpointsOf(n.Doc.Id) {
		for _, a := range e.addrs {
			if p.Contains(a.Addr()) {
				return refuse(hcn.HCN_E_ENTITY_HAS_REFERENCES, "%s is in use: %s has %s; delete it first", p, w.endpointLabel(e.Doc.Id), a.Addr())
			}
		}
	}
	for key := range w.hops.prefixed(n.Doc.Id + "/") {
		if raw := []byte(key[len(n.Doc.Id)+1:]); len(raw) == 16 {
			if hop := netip.AddrFrom16([16]byte(raw)).Unmap(); p.Contains(hop) {
				return refuse(hcn.HCN_E_ENTITY_HAS_REFERENCES, "%s is in use: an SDN route leads by %s; delete it first", p, hop)
			}
		}
	}
	return nil
}

// modifyIPSubnets adds pools to a subnet or takes some away.
func (w *World) modifyIPSubnets(n *Network, r modifyRequest, in Input) error {
	var req struct {
		SubnetId  string
		IpSubnets []IpSubnet
	}
	if r.RequestType == hcn.RequestTypeRefresh {
		return nil
	}
	if err := decode(r.Settings, &req); err != nil {
		return at("Settings", err)
	}
	n.Doc.Ipams = slices.Clone(n.Doc.Ipams)
	var s *Subnet
	for i := range n.Doc.Ipams {
		n.Doc.Ipams[i].Subnets = slices.Clone(n.Doc.Ipams[i].Subnets)
		for j := range n.Doc.Ipams[i].Subnets {
			if strings.EqualFold(n.Doc.Ipams[i].Subnets[j].ID, req.SubnetId) {
				s = &n.Doc.Ipams[i].Subnets[j]
			}
		}
	}
	if s == nil {
		return refuseAt(hcn.HCN_E_SUBNET_NOT_FOUND, "Settings.SubnetId", "%s has no subnet %q", n.label(), req.SubnetId)
	}
	s.IpSubnets = slices.Clone(s.IpSubnets)
	for i, is := range req.IpSubnets {
		var err error
		switch r.RequestType {
		case hcn.RequestTypeAdd:
			err = addIPSubnet(n, s, is, in)
		case hcn.RequestTypeRemove:
			err = w.removeIPSubnet(n, s, is)
		default:
			return refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "RequestType", "%q: Add and Remove are what pools know", r.RequestType)
		}
		if err != nil {
			return at(fmt.Sprintf("Settings.IpSubnets[%d]", i), err)
		}
	}
	return n.parse()
}

func addIPSubnet(n *Network, s *Subnet, is IpSubnet, in Input) error {
	p, err := parsePrefix(s.IpAddressPrefix)
	if err != nil {
		return err
	}
	if _, _, known := n.poolByID(is.ID); known && is.ID != "" {
		return refuseAt(hcn.E_ALREADY_EXISTS, "ID", "%s has a pool %s", n.label(), is.ID)
	}
	if err := fillIPSubnet(&is, p, in); err != nil {
		return err
	}
	s.IpSubnets = append(s.IpSubnets, is)
	return nil
}

// removeIPSubnet by its id, or by its prefix. One that is not there is gone already.
func (w *World) removeIPSubnet(n *Network, s *Subnet, gone IpSubnet) error {
	p, err := parsePrefix(gone.IpAddressPrefix)
	if gone.ID == "" && err != nil {
		return refuseAt(hcn.HCN_E_INVALID_IP_SUBNET, "IpAddressPrefix", "%q: %v; or give the ID", gone.IpAddressPrefix, err)
	}
	for i, is := range s.IpSubnets {
		have, _ := parsePrefix(is.IpAddressPrefix)
		if gone.ID != "" && !strings.EqualFold(gone.ID, is.ID) || gone.ID == "" && have != p {
			continue
		}
		if err := w.checkUnused(n, have); err != nil {
			return err
		}
		s.IpSubnets = slices.Delete(s.IpSubnets, i, i+1)
		return nil
	}
	return nil
}

// modifyExtension keeps what a request says of an extension of the vSwitch as the
// policy that says the same. It has no effect.
func modifyExtension(have []hcn.NetworkPolicy, r modifyRequest) ([]hcn.NetworkPolicy, error) {
	var req struct {
		Id        string
		IsEnabled bool
	}
	if r.RequestType == hcn.RequestTypeRefresh {
		return have, nil
	}
	if err := decode(r.Settings, &req); err != nil {
		return nil, at("Settings", err)
	}
	if _, ok := parseGUID(req.Id); !ok {
		return nil, refuseAt(hcn.HCN_E_GUID_CONVERSION_FAILURE, "Settings.Id", "%q is not a GUID", req.Id)
	}
	settings, err := json.Marshal(hcn.VSwitchExtensionNetworkPolicySetting{ExtensionID: req.Id, Enable: req.IsEnabled})
	if err != nil {
		return nil, err
	}
	p := hcn.NetworkPolicy{Type: hcn.VSwitchExtension, Settings: settings}
	i := slices.IndexFunc(have, func(q hcn.NetworkPolicy) bool { return networkPolicyKey(p) == networkPolicyKey(q) })
	have = slices.Clone(have)
	switch r.RequestType {
	case hcn.RequestTypeAdd, hcn.RequestTypeUpdate:
		if i < 0 {
			return append(have, p), nil
		}
		have[i].Settings = setMember(have[i].Settings, "Enable", fmt.Appendf(nil, "%v", req.IsEnabled))
	case hcn.RequestTypeRemove:
		if i >= 0 {
			have = slices.Delete(have, i, i+1)
		}
	default:
		return nil, refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "RequestType", "%q: Add, Update and Remove are what extensions know", r.RequestType)
	}
	return have, nil
}
