// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"fmt"
	"net/netip"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// What a tunnel over IPv4 or IPv6 adds.
const overhead4, overhead6 = 50, 70

// minMTU6 is what IPv6 may count on (GH_MIN_MTU6).
const minMTU6 = 1280

func (s *Switch) peer(vni uint32, port, udp uint16, a addr) (vswitch.PeerRow, bool) {
	k := vswitch.PeerKey{Vni: vni, Port: port, PortBe: be(udp)}
	k.Addr.B = a
	r, ok := s.Rows.Peer[k]
	return r, ok
}

// guarded: a tunnel end of ours, which nobody speaks to in the host's name.
func (s *Switch) guarded(a addr, udp uint16) bool {
	_, ok := s.peer(0, 0, udp, a)
	return ok
}

// outer: a datagram for one of our tunnels.
func (s *Switch) outer(k key, h *header) bool {
	t := s.Rows.Cfg.TunnelBe
	if h.l4 != l4UDP || t[0] == 0 {
		return false
	}
	for i, p := range t {
		if (i == 0 || p != 0) && be(p) == k.dport {
			return true
		}
	}
	return false
}

func (s *Switch) vtepAddr(id uint16) netip.Addr { return ip(s.Rows.VTEP[uint32(id)].Addr.B) }

// decap finds out where a tunnel's frame belongs; false where nowhere.
func (w *walk) decap() bool {
	fail := func(r bpf.DropReason, format string, args ...any) bool {
		w.k.zone, w.net = 0, 0
		w.describe()
		w.drop(no{r, laySpoof, 0}, format, args...)
		return false
	}
	o := w.outer
	if o == nil || !o.From.IsValid() {
		return fail(bpf.SwitchGhDropReasonGH_DROP_TUN_PEER, "nothing says whence it came")
	}
	if o.VNI == 0 {
		return fail(bpf.SwitchGhDropReasonGH_DROP_TUN_VNI, "VNI 0 is nobody's")
	}
	r, ok := w.s.peer(o.VNI, w.inPort, 0, o.From.As16())
	if !ok {
		if _, ok := w.s.peer(o.VNI, w.inPort, 0, addr{}); ok {
			return fail(bpf.SwitchGhDropReasonGH_DROP_TUN_PEER, "%s is no tunnel end of VNI %d", o.From, o.VNI)
		}
		return fail(bpf.SwitchGhDropReasonGH_DROP_TUN_VNI, "VNI %d is of no network here", o.VNI)
	}
	w.k.zone, w.net, w.vtep, w.tun = r.Zone, r.Net, r.Vtep, o.VNI
	if r.Net == 0 {
		w.kind, w.k.port = bpf.SwitchGhPortKindGH_PORT_UPLINK, 0
		w.note(laySpoof, w.portName(w.inPort), fmt.Sprintf("peer vni %d port %d %s", o.VNI, w.inPort, o.From), "pass", "from outside, relayed by %s for a backend here", o.From)
		return true
	}
	w.note(laySpoof, w.portName(w.inPort), fmt.Sprintf("peer vni %d port %d %s", o.VNI, w.inPort, o.From), "pass", "from %s, a tunnel end of %s", o.From, w.netName(w.net))
	return true
}

// relayed: from outside, by a tunnel.
func (w *walk) relayed() bool { return w.uplink() && w.tun != 0 }

// backendAddr is whose host the packet goes to.
func (w *walk) backendAddr() addr {
	if w.dsr {
		return w.nh
	}
	return w.ndst
}

// notOurs ends what from outside concerns nothing of the switch: it is the host's,
// but for what another host has relayed.
func (w *walk) notOurs(r bpf.DropReason, l bpf.Layer, what string) {
	switch {
	case w.relayed():
		w.drop(no{r, l, rejectNone}, "relayed by another host, but nothing here is meant by it")
	case what == "":
		w.pass("")
	default:
		w.pass(what + ": left to the host")
	}
}

// wayBack: there is a route to who asked by an uplink.
func (w *walk) wayBack() bool {
	q := FIBQuery{Anchor: int(w.s.Rows.Cfg.AnchorIfindex), Src: ip(w.k.dst), Dst: ip(w.k.src), Protocol: w.k.proto}
	if w.k.fam == 4 {
		q.TOS = w.h.tos & 0x1e
	}
	if w.s.FIB == nil {
		return false
	}
	r, ok := w.s.FIB.Lookup(q)
	p := w.s.Rows.Port[w.s.Rows.IfPort[uint32(r.Ifindex)]]
	return ok && bpf.PortKind(p.Kind) == bpf.SwitchGhPortKindGH_PORT_UPLINK && p.Flags&up != 0
}

