// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package dns

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"

	"gatehouse.dev/gatehouse/internal/network/model"
)

// ttl in seconds of our own answers, negative ones included. Containers come and
// go; five seconds keep a busy client from asking for every connection.
const ttl = 5

// tables is everything that is answered, by network.
type tables struct {
	build func() map[string]*zone
}

// newTables does the work at the first question: a burst of changes costs one.
func newTables(names [][]model.NameRecord, resolvers []model.Resolver) *tables {
	return &tables{build: sync.OnceValue(func() map[string]*zone {
		zones := make(map[string]*zone, len(resolvers))
		for _, r := range resolvers {
			zones[r.Network] = &zone{
				domain: clean(r.Domain), clients: r.Clients, upstream: r.Upstream,
				addrs: map[string][]netip.Addr{}, names: map[netip.Addr]string{},
			}
		}
		every := &zone{addrs: map[string][]netip.Addr{}, names: map[netip.Addr]string{}}
		for _, n := range slices.Concat(names...) {
			if n.Network == "" {
				every.add(n)
			} else if z := zones[n.Network]; z != nil {
				z.add(n)
			}
		}
		for _, z := range zones {
			z.every = every
		}
		return zones
	})}
}

// zone never returns nil: a network without a resolver knows no names.
func (t *tables) zone(network string) *zone {
	if z := t.build()[network]; z != nil {
		return z
	}
	return &zone{}
}

// zone is what one network's resolver knows. Names are lower case without the
// final dot.
type zone struct {
	domain   string
	clients  []netip.Prefix
	upstream []netip.Addr
	addrs    map[string][]netip.Addr
	names    map[netip.Addr]string // the first name of each address
	aliases  map[string]string
	servers  map[string][]model.Server
	every    *zone // names of all networks, services among them: they come first; nil = none
}

// serves says whether a source at a listener's address is answered: the network's
// own clients and this host, whose questions to an address of its own come from
// that very address or from loopback.
func (z *zone) serves(source, at netip.Addr) bool {
	source = source.Unmap().WithZone("")
	if source == at || source.IsLoopback() {
		return true
	}
	for _, p := range z.clients {
		if p.Contains(source) {
			return true
		}
	}
	return false
}

func clean(name string) string { return strings.ToLower(strings.Trim(name, ".")) }

func (z *zone) add(n model.NameRecord) {
	name := clean(n.Name)
	if name == "" {
		return
	}
	switch {
	case n.Alias != "":
		z.aliases = put(z.aliases, name, clean(n.Alias))
		return
	case len(n.Servers) > 0:
		z.servers = put(z.servers, name, n.Servers)
	}
	for _, a := range n.Addrs {
		a = a.Unmap()
		z.addrs[name] = append(z.addrs[name], a)
		if _, has := z.names[a]; !has {
			z.names[a] = z.qualify(name)
		}
	}
	if len(n.Addrs) == 0 && z.addrs[name] == nil {
		z.addrs[name] = []netip.Addr{}
	}
}

func (z *zone) qualify(name string) string {
	if z.domain == "" || name == z.domain || strings.HasSuffix(name, "."+z.domain) {
		return name
	}
	return name + "." + z.domain
}

func put[V any](m map[string]V, k string, v V) map[string]V {
	if m == nil {
		m = map[string]V{}
	}
	m[k] = v
	return m
}

// entry is what there is under a name.
type entry struct {
	addrs   []netip.Addr
	servers []model.Server
	alias   string
}

// lookup finds a name as it stands or below the network's domain.
func (z *zone) lookup(name string) (entry, bool) {
	short, below := strings.CutSuffix(name, "."+z.domain)
	below = below && z.domain != ""
	for _, from := range []*zone{z.every, z} {
		if from == nil {
			continue
		}
		if e, ok := from.entry(name); ok {
			return e, true
		}
		if e, ok := from.entry(short); ok && below {
			return e, true
		}
	}
	return entry{}, false
}

