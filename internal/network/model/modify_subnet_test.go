// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/hcn"
)

// modifyNetwork sends one request; the World is the next one if it is not refused.
func (b *bench) modifyNet(id, resource, verb, settings string) (*Network, error) {
	w, n, err := b.w.ModifyNetwork(id, fmt.Appendf(nil, `{"ResourceType":%q,"RequestType":%q,"Settings":%s}`, resource, verb, settings), 0, b.in)
	if err == nil {
		b.w = w
	}
	return n, err
}

func prefixList(n *Network) string {
	var s []string
	for _, v := range n.compiled.network.Subnets {
		s = append(s, fmt.Sprintf("%s gw %s", v.Prefix, v.Gateway))
	}
	return strings.Join(s, ", ")
}

func TestModifySubnet(t *testing.T) {
	b := newBench(t)
	b.in.Avoid = func() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24")} }
	other := b.network(`{"Name":"other","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.5.0.0/24"}]}]}`)
	id := b.network(tenNet).Doc.Id
	n, err := b.modifyNet(id, "Subnet", "Add", `{"Subnets":[{"IpAddressPrefix":"10.2.0.0/24"},{"ID":"`+guid(9)+`","IpAddressPrefix":"fd02::/64"}]}`)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := prefixList(n), "10.1.0.0/24 gw 10.1.0.1, 10.2.0.0/24 gw 10.2.0.1, fd02::/64 gw fd02::1"; got != want || n.Doc.Version != 2 {
		t.Errorf("%s at version %d, want %s", got, n.Doc.Version, want)
	}
	if s := n.Doc.Ipams[0].Subnets; len(s) != 3 || s[1].ID == "" || s[2].ID != guid(9) || len(s[1].Routes) != 1 {
		t.Errorf("%+v", s)
	}
	e := b.endpoint(id, `{"Name":"second","IpConfigurations":[{"IpAddress":"10.2.0.7"}]}`)

	for _, c := range []struct {
		verb, settings, field, says string
		code                        hcn.ErrorCode
	}{
		{"Add", `{"Subnets":[{"IpAddressPrefix":"10.1.0.128/25"}]}`, "Settings.Subnets[0].IpAddressPrefix", `network "ten"`, hcn.E_DUPLICATE_NAME},
		{"Add", `{"Subnets":[{"IpAddressPrefix":"10.3.0.0/24"},{"IpAddressPrefix":"10.5.0.0/16"}]}`, "Settings.Subnets[1].IpAddressPrefix", `network "other"`, hcn.E_DUPLICATE_NAME},
		{"Add", `{"Subnets":[{"IpAddressPrefix":"10.3.0.0/24"},{"IpAddressPrefix":"10.3.0.0/25"}]}`, "Settings.Subnets[1].IpAddressPrefix", "Settings.Subnets[0]", hcn.E_DUPLICATE_NAME},
		{"Add", `{"Subnets":[{"IpAddressPrefix":"10.9.0.0/25"}]}`, "Settings.Subnets[0].IpAddressPrefix", "host", hcn.E_DUPLICATE_NAME},
		{"Add", `{"Subnets":[{"ID":"` + guid(9) + `","IpAddressPrefix":"10.3.0.0/24"}]}`, "Settings.Subnets[0].ID", "", hcn.E_ALREADY_EXISTS},
		{"Add", `{"Subnets":[{"IpAddressPrefix":"10.3.0.0/24","Policies":[{"Type":"VLAN","Settings":{"IsolationId":3}}]}]}`, "Settings.Subnets[0].Policies[0].Type", "", hcn.HCN_E_REQUEST_UNSUPPORTED},
		{"Remove", `{"Subnets":[{"IpAddressPrefix":"10.2.0.0/24"}]}`, "Settings.Subnets[0]", `"second"`, hcn.HCN_E_ENTITY_HAS_REFERENCES},
		{"Remove", `{"Subnets":[{}]}`, "Settings.Subnets[0].IpAddressPrefix", "ID", hcn.HCN_E_INVALID_PREFIX},
		{"Update", `{"Subnets":[]}`, "RequestType", "Add and Remove", hcn.HCN_E_REQUEST_UNSUPPORTED},
	} {
		_, err := b.modifyNet(id, "Subnet", c.verb, c.settings)
		code(t, err, c.code, c.field, c.says)
	}
	if n, _ := b.w.Network(id); n.Doc.Version != 2 || len(n.Doc.Ipams[0].Subnets) != 3 {
		t.Errorf("a refused request left %+v", n.Doc)
	}

	if b.w, err = b.w.DeleteEndpoint(e.Doc.Id, 0, b.in); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{`{"IpAddressPrefix":"10.2.0.0/24"}`, `{"ID":"` + strings.ToUpper(guid(9)) + `"}`, `{"IpAddressPrefix":"10.2.0.0/24"}`} {
		if n, err = b.modifyNet(id, "Subnet", "Remove", `{"Subnets":[`+gone+`]}`); err != nil {
			t.Fatal(err)
		}
	}
	if got := prefixList(n); got != "10.1.0.0/24 gw 10.1.0.1" {
		t.Error(got)
	}
	_, err = b.modifyNet(id, "Subnet", "Remove", `{"Subnets":[{"IpAddressPrefix":"10.1.0.0/24"}]}`)
	code(t, err, hcn.HCN_E_INVALID_NETWORK, "Settings.Subnets", "at least one")
	// What a route leads by is in use, too.
	if _, err = b.modifyNet(id, "Subnet", "Add", `{"Subnets":[{"IpAddressPrefix":"10.2.0.0/24"}]}`); err != nil {
		t.Fatal(err)
	}
	b.endpoint(id, `{"IpConfigurations":[{"IpAddress":"10.1.0.9"}],"Policies":[{"Type":"SDNRoute","Settings":{"DestinationPrefix":"10.50.0.0/16","NextHop":"10.2.0.9"}}]}`)
	_, err = b.modifyNet(id, "Subnet", "Remove", `{"Subnets":[{"IpAddressPrefix":"10.2.0.0/24"}]}`)
	code(t, err, hcn.HCN_E_ENTITY_HAS_REFERENCES, "Settings.Subnets[0]", "10.2.0.9")
	if n, err = b.modifyNet(other.Doc.Id, "Subnet", "Add", `{"Subnets":[{}]}`); err != nil || len(n.subnets) != 2 || n.subnets[1].pool.Prefix.String() != "172.16.0.0/20" {
		t.Errorf("%v: chosen %s", err, prefixList(n))
	}
}

