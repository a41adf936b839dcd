// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/hcn"
)

const tenNet = `{"Name":"ten","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.1.0.0/24","Routes":[{"NextHop":"10.1.0.1","DestinationPrefix":"0.0.0.0/0"}]}]}]}`

func TestCreateNetworkFillsIn(t *testing.T) {
	b := newBench(t)
	n := b.network(`{"Name":"nat"}`)
	d := n.Doc
	if d.Type != hcn.NAT || d.Version != 1 || d.State != StateCreated || d.Owner != "uid:0" || d.SchemaVersion.Major != 2 || d.Health.Extra.SwitchGuid == "" {
		t.Errorf("%+v", d)
	}
	if len(d.MacPool.Ranges) != 1 || !strings.HasPrefix(d.MacPool.Ranges[0].StartMacAddress, "00-15-5D-") || !strings.HasSuffix(d.MacPool.Ranges[0].EndMacAddress, "F-FF") {
		t.Errorf("MacPool %+v", d.MacPool)
	}
	subs := d.Ipams[0].Subnets
	if len(subs) != 2 || subs[0].IpAddressPrefix != "172.16.0.0/20" || subs[0].Routes[0] != (hcn.Route{NextHop: "172.16.0.1", DestinationPrefix: "0.0.0.0/0"}) {
		t.Errorf("first subnet %+v", subs)
	}
	if p, err := netip.ParsePrefix(subs[1].IpAddressPrefix); err != nil || p.Bits() != 64 || !p.Addr().IsPrivate() || subs[1].Routes[0].NextHop != p.Addr().Next().String() {
		t.Errorf("second subnet %+v", subs[1])
	}
	if n.Number == 0 || n.HostPort == 0 || uint16(n.Zone) != uint16(n.Number) {
		t.Errorf("numbers %d %d %d", n.Number, n.Zone, n.HostPort)
	}
	internal := b.network(`{"Name":"in","Type":"Internal"}`)
	if s := internal.Doc.Ipams[0].Subnets; len(s) != 1 || s[0].IpAddressPrefix != "172.16.16.0/20" {
		t.Errorf("Internal subnets %+v", s)
	}
	if internal.Doc.MacPool.Ranges[0] == n.Doc.MacPool.Ranges[0] || internal.Number == n.Number {
		t.Error("two networks share a MAC range or a number")
	}
}

func TestCreateNetworkAvoidsHostRoutes(t *testing.T) {
	b := newBench(t)
	b.in.Avoid = func() []netip.Prefix {
		return []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("172.16.0.0/16")}
	}
	if p := b.network(`{}`).Doc.Ipams[0].Subnets[0].IpAddressPrefix; p != "172.17.0.0/20" {
		t.Errorf("got %s", p)
	}
	_, _, _, err := b.w.CreateNetwork([]byte(`{"Ipams":[{"Subnets":[{"IpAddressPrefix":"172.16.3.0/24"}]}]}`), b.in)
	code(t, err, hcn.E_DUPLICATE_NAME, "Ipams[0].Subnets[0].IpAddressPrefix", "the host routes")
}

