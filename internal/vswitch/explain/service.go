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

// Flags of svc rows and states of members, in the types the rows have.
const (
	svcNetworks = uint16(bpf.SwitchGhSvcFlagsGH_SVC_NETWORKS)
	svcHost     = uint16(bpf.SwitchGhSvcFlagsGH_SVC_HOST)
	svcOutside  = uint16(bpf.SwitchGhSvcFlagsGH_SVC_OUTSIDE)
	svcDrop     = uint16(bpf.SwitchGhSvcFlagsGH_SVC_DROP)
	svcLocal    = uint16(bpf.SwitchGhSvcFlagsGH_SVC_LOCAL)
	svcDSR      = uint16(bpf.SwitchGhSvcFlagsGH_SVC_DSR)
	svcByClient = uint16(bpf.SwitchGhSvcFlagsGH_SVC_BY_CLIENT)
	svcLocalIn  = uint16(bpf.SwitchGhSvcFlagsGH_SVC_LOCAL_IN)
	svcPreserve = uint16(bpf.SwitchGhSvcFlagsGH_SVC_PRESERVE)
	svcSNAT     = uint16(bpf.SwitchGhSvcFlagsGH_SVC_SNAT)

	memberActive = uint8(bpf.SwitchGhMemberStateGH_MEMBER_ACTIVE)
)

// ---- look-ups (lb.h) -------------------------------------------------------

// service is a row of svc and its key, for telling.
type service struct {
	vswitch.SvcRow
	key  vswitch.SvcKey
	name string
	rule string // of a proxy
}

func (s *service) String() string {
	if s.rule != "" {
		return s.rule
	}
	return fmt.Sprintf("svc zone %d %s %s %d -> %d", s.key.Zone, protoName(s.key.Proto), ip(s.key.Vip.B), be(s.key.PortBe), s.Id)
}

func (r *Switch) svc(vip addr, port, zone uint16, proto uint8) *service {
	k := vswitch.SvcKey{PortBe: be(port), Zone: zone, Proto: proto}
	k.Vip.B = vip
	row, ok := r.Rows.Svc[k]
	if !ok {
		return nil
	}
	s := &service{SvcRow: row, key: k, name: fmt.Sprintf("service %d", row.Id)}
	if n := r.Rows.ServiceNames[vswitch.ServiceID(row.Id)]; n != "" {
		s.name = "service " + n
	}
	if vswitch.ServiceID(row.Id) > vswitch.MaxServiceID {
		s.name = "a published port"
	}
	return s
}

// proxy is what the port's proxy rules give what it sends to dst.
func (r *Switch) proxy(port uint16, dst addr, proto uint8) *service {
	if r.Rows.Port[uint32(port)].Proxied == 0 {
		return nil
	}
	row, p, ok := r.Rows.Proxy(port, proto, dst)
	if !ok || row.Id == 0 {
		return nil
	}
	return &service{SvcRow: row, name: "a proxy", rule: fmt.Sprintf("proxy port %d %s %s -> %d", port, protoName(proto), p, row.Id)}
}

// find is the row that publishes vip:port in zone, or everywhere for one of see.
func (r *Switch) find(vip addr, port, zone uint16, proto uint8, host bool, see uint16) *service {
	if port == 0 {
		return nil
	}
	if zone != 0 {
		if s := r.svc(vip, port, zone, proto); s != nil {
			return s
		}
	}
	s := r.svc(vip, port, 0, proto)
	if s == nil && host {
		var any addr
		if ip(vip).Is4() {
			any = addr4(0)
		}
		s = r.svc(any, port, 0, proto)
	}
	if s == nil || s.Flags&see == 0 {
		return nil
	}
	return s
}

func (r *Switch) member(svc, id uint32) (vswitch.MemberRow, bool) {
	m, ok := r.Rows.Member[vswitch.MemberKey{Svc: svc, Id: id}]
	return m, ok
}

func open(m vswitch.MemberRow, flags uint16, outside bool) bool {
	local := svcLocalIn
	if outside {
		local = svcLocal
	}
	return m.State == memberActive && (m.Port != 0 || flags&local == 0)
}

// pick is the backend for a new conversation, 0 for none, and why it is that.
func (r *Switch) pick(live Live, s *service, who bpf.AffinityKey, hash, now uint32, outside bool) (id uint32, why string) {
	why = "by its hash"
	if s.AffinityS != 0 && live != nil {
		if a, ok := live.Affinity(who); ok && int32(now-a.LastS) <= int32(s.AffinityS) {
			m, ok := r.member(s.Id, a.Backend)
			switch {
			case ok && open(m, s.Flags, outside):
				return a.Backend, "by affinity: the client had it last"
			case ok && m.State != memberActive:
				why = "by its hash, as the one the client had drains"
			default:
				why = "by its hash, as the one the client had is gone"
			}
		}
	}
	count, bank := uint32(s.Count), s.Bank
	if outside {
		count, bank = uint32(s.OutCount), s.OutBank
	}
	if count == 0 {
		return 0, ""
	}
	if s.Flags&svcByClient != 0 {
		why = "by the hash of its client"
	}
	return r.Rows.Slot[vswitch.SlotKey{Svc: s.Id, Bank: bank, I: uint16(hash % count)}], fmt.Sprintf("%s, of %d slots", why, count)
}

