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

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

func (b *bench) balancer(body string) *LoadBalancer {
	b.t.Helper()
	w, lb, _, err := b.w.CreateLoadBalancer([]byte(body), b.in)
	if err != nil {
		b.t.Fatalf("create load balancer %s: %v", body, err)
	}
	b.w = w
	return lb
}

func (b *bench) modifyBalancer(id, body string) *LoadBalancer {
	b.t.Helper()
	w, lb, err := b.w.ModifyLoadBalancer(id, []byte(body), 0, b.in)
	if err != nil {
		b.t.Fatalf("modify load balancer %s: %v", body, err)
	}
	b.w = w
	return lb
}

// servicesOf load balancers: those of resolvers are left out.
func servicesOf(w World) (out []vswitch.Service) {
	d := flat(w)
	for s := range d.Switch.AllServices() {
		if s.ID < firstResolverService {
			out = append(out, *s)
		}
	}
	return out
}

// service of a load balancer with that frontend port.
func (b *bench) service(port uint16) vswitch.Service {
	b.t.Helper()
	for _, s := range servicesOf(b.w) {
		if s.Frontends[0].Port == port {
			return s
		}
	}
	b.t.Fatalf("no service at port %d", port)
	return vswitch.Service{}
}

func addrsOf(s vswitch.Service) (out []string) {
	for _, x := range s.Backends {
		out = append(out, fmt.Sprintf("%s@%d/%d", netip.AddrPortFrom(x.Addr, x.Port), x.At, x.State))
	}
	return out
}

// balancedBench has two attached endpoints and a remote one on 10.1.0.0/24.
func balancedBench(t testing.TB) (b *bench, a, c, far *Endpoint) {
	b = newBench(t)
	b.network(tenNet)
	na, nc := b.namespace(`{}`), b.namespace(`{}`)
	a = b.endpoint("ten", fmt.Sprintf(`{"Name":"a","HostComputeNamespace":%q}`, na.Doc.Id))
	// In another part of Desired than a.
	c = b.endpoint("ten", fmt.Sprintf(`{"ID":"c0000000-0000-4000-8000-000000000001","Name":"c","HostComputeNamespace":%q}`, nc.Doc.Id))
	far = b.endpoint("ten", `{"Name":"far","Flags":1,"IpConfigurations":[{"IpAddress":"192.0.2.9"}],"MacAddress":"02:11:00:00:00:01"}`)
	return b, a, c, far
}

func TestLoadBalancerIsStored(t *testing.T) {
	b, a, c, _ := balancedBench(t)
	// Doc d of kube-proxy, with ids in both cases and one twice.
	lb := b.balancer(fmt.Sprintf(`{"HostComputeEndpoints":[%q,%q,%q],"SourceVIP":"10.244.3.250","FrontendVIPs":["10.96.0.10"],
		"PortMappings":[{"Protocol":17,"InternalPort":53,"ExternalPort":53}],"Flags":1,"SchemaVersion":{"Major":2,"Minor":0},"Unknown":1}`,
		a.Doc.Id, strings.ToUpper(c.Doc.Id), strings.ToUpper(a.Doc.Id)))
	raw, err := Encode(lb.Doc)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{
		fmt.Sprintf(`"HostComputeEndpoints":[%q,%q]`, strings.ToUpper(a.Doc.Id), strings.ToUpper(c.Doc.Id)), // row 15 of what goes wrong first
		`"PortMappings":[{"Protocol":17,"InternalPort":53,"ExternalPort":53}]`, `"Version":1`, fmt.Sprintf(`"HostComputeNetwork":%q`, a.Doc.HostComputeNetwork),
		`"SourceVIP":"10.244.3.250","FrontendVIPs":["10.96.0.10"]`,
	} {
		if !strings.Contains(string(raw), part) {
			t.Errorf("document %s has no %s", raw, part)
		}
	}
	if _, found := b.w.LoadBalancer(strings.ToUpper(lb.Doc.Id)); !found {
		t.Error("an id in upper case is not found")
	}
	for filter, n := range map[string]int{
		`{"HostComputeNetwork":"` + strings.ToUpper(a.Doc.HostComputeNetwork) + `"}`: 1, `{"HostComputeEndpoint":"` + a.Doc.Id + `"}`: 1,
		`{"HostComputeEndpoint":"` + guid(9) + `"}`: 0, `{"ID":"` + lb.Doc.Id + `"}`: 1, `{"Nothing":"x"}`: 0, `{"ID":""}`: 0,
	} {
		f, err := ParseFilter(filter)
		if got := b.w.FindLoadBalancers(f); err != nil || len(got) != n {
			t.Errorf("filter %s: %d, %v, want %d", filter, len(got), err, n)
		}
	}
}

