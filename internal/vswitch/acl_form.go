// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/bits"
	"net/netip"
	"slices"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// aclForm is an ACL set as tuples and rows, all but its number and the classes of
// its address sets.
type aclForm struct {
	list  [4]aclList
	lists uint32 // a bit for each that has anything to decide
	rows  []Entry[ACLKey, ACLRow]
	// classed are rows of which one is made for each class of addresses that is
	// in all of sets. In the order of evaluation.
	classed []classedRow
	named   []namedSet
	hash    uint64
}

type aclList struct{ row ACLSetRow }

type classedRow struct {
	Entry[ACLKey, ACLRow]
	sets []AddrSetID // sorted
}

type namedSet struct {
	set  AddrSetID
	rule int
}

// shape is what rules of one tuple have in common.
type shape struct {
	remote, local, rport, lport uint8 // bits
	flags, fams                 uint8
}

// Bits of a tuple's flags and kinds.
const (
	aclClass = uint8(bpf.SwitchGhAclFlagsGH_ACL_CLASS)
	aclProto = uint8(bpf.SwitchGhAclFlagsGH_ACL_PROTO)
	aclV4    = uint8(bpf.SwitchGhAclKindGH_ACL_V4)
	aclV6    = uint8(bpf.SwitchGhAclKindGH_ACL_V6)
	aclOther = uint8(bpf.SwitchGhAclKindGH_ACL_OTHER)
	aclTCP   = uint8(bpf.SwitchGhAclKindGH_ACL_TCP)
	aclUDP   = uint8(bpf.SwitchGhAclKindGH_ACL_UDP)
	aclSCTP  = uint8(bpf.SwitchGhAclKindGH_ACL_SCTP)
	aclICMP  = uint8(bpf.SwitchGhAclKindGH_ACL_ICMP)
)

// aclKind is the bit of a protocol.
func aclKind(proto uint8) uint8 {
	switch proto {
	case protoTCP:
		return aclTCP
	case protoUDP:
		return aclUDP
	case protoSCTP:
		return aclSCTP
	case protoICMP, protoICMP6:
		return aclICMP
	}
	return aclOther
}

const protoICMP, protoICMP6 = 1, 58 // RFC 792, RFC 4443

// side is one way to match an address: bits of it, or its class.
type side struct {
	prefixKey
	fams  uint8
	class bool
}

func sides(ps []netip.Prefix) []side {
	if len(ps) == 0 {
		return []side{{fams: aclV4 | aclV6}}
	}
	out := make([]side, len(ps))
	for i, p := range ps {
		out[i] = side{prefixKey: prefixKeyOf(p), fams: aclV6}
		if p.Addr().Is4() {
			out[i].fams = aclV4
		}
	}
	return out
}

// aclProtocol is a protocol that a rule names, or any.
type aclProtocol struct{ number, kinds, flags uint8 }

func protocols(r *ACLRule) []aclProtocol {
	list := r.Protocols
	if len(list) == 0 && (len(r.LocalPorts) > 0 || len(r.RemotePorts) > 0) {
		list = []uint8{protoTCP, protoUDP, protoSCTP}
	}
	if len(list) == 0 {
		return []aclProtocol{{kinds: aclOther | aclTCP | aclUDP | aclSCTP | aclICMP}}
	}
	out := make([]aclProtocol, len(list))
	for i, p := range list {
		out[i] = aclProtocol{p, aclKind(p), aclProto}
	}
	return out
}

// portPrefix holds the ports that begin with the first bits of port.
type portPrefix struct {
	port uint16
	bits uint8
}

// portPrefixes are the fewest prefixes that hold the same ports; any port has none.
func portPrefixes(ranges []PortRange) []portPrefix {
	if len(ranges) == 0 {
		return []portPrefix{{}}
	}
	ranges = slices.Clone(ranges)
	slices.SortFunc(ranges, func(a, b PortRange) int { return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last)) })
	var out []portPrefix
	first, last := uint32(ranges[0].First), uint32(ranges[0].Last)
	flush := func() {
		for first <= last {
			n := min(bits.TrailingZeros32(first|1<<16), bits.Len32(last-first+1)-1)
			out = append(out, portPrefix{uint16(first), uint8(16 - n)})
			first += 1 << n
		}
	}
	for _, r := range ranges[1:] {
		if uint32(r.First) > last+1 {
			flush()
			first = uint32(r.First)
		}
		last = max(last, uint32(r.Last))
	}
	flush()
	return out
}

// formOf makes the tuples of a set.
func formOf(a *ACLSet) (*aclForm, error) {
	f := &aclForm{}
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %d ", a.ID, a.Stage)
	for list := range uint8(4) {
		def := ACLAllow
		switch list {
		case listIn:
			def = a.DefaultIn
		case listOut:
			def = a.DefaultOut
		}
		order := ordered(a, list)
		if len(order) == 0 && def == ACLAllow {
			continue
		}
		f.lists |= 1 << list
		l := &f.list[list]
		l.row = ACLSetRow{Action: uint8(def), Stage: a.Stage}
		if err := f.fill(a, list, order); err != nil {
			return nil, err
		}
		fmt.Fprint(h, list, def, l.row.Tuple[:l.row.Tuples])
	}
	var b []byte
	for i := range f.rows {
		h.Write(appendACLRow(b[:0], &f.rows[i]))
	}
	for i := range f.classed {
		r := &f.classed[i]
		b = appendACLRow(b[:0], &r.Entry)
		for _, id := range r.sets {
			b = binary.LittleEndian.AppendUint32(b, uint32(id))
		}
		h.Write(b)
	}
	f.hash = h.Sum64()
	slices.SortStableFunc(f.named, func(a, b namedSet) int { return cmp.Compare(a.set, b.set) })
	f.named = slices.CompactFunc(f.named, func(a, b namedSet) bool { return a.set == b.set })
	return f, nil
}