// ---- the layer (svc.h) -------------------------------------------------------

func (w *walk) see() uint16 {
	switch {
	case w.uplink():
		return svcOutside
	case w.kind == bpf.SwitchGhPortKindGH_PORT_HOST:
		return svcHost
	}
	return svcNetworks
}

func (w *walk) svcSeen() *service {
	if w.endpoint() {
		if s := w.s.proxy(w.inPort, w.k.dst, w.k.proto); s != nil {
			return s
		}
	}
	return w.s.find(w.k.dst, w.k.dport, w.k.zone, w.k.proto, w.host, w.see())
}

// middle: of a TCP connection, not its first packet.
func (w *walk) middle() bool {
	return w.k.proto == protoTCP && w.h.tcpFlags&(tcpSYN|tcpACK|tcpRST) != tcpSYN
}

func (w *walk) choose(s *service) (why string) {
	hash := w.k.hash()
	if s.Flags&svcByClient != 0 {
		hash = 0
		for i := 0; i < 16; i += 4 {
			hash = mix(hash, binary.NativeEndian.Uint32(w.k.src[i:]))
		}
	}
	who := bpf.AffinityKey{Svc: s.Id, Zone: w.k.zone}
	who.Client.B = w.k.src
	w.svc = s.Id
	w.backend, why = w.s.pick(w.m.live, s, who, hash, w.now, w.uplink())
	return why
}

// isDSR: a backend elsewhere gets the packet as it is.
func (w *walk) isDSR(s *service, m vswitch.MemberRow) bool {
	return w.uplink() && s.Flags&svcDSR != 0 && m.Port == 0
}

// legal: may the conversation stay where it is? If not, why.
func (w *walk) legal(s *service) (ok bool, why string) {
	if s == nil || s.Id != w.svc {
		return false, "its service is gone"
	}
	m, there := w.s.member(w.svc, w.backend)
	switch {
	case !there:
		return false, "its backend is gone"
	case m.State != memberActive && w.k.proto != protoTCP:
		return false, "its backend drains, and what is not TCP moves"
	case w.isDSR(s, m) || s.Flags&svcPreserve != 0:
		return w.ndst == w.k.dst && w.ndport == w.k.dport, "it was translated, and now is not"
	}
	return m.Addr.B == w.ndst && be(m.PortBe) == w.ndport, "its backend has another address"
}

// svcAnswers: is an answer's service still published, and its sender a backend?
func (w *walk) svcAnswers() bool {
	s := w.s.proxy(w.okeyPort, w.nsrc, w.k.proto)
	if s == nil || s.Id != w.svc {
		s = w.s.find(w.nsrc, w.nsport, w.ozone, w.k.proto, true, ^uint16(0))
	}
	_, ok := w.s.member(w.svc, w.backend)
	return s != nil && s.Id == w.svc && ok
}

