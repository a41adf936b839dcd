// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import (
	"fmt"
	"testing"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

func (l *lab) counter(m string, i uint32) (n uint32) {
	l.t.Helper()
	if err := l.coll.Maps[m].Lookup(i, &n); err != nil {
		l.t.Fatal(err)
	}
	return n
}

// What the programs count is what is there, for ports, uplinks and tables.
func TestTally(t *testing.T) {
	l := newLab(t, true)
	for i, f := range fams() {
		l.reset()
		l.send(t, "a", fmt.Sprintf("%s.45000 > %s.53: udp", f.a, f.x))
		l.send(t, "a", fmt.Sprintf("%s.45001 > %s.53: udp", f.a, f.b))
		l.send(t, "x", fmt.Sprintf("%s.45002 > %s.8053: udp", f.x, f.h))
		check := func(when string, a, uplinks uint32) {
			t.Helper()
			if l.counter("pflows", 1) != a || l.counter("pflows", 0) != uplinks || l.counter("fill", uint32(i)) != a+uplinks || l.counter("fill", uint32(1-i)) != 0 {
				t.Errorf("%s, %s: %d at the port, %d at uplinks, %d and %d in the tables", f.name, when, l.counter("pflows", 1),
					l.counter("pflows", 0), l.counter("fill", 0), l.counter("fill", 1))
			}
		}
		check("three", 2, 1)
		l.clock(400) // dead: each is met and made anew
		l.send(t, "a", fmt.Sprintf("%s.45000 > %s.53: udp", f.a, f.x))
		l.send(t, "x", fmt.Sprintf("%s.45002 > %s.8053: udp", f.x, f.h))
		check("made anew", 2, 1)
	}
}

// In a crowded table who has his share gets no more, and who has not still does.
func TestCrowded(t *testing.T) {
	l := newLab(t, true)
	for i, f := range fams() {
		l.reset()
		for n := range 2048 / share {
			if _, k := l.send(t, "a", fmt.Sprintf("%s.%d > %s.80: udp", f.a, 10000+n, f.b)); k == nil {
				t.Fatalf("%s: flow %d refused in an empty table", f.name, n)
			}
		}
		l.put("fill", uint32(i), uint32(2048/5*4+1))
		o, _ := l.send(t, "a", fmt.Sprintf("%s.9 > %s.80: udp", f.a, f.b))
		if r := DropReason(o.res.Reason); r != SwitchGhDropReasonGH_DROP_PORT_QUOTA {
			t.Errorf("%s: over its share in a crowded table: %v, %+v", f.name, r, o.res)
		}
		if _, k := l.send(t, "b", fmt.Sprintf("%s.9 > %s.80: udp", f.b, f.x)); k == nil {
			t.Errorf("%s: a neighbour below its share is refused", f.name)
		}
		if _, k := l.send(t, "a", fmt.Sprintf("%s.10000 > %s.80: udp", f.a, f.b)); k == nil {
			t.Errorf("%s: an existing flow is refused", f.name)
		}
		// From outside: half the table.
		l.put("pflows", uint32(0), uint32(1023))
		if _, k := l.send(t, "x", fmt.Sprintf("%s.9 > %s.8053: udp", f.x, f.h)); k == nil {
			t.Errorf("%s: from outside, below the share", f.name)
		}
		if o, _ := l.send(t, "x", fmt.Sprintf("%s.8 > %s.8053: udp", f.x, f.h)); DropReason(o.res.Reason) != SwitchGhDropReasonGH_DROP_PORT_QUOTA {
			t.Errorf("%s: from outside, over the share: %+v", f.name, o.res)
		}
		l.put("fill", uint32(i), uint32(2048/5*4))
		if _, k := l.send(t, "a", fmt.Sprintf("%s.9 > %s.80: udp", f.a, f.b)); k == nil {
			t.Errorf("%s: room again, but refused", f.name)
		}
	}
}

// share is GH_SHARE of quota.h.
const share = 16

// Half-open connections are given up after 8 s in a crowded table, others not.
func TestCrowdedSYN(t *testing.T) {
	l := newLab(t, true)
	for i, f := range fams() {
		for _, crowded := range []bool{false, true} {
			l.reset()
			l.send(t, "a", fmt.Sprintf("%s.45000 > %s.80: tcp S", f.a, f.x))
			l.send(t, "a", fmt.Sprintf("%s.45000 > %s.53: udp", f.a, f.x))
			if crowded {
				l.put("fill", uint32(i), uint32(2000))
			}
			l.clock(10)
			o, _ := l.send(t, "x", fmt.Sprintf("%s.80 > %s.45000: tcp S.", f.x, f.h))
			if gone := SwitchGhResultVerdict(o.res.Verdict) == SwitchGhResultVerdictGH_RESULT_NEXT; gone != crowded {
				t.Errorf("%s: crowded %v, half-open connection gone %v", f.name, crowded, gone)
			}
			if _, k := l.send(t, "x", fmt.Sprintf("%s.53 > %s.45000: udp", f.x, f.h)); k == nil {
				t.Errorf("%s: crowded %v: a datagram's flow is gone after 10 s", f.name, crowded)
			}
		}
	}
}