func (z *zone) entry(name string) (entry, bool) {
	if to, ok := z.aliases[name]; ok {
		return entry{alias: to}, true
	}
	a, ok := z.addrs[name]
	return entry{addrs: a, servers: z.servers[name]}, ok
}

// unknownPort: the name of a service after labels of a port (_web._tcp) that it has not.
func (z *zone) unknownPort(name string) bool {
	under := false
	for strings.HasPrefix(name, "_") {
		_, name, _ = strings.Cut(name, ".")
		under = true
	}
	_, known := z.lookup(name)
	return under && known
}

// answer returns what we can say ourselves; done is false when the question is
// for somebody else. The server has seen to it that there is one question.
func (z *zone) answer(q *dns.Msg) (r *dns.Msg, done bool) {
	if len(q.Question) != 1 || q.Response {
		return refuse(q, dns.RcodeFormatError), true
	}
	if q.Opcode != dns.OpcodeQuery {
		return refuse(q, dns.RcodeNotImplemented), true
	}
	if opt := q.IsEdns0(); opt != nil && opt.Version() != 0 {
		return refuse(q, dns.RcodeBadVers), true
	}
	ask := q.Question[0]
	if ask.Qclass != dns.ClassINET || ask.Qtype == dns.TypeAXFR || ask.Qtype == dns.TypeIXFR {
		return refuse(q, dns.RcodeRefused), true
	}
	name := clean(ask.Name)
	if addr, ok := fromArpa(name); ok {
		if to, known := z.names[addr]; known {
			return z.reverse(q, to), true
		}
		if z.every != nil {
			if to, known := z.every.names[addr]; known {
				return z.reverse(q, z.qualify(to)), true
			}
		}
		return nil, false
	}
	if e, ok := z.lookup(name); ok {
		if e.alias != "" {
			return z.aliased(q, e.alias), true
		}
		return z.forward(q, e), true
	}
	switch {
	case name == "localhost" || strings.HasSuffix(name, ".localhost"): // RFC 6761 section 6.3
		return z.forward(q, entry{addrs: []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}}), true
	case z.unknownPort(name):
		return z.nothing(q, dns.RcodeNameError), true
	case z.domain != "" && name == z.domain:
		return z.nothing(q, dns.RcodeSuccess), true
	case z.domain != "" && strings.HasSuffix(name, "."+z.domain):
		return z.nothing(q, dns.RcodeNameError), true
	case name != "" && !strings.Contains(name, ".") && isHostType(ask.Qtype):
		return z.nothing(q, dns.RcodeNameError), true
	}
	return nil, false
}

// isHostType: of a single label, what a validating resolver asks about top-level
// domains goes out.
func isHostType(t uint16) bool {
	switch t {
	case dns.TypeNS, dns.TypeDS, dns.TypeDNSKEY, dns.TypeSOA:
		return false
	}
	return true
}

func (z *zone) forward(q *dns.Msg, e entry) *dns.Msg {
	ask := q.Question[0]
	r := z.nothing(q, dns.RcodeSuccess)
	rrs := addresses(ask.Name, ask.Qtype, e.addrs)
	if ask.Qtype == dns.TypeSRV || ask.Qtype == dns.TypeANY {
		// Targets stand where the question does: below the domain if it was, else alone.
		suffix := "."
		if z.domain != "" && strings.HasSuffix(clean(ask.Name), "."+z.domain) {
			suffix = "." + z.domain + "."
		}
		for _, s := range e.servers {
			rrs = append(rrs, &dns.SRV{Hdr: header(ask.Name, dns.TypeSRV), Weight: 1, Port: s.Port, Target: s.Target + suffix})
			if to, ok := z.lookup(s.Target); ok {
				r.Extra = append(r.Extra, addresses(s.Target+suffix, dns.TypeANY, to.addrs)...)
			}
		}
	}
	if len(rrs) > 0 {
		rand.Shuffle(len(rrs), func(i, j int) { rrs[i], rrs[j] = rrs[j], rrs[i] })
		r.Answer, r.Ns = rrs, nil
	}
	return r
}

