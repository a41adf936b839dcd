// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/instance"
)

func (b *bench) serviceOf(body string) *Service {
	b.t.Helper()
	w, s, _, err := b.w.CreateService([]byte(body), b.in)
	if err != nil {
		b.t.Fatalf("create service %s: %v", body, err)
	}
	b.w = w
	return s
}

func (b *bench) modifyService(id, body string) *Service {
	b.t.Helper()
	w, s, err := b.w.ModifyService(id, []byte(body), 0, b.in)
	if err != nil {
		b.t.Fatalf("modify service %s: %v", body, err)
	}
	b.w = w
	return s
}

// TestServiceIsGiven: what a document leaves open is chosen, kept over a change, and
// given back.
func TestServiceIsGiven(t *testing.T) {
	b := newBench(t)
	body := `{"Name":"web","Type":"LoadBalancer","Ports":[{"Port":80},{"Port":81}]}`
	s := b.serviceOf(body)
	if len(s.cluster) != 2 || !b.in.Services.Cluster[0].Contains(s.cluster[0]) || !b.in.Services.Cluster[1].Contains(s.cluster[1]) {
		t.Errorf("cluster addresses %v", s.cluster)
	}
	if len(s.outside) != 1 || !b.in.Services.LoadBalancer[0].Contains(s.outside[0]) {
		t.Errorf("load balancer addresses %v", s.outside)
	}
	if s.Doc.Ports[0].NodePort != 30000 || s.Doc.Ports[1].NodePort != 30001 {
		t.Errorf("node ports %+v", s.Doc.Ports)
	}
	if _, same, created, err := b.w.CreateService([]byte(body), b.in); err != nil || created || same.Doc.ID != s.Doc.ID {
		t.Errorf("the same again: %v %v", created, err)
	}
	numbers := fmt.Sprint(s.Numbers)
	b.in.IsHost = func(a netip.Addr) bool { return false }
	c := b.modifyService(s.Doc.ID, `{"Ports":[{"Port":81},{"Port":80}],"Backends":["a"]}`)
	if !slices.Equal(c.cluster, s.cluster) || !slices.Equal(c.outside, s.outside) || c.Doc.Ports[0].NodePort != 30001 || fmt.Sprint(c.Numbers) != numbers || c.Doc.Version != 2 {
		t.Errorf("after a change: %+v", c.Doc)
	}
	if len(flat(b.w).HostPorts) != 4 {
		t.Errorf("ports of the host: %v", flat(b.w).HostPorts)
	}
	// A World loaded of its rows is the same.
	inst, err := instance.New("")
	if err != nil {
		t.Fatal(err)
	}
	again, err := Load(inst, b.w.Numbers(), Rows{Services: b.w.AllServices()})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(printDesired(flat(b.w)), printDesired(flat(again))); d != "" {
		t.Error(d)
	}
	w, err := b.w.DeleteService(s.Doc.ID, 2)
	if err != nil {
		t.Fatal(err)
	}
	if d := flat(w); len(d.Names)+len(d.HostPorts)+len(d.Switch.Announced) > 0 || len(servicesOf(w)) > 0 {
		t.Errorf("left over: %+v", d)
	}
	b.w = w
	if again := b.serviceOf(body); !slices.Equal(again.cluster, s.cluster) {
		t.Errorf("made again it has %v, not %v", again.cluster, s.cluster)
	}
}

