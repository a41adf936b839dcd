// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// Flags of rows in the types the rows have.
const (
	up          = uint8(bpf.SwitchGhPortFlagsGH_PORT_UP)
	noPeer      = uint8(bpf.SwitchGhPortFlagsGH_PORT_NO_PEER)
	watched     = uint8(bpf.SwitchGhPortFlagsGH_PORT_COPY)
	forward     = uint8(bpf.SwitchGhPortFlagsGH_PORT_FORWARD)
	ownRoutes   = uint8(bpf.SwitchGhPortFlagsGH_PORT_ROUTES)
	anyMAC      = uint8(bpf.SwitchGhPortFlagsGH_PORT_ANY_MAC)
	anyIP       = uint8(bpf.SwitchGhPortFlagsGH_PORT_ANY_IP)
	wires       = uint8(bpf.SwitchGhPortFlagsGH_PORT_WIRES)
	addrHost    = uint8(bpf.SwitchGhAddrFlagsGH_ADDR_HOST)
	addrGateway = uint8(bpf.SwitchGhAddrFlagsGH_ADDR_GATEWAY)
	routeLocal  = uint16(bpf.SwitchGhRouteKindGH_ROUTE_LOCAL)
	routeUplink = uint16(bpf.SwitchGhRouteKindGH_ROUTE_UPLINK)
	routeHost   = uint16(bpf.SwitchGhRouteKindGH_ROUTE_HOST)
	routeAsked  = uint16(bpf.SwitchGhRouteKindGH_ROUTE_ASKED)
	netSNAT     = uint32(bpf.SwitchGhNetFlagsGH_NET_SNAT)
	netHostNIC  = uint32(bpf.SwitchGhNetFlagsGH_NET_HOSTNIC)
	netUplink   = uint32(bpf.SwitchGhNetFlagsGH_NET_UPLINK)
	netFlood    = uint32(bpf.SwitchGhNetFlagsGH_NET_FLOOD)
	routeNAT    = uint16(bpf.SwitchGhRouteFlagsGH_ROUTE_NAT)
	netL2       = uint32(bpf.SwitchGhNetFlagsGH_NET_L2)
	netRewrite  = uint32(bpf.SwitchGhNetFlagsGH_NET_MAC_REWRITE)
	netNoHost   = uint32(bpf.SwitchGhNetFlagsGH_NET_NO_HOST)
	netNoLocal  = uint32(bpf.SwitchGhNetFlagsGH_NET_NO_LOCAL)
	netARPPass  = uint32(bpf.SwitchGhNetFlagsGH_NET_ARP_PASS)
	netDHCP     = uint32(bpf.SwitchGhNetFlagsGH_NET_DHCP)
	flagL3      = uint8(bpf.SwitchGhFkeyFlagsGH_FKEY_L3)
	flagBlind   = uint8(bpf.SwitchGhFkeyFlagsGH_FKEY_BLIND)
)

type way uint8

const (
	toNobody way = iota
	toPort
	toUplink
)

func (w *walk) endpoint() bool {
	return isEndpoint(w.kind)
}

func isEndpoint(k bpf.PortKind) bool {
	return k == bpf.SwitchGhPortKindGH_PORT_CONTAINER || k == bpf.SwitchGhPortKindGH_PORT_VM
}

func (w *walk) uplink() bool { return w.kind == bpf.SwitchGhPortKindGH_PORT_UPLINK }

func isTunnel(k bpf.PortKind) bool { return k == bpf.SwitchGhPortKindGH_PORT_TUNNEL }

// ---- look-ups (lb.h, spoof.h) --------------------------------------------------

func (w *walk) addrRow(zone uint16, a addr) (vswitch.AddrRow, bool) {
	k := vswitch.AddrKey{Zone: zone}
	k.Addr.B = a
	r, ok := w.s.Rows.Addr[k]
	return r, ok
}

func (w *walk) isHost(a addr) bool {
	r, ok := w.addrRow(0, a)
	return ok && r.Flags&addrHost != 0
}

func (w *walk) owns(a addr) bool {
	k := vswitch.PortIPKey{Port: w.inPort}
	k.Addr.B = a
	_, ok := w.s.Rows.PortIP[k]
	return ok
}

