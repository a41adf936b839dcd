// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// world is a State and Facts that change a little at a time.
type world struct {
	s State
	f Facts
}

func newWorld() *world { return &world{f: testFacts()} }

// change does one small thing, chosen by op; n picks to which object. Some
// results are invalid on purpose.
func (w *world) change(op, n byte) {
	s := &w.s
	pick := func(l int) int { return int(n) % max(l, 1) }
	switch {
	case op >= 248:
		w.changeLimits(n)
		return
	case op >= 240:
		w.changeNAT(n)
		return
	case op >= 224:
		w.changeBridge(op%4, n)
		return
	case op >= 192:
		w.changeOverlay(op, n)
		return
	case op%22 >= 18:
		w.changeACL(op%22-18, n)
		return
	}
	switch op % 22 {
	case 0, 1: // add a network with its host port, or take it away with all in it
		id := NetworkID(n%6 + 1)
		if i := slices.IndexFunc(s.Networks, func(x Network) bool { return x.ID == id }); i >= 0 {
			if op&32 == 0 {
				return
			}
			s.Networks = slices.Delete(s.Networks, i, i+1)
			s.Ports = slices.DeleteFunc(s.Ports, func(p Port) bool { return p.Network == id })
			w.dropMappings()
			return
		}
		s.Networks = append(s.Networks, testNetwork(id))
		s.Ports = append(s.Ports, testHostPort(id, w.f))
	case 2, 3, 4: // add a port
		if len(s.Networks) == 0 {
			return
		}
		id := PortID(n%40) + 20
		if slices.ContainsFunc(s.Ports, func(p Port) bool { return p.ID == id }) {
			return
		}
		s.Ports = append(s.Ports, testPort(id, s.Networks[pick(len(s.Networks))].ID, w.f))
	case 5: // remove a port
		if len(s.Ports) > 0 {
			i := pick(len(s.Ports))
			if s.Ports[i].Kind != PortHost {
				s.Ports = slices.Delete(s.Ports, i, i+1)
				w.dropMappings()
			}
		}
	case 6: // publish
		if len(s.Ports) > 0 {
			p := s.Ports[pick(len(s.Ports))]
			if len(p.Addrs) > 0 {
				m := testMapping(p, []byte{6, 17, 132}[n%3], 79+uint16(n)%7*3000)
				if n%5 == 0 {
					m.HostAddr = netip.MustParseAddr("127.0.0.1")
				}
				s.Mappings = append(s.Mappings, m)
			}
		}
	case 7: // publish no longer
		if len(s.Mappings) > 0 {
			i := pick(len(s.Mappings))
			s.Mappings = slices.Delete(s.Mappings, i, i+1)
		}
	case 8: // publish for somebody else
		if len(s.Mappings) > 0 && len(s.Ports) > 0 {
			m, p := &s.Mappings[pick(len(s.Mappings))], s.Ports[int(n/3)%len(s.Ports)]
			if len(p.Addrs) > 0 {
				m.Object, m.Port, m.Addr = p.Object, p.ID, p.Addrs[0]
			}
		}
	case 9: // up, down
		if len(s.Ports) > 0 {
			p := &s.Ports[pick(len(s.Ports))]
			if op&16 != 0 { // mirrored or not; some of these chase their tails
				p.Mirror = s.Ports[int(n/5)%len(s.Ports)].ID * (1 - PortID(n&1))
				return
			}
			p.Up = !p.Up
		}
	case 10: // a device comes or goes
		if len(s.Ports) > 0 {
			p := s.Ports[pick(len(s.Ports))]
			if _, ok := w.f.Ifindex[p.Interface]; ok {
				delete(w.f.Ifindex, p.Interface)
			} else {
				w.f.Ifindex[p.Interface] = 1000 + int(p.ID)
			}
		}
	case 11: // an uplink comes or goes; some of these collide
		ifindex := []int{2, 3, 2 + MaxUplinks, 3 + 2*MaxUplinks}[n%4]
		if i := slices.IndexFunc(w.f.Uplinks, func(u Uplink) bool { return u.Ifindex == ifindex }); i >= 0 {
			w.f.Uplinks = slices.Delete(slices.Clone(w.f.Uplinks), i, i+1)
		} else {
			w.f.Uplinks = append(slices.Clone(w.f.Uplinks), Uplink{
				Name: fmt.Sprint("eth", ifindex), Ifindex: ifindex, MTU: 1300 + uint16(n),
				Addrs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(ifindex)}), 24)},
			})
		}
	case 12: // addresses move: two ports swap theirs
		if len(s.Ports) > 1 {
			a, b := &s.Ports[pick(len(s.Ports))], &s.Ports[int(n/7)%len(s.Ports)]
			if a.Network == b.Network && a.Kind == PortContainer && b.Kind == PortContainer {
				a.Addrs, b.Addrs = b.Addrs, a.Addrs
			}
		}
	case 13: // an address is taken twice
		if len(s.Ports) > 0 {
			p := &s.Ports[pick(len(s.Ports))]
			p.Addrs = append(slices.Clone(p.Addrs), netip.AddrFrom4([4]byte{10, byte(p.Network), 9, n % 4}))
		}
	case 14: // a network changes
		if len(s.Networks) > 0 {
			x := &s.Networks[pick(len(s.Networks))]
			switch n % 4 {
			case 0:
				x.Flags ^= NetFlood
			case 1:
				x.MTU = 1280 + uint16(n)
			case 2:
				x.Zone ^= 64
			case 3:
				x.Flags ^= NetUplink
			}
		}
	case 16, 17:
		w.changeService(n, pick)
	case 15: // the host changes
		switch n % 3 {
		case 0:
			w.f.Anchor = int(n) + 5
		case 1:
			w.f.HostAddrs = append(slices.Clone(w.f.HostAddrs[:2]), netip.AddrFrom4([4]byte{203, 0, 113, n}))
		case 2:
			w.f.NetnsCookie = uint64(n)
		}
	}
}

