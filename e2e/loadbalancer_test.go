// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcn"
)

// bench of documents: a host with a network of both families, whose endpoints are
// namespaces without containers.
type docBench struct {
	*host
	c       *hcn.Client
	network string
	spaces  []string
}

// machine is an endpoint in a namespace of its own.
type machine struct {
	id, netns, v4, v6 string
}

func newDocBench(t *testing.T) *docBench {
	h := newHost(t)
	h.start()
	return docBenchOn(t, h)
}

func docBenchOn(t *testing.T, h *host) *docBench {
	b := &docBench{host: h, c: &hcn.Client{Socket: filepath.Join(h.root, "run", "gatehouse.sock")}}
	t.Cleanup(func() {
		if h.daemon == nil {
			h.start()
		}
		for _, kind := range []string{"loadbalancers", "ports", "endpoints"} {
			for _, d := range b.list(kind) {
				b.must("DELETE", "/"+kind+"/"+d["ID"].(string), "", nil)
			}
		}
		for _, id := range b.spaces {
			b.must("DELETE", "/namespaces/"+id, "", nil)
		}
	})
	var n struct{ ID string }
	b.must("POST", "/networks", `{"Name":"blue","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.77.0.0/24"},{"IpAddressPrefix":"fd77::/64"}]}]}`, &n)
	b.network = n.ID
	return b
}

// call does one request.
func (b *docBench) call(method, path, body string, out any) error {
	var in any
	if body != "" {
		in = json.RawMessage(body)
	}
	return b.c.Call(context.Background(), "test", method, path, in, out)
}

func (b *docBench) must(method, path, body string, out any) {
	b.t.Helper()
	if err := b.call(method, path, body, out); err != nil {
		b.t.Fatalf("%s %s %s: %v", method, path, body, err)
	}
}

func (b *docBench) list(kind string) (out []map[string]any) {
	b.t.Helper()
	b.must("GET", "/"+kind, "", &out)
	return out
}

// refusedBy demands that a request is refused with a code.
func (b *docBench) refusedBy(code hcn.ErrorCode, method, path, body string) {
	b.t.Helper()
	err := b.call(method, path, body, nil)
	if !hcn.CheckErrorWithCode(err, code) {
		b.t.Errorf("%s %s %s: %v, want code 0x%x", method, path, body, err, uint32(code))
	}
}

// machine makes an endpoint with a namespace; a server is started in it.
func (b *docBench) machine(name string) machine {
	b.t.Helper()
	m := b.idle(name)
	b.serve(m.netns)
	return m
}

// idle is a machine without a server.
func (b *docBench) idle(name string) machine {
	b.t.Helper()
	var ns struct{ ID, NetNsPath string }
	b.must("POST", "/namespaces", `{"Type":"Host"}`, &ns)
	b.spaces = append(b.spaces, ns.ID)
	var e struct {
		ID               string
		IpConfigurations []struct{ IpAddress string }
	}
	b.must("POST", "/networks/"+b.network+"/endpoints", fmt.Sprintf(`{"Name":%q,"HostComputeNamespace":%q}`, name, ns.ID), &e)
	return machine{e.ID, ns.NetNsPath, e.IpConfigurations[0].IpAddress, e.IpConfigurations[1].IpAddress}
}

// serve starts hello's servers in a namespace and waits for them.
func (b *docBench) serve(netns string) {
	b.t.Helper()
	b.keep(netns, b.hello, "serve")
	eventually(b.t, 5*time.Second, "server in "+netns, func() bool {
		c, err := dialIn(netns, "127.0.0.1:80")
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// dialIn connects from a network namespace, given by path.
func dialIn(netns, addr string) (net.Conn, error) {
	// By hand: the net package may dial on other threads.
	return within(netns, func() (net.Conn, error) { return dialTCP(addr) })
}

func dialTCP(addr string) (net.Conn, error) {
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, err
	}
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: a.Port, Addr: [16]byte(a.IP.To16())})
	if v4 := a.IP.To4(); v4 != nil {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: a.Port, Addr: [4]byte(v4)}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), addr)
	defer f.Close()
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 2}); err != nil { // of connect, too
		return nil, err
	}
	if err := unix.Connect(fd, sa); err != nil {
		return nil, err
	}
	return net.FileConn(f)
}

// answer is who served a request, and whom it saw.
type answer struct{ asked, client string }