func mix(h, v uint32) uint32 {
	h = (h ^ v) * 0x9e3779b1
	return h ^ h>>15
}

func (k key) hash() uint32 {
	h := mix(uint32(k.proto), uint32(be(k.sport))<<16|uint32(be(k.dport)))
	for i := 0; i < 16; i += 4 {
		h = mix(h, binary.NativeEndian.Uint32(k.src[i:]))
		h = mix(h, binary.NativeEndian.Uint32(k.dst[i:]))
	}
	return h
}

// answers: the packet is of a conversation that the port was given under the address
// it now speaks with.
func (w *walk) answers() bool { return w.keep && w.reply && w.svc != 0 && w.nsrc == w.k.src }

// spoof is L1: 0 or why not.
func (w *walk) spoof(answers bool) (bpf.DropReason, string) {
	switch {
	case w.kind == bpf.SwitchGhPortKindGH_PORT_HOST:
		if w.isHost(w.k.src) || w.in.Flags&forward != 0 {
			return 0, ""
		}
		return bpf.SwitchGhDropReasonGH_DROP_SPOOF_IP, fmt.Sprintf("%s is no address of the host, which speaks for itself only", ip(w.k.src))
	case w.wire() && w.impostor(w.k.zone, w.net, w.k.dst):
		return bpf.SwitchGhDropReasonGH_DROP_SPOOF_IP, fmt.Sprintf("source %s, from outside, is an endpoint's here", ip(w.k.src))
	case !w.endpoint():
		return 0, ""
	case !w.ownMAC(w.frame[6:12]):
		return bpf.SwitchGhDropReasonGH_DROP_SPOOF_MAC, fmt.Sprintf("source MAC %s is not the port's %s", vswitch.MAC(w.frame[6:12]), vswitch.MAC(w.in.Mac))
	case !answers && w.in.Flags&(forward|anyIP) == 0 && !w.owns(w.k.src) && !(w.isL2() && w.eui64(w.k.src)):
		return bpf.SwitchGhDropReasonGH_DROP_SPOOF_IP, fmt.Sprintf("source %s is no address of the port", ip(w.k.src))
	case w.h.l4 == l4UDP && (w.k.fam == 4 && w.k.sport == 67 || w.k.fam == 6 && w.k.sport == 547):
		return bpf.SwitchGhDropReasonGH_DROP_DHCP_GUARD, "a DHCP server behind an endpoint"
	case w.k.proto == protoICMP && w.h.icmpType == icmpRedirect:
		return bpf.SwitchGhDropReasonGH_DROP_RA_GUARD, "an ICMP redirect from an endpoint"
	}
	return 0, ""
}

func unroutable(a addr) bool {
	x := ip(a)
	if x.Is4() {
		b := x.As4()
		return b[0] >= 0xe0 || b[0] == 127 || b[0] == 0
	}
	return a[0] == 0xff || a[0] == 0xfe && a[1]&0xc0 == 0x80 || binary.BigEndian.Uint32(a[:]) == 0
}

// ---- the pipeline (slow.h) ------------------------------------------------------

func (w *walk) reset() {
	w.nsrc, w.ndst, w.nsport, w.ndport = w.k.src, w.k.dst, w.k.sport, w.k.dport
	w.ozone, w.okeyPort = w.k.zone, 0
	w.svc, w.backend = 0, 0
	w.reply, w.aside, w.keep, w.routed, w.held = false, false, false, false, false
	w.otun, w.ovtep, w.frameOps = 0, 0, 0
}

// recall takes over what must survive from the packet's entry.
func (w *walk) recall() {
	f := w.m.get(w.k)
	if f == nil || f.busy {
		return
	}
	if w.m.dead(w.k, f, w.now) || w.k.proto == protoTCP && f.reopened(w.h.tcpFlags) {
		w.m.unlink(w.k, f)
		return
	}
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
	w.okeyPort, w.ozone = f.pair.port, f.pair.zone
	w.routed = f.ops&bpf.SwitchGhOpGH_OP_TTL != 0
	w.svc, w.backend, w.wnet, w.reply, w.keep = f.svc, f.backend, f.net, f.reply, true
	w.held = f.nat && f.state == bpf.SwitchGhFlowStateGH_FLOW_TW
	w.note(layFlow, "", "", "stale", "a flow that was decided under an older configuration is walked again")
}

