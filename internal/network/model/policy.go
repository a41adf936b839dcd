// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// checkNetworkPolicy says whether a policy can stand on a network of a type.
func checkNetworkPolicy(p hcn.NetworkPolicy, t hcn.NetworkType) error {
	switch p.Type {
	case hcn.VSwitchExtension, hcn.AutomaticDNS:
		// Stored. Extensions have no effect; the resolver forwards to the host's
		// resolvers whether asked to or not.
		var v struct {
			ExtensionID string
			Enable      bool
		}
		return decodeSettings(p.Settings, &v)
	case hcn.DrMacAddress, hcn.RemoteSubnetRoute, hcn.VxlanPort, hcn.HostRoute:
		if t == hcn.Overlay {
			return checkOverlayPolicy(p)
		}
		return refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "Type", "%s is for networks of type Overlay, not %s", p.Type, t)
	case hcn.SourceMacAddress:
		_, err := parseSourceMAC(p, t)
		return err
	case neighborDiscovery:
		_, err := parseNeighbors(p)
		return err
	case hcn.NetAdapterName, hcn.InterfaceConstraint, hcn.ProviderAddress, hcn.LayerConstraint:
		if !bindsUplink(t) {
			return refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "Type", "%s cannot stand on a network of type %s, which has no uplink of its own", p.Type, t)
		}
		_, err := parseUplinkChoice(p)
		return at("Settings", err)
	case hcn.NetworkL4Proxy:
		_, err := parseL4Proxy(p.Settings)
		return at("Settings", err)
	case hcn.SetPolicy:
		_, err := parseSet(p.Settings)
		return at("Settings", err)
	case hcn.NetworkACL: // whole once all sets are known
		return nil
	}
	return refuseAt(hcn.HCN_E_INVALID_POLICY_TYPE, "Type", "%q is not a policy of networks", p.Type)
}

// checkEndpointPolicy says whether a policy can stand on an endpoint of a network.
func checkEndpointPolicy(p hcn.EndpointPolicy, n *Network) error {
	switch p.Type {
	case hcn.PortMapping:
		if !translates(n.Doc.Type) {
			return refuseAt(hcn.HCN_E_MAPPING_NOT_SUPPORTED, "Type", "ports are published from networks of type NAT and ICS, not %s", n.Doc.Type)
		}
		_, err := parsePortMapping(p.Settings)
		return at("Settings", err)
	case hcn.OutBoundNAT:
		_, err := parseOutBoundNAT(p, n)
		return err
	case hcn.SDNRoute:
		_, err := parseSDNRoute(p.Settings, n)
		return at("Settings", err)
	case hcn.ACL:
		_, err := parseACLSettings(p.Settings, n.sets)
		return at("Settings", err)
	case hcn.TierAcl:
		_, err := parseTier(p.Settings, n.sets)
		return at("Settings", err)
	case hcn.QOS:
		_, err := parseQOS(p.Settings)
		return at("Settings", err)
	case hcn.L4Proxy:
		_, err := parseL4Proxy(p.Settings)
		return at("Settings", err)
	case hcn.EncapOverhead, interfaceParameters, hcn.PortName:
		return new(vnicSettings).add(p)
	case hcn.IOV, "FirewallPolicy":
		return nil // stored: nothing here offloads, and no such machines are
	case hcn.L2Driver:
		if kinds[n.Doc.Type].flags&vswitch.NetMACRewrite != 0 {
			return nil // what such a network does anyway
		}
		return refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "Type", "L2Driver cannot stand on an endpoint of a network of type %s; L2Bridge and L2Tunnel rewrite MACs", n.Doc.Type)
	case policyVLAN:
		if !n.hasSegments() {
			return refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "Type", "VLAN needs a network that shows frames on its uplink, where the tag is; %s does not", n.Doc.Type)
		}
		_, err := parseVLAN(p.Settings)
		return at("Settings", err)
	case hcn.NetworkProviderAddress:
		return checkSource(p, n)
	case hcn.L4WFPPROXY:
		_, err := parseRedirect(p.Settings)
		return at("Settings", err)
	case hcn.NetworkInterfaceConstraint:
		_, err := parseInterfaceConstraint(p.Settings)
		return at("Settings", err)
	case "Encryption":
		return refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "Type", "policy Encryption is not supported")
	}
	return refuseAt(hcn.HCN_E_INVALID_POLICY_TYPE, "Type", "%q is not a policy of endpoints", p.Type)
}