func TestLoadBalancerRefuses(t *testing.T) {
	b, a, c, _ := balancedBench(t)
	other := b.endpoint(b.network(`{"Name":"other","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.9.0.0/24"}]}]}`).Doc.Id, `{}`)
	vault := b.endpoint(b.network(`{"Name":"vault","Type":"Internal","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.8.0.0/24"}]}]}`).Doc.Id, `{}`)
	b.endpoint("ten", `{"Policies":[{"Type":"PortMapping","Settings":{"Protocol":6,"ExternalPort":8080}}]}`)
	have := b.balancer(fmt.Sprintf(`{"HostComputeEndpoints":[%q],"FrontendVIPs":["10.96.0.10"],"PortMappings":[{"Protocol":6,"ExternalPort":80}]}`, a.Doc.Id))
	b.balancer(`{"PortMappings":[{"Protocol":6,"ExternalPort":30080}]}`)
	b.in.IsHost = func(a netip.Addr) bool { return a == netip.MustParseAddr("10.0.0.4") }
	one := `"PortMappings":[{"Protocol":6,"ExternalPort":99}]`
	for _, tc := range []struct {
		body  string
		code  hcn.ErrorCode
		field string
	}{
		{`[]`, hcn.HCN_E_INVALID_JSON, ""},
		{`{"PortMappings":[{"ExternalPort":70000}]}`, hcn.HCN_E_INVALID_JSON, "PortMappings.ExternalPort"},
		{`{"ID":"x",` + one + `}`, hcn.HCN_E_GUID_CONVERSION_FAILURE, "ID"},
		{`{"ID":"` + have.Doc.Id + `",` + one + `}`, hcn.E_ALREADY_EXISTS, "ID"},
		{`{"SchemaVersion":{"Major":3,"Minor":0},` + one + `}`, hcn.HCN_E_INVALID_JSON, "SchemaVersion"},
		{`{}`, hcn.E_INVALID_PARAMETER, "PortMappings"},
		{`{"Flags":4,` + one + `}`, hcn.E_INVALID_PARAMETER, "Flags"},
		{`{"HostComputeEndpoints":["` + guid(9) + `"],` + one + `}`, hcn.HCN_E_ENDPOINT_NOT_FOUND, "HostComputeEndpoints[0]"},
		{`{"HostComputeEndpoints":["` + a.Doc.Id + `","` + other.Doc.Id + `"],` + one + `}`, hcn.HCN_E_INVALID_ENDPOINT, "HostComputeEndpoints[1]"},
		{`{"HostComputeEndpoints":["` + a.Doc.Id + `"],"Flags":2,` + one + `}`, hcn.HCN_E_INVALID_ENDPOINT, "HostComputeEndpoints[0]"},
		{`{"HostComputeNetwork":"` + guid(9) + `",` + one + `}`, hcn.HCN_E_NETWORK_NOT_FOUND, "HostComputeNetwork"},
		{`{"HostComputeNetwork":"other","HostComputeEndpoints":["` + a.Doc.Id + `"],` + one + `}`, hcn.HCN_E_INVALID_ENDPOINT, "HostComputeNetwork"},
		{`{"HostComputeEndpoints":["` + a.Doc.Id + `"],"DrainingEndpoints":["` + c.Doc.Id + `"],` + one + `}`, hcn.E_INVALID_PARAMETER, "DrainingEndpoints[0]"},
		{`{"HostComputeEndpoints":["` + vault.Doc.Id + `"],` + one + `}`, hcn.HCN_E_MAPPING_NOT_SUPPORTED, "PortMappings[0].Flags"},
		{`{"FrontendVIPs":["x"],` + one + `}`, hcn.HCN_E_INVALID_IP, "FrontendVIPs[0]"},
		{`{"FrontendVIPs":["10.96.0.1","fd00::1"],` + one + `}`, hcn.HCN_E_INVALID_IP, "FrontendVIPs[1]"},
		{`{"FrontendVIPs":["127.0.0.1"],` + one + `}`, hcn.HCN_E_INVALID_IP, "FrontendVIPs[0]"},
		{`{"FrontendVIPs":["10.96.0.1","10.96.0.1"],` + one + `}`, hcn.E_INVALID_PARAMETER, "FrontendVIPs[1]"},
		{`{"SourceVIP":"fd00::1",` + one + `}`, hcn.HCN_E_INVALID_IP, "SourceVIP"},
		{`{"PortMappings":[{"Protocol":1,"ExternalPort":1}]}`, hcn.E_INVALID_PARAMETER, "PortMappings[0].Protocol"},
		{`{"PortMappings":[{"Protocol":6,"InternalPort":1}]}`, hcn.E_INVALID_PARAMETER, "PortMappings[0].ExternalPort"},
		{`{"FrontendVIPs":["10.96.0.1"],"PortMappings":[{}]}`, hcn.HCN_E_REQUEST_UNSUPPORTED, "PortMappings[0].ExternalPort"},
		{`{"PortMappings":[{"Protocol":132,"ExternalPort":1,"InternalPort":2}]}`, hcn.HCN_E_INVALID_INTERNAL_PORT, "PortMappings[0].InternalPort"},
		{`{"PortMappings":[{"ExternalPort":1,"DistributionType":3}]}`, hcn.E_INVALID_PARAMETER, "PortMappings[0].DistributionType"},
		{`{"PortMappings":[{"ExternalPort":1,"Flags":32}]}`, hcn.E_INVALID_PARAMETER, "PortMappings[0].Flags"},
		{`{"PortMappings":[{"ExternalPort":1,"Flags":"PreserveDIP"}]}`, hcn.HCN_E_REQUEST_UNSUPPORTED, "PortMappings[0].Flags"},
		{`{"FrontendVIPs":["10.96.0.1"],"PortMappings":[{"ExternalPort":1,"Flags":"PreserveDIP, LocalRoutedVIP"}]}`, hcn.HCN_E_REQUEST_UNSUPPORTED, "PortMappings[0].Flags"},
		{`{"PortMappings":[{"ExternalPort":1},{"Protocol":17,"ExternalPort":1}]}`, hcn.E_INVALID_PARAMETER, "PortMappings[1].ExternalPort"},
		// The same load balancer again, and the same frontend for another one.
		{`{"HostComputeEndpoints":["` + a.Doc.Id + `"],"FrontendVIPs":["10.96.0.10"],"PortMappings":[{"Protocol":6,"ExternalPort":80}]}`, hcn.E_ALREADY_EXISTS, ""},
		{`{"HostComputeEndpoints":["` + c.Doc.Id + `"],"FrontendVIPs":["10.96.0.10"],"PortMappings":[{"Protocol":6,"ExternalPort":80}]}`, hcn.HCN_E_PORT_ALREADY_EXISTS, ""},
		{`{"PortMappings":[{"ExternalPort":30080}]}`, hcn.HCN_E_PORT_ALREADY_EXISTS, ""},
		// A published port, on every address of the host and on one of them.
		{`{"PortMappings":[{"Protocol":6,"ExternalPort":8080}]}`, hcn.HCN_E_PORT_ALREADY_EXISTS, ""},
		{`{"FrontendVIPs":["10.0.0.4"],"PortMappings":[{"Protocol":6,"ExternalPort":8080}]}`, hcn.HCN_E_PORT_ALREADY_EXISTS, ""},
		{`{"FrontendVIPs":["10.0.0.4"],"PortMappings":[{"Protocol":6,"ExternalPort":30080}]}`, hcn.HCN_E_PORT_ALREADY_EXISTS, ""},
	} {
		w, _, _, err := b.w.CreateLoadBalancer([]byte(tc.body), b.in)
		if err == nil {
			t.Errorf("%s: accepted", tc.body)
			continue
		}
		t.Log(err)
		code(t, err, tc.code, tc.field)
		if len(w.Changes()) != len(b.w.Changes()) || w.Numbers() != b.w.Numbers() || len(servicesOf(w)) != 2 {
			t.Errorf("%s: refused and yet something changed", tc.body)
		}
	}
	// What is the same and yet no conflict: another family, protocol, address, or an
	// address that is none of the host's.
	for _, body := range []string{
		`{"Flags":2,"PortMappings":[{"Protocol":6,"ExternalPort":30080}]}`,
		`{"PortMappings":[{"Protocol":17,"ExternalPort":30080}]}`,
		`{"FrontendVIPs":["10.96.0.11"],"PortMappings":[{"Protocol":6,"ExternalPort":80}]}`,
		`{"FrontendVIPs":["10.96.0.12"],"PortMappings":[{"Protocol":6,"ExternalPort":8080}]}`,
	} {
		b.balancer(body)
	}
	// And the other way round: a port that a load balancer has cannot be published.
	_, _, _, err := b.w.CreateEndpoint("ten", []byte(`{"Policies":[{"Type":"PortMapping","Settings":{"Protocol":6,"ExternalPort":30080}}]}`), b.in)
	code(t, err, hcn.HCN_E_PORT_ALREADY_EXISTS, "", "load balancer")
}

