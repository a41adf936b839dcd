// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/hcn"
)

// TestProxies: what L4Proxy policies of an endpoint and its network say of destinations.
func TestProxies(t *testing.T) {
	for _, c := range []struct {
		name, typ     string
		network, port []string // settings
		want          string
	}{
		{"all of one protocol", "NAT", nil, []string{`{"IP":"10.1.0.99","Port":"3128","Protocol":6}`}, "6 0.0.0.0/0 10.1.0.99:3128, 6 10.1.0.99/32 -"},
		{"a prefix, of both, in silence", "NAT", nil, []string{`{"IP":"10.1.0.99","Port":"3128","Destination":"203.0.113.0/24","OutboundNat":true}`},
			"6 203.0.113.0/24 10.1.0.99:3128 snat, 17 203.0.113.0/24 10.1.0.99:3128 snat"},
		{"exceptions by both names", "NAT", nil, []string{`{"IP":"10.1.0.99","Port":"1","Protocol":6,"Destination":"10.0.0.0/8","Exceptions":["10.2.0.0/16","fd00::/8"],"ExceptionList":["10.3.0.1"]}`},
			"6 10.0.0.0/8 10.1.0.99:1, 6 10.2.0.0/16 -, 6 10.1.0.99/32 -, 6 10.3.0.1/32 -"},
		{"the longer destination, but for its exceptions", "NAT", nil, []string{`{"IP":"10.1.0.99","Port":"1","Protocol":6}`, `{"IP":"10.1.0.98","Port":"2","Protocol":6,"Destination":"192.0.2.0/24","Exceptions":["192.0.2.7"]}`},
			"6 0.0.0.0/0 10.1.0.99:1, 6 192.0.2.0/24 10.1.0.98:2, 6 10.1.0.99/32 -, 6 192.0.2.7/32 10.1.0.99:1"},
		{"the endpoint's before the network's", "NAT", []string{`{"IP":"10.1.0.99","Port":"1","Protocol":6}`, `{"IP":"10.1.0.99","Port":"1","Protocol":17}`}, []string{`{"IP":"10.1.0.98","Port":"2","Protocol":6}`},
			"6 0.0.0.0/0 10.1.0.98:2, 6 10.1.0.98/32 10.1.0.99:1, 17 0.0.0.0/0 10.1.0.99:1, 17 10.1.0.99/32 -"},
		{"not of the proxy itself", "NAT", []string{`{"IP":"10.1.0.2","Port":"1"}`}, nil, ""},
		{"outside, in the host's name", "NAT", nil, []string{`{"IP":"192.0.2.9","Port":"1","Protocol":6,"OutboundNAT":true}`}, "6 0.0.0.0/0 192.0.2.9:1 snat, 6 192.0.2.9/32 -, nat 192.0.2.9/32"},
		{"outside of what reaches nothing", "Internal", nil, []string{`{"IP":"192.0.2.9","Port":"1","Protocol":6}`}, "6 0.0.0.0/0 192.0.2.9:1, 6 192.0.2.9/32 -"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			list := func(settings []string) string {
				var all []string
				for _, s := range settings {
					all = append(all, `{"Type":"L4Proxy","Settings":`+s+`}`)
				}
				return strings.Join(all, ",")
			}
			b.network(`{"Name":"n","Type":"` + c.typ + `","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.1.0.0/16"}]}],"Policies":[` + list(c.network) + `]}`)
			e := b.attached("n", `{"IpConfigurations":[{"IpAddress":"10.1.0.2"}],"Policies":[`+list(c.port)+`]}`)
			var got []string
			for _, p := range flat(b.w).Switch.Ports {
				if p.ID != e.Port {
					continue
				}
				for _, x := range p.Proxies {
					to := "-"
					if x.To.IsValid() {
						to = x.To.String()
					}
					if x.SNAT {
						to += " snat"
					}
					got = append(got, fmt.Sprintf("%d %s %s", x.Proto, x.Prefix, to))
				}
				for _, r := range p.NAT {
					got = append(got, "nat "+r.Prefix.String())
				}
			}
			if is := strings.Join(got, ", "); is != c.want {
				t.Errorf("got  %s\nwant %s", is, c.want)
			}
		})
	}
}

// A policy of the network comes to endpoints that are there, and goes from them.
func TestNetworkProxy(t *testing.T) {
	b := newBench(t)
	n := b.network(`{"Name":"n","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.1.0.0/16"}]}]}`)
	e := b.attached("n", `{}`)
	count := func() int {
		for _, p := range flat(b.w).Switch.Ports {
			if p.ID == e.Port {
				return len(p.Proxies)
			}
		}
		return -1
	}
	one := `{"Type":"L4Proxy","Settings":{"IP":"10.1.0.99","Port":"1","Protocol":6,"Destination":"192.0.2.0/24"}}`
	two := `{"Type":"L4Proxy","Settings":{"IP":"10.1.0.99","Port":"1","Protocol":6,"Destination":"192.0.3.0/24"}}`
	for _, c := range []struct {
		verb, policies string
		want           int
	}{{"Add", one + "," + two, 2}, {"Add", one, 2}, {"Remove", two, 1}, {"Update", two, 1}, {"Remove", `{"Type":"L4Proxy"}`, 0}} {
		if err := b.modifyNetwork(n.Doc.Id, c.verb, c.policies); err != nil {
			t.Fatal(err)
		}
		if got := count(); got != c.want {
			t.Errorf("%s %s: %d proxies, want %d", c.verb, c.policies, got, c.want)
		}
	}
}

func TestInvalidProxies(t *testing.T) {
	b := newBench(t)
	b.network(`{"Name":"n","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.1.0.0/16"}]}]}`)
	for _, c := range []struct {
		settings string
		code     hcn.ErrorCode
		field    string
	}{
		{`{"IP":"proxy","Port":"1"}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.IP"},
		{`{"IP":"127.0.0.1","Port":"1"}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.IP"},
		{`{"IP":"10.1.0.9"}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.Port"},
		{`{"IP":"10.1.0.9","Port":"65536"}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.Port"},
		{`{"IP":"10.1.0.9","Port":3128}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.Port"},
		{`{"IP":"10.1.0.9","Port":"1","Protocol":1}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.Protocol"},
		{`{"IP":"10.1.0.9","Port":"1","Destination":"fd00::/8"}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.Destination"},
		{`{"IP":"10.1.0.9","Port":"1","Exceptions":["10.0.0.0/8","x"]}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.Exceptions[1]"},
		{`{"IP":"10.1.0.2","Port":"1"}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.IP"},
		{`{"IP":"10.1.0.9","Port":"1"}},{"Type":"L4Proxy","Settings":{"IP":"10.1.0.9","Port":"2","Protocol":17}`, hcn.HCN_E_POLICY_ALREADY_EXISTS, "Policies[1].Settings"},
	} {
		_, _, _, err := b.w.CreateEndpoint("n", []byte(`{"IpConfigurations":[{"IpAddress":"10.1.0.2"}],"Policies":[{"Type":"L4Proxy","Settings":`+c.settings+`}]}`), b.in)
		code(t, err, c.code, c.field)
	}
}
