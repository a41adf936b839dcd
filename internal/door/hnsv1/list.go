// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hnsv1

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/hns"
)

// elb is a load balancer's policy in v1. Flags and DistributionType are ours: what
// v1 has no words for is shown and taken in v2's.
type elb struct {
	Type             string
	Protocol         uint32   `json:",omitempty"`
	InternalPort     uint16   `json:",omitempty"`
	ExternalPort     uint16   `json:",omitempty"`
	SourceVIP        string   `json:",omitempty"`
	VIPs             []string `json:",omitempty"`
	ILB              bool     `json:",omitempty"`
	IsDSR            bool     `json:",omitempty"`
	DistributionType uint32   `json:",omitempty"`
	Flags            uint32   `json:",omitempty"` // of the port mapping, without ILB
}

const endpointsPath = "/endpoints/"

// references are ids of endpoints, written as paths.
func referencesUp(refs []string) (out []string, err error) {
	for i, r := range refs {
		id, ok := strings.CutPrefix(r, endpointsPath)
		if !ok {
			id, ok = strings.CutPrefix(r, "endpoints/")
		}
		if !ok || id == "" {
			return nil, refuse(hcn.HCN_E_INVALID_JSON_REFERENCE, fmt.Sprintf("References[%d]", i), "%q is not /endpoints/ and an id", r)
		}
		out = append(out, id)
	}
	return out, nil
}

func referencesDown(ids []string) (out []string) {
	for _, id := range ids {
		out = append(out, endpointsPath+strings.ToLower(id))
	}
	return out
}

// listUp translates a policy list to a document and the collection it belongs to.
func listUp(l hns.PolicyList) (kind string, doc json.RawMessage, err error) {
	refs, err := referencesUp(l.References)
	if err != nil {
		return "", nil, err
	}
	if len(l.Policies) == 0 {
		return "", nil, refuse(hcn.HCN_E_INVALID_POLICY, "Policies", "a policy list needs ELB policies, or ROUTE policies")
	}
	lb := hcn.HostComputeLoadBalancer{Id: l.ID, HostComputeEndpoints: refs, SchemaVersion: hcn.V2SchemaVersion()}
	route := struct {
		hcn.HostComputeRoute
		Setting []json.RawMessage
	}{HostComputeRoute: hcn.HostComputeRoute{ID: l.ID, HostComputeEndpoints: refs, SchemaVersion: hcn.V2SchemaVersion()}}
	var first elb
	for i, raw := range l.Policies {
		field := fmt.Sprintf("Policies[%d]", i)
		var p elb
		if err := json.Unmarshal(raw, &struct{ Type *string }{&p.Type}); err != nil {
			return "", nil, refuse(hcn.HCN_E_INVALID_POLICY, field, "a policy is a JSON object with a Type")
		}
		switch strings.ToUpper(p.Type) {
		case "ELB":
			if err := decode(raw, &p); err != nil {
				return "", nil, at(field, err)
			}
			if len(lb.PortMappings) == 0 {
				first, lb.SourceVIP, lb.FrontendVIPs = p, p.SourceVIP, p.VIPs
				if p.IsDSR {
					lb.Flags |= hcn.LoadBalancerFlagsDSR
				}
			} else if p.SourceVIP != first.SourceVIP || p.IsDSR != first.IsDSR || !slices.Equal(p.VIPs, first.VIPs) {
				return "", nil, refuse(hcn.HCN_E_INVALID_POLICY, field, "SourceVIP, VIPs and IsDSR are those of the whole list; make a list of its own for other ones")
			}
			m := hcn.LoadBalancerPortMapping{Protocol: p.Protocol, InternalPort: p.InternalPort, ExternalPort: p.ExternalPort,
				DistributionType: hcn.LoadBalancerDistribution(p.DistributionType), Flags: hcn.LoadBalancerPortMappingFlags(p.Flags)}
			if p.ILB {
				m.Flags |= hcn.LoadBalancerPortMappingFlagsILB
			}
			lb.PortMappings = append(lb.PortMappings, m)
		case "ROUTE":
			ps, err := policyUp(raw)
			if err != nil {
				return "", nil, at(field, err)
			}
			route.Setting = append(route.Setting, ps[0].Settings)
		default:
			return "", nil, refuse(hcn.HCN_E_INVALID_POLICY_TYPE, field+".Type", "%q: a policy list has ELB or ROUTE policies", p.Type)
		}
	}
	switch {
	case len(lb.PortMappings) > 0 && len(route.Setting) > 0:
		return "", nil, refuse(hcn.HCN_E_INVALID_POLICY, "Policies", "ELB and ROUTE policies go in lists of their own")
	case len(route.Setting) > 0:
		doc, err = encode(route)
		return routes, doc, err
	}
	doc, err = encode(lb)
	return balancers, doc, err
}

func balancerDown(raw json.RawMessage) (hns.PolicyList, error) {
	var d hcn.HostComputeLoadBalancer
	if err := json.Unmarshal(raw, &d); err != nil {
		return hns.PolicyList{}, err
	}
	l := hns.PolicyList{ID: d.Id, References: referencesDown(d.HostComputeEndpoints)}
	for _, m := range d.PortMappings {
		p, err := encode(elb{Type: "ELB", Protocol: m.Protocol, InternalPort: m.InternalPort, ExternalPort: m.ExternalPort,
			SourceVIP: d.SourceVIP, VIPs: d.FrontendVIPs, IsDSR: d.Flags&hcn.LoadBalancerFlagsDSR != 0,
			ILB:              m.Flags&hcn.LoadBalancerPortMappingFlagsILB != 0,
			DistributionType: uint32(m.DistributionType), Flags: uint32(m.Flags &^ hcn.LoadBalancerPortMappingFlagsILB)})
		if err != nil {
			return l, err
		}
		l.Policies = append(l.Policies, p)
	}
	return l, nil
}

func routeDown(raw json.RawMessage) (hns.PolicyList, error) {
	var d struct {
		ID                   string
		HostComputeEndpoints []string
		Setting              []json.RawMessage
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		return hns.PolicyList{}, err
	}
	l := hns.PolicyList{ID: d.ID, References: referencesDown(d.HostComputeEndpoints)}
	for _, s := range d.Setting {
		l.Policies = append(l.Policies, policyDown(string(hcn.SDNRoute), s))
	}
	return l, nil
}
