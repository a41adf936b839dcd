// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"cmp"
	"net/netip"
	"slices"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

const (
	// MaxACLs is how many ACL sets fit aclset, with four lists each.
	MaxACLs = 4096
	// MaxACLTuples is how many shapes of rules one direction and view of a set may
	// have (GH_ACL_TUPLES): each different combination of prefix lengths, of
	// lengths that port ranges fall into, and of whether a protocol is named.
	MaxACLTuples = 128
	// MaxACLRows is how many rows the rules of one set may become.
	MaxACLRows = 65536

	// listMask are the bits of a set's number that say which lists it has.
	listBits = 4
	listMask = 1<<listBits - 1
)

// Lists of a set (enum gh_acl_list).
const (
	listOutOriginal = uint8(bpf.SwitchGhAclListGH_ACL_OUT_ORIGINAL)
	listOut         = uint8(bpf.SwitchGhAclListGH_ACL_OUT)
	listIn          = uint8(bpf.SwitchGhAclListGH_ACL_IN)
	listInOriginal  = uint8(bpf.SwitchGhAclListGH_ACL_IN_ORIGINAL)
)

// portACLs is what a port takes from its ACL sets.
type portACLs struct {
	numbers [MaxPortACLs]uint32
	members uint64 // of the address sets they name
}

// aclMemo is every ACL set as compiled last.
type aclMemo struct {
	sets  map[ACLID]*aclSetMemo
	owner map[RuleID]ACLID
}

type aclSetMemo struct {
	was     ACLSet
	form    *aclForm
	number  uint32
	classes []uint32 // of the address sets it names, as its rows were made
	members uint64
	block   *block
	round   uint64
}

// aclInfo is what rows do not say, for telling.
type aclInfo struct {
	set   *ACLSet
	rules map[RuleID]*ACLRule
}

func (c *Compiler) compileACLs(s State, _ Facts, t *Tables) error {
	m := &c.acls
	if m.sets == nil {
		*m = aclMemo{sets: map[ACLID]*aclSetMemo{}, owner: map[RuleID]ACLID{}}
	}
	if len(s.ACLs) > MaxACLs {
		return invalid("ACLs: %d sets, over %d", len(s.ACLs), MaxACLs)
	}
	var changed []int
	for i := range s.ACLs {
		a := &s.ACLs[i]
		x := m.sets[a.ID]
		if x == nil {
			x = &aclSetMemo{}
			m.sets[a.ID] = x
		} else if x.round == c.round {
			return invalid("ACLs[%d] (%q): ID %d is also that of %q", i, a.Name, a.ID, x.was.Name)
		}
		x.round = c.round
		if x.form == nil || !equalACLSet(&x.was, a) {
			m.release(x)
			// Another memo: Tables handed out point into the old one.
			x = &aclSetMemo{was: cloneACLSet(a), round: c.round}
			m.sets[a.ID] = x
			changed = append(changed, i)
		}
	}
	shared := true
	gone := len(m.sets) != len(s.ACLs)
	if gone {
		for id, x := range m.sets {
			if x.round != c.round {
				m.release(x)
				delete(m.sets, id)
				t.acls = with(t.acls, &shared, id, nil)
			}
		}
	}
	for _, i := range changed {
		x := m.sets[s.ACLs[i].ID]
		if err := checkACLSet(&x.was); err != nil {
			return invalid("ACLs[%d] (%q): %w", i, x.was.Name, err)
		}
		if err := m.claim(&x.was); err != nil {
			return invalid("ACLs[%d] (%q): %w", i, x.was.Name, err)
		}
		var err error
		if x.form, err = formOf(&x.was); err != nil {
			return invalid("ACLs[%d] (%q): %w", i, x.was.Name, err)
		}
	}
	if gone || len(changed) > 0 {
		m.number(s.ACLs)
	}
	for i := range s.ACLs {
		x := m.sets[s.ACLs[i].ID]
		if err := c.fillACL(x); err != nil {
			return invalid("ACLs[%d] (%q): %w", i, x.was.Name, err)
		}
		if t.acls[x.was.ID] != x.block {
			t.acls = with(t.acls, &shared, x.was.ID, x.block)
		}
	}
	return nil
}

