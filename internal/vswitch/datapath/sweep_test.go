// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

func TestSweep(t *testing.T) {
	l := newLab(t)
	d := l.open()
	now, err := monotonicSeconds()
	if err != nil {
		t.Fatal(err)
	}
	const est, tw, udp1 = uint8(bpf.SwitchGhFlowStateGH_FLOW_EST), uint8(bpf.SwitchGhFlowStateGH_FLOW_TW), uint8(bpf.SwitchGhFlowStateGH_FLOW_UDP1)
	m := d.state["flow4"]
	// put makes a conversation n with both halves of given ages; -1 = no half.
	put := func(n uint32, state uint8, forward, reply int, nat uint8) {
		t.Helper()
		f := bpf.FlowKey4{SrcBe: n, DstBe: 99, Port: 10, Zone: 1, Proto: 17}
		r := bpf.FlowKey4{SrcBe: 99, DstBe: n, Port: 11, Zone: 1, Proto: 17}
		if forward >= 0 {
			v := bpf.Flow4{State: state, LastS: now - uint32(forward), InPort: 10, OutPort: 11, Pair: r, Verdict: 1}
			if err := m.Put(f, v); err != nil {
				t.Fatal(err)
			}
		}
		if reply >= 0 {
			if err := m.Put(r, bpf.Flow4{State: state, LastS: now - uint32(reply), InPort: 11, OutPort: 10, Pair: f, Verdict: 1, Reply: 1, Nat: nat}); err != nil {
				t.Fatal(err)
			}
		}
	}
	there := func(n uint32) (halves int) {
		for _, k := range []bpf.FlowKey4{{SrcBe: n, DstBe: 99, Port: 10, Zone: 1, Proto: 17}, {SrcBe: 99, DstBe: n, Port: 11, Zone: 1, Proto: 17}} {
			if b, err := m.LookupBytes(k); err == nil && b != nil {
				halves++
			}
		}
		return halves
	}
	for _, c := range []struct {
		n              uint32
		name           string
		state          uint8
		forward, reply int
		want           int
	}{
		{1, "busy", udp1, 0, 0, 2},
		{2, "both idle", udp1, 100, 100, 0},
		{3, "answers still come", udp1, 100, 1, 2},
		{4, "requests still come", udp1, 1, 100, 2},
		{5, "established, idle an hour", est, 3600, 3600, 2},
		{6, "established, idle three hours", est, 10800, 10800, 0},
		{7, "lone and old", udp1, 100, -1, 0},
		{8, "lone answer and old", udp1, -1, 100, 0},
		{9, "lone and new", udp1, 0, -1, 1},
		{12, "closed", tw, 100, 100, 2},
		{13, "closed long ago", tw, 130, 130, 0},
	} {
		put(c.n, c.state, c.forward, c.reply, 0)
		defer func() {
			if got := there(c.n); got != c.want {
				t.Errorf("%s: %d halves left, want %d", c.name, got, c.want)
			}
		}()
	}
	r, err := d.Sweep()
	if err != nil || r.Entries4 != 19 || r.Removed != 8 {
		t.Errorf("sweep: %+v, %v; want 19 entries, 8 removed", r, err)
	}
	var n uint32
	if err := d.state["pflows"].Lookup(uint32(10), &n); err != nil || n != 6 {
		t.Errorf("flows of port 10: %d, %v; want 6", n, err)
	}
	if err := d.state["fill"].Lookup(uint32(0), &n); err != nil || n != 6 || d.Live().Fill(4) != 6 || d.Live().Fill(6) != 0 {
		t.Errorf("conversations: %d, %v; want 6", n, err)
	}
}