// addresses are the records of a type, or of any.
func addresses(name string, qtype uint16, addrs []netip.Addr) (rrs []dns.RR) {
	for _, a := range addrs {
		switch {
		case a.Is4() && (qtype == dns.TypeA || qtype == dns.TypeANY):
			rrs = append(rrs, &dns.A{Hdr: header(name, dns.TypeA), A: a.AsSlice()})
		case a.Is6() && (qtype == dns.TypeAAAA || qtype == dns.TypeANY):
			rrs = append(rrs, &dns.AAAA{Hdr: header(name, dns.TypeAAAA), AAAA: a.AsSlice()})
		}
	}
	return rrs
}

// aliased is the alias alone; complete adds what it leads to.
func (z *zone) aliased(q *dns.Msg, to string) *dns.Msg {
	ask := q.Question[0]
	r := z.nothing(q, dns.RcodeSuccess)
	r.Answer, r.Ns = []dns.RR{&dns.CNAME{Hdr: header(ask.Name, dns.TypeCNAME), Target: to + "."}}, nil
	return r
}

// next is the question that an answer which ends in an alias leaves open, since clients
// do not ask again themselves; nil = none.
func next(r, q *dns.Msg) *dns.Msg {
	ask := q.Question[0]
	if len(r.Answer) == 0 || ask.Qtype == dns.TypeCNAME || ask.Qtype == dns.TypeANY {
		return nil
	}
	to, ok := r.Answer[len(r.Answer)-1].(*dns.CNAME)
	if !ok {
		return nil
	}
	n := q.Copy()
	n.Question[0].Name = to.Target
	return n
}

func (z *zone) reverse(q *dns.Msg, to string) *dns.Msg {
	ask := q.Question[0]
	r := z.nothing(q, dns.RcodeSuccess)
	if ask.Qtype == dns.TypePTR || ask.Qtype == dns.TypeANY {
		r.Answer, r.Ns = []dns.RR{&dns.PTR{Hdr: header(ask.Name, dns.TypePTR), Ptr: to + "."}}, nil
	}
	return r
}

// nothing is a negative answer, or one to be filled. Its SOA says how long the
// absence may be remembered (RFC 2308).
func (z *zone) nothing(q *dns.Msg, rcode int) *dns.Msg {
	r := refuse(q, rcode)
	r.Authoritative = true
	apex := q.Question[0].Name
	if z.domain != "" && strings.HasSuffix("."+clean(apex), "."+z.domain) {
		apex = z.domain + "."
	}
	r.Ns = []dns.RR{&dns.SOA{
		Hdr: header(apex, dns.TypeSOA), Ns: apex, Mbox: "nobody.invalid.",
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttl,
	}}
	return r
}

// refuse is an answer without content, with EDNS when the question had it.
func refuse(q *dns.Msg, rcode int) *dns.Msg {
	r := new(dns.Msg)
	r.SetRcode(q, rcode)
	r.Opcode = q.Opcode
	r.RecursionAvailable = true
	if opt := q.IsEdns0(); opt != nil {
		r.SetEdns0(ednsSize, opt.Do())
	}
	return r
}

func header(name string, t uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: ttl}
}

// fromArpa reads 4.3.2.1.in-addr.arpa and its IPv6 like.
func fromArpa(name string) (netip.Addr, bool) {
	if s, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		p := strings.Split(s, ".")
		if len(p) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(p[3] + "." + p[2] + "." + p[1] + "." + p[0])
		return a, err == nil
	}
	s, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(s) != 63 { // 32 digits and 31 dots
		return netip.Addr{}, false
	}
	var b [16]byte
	for i := range 32 {
		if i > 0 && s[2*i-1] != '.' {
			return netip.Addr{}, false
		}
		d := strings.IndexByte("0123456789abcdef", s[2*i])
		if d < 0 {
			return netip.Addr{}, false
		}
		b[15-i/2] |= byte(d) << (4 * (i % 2))
	}
	return netip.AddrFrom16(b), true
}