// TestServiceBackends: who bears a name is a backend while he does.
func TestServiceBackends(t *testing.T) {
	b := newBench(t)
	b.network(tenNet)
	s := b.serviceOf(`{"Name":"web","Ports":[{"Port":80}],"Backends":["one"]}`)
	backends := func() string {
		for _, x := range servicesOf(b.w) {
			if x.Frontends[0].Addr.Is4() {
				return strings.Join(addrsOf(x), " ")
			}
		}
		return "no service"
	}
	want := func(what, want string) {
		t.Helper()
		if got := backends(); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	want("nobody", "")
	ns := b.namespace(`{}`)
	e := b.endpoint("ten", fmt.Sprintf(`{"Name":"One","HostComputeNamespace":%q}`, ns.Doc.Id))
	addr := netip.AddrPortFrom(e.Addr(true), 80)
	want("there", fmt.Sprintf("%s@%d/0", addr, e.Port))
	b.modifyService(s.Doc.ID, `{"Ports":[{"Port":80}],"Backends":["one"],"Draining":["one"]}`)
	want("draining", fmt.Sprintf("%s@%d/1", addr, e.Port))
	b.modifyService(s.Doc.ID, `{"RequestType":"Add","Settings":{"Backends":["one"]}}`)
	want("added again", fmt.Sprintf("%s@%d/0", addr, e.Port))
	for range 2 {
		b.modifyService(s.Doc.ID, `{"RequestType":"Add","Settings":{"Draining":["one"]}}`)
		want("drained alone", fmt.Sprintf("%s@%d/1", addr, e.Port))
	}
	b.modifyService(s.Doc.ID, `{"RequestType":"Remove","Settings":{"Draining":["one"]}}`)
	want("no longer", fmt.Sprintf("%s@%d/0", addr, e.Port))
	b.modifyService(s.Doc.ID, `{"RequestType":"Add","Settings":{"Draining":["one"]}}`)
	b.modifyService(s.Doc.ID, `{"RequestType":"Add","Settings":{"Backends":["ONE"]}}`)
	want("added again", fmt.Sprintf("%s@%d/0", addr, e.Port))
	b.run("detach " + ns.Doc.Id + " " + e.Doc.Id)
	want("detached", "")
	if d := b.w.ServiceDoc(b.w.AllServices()[0]); len(d.Endpoints) != 1 || d.Endpoints[0].State != "NotAttached" {
		t.Errorf("shown as %+v", d.Endpoints)
	}
	b.attach(ns.Doc.Id, e.Doc.Id)
	want("attached", fmt.Sprintf("%s@%d/0", addr, e.Port))
	b.modifyService(s.Doc.ID, `{"RequestType":"Remove","Settings":{"Backends":["one"]}}`)
	want("removed", "")
	b.modifyService(s.Doc.ID, fmt.Sprintf(`{"RequestType":"Add","Settings":{"Backends":[%q]}}`, strings.ToUpper(e.Doc.Id)))
	want("by its id", fmt.Sprintf("%s@%d/0", addr, e.Port))
	b.run("delete-endpoint " + e.Doc.Id)
	want("deleted", "")
}

// TestServiceAddressIsKept: no endpoint gets the address of a service.
func TestServiceAddressIsKept(t *testing.T) {
	b := newBench(t)
	b.network(tenNet)
	b.serviceOf(`{"Name":"web","ClusterIPs":["10.1.0.2"],"Ports":[{"Port":80}]}`)
	if e := b.endpoint("ten", `{}`); e.Addr(true) != netip.MustParseAddr("10.1.0.3") {
		t.Errorf("an endpoint is given %s", e.Addr(true))
	}
	if _, _, _, err := b.w.CreateEndpoint("ten", []byte(`{"IpConfigurations":[{"IpAddress":"10.1.0.2"}]}`), b.in); err == nil || !strings.Contains(err.Error(), "service web") {
		t.Errorf("an endpoint at the service's address: %v", err)
	}
}

// TestServiceRefused: every refusal names the member, and a conflict its holder.
func TestServiceRefused(t *testing.T) {
	b := newBench(t)
	b.network(tenNet)
	e := b.endpoint("ten", `{"Name":"one","Policies":[{"Type":"PortMapping","Settings":{"Protocol":6,"InternalPort":80,"ExternalPort":8080}}]}`)
	s := b.serviceOf(`{"Name":"web","Type":"NodePort","ClusterIPs":["10.96.0.9"],"Ports":[{"Port":80,"NodePort":30000}]}`)
	lb := b.balancer(fmt.Sprintf(`{"HostComputeEndpoints":[%q],"FrontendVIPs":["10.96.0.10"],"PortMappings":[{"Protocol":6,"ExternalPort":80}]}`, e.Doc.Id))
	for body, want := range map[string]struct {
		code  hcn.ErrorCode
		field string
		text  string
	}{
		`{"Name":"a b"}`:                       {hcn.E_INVALID_PARAMETER, "Name", "no DNS name"},
		`{"Name":"x","Type":"Sidecar"}`:        {hcn.E_INVALID_PARAMETER, "Type", "none of"},
		`{"Name":"x"}`:                         {hcn.E_INVALID_PARAMETER, "Ports", "at least one"},
		`{"Name":"web","Ports":[{"Port":80}]}`: {hcn.E_ALREADY_EXISTS, "Name", "web (" + s.Doc.ID},
		`{"Name":"x","ClusterIPs":["10.96.0.9"],"Ports":[{"Port":81}]}`:                         {hcn.HCN_E_INVALID_IP, "ClusterIPs[0]", "service web"},
		`{"Name":"x","ClusterIPs":["10.1.0.1"],"Ports":[{"Port":81}]}`:                          {hcn.HCN_E_INVALID_IP, "ClusterIPs[0]", "gateway of network"},
		`{"Name":"x","ClusterIPs":["` + e.Addr(true).String() + `"],"Ports":[{"Port":81}]}`:     {hcn.HCN_E_INVALID_IP, "ClusterIPs[0]", e.Doc.Id},
		`{"Name":"x","ClusterIPs":["10.96.0.1","10.96.0.2"],"Ports":[{"Port":81}]}`:             {hcn.E_INVALID_PARAMETER, "ClusterIPs[1]", "second of its family"},
		`{"Name":"x","ClusterIPs":["10.96.0.10"],"Ports":[{"Port":80}]}`:                        {hcn.HCN_E_PORT_ALREADY_EXISTS, "Ports", "load balancer " + lb.Doc.Id},
		`{"Name":"x","Type":"NodePort","Ports":[{"Port":80,"NodePort":8080}]}`:                  {hcn.HCN_E_PORT_ALREADY_EXISTS, "Ports[0].NodePort", e.Doc.Id},
		`{"Name":"x","Type":"NodePort","Ports":[{"Port":80,"NodePort":30000}]}`:                 {hcn.HCN_E_PORT_ALREADY_EXISTS, "Ports[0].NodePort", "service web"},
		`{"Name":"x","Type":"NodePort","Ports":[{"Port":1},{"Port":2},{"Port":3}]}`:             {hcn.HCN_E_PORT_ALREADY_EXISTS, "Ports[2].NodePort", "none from 30000 to 30002"},
		`{"Name":"x","Ports":[{"Port":80,"NodePort":7}]}`:                                       {hcn.E_INVALID_PARAMETER, "Ports[0].NodePort", "has none"},
		`{"Name":"x","Ports":[{"Port":80},{"Port":80,"Protocol":"tcp"}]}`:                       {hcn.E_INVALID_PARAMETER, "Ports[1].Port", "also that of"},
		`{"Name":"x","Ports":[{"Port":80,"TargetPort":81,"Protocol":"SCTP"}]}`:                  {hcn.HCN_E_INVALID_INTERNAL_PORT, "Ports[0]", "SCTP"},
		`{"Name":"x","Type":"ExternalName"}`:                                                    {hcn.E_INVALID_PARAMETER, "ExternalName", "no DNS name"},
		`{"Name":"x","Type":"ExternalName","ExternalName":"y","Backends":["one"]}`:              {hcn.E_INVALID_PARAMETER, "Backends", "has none"},
		`{"Name":"x","Ports":[{"Port":1}],"Backends":["00000000-0000-4000-8000-0000000000ff"]}`: {hcn.HCN_E_ENDPOINT_NOT_FOUND, "Backends[0]", "not found"},
		`{"Name":"x","Ports":[{"Port":1}],"Draining":["one"]}`:                                  {hcn.E_INVALID_PARAMETER, "Draining[0]", "none of Backends"},
		`{"Name":"x","Ports":[{"Port":1}],"InternalPolicy":"Global"}`:                           {hcn.E_INVALID_PARAMETER, "InternalPolicy", "neither"},
		`{"Name":"x","Ports":[{"Port":1}],"AffinitySeconds":86401}`:                             {hcn.E_INVALID_PARAMETER, "AffinitySeconds", "a day"},
	} {
		_, _, _, err := b.w.CreateService([]byte(body), b.in)
		var r *Error
		if !errors.As(err, &r) || r.Code != want.code || r.Field != want.field || !strings.Contains(r.Text, want.text) {
			t.Errorf("%s: %v (%+v), want %q at %s", body, err, r, want.text, want.field)
		}
	}
	if _, err := b.w.DeleteService(s.Doc.ID, 7); err == nil {
		t.Error("another version is deleted")
	}
	// And the other way round: a service's ports are not given to others.
	for _, body := range []string{
		`{"FrontendVIPs":["10.96.0.9"],"PortMappings":[{"Protocol":6,"ExternalPort":80}]}`,
		`{"PortMappings":[{"Protocol":6,"ExternalPort":30000}]}`,
	} {
		if _, _, _, err := b.w.CreateLoadBalancer([]byte(body), b.in); err == nil || !strings.Contains(err.Error(), "service web") {
			t.Errorf("load balancer %s: %v", body, err)
		}
	}
}

// Networks that come later keep clear of services: chosen prefixes of their pools, given
// ones of addresses that some have.
func TestPrefixesKeepClearOfServices(t *testing.T) {
	b := newBench(t)
	b.in.Services.Cluster = []netip.Prefix{netip.MustParsePrefix("172.16.0.0/16"), netip.MustParsePrefix("fd67::/112")}
	b.in.Services.LoadBalancer = []netip.Prefix{netip.MustParsePrefix("172.17.0.0/20")}
	b.serviceOf(`{"Name":"web","ClusterIPs":["172.16.40.7"],"Ports":[{"Port":80}]}`)
	if p := b.network(`{}`).Doc.Ipams[0].Subnets[0].IpAddressPrefix; p != "172.17.16.0/20" {
		t.Errorf("chosen: %s", p)
	}
	_, _, _, err := b.w.CreateNetwork([]byte(`{"Ipams":[{"Subnets":[{"IpAddressPrefix":"172.16.32.0/20"}]}]}`), b.in)
	code(t, err, hcn.E_DUPLICATE_NAME, "Ipams[0].Subnets[0].IpAddressPrefix", "172.16.40.7/32 of service")
	b.network(`{"Ipams":[{"Subnets":[{"IpAddressPrefix":"172.16.48.0/20"}]}]}`) // of the pool, but nobody's
}