// far is where an address on another host is reached.
type far struct {
	vni        uint32
	vtep, port uint16
	mac        [6]byte
	plain      bool
	rule       string
}

// routeOf is the way as a packet of a port sees it: its own routes come first.
func (w *walk) routeOf(in vswitch.PortRow, id, zone uint16, dst addr) (r vswitch.RouteRow, rule string, ok bool) {
	for _, port := range []uint16{id, 0} {
		if port != 0 && in.Flags&ownRoutes == 0 {
			continue
		}
		r, p, ok := w.s.Rows.Route(zone, port, dst)
		if ok {
			rule = fmt.Sprintf("route zone %d", zone)
			if port != 0 {
				rule += fmt.Sprintf(" port %d", port)
			}
			rule = fmt.Sprintf("%s %s -> %s", rule, p, vswitch.RouteName(r))
			return r, rule, true
		}
	}
	return r, "", false
}

func (w *walk) findFar(id, zone uint16, dst addr) (f far, ok bool) {
	f.plain = true
	av, held := w.addrRow(zone, dst)
	if !held {
		f.plain = false
		r, rule, ok := w.routeOf(w.in, id, zone, dst)
		if !ok {
			return f, false
		}
		f.rule = rule
		h := w.s.Rows.NextHop[r.Nh]
		switch vswitch.RouteKind(r.Kind) {
		case vswitch.RouteTunnel:
			f.vni, f.vtep, f.port, f.mac = h.Vni, h.Vtep, h.Port, h.Mac
			return f, true
		case vswitch.RouteVia:
			av, held = w.addrRow(zone, h.Via.B)
		default:
			return f, false
		}
	}
	if !held || av.Vtep == 0 {
		return f, false
	}
	if f.rule == "" {
		f.rule = fmt.Sprintf("addr zone %d %s -> port %d vtep %d vni %d", zone, ip(dst), av.Port, av.Vtep, av.Vni)
	}
	f.vni, f.vtep, f.port, f.mac = av.Vni, av.Vtep, av.Port, av.Mac
	return f, true
}

// farSource is L1 for tunnels.
func (w *walk) farSource() (bpf.DropReason, string) {
	if f, ok := w.findFar(0, w.k.zone, w.k.src); ok && f.port == w.inPort {
		return 0, ""
	}
	return bpf.SwitchGhDropReasonGH_DROP_SPOOF_IP, fmt.Sprintf("%s is not on another host, as far as known here", ip(w.k.src))
}

// byRoute is L6 for what is no known address.
func (w *walk) byRoute(nr vswitch.NetRow, netid uint16, how *way, target *uint16) *no {
	dst := ip(w.ndst)
	rt, rule, ok := w.routeOf(w.in, w.inPort, w.k.zone, w.ndst)
	fail := func(r bpf.DropReason, how reject, format string, args ...any) *no {
		w.note(layRoute, w.netName(netid), rule, "drop", format, args...)
		return &no{r, layRoute, how}
	}
	if unroutable(w.ndst) {
		rule = ""
		return fail(bpf.SwitchGhDropReasonGH_DROP_NO_ROUTE, rejectNone, "%s is not routed: multicast, loopback or link-local", dst)
	}
	kind := vswitch.RouteKind(0)
	if ok {
		kind = vswitch.RouteKind(rt.Kind)
	}
	h := w.s.Rows.NextHop[rt.Nh]
	at := uint16(0)
	switch {
	case ok && rt.Kind == routeLocal:
		return fail(bpf.SwitchGhDropReasonGH_DROP_UNKNOWN_DST, rejectHost, "%s is of the network's own prefix, but nobody has it", dst)
	case kind == vswitch.RouteTunnel:
		at = h.Port
	case kind == vswitch.RouteVia:
		av, _ := w.addrRow(w.k.zone, h.Via.B)
		if at = av.Port; at == 0 {
			return fail(bpf.SwitchGhDropReasonGH_DROP_UNKNOWN_DST, rejectHost, "nobody has the next hop %s", ip(h.Via.B))
		}
	case w.kind == bpf.SwitchGhPortKindGH_PORT_HOST:
		return fail(bpf.SwitchGhDropReasonGH_DROP_UNKNOWN_DST, rejectHost, "nobody in the network has %s", dst)
	case kind == vswitch.RouteHost:
		at = nr.HostPort
	case kind == vswitch.RouteUplink && (nr.Flags&netUplink != 0 || rt.Flags&routeNAT != 0) && !isTunnel(w.kind):
		*how, w.routeNAT, w.routePool = toUplink, rt.Flags&routeNAT != 0, rt.Nh
		w.note(layRoute, w.netName(netid), rule, "pass", "%s is outside", dst)
		return nil
	default:
		return fail(bpf.SwitchGhDropReasonGH_DROP_NO_ROUTE, rejectRoute, "no route to %s from %s, which does not reach outside", dst, w.netName(netid))
	}
	q := w.s.Rows.Port[uint32(at)]
	if !isTunnel(bpf.PortKind(q.Kind)) && q.Flags&forward == 0 {
		return fail(bpf.SwitchGhDropReasonGH_DROP_NO_ROUTE, rejectRoute, "%s is not set to forward for others", w.portName(at))
	}
	*target, *how, w.routed = at, toPort, true
	w.note(layRoute, w.portName(at), rule, "pass", "%s is reached by %s", dst, w.portName(at))
	return nil
}

