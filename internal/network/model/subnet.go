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
	"gatehouse.dev/gatehouse/internal/network/ipam"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// fillSubnets checks the subnets of a new network and adds what is left out.
func (w *World) fillSubnets(d *NetworkDoc, in Input) error {
	keep := w.keepClear(d, in)
	host := kinds[d.Type].host
	d.Ipams = slices.Clone(d.Ipams)
	count := 0
	for i := range d.Ipams {
		if err := checkIpamType(d.Ipams[i].Type, d.Type); err != nil {
			return at(fmt.Sprintf("Ipams[%d]", i), err)
		}
		d.Ipams[i].Subnets = slices.Clone(d.Ipams[i].Subnets)
		count += len(d.Ipams[i].Subnets)
	}
	dual := false
	if count == 0 && host {
		// Addresses of our choice: IPv4, and for NAT also IPv6.
		d.Ipams = []Ipam{{Type: "Static", Subnets: []Subnet{{}}}}
		dual = translates(d.Type)
	}
	// Explicit prefixes first: automatic ones keep clear of them.
	own := map[string]netip.Prefix{}
	for _, automatic := range []bool{false, true} {
		for i := range d.Ipams {
			for j := range d.Ipams[i].Subnets {
				s := &d.Ipams[i].Subnets[j]
				field := fmt.Sprintf("Ipams[%d].Subnets[%d]", i, j)
				if (s.IpAddressPrefix == "") != automatic {
					continue
				}
				p, err := fillPrefix(s, d, field, own, keep)
				if err != nil {
					return err
				}
				if isDHCP(d.Ipams[i].Type) && p.Addr().Is6() {
					return refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, field+".IpAddressPrefix", "%s: addresses by DHCP are IPv4 ones, DHCPv6 is not spoken; put the prefix into an Ipam of type Static", p)
				}
				own[field] = p
				if err := fillSubnet(s, p, d, in); err != nil {
					return at(field, err)
				}
			}
		}
	}
	if p := ipam.UniqueLocal(d.Id); dual && !slices.ContainsFunc(slices.Concat(keep.host, keep.pools), func(o netip.Prefix) bool { return o.Bits() > 0 && o.Overlaps(p) }) {
		var s Subnet
		if err := fillSubnet(&s, p, d, in); err != nil {
			return err
		}
		d.Ipams[0].Subnets = append(d.Ipams[0].Subnets, s)
	}
	return nil
}

// kept is what a network's prefixes may not overlap.
type kept struct {
	taken map[netip.Prefix]string // other networks' prefixes and services' addresses, with whose they are
	host  []netip.Prefix
	pools []netip.Prefix // of services: no prefix is chosen there
}

// keepClear finds it; nothing where the host has nothing to do with the network.
func (w *World) keepClear(d *NetworkDoc, in Input) (k kept) {
	if !kinds[d.Type].host {
		return k
	}
	if in.Avoid != nil {
		k.host = in.Avoid()
	}
	k.taken, k.pools = w.prefixesTaken(), slices.Concat(in.Services.Cluster, in.Services.LoadBalancer)
	for text, id := range w.serving.all {
		if a, err := netip.ParseAddr(text); err == nil {
			k.taken[netip.PrefixFrom(a, a.BitLen())] = w.serviceLabel(id)
		}
	}
	return k
}

// fillPrefix is the prefix that a subnet names, or one of our choice.
func fillPrefix(s *Subnet, d *NetworkDoc, field string, own map[string]netip.Prefix, keep kept) (netip.Prefix, error) {
	if s.IpAddressPrefix == "" && !kinds[d.Type].host {
		return netip.Prefix{}, refuseAt(hcn.HCN_E_INVALID_PREFIX, field+".IpAddressPrefix", "is empty: on a network of type %s no prefix is chosen for you", d.Type)
	}
	return choosePrefix(s.IpAddressPrefix, field, own, keep)
}

// prefixesTaken of other networks that the host has to do with, with the network's name.
func (w *World) prefixesTaken() map[netip.Prefix]string {
	taken := map[netip.Prefix]string{}
	for _, n := range w.networks.all {
		if k := kinds[n.Doc.Type]; !k.host && !k.uplink {
			continue
		}
		for _, p := range n.prefixes() {
			taken[p] = n.label()
		}
	}
	return taken
}

