// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

func (b *bench) route(body string) *SDNRoute {
	b.t.Helper()
	w, r, _, err := b.w.CreateSDNRoute([]byte(body), b.in)
	if err != nil {
		b.t.Fatalf("create SDN route %s: %v", body, err)
	}
	b.w = w
	return r
}

func (b *bench) reserve(body string) *Reservation {
	b.t.Helper()
	w, r, _, err := b.w.ReservePorts([]byte(body), b.in)
	if err != nil {
		b.t.Fatalf("reserve %s: %v", body, err)
	}
	b.w = w
	return r
}

// routesOf the port of an endpoint, as text, and whether it forwards.
func (b *bench) routesOf(e *Endpoint) (out string, forward bool) {
	for _, p := range flat(b.w).Switch.Ports {
		if p.Object != e.Doc.Id {
			continue
		}
		for _, r := range p.Routes {
			out += fmt.Sprintf("%s>%d,%s ", r.Prefix, r.To, r.Via)
		}
		forward = p.Forward
	}
	return strings.TrimSpace(out), forward
}

func TestSDNRoutes(t *testing.T) {
	b, a, c, _ := balancedBench(t)
	r := b.route(fmt.Sprintf(`{"HostComputeEndpoints":[%q],"Setting":[{"DestinationPrefix":"192.0.2.9/24","NextHop":"10.1.0.3","AutomaticEndpointMonitor":true}]}`, strings.ToUpper(a.Doc.Id)))
	if got, _ := b.routesOf(a); got != "192.0.2.0/24>5,10.1.0.3" {
		t.Errorf("routes of a: %q", got)
	}
	if _, forward := b.routesOf(c); !forward {
		t.Error("the next hop does not forward")
	}
	raw, _ := Encode(r.Doc)
	list := `[{"DestinationPrefix":"192.0.2.9/24","NextHop":"10.1.0.3","AutomaticEndpointMonitor":true}]`
	if s := string(raw); !strings.Contains(s, `"Setting":`+list) || !strings.Contains(s, `"Routes":`+list) || !strings.Contains(s, `"HostComputeEndpoints":["`+a.Doc.Id+`"]`) {
		t.Errorf("document %s", raw)
	}
	// PowerShell's spelling, whole and wrapped.
	w, r, err := b.w.ModifySDNRoute(r.Doc.ID, fmt.Appendf(nil, `{"HostComputeEndpoints":[%q,%q],"Routes":[{"DestinationPrefix":"10.96.0.0/12","NeedEncap":true}]}`, a.Doc.Id, c.Doc.Id), 1)
	if err != nil || r.Doc.Version != 2 {
		t.Fatal(r, err)
	}
	b.w = w
	for _, e := range []*Endpoint{a, c} {
		if got, forward := b.routesOf(e); got != "10.96.0.0/12>4,invalid IP" || forward {
			t.Errorf("routes of %s: %q, forwards %v", e.Doc.Name, got, forward)
		}
	}
	if p := flat(b.w).Switch.Ports[0]; p.Kind != vswitch.PortHost || !p.Forward {
		t.Errorf("the host port does not forward: %+v", p)
	}
	for _, tc := range []struct {
		body, field string
		code        hcn.ErrorCode
	}{
		{`{"Setting":[{"DestinationPrefix":"10.0.0.0/8","NeedEncap":true}]}`, "HostComputeEndpoints", hcn.E_INVALID_PARAMETER},
		{`{"HostComputeEndpoints":["` + guid(9) + `"],"Setting":[{"DestinationPrefix":"10.0.0.0/8","NeedEncap":true}]}`, "HostComputeEndpoints[0]", hcn.HCN_E_ENDPOINT_NOT_FOUND},
		{`{"HostComputeEndpoints":["` + b.w.FindEndpoints(Filter{"Name": "far"})[0].Doc.Id + `"],"Setting":[{"DestinationPrefix":"10.0.0.0/8","NeedEncap":true}]}`, "HostComputeEndpoints[0]", hcn.HCN_E_ENDPOINT_NOT_LOCAL},
		{`{"HostComputeEndpoints":["` + a.Doc.Id + `"]}`, "Setting", hcn.E_INVALID_PARAMETER},
		{`{"HostComputeEndpoints":["` + a.Doc.Id + `"],"Setting":[{"DestinationPrefix":"x","NeedEncap":true}]}`, "Setting[0].DestinationPrefix", hcn.HCN_E_INVALID_PREFIX},
		{`{"HostComputeEndpoints":["` + a.Doc.Id + `"],"Setting":[{"DestinationPrefix":"10.1.0.0/24","NeedEncap":true}]}`, "Setting[0].DestinationPrefix", hcn.HCN_E_INVALID_POLICY},
		{`{"HostComputeEndpoints":["` + a.Doc.Id + `"],"Setting":[{"DestinationPrefix":"10.0.0.0/8"}]}`, "Setting[0].NextHop", hcn.HCN_E_INVALID_POLICY},
		{`{"HostComputeEndpoints":["` + a.Doc.Id + `"],"Setting":[{"DestinationPrefix":"10.0.0.0/8","NextHop":"fd00::1"}]}`, "Setting[0].NextHop", hcn.HCN_E_INVALID_IP},
		{`{"HostComputeEndpoints":["` + a.Doc.Id + `"],"Setting":[{"DestinationPrefix":"10.0.0.0/8","NextHop":"10.7.0.1"}]}`, "Setting[0].NextHop", hcn.HCN_E_INVALID_IP},
		{`{"HostComputeEndpoints":["` + a.Doc.Id + `"],"Setting":[{"DestinationPrefix":"10.0.0.0/8","NeedEncap":"x"}]}`, "Setting[0].NeedEncap", hcn.HCN_E_INVALID_POLICY},
		{`{"HostComputeEndpoints":["` + a.Doc.Id + `"],"Setting":[{"DestinationPrefix":"10.97.1.1/12","NeedEncap":true}]}`, "Setting[0].DestinationPrefix", hcn.HCN_E_POLICY_ALREADY_EXISTS},
		{`{"HostComputeEndpoints":["` + a.Doc.Id + `"],"Setting":[{"DestinationPrefix":"10.0.0.0/8","NeedEncap":true},{"DestinationPrefix":"10.0.0.0/8","NextHop":"10.1.0.3"}]}`, "Setting[1].DestinationPrefix", hcn.HCN_E_POLICY_ALREADY_EXISTS},
	} {
		_, _, _, err := b.w.CreateSDNRoute([]byte(tc.body), b.in)
		if err == nil {
			t.Errorf("%s: accepted", tc.body)
			continue
		}
		t.Log(err)
		code(t, err, tc.code, tc.field)
	}
	if b.w, err = b.w.DeleteEndpoint(a.Doc.Id, 0, b.in); err != nil {
		t.Fatal(err)
	}
	if r, ok := b.w.SDNRoute(r.Doc.ID); !ok || len(r.Doc.HostComputeEndpoints) != 1 || r.Doc.Version != 3 {
		t.Errorf("after one endpoint went: %v", r)
	}
	if b.w, err = b.w.DeleteEndpoint(c.Doc.Id, 0, b.in); err != nil {
		t.Fatal(err)
	}
	if len(b.w.AllSDNRoutes()) != 0 || b.w.hops.len() != 0 || flat(b.w).Switch.Ports[0].Forward {
		t.Error("the route outlived its last endpoint")
	}
	_, err = b.w.DeleteSDNRoute(r.Doc.ID, 0)
	code(t, err, hcn.E_ELEMENT_NOT_FOUND, "")
}

