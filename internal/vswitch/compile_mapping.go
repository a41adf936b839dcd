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

// mappingMemo is every published port as compiled last. They are few and cheap,
// so a change of any remakes their numbers, and then only blocks that differ.
type mappingMemo struct {
	was     []PortMapping
	targets []*block // of each target port
	nat     []natRange
}

func (c *Compiler) compileMappings(s State, _ Facts, t *Tables) error {
	m := &c.mappings
	targets := make([]*block, len(s.Mappings))
	for i := range s.Mappings {
		if p := c.ports[s.Mappings[i].Port]; p != nil {
			targets[i] = p.block
		}
	}
	if slices.Equal(m.was, s.Mappings) && slices.Equal(m.targets, targets) && slices.Equal(m.nat, c.pools.nat) {
		return nil
	}

	keys := make([]mappingKey, len(s.Mappings))
	at := map[mappingKey]int{}
	for i := range s.Mappings {
		pm := &s.Mappings[i]
		if err := c.checkMapping(pm); err != nil {
			return invalid("Mappings[%d] (%s): %w", i, pm.Object, err)
		}
		k := mappingKey{host: pm.HostAddr, proto: pm.Proto, port: pm.HostPort}
		if !k.host.IsValid() || k.host.IsUnspecified() {
			k.host = anyAddr(pm.Addr)
		}
		if j, ok := at[k]; ok {
			return invalid("Mappings[%d] (%s): %s %d on %s is also published for %s", i, pm.Object, protoName(k.proto), k.port, k.host, s.Mappings[j].Object)
		}
		at[k] = i
		keys[i] = k
	}
	for i, k := range keys {
		// As bind(2) sees it: every address includes each single one.
		if j, ok := at[mappingKey{host: anyAddr(k.host), proto: k.proto, port: k.port}]; ok && j != i {
			return invalid("Mappings[%d] (%s): %s %d is published on every address for %s, so not on %s alone", i, s.Mappings[i].Object,
				protoName(k.proto), k.port, s.Mappings[j].Object, k.host)
		}
	}

	services := numbers(keys, mappingKey.compare, serviceHash, 1<<32-1)
	type target struct {
		mappingKey
		backend BackendRow
	}
	wanted := make([]target, len(keys))
	for i, k := range keys {
		pm := &s.Mappings[i]
		wanted[i] = target{k, backendRow(pm.Addr, pm.AddrPort, pm.Port, c.ports[pm.Port].net.zone)}
	}
	backends := numbers(wanted, func(a, b target) int { return a.compare(b.mappingKey) }, func(w target) uint64 {
		return backendHash(w.mappingKey, w.backend)
	}, MaxBackends-1)

	shared := true
	for i, k := range keys {
		b := mappingBlock(k, services[i], backends[i], wanted[i].backend, c.pools.nat)
		port := c.ports[s.Mappings[i].Port]
		b.epochPorts, b.epochNets = []PortID{port.was.ID}, []NetworkID{port.net.id}
		if old := t.mappings[k]; old == nil || !old.equal(&b.rows) {
			t.mappings = with(t.mappings, &shared, k, b)
		}
	}
	for k := range t.mappings {
		if _, ok := at[k]; !ok {
			t.mappings = with(t.mappings, &shared, k, nil)
		}
	}
	t.SocketHooks = len(keys) > 0
	*m = mappingMemo{was: slices.Clone(s.Mappings), targets: targets, nat: c.pools.nat}
	return nil
}

func mappingBlock(k mappingKey, service, backend uint32, row BackendRow, nat []natRange) *block {
	b := &block{}
	b.svc = []Entry[SvcKey, SvcRow]{{svcKey(k), SvcRow{Id: service, Count: 1}}}
	b.slot = []Entry[SlotKey, uint32]{{SlotKey{Svc: service}, backend}}
	b.backend = []Entry[uint32, BackendRow]{{backend, row}}
	// Outbound NAT must not take a port that is published on its address.
	b.busy = busyRows(nat, k.host, k.port, k.proto)
	return b
}

func (c *Compiler) checkMapping(m *PortMapping) error {
	p := c.ports[m.Port]
	switch {
	case m.Proto != protoTCP && m.Proto != protoUDP && m.Proto != protoSCTP:
		return invalid("Proto %d: only 6 (TCP), 17 (UDP) and 132 (SCTP) have ports", m.Proto)
	case m.HostPort == 0:
		return invalid("HostPort 0: not a port")
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

func serviceHash(k mappingKey) uint64 { return mix(hashKey(k)) }

func backendHash(k mappingKey, r BackendRow) uint64 {
	h := fnv.New64a()
	b := hashKey(k)
	b = append(b, r.Addr.B[:]...)
	b = binary.BigEndian.AppendUint16(b, r.PortBe)
	b = binary.BigEndian.AppendUint16(b, r.Port)
	b = binary.BigEndian.AppendUint16(b, r.Zone)
	h.Write(b)
	return h.Sum64()
}

func hashKey(k mappingKey) []byte {
	a := k.host.As16()
	b := append(make([]byte, 0, 48), a[:]...)
	return binary.BigEndian.AppendUint16(append(b, k.proto), k.port)
}

func mix(b []byte) uint64 {
	h := fnv.New64a()
	h.Write(b)
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
