// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"encoding/binary"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

const (
	fragSeconds = 30 // GH_FRAG_S
	fragReuse   = 1  // GH_FRAG_REUSE_S
)

// fragment is the frag stage: ports of later fragments come from the first.
func (w *walk) fragment() {
	switch {
	case w.h.frag == fragLater && !w.learned():
		w.k.flags |= flagL3
		if !protoPorts(w.k.proto) {
			break
		}
		if w.uplink() {
			w.notOurs(bpf.SwitchGhDropReasonGH_DROP_FRAG_ORDER, layPort, "a later fragment whose first was not seen")
			return
		}
		w.k.flags |= flagBlind
	case w.h.frag == fragFirst && w.clash() && (!w.uplink() || w.m.get(w.k) != nil):
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_FRAG_TABLE, layPort, 0}, "another first fragment of the same datagram, with other ports")
		return
	}
	w.hit(false)
}

// protoPorts: keys of this protocol may have more than addresses.
func protoPorts(proto uint8) bool {
	switch proto {
	case protoTCP, protoUDP, protoSCTP, protoICMP, protoICMP6:
		return true
	}
	return false
}

// remembered is what the first fragment of the packet's datagram left.
func (w *walk) remembered() (v bpf.FragVal, ok bool) {
	if w.m.live == nil {
		return v, false
	}
	if w.k.fam == 4 {
		return w.m.live.Frag4(bpf.FragKey4{SrcBe: word4(w.k.src), DstBe: word4(w.k.dst), IdBe: be(uint16(w.h.fragID)), Port: w.k.port,
			Zone: w.k.zone, Proto: w.k.proto})
	}
	var id [4]byte
	binary.BigEndian.PutUint32(id[:], w.h.fragID)
	k := bpf.FragKey6{IdBe: binary.NativeEndian.Uint32(id[:]), Port: w.k.port, Zone: w.k.zone, Proto: w.k.proto}
	k.Src.B, k.Dst.B = w.k.src, w.k.dst
	return w.m.live.Frag6(k)
}

// learned fills the ports and flags of a later fragment.
func (w *walk) learned() bool {
	v, ok := w.remembered()
	if !ok || int32(w.now-v.LastS) > fragSeconds {
		return false
	}
	w.k.sport, w.k.dport, w.k.flags, w.h.l4 = be(v.SportBe), be(v.DportBe), v.Kflags, l4None
	return true
}

// clash: a first fragment with other ports than the one before it.
func (w *walk) clash() bool {
	v, ok := w.remembered()
	return ok && int32(w.now-v.LastS) <= fragReuse && (be(v.SportBe) != w.k.sport || be(v.DportBe) != w.k.dport || v.Kflags != w.k.flags)
}