// TestSDNRoutePolicies: an endpoint's own routes, as flannel and Calico give them.
func TestSDNRoutePolicies(t *testing.T) {
	b, a, c, _ := balancedBench(t)
	const route = `{"Type":"SDNRoute","Settings":{"DestinationPrefix":"10.96.0.0/12","NeedEncap":true}}`
	const via = `{"Type":"SDNRoute","Settings":{"DestinationPrefix":"192.0.2.7/24","NextHop":"10.1.0.3"}}`
	for _, verb := range []string{"Add", "Add", "Update"} { // the same again is no error
		if _, err := b.modifyEndpoint(a.Doc.Id, verb, route+","+via); err != nil {
			t.Fatal(err)
		}
	}
	want := "10.96.0.0/12>4,invalid IP 192.0.2.0/24>5,10.1.0.3"
	if got, _ := b.routesOf(a); got != want {
		t.Errorf("routes %q, want %q", got, want)
	}
	if _, forward := b.routesOf(c); !forward || !flat(b.w).Switch.Ports[0].Forward {
		t.Error("who is a next hop does not forward")
	}
	_, err := b.modifyEndpoint(a.Doc.Id, "Add", `{"Type":"SDNRoute","Settings":{"DestinationPrefix":"192.0.2.0/24","NeedEncap":true}}`)
	code(t, err, hcn.HCN_E_POLICY_ALREADY_EXISTS, "Settings.Policies[2].Settings")
	_, err = b.modifyEndpoint(a.Doc.Id, "Add", `{"Type":"SDNRoute","Settings":{"DestinationPrefix":"10.1.0.0/24","NeedEncap":true}}`)
	code(t, err, hcn.HCN_E_INVALID_POLICY, "Settings.Policies[2].Settings.DestinationPrefix")
	_, err = b.modifyEndpoint(a.Doc.Id, "Add", `{"Type":"SDNRoute","Settings":{"DestinationPrefix":"10.0.0.0/8","NextHop":7}}`)
	code(t, err, hcn.HCN_E_INVALID_POLICY, "Settings.Policies[2].Settings.NextHop")
	// One prefix has one route, by whichever document.
	_, _, _, err = b.w.CreateSDNRoute(fmt.Appendf(nil, `{"HostComputeEndpoints":[%q],"Setting":[{"DestinationPrefix":"10.96.0.0/12","NextHop":"10.1.0.3"}]}`, a.Doc.Id), b.in)
	code(t, err, hcn.HCN_E_POLICY_ALREADY_EXISTS, "Setting[0].DestinationPrefix", "a policy of its own")
	b.route(fmt.Sprintf(`{"HostComputeEndpoints":[%q],"Setting":[{"DestinationPrefix":"10.200.0.0/16","NeedEncap":true}]}`, a.Doc.Id))
	_, err = b.modifyEndpoint(a.Doc.Id, "Add", `{"Type":"SDNRoute","Settings":{"DestinationPrefix":"10.200.0.0/16","NeedEncap":true}}`)
	code(t, err, hcn.HCN_E_POLICY_ALREADY_EXISTS, "Settings", "SDN route")
	if _, err := b.modifyEndpoint(a.Doc.Id, "Remove", via); err != nil {
		t.Fatal(err)
	}
	if _, forward := b.routesOf(c); forward {
		t.Error("who was a next hop still forwards")
	}
	if _, err := b.modifyEndpoint(a.Doc.Id, "Remove", `{"Type":"SDNRoute"}`); err != nil {
		t.Fatal(err)
	}
	if got, _ := b.routesOf(a); got != "10.200.0.0/16>4,invalid IP" {
		t.Errorf("routes %q", got)
	}
	if b.w, err = b.w.DeleteEndpoint(a.Doc.Id, 0, b.in); err != nil || b.w.hops.len() != 0 {
		t.Error(err, b.w.hops.len())
	}
}