// balance is L4.
func (w *walk) balance(netid uint16) (how way, target, net uint16, n *no) {
	end := func(r bpf.DropReason, how reject, rule, format string, args ...any) (way, uint16, uint16, *no) {
		w.note(layLB, "", rule, "drop", format, args...)
		return toNobody, 0, netid, &no{r, layLB, how}
	}
	pass := func(rule, format string, args ...any) (way, uint16, uint16, *no) {
		w.note(layLB, "", rule, "pass", format+": left to the host", args...)
		return toNobody, 0, netid, errPass
	}
	var av vswitch.AddrRow
	held := false
	if !w.uplink() {
		av, held = w.addrRow(w.k.zone, w.k.dst)
	}
	w.host = w.kind != bpf.SwitchGhPortKindGH_PORT_HOST && (!held || av.Flags&addrGateway != 0) && w.isHost(w.k.dst)
	hosts := w.uplink() && w.host
	sv := w.svcSeen()
	if w.relayed() && sv != nil && sv.Flags&svcDSR == 0 {
		sv = nil
	}
	w.sv = sv
	if w.keep && w.svc != 0 {
		if ok, why := w.legal(sv); !ok {
			w.note(layLB, "", "", "miss", "the conversation does not go on: %s", why)
			w.forget()
			if w.middle() && !w.uplink() {
				return end(bpf.SwitchGhDropReasonGH_DROP_NOSTATE, rejectState, "", "the connection ends")
			}
		}
	}
	if w.uplink() && sv == nil {
		if w.keep {
			w.forget()
		}
		return pass("", "%s is not published here", portText(w.k))
	}
	if w.keep && w.svc == 0 {
		sv = nil
	}
	if sv == nil {
		if w.k.dport != 0 {
			w.note(layLB, "", "", "pass", "%s is not published", portText(w.k))
		}
		return toNobody, 0, netid, nil
	}
	if w.blind {
		return end(bpf.SwitchGhDropReasonGH_DROP_FRAG_ORDER, rejectNone, sv.String(), "a later fragment before the first, and %s needs its ports", sv.name)
	}
	why := "as before"
	fresh := !w.keep
	noState := func() (way, uint16, uint16, *no) {
		if hosts {
			return pass(sv.String(), "the middle of a connection nobody here knows")
		}
		return end(bpf.SwitchGhDropReasonGH_DROP_NOSTATE, rejectState, sv.String(), "the middle of a connection nobody knows")
	}
	if fresh {
		if w.icmp {
			return toNobody, 0, netid, &no{bpf.SwitchGhDropReasonGH_DROP_ICMP_NOFLOW, layLB, rejectNone}
		}
		if w.middle() && !(w.uplink() && sv.Flags&svcDSR != 0) {
			return noState()
		}
		why = w.choose(sv)
	}
	m, ok := w.s.member(w.svc, w.backend)
	switch {
	case !ok && sv.Flags&svcDrop != 0:
		return end(bpf.SwitchGhDropReasonGH_DROP_NO_BACKEND, rejectNone, sv.String(), "%s has no backend for it, and keeps silent then", sv.name)
	case !ok && hosts:
		return pass(sv.String(), "%s has no backend for it", sv.name)
	case !ok:
		return end(bpf.SwitchGhDropReasonGH_DROP_NO_BACKEND, rejectPort, sv.String(), "%s has no backend for it", sv.name)
	}
	w.routed = true
	to := netip.AddrPortFrom(ip(m.Addr.B), be(m.PortBe))
	if w.relayed() && m.Port == 0 {
		return end(bpf.SwitchGhDropReasonGH_DROP_LOOP, rejectNone, sv.String(), "%s: relayed to here, but its backend %s is not; the hosts' lists of backends differ", sv.name, to)
	}
	if w.isDSR(sv, m) {
		w.nh, w.dsr, netid = m.Addr.B, true, m.Net
		w.eNet = w.epochNet(netid)
		w.note(layLB, "", sv.String(), "pass", "%s: as it is to the host of backend %s, chosen %s, which answers by itself", sv.name, to, why)
		return toNobody, 0, netid, nil
	}
	if w.middle() && fresh {
		return noState()
	}
	preserve := sv.Flags&svcPreserve != 0
	if w.h.l4 == l4SCTP && be(m.PortBe) != w.k.dport && !preserve {
		return end(bpf.SwitchGhDropReasonGH_DROP_NAT_PROTO, rejectNone, sv.String(), "SCTP ports cannot be rewritten")
	}
	before := w.tuple()
	if !preserve {
		w.ndst, w.ndport = m.Addr.B, be(m.PortBe)
	}
	after := w.becomes()
	object, reason := "another host", fmt.Sprintf("%s: backend %s on another host, chosen %s", sv.name, to, why)
	if sv.rule != "" {
		object, reason = "", fmt.Sprintf("its proxy at %s gets it", to)
	}
	if m.Port != 0 {
		object = w.portName(m.Port)
		reason = fmt.Sprintf("%s of %s", sv.name, object)
		if vswitch.ServiceID(sv.Id) <= vswitch.MaxServiceID {
			reason = fmt.Sprintf("%s: backend %s of %s, chosen %s", sv.name, to, object, why)
		}
	}
	if preserve {
		reason = fmt.Sprintf("%s: as it was sent to %s, chosen %s", sv.name, object, why)
	}
	w.step(Step{Layer: layerName(layLB), Object: object, Rule: sv.String(), Verdict: "rewrite", Before: &before, After: &after, Reason: reason})
	if w.uplink() {
		netid = m.Net
		w.eNet = w.epochNet(netid)
		if w.impostor(w.netRow(netid).Zone, netid, w.ndst) {
			return end(bpf.SwitchGhDropReasonGH_DROP_SPOOF_IP, rejectNone, sv.String(), "source %s, from outside, is an endpoint's here", ip(w.k.src))
		}
	}
	if m.Port == 0 {
		return toNobody, 0, netid, nil
	}
	return toPort, m.Port, netid, nil
}
