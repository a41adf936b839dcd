// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// Verdict is how a packet's way ends.
type Verdict string

// The verdicts. A dropped packet whose sender is told has a Trace.Answer.
const (
	Forward  Verdict = "forward"  // leaves by another port
	Drop     Verdict = "drop"     // counted for Reason at Layer
	Pass     Verdict = "pass"     // not the switch's: left to the host
	Reply    Verdict = "reply"    // answered by the switch (ARP, neighbour discovery)
	Consumed Verdict = "consumed" // control traffic that needs no answer
	Flood    Verdict = "flood"    // copied to the network's other ports
)

// Tuple is what flows are told apart by.
type Tuple struct {
	Protocol uint8
	Src, Dst netip.Addr
	// SrcPort of an ICMP echo is its id. Both are 0 where there are none.
	SrcPort, DstPort uint16
}

// String writes the tuple as "tcp 10.0.0.2:40000 > 10.0.0.3:80".
func (t Tuple) String() string {
	end := func(a netip.Addr, p uint16) string {
		if p == 0 {
			return a.String()
		}
		return netip.AddrPortFrom(a, p).String()
	}
	s := protoName(t.Protocol) + " "
	if t.Protocol == protoICMP || t.Protocol == protoICMP6 {
		s += t.Src.String() + " > " + t.Dst.String()
		if t.SrcPort != 0 {
			s += fmt.Sprintf(" id %d", t.SrcPort)
		}
		return s
	}
	return s + end(t.Src, t.SrcPort) + " > " + end(t.Dst, t.DstPort)
}

func protoName(p uint8) string {
	switch p {
	case protoICMP:
		return "icmp"
	case protoTCP:
		return "tcp"
	case protoUDP:
		return "udp"
	case protoICMP6:
		return "icmp6"
	case protoSCTP:
		return "sctp"
	}
	return fmt.Sprintf("proto-%d", p)
}

// Step is one layer's part in the decision.
type Step struct {
	Layer   string // "L1 anti-spoof"
	Object  string `json:",omitempty"` // what was asked: a port, a network, an endpoint
	Rule    string `json:",omitempty"` // the row that decided, in the words of Tables.String
	Verdict string // "pass", "drop", "rewrite", "hit", "miss"
	Before  *Tuple `json:",omitempty"` // of a rewrite
	After   *Tuple `json:",omitempty"`
	NextHop string `json:",omitempty"`
	Reason  string // a sentence's worth for people
}

// Trace is the whole way of one packet.
type Trace struct {
	In      vswitch.PortID
	Packet  string // as it came
	Steps   []Step
	Verdict Verdict
	// Reason and Layer say why and where a packet was dropped: "NO_ROUTE", "L6 route".
	Reason string `json:",omitempty"`
	Layer  string `json:",omitempty"`
	// Answer is what the sender is told about a dropped packet: "TCP reset".
	Answer string `json:",omitempty"`
	// Tuple is the packet's as it leaves.
	Tuple   Tuple
	Out     vswitch.PortID `json:",omitempty"`
	NextHop string         `json:",omitempty"`
	// Flow is how the flow table took part: "hit", "new", "revalidated".
	Flow string `json:",omitempty"`

	// What the programs note of a packet, for comparing.
	Raw Raw `json:"-"`
}

// Raw is a Trace in the numbers of the programs' result map.
type Raw struct {
	Reason     bpf.DropReason
	Layer      bpf.Layer
	OutKind    bpf.OutKind
	OutIfindex uint32
	NextHop    netip.Addr
	Via        bpf.Via
	Dmac, Smac [6]byte
	MACs       bool             // Dmac and Smac are known
	Tag        uint16           // pushed on the way out
	TTL        uint8            // as it leaves
	Priority   uint32           // of the packet for queues on its way
	Copies     int              // of a flooded frame
	Mirrors    []vswitch.PortID // who got copies, once for each
	VNI        uint32           // of the tunnel
	VTEP       uint16
}

// layerName names a layer as people meet it, with its stable number.
func layerName(l bpf.Layer) string {
	switch l {
	case bpf.SwitchGhLayerGH_LAYER_PORT:
		return "L0 port"
	case bpf.SwitchGhLayerGH_LAYER_SPOOF:
		return "L1 anti-spoof"
	case bpf.SwitchGhLayerGH_LAYER_METER:
		return "L2 meter"
	case bpf.SwitchGhLayerGH_LAYER_ACL_PRE:
		return "L3 outbound rules, as sent"
	case bpf.SwitchGhLayerGH_LAYER_ACL_OUT:
		return "L5 outbound rules"
	case bpf.SwitchGhLayerGH_LAYER_ACL_IN:
		return "L8 inbound rules"
	case bpf.SwitchGhLayerGH_LAYER_LB:
		return "L4 services"
	case bpf.SwitchGhLayerGH_LAYER_ROUTE:
		return "L6 route"
	case bpf.SwitchGhLayerGH_LAYER_NAT:
		return "L7 NAT"
	case bpf.SwitchGhLayerGH_LAYER_L2:
		return "L9 delivery"
	case bpf.SwitchGhLayerGH_LAYER_QOS:
		return "L10 queue"
	case bpf.SwitchGhLayerGH_LAYER_FLOW:
		return "flow"
	}
	return fmt.Sprintf("L%d", l)
}

// String is the trace for people: one line a step, the verdict last.
func (t Trace) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", t.Packet)
	rows := make([][3]string, 0, len(t.Steps)+1)
	for _, s := range t.Steps {
		rows = append(rows, [3]string{s.Layer, s.Verdict, s.Line()})
	}
	rows = append(rows, [3]string{"verdict", strings.ToUpper(string(t.Verdict)), t.Outcome()})
	var w [2]int
	for _, r := range rows {
		w[0], w[1] = max(w[0], utf8.RuneCountInString(r[0])), max(w[1], utf8.RuneCountInString(r[1]))
	}
	for _, r := range rows {
		fmt.Fprintln(&b, strings.TrimRight(fmt.Sprintf("  %-*s  %-*s  %s", w[0], r[0], w[1], r[1], r[2]), " "))
	}
	return b.String()
}

// Line says what a step found, in one line.
func (s Step) Line() string {
	l := s.Reason
	if s.Before != nil && s.After != nil {
		l += ": " + s.Before.String() + "  =>  " + s.After.String()
	}
	if s.Rule != "" {
		l += "  [" + s.Rule + "]"
	}
	return l
}

// Outcome says how the way ended, in one line.
func (t Trace) Outcome() string {
	switch t.Verdict {
	case Drop:
		s := t.Reason + " at " + t.Layer
		if t.Answer != "" {
			return s + "; the sender gets " + t.Answer
		}
		return s + ", silently"
	case Forward:
		s := t.Tuple.String()
		if t.NextHop != "" {
			s += " via " + t.NextHop
		}
		return s
	case Pass:
		return "not the switch's; the host handles it"
	case Reply:
		return "answered by the switch"
	case Flood:
		return fmt.Sprintf("copied to %d ports", t.Raw.Copies)
	}
	return "control traffic; nothing is left to deliver"
}

// MarshalJSON makes a nil list of steps an empty one.
func (t Trace) MarshalJSON() ([]byte, error) {
	type plain Trace
	if t.Steps == nil {
		t.Steps = []Step{}
	}
	return json.Marshal(plain(t))
}
