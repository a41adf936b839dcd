// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

const image = "gatehouse/hello"

// addrs returns a container's addresses in the order of its endpoints.
func (h *host) addrs(name string) (v4, v6 string) {
	h.t.Helper()
	var eps []struct {
		Name             string
		IpConfigurations []struct{ IpAddress string }
	}
	if err := json.Unmarshal([]byte(h.gh("endpoint", "ls", "-o", "json")), &eps); err != nil {
		h.t.Fatal(err)
	}
	for _, e := range eps {
		if e.Name != name {
			continue
		}
		for _, c := range e.IpConfigurations {
			if strings.Contains(c.IpAddress, ":") {
				v6 = c.IpAddress
			} else {
				v4 = c.IpAddress
			}
		}
	}
	return v4, v6
}

// TestMainJob is the demo with assertions: names, published ports from everywhere,
// NAT, IPv4 and IPv6, TCP and UDP.
//
//covers:type NAT
//covers:endpoint PortMapping
func TestMainJob(t *testing.T) {
	h := newHost(t)
	h.start()
	h.background(h.out, h.hello, "serve")
	h.gh("run", "-d", "--name", "web", "-p", "8080:80", "-p", "7007:7", "-p", "7007:7/udp", "-p", "127.0.0.1:9090:80", image)
	h.gh("run", "-d", "--name", "db", "--network-alias", "database", image)
	v4, v6 := h.addrs("web")
	if v4 == "" || v6 == "" {
		t.Fatalf("web has addresses %q and %q; want both families", v4, v6)
	}
	in := func(c string, cmd ...string) string {
		t.Helper()
		return h.gh(append([]string{"exec", c, "/hello"}, cmd...)...)
	}
	get := func(where, url string) {
		t.Helper()
		switch where {
		case "host":
			h.mustAt(h.ns, h.hello, "get", url)
		case "out":
			h.mustAt(h.out, h.hello, "get", url)
		default:
			in(where, "get", url)
		}
	}
	t.Run("by name", func(t *testing.T) {
		get("web", "http://db/")
		get("web", "http://database/")
		get("db", "http://web/")
		get("db", "http://web.nat/")
		if out := in("db", "lookup", "web"); !strings.Contains(out, v4) || !strings.Contains(out, v6) {
			t.Errorf("lookup web: %s; want %s and %s", out, v4, v6)
		}
		if out := in("db", "lookup", v4); !strings.Contains(out, "web") {
			t.Errorf("reverse lookup %s: %s", v4, out)
		}
	})
	t.Run("by address", func(t *testing.T) {
		get("db", "http://"+v4+"/")
		get("db", "http://["+v6+"]/")
		in("db", "ping", "-c", "2", v4)
		in("db", "ping", "-c", "2", v6)
		h.mustAt(h.ns, h.hello, "ping", "-c", "1", v4)
		h.mustAt(h.ns, h.hello, "ping", "-c", "1", v6)
	})
	t.Run("published port", func(t *testing.T) {
		for _, a := range []string{hostV4, "[" + hostV6 + "]"} {
			get("out", "http://"+a+":8080/")
			get("host", "http://"+a+":8080/")
			get("db", "http://"+a+":8080/")
			get("web", "http://"+a+":8080/") // hairpin
		}
		get("host", "http://127.0.0.1:8080/")
		get("host", "http://[::1]:8080/")
		get("host", "http://127.0.0.1:9090/")
		for _, ns := range []string{h.ns, h.out} {
			for _, a := range []string{hostV4, "[" + hostV6 + "]"} {
				for _, proto := range []string{"tcp", "udp"} {
					if out := h.mustAt(ns, h.hello, proto, a+":7007", "ahoy"); !strings.Contains(out, "ahoy") {
						t.Errorf("%s echo at %s:7007: %q", proto, a, out)
					}
				}
			}
		}
		if out := h.mustAt(h.ns, h.hello, "udp", "127.0.0.1:7007", "ahoy"); !strings.Contains(out, "ahoy") {
			t.Errorf("udp echo at localhost: %q", out)
		}
		if out, err := h.at(h.out, h.hello, "get", "http://"+hostV4+":9090/"); err == nil {
			t.Errorf("a port published on 127.0.0.1 answers outside: %s", out)
		}
		if out, err := h.at(h.out, h.hello, "get", "http://"+hostV4+":8081/"); err == nil {
			t.Errorf("an unpublished port answers outside: %s", out)
		}
	})
	t.Run("client address kept", func(t *testing.T) {
		if out := h.mustAt(h.out, h.hello, "get", "http://"+hostV4+":8080/"); !strings.Contains(out, outV4) {
			t.Errorf("server does not see the client %s: %s", outV4, out)
		}
		if out := h.mustAt(h.out, h.hello, "get", "http://["+hostV6+"]:8080/"); !strings.Contains(out, outV6) {
			t.Errorf("server does not see the client %s: %s", outV6, out)
		}
	})
	t.Run("outbound NAT", func(t *testing.T) {
		if out := in("db", "get", "http://"+outV4+"/"); !strings.Contains(out, hostV4) {
			t.Errorf("outside does not see %s: %s", hostV4, out)
		}
		if out := in("db", "get", "http://["+outV6+"]/"); !strings.Contains(out, hostV6) {
			t.Errorf("outside does not see %s: %s", hostV6, out)
		}
		in("db", "udp", outV4+":7", "ahoy")
		in("db", "ping", "-c", "2", outV4)
		in("db", "ping", "-c", "2", outV6)
	})
	t.Run("fragments and ICMP errors", func(t *testing.T) {
		for _, a := range []string{v4, v6, outV4, outV6} {
			in("db", "ping", "-c", "1", "-s", "4000", a)
		}
		for _, a := range []string{outV4 + ":9", "[" + outV6 + "]:9"} {
			_, errs, code := h.try("exec", "db", "/hello", "udp", a, "x")
			if code == 0 || !strings.Contains(errs, "refused") {
				t.Errorf("closed UDP port %s through NAT: exit %d, %q; want refused", a, code, errs)
			}
		}
	})
	t.Run("the host's own services", func(t *testing.T) {
		h.background(h.ns, h.hello, "serve")
		gw := h.gatewayOf("nat")
		eventually(t, 5*time.Second, "host server up", func() bool {
			_, err := h.at(h.ns, h.hello, "get", "http://"+hostV4+"/")
			return err == nil
		})
		get("db", "http://"+hostV4+"/")
		get("db", "http://"+gw+"/")
	})
	t.Run("nobody reaches a container's address from outside", func(t *testing.T) {
		h.must("ip", "-n", h.out, "route", "replace", v4+"/32", "via", hostV4)
		if out, err := h.at(h.out, h.hello, "get", "http://"+v4+"/"); err == nil {
			t.Errorf("outside reaches %s directly: %s", v4, out)
		}
	})
	t.Run("rm frees the port at once", func(t *testing.T) {
		h.gh("rm", "-f", "web")
		if out, err := h.at(h.out, h.hello, "get", "http://"+hostV4+":8080/"); err == nil {
			t.Errorf("port 8080 still answers: %s", out)
		}
		h.gh("run", "-d", "--name", "web2", "-p", "8080:80", image)
		eventually(t, 5*time.Second, "the new container serves", func() bool { // it listens some time after it runs
			_, err := h.at(h.out, h.hello, "get", "http://"+hostV4+":8080/")
			return err == nil
		})
		if _, err, code := h.try("exec", "db", "/hello", "lookup", "web"); code == 0 {
			t.Errorf("web is still known by name: %s", err)
		}
	})
}