func (w *walk) forget() {
	if w.keep {
		if f := w.m.get(w.k); f != nil {
			w.m.unlink(w.k, f)
		}
	}
	w.reset()
}

// answerTarget is where an answer goes, if both ends are still there.
func (w *walk) answerTarget() (way, uint16, bool) {
	if w.okeyPort == 0 {
		return toUplink, 0, true
	}
	q := w.s.Rows.Port[uint32(w.okeyPort)]
	if q.Flags&up == 0 || q.Zone != w.ozone && !isTunnel(bpf.PortKind(q.Kind)) {
		return toNobody, 0, false
	}
	if isEndpoint(bpf.PortKind(q.Kind)) && q.Flags&forward == 0 {
		if av, ok := w.addrRow(q.Zone, w.ndst); !ok || av.Port != w.okeyPort {
			return toNobody, 0, false
		}
	}
	return toPort, w.okeyPort, true
}

// layers decides; nil is forward.
func (w *walk) layers() *no {
	w.eIn, w.eNet = w.m.epoch(uint32(w.k.port)), w.epochNet(w.net)
	netid := w.net
	w.routeNAT, w.routePool, w.host, w.dsr = false, 0, false, false
	w.l2 = w.isL2()
	w.reset()
	w.recall()

	r, why := w.spoof(w.answers())
	if r == 0 && isTunnel(w.kind) {
		r, why = w.farSource()
	}
	if r != 0 {
		w.note(laySpoof, w.portName(w.inPort), "", "drop", "%s", why)
		return &no{r, laySpoof, rejectNone}
	}
	if w.in.Flags&forward != 0 {
		w.note(laySpoof, w.portName(w.inPort), "", "pass", "a router's port: any source")
	} else if w.endpoint() && w.answers() && !w.owns(w.k.src) {
		w.note(laySpoof, w.portName(w.inPort), "", "pass", "it answers from %s, where it was asked", ip(w.k.src))
	} else if w.endpoint() {
		w.note(laySpoof, w.portName(w.inPort), fmt.Sprintf("portip %d %s", w.inPort, ip(w.k.src)), "pass", "source MAC and address are the port's own")
	} else if isTunnel(w.kind) {
		w.note(laySpoof, w.portName(w.inPort), "", "pass", "%s is on another host", ip(w.k.src))
	} else if w.kind == bpf.SwitchGhPortKindGH_PORT_HOST {
		w.note(laySpoof, w.portName(w.inPort), fmt.Sprintf("addr zone 0 %s host", ip(w.k.src)), "pass", "source is an address of the host")
	}
	w.blind = w.k.flags&flagBlind != 0
	if w.blind && w.uplink() {
		return errPass
	}

	how, target := toNobody, uint16(0)
	answer := false
	if w.keep && w.reply && !w.byMAC() {
		gone := w.svc != 0 && !w.svcAnswers()
		if !gone {
			how, target, answer = w.answerTarget()
		}
		if !answer {
			if w.held && w.okeyPort != 0 {
				w.note(layFlow, "", "", "drop", "its endpoint is gone; the connection is in TIME_WAIT and keeps its port")
				return &no{bpf.SwitchGhDropReasonGH_DROP_PORT_DOWN, layFlow, rejectNone}
			}
			w.forget()
			if gone && !w.uplink() && w.middle() {
				w.note(layLB, "", "", "drop", "its service or backend is gone; the connection ends")
				return &no{bpf.SwitchGhDropReasonGH_DROP_NOSTATE, layLB, rejectState}
			}
		} else {
			w.note(layRoute, "", "", "pass", "an answer: back to who asked")
		}
	}
	if !answer {
		if !w.reply && !w.uplink() {
			if n := w.acl(layACLPre); n != nil {
				return n
			}
		}
		var n *no
		if !w.onlyByMAC() {
			if how, target, netid, n = w.balance(netid); n != nil {
				return n
			}
		}
		if !w.reply && w.uplink() { // asked only about what is ours
			if n = w.acl(layACLPre); n != nil {
				return n
			}
		}
		if !w.reply {
			if n = w.acl(layACLOut); n != nil {
				return n
			}
		}
		if how == toNobody && w.byMAC() {
			return w.switched(netid)
		}
		if how == toNobody {
			n = w.route(netid, &how, &target)
		}
		if n != nil {
			return n
		}
	}
	return w.deliver(how, target, netid)
}