// TestInternalFrontends: networks may use one address for two things, the host not.
func TestInternalFrontends(t *testing.T) {
	b, a, _, _ := balancedBench(t)
	other := b.endpoint(b.network(`{"Name":"other","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.9.0.0/24"}]}]}`).Doc.Id, `{}`)
	form := `{"HostComputeEndpoints":[%q],"FrontendVIPs":["10.96.0.10"],"PortMappings":[{"Protocol":6,"ExternalPort":80,"Flags":%d}]}`
	b.balancer(fmt.Sprintf(form, a.Doc.Id, 1))
	b.balancer(fmt.Sprintf(form, other.Doc.Id, 1))
	_, _, _, err := b.w.CreateLoadBalancer(fmt.Appendf(nil, form, other.Doc.Id, 3), b.in)
	code(t, err, hcn.HCN_E_PORT_ALREADY_EXISTS, "")
	if _, err := vswitch.Compile(flat(b.w).Switch, vswitch.Facts{}); err != nil {
		t.Fatal(err)
	}
}

func TestLoadBalancerModify(t *testing.T) {
	b, a, c, _ := balancedBench(t)
	lb := b.balancer(fmt.Sprintf(`{"Name":"web","HostComputeEndpoints":[%q],"FrontendVIPs":["10.96.0.10"],"PortMappings":[{"Protocol":6,"ExternalPort":80,"InternalPort":8080}]}`, a.Doc.Id))
	before := b.service(80)

	// The whole document replaces, whatever id it has; the numbers of what stays stay.
	got := b.modifyBalancer(lb.Doc.Id, fmt.Sprintf(`{"ID":%q,"HostComputeEndpoints":[%q],"PortMappings":[{"Protocol":6,"ExternalPort":80},{"Protocol":6,"ExternalPort":81}],"Flags":1}`, guid(77), c.Doc.Id))
	if got.Doc.Id != lb.Doc.Id || got.Doc.Version != 2 || got.Doc.Name != "web" || len(got.Doc.FrontendVIPs) != 0 || got.Doc.HostComputeEndpoints[0] != strings.ToUpper(c.Doc.Id) {
		t.Errorf("after the whole document: %+v", got.Doc)
	}
	after := b.service(80)
	if after.ID != before.ID || !after.Frontends[0].Addr.IsUnspecified() || !slices.Equal(addrsOf(after), []string{fmt.Sprintf("10.1.0.3:80@%d/0", c.Port)}) {
		t.Errorf("service %+v, was %+v", after, before)
	}
	// Its old frontend is free, its new one is not.
	b.balancer(`{"FrontendVIPs":["10.96.0.10"],"PortMappings":[{"Protocol":6,"ExternalPort":80}]}`)

	// Wrapped, settings as a string, too.
	b.modifyBalancer(lb.Doc.Id, fmt.Sprintf(`{"ResourceType":"LoadBalancer","RequestType":"Update","Settings":%q}`, `{"HostComputeEndpoints":["`+a.Doc.Id+`"],"PortMappings":[{"Protocol":6,"ExternalPort":81}]}`))
	b.modifyBalancer(lb.Doc.Id, fmt.Sprintf(`{"RequestType":"Add","Settings":{"HostComputeEndpoints":[%q]}}`, c.Doc.Id))
	if got := addrsOf(b.service(81)); len(got) != 2 {
		t.Errorf("after Add: %v", got)
	}
	got = b.modifyBalancer(lb.Doc.Id, fmt.Sprintf(`{"RequestType":"Remove","Settings":{"HostComputeEndpoints":[%q]}}`, a.Doc.Id))
	if s := addrsOf(b.service(81)); len(s) != 1 || len(got.Doc.PortMappings) != 1 {
		t.Errorf("after Remove: %v, %+v", s, got.Doc)
	}
	// Draining, and no longer.
	whole := `{"HostComputeEndpoints":[%[1]q],"DrainingEndpoints":[%[2]s],"PortMappings":[{"Protocol":6,"ExternalPort":81}]}`
	b.modifyBalancer(lb.Doc.Id, fmt.Sprintf(whole, c.Doc.Id, `"`+c.Doc.Id+`"`))
	if s := b.service(81); s.Backends[0].State != vswitch.BackendDraining {
		t.Errorf("not draining: %v", addrsOf(s))
	}
	b.modifyBalancer(lb.Doc.Id, fmt.Sprintf(whole, c.Doc.Id, ""))
	if s := b.service(81); s.Backends[0].State != vswitch.BackendActive {
		t.Errorf("still draining: %v", addrsOf(s))
	}

	version := b.modifyBalancer(lb.Doc.Id, `{"RequestType":"Refresh"}`).Doc.Version
	for _, match := range []uint64{version - 1, version + 1} {
		_, _, err := b.w.ModifyLoadBalancer(lb.Doc.Id, []byte(`{"PortMappings":[{"ExternalPort":1}]}`), match, b.in)
		var e *Error
		if !errors.As(err, &e) || e.HTTPStatus() != 412 {
			t.Errorf("If-Match %d of %d: %v", match, version, err)
		}
	}
	_, _, err := b.w.ModifyLoadBalancer(lb.Doc.Id, []byte(`{"RequestType":"Reset"}`), 0, b.in)
	code(t, err, hcn.HCN_E_REQUEST_UNSUPPORTED, "RequestType")
	_, _, err = b.w.ModifyLoadBalancer(lb.Doc.Id, []byte(`{"PortMappings":[]}`), 0, b.in)
	code(t, err, hcn.E_INVALID_PARAMETER, "PortMappings")
	_, _, err = b.w.ModifyLoadBalancer(guid(9), []byte(`{}`), 0, b.in)
	code(t, err, hcn.E_ELEMENT_NOT_FOUND, "")
	if b.w, err = b.w.DeleteLoadBalancer(lb.Doc.Id, version); err != nil {
		t.Fatal(err)
	}
	_, err = b.w.DeleteLoadBalancer(lb.Doc.Id, 0)
	code(t, err, hcn.E_ELEMENT_NOT_FOUND, "", "Element not found.")
}