func (h *host) gatewayOf(network string) string {
	h.t.Helper()
	var nets []struct {
		Name  string
		Ipams []struct {
			Subnets []struct{ Routes []struct{ NextHop string } }
		}
	}
	if err := json.Unmarshal([]byte(h.gh("network", "ls", "-o", "json")), &nets); err != nil {
		h.t.Fatal(err)
	}
	for _, n := range nets {
		if n.Name == network {
			return n.Ipams[0].Subnets[0].Routes[0].NextHop
		}
	}
	h.t.Fatalf("no network %s", network)
	return ""
}

// TestNetworksAreApart: two NAT networks and an Internal one.
//
//covers:type NAT Internal
func TestNetworksAreApart(t *testing.T) {
	h := newHost(t)
	h.start()
	h.background(h.out, h.hello, "serve")
	h.gh("network", "create", "blue", "--type", "nat", "--subnet", "10.77.0.0/24")
	h.gh("network", "create", "vault", "--type", "internal", "--subnet", "10.78.0.0/24")
	h.gh("run", "-d", "--name", "a", "-p", "8080:80", image)
	h.gh("run", "-d", "--name", "b", "--network", "blue", "--ip", "10.77.0.50", image)
	h.gh("run", "-d", "--name", "v", "--network", "vault", image)
	h.gh("run", "-d", "--name", "w", "--network", "vault", image)
	a4, _ := h.addrs("a")
	if b4, _ := h.addrs("b"); b4 != "10.77.0.50" {
		t.Errorf("b has %s, want the address asked for", b4)
	}
	h.gh("exec", "w", "/hello", "get", "http://v/")
	for _, try := range [][]string{
		{"b", "http://" + a4 + "/", "another network's address"},
		{"b", "http://a/", "another network's name"},
		{"v", "http://" + outV4 + "/", "outside from an Internal network"},
		{"a", "http://10.77.0.50/", "another network's address"},
	} {
		if out, _, code := h.try("exec", try[0], "/hello", "get", try[1]); code == 0 {
			t.Errorf("%s reaches %s (%s): %s", try[0], try[1], try[2], out)
		}
	}
	// Across networks by the published port, as from outside.
	h.gh("exec", "b", "/hello", "get", "http://"+hostV4+":8080/")

	h.refused(125, "10.77.0.50", "run", "--rm", "--network", "blue", "--ip", "10.77.0.50", image, "exit", "0")
	h.refused(125, "10.99.0.1", "run", "--rm", "--network", "blue", "--ip", "10.99.0.1", image, "exit", "0")
	h.refused(125, "10.77.0.1", "run", "--rm", "--network", "blue", "--ip", "10.77.0.1", image, "exit", "0")
	h.refused(125, "nowhere", "run", "--rm", "--network", "nowhere", image, "exit", "0")
	h.refused(1, "10.77", "network", "create", "green", "--type", "nat", "--subnet", "10.77.0.128/25")
	h.refused(1, "blue", "network", "create", "blue", "--type", "nat", "--subnet", "10.79.0.0/24")
	h.refused(1, "10.0.0.0/33", "network", "create", "bad", "--type", "nat", "--subnet", "10.0.0.0/33")
}

