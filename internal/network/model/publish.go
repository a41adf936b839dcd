// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"net/netip"
	"slices"

	"gatehouse.dev/gatehouse/hcn"
)

// mapping is one published port of one protocol and family.
type mapping struct {
	proto    uint8
	host     netip.Addr // unspecified = every host address of the family
	port     uint16
	addr     netip.Addr
	addrPort uint16
	reserved bool // the caller holds the host's port itself
	explicit bool // its policy names the family
}

// publish is who has a port, on which address.
type publish struct {
	kind Kind // Endpoints, LoadBalancers, Services or Reservations
	id   string
	host netip.Addr // unspecified = every host address of the family
	// vip: host need not be an address of the host. If it is none, who has every
	// host address does not have it.
	vip bool
	// network is the only one that sees it; "" = all.
	network string
	// shared: others that say so may have it too.
	shared bool
}

// claim is a publish with its port.
type claim struct {
	proto uint8
	port  uint16
	publish
}

func (c claim) key() string {
	f := byte('6')
	if c.host.Is4() {
		f = '4'
	}
	return fmt.Sprintf("%c %03d %05d", f, c.proto, c.port)
}

// place is the port at one address, row who has it there: keys of an index, the
// first of which begin the later ones.
func (c claim) place(host netip.Addr) string {
	b := host.As16()
	return c.key() + string(b[:])
}

func (c claim) row() string { return c.place(c.host) + string(c.kind) + c.id }

// String as people write it: 0.0.0.0:8080/tcp.
func (c claim) String() string {
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(c.host, c.port), protoName(c.proto))
}

// meets: both cannot have the same port. As bind(2) sees it every address includes
// each single one of the host.
func (p publish) meets(o publish, isHost func(netip.Addr) bool) bool {
	included := func(a publish) bool { return !a.vip || a.network == "" && isHost != nil && isHost(a.host) }
	switch {
	case p.kind == o.kind && p.id == o.id, p.shared && o.shared:
		return false
	case p.host == o.host:
		return p.network == "" || o.network == "" || p.network == o.network
	case p.host.IsUnspecified():
		return included(o)
	case o.host.IsUnspecified():
		return included(p)
	}
	return false
}

func (m mapping) claim(endpoint string) claim {
	return claim{proto: m.proto, port: m.port, publish: publish{kind: Endpoints, id: endpoint, host: m.host}}
}

// claims of an endpoint: its published ports.
func (e *Endpoint) claims() []claim {
	var out []claim
	for _, m := range e.mappings {
		out = append(out, m.claim(e.Doc.Id))
	}
	return out
}

// hostPort is what to hold on the host.
func (m mapping) hostPort(endpoint string) HostPort {
	return HostPort{Object: endpoint, Proto: m.proto, Addr: m.host, Port: m.port}
}

func protoName(p uint8) string {
	switch p {
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 132:
		return "sctp"
	}
	return fmt.Sprint(p)
}

// String as people write it.
func (m mapping) String() string { return m.claim("").String() }

// overlaps as bind(2) sees it: every address includes each single one.
func (m mapping) overlaps(host netip.Addr) bool {
	return m.host == host || m.host.IsUnspecified() || host.IsUnspecified()
}

// expandMappings makes the rows of an endpoint's PortMapping policies. One without
// VIP and without the IPv6 flag serves every family that the endpoint has; where
// another policy names the family for the same port, that one wins.
func expandMappings(e *Endpoint, n *Network) ([]mapping, error) {
	var v4, v6 netip.Addr
	for _, c := range e.Doc.IpConfigurations {
		a, err := netip.ParseAddr(c.IpAddress)
		switch {
		case err != nil:
		case a.Is4() && !v4.IsValid():
			v4 = a
		case a.Is6() && !v6.IsValid():
			v6 = a
		}
	}
	var rows []mapping
	add := func(i int, m portMapping, proto uint8, host, target netip.Addr, explicit bool) error {
		r := mapping{proto: proto, host: host, port: m.ExternalPort, addr: target, addrPort: m.InternalPort,
			reserved: m.Flags&natFlagPortReserved != 0, explicit: explicit}
		if r.addrPort == 0 {
			r.addrPort = m.ExternalPort
		}
		for _, o := range rows {
			if o.proto != r.proto || o.port != r.port || o.host.Is4() != r.host.Is4() || !o.overlaps(r.host) {
				continue
			}
			if o.host == r.host && (o.addrPort == r.addrPort || o.explicit && !r.explicit) {
				return nil // said already, or said better
			}
			return refuseAt(hcn.HCN_E_POLICY_ALREADY_EXISTS, fmt.Sprintf("Policies[%d].Settings.ExternalPort", i),
				"%s is published by another policy of this endpoint as %s", r, o)
		}
		rows = append(rows, r)
		return nil
	}
	// Those that name their family come first.
	for _, explicit := range []bool{true, false} {
		for i, p := range e.Doc.Policies {
			if p.Type != hcn.PortMapping {
				continue
			}
			m, err := parsePortMapping(p.Settings)
			if err != nil {
				return nil, at(fmt.Sprintf("Policies[%d].Settings", i), err)
			}
			named := m.vip.IsValid() || m.Flags&hcn.NatFlagsIPv6 != 0
			if named != explicit {
				continue
			}
			protos := []uint8{uint8(m.Protocol)}
			if m.Protocol == 0 {
				protos = []uint8{6, 17}
			}
			type side struct{ host, target netip.Addr }
			var sides []side
			switch {
			case m.vip.IsValid() && m.vip.Is4():
				sides = []side{{m.vip, v4}}
			case m.vip.IsValid():
				sides = []side{{m.vip, v6}}
			case m.Flags&hcn.NatFlagsIPv6 != 0:
				sides = []side{{netip.IPv6Unspecified(), v6}}
			default:
				if v4.IsValid() {
					sides = append(sides, side{netip.IPv4Unspecified(), v4})
				}
				if v6.IsValid() {
					sides = append(sides, side{netip.IPv6Unspecified(), v6})
				}
			}
			for _, s := range sides {
				if !s.target.IsValid() {
					return nil, refuseAt(hcn.HCN_E_INVALID_POLICY, fmt.Sprintf("Policies[%d].Settings", i),
						"the endpoint has no address of the family of %s", s.host)
				}
				for _, proto := range protos {
					if err := add(i, m, proto, s.host, s.target, explicit); err != nil {
						return nil, err
					}
				}
			}
		}
	}
	return rows, nil
}

