// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"maps"
	"slices"
)

// Delta leads from one Tables to another. Carry it out in this order: Steps one
// after the other, then add one to each entry of Epochs, then Attach and Detach.
type Delta struct {
	Steps []Step
	// Epochs are indexes into the epoch map: flows built with an older value walk
	// the pipeline again. Sorted.
	Epochs []uint32
	// Attach and Detach are uplinks. The port number is no part of an attachment.
	Attach, Detach []UplinkPort
	// AttachOut and DetachOut are uplinks where the program on what the host sends
	// is to be attached, or not any more.
	AttachOut, DetachOut []UplinkPort
	// Gone are ports that are no more, uplinks aside: nothing will come by their
	// flows again.
	Gone []PortID
	// AttachHooks and DetachHooks tell about the socket hooks.
	AttachHooks, DetachHooks bool
}

// Step writes or removes rows of one map, in any order within the step.
type Step struct {
	Map  string // name as in package bpf
	Keys any    // slice of the map's key type
	// Values is a slice as long as Keys, or nil to remove the keys. Arrays have no
	// removal: a row that goes is written as zeros.
	Values any
	Rows   int // length of Keys

	at func(i int) (key, value any)
}

// At returns pointers to one row's key and value; the value is nil for a removal.
func (s Step) At(i int) (key, value any) { return s.at(i) }

// Empty reports whether there is nothing to do.
func (d *Delta) Empty() bool {
	return len(d.Steps) == 0 && len(d.Epochs) == 0 && len(d.Attach) == 0 && len(d.Detach) == 0 &&
		len(d.AttachOut) == 0 && len(d.DetachOut) == 0 && !d.AttachHooks && !d.DetachHooks
}

// Diff returns what leads from old to new. It compares only blocks that the two
// do not share, so after a Compiler's small change it is as cheap as that change.
//
// A packet between two steps sees the old state or the new one of each object,
// never a row that points to a missing one: what is pointed to comes first and
// goes last. Frontends that go are removed before anything else, so that what they
// pointed to may be used anew. Flows decided before are caught by the
// epochs, which therefore come last.
func Diff(old, new Tables) Delta {
	d := diff([]Tables{old}, new)
	d.Attach = without(new.Uplinks, old.Uplinks)
	d.Detach = without(old.Uplinks, new.Uplinks)
	d.AttachOut = without(boundOnly(new.Uplinks), boundOnly(old.Uplinks))
	d.DetachOut = without(boundOnly(old.Uplinks), boundOnly(new.Uplinks))
	d.AttachHooks = new.SocketHooks && !old.SocketHooks
	d.DetachHooks = old.SocketHooks && !new.SocketHooks
	return d
}

// Mend is Diff where each row of the maps is as one of several Tables says, who knows
// which: those that were there and those that were being written. It leaves
// attachments out, and removes rows that may not be there. Where a row may be missing
// that others point to, packets are dropped until it is written.
func Mend(maybe []Tables, new Tables) Delta { return diff(maybe, new) }

// diff is what leads to new from each of olds.
func diff(olds []Tables, new Tables) Delta {
	epochs := map[uint32]bool{}
	gone := map[PortID]bool{}
	all := make([]difference, len(olds))
	for i, old := range olds {
		all[i] = compare(old, new, epochs)
		pairSets(old.ports, new.ports, func(a, b *block) {
			if b == nil {
				gone[PortID(a.port[0].Key)] = true
			}
		})
	}
	return Delta{Steps: stepsOf(all, new), Epochs: slices.Sorted(maps.Keys(epochs)), Gone: slices.Collect(maps.Keys(gone))}
}

// difference is the blocks in which two Tables differ.
type difference struct{ was, is []*block }

// compare finds them, and what they make stale.
func compare(old, new Tables, epochs map[uint32]bool) difference {
	var was, is []*block
	stale := func(b *block, addrs bool) {
		for _, p := range b.epochPorts {
			epochs[uint32(p)] = true
		}
		for _, n := range b.epochNets {
			epochs[EpochNet+uint32(n)] = true
		}
		if addrs {
			for _, n := range b.addrNets {
				epochs[EpochNet+uint32(n)] = true
			}
		}
		if b.global {
			epochs[EpochGlobal] = true
		}
	}
	changed := func(a, b *block) {
		if a == b || a != nil && b != nil && a.stamp == b.stamp && a.equal(&b.rows) {
			return
		}
		if a != nil && b != nil && a.unwatched() == b.unwatched() {
			// Only who looks has changed: flows through the port have to know.
			for _, p := range b.epochPorts {
				epochs[uint32(p)] = true
			}
			was, is = append(was, a), append(is, b)
			return
		}
		if a != nil && a.served != nil {
			staleService(a, b, epochs)
		}
		addrs := a == nil || b == nil || !a.sameHolders(&b.rows)
		if a != nil {
			was = append(was, a)
			stale(a, addrs)
		}
		if b != nil {
			is = append(is, b)
			stale(b, addrs)
		}
	}
	changed(old.cfg, new.cfg)
	changed(old.host, new.host)
	changed(old.announced, new.announced)
	changed(old.inside, new.inside)
	changed(old.outside, new.outside)
	changed(old.fib, new.fib)
	pair(old.uplinks, new.uplinks, changed)
	pair(old.pools, new.pools, changed)
	pair(old.nets, new.nets, changed)
	pair(old.floods, new.floods, changed)
	pairSets(old.ports, new.ports, changed)
	pairSets(old.services, new.services, changed)
	pair(old.acls, new.acls, changed)
	pair(old.classes, new.classes, changed)
	changed(old.vteps, new.vteps)
	pair(old.tunnels, new.tunnels, changed)
	pair(old.overlays, new.overlays, changed)
	pair(old.ways, new.ways, changed)
	pair(old.remotes, new.remotes, changed)

	return difference{was, is}
}