func portText(k key) string {
	return fmt.Sprintf("%s %s", protoName(k.proto), netip.AddrPortFrom(ip(k.dst), k.dport))
}

// route is L6. The destination is the packet's own, or the backend that a
// service put in its place.
func (w *walk) route(netid uint16, how *way, target *uint16) *no {
	nr := w.s.Rows.Net[uint32(netid)]
	dst := ip(w.ndst)
	w.routed = w.svc != 0
	if w.uplink() {
		return w.elsewhere(nr, netid, how, target)
	}
	host := w.host
	if w.svc != 0 {
		host = w.isHost(w.ndst)
	}
	av, held := w.addrRow(w.k.zone, w.ndst)
	fail := func(r bpf.DropReason, how reject, rule, format string, args ...any) *no {
		w.note(layRoute, w.netName(netid), rule, "drop", format, args...)
		return &no{r, layRoute, how}
	}
	switch {
	case held && av.Port != 0:
		*target, *how = av.Port, toPort
		w.note(layRoute, w.portName(av.Port), fmt.Sprintf("addr zone %d %s -> port %d", w.k.zone, dst, av.Port), "pass", "%s is %s", dst, w.portName(av.Port))
	case host && w.kind != bpf.SwitchGhPortKindGH_PORT_HOST && !isTunnel(w.kind):
		if nr.Flags&netHostNIC == 0 || nr.HostPort == 0 {
			return fail(bpf.SwitchGhDropReasonGH_DROP_NO_ROUTE, rejectRoute, "", "the host has no vNIC in this network")
		}
		*target, *how = nr.HostPort, toPort
		if w.blind {
			return fail(bpf.SwitchGhDropReasonGH_DROP_FRAG_ORDER, rejectNone, "", "a later fragment before the first; it might be for a published port")
		}
		w.note(layRoute, w.portName(nr.HostPort), fmt.Sprintf("addr zone 0 %s host", dst), "pass", "%s is an address of the host", dst)
	default:
		if n := w.byRoute(nr, netid, how, target); n != nil {
			return n
		}
	}
	if *how == toPort && *target == w.inPort && (w.svc == 0 || isTunnel(w.kind)) {
		return fail(bpf.SwitchGhDropReasonGH_DROP_LOOP, rejectNone, "", "it would go back where it came from")
	}
	return nil
}

// handOver is how a packet reaches the vNIC behind q.
func handOver(q, from vswitch.PortRow) (k bpf.OutKind, ifindex uint32, dmac, smac [6]byte, n *no) {
	if q.Flags&up == 0 {
		return 0, 0, dmac, smac, &no{bpf.SwitchGhDropReasonGH_DROP_PORT_DOWN, layRoute, rejectHost}
	}
	smac, ifindex = q.GwMac, q.Ifindex
	switch bpf.PortKind(q.Kind) {
	case bpf.SwitchGhPortKindGH_PORT_CONTAINER:
		k = bpf.SwitchGhOutKindGH_OUT_PEER
		if q.Flags&noPeer != 0 {
			k = bpf.SwitchGhOutKindGH_OUT_EGRESS
		}
	case bpf.SwitchGhPortKindGH_PORT_VM:
		k = bpf.SwitchGhOutKindGH_OUT_EGRESS
	case bpf.SwitchGhPortKindGH_PORT_HOST:
		k, ifindex = bpf.SwitchGhOutKindGH_OUT_INGRESS, q.NicIfindex
		if isEndpoint(bpf.PortKind(from.Kind)) {
			smac = from.Mac
		}
	case bpf.SwitchGhPortKindGH_PORT_TUNNEL:
		k = bpf.SwitchGhOutKindGH_OUT_TUNNEL
	default:
		return 0, 0, dmac, smac, &no{bpf.SwitchGhDropReasonGH_DROP_INTERNAL, layRoute, rejectNone}
	}
	return k, ifindex, q.Mac, smac, nil
}

