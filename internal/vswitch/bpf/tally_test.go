// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import (
	"fmt"
	"testing"
)

// rewriteTags makes entries look as if another CPU was writing them.
func rewriteTags[K, V any](t *testing.T, l *lab, name string, odd func(*V)) {
	t.Helper()
	all := map[any]V{}
	var k K
	var v V
	it := l.coll.Maps[name].Iterate()
	for it.Next(&k, &v) {
		odd(&v)
		all[k] = v
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	for k, v := range all {
		if err := l.coll.Maps[name].Put(k, v); err != nil {
			t.Fatal(err)
		}
	}
}

// What the programs count stays what is there when entries replace others: a
// conversation that is made twice, one that begins the other way round after its
// address has moved, one that takes the place of a dead one. In the end, when
// all are dead and reaped, nothing is left.
func TestTallyReplaced(t *testing.T) {
	const each = 100
	l := newLab(t, true)
	a, b, s, v := l.port("a"), l.port("b"), l.port("s"), l.port("v")
	for i, f := range fams() {
		t.Run("v"+f.name, func(t *testing.T) {
			l.reset()
			name := "flow" + f.name
			size := func() (n int) {
				var k, v []byte
				it := l.coll.Maps[name].Iterate()
				for it.Next(&k, &v) {
					n++
				}
				return n
			}
			check := func(when string, atA, atB, atS, atV uint32) {
				t.Helper()
				got := []uint32{l.counter("pflows", a.id), l.counter("pflows", b.id), l.counter("pflows", s.id), l.counter("pflows", v.id), l.counter("fill", uint32(i))}
				want := []uint32{atA, atB, atS, atV, atA + atB + atS + atV}
				if fmt.Sprint(got) != fmt.Sprint(want) || size() != int(2*want[4]) {
					t.Errorf("%s: at a, b, s, v and in all %d, want %d; %d entries", when, int32s(got), int32s(want), size())
				}
			}
			send := func(port, format string, args ...any) {
				t.Helper()
				if o, k := l.send(t, port, fmt.Sprintf(format, args...)); k == nil {
					t.Fatalf("refused: %+v", o.res)
				}
			}
			for n := range each {
				send("a", "%s.%d > %s.53: udp", f.a, 1000+n, f.x)
				send("b", "%s.%d > %s.7: udp", f.b, 2000+n, f.a)
			}
			check("made", each, each, 0, 0)
			if f.name == "4" {
				rewriteTags[FlowKey4](t, l, name, func(v *Flow4) { v.Tag |= 1 })
			} else {
				rewriteTags[FlowKey6](t, l, name, func(v *Flow6) { v.Tag |= 1 })
			}
			for n := range each {
				send("a", "%s.%d > %s.53: udp", f.a, 1000+n, f.x)
				send("b", "%s.%d > %s.7: udp", f.b, 2000+n, f.a)
			}
			check("made twice", each, each, 0, 0)

			// a's address moves to port s, which speaks first.
			key := AddrKey{Zone: 1, Addr: addr(f.a)}
			var was AddrVal
			if err := l.coll.Maps["addr"].Lookup(key, &was); err != nil {
				t.Fatal(err)
			}
			is := was
			is.Port, is.Mac = uint16(s.id), s.mac
			l.put("addr", key, is)
			l.put("portip", PortIPKey{Port: uint16(s.id), Addr: addr(f.a)}, uint8(1))
			for n := range each {
				send("s", "%s.7 > %s.%d: udp", f.a, f.b, 2000+n)
			}
			check("the other way round, from another port", each, 0, each, 0)
			l.put("addr", key, was)

			l.clock(400) // all are dead; the other network's answers take their keys
			for n := range each {
				send("a", "%s.%d > %s.53: udp", f.a, 1000+n, f.x)
			}
			check("dead and met", each, 0, each, 0)

			l.clock(4000)
			l.put("reap", uint32(SwitchGhReapAtGH_REAP_BEAT), uint32(0))
			l.setPort("v", func(p *Port) { p.MaxFlows = 1 })
			defer l.setPort("v", func(p *Port) { p.MaxFlows = 0 })
			l.put("pflows", v.id, uint32(1))
			for range 5 * each { // refused, but each looks for the dead
				l.send(t, "v", fmt.Sprintf("%s.1 > %s.2: udp", map[string]string{"4": "192.168.100.12", "6": "fd00:100::12"}[f.name], f.b))
			}
			l.put("pflows", v.id, uint32(0))
			check("reaped", 0, 0, 0, 0)
		})
	}
}

func int32s(n []uint32) (s []int32) {
	for _, v := range n {
		s = append(s, int32(v))
	}
	return s
}

// A count that the sweeper made too low keeps nobody out and makes no table crowded.
func TestTallyBelowZero(t *testing.T) {
	l := newLab(t, true)
	l.setPort("a", func(p *Port) { p.MaxFlows = 3 })
	for i, f := range fams() {
		l.reset()
		l.put("pflows", l.port("a").id, ^uint32(0))
		l.put("fill", uint32(i), ^uint32(4))
		if o, k := l.send(t, "a", fmt.Sprintf("%s.1000 > %s.53: udp", f.a, f.x)); k == nil {
			t.Errorf("%s: quota: %+v", f.name, o.res)
		}
		if o, k := l.send(t, "b", fmt.Sprintf("%s.45000 > %s.80: tcp S", f.b, f.x)); k == nil {
			t.Errorf("%s: %+v", f.name, o.res)
		}
		l.clock(10)
		if o, k := l.send(t, "x", fmt.Sprintf("%s.80 > %s.45000: tcp S.", f.x, f.h)); k == nil {
			t.Errorf("%s: half open, and given up as in a crowded table: %+v", f.name, o.res)
		}
	}
}
