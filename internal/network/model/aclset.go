// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// An endpoint's rules are sets of the switch, one for each stage that a packet has
// to pass: the network's ACL, the tiers, Switch rules, Host rules. Endpoints with
// the same rules share a set, so that numbers do not run out where a controller
// gives every pod the same list.
const (
	stageApart   = "DisableInterComputeCommunication"
	stageNetwork = "NetworkACL"
	stageTier    = "TierAcl"
	stageSwitch  = "ACL"
	stageHost    = "ACL, Host"
	// tierStage joins the tiers: what one allows the next ones are not asked.
	tierStage = 1
)

// ACLRef is a set of an endpoint and the numbers it has. They are stored, so that
// flows and counters mean the same rules after a restart.
type ACLRef struct {
	Digest string
	ID     vswitch.ACLID
	Rules  []vswitch.RuleID
}

// aclSet is a set that endpoints refer to.
type aclSet struct {
	ref   ACLRef
	set   vswitch.ACLSet // numbered
	users int
	far   vswitch.AddrSetID // set of what other hosts of the network have, where a rule names it
}

// aclSetsOf are the sets that an endpoint is to have, without numbers.
func aclSetsOf(e *Endpoint, n *Network) ([]vswitch.ACLSet, error) {
	var out []vswitch.ACLSet
	add := func(name string, stage uint8, rules []aclRule) {
		s := vswitch.ACLSet{Name: name, Stage: stage}
		for i := range rules {
			s.Rules = append(s.Rules, rules[i].compile(e.addrs, n.sets, n.SetNumbers[farSet])...)
		}
		if len(s.Rules) > 0 {
			out = append(out, s)
		}
	}
	if e.Doc.Flags&disableInterComputeCommunication != 0 {
		out = append(out, apart(n))
	}
	add(stageNetwork, 0, n.acl)
	var onSwitch, onHost []aclRule
	var tiers []tier
	for i, p := range e.Doc.Policies {
		field := fmt.Sprintf("Policies[%d].Settings", i)
		switch p.Type {
		case hcn.ACL:
			r, err := parseACLSettings(p.Settings, n.sets)
			if err != nil {
				return nil, at(field, err)
			}
			if r.host {
				onHost = append(onHost, r)
			} else {
				onSwitch = append(onSwitch, r)
			}
		case hcn.TierAcl:
			t, err := parseTier(p.Settings, n.sets)
			if err != nil {
				return nil, at(field, err)
			}
			tiers = append(tiers, t)
		}
	}
	// Tiers of the two directions do not meet, so two of one place share a set.
	slices.SortStableFunc(tiers, func(a, b tier) int { return cmp.Compare(a.order, b.order) })
	for len(tiers) > 0 {
		t, rules := tiers[0], tiers[0].rules
		name := t.name
		tiers = tiers[1:]
		if k := slices.IndexFunc(tiers, func(o tier) bool { return o.in != t.in }); k >= 0 && tiers[k].order == t.order {
			rules = append(slices.Clip(rules), tiers[k].rules...)
			if o := tiers[k].name; o != name {
				name += ", " + o
			}
			tiers = slices.Delete(slices.Clone(tiers), k, k+1)
		}
		add(stageTier+" "+name, tierStage, rules)
	}
	add(stageSwitch, 0, onSwitch)
	add(stageHost, 0, onHost)
	if len(out) > vswitch.MaxPortACLs {
		return nil, refuseAt(hcn.HCN_E_INVALID_POLICY, "Policies", "make %d stages of rules, over %d; put rules of several tiers into one", len(out), vswitch.MaxPortACLs)
	}
	return out, nil
}

// apart keeps an endpoint from the others of its network, but not from its gateways.
func apart(n *Network) vswitch.ACLSet {
	s := vswitch.ACLSet{Name: stageApart}
	var gates []netip.Prefix
	for _, g := range n.gateways() {
		gates = append(gates, netip.PrefixFrom(g, g.BitLen()))
	}
	for _, d := range []vswitch.ACLDirection{vswitch.ACLIn, vswitch.ACLOut} {
		if len(gates) > 0 {
			s.Rules = append(s.Rules, vswitch.ACLRule{Name: "the gateway", Direction: d, Action: vswitch.ACLAllow, Remote: gates})
		}
		s.Rules = append(s.Rules, vswitch.ACLRule{Name: "other endpoints", Priority: 1, Direction: d, Action: vswitch.ACLBlock, Remote: n.prefixes()},
			vswitch.ACLRule{Name: "the rest", Priority: 2, Direction: d, Action: vswitch.ACLAllow})
	}
	return s
}

// digestOf tells sets of other content apart.
func digestOf(s *vswitch.ACLSet) (string, error) {
	raw, err := Encode(s)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:16]), nil
}