func (w *walk) toPort(id uint16) *no {
	w.eOut = w.m.epoch(uint32(id))
	q := w.s.Rows.Port[uint32(id)]
	w.outPort, w.okeyPort, w.mtu, w.otun = id, id, q.Mtu, uint32(q.Vlan)
	if !isTunnel(bpf.PortKind(q.Kind)) {
		w.ozone = q.Zone
	}
	var n *no
	w.outKind, w.outIfindex, w.dmac, w.smac, n = handOver(q, w.in)
	if n != nil {
		w.note(layRoute, w.portName(id), "", "drop", "%s is not up", w.portName(id))
	}
	return n
}

// deliver is the way out, L7 and L9.
func (w *walk) deliver(how way, target uint16, netid uint16) *no {
	answer := w.keep && w.reply
	if !answer {
		w.wnet = netid
	} else {
		w.eNet = w.epochNet(w.wnet)
	}
	var n *no
	if how == toUplink {
		src := w.k.src
		if w.reply {
			src = w.nsrc
		}
		n = w.toUplink(src)
	} else {
		n = w.toPort(target)
		if only := w.s.Rows.Port[uint32(target)].Only; w.uplink() && only != 0 && only != w.inPort {
			w.note(layRoute, w.portName(target), "", "drop", "%s uses %s alone", w.portName(target), w.portName(only))
			return &no{bpf.SwitchGhDropReasonGH_DROP_NO_ROUTE, layRoute, rejectNone}
		}
	}
	if n != nil {
		return n
	}
	if w.outKind == bpf.SwitchGhOutKindGH_OUT_TUNNEL {
		if n := w.intoTunnel(); n != nil {
			return n
		}
	}
	return w.finish(how)
}

// finish is L7 and L9.
func (w *walk) finish(how way) *no {
	w.first = w.nsport
	if w.reply {
		w.snat = false
		for _, l := range []bpf.Layer{layACLPre, layACLOut, layACLIn} {
			if n := w.acl(l); n != nil {
				return n
			}
		}
		return w.limits()
	}
	if w.k.zone != w.ozone {
		w.routed = true
	}
	if n := w.nat(how); n != nil {
		return n
	}
	if n := w.acl(layACLIn); n != nil {
		return n
	}
	return w.limits()
}

