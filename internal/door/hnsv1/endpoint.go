// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hnsv1

import (
	"encoding/json"
	"net/netip"
	"slices"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/hns"
)

// The schema's flags that have no Go names there.
const (
	disableICC      hcn.EndpointFlags = 2
	enableLowMetric hcn.EndpointFlags = 8
)

// endpointDoc is an endpoint of v2 with the members that the Go struct lacks.
type endpointDoc struct {
	hcn.HostComputeEndpoint
	AdditionalParams json.RawMessage `json:",omitempty"`
	State            uint16          `json:",omitempty"`
	Version          uint64          `json:",omitempty"`
}

// endpointUp translates a create. inherited are v1 policies of the network for every
// endpoint of its types that names none itself.
func endpointUp(e hns.Endpoint, inherited []json.RawMessage) (json.RawMessage, error) {
	d := endpointDoc{HostComputeEndpoint: hcn.HostComputeEndpoint{Id: e.Id, Name: e.Name, HostComputeNetwork: e.VirtualNetwork,
		MacAddress: e.MacAddress, Dns: dnsUp(e.DNSSuffix, e.DNSDomain, e.DNSServerList), SchemaVersion: hcn.V2SchemaVersion()}}
	if d.HostComputeNetwork == "" {
		d.HostComputeNetwork = e.VirtualNetworkName
	}
	if e.Namespace != nil {
		d.HostComputeNamespace = e.Namespace.ID
	}
	for flag, on := range map[hcn.EndpointFlags]bool{hcn.EndpointFlagsRemoteEndpoint: e.IsRemoteEndpoint, disableICC: e.DisableICC, enableLowMetric: e.EnableLowMetric} {
		if on {
			d.Flags |= flag
		}
	}
	for _, a := range []struct {
		field string
		addr  netip.Addr
		bits  uint8
	}{{"IPAddress", e.IPAddress, e.PrefixLength}, {"IPv6Address", e.IPv6Address, e.IPv6PrefixLength}} {
		switch {
		case !a.addr.IsValid():
		default:
			d.IpConfigurations = append(d.IpConfigurations, hcn.IpConfig{IpAddress: a.addr.String(), PrefixLength: a.bits})
		}
	}
	for _, g := range [][2]string{{"GatewayAddress", e.GatewayAddress}, {"GatewayAddressV6", e.GatewayAddressV6}} {
		if g[1] == "" {
			continue
		}
		r, err := defaultRoute(g[0], g[1])
		if err != nil {
			return nil, err
		}
		d.Routes = append(d.Routes, r)
	}
	ps, err := policiesUp(e.Policies)
	if err != nil {
		return nil, err
	}
	more, err := policiesUp(inherited)
	if err != nil {
		return nil, err
	}
	for _, p := range more {
		if !e.IsRemoteEndpoint && !slices.ContainsFunc(ps, func(q policy) bool { return q.Type == p.Type }) {
			ps = append(ps, p)
		}
	}
	if e.EncapOverhead != 0 {
		raw, err := encode(hcn.EncapOverheadEndpointPolicySetting{Overhead: e.EncapOverhead})
		if err != nil {
			return nil, err
		}
		ps = append(ps, policy{string(hcn.EncapOverhead), raw})
	}
	d.Policies = endpointPolicies(ps)
	if d.AdditionalParams, err = (extras{EnableInternalDNS: e.EnableInternalDNS}).params(); err != nil {
		return nil, err
	}
	return encode(d)
}

func endpointPolicies(ps []policy) (out []hcn.EndpointPolicy) {
	for _, p := range ps {
		out = append(out, hcn.EndpointPolicy{Type: hcn.EndpointPolicyType(p.Type), Settings: p.Settings})
	}
	return out
}

// replaceUp is the modify request that leaves exactly the wanted policies on an
// endpoint: the types that go are named with null for settings, which clears them.
func replaceUp(d endpointDoc, wanted []json.RawMessage) (json.RawMessage, error) {
	ps, err := policiesUp(wanted)
	if err != nil {
		return nil, err
	}
	for _, have := range d.Policies {
		switch {
		case have.Type == hcn.EncapOverhead: // in v1 a member, not a policy
		case !slices.ContainsFunc(ps, func(p policy) bool { return p.Type == string(have.Type) }):
			ps = append(ps, policy{string(have.Type), json.RawMessage("null")})
		}
	}
	settings, err := encode(hcn.PolicyEndpointRequest{Policies: endpointPolicies(ps)})
	if err != nil {
		return nil, err
	}
	return encode(hcn.ModifyEndpointSettingRequest{ResourceType: hcn.EndpointResourceTypePolicy, RequestType: hcn.RequestTypeUpdate, Settings: settings})
}

