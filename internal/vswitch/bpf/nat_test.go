// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import (
	"fmt"
	"testing"

	"github.com/cilium/ebpf"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// send puts a packet in and returns what came of it; out is nil unless it was forwarded.
func (l *lab) send(t testing.TB, port, text string) (outcome, *pkt.Packet) {
	t.Helper()
	p := l.port(port)
	o, err := l.run(p, l.frame(p, pkt.MustParse(text)), 0)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if SwitchGhResultVerdict(o.res.Verdict) != SwitchGhResultVerdictGH_RESULT_FORWARD {
		return o, nil
	}
	k, err := pkt.Decode(o.out)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return o, k
}

// fams are the two address families a NAT test runs in.
func fams() []struct{ name, a, b, c, d, h, x string } {
	return []struct{ name, a, b, c, d, h, x string }{
		{"4", "192.168.100.10", "192.168.100.11", "192.168.102.10", "192.168.103.10", "10.0.0.4", "10.0.0.9"},
		{"6", "fd00:100::10", "fd00:100::11", "fd00:102::10", "fd00:103::10", "fd00:a::4", "fd00:a::9"},
	}
}

func TestNATPorts(t *testing.T) {
	l := newLab(t, true)
	for _, f := range fams() {
		// pool shrinks the range of uplink x for one test.
		pool := func(t *testing.T, lo, hi uint16) {
			id := map[string]uint32{"4": 1, "6": 2}[f.name]
			l.put("natpool", id, NATPool{Addr: addr(f.h), Lo: lo, Hi: hi})
			t.Cleanup(func() { l.put("natpool", id, NATPool{Addr: addr(f.h), Lo: 40000, Hi: 49999}) })
		}
		t.Run(f.name+"/outside the range gets a port inside", func(t *testing.T) {
			l.reset()
			pool(t, 41000, 41099)
			_, k := l.send(t, "a", fmt.Sprintf("%s.1234 > %s.80: tcp S", f.a, f.x))
			if k == nil || k.SrcPort < 41000 || k.SrcPort > 41099 {
				t.Fatalf("got %v", k)
			}
			_, r := l.send(t, "x", k.Reverse().String())
			if r == nil || r.DstPort != 1234 || r.Dst.String() != f.a {
				t.Errorf("answer %v", r)
			}
		})
		t.Run(f.name+"/taken port: the second gets another", func(t *testing.T) {
			l.reset()
			_, k1 := l.send(t, "a", fmt.Sprintf("%s.40000 > %s.80: tcp S", f.a, f.x))
			_, k2 := l.send(t, "b", fmt.Sprintf("%s.40000 > %s.80: tcp S", f.b, f.x))
			if k1 == nil || k2 == nil || k1.SrcPort != 40000 || k2.SrcPort == 40000 {
				t.Fatalf("got %v and %v", k1, k2)
			}
			for i, k := range []*pkt.Packet{k1, k2} {
				want := []string{f.a, f.b}[i]
				_, r := l.send(t, "x", k.Reverse().String())
				if r == nil || r.Dst.String() != want || r.DstPort != 40000 {
					t.Errorf("answer to %v: %v, want to %s", k, r, want)
				}
			}
			// Another destination may use the port again.
			_, k3 := l.send(t, "b", fmt.Sprintf("%s.40000 > %s.81: tcp S", f.b, f.x))
			if k3 == nil || k3.SrcPort != 40000 {
				t.Errorf("other destination: %v", k3)
			}
		})
		t.Run(f.name+"/busy ports are never taken", func(t *testing.T) {
			l.reset()
			pool(t, 42000, 42003)
			for _, n := range []uint16{42000, 42001, 42003} {
				k := BusyKey{Addr: addr(f.h), PortBe: be(n), Proto: pkt.TCP}
				l.put("portbusy", k, uint8(1))
				t.Cleanup(func() { _ = l.coll.Maps["portbusy"].Delete(k) })
			}
			_, k := l.send(t, "a", fmt.Sprintf("%s.42000 > %s.80: tcp S", f.a, f.x))
			if k == nil || k.SrcPort != 42002 {
				t.Errorf("got %v", k)
			}
		})
		t.Run(f.name+"/exhausted", func(t *testing.T) {
			l.reset()
			pool(t, 43000, 43003)
			seen := map[uint16]bool{}
			for i := range 40 {
				o, k := l.send(t, "a", fmt.Sprintf("%s.%d > %s.80: udp", f.a, 2000+i, f.x))
				if k == nil {
					if r := DropReason(o.res.Reason); r != SwitchGhDropReasonGH_DROP_NAT_PORTS {
						t.Fatalf("dropped for %v", r)
					}
					continue
				}
				if seen[k.SrcPort] || k.SrcPort < 43000 || k.SrcPort > 43003 {
					t.Fatalf("port %d given twice or out of range", k.SrcPort)
				}
				seen[k.SrcPort] = true
			}
			if len(seen) != 4 {
				t.Errorf("used %d of 4 ports", len(seen))
			}
			// The dead make room.
			l.clock(100)
			if _, k := l.send(t, "a", fmt.Sprintf("%s.2100 > %s.80: udp", f.a, f.x)); k == nil {
				t.Error("ports of dead flows are not taken again")
			}
		})
		t.Run(f.name+"/echo ids are ports", func(t *testing.T) {
			l.reset()
			icmp := map[string]string{"4": "icmp", "6": "icmp6"}[f.name]
			_, k1 := l.send(t, "a", fmt.Sprintf("%s > %s: %s echo 40001", f.a, f.x, icmp))
			_, k2 := l.send(t, "b", fmt.Sprintf("%s > %s: %s echo 40001", f.b, f.x, icmp))
			_, k3 := l.send(t, "b", fmt.Sprintf("%s > %s: %s echo 5", f.b, f.x, icmp))
			if k1 == nil || k2 == nil || k3 == nil || k1.ID != 40001 || k2.ID == 40001 || k3.ID < 40000 {
				t.Fatalf("got %v, %v, %v", k1, k2, k3)
			}
			for i, k := range []*pkt.Packet{k1, k2, k3} {
				_, r := l.send(t, "x", k.Reverse().String())
				if r == nil || r.Dst.String() != []string{f.a, f.b, f.b}[i] || r.ID != []uint16{40001, 40001, 5}[i] {
					t.Errorf("answer to %v: %v", k, r)
				}
			}
			// An error about a rewritten id names the id the sender knows.
			_, r := l.send(t, "x", fmt.Sprintf("%s > %s: %s error %s 0 [%s > %s: %s echo %d]", f.x, f.h, icmp,
				map[string]string{"4": "11.0", "6": "3.0"}[f.name], f.h, f.x, icmp, k3.ID))
			if r == nil || r.Inner == nil || r.Inner.ID != 5 || r.Inner.Src.String() != f.b {
				t.Errorf("error: %v", r)
			}
		})
		t.Run(f.name+"/one source port at two published ports of one backend", func(t *testing.T) {
			l.reset()
			_, k1 := l.send(t, "x", fmt.Sprintf("%s.50000 > %s.8080: tcp S", f.x, f.h))
			_, k2 := l.send(t, "x", fmt.Sprintf("%s.50000 > %s.8081: tcp S", f.x, f.h))
			if k1 == nil || k2 == nil || k1.SrcPort != 50000 || k2.SrcPort == 50000 || k2.Src != k1.Src {
				t.Fatalf("got %v and %v", k1, k2)
			}
			for i, k := range []*pkt.Packet{k1, k2} {
				_, r := l.send(t, "a", k.Reverse().String())
				if r == nil || r.SrcPort != uint16(8080+i) || r.DstPort != 50000 {
					t.Errorf("answer to %v: %v", k, r)
				}
			}
		})
		t.Run(f.name+"/direct and published at once from one source port", func(t *testing.T) {
			l.reset()
			_, k1 := l.send(t, "b", fmt.Sprintf("%s.50000 > %s.8080: tcp S", f.b, f.h))
			_, k2 := l.send(t, "b", fmt.Sprintf("%s.50000 > %s.80: tcp S", f.b, f.a))
			if k1 == nil || k2 == nil || k2.SrcPort == k1.SrcPort {
				t.Fatalf("got %v and %v", k1, k2)
			}
			_, r := l.send(t, "a", k2.Reverse().String())
			if r == nil || r.SrcPort != 80 || r.DstPort != 50000 {
				t.Errorf("answer %v", r)
			}
		})
		t.Run(f.name+"/two networks with one source port", func(t *testing.T) {
			l.reset()
			_, k1 := l.send(t, "d", fmt.Sprintf("%s.40000 > %s.8080: tcp S", f.d, f.h))
			_, k2 := l.send(t, "c", fmt.Sprintf("%s.40000 > %s.8080: tcp S", f.c, f.h))
			if k1 == nil || k2 == nil || k1.Src != k2.Src || k1.SrcPort == k2.SrcPort {
				t.Fatalf("got %v and %v", k1, k2)
			}
			for i, k := range []*pkt.Packet{k1, k2} {
				_, r := l.send(t, "a", k.Reverse().String())
				if r == nil || r.Dst.String() != []string{f.d, f.c}[i] || r.DstPort != 40000 || r.SrcPort != 8080 {
					t.Errorf("answer to %v: %v", k, r)
				}
			}
		})
	}
}

