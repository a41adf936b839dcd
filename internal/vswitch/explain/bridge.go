// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"fmt"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// ways by MAC.
const (
	toWire way = iota + toUplink + 1
	toStack
	toRouter
)

func (w *walk) netRow(id uint16) vswitch.NetRow { return w.s.Rows.Net[uint32(id)] }

func (w *walk) isL2() bool { return w.netRow(w.net).Flags&netL2 != 0 }

func (w *walk) wire() bool { return w.kind == bpf.SwitchGhPortKindGH_PORT_WIRE }

// byMAC: nothing of the packet but its MAC decides where it goes.
func (w *walk) byMAC() bool { return w.l2 && w.svc == 0 }

// onlyByMAC: and no service can change that.
func (w *walk) onlyByMAC() bool { return w.byMAC() && (w.wire() || w.keep && w.reply) }

func (w *walk) fdb(zone uint16, mac []byte) uint16 {
	return uint16(w.s.Rows.Fdb[vswitch.FdbKey{Zone: zone, Mac: [6]byte(mac)}])
}

func (w *walk) wireIP(uplink, vlan uint16, a addr) uint16 {
	k := vswitch.WireIPKey{Uplink: uplink, Vlan: vlan}
	k.Addr.B = a
	return uint16(w.s.Rows.WireIP[k])
}

// ownMAC: the port may speak with it.
func (w *walk) ownMAC(mac []byte) bool {
	return [6]byte(mac) == w.in.Mac || w.in.Flags&anyMAC != 0 || w.fdb(w.in.Zone, mac) == w.inPort
}

// eui64: the link-local address that follows from the vNIC's MAC.
func (w *walk) eui64(a addr) bool { return a == eui64(w.in.Mac) }

func eui64(m [6]byte) addr {
	return addr{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]}
}

func (w *walk) speaksFor(a addr) bool {
	return w.in.Flags&anyIP != 0 || w.eui64(a) || w.owns(a)
}

// switched is L6 by MAC, and all that follows.
func (w *walk) switched(netid uint16) *no {
	fail := func(r bpf.DropReason, rule, format string, args ...any) *no {
		w.note(layRoute, w.netName(w.net), rule, "drop", format, args...)
		return &no{r, layRoute, rejectNone}
	}
	from := w.okeyPort
	w.wnet, w.routed, w.snat = netid, false, false
	w.frameOps = bpf.SwitchGhOpGH_OP_HOP
	nr := w.netRow(w.net)
	dmac := vswitch.MAC(w.frame[:6])
	target, rule := uint16(0), ""
	switch {
	case w.wire() && nr.Flags&netRewrite != 0:
		target = w.wireIP(nr.Uplink, nr.Vlan, w.k.dst)
		rule = fmt.Sprintf("wireip uplink %d vlan %d %s -> port %d", nr.Uplink, nr.Vlan, ip(w.k.dst), target)
	case w.wire() || nr.Flags&netNoLocal == 0:
		target = w.fdb(w.k.zone, w.frame[:6])
		rule = fmt.Sprintf("fdb zone %d %s -> port %d", w.k.zone, dmac, target)
	}
	q := w.s.Rows.Port[uint32(target)]
	hop := (bpf.PortKind(q.Kind) == bpf.SwitchGhPortKindGH_PORT_UPLINK || q.Host != 0) && target != w.inPort && !w.isHost(w.k.dst)
	if (target == 0 || target != w.inPort) && w.hostless(nr, q) {
		return fail(bpf.SwitchGhDropReasonGH_DROP_UNKNOWN_DST, rule, "the host is no member of %s", w.netName(w.net))
	}
	if (target == 0 || hop) && w.inNameOfHost(nr) {
		w.frameOps = 0
		w.note(layRoute, w.netName(w.net), "", "pass", "outside the network and the exceptions of its NAT: routed, in the host's name")
		return w.deliver(toUplink, 0, netid)
	}
	if target == 0 || target != w.inPort {
		if done, n := w.byRouter(nr, from); n != nil {
			return n
		} else if done {
			return w.finish(toRouter)
		}
	}
	if hop && q.Host != 0 && w.pastHost(nr) {
		w.frameOps = 0
		return w.finish(toRouter)
	}
	how := toPort
	switch {
	case target != 0 && target == w.inPort:
		return fail(bpf.SwitchGhDropReasonGH_DROP_LOOP, rule, "it would go back where it came from")
	case target == 0 && (w.wire() || nr.Uplink == 0):
		return fail(bpf.SwitchGhDropReasonGH_DROP_UNKNOWN_DST, "", "nobody in %s has %s", w.netName(w.net), dmac)
	case target == 0:
		how = toWire
		w.note(layRoute, w.netName(w.net), "", "pass", "%s is not here, or nothing is switched here: by the uplink", dmac)
	case bpf.PortKind(q.Kind) == bpf.SwitchGhPortKindGH_PORT_UPLINK:
		how = toStack
		w.note(layRoute, w.portName(target), rule, "pass", "%s is the host's at the uplink", dmac)
	default:
		w.note(layRoute, w.portName(target), rule, "pass", "the frame is for %s", w.portName(target))
	}
	if how == toPort {
		if n := w.toPort(target); n != nil {
			return n
		}
		w.aside = w.reply && target != from
		if w.wire() && nr.Flags&netRewrite != 0 {
			w.frameOps = bpf.SwitchGhOpGH_OP_DMAC
			return w.finish(how)
		}
	} else if n := w.toWire(how, nr); n != nil {
		return n
	}
	w.dmac = dmac
	if w.endpoint() && w.frameOps&bpf.SwitchGhOpGH_OP_SMAC == 0 {
		w.frameOps |= bpf.SwitchGhOpGH_OP_FROM
		w.smac = [6]byte(w.frame[6:12])
	}
	return w.finish(how)
}

