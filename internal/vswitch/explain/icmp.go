// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

const icmpRedirect = 5

// icmpError is the icmp stage: which flow is the error about?
func (w *walk) icmpError() {
	r, why := w.spoof(false)
	notOwn := r == bpf.SwitchGhDropReasonGH_DROP_SPOOF_IP && w.endpoint()
	foreign := why
	if notOwn { // a backend may tell from where it was asked: the walk looks
		r, why = w.spoof(true)
	}
	if r != 0 {
		w.drop(no{r, laySpoof, 0}, "%s", why)
		return
	}
	w.osrc, w.odst = w.k.src, w.k.dst
	w.h.tcpFlags, w.h.icmpType = 0, 0
	what := at(w.frame, w.h.l4Off, 2)
	if !w.embedded(w.h.l4Off+8) || w.k.dst != w.odst || notOwn && w.k.src != w.osrc || w.known() == nil {
		if notOwn {
			w.drop(no{bpf.SwitchGhDropReasonGH_DROP_SPOOF_IP, laySpoof, 0}, "%s", foreign)
			return
		}
		if w.uplink() {
			if w.icmp && !w.relayed() && w.narrower(what) {
				w.note(layFlow, "", "", "pass", "a packet of ours was too big for the way to %s: what goes through the tunnel asks again how much fits", ip(w.k.src))
			}
			w.notOurs(bpf.SwitchGhDropReasonGH_DROP_ICMP_NOFLOW, layFlow, "an ICMP error about no flow of ours")
			return
		}
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_ICMP_NOFLOW, layFlow, 0}, "an ICMP error about no flow of ours")
		return
	}
	w.note(layFlow, "", "", "hit", "an ICMP error about %s; it goes the way of that flow's answers", w.tuple())
	w.slow()
}

// narrower: too big, what a tunnel of ours sent to its other end.
func (w *walk) narrower(what []byte) bool {
	tooBig := w.k.fam == 4 && what[0] == 3 && what[1] == 4 || w.k.fam == 6 && what[0] == 2
	return tooBig && w.k.proto == protoUDP && w.s.guarded(w.k.src, w.k.sport)
}

func (w *walk) known() *flow {
	w.icmp = true
	return w.m.get(w.k)
}

// embedded makes k the quoted packet's tuple, turned round.
func (w *walk) embedded(off int) bool {
	var l4 int
	if w.k.fam == 4 {
		b := at(w.frame, off, 20)
		if b == nil || b[0]>>4 != 4 || b[0]&15 < 5 || u16(b[6:])&0x1fff != 0 {
			return false
		}
		copy(w.k.src[:], v4mapped(b[16:20]))
		copy(w.k.dst[:], v4mapped(b[12:16]))
		w.k.proto, l4 = b[9], off+int(b[0]&15)*4
	} else {
		b := at(w.frame, off, 40)
		if b == nil || b[0]>>4 != 6 {
			return false
		}
		copy(w.k.src[:], b[24:40])
		copy(w.k.dst[:], b[8:24])
		w.k.proto, l4 = b[6], off+40
	}
	w.k.sport, w.k.dport, w.k.flags, w.h.l4 = 0, 0, 0, l4None
	b := at(w.frame, l4, 8)
	if b == nil {
		return false
	}
	switch w.k.proto {
	case protoTCP, protoUDP, protoSCTP:
		w.k.sport, w.k.dport = u16(b[2:]), u16(b)
		w.h.l4 = map[uint8]l4kind{protoTCP: l4TCP, protoUDP: l4UDP, protoSCTP: l4SCTP}[w.k.proto]
	case protoICMP:
		w.k.sport, w.h.l4 = u16(b[4:]), l4ICMP
	case protoICMP6:
		w.k.sport, w.h.l4 = u16(b[4:]), l4ICMP6
	default:
		w.k.flags = flagL3
	}
	return true
}

// icmpSend is stages error4 and error6.
func (w *walk) icmpSend() {
	src := w.osrc
	if w.osrc == w.k.src || w.endpoint() && w.nsrc != w.k.src {
		src = w.nsrc
	}
	l := w.line()
	proto := uint8(protoICMP)
	if w.k.fam == 6 {
		proto = protoICMP6
	}
	before, after := Tuple{Protocol: proto, Src: ip(w.osrc), Dst: ip(w.odst)}, Tuple{Protocol: proto, Src: ip(src), Dst: ip(w.ndst)}
	if before != after {
		w.step(Step{Layer: layerName(layNAT), Verdict: "rewrite", Reason: "shown to the sender in its own terms", Before: &before, After: &after})
	}
	w.t.Raw.Layer = layFlow
	w.forward(l, bpf.SwitchGhViaGH_VIA_HIT)
	w.t.Tuple = after
}