// parseQOS returns the bytes a second that an endpoint may send; 0 = no bound.
func parseQOS(raw json.RawMessage) (uint64, error) {
	var s hcn.QosPolicySetting
	if err := decodeMembers(raw, &s); err != nil {
		return 0, err
	}
	return s.MaximumOutgoingBandwidthInBytes, nil
}

// egress is the endpoint's QOS policy.
func (e *Endpoint) egress() uint64 {
	for _, p := range e.Doc.Policies {
		if p.Type == hcn.QOS {
			n, _ := parseQOS(p.Settings)
			return n
		}
	}
	return 0
}

// endpointPolicyKey is what two policies of one endpoint may not share; "" = there
// may be any number.
func endpointPolicyKey(p hcn.EndpointPolicy) string {
	switch p.Type {
	case hcn.QOS, hcn.IOV, hcn.PortName, hcn.EncapOverhead, interfaceParameters, hcn.NetworkProviderAddress, hcn.NetworkInterfaceConstraint, "FirewallPolicy":
		return string(p.Type)
	case hcn.SDNRoute:
		return sdnRouteKey(p.Settings)
	case hcn.TierAcl:
		if t, err := parseTier(p.Settings, nil); err == nil || t.name != "" {
			return fmt.Sprintf("%s %s %v", p.Type, t.name, t.in)
		}
	}
	return ""
}

// decodeSettings reads settings into out; absent and null are {}.
func decodeSettings(raw json.RawMessage, out any) error {
	trimmed := bytes.TrimSpace(raw)
	if len(trimmed) == 0 || string(trimmed) == "null" {
		return nil
	}
	err := json.Unmarshal(trimmed, out)
	var te *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &te):
		f := "Settings"
		if te.Field != "" {
			f += "." + te.Field
		}
		return refuseAt(hcn.HCN_E_INVALID_POLICY, f, "a %s is not a %s", te.Value, kindName(te.Type.Kind().String()))
	}
	return refuseAt(hcn.HCN_E_INVALID_POLICY, "Settings", "%v", err)
}

// natFlagPortReserved: the caller holds the host's port already.
const (
	natFlagPortReserved hcn.NatFlags = 4
	knownNatFlags       hcn.NatFlags = 7
)

// portMapping is the settings, checked.
type portMapping struct {
	hcn.PortMappingPolicySetting
	vip netip.Addr // invalid = every host address
}

func parsePortMapping(raw json.RawMessage) (portMapping, error) {
	var m portMapping
	if err := decodeSettings(raw, &m.PortMappingPolicySetting); err != nil {
		var e *Error
		if errors.As(err, &e) {
			c := *e
			c.Field = strings.TrimPrefix(strings.TrimPrefix(c.Field, "Settings"), ".")
			return m, &c
		}
		return m, err
	}
	switch m.Protocol {
	case 0, 6, 17, 132:
	default:
		return m, refuseAt(hcn.HCN_E_INVALID_POLICY, "Protocol", "%d: only 6 (TCP), 17 (UDP), 132 (SCTP) and 0 (TCP and UDP) have ports", m.Protocol)
	}
	if m.Flags&^knownNatFlags != 0 {
		return m, refuseAt(hcn.HCN_E_INVALID_POLICY, "Flags", "%d has unknown bits", m.Flags)
	}
	if m.Protocol == 132 && m.InternalPort != 0 && m.ExternalPort != 0 && m.InternalPort != m.ExternalPort {
		return m, refuseAt(hcn.HCN_E_INVALID_POLICY, "InternalPort", "SCTP ports cannot be translated: make it %d", m.ExternalPort)
	}
	if m.VIP != "" {
		a, err := netip.ParseAddr(m.VIP)
		if err != nil || a.Zone() != "" || a.IsMulticast() || a.Is4In6() {
			return m, refuseAt(hcn.HCN_E_INVALID_POLICY, "VIP", "%q is not an address", m.VIP)
		}
		if a.Is4() && m.Flags&hcn.NatFlagsIPv6 != 0 {
			return m, refuseAt(hcn.HCN_E_INVALID_POLICY, "VIP", "%s is not IPv6, as Flags says", m.VIP)
		}
		m.vip = a
	}
	return m, nil
}

// key is what two mappings of one endpoint may not share.
func (m portMapping) key() string {
	return fmt.Sprintf("%d %s %d %v", m.Protocol, m.vip, m.ExternalPort, m.Flags&hcn.NatFlagsIPv6 != 0)
}