// A flow that is made twice at once (two CPUs) gets one binding: the second
// maker finds the first one's claim by its pair key.
func TestAdoption(t *testing.T) {
	l := newLab(t, true)
	for _, f := range fams() {
		l.reset()
		l.send(t, "b", fmt.Sprintf("%s.1234 > %s.80: udp", f.b, f.x))
		_, k1 := l.send(t, "a", fmt.Sprintf("%s.1234 > %s.80: udp", f.a, f.x))
		// Take away the forward half, as if it were not inserted yet.
		name := map[string]string{"4": "flow4", "6": "flow6"}[f.name]
		if f.name == "4" {
			deleteForward[FlowKey4, Flow4](t, l, name, func(v Flow4) bool { return v.Reply == 0 })
		} else {
			deleteForward[FlowKey6, Flow6](t, l, name, func(v Flow6) bool { return v.Reply == 0 })
		}
		_, k2 := l.send(t, "a", fmt.Sprintf("%s.1234 > %s.80: udp", f.a, f.x))
		if k1 == nil || k2 == nil || k1.SrcPort != k2.SrcPort {
			t.Errorf("%s: got %v, then %v", f.name, k1, k2)
		}
	}
}

func deleteForward[K, V any](t *testing.T, l *lab, name string, forward func(V) bool) {
	var k K
	var v V
	var keys []K
	it := l.coll.Maps[name].Iterate()
	for it.Next(&k, &v) {
		if forward(v) {
			keys = append(keys, k)
		}
	}
	for _, k := range keys {
		if err := l.coll.Maps[name].Delete(k); err != nil {
			t.Fatal(err)
		}
	}
}

