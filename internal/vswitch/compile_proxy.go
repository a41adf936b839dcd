// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"iter"
	"net/netip"
	"slices"
)

// Proxy redirects what a port begins by Proto (6 or 17) with a destination in Prefix,
// whatever its destination port and before any service: to To, from which answers
// come back as from who was asked. Of several prefixes the longest decides.
type Proxy struct {
	Proto  uint8
	Prefix netip.Prefix
	To     netip.AddrPort // invalid = left alone
	// SNAT: a proxy of the network or of this host sees an address of the switch
	// instead of the endpoint's.
	SNAT bool
}

// proxyTo is a proxy as one port asks it: a service with one backend and no frontend.
type proxyTo struct {
	port  PortID
	proto uint8
	to    netip.AddrPort
	snat  bool
}

func (p proxyTo) compare(o proxyTo) int {
	return cmp.Or(cmp.Compare(p.port, o.port), cmp.Compare(p.proto, o.proto), p.to.Compare(o.to), cmp.Compare(p.bits(), o.bits()))
}

func (p proxyTo) bits() uint8 {
	if p.snat {
		return 1
	}
	return 0
}

func (p proxyTo) hash() uint64 {
	h := fnv.New64a()
	a := p.to.Addr().As16()
	b := binary.BigEndian.AppendUint16(append(a[:], p.proto, p.bits()), p.to.Port())
	h.Write(binary.BigEndian.AppendUint16(b, uint16(p.port)))
	return h.Sum64()
}

// portProxies are the proxies that ports ask, with the prefixes for which they do.
func portProxies(ports iter.Seq2[int, *Port]) (keys []proxyTo, prefixes map[proxyTo][]netip.Prefix) {
	for _, p := range ports {
		for _, x := range p.Proxies {
			if !x.To.IsValid() {
				continue
			}
			if prefixes == nil {
				prefixes = map[proxyTo][]netip.Prefix{}
			}
			k := proxyTo{p.ID, x.Proto, x.To, x.SNAT}
			if prefixes[k] == nil {
				keys = append(keys, k)
			}
			prefixes[k] = append(prefixes[k], x.Prefix)
		}
	}
	return keys, prefixes
}

// proxyServices makes services of the proxies of ports. Their numbers are where those
// of published ports are, of which none may be theirs.
func proxyServices(ports iter.Seq2[int, *Port], taken []Service) []Service {
	keys, prefixes := portProxies(ports)
	if len(keys) == 0 {
		return nil
	}
	used := map[ServiceID]bool{}
	for i := range taken {
		used[taken[i].ID] = true
	}
	services := make([]Service, len(keys))
	slices.SortFunc(keys, proxyTo.compare)
	for i, k := range keys {
		id := uint32(k.hash()%uint64(MaxServiceID)) + 1
		for used[MaxServiceID+ServiceID(id)] {
			id = uint32(uint64(id)%uint64(MaxServiceID)) + 1
		}
		s := &services[i]
		s.ID, s.Name, s.Backends = MaxServiceID+ServiceID(id), "proxy "+k.to.String(), []Backend{{Addr: k.to.Addr(), Port: k.to.Port()}}
		s.proxy, s.redirects = k, prefixes[k]
		used[s.ID] = true
	}
	return services
}

// addProxy adds the rows by which a port asks its proxy.
func (b *block) addProxy(s *Service, row SvcRow) {
	if s.proxy.snat {
		row.Flags |= uint16(svcSNAT)
	}
	for _, p := range s.redirects {
		b.proxy = append(b.proxy, Entry[ProxyKey, SvcRow]{proxyKey(s.proxy.port, s.proxy.proto, p), row})
	}
	b.epochPorts = []PortID{s.proxy.port}
}

// leftAlone adds the rows of what a port's proxies do not get.
func (b *block) leftAlone(p *Port) {
	for _, x := range p.Proxies {
		if !x.To.IsValid() {
			b.proxy = append(b.proxy, Entry[ProxyKey, SvcRow]{proxyKey(p.ID, x.Proto, x.Prefix), SvcRow{}})
		}
	}
}

func proxyKey(port PortID, proto uint8, p netip.Prefix) (k ProxyKey) {
	k.Prefixlen, k.Port, k.Proto, k.Fam, k.Addr.B = prefixLen(p), uint16(port), proto, family(p.Addr()), p.Addr().As16()
	return k
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return 4
	}
	return 6
}

func checkProxies(p *Port) error {
	for i, x := range p.Proxies {
		q := x.Prefix
		switch {
		case p.Kind == PortHost:
			return invalid("Proxies: are for endpoints")
		case x.Proto != protoTCP && x.Proto != protoUDP:
			return invalid("Proxies[%d].Proto %d: only 6 (TCP) and 17 (UDP) can be redirected", i, x.Proto)
		case !q.IsValid() || q.Addr().Is4In6() || q.Addr().Zone() != "":
			return invalid("Proxies[%d].Prefix %q: not a prefix", i, q)
		case q != q.Masked():
			return invalid("Proxies[%d].Prefix %q: has bits below its length; %q is meant", i, q, q.Masked())
		case slices.ContainsFunc(p.Proxies[:i], func(o Proxy) bool { return o.Proto == x.Proto && o.Prefix == q }):
			return invalid("Proxies[%d].Prefix %q: has two proxies", i, q)
		case !x.To.IsValid():
			continue
		case x.To.Port() == 0:
			return invalid("Proxies[%d].To: port 0 is not one", i)
		case x.To.Addr().Is4() != q.Addr().Is4():
			return invalid("Proxies[%d].To %s: not of the family of %q", i, x.To.Addr(), q)
		}
		if err := checkUnicast(x.To.Addr()); err != nil {
			return invalid("Proxies[%d].To %w", i, err)
		}
	}
	return nil
}