// requestedPolicies is the list of policies that a modify request leads to.
func requestedPolicies(have []hcn.EndpointPolicy, r modifyRequest) ([]hcn.EndpointPolicy, error) {
	var req hcn.PolicyEndpointRequest
	if len(bytes.TrimSpace(r.Settings)) > 0 && string(bytes.TrimSpace(r.Settings)) != "null" {
		if err := decode(r.Settings, &req); err != nil {
			return nil, at("Settings", err)
		}
	}
	switch r.RequestType {
	case hcn.RequestTypeAdd:
		return append(slices.Clip(have), req.Policies...), nil
	case hcn.RequestTypeRemove:
		return removePolicies(have, req.Policies), nil
	case hcn.RequestTypeUpdate:
		return updatePolicies(have, req.Policies), nil
	case hcn.RequestTypeRefresh:
		return have, nil
	case "Reset":
		if len(req.Policies) == 0 {
			return nil, nil
		}
		return slices.DeleteFunc(slices.Clone(have), func(p hcn.EndpointPolicy) bool {
			return slices.ContainsFunc(req.Policies, func(q hcn.EndpointPolicy) bool { return q.Type == p.Type })
		}), nil
	}
	return nil, badRequestType(r.RequestType)
}

// removePolicies takes away every entry whose named members equal the request's.
func removePolicies(have, gone []hcn.EndpointPolicy) []hcn.EndpointPolicy {
	return slices.DeleteFunc(slices.Clone(have), func(p hcn.EndpointPolicy) bool {
		return slices.ContainsFunc(gone, func(q hcn.EndpointPolicy) bool { return p.Type == q.Type && matches(p, q) })
	})
}

// matches: all members named in q are equal in p.
func matches(p, q hcn.EndpointPolicy) bool {
	if isEmptySettings(q.Settings) {
		return true
	}
	if endpointPolicyKey(q) == string(q.Type) {
		return true // there is one
	}
	if p.Type != hcn.PortMapping {
		return membersEqual(p.Settings, q.Settings)
	}
	have, err1 := parsePortMapping(p.Settings)
	want, err2 := parsePortMapping(q.Settings)
	var named map[string]json.RawMessage
	if err1 != nil || err2 != nil || json.Unmarshal(q.Settings, &named) != nil {
		return false
	}
	for k := range named {
		equal := true
		switch strings.ToLower(k) {
		case "protocol":
			equal = have.Protocol == want.Protocol
		case "internalport":
			equal = have.InternalPort == want.InternalPort
		case "externalport":
			equal = have.ExternalPort == want.ExternalPort
		case "vip":
			equal = have.vip == want.vip
		case "flags":
			equal = have.Flags == want.Flags
		}
		if !equal {
			return false
		}
	}
	return true
}

// membersEqual: every member that want names has the same value in have. Lists of
// words, addresses among them, compare by what they mean.
func membersEqual(have, want json.RawMessage) bool {
	var h, w map[string]json.RawMessage
	if json.Unmarshal(have, &h) != nil || json.Unmarshal(want, &w) != nil {
		return false
	}
	for k, v := range w {
		var o json.RawMessage
		for name, value := range h {
			if strings.EqualFold(name, k) {
				o = value
			}
		}
		if canonicalValue(o) != canonicalValue(v) {
			return false
		}
	}
	return true
}

// canonicalValue of a member; absent, null and "" are the same.
func canonicalValue(raw json.RawMessage) string {
	var s string
	if len(raw) == 0 || json.Unmarshal(raw, &s) == nil {
		list := words(s)
		for i, x := range list {
			if p, _, err := parseSide(x, nil); err == nil && len(p) == 1 {
				list[i] = p[0].String()
			}
		}
		slices.Sort(list)
		return strings.Join(list, ",")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return string(raw)
	}
	out, err := Encode(v)
	if err != nil {
		return string(raw)
	}
	return string(out)
}

