// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/network/model"
)

// The tests have a network namespace of their own, where every 127.0.0.0/8
// address and port 53 are free.
func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

var (
	gwA, gwB         = netip.MustParseAddr("127.0.1.1"), netip.MustParseAddr("127.0.2.1")
	upstream1, deadU = netip.MustParseAddr("127.0.9.1"), netip.MustParseAddr("127.0.9.99")
)

func addrs(s ...string) []netip.Addr {
	var all []netip.Addr
	for _, a := range s {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}

func names() []model.NameRecord {
	return []model.NameRecord{
		{Network: "a", Name: "web", Addrs: addrs("172.30.0.5", "fd30::5")},
		{Network: "a", Name: "alias", Addrs: addrs("172.30.0.5", "172.30.0.6")},
		{Network: "a", Name: "only4", Addrs: addrs("172.30.0.7")},
		{Network: "b", Name: "web", Addrs: addrs("172.31.0.9")},
	}
}

func resolvers(up ...netip.Addr) []model.Resolver {
	return []model.Resolver{
		{Network: "a", Listen: []netip.Addr{gwA}, Domain: "a.internal", Upstream: up},
		{Network: "b", Listen: []netip.Addr{gwB}, Upstream: up},
	}
}

func newServer(t testing.TB) *Server {
	t.Helper()
	nettest.RequireRoot(t)
	nettest.CheckLeaks(t, nettest.LeakOptions{Fds: true})
	s := New(Options{ResolvConf: t.TempDir() + "/resolv.conf"})
	t.Cleanup(func() { s.Close() })
	return s
}

// fakeUpstream is a real DNS server with one rule.
type fakeUpstream struct {
	udp, tcp atomic.Int64
}

func newUpstream(t testing.TB, addr netip.Addr, rule func(r, q *dns.Msg, overTCP bool)) *fakeUpstream {
	t.Helper()
	u := &fakeUpstream{}
	at := netip.AddrPortFrom(addr, 53).String()
	pc, err := net.ListenPacket("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	handler := func(n *atomic.Int64, overTCP bool) dns.Handler {
		return dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			n.Add(1)
			r := new(dns.Msg)
			r.SetReply(q)
			rule(r, q, overTCP)
			w.WriteMsg(r)
		})
	}
	var wg sync.WaitGroup
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: handler(&u.udp, false)}, {Listener: l, Handler: handler(&u.tcp, true)}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		wg.Go(func() { _ = s.ActivateAndServe() })
		<-started
		t.Cleanup(func() { s.Shutdown() })
	}
	t.Cleanup(func() { pc.Close(); l.Close(); wg.Wait() })
	return u
}

// answerA gives every name the same address.
func answerA(r, q *dns.Msg, _ bool) {
	r.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IP{192, 0, 2, 7}}}
	if opt := q.IsEdns0(); opt != nil {
		r.SetEdns0(4096, opt.Do())
	}
}

func query(name string, t uint16) *dns.Msg {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), t)
	return q
}

func exchangeAt(t testing.TB, network string, at netip.Addr, q *dns.Msg) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: network, Timeout: 5 * time.Second, UDPSize: 0}
	r, _, err := c.Exchange(q, netip.AddrPortFrom(at, 53).String())
	if err != nil {
		t.Fatalf("ask %s %v at %s: %v", network, q.Question, at, err)
	}
	return r
}

func texts(r *dns.Msg) []string {
	var all []string
	for _, rr := range r.Answer {
		f := strings.Fields(rr.String())
		all = append(all, f[3]+" "+f[len(f)-1])
	}
	slices.Sort(all)
	return all
}

