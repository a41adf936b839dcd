// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestRoutesAreFollowed: the host's routes change, and flows that live with them.
func TestRoutesAreFollowed(t *testing.T) {
	h := newHost(t)
	h.start()
	h.gh("run", "-d", "--name", "a", image)
	a, out, host := h.netnsOf("a"), "/run/netns/"+h.out, "/run/netns/"+h.ns
	const rate = 1000
	for _, c := range []struct{ listen, prefix string }{{outV4 + ":5001", outV4 + "/32"}, {"[" + outV6 + "]:5001", outV6 + "/128"}} {
		r := h.peer(out, "udp-receive "+c.listen)
		s := h.peer(a, fmt.Sprintf("udp-send %s %d", c.listen, rate))
		time.Sleep(500 * time.Millisecond)
		h.must("nsenter", "--net="+host, "ip", "route", "add", "blackhole", c.prefix)
		time.Sleep(2 * time.Second)
		h.must("nsenter", "--net="+host, "ip", "route", "del", "blackhole", c.prefix)
		time.Sleep(time.Second)
		sent, got := s.end(), r.end()
		// What the switch is told of it in: the burst of changes that is awaited, and an apply.
		if lost := sent.Sent - got.Received; lost < rate || lost > 3*rate || got.Received < rate || len(got.From) != 1 {
			t.Errorf("%s: %d sent, %d lost in two seconds without a route, seen from %v", c.prefix, sent.Sent, lost, got.From)
		}
	}
}

