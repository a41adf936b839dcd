// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hnsv1

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/hns"
)

// networkDoc is a network of v2 with the members that the Go struct lacks.
type networkDoc struct {
	hcn.HostComputeNetwork
	AdditionalParams json.RawMessage `json:",omitempty"`
}

// networkTypes in v2's spelling; programs of v1 write them in small letters.
func networkType(s string) hcn.NetworkType {
	for _, t := range []hcn.NetworkType{hcn.NAT, hcn.Transparent, hcn.L2Bridge, hcn.L2Tunnel, hcn.ICS, hcn.Private, hcn.Internal, hcn.Overlay} {
		if strings.EqualFold(s, string(t)) {
			return t
		}
	}
	return hcn.NetworkType(s)
}

func networkUp(n hns.Network) (json.RawMessage, error) {
	d := networkDoc{HostComputeNetwork: hcn.HostComputeNetwork{Id: n.Id, Name: n.Name, Type: networkType(n.Type),
		Flags: hcn.NetworkFlags(n.Flags), Dns: dnsUp(n.DNSSuffix, "", n.DNSServerList), SchemaVersion: hcn.V2SchemaVersion()}}
	for _, p := range n.MacPools {
		d.MacPool.Ranges = append(d.MacPool.Ranges, hcn.MacRange(p))
	}
	add := func(typ hcn.NetworkPolicyType, settings any) error {
		raw, err := encode(settings)
		d.Policies = append(d.Policies, hcn.NetworkPolicy{Type: typ, Settings: raw})
		return err
	}
	var err error
	if n.NetworkAdapterName != "" {
		err = add(hcn.NetAdapterName, hcn.NetAdapterNameNetworkPolicySetting{NetworkAdapterName: n.NetworkAdapterName})
	}
	if err == nil && n.SourceMac != "" {
		err = add(hcn.SourceMacAddress, hcn.SourceMacAddressNetworkPolicySetting{SourceMacAddress: n.SourceMac})
	}
	if err == nil && n.ManagementIP != "" {
		addr, _, _ := strings.Cut(n.ManagementIP, "/") // Antrea gives it with its length
		err = add(hcn.ProviderAddress, hcn.ProviderAddressEndpointPolicySetting{ProviderAddress: addr})
	}
	if err == nil && n.AutomaticDNS {
		err = add(hcn.AutomaticDNS, hcn.AutomaticDNSNetworkPolicySetting{Enable: true})
	}
	for _, e := range n.Extensions {
		if err == nil {
			err = add(hcn.VSwitchExtension, hcn.VSwitchExtensionNetworkPolicySetting{ExtensionID: e.Id, Enable: e.IsEnabled})
		}
	}
	if err != nil {
		return nil, err
	}
	x := extras{DNSServerCompartment: n.DNSServerCompartment}
	var everySubnet []json.RawMessage
	for i, raw := range n.Policies {
		ps, err := policyUp(raw)
		if err != nil {
			return nil, at(fmt.Sprintf("Policies[%d]", i), err)
		}
		for _, p := range ps {
			switch p.Type {
			case string(hcn.VLAN), string(hcn.VSID):
				if len(n.Subnets) == 0 {
					return nil, refuse(hcn.HCN_E_INVALID_POLICY, fmt.Sprintf("Policies[%d]", i), "%s is a property of subnets; the network has none", p.Type)
				}
				s, err := encode(p)
				if err != nil {
					return nil, err
				}
				everySubnet = append(everySubnet, s)
			case string(hcn.OutBoundNAT):
				x.Policies = append(x.Policies, raw)
			default:
				d.Policies = append(d.Policies, hcn.NetworkPolicy{Type: hcn.NetworkPolicyType(p.Type), Settings: p.Settings})
			}
		}
	}
	if d.AdditionalParams, err = x.params(); err != nil {
		return nil, err
	}
	if len(n.Subnets) > 0 {
		im := hcn.Ipam{Type: "Static"}
		for i, s := range n.Subnets {
			sub, err := subnetUp(s, everySubnet)
			if err != nil {
				return nil, at(fmt.Sprintf("Subnets[%d]", i), err)
			}
			im.Subnets = append(im.Subnets, sub)
		}
		d.Ipams = []hcn.Ipam{im}
	}
	return encode(d)
}

func subnetUp(s hns.Subnet, also []json.RawMessage) (hcn.Subnet, error) {
	out := hcn.Subnet{IpAddressPrefix: s.AddressPrefix}
	if s.GatewayAddress != "" {
		r, err := defaultRoute("GatewayAddress", s.GatewayAddress)
		if err != nil {
			return out, err
		}
		out.Routes = []hcn.Route{r}
	}
	own, err := policiesUp(s.Policies)
	if err != nil {
		return out, err
	}
	named := map[string]bool{}
	for _, p := range own {
		raw, err := encode(p)
		if err != nil {
			return out, err
		}
		named[p.Type] = true
		out.Policies = append(out.Policies, raw)
	}
	for _, raw := range also { // what the subnet itself says wins
		var p policy
		if json.Unmarshal(raw, &p) == nil && !named[p.Type] {
			out.Policies = append(out.Policies, raw)
		}
	}
	return out, nil
}

