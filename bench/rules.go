// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

// ruleCounts are how many rules a first packet may have to pass before the one
// that lets it. None of them matches.
var ruleCounts = []int{1, 100, 10000}

// stranger is the source that rule i forbids.
func stranger(family, i int) string {
	if family == 6 {
		return fmt.Sprintf("fd00:66::%x", i+1)
	}
	return fmt.Sprintf("10.66.%d.%d", (i+1)>>8, (i+1)&255)
}

// strangerPort is the port that rule i forbids it.
func strangerPort(i int) int { return 9000 + i%100 }

// nftRules are n rules in a chain of both families' firewall.
func nftRules(family, n int) string {
	word := "ip"
	if family == 6 {
		word = "ip6"
	}
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%s saddr %s udp dport %d drop\n", word, stranger(family, i), strangerPort(i))
	}
	return b.String()
}

// nftSet is one rule with a set of n elements.
func nftSet(family, n int) string {
	word := "ip"
	if family == 6 {
		word = "ip6"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s saddr . udp dport { ", word)
	for i := range n {
		fmt.Fprintf(&b, "%s . %d, ", stranger(family, i), strangerPort(i))
	}
	b.WriteString("} drop\n")
	return b.String()
}

func iptablesRules(family, n int) string {
	var b strings.Builder
	b.WriteString("*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED,UNTRACKED -j ACCEPT\n")
	for i := range n {
		fmt.Fprintf(&b, "-A FORWARD -s %s -p udp -m udp --dport %d -j DROP\n", stranger(family, i), strangerPort(i))
	}
	b.WriteString("-A FORWARD -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n")
	return b.String()
}

// iptablesBridge is a bridge with a firewall of iptables.
func (s *scope) iptablesBridge(family, n int) *path {
	p, host := s.filtered(fmt.Sprintf("iptables, %d rules", n), fmt.Sprintf("ipt%d", n))
	restore := "iptables-restore"
	if family == 6 {
		restore = "ip6tables-restore"
	}
	p.once = map[string]float64{colSync: host.timed(iptablesRules(family, n), restore)}
	return p
}

// nftBridge is one of nftables, with n rules or one rule and a set.
func (s *scope) nftBridge(family, n int, set bool) *path {
	label, name, rules := fmt.Sprintf("nftables, %d rules", n), fmt.Sprintf("nft%d", n), nftRules(family, n)
	if set {
		label, name, rules = fmt.Sprintf("nftables, set of %d", n), fmt.Sprintf("nfs%d", n), nftSet(family, n)
	}
	p, host := s.filtered(label, name)
	p.once = map[string]float64{colSync: host.timed(fmt.Sprintf(forwardRules, rules), "nft", "-f", "-")}
	return p
}

// switchRules is our switch with a set of rules at the server's port: n rules, or
// one that refers to a set of n addresses.
func (s *scope) switchRules(family, i, n int, set bool) *path {
	label, name := fmt.Sprintf("%s, %d rules", ours, n), fmt.Sprintf("sw%d", n)
	if set {
		label, name = fmt.Sprintf("%s, set of %d", ours, n), fmt.Sprintf("sws%d", n)
	}
	h := s.switchHost(name, i, natFlags)
	client, _ := h.container(name + "-c")
	server, sp := h.container(name + "-s")
	h.apply()
	if s.err != nil {
		return &path{}
	}
	acl := vswitch.ACLSet{ID: 1, Name: "bench"}
	var strangers []netip.Prefix
	for j := range n {
		a := netip.MustParseAddr(stranger(family, j))
		strangers = append(strangers, netip.PrefixFrom(a, a.BitLen()))
	}
	rule := vswitch.ACLRule{Direction: vswitch.ACLIn, Action: vswitch.ACLBlock, Protocols: []uint8{unix.IPPROTO_UDP}}
	port := func(j int) []vswitch.PortRange {
		return []vswitch.PortRange{{First: uint16(strangerPort(j)), Last: uint16(strangerPort(j))}}
	}
	if set {
		h.State.AddrSets = []vswitch.AddrSet{{ID: 1, Name: "strangers", Prefixes: strangers}}
		rule.ID, rule.RemoteSets = 1, []vswitch.AddrSetID{1}
		acl.Rules = []vswitch.ACLRule{rule}
	} else {
		for j, p := range strangers {
			rule.ID, rule.Priority, rule.Remote, rule.LocalPorts = vswitch.RuleID(j+1), uint32(j), []netip.Prefix{p}, port(j)
			acl.Rules = append(acl.Rules, rule)
		}
	}
	at := slices.IndexFunc(h.State.Ports, func(p vswitch.Port) bool { return p.ID == sp.ID })
	sets := h.State.AddrSets
	var sync series
	for range onceRounds {
		h.State.ACLs, h.State.AddrSets, h.State.Ports[at].ACLs = nil, nil, nil
		h.apply()
		h.State.ACLs, h.State.AddrSets, h.State.Ports[at].ACLs = []vswitch.ACLSet{acl}, sets, []vswitch.ACLID{1}
		a := h.apply()
		sync = append(sync, ms(a.Compile+a.Apply))
	}
	a4, a6 := h.addrsOf(sp.ID)
	return s.withOnce(h.path(label, client, server, "eth0", a4, a6), map[string]float64{colSync: sync.median()})
}

// benchRules: container to container past rules of which none matches.
func benchRules(b *bench, r *report, rounds int) error {
	return eachFamily(b, r, rounds, func(s *scope, family int) *contest {
		c := &contest{
			title: "Rules", metrics: []metric{metricPPS, metricFlows},
			notes: []string{"No rule matches; the last thing said is to let it pass. Netfilter's chains let established connections pass first. Sync: all rules told to a switch or chain that has none."},
		}
		last := ruleCounts[len(ruleCounts)-1]
		for i, n := range ruleCounts {
			c.paths = append(c.paths, s.switchRules(family, i, n, false))
		}
		c.paths = append(c.paths, s.switchRules(family, len(ruleCounts), last, true))
		for _, n := range ruleCounts {
			c.paths = append(c.paths, s.nftBridge(family, n, false))
		}
		c.paths = append(c.paths, s.nftBridge(family, last, true))
		for _, n := range ruleCounts {
			c.paths = append(c.paths, s.iptablesBridge(family, n))
		}
		name := func(kind string, n int) string { return fmt.Sprintf("%s, %d rules", kind, n) }
		for _, n := range ruleCounts {
			c.goals = append(c.goals, goal{colKpps, name(ours, n), name("nftables", n), 1.60})
		}
		for _, n := range ruleCounts {
			c.goals = append(c.goals, goal{colFlows, name(ours, n), name("nftables", n), 0}, goal{colFlows, name(ours, n), name("iptables", n), 0})
		}
		c.goals = append(c.goals,
			goal{colFlows, fmt.Sprintf("%s, set of %d", ours, last), fmt.Sprintf("nftables, set of %d", last), 0},
			goal{colFlows, name(ours, last), name(ours, 1), 0})
		return c
	})
}