// held are ports of the host that others have.
type heldPorts map[uint16]bool

func (h heldPorts) Check(p HostPort) error {
	if h[p.Port] {
		return errors.New("in use by a program")
	}
	return nil
}

func (h heldPorts) Free([]HostPort, func(uint16) bool) (uint16, error) { return 0, errors.New("none") }

func TestReservations(t *testing.T) {
	b, a, _, _ := balancedBench(t)
	b.in.Ports = heldPorts{61001: true, 7: true}
	r := b.reserve(`{"Protocol":1,"Access":1,"StartingPort":8000,"EndingPort":8009}`)
	if d := r.Doc; d.ID == "" || d.Version != 1 || d.Owner != "uid:0" || d.StartingPort != 8000 || d.EndingPort != 8009 {
		t.Errorf("%+v", d)
	}
	if n := len(flat(b.w).HostPorts); n != 10 {
		t.Errorf("%d ports are held, want 10", n)
	}
	chosen := b.reserve(`{"Protocol":3,"Count":3,"Access":2}`)
	if chosen.Doc.StartingPort != 61002 || chosen.Doc.EndingPort != 61004 {
		t.Errorf("chosen %+v", chosen.Doc)
	}
	b.reserve(`{"Protocol":2,"StartingPort":8000,"EndingPort":8009}`) // another protocol
	b.reserve(`{"Protocol":2,"Access":2,"StartingPort":61003}`)       // shared by both
	for _, tc := range []struct {
		body, field string
		code        hcn.ErrorCode
	}{
		{`{"StartingPort":1}`, "Protocol", hcn.E_INVALID_PARAMETER},
		{`{"Protocol":4,"StartingPort":1}`, "Protocol", hcn.E_INVALID_PARAMETER},
		{`{"Protocol":1,"Access":3,"StartingPort":1}`, "Access", hcn.E_INVALID_PARAMETER},
		{`{"Protocol":1,"StartingPort":2,"EndingPort":1}`, "EndingPort", hcn.E_INVALID_PARAMETER},
		{`{"Protocol":1,"EndingPort":1}`, "EndingPort", hcn.E_INVALID_PARAMETER},
		{`{"Protocol":1,"StartingPort":1,"EndingPort":1025}`, "EndingPort", hcn.E_INVALID_PARAMETER},
		{`{"Protocol":1,"Count":1025}`, "Count", hcn.E_INVALID_PARAMETER},
		{`{"Protocol":1,"StartingPort":65535,"Count":2}`, "Count", hcn.E_INVALID_PARAMETER},
		{`{"Protocol":1,"StartingPort":5,"EndingPort":6,"Count":3}`, "Count", hcn.E_INVALID_PARAMETER},
		{`{"Protocol":3,"StartingPort":8009}`, "", hcn.HCN_E_PORT_ALREADY_EXISTS},
		{`{"Protocol":1,"Access":2,"StartingPort":8009}`, "", hcn.HCN_E_PORT_ALREADY_EXISTS},
		{`{"Protocol":1,"StartingPort":7}`, "", hcn.HCN_E_PORT_ALREADY_EXISTS},
	} {
		_, _, _, err := b.w.ReservePorts([]byte(tc.body), b.in)
		if err == nil {
			t.Errorf("%s: accepted", tc.body)
			continue
		}
		code(t, err, tc.code, tc.field)
	}
	// Nobody publishes a reserved port, but who says that it is his.
	publish := `{"Policies":[{"Type":"PortMapping","Settings":{"Protocol":6,"ExternalPort":8003,"Flags":%d}}]}`
	_, _, _, err := b.w.CreateEndpoint("ten", fmt.Appendf(nil, publish, 0), b.in)
	code(t, err, hcn.HCN_E_PORT_ALREADY_EXISTS, "", "port reservation "+r.Doc.ID)
	_, _, _, err = b.w.CreateLoadBalancer(fmt.Appendf(nil, `{"HostComputeEndpoints":[%q],"PortMappings":[{"Protocol":6,"ExternalPort":8003}]}`, a.Doc.Id), b.in)
	code(t, err, hcn.HCN_E_PORT_ALREADY_EXISTS, "", "port reservation "+r.Doc.ID)
	b.endpoint("ten", fmt.Sprintf(publish, 4))
	_, _, _, err = b.w.CreateEndpoint("ten", fmt.Appendf(nil, publish, 4), b.in)
	code(t, err, hcn.HCN_E_PORT_ALREADY_EXISTS, "")
	if b.w, err = b.w.ReleasePorts(r.Doc.ID, 0); err != nil {
		t.Fatal(err)
	}
	_, err = b.w.ReleasePorts(r.Doc.ID, 0)
	code(t, err, hcn.E_ELEMENT_NOT_FOUND, "")
	b.balancer(fmt.Sprintf(`{"HostComputeEndpoints":[%q],"PortMappings":[{"Protocol":6,"ExternalPort":8004}]}`, a.Doc.Id))
}

