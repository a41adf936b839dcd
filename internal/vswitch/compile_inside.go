// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"cmp"
	"net/netip"
	"slices"
)

// insideMemo is the frontends that lie in a subnet of endpoints that see them. These
// take them for neighbours and ask by ARP and ND, which nobody would answer. Where
// frames go by MAC the wire is asked: somebody there may have the address.
type insideMemo struct {
	subnets []insideSubnet
	at      map[netip.Prefix][]insideSubnet
	lengths []netip.Prefix // one of each length and family
	// asked counts the frontends at an address: several services may have one.
	asked   map[VIPKey]int
	changed bool // asked has other keys than the Tables
	recount bool // there are other subnets
}

type insideSubnet struct {
	prefix netip.Prefix
	net    NetworkID
	zone   Zone
}

// look takes the subnets of s. What is counted in them is counted anew if there are others.
func (m *insideMemo) look(s State) {
	same, n := true, 0
	for i := range s.Networks {
		x := &s.Networks[i]
		if x.Flags&NetL2 != 0 {
			continue
		}
		for _, sub := range x.Subnets {
			is := insideSubnet{sub.Prefix, x.ID, x.Zone}
			switch {
			case n == len(m.subnets):
				m.subnets, same = append(m.subnets, is), false
			case m.subnets[n] != is:
				m.subnets[n], same = is, false
			}
			n++
		}
	}
	if same && n == len(m.subnets) {
		return
	}
	m.subnets = m.subnets[:n]
	m.recount, m.lengths, m.at, m.asked = true, nil, map[netip.Prefix][]insideSubnet{}, map[VIPKey]int{}
	for _, sub := range m.subnets {
		m.at[sub.prefix] = append(m.at[sub.prefix], sub)
		if !slices.ContainsFunc(m.lengths, func(p netip.Prefix) bool {
			return p.Bits() == sub.prefix.Bits() && p.Addr().Is4() == sub.prefix.Addr().Is4()
		}) {
			m.lengths = append(m.lengths, sub.prefix)
		}
	}
}

// add counts the frontends of s, or takes them out again with -1.
func (m *insideMemo) add(s *Service, by int) {
	if m.recount {
		return
	}
	for _, f := range s.Frontends {
		if f.Addr.IsUnspecified() || f.Network == 0 && f.Scope&ScopeNetworks == 0 {
			continue
		}
		for _, l := range m.lengths {
			p, err := f.Addr.Prefix(l.Bits())
			if err != nil || f.Addr.Is4() != l.Addr().Is4() {
				continue
			}
			for _, sub := range m.at[p] {
				if f.Network != 0 && f.Network != sub.net {
					continue
				}
				k := VIPKey{Zone: uint16(sub.zone)}
				k.Addr.B = f.Addr.As16()
				was := m.asked[k]
				if m.asked[k] = was + by; was+by == 0 {
					delete(m.asked, k)
				}
				m.changed = m.changed || was == 0 || was+by == 0
			}
		}
	}
}

func (c *Compiler) compileInside(_ State, _ Facts, t *Tables) error {
	m := &c.inside
	if m.recount {
		m.recount, m.changed = false, true
		for _, x := range c.services.all {
			m.add(&x.was, 1)
		}
	}
	if !m.changed {
		return nil
	}
	m.changed = false
	b := &block{}
	for k := range m.asked {
		b.vip = append(b.vip, Entry[VIPKey, uint8]{k, 1})
	}
	slices.SortFunc(b.vip, func(x, y Entry[VIPKey, uint8]) int {
		return cmp.Or(cmp.Compare(x.Key.Zone, y.Key.Zone), ip(x.Key.Addr.B).Compare(ip(y.Key.Addr.B)))
	})
	t.inside = b
	return nil
}
