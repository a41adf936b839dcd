// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"fmt"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

const (
	ethVLAN, ethQinQ = 0x8100, 0x88a8
	vid              = 0xfff
)

func isTag(proto uint16) bool { return proto == ethVLAN || proto == ethQinQ }

// priorityOnly: the tag names no VLAN, so the frame is an untagged one.
func (w *walk) priorityOnly() bool {
	return w.vlan && w.tci&vid == 0 && !isTag(w.ether())
}

// control: ARP, or neighbour discovery.
func (w *walk) control() bool {
	switch w.ether() {
	case ethARP:
		return true
	case ethIP6:
		b := at(w.frame, ethLen, 41)
		return b != nil && b[6] == protoICMP6 && b[40] >= ndRS && b[40] <= ndRedirect
	}
	return false
}

func (w *walk) ipDst() (a addr, ok bool) {
	switch w.ether() {
	case ethIP:
		if b := at(w.frame, ethLen, 20); b != nil {
			copy(a[:], v4mapped(b[16:20]))
			return a, true
		}
	case ethIP6:
		if b := at(w.frame, ethLen, 40); b != nil {
			return addr(b[24:40]), true
		}
	}
	return a, false
}

// sort is the sort stage: whose is a frame from the wire?
func (w *walk) sort() {
	proto := w.ether()
	if len(w.frame) < ethLen || isTag(proto) {
		w.describe()
		w.pass("a frame with more than one tag: the host's")
		return
	}
	if w.vlan {
		w.segment = w.tci & vid
	}
	own, group, control := [6]byte(w.frame[:6]) == w.in.Mac, w.frame[0]&1 != 0, w.control()
	host := own || w.fdb(w.inPort, w.frame[:6]) == w.inPort
	w.net = uint16(w.s.Rows.Segment[vswitch.SegmentKey{At: w.inPort, Vlan: w.segment}])
	w.k.zone = w.netRow(w.net).Zone
	target := uint16(0)
	switch {
	case w.net != 0 && !host && group:
		target = w.fdb(w.k.zone, w.frame[6:12])
	case w.net != 0 && !host:
		target = w.fdb(w.k.zone, w.frame[:6])
	case host && !control:
		if a, ok := w.ipDst(); ok {
			target = w.wireIP(w.inPort, w.segment, a)
		}
	}
	q, ok := w.s.Rows.Port[uint32(target)]
	if target != 0 && (!ok || bpf.PortKind(q.Kind) == bpf.SwitchGhPortKindGH_PORT_UPLINK) {
		target = 0
	}
	if group && target != 0 {
		w.net = 0
	}
	w.h.group = group
	switch {
	case control && (group || host):
		w.proxy()
	case group && w.net != 0:
		w.describe()
		w.flood()
	case group:
		w.describe()
		w.pass("to a group, and no network here shows its MACs on this segment: the host's")
	case target == 0 && own && !w.vlan:
		w.k.zone, w.net = 0, 0
		if proto != ethIP && proto != ethIP6 {
			w.describe()
			w.pass("neither IPv4 nor IPv6: the host's")
			return
		}
		w.fromOutside(proto)
	case target == 0:
		w.describe()
		w.pass("no port here has its MAC or address: the host's, or another's")
	default:
		w.k.zone, w.net = q.Zone, q.Net
		w.fromWire(proto)
	}
}

// fromWire is the wire stage for a frame of a network bound to the uplink.
func (w *walk) fromWire(proto uint16) {
	switch proto {
	case ethIP, ethIP6:
	case ethARP:
		w.t.Packet = w.arpText()
		w.controlled()
		return
	default:
		w.describe()
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_L2PROTO, layPort, 0}, "neither IPv4, IPv6 nor ARP: EtherType %#04x", proto)
		return
	}
	n := w.parse(proto)
	w.describe()
	if n < 0 {
		w.drop(no{bpf.DropReason(-n), layPort, 0}, "%s", parseText(bpf.DropReason(-n)))
		return
	}
	w.note(layPort, w.portName(w.inPort), "", "pass", "from the wire of %s, for %s", w.portName(w.inPort), w.netName(w.net))
	if n == nextND {
		w.nd()
		return
	}
	w.dispatch(n)
}

// rest ends what no single port gets.
func (w *walk) rest() {
	switch {
	case w.net != 0 && w.h.group:
		w.flood()
	case w.h.group && w.ownMAC(w.frame[6:12]):
		w.consumed("the host's own, turned round; nobody here was asked for")
	default:
		w.pass("nobody here is asked for: the host's")
	}
}

// sent ends a walk of a control frame that leaves by a port.
func (w *walk) sent(out uint16, k bpf.OutKind, ifindex uint32, dmac, smac [6]byte, tag uint16) {
	w.t.Verdict, w.t.Tuple, w.t.Out = Forward, w.tuple(), vswitch.PortID(out)
	raw := &w.t.Raw
	raw.Layer, raw.OutKind, raw.OutIfindex, raw.TTL, raw.MACs, raw.Dmac, raw.Smac, raw.Tag = layL2, k, ifindex, w.h.ttl, true, dmac, smac, tag
	w.copied(out, layL2)
	w.note(layL2, w.portName(out), "", "forward", "to %s, %s", w.portName(out), outName(k))
}