// number gives the sets their numbers.
func (m *aclMemo) number(sets []ACLSet) {
	memos := make([]*aclSetMemo, len(sets))
	for i := range sets {
		memos[i] = m.sets[sets[i].ID]
	}
	ids := numbers(memos, func(a, b *aclSetMemo) int { return cmp.Compare(a.was.ID, b.was.ID) },
		func(x *aclSetMemo) uint64 { return x.form.hash }, 1<<(32-listBits)-1)
	for i, x := range memos {
		if n := ids[i]<<listBits | x.form.lists; n != x.number {
			x.number, x.block = n, nil
		}
	}
}

// fillACL makes the block of a set, if what it follows from has changed.
func (c *Compiler) fillACL(x *aclSetMemo) error {
	members := uint64(0)
	var classes []uint32
	for _, id := range x.form.named {
		h, ok := c.addrSets.members[id.set]
		if !ok {
			r := &x.was.Rules[id.rule]
			return invalid("Rules[%d] (%q): RemoteSets: %d is no address set", id.rule, r.Name, id.set)
		}
		members = members*31 + h
		classes = append(classes, c.addrSets.classes[id.set]...)
	}
	x.members = members
	slices.Sort(classes)
	classes = slices.Compact(classes)
	if x.block != nil && slices.Equal(x.classes, classes) {
		return nil
	}
	x.classes = classes
	b := &block{acl: &aclInfo{set: &x.was, rules: map[RuleID]*ACLRule{}}}
	for i := range x.was.Rules {
		b.acl.rules[x.was.Rules[i].ID] = &x.was.Rules[i]
	}
	for list, l := range x.form.list {
		if x.form.lists&(1<<list) == 0 {
			continue
		}
		b.aclset = append(b.aclset, Entry[ACLSetKey, ACLSetRow]{ACLSetKey{Set: x.number, List: uint32(list)}, l.row})
	}
	for _, r := range x.form.rows {
		r.Key.Set = x.number
		b.aclrule = append(b.aclrule, r)
	}
	seen := map[ACLKey]bool{}
	for i := range x.form.classed {
		r := &x.form.classed[i]
		for _, class := range c.addrSets.classes[r.sets[0]] {
			if !includes(c.addrSets.sets[class], r.sets) {
				continue
			}
			e := r.Entry
			e.Key.Set, e.Key.Remote.B = x.number, classAddr(class)
			if seen[e.Key] { // a rule before it decides
				continue
			}
			seen[e.Key] = true
			b.aclrule = append(b.aclrule, e)
		}
	}
	if len(b.aclrule) > MaxACLRows {
		return invalid("Rules: they become %d rows with the combinations of address sets that addresses are in, over %d: name fewer sets, or make one set of what is named together",
			len(b.aclrule), MaxACLRows)
	}
	x.block = b
	return nil
}

func includes(all, some []AddrSetID) bool {
	for _, id := range some {
		if _, ok := slices.BinarySearch(all, id); !ok {
			return false
		}
	}
	return true
}

func (m *aclMemo) claim(a *ACLSet) error {
	for i := range a.Rules {
		r := &a.Rules[i]
		if o, ok := m.owner[r.ID]; ok {
			return invalid("Rules[%d] (%q): ID %d is also that of a rule of set %d", i, r.Name, r.ID, o)
		}
		m.owner[r.ID] = a.ID
	}
	return nil
}

func (m *aclMemo) release(x *aclSetMemo) {
	if x.form == nil {
		return
	}
	for i := range x.was.Rules {
		delete(m.owner, x.was.Rules[i].ID)
	}
}

// aclsOf is what the ACL sets of a port are to its row. Sets that decide nothing
// take no place.
func (c *Compiler) aclsOf(p *Port) (a portACLs, err error) {
	if len(p.ACLs) > MaxPortACLs {
		return a, invalid("ACLs: %d sets, over %d", len(p.ACLs), MaxPortACLs)
	}
	n := 0
	for i, id := range p.ACLs {
		x := c.acls.sets[id]
		switch {
		case x == nil:
			return a, invalid("ACLs[%d] %d: no such ACL set", i, id)
		case slices.Contains(p.ACLs[:i], id):
			return a, invalid("ACLs[%d] %d: listed twice", i, id)
		case x.form.lists == 0:
			continue
		}
		a.numbers[n] = x.number
		a.members = a.members*31 + x.members
		n++
	}
	return a, nil
}