// refACLs gives e, which is not in the World yet, the sets that its policies ask
// for, and gives back those that it has and does not need any more. A set that was
// its alone keeps its number, and each rule in it that is the same its own.
func (w *World) refACLs(e *Endpoint, n *Network) error {
	wanted, err := aclSetsOf(e, n)
	if err != nil {
		return err
	}
	before, kept := e.ACLs, map[string]bool{}
	digests := make([]string, len(wanted))
	for i := range wanted {
		if digests[i], err = digestOf(&wanted[i]); err != nil {
			return refuse(hcn.E_FAIL, "rules: %v", err)
		}
	}
	// The sets that e gives up, each of which one may take the place of.
	places := slices.DeleteFunc(slices.Clone(before), func(r ACLRef) bool { return slices.Contains(digests, r.Digest) })
	var refs []ACLRef
	for i, d := range digests {
		if slices.ContainsFunc(refs, func(r ACLRef) bool { return r.Digest == d }) {
			continue // two tiers that say the same: asked once is asked enough
		}
		s, ok := w.aclSets.get(d)
		switch {
		case !ok:
			k := slices.IndexFunc(before, func(r ACLRef) bool { return r.Digest == d })
			switch {
			case k >= 0: // stored
				s, err = w.numberACL(&wanted[i], before[k], aclSet{})
			default:
				var place aclSet
				k = slices.IndexFunc(places, func(r ACLRef) bool {
					o, ok := w.aclSets.get(r.Digest)
					return ok && o.users == 1 && o.set.Name == wanted[i].Name
				})
				if k >= 0 {
					place, _ = w.aclSets.get(places[k].Digest)
					places = slices.Delete(places, k, k+1)
				}
				s, err = w.numberACL(&wanted[i], ACLRef{Digest: d}, place)
			}
			if err != nil {
				return err
			}
			if far := n.SetNumbers[farSet]; hasSet(&s.set, far) {
				s.far = far
			}
		case !w.loading && slices.ContainsFunc(before, func(r ACLRef) bool { return r.Digest == d }):
			s.users--
		}
		s.users++
		w.aclSets = w.aclSets.set(d, s)
		kept[d] = true
		refs = append(refs, s.ref)
	}
	e.ACLs = refs
	for _, r := range before {
		if !kept[r.Digest] && !w.loading {
			w.unrefACL(r)
		}
	}
	return nil
}

// unrefACL gives a set back.
func (w *World) unrefACL(r ACLRef) {
	s, ok := w.aclSets.get(r.Digest)
	if !ok {
		return
	}
	if s.users--; s.users > 0 {
		w.aclSets = w.aclSets.set(r.Digest, s)
		return
	}
	w.aclSets = w.aclSets.del(r.Digest)
	// Numbers that a set in its place took over are that one's.
	if held, ok := w.aclHeld.get(numberKey(uint32(s.ref.ID))); ok && held == r.Digest {
		w.aclHeld = w.aclHeld.del(numberKey(uint32(s.ref.ID)))
		w.free(aclNumbers, uint32(s.ref.ID))
	}
	for _, id := range s.ref.Rules {
		if held, ok := w.ruleHeld.get(numberKey(uint32(id))); ok && held == r.Digest {
			w.ruleHeld = w.ruleHeld.del(numberKey(uint32(id)))
			w.free(ruleNumbers, uint32(id))
		}
	}
}

// numberACL gives a set, and each of its rules, a number: that of ref, which is
// stored, that of the set whose place it takes, or a new one.
func (w *World) numberACL(t *vswitch.ACLSet, ref ACLRef, place aclSet) (aclSet, error) {
	s := aclSet{ref: ref, set: *t}
	s.set.Rules = slices.Clone(t.Rules)
	if len(s.ref.Rules) != len(s.set.Rules) {
		s.ref.ID, s.ref.Rules = place.ref.ID, nil
		used := map[vswitch.RuleID]bool{}
		for i := range s.set.Rules {
			id := vswitch.RuleID(0)
			for k := range place.set.Rules {
				if old := place.set.Rules[k]; !used[old.ID] && sameRule(old, s.set.Rules[i]) {
					id = old.ID
					break
				}
			}
			if id == 0 {
				n, ok := w.next(ruleNumbers, uint32(w.numbers.Rule), 1, uint32(FirstOutsideRule)-1)
				if !ok {
					return s, refuse(hcn.HCN_E_DEGRADED_OPERATION, "all %d rules of the switch are in use", FirstOutsideRule-1)
				}
				w.numbers.Rule, id = vswitch.RuleID(n), vswitch.RuleID(n)
			}
			used[id] = true
			s.ref.Rules = append(s.ref.Rules, id)
		}
		if s.ref.ID == 0 {
			n, ok := w.next(aclNumbers, uint32(w.numbers.ACL), 1, uint32(OutsideACL)-1)
			if !ok {
				return s, refuse(hcn.HCN_E_DEGRADED_OPERATION, "all sets of rules of the switch are in use")
			}
			w.numbers.ACL, s.ref.ID = vswitch.ACLID(n), vswitch.ACLID(n)
		}
	}
	w.use(aclNumbers, uint32(s.ref.ID))
	w.aclHeld = w.aclHeld.set(numberKey(uint32(s.ref.ID)), ref.Digest)
	s.set.ID = s.ref.ID
	for i := range s.set.Rules {
		s.set.Rules[i].ID = s.ref.Rules[i]
		w.use(ruleNumbers, uint32(s.ref.Rules[i]))
		w.ruleHeld = w.ruleHeld.set(numberKey(uint32(s.ref.Rules[i])), ref.Digest)
	}
	return s, nil
}

// sameRule: of the same content, whatever their numbers.
func sameRule(a, b vswitch.ACLRule) bool {
	a.ID, b.ID = 0, 0
	return fmt.Sprint(a) == fmt.Sprint(b)
}
