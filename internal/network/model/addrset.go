// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// addrSet is a SetPolicy of a network, parsed.
type addrSet struct {
	id, name string
	number   vswitch.AddrSetID
	nested   []string // ids of sets it stands for
	prefixes []netip.Prefix
}

func (s *addrSet) contains(a netip.Addr) bool {
	return slices.ContainsFunc(s.prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// parseSet reads the settings of a SetPolicy; of a nested one the members are not
// looked up.
func parseSet(raw json.RawMessage) (*addrSet, error) {
	var s struct {
		Id, Name   string
		PolicyType hcn.SetPolicyType
		Type       hcn.SetPolicyType // as a client of 2021 spells PolicyType
		Values     string
	}
	if err := decodeMembers(raw, &s); err != nil {
		return nil, err
	}
	if s.Id == "" {
		return nil, refuseAt(hcn.HCN_E_INVALID_POLICY, "Id", "a set needs one, for rules to name it by")
	}
	if _, err := netip.ParsePrefix(s.Id); err == nil || len(words(s.Id)) != 1 {
		return nil, refuseAt(hcn.HCN_E_INVALID_POLICY, "Id", "%q is no name that a rule could tell from addresses", s.Id)
	}
	out := &addrSet{id: s.Id, name: s.Name}
	if s.PolicyType == "" {
		s.PolicyType = s.Type
	}
	switch s.PolicyType {
	case hcn.SetPolicyTypeNestedIpSet:
		out.nested = words(s.Values)
		if out.nested == nil { // an empty one is every address: controllers know, and put a dummy in
			out.prefixes = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
		}
	case hcn.SetPolicyTypeIpSet:
		prefixes, _, err := parseSide(s.Values, nil)
		if err != nil {
			return nil, refuseAt(hcn.HCN_E_INVALID_POLICY, "Values", "in %q something is neither an address nor a prefix", s.Id)
		}
		out.prefixes = prefixes
	default:
		return nil, refuseAt(hcn.HCN_E_INVALID_POLICY, "PolicyType", "%q is neither IPSET nor NESTEDIPSET", s.PolicyType)
	}
	return out, nil
}

// networkSets are the sets of a list of policies, the nested ones made flat.
func networkSets(policies []hcn.NetworkPolicy) (map[string]*addrSet, error) {
	sets := map[string]*addrSet{}
	for i, p := range policies {
		if p.Type != hcn.SetPolicy {
			continue
		}
		s, err := parseSet(p.Settings)
		if err != nil {
			return nil, at(fmt.Sprintf("Policies[%d].Settings", i), err)
		}
		sets[s.id] = s
	}
	for i, p := range policies {
		if p.Type != hcn.SetPolicy {
			continue
		}
		s, _ := parseSet(p.Settings)
		s = sets[s.id]
		for _, id := range s.nested {
			member := sets[id]
			if member == nil || member.nested != nil {
				return nil, refuseAt(hcn.HCN_E_INVALID_POLICY, fmt.Sprintf("Policies[%d].Settings.Values", i),
					"%q in set %q is no IPSET of the network; add it first", id, s.id)
			}
			s.prefixes = append(s.prefixes, member.prefixes...)
		}
		slices.SortFunc(s.prefixes, comparePrefix)
		s.prefixes = slices.Compact(s.prefixes)
	}
	return sets, nil
}

// parsePolicies takes apart what a network's policies are to the rules of its endpoints.
func (n *Network) parsePolicies() error {
	var err error
	if n.sets, err = networkSets(n.Doc.Policies); err != nil {
		return err
	}
	for id, s := range n.sets {
		s.number = n.SetNumbers[id]
	}
	n.acl = nil
	for i, p := range n.Doc.Policies {
		if p.Type != hcn.NetworkACL {
			continue
		}
		r, err := parseACLSettings(p.Settings, n.sets)
		if err != nil {
			return at(fmt.Sprintf("Policies[%d].Settings", i), err)
		}
		n.acl = append(n.acl, r)
	}
	return n.parseWire()
}

// numberSets gives numbers to the sets that have none, and forgets those of sets
// that are gone. n is not in a World yet.
func (w *World) numberSets(n *Network) error {
	sets, err := networkSets(n.Doc.Policies)
	if err != nil {
		return err
	}
	numbers := make(map[string]vswitch.AddrSetID, len(sets))
	ids := slices.Sorted(maps.Keys(sets))
	if n.isOverlay() {
		ids = append(ids, farSet)
	}
	for _, id := range ids {
		if numbers[id] = n.SetNumbers[id]; numbers[id] == 0 {
			w.numbers.AddrSet++ // 32 bits: none is used twice
			numbers[id] = w.numbers.AddrSet
		}
	}
	n.SetNumbers = nil
	if len(numbers) > 0 {
		n.SetNumbers = numbers
	}
	return nil
}

// changeSets makes c, a changed n, ready for the World: its sets have numbers, and
// what still names a set has it.
func (w *World) changeSets(n, c *Network) error {
	left := map[string]bool{}
	for _, p := range c.Doc.Policies {
		if p.Type != hcn.SetPolicy {
			continue
		}
		if s, err := parseSet(p.Settings); err == nil {
			left[s.id] = true
		}
	}
	for _, id := range slices.Sorted(maps.Keys(n.sets)) {
		if left[id] {
			continue
		}
		if by := w.namesSet(n, c, id); by != "" {
			return refuse(hcn.HCN_E_ENTITY_HAS_REFERENCES, "set %q is named by %s; remove that first", id, by)
		}
	}
	if err := w.numberSets(c); err != nil {
		return err
	}
	return c.parse()
}

// namesSet tells what in c, or of an endpoint of n, names a set of n; "" = nothing.
func (w *World) namesSet(n, c *Network, id string) string {
	for _, p := range c.Doc.Policies {
		switch p.Type {
		case hcn.SetPolicy:
			if s, err := parseSet(p.Settings); err == nil && slices.Contains(s.nested, id) {
				return fmt.Sprintf("set %q", s.id)
			}
		case hcn.NetworkACL:
			if r, err := parseACLSettings(p.Settings, n.sets); err == nil && r.names(id) {
				return "a NetworkACL policy"
			}
		}
	}
	for _, e := range w.EndpointsOf(n.Doc.Id) {
		for _, p := range e.Doc.Policies {
			var rules []aclRule
			switch p.Type {
			case hcn.ACL:
				if r, err := parseACLSettings(p.Settings, n.sets); err == nil {
					rules = []aclRule{r}
				}
			case hcn.TierAcl:
				if t, err := parseTier(p.Settings, n.sets); err == nil {
					rules = t.rules
				}
			}
			if slices.ContainsFunc(rules, func(r aclRule) bool { return r.names(id) }) {
				return "a rule of " + w.endpointLabel(e.Doc.Id)
			}
		}
	}
	return ""
}

func (r *aclRule) names(id string) bool {
	return slices.Contains(r.localSet, id) || slices.Contains(r.remoteSet, id)
}

// addrSets are the network's sets for the switch, in the order of their numbers.
func (n *Network) addrSets() []vswitch.AddrSet {
	var out []vswitch.AddrSet
	for _, s := range n.sets {
		out = append(out, vswitch.AddrSet{ID: s.number, Name: s.id, Prefixes: s.prefixes})
	}
	slices.SortFunc(out, func(a, b vswitch.AddrSet) int { return int(a.ID) - int(b.ID) })
	return out
}
