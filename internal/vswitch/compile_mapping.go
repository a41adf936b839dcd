// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"slices"
)

// mappingKey names a published port: it is what the outside addresses.
type mappingKey struct {
	host  netip.Addr // unspecified = every host address of its family
	proto uint8
	port  uint16
}

func (k mappingKey) compare(o mappingKey) int {
	return cmp.Or(k.host.Compare(o.host), cmp.Compare(k.proto, o.proto), cmp.Compare(k.port, o.port))
}

// protocols that can be published (RFC 9293, 768, 9260).
const (
	protoTCP  = 6
	protoUDP  = 17
	protoSCTP = 132
)

// mappingMemo is every published port as a service.
type mappingMemo struct {
	made     bool
	loose    []PortMapping
	parts    []*PortPart
	udp      [MaxTunnels]uint16
	was      []PortMapping // of loose and parts
	services []Service
}

// publishedServices makes services of the published ports: each has one backend.
func (c *Compiler) publishedServices(s State) ([]Service, error) {
	m := &c.mappings
	if m.made && len(c.moved) == 0 && m.udp == c.hosts.udp && slices.Equal(m.loose, s.Mappings) && slices.Equal(m.parts, s.PortParts) {
		return m.services, nil
	}
	all := s.AllMappings()
	for i := range all {
		// Also of what did not change: its port may have.
		if err := c.checkMapping(&all[i]); err != nil {
			return nil, invalid("Mappings[%d] (%s): %w", i, all[i].Object, err)
		}
	}
	m.loose, m.parts, m.udp = slices.Clone(s.Mappings), slices.Clone(s.PortParts), c.hosts.udp
	if m.made && slices.Equal(m.was, all) {
		return m.services, nil
	}
	keys := make([]mappingKey, len(all))
	at := map[mappingKey]int{}
	for i := range all {
		pm := &all[i]
		k := mappingKey{host: pm.HostAddr, proto: pm.Proto, port: pm.HostPort}
		if !k.host.IsValid() || k.host.IsUnspecified() {
			k.host = anyAddr(pm.Addr)
		}
		if j, ok := at[k]; ok {
			return nil, invalid("Mappings[%d] (%s): %s %d on %s is also published for %s", i, pm.Object, protoName(k.proto), k.port, k.host, all[j].Object)
		}
		at[k] = i
		keys[i] = k
	}
	for i, k := range keys {
		// As bind(2) sees it: every address includes each single one.
		if j, ok := at[mappingKey{host: anyAddr(k.host), proto: k.proto, port: k.port}]; ok && j != i {
			return nil, invalid("Mappings[%d] (%s): %s %d is published on every address for %s, so not on %s alone", i, all[i].Object,
				protoName(k.proto), k.port, all[j].Object, k.host)
		}
	}
	ids := numbers(keys, mappingKey.compare, mappingHash, uint64(MaxServiceID))
	services := make([]Service, len(keys))
	for i, k := range keys {
		pm := &all[i]
		f := Frontend{Addr: k.host, Port: k.port, Proto: k.proto, Scope: ScopeAll}
		if k.host.IsLoopback() {
			f.Scope = ScopeHost
		}
		services[i] = Service{
			ID: MaxServiceID + ServiceID(ids[i]), Object: pm.Object, Frontends: []Frontend{f},
			Backends: []Backend{{Addr: pm.Addr, Port: pm.AddrPort, At: pm.Port}},
		}
	}
	m.made, m.was, m.services = true, all, services
	return services, nil
}

func (c *Compiler) checkMapping(m *PortMapping) error {
	p := c.ports[m.Port]
	switch {
	case m.Proto != protoTCP && m.Proto != protoUDP && m.Proto != protoSCTP:
		return invalid("Proto %d: only 6 (TCP), 17 (UDP) and 132 (SCTP) have ports", m.Proto)
	case m.HostPort == 0:
		return invalid("HostPort 0: not a port")
	case m.Proto == protoUDP && slices.Contains(c.hosts.udp[:], be16(m.HostPort)):
		return invalid("HostPort %d: the UDP port of a tunnel", m.HostPort)
	case m.AddrPort == 0:
		return invalid("AddrPort 0: not a port")
	case m.Proto == protoSCTP && m.HostPort != m.AddrPort:
		// The checksum is a CRC32c over the whole packet, which programs cannot fix.
		return invalid("AddrPort %d: SCTP ports cannot be translated, it must equal HostPort %d", m.AddrPort, m.HostPort)
	case p == nil:
		return invalid("Port %d: no such port", m.Port)
	case !slices.Contains(p.was.Addrs, m.Addr):
		return invalid("Addr %q: not an address of port %d", m.Addr, m.Port)
	}
	if h := m.HostAddr; h.IsValid() {
		if h.Is4() != m.Addr.Is4() {
			return invalid("HostAddr %q: not of the family of Addr %q", h, m.Addr)
		}
		if !h.IsUnspecified() || h.Zone() != "" {
			if err := checkUnicast(h); err != nil {
				return invalid("HostAddr %w", err)
			}
		}
	}
	return nil
}

// numbers gives each item a number from 1 to limit that depends on the item
// alone, so it survives whatever happens to the others and a restart. Only where
// two items hash alike do the later ones, in order, move to the next free number.
func numbers[T any](items []T, compare func(a, b T) int, hash func(T) uint64, limit uint64) []uint32 {
	out := make([]uint32, len(items))
	used := make(map[uint32]bool, len(items))
	collision := false
	for i, it := range items {
		out[i] = uint32(hash(it)%limit) + 1
		collision = collision || used[out[i]]
		used[out[i]] = true
	}
	if !collision {
		return out
	}
	order := make([]int, len(items))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return compare(items[a], items[b]) })
	clear(used)
	for _, i := range order {
		for used[out[i]] {
			out[i] = uint32(uint64(out[i])%limit) + 1
		}
		used[out[i]] = true
	}
	return out
}

func mappingHash(k mappingKey) uint64 {
	h := fnv.New64a()
	a := k.host.As16()
	h.Write(binary.BigEndian.AppendUint16(append(a[:], k.proto), k.port))
	return h.Sum64()
}

func protoName(p uint8) string {
	switch p {
	case protoTCP:
		return "tcp"
	case protoUDP:
		return "udp"
	case protoSCTP:
		return "sctp"
	}
	return "?"
}
