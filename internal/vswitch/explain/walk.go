// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"fmt"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// no is a refusal: reason, layer, and what the sender is told.
type no struct {
	reason bpf.DropReason
	layer  bpf.Layer
	how    reject
}

type reject uint8

// enum gh_reject.
const (
	rejectNone reject = iota
	rejectPort
	rejectRoute
	rejectHost
	rejectTooBig
	rejectTTL
	rejectState
	rejectAdmin
)

// errPass ends a walk of a packet that is not ours (uplinks only).
var errPass = &no{}

// Shorter names for what is said often.
const (
	layPort  = bpf.SwitchGhLayerGH_LAYER_PORT
	laySpoof = bpf.SwitchGhLayerGH_LAYER_SPOOF
	layMeter = bpf.SwitchGhLayerGH_LAYER_METER
	layLB    = bpf.SwitchGhLayerGH_LAYER_LB
	layRoute = bpf.SwitchGhLayerGH_LAYER_ROUTE
	layNAT   = bpf.SwitchGhLayerGH_LAYER_NAT
	layL2    = bpf.SwitchGhLayerGH_LAYER_L2
	layFlow  = bpf.SwitchGhLayerGH_LAYER_FLOW
)

// walk is a packet on its way (gh_pkt and gh_walk in one).
type walk struct {
	s     *Switch
	m     memory
	t     Trace
	frame []byte

	k       key // of the packet; of an ICMP error that of the embedded one, turned round
	h       header
	inPort  uint16
	net     uint16
	kind    bpf.PortKind
	in      vswitch.PortRow
	now     uint32
	vlan    bool
	tci     uint16
	segment uint16 // VLAN at the wire the packet came by
	l2      bool   // its network forwards by MAC
	outer   *Outer
	tun     uint32 // of a tunnel's frame
	vtep    uint16

	// An ICMP error's own addresses while the embedded tuple is walked.
	icmp       bool
	osrc, odst addr

	// The decision.
	nsrc, ndst, nh addr
	nsport, ndport uint16
	otun           uint32
	ovtep          uint16
	outKind        bpf.OutKind
	outIfindex     uint32
	outPort        uint16
	okeyPort       uint16
	ozone          uint16
	wnet           uint16
	mtu            uint16
	natLo, natHi   uint16
	first          uint16
	svc, backend   uint32
	sv             *service // that publishes its destination
	eIn, eOut      uint32
	eNet           uint32
	dmac, smac     [6]byte
	routed         bool
	reply          bool
	aside          bool // an answer that goes elsewhere than its conversation came from
	keep           bool
	held           bool // the entry is a NAT binding in TIME_WAIT
	snat           bool
	routeNAT       bool   // the route says: not with its own source
	routePool      uint32 // that it names; 0 = none
	host           bool   // the destination is an address of the host
	dsr            bool
	poolBusy       bool
	blind          bool   // a later fragment whose ports nobody knows
	frameOps       bpf.Op // of a packet that was switched by MAC
}

// Explain tells what happens to p on s.
func Explain(s Switch, p Packet) Trace {
	w := &walk{s: &s, frame: p.Frame, m: memory{live: s.Live}, vlan: p.VLAN, tci: p.TCI, outer: p.Tunnel}
	w.now = w.m.second()
	if p.Uplink {
		w.uplinkIn(uint32(p.Ifindex))
	} else {
		w.epIn(uint32(p.Ifindex))
	}
	w.t.In = vswitch.PortID(w.inPort)
	return w.t
}

// ---- telling ----------------------------------------------------------------

func (w *walk) step(s Step) { w.t.Steps = append(w.t.Steps, s) }

func (w *walk) note(l bpf.Layer, object, rule, verdict, format string, args ...any) {
	reason := format
	if len(args) > 0 {
		reason = fmt.Sprintf(format, args...)
	}
	w.step(Step{Layer: layerName(l), Object: object, Rule: rule, Verdict: verdict, Reason: reason})
}

func (w *walk) portName(id uint16) string {
	if id == uint16(vswitch.UplinkAny) {
		return "the uplinks"
	}
	kind := vswitch.PortKind(w.s.Rows.Port[uint32(id)].Kind)
	s := fmt.Sprintf("port %d (%s)", id, kind)
	if w.s.Name != nil {
		if n := w.s.Name(vswitch.PortID(id)); n != "" {
			s = fmt.Sprintf("%s (port %d)", n, id)
		}
	}
	return s
}

