// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/hns"
)

// packaged has the functions of package hcn speak to the bench's daemon.
func (b *docBench) packaged() {
	b.t.Helper()
	b.t.Setenv(hcn.SocketEnv, filepath.Join(b.root, "run", "gatehouse.sock"))
	before := hcn.DefaultClient
	hcn.DefaultClient = &hcn.Client{Patience: time.Minute} // emulated machines are slow
	b.t.Cleanup(func() { hcn.DefaultClient = before })
}

func (b *docBench) done(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// space is a namespace as containerd makes one, and its path.
func (b *docBench) space() (*hcn.HostComputeNamespace, string) {
	b.t.Helper()
	ns, err := (&hcn.HostComputeNamespace{}).Create()
	b.done(err)
	b.spaces = append(b.spaces, ns.Id)
	var where struct{ NetNsPath string }
	b.must("GET", "/namespaces/"+ns.Id, "", &where)
	return ns, where.NetNsPath
}

// fabric is an L2Bridge network on the bench's uplink: its gateway is the machine
// outside, and the host has an endpoint in it, the second address, as a pod has.
func (b *docBench) fabric(name string) *hcn.HostComputeNetwork {
	b.t.Helper()
	b.mustAt(b.ns, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	b.mustAt(b.out, "ip", "addr", "add", "10.79.0.1/24", "dev", "wire")
	n, err := (&hcn.HostComputeNetwork{Name: name, Type: hcn.L2Bridge, SchemaVersion: hcn.V2SchemaVersion(), Flags: hcn.EnableNonPersistent,
		Policies: []hcn.NetworkPolicy{{Type: hcn.NetAdapterName, Settings: json.RawMessage(`{"NetworkAdapterName":"wire"}`)}},
		Ipams: []hcn.Ipam{{Type: "Static", Subnets: []hcn.Subnet{{IpAddressPrefix: "10.79.0.0/24",
			Routes: []hcn.Route{{NextHop: "10.79.0.1", DestinationPrefix: "0.0.0.0/0"}}}}}}}).Create()
	b.done(err)
	b.t.Cleanup(func() { b.must("DELETE", "/networks/"+n.Id, "", nil) })
	b.network = n.Id
	host := &hcn.HostComputeNamespace{NamespaceId: 1, Type: hcn.NamespaceTypeHostDefault}
	host, err = host.Create()
	b.done(err)
	b.spaces = append(b.spaces, host.Id)
	e, err := n.CreateEndpoint(&hcn.HostComputeEndpoint{Name: name + "_ep", IpConfigurations: []hcn.IpConfig{{IpAddress: "10.79.0.2"}}, SchemaVersion: hcn.V2SchemaVersion()})
	b.done(err)
	b.done(e.NamespaceAttach(host.Id))
	return n
}

// addEndpoint is what a CNI plugin does after it has decided on a document.
func (b *docBench) addEndpoint(d hcn.HostComputeEndpoint) (*hcn.HostComputeEndpoint, string) {
	b.t.Helper()
	ns, path := b.space()
	d.SchemaVersion = hcn.V2SchemaVersion()
	e, err := d.Create()
	b.done(err)
	b.done(hcn.AddNamespaceEndpoint(ns.Id, e.Id))
	b.serve(path)
	e, err = hcn.GetEndpointByName(d.Name)
	b.done(err)
	return e, path
}

func apply(typ hcn.EndpointPolicyType, settings string) hcn.EndpointPolicy {
	return hcn.EndpointPolicy{Type: typ, Settings: json.RawMessage(settings)}
}

// TestCNI replays the CNI plugins nat and sdnbridge: ADD twice, traffic, DEL twice, DEL
// after the namespace is gone, arguments that pass through verbatim.
//
//covers:type L2Bridge
//covers:endpoint PortMapping OutBoundNAT SDNRoute
func TestCNI(t *testing.T) {
	b := newDocBench(t)
	b.packaged()
	x, host := b.path(b.out), b.path(b.ns)
	b.serve(x)
	b.serve(host)

	del := func(name string) {
		t.Helper()
		e, err := hcn.GetEndpointByName(name)
		if hcn.IsNotFoundError(err) {
			return
		}
		b.done(err)
		if ns, err := hcn.GetNamespaceByID(e.HostComputeNamespace); err == nil {
			if err := hcn.RemoveNamespaceEndpoint(ns.Id, e.Id); err != nil && !hcn.IsNotFoundError(err) {
				t.Error(err)
			}
		} else if _, ok := err.(hcn.NamespaceNotFoundError); !ok {
			t.Errorf("%T %v", err, err)
		}
		b.done(e.Delete())
	}
	// nat: ports of the host, an In Allow rule without RuleType, a rule for itself.
	const in = `{"Protocol":6, "InternalPort":80,"ExternalPort":8080,"Flags":1,"Note":"<a&b>"}`
	nat, natNS := b.addEndpoint(hcn.HostComputeEndpoint{Name: "0a1b_blue", HostComputeNetwork: b.network, Dns: hcn.Dns{Search: []string{"default.svc.cluster.local"}, ServerList: []string{"10.96.0.10"}},
		Policies: []hcn.EndpointPolicy{apply(hcn.PortMapping, in), apply(hcn.ACL, `{"Protocols":"6","Action":"Allow","Direction":"In","LocalPorts":"80","Priority":1000}`)}})
	if len(nat.IpConfigurations) != 2 || nat.Routes[0].NextHop != "10.77.0.1" || nat.MacAddress == "" || nat.HostComputeNetwork != b.network {
		t.Errorf("%+v", nat)
	}
	if got := compactOf(t, nat.Policies[0].Settings); got != compactOf(t, json.RawMessage(in)) || !strings.Contains(got, "<a&b>") {
		t.Errorf("settings came back as %s", got)
	}
	b.reaches(x, hostV4+":8080")
	b.reaches(natNS, hostV4+":8080")
	b.reaches(natNS, outV4+":80")
	for range 2 {
		del("0a1b_blue")
	}
	b.unreached(x, hostV4+":8080")

	// sdnbridge: the pods' own addresses towards the fabric, the host's towards others.
	n := b.fabric("sdn")
	b.mustAt(b.out, "ip", "addr", "add", "203.0.113.9/32", "dev", "lo")
	const name = "0a1b_sdn"
	pod, podNS := b.addEndpoint(hcn.HostComputeEndpoint{Name: name, HostComputeNetwork: n.Id,
		Routes:           []hcn.Route{{NextHop: "10.79.0.1", DestinationPrefix: "0.0.0.0/0"}},
		IpConfigurations: []hcn.IpConfig{{IpAddress: "10.79.0.17"}},
		Policies: []hcn.EndpointPolicy{apply(hcn.OutBoundNAT, `{"Exceptions":["10.79.0.0/24","10.96.0.0/12","198.51.100.0/24"]}`),
			apply(hcn.SDNRoute, `{"DestinationPrefix":"10.96.0.0/12","NeedEncap":true}`)}})
	other, otherNS := b.addEndpoint(hcn.HostComputeEndpoint{Name: "other_sdn", HostComputeNetwork: n.Id, Routes: []hcn.Route{{NextHop: "10.79.0.2", DestinationPrefix: "0.0.0.0/0"}},
		Policies: []hcn.EndpointPolicy{apply(hcn.OutBoundNAT, `{}`), apply(hcn.SDNRoute, `{"DestinationPrefix":"10.96.0.0/12","NeedEncap":true}`)}})
	if got := b.reaches(podNS, outV4+":80"); got.client != "10.79.0.17" {
		t.Errorf("the fabric sees %s", got.client)
	}
	if got := b.reaches(podNS, "203.0.113.9:80"); got.client != hostV4 {
		t.Errorf("others see %s", got.client)
	}
	// Likewise where the host's own endpoint is the gateway, as win-bridge and flannel have it.
	if got := b.reaches(otherNS, "203.0.113.9:80"); got.client != hostV4 {
		t.Errorf("by the host's endpoint: others see %s", got.client)
	}
	b.reaches(x, "10.79.0.17:80")
	b.reaches(podNS, other.IpConfigurations[0].IpAddress+":80")
	b.reaches(otherNS, "10.79.0.17:80")
	// The service prefix goes to the host's own stack, which is this pod's gateway, with
	// the pod's address.
	b.mustAt(b.ns, "ip", "addr", "add", "10.96.0.10/32", "dev", "lo")
	if got := b.reaches(otherNS, "10.96.0.10:80"); got.client != other.IpConfigurations[0].IpAddress {
		t.Errorf("the host sees %s", got.client)
	}
	// DEL after the runtime has deleted the namespace.
	ns, err := hcn.GetNamespaceByID(pod.HostComputeNamespace)
	b.done(err)
	b.done(ns.Delete())
	b.spaces = slices.DeleteFunc(b.spaces, func(id string) bool { return id == ns.Id })
	if e, err := hcn.GetEndpointByName(name); err != nil || e.HostComputeNamespace != "" {
		t.Errorf("%+v %v", e, err)
	}
	for range 2 {
		del(name)
	}
	b.unreached(x, "10.79.0.17:80")
}

func compactOf(t *testing.T, raw json.RawMessage) string {
	t.Helper()
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestCalico replays Calico's CNI and Felix over an L2Bridge network: endpoints with two
// OutBoundNAT policies and a route to the host, default deny until Felix comes, then
// its rules through v1.
//
//covers:endpoint ACL SDNRoute
func TestCalico(t *testing.T) {
	b := newDocBench(t)
	b.packaged()
	x, host := b.path(b.out), b.path(b.ns)
	b.serve(x)
	b.serve(host)
	n := b.fabric("Calico")
	b.mustAt(b.out, "ip", "addr", "add", "203.0.113.9/32", "dev", "lo")
	routes := []hcn.Route{{NextHop: "10.79.0.2", DestinationPrefix: "0.0.0.0/0"}}
	toHost := apply(hcn.SDNRoute, `{"DestinationPrefix":"`+hostV4+`/32","NeedEncap": true}`)

	// A create that fails leaves nothing behind.
	_, err := (&hcn.HostComputeEndpoint{Name: "pod_Calico", HostComputeNetwork: n.Id, IpConfigurations: []hcn.IpConfig{{IpAddress: "10.79.0.20"}},
		Policies: []hcn.EndpointPolicy{apply(hcn.ACL, `{"Action":"Allow","Direction":"Sideways"}`)}}).Create()
	if err == nil || !hcn.CheckErrorWithCode(err, hcn.HCN_E_INVALID_POLICY) {
		t.Fatal(err)
	}
	if all, err := hcn.ListEndpointsOfNetwork(n.Id); err != nil || len(all) != 1 {
		t.Errorf("after a create that failed: %d endpoints, %v", len(all), err)
	}
	pod, podNS := b.addEndpoint(hcn.HostComputeEndpoint{Name: "pod_Calico", HostComputeNetwork: n.Id, Routes: routes, IpConfigurations: []hcn.IpConfig{{IpAddress: "10.79.0.20"}},
		Policies: []hcn.EndpointPolicy{apply(hcn.OutBoundNAT, `{"Exceptions":["10.79.0.0/24","198.51.100.0/24"]}`), toHost,
			apply(hcn.OutBoundNAT, `{"Destinations":["10.79.0.20"]}`)}})
	b.reaches(x, "10.79.0.20:80")
	if got := b.reaches(podNS, hostV4+":80"); got.client != "10.79.0.20" {
		t.Errorf("the host sees %s", got.client)
	}
	// Default deny: one type is replaced, the others live on.
	b.done(pod.ApplyPolicy(hcn.RequestTypeUpdate, hcn.PolicyEndpointRequest{Policies: []hcn.EndpointPolicy{
		apply(hcn.ACL, `{"Protocols":"256","Action":"Block","Direction":"In","RuleType":"Switch","Priority":65500}`)}}))
	b.unreached(x, "10.79.0.20:80")
	if got := b.reaches(podNS, hostV4+":80"); got.client != "10.79.0.20" {
		t.Errorf("under default deny the host sees %s", got.client)
	}
	// What it begins is answered, in the host's name and in its own (an exception).
	for to, client := range map[string]string{"203.0.113.9": hostV4, outV4: "10.79.0.20"} {
		if got := b.reaches(podNS, to+":80"); got.client != client {
			t.Errorf("under default deny %s sees %s", to, got.client)
		}
	}
	pod, err = hcn.GetEndpointByID(pod.Id)
	b.done(err)
	if len(pod.Policies) != 4 {
		t.Errorf("policies: %+v", pod.Policies)
	}
	// Felix reads the endpoint through v1 and writes the whole list with its rules.
	var v1 hns.Endpoint
	b.mustV1("GET", "/endpoints/"+pod.Id, "", &v1)
	if v1.State != 2 || v1.IPAddress.String() != "10.79.0.20" {
		t.Errorf("%+v", v1)
	}
	list := slices.DeleteFunc(slices.Clone(v1.Policies), func(p json.RawMessage) bool { return strings.Contains(string(p), `"ACL"`) })
	for _, r := range []string{
		`{"Type":"ACL","Action":"Allow","Direction":"In","RuleType":"Host","Priority":100,"Protocol":256}`,
		`{"Type":"ACL","Action":"Allow","Direction":"Out","RuleType":"Host","Priority":100,"Protocol":256}`,
		`{"Type":"ACL","Id":"allow-x","Action":"Allow","Direction":"In","RuleType":"Switch","Priority":1000,"Protocol":6,"LocalPort":80,"RemoteAddresses":"10.79.0.1/32"}`,
		`{"Type":"ACL","Action":"Block","Direction":"In","RuleType":"Switch","Priority":65500,"Protocol":256}`,
		`{"Type":"ACL","Action":"Allow","Direction":"Out","RuleType":"Switch","Priority":65500,"Protocol":256}`,
	} {
		list = append(list, json.RawMessage(r))
	}
	body, err := json.Marshal(hns.Endpoint{Policies: list})
	b.done(err)
	if left := b.policies(pod.Id, string(body)); len(left) != 8 {
		t.Errorf("policies: %s", left)
	}
	b.reaches(x, "10.79.0.20:80")
	b.unreached(host, "10.79.0.20:80")
	if got := b.reaches(podNS, hostV4+":80"); got.client != "10.79.0.20" {
		t.Errorf("the route to the host is gone: it sees %s", got.client)
	}
	// DEL, and once more.
	b.done(pod.Delete())
	if err := pod.Delete(); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("deleted twice: %v", err)
	}
}

// TestAzure replays Azure's CNI and network policy manager: state filters, sets in two
// levels, rules that name sets and share an id, removal of a policy down to its last rule.
//
//covers:endpoint ACL
//covers:network SetPolicy
func TestAzure(t *testing.T) {
	b := newDocBench(t)
	b.packaged()
	n := b.fabric("azure")
	endpoint := func(name, addr string) (*hcn.HostComputeEndpoint, string) {
		return b.addEndpoint(hcn.HostComputeEndpoint{Name: name, HostComputeNetwork: n.Id, IpConfigurations: []hcn.IpConfig{{IpAddress: addr, PrefixLength: 24}},
			Routes:   []hcn.Route{{NextHop: "10.79.0.2", DestinationPrefix: "0.0.0.0/0"}},
			Policies: []hcn.EndpointPolicy{apply(hcn.OutBoundNAT, `{"Exceptions":["198.51.100.0/24"]}`), apply(hcn.IOV, `{"IovOffloadWeight":100,"QueuePairsRequested":1}`)}})
	}
	web, _ := endpoint("8d3e-eth0", "10.79.0.33")
	_, apiNS := endpoint("8d3f-eth0", "10.79.0.40")
	_, dbNS := endpoint("8d40-eth0", "10.79.0.41")
	for state, want := range map[int]int{2: 4, 3: 0} { // the host's endpoint is one
		all, err := hcn.ListEndpointsQuery(hcn.HostComputeQuery{SchemaVersion: hcn.V2SchemaVersion(), Filter: fmt.Sprintf(`{"State":%d}`, state)})
		if err != nil || len(all) != want {
			t.Errorf("state %d: %d endpoints, %v", state, len(all), err)
		}
	}
	sets := func(verb hcn.RequestType, list ...string) error {
		r := hcn.PolicyNetworkRequest{}
		for _, s := range list {
			r.Policies = append(r.Policies, hcn.NetworkPolicy{Type: hcn.SetPolicy, Settings: json.RawMessage(s)})
		}
		raw, err := json.Marshal(r)
		b.done(err)
		now, err := hcn.GetNetworkByName("azure")
		b.done(err)
		return now.ModifyNetworkSettings(&hcn.ModifyNetworkSettingRequest{ResourceType: hcn.NetworkResourceTypePolicy, RequestType: verb, Settings: raw})
	}
	const set = `{"Id":%q,"Name":%q,"PolicyType":%q,"Values":%q}`
	webSet, apiSet := fmt.Sprintf(set, "npm-1", "podlabel-app:web", "IPSET", "10.79.0.33"), fmt.Sprintf(set, "npm-2", "podlabel-app:api", "IPSET", "10.79.0.40")
	nested := fmt.Sprintf(set, "npm-3", "nestedlabel-app:api", "NESTEDIPSET", "npm-2")
	b.done(sets(hcn.RequestTypeAdd, webSet, apiSet, nested))

	rules := []hcn.EndpointPolicy{
		apply(hcn.ACL, `{"Id":"npm-pol-x","Protocols":"6","Action":"Allow","Direction":"In","LocalAddresses":"npm-3","RemoteAddresses":"npm-1","LocalPorts":"80","RuleType":"Switch","Priority":222}`),
		apply(hcn.ACL, `{"Id":"npm-pol-x","Action":"Block","Direction":"In","RuleType":"Switch","Priority":3000}`),
	}
	b.done(web.ApplyPolicy(hcn.RequestTypeAdd, hcn.PolicyEndpointRequest{Policies: rules}))
	b.reaches(apiNS, "10.79.0.33:80")
	b.unreached(dbNS, "10.79.0.33:80")
	// A set changes under live rules; only it is named, the others stay.
	b.done(sets(hcn.RequestTypeUpdate, fmt.Sprintf(set, "npm-2", "podlabel-app:api", "IPSET", "10.79.0.41")))
	b.reaches(dbNS, "10.79.0.33:80")
	b.unreached(apiNS, "10.79.0.33:80")
	if err := sets(hcn.RequestTypeUpdate, fmt.Sprintf(set, "npm-9", "x", "IPSET", "10.79.0.41")); !hcn.CheckErrorWithCode(err, hcn.HCN_E_POLICY_NOT_FOUND) {
		t.Errorf("a set that is not there: %v", err)
	}
	if err := sets(hcn.RequestTypeRemove, apiSet); !hcn.CheckErrorWithCode(err, hcn.HCN_E_ENTITY_HAS_REFERENCES) {
		t.Errorf("a set in use: %v", err)
	}
	// Removal: the other policies first, then the rules that remain: none.
	now, err := hcn.GetEndpointByID(web.Id)
	b.done(err)
	kept := slices.DeleteFunc(slices.Clone(now.Policies), func(p hcn.EndpointPolicy) bool {
		var s struct{ Id string }
		_ = json.Unmarshal(p.Settings, &s)
		return p.Type == hcn.ACL && s.Id == "npm-pol-x"
	})
	if len(kept) != 2 {
		t.Errorf("policies without the rules: %+v", kept)
	}
	b.done(now.ApplyPolicy(hcn.RequestTypeUpdate, hcn.PolicyEndpointRequest{Policies: kept}))
	b.reaches(apiNS, "10.79.0.33:80")
	if now, err = hcn.GetEndpointByID(web.Id); err != nil || len(now.Policies) != 2 {
		t.Errorf("%+v %v", now.Policies, err)
	}
	b.done(sets(hcn.RequestTypeRemove, nested))
	b.done(sets(hcn.RequestTypeRemove, apiSet, webSet))
	b.done(now.Delete())
	if err := now.ApplyPolicy(hcn.RequestTypeAdd, hcn.PolicyEndpointRequest{Policies: rules[1:]}); err == nil || !strings.Contains(err.Error(), "endpoint was not found") {
		t.Errorf("a pod that is gone: %v", err)
	}
}

// TestVirtualMachines replays what hcsshim, containerd and ncproxy ask for: namespaces
// with no members, endpoints that outlive them, statistics by v1, the layer of a
// network, documents of a virtual machine's networking service.
func TestVirtualMachines(t *testing.T) {
	b := newDocBench(t)
	b.packaged()
	n := b.fabric("wide")
	layer := n.Health.Extra.LayeredOn
	if layer == "" {
		t.Error("a network with an uplink says no layer")
	}
	over, err := (&hcn.HostComputeNetwork{Name: "proxy", Type: hcn.L2Bridge, SchemaVersion: hcn.SchemaVersion{Major: 2, Minor: 2},
		Policies: []hcn.NetworkPolicy{{Type: hcn.LayerConstraint, Settings: json.RawMessage(`{"LayerId":"` + layer + `"}`)}},
		MacPool:  hcn.MacPool{Ranges: []hcn.MacRange{{StartMacAddress: "00-15-5D-52-C0-00", EndMacAddress: "00-15-5D-52-CF-FF"}}},
		Ipams: []hcn.Ipam{{Type: "Static", Subnets: []hcn.Subnet{{IpAddressPrefix: "10.80.0.0/24",
			Routes: []hcn.Route{{NextHop: "10.80.0.1", DestinationPrefix: "0.0.0.0/0"}}}}}}}).Create()
	b.done(err)
	t.Cleanup(func() { b.must("DELETE", "/networks/"+over.Id, "", nil) })
	if over.Health.Extra.LayeredOn != layer || over.SchemaVersion.Minor != 2 {
		t.Errorf("%+v", over)
	}
	e, path := b.addEndpoint(hcn.HostComputeEndpoint{Name: "vm", HostComputeNetwork: n.Id, IpConfigurations: []hcn.IpConfig{{IpAddress: "10.79.0.50"}},
		Policies: []hcn.EndpointPolicy{apply(hcn.PortName, `{"Name":"pod"}`), apply(hcn.IOV, `{"IovOffloadWeight":100}`)}})
	modify := func(verb hcn.RequestType, settings string) {
		t.Helper()
		raw, err := json.Marshal(hcn.PolicyEndpointRequest{Policies: []hcn.EndpointPolicy{apply(hcn.IOV, settings)}})
		b.done(err)
		b.done(hcn.ModifyEndpointSettings(e.Id, &hcn.ModifyEndpointSettingRequest{ResourceType: hcn.EndpointResourceTypePolicy, RequestType: verb, Settings: raw}))
	}
	modify(hcn.RequestTypeUpdate, `{"IovOffloadWeight":50}`)
	modify(hcn.RequestTypeRemove, `{"IovOffloadWeight":50}`)
	if e, err = hcn.GetEndpointByID(e.Id); err != nil || len(e.Policies) != 1 {
		t.Errorf("%+v %v", e.Policies, err)
	}
	b.reaches(b.path(b.ns), "10.79.0.50:80")
	ids, err := hcn.GetNamespaceEndpointIds(e.HostComputeNamespace)
	if err != nil || len(ids) != 1 {
		t.Fatal(ids, err)
	}
	var stats struct{ PacketsReceived, PacketsSent uint64 }
	if b.mustV1("GET", "/endpointstats/"+ids[0], "", &stats); stats.PacketsReceived == 0 || stats.PacketsSent == 0 {
		t.Errorf("%+v", stats)
	}
	ns, err := hcn.GetNamespaceByID(e.HostComputeNamespace)
	b.done(err)
	b.done(ns.Sync())

	// The machine's networking service is stored, and told of.
	var g struct{ ID, State string }
	b.must("POST", "/guestnetworkservices", `{"VirtualMachineId":"0e5b0000-0000-4000-8000-000000000001","MirroredInterfaces":[{"EndpointId":"`+e.Id+`"}]}`, &g)
	become := func(state string) string {
		return fmt.Sprintf(`{"ResourceType":"State","RequestType":"Update","Settings":{"State":%q}}`, state)
	}
	b.refusedBy(hcn.ErrorCode(0x57), "POST", "/guestnetworkservices/"+g.ID+"/modify", become("Paused"))
	b.must("POST", "/guestnetworkservices/"+g.ID+"/modify", become("Bootstrapping"), nil)
	b.kill9()
	b.start()
	if b.must("GET", "/guestnetworkservices/"+g.ID, "", &g); g.State != "Bootstrapping" {
		t.Errorf("%+v", g)
	}

	// containerd deletes the namespace with the endpoint in it.
	b.done(ns.Delete())
	b.spaces = slices.DeleteFunc(b.spaces, func(id string) bool { return id == ns.Id })
	if _, err := hcn.GetNamespaceByID(ns.Id); !hcn.IsNotFoundError(err) {
		t.Errorf("%v", err)
	}
	if e, err = hcn.GetEndpointByID(e.Id); err != nil || e.HostComputeNamespace != "" {
		t.Errorf("%+v %v", e, err)
	}
	if _, err := b.run(path, "true"); err == nil {
		t.Error("the network namespace is still there")
	}
	b.done(e.Delete())
	var doc struct{ MirroredInterfaces []any }
	if b.must("GET", "/guestnetworkservices/"+g.ID, "", &doc); len(doc.MirroredInterfaces) != 0 {
		t.Errorf("interfaces of an endpoint that is gone: %+v", doc)
	}
	b.must("DELETE", "/guestnetworkservices/"+g.ID, "", nil)
}
