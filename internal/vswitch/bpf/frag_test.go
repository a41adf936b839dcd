// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import (
	"fmt"
	"testing"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// sendParts puts fragments in at a port in the given order and returns those
// that were forwarded and the verdicts of the others.
func (l *lab) sendParts(t *testing.T, port string, parts []*pkt.Packet, order []int) (out []*pkt.Packet, not []outcome) {
	t.Helper()
	p := l.port(port)
	for _, i := range order {
		o, err := l.run(p, l.frame(p, parts[i]), 0)
		if err != nil {
			t.Fatal(err)
		}
		if SwitchGhResultVerdict(o.res.Verdict) != SwitchGhResultVerdictGH_RESULT_FORWARD {
			not = append(not, o)
			continue
		}
		k, err := pkt.Decode(o.out)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, k)
	}
	return out, not
}

// Fragmented datagrams arrive whole, with right checksums, through every kind of
// translation; answers too.
func TestFragments(t *testing.T) {
	l := newLab(t, true)
	for _, f := range fams() {
		icmp := map[string]string{"4": "icmp", "6": "icmp6"}[f.name]
		hairpin := map[string]string{"4": "169.254.100.1", "6": "fd00:ffff::1"}[f.name]
		for _, c := range []struct{ name, in, out, packet, want string }{
			{"inside", "a", "b", "%[1]s.5000 > %[2]s.53: udp len 1200", "%[1]s.5000 > %[2]s.53: udp"},
			{"outbound NAT", "a", "x", "%[1]s.45000 > %[4]s.53: udp len 1200", "%[3]s.45000 > %[4]s.53: udp ttl 63"},
			{"published", "x", "a", "%[4]s.5000 > %[3]s.8053: udp len 1200", "%[4]s.5000 > %[1]s.53: udp ttl 63"},
			{"hairpin", "a", "a", "%[1]s.5000 > %[3]s.8053: udp len 1200", "%[6]s.5000 > %[1]s.53: udp ttl 63"},
			{"echo", "a", "x", "%[1]s > %[4]s: %[5]s echo 41000 len 1200", "%[3]s > %[4]s: %[5]s echo 41000 ttl 63"},
		} {
			t.Run(f.name+"/"+c.name, func(t *testing.T) {
				l.reset()
				in := pkt.MustParse(fmt.Sprintf(c.packet, f.a, f.b, f.h, f.x, icmp, hairpin))
				parts := in.Fragments(77, 400)
				out, not := l.sendParts(t, c.in, parts, []int{0, 2, 1})
				if len(not) != 0 {
					t.Fatalf("not forwarded: %+v", not[0].res)
				}
				whole, err := pkt.Reassemble(out)
				if err != nil {
					t.Fatal(err)
				}
				whole.Data = nil
				want := fmt.Sprintf(c.want, f.a, f.b, f.h, f.x, icmp, hairpin)
				if whole.String() != want {
					t.Fatalf("got %v\nwant %s", whole, want)
				}
				whole.Data = in.Data
				whole.From, whole.To = pkt.MAC{}, pkt.MAC{}
				back, not := l.sendParts(t, c.out, whole.Reverse().Fragments(78, 400), []int{0, 1, 2})
				if len(not) != 0 {
					t.Fatalf("answer not forwarded: %+v", not[0].res)
				}
				r, err := pkt.Reassemble(back)
				if err != nil {
					t.Fatal(err)
				}
				rev := in.Reverse()
				rev.TTL = r.TTL
				if r.String() != rev.String() {
					t.Errorf("answer %v\nwant %v", r, rev)
				}
			})
		}
		t.Run(f.name+"/a later one first", func(t *testing.T) {
			l.reset()
			out := pkt.MustParse(fmt.Sprintf("%s.45000 > %s.53: udp len 1200", f.a, f.x)).Fragments(79, 400)
			_, not := l.sendParts(t, "a", out, []int{1})
			if len(not) != 1 || DropReason(not[0].res.Reason) != SwitchGhDropReasonGH_DROP_FRAG_ORDER {
				t.Errorf("NAT: %+v", not)
			}
			inside := pkt.MustParse(fmt.Sprintf("%s.45000 > %s.53: udp len 1200", f.a, f.b)).Fragments(80, 400)
			if ok, not := l.sendParts(t, "a", inside, []int{2, 1, 0}); len(ok) != 3 {
				t.Errorf("inside a network no port is needed: %+v", not)
			}
			in := pkt.MustParse(fmt.Sprintf("%s.45000 > %s.8053: udp len 1200", f.x, f.h)).Fragments(81, 400)
			_, not = l.sendParts(t, "x", in, []int{1})
			if len(not) != 1 || SwitchGhResultVerdict(not[0].res.Verdict) != SwitchGhResultVerdictGH_RESULT_NEXT {
				t.Errorf("at an uplink: %+v", not)
			}
		})
		t.Run(f.name+"/of another datagram", func(t *testing.T) {
			l.reset()
			p := pkt.MustParse(fmt.Sprintf("%s.45000 > %s.53: udp len 1200", f.a, f.x))
			l.sendParts(t, "a", p.Fragments(82, 400), []int{0})
			if _, not := l.sendParts(t, "a", p.Fragments(83, 400), []int{1}); len(not) != 1 {
				t.Error("a fragment used another datagram's ports")
			}
			l.clock(40)
			if _, not := l.sendParts(t, "a", p.Fragments(82, 400), []int{1}); len(not) != 1 {
				t.Error("a fragment was taken after the time of reassembly")
			}
		})
		t.Run(f.name+"/tiny", func(t *testing.T) {
			l.reset()
			parts := pkt.MustParse(fmt.Sprintf("%s.45000 > %s.53: tcp S len 200", f.a, f.x)).Fragments(84, 8)
			_, not := l.sendParts(t, "a", parts, []int{0})
			if len(not) != 1 || DropReason(not[0].res.Reason) != SwitchGhDropReasonGH_DROP_FRAG_TINY {
				t.Errorf("%+v", not)
			}
		})
		t.Run(f.name+"/foreign at an uplink", func(t *testing.T) {
			l.reset()
			parts := pkt.MustParse(fmt.Sprintf("%s.45000 > %s.99: udp len 1200", f.x, f.h)).Fragments(85, 400)
			_, not := l.sendParts(t, "x", parts, []int{0, 1, 2})
			for _, o := range not {
				if SwitchGhResultVerdict(o.res.Verdict) != SwitchGhResultVerdictGH_RESULT_NEXT {
					t.Errorf("%+v", o.res)
				}
			}
			if len(not) != 3 {
				t.Errorf("%d of 3 left to the host", len(not))
			}
		})
	}
}

