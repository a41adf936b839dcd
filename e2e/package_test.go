// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/hcn"
)

// TestPackageHCN does through the functions of package hcn what the CNI plugins and
// containerd do through those of the package for Windows, with packets behind it.
//
//covers:type NAT
//covers:endpoint PortMapping
func TestPackageHCN(t *testing.T) {
	b := newDocBench(t)
	t.Setenv(hcn.SocketEnv, filepath.Join(b.root, "run", "gatehouse.sock"))
	before := hcn.DefaultClient
	hcn.DefaultClient = &hcn.Client{Patience: time.Minute} // emulated machines are slow
	t.Cleanup(func() { hcn.DefaultClient = before })
	sv := hcn.V2SchemaVersion()
	x := b.path(b.out)
	fatal := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	// CNI ADD 1: the network, if it is not there.
	_, err := hcn.GetNetworkByName("pods")
	if _, ok := err.(hcn.NetworkNotFoundError); !ok {
		t.Fatalf("%T %v", err, err)
	}
	network, err := (&hcn.HostComputeNetwork{Name: "pods", Type: hcn.NAT, SchemaVersion: sv, Ipams: []hcn.Ipam{{Type: "Static", Subnets: []hcn.Subnet{
		{IpAddressPrefix: "10.88.0.0/24", Routes: []hcn.Route{{NextHop: "10.88.0.1", DestinationPrefix: "0.0.0.0/0"}}},
		{IpAddressPrefix: "fd88::/64", Routes: []hcn.Route{{NextHop: "fd88::1", DestinationPrefix: "::/0"}}},
	}}}}).Create()
	fatal(err)
	byID, err := hcn.GetNetworkByID(strings.ToUpper(network.Id))
	fatal(err)
	if byID.Id != network.Id || network.Id != strings.ToLower(network.Id) || byID.Ipams[0].Subnets[0].IpAddressPrefix != "10.88.0.0/24" || byID.Type != hcn.NAT {
		t.Errorf("%+v", byID)
	}
	if _, err := (&hcn.HostComputeNetwork{Name: "pods"}).Create(); !hcn.CheckErrorWithCode(err, hcn.HCN_E_NETWORK_ALREADY_EXISTS) {
		t.Errorf("a name twice: %v", err)
	}
	// ADD 3 and 4: the endpoint.
	const name = "0a1b_pods"
	_, err = hcn.GetEndpointByName(name)
	var absent hcn.EndpointNotFoundError
	if _, ok := err.(hcn.EndpointNotFoundError); !ok || !errors.As(err, &absent) || !hcn.IsNotFoundError(err) {
		t.Fatalf("%T %v", err, err)
	}
	mapping := []hcn.EndpointPolicy{{Type: hcn.PortMapping, Settings: json.RawMessage(`{"Protocol":6,"InternalPort":80,"ExternalPort":8080,"Flags":1}`)}}
	pod, err := (&hcn.HostComputeEndpoint{Name: name, HostComputeNetwork: network.Id, Policies: mapping, SchemaVersion: sv}).Create()
	fatal(err)
	again, err := hcn.GetEndpointByName(name)
	fatal(err)
	if again.Id != pod.Id || again.HostComputeNetwork != network.Id || len(again.IpConfigurations) != 2 || again.Routes[0].NextHop != "10.88.0.1" ||
		again.MacAddress == "" || string(again.Policies[0].Settings) != string(mapping[0].Settings) {
		t.Errorf("%+v", again)
	}
	if _, err := network.CreateEndpoint(&hcn.HostComputeEndpoint{Policies: mapping}); !hcn.IsPortAlreadyExistsError(err) {
		t.Errorf("a port twice: %v", err)
	}
	if all, err := hcn.ListEndpointsOfNetwork(network.Id); err != nil || len(all) != 1 {
		t.Errorf("%+v %v", all, err)
	}
	// ADD 5: the namespace; containerd's has no members at all.
	ns, err := (&hcn.HostComputeNamespace{}).Create()
	fatal(err)
	b.spaces = append(b.spaces, ns.Id)
	fatal(hcn.AddNamespaceEndpoint(ns.Id, pod.Id))
	fatal(pod.NamespaceAttach(ns.Id)) // once more changes nothing
	ids, err := hcn.GetNamespaceEndpointIds(ns.Id)
	if err != nil || !slices.Equal(ids, []string{strings.ToUpper(pod.Id)}) || ns.Type != hcn.NamespaceTypeHost {
		t.Errorf("%v %v", ids, err)
	}
	second, err := hcn.NewNamespace(hcn.NamespaceTypeHost).Create()
	fatal(err)
	b.spaces = append(b.spaces, second.Id)
	if err := hcn.AddNamespaceEndpoint(second.Id, pod.Id); !hcn.CheckErrorWithCode(err, hcn.HCN_E_ENDPOINT_NAMESPACE_ALREADY_EXISTS) {
		t.Errorf("a second namespace: %v", err)
	}
	if err := hcn.RemoveNamespaceEndpoint(second.Id, pod.Id); !hcn.CheckErrorWithCode(err, hcn.HCN_E_ENDPOINT_NOT_ATTACHED) {
		t.Errorf("detach from another namespace: %v", err)
	}
	fatal(hcn.ModifyNamespaceSettings(ns.Id, &hcn.ModifyNamespaceSettingRequest{ResourceType: hcn.NamespaceResourceTypeContainer, RequestType: hcn.RequestTypeAdd, Settings: json.RawMessage(`{"ContainerId":"c1"}`)}))
	if ids, err := hcn.GetNamespaceContainerIds(ns.Id); err != nil || !slices.Equal(ids, []string{"c1"}) {
		t.Errorf("%v %v", ids, err)
	}
	fatal(hcn.ModifyNamespaceSettings(ns.Id, &hcn.ModifyNamespaceSettingRequest{ResourceType: hcn.NamespaceResourceTypeContainer, RequestType: hcn.RequestTypeRemove, Settings: json.RawMessage(`{"ContainerId":"c1"}`)}))
	var where struct{ NetNsPath string }
	b.must("GET", "/namespaces/"+ns.Id, "", &where)
	b.serve(where.NetNsPath)
	b.reaches(x, hostV4+":8080")

	// Load balancers: one request each, the same id, and the argument of Update decides.
	other := b.machine("other")
	remote, err := network.CreateRemoteEndpoint(&hcn.HostComputeEndpoint{IpConfigurations: []hcn.IpConfig{{IpAddress: outV4}}, SchemaVersion: sv})
	fatal(err)
	if remote.Flags != hcn.EndpointFlagsRemoteEndpoint {
		t.Errorf("%+v", remote)
	}
	lb, err := hcn.AddLoadBalancer([]hcn.HostComputeEndpoint{*pod}, hcn.LoadBalancerFlagsNone, hcn.LoadBalancerPortMappingFlagsNone, "", []string{"10.96.0.10"}, 6, 80, 80)
	fatal(err)
	b.reaches(where.NetNsPath, "10.96.0.10:80")
	grown, err := lb.AddEndpoint(remote)
	fatal(err)
	shrunk, err := lb.RemoveEndpoint(remote)
	fatal(err)
	if grown.Id != lb.Id || len(grown.HostComputeEndpoints) != 2 || shrunk.Id != lb.Id || !slices.Equal(shrunk.HostComputeEndpoints, []string{strings.ToUpper(pod.Id)}) {
		t.Errorf("%+v %+v", grown, shrunk)
	}
	b.reaches(where.NetNsPath, "10.96.0.10:80")
	moved := *shrunk
	moved.Id, moved.FrontendVIPs = other.id, []string{"10.96.0.11"}
	if got, err := moved.Update(lb.Id); err != nil || got.Id != lb.Id || !slices.Equal(got.FrontendVIPs, []string{"10.96.0.11"}) {
		t.Errorf("%+v %v", got, err)
	}
	b.reaches(where.NetNsPath, "10.96.0.11:80")
	b.unreached(where.NetNsPath, "10.96.0.10:80")
	if _, err := hcn.GetLoadBalancerByID(lb.Id); err != nil {
		t.Error(err)
	}
	fatal(lb.Delete())
	if err := lb.Delete(); !hcn.IsElementNotFoundError(err) {
		t.Errorf("deleted twice: %v", err)
	}
	if _, err := hcn.GetLoadBalancerByID(lb.Id); err != (hcn.LoadBalancerNotFoundError{LoadBalancerId: lb.Id}) {
		t.Error(err)
	}

	// Routes.
	route, err := hcn.AddRoute([]hcn.HostComputeEndpoint{*pod}, "10.99.0.0/16", "10.88.0.1", false)
	fatal(err)
	if found, err := hcn.GetRouteByID(route.ID); err != nil || found.Setting[0].DestinationPrefix != "10.99.0.0/16" {
		t.Errorf("%+v %v", found, err)
	}
	if same, err := route.AddEndpoint(pod); err != nil || same.ID != route.ID || len(same.HostComputeEndpoints) != 1 {
		t.Errorf("%+v %v", same, err)
	}
	fatal(route.Delete())
	fatal(route.Delete()) // absent is deleted
	if all, err := hcn.ListRoutes(); err != nil || all != nil {
		t.Errorf("%+v %v", all, err)
	}

	// The client's own: ports, counters, explain, events.
	ctx, c := context.Background(), hcn.DefaultClient
	if _, err := c.ReservePorts(ctx, &hcn.PortReservation{Protocol: hcn.PortProtocolTCP, StartingPort: 8080, EndingPort: 8080}); !hcn.IsPortAlreadyExistsError(err) {
		t.Errorf("a published port reserved: %v", err)
	}
	ports, err := c.ReservePorts(ctx, &hcn.PortReservation{Protocol: hcn.PortProtocolBoth, Count: 3})
	fatal(err)
	if got, err := c.PortReservation(ctx, ports.ID); err != nil || got.EndingPort != got.StartingPort+2 || got.StartingPort == 0 {
		t.Errorf("%+v %v", got, err)
	}
	fatal(c.ReleasePorts(ctx, ports.ID))
	if _, err := c.PortReservation(ctx, ports.ID); err != (hcn.PortReservationNotFoundError{ID: ports.ID}) {
		t.Error(err)
	}
	if s, err := c.Stats(ctx, pod.Id); err != nil || s.PacketsReceived == 0 || s.BytesSent == 0 {
		t.Errorf("%+v %v", s, err)
	}
	if _, err := c.Stats(ctx, remote.Id); !hcn.CheckErrorWithCode(err, hcn.HCN_E_INVALID_REMOTE_ENDPOINT_OPERATION) {
		t.Errorf("counters of a remote endpoint: %v", err)
	}
	if e, err := c.Explain(ctx, hcn.ExplainRequest{From: pod.Id, To: "gateway"}); err != nil || e.Verdict == "" {
		t.Errorf("%+v %v", e, err)
	}
	if held, err := c.Ports(ctx); err != nil || !slices.ContainsFunc(held, func(p hcn.PortHolder) bool { return p.Port == 8080 && p.ID == pod.Id }) {
		t.Errorf("%+v %v", held, err)
	}
	revision, err := c.Revision(ctx)
	fatal(err)

	// A daemon that starts anew meanwhile: the next call waits for it, and all is there.
	b.stop()
	b.spawn()
	if all, err := hcn.ListNetworks(); err != nil || !slices.ContainsFunc(all, func(n hcn.HostComputeNetwork) bool { return n.Id == network.Id }) {
		t.Errorf("after a restart: %+v %v", all, err)
	}
	b.reaches(x, hostV4+":8080")

	// DEL: the namespace goes with its endpoint inside, which lives on, detached.
	fatal(ns.Delete())
	b.spaces = slices.DeleteFunc(b.spaces, func(id string) bool { return id == ns.Id })
	left, err := hcn.GetEndpointByName(name)
	fatal(err)
	if _, err := hcn.GetNamespaceByID(left.HostComputeNamespace); err != (hcn.NamespaceNotFoundError{}) {
		t.Errorf("%v", err)
	}
	if err := hcn.RemoveNamespaceEndpoint(ns.Id, pod.Id); !hcn.IsNotFoundError(err) || !strings.HasPrefix(err.Error(), "hcnOpenNamespace failed in Win32: Element not found. (0x490)") {
		t.Errorf("%v", err)
	}
	fatal(left.Delete())
	if _, err := hcn.GetEndpointByName(name); err != (hcn.EndpointNotFoundError{EndpointName: name}) {
		t.Errorf("%v", err)
	}
	if err := left.Delete(); !hcn.IsEndpointNotFoundError(err) || !strings.Contains(err.Error(), "endpoint was not found") {
		t.Errorf("%v", err)
	}
	for id, want := range map[string]bool{"no guid": true, "": true, "00000000-0000-0000-0000-000000000000": true, network.Id: false} {
		if _, err := hcn.GetNetworkByID(id); (err == error(hcn.NetworkNotFoundError{NetworkID: id})) != want {
			t.Errorf("network %q: %v", id, err)
		}
	}
	for e, err := range c.Events(ctx, hcn.EventOptions{Since: revision, ID: pod.Id}) {
		fatal(err)
		if e.Type == hcn.EventEndpointDelete {
			break
		}
	}
	fatal(network.Delete())
	if err := network.Delete(); !hcn.IsNetworkNotFoundError(err) || !strings.HasPrefix(err.Error(), "hcnDeleteNetwork ") {
		t.Errorf("%v", err)
	}
	if err := network.AddPolicy(hcn.PolicyNetworkRequest{}); !hcn.IsNetworkNotFoundError(err) || !strings.HasPrefix(err.Error(), "hcnOpenNetwork ") {
		t.Errorf("%v", err)
	}
	if _, err := (&hcn.HostComputeEndpoint{HostComputeNetwork: network.Id}).Create(); !hcn.IsNetworkNotFoundError(err) {
		t.Errorf("%v", err)
	}
}