// The binding of a connection in TIME_WAIT outlives its endpoint: nobody else
// gets the port towards that far end, whatever still comes.
func TestTimeWaitHolds(t *testing.T) {
	l := newLab(t, true)
	for _, f := range fams() {
		l.reset()
		for _, s := range []string{"S", ".", "F."} {
			l.send(t, "a", fmt.Sprintf("%s.45000 > %s.80: tcp %s", f.a, f.x, s))
			l.send(t, "x", fmt.Sprintf("%s.80 > %s.45000: tcp %s", f.x, f.h, map[string]string{"S": "S.", ".": ".", "F.": "F."}[s]))
		}
		l.setPort("a", func(p *Port) { p.Flags &^= 1 })
		o, _ := l.send(t, "x", fmt.Sprintf("%s.80 > %s.45000: tcp F.", f.x, f.h))
		if r := DropReason(o.res.Reason); r != SwitchGhDropReasonGH_DROP_PORT_DOWN {
			t.Errorf("%s: what still comes: %v, %+v", f.name, r, o.res)
		}
		_, k := l.send(t, "b", fmt.Sprintf("%s.45000 > %s.80: tcp S", f.b, f.x))
		if k == nil || k.SrcPort == 45000 {
			t.Errorf("%s: another endpoint's connection: %v", f.name, k)
		}
		l.clock(121)
		if _, k := l.send(t, "v", fmt.Sprintf("%s.45000 > %s.80: tcp S", map[string]string{"4": "192.168.100.12", "6": "fd00:100::12"}[f.name], f.x)); k == nil || k.SrcPort != 45000 {
			t.Errorf("%s: after its time: %v", f.name, k)
		}
		// One that is open is told at once that it is over: by the host.
		l.reset()
		l.setPort("a", func(p *Port) { p.Flags |= 1 })
		l.send(t, "a", fmt.Sprintf("%s.45000 > %s.80: tcp S", f.a, f.x))
		l.setPort("a", func(p *Port) { p.Flags &^= 1 })
		if o, _ := l.send(t, "x", fmt.Sprintf("%s.80 > %s.45000: tcp S.", f.x, f.h)); SwitchGhResultVerdict(o.res.Verdict) != SwitchGhResultVerdictGH_RESULT_NEXT {
			t.Errorf("%s: an open one: %+v", f.name, o.res)
		}
		l.setPort("a", func(p *Port) { p.Flags |= 1 })
	}
}

// Two first fragments of one datagram: the later fragments go by the first one's
// ports, and the second one nowhere. An id that comes round is another matter.
func TestFragmentClash(t *testing.T) {
	l := newLab(t, true)
	for _, f := range fams() {
		for _, c := range []struct{ at, dst string }{{"a", f.x}, {"a", f.b}} {
			l.reset()
			one := pkt.MustParse(fmt.Sprintf("%s.45000 > %s.53: udp len 1200", f.a, c.dst)).Fragments(90, 400)
			two := pkt.MustParse(fmt.Sprintf("%s.45001 > %s.99: udp len 1200", f.a, c.dst)).Fragments(90, 400)
			if out, _ := l.sendParts(t, c.at, one, []int{0}); len(out) != 1 {
				t.Fatalf("%s: the first is not forwarded", f.name)
			}
			_, not := l.sendParts(t, c.at, two, []int{0})
			if len(not) != 1 || DropReason(not[0].res.Reason) != SwitchGhDropReasonGH_DROP_FRAG_TABLE {
				t.Errorf("%s to %s: a second first fragment: %+v", f.name, c.dst, not)
			}
			if out, not := l.sendParts(t, c.at, one, []int{0, 1, 2}); len(out) != 3 {
				t.Errorf("%s to %s: the datagram itself: %+v", f.name, c.dst, not)
			}
			l.clock(3)
			if out, not := l.sendParts(t, c.at, two, []int{0, 1, 2}); len(out) != 3 {
				t.Errorf("%s to %s: the id comes round: %+v", f.name, c.dst, not)
			}
		}
		// At an uplink, a datagram of the host with the id of one of ours.
		l.reset()
		ours := pkt.MustParse(fmt.Sprintf("%s.45000 > %s.8053: udp len 1200", f.x, f.h)).Fragments(91, 400)
		hosts := pkt.MustParse(fmt.Sprintf("%s.45000 > %s.99: udp len 1200", f.x, f.h)).Fragments(91, 400)
		if out, not := l.sendParts(t, "x", ours, []int{0}); len(out) != 1 {
			t.Fatalf("%s: %+v", f.name, not)
		}
		_, not := l.sendParts(t, "x", hosts, []int{0, 1})
		for _, o := range not {
			if SwitchGhResultVerdict(o.res.Verdict) != SwitchGhResultVerdictGH_RESULT_NEXT {
				t.Errorf("%s: the host's: %+v", f.name, o.res)
			}
		}
		if len(not) != 2 {
			t.Errorf("%s: a fragment of the host's was taken", f.name)
		}
	}
}

// A later fragment may not reach into the TCP header that was looked at.
func TestFragmentOverlap(t *testing.T) {
	l := newLab(t, true)
	for _, f := range fams() {
		l.reset()
		parts := pkt.MustParse(fmt.Sprintf("%s.45000 > %s.80: tcp S len 800", f.a, f.x)).Fragments(92, 400)
		if out, not := l.sendParts(t, "a", parts, []int{0}); len(out) != 1 {
			t.Fatalf("%s: %+v", f.name, not)
		}
		for _, offset := range []int{8, 16} {
			bad := *parts[1]
			frag := *bad.Frag
			frag.Off = offset
			bad.Frag = &frag
			_, not := l.sendParts(t, "a", []*pkt.Packet{&bad}, []int{0})
			if len(not) != 1 || DropReason(not[0].res.Reason) != SwitchGhDropReasonGH_DROP_FRAG_TINY {
				t.Errorf("%s: offset %d: %+v", f.name, offset, not)
			}
		}
		if out, not := l.sendParts(t, "a", parts, []int{1}); len(out) != 1 {
			t.Errorf("%s: the real one: %+v", f.name, not)
		}
	}
}
