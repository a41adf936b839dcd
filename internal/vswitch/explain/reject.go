// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import "gatehouse.dev/gatehouse/internal/vswitch/bpf"

// answer is what the reject stage sends back, "" for nothing.
func (w *walk) answer(n no) string {
	if n.how == rejectNone || w.unanswerable() || w.relayed() && !w.wayBack() {
		return ""
	}
	rst := w.k.proto == protoTCP && (n.how == rejectPort || n.how == rejectState || n.how == rejectAdmin)
	switch {
	case n.how == rejectState && !rst:
		return ""
	case rst:
		if w.h.opts || w.h.tcpFlags&tcpRST != 0 || w.h.frag != fragNone {
			return ""
		}
		return "a TCP reset"
	case w.h.frag == fragLater || w.k.fam == 4 && w.h.opts:
		return ""
	}
	// How much of the packet an error quotes.
	quote := 28
	switch {
	case w.k.fam == 4 && w.k.proto == protoTCP:
		quote = 40
	case w.k.fam == 6 && w.k.proto == protoTCP && !w.h.opts:
		quote = 60
	case w.k.fam == 6:
		quote = 48
	}
	if len(w.frame) < ethLen+quote {
		return ""
	}
	switch n.how {
	case rejectTooBig:
		if w.k.fam == 6 {
			return "ICMPv6 packet too big"
		}
		return "ICMP fragmentation needed"
	case rejectTTL:
		return "ICMP time exceeded"
	case rejectHost:
		return "ICMP host unreachable"
	case rejectRoute, rejectAdmin:
		return "ICMP unreachable, administratively prohibited"
	}
	return "ICMP port unreachable"
}

// answered: the answer goes back as the packet came, also to the host, whose
// frames are turned round at the uplink; but not to the host that relayed it.
func (w *walk) answered() {
	raw := &w.t.Raw
	raw.OutKind, raw.Tag = bpf.SwitchGhOutKindGH_OUT_EGRESS, w.in.Vlan
	if w.relayed() { // the tunnel leads to who relayed it only
		raw.OutKind = bpf.SwitchGhOutKindGH_OUT_NEIGH
	}
	if w.wire() {
		raw.Tag = w.segment
		if w.turned() && w.netRow(w.net).Flags&netNoLocal == 0 {
			raw.OutKind = bpf.SwitchGhOutKindGH_OUT_INGRESS
		}
	}
}

// turned: the frame is the host's own, turned round at an uplink.
func (w *walk) turned() bool {
	return bpf.PortKind(w.in.Kind) == bpf.SwitchGhPortKindGH_PORT_UPLINK && w.in.Flags&wires != 0 && [6]byte(w.frame[6:12]) == w.in.Mac
}

// unanswerable are sources that nobody may be answered at.
func (w *walk) unanswerable() bool {
	if w.inPort == 0 || w.h.group || w.k.src == (addr{}) {
		return true
	}
	if w.k.fam == 4 {
		a := w.k.src[12]
		return a >= 0xe0 || a == 0 || a == 127
	}
	return w.k.src[0] == 0xff
}
