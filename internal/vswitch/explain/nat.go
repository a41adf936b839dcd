// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"net/netip"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

const natTries = 32 // GH_NAT_TRIES

func (w *walk) echo() bool { return w.k.proto == protoICMP || w.k.proto == protoICMP6 }

func (w *walk) hasPorts() bool {
	if w.k.flags&flagL3 != 0 {
		return false
	}
	return w.h.l4 == l4TCP || w.h.l4 == l4UDP || w.h.l4 == l4ICMP || w.h.l4 == l4ICMP6 || w.h.frag == fragLater
}

// rkey is the key of the answer when the source port becomes cand.
func (w *walk) rkey(cand uint16) key {
	k := key{w.k.fam, w.ndst, w.nsrc, w.ndport, cand, w.okeyPort, w.ozone, w.k.proto, w.k.flags}
	if w.echo() {
		k.sport, k.dport = cand, 0
	}
	return k
}

// line is the packet's own direction as decided.
func (w *walk) line() line {
	l := line{outKind: w.outKind, outIfindex: w.outIfindex, dmac: w.dmac, smac: w.smac, nsrc: w.nsrc, ndst: w.ndst, nh: w.nh,
		nsport: w.nsport, ndport: w.ndport, outMTU: w.mtu, outPort: w.outPort, eIn: w.eIn, eOut: w.eOut, eNet: w.eNet, tun: w.otun, vtep: w.ovtep, class: w.in.Class}
	if w.nsrc != w.k.src {
		l.ops |= bpf.SwitchGhOpGH_OP_NSRC
	}
	if w.ndst != w.k.dst {
		l.ops |= bpf.SwitchGhOpGH_OP_NDST
	}
	if w.nsport != w.k.sport {
		l.ops |= bpf.SwitchGhOpGH_OP_NSPORT
	}
	if w.ndport != w.k.dport {
		l.ops |= bpf.SwitchGhOpGH_OP_NDPORT
	}
	if w.routed {
		l.ops |= bpf.SwitchGhOpGH_OP_TTL
	}
	switch {
	case w.frameOps != 0:
		l.ops |= w.frameOps
	case w.outKind != bpf.SwitchGhOutKindGH_OUT_NEIGH:
		l.ops |= bpf.SwitchGhOpGH_OP_MAC
	}
	q := w.s.Rows.Port[uint32(w.outPort)]
	if q.Flags&watched != 0 {
		l.ops |= bpf.SwitchGhOpGH_OP_COPY
	}
	if q.Vlan != 0 {
		l.ops |= bpf.SwitchGhOpGH_OP_VLAN
	}
	if l.class != 0 {
		l.ops |= bpf.SwitchGhOpGH_OP_PRIO
	}
	return l
}

func (w *walk) portBusy(a addr, port uint16) bool {
	k := vswitch.BusyKey{PortBe: be(port), Proto: w.k.proto}
	k.Addr.B = a
	_, ok := w.s.Rows.Busy[k]
	return ok
}

// socket: one of the host would get the answer that comes to port.
func (w *walk) socket(port uint16) bool {
	if w.k.proto != protoTCP && w.k.proto != protoUDP || w.s.FIB == nil {
		return false
	}
	return w.s.FIB.Socket(w.k.proto, netip.AddrPortFrom(ip(w.nsrc), port), netip.AddrPortFrom(ip(w.ndst), w.ndport))
}

// claim looks for a source port whose answer's key is free; false with why not.
func (w *walk) claim() *no {
	fail := func(r bpf.DropReason, format string) *no {
		w.note(layNAT, "", "", "drop", "%s", format)
		return &no{r, layNAT, rejectNone}
	}
	if w.natHi < w.natLo {
		return fail(bpf.SwitchGhDropReasonGH_DROP_NAT_PORTS, "the pool has no ports")
	}
	span, hash := uint32(w.natHi)-uint32(w.natLo)+1, w.k.hash()
	stride := hash>>16 | 1
	for i := range uint32(natTries) {
		cand := w.first
		if i > 0 {
			cand = uint16(uint32(w.natLo) + (hash+i*stride)%span)
		}
		if w.free(cand) {
			w.nsport = cand
			return nil
		}
		if !w.hasPorts() {
			return fail(bpf.SwitchGhDropReasonGH_DROP_NAT_PROTO, "its tuple is taken, and the protocol has no ports to change")
		}
	}
	return fail(bpf.SwitchGhDropReasonGH_DROP_NAT_PORTS, "no free source port after 32 tries")
}

func (w *walk) free(cand uint16) bool {
	if w.poolBusy && w.hasPorts() && (cand < w.natLo || cand > w.natHi || w.portBusy(w.nsrc, cand) || w.socket(cand)) {
		return false
	}
	nat := w.nsrc != w.k.src || w.ndst != w.k.dst || w.ndport != w.k.dport || cand != w.k.sport
	k := w.rkey(cand)
	r := w.m.get(k)
	return r == nil || r.pair == w.k || !nat && !r.nat && r.pair.zone == w.k.zone || w.m.dead(k, r, w.now)
}

// commit is stages new4 and new6: a new conversation.
func (w *walk) commit() {
	switch used := w.m.used(w.k.port); {
	case w.in.MaxFlows != 0 && used >= w.in.MaxFlows:
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_PORT_QUOTA, layNAT, 0}, "%s has as many flows as it may", w.portName(w.inPort))
		return
	case w.m.crowded(w.k.fam) && used >= bpf.Share(w.k.port, w.k.fam):
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_PORT_QUOTA, layNAT, 0}, "the flow table is crowded, and %s has its share", w.portName(w.inPort))
		return
	}
	if !w.uplink() && !isTunnel(w.kind) && w.frameOps == 0 {
		if _, _, _, _, n := handOver(w.in, w.s.Rows.Port[uint32(w.outPort)]); n != nil {
			w.end(*n)
			return
		}
	}
	if n := w.claim(); n != nil {
		w.end(*n)
		return
	}
	before, after := w.tuple(), w.becomes()
	if w.h.l4 == l4SCTP || w.h.l4 == l4None {
		after.SrcPort, after.DstPort = before.SrcPort, before.DstPort
	}
	s := Step{Layer: layerName(layNAT), Verdict: "pass", Reason: "nothing is translated"}
	if before != after {
		s = Step{Layer: s.Layer, Verdict: "rewrite", Reason: "a new flow, both directions", Before: &before, After: &after}
	}
	w.step(s)
	w.forward(w.line(), bpf.SwitchGhViaGH_VIA_NEW)
}
