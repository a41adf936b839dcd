// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import (
	"fmt"
	"testing"

	"github.com/cilium/ebpf/ringbuf"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// A GSO packet is as large as its segments.
func TestGSO(t *testing.T) {
	l := newLab(t, true)
	for _, f := range fams() {
		l.reset()
		header := map[string]int{"4": 40, "6": 60}[f.name]
		for _, c := range []struct {
			mss  uint32
			sent bool
		}{
			{uint32(1400 - header), true},
			{uint32(1401 - header), false},
		} {
			s := map[string]string{"4": "192.168.100.13", "6": "fd00:100::13"}[f.name]
			p := l.port("a")
			frame := l.frame(p, pkt.MustParse(fmt.Sprintf("%s.40000 > %s.80: tcp . len 3000", f.a, s)))
			o, err := l.run(p, frame, c.mss)
			if err != nil {
				t.Fatal(err)
			}
			if sent := SwitchGhResultVerdict(o.res.Verdict) == SwitchGhResultVerdictGH_RESULT_FORWARD; sent != c.sent {
				t.Errorf("%s: mss %d: %+v", f.name, c.mss, o.res)
			}
		}
	}
}

// Refusals are limited for each port, and still counted. Resets are counted apart
// from errors: a flood of what gets the ones leaves room for the others.
func TestRejectRate(t *testing.T) {
	l := newLab(t, true)
	l.reset()
	answers := 0
	for range 20 {
		if o, _ := l.send(t, "a", "192.168.100.10.40001 > 10.0.0.9.80: tcp ."); SwitchGhResultVerdict(o.res.Verdict) != SwitchGhResultVerdictGH_RESULT_REPLY {
			t.Fatalf("no reset: %+v", o.res)
		}
	}
	for range 50 {
		o, _ := l.send(t, "a", "192.168.100.10.40000 > 192.168.102.10.80: udp")
		if SwitchGhResultVerdict(o.res.Verdict) == SwitchGhResultVerdictGH_RESULT_REPLY {
			answers++
		}
	}
	if answers < 10 || answers > 20 { // the second may change meanwhile
		t.Errorf("%d answers of 50", answers)
	}
	if n := l.drops()[SwitchGhDropReasonGH_DROP_NO_ROUTE]; n != 50 {
		t.Errorf("%d of 50 counted", n)
	}
}

func TestFloodRate(t *testing.T) {
	l := newLab(t, true)
	l.reset()
	copies := 0
	for range 500 {
		o, _ := l.send(t, "d", "192.168.103.10.137 > 255.255.255.255.137: udp")
		copies += int(o.res.Copies)
	}
	if copies < 2*200 || copies > 2*400 {
		t.Errorf("%d copies of 500 frames", copies)
	}
}

// Events carry the head of the packet and say how many were held back.
func TestEvents(t *testing.T) {
	l := newLab(t, true)
	l.reset()
	r, err := ringbuf.NewReader(l.coll.Maps["events"])
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	line := "192.168.100.11.40000 > 192.168.100.12.80: tcp S"
	l.send(t, "a", line)
	rec, err := r.Read()
	if err != nil {
		t.Fatal(err)
	}
	raw := rec.RawSample
	const head = 8 + 4*3 + 2 + 4 + 6
	if len(raw) < head+96 {
		t.Fatalf("%d bytes", len(raw))
	}
	reason, caplen := DropReason(raw[23]), int(raw[25])
	if reason != SwitchGhDropReasonGH_DROP_SPOOF_IP {
		t.Errorf("reason %v", reason)
	}
	k, err := pkt.Decode(raw[head : head+caplen])
	if err != nil || k.String() != line {
		t.Errorf("packet %v, %v", k, err)
	}
}

// Counters of ports are what vNICs see.
func TestPortCounters(t *testing.T) {
	l := newLab(t, true)
	l.reset()
	sum := func(id uint32) (s PortStats) {
		var vs []PortStats
		if err := l.coll.Maps["pstats"].Lookup(id, &vs); err != nil {
			t.Fatal(err)
		}
		for _, v := range vs {
			s.RxPackets += v.RxPackets
			s.TxPackets += v.TxPackets
			s.TxBytes += v.TxBytes
			s.TxDrops += v.TxDrops
		}
		return s
	}
	a0, b0 := sum(1), sum(2)
	for range 3 {
		l.send(t, "a", "192.168.100.10.40000 > 192.168.100.11.80: udp")
	}
	l.send(t, "a", "192.168.100.99.40000 > 192.168.100.11.80: udp")
	a, b := sum(1), sum(2)
	if a.TxPackets-a0.TxPackets != 3 || b.RxPackets-b0.RxPackets != 3 || a.TxDrops-a0.TxDrops != 1 {
		t.Errorf("a %+v -> %+v, b %+v -> %+v", a0, a, b0, b)
	}
	if want := uint64(3 * (14 + 28)); a.TxBytes-a0.TxBytes != want {
		t.Errorf("%d bytes, want %d", a.TxBytes-a0.TxBytes, want)
	}
	var v Flow4
	if err := l.coll.Maps["flow4"].Lookup(FlowKey4{SrcBe: 0x0a64a8c0, DstBe: 0x0b64a8c0, SportBe: be(40000), DportBe: be(80), Port: 1, Zone: 1, Proto: 17}, &v); err != nil {
		t.Fatal(err)
	}
	if v.Packets != 3 || v.Bytes != 3*42 {
		t.Errorf("flow counted %d packets, %d bytes", v.Packets, v.Bytes)
	}
}

// A device nobody knows is a closed port, an unknown uplink is not ours.
func TestUnknownDevice(t *testing.T) {
	l := newLab(t, true)
	l.reset()
	ghost := &labPort{name: "ghost", dev: 1, mac: mac(0x77), kind: SwitchGhPortKindGH_PORT_CONTAINER}
	frame := l.frame(ghost, pkt.MustParse("192.168.100.10.1 > 192.168.100.11.2: udp"))
	o, err := l.run(ghost, frame, 0)
	if err != nil {
		t.Fatal(err)
	}
	if DropReason(o.res.Reason) != SwitchGhDropReasonGH_DROP_PORT_DOWN {
		t.Errorf("%+v", o.res)
	}
	ghost.kind = SwitchGhPortKindGH_PORT_UPLINK
	if o, err = l.run(ghost, frame, 0); err != nil || o.ret != 0xffffffff {
		t.Errorf("uplink: %+v, %v", o.res, err)
	}
}
