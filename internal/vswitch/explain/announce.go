// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"fmt"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// whoseAddr ends a frame at an uplink that is no packet of ours: ARP and ND may ask
// for an address that is announced there; all else is the host's, for why.
func (w *walk) whoseAddr(why string) {
	target, ok := w.asked()
	k := vswitch.VIPKey{Uplink: w.inPort}
	k.Addr.B = target
	if _, announced := w.s.Rows.VIP[k]; !ok || !announced {
		w.pass(why)
		return
	}
	w.t.Verdict = Reply
	w.copied(w.inPort, layL2)
	w.t.Raw.Layer, w.t.Raw.OutKind, w.t.Raw.OutIfindex = layL2, bpf.SwitchGhOutKindGH_OUT_EGRESS, w.in.Ifindex
	if w.turned() {
		w.t.Raw.OutKind = bpf.SwitchGhOutKindGH_OUT_INGRESS
	}
	w.note(layL2, w.portName(w.inPort), fmt.Sprintf("vip uplink %d %s", w.inPort, ip(target)), "reply",
		"this host announces %s: it is at %s", ip(target), vswitch.MAC(w.in.Mac))
}

// asked is the address that an ARP request or a neighbour solicitation is about.
func (w *walk) asked() (target addr, ok bool) {
	switch w.ether() {
	case ethARP:
		b := at(w.frame, ethLen, 28)
		if b == nil || u16(b) != 1 || u16(b[2:]) != ethIP || b[4] != 6 || b[5] != 4 || u16(b[6:]) != 1 || [4]byte(b[14:18]) == [4]byte(b[24:28]) {
			return target, false
		}
		copy(target[:], v4mapped(b[24:28]))
		return target, true
	case ethIP6:
		b := at(w.frame, ethLen, 64) // IPv6, and a solicitation without options
		if b == nil || b[6] != protoICMP6 || b[7] != 255 || b[40] != ndNS {
			return target, false
		}
		return addr(b[48:64]), true
	}
	return target, false
}
