// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import (
	"fmt"
	"maps"
	"slices"
)

// portStats are the counters of all ports, those of unknown devices as 0.
func (l *lab) portStats() map[uint32]PortStats {
	l.t.Helper()
	all := map[uint32]PortStats{}
	ids := []uint32{0}
	for _, p := range l.ports {
		ids = append(ids, p.id)
	}
	for _, id := range ids {
		var perCPU []PortStats
		if err := l.coll.Maps["pstats"].Lookup(id, &perCPU); err != nil {
			l.t.Fatal(err)
		}
		all[id] = SumPortStats(perCPU)
	}
	return all
}

// enters is where a frame at p's device may count: a trunk's is a port for each
// VLAN, and unknown devices are 0.
func (l *lab) enters(p *labPort) []uint32 {
	ids := []uint32{0}
	for _, q := range l.ports {
		if q.dev == p.dev {
			ids = append(ids, q.id)
		}
	}
	return ids
}

// countedWrong holds what one packet of p has changed in the counters against
// what came of it, "" when they agree.
func (l *lab) countedWrong(p *labPort, before map[uint32]PortStats, o outcome, sent, back int) string {
	after := l.portStats()
	var from, sum PortStats
	entered := l.enters(p)
	for _, id := range slices.Sorted(maps.Keys(after)) {
		a, b := after[id], before[id]
		d := PortStats{RxPackets: a.RxPackets - b.RxPackets, RxBytes: a.RxBytes - b.RxBytes, TxPackets: a.TxPackets - b.TxPackets,
			TxBytes: a.TxBytes - b.TxBytes, RxDrops: a.RxDrops - b.RxDrops, TxDrops: a.TxDrops - b.TxDrops}
		if slices.Contains(entered, id) {
			from.TxPackets, from.TxBytes, from.TxDrops = from.TxPackets+d.TxPackets, from.TxBytes+d.TxBytes, from.TxDrops+d.TxDrops
		}
		sum.TxPackets, sum.TxBytes, sum.TxDrops = sum.TxPackets+d.TxPackets, sum.TxBytes+d.TxBytes, sum.TxDrops+d.TxDrops
		sum.RxPackets, sum.RxBytes, sum.RxDrops = sum.RxPackets+d.RxPackets, sum.RxBytes+d.RxBytes, sum.RxDrops+d.RxDrops
	}
	sum.RxDrops = 0 // the sender's, once more
	copied := uint64(o.res.Copied)
	want := PortStats{TxPackets: 1, TxBytes: uint64(sent), RxPackets: copied}
	dropped := PortStats{TxDrops: 1, RxPackets: copied}
	switch SwitchGhResultVerdict(o.res.Verdict) {
	case SwitchGhResultVerdictGH_RESULT_FORWARD:
		want.RxPackets++
		if port := after[o.res.OutPort]; port.RxPackets == before[o.res.OutPort].RxPackets {
			return fmt.Sprintf("port %d got it, which is not counted", o.res.OutPort)
		}
	case SwitchGhResultVerdictGH_RESULT_REPLY:
		if o.res.Reason != 0 {
			want = dropped
		}
		want.RxPackets++
		if copied == 0 && sum.RxBytes != uint64(back) {
			return fmt.Sprintf("an answer of %d bytes counts as %d", back, sum.RxBytes)
		}
	case SwitchGhResultVerdictGH_RESULT_DROP:
		want = dropped
	case SwitchGhResultVerdictGH_RESULT_CONSUMED:
		want.RxPackets += uint64(o.res.Copies)
	case SwitchGhResultVerdictGH_RESULT_NEXT:
		switch {
		case o.res.Copies > 0:
			want.RxPackets += uint64(o.res.Copies)
		case sum.TxDrops > 0: // the host's, but nobody's here
			want = dropped
		default:
			want = PortStats{}
		}
	}
	if sum.TxPackets == 1 && want.TxPackets == 1 && sum.TxBytes != want.TxBytes {
		return fmt.Sprintf("%d bytes are counted as %d", want.TxBytes, sum.TxBytes)
	}
	want.TxBytes, want.RxBytes, sum.TxBytes, sum.RxBytes, from.TxBytes = 0, 0, 0, 0, 0
	if sum != want || from.TxPackets != want.TxPackets || from.TxDrops != want.TxDrops {
		return fmt.Sprintf("counted %+v, of which by the sender %+v; want %+v", sum, from, want)
	}
	return ""
}
