// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/hns"
)

// v1Network makes a network of a v1 document, finds it by name as these plugins do, and
// returns it as v1 says it is.
func (b *docBench) v1Network(name, document string) hns.Network {
	b.t.Helper()
	var made, n hns.Network
	b.mustV1("POST", "/networks/", document, &made)
	b.t.Cleanup(func() { b.mustV1("DELETE", "/networks/"+made.Id, "", nil) })
	found, err := hcn.GetNetworkByName(name)
	b.done(err)
	if b.mustV1("GET", "/networks/"+found.Id, "", &n); n.Id != made.Id || n.ManagementIP != hostV4 || n.Subnets[0].GatewayAddress == "" {
		b.t.Errorf("network: %+v", n)
	}
	return n
}

// winAdd is ADD of win-bridge and win-overlay: an endpoint that is there is taken, one of
// that name on another network is made anew.
func (b *docBench) winAdd(n hns.Network, container string, e hcn.HostComputeEndpoint) (*hcn.HostComputeEndpoint, string) {
	b.t.Helper()
	e.Name, e.HostComputeNetwork = container+"_"+n.Name, n.Id
	e.Routes = []hcn.Route{{NextHop: "", DestinationPrefix: "0.0.0.0/0"}} // the subnet's gateway
	switch old, err := hcn.GetEndpointByName(e.Name); {
	case hcn.IsNotFoundError(err):
	case err != nil:
		b.t.Fatal(err)
	case !strings.EqualFold(old.HostComputeNetwork, n.Id):
		b.done(old.Delete())
	default:
		b.t.Fatalf("%s is there: %+v", e.Name, old)
	}
	made, path := b.addEndpoint(e)
	if made.Routes[0].NextHop != n.Subnets[0].GatewayAddress {
		b.t.Errorf("routes: %+v", made.Routes)
	}
	return made, path
}

// winDel is DEL, twice.
func (b *docBench) winDel(e *hcn.HostComputeEndpoint) {
	b.t.Helper()
	for range 2 {
		switch e, err := hcn.GetEndpointByName(e.Name); {
		case hcn.IsNotFoundError(err):
		case err != nil:
			b.t.Error(err)
		default:
			b.done(hcn.RemoveNamespaceEndpoint(e.HostComputeNamespace, e.Id))
			b.done(e.Delete())
		}
	}
}

// TestWinBridge replays the CNI plugin win-bridge on an L2Bridge network made through v1.
//
//covers:type L2Bridge
//covers:endpoint OutBoundNAT
func TestWinBridge(t *testing.T) {
	b := newDocBench(t)
	b.packaged()
	x := b.path(b.out)
	b.serve(x)
	b.mustAt(b.out, "ip", "addr", "add", "10.79.0.1/24", "dev", "wire")
	b.mustAt(b.out, "ip", "addr", "add", "203.0.113.9/32", "dev", "lo")
	n := b.v1Network("cbr0", `{"Name":"cbr0","Type":"L2Bridge","NetworkAdapterName":"wire","Subnets":[{"AddressPrefix":"10.79.0.0/24","GatewayAddress":"10.79.0.1"}]}`)
	// A leaving of another network with this name.
	_, err := (&hcn.HostComputeEndpoint{Name: "0a1b_cbr0", HostComputeNetwork: b.network, SchemaVersion: hcn.V2SchemaVersion()}).Create()
	b.done(err)
	policies := func(own string) []hcn.EndpointPolicy {
		return []hcn.EndpointPolicy{apply(hcn.OutBoundNAT, `{"Exceptions":["10.79.0.0/16","198.51.100.0/24"]}`), apply(hcn.OutBoundNAT, `{"Destinations":["`+own+`"]}`)}
	}
	pod, podNS := b.winAdd(n, "0a1b", hcn.HostComputeEndpoint{IpConfigurations: []hcn.IpConfig{{IpAddress: "10.79.0.17"}}, Policies: policies("10.79.0.17")})
	_, otherNS := b.winAdd(n, "0a1c", hcn.HostComputeEndpoint{IpConfigurations: []hcn.IpConfig{{IpAddress: "10.79.0.18"}}, Policies: policies("10.79.0.18")})
	for to, client := range map[string]string{"10.79.0.1": "10.79.0.17", outV4: "10.79.0.17", "203.0.113.9": hostV4, "10.79.0.18": "10.79.0.17"} {
		if got := b.reaches(podNS, to+":80"); got.client != client {
			t.Errorf("%s sees %s, want %s", to, got.client, client)
		}
	}
	b.reaches(otherNS, "10.79.0.17:80")
	b.reaches(x, "10.79.0.17:80")
	b.winDel(pod)
	b.unreached(x, "10.79.0.17:80")
}