// ask does one HTTP request from a namespace.
func ask(netns, addr string) (a answer, err error) {
	c, err := dialIn(netns, addr)
	if err != nil {
		return a, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return a, err
	}
	s := bufio.NewScanner(c)
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) == 2 && f[0] == "asked" {
			a.asked = hostOf(f[1])
		} else if len(f) == 2 && f[0] == "client" {
			a.client = hostOf(f[1])
		}
	}
	if a.asked == "" {
		return a, errors.Join(errors.New("no answer"), s.Err())
	}
	return a, nil
}

func hostOf(addrPort string) string {
	h, _, _ := net.SplitHostPort(addrPort)
	return h
}

// spread is how often each backend answers n requests.
func (b *docBench) spread(netns, addr string, n int) map[string]int {
	b.t.Helper()
	out := map[string]int{}
	for range n {
		a, err := ask(netns, addr)
		if err != nil {
			b.t.Fatalf("%s from %s: %v", addr, netns, err)
		}
		out[a.asked]++
	}
	return out
}

// reaches demands an answer and returns it; unreached that there is none.
func (b *docBench) reaches(netns, addr string) answer {
	b.t.Helper()
	a, err := ask(netns, addr)
	if err != nil {
		b.t.Errorf("%s from %s: %v", addr, netns, err)
	}
	return a
}

func (b *docBench) unreached(netns, addr string) {
	b.t.Helper()
	if a, err := ask(netns, addr); err == nil {
		b.t.Errorf("%s from %s is answered by %s", addr, netns, a.asked)
	}
}

// stream is a connection that goes on, with the load balancer lb.
type stream struct {
	c  net.Conn
	lb string
}

func (b *docBench) stream(netns, addr, lb string) *stream {
	b.t.Helper()
	c, err := dialIn(netns, addr)
	if err != nil {
		b.t.Fatalf("stream to %s: %v", addr, err)
	}
	b.t.Cleanup(func() { c.Close() })
	s := &stream{c, lb}
	if err := s.echo(); err != nil {
		b.t.Fatalf("stream to %s: %v", addr, err)
	}
	return s
}

// echo sends a word and waits for it to come back.
func (s *stream) echo() error {
	_ = s.c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := s.c.Write([]byte("ahoy")); err != nil {
		return err
	}
	buf := make([]byte, 4)
	for n := 0; n < len(buf); {
		m, err := s.c.Read(buf[n:])
		if err != nil {
			return err
		}
		n += m
	}
	return nil
}

// balancer makes a load balancer of a document and returns its id.
func (b *docBench) balancer(format string, args ...any) string {
	b.t.Helper()
	var lb struct{ ID string }
	b.must("POST", "/loadbalancers", fmt.Sprintf(format, args...), &lb)
	return lb.ID
}

func (h *host) path(ns string) string { return "/run/netns/" + ns }