func TestRemoteEndpoints(t *testing.T) {
	b, a, _, far := balancedBench(t)
	if far.Port != 0 || far.Doc.State != StateCreated || far.Doc.MacAddress != "02-11-00-00-00-01" || far.Doc.IpConfigurations[0].PrefixLength != 32 {
		t.Errorf("%+v port %d", far.Doc, far.Port)
	}
	// One address and one MAC for several, also a local one's.
	r := b.endpoint("ten", `{"Flags":1,"IpConfigurations":[{"IpAddress":"10.1.0.2"}],"MacAddress":"`+a.Doc.MacAddress+`"}`)
	b.endpoint("ten", `{"Flags":1,"IpConfigurations":[{"IpAddress":"10.1.0.4"}],"MacAddress":"02-11-00-00-00-01"}`)
	if r.Doc.IpConfigurations[0].PrefixLength != 24 {
		t.Errorf("%+v", r.Doc.IpConfigurations)
	}
	// A local endpoint may ask for it, but it is not handed out.
	if e := b.endpoint("ten", `{}`); e.Doc.IpConfigurations[0].IpAddress != "10.1.0.5" {
		t.Errorf("handed out %s", e.Doc.IpConfigurations[0].IpAddress)
	}
	b.endpoint("ten", `{"IpConfigurations":[{"IpAddress":"10.1.0.4"}]}`)

	ns := b.namespace(`{}`)
	code(t, b.modifyNamespace(ns.Doc.Id, "Endpoint", "Add", "EndpointId", far.Doc.Id), hcn.HCN_E_INVALID_REMOTE_ENDPOINT_OPERATION, "")
	_, _, _, err := b.w.CreateEndpoint("ten", fmt.Appendf(nil, `{"Flags":1,"IpConfigurations":[{"IpAddress":"10.1.0.4"}],"HostComputeNamespace":%q}`, ns.Doc.Id), b.in)
	code(t, err, hcn.HCN_E_INVALID_REMOTE_ENDPOINT_OPERATION, "")
	_, _, err = b.w.ModifyEndpoint(far.Doc.Id, []byte(`{"ResourceType":"Port","RequestType":"Add"}`), 0, b.in)
	code(t, err, hcn.HCN_E_INVALID_REMOTE_ENDPOINT_OPERATION, "ResourceType")

	// On an overlay they are addresses of the switch, once each: the local one's
	// alone, of remote ones the last, none outside the subnets.
	n, _ := b.w.NetworkNamed("ten")
	n.compiled.network.Tunnel = 9
	pa := `"Policies":[{"Type":"ProviderAddress","Settings":{"ProviderAddress":"10.0.0.%d"}}]`
	for i, addr := range []string{"10.1.0.2", "10.1.0.77", "10.1.0.77", "10.96.0.1", "10.1.0.1"} {
		b.endpoint("ten", fmt.Sprintf(`{"Flags":1,"MacAddress":"02-11-00-00-00-01","IpConfigurations":[{"IpAddress":%q}],`+pa+`}`, addr, i))
	}
	rs := flat(b.w).Switch.Remotes
	if len(rs) != 1 || rs[0].Addr != netip.MustParseAddr("10.1.0.77") || rs[0].VTEP != netip.MustParseAddr("10.0.0.2") || rs[0].Network != n.Number {
		t.Errorf("remotes %+v", rs)
	}
}