// controlled is the control stage: ARP and ND by MAC, without a flow.
func (w *walk) controlled() {
	nr := w.netRow(w.net)
	dmac, smac := [6]byte(w.frame[:6]), [6]byte(w.frame[6:12])
	if w.wire() && w.usurps(w.k.zone, w.net) {
		w.usurped()
		return
	}
	if dmac[0]&1 != 0 && nr.Flags&netRewrite == 0 {
		w.flood()
		return
	}
	id := uint16(0)
	if dmac[0]&1 == 0 && (w.wire() || nr.Flags&netNoLocal == 0) {
		id = w.fdb(w.k.zone, dmac[:])
	}
	q := w.s.Rows.Port[uint32(id)]
	switch {
	case id != 0 && id == w.inPort:
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_LOOP, layRoute, 0}, "it would go back where it came from")
		return
	case w.hostless(nr, q):
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_UNKNOWN_DST, layRoute, 0}, "the host is no member of %s", w.netName(w.net))
		return
	case id != 0 && bpf.PortKind(q.Kind) != bpf.SwitchGhPortKindGH_PORT_UPLINK:
		k, ifindex, _, _, n := handOver(q, w.in)
		if n != nil {
			w.drop(no{n.reason, layRoute, 0}, "%s is not up", w.portName(id))
			return
		}
		w.sent(id, k, ifindex, dmac, smac, q.Vlan)
		return
	case w.wire() || nr.Uplink == 0:
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_UNKNOWN_DST, layRoute, 0}, "nobody in %s has %s", w.netName(w.net), vswitch.MAC(dmac))
		return
	}
	k := bpf.SwitchGhOutKindGH_OUT_EGRESS
	if id != 0 {
		k = bpf.SwitchGhOutKindGH_OUT_INGRESS
	}
	q = w.s.Rows.Port[uint32(nr.Uplink)]
	if q.Flags&up == 0 {
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_PORT_DOWN, layRoute, 0}, "%s is not up", w.portName(nr.Uplink))
		return
	}
	if nr.Flags&netRewrite != 0 {
		if r := w.ndOptions(); w.k.fam == 6 && r != 0 {
			w.drop(no{r, layL2, 0}, "its options are cut short, or too many")
			return
		}
		smac = nr.WireMac
	}
	w.sent(nr.Uplink, k, q.Ifindex, dmac, smac, nr.Vlan)
}

// proxied gives a port what came for it in the uplink's name.
func (w *walk) proxied(id uint16) {
	q := w.s.Rows.Port[uint32(id)]
	if w.usurps(q.Zone, q.Net) {
		w.usurped()
		return
	}
	k, ifindex, dmac, _, n := handOver(q, w.in)
	if n != nil {
		w.drop(no{n.reason, layRoute, 0}, "%s is not up", w.portName(id))
		return
	}
	w.sent(id, k, ifindex, dmac, [6]byte(w.frame[6:12]), q.Vlan)
}

// wireAnswer answers for an address behind the uplink's MAC.
func (w *walk) wireAnswer(id uint16, target addr) {
	w.t.Verdict = Reply
	raw := &w.t.Raw
	raw.Layer, raw.OutIfindex, raw.OutKind = layL2, w.in.Ifindex, bpf.SwitchGhOutKindGH_OUT_EGRESS
	if w.turned() {
		raw.OutKind = bpf.SwitchGhOutKindGH_OUT_INGRESS
	}
	w.copied(w.inPort, layL2)
	w.note(layL2, w.portName(id), fmt.Sprintf("wireip uplink %d vlan %d %s -> port %d", w.inPort, w.segment, ip(target), id), "reply",
		"the switch answers: %s is at %s", ip(target), vswitch.MAC(w.netRow(w.s.Rows.Port[uint32(id)].Net).WireMac))
}

// standsApart ends what the host asks of a port whose network it is no member of.
func (w *walk) standsApart(id uint16) bool {
	apart := w.turned() && w.netRow(w.s.Rows.Port[uint32(id)].Net).Flags&netNoHost != 0
	if apart {
		w.consumed("the host's own, turned round; it is no member of the network of " + w.portName(id))
	}
	return apart
}

// proxy is the proxy stage: ARP and ND at a wire.
func (w *walk) proxy() {
	if target, ok := w.asked(); ok && !w.vlan {
		k := vswitch.VIPKey{Uplink: w.inPort}
		if k.Addr.B = target; w.s.Rows.VIP[k] != 0 {
			w.describe()
			w.whoseAddr("")
			return
		}
	}
	if w.ether() == ethARP {
		w.t.Packet = w.arpText()
		b := at(w.frame, ethLen, 28)
		if !isARP(b) {
			w.rest()
			return
		}
		var sip, tip addr
		copy(sip[:], v4mapped(b[14:18]))
		copy(tip[:], v4mapped(b[24:28]))
		id := w.wireIP(w.inPort, w.segment, tip)
		switch op := u16(b[6:]); {
		case id != 0 && w.standsApart(id):
		case id != 0 && op == 1 && sip != tip:
			w.wireAnswer(id, tip)
		case id != 0 && op == 2 && !w.h.group:
			w.proxied(id)
		default:
			w.rest()
		}
		return
	}
	w.parse(ethIP6)
	w.describe()
	b := at(w.frame, 0, 78)
	if b == nil || b[21] != 255 {
		w.rest()
		return
	}
	target, dst := addr(b[62:78]), addr(b[38:54])
	if id := w.wireIP(w.inPort, w.segment, target); id != 0 && b[54] == ndNS {
		if !w.standsApart(id) {
			w.wireAnswer(id, target)
		}
		return
	}
	if id := w.wireIP(w.inPort, w.segment, dst); id != 0 && !w.h.group {
		if !w.standsApart(id) {
			w.proxied(id)
		}
		return
	}
	w.rest()
}
