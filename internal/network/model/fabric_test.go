// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"net/netip"
	"slices"
	"testing"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

// TestByGateway: where no port stands for the host, what is handed to the host keeps its
// address, whatever outbound NAT says about parts of it, and follows the endpoint's own
// routes; other routes stay.
func TestByGateway(t *testing.T) {
	p := netip.MustParsePrefix
	via := vswitch.Route{Prefix: p("10.9.0.0/16"), To: vswitch.RouteVia, Via: netip.MustParseAddr("10.79.0.9")}
	host := vswitch.Route{Prefix: p("10.96.0.0/12"), To: vswitch.RouteHost}
	all := vswitch.NATRule{Prefix: p("0.0.0.0/0"), Pool: 1}
	rules := []vswitch.NATRule{all, {Prefix: p("10.97.0.0/16"), Pool: 2}}
	routes, nat := byGateway([]vswitch.Route{host, via}, rules)
	if !slices.Equal(routes, []vswitch.Route{via}) || !slices.Equal(nat, []vswitch.NATRule{all, {Prefix: host.Prefix, Own: true}}) {
		t.Errorf("routes %v, rules %v", routes, nat)
	}
	if len(rules) != 2 || rules[1].Pool != 2 {
		t.Errorf("the caller's rules were changed: %v", rules)
	}
	if _, nat := byGateway([]vswitch.Route{host}, nil); nat != nil {
		t.Errorf("rules without outbound NAT: %v", nat)
	}
}

// TestHostEndpointForwards: in the host's own namespace an endpoint sends from all
// addresses of the host, in another only from its own.
func TestHostEndpointForwards(t *testing.T) {
	b := newBench(t)
	n := b.network(`{"Name":"a","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.1.0.0/24"}]}]}`)
	for body, want := range map[string]bool{`{"NamespaceId":1}`: true, `{}`: false} {
		e := b.endpoint(n.Doc.Id, `{}`)
		b.attach(b.namespace(body).Doc.Id, e.Doc.Id)
		i := slices.IndexFunc(b.w.Desired().Switch.Ports, func(p vswitch.Port) bool { return p.Object == e.Doc.Id })
		if i < 0 || b.w.Desired().Switch.Ports[i].Forward != want {
			t.Errorf("%s: port %d of %+v", body, i, b.w.Desired().Switch.Ports)
		}
	}
}