// TestBalancedOverlay: remote backends of an overlay are those that its subnets or
// routes lead to; clients outside get them by SourceVIP alone.
func TestBalancedOverlay(t *testing.T) {
	b, a, _, far := balancedBench(t)
	n, _ := b.w.NetworkNamed("ten")
	n.compiled.network.Tunnel = 9
	near := b.endpoint("ten", `{"Flags":1,"MacAddress":"02-11-00-00-00-02","IpConfigurations":[{"IpAddress":"10.1.0.77"}],"Policies":[{"Type":"ProviderAddress","Settings":{"ProviderAddress":"10.0.0.5"}}]}`)
	body := `{"HostComputeEndpoints":[%q,%q,%q],"SourceVIP":%q,"PortMappings":[{"Protocol":6,"ExternalPort":%d}]}`
	for port, tc := range map[int]struct {
		vip  string
		want netip.Addr
		flag vswitch.ServiceFlags
	}{
		80: {"10.1.0.250", netip.MustParseAddr("10.1.0.250"), 0},
		81: {"10.0.0.4", netip.Addr{}, vswitch.ServiceLocal},
		82: {"", netip.Addr{}, vswitch.ServiceLocal},
	} {
		b.balancer(fmt.Sprintf(body, a.Doc.Id, near.Doc.Id, far.Doc.Id, tc.vip, port))
		s := b.service(uint16(port))
		if s.SourceVIP != tc.want || s.Flags != tc.flag || len(s.Backends) != 2 || s.Backends[1].Network != n.Number || s.Backends[0].Network != 0 {
			t.Errorf("SourceVIP %q: %+v", tc.vip, s)
		}
	}
	n.compiled.network.Routes = []vswitch.Route{{Prefix: netip.MustParsePrefix("192.0.2.0/24"), To: vswitch.RouteTunnel}}
	b.w.rebalanceNetwork(n.Doc.Id)
	if s := b.service(80); len(s.Backends) != 3 {
		t.Errorf("with a route: %v", addrsOf(s))
	}
}