func (w *walk) netName(id uint16) string {
	if w.s.NetworkName != nil {
		if n := w.s.NetworkName(vswitch.NetworkID(id)); n != "" {
			return "network " + n
		}
	}
	return fmt.Sprintf("network %d", id)
}

func (w *walk) tuple() Tuple {
	return Tuple{w.k.proto, ip(w.k.src), ip(w.k.dst), w.k.sport, w.k.dport}
}

func (w *walk) becomes() Tuple {
	return Tuple{w.k.proto, ip(w.nsrc), ip(w.ndst), w.nsport, w.ndport}
}

// ---- ends -------------------------------------------------------------------

func (w *walk) pass(why string) {
	w.t.Verdict, w.t.Tuple, w.t.Raw.TTL = Pass, w.tuple(), w.h.ttl
	if why != "" {
		w.note(layPort, "", "", "pass", "%s", why)
	}
}

func (w *walk) consumed(why string) {
	w.t.Verdict, w.t.Raw.Layer = Consumed, layL2
	w.note(layL2, "", "", "consumed", "%s", why)
}

// drop ends the walk and tells why.
func (w *walk) drop(n no, format string, args ...any) {
	w.note(n.layer, w.at(n.layer), "", "drop", format, args...)
	w.end(n)
}

func (w *walk) at(l bpf.Layer) string {
	if w.inPort != 0 && (l == layPort || l == laySpoof) {
		return w.portName(w.inPort)
	}
	return ""
}

// end is drop without a step of its own.
func (w *walk) end(n no) {
	w.t.Verdict, w.t.Reason, w.t.Layer = Drop, n.reason.String(), layerName(n.layer)
	w.t.Raw.Reason, w.t.Raw.Layer = n.reason, n.layer
	if w.t.Answer = w.answer(n); w.t.Answer != "" {
		w.answered()
		w.copied(w.inPort, layL2)
	}
}

// ---- ways in (switch.c, fast.h) ----------------------------------------------

func (w *walk) enter(id uint32, r vswitch.PortRow) {
	w.inPort, w.in, w.kind = uint16(id), r, bpf.PortKind(r.Kind)
	w.k.port, w.k.zone, w.net = uint16(id), r.Zone, r.Net
}

func (w *walk) ether() uint16 {
	if b := at(w.frame, 0, ethLen); b != nil {
		return u16(b[12:])
	}
	return 0
}

func (w *walk) epIn(ifindex uint32) {
	proto := w.ether()
	group := len(w.frame) >= ethLen && w.frame[0]&1 != 0
	id := w.s.Rows.IfPort[ifindex]
	r, known := w.s.Rows.Port[id]
	if known {
		w.inPort = uint16(id)
	}
	if known && id != 0 {
		w.copied(uint16(id), layPort)
	}
	switch {
	case id == 0 || !known:
		w.inPort = 0
		w.describe()
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_PORT_DOWN, layPort, 0}, "device %d is no port of the switch: closed", ifindex)
		return
	case r.Flags&up == 0 || bpf.PortKind(r.Kind) == bpf.SwitchGhPortKindGH_PORT_UPLINK || bpf.PortKind(r.Kind) > bpf.SwitchGhPortKindGH_PORT_TUNNEL:
		w.describe()
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_PORT_DOWN, layPort, 0}, "%s is not up", w.portName(w.inPort))
		return
	case r.Tagged != 0 && (!w.vlan || w.tci&vid == 0):
		w.describe()
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_VLAN, layPort, 0}, "a frame without a tag from a trunk without a native VLAN")
		return
	case (w.vlan || isTag(proto)) && !w.priorityOnly():
		if id, r = w.trunk(id); id == 0 {
			return
		}
	}
	w.enter(id, r)
	w.guard(ifindex)
	if isTunnel(w.kind) && !w.decap() {
		return
	}
	var n next
	switch {
	case w.relayed() && (group || proto != ethIP && proto != ethIP6):
		w.describe()
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_L2PROTO, layPort, 0}, "relayed by another host, but no packet to one")
		return
	case proto == ethIP || proto == ethIP6:
		n = w.parse(proto)
	case proto == ethARP:
		w.h.group = group
		w.t.Packet = w.arpText()
		w.entered()
		w.arp()
		return
	default:
		w.describe()
		reason := bpf.SwitchGhDropReasonGH_DROP_L2PROTO
		if proto == 0 {
			reason = bpf.SwitchGhDropReasonGH_DROP_PARSE
		}
		w.drop(no{reason, layPort, 0}, "neither IPv4, IPv6 nor ARP: EtherType %#04x", proto)
		return
	}
	w.h.group = group
	w.describe()
	if n < 0 {
		w.drop(no{bpf.DropReason(-n), layPort, 0}, "%s", parseText(bpf.DropReason(-n)))
		return
	}
	if w.relayed() {
		if n == nextND {
			w.drop(no{bpf.SwitchGhDropReasonGH_DROP_L2PROTO, layPort, 0}, "neighbour discovery, which nobody relays")
			return
		}
		w.dispatch(n)
		return
	}
	w.entered()
	switch {
	case w.k.fam == 6 && n == nextND:
		w.nd()
	case group:
		w.flood()
	default:
		w.dispatch(n)
	}
}