func (w *World) publishAll(claims []claim) {
	for _, c := range claims {
		w.published = w.published.set(c.row(), c.publish)
	}
}

func (w *World) unpublishAll(claims []claim) {
	for _, c := range claims {
		w.published = w.published.del(c.row())
	}
}

// holder of a port that c wants, but for those that skip passes over.
func (w *World) holder(c claim, in Input, skip func(publish) bool) (publish, bool) {
	places := []string{c.place(c.host), c.place(anyOf(c.host.Is4()))}
	if c.host.IsUnspecified() {
		places = []string{c.key()}
	}
	for _, place := range places {
		for _, p := range w.published.prefixed(place) {
			if c.meets(p, in.IsHost) && (skip == nil || !skip(p)) {
				return p, true
			}
		}
	}
	return publish{}, false
}

// holderLabel names who has a port to people.
func (w *World) holderLabel(p publish) string {
	switch p.kind {
	case LoadBalancers:
		return "load balancer " + p.id
	case Reservations:
		return "port reservation " + p.id
	case Services:
		return w.serviceLabel(p.id)
	}
	return w.endpointLabel(p.id)
}

// ofCaller: a mapping with ExternalPortReserved is made by who reserved the port.
func (m mapping) ofCaller(p publish) bool { return m.reserved && p.kind == Reservations }

// checkPublished refuses ports that somebody else has. old is what the endpoint has
// already.
func (w *World) checkPublished(e *Endpoint, old, rows []mapping, in Input) error {
	for _, m := range rows {
		if p, taken := w.holder(m.claim(e.Doc.Id), in, m.ofCaller); taken {
			return refuse(hcn.HCN_E_PORT_ALREADY_EXISTS, "port %s is that of %s", m, w.holderLabel(p))
		}
		mine := slices.ContainsFunc(old, func(o mapping) bool { return o.proto == m.proto && o.host == m.host && o.port == m.port })
		if mine || m.reserved || in.Ports == nil {
			continue
		}
		if err := in.Ports.Check(m.hostPort(e.Doc.Id)); err != nil {
			return refuse(hcn.HCN_E_PORT_ALREADY_EXISTS, "port %s cannot be published: %v", m, err)
		}
	}
	return nil
}

// pickPort finds a port for a mapping that leaves it to the server: one that is
// free for all its protocols and families. before are the endpoint's policies
// ahead of it in the list.
func (w *World) pickPort(e *Endpoint, m portMapping, before []hcn.EndpointPolicy, in Input) (uint16, error) {
	probe := *e
	probe.Doc.Policies = nil
	for _, p := range before {
		if p.Type == hcn.PortMapping {
			probe.Doc.Policies = append(probe.Doc.Policies, p)
		}
	}
	have, err := expandMappings(&probe, nil)
	if err != nil {
		return 0, err
	}
	m.ExternalPort = 1 // any: the rows are made for their protocols and families
	if m.Protocol == 132 && m.InternalPort != 0 {
		m.ExternalPort = m.InternalPort // SCTP ports cannot be translated
		return m.ExternalPort, nil
	}
	raw, err := Encode(m.PortMappingPolicySetting)
	if err != nil {
		return 0, err
	}
	probe.Doc.Policies = []hcn.EndpointPolicy{{Type: hcn.PortMapping, Settings: raw}}
	rows, err := expandMappings(&probe, nil)
	if err != nil {
		return 0, err
	}
	taken := func(port uint16) bool {
		for _, r := range rows {
			r.port = port
			if _, held := w.holder(r.claim(e.Doc.Id), in, r.ofCaller); held {
				return true
			}
			for _, h := range have {
				if h.proto == r.proto && h.port == port && h.host.Is4() == r.host.Is4() && h.overlaps(r.host) {
					return true
				}
			}
		}
		return false
	}
	if in.Ports != nil && m.Flags&natFlagPortReserved == 0 {
		var want []HostPort
		for _, r := range rows {
			hp := r.hostPort(e.Doc.Id)
			hp.Port = 0
			want = append(want, hp)
		}
		port, err := in.Ports.Free(want, taken)
		if err != nil {
			return 0, refuse(hcn.HCN_E_PORT_ALREADY_EXISTS, "no port is free: %v", err)
		}
		return port, nil
	}
	// RFC 6335 section 6: the dynamic ports.
	for port := 49152; port <= 65535; port++ {
		if !taken(uint16(port)) {
			return uint16(port), nil
		}
	}
	return 0, refuse(hcn.HCN_E_PORT_ALREADY_EXISTS, "no port from 49152 to 65535 is free")
}
