// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/hcn"
)

// explain asks for an explanation as a program does.
func (h *host) explain(words ...string) hcn.Explanation {
	h.t.Helper()
	var x hcn.Explanation
	if err := json.Unmarshal([]byte(h.gh(append([]string{"explain", "-o", "json"}, words...)...)), &x); err != nil {
		h.t.Fatal(err)
	}
	return x
}

// TestExplain asks what would happen, and then lets it happen.
func TestExplain(t *testing.T) {
	h := newHost(t)
	h.start()
	h.background(h.out, h.hello, "serve")
	h.gh("network", "create", "blue", "--type", "nat", "--subnet", "10.77.0.0/24")
	h.gh("network", "create", "vault", "--type", "internal", "--subnet", "10.78.0.0/24")
	h.gh("run", "-d", "--name", "web", "-p", "8080:80", "-p", "7007:7/udp", "-p", "127.0.0.1:9090:80", image)
	h.gh("run", "-d", "--name", "db", image)
	h.gh("run", "-d", "--name", "b", "--network", "blue", "--ip", "10.77.0.50", image)
	h.gh("run", "-d", "--name", "v", "--network", "vault", "--ip", "10.78.0.50", image)
	h.gh("run", "-d", "--name", "gone", image)
	web4, web6 := h.addrs("web")
	gone4, _ := h.addrs("gone")
	h.gh("rm", "-f", "gone")
	gw := h.gatewayOf("nat")
	h.background(h.ns, h.hello, "serve", "--http", ":8181")
	eventually(t, 5*time.Second, "host server up", func() bool {
		_, err := h.at(h.ns, h.hello, "get", "http://"+hostV4+":8181/")
		return err == nil
	})

	// What really happens: a request from where the packet would start.
	get := func(from, url string) func() error {
		return func() error { return h.from(from, "get", "-t", "2", url) }
	}
	udp := func(from, to string) func() error {
		return func() error { return h.from(from, "udp", to, "ahoy") }
	}
	ping := func(from, to string) func() error {
		return func() error { return h.from(from, "ping", "-c", "1", to) }
	}
	for _, q := range []struct {
		name, from, to string
		flags          []string
		happens        func() error // nil = not tried
		verdict        string
		says           string // in text, layer, reason or way out
		listens        bool   // left to a kernel ("pass") with a process there that answers
	}{
		{name: "same network", from: "db", to: "web:80", happens: get("db", "http://"+web4+"/"), verdict: "forward", says: "endpoint web"},
		{name: "same network, IPv6", from: "db", to: "[" + web6 + "]:80", happens: get("db", "http://["+web6+"]/"), verdict: "forward", says: "endpoint web"},
		{name: "ping", from: "db", to: "web", happens: ping("db", web4), verdict: "forward", says: "endpoint web"},
		{name: "ping, IPv6", from: "db", to: web6, happens: ping("db", web6), verdict: "forward", says: "endpoint web"},
		{name: "two networks are apart", from: "b", to: "web:80", happens: get("b", "http://"+web4+"/"), verdict: "drop", says: "NO_ROUTE L6 route"},
		{name: "across networks by the published port", from: "b", to: "host:8080", happens: get("b", "http://"+hostV4+":8080/"), verdict: "forward", says: "endpoint web"},
		{name: "published port from outside", from: "outside", to: "host:8080", happens: get("out", "http://"+hostV4+":8080/"), verdict: "forward", says: "endpoint web"},
		{name: "published port from outside, IPv6", from: outV6, to: "[" + hostV6 + "]:8080", happens: get("out", "http://["+hostV6+"]:8080/"), verdict: "forward", says: "endpoint web"},
		{name: "published UDP port", from: outV4, to: hostV4 + ":7007/udp", happens: udp("out", hostV4+":7007"), verdict: "forward", says: "endpoint web"},
		{name: "hairpin", from: "web", to: "host:8080", happens: get("web", "http://"+hostV4+":8080/"), verdict: "forward", says: "endpoint web"},
		{name: "unpublished port from outside", from: outV4, to: hostV4 + ":8081", happens: get("out", "http://"+hostV4+":8081/"), verdict: "pass", says: "not published"},
		{name: "published on loopback only, from outside", from: outV4, to: hostV4 + ":9090", happens: get("out", "http://"+hostV4+":9090/"), verdict: "pass", says: "not published"},
		{name: "published on loopback, from the host", from: "host", to: "127.0.0.1:9090", happens: get("host", "http://127.0.0.1:9090/"), verdict: "forward", says: "endpoint web"},
		{name: "published port from the host", from: "host", to: hostV4 + ":8080", happens: get("host", "http://"+hostV4+":8080/"), verdict: "forward", says: "endpoint web"},
		{name: "a container's own address", from: "web", to: "web:80", happens: get("web", "http://"+web4+"/"), verdict: "pass", says: "container itself", listens: true},
		{name: "host to container", from: "host", to: "web:80", happens: get("host", "http://"+web4+"/"), verdict: "forward", says: "endpoint web"},
		{name: "internal network to outside", from: "v", to: outV4 + ":80", happens: get("v", "http://"+outV4+"/"), verdict: "", says: "route"},
		{name: "outbound NAT", from: "db", to: outV4 + ":80", happens: get("db", "http://"+outV4+"/"), verdict: "forward", says: hostV4},
		{name: "outbound NAT, IPv6", from: "db", to: "[" + outV6 + "]:80", happens: get("db", "http://["+outV6+"]/"), verdict: "forward", says: hostV6},
		{name: "the gateway", from: "db", to: "gateway:8181", happens: get("db", "http://"+gw+":8181/"), verdict: "forward", says: "the host"},
		{name: "the resolver", from: "db", to: "gateway:53/udp", happens: func() error { return h.from("db", "lookup", "web") }, verdict: "forward", says: "resolver"},
		{name: "container's address from outside", from: outV4, to: web4 + ":80", happens: func() error {
			h.must("ip", "-n", h.out, "route", "replace", web4+"/32", "via", hostV4)
			return h.from("out", "get", "-t", "2", "http://"+web4+"/")
		}, verdict: "drop", says: "SPOOF_IP L1"},
		{name: "removed endpoint's address", from: "db", to: gone4 + ":80", happens: get("db", "http://"+gone4+"/"), verdict: "unreachable", says: "nobody"},
		{name: "spoofed source", from: "db", to: "web:80", flags: []string{"--source", gone4}, verdict: "drop", says: "SPOOF_IP L1"},
	} {
		t.Run(q.name, func(t *testing.T) {
			x := h.explain(append([]string{q.from, q.to}, q.flags...)...)
			all := strings.Join([]string{x.Text, x.Reason, x.Layer, x.Out}, " ")
			for _, w := range strings.Fields(q.says) {
				if !strings.Contains(all, w) {
					t.Errorf("says %q; want %q", all, w)
				}
			}
			if q.verdict != "" && x.Verdict != q.verdict {
				t.Errorf("verdict %s; want %s\n%s", x.Verdict, q.verdict, h.gh(append([]string{"explain", q.from, q.to}, q.flags...)...))
			}
			if q.happens == nil {
				return
			}
			start := time.Now()
			err := q.happens()
			if took := time.Since(start); x.Verdict == "drop" && (x.Answer != "") != (took < 1500*time.Millisecond) {
				t.Errorf("the sender gets %q, but in truth it failed after %v: %v", x.Answer, took, err)
			}
			if reached := x.Verdict == "forward" || q.listens; reached != (err == nil) {
				t.Errorf("explained as %s (%s), but in truth: %v", x.Verdict, x.Text, err)
			}
		})
	}
	t.Run("leaves no flow", func(t *testing.T) {
		before := h.gh("flows", "-o", "json")
		for range 3 {
			h.explain("db", "web:80")
			h.explain("b", "host:8080")
		}
		var was, is []struct{ Src, Dst string }
		_ = json.Unmarshal([]byte(before), &was)
		_ = json.Unmarshal([]byte(h.gh("flows", "-o", "json")), &is)
		for _, f := range is {
			if strings.HasSuffix(f.Src, ":50000") || strings.HasSuffix(f.Dst, ":50000") {
				t.Errorf("explain left a flow: %v", f)
			}
		}
	})
	t.Run("a conversation that exists decides", func(t *testing.T) {
		h.mustAt(h.out, h.hello, "udp", hostV4+":7007", "ahoy")
		var flows []struct {
			Proto    uint8
			Src, Dst string
			Reply    bool
		}
		_ = json.Unmarshal([]byte(h.gh("flows", "-o", "json")), &flows)
		for _, f := range flows {
			if port, ok := strings.CutPrefix(f.Src, outV4+":"); ok && f.Proto == 17 && !f.Reply && f.Dst == hostV4+":7007" {
				if x := h.explain(outV4, hostV4+":7007/udp", "--source-port", port); !strings.Contains(h.gh("explain", outV4, hostV4+":7007/udp", "--source-port", port), "existing flow") || x.Verdict != "forward" {
					t.Errorf("%+v", x)
				}
				return
			}
		}
		t.Errorf("no flow from outside: %v", flows)
	})
	t.Run("removed endpoint by name", func(t *testing.T) { h.refused(1, "gone", "explain", "db", "gone:80") })
	t.Run("bad questions", func(t *testing.T) {
		h.refused(2, "port", "explain", "db", "web:http")
		h.refused(2, "protocol", "explain", "db", "web:80/xtp")
		h.refused(2, "TO", "explain", "db")
		h.refused(1, "family", "explain", "b", web6)
	})
}

// from runs the image's program where a packet would start: in a container, on the
// host or on the machine outside.
func (h *host) from(where string, words ...string) error {
	var err error
	switch where {
	case "host":
		_, err = h.at(h.ns, append([]string{h.hello}, words...)...)
	case "out":
		_, err = h.at(h.out, append([]string{h.hello}, words...)...)
	default:
		_, text, code := h.try(append([]string{"exec", where, "/hello"}, words...)...)
		if code != 0 {
			err = &refusal{text}
		}
	}
	return err
}

// refusal is why a program inside a container failed.
type refusal struct{ text string }

func (r *refusal) Error() string { return r.text }
