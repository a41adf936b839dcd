// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import (
	"fmt"
	"testing"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// A port with a rate may send so many packets a second, and a burst after
// silence; the others are drops of the meter, and neighbours do not notice.
func TestMeter(t *testing.T) {
	l := newLab(t, true)
	l.reset()
	const pps = 100
	l.setPort("a", func(p *Port) { p.Pps = pps; p.Flags |= 64 })
	defer l.setPort("a", func(p *Port) { p.Pps = 0; p.Flags &^= 64 })
	passed := func(n int) (k int) {
		for range n {
			if o, _ := l.send(t, "a", "192.168.100.10.40000 > 192.168.100.11.80: udp"); SwitchGhResultVerdict(o.res.Verdict) == SwitchGhResultVerdictGH_RESULT_FORWARD {
				k++
			} else if DropReason(o.res.Reason) != SwitchGhDropReasonGH_DROP_METER || Layer(o.res.Layer) != SwitchGhLayerGH_LAYER_METER {
				t.Fatalf("%+v", o.res)
			}
		}
		return k
	}
	// A tenth of a second's worth at once, and what real time brings meanwhile.
	if k := passed(60); k < pps/10 || k > pps/10+20 {
		t.Errorf("%d of 60 at once, want %d or a few more", k, pps/10)
	}
	if n := l.drops()[SwitchGhDropReasonGH_DROP_METER]; n < 30 {
		t.Errorf("%d drops counted", n)
	}
	for i := uint64(1); i < 4; i++ {
		l.clock(i)
		if k := passed(60); k < pps/10 {
			t.Errorf("after a second: %d", k)
		}
	}
	l.clock(0) // back: the bucket is not level for a second, and no longer
	if k := passed(5); k > 5 {
		t.Errorf("%d of 5", k)
	}
	for i := range 40 {
		if _, k := l.send(t, "b", fmt.Sprintf("192.168.100.11.%d > 192.168.100.10.80: udp", 1000+i)); k == nil {
			t.Fatal("a neighbour without a rate is limited")
		}
	}
}

// What a limited port sends goes into its shaper untouched and uncounted; where
// it comes out it is the port's.
func TestShaper(t *testing.T) {
	l := newLab(t, true)
	l.reset()
	near, far := l.port("down"), l.port("v") // two devices that are not needed here
	l.put("ifport", uint32(far.dev), l.port("a").id)
	l.setPort("a", func(p *Port) { p.Shaper = uint32(near.dev); p.Flags |= 64 })
	line := "192.168.100.10.40000 > 192.168.100.11.80: udp"
	a := l.port("a")
	frame := l.frame(a, pkt.MustParse(line))
	o, err := l.run(a, append([]byte{}, frame...), 0)
	if err != nil {
		t.Fatal(err)
	}
	if o.ret != 7 || o.res.OutIfindex != uint32(near.dev) || string(o.out[:len(frame)]) != string(frame) {
		t.Errorf("into the shaper: returned %d, %+v", o.ret, o.res)
	}
	if n := l.counter("pflows", a.id); n != 0 {
		t.Errorf("%d flows before the shaper", n)
	}
	behind := *a
	behind.dev = far.dev
	o, err = l.run(&behind, frame, 0)
	if err != nil || SwitchGhResultVerdict(o.res.Verdict) != SwitchGhResultVerdictGH_RESULT_FORWARD || o.res.OutPort != l.port("b").id {
		t.Errorf("behind the shaper: %+v, %v", o.res, err)
	}
	if n := l.counter("pflows", a.id); n != 1 {
		t.Errorf("%d flows of the port", n)
	}
	// Spoofing is still spoofing there, and a closed port closed on both sides.
	o, err = l.run(&behind, l.frame(a, pkt.MustParse("192.168.100.99.40000 > 192.168.100.11.80: udp")), 0)
	if err != nil || DropReason(o.res.Reason) != SwitchGhDropReasonGH_DROP_SPOOF_IP {
		t.Errorf("spoofed behind the shaper: %+v, %v", o.res, err)
	}
	l.setPort("a", func(p *Port) { p.Flags &^= 1 })
	for _, p := range []*labPort{a, &behind} {
		if o, err = l.run(p, l.frame(a, pkt.MustParse(line)), 0); err != nil || DropReason(o.res.Reason) != SwitchGhDropReasonGH_DROP_PORT_DOWN {
			t.Errorf("closed: %+v, %v", o.res, err)
		}
	}
}

// The class of a port is the priority of what it sends and answers, on a new
// flow, on a known one, and after it changed; what goes straight into a
// namespace has none.
func TestClass(t *testing.T) {
	l := newLab(t, true)
	for _, f := range fams() {
		l.reset()
		l.setPort("a", func(p *Port) { p.Class = 0x2a })
		for i, want := range []uint32{0x1002a, 0x1002a, 0x10007} {
			if i == 2 {
				l.setPort("a", func(p *Port) { p.Class = 7 })
			}
			if o, k := l.send(t, "a", fmt.Sprintf("%s.45000 > %s.80: udp", f.a, f.x)); k == nil || o.prio != want {
				t.Errorf("%s: packet %d to an uplink: priority %#x, want %#x", f.name, i, o.prio, want)
			}
		}
		if o, k := l.send(t, "a", fmt.Sprintf("%s.45000 > %s.80: udp", f.a, f.b)); k == nil || o.prio != 0 {
			t.Errorf("%s: straight into a namespace: priority %#x", f.name, o.prio)
		}
		// An answer of a's to the VM, whose device has a queue.
		vm := map[string]string{"4": "192.168.100.12", "6": "fd00:100::12"}[f.name]
		l.send(t, "v", fmt.Sprintf("%s.1000 > %s.80: udp", vm, f.a))
		if o, k := l.send(t, "a", fmt.Sprintf("%s.80 > %s.1000: udp", f.a, vm)); k == nil || o.prio != 0x10007 {
			t.Errorf("%s: an answer: priority %#x", f.name, o.prio)
		}
		// One that was asked from outside.
		l.send(t, "x", fmt.Sprintf("%s.50000 > %s.8053: udp", f.x, f.h))
		for i := range 2 {
			if o, k := l.send(t, "a", fmt.Sprintf("%s.53 > %s.50000: udp", f.a, f.x)); k == nil || o.prio != 0x10007 {
				t.Errorf("%s: answer %d to outside: priority %#x", f.name, i, o.prio)
			}
		}
		l.setPort("a", func(p *Port) { p.Class = 0 })
		if o, k := l.send(t, "a", fmt.Sprintf("%s.45000 > %s.80: udp", f.a, f.x)); k == nil || o.prio == 0x10007 {
			t.Errorf("%s: without a class: priority %#x", f.name, o.prio)
		}
	}
}