// inNameOfHost: what would leave by the uplink, or be the host's to send on, is
// routed and gets another source instead.
func (w *walk) inNameOfHost(nr vswitch.NetRow) bool {
	if nr.Flags&netSNAT == 0 && w.in.Flags&ownRoutes == 0 || !w.endpoint() || w.reply || unroutable(w.k.dst) {
		return false
	}
	rt, _, ok := w.routeOf(w.in, w.inPort, w.k.zone, w.k.dst)
	if !ok || rt.Kind != routeUplink || rt.Flags&routeNAT == 0 {
		return false
	}
	w.routeNAT, w.routePool = true, rt.Nh
	return true
}

// pastHost: the host, whose vNIC the frame is for, would only send it on by the
// network's uplink. Then that is what happens.
func (w *walk) pastHost(nr vswitch.NetRow) bool {
	rt, _, ok := w.routeOf(w.in, w.inPort, w.k.zone, w.k.dst)
	_, held := w.addrRow(w.k.zone, w.k.dst)
	if nr.Uplink == 0 || nr.Vlan != 0 || !w.endpoint() || ok && rt.Kind == routeHost || unroutable(w.k.dst) || held ||
		w.wireIP(nr.Uplink, 0, w.k.dst) != 0 {
		return false
	}
	src := w.k.src
	if w.reply {
		src = w.nsrc
	}
	steps := len(w.t.Steps)
	if w.toUplink(src) != nil || w.outPort != nr.Uplink {
		w.routed, w.t.Steps = false, w.t.Steps[:steps]
		return false
	}
	w.ozone = w.k.zone
	return true
}

