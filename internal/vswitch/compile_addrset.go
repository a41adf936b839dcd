// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"slices"
)

// MaxAddrSetRows is the size of the aclclass map: prefixes in the union of all
// address sets.
const MaxAddrSetRows = 524288

// addrSetMemo is every address set as compiled last. Addresses that are in the
// same sets are a class; rules are asked by class. A class's number follows from
// its sets, so members come and go without rows of rules being touched, unless
// they make a combination of sets that nobody was in before.
type addrSetMemo struct {
	was     []AddrSet
	members map[AddrSetID]uint64   // tells the members of a set from others
	classes map[AddrSetID][]uint32 // what its members are in, sorted
	sets    map[uint32][]AddrSetID // of each class, sorted
}

// prefixKey is a prefix as rows have it: 16 bytes, bits of 128, IPv4 v4-mapped.
type prefixKey struct {
	addr [16]byte
	bits uint8
}

func prefixKeyOf(p netip.Prefix) prefixKey {
	return prefixKey{p.Addr().As16(), uint8(prefixLen(p) - 32)}
}

func (p prefixKey) compare(o prefixKey) int {
	return cmp.Or(bytes.Compare(p.addr[:], o.addr[:]), cmp.Compare(p.bits, o.bits))
}

func (p prefixKey) contains(o prefixKey) bool {
	if o.bits < p.bits {
		return false
	}
	return cut(o.addr, p.bits) == p.addr
}

// cut zeroes all but the first bits.
func cut(a [16]byte, bits uint8) [16]byte {
	for i := range a {
		switch left := int(bits) - 8*i; {
		case left <= 0:
			a[i] = 0
		case left < 8:
			a[i] &= byte(0xff << (8 - left))
		}
	}
	return a
}

// mapped holds every IPv4 address.
func mapped() prefixKey { return prefixKey{netip.IPv4Unspecified().As16(), 96} }

// prefixNode is a prefix of the union: the sets that name it.
type prefixNode struct {
	in, except []AddrSetID
	force      bool // needs a row whatever its class
}

func (c *Compiler) compileAddrSets(s State, _ Facts, t *Tables) error {
	m := &c.addrSets
	if m.members != nil && slices.EqualFunc(m.was, s.AddrSets, equalAddrSet) {
		return nil
	}
	nodes := map[prefixKey]*prefixNode{}
	members := make(map[AddrSetID]uint64, len(s.AddrSets))
	for i := range s.AddrSets {
		set := &s.AddrSets[i]
		if _, ok := members[set.ID]; ok || set.ID == 0 {
			return invalid("AddrSets[%d] (%q): ID %d: must be other than 0 and that of no other set", i, set.Name, set.ID)
		}
		h := uint64(len(set.Prefixes))
		for f, list := range [][]netip.Prefix{set.Prefixes, set.Except} {
			for j, p := range list {
				if err := checkPrefix(p); err != nil {
					return invalid("AddrSets[%d] (%q): %s[%d] %w", i, set.Name, [...]string{"Prefixes", "Except"}[f], j, err)
				}
				k := prefixKeyOf(p)
				n := nodes[k]
				if n == nil {
					n = &prefixNode{}
					nodes[k] = n
				}
				at := &n.in
				if f == 1 {
					at = &n.except
				}
				if !slices.Contains(*at, set.ID) {
					*at = append(*at, set.ID)
					h += prefixHash(k, byte(f)) // a sum: the order is nothing
				}
			}
		}
		members[set.ID] = h
	}
	if len(nodes) > MaxAddrSetRows-1 {
		return invalid("AddrSets: %d different prefixes in all sets, over %d", len(nodes), MaxAddrSetRows-1)
	}
	m.was = cloneAddrSets(s.AddrSets)
	m.members = members
	m.rows(nodes, t)
	return nil
}