func (w *world) dropMappings() {
	w.s.Mappings = slices.DeleteFunc(w.s.Mappings, func(m PortMapping) bool {
		return !slices.ContainsFunc(w.s.Ports, func(p Port) bool { return p.ID == m.Port && slices.Contains(p.Addrs, m.Addr) })
	})
	for i := range w.s.Services {
		x := &w.s.Services[i]
		x.Backends = slices.DeleteFunc(x.Backends, func(b Backend) bool {
			return b.At != 0 && !slices.ContainsFunc(w.s.Ports, func(p Port) bool { return p.ID == b.At && slices.Contains(p.Addrs, b.Addr) })
		})
	}
}

// kernel is what maps hold: by map, key to value.
type kernel map[string]map[any]any

var arrays = map[string]bool{"port": true, "net": true, "natpool": true, "floodn": true, "cfg": true, "nh": true, "vtep": true}

func (k kernel) do(t testing.TB, s Step) {
	m := k[s.Map]
	if m == nil {
		m = map[any]any{}
		k[s.Map] = m
	}
	for i := range s.Rows {
		key, value := s.At(i)
		kk := reflect.ValueOf(key).Elem().Interface()
		if value == nil {
			if arrays[s.Map] {
				t.Fatalf("map %s: an array has no removal", s.Map)
			}
			if _, ok := m[kk]; !ok {
				t.Errorf("map %s: key %v removed but not there", s.Map, kk)
			}
			delete(m, kk)
			continue
		}
		v := reflect.ValueOf(value).Elem()
		if arrays[s.Map] && v.IsZero() {
			delete(m, kk)
			continue
		}
		m[kk] = v.Interface()
	}
}

// whole checks that no row points to a missing one.
func (k kernel) whole(t testing.TB, when string) {
	for key, v := range k["ifport"] {
		if _, ok := k["port"][v]; !ok {
			t.Errorf("%s: ifport %v points to port %v, which is not there", when, key, v)
		}
	}
	k.wholeOverlay(t, when)
	for key, v := range k["addr"] {
		a := v.(AddrRow)
		if p, ok := k["port"][uint32(a.Port)]; a.Port != 0 && (!ok || p.(PortRow).Kind == 0) {
			t.Errorf("%s: addr %v points to port %d, which is not there", when, key, a.Port)
		}
	}
	for _, name := range []string{"fdb", "wireip"} {
		for key, v := range k[name] {
			if _, ok := k["port"][v]; !ok {
				t.Errorf("%s: %s %v points to port %v, which is not there", when, name, key, v)
			}
		}
	}
	for key, v := range k["segment"] {
		whose := "net"
		if PortID(key.(SegmentKey).At) < FirstUplinkPort {
			whose = "port"
		}
		if _, ok := k[whose][v]; !ok {
			t.Errorf("%s: segment %v points to %s %v, which is not there", when, key, whose, v)
		}
	}
	k.servicesWhole(t, when)
	for key, v := range k["port"] {
		p := v.(PortRow)
		if p.Net != 0 {
			if _, ok := k["net"][uint32(p.Net)]; !ok {
				t.Errorf("%s: port %v: its network is not there", when, key)
			}
		}
		for _, pool := range []uint16{p.Natpool4, p.Natpool6} {
			if _, ok := k["natpool"][uint32(pool)]; pool != 0 && !ok {
				t.Errorf("%s: port %v: its NAT pool is not there", when, key)
			}
		}
	}
	k.wholeACL(t, when)
	for key, v := range k["floodn"] {
		for i := range v.(uint32) {
			if _, ok := k["flood"][FloodKey{Net: uint16(key.(uint32)), I: uint16(i)}]; !ok {
				t.Errorf("%s: flood member %d of network %v is not there", when, i, key)
			}
		}
	}
}