// A protocol without ports has one flow for all fragments of a datagram, through
// NAT too, in whatever order they come.
func TestFragmentsWithoutPorts(t *testing.T) {
	l := newLab(t, true)
	datagram := func(from, to string, proto int) *pkt.Packet {
		p := pkt.MustParse(fmt.Sprintf("%s > %s: proto %d", from, to, proto))
		p.Data = make([]byte, 1200)
		return p
	}
	for i, f := range fams() {
		for _, proto := range []int{47, 50, 253} {
			for _, c := range []struct{ name, out, from, to string }{{"inside", "b", f.a, f.b}, {"outbound NAT", "x", f.h, f.x}} {
				for _, order := range [][]int{{0, 2, 1}, {2, 1, 0}} {
					t.Run(fmt.Sprintf("%s/%d/%s/%v", f.name, proto, c.name, order), func(t *testing.T) {
						l.reset()
						in := datagram(f.a, c.to, proto)
						out, not := l.sendParts(t, "a", in.Fragments(77, 400), order)
						if len(not) != 0 {
							t.Fatalf("not forwarded: %+v", not[0].res)
						}
						whole, err := pkt.Reassemble(out)
						if err != nil {
							t.Fatal(err)
						}
						if whole.Src.String() != c.from || whole.Dst.String() != c.to {
							t.Fatalf("got %v", whole)
						}
						back, not := l.sendParts(t, c.out, datagram(c.to, c.from, proto).Fragments(78, 400), order)
						if len(not) != 0 {
							t.Fatalf("answer not forwarded: %+v", not[0].res)
						}
						if r, err := pkt.Reassemble(back); err != nil || r.Dst.String() != f.a || r.Src.String() != c.to {
							t.Errorf("answer %v, %v", r, err)
						}
						if n := l.counter("fill", uint32(i)); n != 1 {
							t.Errorf("%d conversations of one", n)
						}
					})
				}
			}
		}
	}
}
