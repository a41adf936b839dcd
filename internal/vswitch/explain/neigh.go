// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"fmt"
	"net/netip"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

const floodMax = vswitch.MaxFlood

func (w *walk) arpText() string {
	b := at(w.frame, ethLen, 28)
	if b == nil {
		return "arp, cut short"
	}
	from, to := netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
	if u16(b[6:]) == 1 {
		return fmt.Sprintf("arp who-has %s tell %s", to, from)
	}
	return fmt.Sprintf("arp %s is-at %s", from, vswitch.MAC(b[8:14]))
}

func isARP(b []byte) bool {
	return b != nil && u16(b) == 1 && u16(b[2:]) == ethIP && b[4] == 6 && b[5] == 4
}

// arp answers for every address of the zone.
func (w *walk) arp() {
	b := at(w.frame, ethLen, 28)
	if !isARP(b) {
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_PARSE, layL2, 0}, "no ARP for IPv4 over Ethernet")
		return
	}
	var sip, tip addr
	copy(sip[:], v4mapped(b[14:18]))
	copy(tip[:], v4mapped(b[24:28]))
	if w.endpoint() {
		if !w.ownMAC(w.frame[6:12]) {
			w.drop(no{bpf.SwitchGhDropReasonGH_DROP_SPOOF_MAC, laySpoof, 0}, "source MAC %s is not the port's", vswitch.MAC(w.frame[6:12]))
			return
		}
		if !w.ownMAC(b[8:14]) || sip != addr4(0) && w.in.Flags&anyIP == 0 && !w.owns(sip) {
			w.drop(no{bpf.SwitchGhDropReasonGH_DROP_SPOOF_ARP, laySpoof, 0}, "ARP that speaks for %s at %s", ip(sip), vswitch.MAC(b[8:14]))
			return
		}
	}
	probes := sip == addr4(0) && w.probes(tip)
	if w.netRow(w.net).Flags&netARPPass != 0 {
		w.passed(tip, probes, u16(b[6:]) == 1 && sip != addr4(0) && sip != tip)
		return
	}
	if u16(b[6:]) != 1 || sip == tip {
		w.consumed("announcements and answers teach nobody: addresses are configured")
		return
	}
	w.whoHas(tip, "ARP", probes)
}

// probes: an endpoint that asks for target in nobody's name means to have it, and
// may not.
func (w *walk) probes(target addr) bool { return w.endpoint() && !w.speaksFor(target) }

// passed ends ARP and ND that are forwarded: others would hear a probe. Questions are
// answered if somebody stands for who is asked for.
func (w *walk) passed(target addr, probes, asks bool) {
	if probes {
		w.probed(target)
		return
	}
	v, ok := w.addrRow(w.k.zone, target)
	if _, _, known := w.whose(v, ok, target); asks && !known && w.standsFor(target) {
		return
	}
	w.controlled()
}

// standsFor answers for target, which nobody here has, with the MAC of the gateway of a
// service, of who leads there, or of who was told to the network.
func (w *walk) standsFor(target addr) bool {
	if k := (vswitch.VIPKey{Zone: w.k.zone, Addr: bpf.SwitchGhAddr{B: target}}); w.endpoint() && w.s.Rows.VIP[k] != 0 {
		w.replied(w.netName(w.net), fmt.Sprintf("vip zone %d %s", w.k.zone, ip(target)), target, w.in.GwMac)
		return true
	}
	if f, far := w.findFar(w.inPort, w.k.zone, target); far && !isTunnel(w.kind) {
		w.replied(w.netName(w.net), f.rule, target, w.netRow(w.net).RouterMac)
		return true
	}
	if r, at, ok := w.s.Rows.Route(w.k.zone, vswitch.PortAsked, target); ok && r.Kind == routeAsked {
		w.replied(w.netName(w.net), "asked "+at.String(), target, vswitch.AskedMAC(r))
		return true
	}
	return false
}

func (w *walk) probed(target addr) {
	w.drop(no{bpf.SwitchGhDropReasonGH_DROP_SPOOF_ARP, laySpoof, 0}, "a probe for %s, which is not its own", ip(target))
}

// whose is the MAC that a port must address for target, which v holds if ok.
func (w *walk) whose(v vswitch.AddrRow, ok bool, target addr) (mac [6]byte, port uint16, known bool) {
	nr := w.netRow(w.net)
	switch {
	case ok && nr.Uplink != 0 && nr.Flags&netNoLocal != 0:
		return nr.WireMac, nr.Uplink, true
	case !ok && nr.Uplink != 0 && nr.Flags&netNoHost == 0 && w.isHost(target):
		return w.s.Rows.Port[uint32(nr.Uplink)].Mac, nr.Uplink, true
	}
	return v.Mac, v.Port, ok
}