func appendACLRow(b []byte, e *Entry[ACLKey, ACLRow]) []byte {
	k, v := &e.Key, &e.Value
	b = append(append(b, k.Remote.B[:]...), k.Local.B[:]...)
	b = binary.LittleEndian.AppendUint16(b, k.RportBe)
	b = binary.LittleEndian.AppendUint16(b, k.LportBe)
	b = append(b, k.Proto, k.List, k.Tuple, v.Action)
	b = binary.LittleEndian.AppendUint16(b, v.Rule)
	return binary.LittleEndian.AppendUint32(b, v.Rank)
}

// ordered lists the rules of one list, as indexes, in the order of evaluation.
func ordered(a *ACLSet, list uint8) []int {
	var order []int
	for i := range a.Rules {
		if listOf(&a.Rules[i]) == list {
			order = append(order, i)
		}
	}
	lets := func(r *ACLRule) int {
		if r.Action == ACLAllow || r.Action == ACLPass {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(order, func(i, j int) int {
		x, y := &a.Rules[i], &a.Rules[j]
		return cmp.Or(cmp.Compare(x.Priority, y.Priority), cmp.Compare(lets(x), lets(y)))
	})
	return order
}

func listOf(r *ACLRule) uint8 {
	switch {
	case r.Direction == ACLOut && r.View == ViewOriginal:
		return listOutOriginal
	case r.Direction == ACLOut:
		return listOut
	case r.View == ViewOriginal:
		return listInOriginal
	}
	return listIn
}

// fill makes the tuples and rows of one list.
func (f *aclForm) fill(a *ACLSet, list uint8, order []int) error {
	tuples := map[shape]*ACLTuple{}
	var shapes []shape // in order of appearance: of their best rule
	type row struct {
		shape
		Entry[ACLKey, ACLRow]
		sets []AddrSetID
	}
	var rows []row
	type where struct {
		shape
		ACLKey
	}
	seen := map[where]bool{}
	for rank, i := range order {
		r := &a.Rules[i]
		remotes, locals, protos := sides(r.Remote), sides(r.Local), protocols(r)
		rports, lports := portPrefixes(r.RemotePorts), portPrefixes(r.LocalPorts)
		var sets []AddrSetID
		if len(r.RemoteSets) > 0 {
			sets = slices.Clone(r.RemoteSets)
			slices.Sort(sets)
			sets = slices.Compact(sets)
			remotes[0].class = true
			for _, id := range sets {
				f.named = append(f.named, namedSet{id, i})
			}
		}
		if n := len(remotes) * len(locals) * len(protos) * len(rports) * len(lports); n > MaxACLRows || len(rows)+n > MaxACLRows {
			return invalid("Rules[%d] (%q): it alone becomes %d rows, all rules may become %d: put its addresses into an address set, or its ports into fewer ranges",
				i, r.Name, n, MaxACLRows)
		}
		for _, remote := range remotes {
			for _, local := range locals {
				fams := remote.fams & local.fams
				if fams == 0 {
					continue // no packet is of both families
				}
				for _, proto := range protos {
					for _, rp := range rports {
						for _, lp := range lports {
							s := shape{remote.bits, local.bits, rp.bits, lp.bits, proto.flags, fams}
							if remote.class {
								s.flags |= aclClass
							}
							k := ACLKey{RportBe: be16(rp.port), LportBe: be16(lp.port), Proto: proto.number, List: list}
							k.Remote.B, k.Local.B = remote.addr, local.addr
							if !remote.class && seen[where{s, k}] {
								continue // a rule before it decides
							}
							if !remote.class {
								seen[where{s, k}] = true
							}
							t := tuples[s]
							if t == nil {
								t = &ACLTuple{RemoteBits: s.remote, LocalBits: s.local, RportBits: s.rport, LportBits: s.lport, Flags: s.flags, Kinds: fams,
									Best: uint32(rank)}
								tuples[s] = t
								shapes = append(shapes, s)
							}
							t.Kinds |= proto.kinds
							rows = append(rows, row{s, Entry[ACLKey, ACLRow]{k, ACLRow{Rank: uint32(rank), Rule: uint16(r.ID), Action: uint8(r.Action)}}, sets})
						}
					}
				}
			}
		}
	}
	if len(shapes) > MaxACLTuples {
		return invalid("Rules: those of direction %s and view %s have %d shapes (combinations of prefix lengths, widths of port ranges, and of naming a protocol or not), over %d: use address sets instead of prefixes of many lengths, and fewer port ranges",
			directionOf(list), viewOf(list), len(shapes), MaxACLTuples)
	}
	place := map[shape]uint8{}
	set := &f.list[list].row
	set.Tuples = uint8(len(shapes))
	for i, s := range shapes {
		place[s] = uint8(i)
		set.Tuple[i] = *tuples[s]
	}
	for _, r := range rows {
		r.Key.Tuple = place[r.shape]
		if r.flags&aclClass != 0 {
			f.classed = append(f.classed, classedRow{r.Entry, r.sets})
		} else {
			f.rows = append(f.rows, r.Entry)
		}
	}
	return nil
}

func directionOf(list uint8) ACLDirection {
	if list == listOut || list == listOutOriginal {
		return ACLOut
	}
	return ACLIn
}

func viewOf(list uint8) ACLView {
	if list == listOutOriginal || list == listInOriginal {
		return ViewOriginal
	}
	return ViewTranslated
}

// classAddr is a class's number where a key has the remote address.
func classAddr(class uint32) (a [16]byte) {
	binary.NativeEndian.PutUint32(a[:], class)
	return a
}
