// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import (
	"fmt"
	"testing"
)

// Seconds are 32 bits wide and come round after 136 years; a flow lives across
// that, and a jump of the clock costs nothing but flows that are silent as long.
func TestClockJumps(t *testing.T) {
	l := newLab(t, true)
	for _, f := range fams() {
		ask := fmt.Sprintf("%s.45000 > %s.53: udp", f.a, f.x)
		answer := fmt.Sprintf("%s.53 > %s.45000: udp", f.x, f.h)
		alive := func(when string, want bool) {
			t.Helper()
			if _, k := l.send(t, "x", answer); (k != nil) != want {
				t.Errorf("%s, %s: answered %v, want %v", f.name, when, k != nil, want)
			}
		}
		// now is the real clock's second, as flows are stamped with.
		l.reset()
		l.send(t, "a", ask)
		now := uint64(l.second(t, f.name))
		for _, c := range []struct {
			name     string
			from, to uint64
			want     bool
		}{
			{"across the turn", 1<<32 - now - 10, 1<<32 - now + 10, true},
			{"across the turn, silent", 1<<32 - now - 10, 1<<32 - now + 40, false},
			{"across half of it", 1<<31 - now - 10, 1<<31 - now + 10, true},
			{"a year on", 0, 365 * 86400, false},
			{"back a little", 100, 97, true},
			{"back an hour", 7200, 3600, true},
		} {
			l.reset()
			l.clock(c.from)
			l.send(t, "a", ask)
			l.clock(c.to)
			alive(c.name, c.want)
			if _, k := l.send(t, "a", ask); k == nil {
				t.Errorf("%s, %s: nothing goes any more", f.name, c.name)
			}
			alive(c.name+", and again", true)
		}
	}
}

// second is when the only conversation was heard of last.
func (l *lab) second(t *testing.T, family string) (s uint32) {
	if family == "4" {
		var k FlowKey4
		var v Flow4
		if !l.coll.Maps["flow4"].Iterate().Next(&k, &v) {
			t.Fatal("no flow")
		}
		return v.LastS
	}
	var k FlowKey6
	var v Flow6
	if !l.coll.Maps["flow6"].Iterate().Next(&k, &v) {
		t.Fatal("no flow")
	}
	return v.LastS
}
