// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// scriptFrames yields the packets of the scripts, with the port each is put in
// at: what a fuzzer begins with.
func scriptFrames(t testing.TB, l *lab, yield func(port byte, frame []byte)) {
	files, err := filepath.Glob("testdata/*.pkt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	index := map[string]byte{}
	for i, p := range l.ports {
		index[p.name] = byte(i)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range families(string(b)) {
			for line := range strings.Lines(c) {
				w := strings.SplitN(strings.TrimSpace(line), " ", 3)
				if len(w) != 3 || w[0] != "in" {
					continue
				}
				i, ok := index[w[1]]
				if k, err := pkt.Parse(w[2]); ok && err == nil {
					yield(i, l.frame(l.ports[i], k))
				}
			}
		}
	}
}

// FuzzPacket puts any bytes in at any port, and checks what holds for every
// packet: see fuzzRun.
func FuzzPacket(f *testing.F) {
	l := newLab(f, true)
	scriptFrames(f, l, func(port byte, frame []byte) { f.Add(port, frame) })
	for _, line := range []string{"192.168.100.10.40000 > 10.0.0.9.80: udp len 800", "fd00:100::10.40000 > fd00:a::9.80: udp len 800",
		"192.168.100.10 > 10.0.0.9: icmp echo 7 len 800", "192.168.100.10.40000 > 192.168.100.11.80: tcp S len 800"} {
		for _, part := range pkt.MustParse(line).Fragments(9, 400) {
			f.Add(byte(0), l.frame(l.ports[0], part))
		}
	}
	f.Fuzz(func(t *testing.T, port byte, frame []byte) {
		if len(frame) < 34 || len(frame) > 3000 { // TEST_RUN takes no less and no more
			t.Skip()
		}
		l := *l
		l.t = t // the target must not use f
		r := fuzzRun{t: t, l: &l, p: l.ports[int(port)%len(l.ports)], frame: frame}
		if k, err := pkt.Decode(frame); err == nil {
			r.in = k
		}
		l.reset()
		o, ok := r.put(r.p, frame)
		if !ok {
			t.Skip()
		}
		r.check(o)
		r.again(o, "by its flow")
		l.bump(16383)
		r.again(o, "walked again")
		r.reverse(o)
		r.tables()
	})
}

// fuzzRun is one packet and what must hold for it.
type fuzzRun struct {
	t     *testing.T
	l     *lab
	p     *labPort
	frame []byte
	in    *pkt.Packet // nil: not a right packet
}

// put sends a frame and holds the counters against the verdict: it is counted
// once where it enters and where it leaves, or dropped for its reason.
func (r *fuzzRun) put(p *labPort, frame []byte) (outcome, bool) {
	r.t.Helper()
	before := r.l.portStats()
	o, err := r.l.run(p, bytes.Clone(frame), 0)
	if err != nil {
		return o, false
	}
	if wrong := r.l.countedWrong(p, before, o, len(frame), len(o.out)); wrong != "" {
		r.t.Errorf("%s, reason %v, result %+v\n%x", wrong, DropReason(o.res.Reason), o.res, frame)
	}
	if o.res.Reason != 0 {
		n := uint64(0)
		for _, port := range r.l.enters(p) {
			var vs []DropVal
			if r.l.coll.Maps["drops"].Lookup(DropKey{Port: uint16(port), Reason: uint8(o.res.Reason), Layer: uint8(o.res.Layer)}, &vs) == nil {
				for _, v := range vs {
					n += v.Packets
				}
			}
		}
		if n == 0 {
			r.t.Errorf("%v at layer %d: not counted as that", DropReason(o.res.Reason), o.res.Layer)
		}
	}
	return o, true
}

// check: the verdict is one of ours; what is left to the host or dropped is
// unchanged; what was right before it was sent is right afterwards.
func (r *fuzzRun) check(o outcome) {
	r.t.Helper()
	v := SwitchGhResultVerdict(o.res.Verdict)
	switch {
	case o.ret == 0xffffffff && v == SwitchGhResultVerdictGH_RESULT_NEXT:
		if !bytes.Equal(o.out[:len(r.frame)], r.frame) {
			r.t.Errorf("left to the host, but changed:\n%x\n%x", r.frame, o.out)
		}
		if r.p.kind != SwitchGhPortKindGH_PORT_UPLINK {
			r.t.Error("a switch port passed a packet on")
		}
	case o.ret == 2 && (v == SwitchGhResultVerdictGH_RESULT_DROP || v == SwitchGhResultVerdictGH_RESULT_CONSUMED):
		switch reason := DropReason(o.res.Reason); {
		case v == SwitchGhResultVerdictGH_RESULT_DROP && reason == 0:
			r.t.Error("dropped without a reason")
		case reason == SwitchGhDropReasonGH_DROP_TAIL_CALL || reason == SwitchGhDropReasonGH_DROP_INTERNAL:
			r.t.Errorf("dropped for %v\n%x", reason, r.frame)
		}
		// Of what was flooded the last copy's MAC may still be on it.
		if v == SwitchGhResultVerdictGH_RESULT_DROP && !bytes.Equal(o.out[:min(len(o.out), len(r.frame))], r.frame[:min(len(o.out), len(r.frame))]) {
			r.t.Errorf("dropped, but changed:\n%x\n%x", r.frame, o.out)
		}
	case o.ret == 7 && (v == SwitchGhResultVerdictGH_RESULT_FORWARD || v == SwitchGhResultVerdictGH_RESULT_REPLY):
		if o.res.OutIfindex == 0 {
			r.t.Error("redirected nowhere")
		}
		k, err := pkt.Decode(o.out)
		switch {
		case r.in != nil && err != nil:
			r.t.Errorf("%v\n in %x\nout %x", err, r.frame, o.out)
		case r.in != nil && k.TTL == 0 && r.in.TTL != 0 && v == SwitchGhResultVerdictGH_RESULT_FORWARD && (k.Ether == pkt.EtherIP || k.Ether == pkt.EtherIP6):
			r.t.Error("sent with TTL 0")
		case v == SwitchGhResultVerdictGH_RESULT_REPLY && o.res.Reason != 0 && int(o.res.OutIfindex) != r.p.dev:
			r.t.Errorf("the refusal goes to device %d, not %d", o.res.OutIfindex, r.p.dev)
		}
	default:
		r.t.Errorf("returned %d, noted %+v", o.ret, o.res)
	}
}

// again: the same packet has the same end, whether its flow decides or the layers.
func (r *fuzzRun) again(first outcome, how string) {
	r.t.Helper()
	o, ok := r.put(r.p, r.frame)
	if !ok {
		r.t.Fatal("not taken a second time")
	}
	a, b := first.res, o.res
	if a.Reason != 0 || b.Reason != 0 { // an answer less, for there are so many a second
		if a.Reason != b.Reason {
			r.t.Errorf("%s: %v, first %v\n%x", how, DropReason(b.Reason), DropReason(a.Reason), r.frame)
		}
		return
	}
	if a.Verdict != b.Verdict || a.OutPort != b.OutPort || a.OutKind != b.OutKind || a.OutIfindex != b.OutIfindex || a.Nh != b.Nh || !bytes.Equal(first.out, o.out) {
		r.t.Errorf("%s: %+v, first %+v\n in %x\n 1st %x\n 2nd %x", how, b, a, r.frame, first.out, o.out)
	}
}

// reverse: what the far end answers comes to the sender as the mirror image of
// what it sent.
func (r *fuzzRun) reverse(o outcome) {
	r.t.Helper()
	if r.in == nil || SwitchGhResultVerdict(o.res.Verdict) != SwitchGhResultVerdictGH_RESULT_FORWARD || r.in.Inner != nil || r.in.Frag != nil {
		return
	}
	switch {
	case r.in.Proto == pkt.TCP && (r.in.Flags == pkt.SYN || r.in.Flags == pkt.ACK):
	case r.in.Proto == pkt.UDP && r.in.DstPort != 67 && r.in.DstPort != 547: // or the answer is a DHCP server's
	case r.in.Proto == pkt.ICMP && r.in.Type == 8, r.in.Proto == pkt.ICMP6 && r.in.Type == 128:
	default:
		return
	}
	var out *labPort
	for _, p := range r.l.ports {
		if p.id == o.res.OutPort {
			out = p
		}
	}
	seen, err := pkt.Decode(o.out)
	if err != nil || out == nil {
		return
	}
	if r.p.l2() || out.l2() { // who answers follows from MACs and tags: the scripts do it
		return
	}
	a := seen.Reverse()
	a.From, a.To = pkt.MAC{}, pkt.MAC{}
	back, ok := r.put(out, r.l.frame(out, a))
	if !ok {
		return
	}
	outside := r.p.kind == SwitchGhPortKindGH_PORT_UPLINK
	if outside && DropReason(back.res.Reason) == SwitchGhDropReasonGH_DROP_NO_ROUTE {
		return // the fuzzer's far end is nowhere
	}
	got, err := pkt.Decode(back.out)
	if err != nil || SwitchGhResultVerdict(back.res.Verdict) != SwitchGhResultVerdictGH_RESULT_FORWARD || !outside && back.res.OutPort != r.p.id {
		r.t.Errorf("answer %v at %s: %+v (%v), %v\n in %v\nout %v", a, out.name, back.res, DropReason(back.res.Reason), err, r.in, seen)
		return
	}
	want := r.in.Reverse()
	want.TTL = got.TTL
	if got.String() != want.String() {
		r.t.Errorf("answer %v:\n got %v\nwant %v", a, got, want)
	}
}

// tables: no entry is left half written, no padding is in a key, halves find each
// other.
func (r *fuzzRun) tables() {
	r.t.Helper()
	(&scriptRun{l: r.l, t: r.t}).checkTags()
	var k4 FlowKey4
	var v4, p4 Flow4
	it := r.l.coll.Maps["flow4"].Iterate()
	for it.Next(&k4, &v4) {
		if k4.Zero != 0 || v4.Pair.Zero != 0 {
			r.t.Errorf("padding in key %+v", k4)
		}
		if err := r.l.coll.Maps["flow4"].Lookup(v4.Pair, &p4); err != nil || p4.Pair != k4 {
			r.t.Errorf("flow %+v has no other half (%v)", k4, err)
		}
	}
	var k6 FlowKey6
	var v6, p6 Flow6
	it = r.l.coll.Maps["flow6"].Iterate()
	for it.Next(&k6, &v6) {
		if k6.Zero != 0 || v6.Pair.Zero != 0 {
			r.t.Errorf("padding in key %+v", k6)
		}
		if err := r.l.coll.Maps["flow6"].Lookup(v6.Pair, &p6); err != nil || p6.Pair != k6 {
			r.t.Errorf("flow %+v has no other half (%v)", k6, err)
		}
	}
}
