// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"cmp"
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

// defaultPriority of a Switch rule that gives none.
const defaultPriority = 65500

// aclSetting is the settings of an ACL, of a network's ACL, and of a tier's rule.
type aclSetting struct {
	Id                string
	Protocols         string
	Action            hcn.ActionType
	TierAclRuleAction hcn.ActionType
	Direction         hcn.DirectionType
	LocalAddresses    string
	RemoteAddresses   string
	LocalPorts        string
	RemotePorts       string
	RuleType          hcn.RuleType
	Priority          uint16
}

// aclRule is an aclSetting, parsed. Where sets are named, Local is the side of the
// packet's source and Remote that of its destination, else they are the endpoint's
// side and the other one.
type aclRule struct {
	name              string
	host              bool // of the stage Host
	priority          uint32
	in                bool
	action            vswitch.ACLAction
	protocols         []uint8 // none = any, or none but what is encapsulated
	encapsulated      bool    // also what is
	local, remote     []netip.Prefix
	localSet          []string // ids of SetPolicies
	remoteSet         []string
	localPorts, ports []vswitch.PortRange // of the endpoint's side, of the other
}

func (r *aclRule) bySets() bool { return len(r.localSet)+len(r.remoteSet) > 0 }

// parseACL reads one rule; sets are those that may be named.
func parseACL(s aclSetting, sets map[string]*addrSet) (r aclRule, err error) {
	bad := func(field, format string, args ...any) error {
		return refuseAt(hcn.HCN_E_INVALID_POLICY, field, format, args...)
	}
	r.name = s.Id
	switch s.Action {
	case hcn.ActionTypeAllow:
		r.action = vswitch.ACLAllow
	case hcn.ActionTypeBlock:
		r.action = vswitch.ACLBlock
	case hcn.ActionTypePass:
		r.action = vswitch.ACLPass
	default:
		return r, bad("Action", "%q is none of Allow, Block, Pass", s.Action)
	}
	switch s.Direction {
	case hcn.DirectionTypeIn:
		r.in = true
	case hcn.DirectionTypeOut:
	default:
		return r, bad("Direction", "%q is neither In nor Out", s.Direction)
	}
	switch s.RuleType {
	case hcn.RuleTypeHost:
		r.host = true // has no priorities
	case hcn.RuleTypeSwitch, "":
		r.priority = cmp.Or(uint32(s.Priority), defaultPriority)
	default:
		return r, bad("RuleType", "%q is neither Switch nor Host", s.RuleType)
	}
	if r.protocols, r.encapsulated, err = parseProtocols(s.Protocols); err != nil {
		return r, bad("Protocols", "%v", err)
	}
	if r.local, r.localSet, err = parseSide(s.LocalAddresses, sets); err != nil {
		return r, bad("LocalAddresses", "%v", err)
	}
	if r.remote, r.remoteSet, err = parseSide(s.RemoteAddresses, sets); err != nil {
		return r, bad("RemoteAddresses", "%v", err)
	}
	if r.localPorts, err = parsePorts(s.LocalPorts); err != nil {
		return r, bad("LocalPorts", "%v", err)
	}
	if r.ports, err = parsePorts(s.RemotePorts); err != nil {
		return r, bad("RemotePorts", "%v", err)
	}
	if field, other := r.other(); r.encapsulated && len(other) > 0 {
		return r, refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, field, "addresses of the other side do not go with protocol %d; put them into a SetPolicy", protocolEncapsulated)
	}
	return r, nil
}

// words are the members of a comma list.
func words(list string) []string {
	var out []string
	for w := range strings.SplitSeq(list, ",") {
		if w = strings.TrimSpace(w); w != "" {
			out = append(out, w)
		}
	}
	return out
}

// other are the addresses of the side that is not the endpoint's, and where they stand.
func (r *aclRule) other() (field string, prefixes []netip.Prefix) {
	if r.in && r.bySets() {
		return "LocalAddresses", r.local
	}
	return "RemoteAddresses", r.remote
}

