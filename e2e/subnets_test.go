// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/hcn"
)

// TestSubnetsChange: a network that has endpoints gets more subnets and loses them,
// while a connection inside goes on.
func TestSubnetsChange(t *testing.T) {
	b := newDocBench(t)
	x := b.path(b.out)
	b.serve(x)
	client, old := b.machine("client"), b.machine("old")
	inside := b.stream(client.netns, old.v4+":7", "")
	const subnets = `{"Subnets":[{"IpAddressPrefix":"10.177.0.0/24"},{"IpAddressPrefix":"fd77:1::/64"}]}`
	modify := func(verb string) string {
		return fmt.Sprintf(`{"ResourceType":"Subnet","RequestType":%q,"Settings":%s}`, verb, subnets)
	}
	b.must("POST", "/networks/"+b.network+"/modify", modify("Add"), nil)
	var ns struct{ ID, NetNsPath string }
	b.must("POST", "/namespaces", `{}`, &ns)
	b.spaces = append(b.spaces, ns.ID)
	var e struct{ ID string }
	b.must("POST", "/networks/"+b.network+"/endpoints", fmt.Sprintf(
		`{"Name":"new","HostComputeNamespace":%q,"IpConfigurations":[{"IpAddress":"10.177.0.9"},{"IpAddress":"fd77:1::9"}]}`, ns.ID), &e)
	b.serve(ns.NetNsPath)
	for _, way := range [][2]string{
		{client.netns, "10.177.0.9:80"}, {client.netns, "[fd77:1::9]:80"}, {ns.NetNsPath, client.v4 + ":80"}, {ns.NetNsPath, "[" + client.v6 + "]:80"},
		{ns.NetNsPath, outV4 + ":80"}, {ns.NetNsPath, "[" + outV6 + "]:80"}, {b.path(b.ns), "10.177.0.9:80"},
	} {
		b.reaches(way[0], way[1])
	}
	if err := b.call("POST", "/networks/"+b.network+"/modify", modify("Remove"), nil); !hcn.CheckErrorWithCode(err, hcn.HCN_E_ENTITY_HAS_REFERENCES) || !strings.Contains(err.Error(), "has 10.177.0.9") {
		t.Errorf("removed from under its endpoint: %v", err)
	}
	b.must("DELETE", "/endpoints/"+e.ID, "", nil)
	b.must("POST", "/networks/"+b.network+"/modify", modify("Remove"), nil)
	if out := b.mustAt(b.ns, "ip", "addr"); strings.Contains(out, "10.177.0.1") || strings.Contains(out, "fd77:1::1") {
		t.Errorf("the host has a gateway that is gone:\n%s", out)
	}
	if err := inside.echo(); err != nil {
		t.Errorf("the connection inside: %v", err)
	}
}