// updatePolicies replaces the types that are named; a request that repeats every
// stored policy but ACLs, or is empty, is a full list.
func updatePolicies(have, want []hcn.EndpointPolicy) []hcn.EndpointPolicy {
	named := map[hcn.EndpointPolicyType]bool{}
	for _, p := range want {
		named[p.Type] = true
	}
	if !named[hcn.ACL] {
		full := true
		for _, p := range have {
			full = full && (p.Type == hcn.ACL || slices.ContainsFunc(want, func(q hcn.EndpointPolicy) bool {
				return p.Type == q.Type && canonical(p.Settings) == canonical(q.Settings)
			}))
		}
		if full || len(want) == 0 {
			named[hcn.ACL] = true
		}
	}
	out := slices.DeleteFunc(slices.Clone(have), func(p hcn.EndpointPolicy) bool { return named[p.Type] })
	for _, p := range want {
		if clears(p) {
			continue
		}
		out = append(out, p)
	}
	return out
}

// clears: an Update that names a type without settings clears it. Of some types that
// is a policy, and a client that sends back what it read means it; those are cleared
// by Settings that are null.
func clears(p hcn.EndpointPolicy) bool {
	if p.Type == hcn.OutBoundNAT || p.Type == hcn.L2Driver {
		return string(bytes.TrimSpace(p.Settings)) == "null"
	}
	return isEmptySettings(p.Settings)
}

// setPolicies checks the wanted list, lets the server fill it in, and puts it into
// e. old is what e publishes already.
func (w *World) setPolicies(e *Endpoint, old []mapping, wanted []hcn.EndpointPolicy, n *Network, in Input) error {
	var out []hcn.EndpointPolicy
	keys := map[string]string{} // of mappings: key -> canonical settings
	for i, p := range wanted {
		field := fmt.Sprintf("Policies[%d]", i)
		check := checkEndpointPolicy
		if e.IsRemote() {
			check = checkRemotePolicy
		}
		if err := check(p, n); err != nil {
			return at(field, err)
		}
		if p.Type != hcn.PortMapping {
			k := slices.IndexFunc(out, func(q hcn.EndpointPolicy) bool {
				return p.Type == q.Type && (canonical(p.Settings) == canonical(q.Settings) || endpointPolicyKey(p) != "" && endpointPolicyKey(p) == endpointPolicyKey(q))
			})
			switch {
			case k < 0:
				out = append(out, p)
			case canonical(out[k].Settings) == canonical(p.Settings):
			case p.Type == interfaceParameters:
				return refuseAt(hcn.HCN_E_INTERFACEPARAMETERS_ALREADY_APPLIED, field+".Settings", "the interface has other parameters already; change them by Update")
			default:
				return refuseAt(hcn.HCN_E_POLICY_ALREADY_EXISTS, field+".Settings", "%s is set already with other settings", p.Type)
			}
			continue
		}
		m, _ := parsePortMapping(p.Settings)
		if m.ExternalPort == 0 {
			port, err := w.pickPort(e, m, out, in)
			if err != nil {
				return at(field+".Settings.ExternalPort", err)
			}
			m.ExternalPort = port
			p.Settings = setMember(p.Settings, "ExternalPort", strconv.AppendUint(nil, uint64(port), 10))
		}
		if same, ok := keys[m.key()]; ok {
			if same == canonical(p.Settings) {
				continue
			}
			return refuseAt(hcn.HCN_E_POLICY_ALREADY_EXISTS, field+".Settings", "port %d is published twice with different settings", m.ExternalPort)
		}
		keys[m.key()] = canonical(p.Settings)
		out = append(out, p)
	}
	if err := checkMTU(e, out); err != nil {
		return err
	}
	if err := checkProxies(e, out); err != nil {
		return err
	}
	if err := w.checkRedirects(e, out, in); err != nil {
		return err
	}
	if err := w.checkVirtualIPs(e, out, n, in); err != nil {
		return err
	}
	if err := w.constrain(e, out, n, in); err != nil {
		return err
	}
	e.Doc.Policies = out
	rows, err := expandMappings(e, n)
	if err != nil {
		return err
	}
	if err := w.checkWays(e, n); err != nil {
		return err
	}
	return w.checkPublished(e, old, rows, in)
}