func TestAnswers(t *testing.T) {
	s := newServer(t)
	newUpstream(t, upstream1, answerA)
	s.Set([][]model.NameRecord{names()}, resolvers(upstream1))
	for _, c := range []struct {
		at    netip.Addr
		name  string
		qtype uint16
		rcode int
		want  string // answers, sorted, joined by commas
	}{
		{gwA, "web", dns.TypeA, dns.RcodeSuccess, "A 172.30.0.5"},
		{gwA, "WEB", dns.TypeAAAA, dns.RcodeSuccess, "AAAA fd30::5"},
		{gwA, "web", dns.TypeANY, dns.RcodeSuccess, "A 172.30.0.5,AAAA fd30::5"},
		{gwA, "web.a.internal", dns.TypeA, dns.RcodeSuccess, "A 172.30.0.5"},
		{gwA, "alias", dns.TypeA, dns.RcodeSuccess, "A 172.30.0.5,A 172.30.0.6"},
		{gwB, "web", dns.TypeA, dns.RcodeSuccess, "A 172.31.0.9"},
		{gwA, "only4", dns.TypeAAAA, dns.RcodeSuccess, ""},
		{gwA, "web", dns.TypeMX, dns.RcodeSuccess, ""},
		{gwB, "alias", dns.TypeA, dns.RcodeNameError, ""},
		{gwA, "nobody", dns.TypeA, dns.RcodeNameError, ""},
		{gwA, "nobody.a.internal", dns.TypeA, dns.RcodeNameError, ""},
		{gwA, "a.internal", dns.TypeA, dns.RcodeSuccess, ""},
		{gwA, "localhost", dns.TypeA, dns.RcodeSuccess, "A 127.0.0.1"},
		{gwA, "5.0.30.172.in-addr.arpa", dns.TypePTR, dns.RcodeSuccess, "PTR web.a.internal."},
		{gwA, "5.0.30.172.in-addr.arpa", dns.TypeA, dns.RcodeSuccess, ""},
		{gwB, "9.0.31.172.in-addr.arpa", dns.TypePTR, dns.RcodeSuccess, "PTR web."},
		{gwA, "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.d.f.ip6.arpa", dns.TypePTR, dns.RcodeSuccess, "PTR web.a.internal."},
		{gwA, "example.com", dns.TypeA, dns.RcodeSuccess, "A 192.0.2.7"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			r := exchangeAt(t, network, c.at, query(c.name, c.qtype))
			if got := strings.Join(texts(r), ","); r.Rcode != c.rcode || got != c.want {
				t.Errorf("%s %s %s at %s: %s %q, want %s %q", network, c.name, dns.TypeToString[c.qtype], c.at,
					dns.RcodeToString[r.Rcode], got, dns.RcodeToString[c.rcode], c.want)
			}
			if !r.RecursionAvailable && c.name != "example.com" {
				t.Errorf("%s %s: recursion not said to be available", network, c.name)
			}
			if len(r.Answer) == 0 && len(r.Ns) != 1 {
				t.Errorf("%s %s: negative answer without SOA", network, c.name)
			}
			for _, rr := range r.Answer {
				if c.name != "example.com" && rr.Header().Ttl != ttl {
					t.Errorf("%s %s: TTL %d, want %d", network, c.name, rr.Header().Ttl, ttl)
				}
			}
		}
	}
}

func TestUnknownLabelStaysInside(t *testing.T) {
	s := newServer(t)
	u := newUpstream(t, upstream1, answerA)
	s.Set([][]model.NameRecord{names()}, resolvers(upstream1))
	exchangeAt(t, "udp", gwA, query("nobody", dns.TypeA))
	exchangeAt(t, "udp", gwA, query("nobody.a.internal", dns.TypeA))
	exchangeAt(t, "udp", gwA, query("web", dns.TypeAAAA))
	if n := u.udp.Load(); n != 0 {
		t.Errorf("%d questions went outside, want 0", n)
	}
}