func TestQuota(t *testing.T) {
	l := newLab(t, true)
	var row Port
	if err := l.coll.Maps["port"].Lookup(uint32(1), &row); err != nil {
		t.Fatal(err)
	}
	row.MaxFlows = 3
	l.put("port", uint32(1), row)
	l.reset()
	for i := range 5 {
		o, k := l.send(t, "a", fmt.Sprintf("192.168.100.10.%d > 192.168.100.11.80: udp", 1000+i))
		if (k != nil) != (i < 3) {
			t.Errorf("flow %d: %v (%v)", i, k, DropReason(o.res.Reason))
		}
	}
	// A neighbour is not touched, and the dead give back.
	if _, k := l.send(t, "b", "192.168.100.11.1000 > 192.168.100.10.80: udp"); k == nil {
		t.Error("b has no quota but was refused")
	}
	l.clock(100)
	if _, k := l.send(t, "a", "192.168.100.10.1000 > 192.168.100.11.80: udp"); k == nil {
		t.Error("a dead flow that is met does not give its place back")
	}
}

// A full table: what needs no memory goes on, NAT is refused.
func TestTableFull(t *testing.T) {
	l := newLab(t, true)
	l.reset()
	max := l.coll.Maps["flow4"].MaxEntries()
	filler := make([]byte, 128)
	for i := uint32(0); ; i++ {
		err := l.coll.Maps["flow4"].Update(FlowKey4{SrcBe: i, Flags: 0xff}, filler, ebpf.UpdateNoExist)
		if err != nil {
			break
		}
		if i > 2*max {
			t.Fatal("the table does not fill")
		}
	}
	o, k := l.send(t, "a", "192.168.100.10.40000 > 192.168.100.11.80: udp")
	if k == nil || Via(o.res.Flow) != SwitchGhViaGH_VIA_STATELESS {
		t.Errorf("inside the network: %v via %d (%v)", k, o.res.Flow, DropReason(o.res.Reason))
	}
	o, k = l.send(t, "a", "192.168.100.10.40000 > 10.0.0.9.80: udp")
	if k == nil {
		if r := DropReason(o.res.Reason); r != SwitchGhDropReasonGH_DROP_FLOW_FULL {
			t.Errorf("outside: dropped for %v", r)
		}
	} else if k.SrcPort != 40000 || k.Src.String() != "10.0.0.4" {
		t.Errorf("outside: %v", k)
	}
	o, k = l.send(t, "b", "192.168.100.11.40000 > 10.0.0.9.80: udp")
	if r := DropReason(o.res.Reason); k != nil || r != SwitchGhDropReasonGH_DROP_FLOW_FULL {
		t.Errorf("outside: %v, %v", k, r)
	}
	l.reset()
}
