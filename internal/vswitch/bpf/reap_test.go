// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import (
	"fmt"
	"testing"
)

// Conversations of which each needs its place in the table come and die, many
// times as many as it has room for. While a sweeper is said to be there and does
// nothing, the table is full after its size; without one, births make room, and
// what lives stays.
func TestReaper(t *testing.T) {
	const (
		rounds  = 6
		newEach = 1200 // of the 2048 that fit into the table of tests
		steady  = 100
		step    = 40 // seconds, more than a datagram without answer is remembered
	)
	l := newLab(t, true)
	size := func(m string) (n int) {
		var k, v []byte
		it := l.coll.Maps[m].Iterate()
		for it.Next(&k, &v) {
			n++
		}
		return n
	}
	for _, f := range fams() {
		for _, swept := range []bool{false, true} {
			t.Run(fmt.Sprintf("v%s swept=%v", f.name, swept), func(t *testing.T) {
				l.reset()
				beat := uint32(0)
				if swept {
					beat = 1 << 30 // far ahead
				}
				l.put("reap", uint32(SwitchGhReapAtGH_REAP_BEAT), beat)
				full := 0
				for round := range rounds {
					for i := range steady {
						if _, out := l.send(t, "a", fmt.Sprintf("%s.%d > %s.53: udp", f.a, 1000+i, f.x)); out == nil && !swept {
							t.Fatalf("round %d: steady conversation %d is refused", round, i)
						}
					}
					for i := range newEach {
						o, out := l.send(t, "a", fmt.Sprintf("%s.%d > %s.%d: udp", f.a, 2000+i, f.x, 5000+round))
						if out != nil {
							continue
						}
						switch DropReason(o.res.Reason) {
						case SwitchGhDropReasonGH_DROP_FLOW_FULL, SwitchGhDropReasonGH_DROP_PORT_QUOTA: // more than its share of a crowded table
						default:
							t.Fatalf("round %d: %+v", round, o.res)
						}
						full++
					}
					// The steady ones speak before their time is over, and keep their age.
					for half := range 2 {
						l.clock(uint64(round*step + (half+1)*step/2))
						for i := range steady {
							l.send(t, "a", fmt.Sprintf("%s.%d > %s.53: udp", f.a, 1000+i, f.x))
						}
					}
				}
				n := size("flow" + f.name)
				t.Logf("%d refused, %d entries", full, n)
				switch {
				case swept && full == 0:
					t.Error("the table holds more than its size: the test shows nothing")
				case !swept && full > 0:
					t.Errorf("%d conversations found the table full", full)
				case !swept && n > 2*(2*newEach+steady):
					t.Errorf("%d entries are left", n)
				}
				if swept {
					return
				}
				// And a table that is full already gets room again.
				l.put("reap", uint32(SwitchGhReapAtGH_REAP_BEAT), uint32(1<<30))
				for i := range 3000 {
					l.send(t, "a", fmt.Sprintf("%s.%d > %s.6000: udp", f.a, 2000+i, f.x))
				}
				l.put("reap", uint32(SwitchGhReapAtGH_REAP_BEAT), uint32(0))
				l.clock(uint64(rounds*step + 2*step))
				refused := 0
				for i := range newEach {
					if _, out := l.send(t, "a", fmt.Sprintf("%s.%d > %s.7000: udp", f.a, 2000+i, f.x)); out == nil {
						refused++
					}
				}
				if refused > newEach/2 {
					t.Errorf("%d of %d conversations found a full table of dead ones", refused, newEach)
				}
				t.Logf("full table: %d of %d refused", refused, newEach)
			})
		}
	}
}
