// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// The scripts in testdata/*.pkt. A case begins with "# name"; each of its lines
// is one of
//
//	in PORT [vlan TCI] [from MAC] [to MAC] PACKET
//	                       put a packet in; what follows says what must come of it
//	out PORT [via A] PACKET   forwarded to that port, in the way its kind asks for
//	out PORT [vlan N] [from MAC] [to MAC] PACKET   where frames go by MAC: they keep theirs
//	back PORT PACKET       answered to the port it came from (ARP, ND, reject)
//	drop REASON            dropped and counted
//	pass                   left to the host
//	eaten                  consumed: neither delivered nor lost
//	flow hit|new|revalidated|stateless   how the last packet found its flow
//	copies N               of the last, flooded, packet
//	clock SECONDS          moves time on
//	bump N                 epoch N changes
//	del MAP ROW            takes configuration away for this case (see remove)
//	drain ADDR PORT PROTO    the backends of this service drain for this case
//	leave ADDR PORT PROTO    they are gone, the service stays
//	noreverse              do not try the answer of forwarded packets (see below)
//
// A case named "[46] ..." runs twice, with its words of familyWords replaced.
//
// Without noreverse every forwarded packet is answered at the end of the case by
// what the far end would send; it must arrive as what the sender expects.
type scriptRun struct {
	l    *lab
	t    *testing.T
	line string

	from *labPort
	sent *pkt.Packet
	o    outcome
	got  *pkt.Packet

	secs      uint64
	noReverse bool
	counted   bool
	forwarded []exchange
	tci       int // of the last packet; -1 = none
	undo      []func()
	drops     map[DropReason]uint64
}

type exchange struct {
	in, out    *labPort
	sent, seen *pkt.Packet
	tag        uint16 // seen with it
	routed     bool   // its MACs are the kernel's to fill
}

func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.pkt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	l := newLab(t, true)
	n := 0
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range families(string(b)) {
			name, body, _ := strings.Cut(c, "\n")
			n++
			t.Run(strings.TrimSuffix(filepath.Base(f), ".pkt")+"/"+name, func(t *testing.T) {
				l.reset()
				r := &scriptRun{l: l, t: t, drops: map[DropReason]uint64{}}
				for _, line := range strings.Split(body, "\n") {
					if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
						r.line = line
						r.step(line)
					}
				}
				r.finish()
			})
		}
	}
	t.Logf("%d cases", n)
}