// parseProtocols: 256 means any, and protocolEncapsulated is told apart.
func parseProtocols(list string) (out []uint8, encapsulated bool, err error) {
	any := false
	for _, w := range words(list) {
		n, err := strconv.ParseUint(w, 10, 16)
		switch {
		case err != nil || n > 256:
			return nil, false, fmt.Errorf("%q is not a protocol number (0-255, 256 = any)", w)
		case n == 256:
			any = true
		case n == protocolEncapsulated:
			encapsulated = true
		case !slices.Contains(out, uint8(n)):
			out = append(out, uint8(n))
		}
	}
	if any {
		return nil, false, nil
	}
	slices.Sort(out)
	return out, encapsulated, nil
}

// parseSide reads addresses and prefixes, or ids of sets.
func parseSide(list string, sets map[string]*addrSet) (prefixes []netip.Prefix, ids []string, err error) {
	for _, w := range words(list) {
		p, err := parsePrefix(w)
		if a, e := netip.ParseAddr(w); e == nil && a.Zone() == "" && !a.Is4In6() {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		switch {
		case err == nil:
			if p = p.Masked(); !slices.Contains(prefixes, p) {
				prefixes = append(prefixes, p)
			}
		case sets[w] != nil:
			ids = append(ids, w)
		default:
			return nil, nil, fmt.Errorf("%q is neither an address, nor a prefix, nor the Id of a SetPolicy of the network", w)
		}
	}
	if len(prefixes) > 0 && len(ids) > 0 {
		return nil, nil, fmt.Errorf("%q mixes addresses and sets; make two rules", list)
	}
	slices.SortFunc(prefixes, comparePrefix)
	slices.Sort(ids)
	return prefixes, slices.Compact(ids), nil
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// parsePorts reads n and a-b; lists of thousands of single ports become ranges.
func parsePorts(list string) ([]vswitch.PortRange, error) {
	var out []vswitch.PortRange
	for _, w := range words(list) {
		a, b, isRange := strings.Cut(w, "-")
		if !isRange {
			b = a
		}
		first, err1 := strconv.ParseUint(strings.TrimSpace(a), 10, 16)
		last, err2 := strconv.ParseUint(strings.TrimSpace(b), 10, 16)
		if err1 != nil || err2 != nil || first > last {
			return nil, fmt.Errorf("%q is neither a port nor a range of ports", w)
		}
		out = append(out, vswitch.PortRange{First: uint16(first), Last: uint16(last)})
	}
	slices.SortFunc(out, func(a, b vswitch.PortRange) int { return cmp.Compare(a.First, b.First) })
	merged := out[:0]
	for _, r := range out {
		if n := len(merged); n > 0 && uint32(r.First) <= uint32(merged[n-1].Last)+1 {
			merged[n-1].Last = max(merged[n-1].Last, r.Last)
			continue
		}
		merged = append(merged, r)
	}
	return merged, nil
}

func hasPorts(proto uint8) bool { return proto == 6 || proto == 17 || proto == 132 }

// compile makes rules of the switch for an endpoint with addresses own. far is the set of
// what is on other hosts, 0 where nothing is.
func (r *aclRule) compile(own []netip.Prefix, sets map[string]*addrSet, far vswitch.AddrSetID) []vswitch.ACLRule {
	x := vswitch.ACLRule{
		Name: r.name, Priority: r.priority, Direction: vswitch.ACLOut, Action: r.action, Protocols: r.protocols,
		Local: r.local, Remote: r.remote, LocalPorts: r.localPorts, RemotePorts: r.ports,
	}
	if r.in {
		x.Direction = vswitch.ACLIn
	}
	if r.bySets() {
		mine, theirs, other, otherSet := r.local, r.localSet, r.remote, r.remoteSet
		if r.in { // its destination is ours
			mine, theirs, other, otherSet = r.remote, r.remoteSet, r.local, r.localSet
		}
		var ok bool
		if x.Local, ok = ownIn(own, mine, theirs, sets); !ok {
			return nil
		}
		x.Remote = other
		for _, id := range otherSet {
			x.RemoteSets = append(x.RemoteSets, sets[id].number)
		}
	}
	var out []vswitch.ACLRule
	if r.encapsulated && far != 0 {
		out = append(out, encapsulated(x, far))
	}
	if r.encapsulated && len(r.protocols) == 0 {
		return out
	}
	if len(x.LocalPorts)+len(x.RemotePorts) == 0 {
		return append(out, x)
	}
	// Ports are nothing to other protocols, which the rule is about all the same.
	rest := x
	rest.LocalPorts, rest.RemotePorts, rest.Protocols, x.Protocols = nil, nil, nil, nil
	for _, p := range r.protocols {
		if hasPorts(p) {
			x.Protocols = append(x.Protocols, p)
		} else {
			rest.Protocols = append(rest.Protocols, p)
		}
	}
	switch {
	case len(rest.Protocols) == 0:
		return append(out, x)
	case len(x.Protocols) == 0:
		return append(out, rest)
	}
	return append(out, x, rest)
}

// ownIn says for which of its own addresses a rule is about the endpoint: they are
// in one of the prefixes, if there are any, and in all of the sets. A whole family
// is told as such, so that endpoints can share rules.
func ownIn(own, prefixes []netip.Prefix, ids []string, sets map[string]*addrSet) ([]netip.Prefix, bool) {
	var in []netip.Prefix
	families := map[bool][2]int{} // by Is4: addresses, of them in
	for _, p := range own {
		a := p.Addr()
		ok := len(prefixes) == 0 || slices.ContainsFunc(prefixes, func(q netip.Prefix) bool { return q.Contains(a) })
		for _, id := range ids {
			ok = ok && sets[id].contains(a)
		}
		n := families[a.Is4()]
		n[0]++
		if ok {
			n[1]++
			in = append(in, netip.PrefixFrom(a, a.BitLen()))
		}
		families[a.Is4()] = n
	}
	v4, v6 := families[true], families[false]
	switch {
	case len(in) == 0:
		return nil, false
	case len(in) == len(own) && v4[0] > 0 && v6[0] > 0:
		return nil, true
	case v4[0] == v4[1] && v6[1] == 0:
		return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0)}, true
	case v6[0] == v6[1] && v4[1] == 0:
		return []netip.Prefix{netip.PrefixFrom(netip.IPv6Unspecified(), 0)}, true
	}
	return in, true
}

