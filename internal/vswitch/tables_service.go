// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"fmt"
	"slices"
	"strings"
)

// ServiceInfo is what Tables know about a service beside its rows.
type ServiceInfo struct {
	ID           ServiceID
	Object, Name string
}

// Services lists the services, published ports among them, by number.
func (t Tables) Services() []ServiceInfo {
	var all []ServiceInfo
	t.services.all(func(b *block) bool {
		all = append(all, ServiceInfo{b.served.id, b.served.object, b.served.name})
		return true
	})
	slices.SortFunc(all, func(a, b ServiceInfo) int { return int(int64(a.ID) - int64(b.ID)) })
	return all
}

// served is what the block of a service tells beside its rows.
type served struct {
	id           ServiceID
	object, name string
	nets         []NetworkID // of frontends of one network
	wide         bool        // clients of any network may see it
}

// same reports whether two blocks of services are interchangeable.
func (b *block) same(o *block) bool {
	return b.equal(&o.rows) && b.served.object == o.served.object && b.served.name == o.served.name &&
		b.served.wide == o.served.wide && slices.Equal(b.served.nets, o.served.nets)
}

// staleService marks what the flows of a service must be looked at again for:
// backends that went or changed, and all of them where a frontend did. b is nil
// for a service that went. What only new conversations ask is no reason.
func staleService(a, b *block, epochs map[uint32]bool) {
	fronts, members := map[SvcKey]SvcRow{}, map[MemberKey]MemberRow{}
	if b != nil {
		fill(fronts, b.svc)
		fill(members, b.member)
	}
	all := false
	for _, e := range a.svc {
		now, ok := fronts[e.Key]
		all = all || !ok || now.Id != e.Value.Id || now.Flags != e.Value.Flags || now.Source != e.Value.Source
	}
	for _, e := range a.member {
		if now, ok := members[e.Key]; ok && now == e.Value && !all {
			continue
		}
		if e.Value.Port != 0 {
			epochs[uint32(e.Value.Port)] = true
			continue
		}
		// The port by which its clients reach it is an uplink, or not known.
		if a.served.wide {
			epochs[EpochGlobal] = true
		}
		for _, n := range a.served.nets {
			epochs[EpochNet+uint32(n)] = true
		}
		// Clients outside are of no network, or of the one that has the backend.
		epochs[EpochNet+uint32(e.Value.Net)] = true
	}
}

func (b *block) printService(add func(string, ...any)) {
	for _, e := range b.vip {
		if e.Key.Zone != 0 {
			add("vip zone %d %s", e.Key.Zone, ip(e.Key.Addr.B))
			continue
		}
		add("vip uplink %d %s", e.Key.Uplink, ip(e.Key.Addr.B))
	}
	for _, e := range b.svc {
		v := e.Value
		s := fmt.Sprintf("svc zone %d %s %s %d -> %d", e.Key.Zone, protoName(e.Key.Proto), ip(e.Key.Vip.B), be16(e.Key.PortBe), v.Id)
		if e.Key.Zone == 0 {
			s += " for " + Scope(v.Flags&uint16(ScopeAll)).String()
		}
		s += fmt.Sprintf(" bank %d count %d", v.Bank, v.Count)
		if v.OutBank != v.Bank {
			s += fmt.Sprintf(" outside bank %d count %d", v.OutBank, v.OutCount)
		}
		if v.AffinityS > 0 {
			s += fmt.Sprintf(" affinity %ds", v.AffinityS)
		}
		if v.Source.B != [16]byte{} {
			s += fmt.Sprintf(" source %s", ip(v.Source.B))
		}
		for _, f := range []struct {
			is   svcFlags
			name string
		}{{svcDrop, " drop"}, {svcLocal, " local"}, {svcDSR, " dsr"}, {svcByClient, " by-client"}, {svcLocalIn, " local-inside"}, {svcPreserve, " preserve"}, {svcSNAT, " snat"}} {
			if v.Flags&uint16(f.is) != 0 {
				s += f.name
			}
		}
		add("%s", s)
	}
	for _, e := range b.proxy {
		to := "left alone"
		if e.Value.Id != 0 {
			to = fmt.Sprintf("%d bank %d count %d", e.Value.Id, e.Value.Bank, e.Value.Count)
			if e.Value.Flags&uint16(svcSNAT) != 0 {
				to += " snat"
			}
		}
		add("proxy port %d %s %s -> %s", e.Key.Port, protoName(e.Key.Proto), prefixOf(RouteKey{Prefixlen: e.Key.Prefixlen, Addr: e.Key.Addr}), to)
	}
	for _, e := range b.slot {
		add("slot %d bank %d %d -> member %d", e.Key.Svc, e.Key.Bank, e.Key.I, e.Value)
	}
	for _, e := range b.member {
		s := fmt.Sprintf("member %d %d %s %d", e.Key.Svc, e.Key.Id, ip(e.Value.Addr.B), be16(e.Value.PortBe))
		if e.Value.Port != 0 {
			s += fmt.Sprintf(" port %d", e.Value.Port)
		}
		if e.Value.Net != 0 && e.Value.Port == 0 {
			s += fmt.Sprintf(" net %d", e.Value.Net)
		}
		if e.Value.State == memberDraining {
			s += " draining"
		}
		add("%s", s)
	}
}

// String lists who sees a frontend.
func (s Scope) String() string {
	var l []string
	for i, name := range [...]string{"networks", "host", "outside"} {
		if s&(1<<i) != 0 {
			l = append(l, name)
		}
	}
	if len(l) == 0 {
		return "-"
	}
	return strings.Join(l, ",")
}