// surroundings are what a v1 endpoint shows of other objects.
type surroundings struct {
	networks   map[string]string        // id -> name
	namespaces map[string]hns.Namespace // by id
}

func endpointDown(raw json.RawMessage, s surroundings) (hns.Endpoint, error) {
	var d endpointDoc
	if err := json.Unmarshal(raw, &d); err != nil {
		return hns.Endpoint{}, err
	}
	e := hns.Endpoint{Id: d.Id, Name: d.Name, VirtualNetwork: d.HostComputeNetwork, VirtualNetworkName: s.networks[d.HostComputeNetwork],
		MacAddress: d.MacAddress, State: d.State, EnableInternalDNS: extrasOf(d.AdditionalParams).EnableInternalDNS, DNSDomain: d.Dns.Domain,
		IsRemoteEndpoint: d.Flags&hcn.EndpointFlagsRemoteEndpoint != 0, DisableICC: d.Flags&disableICC != 0, EnableLowMetric: d.Flags&enableLowMetric != 0,
		GatewayAddress: gatewayOf(d.Routes, false), GatewayAddressV6: gatewayOf(d.Routes, true)}
	e.DNSSuffix, e.DNSServerList = dnsDown(d.Dns)
	for _, c := range d.IpConfigurations {
		a, err := netip.ParseAddr(c.IpAddress)
		switch {
		case err != nil:
			return e, err
		case a.Is4() && !e.IPAddress.IsValid():
			e.IPAddress, e.PrefixLength = a, c.PrefixLength
		case a.Is6() && !e.IPv6Address.IsValid():
			e.IPv6Address, e.IPv6PrefixLength = a, c.PrefixLength
		}
	}
	for _, p := range d.Policies {
		if p.Type == hcn.EncapOverhead {
			var s hcn.EncapOverheadEndpointPolicySetting
			_ = json.Unmarshal(p.Settings, &s) // checked when stored
			e.EncapOverhead = s.Overhead
			continue
		}
		e.Policies = append(e.Policies, policyDown(string(p.Type), p.Settings))
	}
	if ns, ok := s.namespaces[d.HostComputeNamespace]; ok {
		for _, r := range ns.ResourceList {
			if r.Type == string(hcn.NamespaceResourceTypeContainer) {
				e.SharedContainers = append(e.SharedContainers, r.Data.Id)
			}
		}
		e.Namespace = &hns.Namespace{ID: ns.ID, IsDefault: ns.IsDefault, CompartmentId: ns.CompartmentId}
	}
	return e, nil
}

func namespaceDown(raw json.RawMessage) (hns.Namespace, error) {
	var d hcn.HostComputeNamespace
	if err := json.Unmarshal(raw, &d); err != nil {
		return hns.Namespace{}, err
	}
	n := hns.Namespace{ID: d.Id, IsDefault: d.Type == hcn.NamespaceTypeHostDefault, CompartmentId: d.NamespaceId}
	for _, r := range d.Resources {
		var data hns.ResourceData
		if err := json.Unmarshal(r.Data, &data); err != nil {
			return n, err
		}
		n.ResourceList = append(n.ResourceList, hns.Resource{Type: string(r.Type), Data: data})
	}
	return n, nil
}

// resourceUp is the modify request of addresource and removeresource.
func resourceUp(r hns.Resource, verb hcn.RequestType) (json.RawMessage, error) {
	member := map[string]string{string(hcn.NamespaceResourceTypeEndpoint): "EndpointId", string(hcn.NamespaceResourceTypeContainer): "ContainerId"}[r.Type]
	if member == "" {
		return nil, refuse(hcn.HCN_E_REQUEST_UNSUPPORTED, "Type", "%q is neither Endpoint nor Container", r.Type)
	}
	settings, err := encode(map[string]string{member: r.Data.Id})
	if err != nil {
		return nil, err
	}
	return encode(hcn.ModifyNamespaceSettingRequest{ResourceType: hcn.NamespaceResourceType(r.Type), RequestType: verb, Settings: settings})
}