// TestNeighbours: what other processes with root's rights do to the host's devices
// and to what is attached to them. Each time the container talks to the outside,
// and the outside to it, again by itself, and at once.
func TestNeighbours(t *testing.T) {
	h := newHost(t)
	h.start()
	h.background(h.out, h.hello, "serve")
	h.gh("run", "-d", "--name", "web", "-p", "8080:80", image)
	netns := h.netnsOf("web")
	rules := func() string {
		all := h.must("nsenter", "--net=/run/netns/"+h.ns, "nft", "list", "ruleset")
		for _, c := range []string{"iptables-save", "ip6tables-save"} {
			if _, err := exec.LookPath(c); err != nil {
				continue
			}
			for line := range strings.Lines(h.must("nsenter", "--net=/run/netns/"+h.ns, c)) {
				if !strings.HasPrefix(line, "#") { // they tell the time
					all += line
				}
			}
		}
		return all
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Log("nft is not here: rules are not compared")
		rules = func() string { return "" }
	}
	before := rules()
	in := func(words ...string) (string, error) {
		return h.at(h.ns, append([]string{"nsenter", "--net=" + netns}, words...)...)
	}
	host, out := "/run/netns/"+h.ns, "/run/netns/"+h.out
	// ways are what must work: by NAT and by the published port, in both families.
	ways := func(v4, v6 string) map[string]func() error {
		return map[string]func() error{
			"outside by NAT":     func() error { _, err := in(h.hello, "tcp", outV4+":7", "x"); return err },
			"outside by NAT, v6": func() error { _, err := in(h.hello, "tcp", "["+outV6+"]:7", "x"); return err },
			"published":          func() error { _, err := h.at(h.out, h.hello, "get", "-t", "1", "http://"+v4+":8080/"); return err },
			"published v6":       func() error { _, err := h.at(h.out, h.hello, "get", "-t", "1", "http://["+v6+"]:8080/"); return err },
		}
	}
	mtu := func() string {
		out, err := in("ip", "-o", "link", "show", "eth0") // /sys is another namespace's
		if err != nil {
			return err.Error()
		}
		_, rest, _ := strings.Cut(out, " mtu ")
		n, _, _ := strings.Cut(rest, " ")
		return n
	}
	sh := func(netns, line string) func() {
		return func() { h.must("nsenter", "--net="+netns, "sh", "-ec", line) }
	}
	const mended = 5 * time.Second // on a machine that does a lot beside; what it took is in the log
	for _, c := range []struct {
		what   string
		do     func()
		v4, v6 string
		also   func() bool
	}{
		{what: "clsact of every device deleted", do: sh(host, `for d in $(ip -o link | cut -d: -f2 | cut -d@ -f1); do tc qdisc del dev $d clsact 2>/dev/null || true; done`)},
		{what: "the container's device deleted", do: sh(host, `ip -o link | grep -o 'gh...p[0-9a-f]*' | grep . | xargs -n 1 ip link del`)},
		{what: "the uplink goes down and up", do: sh(host, `ip link set wire down; sleep 0.3; ip link set wire up; ip -6 addr replace `+hostV6+`/64 dev wire nodad
			ip route replace default via `+outV4+`; ip -6 route replace default via `+outV6)},
		{what: "the uplink gets another MAC", do: func() {
			sh(host, "ip link set wire address 02:00:00:00:12:34")()
			sh(out, "ip neigh flush dev wire")()
		}},
		{what: "the uplink gets another address", v4: "198.51.100.9", do: sh(host, "ip addr del "+hostV4+"/24 dev wire; ip addr add 198.51.100.9/24 dev wire; ip route replace default via "+outV4)},
		{what: "and the first one again", do: sh(host, "ip addr del 198.51.100.9/24 dev wire; ip addr add "+hostV4+"/24 dev wire; ip route replace default via "+outV4)},
		{what: "the uplink gets another MTU", do: func() { sh(host, "ip link set wire mtu 1400")(); sh(out, "ip link set wire mtu 1400")() },
			also: func() bool { return mtu() == "1400" }},
		{what: "the uplink goes and another comes by its name", do: func() {
			sh(host, "ip link del wire; ip link add wire type veth peer name wire netns "+out+"; ip addr add "+hostV4+"/24 dev wire; ip addr add "+hostV6+"/64 dev wire nodad; ip link set wire up")()
			sh(out, "ip addr add "+outV4+"/24 dev wire; ip addr add "+outV6+"/64 dev wire nodad; ip link set wire up")()
			sh(host, "ip route add default via "+outV4+"; ip -6 route add default via "+outV6)()
		}, also: func() bool { return mtu() == "1500" }},
	} {
		t.Run(c.what, func(t *testing.T) {
			defer h.in(t)()
			c.do()
			if c.v4 == "" {
				c.v4 = hostV4
			}
			if c.v6 == "" {
				c.v6 = hostV6
			}
			start := time.Now()
			for way, ok := range ways(c.v4, c.v6) {
				var err error
				for err = ok(); err != nil && time.Since(start) < mended; err = ok() {
				}
				if err != nil {
					t.Errorf("%s: %v", way, err)
				}
			}
			if c.also != nil {
				eventually(t, mended, "the container's device follows", c.also)
			}
			t.Logf("all well after %v", time.Since(start).Round(time.Millisecond))
		})
	}
	if now := rules(); now != before {
		t.Errorf("netfilter's rules were\n%sand are\n%s", before, now)
	}
	// What was put right is told of.
	var told bool
	uplink := map[string]bool{}
	for line := range strings.Lines(h.gh("events", "--since", "1h", "--until", "0s", "-o", "json")) {
		var e struct {
			Name, Kind, ID string
			Data           struct{ Change string }
		}
		if json.Unmarshal([]byte(line), &e) == nil && e.Name == "AttachmentRepaired" && e.Kind == "switch" {
			told = true
		}
		if e.Name == "UplinkChanged" && e.Kind == "uplink" && e.ID == "wire" {
			uplink[e.Data.Change] = true
		}
	}
	if !told {
		t.Error("no event AttachmentRepaired")
	}
	if !uplink["gone"] || !uplink["added"] {
		t.Errorf("events UplinkChanged tell %v, want gone and added", uplink)
	}
	for _, want := range []string{`gatehouse_switch_repairs_total{damage="gone"} `, `gatehouse_uplink_changes_total{change="gone"} `, `gatehouse_switch_repair_errors_total 0`} {
		if m := h.gh("metrics"); !strings.Contains(m, want) || strings.Contains(m, `damage="gone"} 0`) {
			t.Errorf("metrics lack %s", want)
		}
	}
}