// TestLoadBalancers: documents in, packets out.
//
//covers:lb DSR IPv6 ILB LocalRoutedVIP UseMux PreserveDIP SourceIP SourceIPProtocol
func TestLoadBalancers(t *testing.T) {
	b := newDocBench(t)
	x, host := b.path(b.out), b.path(b.ns)
	b.serve(x)
	client, one, two, three := b.machine("client"), b.machine("one"), b.machine("two"), b.machine("three")
	b.host.must("ip", "-n", b.out, "route", "add", "10.96.0.0/16", "via", hostV4)
	b.host.must("ip", "-n", b.out, "-6", "route", "add", "fd96::/64", "via", hostV6)
	b.host.must("ip", "-n", b.ns, "route", "add", "10.96.0.0/16", "dev", "wire") // the host's processes find nobody there but us

	t.Run("ClusterIP", func(t *testing.T) {
		for _, f := range []struct {
			vip, client, outside string
			flags                int
		}{{"10.96.0.10", client.v4, outV4, 0}, {"fd96::10", client.v6, outV6, 2}} {
			id := b.balancer(`{"HostComputeEndpoints":[%q,%q,%q],"FrontendVIPs":[%q],"PortMappings":[{"Protocol":6,"InternalPort":80,"ExternalPort":8000}],"Flags":%d}`,
				one.id, strings.ToUpper(two.id), three.id, f.vip, f.flags)
			at := net.JoinHostPort(f.vip, "8000")
			if got := b.spread(client.netns, at, 40); len(got) != 3 {
				t.Errorf("%s: 40 requests are spread over %v, want three backends", at, got)
			}
			if a := b.reaches(client.netns, at); a.client != f.client {
				t.Errorf("%s: the backend sees %s, want the client %s", at, a.client, f.client)
			}
			if a := b.reaches(x, at); a.client != f.outside {
				t.Errorf("%s from outside: the backend sees %s, want %s", at, a.client, f.outside)
			}
			if f.flags == 0 {
				b.unreached(host, at) // without LocalRoutedVIP
			}
			b.must("DELETE", "/loadbalancers/"+id, "", nil)
			b.unreached(client.netns, at)
			b.unreached(x, at)
		}
	})
	t.Run("UDP, and a network's own", func(t *testing.T) {
		b.balancer(`{"HostComputeEndpoints":[%q],"FrontendVIPs":["10.96.0.11"],"PortMappings":[{"InternalPort":7,"ExternalPort":70,"Flags":1}]}`, one.id)
		for _, proto := range []string{"tcp", "udp"} {
			if out, err := b.inside(client, proto, "10.96.0.11:70", "ahoy"); err != nil || !strings.Contains(out, "ahoy") {
				t.Errorf("%s: %v", proto, err)
			}
		}
		if e := b.explain("client", "10.96.0.11:70"); e.Verdict != "forward" || !strings.Contains(b.gh("explain", "client", "10.96.0.11:70"), "endpoint one") {
			t.Errorf("explained: %+v", e)
		}
		if hs := b.gh("who", "10.96.0.11"); !strings.Contains(hs, "loadbalancer ") || !strings.Contains(hs, "blue") {
			t.Errorf("who has the address: %s", hs)
		}
		if _, err := dialIn(x, "10.96.0.11:70"); err == nil {
			t.Error("an internal load balancer answers outside")
		}
		if _, err := dialIn(host, "10.96.0.11:70"); err == nil {
			t.Error("an internal load balancer answers the host")
		}
		b.must("POST", "/networks", `{"Name":"red","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.78.0.0/24"},{"IpAddressPrefix":"fd78::/64"}]}]}`, nil)
		blue := b.network
		b.network = "name:red"
		stranger := b.machine("stranger")
		b.network = blue
		if _, err := dialIn(stranger.netns, "10.96.0.11:70"); err == nil {
			t.Error("an internal load balancer answers another network")
		}
	})
	t.Run("NodePort", func(t *testing.T) {
		for flags, addrs := range map[int][]string{0: {hostV4, "127.0.0.1"}, 2: {hostV6, "::1"}} {
			b.balancer(`{"HostComputeEndpoints":[%q,%q],"PortMappings":[{"Protocol":6,"InternalPort":80,"ExternalPort":30080,"Flags":2}],"Flags":%d}`, one.id, two.id, flags)
			b.balancer(`{"HostComputeEndpoints":[%q],"PortMappings":[{"Protocol":6,"InternalPort":80,"ExternalPort":30081}],"Flags":%d}`, one.id, flags)
			at, local := net.JoinHostPort(addrs[0], "30080"), net.JoinHostPort(addrs[1], "30080")
			for _, from := range []string{x, host, client.netns} {
				b.reaches(from, at)
			}
			b.reaches(host, local)
			b.reaches(x, net.JoinHostPort(addrs[0], "30081"))
			b.unreached(host, net.JoinHostPort(addrs[1], "30081"))
		}
		// The ports are held on the host.
		b.refusedBy(hcn.HCN_E_PORT_ALREADY_EXISTS, "POST", "/loadbalancers", fmt.Sprintf(`{"HostComputeEndpoints":[%q],"PortMappings":[{"Protocol":6,"ExternalPort":30080}]}`, three.id))
		if out, err := b.at(b.ns, b.hello, "serve", "-http", ":30080", "-echo", "-"); err == nil || !strings.Contains(out, "in use") {
			t.Errorf("a process of the host could listen on a published port: %v %s", err, out)
		}
		b.background(b.ns, b.hello, "serve", "-http", ":30099", "-echo", "-")
		eventually(t, 5*time.Second, "the host's server", func() bool { _, err := ask(host, "127.0.0.1:30099"); return err == nil })
		b.refusedBy(hcn.HCN_E_PORT_ALREADY_EXISTS, "POST", "/loadbalancers", fmt.Sprintf(`{"HostComputeEndpoints":[%q],"PortMappings":[{"Protocol":6,"ExternalPort":30099}]}`, three.id))
	})
	t.Run("hairpin", func(t *testing.T) {
		for flags, vip := range []string{"10.96.0.12", "", "fd96::12"} {
			if vip == "" {
				continue
			}
			b.balancer(`{"HostComputeEndpoints":[%q],"FrontendVIPs":[%q],"PortMappings":[{"Protocol":6,"InternalPort":80,"ExternalPort":80}],"Flags":%d}`, one.id, vip, flags)
			b.reaches(one.netns, net.JoinHostPort(vip, "80"))
		}
	})
	t.Run("affinity", func(t *testing.T) {
		for dist, want := range map[int]bool{0: false, 1: true, 2: true} {
			port := 9000 + dist
			b.balancer(`{"HostComputeEndpoints":[%q,%q,%q],"FrontendVIPs":["10.96.0.13"],"PortMappings":[{"Protocol":6,"InternalPort":80,"ExternalPort":%d,"DistributionType":%d}]}`,
				one.id, two.id, three.id, port, dist)
			for _, from := range []string{x, client.netns} {
				if got := b.spread(from, fmt.Sprintf("10.96.0.13:%d", port), 30); (len(got) == 1) != want {
					t.Errorf("distribution %d from %s: %v", dist, from, got)
				}
			}
		}
	})
	t.Run("as it was sent", func(t *testing.T) {
		for vip, from := range map[string][2]string{"10.96.0.15": {client.v4, outV4}, "fd96::15": {client.v6, outV6}} {
			flags, bits := 1, "32"
			if strings.Contains(vip, ":") {
				flags, bits = 3, "128"
			}
			if out, err := b.run(three.netns, "ip", "addr", "add", vip+"/"+bits, "dev", "lo", "nodad"); err != nil {
				t.Fatal(err, out)
			}
			b.balancer(`{"HostComputeEndpoints":[%q],"FrontendVIPs":[%q],"PortMappings":[{"Protocol":6,"ExternalPort":80,"Flags":12}],"Flags":%d}`, three.id, vip, flags)
			for i, ns := range []string{client.netns, x} {
				if a := b.reaches(ns, net.JoinHostPort(vip, "80")); a.asked != vip || a.client != from[i] {
					t.Errorf("%s from %s: %+v, want it asked at its address by %s", vip, ns, a, from[i])
				}
			}
		}
	})
	t.Run("a remote backend", func(t *testing.T) {
		var far struct{ ID string }
		b.must("POST", "/networks/"+b.network+"/endpoints", fmt.Sprintf(`{"Name":"far","Flags":1,"IpConfigurations":[{"IpAddress":%q}],"MacAddress":"02-11-0a-f4-04-07"}`, outV4), &far)
		b.balancer(`{"HostComputeEndpoints":[%q],"FrontendVIPs":["10.96.0.14"],"PortMappings":[{"Protocol":6,"ExternalPort":80,"Flags":2}]}`, far.ID)
		if a := b.reaches(client.netns, "10.96.0.14:80"); a.asked != outV4 || a.client != hostV4 {
			t.Errorf("answered by %+v", a)
		}
		if a := b.reaches(host, "10.96.0.14:80"); a.asked != outV4 {
			t.Errorf("the host is answered by %+v", a)
		}
		b.refusedBy(hcn.HCN_E_INVALID_REMOTE_ENDPOINT_OPERATION, "POST", "/namespaces/"+b.spaces[0]+"/modify", fmt.Sprintf(`{"ResourceType":"Endpoint","RequestType":"Add","Settings":{"EndpointId":%q}}`, far.ID))
		b.refusedBy(hcn.HCN_E_INVALID_REMOTE_ENDPOINT_OPERATION, "GET", "/endpoints/"+far.ID+"/stats", "")
		b.must("DELETE", "/endpoints/"+far.ID, "", nil)
		start := time.Now()
		if _, err := dialIn(client.netns, "10.96.0.14:80"); !errors.Is(err, unix.ECONNREFUSED) || time.Since(start) > time.Second {
			t.Errorf("without a backend: %v after %v, want refused at once", err, time.Since(start))
		}
	})
}

