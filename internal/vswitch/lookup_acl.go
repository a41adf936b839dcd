// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"fmt"
	"slices"
	"strings"
)

// RuleInfo is a rule and the set it belongs to.
type RuleInfo struct {
	Set  *ACLSet
	Rule *ACLRule
}

// String names both as people meet them: acl "web" rule "no ssh" priority 100 block.
func (r RuleInfo) String() string {
	return fmt.Sprintf("acl %q rule %q priority %d %s", r.Set.Name, r.Rule.Name, r.Rule.Priority, r.Rule.Action)
}

// Rules are those of all ACL sets. They are for reading only.
func (t Tables) Rules() map[RuleID]RuleInfo {
	all := map[RuleID]RuleInfo{}
	for _, b := range t.acls {
		for id, r := range b.acl.rules {
			all[id] = RuleInfo{b.acl.set, r}
		}
	}
	return all
}

// GoneRules are those of old that now does not have.
func GoneRules(old, now Tables) []RuleID {
	var had, has []*block
	pair(old.acls, now.acls, func(a, b *block) {
		if a != nil {
			had = append(had, a)
		}
		if b != nil {
			has = append(has, b)
		}
	})
	var gone []RuleID
	for _, a := range had {
		for id := range a.acl.rules {
			if !slices.ContainsFunc(has, func(b *block) bool { return b.acl.rules[id] != nil }) {
				gone = append(gone, id)
			}
		}
	}
	return gone
}

func (r *Rows) fillACL(b *block) {
	fill(r.ACLSet, b.aclset)
	fill(r.ACL, b.aclrule)
	fill(r.classes, b.aclclass)
	if b.acl != nil {
		for _, e := range b.aclset {
			r.sets[e.Key.Set] = b.acl.set
		}
	}
}

// ACLQuestion is what a list of rules is asked. Addresses are as rows have them,
// ports in this machine's order.
type ACLQuestion struct {
	Set           uint32 // number, as in a port's row
	List          uint8
	Remote, Local [16]byte
	RemotePort    uint16
	LocalPort     uint16
	Proto         uint8
	IPv4          bool
	Blind         bool // ports are not known
}

// ACLAnswer is what it answers.
type ACLAnswer struct {
	Action ACLAction
	Rule   RuleID // 0: the set's default
	Blind  bool   // a rule with ports could decide
	Stage  uint8  // of the set
	Gone   bool   // no such set: what a port refers to is not there
}

// ACLAsk searches the tuples of a list, as the programs do (acl.h).
func (r *Rows) ACLAsk(q ACLQuestion) ACLAnswer {
	row, ok := r.ACLSet[ACLSetKey{Set: q.Set, List: uint32(q.List)}]
	if !ok {
		return ACLAnswer{Gone: true}
	}
	a := ACLAnswer{Action: ACLAction(row.Action), Stage: row.Stage}
	kinds := aclKind(q.Proto)
	fam := aclV6
	if q.IPv4 {
		fam = aclV4
	}
	rank := ^uint32(0)
	for i, t := range row.Tuple[:row.Tuples] {
		if t.Best >= rank {
			break
		}
		if t.Kinds&fam == 0 || t.Kinds&kinds == 0 {
			continue
		}
		if q.Blind && t.RportBits|t.LportBits != 0 {
			a.Blind = true
			return a
		}
		k := ACLKey{Set: q.Set, List: q.List, Tuple: uint8(i), RportBe: be16(q.RemotePort & portMask(t.RportBits)), LportBe: be16(q.LocalPort & portMask(t.LportBits))}
		if t.Flags&aclClass != 0 {
			class := r.Class(q.Remote)
			if class == 0 {
				continue
			}
			k.Remote.B = classAddr(class)
		} else {
			k.Remote.B = cut(q.Remote, t.RemoteBits)
		}
		k.Local.B = cut(q.Local, t.LocalBits)
		if t.Flags&aclProto != 0 {
			k.Proto = q.Proto
		}
		if v, ok := r.ACL[k]; ok && v.Rank < rank {
			rank, a.Action, a.Rule = v.Rank, ACLAction(v.Action), RuleID(v.Rule)
		}
	}
	return a
}

func portMask(bits uint8) uint16 { return uint16(0xffff << (16 - bits)) }