// checkChanges makes changes and checks after each that compiling the part gives
// what compiling the whole does, and that Diff leads there without a half state.
func checkChanges(t testing.TB, ops []byte) {
	w := newWorld()
	var c Compiler
	var last Tables
	k := kernel{}
	var parts parter
	for i := 0; i+1 < len(ops); i += 2 {
		before := world{w.s, w.f}
		before.s.Networks, before.s.Ports, before.s.Mappings = slices.Clone(w.s.Networks), slices.Clone(w.s.Ports), slices.Clone(w.s.Mappings)
		before.s.NATPools, before.s.Services = slices.Clone(w.s.NATPools), cloneServices(w.s.Services)
		before.s.ACLs, before.s.AddrSets = slices.Clone(w.s.ACLs), slices.Clone(w.s.AddrSets)
		before.s.Tunnels, before.s.Remotes = slices.Clone(w.s.Tunnels), slices.Clone(w.s.Remotes)
		w.change(ops[i], ops[i+1])
		want, wantErr := Compile(w.s, w.f)
		got, err := c.Compile(parts.of(w.s, i/40), w.f)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("change %d (%d %d): part: %v; whole: %v", i/2, ops[i], ops[i+1], err, wantErr)
		}
		if err != nil {
			before.f.Ifindex = w.f.Ifindex
			w.s, w.f = before.s, before.f // refused
			if _, err := Compile(w.s, w.f); err != nil {
				return // a device came back to a used ifindex
			}
			continue
		}
		if diff := cmp.Diff(want.String(), got.String()); diff != "" {
			t.Fatalf("change %d (%d %d): whole and part differ (-whole +part):\n%s", i/2, ops[i], ops[i+1], diff)
		}
		d := Diff(last, got)
		for j, s := range d.Steps {
			k.do(t, s)
			k.whole(t, fmt.Sprintf("change %d (%d %d), step %d (%s)", i/2, ops[i], ops[i+1], j, s.Map))
		}
		full := kernel{}
		for _, s := range Diff(Tables{}, want).Steps {
			full.do(t, s)
		}
		if !k.same(full) {
			diff := cmp.Diff(prune(full), prune(k))
			t.Fatalf("change %d (%d %d): after Diff the maps differ (-want +got):\n%s", i/2, ops[i], ops[i+1], diff)
		}
		if d2 := Diff(last, want); len(d2.Steps) != len(d.Steps) || !slices.Equal(d2.Epochs, d.Epochs) {
			t.Fatalf("change %d (%d %d): Diff depends on what is shared: %d steps, epochs %v; %d steps, epochs %v",
				i/2, ops[i], ops[i+1], len(d.Steps), d.Epochs, len(d2.Steps), d2.Epochs)
		}
		if d := Diff(got, want); !d.Empty() {
			t.Fatalf("change %d: equal Tables differ by %v", i/2, d)
		}
		if len(d.Epochs) == 0 && slices.ContainsFunc(d.Steps, func(s Step) bool {
			// These are of interest for what is new, or for ports, whose rows change too.
			return !slices.Contains([]string{"svc", "slot", "member", "portbusy", "vip_l2", "aclset", "aclrule", "aclclass"}, s.Map)
		}) {
			t.Fatalf("change %d (%d %d): rows changed but no epoch", i/2, ops[i], ops[i+1])
		}
		last = got
		if t.Failed() {
			t.FailNow()
		}
	}
}

// same: both hold the same rows.
func (k kernel) same(o kernel) bool {
	for _, pair := range [][2]kernel{{k, o}, {o, k}} {
		for name, m := range pair[0] {
			if !maps.Equal(m, pair[1][name]) && len(m)+len(pair[1][name]) > 0 {
				return false
			}
		}
	}
	return true
}

// prune makes maps comparable: text instead of structs, no empty ones.
func prune(k kernel) map[string]map[string]string {
	out := map[string]map[string]string{}
	for name, m := range k {
		for key, v := range m {
			if out[name] == nil {
				out[name] = map[string]string{}
			}
			out[name][fmt.Sprint(key)] = fmt.Sprint(v)
		}
	}
	return out
}

func TestWholeAndPartAgree(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		ops := make([]byte, 300)
		for i := range ops {
			ops[i] = byte(r.Uint32())
		}
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) { checkChanges(t, ops) })
	}
}

