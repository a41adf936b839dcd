// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"fmt"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// toUplink asks the host's routing table; src is the address that the packet has by now.
func (w *walk) toUplink(src addr) *no {
	fail := func(format string, args ...any) *no {
		w.note(layRoute, "", "", "drop", format, args...)
		return &no{bpf.SwitchGhDropReasonGH_DROP_NO_ROUTE, layRoute, rejectRoute}
	}
	q := FIBQuery{Anchor: int(w.s.Rows.Cfg.AnchorIfindex), Src: ip(src), Dst: ip(w.ndst), Protocol: w.k.proto}
	if w.dsr {
		q.Dst = ip(w.nh)
	}
	if w.k.fam == 4 {
		q.TOS = w.h.tos & 0x1e
	}
	var r FIBRoute
	ok := false
	if w.s.FIB != nil {
		r, ok = w.s.FIB.Lookup(q)
	}
	if !ok {
		return fail("the host's routing table has no way to %s", q.Dst)
	}
	id := w.s.Rows.IfPort[uint32(r.Ifindex)]
	w.eOut = w.m.epoch(id)
	p := w.s.Rows.Port[id]
	if id == 0 || bpf.PortKind(p.Kind) != bpf.SwitchGhPortKindGH_PORT_UPLINK || p.Flags&up == 0 {
		for _, o := range w.s.Rows.Port {
			if o.NicIfindex != 0 && o.NicIfindex == uint32(r.Ifindex) {
				return fail("%s is of %s; networks are apart", q.Dst, w.netName(o.Net))
			}
		}
		return fail("the host routes %s by device %d, which is no uplink", q.Dst, r.Ifindex)
	}
	if w.in.Only != 0 && uint32(w.in.Only) != id {
		return fail("the host sends %s by %s, and %s uses %s alone", q.Dst, w.portName(uint16(id)), w.portName(w.inPort), w.portName(w.in.Only))
	}
	w.outKind, w.outIfindex, w.outPort = bpf.SwitchGhOutKindGH_OUT_NEIGH, uint32(r.Ifindex), uint16(id)
	w.okeyPort, w.ozone, w.routed, w.mtu = 0, 0, true, p.Mtu
	if r.MTU > 1 && (r.MTU < int(w.mtu) || w.mtu == 0) {
		w.mtu = uint16(r.MTU)
	}
	switch {
	case w.k.fam == 4 && r.NextHop.Is4():
		w.nh = r.NextHop.As16()
	case w.k.fam == 4:
		w.nh = addr4(0)
	default:
		w.nh = r.NextHop.As16()
	}
	w.step(Step{Layer: layerName(layRoute), Object: w.portName(w.outPort), Verdict: "pass", NextHop: ip(w.nh).String(),
		Reason: fmt.Sprintf("the host's routing table sends %s by %s, next hop %s", q.Dst, w.portName(w.outPort), ip(w.nh))})
	return nil
}