// trunk is the trunk stage: the port of the frame's VLAN; 0 when the walk has ended.
func (w *walk) trunk(id uint32) (uint32, vswitch.PortRow) {
	sub := uint32(0)
	if w.vlan && w.tci&vid != 0 && !isTag(w.ether()) {
		sub = w.s.Rows.Segment[vswitch.SegmentKey{At: uint16(id), Vlan: w.tci & vid}]
	}
	if sub == 0 {
		w.describe()
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_VLAN, layPort, 0}, "its tag, or one of its tags, is not allowed at this port")
		return 0, vswitch.PortRow{}
	}
	w.inPort = uint16(sub)
	w.copied(w.inPort, layPort)
	r := w.s.Rows.Port[sub]
	if r.Flags&up == 0 {
		w.describe()
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_PORT_DOWN, layPort, 0}, "%s is not up", w.portName(w.inPort))
		return 0, r
	}
	w.note(layPort, w.portName(uint16(id)), fmt.Sprintf("segment port %d vlan %d -> port %d", id, w.tci&vid, sub), "pass",
		"VLAN %d of a trunk", w.tci&vid)
	return sub, r
}

func (w *walk) entered() {
	w.note(layPort, w.portName(w.inPort), "", "pass", "from %s of %s", w.portName(w.inPort), w.netName(w.net))
}

func (w *walk) uplinkIn(ifindex uint32) {
	id := w.s.Rows.IfPort[ifindex]
	r, known := w.s.Rows.Port[id]
	proto := w.ether()
	w.k.port, w.k.zone = 0, 0
	switch {
	case id == 0 || !known || bpf.PortKind(r.Kind) != bpf.SwitchGhPortKindGH_PORT_UPLINK || r.Flags&up == 0:
		w.describe()
		w.pass("the device is no uplink of the switch")
		return
	case r.Flags&wires != 0:
		w.inPort, w.in, w.kind = uint16(id), r, bpf.SwitchGhPortKindGH_PORT_WIRE
		w.sort()
		return
	case w.vlan:
		w.describe()
		w.pass("a tagged frame: the host's")
		return
	}
	w.inPort, w.in, w.kind = uint16(id), r, bpf.SwitchGhPortKindGH_PORT_UPLINK
	switch {
	case proto != ethIP && proto != ethIP6:
		if w.describe(); proto == ethARP {
			w.t.Packet = w.arpText()
		}
		w.whoseAddr("neither IPv4 nor IPv6: the host's")
		return
	case [6]byte(w.frame[:6]) != r.Mac: // pkt_type is not PACKET_HOST
		w.describe()
		w.whoseAddr("the frame is not for this host alone")
		return
	}
	w.fromOutside(proto)
}

// fromOutside is a packet for the host, or for what it publishes.
func (w *walk) fromOutside(proto uint16) {
	w.kind = bpf.SwitchGhPortKindGH_PORT_UPLINK
	n := w.parse(proto)
	w.describe()
	if n < 0 || n == nextND {
		w.whoseAddr("not to be understood, or neighbour discovery: the host's")
		return
	}
	w.note(layPort, w.portName(w.inPort), "", "pass", "from %s, outside", w.portName(w.inPort))
	if n == nextFlow && w.m.get(w.k) == nil && w.s.outer(w.k, &w.h) {
		w.pass("a tunnel's: the host takes off its shell")
		return
	}
	w.dispatch(n)
}

func (w *walk) parse(proto uint16) next {
	if proto == ethIP {
		return parse4(w.frame, &w.k, &w.h)
	}
	return parse6(w.frame, &w.k, &w.h)
}

func (w *walk) describe() {
	if w.k.fam == 0 {
		w.t.Packet = fmt.Sprintf("frame of %d bytes", len(w.frame))
		return
	}
	w.t.Packet = w.tuple().String()
	if w.k.proto == protoTCP && w.h.l4 == l4TCP {
		w.t.Packet += " " + tcpFlagsText(w.h.tcpFlags)
	}
	if w.h.frag != fragNone {
		w.t.Packet += " fragment"
	}
}