// label names a network to people.
func (n *Network) label() string {
	if n.Doc.Name != "" {
		return fmt.Sprintf("network %q", n.Doc.Name)
	}
	return "network " + n.Doc.Id
}

func choosePrefix(text, field string, own map[string]netip.Prefix, keep kept) (netip.Prefix, error) {
	if text == "" {
		all := slices.Concat(keep.host, keep.pools)
		for p := range keep.taken {
			all = append(all, p)
		}
		for _, p := range own {
			all = append(all, p)
		}
		p, err := ipam.ChoosePrefix(all)
		if err != nil {
			return p, refuseAt(hcn.HCN_E_INVALID_SUBNET, field, "no prefix is free: %v; name one", err)
		}
		return p, nil
	}
	field += ".IpAddressPrefix"
	p, err := parsePrefix(text)
	if err != nil {
		return p, refuseAt(hcn.HCN_E_INVALID_PREFIX, field, "%q: %v", text, err)
	}
	if err := checkLocalPrefix(p); err != nil {
		return p, refuseAt(hcn.HCN_E_INVALID_PREFIX, field, "%q: %v", text, err)
	}
	for o, who := range keep.taken {
		if o.Overlaps(p) {
			return p, refuseAt(hcn.E_DUPLICATE_NAME, field, "%s overlaps %s of %s", p, o, who)
		}
	}
	for other, o := range own {
		if o.Overlaps(p) {
			return p, refuseAt(hcn.E_DUPLICATE_NAME, field, "%s overlaps %s of %s", p, o, other)
		}
	}
	for _, o := range keep.host {
		if o.Bits() > 0 && o.Overlaps(p) {
			return p, refuseAt(hcn.E_DUPLICATE_NAME, field, "%s overlaps %s, which the host routes already", p, o)
		}
	}
	return p, nil
}

// parsePrefix accepts host bits and masks them.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("not a prefix such as 10.1.0.0/24")
	}
	if p.Addr().Is4In6() {
		return p, fmt.Errorf("write an IPv4 prefix as IPv4")
	}
	return p.Masked(), nil
}

func checkLocalPrefix(p netip.Prefix) error {
	a := p.Addr()
	switch {
	case p.Bits() == 0:
		return fmt.Errorf("that is every address")
	case a.IsMulticast() || a.Is4() && a.As4()[0] >= 224:
		return fmt.Errorf("that is multicast or reserved")
	case a.IsLoopback() || a.Is4() && (a.As4()[0] == 127 || a.As4()[0] == 0):
		return fmt.Errorf("that is the host itself")
	case a.Is4() && p.Bits() < 8 || a.Is6() && p.Bits() < 16:
		return fmt.Errorf("too large for one network")
	case a.BitLen()-p.Bits() < 1:
		return fmt.Errorf("no room for a gateway and an endpoint")
	}
	return nil
}

func checkIpamType(t string, of hcn.NetworkType) error {
	switch {
	case t == "" || strings.EqualFold(t, "Static"):
		return nil
	case isDHCP(t) && lendsOn(of):
		return nil
	case isDHCP(t):
		return refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "Type", "Dhcp: nobody on a network of type %s could be asked; Transparent and L2Bridge are on a segment that may have a DHCP server", of)
	}
	return refuseAt(hcn.HCN_E_INVALID_NETWORK, "Type", "%q is not Static or Dhcp", t)
}

