// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// pairsDefault is how many pairs of switch and packet go test compares;
// GATEHOUSE_EXPLAIN_PAIRS asks for more, GATEHOUSE_EXPLAIN_SEED for others.
const (
	pairsDefault = 40_000
	pairsOfScene = 400
)

func env(name string, or uint64) uint64 {
	if n, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
		return n
	}
	return or
}

// TestDifferential holds Explain against the programs: random switches, random
// packets, the flows that those left behind, configurations that change under
// them, and time that passes.
func TestDifferential(t *testing.T) {
	l := newLab(t)
	pairs, seed := env("GATEHOUSE_EXPLAIN_PAIRS", pairsDefault), env("GATEHOUSE_EXPLAIN_SEED", 1)
	seen := map[string]int{}
	start := time.Now()
	done := uint64(0)
	wanted := []string{"forward hit", "forward new", "forward revalidated", "pass", "reply", "consumed", "flood",
		"drop NO_ROUTE", "drop SPOOF_IP", "drop SPOOF_MAC", "drop UNKNOWN_DST", "drop TTL", "drop MTU", "drop NOSTATE", "drop ICMP_NOFLOW",
		"drop PORT_DOWN", "drop FRAG_ORDER", "drop SPOOF_ARP", "drop LOOP", "drop PARSE",
		"a router by MAC, kind 1", "a router by MAC, kind 4", "nat pool", "nat pool by MAC", "answer to nat by MAC", "second address of a pool", "no nat", "nat of a route", "nat of a route alone", "a port that a socket has", "class", "past a queue", "from a shaper", "drop NAT_PORTS", "drop NO_BACKEND", "drop PORT_QUOTA", "drop FRAG_TINY", "drop FRAG_TABLE",
		"forward hit tunnel", "forward new tunnel", "forward revalidated tunnel", "forward hit from tunnel", "forward new from tunnel",
		"forward revalidated from tunnel", "reply from tunnel", "flood from tunnel", "drop TUN_PEER", "drop TUN_PEER from tunnel",
		"drop TUN_VNI from tunnel", "drop SPOOF_IP from tunnel", "drop MTU from tunnel",
		"mirrored forward", "mirrored drop", "mirrored reply", "mirrored flood",
		"service by affinity", "service drains", "service gone", "service elsewhere", "service in an overlay", "a tunnel narrower", "forward new from outside tunnel", "forward new from outside tunnel relayed", "forward hit from outside tunnel relayed",
		"forward new from tunnel relayed", "forward hit from tunnel relayed", "drop LOOP from tunnel relayed", "drop NO_BACKEND from tunnel relayed",
		"drop SPOOF_IP from tunnel relayed", "drop ICMP_NOFLOW from tunnel relayed",
		"forward hit from outside tunnel", "forward revalidated from tunnel out", "forward hit from tunnel out", "service direct", "service as it was sent", "answer from where it was asked", "service by client", "service silent", "proxied", "proxied in silence", "announced", "announced inside",
		"drop ACL_OUT_PRE", "drop ACL_OUT", "drop ACL_IN", "drop FRAG_ORDER at L8 inbound rules",
		"drop ACL_OUT answered", "drop ACL_IN answered", "drop ACL_IN of an answer", "drop ACL_OUT of an answer",
		"drop ACL_OUT of a group", "flood but for whom rules bar", "pass flood but for whom rules bar",
		"wire new kind 2", "wire hit kind 2", "wire revalidated kind 2", "wire new kind 2 tagged", "wire hit kind 2 tagged", "wire new kind 3",
		"wire  kind 2", "wire  kind 2 tagged", "forward new from outside", "forward hit from outside", "forward  from outside", "pass flood",
		"forward new from a trunk", "forward hit from a trunk", "reply from a trunk", "drop SPOOF_IP from a trunk", "drop VLAN from a trunk",
		"forward new tagged to a trunk", "forward hit tagged to a trunk", "forward new from outside tagged to a trunk",
		"drop SPOOF_IP from outside at L1 anti-spoof", "drop SPOOF_ARP from outside at L1 anti-spoof", "drop SPOOF_IP from outside at L4 services",
		"answered to the wire, tagged", "answered to a trunk, tagged", "answered to the host behind the wire", "a probe for another's address", "a probe that others hear",
		"drop VLAN", "drop RA_GUARD", "drop DHCP_GUARD",
		"fragment hit", "fragment without ports hit", "fragment without ports hit nat", "fragment blind"}
	missing := func() bool { return slices.ContainsFunc(wanted, func(w string) bool { return seen[w] == 0 }) }
	// What is rare is looked for a little longer.
	for n := uint64(0); done < pairs || done < 4*pairs && missing(); n++ {
		var err error
		l.in(func() { err = l.compareScene(seed+n, pairsOfScene, seen) })
		if err != nil {
			t.Fatalf("scene %d: %v", seed+n, err)
		}
		done += pairsOfScene
		seen["a port that a socket has"] = l.sockets
	}
	t.Logf("%d pairs in %v", done, time.Since(start).Round(time.Millisecond))
	for _, want := range wanted {
		if seen[want] == 0 {
			t.Errorf("never seen: %s (of %v)", want, seen)
		}
	}
	t.Log(seen)
}