func tcpFlagsText(f uint8) string {
	s := ""
	for i, c := range "FSRPA" {
		if f&(1<<i) != 0 {
			s += string(c)
		}
	}
	if s == "" {
		return "[none]"
	}
	return "[" + s + "]"
}

func parseText(r bpf.DropReason) string {
	switch r {
	case bpf.SwitchGhDropReasonGH_DROP_FRAG_TINY:
		return "a fragment without its ports, or that reaches into them"
	case bpf.SwitchGhDropReasonGH_DROP_EXT_HDR:
		return "more IPv6 extension headers than are walked"
	}
	return "cut short, or not what its header says"
}

func (w *walk) dispatch(n next) {
	switch n {
	case nextFrag:
		w.fragment()
	case nextError:
		w.icmpError()
	default:
		w.hit(false)
	}
}

// hit looks for the packet's flow; without a valid one the pipeline decides.
func (w *walk) hit(advance bool) {
	f := w.m.get(w.k)
	if f == nil {
		w.slow()
		return
	}
	if !advance {
		f.packets++
	}
	stale := f.eIn != w.m.epoch(uint32(w.k.port)) || f.eOut != w.m.epoch(uint32(f.outPort)) || f.eNet != w.epochNet(f.net)
	switch {
	case f.busy || stale || w.m.idle(f, w.now):
		w.slow()
	case !advance && f.changesState(&w.h):
		w.advance()
	default:
		w.byFlow(f)
	}
}

func (w *walk) byFlow(f *flow) {
	f.last = w.now
	switch {
	case f.ops&bpf.SwitchGhOpGH_OP_TTL != 0 && w.h.ttl <= 1:
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_TTL, layFlow, rejectTTL}, "its TTL ends here")
		return
	case w.tooBig(f.outMTU):
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_MTU, layFlow, rejectTooBig}, "%d bytes are more than the %d that fit there", w.h.ipLen, f.outMTU)
		return
	case f.ops&bpf.SwitchGhOpGH_OP_HOP != 0 && [6]byte(w.frame[:6]) != f.dmac:
		w.note(layFlow, "", "", "miss", "the flow's frames went to %s until now", vswitch.MAC(f.dmac))
		w.slow()
		return
	case f.ops&bpf.SwitchGhOpGH_OP_FROM != 0 && [6]byte(w.frame[6:12]) != f.smac:
		w.note(layFlow, "", "", "miss", "the flow's frames came from %s until now", vswitch.MAC(f.smac))
		w.slow()
		return
	}
	w.nsrc, w.ndst, w.nsport, w.ndport = w.k.src, w.k.dst, w.k.sport, w.k.dport
	if f.ops&bpf.SwitchGhOpGH_OP_NSRC != 0 {
		w.nsrc = f.nsrc
	}
	if f.ops&bpf.SwitchGhOpGH_OP_NDST != 0 {
		w.ndst = f.ndst
	}
	if f.ops&bpf.SwitchGhOpGH_OP_NSPORT != 0 {
		w.nsport = f.nsport
	}
	if f.ops&bpf.SwitchGhOpGH_OP_NDPORT != 0 {
		w.ndport = f.ndport
	}
	dir := "its first direction"
	if f.reply {
		dir = "its answering direction"
	}
	before, after := w.tuple(), w.becomes()
	s := Step{Layer: layerName(layFlow), Verdict: "hit", Reason: "an existing flow decides, in " + dir + "; no layer is walked"}
	if before != after {
		s.Before, s.After = &before, &after
	}
	if r, ok := w.s.Rows.Rule(vswitch.RuleID(f.rule)); ok {
		s.Rule = "let in by " + r.String()
	}
	w.step(s)
	w.t.Raw.Layer = layFlow
	w.forward(f.line, bpf.SwitchGhViaGH_VIA_HIT)
}

func (w *walk) epochNet(id uint16) uint32 {
	return w.m.epoch(vswitch.EpochNet+uint32(id&(vswitch.MaxNetworks-1))) + w.m.epoch(vswitch.EpochGlobal)
}