// fillSubnet checks one subnet whose prefix is chosen, and adds id and gateway.
func fillSubnet(s *Subnet, p netip.Prefix, d *NetworkDoc, in Input) error {
	if s.IpAddressPrefix == "" {
		s.IpAddressPrefix = p.String()
	}
	var err error
	if s.ID, err = takeID(s.ID, in.NewID); err != nil {
		return err
	}
	if s.Flags&^hcn.SubnetFlagsDoNotReserveGatewayAddress != 0 {
		return refuseAt(hcn.E_INVALID_PARAMETER, "Flags", "%d has unknown bits", s.Flags)
	}
	types := map[hcn.SubnetPolicyType]bool{}
	for i, raw := range s.Policies {
		_, err := parseSubnetPolicy(raw, d.Type)
		if p := (hcn.SubnetPolicy{}); err == nil && json.Unmarshal(raw, &p) == nil {
			if types[p.Type] {
				err = refuseAt(hcn.HCN_E_POLICY_ALREADY_EXISTS, "Type", "the subnet has a %s already", p.Type)
			}
			types[p.Type] = true
		}
		if err != nil {
			return at(fmt.Sprintf("Policies[%d]", i), err)
		}
	}
	s.IpSubnets = slices.Clone(s.IpSubnets)
	for i := range s.IpSubnets {
		if err := fillIPSubnet(&s.IpSubnets[i], p, in); err != nil {
			return at(fmt.Sprintf("IpSubnets[%d]", i), err)
		}
	}
	if err := checkRoutes(s.Routes); err != nil {
		return err
	}
	if hasDefault := slices.ContainsFunc(s.Routes, isDefault); !hasDefault && (hasHostNIC(d) || d.Type == hcn.Overlay) {
		s.Routes = append(slices.Clone(s.Routes), hcn.Route{
			NextHop: ipam.First(p).String(), DestinationPrefix: defaultOf(p.Addr()).String(),
		})
	}
	sub, err := parseSubnet(*s)
	if err != nil {
		return err
	}
	if g := sub.gateway; g.IsValid() {
		if err := (ipam.Pool{Prefix: p}).Check(g); err != nil {
			return refuseAt(hcn.HCN_E_INVALID_IP, "Routes", "the gateway: %v", err)
		}
	}
	return nil
}

// fillIPSubnet checks a pool inside p, and adds its id.
func fillIPSubnet(is *IpSubnet, p netip.Prefix, in Input) error {
	ip, err := parsePrefix(is.IpAddressPrefix)
	if err != nil || !p.Contains(ip.Addr()) || ip.Bits() < p.Bits() {
		return refuseAt(hcn.HCN_E_INVALID_IP_SUBNET, "IpAddressPrefix", "%q is not a part of %s", is.IpAddressPrefix, p)
	}
	is.ID, err = takeID(is.ID, in.NewID)
	return err
}

func checkRoutes(rs []hcn.Route) error {
	for i, r := range rs {
		if _, err := parsePrefix(r.DestinationPrefix); err != nil {
			return refuseAt(hcn.HCN_E_INVALID_PREFIX, fmt.Sprintf("Routes[%d].DestinationPrefix", i), "%q: %v", r.DestinationPrefix, err)
		}
		if r.NextHop == "" {
			continue
		}
		if a, err := netip.ParseAddr(r.NextHop); err != nil || a.Zone() != "" || a.IsMulticast() {
			return refuseAt(hcn.HCN_E_INVALID_IP, fmt.Sprintf("Routes[%d].NextHop", i), "%q is not the address of a router", r.NextHop)
		}
	}
	return nil
}

func isDefault(r hcn.Route) bool {
	p, err := parsePrefix(r.DestinationPrefix)
	return err == nil && p.Bits() == 0
}

func defaultOf(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

func parseSubnet(s Subnet) (subnet, error) {
	p, err := parsePrefix(s.IpAddressPrefix)
	if err != nil {
		return subnet{}, refuseAt(hcn.HCN_E_INVALID_PREFIX, "IpAddressPrefix", "%q: %v", s.IpAddressPrefix, err)
	}
	out := subnet{id: s.ID, pool: ipam.Pool{Prefix: p}, pools: map[string]netip.Prefix{s.ID: p}}
	for _, r := range s.Routes {
		if isDefault(r) && r.NextHop != "" {
			if g, err := netip.ParseAddr(r.NextHop); err == nil && g.Is4() == p.Addr().Is4() && !g.IsUnspecified() {
				out.gateway = g
				break
			}
		}
	}
	if s.Flags&hcn.SubnetFlagsDoNotReserveGatewayAddress == 0 {
		out.pool.Gateway = out.gateway
	}
	for _, is := range s.IpSubnets {
		if ip, err := parsePrefix(is.IpAddressPrefix); err == nil {
			out.pools[is.ID] = ip
		}
	}
	out.vsid = vsidOf(s.Policies)
	for _, raw := range s.Policies {
		if v, err := parseSubnetPolicy(raw, hcn.Transparent); err == nil && v != 0 {
			out.vlan = v
		}
	}
	return out, nil
}

// parseSubnetPolicy checks a policy of a subnet and returns the VLAN that it asks for, 0 = none.
func parseSubnetPolicy(raw json.RawMessage, t hcn.NetworkType) (uint16, error) {
	var p hcn.SubnetPolicy
	if err := json.Unmarshal(raw, &p); err != nil {
		return 0, refuse(hcn.HCN_E_INVALID_POLICY, "not a policy: %v", err)
	}
	switch p.Type {
	case hcn.VLAN:
		if t == hcn.Overlay {
			return 0, refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "Type", "VLAN: an overlay's frames are told apart by VSID")
		}
		if !bindsUplink(t) {
			return 0, refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "Type", "VLAN needs a network with an uplink, where the tag is; %s has none", t)
		}
		v, err := parseVLAN(p.Settings)
		return v, at("Settings", err)
	case hcn.VSID:
		if t == hcn.Overlay {
			_, err := parseVSID(p.Settings)
			return 0, at("Settings", err)
		}
		return 0, refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "Type", "VSID needs a network of type Overlay")
	}
	return 0, refuseAt(hcn.HCN_E_INVALID_POLICY_TYPE, "Type", "%q is not a policy of subnets", p.Type)
}

