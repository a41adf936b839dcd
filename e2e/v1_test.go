// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/hns"
)

// v1 does one request of the v1 API.
func (b *docBench) v1(method, path, body string, out any) error {
	var in any
	if body != "" {
		in = json.RawMessage(body)
	}
	return hns.Call(context.Background(), b.c, method, path, in, out)
}

func (b *docBench) mustV1(method, path, body string, out any) {
	b.t.Helper()
	if err := b.v1(method, path, body, out); err != nil {
		b.t.Fatalf("%s %s %s: %v", method, path, body, err)
	}
}

// policies replaces an endpoint's and returns what it has then.
func (b *docBench) policies(endpoint, list string) []json.RawMessage {
	b.t.Helper()
	var e hns.Endpoint
	b.mustV1("POST", "/endpoints/"+endpoint, list, &e)
	return e.Policies
}

// wrongV1 demands a refusal whose text a program of v1 looks for.
func (b *docBench) wrongV1(want, method, path, body string) {
	b.t.Helper()
	if err := b.v1(method, path, body, nil); err == nil || !strings.Contains(err.Error(), want) {
		b.t.Errorf("%s %s: %v; want %q", method, path, err, want)
	}
}

// v1Machine makes an endpoint of a document and attaches it to a compartment of its own.
func (b *docBench) v1Machine(body string) (hns.Endpoint, string) {
	b.t.Helper()
	var ns hns.Namespace
	b.mustV1("POST", "/namespaces/", "", &ns)
	b.spaces = append(b.spaces, ns.ID)
	var e hns.Endpoint
	b.mustV1("POST", "/endpoints/", body, &e)
	b.mustV1("POST", "/endpoints/"+e.Id+"/attach", fmt.Sprintf(`{"SystemType":"Container","CompartmentId":%d}`, ns.CompartmentId), &e)
	if e.State != 2 || e.Namespace == nil || e.Namespace.ID != ns.ID {
		b.t.Errorf("attached: %+v", e)
	}
	var doc struct{ NetNsPath string }
	b.must("GET", "/namespaces/"+ns.ID, "", &doc)
	b.serve(doc.NetNsPath)
	return e, doc.NetNsPath
}