func (b *docBench) inside(m machine, words ...string) (string, error) {
	return b.run(m.netns, append([]string{b.hello}, words...)...)
}

// TestBackendsOfStreams: what a change of the list does to connections that go on.
func TestBackendsOfStreams(t *testing.T) {
	b := newDocBench(t)
	client, one, two := b.machine("client"), b.machine("one"), b.machine("two")
	form := `{"HostComputeEndpoints":[%s],"DrainingEndpoints":[%s],"FrontendVIPs":["10.96.0.20"],"PortMappings":[{"Protocol":6,"InternalPort":7,"ExternalPort":7},{"Protocol":6,"ExternalPort":80}]}`
	list := func(ms ...machine) string {
		var out []string
		for _, m := range ms {
			out = append(out, `"`+m.id+`"`)
		}
		return strings.Join(out, ",")
	}
	id := b.balancer(form, list(one), "")
	onOne := b.stream(client.netns, "10.96.0.20:7", id)
	b.must("PUT", "/loadbalancers/"+id, fmt.Sprintf(form, list(two), ""), nil)
	if err := onOne.echo(); err == nil {
		t.Error("a stream to a backend that was removed goes on")
	}
	onTwo := b.stream(client.netns, "10.96.0.20:7", id)

	// One comes back; the stream on two is not moved.
	b.must("POST", "/loadbalancers/"+id+"/modify", fmt.Sprintf(form, list(one, two), ""), nil)
	if err := onTwo.echo(); err != nil {
		t.Errorf("a stream ends by another backend's coming: %v", err)
	}
	// Two drains: nothing new, its stream goes on.
	b.must("POST", "/loadbalancers/"+id+"/modify", fmt.Sprintf(`{"RequestType":"Update","Settings":`+form+`}`, list(one, two), list(two)), nil)
	if got := b.spread(client.netns, "10.96.0.20:80", 20); got[two.v4] != 0 {
		t.Errorf("a draining backend gets %d of 20 new connections", got[two.v4])
	}
	if err := onTwo.echo(); err != nil {
		t.Errorf("a stream to a draining backend: %v", err)
	}
	// A daemon that dies and comes back changes nothing.
	b.kill9()
	if err := onTwo.echo(); err != nil {
		t.Errorf("without a daemon: %v", err)
	}
	b.reaches(client.netns, "10.96.0.20:80")
	b.start()
	if err := onTwo.echo(); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	// Its endpoint is deleted: out of the list, its stream is cut.
	b.must("DELETE", "/endpoints/"+two.id, "", nil)
	if err := onTwo.echo(); err == nil {
		t.Error("a stream to a deleted endpoint goes on")
	}
	var lb struct{ HostComputeEndpoints []string }
	b.must("GET", "/loadbalancers/"+id, "", &lb)
	if len(lb.HostComputeEndpoints) != 1 || lb.HostComputeEndpoints[0] != strings.ToUpper(one.id) {
		t.Errorf("the list is %v", lb.HostComputeEndpoints)
	}
	last := b.stream(client.netns, "10.96.0.20:7", id)
	b.must("DELETE", "/loadbalancers/"+id, "", nil)
	if err := last.echo(); err == nil {
		t.Error("a stream outlives its load balancer")
	}
}