// stepsOf lists what happens to each map on the way to new, in the order of Diff.
func stepsOf(all []difference, new Tables) []Step {
	cfg := change("cfg", all, func(r *rows) []Entry[uint32, CfgRow] { return r.cfg })
	net := change("net", all, func(r *rows) []Entry[uint32, NetRow] { return r.net })
	natpool := change("natpool", all, func(r *rows) []Entry[uint32, NATPoolRow] { return r.natpool })
	busy := change("portbusy", all, func(r *rows) []Entry[BusyKey, uint8] { return r.busy })
	busy.once()
	busy.gones = new.notBusy(busy.gones)
	route := change("route", all, func(r *rows) []Entry[RouteKey, RouteRow] { return r.route })
	portip := change("portip", all, func(r *rows) []Entry[PortIPKey, uint8] { return r.portip })
	port := change("port", all, func(r *rows) []Entry[uint32, PortRow] { return r.port })
	flood := change("flood", all, func(r *rows) []Entry[FloodKey, uint32] { return r.flood })
	floodn := change("floodn", all, func(r *rows) []Entry[uint32, uint32] { return r.floodn })
	vip := change("vip_l2", all, func(r *rows) []Entry[VIPKey, uint8] { return r.vip })
	member := change("member", all, func(r *rows) []Entry[MemberKey, MemberRow] { return r.member })
	slot := change("slot", all, func(r *rows) []Entry[SlotKey, uint32] { return r.slot })
	addr := change("addr", all, func(r *rows) []Entry[AddrKey, AddrRow] { return r.addr })
	fdb := change("fdb", all, func(r *rows) []Entry[FdbKey, uint32] { return r.fdb })
	segment := change("segment", all, func(r *rows) []Entry[SegmentKey, uint32] { return r.segment })
	wireip := change("wireip", all, func(r *rows) []Entry[WireIPKey, uint32] { return r.wireip })
	ifport := change("ifport", all, func(r *rows) []Entry[uint32, uint32] { return r.ifport })
	proxy := change("proxy", all, func(r *rows) []Entry[ProxyKey, SvcRow] { return r.proxy })
	svc := change("svc", all, func(r *rows) []Entry[SvcKey, SvcRow] { return r.svc })

	aclset := change("aclset", all, func(r *rows) []Entry[ACLSetKey, ACLSetRow] { return r.aclset })
	aclrule := change("aclrule", all, func(r *rows) []Entry[ACLKey, ACLRow] { return r.aclrule })
	aclclass := change("aclclass", all, func(r *rows) []Entry[ACLClassKey, uint32] { return r.aclclass })
	vtep := change("vtep", all, func(r *rows) []Entry[uint32, VTEPRow] { return r.vtep })
	nh := change("nh", all, func(r *rows) []Entry[uint32, NextHopRow] { return r.nh })
	peer := change("peer", all, func(r *rows) []Entry[PeerKey, PeerRow] { return r.peer })

	s := stepList{}
	s.remove(svc).remove(proxy)
	// A set of rules is whole before a port refers to it, and knows a class before
	// an address has it. When it goes, its head goes first: a program that missed
	// one of its rows finds the head gone.
	s.put(aclrule).put(aclset).put(aclclass).remove(aclclass)
	// A number of vtep or nh that names something else now is written after who
	// named the former.
	s.put(cfg).put(net).put(natpool).put(busy).insert(vtep).insert(nh).put(route).overwrite(nh).put(portip).put(port).put(flood).put(floodn)
	// Backends first, then the lists that name them, then who reads those; see slot in maps.h.
	s.put(member).put(slot).put(vip)
	s.put(addr).overwrite(vtep).put(peer).put(fdb).put(segment).put(wireip).put(ifport).put(svc).put(proxy)
	s.remove(wireip).remove(segment).remove(fdb)
	s.remove(peer).remove(addr).remove(ifport).remove(slot).remove(member).remove(vip).zero(floodn).remove(flood).remove(portip).remove(route)
	s.zero(nh).zero(vtep).zero(port).remove(busy).zero(natpool).zero(net).zero(cfg)
	s.remove(aclset).remove(aclrule)
	return s.steps
}