func TestSetSwaps(t *testing.T) {
	s := newServer(t)
	s.Set([][]model.NameRecord{names()}, resolvers())
	if got := texts(exchangeAt(t, "udp", gwA, query("web", dns.TypeA))); !slices.Equal(got, []string{"A 172.30.0.5"}) {
		t.Fatalf("before: %v", got)
	}
	s.Set([][]model.NameRecord{{{Network: "a", Name: "web", Addrs: addrs("172.30.0.99")}}}, resolvers()[:1])
	if got := texts(exchangeAt(t, "udp", gwA, query("web", dns.TypeA))); !slices.Equal(got, []string{"A 172.30.0.99"}) {
		t.Errorf("after: %v", got)
	}
	if got := s.Listening(); !slices.Equal(got, []netip.Addr{gwA}) {
		t.Errorf("listening at %v, want %v", got, gwA)
	}
	eventually(t, "the removed network's address still answers", func() bool {
		c, err := net.ListenPacket("udp", "127.0.2.1:53")
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func TestWaitsForAddress(t *testing.T) {
	s := newServer(t)
	gw := netip.MustParseAddr("10.99.0.1")
	s.Set([][]model.NameRecord{{{Network: "a", Name: "web", Addrs: addrs("10.99.0.2")}}},
		[]model.Resolver{{Network: "a", Listen: []netip.Addr{gw}}})
	if got := s.Listening(); len(got) != 0 {
		t.Fatalf("listening at %v before the address is there", got)
	}
	host := nettest.Host(t)
	host.Addr("lo", "10.99.0.1/32")
	t.Cleanup(func() { host.Exec("ip", "address", "del", "10.99.0.1/32", "dev", "lo") })
	eventually(t, "does not listen after its address came", func() bool { return len(s.Listening()) == 1 })
	if got := texts(exchangeAt(t, "udp", gw, query("web", dns.TypeA))); !slices.Equal(got, []string{"A 10.99.0.2"}) {
		t.Errorf("answer %v", got)
	}
}

func TestUpstreamFailsOver(t *testing.T) {
	s := newServer(t)
	broken := netip.MustParseAddr("127.0.9.2")
	newUpstream(t, upstream1, answerA)
	newUpstream(t, broken, func(r, _ *dns.Msg, _ bool) { r.Rcode = dns.RcodeServerFailure })
	s.Set([][]model.NameRecord{names()}, resolvers(deadU, broken, upstream1))
	for _, network := range []string{"udp", "tcp"} {
		if got := texts(exchangeAt(t, network, gwA, query("example.com", dns.TypeA))); !slices.Equal(got, []string{"A 192.0.2.7"}) {
			t.Errorf("%s: answer %v", network, got)
		}
	}
	s.Set([][]model.NameRecord{names()}, resolvers(deadU, broken))
	if r := exchangeAt(t, "udp", gwA, query("example.com", dns.TypeA)); r.Rcode != dns.RcodeServerFailure {
		t.Errorf("all fail: %s, want SERVFAIL", dns.RcodeToString[r.Rcode])
	}
}

func TestUpstreamSilent(t *testing.T) {
	s := newServer(t)
	silent, err := net.ListenPacket("udp", "127.0.9.3:53")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	newUpstream(t, upstream1, answerA)
	s.Set([][]model.NameRecord{names()}, resolvers(netip.MustParseAddr("127.0.9.3"), upstream1))
	start := time.Now()
	if got := texts(exchangeAt(t, "udp", gwA, query("example.com", dns.TypeA))); !slices.Equal(got, []string{"A 192.0.2.7"}) {
		t.Errorf("answer %v", got)
	}
	if took := time.Since(start); took < askTimeout || took > 2*askTimeout {
		t.Errorf("took %v, want a little more than %v", took, askTimeout)
	}
}

func TestLoopIsCut(t *testing.T) {
	s := newServer(t)
	s.Set([][]model.NameRecord{names()}, resolvers(gwA, gwB))
	start := time.Now()
	if r := exchangeAt(t, "udp", gwA, query("example.com", dns.TypeA)); r.Rcode != dns.RcodeServerFailure {
		t.Errorf("%s, want SERVFAIL", dns.RcodeToString[r.Rcode])
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("took %v", took)
	}
}

func TestResolvConfIsFollowed(t *testing.T) {
	s := newServer(t)
	newUpstream(t, upstream1, answerA)
	s.Set([][]model.NameRecord{names()}, resolvers())
	if r := exchangeAt(t, "udp", gwA, query("example.com", dns.TypeA)); r.Rcode != dns.RcodeServerFailure {
		t.Fatalf("without servers: %s, want SERVFAIL", dns.RcodeToString[r.Rcode])
	}
	if err := os.WriteFile(s.forward.conf.path, []byte("# comment\nsearch x\nnameserver 127.0.9.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, "resolv.conf is not followed", func() bool {
		return exchangeAt(t, "udp", gwA, query("example.com", dns.TypeA)).Rcode == dns.RcodeSuccess
	})
}

// big answers with more than a small datagram holds, and over UDP only says so.
func big(r, q *dns.Msg, overTCP bool) {
	if !overTCP {
		r.Truncated = true
		return
	}
	for i := range 60 {
		r.Answer = append(r.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IP{10, 0, 0, byte(i)}})
	}
}

func TestTruncation(t *testing.T) {
	s := newServer(t)
	u := newUpstream(t, upstream1, big)
	s.Set([][]model.NameRecord{names()}, resolvers(upstream1))
	for _, c := range []struct {
		network string
		edns    uint16
		whole   bool
	}{{"udp", 0, false}, {"udp", 4096, true}, {"tcp", 0, true}} {
		q := query("example.com", dns.TypeA)
		if c.edns > 0 {
			q.SetEdns0(c.edns, false)
		}
		r := exchangeAt(t, c.network, gwA, q)
		if r.Truncated == c.whole || c.whole != (len(r.Answer) == 60) {
			t.Errorf("%s, EDNS %d: truncated %v, %d answers", c.network, c.edns, r.Truncated, len(r.Answer))
		}
	}
	if u.tcp.Load() != 3 || u.udp.Load() != 2 {
		t.Errorf("upstream was asked %d times by UDP and %d by TCP, want 2 and 3", u.udp.Load(), u.tcp.Load())
	}

	var many []netip.Addr
	for i := range 200 {
		many = append(many, netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}))
	}
	s.Set([][]model.NameRecord{{{Network: "a", Name: "many", Addrs: many}}}, resolvers(upstream1))
	// The client's buffer is as small as the protocol allows: more would not arrive.
	if r := exchangeAt(t, "udp", gwA, query("many", dns.TypeA)); !r.Truncated || len(r.Answer) == 0 {
		t.Errorf("own answer: truncated %v, %d records", r.Truncated, len(r.Answer))
	}
	if r := exchangeAt(t, "tcp", gwA, query("many", dns.TypeA)); len(r.Answer) != 200 {
		t.Errorf("own answer over TCP: %d records, want 200", len(r.Answer))
	}
}

