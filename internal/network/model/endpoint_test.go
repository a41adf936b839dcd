// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/hcn"
)

func TestCreateEndpointFillsIn(t *testing.T) {
	b := newBench(t)
	n := b.network(`{"Name":"nat","Dns":{"Domain":"web.test"}}`)
	e := b.endpoint(n.Doc.Id, `{"Name":"a"}`)
	d := e.Doc
	if len(d.IpConfigurations) != 2 || d.IpConfigurations[0].IpAddress != "172.16.0.2" || d.IpConfigurations[0].PrefixLength != 20 || d.IpConfigurations[1].PrefixLength != 64 {
		t.Errorf("addresses %+v", d.IpConfigurations)
	}
	if len(d.Routes) != 2 || d.Routes[0].NextHop != "172.16.0.1" || d.State != StateCreated || d.Version != 1 {
		t.Errorf("%+v", d)
	}
	if d.Dns.Domain != "web.test" || d.Dns.ServerList[0] != "172.16.0.1" || e.Port == 0 {
		t.Errorf("dns %+v", d.Dns)
	}
	if !strings.HasPrefix(d.MacAddress, n.Doc.MacPool.Ranges[0].StartMacAddress[:10]) {
		t.Errorf("mac %s", d.MacAddress)
	}
	e2 := b.endpoint("name:nat", `{"Name":"a","MacAddress":"02:00:00:00:00:aa","IpConfigurations":[{"IpAddress":"172.16.0.77"}]}`)
	if e2.Doc.MacAddress != "02-00-00-00-00-AA" || len(e2.Doc.IpConfigurations) != 1 || len(e2.Doc.Routes) != 1 || e2.Port == e.Port {
		t.Errorf("%+v", e2.Doc)
	}
}