func TestLoadBalancerRepeated(t *testing.T) {
	b, a, c, _ := balancedBench(t)
	body := fmt.Sprintf(`{"ID":%q,"HostComputeEndpoints":[%q],"PortMappings":[{"Protocol":6,"ExternalPort":80}]}`, guid(5), a.Doc.Id)
	b.balancer(body)
	w, lb, created, err := b.w.CreateLoadBalancer([]byte(body), b.in)
	if err != nil || created || lb.Doc.Id != guid(5) || len(w.AllLoadBalancers()) != 1 {
		t.Errorf("repeated: created %v, %v", created, err)
	}
	// AddEndpoint of old clients: delete and create with the same id.
	if b.w, err = b.w.DeleteLoadBalancer(guid(5), 0); err != nil {
		t.Fatal(err)
	}
	again := b.balancer(fmt.Sprintf(`{"ID":%q,"HostComputeEndpoints":[%q,%q],"PortMappings":[{"Protocol":6,"ExternalPort":80}]}`, guid(5), a.Doc.Id, c.Doc.Id))
	if again.Doc.Id != guid(5) || len(b.service(80).Backends) != 2 {
		t.Errorf("%+v", again.Doc)
	}
}

// TestBackendsComeAndGo: what is attached is a backend, what is deleted leaves the
// list, and a load balancer that is left empty stays.
func TestBackendsComeAndGo(t *testing.T) {
	b, a, c, far := balancedBench(t)
	lb := b.balancer(fmt.Sprintf(`{"HostComputeEndpoints":[%q,%q,%q],"DrainingEndpoints":[%[2]q],"PortMappings":[{"Protocol":6,"ExternalPort":80}]}`, a.Doc.Id, c.Doc.Id, far.Doc.Id))
	want := func(when string, backends int, listed int) {
		t.Helper()
		now, ok := b.w.LoadBalancer(lb.Doc.Id)
		if s := addrsOf(b.service(80)); !ok || len(s) != backends || len(now.Doc.HostComputeEndpoints) != listed {
			t.Errorf("%s: backends %v, document %+v; want %d and %d", when, s, now.Doc, backends, listed)
		}
		if _, err := vswitch.Compile(flat(b.w).Switch, vswitch.Facts{}); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	want("all", 3, 3)
	ns := a.Doc.HostComputeNamespace
	if err := b.modifyNamespace(ns, "Endpoint", "Remove", "EndpointId", a.Doc.Id); err != nil {
		t.Fatal(err)
	}
	want("detached", 2, 3)
	b.attach(ns, a.Doc.Id)
	want("attached", 3, 3)
	for i, e := range []*Endpoint{c, far, a} {
		var err error
		if b.w, err = b.w.DeleteEndpoint(e.Doc.Id, 0, b.in); err != nil {
			t.Fatal(err)
		}
		want("deleted "+e.Doc.Name, 2-i, 2-i)
	}
	if now, _ := b.w.LoadBalancer(lb.Doc.Id); len(now.Doc.DrainingEndpoints) != 0 || now.Doc.Version != 4 {
		t.Errorf("%+v", now.Doc)
	}
	w, err := b.w.DeleteNetwork(b.w.AllNetworks()[0].Doc.Id, 0, b.in)
	if err != nil || len(w.AllLoadBalancers()) != 0 || len(servicesOf(w))+w.published.len()+w.balanced.len() != 0 {
		t.Errorf("network deleted: %d load balancers, %v", len(w.AllLoadBalancers()), err)
	}
}

// TestSeveralWithOneAddress: a local endpoint wins over remote ones, of these the
// last made.
func TestSeveralWithOneAddress(t *testing.T) {
	b, a, _, far := balancedBench(t)
	same := b.endpoint("ten", `{"Flags":1,"IpConfigurations":[{"IpAddress":"10.1.0.2"}]}`)
	twice := b.endpoint("ten", `{"Flags":1,"IpConfigurations":[{"IpAddress":"192.0.2.9"}]}`)
	b.balancer(fmt.Sprintf(`{"HostComputeEndpoints":[%q,%q,%q,%q],"DrainingEndpoints":[%[2]q,%[4]q],"PortMappings":[{"Protocol":6,"ExternalPort":80}]}`, twice.Doc.Id, same.Doc.Id, a.Doc.Id, far.Doc.Id))
	if got, want := addrsOf(b.service(80)), []string{"192.0.2.9:80@0/0", fmt.Sprintf("10.1.0.2:80@%d/0", a.Port)}; !slices.Equal(got, want) {
		t.Errorf("backends %v, want %v", got, want)
	}
}

func TestWhoHasFrontends(t *testing.T) {
	b, a, _, far := balancedBench(t)
	lb := b.balancer(fmt.Sprintf(`{"HostComputeEndpoints":[%q],"FrontendVIPs":["10.96.0.10"],"PortMappings":[{"Protocol":6,"ExternalPort":80}]}`, a.Doc.Id))
	w, r, _, err := b.w.ReservePorts([]byte(`{"Protocol":2,"StartingPort":53}`), b.in)
	if err != nil {
		t.Fatal(err)
	}
	for q, id := range map[string]string{"10.96.0.10": lb.Doc.Id, "80/tcp": lb.Doc.Id, "192.0.2.9": far.Doc.Id, "53": r.Doc.ID} {
		if hs, err := w.Who(q); err != nil || len(hs) != 1 || hs[0].ID != id {
			t.Errorf("who %s: %+v %v", q, hs, err)
		}
	}
}

// TestDirectReturn: DSR where several hosts are asked from outside, and backends that
// get what they were sent.
func TestDirectReturn(t *testing.T) {
	b, a, _, far := balancedBench(t)
	const direct = vswitch.ServiceDSR | vswitch.ServiceConsistent
	for i, tc := range []struct {
		vips     string
		lb, port int
		want     vswitch.ServiceFlags
		backends int
	}{
		{`"10.96.0.1"`, 1, 0, 0, 2}, // a ClusterIP
		{`"10.96.0.1"`, 1, 4, direct, 2},
		{`"10.96.0.1"`, 1, 16, direct, 2},
		{`"10.96.0.1"`, 0, 16, 0, 2},
		{``, 1, 16, 0, 2}, // every host has its own addresses
		{`"10.96.0.1"`, 1, 4 + 8 + 16, vswitch.ServicePreserve, 1},
	} {
		port := uint16(100 + i)
		b.balancer(fmt.Sprintf(`{"HostComputeEndpoints":[%q,%q],"FrontendVIPs":[%s],"PortMappings":[{"Protocol":6,"InternalPort":80,"ExternalPort":%d,"Flags":%d}],"Flags":%d}`,
			a.Doc.Id, far.Doc.Id, tc.vips, port, tc.port, tc.lb))
		s := b.service(port)
		if s.Flags != tc.want || len(s.Backends) != tc.backends {
			t.Errorf("%+v: flags %d, backends %v", tc, s.Flags, addrsOf(s))
		}
		if tc.want == vswitch.ServicePreserve && s.Backends[0].Port != port {
			t.Errorf("the port is translated: %v", addrsOf(s))
		}
	}
	if _, err := vswitch.Compile(flat(b.w).Switch, vswitch.Facts{}); err != nil {
		t.Fatal(err)
	}
}

// TestManyLoadBalancers: parts that are made again one by one give what all would.
func TestManyLoadBalancers(t *testing.T) {
	b, a, _, _ := balancedBench(t)
	id := func(i int) string { return fmt.Sprintf("%02x%06x-0000-4000-8000-000000000000", i*37%256, i) }
	for i := range 300 {
		b.balancer(fmt.Sprintf(`{"ID":%q,"HostComputeEndpoints":[%q],"PortMappings":[{"Protocol":6,"ExternalPort":%d}]}`, strings.ToUpper(id(i)), a.Doc.Id, 1000+i))
		b.w = b.w.Clean()
	}
	for i := range 100 {
		var err error
		if b.w, err = b.w.DeleteLoadBalancer(id(3*i), 0); err != nil {
			t.Fatal(err)
		}
		b.modifyBalancer(id(3*i+1), fmt.Sprintf(`{"PortMappings":[{"Protocol":6,"ExternalPort":%d}]}`, 2000+i))
	}
	var want []vswitch.Service
	for _, lb := range b.w.loadBalancers.all {
		want = append(want, lb.compiled.services...)
	}
	got := servicesOf(b.w)
	if len(got) != 200 || !slices.EqualFunc(got, want, func(x, y vswitch.Service) bool { return x.ID == y.ID && len(x.Backends) == len(y.Backends) }) {
		t.Errorf("%d services, want %d in the order of their ids", len(got), len(want))
	}
	before := b.w
	w, err := b.w.DeleteEndpoint(a.Doc.Id, 0, b.in)
	if err != nil || len(w.Changes()) < 100 || len(w.Events()) < 100 {
		t.Fatal(err, len(w.Changes()))
	}
	if n := len(servicesOf(before)[0].Backends) + len(servicesOf(before)[1].Backends); n == 0 || len(servicesOf(w)[0].Backends)+len(servicesOf(w)[1].Backends) != 0 {
		t.Error("the World before has changed, or the one after has not")
	}
}