// advance is the state stage: a packet that changes the state of a connection.
func (w *walk) advance() {
	f := w.m.get(w.k)
	if f == nil {
		w.slow()
		return
	}
	r := w.m.get(f.pair)
	if r != nil && r.pair != w.k {
		r = nil
	}
	state := f.state
	switch w.k.proto {
	case protoUDP:
		state = bpf.SwitchGhFlowStateGH_FLOW_UDP2
	case protoTCP:
		flags := w.h.tcpFlags
		if f.reopened(flags) {
			w.note(layFlow, "", "", "miss", "a SYN on a connection that is over: a new one")
			w.m.unlink(w.k, f)
			w.slow()
			return
		}
		own, peer := f.tcpOwn|flags, f.tcpPeer
		f.tcpOwn = own
		if r != nil {
			peer |= r.tcpOwn
			r.tcpPeer |= flags
		}
		reset := state == bpf.SwitchGhFlowStateGH_FLOW_RST
		switch {
		case flags&tcpRST != 0:
			state = bpf.SwitchGhFlowStateGH_FLOW_RST
		case !reset && own&peer&tcpFIN != 0:
			state = bpf.SwitchGhFlowStateGH_FLOW_TW
		case !reset && (own|peer)&tcpFIN != 0:
			state = bpf.SwitchGhFlowStateGH_FLOW_FIN
		case state == bpf.SwitchGhFlowStateGH_FLOW_SYN && own&peer&tcpSYN != 0:
			state = bpf.SwitchGhFlowStateGH_FLOW_EST
		}
	}
	f.state = state
	if r != nil {
		r.state = state
	}
	w.hit(true)
}

// tooBig: without GSO, which explain does not know.
func (w *walk) tooBig(mtu uint16) bool {
	return mtu != 0 && len(w.frame) > int(mtu)+ethLen && w.h.ipLen > int(mtu)
}

// forward ends the walk with the packet sent as l says; the new tuple stands in w.
func (w *walk) forward(l line, via bpf.Via) {
	t := w.becomes()
	// Ports of later fragments, unknown protocols and SCTP are not in the packet,
	// or out of reach.
	if w.h.frag == fragLater || w.h.l4 == l4None || w.h.l4 == l4SCTP {
		t.SrcPort, t.DstPort = w.k.sport, w.k.dport
	}
	w.t.Verdict, w.t.Tuple, w.t.Out = Forward, t, vswitch.PortID(l.outPort)
	w.t.Flow = viaName(via)
	raw := &w.t.Raw
	raw.OutKind, raw.OutIfindex, raw.Via, raw.TTL = l.outKind, l.outIfindex, via, w.h.ttl
	if l.ops&bpf.SwitchGhOpGH_OP_TTL != 0 {
		raw.TTL--
	}
	w.leaves(l)
	w.priority(l)
	if l.outKind == bpf.SwitchGhOutKindGH_OUT_NEIGH {
		raw.NextHop = ip(l.nh)
		w.t.NextHop = raw.NextHop.String()
	}
	if l.ops&bpf.SwitchGhOpGH_OP_COPY != 0 {
		w.copied(l.outPort, layL2)
	}
	if l.outKind == bpf.SwitchGhOutKindGH_OUT_TUNNEL {
		raw.VNI, raw.VTEP = l.tun, l.vtep
		w.t.NextHop = fmt.Sprintf("%s vni %d", w.s.vtepAddr(l.vtep), l.tun)
	}
	s := Step{Layer: layerName(layL2), Object: w.portName(l.outPort), Verdict: "forward", NextHop: w.t.NextHop,
		Reason: "to " + w.portName(l.outPort) + ", " + outName(l.outKind)}
	if raw.Tag != 0 {
		s.Reason += fmt.Sprintf(", VLAN %d", raw.Tag)
	}
	if s.NextHop != "" {
		s.Reason += ", next hop " + s.NextHop
	}
	w.step(s)
}

func viaName(v bpf.Via) string {
	switch v {
	case bpf.SwitchGhViaGH_VIA_HIT:
		return "hit"
	case bpf.SwitchGhViaGH_VIA_NEW:
		return "new"
	case bpf.SwitchGhViaGH_VIA_REVALIDATED:
		return "revalidated"
	case bpf.SwitchGhViaGH_VIA_STATELESS:
		return "stateless"
	}
	return ""
}

func outName(k bpf.OutKind) string {
	switch k {
	case bpf.SwitchGhOutKindGH_OUT_PEER:
		return "straight into the container's namespace"
	case bpf.SwitchGhOutKindGH_OUT_EGRESS:
		return "through its device"
	case bpf.SwitchGhOutKindGH_OUT_INGRESS:
		return "into the host's stack"
	case bpf.SwitchGhOutKindGH_OUT_TUNNEL:
		return "through the tunnel"
	}
	return "out on the wire"
}