// FuzzDifferential lets the fuzzer choose scene and bytes.
func FuzzDifferential(f *testing.F) {
	l := newLab(f)
	f.Add(uint64(1), byte(0), pkt.MustParse("192.168.100.10.40000 > 8.8.8.8.53: udp \"x\"").Bytes())
	f.Add(uint64(2), byte(3), pkt.MustParse("fd00:100::10.40000 > fd00:a0::4.80: tcp S").Bytes())
	f.Fuzz(func(t *testing.T, seed uint64, port byte, frame []byte) {
		if len(frame) < 34 || len(frame) > 3000 {
			t.Skip()
		}
		var err error
		l.in(func() {
			r := rand.New(rand.NewPCG(seed%64, 0))
			var s *scene
			if s, err = l.newScene(r); err != nil {
				return
			}
			if err = l.apply(s.tables); err != nil {
				return
			}
			tr := &traffic{scene: s, r: r}
			_, err = l.compare(s, tr, s.ports[int(port)%len(s.ports)], bytes.Clone(frame), map[string]int{})
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func (l *lab) compareScene(seed uint64, packets int, seen map[string]int) (err error) {
	r := rand.New(rand.NewPCG(seed, 0))
	s, err := l.newScene(r)
	if err != nil {
		return err
	}
	if one(r, 4) {
		if err := l.clear(); err != nil {
			return err
		}
	}
	if err := l.apply(s.tables); err != nil {
		return err
	}
	straighten, err := l.twist(r, s.rows)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, straighten()) }()
	tr := &traffic{scene: s, r: r, narrow: one(r, 6), seen: seen}
	for i := range packets {
		if one(r, 100) {
			if err := l.clock(pickOf(r, []uint64{1, 12, 35, 200, 700, 8000})); err != nil {
				return err
			}
		}
		if one(r, 40) {
			if err := errors.Join(straighten(), s.change(r), l.apply(s.tables)); err != nil {
				return err
			}
			if straighten, err = l.twist(r, s.rows); err != nil {
				return err
			}
		}
		at, frame := tr.next()
		what, err := l.compare(s, tr, at, frame, seen)
		if err != nil {
			return fmt.Errorf("packet %d: %w", i, err)
		}
		seen[what]++
	}
	return nil
}

// compare explains a packet and puts it in; an error is a difference.
func (l *lab) compare(s *scene, tr *traffic, at scenePort, frame []byte, seen map[string]int) (string, error) {
	p := Packet{Ifindex: at.ifindex, Uplink: at.uplink, Frame: frame}
	if at.ifindex == l.index[tunnelDev] {
		p.Tunnel = tr.outer()
	} else if tr.tagged {
		p.VLAN, p.TCI = true, tr.tci
	}
	before := l.Second()
	t := Explain(Switch{Rows: s.rows, Live: l, FIB: l}, p)
	in, epoch := bytes.Clone(frame), l.Epoch(uint32(labTunnel))
	port := s.rows.IfPort[uint32(at.ifindex)]
	if sub := s.rows.Segment[vswitch.SegmentKey{At: uint16(port), Vlan: p.TCI & vid}]; p.VLAN && !at.uplink && sub != 0 {
		if err := l.coll.Maps["rate"].Put(sub, bpf.Rate{}); err != nil {
			return "", err
		}
	}
	counted := uint64(0)
	if t.Answer != "" {
		counted = l.received(s.rows)
	}
	ret, res, out, err := l.run(p, port)
	if err != nil {
		return "refused by TEST_RUN", nil
	}
	diff := differs(t, ret, res, in, out)
	if diff == "" && t.Answer != "" && l.received(s.rows) != counted+1+uint64(res.Copied) {
		diff = fmt.Sprintf("an answer made by the switch: %d packets are counted to have left", l.received(s.rows)-counted)
	}
	if diff == "" && t.Verdict == Forward && l.prio != t.Raw.Priority {
		diff = fmt.Sprintf("priority: explain %#x, kernel %#x", t.Raw.Priority, l.prio)
	}
	narrower := slices.ContainsFunc(t.Steps, func(s Step) bool { return strings.Contains(s.Reason, "asks again how much fits") })
	if grew := l.Epoch(uint32(labTunnel)) != epoch; diff == "" && grew != narrower {
		diff = fmt.Sprintf("a tunnel that became narrower: explain %v, kernel %v", narrower, grew)
	}
	if narrower {
		seen["a tunnel narrower"]++
	}
	if diff != "" {
		if l.Second() != before {
			return "the second changed meanwhile", nil
		}
		return "", fmt.Errorf("%s\nframe %x\nkernel: returned %d, %+v\n   out %x\nexplain: %+v\n%v", diff, in, ret, res, out, t.Raw, t)
	}
	tr.remember(t, out)
	tr.mark(t)
	for _, note := range aclNotes(t, in[0]&1 != 0) {
		seen[note]++
	}
	if probe, ok := probeWord(t, in); ok {
		seen[probe]++
	}
	what := string(t.Verdict)
	switch t.Verdict {
	case Pass:
		if t.Raw.Copies > 0 {
			what += " flood"
		}
	case Drop:
		what += " " + t.Reason
		if t.Answer != "" && t.Raw.Tag != 0 && at.tag != 0 {
			seen["answered to a trunk, tagged"]++
		} else if t.Answer != "" && t.Raw.Tag != 0 {
			seen["answered to the wire, tagged"]++
		}
		if t.Answer != "" && t.Raw.OutKind == bpf.SwitchGhOutKindGH_OUT_INGRESS {
			seen["answered to the host behind the wire"]++
		}
		if at.uplink && strings.HasPrefix(t.Reason, "SPOOF") {
			what += " from outside at " + t.Layer
		}
	case Forward:
		what += " " + t.Flow
		if p := s.rows.Port[uint32(t.Out)]; bpf.PortKind(p.Kind) == bpf.SwitchGhPortKindGH_PORT_UPLINK && t.Raw.OutKind != bpf.SwitchGhOutKindGH_OUT_NEIGH {
			what = fmt.Sprintf("wire %s kind %d", t.Flow, t.Raw.OutKind)
		} else if at.uplink {
			what += " from outside"
		}
		if t.Raw.Tag != 0 {
			what += " tagged"
		}
		if t.Raw.VTEP != 0 {
			what += " tunnel"
		}
		if t.Raw.VNI == vswitch.ServiceVNI {
			what += " relayed"
		}
	}
	if p.Tunnel != nil {
		what += " from tunnel"
		if p.Tunnel.VNI == vswitch.ServiceVNI {
			what += " relayed"
		}
		if t.Raw.OutKind == bpf.SwitchGhOutKindGH_OUT_NEIGH {
			what += " out"
		}
	}
	if at.tag != 0 {
		seen[what+" from a trunk"]++
	}
	if s.rows.Port[uint32(t.Out)].Vlan != 0 {
		seen[what+" to a trunk"]++
	}
	if len(t.Raw.Mirrors) > 0 {
		seen["mirrored "+string(t.Verdict)]++
	}
	for _, f := range serviceWords(t) {
		seen[f]++
	}
	if what := fragmentWords(t, in); what != "" {
		seen[what]++
	}
	return what, nil
}

// received is how many packets all ports were given.
func (l *lab) received(rows *vswitch.Rows) (n uint64) {
	for id := range rows.Port {
		var perCPU []bpf.PortStats
		if err := l.coll.Maps["pstats"].Lookup(id, &perCPU); err != nil {
			l.t.Fatal(err)
		}
		for _, c := range perCPU {
			n += c.RxPackets
		}
	}
	return n
}

// fragmentWords says how a later fragment found its way.
func fragmentWords(t Trace, frame []byte) string {
	var k key
	var h header
	switch {
	case t.Verdict != Forward || len(frame) < 14:
		return ""
	case u16(frame[12:]) == ethIP:
		parse4(frame, &k, &h)
	case u16(frame[12:]) == ethIP6:
		parse6(frame, &k, &h)
	}
	what := "fragment"
	switch {
	case h.frag != fragLater:
		return ""
	case !protoPorts(k.proto):
		what += " without ports"
	case t.Tuple.SrcPort == 0 && t.Tuple.DstPort == 0:
		return what + " blind"
	}
	what += " " + t.Flow
	if t.Tuple.Src != ip(k.src) {
		what += " nat"
	}
	return what
}

// remember keeps what was forwarded, as its receiver got it.
func (tr *traffic) remember(t Trace, out []byte) {
	if t.Verdict != Forward {
		return
	}
	k, err := pkt.Decode(out)
	if err != nil || k.Frag != nil || k.Inner != nil {
		return
	}
	row := tr.rows.Port[uint32(t.Out)]
	for _, p := range tr.ports {
		if p.device == int(row.Ifindex) && p.tag == row.Vlan {
			sent := sentPacket{port: p, p: k}
			if t.Raw.VTEP != 0 {
				sent.shell = &Outer{VNI: t.Raw.VNI, From: ip(tr.rows.VTEP[uint32(t.Raw.VTEP)].Addr.B)}
			}
			tr.sent = append(tr.sent, sent)
		}
	}
	if len(tr.sent) > 64 {
		tr.sent = tr.sent[1:]
	}
}

// differs says what kernel and explanation disagree about, "" for nothing.
func differs(t Trace, ret uint32, res bpf.Result, in, out []byte) string {
	want := map[bpf.ResultVerdict]Verdict{
		bpf.SwitchGhResultVerdictGH_RESULT_FORWARD: Forward, bpf.SwitchGhResultVerdictGH_RESULT_DROP: Drop,
		bpf.SwitchGhResultVerdictGH_RESULT_NEXT: Pass, bpf.SwitchGhResultVerdictGH_RESULT_REPLY: Reply, bpf.SwitchGhResultVerdictGH_RESULT_CONSUMED: Consumed,
	}[bpf.ResultVerdict(res.Verdict)]
	answered := want == Reply && res.Reason != 0 // the reject stage
	if answered {
		want = Drop
	}
	got := t.Verdict
	if got == Flood {
		got = Consumed
	}
	switch {
	case got != want:
		return fmt.Sprintf("verdict: explain %s, kernel %s", got, want)
	case want == Drop && (t.Raw.Reason != bpf.DropReason(res.Reason) || t.Raw.Layer != bpf.Layer(res.Layer)):
		return fmt.Sprintf("drop: explain %v at %d, kernel %v at %d", t.Raw.Reason, t.Raw.Layer, bpf.DropReason(res.Reason), res.Layer)
	case want == Drop && answered != (t.Answer != ""):
		return fmt.Sprintf("answer: explain %q, kernel %v", t.Answer, answered)
	case (t.Verdict == Flood || t.Verdict == Pass) && len(in) < 1200 && uint32(t.Raw.Copies) != res.Copies:
		return fmt.Sprintf("copies: explain %d, kernel %d", t.Raw.Copies, res.Copies)
	case len(in) < 1200 && len(t.Raw.Mirrors) != int(res.Copied):
		return fmt.Sprintf("copies for mirrors: explain %v, kernel %d", t.Raw.Mirrors, res.Copied)
	case want == Pass && !bytes.Equal(in, out[:len(in)]):
		return "a packet left to the host was changed"
	case (want == Reply || answered) && bpf.OutKind(res.OutKind) != t.Raw.OutKind:
		return fmt.Sprintf("reply: explain kind %d, kernel %d", t.Raw.OutKind, res.OutKind)
	case answered && res.Tag != t.Raw.Tag:
		return fmt.Sprintf("answer: explain tag %d, kernel %d", t.Raw.Tag, res.Tag)
	case want == Reply && res.OutIfindex != t.Raw.OutIfindex:
		return fmt.Sprintf("reply: explain by %d, kernel by %d", t.Raw.OutIfindex, res.OutIfindex)
	}
	if want != Forward {
		return ""
	}
	return forwardDiffers(t, res, out)
}

func forwardDiffers(t Trace, res bpf.Result, out []byte) string {
	switch {
	case vswitch.PortID(res.OutPort) != t.Out || res.OutIfindex != t.Raw.OutIfindex || bpf.OutKind(res.OutKind) != t.Raw.OutKind:
		return fmt.Sprintf("way out: explain port %d device %d kind %d, kernel %d %d %d", t.Out, t.Raw.OutIfindex, t.Raw.OutKind, res.OutPort, res.OutIfindex, res.OutKind)
	case res.Tag != t.Raw.Tag:
		return fmt.Sprintf("tag: explain %d, kernel %d", t.Raw.Tag, res.Tag)
	case bpf.Via(res.Flow) != t.Raw.Via:
		return fmt.Sprintf("flow: explain %d, kernel %d", t.Raw.Via, res.Flow)
	case res.OutKind == uint32(bpf.SwitchGhOutKindGH_OUT_TUNNEL) && (res.Tun != t.Raw.VNI || res.Vtep != t.Raw.VTEP):
		return fmt.Sprintf("tunnel: explain vni %d vtep %d, kernel %d %d", t.Raw.VNI, t.Raw.VTEP, res.Tun, res.Vtep)
	case t.Raw.NextHop.IsValid() && netip.AddrFrom16(res.Nh.B).Unmap() != t.Raw.NextHop:
		return fmt.Sprintf("next hop: explain %v, kernel %v", t.Raw.NextHop, netip.AddrFrom16(res.Nh.B).Unmap())
	case t.Raw.MACs && ([6]byte(out[:6]) != t.Raw.Dmac || [6]byte(out[6:12]) != t.Raw.Smac):
		return fmt.Sprintf("MACs: explain %x %x, kernel %x %x", t.Raw.Dmac, t.Raw.Smac, out[:6], out[6:12])
	}
	var k key
	var h header
	if u16(out[12:]) == ethARP {
		return ""
	}
	if u16(out[12:]) == ethIP {
		parse4(out, &k, &h)
	} else {
		parse6(out, &k, &h)
	}
	is := Tuple{k.proto, ip(k.src), ip(k.dst), k.sport, k.dport}
	want := t.Tuple
	if h.frag == fragLater {
		want.SrcPort, want.DstPort = 0, 0
	}
	if is != want || h.ttl != t.Raw.TTL {
		return fmt.Sprintf("packet: explain %v ttl %d, kernel %v ttl %d", want, t.Raw.TTL, is, h.ttl)
	}
	return ""
}