func TestCreateEndpointRefuses(t *testing.T) {
	b := newBench(t)
	n := b.network(tenNet)
	b.endpoint(n.Doc.Id, `{"Name":"first","IpConfigurations":[{"IpAddress":"10.1.0.9"}],"MacAddress":"02-00-00-00-00-01",
		"Policies":[{"Type":"PortMapping","Settings":{"Protocol":6,"InternalPort":80,"ExternalPort":8080}}]}`)
	in := b.network(`{"Name":"inside","Type":"Internal"}`)
	for _, tc := range []struct {
		net, body string
		code      hcn.ErrorCode
		field     string
	}{
		{"", `{}`, hcn.HCN_E_NETWORK_NOT_FOUND, "HostComputeNetwork"},
		{guid(99), `{}`, hcn.HCN_E_NETWORK_NOT_FOUND, "HostComputeNetwork"},
		{"nope", `{}`, hcn.HCN_E_NETWORK_NOT_FOUND, "HostComputeNetwork"},
		{"ten", `{"IpConfigurations":[{"IpAddress":"10.2.0.1"}]}`, hcn.HCN_E_INVALID_IP, "IpConfigurations[0].IpAddress"},
		{"ten", `{"IpConfigurations":[{"IpAddress":"x"}]}`, hcn.HCN_E_INVALID_IP, "IpConfigurations[0].IpAddress"},
		{"ten", `{"IpConfigurations":[{"IpAddress":"10.1.0.1"}]}`, hcn.HCN_E_ADDR_INVALID_OR_RESERVED, "IpConfigurations[0].IpAddress"},
		{"ten", `{"IpConfigurations":[{"IpAddress":"10.1.0.255"}]}`, hcn.HCN_E_ADDR_INVALID_OR_RESERVED, "IpConfigurations[0].IpAddress"},
		{"ten", `{"IpConfigurations":[{"IpAddress":"10.1.0.9"}]}`, hcn.HCN_E_ADDR_INVALID_OR_RESERVED, "IpConfigurations[0].IpAddress"},
		{"ten", `{"IpConfigurations":[{"IpAddress":"10.1.0.5"},{"IpAddress":"10.1.0.5"}]}`, hcn.HCN_E_ADDR_INVALID_OR_RESERVED, "IpConfigurations[1].IpAddress"},
		{"ten", `{"IpConfigurations":[{"IpAddress":"10.1.0.5","PrefixLength":33}]}`, hcn.E_INVALID_PARAMETER, "IpConfigurations[0].PrefixLength"},
		{"ten", `{"IpConfigurations":[{"IpSubnetId":"` + guid(7) + `"}]}`, hcn.HCN_E_SUBNET_NOT_FOUND, "IpConfigurations[0].IpSubnetId"},
		{"ten", `{"MacAddress":"02-00-00-00-00-01"}`, hcn.HCN_E_INVALID_ENDPOINT, "MacAddress"},
		{"ten", `{"MacAddress":"03-00-00-00-00-01"}`, hcn.E_INVALID_PARAMETER, "MacAddress"},
		{"ten", `{"MacAddress":"zz"}`, hcn.E_INVALID_PARAMETER, "MacAddress"},
		{"ten", `{"Flags":1}`, hcn.HCN_E_INVALID_IP, "IpConfigurations"},
		{"ten", `{"Flags":1,"IpConfigurations":[{"IpAddress":"127.0.0.1"}]}`, hcn.HCN_E_INVALID_IP, "IpConfigurations[0].IpAddress"},
		{"ten", `{"Flags":1,"MacAddress":"01-00-00-00-00-01","IpConfigurations":[{"IpAddress":"10.1.0.7"}]}`, hcn.E_INVALID_PARAMETER, "MacAddress"},
		{"ten", `{"Flags":1,"IpConfigurations":[{"IpAddress":"10.1.0.7"}],"Policies":[{"Type":"PortMapping","Settings":{"ExternalPort":7}}]}`, hcn.HCN_E_INVALID_REMOTE_ENDPOINT_OPERATION, "Policies[0].Type"},
		{"ten", `{"Flags":1,"IpConfigurations":[{"IpAddress":"10.1.0.7"}],"Policies":[{"Type":"ProviderAddress","Settings":{"ProviderAddress":"x"}}]}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.ProviderAddress"},
		{"ten", `{"Flags":64}`, hcn.E_INVALID_PARAMETER, "Flags"},
		{"ten", `{"Routes":[{"DestinationPrefix":"x"}]}`, hcn.HCN_E_INVALID_PREFIX, "Routes[0].DestinationPrefix"},
		{"ten", `{"Dns":{"ServerList":["x"]}}`, hcn.HCN_E_INVALID_IP, "Dns.ServerList[0]"},
		{"ten", `{"AdditionalParams":{"Aliases":["a b"]}}`, hcn.E_INVALID_PARAMETER, "Aliases[0]"},
		{"ten", `{"AdditionalParams":{"Aliases":"a"}}`, hcn.HCN_E_INVALID_JSON, "AdditionalParams.Aliases"},
		{"ten", `{"HostComputeNamespace":"` + guid(8) + `"}`, hcn.E_ELEMENT_NOT_FOUND, "HostComputeNamespace"},
		{"ten", `{"Policies":[{"Type":"L4Proxy","Settings":{}}]}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.IP"},
		{"ten", `{"Policies":[{"Type":"OutBoundNAT"},{"Type":"SetPolicy"}]}`, hcn.HCN_E_INVALID_POLICY_TYPE, "Policies[1].Type"},
		{"ten", `{"Policies":[{"Type":"OutBoundNAT","Settings":{"VirtualIP":"10.0.0.1"}}]}`, hcn.HCN_E_ADDR_INVALID_OR_RESERVED, "Policies[0].Settings.VirtualIP"},
		{"ten", `{"Policies":[{"Type":"PortMapping","Settings":{"ExternalPort":70000}}]}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.ExternalPort"},
		{"ten", `{"Policies":[{"Type":"PortMapping","Settings":{"Protocol":1,"ExternalPort":7}}]}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.Protocol"},
		{"ten", `{"Policies":[{"Type":"PortMapping","Settings":{"VIP":"x","ExternalPort":7}}]}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.VIP"},
		{"ten", `{"Policies":[{"Type":"PortMapping","Settings":{"Flags":2,"ExternalPort":7}}]}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings"},
		{"ten", `{"Policies":[{"Type":"PortMapping","Settings":{"Protocol":132,"ExternalPort":7,"InternalPort":8}}]}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.InternalPort"},
		{"ten", `{"Policies":[{"Type":"PortMapping","Settings":{"Protocol":6,"ExternalPort":8080}}]}`, hcn.HCN_E_PORT_ALREADY_EXISTS, ""},
		{"ten", `{"Policies":[{"Type":"PortMapping","Settings":{"ExternalPort":8080,"VIP":"127.0.0.1"}}]}`, hcn.HCN_E_PORT_ALREADY_EXISTS, ""},
		{"ten", `{"Policies":[{"Type":"PortMapping","Settings":{"Protocol":6,"ExternalPort":1,"InternalPort":2}},{"Type":"PortMapping","Settings":{"Protocol":6,"ExternalPort":1,"InternalPort":3}}]}`, hcn.HCN_E_POLICY_ALREADY_EXISTS, "Policies[1].Settings"},
		{"ten", `{"Policies":[{"Type":"PortMapping","Settings":{"Protocol":6,"ExternalPort":1,"VIP":"127.0.0.1"}},{"Type":"PortMapping","Settings":{"Protocol":6,"ExternalPort":1}}]}`, hcn.HCN_E_POLICY_ALREADY_EXISTS, "Policies[1].Settings.ExternalPort"},
		{in.Doc.Id, `{"Policies":[{"Type":"PortMapping","Settings":{"ExternalPort":9}}]}`, hcn.HCN_E_MAPPING_NOT_SUPPORTED, "Policies[0].Type"},
	} {
		w, _, _, err := b.w.CreateEndpoint(tc.net, []byte(tc.body), b.in)
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
	_, _, _, err := b.w.CreateEndpoint("ten", []byte(`{"Policies":[{"Type":"PortMapping","Settings":{"Protocol":6,"ExternalPort":8080}}]}`), b.in)
	code(t, err, hcn.HCN_E_PORT_ALREADY_EXISTS, "", `endpoint "first"`, "8080/tcp")
}

func TestAddressPool(t *testing.T) {
	b := newBench(t)
	n := b.network(`{"Ipams":[{"Subnets":[{"IpAddressPrefix":"10.1.0.0/29"}]}]}`)
	var last *Endpoint
	for i := range 5 {
		last = b.endpoint(n.Doc.Id, `{}`)
		if want := fmt.Sprintf("10.1.0.%d", i+2); last.Doc.IpConfigurations[0].IpAddress != want {
			t.Errorf("got %s, want %s", last.Doc.IpConfigurations[0].IpAddress, want)
		}
	}
	_, _, _, err := b.w.CreateEndpoint(n.Doc.Id, []byte(`{}`), b.in)
	code(t, err, hcn.HCN_E_ADDR_INVALID_OR_RESERVED, "IpConfigurations", "10.1.0.0/29")
	first := b.w.EndpointsOf(n.Doc.Id)[0]
	for _, id := range []string{first.Doc.Id, last.Doc.Id} {
		if b.w, err = b.w.DeleteEndpoint(id, 0, b.in); err != nil {
			t.Fatal(err)
		}
		b.in.Now = b.in.Now.Add(time.Second)
	}
	again := b.endpoint(n.Doc.Id, `{}`)
	if a := again.Doc.IpConfigurations[0].IpAddress; a != "10.1.0.2" { // both in quarantine: the older
		t.Errorf("got %s", a)
	}
	if again.Port == first.Port || again.Port == last.Port || again.Doc.MacAddress == last.Doc.MacAddress {
		t.Error("a number was given out again at once")
	}
}

// TestDefaultRouteWithoutNextHop: it means the gateway of the endpoint's subnet; where
// that has none it stays as it came.
func TestDefaultRouteWithoutNextHop(t *testing.T) {
	b := newBench(t)
	n := b.network(`{"Type":"Private","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.1.0.0/24","Routes":[{"NextHop":"10.1.0.9","DestinationPrefix":"0.0.0.0/0"}]},{"IpAddressPrefix":"10.2.0.0/24"}]}]}`)
	for addr, want := range map[string]string{"10.1.0.20": "10.1.0.9", "10.2.0.20": ""} {
		e := b.endpoint(n.Doc.Id, `{"IpConfigurations":[{"IpAddress":"`+addr+`"}],"Routes":[{"NextHop":"","DestinationPrefix":"0.0.0.0/0"},{"NextHop":"","DestinationPrefix":"10.7.0.0/16"}]}`)
		if r := e.Doc.Routes; len(r) != 2 || r[0].NextHop != want || r[1].NextHop != "" {
			t.Errorf("%s: %+v", addr, r)
		}
	}
}