// nat is L7: which source address the other side is to see.
func (w *walk) nat(how way) *no {
	fail := func(r bpf.DropReason, how reject, format string, args ...any) *no {
		w.note(layNAT, "", "", "drop", format, args...)
		return &no{r, layNAT, how}
	}
	nr := w.s.Rows.Net[uint32(w.wnet)]
	want := w.k.src
	w.natLo, w.natHi, w.poolBusy, w.snat = 1024, 65535, false, false
	rule, why := "", ""
	switch {
	case how == toUplink && nr.Flags&netSNAT != 0 && !w.routeNAT && !w.dsr:
		w.note(layNAT, "", "", "pass", "the route says that it leaves with its own source")
	case how == toUplink && !w.dsr && (w.routeNAT || w.uplink()) && w.k.proto == protoUDP && w.s.guarded(w.ndst, w.ndport):
		return fail(bpf.SwitchGhDropReasonGH_DROP_TUN_PEER, rejectRoute, "in the host's name it could speak to our tunnels' other ends")
	case how == toUplink && !w.dsr && (w.routeNAT || w.uplink()):
		pool, whose := w.poolOf(nr)
		pool, p := w.poolPick(pool)
		if pool == 0 {
			return fail(bpf.SwitchGhDropReasonGH_DROP_NO_ROUTE, rejectRoute, "%s has no address of this family to speak with", w.portName(w.outPort))
		}
		if w.blind {
			return fail(bpf.SwitchGhDropReasonGH_DROP_FRAG_ORDER, rejectNone, "a later fragment before the first, and NAT needs its ports")
		}
		want, w.natLo, w.natHi, w.poolBusy, w.snat = p.Addr.B, p.Lo, p.Hi, true, true
		w.poolShare()
		rule, why = fmt.Sprintf("natpool %d %s %d-%d", pool, ip(p.Addr.B), w.natLo, w.natHi), "outside sees "+whose
	case w.uplink() && w.outKind == bpf.SwitchGhOutKindGH_OUT_TUNNEL && !w.dsr:
		want = w.sv.Source.B
		if want == (addr{}) {
			return fail(bpf.SwitchGhDropReasonGH_DROP_NO_ROUTE, rejectRoute, "%s has no address of this host that the backend could answer to", w.sv.name)
		}
		w.snat, why = true, "the backend's host knows no way back to the client but by us"
	case w.svc != 0 && how == toPort && (w.endpoint() || isTunnel(w.kind)) && (w.outPort == w.inPort || w.sv.Flags&svcSNAT != 0 || w.k.zone != w.ozone && w.ndst == w.k.dst):
		want = nr.Hairpin4.B
		if w.k.fam == 6 {
			want = nr.Hairpin6.B
		}
		if want == (addr{}) {
			want = w.k.dst
		}
		w.snat, why = true, "it reaches itself; it would not take a packet from its own address"
		switch {
		case w.outPort == w.inPort:
		case w.sv.Flags&svcSNAT != 0:
			why = "its proxy is not to see who asks"
		default:
			why = "another network knows the host, not our addresses; and the backend has the host's that was asked"
		}
	case w.svc != 0 && how == toPort && (w.endpoint() || isTunnel(w.kind)) && w.k.zone != w.ozone:
		want, w.snat, why = w.k.dst, true, "another network knows the host, not our addresses"
	}
	if w.keep && w.nsrc != want {
		if f := w.m.get(w.k); f != nil {
			w.m.unlink(w.k, f)
		}
		w.keep = false
		w.nsport, w.first = w.k.sport, w.k.sport
	}
	w.nsrc = want
	if w.snat {
		w.note(layNAT, "", rule, "rewrite", "%s: source becomes %s", why, ip(want))
	}
	if !w.keep && w.k.proto == protoTCP {
		f := w.h.tcpFlags & (tcpSYN | tcpACK | tcpRST)
		if f != tcpSYN && w.h.frag != fragLater && (w.snat || f&tcpRST != 0) {
			return fail(bpf.SwitchGhDropReasonGH_DROP_NOSTATE, rejectState, "the middle of a connection nobody knows")
		}
	}
	return nil
}

// limits is L9.
func (w *walk) limits() *no {
	if w.routed && w.h.ttl <= 1 {
		w.note(layL2, "", "", "drop", "its TTL ends here")
		return &no{bpf.SwitchGhDropReasonGH_DROP_TTL, layL2, rejectTTL}
	}
	if w.tooBig(w.mtu) {
		w.note(layL2, w.portName(w.outPort), fmt.Sprintf("port %d mtu %d", w.outPort, w.mtu), "drop", "%d bytes are more than the %d that fit there", w.h.ipLen, w.mtu)
		return &no{bpf.SwitchGhDropReasonGH_DROP_MTU, layL2, rejectTooBig}
	}
	return nil
}

// slow is stages v4 and v6.
func (w *walk) slow() {
	n := w.layers()
	if w.icmp {
		switch {
		case n == nil && w.keep:
			w.icmpSend()
		case w.uplink():
			w.notOurs(bpf.SwitchGhDropReasonGH_DROP_ICMP_NOFLOW, layFlow, "an ICMP error about no flow of ours")
		default:
			w.drop(no{bpf.SwitchGhDropReasonGH_DROP_ICMP_NOFLOW, layFlow, 0}, "an ICMP error about no flow of ours")
		}
		return
	}
	if n == errPass {
		w.notOurs(bpf.SwitchGhDropReasonGH_DROP_NO_BACKEND, layLB, "")
		return
	}
	if n != nil {
		w.end(*n)
		return
	}
	if !w.keep {
		w.commit()
		return
	}
	f := w.m.get(w.k)
	if !w.reply && (f == nil || f.pair != w.rkey(w.nsport)) {
		if f != nil {
			w.m.unlink(w.k, f)
		}
		w.commit()
		return
	}
	l := w.line()
	if f != nil {
		f.line, f.net, f.last, f.busy = l, w.wnet, w.now, false
		if f.changesState(&w.h) {
			w.advance()
			return
		}
	}
	w.forward(l, bpf.SwitchGhViaGH_VIA_REVALIDATED)
}
