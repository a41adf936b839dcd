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

// arp answers for every address of the zone.
func (w *walk) arp() {
	b := at(w.frame, ethLen, 28)
	if b == nil || u16(b) != 1 || u16(b[2:]) != ethIP || b[4] != 6 || b[5] != 4 {
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_PARSE, layL2, 0}, "no ARP for IPv4 over Ethernet")
		return
	}
	var sip, tip addr
	copy(sip[:], v4mapped(b[14:18]))
	copy(tip[:], v4mapped(b[24:28]))
	if w.endpoint() {
		if [6]byte(w.frame[6:12]) != w.in.Mac {
			w.drop(no{bpf.SwitchGhDropReasonGH_DROP_SPOOF_MAC, laySpoof, 0}, "source MAC %s is not the port's", vswitch.MAC(w.frame[6:12]))
			return
		}
		if [6]byte(b[8:14]) != w.in.Mac || sip != addr4(0) && !w.owns(sip) {
			w.drop(no{bpf.SwitchGhDropReasonGH_DROP_SPOOF_ARP, laySpoof, 0}, "ARP that speaks for %s at %s", ip(sip), vswitch.MAC(b[8:14]))
			return
		}
	}
	if u16(b[6:]) != 1 || sip == tip {
		w.consumed("announcements and answers teach nobody: addresses are configured")
		return
	}
	w.whoHas(tip, "ARP")
}

// whoHas answers or does not.
func (w *walk) whoHas(target addr, what string) {
	v, ok := w.addrRow(w.k.zone, target)
	if !ok && !isTunnel(w.kind) {
		if f, far := w.findFar(w.inPort, w.k.zone, target); far {
			w.replied(w.netName(w.net), f.rule, target, w.s.Rows.Net[uint32(w.net)].RouterMac)
			return
		}
	}
	switch {
	case !ok && what == "ND" && target[0] == 0xfe && target[1]&0xc0 == 0x80:
		w.consumed("duplicate address detection of a link-local address: nobody objects")
	case !ok:
		if w.s.Rows.Net[uint32(w.net)].Flags&netFlood != 0 && w.h.group {
			w.note(layL2, "", "", "miss", "nobody here has %s; the network floods", ip(target))
			w.flood()
			return
		}
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_UNKNOWN_DST, layL2, 0}, "nobody in the network has %s", ip(target))
	case v.Port == w.inPort:
		w.consumed("a probe for its own address: it is free")
	default:
		w.replied(w.portName(v.Port), fmt.Sprintf("addr zone %d %s -> port %d %s", w.k.zone, ip(target), v.Port, vswitch.MAC(v.Mac)), target, v.Mac)
	}
}

func (w *walk) replied(object, rule string, target addr, mac [6]byte) {
	w.t.Verdict = Reply
	w.t.Raw.Layer, w.t.Raw.OutKind, w.t.Raw.OutIfindex = layL2, bpf.SwitchGhOutKindGH_OUT_EGRESS, w.in.Ifindex
	w.note(layL2, object, rule, "reply", "the switch answers: %s is at %s", ip(target), vswitch.MAC(mac))
	w.copied(w.inPort, layL2)
}

// nd is neighbour discovery.
func (w *walk) nd() {
	off := w.h.l4Off
	linkLocal := w.k.src[0] == 0xfe && w.k.src[1]&0xc0 == 0x80
	if w.endpoint() {
		switch {
		case [6]byte(w.frame[6:12]) != w.in.Mac:
			w.drop(no{bpf.SwitchGhDropReasonGH_DROP_SPOOF_MAC, laySpoof, 0}, "source MAC %s is not the port's", vswitch.MAC(w.frame[6:12]))
			return
		case w.h.icmpType == ndRA || w.h.icmpType == ndRedirect:
			w.drop(no{bpf.SwitchGhDropReasonGH_DROP_RA_GUARD, laySpoof, 0}, "a router's message from an endpoint")
			return
		case w.k.src != (addr{}) && !linkLocal && !w.owns(w.k.src):
			w.drop(no{bpf.SwitchGhDropReasonGH_DROP_SPOOF_ARP, laySpoof, 0}, "neighbour discovery that speaks for %s", ip(w.k.src))
			return
		}
	}
	if w.h.ttl != 255 || w.h.opts {
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_PARSE, layL2, 0}, "not from a neighbour: hop limit %d", w.h.ttl)
		return
	}
	if w.h.icmpType == ndNA && w.endpoint() && w.advertisesOthers(off) {
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_SPOOF_ARP, laySpoof, 0}, "it advertises what is not its own")
		return
	}
	if w.h.icmpType != ndNS {
		w.consumed("only solicitations are answered")
		return
	}
	b := at(w.frame, 0, 78) // Ethernet, IPv6, and a solicitation without options
	if b == nil {
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_PARSE, layL2, 0}, "a solicitation that is cut short")
		return
	}
	if o := at(w.frame, off+24, 2); w.endpoint() && o != nil && o[0] == 1 {
		if mac := at(w.frame, off+26, 6); mac == nil || [6]byte(mac) != w.in.Mac {
			w.drop(no{bpf.SwitchGhDropReasonGH_DROP_SPOOF_ARP, laySpoof, 0}, "it names a link-layer address that is not its own")
			return
		}
	}
	w.whoHas(addr(b[62:78]), "ND")
}

// advertisesOthers: an advertisement of an address, or with a link-layer address,
// that is not its sender's.
func (w *walk) advertisesOthers(off int) bool {
	b := at(w.frame, off+8, 16)
	if b == nil {
		return true
	}
	target := addr(b)
	if !(target[0] == 0xfe && target[1]&0xc0 == 0x80) && !w.owns(target) {
		return true
	}
	if o := at(w.frame, off+24, 2); o == nil || o[0] != 2 {
		return false
	}
	mac := at(w.frame, off+26, 6)
	return mac == nil || [6]byte(mac) != w.in.Mac
}

// flood copies to the network's other ports.
func (w *walk) flood() {
	if w.s.Rows.Net[uint32(w.net)].Flags&netFlood == 0 {
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_UNKNOWN_DST, layRoute, 0}, "%s does not flood", w.netName(w.net))
		return
	}
	if w.endpoint() && [6]byte(w.frame[6:12]) != w.in.Mac {
		w.drop(no{bpf.SwitchGhDropReasonGH_DROP_SPOOF_MAC, laySpoof, 0}, "source MAC %s is not the port's", vswitch.MAC(w.frame[6:12]))
		return
	}
	if w.k.fam != 0 {
		r, why := w.spoof()
		if r == 0 && isTunnel(w.kind) {
			r, why = w.farSource()
		}
		if r == bpf.SwitchGhDropReasonGH_DROP_SPOOF_IP && w.k.fam == 6 && w.k.src[0] == 0xfe && w.k.src[1]&0xc0 == 0x80 {
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
	n := min(w.s.Rows.FloodN[uint32(w.net)], floodMax)
	copies := 0
	for i := range n {
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
	w.t.Verdict, w.t.Raw.Layer, w.t.Raw.Copies = Flood, layL2, copies
	w.note(layL2, w.netName(w.net), "", "flood", "to the %d other ports of %s", copies, w.netName(w.net))
}