// familyWords are what a [46] case says, in IPv4 and IPv6.
func familyWords() [][3]string {
	return [][3]string{
		{"@gw1", "192.168.100.1", "fd00:100::1"},
		{"@gw2", "192.168.102.1", "fd00:102::1"},
		{"@a", "192.168.100.10", "fd00:100::10"},
		{"@b", "192.168.100.11", "fd00:100::11"},
		{"@v", "192.168.100.12", "fd00:100::12"},
		{"@s", "192.168.100.13", "fd00:100::13"},
		{"@down", "192.168.100.40", "fd00:100::40"},
		{"@free", "192.168.100.99", "fd00:100::99"},
		{"@c", "192.168.102.10", "fd00:102::10"},
		{"@d", "192.168.103.10", "fd00:103::10"},
		{"@e", "192.168.103.11", "fd00:103::11"},
		{"@hairpin", "169.254.100.1", "fd00:ffff::1"},
		{"@hy", "10.1.0.4", "fd00:b::4"}, // the host at uplink y
		{"@h", "10.0.0.4", "fd00:a::4"},  // the host at uplink x
		{"@router", "10.0.0.254", "fd00:a::fe"},
		{"@x", "10.0.0.9", "fd00:a::9"},
		{"@far", "8.8.8.8", "2001:db8::8"},
		{"@behind", "10.97.0.9", "fd00:97::9"}, {"@segment", "10.4.0.99", "fd00:4::99"},
		{"@t1", "10.4.0.11", "fd00:4::11"},
		{"@t2", "10.4.0.12", "fd00:4::12"},
		{"@t2too", "10.40.0.12", "fd00:40::12"},
		{"@l1", "10.5.0.11", "fd00:5::11"},
		{"@l2", "10.5.0.12", "fd00:5::12"},
		{"@n1", "10.6.0.11", "fd00:6::11"},
		{"@n2", "10.6.0.12", "fd00:6::12"},
		{"@k5", "10.5.0.91", "fd00:5::91"},
		{"@k8", "10.8.0.91", "fd00:8::91"},
		{"@k", "10.4.0.91", "fd00:4::91"},
		{"@g4", "10.4.0.92", "fd00:4::92"},
		{"@o1", "10.8.0.11", "fd00:8::11"},
		{"@o2", "10.8.0.12", "fd00:8::12"},
		{"@w1", "10.99.0.11", "fd00:99::11"},
		{"@pod", "10.244.3.7", "fd00:244:3::7"}, // an exception of network 8's NAT
		{"@own", "192.0.2.50", "2001:db8:9::50"},
		{"@oh", "10.8.0.2", "fd00:8::2"},          // the host's own endpoint in network 8
		{"@beyond", "198.18.0.9", "2001:2::9"},    // on link at z, an exception
		{"@stack", "198.19.0.9", "2001:2:0:1::9"}, // likewise, but the host's stack routes it
		{"@p1", "10.7.0.11", "fd00:7::11"},
		{"@p2", "10.7.0.12", "fd00:7::12"},
		{"@zz", "10.4.0.4", "fd00:4::4"}, // the host at uplink z
		{"@any", "0.0.0.0", "::"},
		{"@vip", "10.96.0.1", "fd00:96::1"}, // services: services_test.go
		{"@lb", "192.0.2.1", "2001:db8:96::1"},
		{"@r", "10.0.0.8", "fd00:a::8"},
		{"@icmp", "icmp", "icmp6"},
		{"@unreach-port", "error 3.3 0", "error 1.4 0"},
		{"@unreach-host", "error 3.1 0", "error 1.3 0"},
		{"@prohibited", "error 3.9 0", "error 1.1 0"},
		{"@exceeded", "error 11.0 0", "error 3.0 0"},
		{"@toobig", "error 3.4", "error 2.0"},
	}
}

// families cuts a file into cases, [46] ones doubled.
func families(text string) []string {
	var out []string
	for _, c := range strings.Split("\n"+text, "\n# ")[1:] {
		rest, ok := strings.CutPrefix(c, "[46] ")
		if !ok {
			out = append(out, c)
			continue
		}
		v4, v6 := "4 "+rest, "6 "+rest
		words := familyWords()
		slices.SortFunc(words, func(a, b [3]string) int { return len(b[0]) - len(a[0]) })
		for _, w := range words {
			v4, v6 = strings.ReplaceAll(v4, w[0], w[1]), strings.ReplaceAll(v6, w[0], w[2])
		}
		out = append(out, v4, v6)
	}
	return out
}

func (r *scriptRun) fail(format string, args ...any) {
	r.t.Helper()
	r.t.Fatalf("%s: %s", r.line, fmt.Sprintf(format, args...))
}

func (r *scriptRun) step(line string) {
	word, rest, _ := strings.Cut(line, " ")
	arg, text, _ := strings.Cut(rest, " ")
	switch word {
	case "in":
		r.put(r.l.port(arg), text)
	case "out":
		r.out(r.l.port(arg), text)
	case "back":
		r.back(r.l.port(arg), text)
	case "drop":
		r.dropped(arg)
	case "pass":
		if SwitchGhResultVerdict(r.o.res.Verdict) != SwitchGhResultVerdictGH_RESULT_NEXT || r.o.ret != 0xffffffff {
			r.fail("got %s", r.show())
		}
		if r.got.String() != r.sent.String() {
			r.fail("changed to %v", r.got)
		}
	case "eaten":
		if SwitchGhResultVerdict(r.o.res.Verdict) != SwitchGhResultVerdictGH_RESULT_CONSUMED || r.o.ret != 2 {
			r.fail("got %s", r.show())
		}
	case "flow":
		want := map[string]Via{"hit": 1, "new": 2, "revalidated": 3, "stateless": 4}[arg]
		if Via(r.o.res.Flow) != want {
			r.fail("got %d", r.o.res.Flow)
		}
	case "copies":
		if strconv.Itoa(int(r.o.res.Copies)) != arg {
			r.fail("got %d", r.o.res.Copies)
		}
	case "clock":
		n, err := strconv.Atoi(arg)
		if err != nil {
			r.fail("%v", err)
		}
		r.secs += uint64(n)
		r.l.clock(r.secs)
	case "bump":
		n, _ := strconv.Atoi(arg)
		r.l.bump(uint32(n))
	case "del":
		r.remove(arg, text)
	case "drain", "leave":
		r.end(word, rest)
	case "noreverse":
		r.noReverse = true
	default:
		r.fail("unknown word")
	}
}

