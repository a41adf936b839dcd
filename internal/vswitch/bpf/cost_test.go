// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf/bpfrun"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// What a packet of a known flow may cost, as a multiple of the reference program's
// run on the same machine at the same time, in hundredths. Raise a number only
// with a reason: it is the budget of the hit path (180 ns net).
const (
	costHit4 = 103
	costHit6 = 106
	// costSlack is by how much a run may be over, in percent: vswitch.md 3.5.
	costSlack = 15
)

// How cost is measured: the least of several runs, taken in turns so that a
// change of clock rate meets all of them. The reference's runs are looked at in
// two halves; while their least differ the machine is too busy to tell.
const (
	costRepeat = 50_000 // packets in a run
	costRounds = 14
	costTries  = 6 // as many times costRounds
	costNoise  = 3 // percent
	// A reference as slow as that is an emulated machine's, whose instructions have other prices.
	costEmulated = time.Microsecond
)

// reference is a program of fixed work, of the kinds that the hit path is made of:
// a look-up in a hash table with an IPv4 flow's key, look-ups in arrays, counters,
// the clock, a frame's addresses written, a redirect.
func reference(t testing.TB) *ebpf.Program {
	t.Helper()
	table, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 20, ValueSize: 128, MaxEntries: 4096})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	array, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 128, MaxEntries: 4096})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { array.Close() })
	if err := table.Put(make([]byte, 20), make([]byte, 128)); err != nil {
		t.Fatal(err)
	}
	prog := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.Mov.Imm(asm.R0, 0),
		asm.StoreMem(asm.RFP, -8, asm.R0, asm.DWord),
		asm.StoreMem(asm.RFP, -16, asm.R0, asm.DWord),
		asm.StoreMem(asm.RFP, -24, asm.R0, asm.DWord),
		asm.LoadMapPtr(asm.R1, table.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -24),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.Mov.Imm(asm.R1, 1),
		asm.FetchAdd.Mem(asm.R7, asm.R1, asm.DWord, 0),
		asm.FetchAdd.Mem(asm.R7, asm.R1, asm.DWord, 8),
		asm.FnKtimeGetCoarseNs.Call(),
		asm.StoreMem(asm.R7, 16, asm.R0, asm.DWord),
	}
	for i := range 8 {
		prog = append(prog,
			asm.StoreImm(asm.RFP, -32, int64(i*8), asm.Word),
			asm.LoadMapPtr(asm.R1, array.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -32),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.LoadMem(asm.R1, asm.R0, 8, asm.DWord),
			asm.Add.Imm(asm.R1, 1),
			asm.StoreMem(asm.R0, 8, asm.R1, asm.DWord),
		)
	}
	for range 2 {
		prog = append(prog,
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Imm(asm.R2, 0),
			asm.Mov.Reg(asm.R3, asm.RFP),
			asm.Add.Imm(asm.R3, -24),
			asm.Mov.Imm(asm.R4, 12),
			asm.Mov.Imm(asm.R5, 0),
			asm.FnSkbStoreBytes.Call(),
		)
	}
	prog = append(prog,
		asm.Mov.Imm(asm.R1, 1),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Mov.Imm(asm.R0, 7).WithSymbol("out"),
		asm.Return(),
	)
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "gh_reference", Type: ebpf.SchedCLS, License: "Dual BSD/GPL", Instructions: prog})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// TestHitCost keeps the hit path within its budget: measured against the
// reference, so that the machine's speed does not matter. A machine that is too
// busy to measure skips it.
func TestHitCost(t *testing.T) {
	if testing.Short() {
		t.Skip("measures")
	}
	l := newLab(t, false)
	ref := reference(t)
	port := l.port("a")
	ctx := bpfrun.Context{Ifindex: uint32(port.dev), IngressIfindex: uint32(port.dev)}
	run := func(p *ebpf.Program, frame []byte) (d time.Duration) {
		var err error
		l.in(func() {
			start := time.Now()
			_, err = p.Run(&ebpf.RunOptions{Data: frame, Context: &ctx, Repeat: costRepeat})
			d = time.Since(start)
		})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	// Only paths that leave the packet as it was can be repeated: no TTL, no NAT.
	frames := [2][]byte{
		l.frame(port, pkt.MustParse("192.168.100.10.40000 > 192.168.100.11.80: udp")),
		l.frame(port, pkt.MustParse("fd00:100::10.40000 > fd00:100::11.80: udp")),
	}
	const most = time.Duration(1<<63 - 1)
	half, hit := [2]time.Duration{most, most}, [2]time.Duration{most, most}
	cost := func(i int) int { return int(hit[i] * 100 / min(half[0], half[1])) }
	calm, within := false, false
	for range costTries {
		for round := range costRounds {
			half[round%2] = min(half[round%2], run(ref, frames[0]))
			for i, f := range frames {
				hit[i] = min(hit[i], run(l.coll.Programs["ep_in"], f))
			}
		}
		calm = max(half[0], half[1])*100 <= min(half[0], half[1])*(100+costNoise)
		within = cost(0)*100 <= costHit4*(100+costSlack) && cost(1)*100 <= costHit6*(100+costSlack)
		if calm && within {
			break
		}
	}
	ns := func(d time.Duration) int64 { return (d / costRepeat).Nanoseconds() }
	t.Logf("reference %d ns, IPv4 %d ns (%d, budget %d), IPv6 %d ns (%d, budget %d)",
		ns(min(half[0], half[1])), ns(hit[0]), cost(0), costHit4, ns(hit[1]), cost(1), costHit6)
	switch {
	case min(half[0], half[1]) > costEmulated*costRepeat:
		t.Skip("an emulated machine")
	case !calm:
		t.Skipf("the machine is too busy to measure: the reference took %d or %d ns", ns(half[0]), ns(half[1]))
	case !within:
		t.Errorf("the hit path costs %d (IPv4) and %d (IPv6) hundredths of the reference, over %d and %d by more than %d %%",
			cost(0), cost(1), costHit4, costHit6, costSlack)
	}
}