// elsewhere is L6 of what comes from outside for a backend of another host.
func (w *walk) elsewhere(nr vswitch.NetRow, netid uint16, how *way, target *uint16) *no {
	if netid == 0 {
		*how = toUplink
		return nil
	}
	f, ok := w.findFar(0, nr.Zone, w.backendAddr())
	if !ok {
		w.note(layRoute, w.netName(netid), f.rule, "drop", "%s is on no other host, as far as known here", ip(w.backendAddr()))
		return &no{bpf.SwitchGhDropReasonGH_DROP_UNKNOWN_DST, layRoute, rejectHost}
	}
	*how, *target = toPort, f.port
	return nil
}

// intoTunnel is L9 for tunnels: outer destination, inner MACs, how much fits.
func (w *walk) intoTunnel() *no {
	if !w.reply {
		w.ozone = w.s.Rows.Net[uint32(w.wnet)].Zone
	}
	f, ok := w.findFar(w.inPort, w.ozone, w.backendAddr())
	if !ok || f.port != w.outPort {
		w.note(layRoute, w.portName(w.outPort), f.rule, "drop", "%s is on no other host, as far as known here", ip(w.ndst))
		return &no{bpf.SwitchGhDropReasonGH_DROP_UNKNOWN_DST, layRoute, rejectHost}
	}
	v := w.s.Rows.VTEP[uint32(f.vtep)]
	own, held := w.addrRow(w.k.zone, w.k.src)
	why := "the same subnet: sent as it is"
	if f.plain && w.k.zone == w.ozone && held && own.Vtep == 0 && own.Vni == f.vni {
		w.smac = own.Mac
	} else {
		w.smac, w.routed, why = w.s.Rows.Net[uint32(w.wnet)].RouterMac, true, "routed here"
	}
	w.dmac, w.otun, w.ovtep, w.mtu = f.mac, f.vni, f.vtep, w.farMTU(v)
	if w.k.fam == 6 {
		w.mtu = max(w.mtu, minMTU6)
	}
	if w.dsr {
		w.otun, why = vswitch.ServiceVNI, "for a service there, untranslated"
	}
	w.note(layRoute, w.portName(w.outPort), f.rule, "pass", "%s is behind %s, vni %d; %s", ip(w.backendAddr()), ip(v.Addr.B), w.otun, why)
	return nil
}

func (w *walk) farMTU(v vswitch.VTEPRow) uint16 {
	q := FIBQuery{Anchor: int(w.s.Rows.Cfg.AnchorIfindex), Dst: ip(v.Addr.B), Protocol: protoUDP}
	overhead := overhead6
	q.Src = netip.IPv6Unspecified()
	if q.Dst.Is4() {
		overhead, q.Src = overhead4, netip.IPv4Unspecified()
	}
	if w.s.FIB == nil {
		return v.Mtu
	}
	if r, ok := w.s.FIB.Lookup(q); ok && r.MTU > 1+overhead && r.MTU-overhead < int(v.Mtu) {
		return uint16(r.MTU - overhead)
	}
	return v.Mtu
}
