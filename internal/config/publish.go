// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Publish says who beyond the host's uplinks reaches published ports and services:
// what is a firewall's rule where the host's own firewall is not passed.
type Publish struct {
	// Default is for clients that no rule is about: open, which is the default, or closed.
	Default string `toml:"default"`
	// Rules, of which the first that is about a client decides: an action (allow,
	// deny, reject), whom it is about (an address, a prefix, or any), and what he
	// calls (tcp, udp, sctp, or one of them with ports: tcp/80,8000-8099); without
	// the last everything.
	Rules []string `toml:"rules"`
}

// Action of a PublishRule.
type Action string

// Actions: Deny is silent, Reject tells the client.
const (
	Allow  Action = "allow"
	Deny   Action = "deny"
	Reject Action = "reject"
)

// PublishRule is one of Publish.Rules, taken apart.
type PublishRule struct {
	Text   string
	Action Action
	From   netip.Prefix // invalid = any
	Proto  uint8        // 0 = any
	Ports  [][2]uint16  // first and last; none = all
}

// maxPublishRules bounds Publish.Rules: our choice, more than a person writes.
const maxPublishRules = 200

// Closed tells that clients without a rule are not let in.
func (p Publish) Closed() bool { return p.Default == "closed" }

// Parsed returns the rules, which Parse has checked.
func (p Publish) Parsed() ([]PublishRule, error) {
	if d := p.Default; d != "" && d != "open" && d != "closed" {
		return nil, fmt.Errorf("default: %q is neither open nor closed", d)
	}
	if len(p.Rules) > maxPublishRules {
		return nil, fmt.Errorf("rules: %d, over %d", len(p.Rules), maxPublishRules)
	}
	var out []PublishRule
	for _, text := range p.Rules {
		r, err := parsePublishRule(text)
		if err != nil {
			return nil, fmt.Errorf("rules: %q: %w; write a rule like \"allow 192.0.2.0/24 tcp/80,443\"", text, err)
		}
		out = append(out, r)
	}
	return out, nil
}

func parsePublishRule(text string) (r PublishRule, err error) {
	words := strings.Fields(text)
	if len(words) < 2 || len(words) > 3 {
		return r, fmt.Errorf("has %d words, not 2 or 3", len(words))
	}
	r.Text, r.Action = strings.Join(words, " "), Action(words[0])
	if r.Action != Allow && r.Action != Deny && r.Action != Reject {
		return r, fmt.Errorf("%q is none of allow, deny, reject", words[0])
	}
	if words[1] != "any" {
		if r.From, err = parseFrom(words[1]); err != nil {
			return r, err
		}
	}
	if len(words) == 2 {
		return r, nil
	}
	proto, ports, some := strings.Cut(words[2], "/")
	switch proto {
	case "tcp":
		r.Proto = 6
	case "udp":
		r.Proto = 17
	case "sctp":
		r.Proto = 132
	default:
		return r, fmt.Errorf("%q is none of tcp, udp, sctp", proto)
	}
	if !some {
		return r, nil
	}
	for _, p := range strings.Split(ports, ",") {
		a, b, isRange := strings.Cut(p, "-")
		if !isRange {
			b = a
		}
		first, err1 := strconv.ParseUint(a, 10, 16)
		last, err2 := strconv.ParseUint(b, 10, 16)
		if err1 != nil || err2 != nil || first == 0 || first > last {
			return r, fmt.Errorf("%q is neither a port nor a range of ports", p)
		}
		r.Ports = append(r.Ports, [2]uint16{uint16(first), uint16(last)})
	}
	return r, nil
}

func parseFrom(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" && !a.Is4In6() {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return p, fmt.Errorf("%q is neither an address nor a prefix nor any", s)
	}
	return p.Masked(), nil
}