// The queue that programs reap by holds every conversation after the first sweep,
// in front of those that came meanwhile, and again when it was written round.
func TestSweepRenewsQueue(t *testing.T) {
	l := newLab(t)
	d := l.open()
	now, err := monotonicSeconds()
	if err != nil {
		t.Fatal(err)
	}
	const n = 100
	key := func(i int) bpf.FlowKey4 {
		return bpf.FlowKey4{SrcBe: uint32(i), DstBe: 99, Port: 10, Zone: 1, Proto: 17}
	}
	for i := range n {
		f, r := key(i), bpf.FlowKey4{SrcBe: 99, DstBe: uint32(i), Port: 11, Zone: 1, Proto: 17}
		if err := d.state["flow4"].Put(f, bpf.Flow4{State: 7, LastS: now, InPort: 10, OutPort: 11, Pair: r, Verdict: 1}); err != nil {
			t.Fatal(err)
		}
		if err := d.state["flow4"].Put(r, bpf.Flow4{State: 7, LastS: now, InPort: 11, OutPort: 10, Pair: f, Verdict: 1, Reply: 1}); err != nil {
			t.Fatal(err)
		}
	}
	position := func(at bpf.ReapAt) (p uint32) {
		t.Helper()
		if err := d.state["reap"].Lookup(uint32(at), &p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	const headAt, tailAt = bpf.SwitchGhReapAtGH_REAP_HEAD4, bpf.SwitchGhReapAtGH_REAP_TAIL4
	sweep := func(head, wantTail uint32) {
		t.Helper()
		if err := d.state["reap"].Put(uint32(headAt), head); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Sweep(); err != nil {
			t.Fatal(err)
		}
		if position(tailAt) != wantTail || position(headAt) != head {
			t.Fatalf("queue from %d to %d, want %d to %d", position(tailAt), position(headAt), wantTail, head)
		}
		if head-wantTail != n {
			return
		}
		seen := map[bpf.FlowKey4]bool{}
		for p := wantTail; p != head; p++ {
			var k bpf.FlowKey4
			if err := d.state["queue4"].Lookup(p%d.state["queue4"].MaxEntries(), &k); err != nil {
				t.Fatal(err)
			}
			seen[k] = true
		}
		for i := range n {
			if !seen[key(i)] {
				t.Fatalf("conversation %d is not queued", i)
			}
		}
	}
	size := d.state["queue4"].MaxEntries()
	sweep(5, ^uint32(n-6))        // the first, though nothing is worn; across the end of the numbers
	sweep(7, ^uint32(n-6))        // two more: nothing to do
	sweep(size/2+50, size/2+50-n) // more than half
	sweep(3*size, 3*size-n)       // written round
	if err := d.beat(); err != nil || int32(position(bpf.SwitchGhReapAtGH_REAP_BEAT)-now) < 0 {
		t.Errorf("beat %d, %v; now %d", position(bpf.SwitchGhReapAtGH_REAP_BEAT), err, now)
	}
}

// BenchmarkSweep is of a full IPv4 table, all alive, and of one where half is dead.
func BenchmarkSweep(b *testing.B) {
	for _, dead := range []int{0, 50} {
		b.Run(fmt.Sprintf("dead=%d%%", dead), func(b *testing.B) {
			l := newLab(b)
			d := l.open()
			m := d.state["flow4"]
			n := int(m.MaxEntries()) / 2
			fill := func() {
				now, err := monotonicSeconds()
				if err != nil {
					b.Fatal(err)
				}
				keys, values := make([]bpf.FlowKey4, 0, 2*n), make([]bpf.Flow4, 0, 2*n)
				for i := range n {
					f := bpf.FlowKey4{SrcBe: uint32(i), DstBe: 99, Port: 10, Zone: 1, Proto: 17}
					r := bpf.FlowKey4{SrcBe: 99, DstBe: uint32(i), Port: 11, Zone: 1, Proto: 17}
					last := now
					if i%100 < dead {
						last -= 1000
					}
					keys = append(keys, f, r)
					values = append(values, bpf.Flow4{State: 7, LastS: last, InPort: 10, OutPort: 11, Pair: r, Verdict: 1},
						bpf.Flow4{State: 7, LastS: last, InPort: 11, OutPort: 10, Pair: f, Verdict: 1, Reply: 1})
				}
				if _, err := m.BatchUpdate(keys, values, nil); err != nil {
					b.Fatal(err)
				}
			}
			fill()
			best := time.Hour
			for b.Loop() {
				if dead > 0 {
					b.StopTimer()
					fill()
					b.StartTimer()
				}
				start := time.Now()
				if _, err := d.Sweep(); err != nil {
					b.Fatal(err)
				}
				best = min(best, time.Since(start))
			}
			b.ReportMetric(float64(best.Microseconds())/1000, "best-ms")
		})
	}
}

func TestGonePortKeepsTimeWait(t *testing.T) {
	l := newLab(t)
	d := l.open()
	now, err := monotonicSeconds()
	if err != nil {
		t.Fatal(err)
	}
	m := d.state["flow6"]
	put := func(n byte, in, out uint16, state bpf.FlowState, nat uint8) {
		k := bpf.FlowKey6{Port: in, Proto: 6}
		k.Src.B[15] = n
		p := bpf.FlowKey6{Port: out, Proto: 6}
		p.Dst.B[15] = n
		if err := m.Put(k, bpf.Flow6{State: uint8(state), LastS: now, InPort: in, OutPort: out, Nat: nat, Pair: p, Verdict: 1}); err != nil {
			t.Fatal(err)
		}
	}
	put(1, 10, 0, bpf.SwitchGhFlowStateGH_FLOW_EST, 1)
	put(2, 10, 0, bpf.SwitchGhFlowStateGH_FLOW_TW, 1)
	put(3, 10, 12, bpf.SwitchGhFlowStateGH_FLOW_TW, 0)
	put(4, 12, 10, bpf.SwitchGhFlowStateGH_FLOW_EST, 0)
	put(5, 12, 13, bpf.SwitchGhFlowStateGH_FLOW_EST, 0)
	d.gone[10] = 1
	if r, err := d.Sweep(); err != nil || r.Removed != 3 || len(d.gone) > 0 {
		t.Fatalf("%+v, %v, still to go: %v", r, err, d.gone)
	}
	var left []byte
	err = d.flow6().walk(func(k *bpf.FlowKey6, _ *bpf.Flow6) bool { left = append(left, k.Src.B[15]); return true })
	if err != nil || len(left) != 2 || left[0]+left[1] != 7 {
		t.Errorf("left %v, %v; want 2 and 5", left, err)
	}
}

func TestFlowsDecode(t *testing.T) {
	l := newLab(t)
	d := l.open()
	now, _ := monotonicSeconds()
	k := bpf.FlowKey4{SrcBe: be32(10, 1, 0, 10), DstBe: be32(192, 0, 2, 1), SportBe: port(1234), DportBe: port(80), Port: 10, Zone: 1, Proto: 6}
	v := bpf.Flow4{
		Verdict: 1, State: uint8(bpf.SwitchGhFlowStateGH_FLOW_EST), LastS: now - 3, BornS: now - 5, OutPort: 0, Net: 1, Packets: 7, Bytes: 700,
		Ops: uint16(bpf.SwitchGhOpGH_OP_NSRC | bpf.SwitchGhOpGH_OP_NSPORT), NsrcBe: be32(198, 51, 100, 1), NsportBe: port(10001),
	}
	if err := d.state["flow4"].Put(k, v); err != nil {
		t.Fatal(err)
	}
	var got []Flow
	if err := d.Flows(func(f Flow) bool { got = append(got, f); return true }); err != nil || len(got) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	f := got[0]
	if f.Src.String() != "10.1.0.10:1234" || f.Dst.String() != "192.0.2.1:80" || f.NewSrc.String() != "198.51.100.1:10001" ||
		f.NewDst != f.Dst || f.State != "est" || f.In != 10 || f.Packets != 7 || f.Idle.Seconds() < 3 || f.Age.Seconds() < 5 {
		t.Errorf("flow %+v", f)
	}
}

func be32(b ...byte) uint32 {
	var v uint32
	for i, x := range b {
		v |= uint32(x) << (8 * i) // this machine is little endian, as the object is
	}
	return v
}

func TestNames(t *testing.T) {
	if ReasonName(6) != "spoof_ip" || ReasonName(2) != "l2_proto" || ReasonName(200) != "reason_200" || LayerName(0) != "port" || stateName(2) != "est" {
		t.Error(ReasonName(6), ReasonName(2), ReasonName(200), LayerName(0), stateName(2))
	}
}

func FuzzDecodeEvent(f *testing.F) {
	f.Add(make([]byte, 128))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = decodeEvent(b) })
}

// What went and what is there again is known also when Apply mends or begins anew.
func TestGoneOverRenewal(t *testing.T) {
	l := newLab(t)
	l.container(10)
	d := l.open()
	l.apply(d)
	with := l.s.Ports
	without := slices.DeleteFunc(slices.Clone(with), func(p vswitch.Port) bool { return p.ID == 10 })
	for _, failed := range []int{0, 1, mendsMost + 1} {
		l.s.Ports = without
		d.tried = slices.Repeat([]vswitch.Tables{d.tables}, failed)
		l.apply(d)
		if d.gone[10] == 0 || len(d.gone) != 1 {
			t.Errorf("%d failed, port 10 went: %v", failed, d.gone)
		}
		l.s.Ports = with
		d.tried = slices.Repeat([]vswitch.Tables{d.tables}, failed)
		l.apply(d)
		if len(d.gone) != 0 {
			t.Errorf("%d failed, port 10 is there again: %v", failed, d.gone)
		}
	}
	if all, err := d.generations(); err != nil || len(all) != 1 {
		t.Errorf("generations %v, %v", all, err)
	}
}