func (r *scriptRun) put(p *labPort, text string) {
	r.t.Helper()
	text, tci, from, to := r.frameWords(text)
	k, err := pkt.Parse(text)
	if err != nil {
		r.fail("%v", err)
	}
	if from != (pkt.MAC{}) {
		k.From = from
	}
	if to != (pkt.MAC{}) {
		k.To = to
	}
	if _, vlan := trunkVLAN(p.name); tci < 0 && vlan != 0 {
		tci = int(vlan)
	}
	frame := r.l.frame(p, k)
	if r.sent, err = pkt.Decode(frame); err != nil {
		r.fail("built wrong: %v", err)
	}
	r.from, r.counted, r.tci = p, false, tci
	before := r.l.portStats()
	if tci >= 0 {
		r.o, err = r.l.runTagged(p, uint16(tci), frame)
	} else {
		r.o, err = r.l.run(p, frame, 0)
	}
	if err != nil {
		r.fail("run: %v", err)
	}
	r.got, err = pkt.Decode(r.o.out)
	if err != nil && SwitchGhResultVerdict(r.o.res.Verdict) != SwitchGhResultVerdictGH_RESULT_DROP {
		r.fail("output %x: %v", r.o.out, err)
	}
	if wrong := r.l.countedWrong(p, before, r.o, len(frame), len(r.o.out)); wrong != "" {
		r.fail("got %s: %s", r.show(), wrong)
	}
}

// show says what happened, as a script would.
func (r *scriptRun) show() string {
	res := r.o.res
	switch SwitchGhResultVerdict(res.Verdict) {
	case SwitchGhResultVerdictGH_RESULT_FORWARD:
		for _, p := range r.l.ports {
			if p.id == res.OutPort {
				return fmt.Sprintf("out %s %v", p.name, r.got)
			}
		}
	case SwitchGhResultVerdictGH_RESULT_DROP:
		return fmt.Sprintf("drop %v (layer %d)", DropReason(res.Reason), res.Layer)
	case SwitchGhResultVerdictGH_RESULT_NEXT:
		return "pass"
	case SwitchGhResultVerdictGH_RESULT_CONSUMED:
		return "eaten"
	case SwitchGhResultVerdictGH_RESULT_REPLY:
		return fmt.Sprintf("back %s %v (%v)", r.from.name, r.got, DropReason(res.Reason))
	}
	return fmt.Sprintf("return %d, %+v", r.o.ret, res)
}

// want compares the packet, as text, with what the script says.
func (r *scriptRun) want(text string) {
	r.t.Helper()
	k, err := pkt.Parse(text)
	if err != nil {
		r.fail("%v", err)
	}
	b, err := pkt.Decode(k.Bytes())
	if err != nil {
		r.fail("%v", err)
	}
	if b.Ether == pkt.EtherARP {
		k.ArpSrc = r.got.ArpSrc
		if b.Op == 1 {
			b = k
		}
	}
	if diff := cmp.Diff(b.String(), r.got.String()); diff != "" {
		r.fail("got %s\n%s", r.show(), diff)
	}
}