// TestPoolRunsOut: an exhausted network says so, and an address comes back.
func TestPoolRunsOut(t *testing.T) {
	h := newHost(t)
	h.start()
	h.gh("network", "create", "tiny", "--type", "nat", "--subnet", "10.80.0.0/29")
	for i := range 5 { // 8 - network - broadcast - gateway
		h.gh("run", "-d", "--name", fmt.Sprintf("t%d", i), "--network", "tiny", image)
	}
	h.refused(125, "tiny", "run", "--rm", "--network", "tiny", image, "exit", "0")
	h.gh("rm", "-f", "t3")
	h.gh("run", "--rm", "--network", "tiny", image, "exit", "0")
}

// TestPortTaken: by another container, and by a process of the host.
func TestPortTaken(t *testing.T) {
	h := newHost(t)
	h.start()
	h.gh("run", "-d", "--name", "a", "-p", "8080:80", image)
	h.refused(125, "8080", "run", "-d", "--name", "b", "-p", "8080:80", image)
	if out := h.gh("ps", "-a", "-o", "name"); strings.TrimSpace(out) != "a" {
		t.Errorf("after a refused run: %q, want only a", out)
	}
	h.background(h.ns, h.hello, "serve", "--http", ":8888")
	eventually(t, 5*time.Second, "host server on 8888", func() bool {
		_, err := h.at(h.ns, h.hello, "get", "http://127.0.0.1:8888/")
		return err == nil
	})
	h.refused(125, "8888", "run", "-d", "--name", "c", "-p", "8888:80", image)
	// And the other way round: nobody can take what we published.
	if out, err := h.at(h.ns, "timeout", "2", h.hello, "serve", "--http", hostV4+":8080"); err == nil || !strings.Contains(out, "in use") {
		t.Errorf("a host process took the published port: %s %v", out, err)
	}
}

// TestTrafficWithoutDaemon: stopped, killed and started again under load.
func TestTrafficWithoutDaemon(t *testing.T) {
	h := newHost(t)
	h.start()
	h.gh("run", "-d", "--name", "web", "-p", "8080:80", image)
	done := make(chan error, 1)
	go func() {
		_, err := h.at(h.out, h.hello, "get", "http://"+hostV4+":8080/", "-n", "5000", "-c", "4", "-new", "-r", "1000")
		done <- err
	}()
	for i := range 3 {
		time.Sleep(200 * time.Millisecond)
		if i == 1 {
			h.stop()
		} else {
			h.kill9()
		}
		h.mustAt(h.out, h.hello, "get", "http://"+hostV4+":8080/")
		h.start()
	}
	if err := <-done; err != nil {
		t.Errorf("a request failed: %v", err)
	}
}
