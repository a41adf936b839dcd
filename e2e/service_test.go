// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"gatehouse.dev/gatehouse/hcn"
)

// Addresses for neighbours, on the wire's own prefixes: nobody there has a route.
const servicesConfig = `
[services]
cluster_pool = ["10.96.0.0/16", "fd96::/112"]
load_balancer_pool = ["198.51.100.240/29", "2001:db8:100::f0/125"]
[dns]
upstream = ["` + outV4 + `"]
`

func (b *docBench) service(words ...string) hcn.Service {
	b.t.Helper()
	b.gh(append([]string{"service", "create"}, words...)...)
	return b.serviceNow(words[0])
}

func (b *docBench) serviceNow(name string) hcn.Service {
	b.t.Helper()
	s, err := b.c.Service(b.t.Context(), "name:"+name)
	if err != nil {
		b.t.Fatal(err)
	}
	return *s
}

// resolve asks a network's resolver from a namespace with a real client.
func (b *docBench) resolve(netns, gateway, name string, qtype uint16) *dns.Msg {
	b.t.Helper()
	c, err := dialIn(netns, net.JoinHostPort(gateway, "53"))
	if err != nil {
		b.t.Fatalf("resolver: %v", err)
	}
	defer c.Close()
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), qtype)
	client := dns.Client{Net: "tcp", Timeout: 3 * time.Second}
	r, _, err := client.ExchangeWithConn(q, &dns.Conn{Conn: c})
	if err != nil {
		b.t.Fatalf("ask for %s: %v", name, err)
	}
	return r
}

// short are a message's answers: addresses, targets, ports.
func short(rrs []dns.RR) []string {
	var out []string
	for _, rr := range rrs {
		switch rr := rr.(type) {
		case *dns.A:
			out = append(out, rr.A.String())
		case *dns.AAAA:
			out = append(out, rr.AAAA.String())
		case *dns.CNAME:
			out = append(out, rr.Target)
		case *dns.SRV:
			out = append(out, fmt.Sprintf("%s:%d", rr.Target, rr.Port))
		}
	}
	slices.Sort(out)
	return out
}

// resolverOutside answers example.com from the neighbour, by TCP as it is asked here.
func (b *docBench) resolverOutside() {
	b.t.Helper()
	l, err := within(b.path(b.out), func() (net.Listener, error) { return net.Listen("tcp", outV4+":53") })
	if err != nil {
		b.t.Fatal(err)
	}
	s := &dns.Server{Listener: l, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg)
		r.SetReply(q)
		if ask := q.Question[0]; ask.Name == "example.com." && ask.Qtype == dns.TypeA {
			r.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: ask.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IP{192, 0, 2, 33}}}
		}
		_ = w.WriteMsg(r)
	})}
	go func() { _ = s.ActivateAndServe() }()
	b.t.Cleanup(func() { l.Close() })
}