// TestWinOverlay replays the CNI plugin win-overlay on an Overlay network made through
// v1; another host of it is a VXLAN device of the kernel.
//
//covers:type Overlay
//covers:endpoint OutBoundNAT ProviderAddress
func TestWinOverlay(t *testing.T) {
	b := newDocBench(t)
	b.packaged()
	b.serve(b.path(b.out))
	b.mustAt(b.out, "ip", "addr", "add", "203.0.113.9/32", "dev", "lo")
	n := b.v1Network("vxlan0", `{"Name":"vxlan0","Type":"Overlay","NetworkAdapterName":"wire","Subnets":[{"AddressPrefix":"10.244.3.0/24","GatewayAddress":"10.244.3.1","Policies":[{"Type":"VSID","VSID":4096}]}]}`)
	add := func(container, addr string) (*hcn.HostComputeEndpoint, string) {
		a := netip.MustParseAddr(addr).As4()
		return b.winAdd(n, container, hcn.HostComputeEndpoint{IpConfigurations: []hcn.IpConfig{{IpAddress: addr}},
			MacAddress: fmt.Sprintf("0E-2A-%02x-%02x-%02x-%02x", a[0], a[1], a[2], a[3]),
			Policies: []hcn.EndpointPolicy{apply(hcn.NetworkProviderAddress, `{"ProviderAddress":"`+n.ManagementIP+`"}`),
				apply(hcn.OutBoundNAT, `{"Exceptions":["10.244.0.0/16"]}`)}})
	}
	pod, podNS := add("0a1b", "10.244.3.17")
	_, otherNS := add("0a1c", "10.244.3.18")
	b.reaches(otherNS, "10.244.3.17:80")
	if got := b.reaches(podNS, "203.0.113.9:80"); got.client != hostV4 {
		t.Errorf("outside sees %s", got.client)
	}
	// The other host and its lease.
	const there = "0e:2a:00:00:00:04"
	net, err := hcn.GetNetworkByID(n.Id)
	b.done(err)
	var dr hcn.DrMacAddressNetworkPolicySetting
	for _, p := range net.Policies {
		if p.Type == hcn.DrMacAddress {
			b.done(json.Unmarshal(p.Settings, &dr))
		}
	}
	for _, line := range []string{
		"link add vx address " + there + " type vxlan id 4096 dstport 4789 local " + outV4 + " remote " + hostV4 + " nolearning",
		"addr add 10.244.4.5/24 dev vx", "link set vx up", "route add 10.244.3.0/24 dev vx src 10.244.4.5",
		"neigh add 10.244.3.17 lladdr " + strings.ReplaceAll(dr.Address, "-", ":") + " dev vx",
	} {
		b.mustAt(b.out, append([]string{"ip"}, strings.Fields(line)...)...)
	}
	b.done(net.AddPolicy(hcn.PolicyNetworkRequest{Policies: []hcn.NetworkPolicy{{Type: hcn.RemoteSubnetRoute, Settings: json.RawMessage(
		`{"DestinationPrefix":"10.244.4.0/24","IsolationId":4096,"ProviderAddress":"` + outV4 + `","DistributedRouterMacAddress":"` + there + `"}`)}}}))
	if got := b.reaches(podNS, "10.244.4.5:80"); got.client != "10.244.3.17" {
		t.Errorf("the other host sees %s", got.client)
	}
	b.reaches(b.path(b.out), "10.244.3.17:80")
	b.winDel(pod)
	b.unreached(otherNS, "10.244.3.17:80")
}

// TestV1Transparent: a Transparent network and endpoints by v1 documents; the wire shows
// their own MACs.
//
//covers:type Transparent
func TestV1Transparent(t *testing.T) {
	b := newDocBench(t)
	b.packaged()
	x := b.path(b.out)
	b.serve(x)
	n := b.v1Network("flat", `{"Name":"flat","Type":"Transparent","NetworkAdapterName":"wire","Subnets":[{"AddressPrefix":"198.51.100.0/24","GatewayAddress":"`+outV4+`"}]}`)
	e, netns := b.v1Machine(`{"Name":"a","VirtualNetwork":"` + n.Id + `"}`)
	if got := b.reaches(netns, outV4+":80"); got.client != e.IPAddress.String() {
		t.Errorf("outside sees %s", got.client)
	}
	b.reaches(x, e.IPAddress.String()+":80")
	b.reaches(b.path(b.ns), e.IPAddress.String()+":80")
	if got := b.macSeen(e.IPAddress.String()); !strings.EqualFold(strings.ReplaceAll(e.MacAddress, "-", ":"), got) {
		t.Errorf("outside it is at %s, not %s", got, e.MacAddress)
	}
}
