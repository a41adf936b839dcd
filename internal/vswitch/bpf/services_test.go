// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import (
	"strconv"
	"strings"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// labBackend is a backend of a service of the lab: port 0 is another host's.
type labBackend struct {
	port uint16
	addr string
	to   uint16
}

// service writes the rows of one service and returns its id. Backends have the
// ids 1, 2, and so on; clients outside get those of this host where flags say so.
func (l *lab) service(vip string, port uint16, proto uint8, zone uint16, flags SvcFlags, backends ...labBackend) uint32 {
	l.svcs++
	id := l.svcs
	v := SvcVal{Id: id, Bank: 7, OutBank: 8, Flags: uint16(flags)}
	for i, b := range backends {
		n := uint32(i + 1)
		var p Port
		if err := l.coll.Maps["port"].Lookup(uint32(b.port), &p); err != nil {
			panic(err)
		}
		l.put("member", MemberKey{Svc: id, Id: n}, Member{Addr: addr(b.addr), PortBe: be(b.to), Port: b.port, Net: p.Net, State: 1})
		l.put("slot", SlotKey{Svc: id, Bank: v.Bank, I: v.Count}, n)
		v.Count++
		if flags&SwitchGhSvcFlagsGH_SVC_LOCAL == 0 || b.port != 0 {
			l.put("slot", SlotKey{Svc: id, Bank: v.OutBank, I: v.OutCount}, n)
			v.OutCount++
		}
	}
	l.put("svc", SvcKey{Vip: addr(vip), PortBe: be(port), Proto: proto, Zone: zone}, v)
	return id
}

// services is what testdata/service.pkt says it is.
func (l *lab) services() {
	const (
		in      = SwitchGhSvcFlagsGH_SVC_NETWORKS
		host    = SwitchGhSvcFlagsGH_SVC_HOST
		out     = SwitchGhSvcFlagsGH_SVC_OUTSIDE
		silent  = SwitchGhSvcFlagsGH_SVC_DROP
		local   = SwitchGhSvcFlagsGH_SVC_LOCAL
		dsr     = SwitchGhSvcFlagsGH_SVC_DSR
		as      = SwitchGhSvcFlagsGH_SVC_PRESERVE
		cluster = in | host
	)
	for _, f := range []struct{ vip, lb, a, c, r, inside string }{
		{"10.96.0.1", "192.0.2.1", "192.168.100.10", "192.168.102.10", "10.0.0.8", "192.168.100.200"},
		{"fd00:96::1", "2001:db8:96::1", "fd00:100::10", "fd00:102::10", "fd00:a::8", "fd00:100::200"},
	} {
		l.put("vip_l2", VIPKey{Zone: 1, Addr: addr(f.inside)}, uint8(1))
		a, c, r := labBackend{1, f.a, 80}, labBackend{20, f.c, 80}, labBackend{0, f.r, 80}
		l.service(f.vip, 80, pkt.TCP, 0, cluster, a)
		l.service(f.vip, 53, pkt.UDP, 0, cluster, labBackend{1, f.a, 53})
		l.service(f.vip, 81, pkt.TCP, 0, cluster, r)
		l.service(f.vip, 82, pkt.TCP, 0, cluster, c)
		l.service(f.vip, 83, pkt.TCP, 0, cluster)
		l.service(f.vip, 84, pkt.TCP, 0, cluster|silent)
		l.service(f.vip, 85, pkt.TCP, 1, 0, a) // network 1 only
		l.service(f.vip, 86, pkt.TCP, 0, host, a)
		l.service(f.lb, 80, pkt.TCP, 0, in|out, a)
		l.service(f.lb, 81, pkt.TCP, 0, in|out, r)
		l.service(f.lb, 82, pkt.TCP, 0, in|out|local, r)
		l.service(f.lb, 83, pkt.TCP, 0, in|out|dsr, r)
		l.service(f.lb, 84, pkt.TCP, 0, in|out|silent)
		l.service(f.lb, 85, pkt.TCP, 0, in|out)
		l.service(f.lb, 86, pkt.TCP, 0, in|out|as, a)
		l.service(f.lb, 54, pkt.UDP, 0, in|out|as, a)
		l.service(f.lb, 53, pkt.UDP, 0, in|out, labBackend{1, f.a, 53})
		l.put("vip_l2", VIPKey{Uplink: uint16(l.port("x").id), Addr: addr(f.lb)}, uint8(1))
	}
}

// end makes the backends of a service drain or leave until the end of the case.
func (r *scriptRun) end(how, row string) {
	w := strings.Fields(row)
	port, _ := strconv.Atoi(w[1])
	proto, _ := strconv.Atoi(w[2])
	var v SvcVal
	if err := r.l.coll.Maps["svc"].Lookup(SvcKey{Vip: addr(w[0]), PortBe: be(uint16(port)), Proto: uint8(proto)}, &v); err != nil {
		r.fail("%v", err)
	}
	k := SvcKey{Vip: addr(w[0]), PortBe: be(uint16(port)), Proto: uint8(proto)}
	was := v
	for i := uint16(0); i < was.Count; i++ {
		mk := MemberKey{Svc: v.Id, Id: uint32(i + 1)}
		var m Member
		if err := r.l.coll.Maps["member"].Lookup(mk, &m); err != nil {
			r.fail("%v", err)
		}
		is := m
		is.State = uint8(SwitchGhMemberStateGH_MEMBER_DRAINING)
		if how == "leave" {
			if err := r.l.coll.Maps["member"].Delete(mk); err != nil {
				r.fail("%v", err)
			}
		} else {
			r.l.put("member", mk, is)
		}
		r.undo = append(r.undo, func() { r.l.put("member", mk, m) })
		r.l.bump(uint32(m.Port))
	}
	r.l.bump(16383)
	v.Count, v.OutCount = 0, 0
	r.l.put("svc", k, v)
	r.undo = append(r.undo, func() { r.l.put("svc", k, was) })
}