// tier is a TierAcl, parsed.
type tier struct {
	name  string
	in    bool
	order uint16
	rules []aclRule
}

func parseTier(raw json.RawMessage, sets map[string]*addrSet) (t tier, err error) {
	var s struct {
		Name         string
		Direction    hcn.DirectionType
		Order        uint16
		TierAclRules []aclSetting
	}
	if err := decodeMembers(raw, &s); err != nil {
		return t, err
	}
	t.name, t.order, t.in = s.Name, s.Order, s.Direction == hcn.DirectionTypeIn
	if !t.in && s.Direction != hcn.DirectionTypeOut {
		return t, refuseAt(hcn.HCN_E_INVALID_POLICY, "Direction", "%q is neither In nor Out", s.Direction)
	}
	ids := map[string]bool{}
	for i, x := range s.TierAclRules {
		field := fmt.Sprintf("TierAclRules[%d]", i)
		if x.Id != "" && ids[x.Id] {
			return t, refuseAt(hcn.HCN_E_INVALID_POLICY, field+".Id", "%q is another rule's of this tier", x.Id)
		}
		ids[x.Id] = true
		x.Action, x.Direction, x.RuleType = x.TierAclRuleAction, s.Direction, hcn.RuleTypeSwitch
		r, err := parseACL(x, sets)
		if err != nil {
			var e *Error
			if errors.As(err, &e) && e.Field == "Action" {
				e.Field = "TierAclRuleAction"
			}
			return t, at(field, err)
		}
		t.rules = append(t.rules, r)
	}
	return t, nil
}

// parseACLSettings reads the settings of an ACL or NetworkACL.
func parseACLSettings(raw json.RawMessage, sets map[string]*addrSet) (aclRule, error) {
	var s aclSetting
	if err := decodeMembers(raw, &s); err != nil {
		return aclRule{}, err
	}
	return parseACL(s, sets)
}