// policyVLAN of an endpoint is in the schema alone.
const policyVLAN hcn.EndpointPolicyType = "VLAN"

// parseVLAN reads the settings of a VLAN policy.
func parseVLAN(raw json.RawMessage) (uint16, error) {
	var s hcn.VlanPolicySetting
	if err := decodeMembers(raw, &s); err != nil {
		return 0, err
	}
	if s.IsolationId == 0 || s.IsolationId > vswitch.MaxVLAN {
		return 0, refuseAt(hcn.HCN_E_INVALID_POLICY, "IsolationId", "%d: tags are 1 to %d", s.IsolationId, vswitch.MaxVLAN)
	}
	return uint16(s.IsolationId), nil
}

// checkDNS refuses what no resolver could use.
func checkDNS(d hcn.Dns) error {
	for i, s := range d.ServerList {
		if a, err := netip.ParseAddr(s); err != nil || a.IsUnspecified() || a.IsMulticast() {
			return refuseAt(hcn.HCN_E_INVALID_IP, fmt.Sprintf("ServerList[%d]", i), "%q is not the address of a server", s)
		}
	}
	if d.Domain != "" && !isHostName(d.Domain) {
		return refuseAt(hcn.E_INVALID_PARAMETER, "Domain", "%q is not a domain name", d.Domain)
	}
	for i, s := range d.Search {
		if !isHostName(s) && s != "." {
			return refuseAt(hcn.E_INVALID_PARAMETER, fmt.Sprintf("Search[%d]", i), "%q is not a domain name", s)
		}
	}
	for i, s := range d.Options {
		if strings.ContainsAny(s, "\n\r\x00") {
			return refuseAt(hcn.E_INVALID_PARAMETER, fmt.Sprintf("Options[%d]", i), "more than one line")
		}
	}
	return nil
}

// isHostName: labels of RFC 1123 and the underscores that people use.
func isHostName(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

func modifyDNS(have hcn.Dns, r modifyRequest) (hcn.Dns, error) {
	switch r.RequestType {
	case hcn.RequestTypeAdd, hcn.RequestTypeUpdate:
		var d hcn.Dns
		if err := decode(r.Settings, &d); err != nil {
			return d, at("Settings", err)
		}
		return d, at("Settings", checkDNS(d))
	case hcn.RequestTypeRemove, "Reset":
		return hcn.Dns{}, nil
	case hcn.RequestTypeRefresh:
		return have, nil
	}
	return have, badRequestType(r.RequestType)
}

func badRequestType(t hcn.RequestType) error {
	return refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "RequestType", "%q is not one of Add, Remove, Update, Refresh, Reset", t)
}

// inheritedDNS is what endpoints without their own get: the network's, served by
// the resolver on the gateway unless the network names servers.
func (n *Network) inheritedDNS() hcn.Dns {
	d := n.Doc.Dns
	if len(d.ServerList) == 0 && n.HostPort != 0 {
		for _, g := range n.gateways() {
			d.ServerList = append(slices.Clip(d.ServerList), g.String())
		}
	}
	return d
}
