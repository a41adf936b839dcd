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

// idOf is the GUID of an endpoint by its name, or of a network.
func (h *host) idOf(kind, name string) string {
	h.t.Helper()
	var all []struct{ ID, Name string }
	if err := json.Unmarshal([]byte(h.gh("hcn", "list", kind)), &all); err != nil {
		h.t.Fatal(err)
	}
	for _, x := range all {
		if x.Name == name {
			return x.ID
		}
	}
	h.t.Fatalf("no %s %q", kind, name)
	return ""
}

// policy applies policies, each "TYPE SETTINGS", to an endpoint or a network.
func (h *host) policy(kind, name, verb string, policies ...string) {
	h.t.Helper()
	var list []string
	for _, p := range policies {
		typ, settings, _ := strings.Cut(p, " ")
		list = append(list, fmt.Sprintf(`{"Type":%q,"Settings":%s}`, typ, settings))
	}
	body := fmt.Sprintf(`{"ResourceType":"Policy","RequestType":%q,"Settings":{"Policies":[%s]}}`, verb, strings.Join(list, ","))
	out, errs, code := h.tryStdin(body, "hcn", "modify", kind, h.idOf(kind, name))
	if code != 0 {
		h.t.Fatalf("%s %v of %s: %s%s", verb, policies, name, out, errs)
	}
}