func TestModifyIPSubnet(t *testing.T) {
	b := newBench(t)
	n := b.network(tenNet)
	id, subnet := n.Doc.Id, n.Doc.Ipams[0].Subnets[0].ID
	n, err := b.modifyNet(id, "IPSubnet", "Add", `{"SubnetId":"`+strings.ToUpper(subnet)+`","IpSubnets":[{"ID":"`+guid(7)+`","IpAddressPrefix":"10.1.0.64/28"}]}`)
	if err != nil {
		t.Fatal(err)
	}
	if is := n.Doc.Ipams[0].Subnets[0].IpSubnets; len(is) != 1 || n.Doc.Version != 2 {
		t.Errorf("%+v", is)
	}
	e := b.endpoint(id, `{"Name":"pooled","IpConfigurations":[{"IpSubnetId":"`+guid(7)+`"}]}`)
	if a := e.Doc.IpConfigurations[0].IpAddress; a != "10.1.0.65" && a != "10.1.0.64" {
		t.Errorf("address %s of the pool", a)
	}
	_, err = b.modifyNet(id, "IPSubnet", "Add", `{"SubnetId":"`+guid(1)+`","IpSubnets":[]}`)
	code(t, err, hcn.HCN_E_SUBNET_NOT_FOUND, "Settings.SubnetId")
	_, err = b.modifyNet(id, "IPSubnet", "Add", `{"SubnetId":"`+subnet+`","IpSubnets":[{"IpAddressPrefix":"10.2.0.0/28"}]}`)
	code(t, err, hcn.HCN_E_INVALID_IP_SUBNET, "Settings.IpSubnets[0].IpAddressPrefix", "10.1.0.0/24")
	_, err = b.modifyNet(id, "IPSubnet", "Remove", `{"SubnetId":"`+subnet+`","IpSubnets":[{"ID":"`+guid(7)+`"}]}`)
	code(t, err, hcn.HCN_E_ENTITY_HAS_REFERENCES, "Settings.IpSubnets[0]", `"pooled"`)
	if b.w, err = b.w.DeleteEndpoint(e.Doc.Id, 0, b.in); err != nil {
		t.Fatal(err)
	}
	if n, err = b.modifyNet(id, "IPSubnet", "Remove", `{"SubnetId":"`+subnet+`","IpSubnets":[{"IpAddressPrefix":"10.1.0.64/28"}]}`); err != nil || len(n.Doc.Ipams[0].Subnets[0].IpSubnets) != 0 {
		t.Errorf("%v %+v", err, n.Doc.Ipams)
	}
	_, _, _, err = b.w.CreateEndpoint(id, []byte(`{"IpConfigurations":[{"IpSubnetId":"`+guid(7)+`"}]}`), b.in)
	code(t, err, hcn.HCN_E_SUBNET_NOT_FOUND, "IpConfigurations[0].IpSubnetId")
}

func TestModifyExtension(t *testing.T) {
	b := newBench(t)
	id := b.network(`{"Policies":[{"Type":"VSwitchExtension","Settings":{"Enable":false,"ExtensionID":"` + guid(3) + `","Kept":1}}]}`).Doc.Id
	n, err := b.modifyNet(id, "Extension", "Update", `{"Id":"`+guid(3)+`","IsEnabled":true}`)
	if err != nil || string(n.Doc.Policies[0].Settings) != `{"Enable":true,"ExtensionID":"`+guid(3)+`","Kept":1}` {
		t.Errorf("%v %s", err, n.Doc.Policies[0].Settings)
	}
	if n, err = b.modifyNet(id, "Extension", "Add", `{"Id":"`+guid(4)+`","IsEnabled":true}`); err != nil || len(n.Doc.Policies) != 2 {
		t.Errorf("%v %+v", err, n.Doc.Policies)
	}
	if n, err = b.modifyNet(id, "Extension", "Remove", `{"Id":"`+guid(3)+`"}`); err != nil || len(n.Doc.Policies) != 1 {
		t.Errorf("%v %+v", err, n.Doc.Policies)
	}
	_, err = b.modifyNet(id, "Extension", "Update", `{"Id":"x"}`)
	code(t, err, hcn.HCN_E_GUID_CONVERSION_FAILURE, "Settings.Id")
}
