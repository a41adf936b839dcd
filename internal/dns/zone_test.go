// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package dns

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/network/model"

	"github.com/miekg/dns"
)

func TestFromArpa(t *testing.T) {
	for _, a := range addrs("1.2.3.4", "255.0.0.1", "fd30::5", "2001:db8:1234:5678:9abc:def0:1234:5678") {
		name, err := dns.ReverseAddr(a.String())
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := fromArpa(clean(name)); !ok || got != a {
			t.Errorf("%s: %v %v, want %v", name, got, ok, a)
		}
	}
	for _, bad := range []string{"", "in-addr.arpa", "1.2.3.in-addr.arpa", "300.2.3.4.in-addr.arpa", "x.ip6.arpa",
		strings.Repeat("g.", 32) + "ip6.arpa", strings.Repeat("a-", 31) + "a.ip6.arpa"} {
		if got, ok := fromArpa(bad); ok {
			t.Errorf("%q: %v, want none", bad, got)
		}
	}
}

func TestParseResolvConf(t *testing.T) {
	const text = "nameserver\nnameserver x\n;nameserver 9.9.9.9\nnameserver 192.0.2.1 # one\n" +
		"options edns0\nnameserver fe80::1%eth0\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n"
	got := parseResolvConf(strings.NewReader(text))
	want := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("192.0.2.3")}
	if !slices.Equal(got, want) {
		t.Errorf("servers %v, want %v", got, want)
	}
}

// FuzzAnswer: whatever arrives, an answer of ours fits what the client takes,
// belongs to the question, and can be read.
func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"web", "nobody", "example.com", "5.0.30.172.in-addr.arpa", "a.internal", "."} {
		for _, edns := range []bool{false, true} {
			q := query(name, dns.TypeA)
			if edns {
				q.SetEdns0(512, true)
			}
			b, err := q.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	z := newTables([][]model.NameRecord{names()}, resolvers()).zone("a")
	f.Fuzz(func(t *testing.T, b []byte) {
		q := new(dns.Msg)
		if q.Unpack(b) != nil {
			return
		}
		r, done := z.answer(q)
		if !done {
			if len(q.Question) != 1 {
				t.Fatal("forwarded without one question")
			}
			r = refuse(q, dns.RcodeServerFailure)
		}
		fitTo(r, q, false)
		out, err := r.Pack()
		if err != nil {
			t.Fatalf("answer to %v does not pack: %v", q, err)
		}
		limit := dns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			limit = max(limit, int(opt.UDPSize()))
		}
		if len(out) > limit {
			t.Fatalf("answer of %d bytes, the client takes %d", len(out), limit)
		}
		back := new(dns.Msg)
		if err := back.Unpack(out); err != nil {
			t.Fatalf("answer does not unpack: %v", err)
		}
		if !back.Response || back.Id != q.Id {
			t.Fatalf("answer %v to %v", back, q)
		}
	})
}