// defaultRoute goes through a gateway, in the gateway's family.
func defaultRoute(field, gateway string) (hcn.Route, error) {
	a, err := netip.ParseAddr(gateway)
	if err != nil {
		return hcn.Route{}, refuse(hcn.HCN_E_INVALID_IP, field, "%q is not an address", gateway)
	}
	all := "0.0.0.0/0"
	if a.Is6() {
		all = "::/0"
	}
	return hcn.Route{NextHop: gateway, DestinationPrefix: all}, nil
}

// gatewayOf is the next hop of the first default route, of a family if v6 is given.
func gatewayOf(routes []hcn.Route, v6 ...bool) string {
	for _, r := range routes {
		p, err := netip.ParsePrefix(r.DestinationPrefix)
		if err == nil && p.Bits() == 0 && (len(v6) == 0 || p.Addr().Is6() == v6[0]) {
			return r.NextHop
		}
	}
	return ""
}

// dnsUp: the first suffix is the domain; more than one are the search list.
func dnsUp(suffix, domain, servers string) hcn.Dns {
	d := hcn.Dns{Domain: domain, ServerList: list(servers)}
	if s := list(suffix); len(s) > 0 {
		if d.Domain == "" {
			d.Domain = s[0]
		}
		if len(s) > 1 || d.Domain != s[0] {
			d.Search = s
		}
	}
	return d
}

func dnsDown(d hcn.Dns) (suffix, servers string) {
	suffix = strings.Join(d.Search, ",")
	if suffix == "" {
		suffix = d.Domain
	}
	return suffix, strings.Join(d.ServerList, ",")
}

func networkDown(raw json.RawMessage) (hns.Network, error) {
	var d networkDoc
	if err := json.Unmarshal(raw, &d); err != nil {
		return hns.Network{}, err
	}
	x := extrasOf(d.AdditionalParams)
	n := hns.Network{Id: d.Id, Name: d.Name, Type: string(d.Type), Flags: uint32(d.Flags),
		DNSServerCompartment: x.DNSServerCompartment, Policies: x.Policies}
	n.DNSSuffix, n.DNSServerList = dnsDown(d.Dns)
	for _, r := range d.MacPool.Ranges {
		n.MacPools = append(n.MacPools, hns.MacPool(r))
	}
	for _, im := range d.Ipams {
		for _, s := range im.Subnets {
			sub := hns.Subnet{AddressPrefix: s.IpAddressPrefix, GatewayAddress: gatewayOf(s.Routes)}
			for _, raw := range s.Policies {
				var p policy
				if err := json.Unmarshal(raw, &p); err != nil {
					return n, err
				}
				sub.Policies = append(sub.Policies, policyDown(p.Type, p.Settings))
			}
			n.Subnets = append(n.Subnets, sub)
		}
	}
	for _, p := range d.Policies {
		var s struct { // of all these types
			hcn.NetAdapterNameNetworkPolicySetting
			hcn.SourceMacAddressNetworkPolicySetting
			hcn.ProviderAddressEndpointPolicySetting
			hcn.VSwitchExtensionNetworkPolicySetting
		}
		_ = json.Unmarshal(p.Settings, &s) // checked when stored
		switch p.Type {
		case hcn.NetAdapterName:
			n.NetworkAdapterName = s.NetworkAdapterName
		case hcn.SourceMacAddress:
			n.SourceMac = s.SourceMacAddress
		case hcn.ProviderAddress:
			n.ManagementIP = s.ProviderAddress
		case hcn.AutomaticDNS:
			n.AutomaticDNS = s.Enable
		case hcn.VSwitchExtension:
			n.Extensions = append(n.Extensions, hns.Extension{Id: s.ExtensionID, IsEnabled: s.Enable})
		default:
			n.Policies = append(n.Policies, policyDown(string(p.Type), p.Settings))
		}
	}
	return n, nil
}

// extensionsUp is the modify request of a POST to a network: Extensions turned on or off.
func extensionsUp(n hns.Network) (json.RawMessage, error) {
	if len(n.Extensions) == 0 {
		return nil, refuse(hcn.HCN_E_REQUEST_UNSUPPORTED, "", "a network that exists takes Extensions only; delete it and create it anew, or modify it through /hcn/v2")
	}
	var r hcn.PolicyNetworkRequest
	for _, e := range n.Extensions {
		raw, err := encode(hcn.VSwitchExtensionNetworkPolicySetting{ExtensionID: e.Id, Enable: e.IsEnabled})
		if err != nil {
			return nil, err
		}
		r.Policies = append(r.Policies, hcn.NetworkPolicy{Type: hcn.VSwitchExtension, Settings: raw})
	}
	settings, err := encode(r)
	if err != nil {
		return nil, err
	}
	return encode(hcn.ModifyNetworkSettingRequest{ResourceType: hcn.NetworkResourceTypePolicy, RequestType: hcn.RequestTypeUpdate, Settings: settings})
}
