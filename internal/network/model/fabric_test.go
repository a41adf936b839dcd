// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"net/netip"
	"slices"
	"testing"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

// TestByGateway: where no port stands for the host, what is handed to the host's stack
// has a route there, which outbound NAT leaves alone, and the host's own endpoint is
// told as such.
func TestByGateway(t *testing.T) {
	b := newBench(t)
	b.in.Uplinks = func() []Uplink { return []Uplink{{Name: "wire", Ifindex: 5, Default: true}} }
	n := b.network(`{"Name":"a","Type":"L2Bridge","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.79.0.0/24","Routes":[{"NextHop":"10.79.0.1","DestinationPrefix":"0.0.0.0/0"}]}]}]}`)
	host := b.endpoint(n.Doc.Id, `{}`)
	b.attach(b.namespace(`{"NamespaceId":1}`).Doc.Id, host.Doc.Id)
	pod := b.endpoint(n.Doc.Id, `{"Policies":[{"Type":"OutBoundNAT","Settings":{}},{"Type":"SDNRoute","Settings":{"DestinationPrefix":"10.96.0.0/12","NeedEncap":true}}]}`)
	b.attach(b.namespace(`{}`).Doc.Id, pod.Doc.Id)
	for _, p := range flat(b.w).Switch.Ports {
		if want := p.Object == host.Doc.Id; p.Host != want || p.Host && p.Kind != vswitch.PortVM {
			t.Errorf("%+v", p)
		}
		if want := []vswitch.Route{{Prefix: netip.MustParsePrefix("10.96.0.0/12"), To: vswitch.RouteHost}}; p.Object == pod.Doc.Id && !slices.Equal(p.Routes, want) {
			t.Errorf("routes %+v", p.Routes)
		}
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
		i := slices.IndexFunc(flat(b.w).Switch.Ports, func(p vswitch.Port) bool { return p.Object == e.Doc.Id })
		if i < 0 || flat(b.w).Switch.Ports[i].Forward != want {
			t.Errorf("%s: port %d of %+v", body, i, flat(b.w).Switch.Ports)
		}
	}
}
