// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package dns

import (
	"math/rand/v2"
	"net/netip"
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
func newTables(names []model.NameRecord, resolvers []model.Resolver) *tables {
	return &tables{build: sync.OnceValue(func() map[string]*zone {
		zones := make(map[string]*zone, len(resolvers))
		for _, r := range resolvers {
			zones[r.Network] = &zone{
				domain: clean(r.Domain), clients: r.Clients, upstream: r.Upstream,
				addrs: map[string][]netip.Addr{}, names: map[netip.Addr]string{},
			}
		}
		for _, n := range names {
			if z := zones[n.Network]; z != nil {
				z.add(n)
			}
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

// lookup finds a name as it stands or below the network's domain.
func (z *zone) lookup(name string) ([]netip.Addr, bool) {
	if a, ok := z.addrs[name]; ok {
		return a, true
	}
	if z.domain == "" {
		return nil, false
	}
	short, below := strings.CutSuffix(name, "."+z.domain)
	if !below {
		return nil, false
	}
	a, ok := z.addrs[short]
	return a, ok
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
		return nil, false
	}
	if addrs, ok := z.lookup(name); ok {
		return z.forward(q, addrs), true
	}
	switch {
	case name == "localhost" || strings.HasSuffix(name, ".localhost"): // RFC 6761 section 6.3
		return z.forward(q, []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}), true
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

func (z *zone) forward(q *dns.Msg, addrs []netip.Addr) *dns.Msg {
	ask := q.Question[0]
	r := z.nothing(q, dns.RcodeSuccess)
	var rrs []dns.RR
	for _, a := range addrs {
		switch {
		case a.Is4() && (ask.Qtype == dns.TypeA || ask.Qtype == dns.TypeANY):
			rrs = append(rrs, &dns.A{Hdr: header(ask.Name, dns.TypeA), A: a.AsSlice()})
		case a.Is6() && (ask.Qtype == dns.TypeAAAA || ask.Qtype == dns.TypeANY):
			rrs = append(rrs, &dns.AAAA{Hdr: header(ask.Name, dns.TypeAAAA), AAAA: a.AsSlice()})
		}
	}
	if len(rrs) > 0 {
		rand.Shuffle(len(rrs), func(i, j int) { rrs[i], rrs[j] = rrs[j], rrs[i] })
		r.Answer, r.Ns = rrs, nil
	}
	return r
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