// whoHas answers or does not.
func (w *walk) whoHas(target addr, what string, probes bool) {
	v, ok := w.addrRow(w.k.zone, target)
	mac, port, known := w.whose(v, ok, target)
	nr := w.netRow(w.net)
	switch {
	case ok && v.Port == w.inPort:
		w.consumed("a probe for its own address: it is free")
	case !known && w.standsFor(target):
	case !known && what == "ND" && target[0] == 0xfe && target[1]&0xc0 == 0x80 && (nr.Uplink == 0 || w.k.src == (addr{})):
		w.consumed("duplicate address detection of a link-local address: nobody objects")
	case !known && probes:
		w.probed(target)
	case !known && nr.Uplink != 0:
		w.note(layL2, "", "", "miss", "nobody here has %s; the question goes to the wire", ip(target))
		w.controlled()
	case !known && nr.Flags&netFlood != 0 && w.h.group:
		w.note(layL2, "", "", "miss", "nobody here has %s; the network floods", ip(target))
		w.flood()
	case !known:
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_UNKNOWN_DST, layL2, 0}, "nobody in the network has %s", ip(target))
	default:
		w.replied(w.portName(port), fmt.Sprintf("addr zone %d %s -> port %d %s", w.k.zone, ip(target), port, vswitch.MAC(mac)), target, mac)
	}
}

func (w *walk) replied(object, rule string, target addr, mac [6]byte) {
	w.t.Verdict = Reply
	w.t.Raw.Layer, w.t.Raw.OutKind, w.t.Raw.OutIfindex = layL2, bpf.SwitchGhOutKindGH_OUT_EGRESS, w.in.Ifindex
	w.note(layL2, object, rule, "reply", "the switch answers: %s is at %s", ip(target), vswitch.MAC(mac))
	w.copied(w.inPort, layL2)
}

const ndOpts = 4 // GH_ND_OPTS

// ndOptions looks at the link-layer addresses that a message names, which must be
// an endpoint's own: 0 or why not.
func (w *walk) ndOptions() bpf.DropReason {
	end, o := ethLen+w.h.ipLen, w.h.l4Off+24
	if w.h.icmpType == ndRS {
		o = w.h.l4Off + 8
	}
	for range ndOpts {
		if o >= end {
			return 0
		}
		b := at(w.frame, o, 8)
		if b == nil || b[1] == 0 {
			return bpf.SwitchGhDropReasonGH_DROP_PARSE
		}
		if (b[0] == 1 || b[0] == 2) && w.endpoint() && !w.ownMAC(b[2:8]) {
			return bpf.SwitchGhDropReasonGH_DROP_SPOOF_ARP
		}
		o += int(b[1]) * 8
	}
	if o >= end {
		return 0
	}
	return bpf.SwitchGhDropReasonGH_DROP_PARSE
}

// nd is neighbour discovery.
func (w *walk) nd() {
	nr := w.netRow(w.net)
	linkLocal := w.k.src[0] == 0xfe && w.k.src[1]&0xc0 == 0x80
	if w.endpoint() {
		switch {
		case !w.ownMAC(w.frame[6:12]):
			w.drop(no{bpf.SwitchGhDropReasonGH_DROP_SPOOF_MAC, laySpoof, 0}, "source MAC %s is not the port's", vswitch.MAC(w.frame[6:12]))
			return
		case w.h.icmpType == ndRA || w.h.icmpType == ndRedirect:
			w.drop(no{bpf.SwitchGhDropReasonGH_DROP_RA_GUARD, laySpoof, 0}, "a router's message from an endpoint")
			return
		case w.k.src != (addr{}) && !w.speaksFor(w.k.src) && (nr.Flags&netL2 != 0 || !linkLocal):
			w.drop(no{bpf.SwitchGhDropReasonGH_DROP_SPOOF_ARP, laySpoof, 0}, "neighbour discovery that speaks for %s", ip(w.k.src))
			return
		}
	}
	if w.h.ttl != 255 || w.h.opts {
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_PARSE, layL2, 0}, "not from a neighbour: hop limit %d", w.h.ttl)
		return
	}
	if w.h.icmpType != ndNS && w.h.icmpType != ndNA && nr.Flags&netARPPass == 0 {
		w.consumed("only solicitations are answered")
		return
	}
	var target addr
	if w.h.icmpType == ndNS || w.h.icmpType == ndNA {
		b := at(w.frame, 0, 78) // Ethernet, IPv6, and a message without options
		if b == nil {
			w.drop(no{bpf.SwitchGhDropReasonGH_DROP_PARSE, layL2, 0}, "a message that is cut short")
			return
		}
		target = addr(b[62:78])
	}
	if w.endpoint() {
		switch r := w.ndOptions(); {
		case r == bpf.SwitchGhDropReasonGH_DROP_SPOOF_ARP:
			w.drop(no{r, laySpoof, 0}, "it names a link-layer address that is not its own")
			return
		case r != 0:
			w.drop(no{r, layL2, 0}, "its options are cut short, or too many")
			return
		case w.h.icmpType == ndNA && !w.speaksFor(target) && (nr.Flags&netL2 != 0 || !(target[0] == 0xfe && target[1]&0xc0 == 0x80)):
			w.drop(no{bpf.SwitchGhDropReasonGH_DROP_SPOOF_ARP, laySpoof, 0}, "an advertisement of %s, which is not its own", ip(target))
			return
		}
	}
	probes := w.h.icmpType == ndNS && w.k.src == (addr{}) && w.probes(target)
	if nr.Flags&netARPPass != 0 {
		w.passed(target, probes, w.h.icmpType == ndNS && w.k.src != (addr{}))
		return
	}
	if w.h.icmpType == ndNA {
		w.consumed("only solicitations are answered")
		return
	}
	w.whoHas(target, "ND", probes)
}

