// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"iter"
	"slices"
)

// PortPart is ports, and what is published of them, that stay as they are: where one
// changes, there is another part. Make it with NewPortPart.
type PortPart struct {
	Ports    []Port
	Mappings []PortMapping
	special  bool // one is not plain
}

// NewPortPart takes ports and mappings, which must not be changed any more, nor what
// their slices share.
func NewPortPart(ports []Port, mappings []PortMapping) *PortPart {
	return &PortPart{ports, mappings, slices.ContainsFunc(ports, func(p Port) bool { return !p.plain() })}
}

// plain: what its rows are follows from the port, its network and its device alone.
func (p *Port) plain() bool {
	return p.Kind != PortHost && p.Trunk == 0 && !p.TaggedOnly && p.Mirror == 0 && !p.ownRoutes() && !p.limited() &&
		len(p.Proxies) == 0 && len(p.ACLs) == 0 && p.NATPool == 0 && p.Uplink == ""
}

func (p *Port) limited() bool { return p.IngressBps != 0 || p.EgressBps != 0 }

// AllPorts are those of Ports and of all parts.
func (s *State) AllPorts() iter.Seq[*Port] {
	return func(yield func(*Port) bool) { s.eachPort(false, func(_ int, p *Port) bool { return yield(p) }) }
}

// special are the ports that are not plain, and some that are, each with its place in
// its list.
func (s *State) special() iter.Seq2[int, *Port] {
	return func(yield func(int, *Port) bool) { s.eachPort(true, yield) }
}

// Limited are the ports with bounds of bytes a second, and some others.
func (s *State) Limited() iter.Seq[*Port] {
	return func(yield func(*Port) bool) { s.eachPort(true, func(_ int, p *Port) bool { return yield(p) }) }
}

func (s *State) eachPort(special bool, yield func(int, *Port) bool) {
	for i := range s.Ports {
		if !yield(i, &s.Ports[i]) {
			return
		}
	}
	for _, part := range s.PortParts {
		if part == nil || special && !part.special {
			continue
		}
		for i := range part.Ports {
			if !yield(i, &part.Ports[i]) {
				return
			}
		}
	}
}

// AllMappings are those of Mappings and of all parts.
func (s *State) AllMappings() []PortMapping {
	all := slices.Clone(s.Mappings)
	for _, part := range s.PortParts {
		if part != nil {
			all = append(all, part.Mappings...)
		}
	}
	return all
}

// portPartMemo is a PortPart as it was compiled last.
type portPartMemo struct {
	was   *PortPart
	memos []*portMemo
	kept  uint64 // the round in which it was not looked into
}

// keepPorts finds the parts that are as they were; nil stands for one that is to be
// looked into.
func (c *Compiler) keepPorts(parts []*PortPart, f Facts) (kept []*portPartMemo, ports int) {
	kept = make([]*portPartMemo, len(parts))
	for k, p := range parts {
		if p == nil {
			continue
		}
		ports += len(p.Ports)
		if p.special || c.contexts == c.round || k >= len(c.portParts) || c.portParts[k] == nil || c.portParts[k].was != p {
			continue
		}
		m := c.portParts[k]
		if f.Devices != 0 && f.Devices == c.devices || !slices.ContainsFunc(m.memos, func(x *portMemo) bool { return x.ifindex != f.Ifindex[x.was.Interface] }) {
			m.kept, kept[k] = c.round, m
		}
	}
	c.devices = f.Devices
	return kept, ports
}

// met reports whether a port is in the State of this round.
func (m *portMemo) met(round uint64) bool {
	return m.round == round || m.part != nil && m.part.kept == round
}