// notBusy are those of gone that no block has. Other rows have one owner, but a port
// may be that of one service at every address, and of another at one which the host
// was given since.
func (t Tables) notBusy(gone []Entry[BusyKey, uint8]) []Entry[BusyKey, uint8] {
	if len(gone) == 0 {
		return nil
	}
	had := map[BusyKey]bool{}
	for b := range t.blocks {
		for _, e := range b.busy {
			had[e.Key] = true
		}
	}
	return slices.DeleteFunc(gone, func(e Entry[BusyKey, uint8]) bool { return had[e.Key] })
}

func boundOnly(us []UplinkPort) []UplinkPort {
	return slices.DeleteFunc(slices.Clone(us), func(u UplinkPort) bool { return !u.Bound })
}

// without returns the uplinks of a that are not in b.
func without(a, b []UplinkPort) []UplinkPort {
	var out []UplinkPort
	for _, u := range a {
		if !slices.ContainsFunc(b, func(v UplinkPort) bool { return v.Ifindex == u.Ifindex }) {
			out = append(out, u)
		}
	}
	return out
}

func pair[K comparable](old, new map[K]*block, f func(a, b *block)) {
	for k, b := range new {
		if a := old[k]; a != b {
			f(a, b)
		}
	}
	for k, a := range old {
		if new[k] == nil {
			f(a, nil)
		}
	}
}

// rowChange is what happens to one map.
type rowChange interface{ step(kind stepKind) Step }

type stepKind uint8

const (
	stepPut    stepKind = iota // keys that are new or have another value
	stepInsert                 // keys that are new
	stepUpdate                 // keys that are there with another value
	stepRemove                 // keys that go
	stepZero                   // keys that go, of an array
)

type mapChange[K, V comparable] struct {
	name                    string
	inserts, updates, gones []Entry[K, V]
}

func change[K, V comparable](name string, all []difference, get func(*rows) []Entry[K, V]) mapChange[K, V] {
	c := mapChange[K, V]{name: name}
	for _, x := range all {
		c.add(x, get)
	}
	if len(all) > 1 {
		c.once()
	}
	return c
}

// add collects what happens to the map from one difference.
func (c *mapChange[K, V]) add(x difference, get func(*rows) []Entry[K, V]) {
	var before map[K]V
	for _, b := range x.was {
		for _, e := range get(&b.rows) {
			if before == nil {
				before = map[K]V{}
			}
			before[e.Key] = e.Value
		}
	}
	for _, b := range x.is {
		for _, e := range get(&b.rows) {
			switch v, ok := before[e.Key]; {
			case !ok:
				c.inserts = append(c.inserts, e)
			case v != e.Value:
				c.updates = append(c.updates, e)
				delete(before, e.Key)
			default:
				delete(before, e.Key)
			}
		}
	}
	for k, v := range before {
		c.gones = append(c.gones, Entry[K, V]{k, v})
	}
}

// once leaves of each key one change: what may have another value is an update.
func (c *mapChange[K, V]) once() {
	seen := map[K]bool{}
	for _, l := range []*[]Entry[K, V]{&c.updates, &c.inserts, &c.gones} {
		*l = slices.DeleteFunc(*l, func(e Entry[K, V]) bool {
			was := seen[e.Key]
			seen[e.Key] = true
			return was
		})
	}
}

func (c mapChange[K, V]) step(kind stepKind) Step {
	var from [2][]Entry[K, V]
	switch kind {
	case stepPut:
		from[0], from[1] = c.inserts, c.updates
	case stepInsert:
		from[0] = c.inserts
	case stepUpdate:
		from[0] = c.updates
	case stepRemove, stepZero:
		from[0] = c.gones
	}
	n := len(from[0]) + len(from[1])
	if n == 0 {
		return Step{}
	}
	keys := make([]K, 0, n)
	values := make([]V, 0, n)
	for _, l := range from {
		for _, e := range l {
			keys = append(keys, e.Key)
			if kind == stepZero {
				var zero V
				values = append(values, zero)
			} else {
				values = append(values, e.Value)
			}
		}
	}
	if kind == stepRemove {
		return Step{Map: c.name, Keys: keys, Rows: n, at: func(i int) (any, any) { return &keys[i], nil }}
	}
	return Step{Map: c.name, Keys: keys, Values: values, Rows: n, at: func(i int) (any, any) { return &keys[i], &values[i] }}
}

type stepList struct{ steps []Step }

func (l *stepList) add(c rowChange, kind stepKind) *stepList {
	if s := c.step(kind); s.Rows > 0 {
		l.steps = append(l.steps, s)
	}
	return l
}

func (l *stepList) put(c rowChange) *stepList       { return l.add(c, stepPut) }
func (l *stepList) insert(c rowChange) *stepList    { return l.add(c, stepInsert) }
func (l *stepList) overwrite(c rowChange) *stepList { return l.add(c, stepUpdate) }
func (l *stepList) remove(c rowChange) *stepList    { return l.add(c, stepRemove) }
func (l *stepList) zero(c rowChange) *stepList      { return l.add(c, stepZero) }