// TestLibnetwork replays what Docker's libnetwork does on Windows, with documents of
// v1: networks and endpoints, published ports, services as policy lists, deletion of a
// network that has endpoints.
func TestLibnetwork(t *testing.T) {
	b := newDocBench(t)
	x, host := b.path(b.out), b.path(b.ns)
	b.serve(x)
	var v hcn.Version
	if b.mustV1("GET", "/globals/version", "", &v); v.Major < 7 {
		t.Errorf("version %+v", v)
	}
	var n hns.Network
	b.mustV1("POST", "/networks/", `{"Name":"dock","Type":"nat","Subnets":[{"AddressPrefix":"10.78.0.0/24","GatewayAddress":"10.78.0.1"}],"DNSSuffix":"corp.example"}`, &n)
	if n.Type != "NAT" || n.Id == "" || n.Subnets[0].GatewayAddress != "10.78.0.1" || len(n.MacPools) != 1 || n.DNSSuffix != "corp.example" {
		t.Errorf("network: %+v", n)
	}
	a, aNS := b.v1Machine(`{"Name":"a","VirtualNetwork":"` + n.Id + `","EnableInternalDNS":true,"Policies":[
		{"Type":"NAT","Protocol":"TCP","InternalPort":80,"ExternalPort":8080},{"Type":"NAT","Protocol":"TCP","InternalPort":80}]}`)
	c, cNS := b.v1Machine(`{"Name":"c","VirtualNetworkName":"dock"}`)
	if !a.IPAddress.Is4() || a.PrefixLength != 24 || a.GatewayAddress != "10.78.0.1" || a.VirtualNetworkName != "dock" || !a.EnableInternalDNS || a.MacAddress == "" {
		t.Errorf("endpoint: %+v", a)
	}
	var chosen struct {
		Type, Protocol string
		ExternalPort   uint16
	}
	if err := json.Unmarshal(a.Policies[1], &chosen); err != nil || chosen.Type != "NAT" || chosen.Protocol != "TCP" || chosen.ExternalPort == 0 {
		t.Errorf("chosen port: %s, %v", a.Policies[1], err)
	}
	for _, port := range []uint16{8080, chosen.ExternalPort} {
		if got := b.reaches(x, fmt.Sprintf("%s:%d", hostV4, port)); got.client != outV4 {
			t.Errorf("port %d: client seen as %s", port, got.client)
		}
	}
	b.reaches(cNS, a.IPAddress.String()+":80")
	if got := b.reaches(cNS, outV4+":80"); got.client != hostV4 {
		t.Errorf("outside sees %s", got.client)
	}
	var stats struct{ PacketsReceived, BytesSent uint64 }
	if b.mustV1("GET", "/endpointstats/"+a.Id, "", &stats); stats.PacketsReceived == 0 || stats.BytesSent == 0 {
		t.Errorf("statistics: %+v", stats)
	}

	// A POST to an endpoint replaces its policies, all of them and nothing else.
	var after hns.Endpoint
	b.mustV1("POST", "/endpoints/"+a.Id, `{"Policies":[{"Type":"ACL","Protocol":6,"Action":"Block","Direction":"In","LocalPort":80,"RuleType":"Switch","Priority":200}]}`, &after)
	if len(after.Policies) != 1 || after.IPAddress != a.IPAddress || after.State != 2 {
		t.Errorf("replaced: %+v", after)
	}
	b.unreached(cNS, a.IPAddress.String()+":80")
	b.unreached(x, hostV4+":8080")
	if left := b.policies(a.Id, `{"Policies":[]}`); len(left) != 0 {
		t.Errorf("cleared: %s", left)
	}
	b.reaches(cNS, a.IPAddress.String()+":80")
	b.policies(a.Id, `{"Policies":[{"Type":"OutBoundNAT","ExceptionList":["`+outV4+`/32"]}]}`)
	if left := b.policies(a.Id, `{}`); len(left) != 0 {
		t.Errorf("outbound NAT is cleared: %s", left)
	}

	// Services: an ILB in front of an ELB. libnetwork takes its address of the subnet.
	var ilb, elb hns.PolicyList
	refs := `"References":["/endpoints/` + strings.ToUpper(a.Id) + `","/endpoints/` + c.Id + `"]`
	b.mustV1("POST", "/policylists/", `{`+refs+`,"Policies":[{"Type":"ELB","Protocol":6,"InternalPort":80,"ExternalPort":90,"VIPs":["10.78.0.200"],"ILB":true}]}`, &ilb)
	b.mustV1("POST", "/policylists/", `{`+refs+`,"Policies":[{"Type":"ELB","Protocol":6,"InternalPort":80,"ExternalPort":9090}]}`, &elb)
	if len(ilb.References) != 2 || ilb.References[0] != "/endpoints/"+a.Id {
		t.Errorf("list: %+v", ilb)
	}
	b.reaches(cNS, "10.78.0.200:90")
	b.reaches(x, hostV4+":9090")
	var lists []hns.PolicyList
	if b.mustV1("GET", "/policylists/", "", &lists); len(lists) != 2 {
		t.Errorf("lists: %+v", lists)
	}
	b.mustV1("POST", "/policylists/"+ilb.ID, `{"References":["/endpoints/`+c.Id+`"],"Policies":[{"Type":"ELB","Protocol":6,"InternalPort":80,"ExternalPort":90,"VIPs":["10.78.0.200"],"ILB":true}]}`, &ilb)
	if seen := b.spread(aNS, "10.78.0.200:90", 8); len(seen) != 1 {
		t.Errorf("one backend left: %v", seen)
	}
	b.mustV1("DELETE", "/policylists/"+elb.ID, "", nil)
	b.unreached(x, hostV4+":9090")
	b.wrongV1("Element not found.", "DELETE", "/policylists/"+elb.ID, "")

	// Routes: towards a, through c.
	var route hns.PolicyList
	b.mustV1("POST", "/policylists/", `{"References":["/endpoints/`+a.Id+`"],"Policies":[{"Type":"ROUTE","DestinationPrefix":"198.18.0.0/24","NextHop":"`+c.IPAddress.String()+`"}]}`, &route)
	if _, err := b.run(cNS, "ip", "addr", "add", "198.18.0.1/32", "dev", "lo"); err != nil {
		t.Fatal(err)
	}
	b.reaches(aNS, "198.18.0.1:80")
	b.mustV1("DELETE", "/policylists/"+route.ID, "", nil)

	// Detached and gone, in the words that are looked for.
	var free hns.Endpoint
	b.mustV1("POST", "/endpoints/"+c.Id+"/detach", `{"SystemType":"Container"}`, &free)
	if free.State != 4 || free.Namespace != nil {
		t.Errorf("detached: %+v", free)
	}
	b.wrongV1("not attached", "POST", "/endpoints/"+c.Id+"/detach", `{"SystemType":"Container"}`)
	b.mustV1("DELETE", "/endpoints/"+c.Id, "", nil)
	b.wrongV1("The endpoint was not found", "DELETE", "/endpoints/"+c.Id, "")
	b.mustV1("DELETE", "/networks/"+n.Id, "", nil)
	if err := b.v1("DELETE", "/networks/"+n.Id, "", nil); err == nil || err.Error() != "hns failed with error : The object identifier does not represent a valid object. " {
		t.Errorf("a network that is gone: %v", err)
	}
	b.wrongV1("Element not found.", "GET", "/namespaces/00000000-0000-0000-0000-000000000001", "")
	b.wrongV1("no such path", "GET", "/elsewhere/", "")
	b.wrongV1("PUT is not a verb", "PUT", "/networks/", "{}")

	// The list of accelnet outlives the daemon.
	b.wrongV1("Element not found.", "GET", "/accelnet/", "")
	b.mustV1("POST", "/accelnet/", `{"MacAddressList":[{"MacAddress":"00:15:5d:00:00:01"}]}`, nil)
	b.wrongV1("MacAddressList[0].MacAddress", "POST", "/accelnet/", `{"MacAddressList":[{"MacAddress":"x"}]}`)
	b.kill9()
	b.start()
	var macs hns.MacList
	if b.mustV1("GET", "/accelnet/", "", &macs); len(macs.MacAddressList) != 1 || macs.MacAddressList[0].MacAddress != "00-15-5D-00-00-01" {
		t.Errorf("accelnet: %+v", macs)
	}
	b.mustV1("DELETE", "/accelnet/", "", nil)
	b.unreached(host, "10.78.0.200:90")
}