func (r *scriptRun) out(p *labPort, text string) {
	r.t.Helper()
	res := r.o.res
	if SwitchGhResultVerdict(res.Verdict) != SwitchGhResultVerdictGH_RESULT_FORWARD || res.OutPort != p.id || r.o.ret != 7 {
		r.fail("got %s", r.show())
	}
	if (r.from.l2() || p.l2()) && OutKind(res.OutKind) != SwitchGhOutKindGH_OUT_NEIGH {
		r.checkFrame(p, &text)
	} else {
		r.checkDelivery(p, &text)
	}
	r.want(text)
	if r.sent.Ether != pkt.EtherARP && r.sent.Target == (netip.Addr{}) {
		tag := res.Tag
		if r.tci > 0 && r.from.kind == SwitchGhPortKindGH_PORT_UPLINK {
			tag = uint16(r.tci)
		}
		r.forwarded = append(r.forwarded, exchange{in: r.from, out: p, sent: r.sent, seen: r.got, tag: tag,
			routed: OutKind(res.OutKind) == SwitchGhOutKindGH_OUT_NEIGH})
	}
}

// checkDelivery holds how the packet leaves against the kind of port: device,
// MACs, next hop, and that no mark or priority of the sender leaks.
func (r *scriptRun) checkDelivery(p *labPort, text *string) {
	r.t.Helper()
	res := r.o.res
	kind, dev := SwitchGhOutKindGH_OUT_PEER, p.dev
	switch {
	case p.kind == SwitchGhPortKindGH_PORT_VM || p.name == "s":
		kind = SwitchGhOutKindGH_OUT_EGRESS
	case p.kind == SwitchGhPortKindGH_PORT_HOST:
		kind, dev = SwitchGhOutKindGH_OUT_INGRESS, p.nic
	case p.kind == SwitchGhPortKindGH_PORT_UPLINK:
		kind = SwitchGhOutKindGH_OUT_NEIGH
	}
	if OutKind(res.OutKind) != kind || int(res.OutIfindex) != dev {
		r.fail("out kind %d device %d, want %d %d", res.OutKind, res.OutIfindex, kind, dev)
	}
	if r.o.mark != 0 || (kind == SwitchGhOutKindGH_OUT_PEER && r.o.prio != 0) {
		r.fail("mark %#x priority %d leak", r.o.mark, r.o.prio)
	}
	if kind == SwitchGhOutKindGH_OUT_NEIGH {
		nh := netip.AddrFrom16(res.Nh.B).Unmap()
		want := r.got.Dst
		if via, ok := strings.CutPrefix(*text, "via "); ok {
			var a string
			a, *text, _ = strings.Cut(via, " ")
			want = netip.MustParseAddr(a)
		}
		if nh != want {
			r.fail("next hop %v, want %v", nh, want)
		}
		return
	}
	from := p.gw
	if p.kind == SwitchGhPortKindGH_PORT_HOST && r.from.kind != SwitchGhPortKindGH_PORT_UPLINK {
		from = r.from.mac
	}
	if r.got.To != p.mac || r.got.From != from {
		r.fail("frame %v > %v, want %v > %v", r.got.From, r.got.To, from, p.mac)
	}
}

func (r *scriptRun) back(p *labPort, text string) {
	r.t.Helper()
	res := r.o.res
	if SwitchGhResultVerdict(res.Verdict) != SwitchGhResultVerdictGH_RESULT_REPLY || int(res.OutIfindex) != p.dev || r.o.ret != 7 {
		r.fail("got %s", r.show())
	}
	r.count()
	if r.got.Dst.IsMulticast() {
		r.want(text)
		return
	}
	if r.got.To != r.sent.From {
		r.fail("answer goes to %v, not %v", r.got.To, r.sent.From)
	}
	r.want(text)
}

func (r *scriptRun) dropped(reason string) {
	r.t.Helper()
	res := r.o.res
	v := SwitchGhResultVerdict(res.Verdict)
	answered := v == SwitchGhResultVerdictGH_RESULT_REPLY
	if v != SwitchGhResultVerdictGH_RESULT_DROP && !answered || DropReason(res.Reason).String() != reason {
		r.fail("got %s", r.show())
	}
	if !answered && r.o.ret != 2 {
		r.fail("returned %d", r.o.ret)
	}
	r.count()
}

// count expects the last packet in the drop counters.
func (r *scriptRun) count() {
	if r.o.res.Reason != 0 && !r.counted {
		r.drops[DropReason(r.o.res.Reason)]++
		r.counted = true
	}
}