func TestCreateNetworkRefuses(t *testing.T) {
	b := newBench(t)
	b.network(tenNet)
	sub := func(s string) string { return `{"Ipams":[{"Subnets":[` + s + `]}]}` }
	for _, tc := range []struct {
		body  string
		code  hcn.ErrorCode
		field string
	}{
		{``, hcn.HCN_E_INVALID_JSON, ""},
		{`[]`, hcn.HCN_E_INVALID_JSON, ""},
		{`{"Name":`, hcn.HCN_E_INVALID_JSON, ""},
		{`{"Name":5}`, hcn.HCN_E_INVALID_JSON, "Name"},
		{`{"Ipams":[{"Subnets":[{"Flags":{}}]}]}`, hcn.HCN_E_INVALID_JSON, ""},
		{`{"SchemaVersion":{"Major":3,"Minor":0}}`, hcn.HCN_E_INVALID_JSON, "SchemaVersion"},
		{`{"ID":"{00000000-0000-4000-8000-000000000001}"}`, hcn.HCN_E_GUID_CONVERSION_FAILURE, "ID"},
		{`{"Name":"ten"}`, hcn.HCN_E_NETWORK_ALREADY_EXISTS, "Name"},
		{`{"Type":"Mirrored"}`, hcn.HCN_E_INVALID_NETWORK_TYPE, "Type"},
		{`{"Flags":1024}`, hcn.HCN_E_INVALID_NETWORK, "Flags"},
		{`{"Type":"Private","Flags":"EnableDhcpServer"}`, hcn.HCN_E_REQUEST_UNSUPPORTED, "Flags"},
		{`{"Type":"ICS","Flags":1024}`, hcn.HCN_E_INVALID_NETWORK, "Flags"},
		{`{"Flags":"Nonsense"}`, hcn.HCN_E_INVALID_JSON, ""},
		{`{"Flags":16384}`, hcn.E_INVALID_PARAMETER, "Flags"},
		{`{"MacPool":{"Ranges":[{"StartMacAddress":"00-15-5D-00-00-00","EndMacAddress":"x"}]}}`, hcn.E_INVALID_PARAMETER, "MacPool.Ranges[0].EndMacAddress"},
		{`{"MacPool":{"Ranges":[{"StartMacAddress":"00-15-5D-00-00-09","EndMacAddress":"00-15-5D-00-00-01"}]}}`, hcn.E_INVALID_PARAMETER, "MacPool.Ranges[0]"},
		{`{"Policies":[{"Type":"Nope"}]}`, hcn.HCN_E_INVALID_POLICY_TYPE, "Policies[0].Type"},
		{`{"Policies":[{"Type":"PortMapping"}]}`, hcn.HCN_E_INVALID_POLICY_TYPE, "Policies[0].Type"},
		{`{"Policies":[{"Type":"VxlanPort","Settings":{"Port":1}}]}`, hcn.HCN_E_REQUEST_UNSUPPORTED, "Policies[0].Type"},
		{`{"Policies":[{"Type":"SetPolicy","Settings":{}}]}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.Id"},
		{`{"Policies":[{"Type":"L4Proxy","Settings":{}}]}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.IP"},
		{`{"Policies":[{"Type":"AutomaticDNS","Settings":{"Enable":"x"}}]}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.Enable"},
		{`{"Dns":{"ServerList":["nope"]}}`, hcn.HCN_E_INVALID_IP, "Dns.ServerList[0]"},
		{`{"Dns":{"Domain":"a b"}}`, hcn.E_INVALID_PARAMETER, "Dns.Domain"},
		{`{"Ipams":[{"Type":"Dhcp"}]}`, hcn.HCN_E_REQUEST_UNSUPPORTED, "Ipams[0].Type"},
		{sub(`{"IpAddressPrefix":"10.0.0.0/33"}`), hcn.HCN_E_INVALID_PREFIX, "Ipams[0].Subnets[0].IpAddressPrefix"},
		{sub(`{"IpAddressPrefix":"127.0.0.0/8"}`), hcn.HCN_E_INVALID_PREFIX, "Ipams[0].Subnets[0].IpAddressPrefix"},
		{sub(`{"IpAddressPrefix":"224.0.0.0/24"}`), hcn.HCN_E_INVALID_PREFIX, "Ipams[0].Subnets[0].IpAddressPrefix"},
		{sub(`{"IpAddressPrefix":"10.2.0.0/32"}`), hcn.HCN_E_INVALID_PREFIX, "Ipams[0].Subnets[0].IpAddressPrefix"},
		{sub(`{"IpAddressPrefix":"0.0.0.0/0"}`), hcn.HCN_E_INVALID_PREFIX, "Ipams[0].Subnets[0].IpAddressPrefix"},
		{sub(`{"IpAddressPrefix":"10.1.0.128/25"}`), hcn.E_DUPLICATE_NAME, "Ipams[0].Subnets[0].IpAddressPrefix"},
		{sub(`{"IpAddressPrefix":"10.2.0.0/24"},{"IpAddressPrefix":"10.2.0.0/16"}`), hcn.E_DUPLICATE_NAME, "Ipams[0].Subnets[1].IpAddressPrefix"},
		{sub(`{"IpAddressPrefix":"10.2.0.0/24","Routes":[{"NextHop":"10.3.0.1","DestinationPrefix":"0.0.0.0/0"}]}`), hcn.HCN_E_INVALID_IP, "Ipams[0].Subnets[0].Routes"},
		{sub(`{"IpAddressPrefix":"10.2.0.0/24","Routes":[{"NextHop":"10.2.0.255","DestinationPrefix":"0.0.0.0/0"}]}`), hcn.HCN_E_INVALID_IP, "Ipams[0].Subnets[0].Routes"},
		{sub(`{"IpAddressPrefix":"10.2.0.0/24","Routes":[{"NextHop":"x","DestinationPrefix":"0.0.0.0/0"}]}`), hcn.HCN_E_INVALID_IP, "Ipams[0].Subnets[0].Routes[0].NextHop"},
		{sub(`{"IpAddressPrefix":"10.2.0.0/24","Policies":[{"Type":"VLAN","Settings":{"IsolationId":5}}]}`), hcn.HCN_E_REQUEST_UNSUPPORTED, "Ipams[0].Subnets[0].Policies[0].Type"},
		{sub(`{"IpAddressPrefix":"10.2.0.0/24","IpSubnets":[{"IpAddressPrefix":"10.3.0.0/28"}]}`), hcn.HCN_E_INVALID_IP_SUBNET, "Ipams[0].Subnets[0].IpSubnets[0].IpAddressPrefix"},
	} {
		w, _, _, err := b.w.CreateNetwork([]byte(tc.body), b.in)
		if err == nil {
			t.Errorf("%s: accepted", tc.body)
			continue
		}
		t.Log(err)
		code(t, err, tc.code, tc.field)
		if len(w.Changes()) != len(b.w.Changes()) || w.Numbers() != b.w.Numbers() {
			t.Errorf("%s: refused and yet something changed", tc.body)
		}
	}
}

func TestAcceptedSpellings(t *testing.T) {
	b := newBench(t)
	n := b.network(`{"id":"ABCDEF00-0000-4000-8000-000000000001","name":"x","SchemaVersion":{},"MacPool":{},"Dns":{},"Health":{"Extra":{}},
		"Flags":"EnableNonPersistent, EnableIov","Unknown":[1],"ipams":[{"type":"static","subnets":[{"ipAddressPrefix":"10.5.0.7/24"}]}]}`)
	if n.Doc.Id != "abcdef00-0000-4000-8000-000000000001" || n.Doc.Flags != 8200 || n.Doc.Ipams[0].Subnets[0].IpAddressPrefix != "10.5.0.7/24" {
		t.Errorf("%+v", n.Doc)
	}
	if n.subnets[0].pool.Prefix.String() != "10.5.0.0/24" || n.subnets[0].gateway.String() != "10.5.0.1" {
		t.Errorf("%+v", n.subnets)
	}
	raw, err := Encode(n.Doc)
	if err != nil || !strings.Contains(string(raw), `"Flags":8200`) || strings.Count(string(raw), `"Ipams"`) != 1 {
		t.Errorf("%s %v", raw, err)
	}
}

func TestIdenticalCreateIsIdempotent(t *testing.T) {
	b := newBench(t)
	body := `{"ID":"` + guid(1) + `","Name":"a"}`
	b.network(body)
	b.w = b.w.Clean()
	w, n, created, err := b.w.CreateNetwork([]byte("  "+body), b.in)
	if err != nil || created || n.Doc.Id != guid(1) || len(w.Changes()) != 0 {
		t.Errorf("repeat: %v %v %v", n, created, err)
	}
	_, _, _, err = b.w.CreateNetwork([]byte(`{"ID":"`+guid(1)+`","Name":"b"}`), b.in)
	code(t, err, hcn.HCN_E_NETWORK_ALREADY_EXISTS, "ID")

	body = `{"ID":"` + guid(2) + `","HostComputeNetwork":"` + guid(1) + `"}`
	b.endpoint("", body)
	if _, _, created, err := b.w.CreateEndpoint("", []byte(body), b.in); err != nil || created {
		t.Errorf("repeat endpoint: %v %v", created, err)
	}
	_, _, _, err = b.w.CreateEndpoint(guid(1), []byte(`{"ID":"`+guid(2)+`"}`), b.in)
	code(t, err, hcn.E_ALREADY_EXISTS, "ID")

	body = `{"ID":"` + guid(3) + `"}`
	b.namespace(body)
	if _, _, created, err := b.w.CreateNamespace([]byte(body), b.in); err != nil || created {
		t.Errorf("repeat namespace: %v %v", created, err)
	}
	_, _, _, err = b.w.CreateNamespace([]byte(`{"ID":"`+guid(3)+`","NamespaceId":5}`), b.in)
	code(t, err, hcn.E_ALREADY_EXISTS, "ID")
}

func TestNamespacesAndAttachment(t *testing.T) {
	b := newBench(t)
	n := b.network(tenNet)
	ns := b.namespace(`{"SchemaVersion":{"Major":0,"Minor":0}}`)
	if ns.Doc.Type != hcn.NamespaceTypeHost || ns.Doc.NamespaceId != 2 || ns.Doc.NetNsPath == "" || ns.Doc.NamespaceGuid != ns.Doc.Id || ns.Doc.Resources != nil {
		t.Errorf("%+v", ns.Doc)
	}
	for range 2 { // numbers need not be unique
		b.namespace(`{"NamespaceId":5,"Type":"HostDefault"}`)
	}
	id := ns.Doc.Id
	var eps []string
	for range 3 {
		e := b.endpoint(n.Doc.Id, `{}`)
		b.attach(id, strings.ToUpper(e.Doc.Id))
		eps = append(eps, e.Doc.Id)
	}
	ns, _ = b.w.Namespace(id)
	if ns.Doc.Version != 4 || len(ns.Doc.Resources) != 3 || string(ns.Doc.Resources[1].Data) != `{"Id":"`+strings.ToUpper(eps[1])+`"}` {
		t.Errorf("%+v", ns.Doc)
	}
	e, _ := b.w.Endpoint(eps[1])
	if e.Doc.State != StateAttached || e.Doc.HostComputeNamespace != id || e.Doc.Version != 2 {
		t.Errorf("%+v", e.Doc)
	}
	// Attached twice: no change. Elsewhere: refused.
	b.w = b.w.Clean()
	b.attach(id, eps[1])
	if len(b.w.Changes()) != 0 {
		t.Error("a repeated attach changed something")
	}
	other := b.namespace(`{}`)
	code(t, b.modifyNamespace(other.Doc.Id, "Endpoint", "Add", "EndpointId", eps[1]), hcn.HCN_E_ENDPOINT_NAMESPACE_ALREADY_EXISTS, "")
	code(t, b.modifyNamespace(other.Doc.Id, "Endpoint", "Remove", "EndpointId", eps[1]), hcn.HCN_E_ENDPOINT_NOT_ATTACHED, "")
	code(t, b.modifyNamespace(other.Doc.Id, "Endpoint", "Add", "EndpointId", guid(77)), hcn.HCN_E_ENDPOINT_NOT_FOUND, "Settings.EndpointId", "The endpoint was not found")
	code(t, b.modifyNamespace(guid(78), "Endpoint", "Add", "EndpointId", eps[1]), hcn.E_ELEMENT_NOT_FOUND, "", "Element not found.")
	code(t, b.modifyNamespace(id, "Volume", "Add", "EndpointId", eps[1]), hcn.HCN_E_REQUEST_UNSUPPORTED, "ResourceType")
	code(t, b.modifyNamespace(id, "Endpoint", "Grow", "EndpointId", eps[1]), hcn.HCN_E_REQUEST_UNSUPPORTED, "RequestType")

	// Detach eth0; the next attached one is eth0 again, at the end of the list.
	if err := b.modifyNamespace(id, "Endpoint", "Remove", "EndpointId", eps[0]); err != nil {
		t.Fatal(err)
	}
	e, _ = b.w.Endpoint(eps[0])
	if e.Doc.State != StateDetached || e.Doc.HostComputeNamespace != "" || len(e.Doc.IpConfigurations) == 0 {
		t.Errorf("%+v", e.Doc)
	}
	b.attach(other.Doc.Id, eps[0])
	fresh := b.endpoint(n.Doc.Id, `{"HostComputeNamespace":"`+id+`"}`)
	ns, _ = b.w.Namespace(id)
	if got := ns.NICs[2]; got != (NIC{fresh.Doc.Id, 0}) {
		t.Errorf("%+v", ns.NICs)
	}

	// Containers.
	for _, c := range []string{"c1", "c2"} {
		if err := b.modifyNamespace(id, "Container", "Add", "ContainerId", c); err != nil {
			t.Fatal(err)
		}
	}
	e, _ = b.w.Endpoint(eps[1])
	if e.Doc.State != StateAttachedSharing {
		t.Errorf("state %d", e.Doc.State)
	}
	_, err := b.w.DeleteNamespace(id, 0)
	code(t, err, hcn.HCN_E_REQUEST_UNSUPPORTED, "", "c1")
	for _, c := range []string{"c1", "c2", "c2"} {
		if err := b.modifyNamespace(id, "Container", "Remove", "ContainerId", c); err != nil {
			t.Fatal(err)
		}
	}
	if b.w, err = b.w.DeleteNamespace(id, 0); err != nil {
		t.Fatal(err)
	}
	if e, _ = b.w.Endpoint(eps[1]); e.Doc.HostComputeNamespace != "" || e.Doc.State != StateDetached {
		t.Errorf("endpoint of a deleted namespace: %+v", e.Doc)
	}
	_, err = b.w.DeleteNamespace(id, 0)
	code(t, err, hcn.E_ELEMENT_NOT_FOUND, "")

	// The network goes with its endpoints, attached or not.
	if b.w, err = b.w.DeleteNetwork(n.Doc.Id, 0, b.in); err != nil {
		t.Fatal(err)
	}
	if got := len(b.w.AllEndpoints()); got != 0 {
		t.Errorf("%d endpoints left", got)
	}
	if o, _ := b.w.Namespace(other.Doc.Id); len(o.NICs) != 0 || o.Doc.Resources != nil {
		t.Errorf("%+v", o)
	}
	_, err = b.w.DeleteNetwork(n.Doc.Id, 0, b.in)
	code(t, err, hcn.HCN_E_NETWORK_NOT_FOUND, "")
	empty(t, b.w)
}

// empty checks that no index outlives its rows.
func empty(t *testing.T, w World) {
	t.Helper()
	if w.addrs.len()+w.macs.len()+w.members.len()+w.published.len()+w.byName.len() != 0 ||
		w.numbersIn[portNumbers].len()+w.numbersIn[networkNumbers].len() != 0 {
		t.Errorf("indexes of an empty World: %d %d %d %d %d", w.addrs.len(), w.macs.len(), w.members.len(), w.published.len(), w.byName.len())
	}
}

func TestGuestsCompartment(t *testing.T) {
	b := newBench(t)
	n := b.network(tenNet)
	e := b.endpoint(n.Doc.Id, `{}`)
	guest := b.namespace(`{"Type":"Guest"}`)
	b.attach(guest.Doc.Id, e.Doc.Id) // recorded
	// The network's own vNIC, and the resolvers'.
	if d := flat(b.w); len(d.Compartments) != 1 || d.Compartments[0].ID != ResolverCompartment || len(d.Switch.Ports) != 2 {
		t.Errorf("%+v", d)
	}
}

func TestForeignNamespace(t *testing.T) {
	b := newBench(t)
	ns := b.namespace(`{"NetNsPath":"/var/run/netns/pod1"}`)
	if d := flat(b.w); !d.Compartments[0].Foreign || d.Compartments[0].Path != "/var/run/netns/pod1" || !ns.Foreign {
		t.Errorf("%+v", d.Compartments)
	}
	for _, p := range []string{"relative", "/run/../x", "/run/gatehouse/netns/" + guid(4)} {
		_, _, _, err := b.w.CreateNamespace(fmt.Appendf(nil, `{"NetNsPath":%q}`, p), b.in)
		code(t, err, hcn.E_INVALID_PARAMETER, "NetNsPath")
	}
}

func TestVersions(t *testing.T) {
	b := newBench(t)
	n := b.network(tenNet)
	body := []byte(`{"ResourceType":"DNS","RequestType":"Update","Settings":"{\"Domain\":\"x.test\"}"}`)
	w, n2, err := b.w.ModifyNetwork(n.Doc.Id, body, 1, b.in)
	if err != nil || n2.Doc.Version != 2 || n2.Doc.Dns.Domain != "x.test" {
		t.Fatalf("%+v %v", n2, err)
	}
	_, _, err = w.ModifyNetwork(n.Doc.Id, body, 1, b.in)
	code(t, err, hcn.E_INVALID_PARAMETER, "")
	var e *Error
	if errors.As(err, &e); e.HTTPStatus() != 412 {
		t.Errorf("status %d", e.HTTPStatus())
	}
	_, err = w.DeleteNetwork(n.Doc.Id, 1, b.in)
	code(t, err, hcn.E_INVALID_PARAMETER, "")
}

func TestModifyNetwork(t *testing.T) {
	b := newBench(t)
	n := b.network(tenNet)
	e := b.endpoint(n.Doc.Id, `{"Name":"a"}`)
	own := b.endpoint(n.Doc.Id, `{"Name":"b","Dns":{"ServerList":["9.9.9.9"]}}`)
	ns := b.namespace(`{}`)
	b.attach(ns.Doc.Id, e.Doc.Id)
	w, _, err := b.w.ModifyNetwork(n.Doc.Id, []byte(`{"ResourceType":"DNS","RequestType":"Add","Settings":{"Domain":"new.test"}}`), 0, b.in)
	if err != nil {
		t.Fatal(err)
	}
	e, _ = w.Endpoint(e.Doc.Id)
	own, _ = w.Endpoint(own.Doc.Id)
	if e.Doc.Dns.Domain != "new.test" || own.Doc.Dns.Domain != "" {
		t.Errorf("%+v %+v", e.Doc.Dns, own.Doc.Dns)
	}
	if d := flat(w); d.Resolvers[0].Domain != "new.test" || d.Names[0][2].Name != "a.new.test" {
		t.Errorf("%+v", d.Names)
	}
	add := func(w World, verb, p string) (World, *Network, error) {
		return w.ModifyNetwork(n.Doc.Id, fmt.Appendf(nil, `{"ResourceType":"Policy","RequestType":%q,"Settings":{"Policies":[%s]}}`, verb, p), 0, b.in)
	}
	w, n, err = add(w, "Add", `{"Type":"AutomaticDNS","Settings":{"Enable":true}}`)
	if err != nil || len(n.Doc.Policies) != 1 {
		t.Fatal(err)
	}
	_, _, err = add(w, "Add", `{"Type":"AutomaticDNS","Settings":{"Enable":false}}`)
	code(t, err, hcn.HCN_E_POLICY_ALREADY_EXISTS, "Settings.Policies[0]")
	_, _, err = add(w, "Add", `{"Type":"L4Proxy"}`)
	code(t, err, hcn.HCN_E_INVALID_POLICY, "Settings.Policies[0].Settings")
	w, n, err = add(w, "Remove", `{"Type":"AutomaticDNS"}`)
	if err != nil || len(n.Doc.Policies) != 0 {
		t.Fatal(err)
	}
	_, _, err = w.ModifyNetwork(n.Doc.Id, []byte(`{"ResourceType":"Nothing","RequestType":"Add"}`), 0, b.in)
	code(t, err, hcn.HCN_E_REQUEST_UNSUPPORTED, "ResourceType")
}

func TestPublish(t *testing.T) {
	b := newBench(t)
	n := b.network(`{"Name":"nat"}`)
	e := b.endpoint(n.Doc.Id, `{"Policies":[{"Type":"PortMapping","Settings":{ "Protocol":6, "InternalPort":80, "ExternalPort":0, "X":"a<b" }}]}`)
	if got := string(e.Doc.Policies[0].Settings); got != `{ "Protocol":6, "InternalPort":80, "ExternalPort":49152, "X":"a<b" }` {
		t.Errorf("settings %s", got)
	}
	if len(e.mappings) != 2 || e.mappings[0].String() != "0.0.0.0:49152/tcp" || e.mappings[1].String() != "[::]:49152/tcp" {
		t.Errorf("%v", e.mappings)
	}
	both := b.endpoint(n.Doc.Id, `{"Policies":[{"Type":"PortMapping","Settings":{"ExternalPort":53}},{"Type":"PortMapping","Settings":{"ExternalPort":53,"Flags":2,"InternalPort":5353}}]}`)
	var got []string
	for _, m := range both.mappings {
		got = append(got, fmt.Sprintf("%s>%d", m, m.addrPort))
	}
	if s := strings.Join(got, " "); s != "[::]:53/tcp>5353 [::]:53/udp>5353 0.0.0.0:53/tcp>53 0.0.0.0:53/udp>53" {
		t.Errorf("%s", s)
	}
	d := flat(b.w)
	if len(d.HostPorts) != 6 || len(d.Switch.Mappings) != 0 {
		t.Errorf("detached: %v %v", d.HostPorts, d.Switch.Mappings)
	}
	ns := b.namespace(`{}`)
	b.attach(ns.Doc.Id, both.Doc.Id)
	if d = flat(b.w); len(d.Switch.Mappings) != 4 {
		t.Errorf("%v", d.Switch.Mappings)
	}
	// Modify.
	up, err := b.modifyEndpoint(e.Doc.Id, "Add", `{"Type":"PortMapping","Settings":{"Protocol":6,"InternalPort":81,"ExternalPort":8081}}`)
	if err != nil || len(up.Doc.Policies) != 2 || up.Doc.Version != 2 {
		t.Fatalf("%+v %v", up, err)
	}
	if up, err = b.modifyEndpoint(e.Doc.Id, "Add", `{"Type":"PortMapping","Settings":{"ExternalPort":8081,"InternalPort":81,"Protocol":6}}`); err != nil || len(up.Doc.Policies) != 2 {
		t.Errorf("equal entry: %+v %v", up, err)
	}
	_, err = b.modifyEndpoint(e.Doc.Id, "Add", `{"Type":"PortMapping","Settings":{"Protocol":6,"InternalPort":82,"ExternalPort":8081}}`)
	code(t, err, hcn.HCN_E_POLICY_ALREADY_EXISTS, "Settings.Policies[2].Settings")
	_, err = b.modifyEndpoint(e.Doc.Id, "Add", `{"Type":"PortMapping","Settings":{"Protocol":17,"ExternalPort":53}}`)
	code(t, err, hcn.HCN_E_PORT_ALREADY_EXISTS, "Settings")
	if up, err = b.modifyEndpoint(e.Doc.Id, "Remove", `{"Type":"PortMapping","Settings":{"ExternalPort":9999}}`); err != nil || len(up.Doc.Policies) != 2 {
		t.Errorf("no match: %v %v", up.Doc.Policies, err)
	}
	if up, err = b.modifyEndpoint(e.Doc.Id, "Remove", `{"Type":"PortMapping","Settings":{"InternalPort":80}}`); err != nil || len(up.Doc.Policies) != 1 {
		t.Errorf("%v %v", up.Doc.Policies, err)
	}
	if up, err = b.modifyEndpoint(e.Doc.Id, "Update", `{"Type":"PortMapping","Settings":{"ExternalPort":1234}},{"Type":"OutBoundNAT","Settings":{}}`); err != nil || len(up.Doc.Policies) != 2 || len(up.mappings) != 4 {
		t.Errorf("%v %v", up.Doc.Policies, err)
	}
	if up, err = b.modifyEndpoint(e.Doc.Id, "Update", `{"Type":"PortMapping"}`); err != nil || len(up.Doc.Policies) != 1 || up.Doc.Policies[0].Type != hcn.OutBoundNAT {
		t.Errorf("%v %v", up.Doc.Policies, err)
	}
	if up, err = b.modifyEndpoint(e.Doc.Id, "Update", `{"Type":"OutBoundNAT","Settings":null}`); err != nil || len(up.Doc.Policies) != 0 {
		t.Errorf("null clears a type whose {} is a policy: %v %v", up.Doc.Policies, err)
	}
	if up, err = b.modifyEndpoint(e.Doc.Id, "Reset", ``); err != nil || len(up.Doc.Policies) != 0 {
		t.Errorf("%v %v", up.Doc.Policies, err)
	}
	// Freed at once.
	b.endpoint(n.Doc.Id, `{"Policies":[{"Type":"PortMapping","Settings":{"ExternalPort":1234}}]}`)
}

// outside is a host where somebody else holds ports.
type outside map[uint16]bool

func (o outside) Check(p HostPort) error {
	if o[p.Port] {
		return errors.New("held by sshd (pid 7)")
	}
	return nil
}

func (o outside) Free(want []HostPort, taken func(uint16) bool) (uint16, error) {
	for p := uint16(100); p < 110; p++ {
		if !o[p] && !taken(p) {
			return p, nil
		}
	}
	return 0, errors.New("none")
}

func TestPortsOfTheHost(t *testing.T) {
	b := newBench(t)
	b.in.Ports = outside{22: true, 100: true}
	n := b.network(tenNet)
	_, _, _, err := b.w.CreateEndpoint("ten", []byte(`{"Policies":[{"Type":"PortMapping","Settings":{"ExternalPort":22}}]}`), b.in)
	code(t, err, hcn.HCN_E_PORT_ALREADY_EXISTS, "", "sshd")
	e := b.endpoint(n.Doc.Id, `{"Policies":[{"Type":"PortMapping","Settings":{"ExternalPort":22,"Flags":4}}]}`)
	if d := flat(b.w); len(d.HostPorts) != 0 || len(e.mappings) != 2 {
		t.Errorf("%v", d.HostPorts)
	}
	for i := range 9 {
		e := b.endpoint(n.Doc.Id, `{"Policies":[{"Type":"PortMapping"}]}`)
		if want := fmt.Sprintf(`{"ExternalPort":%d}`, 101+i); string(e.Doc.Policies[0].Settings) != want {
			t.Errorf("%s, want %s", e.Doc.Policies[0].Settings, want)
		}
	}
	_, _, _, err = b.w.CreateEndpoint("ten", []byte(`{"Policies":[{"Type":"PortMapping"}]}`), b.in)
	code(t, err, hcn.HCN_E_PORT_ALREADY_EXISTS, "Policies[0].Settings.ExternalPort")
}

func TestPlug(t *testing.T) {
	b := newBench(t)
	b.network(`{"Name":"nat"}`)
	b.network(tenNet)
	docs := []json.RawMessage{
		json.RawMessage(`{"ID":"` + guid(11) + `","Name":"web","Aliases":["www"]}`),
		json.RawMessage(`{"ID":"` + guid(12) + `","Name":"web","HostComputeNetwork":"ten"}`),
	}
	w, ns, err := b.w.Plug("rt-1", guid(10), docs, b.in)
	if err != nil {
		t.Fatal(err)
	}
	if len(ns.NICs) != 2 || ns.Plug != "rt-1" || len(ns.PlugEndpoints) != 2 {
		t.Errorf("%+v", ns)
	}
	d := flat(w)
	if len(d.Compartments) != 2 || len(d.Compartments[0].VNICs) != 2 || d.Compartments[0].VNICs[1].Name != "eth1" {
		t.Errorf("%+v", d.Compartments)
	}
	w = w.Clean()
	again, _, err := w.Plug("rt-1", guid(10), docs, b.in)
	if err != nil || len(again.Events()) != 0 {
		t.Errorf("repeated: %v, %d events", err, len(again.Events()))
	}
	if _, ns, err := w.Plug("rt-9", "", []json.RawMessage{json.RawMessage(`{}`)}, b.in); err != nil || len(ns.NICs) != 1 || ns.Doc.Id == "" {
		t.Errorf("without an id: %+v %v", ns, err)
	}
	// Whose addresses another stack speaks for has none in the kernel, and no more vNICs.
	taken, err := w.TakeOver(guid(10), true)
	if err != nil {
		t.Fatal(err)
	}
	vnics := func(w World) []VNIC {
		all := flat(w).Compartments
		return all[slices.IndexFunc(all, func(c Compartment) bool { return c.ID == guid(10) })].VNICs
	}
	for _, v := range vnics(taken) {
		if len(v.Addrs)+len(v.Routes)+len(v.Neighbours) > 0 || v.Name == "" {
			t.Errorf("taken over: %+v", v)
		}
	}
	_, _, err = taken.Plug("rt-1", guid(10), append(docs, json.RawMessage(`{"ID":"`+guid(13)+`"}`)), b.in)
	code(t, err, hcn.HCN_E_NOTIMPL, "Endpoints[2]")
	if back, err := taken.TakeOver(guid(10), false); err != nil || len(vnics(back)[0].Addrs) == 0 {
		t.Errorf("given back: %v", err)
	}
	_, _, err = w.Plug("rt-2", guid(10), docs, b.in)
	code(t, err, hcn.E_ALREADY_EXISTS, "ID")
	// All or nothing.
	_, _, err = w.Plug("rt-3", guid(20), []json.RawMessage{json.RawMessage(`{"ID":"` + guid(21) + `"}`), json.RawMessage(`{"ID":"` + guid(22) + `","IpConfigurations":[{"IpAddress":"1.2.3.4"}]}`)}, b.in)
	code(t, err, hcn.HCN_E_INVALID_IP, "Endpoints[1].IpConfigurations[0].IpAddress")
	w = w.Unplug(guid(10), b.in)
	if len(w.AllEndpoints())+len(w.AllNamespaces()) != 0 {
		t.Error("unplug left something")
	}
	if w.Unplug(guid(10), b.in).numbers != w.numbers {
		t.Error("unplug of nothing did something")
	}
}

func TestWho(t *testing.T) {
	b := newBench(t)
	n := b.network(tenNet)
	e := b.endpoint(n.Doc.Id, `{"Name":"web","Policies":[{"Type":"PortMapping","Settings":{"Protocol":6,"InternalPort":80,"ExternalPort":8080}}]}`)
	for q, want := range map[string]string{
		"10.1.0.2": "address 10.1.0.2 web", "10.1.0.1": "gateway 10.1.0.1 ten", "10.1.0.99": "subnet 10.1.0.0/24 ten", "11.0.0.1": "",
		e.Doc.MacAddress: "mac " + e.Doc.MacAddress + " web", "8080": "port 0.0.0.0:8080/tcp -> 10.1.0.2:80 web", "8080/udp": "", "8080/tcp": "port 0.0.0.0:8080/tcp -> 10.1.0.2:80 web",
	} {
		hs, err := b.w.Who(q)
		got := ""
		for _, h := range hs {
			got += h.What + " " + h.Value + " " + h.Name
		}
		if err != nil || got != want {
			t.Errorf("%s: got %q %v, want %q", q, got, err, want)
		}
	}
	if _, err := b.w.Who("nonsense"); err == nil {
		t.Error("nonsense accepted")
	}
	g := b.w.Graph()
	if len(g.Networks) != 1 || g.Networks[0].Subnets[0].Used != 1 || g.Networks[0].Endpoints[0].Published[0].To != 80 {
		t.Errorf("%+v", g)
	}
}

func TestFilters(t *testing.T) {
	b := newBench(t)
	n := b.network(tenNet)
	e := b.endpoint(n.Doc.Id, `{"Name":"web"}`)
	b.endpoint(n.Doc.Id, `{"Name":"web"}`)
	for f, want := range map[string]int{
		``: 2, `{}`: 2, `{"Name":"web"}`: 2, `{"name":"WEB"}`: 0, `{"ID":"` + strings.ToUpper(e.Doc.Id) + `"}`: 1, `{"ID":""}`: 0,
		`{"VirtualNetwork":"` + n.Doc.Id + `","Name":"web"}`: 2, `{"VirtualNetworkName":"ten"}`: 2, `{"HostComputeNamespace":""}`: 0,
		`{"IPAddress":"10.1.0.2"}`: 1, `{"MacAddress":"` + strings.ReplaceAll(e.Doc.MacAddress, "-", ":") + `"}`: 1, `{"State":1}`: 2, `{"Nonsense":"x"}`: 0,
	} {
		flt, err := ParseFilter(f)
		if got := len(b.w.FindEndpoints(flt)); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", f, got, err, want)
		}
	}
	if _, err := ParseFilter(`[1]`); err == nil {
		t.Error("a list is no filter")
	}
}