// TestFlannelHostGateway replays flannel's host-gw backend, and what Calico does for its
// host endpoint: an L2Bridge network, its second address for the host, attached in a
// retry loop. Pods reach outside and are reached by routing.
//
//covers:type L2Bridge
func TestFlannelHostGateway(t *testing.T) {
	b := newDocBench(t)
	x, host := b.path(b.out), b.path(b.ns)
	b.serve(x)
	b.serve(host)
	b.mustAt(b.ns, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	b.mustAt(b.out, "ip", "route", "add", "10.79.0.0/24", "via", hostV4)

	var all []hns.Network // 1: by name, none
	b.mustV1("GET", "/networks/", "", &all)
	if slices.ContainsFunc(all, func(n hns.Network) bool { return n.Name == "cbr0" }) {
		t.Fatal("cbr0 is there already")
	}
	var n hns.Network
	b.mustV1("POST", "/networks/", `{"Name":"cbr0","Type":"L2Bridge","DNSServerList":"10.96.0.10","NetworkAdapterName":"wire","Subnets":[{"AddressPrefix":"10.79.0.0/24","GatewayAddress":"10.79.0.1"}]}`, &n)
	eventually(t, 5*time.Second, "management address", func() bool {
		b.mustV1("GET", "/networks/"+n.Id, "", &n)
		return n.ManagementIP != ""
	})
	if n.ManagementIP != hostV4 || n.NetworkAdapterName != "wire" {
		t.Errorf("network: %+v", n)
	}
	var e hns.Endpoint
	b.mustV1("POST", "/endpoints/", `{"Name":"cbr0_ep","VirtualNetwork":"`+n.Id+`","IPAddress":"10.79.0.2"}`, &e)
	for range 2 { // a retry is no error
		if err := b.v1("POST", "/endpoints/"+e.Id+"/attach", `{"SystemType":"Host","CompartmentId":1}`, &e); err != nil && !strings.Contains(err.Error(), "This endpoint is already attached to the switch.") {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		b.mustV1("DELETE", "/networks/"+n.Id, "", nil)
		var spaces []hns.Namespace
		b.mustV1("GET", "/namespaces/", "", &spaces)
		for _, s := range spaces {
			if s.CompartmentId == 1 {
				b.mustV1("DELETE", "/namespaces/"+s.ID, "", nil)
			}
		}
	})
	if e.State != 2 || e.Namespace == nil || e.Namespace.CompartmentId != 1 {
		t.Errorf("host endpoint: %+v", e)
	}
	addrs := b.mustAt(b.ns, "ip", "-4", "-o", "addr")
	for _, a := range []string{hostV4, "10.79.0.2"} {
		if !strings.Contains(addrs, " "+a+"/") {
			t.Errorf("%s is not on the host:\n%s", a, addrs)
		}
	}
	// A second place for it is refused in the words that are matched.
	pod, podNS := b.v1Machine(`{"Name":"pod","VirtualNetwork":"` + n.Id + `","GatewayAddress":"10.79.0.2"}`)
	b.wrongV1("This endpoint is already attached to the switch.", "POST", "/endpoints/"+pod.Id+"/attach", `{"SystemType":"Host","CompartmentId":1}`)
	b.wrongV1("compartment 77", "POST", "/endpoints/"+e.Id+"/attach", `{"SystemType":"Container","CompartmentId":77}`)
	b.wrongV1(`container "nobody"`, "POST", "/endpoints/"+e.Id+"/attach", `{"SystemType":"Container","ContainerId":"nobody"}`)
	b.wrongV1("SystemType", "POST", "/endpoints/"+e.Id+"/attach", `{"SystemType":"Robot"}`)

	if got := b.reaches(podNS, outV4+":80"); got.client != pod.IPAddress.String() {
		t.Errorf("outside sees %s", got.client)
	}
	b.reaches(x, pod.IPAddress.String()+":80")
	b.reaches(host, pod.IPAddress.String()+":80")
	b.reaches(podNS, "10.79.0.2:80")

	// Felix: every rule of the endpoint at once, host rules first.
	acl := `{"Type":"ACL","Action":"%s","Direction":"%s","RuleType":"%s","Protocol":%d,"LocalPort":%d,"RemoteAddresses":"%s","Priority":%d}`
	list := func(remote string) string {
		return `{"Policies":[` + strings.Join([]string{
			fmt.Sprintf(acl, "Allow", "In", "Host", 256, 0, "", 100), fmt.Sprintf(acl, "Allow", "Out", "Host", 256, 0, "", 100),
			fmt.Sprintf(acl, "Allow", "In", "Switch", 6, 80, remote, 1000),
			fmt.Sprintf(acl, "Block", "In", "Switch", 256, 0, "", 65500),
		}, ",") + `]}`
	}
	b.policies(pod.Id, list("10.79.0.2/32"))
	b.reaches(host, pod.IPAddress.String()+":80")
	b.unreached(x, pod.IPAddress.String()+":80")
	if rules := b.policies(pod.Id, list(outV4+"/32")); len(rules) != 4 {
		t.Errorf("rules: %s", rules)
	}
	b.reaches(x, pod.IPAddress.String()+":80")
}
