// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package dns

import (
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"gatehouse.dev/gatehouse/internal/network/model"
)

// TestServiceNames: names of every network, before a network's own; aliases followed
// inside and outside; servers with their addresses.
func TestServiceNames(t *testing.T) {
	s := newServer(t)
	newUpstream(t, upstream1, func(r, q *dns.Msg, _ bool) {
		if q.Question[0].Name != "example.com." {
			t.Errorf("asked outside: %v", q.Question)
		}
		answerA(r, q, false)
	})
	s.Set([][]model.NameRecord{names(), {
		{Name: "web", Addrs: addrs("10.96.0.9", "fd96::9")},
		{Name: "_http._tcp.web", Servers: []model.Server{{Target: "web", Port: 80}}},
		{Name: "far", Alias: "example.com"},
		{Name: "near", Alias: "web"},
		{Name: "round", Alias: "about"},
		{Name: "about", Alias: "round"},
		{Name: "empty"},
	}}, resolvers(upstream1))
	for _, c := range []struct {
		name  string
		qtype uint16
		rcode int
		want  []string
		extra int
	}{
		{"web", dns.TypeA, dns.RcodeSuccess, []string{"A 10.96.0.9"}, 0},
		{"WEB.a.internal", dns.TypeAAAA, dns.RcodeSuccess, []string{"AAAA fd96::9"}, 0},
		{"_http._tcp.web", dns.TypeSRV, dns.RcodeSuccess, []string{"SRV web."}, 2},
		{"_http._tcp.web.a.internal", dns.TypeSRV, dns.RcodeSuccess, []string{"SRV web.a.internal."}, 2},
		{"_http._tcp.web", dns.TypeA, dns.RcodeSuccess, nil, 0},
		{"_ftp._tcp.web", dns.TypeSRV, dns.RcodeNameError, nil, 0},
		{"far", dns.TypeA, dns.RcodeSuccess, []string{"A 192.0.2.7", "CNAME example.com."}, 0},
		{"far.a.internal", dns.TypeCNAME, dns.RcodeSuccess, []string{"CNAME example.com."}, 0},
		{"near", dns.TypeA, dns.RcodeSuccess, []string{"A 10.96.0.9", "CNAME web."}, 0},
		{"round", dns.TypeA, dns.RcodeServerFailure, nil, 0},
		{"empty", dns.TypeA, dns.RcodeSuccess, nil, 0},
		{"9.0.96.10.in-addr.arpa", dns.TypePTR, dns.RcodeSuccess, []string{"PTR web.a.internal."}, 0},
		{"only4", dns.TypeA, dns.RcodeSuccess, []string{"A 172.30.0.7"}, 0},
	} {
		r := exchangeAt(t, "udp", gwA, query(c.name, c.qtype))
		if got := texts(r); r.Rcode != c.rcode || !slices.Equal(got, c.want) || len(r.Extra) != c.extra {
			t.Errorf("%s %s: %s %v and %v, want %s %v", c.name, dns.TypeToString[c.qtype], dns.RcodeToString[r.Rcode], got, r.Extra, dns.RcodeToString[c.rcode], c.want)
		}
		for _, rr := range r.Answer {
			if !strings.EqualFold(rr.Header().Name, dns.Fqdn(c.name)) && rr.Header().Rrtype != dns.TypeA {
				t.Errorf("%s: an answer about %s", c.name, rr.Header().Name)
			}
		}
	}
}