func TestEDNS(t *testing.T) {
	s := newServer(t)
	var got atomic.Pointer[dns.OPT]
	newUpstream(t, upstream1, func(r, q *dns.Msg, tcp bool) { got.Store(q.IsEdns0()); answerA(r, q, tcp) })
	s.Set([][]model.NameRecord{names()}, resolvers(upstream1))
	q := query("example.com", dns.TypeA)
	q.SetEdns0(1400, true)
	r := exchangeAt(t, "udp", gwA, q)
	if opt := got.Load(); opt == nil || opt.UDPSize() != 1400 || !opt.Do() {
		t.Errorf("upstream got %v", opt)
	}
	if opt := r.IsEdns0(); opt == nil || !opt.Do() {
		t.Errorf("client got %v", opt)
	}
	q = query("web", dns.TypeA)
	q.SetEdns0(1400, false)
	if r := exchangeAt(t, "udp", gwA, q); r.IsEdns0() == nil {
		t.Error("own answer without EDNS")
	}
	q.IsEdns0().SetVersion(7)
	if r := exchangeAt(t, "udp", gwA, q); r.Rcode != dns.RcodeBadVers {
		t.Errorf("EDNS version 7: %s, want BADVERS", dns.RcodeToString[r.Rcode])
	}
}

func TestThousandAtOnce(t *testing.T) {
	s := newServer(t)
	newUpstream(t, upstream1, func(r, q *dns.Msg, tcp bool) {
		time.Sleep(100 * time.Millisecond) // all are in flight together
		answerA(r, q, tcp)
	})
	s.Set([][]model.NameRecord{names()}, resolvers(upstream1))
	start := time.Now()
	var wg sync.WaitGroup
	var wrong atomic.Int64
	for i := range 1000 {
		wg.Go(func() {
			name, want := fmt.Sprintf("h%d.example.com", i), "192.0.2.7"
			if i%2 == 0 {
				name, want = "web", "172.30.0.5"
			}
			c := dns.Client{Timeout: 10 * time.Second}
			r, _, err := c.Exchange(query(name, dns.TypeA), netip.AddrPortFrom(gwA, 53).String())
			if err != nil || !strings.Contains(fmt.Sprint(texts(r)), want) {
				if wrong.Add(1) == 1 {
					t.Logf("%s: %v %v", name, r, err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("1000 questions, half of them forwarded with 100 ms each: %v", time.Since(start))
	if wrong.Load() > 0 {
		t.Errorf("%d of 1000 wrong", wrong.Load())
	}
}

func TestFromNamespaces(t *testing.T) {
	s := newServer(t)
	host := nettest.Host(t)
	var res []model.Resolver
	var recs []model.NameRecord
	var ns []*nettest.NS
	for i := range 2 {
		n := nettest.NewNS(t)
		ns = append(ns, n)
		dev := fmt.Sprintf("ght%d", i)
		nettest.Veth(t, host, dev, n, "eth0", fmt.Sprintf("10.8.%d.1/24", i), fmt.Sprintf("10.8.%d.2/24", i),
			fmt.Sprintf("fd08:%d::1/64", i), fmt.Sprintf("fd08:%d::2/64", i))
		network := fmt.Sprint(i)
		res = append(res, model.Resolver{Network: network, Listen: addrs(fmt.Sprintf("10.8.%d.1", i), fmt.Sprintf("fd08:%d::1", i)),
			Clients: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.8.%d.0/24", i)), netip.MustParsePrefix(fmt.Sprintf("fd08:%d::/64", i))}})
		recs = append(recs, model.NameRecord{Network: network, Name: "peer", Addrs: addrs(fmt.Sprintf("10.8.%d.77", i))})
	}
	s.Set([][]model.NameRecord{recs}, res)
	for i, n := range ns {
		for _, at := range res[i].Listen {
			for _, network := range []string{"udp", "tcp"} {
				conn, err := n.Dial(context.Background(), network, netip.AddrPortFrom(at, 53).String())
				if err != nil {
					t.Fatal(err)
				}
				c := dns.Client{Net: network, Timeout: 5 * time.Second}
				r, _, err := c.ExchangeWithConn(query("peer", dns.TypeA), &dns.Conn{Conn: conn})
				conn.Close()
				if err != nil {
					t.Fatalf("namespace %d, %s at %s: %v", i, network, at, err)
				}
				if got, want := fmt.Sprint(texts(r)), fmt.Sprintf("[A 10.8.%d.77]", i); got != want {
					t.Errorf("namespace %d: %s, want %s", i, got, want)
				}
			}
		}
	}

	// A stranger who routes to a network's address hears nothing, neither by UDP nor TCP.
	ns[1].Exec("ip", "route", "add", "10.8.0.0/24", "via", "10.8.1.1")
	for _, network := range []string{"udp", "tcp"} {
		conn, err := ns[1].Dial(context.Background(), network, "10.8.0.1:53")
		if err != nil {
			t.Fatal(err)
		}
		c := dns.Client{Net: network, Timeout: 300 * time.Millisecond}
		r, _, err := c.ExchangeWithConn(query("peer", dns.TypeA), &dns.Conn{Conn: conn})
		conn.Close()
		if err == nil {
			t.Errorf("a stranger by %s got %s", network, texts(r))
		}
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

func BenchmarkAnswer(b *testing.B) {
	z := newTables([][]model.NameRecord{names()}, resolvers()).zone("a")
	q := query("web", dns.TypeA)
	for b.Loop() {
		if _, done := z.answer(q); !done {
			b.Fatal("not answered")
		}
	}
}