// TestServices: every type of service, from a pod, the host and a neighbour machine, in
// both families, over a daemon that dies.
//
//covers:service ClusterIP NodePort LoadBalancer ExternalName Headless SRV Affinity Local Cluster
func TestServices(t *testing.T) {
	b := newDocBench(t)
	b.stop()
	if err := os.WriteFile(filepath.Join(b.root, "config.toml"), []byte(servicesConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	b.start()
	t.Cleanup(func() {
		for _, s := range b.list("services") {
			b.must("DELETE", "/services/"+s["ID"].(string), "", nil)
		}
	})
	client, one, two := b.machine("client"), b.machine("one"), b.machine("two")
	out, host := b.path(b.out), b.path(b.ns)

	web := b.service("web", "-p", "http=80", "-p", "echo=7", "-b", "one", "-b", "two")
	node := b.service("node", "--type", "NodePort", "-p", "8000:80", "-b", "one", "-b", "two", "--external-policy", "Local")
	b.service("some", "--type", "NodePort", "-p", "8000:80@31000", "-b", "one", "--node-address", hostV4)
	lb := b.service("lb", "--type", "LoadBalancer", "-p", "443:80", "-b", "one", "-b", "two", "--affinity", "1h")
	if len(lb.LoadBalancerIPs) != 2 {
		t.Fatalf("addresses %v", lb.LoadBalancerIPs)
	}
	both := func(netns, addr string) {
		t.Helper()
		if got := b.spread(netns, addr, 16); len(got) != 2 {
			t.Errorf("%s from %s: answered by %v, want both", addr, netns, got)
		}
	}
	at := func(a string, port uint16) string { return net.JoinHostPort(a, fmt.Sprint(port)) }
	// Asked again after the daemon was killed and came back.
	all := func(t *testing.T) {
		t.Helper()
		for _, vip := range web.ClusterIPs {
			both(client.netns, at(vip, 80))
			both(host, at(vip, 80))
			b.reaches(one.netns, at(vip, 80)) // one of its own backends, too
		}
		for _, a := range []struct{ host, out string }{{hostV4, outV4}, {hostV6, outV6}} {
			both(out, at(a.host, node.Ports[0].NodePort))
			if got := b.reaches(out, at(a.host, node.Ports[0].NodePort)); got.client != a.out {
				t.Errorf("by a node port the client is %s, not %s", got.client, a.out)
			}
			b.reaches(client.netns, at(a.host, node.Ports[0].NodePort))
			b.reaches(host, at(a.host, node.Ports[0].NodePort))
		}
		b.reaches(out, at(hostV4, 31000))
		for i, vip := range lb.LoadBalancerIPs {
			if got := b.spread(out, at(vip, 443), 8); len(got) != 1 {
				t.Errorf("with affinity %v answer", got)
			}
			if got := b.reaches(out, at(vip, 443)); got.client != []string{outV4, outV6}[i] {
				t.Errorf("at the load balancer's address the client is %s", got.client)
			}
			b.reaches(client.netns, at(vip, 443))
			b.reaches(host, at(vip, 443))
			b.reaches(out, at([]string{hostV4, hostV6}[i], lb.Ports[0].NodePort))
		}
	}
	groups := b.mustAt(b.ns, "ip", "maddr", "show", "dev", "wire")
	if !strings.Contains(groups, "33:33:ff:00:00:f") { // the solicited-node group of the pool's addresses
		t.Errorf("the uplink does not hear who asks for %s:\n%s", lb.LoadBalancerIPs[1], groups)
	}
	t.Run("asked", all)
	b.unreached(out, at(web.ClusterIPs[0], 80)) // a cluster's own address
	b.unreached(out, at(hostV6, 31000))         // not among NodeAddresses
	t.Run("names", func(t *testing.T) { b.serviceNames(t, client, one, two, web) })

	t.Run("backends", func(t *testing.T) {
		vip := at(web.ClusterIPs[0], 7)
		s := b.stream(client.netns, vip, web.ID)
		b.gh("service", "backend", "drain", "web", "one")
		if got := b.spread(client.netns, at(web.ClusterIPs[0], 80), 16); got[one.v4] > 0 {
			t.Errorf("a draining backend gets %v", got)
		}
		if err := s.echo(); err != nil {
			t.Errorf("a stream while a backend drains: %v", err)
		}
		b.gh("service", "backend", "add", "web", "one")
		both(client.netns, at(web.ClusterIPs[0], 80))
		b.gh("service", "backend", "rm", "web", "one", "two")
		if err := s.echo(); err == nil {
			t.Error("a stream to a backend that was removed goes on")
		}
		b.unreached(client.netns, at(web.ClusterIPs[0], 80))
		b.gh("service", "backend", "add", "web", "one", "two")
		both(client.netns, at(web.ClusterIPs[0], 80))
	})

	// A backend on another machine: for clients outside it is one only if they need not
	// keep their address.
	t.Run("elsewhere", func(t *testing.T) {
		b.serve(out)
		b.must("POST", "/networks/"+b.network+"/endpoints", `{"Name":"elsewhere","Flags":1,"IpConfigurations":[{"IpAddress":"`+outV4+`"}]}`, nil)
		s := b.service("mixed", "--type", "NodePort", "-p", "80@31001", "-b", "elsewhere")
		if got := b.reaches(out, at(hostV4, 31001)); got.asked != outV4 || got.client != hostV4 {
			t.Errorf("with the policy Cluster %+v answers", got)
		}
		s.ExternalPolicy = hcn.TrafficLocal
		if _, err := b.c.UpdateService(t.Context(), s.ID, &s); err != nil {
			t.Fatal(err)
		}
		b.unreached(out, at(hostV4, 31001))
		b.reaches(client.netns, at(hostV4, 31001))
		s.InternalPolicy = hcn.TrafficLocal
		if _, err := b.c.UpdateService(t.Context(), s.ID, &s); err != nil {
			t.Fatal(err)
		}
		b.unreached(client.netns, at(hostV4, 31001))
	})

	t.Run("killed", func(t *testing.T) {
		b.kill9()
		b.reaches(client.netns, at(web.ClusterIPs[0], 80))
		b.start()
		all(t)
		before, _ := json.Marshal(lb)
		if after, _ := json.Marshal(b.serviceNow("lb")); string(after) != string(before) {
			t.Errorf("after a restart %s, before %s", after, before)
		}
	})

	t.Run("told", func(t *testing.T) {
		vip := web.ClusterIPs[0]
		if s := b.gh("explain", "client", vip+":80"); !strings.Contains(s, "web") {
			t.Errorf("explain names no service:\n%s", s)
		}
		if s := b.gh("metrics"); !strings.Contains(s, web.ID) {
			t.Error("metrics name no service")
		}
		for what, want := range map[string]string{vip: "web", "31000": "some", lb.LoadBalancerIPs[1]: "lb", fmt.Sprint(node.Ports[0].NodePort): "node"} {
			if s := b.gh("who", what); !strings.Contains(s, want) || !strings.Contains(s, "service") {
				t.Errorf("who %s: %s", what, s)
			}
		}
		b.refused(1, "service some", "service", "create", "late", "--type", "NodePort", "-p", "1:1@31000", "--node-address", hostV4)
		b.refused(1, "service web", "service", "create", "late", "-p", "1", "--cluster-ip", vip)
		if s := b.gh("service", "ls"); !strings.Contains(s, "2/2") || !strings.Contains(s, vip) {
			t.Errorf("list:\n%s", s)
		}
		if s := b.gh("network", "graph"); !strings.Contains(s, vip) {
			t.Errorf("graph:\n%s", s)
		}
	})
	b.gh("service", "rm", "web")
	b.unreached(client.netns, at(web.ClusterIPs[0], 80))
	b.gh("service", "rm", "node", "lb")
	b.unreached(out, at(hostV4, node.Ports[0].NodePort))
}

func (b *docBench) serviceNames(t *testing.T, client, one, two machine, web hcn.Service) {
	b.resolverOutside()
	b.service("heads", "--headless", "-p", "http=80", "-b", "one", "-b", "two")
	b.service("far", "--type", "ExternalName", "--external-name", "example.com")
	const gateway = "10.77.0.1"
	want := func(name string, qtype uint16, answers ...string) *dns.Msg {
		t.Helper()
		r := b.resolve(client.netns, gateway, name, qtype)
		slices.Sort(answers)
		if got := short(r.Answer); !slices.Equal(got, answers) {
			t.Errorf("%s %s: %v, want %v (%s)", name, dns.TypeToString[qtype], got, answers, dns.RcodeToString[r.Rcode])
		}
		return r
	}
	want("web", dns.TypeA, web.ClusterIPs[0])
	want("web", dns.TypeAAAA, web.ClusterIPs[1])
	r := want("_http._tcp.web", dns.TypeSRV, "web.:80")
	if got := short(r.Extra); !slices.Contains(got, web.ClusterIPs[0]) || !slices.Contains(got, web.ClusterIPs[1]) {
		t.Errorf("with SRV come %v", got)
	}
	if r := want("_none._tcp.web", dns.TypeSRV); r.Rcode != dns.RcodeNameError {
		t.Errorf("a port that there is not: %s", dns.RcodeToString[r.Rcode])
	}
	want("heads", dns.TypeA, one.v4, two.v4)
	want("heads", dns.TypeAAAA, one.v6, two.v6)
	want("_http._tcp.heads", dns.TypeSRV, "one.heads.:80", "two.heads.:80")
	want("one.heads", dns.TypeA, one.v4)
	want("far", dns.TypeCNAME, "example.com.")
	want("far", dns.TypeA, "example.com.", "192.0.2.33")
}