// floodSource: it may speak to groups although its source is not in the port's set.
func (w *walk) floodSource() bool {
	nr := w.netRow(w.net)
	switch {
	case w.k.fam == 6 && nr.Flags&netL2 != 0:
		return w.k.proto == protoICMP6 && w.k.src == (addr{})
	case w.k.fam == 6:
		return w.k.src[0] == 0xfe && w.k.src[1]&0xc0 == 0x80
	}
	return nr.Flags&netARPPass != 0 && w.k.src == addr4(0) && w.h.l4 == l4UDP && w.k.dport == 67
}

// flood copies to the network's other ports, and to its wire.
func (w *walk) flood() {
	nr := w.netRow(w.net)
	host := w.wire() && !w.ownMAC(w.frame[6:12])
	end := func(copies int) {
		w.t.Verdict, w.t.Raw.Layer, w.t.Raw.Copies = Flood, layL2, copies
		w.note(layL2, w.netName(w.net), "", "flood", "%d copies, to the other ports of %s and its wire", copies, w.netName(w.net))
		if host {
			w.pass("and to the host")
		}
	}
	if nr.Flags&netFlood == 0 || w.wire() && !host && nr.Flags&netNoHost != 0 {
		switch {
		case host:
			w.pass("no network of this segment floods: the host's")
		case w.wire():
			w.consumed("the host's own, turned round; the network does not flood")
		default:
			w.drop(no{bpf.SwitchGhDropReasonGH_DROP_UNKNOWN_DST, layRoute, 0}, "%s does not flood", w.netName(w.net))
		}
		return
	}
	if w.wire() && !w.groupRead() {
		if host {
			w.pass("rules cannot be asked about it: the host's alone")
		} else {
			w.consumed("the host's own, turned round; rules cannot be asked about it")
		}
		return
	}
	if w.endpoint() && !w.ownMAC(w.frame[6:12]) {
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_SPOOF_MAC, laySpoof, 0}, "source MAC %s is not the port's", vswitch.MAC(w.frame[6:12]))
		return
	}
	if nr.Flags&netDHCP != 0 && w.endpoint() && w.k.fam == 4 && w.h.l4 == l4UDP && w.k.sport == 68 && w.k.dport == 67 {
		w.consumed("the host's DHCP server has heard it at the vNIC")
		return
	}
	nd := w.k.proto == protoICMP6 && w.h.icmpType >= ndRS && w.h.icmpType <= ndRedirect
	if w.wire() && (w.k.fam == 0 || nd) && w.usurps(w.k.zone, w.net) {
		w.usurped()
		return
	}
	if w.k.fam != 0 {
		var r bpf.DropReason
		why := ""
		if !nd { // it was looked at
			r, why = w.spoof(false)
		}
		if r == 0 && isTunnel(w.kind) {
			r, why = w.farSource()
		}
		if r == bpf.SwitchGhDropReasonGH_DROP_SPOOF_IP && w.floodSource() {
			r = 0
		}
		if r != 0 {
			w.drop(no{r, laySpoof, 0}, "%s", why)
			return
		}
	}
	asked := w.groupAsked()
	if asked {
		if n := w.groupOut(); n != nil {
			w.end(*n)
			return
		}
	}
	copies := 0
	if nr.Flags&netNoLocal == 0 {
		for i := range min(w.s.Rows.FloodN[uint32(w.net)], floodMax) {
			member, ok := w.s.Rows.Flood[vswitch.FloodKey{Net: w.net, I: uint16(i)}]
			id := member & 0xffff
			q := w.s.Rows.Port[id]
			if isTunnel(bpf.PortKind(q.Kind)) && (w.in.Vni == 0 || w.s.Rows.VTEP[member>>16].Mtu == 0) {
				continue
			}
			if ok && id != uint32(w.inPort) && q.Flags&up != 0 && (!asked || w.groupIn(uint16(id))) {
				copies++
				w.copied(uint16(id), layL2)
			}
		}
	}
	if nr.Uplink != 0 && !w.wire() && w.s.Rows.Port[uint32(nr.Uplink)].Flags&up != 0 {
		w.copied(nr.Uplink, layL2)
		copies++
		if nr.Flags&(netRewrite|netNoHost) == 0 {
			copies++ // the host behind the uplink
		}
	}
	end(copies)
}