// modifyNetworkPolicies applies a Policy request to a network, entry by entry where
// policies have a key; those of a type that has none are a list.
func modifyNetworkPolicies(n *Network, r modifyRequest) ([]hcn.NetworkPolicy, error) {
	var req hcn.PolicyNetworkRequest
	if len(bytes.TrimSpace(r.Settings)) > 0 && string(bytes.TrimSpace(r.Settings)) != "null" {
		if err := decode(r.Settings, &req); err != nil {
			return nil, at("Settings", err)
		}
	}
	have := slices.Clone(n.Doc.Policies)
	drop := func(t hcn.NetworkPolicyType) {
		have = slices.DeleteFunc(have, func(p hcn.NetworkPolicy) bool { return p.Type == t })
	}
	switch r.RequestType {
	case hcn.RequestTypeAdd, hcn.RequestTypeUpdate:
		for i, p := range req.Policies {
			field := fmt.Sprintf("Settings.Policies[%d]", i)
			if err := checkNetworkPolicy(p, n.Doc.Type); err != nil {
				return nil, at(field, err)
			}
			if isList(p.Type) && r.RequestType == hcn.RequestTypeUpdate && !slices.ContainsFunc(req.Policies[:i], func(q hcn.NetworkPolicy) bool { return q.Type == p.Type }) {
				drop(p.Type)
				if isEmptySettings(p.Settings) {
					continue
				}
			}
			k := slices.IndexFunc(have, func(q hcn.NetworkPolicy) bool { return networkPolicyKey(p) == networkPolicyKey(q) })
			switch {
			case k < 0 && p.Type == hcn.SetPolicy && r.RequestType == hcn.RequestTypeUpdate:
				s, _ := parseSet(p.Settings)
				return nil, refuseAt(hcn.HCN_E_POLICY_NOT_FOUND, field+".Settings.Id", "the network has no set %q; add it", s.id)
			case k < 0 && p.Type == hcn.RemoteSubnetRoute && r.RequestType == hcn.RequestTypeUpdate:
				return nil, refuseAt(hcn.HCN_E_POLICY_NOT_FOUND, field+".Settings.DestinationPrefix", "the network has no route with this DestinationPrefix and IsolationId; add it")
			case k < 0:
				have = append(have, p)
			case canonical(have[k].Settings) == canonical(p.Settings):
			case r.RequestType == hcn.RequestTypeUpdate:
				have[k] = p
			default:
				return nil, refuseAt(hcn.HCN_E_POLICY_ALREADY_EXISTS, field, "%s is set already with other settings", p.Type)
			}
		}
	case hcn.RequestTypeRemove:
		for _, p := range req.Policies {
			switch {
			case isEmptySettings(p.Settings):
				drop(p.Type)
			case p.Type == hcn.VSwitchExtension || p.Type == hcn.SetPolicy || p.Type == neighborDiscovery:
				have = slices.DeleteFunc(have, func(q hcn.NetworkPolicy) bool { return networkPolicyKey(p) == networkPolicyKey(q) })
			case p.Type == hcn.RemoteSubnetRoute:
				have = slices.DeleteFunc(have, func(q hcn.NetworkPolicy) bool { return q.Type == p.Type && matchesRemoteSubnet(q.Settings, p.Settings) })
			case isList(p.Type):
				have = slices.DeleteFunc(have, func(q hcn.NetworkPolicy) bool { return q.Type == p.Type && membersEqual(q.Settings, p.Settings) })
			default:
				drop(p.Type)
			}
		}
	case "Reset":
		if len(req.Policies) == 0 {
			have = nil
		}
		for _, p := range req.Policies {
			drop(p.Type)
		}
	case hcn.RequestTypeRefresh:
	default:
		return nil, badRequestType(r.RequestType)
	}
	return have, nil
}

// isList: there may be any number, and none has a key.
func isList(t hcn.NetworkPolicyType) bool { return t == hcn.NetworkACL || t == hcn.NetworkL4Proxy }

func networkPolicyKey(p hcn.NetworkPolicy) string {
	if p.Type == hcn.VSwitchExtension {
		var v hcn.VSwitchExtensionNetworkPolicySetting
		_ = json.Unmarshal(p.Settings, &v)
		return string(p.Type) + " " + strings.ToLower(v.ExtensionID)
	}
	switch p.Type {
	case hcn.SetPolicy: // by its Id, whatever else is said
		var s hcn.SetPolicySetting
		_ = json.Unmarshal(p.Settings, &s)
		return string(p.Type) + " " + s.Id
	case hcn.RemoteSubnetRoute:
		if r, err := parseRemoteSubnet(p.Settings); err == nil {
			return fmt.Sprintf("%s %s %d", p.Type, r.prefix, r.vni)
		}
	case neighborDiscovery:
		if a, err := parseNeighbors(p); err == nil {
			return string(p.Type) + " " + a.Prefix.String()
		}
	case hcn.NetworkACL, hcn.NetworkL4Proxy: // have none: only what says the same is the same
		return string(p.Type) + " " + canonical(p.Settings)
	}
	return string(p.Type)
}