// TestReservedPorts: a reservation keeps host processes, published ports and load
// balancers from a port.
func TestReservedPorts(t *testing.T) {
	b := newDocBench(t)
	var r struct {
		ID                       string
		StartingPort, EndingPort int
	}
	b.must("POST", "/ports", `{"Protocol":1,"Access":1,"StartingPort":8000,"EndingPort":8009}`, &r)
	if out, err := b.at(b.ns, b.hello, "serve", "-http", ":8005", "-echo", "-"); err == nil || !strings.Contains(out, "in use") {
		t.Errorf("a process of the host could have a reserved port: %v %s", err, out)
	}
	b.refusedBy(hcn.HCN_E_PORT_ALREADY_EXISTS, "POST", "/ports", `{"Protocol":3,"StartingPort":8009}`)
	b.refusedBy(hcn.HCN_E_PORT_ALREADY_EXISTS, "POST", "/loadbalancers", `{"PortMappings":[{"Protocol":6,"ExternalPort":8001}]}`)
	publish := `{"Policies":[{"Type":"PortMapping","Settings":{"Protocol":6,"InternalPort":80,"ExternalPort":8001,"Flags":%d}}]}`
	b.refusedBy(hcn.HCN_E_PORT_ALREADY_EXISTS, "POST", "/networks/"+b.network+"/endpoints", fmt.Sprintf(publish, 0))
	b.must("POST", "/networks/"+b.network+"/endpoints", fmt.Sprintf(publish, 4), nil)
	b.must("POST", "/ports", `{"Protocol":3,"Count":3}`, &r)
	if r.EndingPort != r.StartingPort+2 || len(b.list("ports")) != 2 {
		t.Errorf("chosen %+v; all %v", r, b.list("ports"))
	}
	b.kill9()
	b.start()
	if out, err := b.at(b.ns, b.hello, "serve", "-http", fmt.Sprintf(":%d", r.EndingPort), "-echo", "-"); err == nil || !strings.Contains(out, "in use") {
		t.Errorf("after a restart a process of the host could have a reserved port: %v %s", err, out)
	}
	b.must("DELETE", "/ports/"+r.ID, "", nil)
	b.refusedBy(hcn.ERROR_NOT_FOUND, "DELETE", "/ports/"+r.ID, "")
	b.background(b.ns, b.hello, "serve", "-http", fmt.Sprintf(":%d", r.EndingPort), "-echo", "-")
	eventually(t, 5*time.Second, "a server on a released port", func() bool {
		_, err := ask(b.path(b.ns), fmt.Sprintf("127.0.0.1:%d", r.EndingPort))
		return err == nil
	})
}