// rows makes the class of every prefix and the blocks of t.
func (m *addrSetMemo) rows(nodes map[prefixKey]*prefixNode, t *Tables) {
	keys := make([]prefixKey, 0, len(nodes)+1)
	for k := range nodes {
		keys = append(keys, k)
	}
	// An IPv6 prefix around the v4-mapped addresses says nothing about IPv4.
	if nodes[mapped()] == nil && slices.ContainsFunc(keys, func(k prefixKey) bool { return k.bits < 96 && k.contains(mapped()) }) {
		nodes[mapped()] = &prefixNode{}
		keys = append(keys, mapped())
	}
	if n := nodes[mapped()]; n != nil {
		n.force = true
	}
	slices.SortFunc(keys, prefixKey.compare)

	type open struct {
		key        prefixKey
		in, except []AddrSetID
		sets       int // index into combos
	}
	combos, index := [][]AddrSetID{nil}, map[string]int{"": 0}
	combo := func(sets []AddrSetID) int {
		b := make([]byte, 0, 4*len(sets))
		for _, id := range sets {
			b = binary.LittleEndian.AppendUint32(b, uint32(id))
		}
		i, ok := index[string(b)]
		if !ok {
			i = len(combos)
			index[string(b)] = i
			combos = append(combos, sets)
		}
		return i
	}
	type row struct {
		key  prefixKey
		sets int
	}
	var rows []row
	var around []open
	for _, k := range keys {
		for len(around) > 0 && !around[len(around)-1].key.contains(k) {
			around = around[:len(around)-1]
		}
		var up open
		if len(around) > 0 && (k != mapped()) {
			up = around[len(around)-1]
		}
		n := nodes[k]
		o := open{key: k, in: union(up.in, n.in), except: union(up.except, n.except)}
		o.sets = combo(slices.DeleteFunc(slices.Clone(o.in), func(id AddrSetID) bool { return slices.Contains(o.except, id) }))
		around = append(around, o)
		if o.sets != up.sets || n.force {
			rows = append(rows, row{k, o.sets})
		}
	}

	// The first combination, of no set, has number 0.
	ids := append([]uint32{0}, numbers(combos[1:], slices.Compare[[]AddrSetID], comboHash, 1<<32-1)...)
	m.sets, m.classes = map[uint32][]AddrSetID{}, map[AddrSetID][]uint32{}
	for i, sets := range combos[1:] {
		m.sets[ids[i+1]] = sets
		for _, id := range sets {
			m.classes[id] = append(m.classes[id], ids[i+1])
		}
	}
	for _, l := range m.classes {
		slices.Sort(l)
	}

	// In parts, so that Diff looks only at those with a change.
	parts := map[uint8]*block{}
	for _, r := range rows {
		p := uint8(prefixHash(r.key, 0))
		if parts[p] == nil {
			parts[p] = &block{}
		}
		k := ACLClassKey{Prefixlen: uint32(r.key.bits)}
		k.Addr.B = r.key.addr
		parts[p].aclclass = append(parts[p].aclclass, Entry[ACLClassKey, uint32]{k, ids[r.sets]})
	}
	for p, b := range parts {
		if old := t.classes[p]; old != nil && old.equal(&b.rows) {
			parts[p] = old
		}
	}
	t.classes = parts
}

// union of two lists, sorted.
func union(a, b []AddrSetID) []AddrSetID {
	if len(b) == 0 {
		return a
	}
	u := append(slices.Clone(a), b...)
	slices.Sort(u)
	return slices.Compact(u)
}

func prefixHash(k prefixKey, kind byte) uint64 {
	h := fnv.New64a()
	h.Write(append(append(make([]byte, 0, 18), k.addr[:]...), k.bits, kind))
	return h.Sum64()
}

func comboHash(sets []AddrSetID) uint64 {
	h := fnv.New64a()
	for _, id := range sets {
		var b [4]byte
		binary.LittleEndian.PutUint32(b[:], uint32(id))
		h.Write(b[:])
	}
	return h.Sum64()
}

func checkPrefix(p netip.Prefix) error {
	switch {
	case !p.IsValid() || p.Addr().Is4In6() || p.Addr().Zone() != "":
		return invalid("%q: not a prefix", p)
	case p != p.Masked():
		return invalid("%q: has bits below its length; %q is meant", p, p.Masked())
	}
	return nil
}

func equalAddrSet(a, b AddrSet) bool {
	return a.ID == b.ID && a.Name == b.Name && slices.Equal(a.Prefixes, b.Prefixes) && slices.Equal(a.Except, b.Except)
}

func cloneAddrSets(l []AddrSet) []AddrSet {
	l = slices.Clone(l)
	for i := range l {
		l[i].Prefixes, l[i].Except = slices.Clone(l[i].Prefixes), slices.Clone(l[i].Except)
	}
	return l
}