// TestRules: what rules of endpoints and networks do to packets, each as the
// document of HCN says it, while the containers run.
//
//covers:endpoint ACL TierAcl
//covers:network NetworkACL SetPolicy
func TestRules(t *testing.T) {
	h := newHost(t)
	h.start()
	h.background(h.out, h.hello, "serve")
	h.gh("run", "-d", "--name", "a", "-p", "8080:80", image)
	h.gh("run", "-d", "--name", "b", image)
	h.gh("run", "-d", "--name", "c", image)
	addr := map[string][2]string{"out": {outV4, outV6}, "host": {hostV4, hostV6}}
	for _, n := range []string{"a", "b", "c"} {
		v4, v6 := h.addrs(n)
		addr[n] = [2]string{v4, v6}
	}
	// try asks from one for another: "b a:80" by HTTP, "b a:7/udp" for an echo, in both families.
	try := func(t *testing.T, way string, open bool) {
		t.Helper()
		from, to, _ := strings.Cut(way, " ")
		name, port, _ := strings.Cut(to, ":")
		for i, a := range addr[name] {
			if i == 1 {
				a = "[" + a + "]"
			}
			words := []string{"get", "-t", "1", "http://" + a + ":80/"}
			if port == "7/udp" {
				words = []string{"udp", a + ":7", "x"}
			}
			err := h.from(from, words...)
			if (err == nil) != open {
				t.Errorf("%s by %s: %v, want it to pass: %v", way, a, err, open)
			}
		}
	}
	b4, c4, a4 := addr["b"][0], addr["c"][0], addr["a"][0]
	b6, c6, a6 := addr["b"][1], addr["c"][1], addr["a"][1]
	for _, c := range []struct {
		name         string
		kind, on     string
		policies     []string
		open, closed []string
	}{
		{name: "block a port but for one", kind: "endpoints", on: "a",
			policies: []string{`ACL {"Protocols":"6","Action":"Block","Direction":"In","LocalPorts":"80","Priority":200}`,
				`ACL {"Protocols":"6","Action":"Allow","Direction":"In","RemoteAddresses":"` + b4 + "," + b6 + `","Priority":100}`},
			open: []string{"b a:80", "c a:7/udp"}, closed: []string{"c a:80"}},
		{name: "priorities the other way round", kind: "endpoints", on: "a",
			policies: []string{`ACL {"Protocols":"6","Action":"Block","Direction":"In","LocalPorts":"80","Priority":100}`,
				`ACL {"Protocols":"6","Action":"Allow","Direction":"In","RemoteAddresses":"` + b4 + "," + b6 + `","Priority":200}`},
			open: []string{"b a:7/udp"}, closed: []string{"b a:80", "c a:80"}},
		{name: "out", kind: "endpoints", on: "b",
			policies: []string{`ACL {"Action":"Block","Direction":"Out","RemoteAddresses":"` + outV4 + "," + outV6 + `"}`},
			open:     []string{"b a:80", "a out:80"}, closed: []string{"b out:80"}},
		{name: "an allow-all of the host's stage lifts no block", kind: "endpoints", on: "a",
			policies: []string{`ACL {"Action":"Allow","Direction":"In","RuleType":"Host"}`, `ACL {"Action":"Block","Direction":"In","Priority":65500}`},
			open:     []string{"a out:80"}, closed: []string{"b a:80", "b a:7/udp"}},
		{name: "tiers", kind: "endpoints", on: "a",
			policies: []string{`TierAcl {"Name":"one","Direction":"In","Order":1,"TierAclRules":[{"TierAclRuleAction":"Pass","Protocols":"6","LocalPorts":"80","Priority":1},{"TierAclRuleAction":"Block","Priority":2}]}`,
				`TierAcl {"Name":"two","Direction":"In","Order":2,"TierAclRules":[{"TierAclRuleAction":"Allow","RemoteAddresses":"` + b4 + "," + b6 + `","Priority":1},{"TierAclRuleAction":"Block","Priority":2}]}`},
			open: []string{"b a:80"}, closed: []string{"c a:80", "b a:7/udp"}},
		{name: "a network's rule is on all", kind: "networks", on: "nat",
			policies: []string{`NetworkACL {"Protocols":"17","Action":"Block","Direction":"In","LocalPorts":"7"}`},
			open:     []string{"b a:80", "a out:7/udp"}, closed: []string{"b a:7/udp", "a c:7/udp"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer h.in(t)()
			for _, way := range append(c.open, c.closed...) {
				try(t, way, true)
			}
			h.policy(c.kind, c.on, "Add", c.policies...)
			for _, way := range c.open {
				try(t, way, true)
			}
			for _, way := range c.closed {
				try(t, way, false)
			}
			h.policy(c.kind, c.on, "Remove", c.policies...)
			for _, way := range c.closed {
				try(t, way, true)
			}
		})
	}
	t.Run("sets", func(t *testing.T) {
		defer h.in(t)()
		set := func(id, kind, values string) string {
			return fmt.Sprintf(`SetPolicy {"Id":%q,"Name":%q,"PolicyType":%q,"Values":%q}`, id, id, kind, values)
		}
		h.policy("networks", "nat", "Add", set("callers", "IPSET", b4+","+b6), set("servers", "IPSET", a4+","+a6), set("all", "NESTEDIPSET", "callers,servers"))
		h.policy("endpoints", "a", "Add",
			`ACL {"Id":"p","Action":"Allow","Direction":"In","LocalAddresses":"callers","RemoteAddresses":"servers","Priority":100}`,
			`ACL {"Id":"p","Action":"Block","Direction":"In","RemoteAddresses":"all","Priority":200}`)
		try(t, "b a:80", true)
		try(t, "c a:80", false)
		h.policy("networks", "nat", "Update", set("callers", "IPSET", c4+","+c6))
		try(t, "b a:80", false)
		try(t, "c a:80", true)
		h.policy("endpoints", "a", "Update", `ACL null`)
		h.policy("networks", "nat", "Remove", `SetPolicy {"Id":"all"}`, `SetPolicy {"Id":"callers"}`, `SetPolicy {"Id":"servers"}`)
		try(t, "b a:80", true)
	})
	t.Run("a live connection is cut, and goes on", func(t *testing.T) {
		defer h.in(t)()
		b := h.netnsOf("b")
		r := h.peer(b, "tcp-receive "+b4+":63")
		s := h.peer(h.netnsOf("a"), "tcp-send "+b4+":63")
		time.Sleep(300 * time.Millisecond)
		seen := func() int64 { return h.received("b") }
		h.policy("endpoints", "b", "Add", `ACL {"Protocols":"6","Action":"Block","Direction":"In","LocalPorts":"63"}`)
		before := seen()
		time.Sleep(500 * time.Millisecond)
		if n := seen() - before; n > 100_000 {
			t.Errorf("%d bytes came in after the rule", n)
		}
		h.policy("endpoints", "b", "Update", `ACL null`)
		eventually(t, 10*time.Second, "the connection goes on", func() bool { return seen()-before > 1_000_000 })
		sent, got := s.end(), r.end()
		if sent.Bytes == 0 || sent.Bytes != got.Bytes {
			t.Errorf("%d bytes sent, %d received", sent.Bytes, got.Bytes)
		}
	})
	t.Run("apart", func(t *testing.T) {
		defer h.in(t)()
		network := h.idOf("networks", "nat")
		type compartment struct{ id, path, v4, v6 string }
		made := map[string]compartment{}
		for _, n := range []string{"x", "y"} {
			var ns struct{ ID, NetNsPath string }
			out, errs, code := h.tryStdin(`{"Type":"Host"}`, "hcn", "create", "namespaces")
			if code != 0 || json.Unmarshal([]byte(out), &ns) != nil {
				t.Fatalf("%s%s", out, errs)
			}
			defer h.gh("hcn", "delete", "namespaces", ns.ID)
			doc := fmt.Sprintf(`{"Name":%q,"HostComputeNetwork":%q,"HostComputeNamespace":%q,"Flags":2}`, n, network, ns.ID)
			if out, errs, code := h.tryStdin(doc, "hcn", "create", "endpoints"); code != 0 {
				t.Fatalf("%s%s", out, errs)
			}
			defer h.gh("hcn", "delete", "endpoints", h.idOf("endpoints", n))
			c := compartment{id: ns.ID, path: ns.NetNsPath}
			c.v4, c.v6 = h.addrs(n)
			made[n] = c
			h.background(h.ns, "nsenter", "--net="+c.path, h.hello, "serve")
		}
		ask := func(words ...string) error {
			_, err := h.at(h.ns, append([]string{"nsenter", "--net=" + made["x"].path, h.hello}, words...)...)
			return err
		}
		for _, a := range []string{made["y"].v4, "[" + made["y"].v6 + "]", addr["b"][0], "[" + addr["b"][1] + "]"} {
			if err := ask("tcp", a+":7", "x"); err == nil {
				t.Errorf("it reaches another endpoint, %s", a)
			}
		}
		for what, words := range map[string][]string{"outside": {"tcp", outV4 + ":7", "x"}, "outside, v6": {"tcp", "[" + outV6 + "]:7", "x"}} {
			if err := ask(words...); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

// received are the bytes that a container's vNIC got.
func (h *host) received(name string) int64 {
	h.t.Helper()
	var s struct{ BytesReceived int64 }
	if err := json.Unmarshal([]byte(h.gh("hcn", "stats", "endpoints", h.idOf("endpoints", name))), &s); err != nil {
		h.t.Fatal(err)
	}
	return s.BytesReceived
}

// TestBandwidth: QOS is in bytes a second, of what the endpoint sends.
//
//covers:endpoint QOS
func TestBandwidth(t *testing.T) {
	h := newHost(t)
	h.start()
	h.gh("run", "-d", "--name", "a", image)
	h.gh("run", "-d", "--name", "b", image)
	b4, _ := h.addrs("b")
	a4, _ := h.addrs("a")
	rate := func(from, to, addr string) float64 {
		t.Helper()
		r := h.peer(h.netnsOf(to), "tcp-receive "+addr+":63")
		s := h.peer(h.netnsOf(from), "tcp-send "+addr+":63")
		time.Sleep(time.Second) // the bucket is full at first
		before, start := h.received(to), time.Now()
		time.Sleep(4 * time.Second)
		n := float64(h.received(to)-before) / time.Since(start).Seconds()
		s.in.Close()
		_ = s.cmd.Process.Kill()
		_ = r.cmd.Process.Kill()
		return n
	}
	h.policy("endpoints", "a", "Add", `QOS {"MaximumOutgoingBandwidthInBytes":1250000}`)
	if n := rate("a", "b", b4); n < 1_000_000 || n > 1_375_000 {
		t.Errorf("%.0f bytes a second, want 1250000", n)
	}
	if n := rate("b", "a", a4); n < 5_000_000 {
		t.Errorf("%.0f bytes a second the other way, which has no bound", n)
	}
	h.policy("endpoints", "a", "Remove", `QOS {}`)
	if n := rate("a", "b", b4); n < 5_000_000 {
		t.Errorf("%.0f bytes a second without the bound", n)
	}
}