// TestSDNRoutes: to another endpoint, and to the host's stack.
//
//covers:endpoint SDNRoute
func TestSDNRoutes(t *testing.T) {
	b := newDocBench(t)
	one, router := b.machine("one"), b.machine("router")
	// The router answers at addresses that are not its vNIC's.
	for _, a := range []string{"203.0.113.9/32", "2001:db8:9::9/128"} {
		if out, err := b.run(router.netns, "ip", "addr", "add", a, "dev", "lo"); err != nil {
			t.Fatal(err, out)
		}
	}
	// It asks for MACs in its own name, as a router does: other names are refused.
	if out, err := b.run(router.netns, "sysctl", "-qw", "net.ipv4.conf.all.arp_announce=2"); err != nil {
		t.Fatal(err, out)
	}
	b.unreached(one.netns, "203.0.113.9:80")
	var r struct{ ID string }
	b.must("POST", "/sdnroutes", fmt.Sprintf(`{"HostComputeEndpoints":[%q],"Setting":[{"DestinationPrefix":"203.0.113.0/24","NextHop":%q},{"DestinationPrefix":"2001:db8:9::/64","NextHop":%q}]}`,
		one.id, router.v4, router.v6), &r)
	for addr, from := range map[string]string{"203.0.113.9:80": one.v4, "[2001:db8:9::9]:80": one.v6} {
		if a := b.reaches(one.netns, addr); a.asked != hostOf(addr) || a.client != from {
			t.Errorf("%s: %+v", addr, a)
		}
	}
	b.refusedBy(hcn.HCN_E_POLICY_ALREADY_EXISTS, "POST", "/sdnroutes", fmt.Sprintf(`{"HostComputeEndpoints":[%q],"Setting":[{"DestinationPrefix":"203.0.113.0/24","NeedEncap":true}]}`, one.id))
	b.must("DELETE", "/sdnroutes/"+r.ID, "", nil)
	b.unreached(one.netns, "203.0.113.9:80")

	// The same as a policy of the endpoint.
	policy := `{"ResourceType":"Policy","RequestType":%q,"Settings":{"Policies":[{"Type":"SDNRoute","Settings":{"DestinationPrefix":"203.0.113.0/24","NextHop":%q}}]}}`
	b.must("POST", "/endpoints/"+one.id+"/modify", fmt.Sprintf(policy, "Add", router.v4), nil)
	b.reaches(one.netns, "203.0.113.9:80")
	b.must("POST", "/endpoints/"+one.id+"/modify", fmt.Sprintf(policy, "Remove", router.v4), nil)
	b.unreached(one.netns, "203.0.113.9:80")

	// The host routes for the network: what it is handed goes on with the endpoint's
	// own address, and the answer comes back.
	b.host.must("ip", "netns", "exec", b.ns, "sysctl", "-qw", "net.ipv4.conf.all.forwarding=1")
	b.host.must("ip", "-n", b.out, "route", "add", "10.77.0.0/24", "via", hostV4)
	b.serve(b.path(b.out))
	if a := b.reaches(one.netns, outV4+":80"); a.client != hostV4 {
		t.Errorf("without a route %s is seen", a.client)
	}
	b.must("POST", "/sdnroutes", fmt.Sprintf(`{"HostComputeEndpoints":[%q],"Routes":[{"DestinationPrefix":"%s/32","NeedEncap":true}]}`, one.id, outV4), nil)
	if a := b.reaches(one.netns, outV4+":80"); a.client != one.v4 {
		t.Errorf("with NeedEncap %s is seen, want %s", a.client, one.v4)
	}
	// The last endpoint takes the route with it.
	b.must("DELETE", "/endpoints/"+one.id, "", nil)
	if left := b.list("sdnroutes"); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
