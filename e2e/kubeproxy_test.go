// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcn"
)

// find is the package's look-up: the first that a filter selects.
func find[T any](b *docBench, kind, member, value string) (*T, bool) {
	b.t.Helper()
	filter, _ := json.Marshal(map[string]string{member: value})
	var all []T
	b.must("GET", "/"+kind+"?filter="+url.QueryEscape(string(filter)), "", &all)
	if len(all) == 0 {
		return nil, false
	}
	return &all[0], true
}

// made sends a document as the Go package marshals it, and returns what was stored.
func made[T any](b *docBench, method, path string, doc *T) *T {
	b.t.Helper()
	raw, err := json.Marshal(doc)
	if err != nil {
		b.t.Fatal(err)
	}
	out := new(T)
	b.must(method, path, string(raw), out)
	return out
}

// TestKubeProxy replays what kube-proxy's winkernel mode does, row by row of the
// specification's list, with its documents, and looks at the packets behind them.
//
//covers:lb DSR LocalRoutedVIP UseMux PreserveDIP VipExternalIP SourceIP
func TestKubeProxy(t *testing.T) {
	b := newDocBench(t)
	sv := hcn.V2SchemaVersion()
	b.serve(b.path(b.out))
	x := b.path(b.out)
	client, one, two := b.machine("client"), b.machine("one"), b.machine("two")
	b.host.must("ip", "-n", b.out, "route", "add", "10.96.0.0/16", "via", hostV4)
	b.host.must("ip", "-n", b.out, "route", "add", "203.0.113.0/24", "via", hostV4)

	// 2: its network, by name.
	network, ok := find[hcn.HostComputeNetwork](b, "networks", "Name", "blue")
	if _, other := find[hcn.HostComputeNetwork](b, "networks", "Name", "green"); !ok || other {
		t.Fatal("networks by name")
	}

	// 5: the source VIP, a local endpoint that is never attached, found by its address.
	const hostMAC = "52:54:00:0a:00:04"
	source := made(b, "POST", "/endpoints", &hcn.HostComputeEndpoint{HostComputeNetwork: network.Id,
		IpConfigurations: []hcn.IpConfig{{IpAddress: "10.77.0.250"}}, MacAddress: hostMAC, SchemaVersion: sv})
	if again, ok := find[hcn.HostComputeEndpoint](b, "endpoints", "IPAddress", "10.77.0.250"); !ok || again.Id != source.Id || again.Flags != 0 {
		t.Errorf("source VIP: %+v", again)
	}
	// 6: a remote endpoint for each service, all with the host's MAC.
	provider := func(addr string) []hcn.EndpointPolicy {
		return []hcn.EndpointPolicy{{Type: hcn.NetworkProviderAddress, Settings: json.RawMessage(`{"ProviderAddress":"` + addr + `"}`)}}
	}
	for _, vip := range []string{"10.96.0.10", "10.96.0.11"} {
		e := made(b, "POST", "/endpoints", &hcn.HostComputeEndpoint{HostComputeNetwork: network.Id, Policies: provider(hostV4),
			IpConfigurations: []hcn.IpConfig{{IpAddress: vip}}, MacAddress: hostMAC, Flags: hcn.EndpointFlagsRemoteEndpoint, SchemaVersion: sv})
		if e.IpConfigurations[0].IpAddress != vip || string(e.Policies[0].Settings) != `{"ProviderAddress":"`+hostV4+`"}` || e.MacAddress != "52-54-00-0A-00-04" {
			t.Errorf("remote endpoint: %+v", e)
		}
	}
	// 7: a pod on another host.
	far := made(b, "POST", "/endpoints", &hcn.HostComputeEndpoint{HostComputeNetwork: network.Id, Policies: provider(outV4),
		IpConfigurations: []hcn.IpConfig{{IpAddress: outV4}}, MacAddress: "02-11-c6-33-64-02", Flags: hcn.EndpointFlagsRemoteEndpoint, SchemaVersion: sv})

	lb := func(endpoints []string, vips []string, flags hcn.LoadBalancerFlags, m hcn.LoadBalancerPortMapping) *hcn.HostComputeLoadBalancer {
		return &hcn.HostComputeLoadBalancer{HostComputeEndpoints: endpoints, SourceVIP: "10.77.0.250", FrontendVIPs: vips,
			PortMappings: []hcn.LoadBalancerPortMapping{m}, Flags: flags, SchemaVersion: sv}
	}
	udp := func(from machine, addr string) {
		t.Helper()
		if out, err := b.inside(from, "udp", addr, "ahoy"); err != nil || !strings.Contains(out, "ahoy") {
			t.Errorf("udp %s: %v", addr, err)
		}
	}
	// 8: ClusterIP, with DSR.
	dns := made(b, "POST", "/loadbalancers", lb([]string{one.id, two.id}, []string{"10.96.0.10"}, hcn.LoadBalancerFlagsDSR,
		hcn.LoadBalancerPortMapping{Protocol: 17, InternalPort: 7, ExternalPort: 53}))
	udp(client, "10.96.0.10:53")
	web := made(b, "POST", "/loadbalancers", lb([]string{one.id, two.id, far.Id}, []string{"10.96.0.11"}, hcn.LoadBalancerFlagsDSR,
		hcn.LoadBalancerPortMapping{Protocol: 6, InternalPort: 80, ExternalPort: 80}))
	if got := b.spread(client.netns, "10.96.0.11:80", 60); len(got) != 3 || got[outV4] == 0 {
		t.Errorf("60 requests are spread over %v", got)
	}
	// 9, 11: NodePort, with session affinity.
	node := made(b, "POST", "/loadbalancers", lb([]string{one.id, two.id}, []string{}, 0,
		hcn.LoadBalancerPortMapping{Protocol: 6, InternalPort: 80, ExternalPort: 30080, DistributionType: 2, Flags: 18}))
	if node.Id == "" || len(node.FrontendVIPs) != 0 || node.PortMappings[0] != (hcn.LoadBalancerPortMapping{Protocol: 6, InternalPort: 80, ExternalPort: 30080, DistributionType: 2, Flags: 18}) ||
		!slices.Equal(node.HostComputeEndpoints, []string{strings.ToUpper(one.id), strings.ToUpper(two.id)}) {
		t.Errorf("NodePort: %+v", node)
	}
	if got := b.spread(x, hostV4+":30080", 20); len(got) != 1 {
		t.Errorf("with affinity 20 requests are spread over %v", got)
	}
	b.reaches(b.path(b.ns), "127.0.0.1:30080")
	// 10: an external address; and one that backends see as it is asked.
	made(b, "POST", "/loadbalancers", lb([]string{one.id}, []string{"203.0.113.50"}, 0, hcn.LoadBalancerPortMapping{Protocol: 6, InternalPort: 80, ExternalPort: 8080, Flags: 16}))
	if a := b.reaches(x, "203.0.113.50:8080"); a.client != outV4 {
		t.Errorf("external address: %+v", a)
	}
	if out, err := b.run(one.netns, "ip", "addr", "add", "203.0.113.51/32", "dev", "lo"); err != nil {
		t.Fatal(err, out)
	}
	made(b, "POST", "/loadbalancers", lb([]string{one.id}, []string{"203.0.113.51"}, hcn.LoadBalancerFlagsDSR, hcn.LoadBalancerPortMapping{Protocol: 6, InternalPort: 80, ExternalPort: 80, Flags: 4 + 8 + 16}))
	if a := b.reaches(x, "203.0.113.51:80"); a != (answer{"203.0.113.51", outV4}) {
		t.Errorf("preserved destination: %+v", a)
	}
	// 13: the health check's, to an endpoint by its name.
	named, ok := find[hcn.HostComputeEndpoint](b, "endpoints", "Name", "two")
	if !ok || named.Id != two.id {
		t.Errorf("endpoint by name: %+v", named)
	}
	made(b, "POST", "/loadbalancers", lb([]string{named.Id}, []string{hostV4}, 0, hcn.LoadBalancerPortMapping{Protocol: 6, InternalPort: 80, ExternalPort: 10256}))
	b.reaches(x, hostV4+":10256")

	// 4: a sync reads it all; what it hashes is equal.
	var eps []hcn.HostComputeEndpoint
	b.must("GET", "/endpoints?filter="+url.QueryEscape(`{"VirtualNetwork":"`+network.Id+`"}`), "", &eps)
	ids := map[string]bool{}
	for _, e := range eps {
		if ids[strings.ToUpper(e.Id)] = true; len(e.IpConfigurations) == 0 {
			t.Errorf("endpoint %s has no address", e.Id)
		}
	}
	var lbs []hcn.HostComputeLoadBalancer
	b.must("GET", "/loadbalancers", "", &lbs)
	for _, l := range lbs {
		if len(l.PortMappings) != 1 || slices.ContainsFunc(l.HostComputeEndpoints, func(id string) bool { return !ids[id] }) {
			t.Errorf("load balancer %+v", l)
		}
	}

	// 12: the endpoints of a service change, by the whole document and its id; the
	// connections of those that stay go on.
	s := b.stream(client.netns, "10.96.0.12:7", b.balancer(`{"HostComputeEndpoints":[%q],"FrontendVIPs":["10.96.0.12"],"PortMappings":[{"Protocol":6,"ExternalPort":7}]}`, one.id))
	changed := lb([]string{one.id, two.id}, []string{"10.96.0.12"}, hcn.LoadBalancerFlagsDSR, hcn.LoadBalancerPortMapping{Protocol: 6, InternalPort: 7, ExternalPort: 7})
	changed.Id = dns.Id // stale, and of no matter
	if got := made(b, "POST", "/loadbalancers/"+s.lb+"/modify", changed); got.Id != s.lb || len(got.HostComputeEndpoints) != 2 {
		t.Errorf("update: %+v", got)
	}
	if err := s.echo(); err != nil {
		t.Errorf("an update ends a connection of a backend that stays: %v", err)
	}
	udp(client, "10.96.0.10:53")

	// 15: a remote endpoint goes while a load balancer has it, which goes a moment later.
	b.must("DELETE", "/endpoints/"+far.Id, "", nil)
	if got := b.spread(client.netns, "10.96.0.11:80", 20); got[outV4] != 0 {
		t.Errorf("a deleted remote endpoint answers: %v", got)
	}
	// 14: look up, delete; once more is not found.
	if _, ok := find[hcn.HostComputeLoadBalancer](b, "loadbalancers", "ID", web.Id); !ok {
		t.Error("a load balancer is not found by its id")
	}
	b.must("DELETE", "/loadbalancers/"+web.Id, "", nil)
	if _, ok := find[hcn.HostComputeLoadBalancer](b, "loadbalancers", "ID", web.Id); ok {
		t.Error("a deleted load balancer is found")
	}
	b.refusedBy(hcn.ERROR_NOT_FOUND, "DELETE", "/loadbalancers/"+web.Id, "")

	// 3: at its start it deletes all there are; their path ends at once.
	for _, l := range lbs {
		if err := b.call("DELETE", "/loadbalancers/"+l.Id, "", nil); err != nil && l.Id != web.Id {
			t.Error(err)
		}
	}
	for _, addr := range []string{hostV4 + ":30080", "203.0.113.50:8080", hostV4 + ":10256"} {
		if _, err := dialIn(x, addr); err == nil {
			t.Errorf("%s is answered after all were deleted", addr)
		}
	}
	if _, err := dialIn(b.path(b.ns), "127.0.0.1:30080"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("the host's own port: %v", fmt.Sprint(err))
	}
}