// byRouter: a route gives what is for nobody here to a router of the network, a port of
// it or a machine behind the uplink. Then that is what happens.
func (w *walk) byRouter(nr vswitch.NetRow, from uint16) (bool, *no) {
	rt, rule, ok := w.routeOf(w.in, w.inPort, w.k.zone, w.k.dst)
	if dst, _ := w.addrRow(w.k.zone, w.k.dst); !ok || vswitch.RouteKind(rt.Kind) != vswitch.RouteVia || !w.endpoint() ||
		unroutable(w.k.dst) || dst.Port != 0 {
		return false, nil
	}
	fail := func(r bpf.DropReason, how reject, format string, args ...any) (bool, *no) {
		w.note(layRoute, w.netName(w.net), rule, "drop", format, args...)
		return false, &no{r, layRoute, how}
	}
	via := w.s.Rows.NextHop[rt.Nh].Via.B
	w.routed, w.frameOps = true, 0
	if av, _ := w.addrRow(w.k.zone, via); av.Port != 0 && nr.Flags&netNoLocal == 0 {
		switch {
		case av.Port == w.inPort:
			return fail(bpf.SwitchGhDropReasonGH_DROP_LOOP, rejectNone, "it would go back where it came from")
		case w.s.Rows.Port[uint32(av.Port)].Flags&forward == 0:
			return fail(bpf.SwitchGhDropReasonGH_DROP_NO_ROUTE, rejectRoute, "%s is not set to forward for others", w.portName(av.Port))
		}
		w.aside = w.reply && av.Port != from
		w.note(layRoute, w.portName(av.Port), rule, "pass", "%s is reached by %s", ip(w.k.dst), w.portName(av.Port))
		n := w.toPort(av.Port)
		w.smac = w.in.Mac
		return true, n
	}
	switch {
	case nr.Uplink == 0 || nr.Vlan != 0:
		return fail(bpf.SwitchGhDropReasonGH_DROP_NO_ROUTE, rejectRoute, "the host has no neighbour %s in %s", ip(via), w.netName(w.net))
	case w.isHost(via):
		return fail(bpf.SwitchGhDropReasonGH_DROP_NO_ROUTE, rejectRoute, "the next hop %s is the host itself: NeedEncap is for its stack", ip(via))
	}
	if n := w.toWire(toWire, nr); n != nil {
		return false, n
	}
	w.note(layRoute, w.portName(nr.Uplink), rule, "pass", "%s is reached by the router %s", ip(w.k.dst), ip(via))
	w.outKind, w.nh, w.frameOps = bpf.SwitchGhOutKindGH_OUT_NEIGH, via, 0
	return true, nil
}

// toWire is how a frame leaves by the uplink of a network, or enters the host there.
func (w *walk) toWire(how way, nr vswitch.NetRow) *no {
	w.eOut = w.m.epoch(uint32(nr.Uplink))
	q := w.s.Rows.Port[uint32(nr.Uplink)]
	if q.Flags&up == 0 {
		w.note(layRoute, w.portName(nr.Uplink), "", "drop", "%s is not up", w.portName(nr.Uplink))
		return &no{bpf.SwitchGhDropReasonGH_DROP_PORT_DOWN, layRoute, rejectNone}
	}
	w.outKind = bpf.SwitchGhOutKindGH_OUT_EGRESS
	if how == toStack {
		w.outKind = bpf.SwitchGhOutKindGH_OUT_INGRESS
	}
	w.outIfindex, w.outPort, w.okeyPort, w.ozone, w.mtu = q.Ifindex, nr.Uplink, 0, w.k.zone, q.Mtu
	if nr.Vlan != 0 {
		w.frameOps |= bpf.SwitchGhOpGH_OP_VLAN
		w.otun = uint32(nr.Vlan)
	}
	if nr.Flags&netRewrite != 0 {
		w.frameOps |= bpf.SwitchGhOpGH_OP_SMAC
		w.smac = nr.WireMac
	}
	return nil
}

// hostless: it passes between an endpoint and the host behind the uplink of a network
// that the host is no member of. q is the port that the frame's destination MAC means.
func (w *walk) hostless(nr vswitch.NetRow, q vswitch.PortRow) bool {
	switch {
	case nr.Flags&netNoHost == 0:
		return false
	case w.wire():
		return nr.Flags&netNoLocal == 0 && [6]byte(w.frame[6:12]) == w.in.Mac || w.k.fam != 0 && w.isHost(w.k.src)
	}
	return bpf.PortKind(q.Kind) == bpf.SwitchGhPortKindGH_PORT_UPLINK || w.k.fam != 0 && w.isHost(w.k.dst)
}

// leaves notes the MACs and the tag that the packet leaves with.
func (w *walk) leaves(l line) {
	raw := &w.t.Raw
	raw.MACs = l.outKind != bpf.SwitchGhOutKindGH_OUT_NEIGH
	raw.Dmac, raw.Smac = [6]byte(w.frame[:6]), [6]byte(w.frame[6:12])
	if l.ops&(bpf.SwitchGhOpGH_OP_MAC|bpf.SwitchGhOpGH_OP_DMAC) != 0 {
		raw.Dmac = l.dmac
	}
	if l.ops&(bpf.SwitchGhOpGH_OP_MAC|bpf.SwitchGhOpGH_OP_SMAC) != 0 {
		raw.Smac = l.smac
	}
	if l.ops&bpf.SwitchGhOpGH_OP_VLAN != 0 {
		raw.Tag = uint16(l.tun)
	}
}