// Class is the number of the combination of address sets that a is in; 0 = none.
func (r *Rows) Class(a [16]byte) uint32 {
	for _, n := range r.classBits {
		k := ACLClassKey{Prefixlen: n}
		k.Addr.B = cut(a, uint8(n))
		if c, ok := r.classes[k]; ok {
			return c
		}
	}
	return 0
}

// ACLSetOf is the set that has a number; nil where no row says so.
func (r *Rows) ACLSetOf(number uint32) *ACLSet { return r.sets[number] }

// Rule is a rule by its number.
func (r *Rows) Rule(id RuleID) (RuleInfo, bool) {
	i, ok := r.rules[id]
	return i, ok
}

// ---- lines of Tables.String ------------------------------------------------------

func aclNumbers(numbers [MaxPortACLs]uint32) string {
	s := ""
	for _, n := range numbers {
		if n != 0 {
			s += fmt.Sprintf(",%08x", n)
		}
	}
	if s == "" {
		return ""
	}
	return " acl " + s[1:]
}

func (b *block) printACL(add func(string, ...any)) {
	for _, e := range b.aclset {
		v := &e.Value
		s := fmt.Sprintf("aclset %08x %s %s %q default %s", e.Key.Set, directionOf(uint8(e.Key.List)), viewOf(uint8(e.Key.List)), b.acl.set.Name, ACLAction(v.Action))
		if v.Stage != 0 {
			s += fmt.Sprintf(" stage %d", v.Stage)
		}
		for _, t := range v.Tuple[:v.Tuples] {
			s += " " + tupleText(t)
		}
		add("%s", s)
	}
	for _, e := range b.aclrule {
		k, v := &e.Key, &e.Value
		at := b.tuple(k)
		remote := fmt.Sprintf("%s/%d", ip(k.Remote.B), bitsText(k.Remote.B, at.RemoteBits))
		if at.Flags&aclClass != 0 {
			remote = fmt.Sprintf("class %x", k.Remote.B[:4])
		}
		s := fmt.Sprintf("aclrule %08x %s %s %d: remote %s", k.Set, directionOf(k.List), viewOf(k.List), k.Tuple, remote)
		if at.RportBits != 0 {
			s += fmt.Sprintf(" port %d/%d", be16(k.RportBe), at.RportBits)
		}
		s += fmt.Sprintf(" local %s/%d", ip(k.Local.B), bitsText(k.Local.B, at.LocalBits))
		if at.LportBits != 0 {
			s += fmt.Sprintf(" port %d/%d", be16(k.LportBe), at.LportBits)
		}
		if at.Flags&aclProto != 0 {
			s += fmt.Sprintf(" proto %d", k.Proto)
		}
		add("%s -> rank %d rule %d %s", s, v.Rank, v.Rule, ACLAction(v.Action))
	}
	for _, e := range b.aclclass {
		add("aclclass %s/%d -> %s", ip(e.Key.Addr.B), bitsText(e.Key.Addr.B, uint8(e.Key.Prefixlen)), fmt.Sprintf("%x", classAddr(e.Value))[:8])
	}
}

// tuple is the one that a rule's row belongs to.
func (b *block) tuple(k *ACLKey) ACLTuple {
	for _, e := range b.aclset {
		if e.Key.List == uint32(k.List) {
			return e.Value.Tuple[k.Tuple]
		}
	}
	return ACLTuple{}
}

// bitsText is a length as people count it for the family of a.
func bitsText(a [16]byte, bits uint8) uint8 {
	if ip(a).Is4() && bits >= 96 {
		return bits - 96
	}
	return bits
}

func tupleText(t ACLTuple) string {
	s := fmt.Sprintf("%d.%d", t.RemoteBits, t.LocalBits)
	if t.Flags&aclClass != 0 {
		s = fmt.Sprintf("class.%d", t.LocalBits)
	}
	if t.RportBits|t.LportBits != 0 {
		s += fmt.Sprintf(":%d.%d", t.RportBits, t.LportBits)
	}
	var of []string
	for i, name := range [...]string{"ip4", "ip6", "other", "tcp", "udp", "sctp", "icmp"} {
		if t.Kinds&(1<<i) != 0 {
			of = append(of, name)
		}
	}
	return s + "(" + strings.Join(of, ",") + ")"
}