// TestMend: whatever was written of one change after the other, Mend leads to the last.
func TestMend(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 2))
		w := newWorld()
		var c Compiler
		k, maybe := kernel{}, []Tables{{}}
		for range 400 {
			before := *w
			before.s.Ports, before.s.Networks = slices.Clone(w.s.Ports), slices.Clone(w.s.Networks)
			w.change(byte(r.Uint32()), byte(r.Uint32()))
			next, err := c.Compile(w.s, w.f)
			if err != nil {
				w = &before
				continue
			}
			d := Mend(maybe, next)
			if len(maybe) == 1 {
				d = Diff(maybe[0], next)
			}
			if r.IntN(3) > 0 { // fails half way, in the middle of a step or between two
				if n := r.IntN(len(d.Steps) + 1); n < len(d.Steps) {
					for _, s := range d.Steps[:n] {
						k.mend(s, s.Rows)
					}
					k.mend(d.Steps[n], r.IntN(d.Steps[n].Rows+1))
				}
				maybe = append(maybe, next)
				continue
			}
			for _, s := range d.Steps {
				k.mend(s, s.Rows)
			}
			full := kernel{}
			for _, s := range Diff(Tables{}, next).Steps {
				full.do(t, s)
			}
			if !k.same(full) {
				t.Fatalf("seed %d: after Mend of %d the maps differ (-want +got):\n%s", seed, len(maybe), cmp.Diff(prune(full), prune(k)))
			}
			stale := map[uint32]bool{}
			for _, e := range d.Epochs {
				stale[e] = true
			}
			for _, old := range maybe {
				for _, e := range Diff(old, next).Epochs {
					if !stale[e] {
						t.Fatalf("seed %d: Mend of %d leaves epoch %d", seed, len(maybe), e)
					}
				}
			}
			maybe = []Tables{next}
		}
	}
}

// mend carries out the first rows of a step of Mend, which may remove what is not there.
func (k kernel) mend(s Step, rows int) {
	m := k[s.Map]
	if m == nil {
		m = map[any]any{}
		k[s.Map] = m
	}
	for i := range rows {
		key, value := s.At(i)
		kk := reflect.ValueOf(key).Elem().Interface()
		if value == nil || arrays[s.Map] && reflect.ValueOf(value).Elem().IsZero() {
			delete(m, kk)
		} else {
			m[kk] = reflect.ValueOf(value).Elem().Interface()
		}
	}
}

func FuzzChanges(f *testing.F) {
	f.Add([]byte{0, 0, 2, 0, 3, 1, 6, 1, 12, 1, 5, 2, 11, 2})
	f.Fuzz(func(t *testing.T, ops []byte) {
		if len(ops) > 200 {
			ops = ops[:200]
		}
		checkChanges(t, ops)
	})
}

// FuzzCompile takes any document as State and Facts: it is refused or compiled,
// and what is compiled has every row once.
func FuzzCompile(f *testing.F) {
	for _, name := range []string{"nat", "internal", "bridge", "refused", "overlay"} {
		a, err := txtar.ParseFile("testdata/" + name + ".txtar")
		if err != nil {
			f.Fatal(err)
		}
		var s, facts []byte
		for _, file := range a.Files {
			switch file.Name {
			case "state.json":
				s = file.Data
			case "facts.json":
				facts = file.Data
			}
		}
		f.Add(s, facts)
	}
	f.Fuzz(func(t *testing.T, s, facts []byte) {
		var state State
		var fs Facts
		if json.Unmarshal(s, &state) != nil || json.Unmarshal(facts, &fs) != nil {
			return
		}
		tables, err := Compile(state, fs)
		if err != nil {
			return
		}
		rows := 0
		for b := range tables.blocks {
			rows += len(b.port) + len(b.net) + len(b.ifport) + len(b.portip) + len(b.addr) + len(b.route) + len(b.svc) +
				len(b.slot) + len(b.member) + len(b.vip) + len(b.natpool) + len(b.busy) + len(b.flood) + len(b.floodn) + len(b.cfg) +
				len(b.aclset) + len(b.aclrule) + len(b.aclclass) + len(b.nh) + len(b.vtep) + len(b.peer) + len(b.fdb) + len(b.segment) + len(b.wireip)
		}
		k := kernel{}
		put := 0
		for _, st := range Diff(Tables{}, tables).Steps {
			put += st.Rows
			k.do(t, st)
		}
		if put != rows {
			t.Errorf("%d rows, %d written", rows, put)
		}
		seen := 0
		for _, m := range k {
			seen += len(m)
		}
		if zeros := rows - seen; zeros > 2+len(state.Networks) { // a zero cfg, counts of 0
			t.Errorf("%d rows, %d keys: some key twice", rows, seen)
		}
		k.whole(t, "whole")
		_ = tables.String()
	})
}