// remove takes a row away until the end of the case.
func (r *scriptRun) remove(m, row string) {
	var k, v any
	w := strings.Fields(row)
	num := func(i int) uint64 { n, _ := strconv.ParseUint(w[i], 10, 32); return n }
	switch m {
	case "svc": // ADDR PORT PROTO
		k, v = SvcKey{Vip: addr(w[0]), PortBe: be(uint16(num(1))), Proto: uint8(num(2))}, &SvcVal{}
	case "addr": // ZONE ADDR
		k, v = AddrKey{Zone: uint16(num(0)), Addr: addr(w[1])}, &AddrVal{}
	case "portip": // PORT ADDR
		k, v = PortIPKey{Port: uint16(num(0)), Addr: addr(w[1])}, new(uint8)
	default:
		r.fail("do not know how")
	}
	if err := r.l.coll.Maps[m].Lookup(k, v); err != nil {
		r.fail("%v", err)
	}
	if err := r.l.coll.Maps[m].Delete(k); err != nil {
		r.fail("%v", err)
	}
	r.undo = append(r.undo, func() { r.l.put(m, k, v) })
}

// finish checks what holds for every case: drops were counted once each, no
// entry is left half written, and answers find their way back.
func (r *scriptRun) finish() {
	if diff := cmp.Diff(r.drops, r.l.drops()); diff != "" {
		r.t.Errorf("drop counters:\n%s", diff)
	}
	r.checkTags()
	if !r.noReverse {
		for _, e := range r.forwarded {
			r.answer(e)
		}
	}
	for _, f := range r.undo {
		f()
	}
}

func (r *scriptRun) checkTags() {
	var k4 FlowKey4
	var v4 Flow4
	it := r.l.coll.Maps["flow4"].Iterate()
	for it.Next(&k4, &v4) {
		if v4.Tag&1 != 0 {
			r.t.Errorf("flow %+v: odd tag %#x", k4, v4.Tag)
		}
	}
	var k6 FlowKey6
	var v6 Flow6
	it = r.l.coll.Maps["flow6"].Iterate()
	for it.Next(&k6, &v6) {
		if v6.Tag&1 != 0 {
			r.t.Errorf("flow %+v: odd tag %#x", k6, v6.Tag)
		}
	}
}

// answer sends what the far end would and demands that it reaches the sender as
// the mirror image of what it sent.
func (r *scriptRun) answer(e exchange) {
	if e.sent.Inner != nil || e.sent.Frag != nil || e.sent.Flags&(pkt.RST|pkt.FIN) != 0 {
		return
	}
	a := e.seen.Reverse()
	a.From, a.To = pkt.MAC{}, pkt.MAC{}
	if (e.in.l2() || e.out.l2()) && !e.routed {
		a.From, a.To = e.seen.To, e.seen.From
	}
	frame := r.l.frame(e.out, a)
	var o outcome
	var err error
	if _, vlan := trunkVLAN(e.out.name); vlan != 0 {
		o, err = r.l.runTagged(e.out, vlan, frame)
	} else if e.tag != 0 && e.out.kind == SwitchGhPortKindGH_PORT_UPLINK {
		o, err = r.l.runTagged(e.out, e.tag, frame)
	} else {
		o, err = r.l.run(e.out, frame, 0)
	}
	if err != nil {
		r.t.Errorf("answer %v: %v", a, err)
		return
	}
	r.line, r.o, r.from = "answer to "+e.seen.String(), o, e.out
	got, err := pkt.Decode(o.out)
	if err != nil {
		r.t.Errorf("answer %v: %v", a, err)
		return
	}
	r.got = got
	if SwitchGhResultVerdict(o.res.Verdict) != SwitchGhResultVerdictGH_RESULT_FORWARD || o.res.OutPort != e.in.id {
		r.t.Errorf("answer %v at %s: got %s", a, e.out.name, r.show())
		return
	}
	want := e.sent.Reverse()
	want.TTL = got.TTL
	if got.String() != want.String() {
		r.t.Errorf("answer %v:\n got %v\nwant %v", a, got, want)
	}
}