func checkACLSet(a *ACLSet) error {
	switch {
	case a.ID == 0:
		return invalid("ID 0: must be 1 or more")
	case a.DefaultIn > ACLReject:
		return invalid("DefaultIn %d: must be allow, block or reject", a.DefaultIn)
	case a.DefaultOut > ACLReject:
		return invalid("DefaultOut %d: must be allow, block or reject", a.DefaultOut)
	}
	for i := range a.Rules {
		if err := checkACLRule(&a.Rules[i]); err != nil {
			return invalid("Rules[%d] (%q): %w", i, a.Rules[i].Name, err)
		}
	}
	return nil
}

func checkACLRule(r *ACLRule) error {
	switch {
	case r.ID == 0:
		return invalid("ID 0: must be 1 or more")
	case r.Direction != ACLIn && r.Direction != ACLOut:
		return invalid("Direction %d: must be 1 (in) or 2 (out)", r.Direction)
	case r.Action > ACLPass:
		return invalid("Action %d: must be 0 (allow), 1 (block), 2 (reject) or 3 (pass)", r.Action)
	case r.View > ViewOriginal:
		return invalid("View %d: must be 0 (translated) or 1 (original)", r.View)
	case len(r.Remote) > 0 && len(r.RemoteSets) > 0:
		return invalid("RemoteSets: not together with Remote; make two rules, or put the prefixes into an address set")
	}
	for f, list := range [][]PortRange{r.LocalPorts, r.RemotePorts} {
		field := [...]string{"LocalPorts", "RemotePorts"}[f]
		for i, p := range list {
			if p.First > p.Last {
				return invalid("%s[%d] %d-%d: ends before it begins", field, i, p.First, p.Last)
			}
		}
		if len(list) > 0 {
			for _, p := range r.Protocols {
				if !hasPorts(p) {
					return invalid("%s: protocol %d has no ports; make a rule of its own for it", field, p)
				}
			}
		}
	}
	for f, list := range [][]netip.Prefix{r.Local, r.Remote} {
		for i, p := range list {
			if err := checkPrefix(p); err != nil {
				return invalid("%s[%d] %w", [...]string{"Local", "Remote"}[f], i, err)
			}
		}
	}
	return nil
}

func hasPorts(proto uint8) bool { return proto == protoTCP || proto == protoUDP || proto == protoSCTP }

func equalACLSet(a, b *ACLSet) bool {
	return a.ID == b.ID && a.Name == b.Name && a.Stage == b.Stage && a.DefaultIn == b.DefaultIn && a.DefaultOut == b.DefaultOut &&
		slices.EqualFunc(a.Rules, b.Rules, equalACLRule)
}

func equalACLRule(a, b ACLRule) bool {
	return a.ID == b.ID && a.Name == b.Name && a.Priority == b.Priority && a.Direction == b.Direction && a.Action == b.Action &&
		a.View == b.View && slices.Equal(a.Protocols, b.Protocols) && slices.Equal(a.Local, b.Local) && slices.Equal(a.Remote, b.Remote) &&
		slices.Equal(a.RemoteSets, b.RemoteSets) && slices.Equal(a.LocalPorts, b.LocalPorts) && slices.Equal(a.RemotePorts, b.RemotePorts)
}

func cloneACLSet(a *ACLSet) ACLSet {
	c := *a
	c.Rules = slices.Clone(a.Rules)
	for i := range c.Rules {
		r := &c.Rules[i]
		r.Protocols, r.Local, r.Remote = slices.Clone(r.Protocols), slices.Clone(r.Local), slices.Clone(r.Remote)
		r.RemoteSets, r.LocalPorts, r.RemotePorts = slices.Clone(r.RemoteSets), slices.Clone(r.LocalPorts), slices.Clone(r.RemotePorts)
	}
	return c
}
