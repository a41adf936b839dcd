// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

const (
	sourceMAC = `{"Type":"SourceMacAddress","Settings":{"SourceMacAddress":"02-11-22-33-44-55"}}`
	neighbor  = `{"Type":"NeighborDiscovery","Settings":{"TargetIpPrefix":%q,"SenderIpAddress":"","SenderMacAddress":%q}}`
)

// TestWirePolicies: what a network's policies and flag say of its segments reaches each
// of the switch's networks that it has, and survives a restart.
func TestWirePolicies(t *testing.T) {
	b := newWired(t)
	n := b.network(`{"Name":"a","Type":"L2Bridge","Flags":1024,"Policies":[` + sourceMAC + `,` + fmt.Sprintf(neighbor, "10.7.0.9/24", "02:00:00:00:00:07") +
		`],"Ipams":[{"Subnets":[{"IpAddressPrefix":"10.7.0.0/24"},` + tagged("10.8.0.0/24", 5) + `]}]}`)
	asked := []vswitch.Asked{{Prefix: netip.MustParsePrefix("10.7.0.0/24"), MAC: vswitch.MAC{2, 0, 0, 0, 0, 7}}}
	holds := func(w World, mac vswitch.MAC, asked []vswitch.Asked) {
		t.Helper()
		seen := 0
		for _, s := range w.Desired().Switch.Networks {
			if s.Uplink == "" {
				continue
			}
			seen++
			if s.WireMAC != mac || !slices.Equal(s.Asked, asked) || s.Flags&vswitch.NetNoHost == 0 {
				t.Errorf("%+v", s)
			}
		}
		if seen != 2 {
			t.Errorf("%d segments", seen)
		}
	}
	holds(b.w, vswitch.MAC{2, 0x11, 0x22, 0x33, 0x44, 0x55}, asked)
	loaded, err := Load(b.w.inst, b.w.numbers, Rows{Networks: b.w.AllNetworks(), Endpoints: b.w.AllEndpoints(), Namespaces: b.w.AllNamespaces()})
	if err != nil {
		t.Fatal(err)
	}
	holds(loaded, vswitch.MAC{2, 0x11, 0x22, 0x33, 0x44, 0x55}, asked)
	modify := func(verb, policies string) error {
		w, _, err := b.w.ModifyNetwork(n.Doc.Id, []byte(`{"ResourceType":"Policy","RequestType":"`+verb+`","Settings":{"Policies":[`+policies+`]}}`), 0, b.in)
		if err == nil {
			b.w = w
		}
		return err
	}
	code(t, modify("Add", fmt.Sprintf(neighbor, "10.7.0.0/24", "02:00:00:00:00:08")), hcn.HCN_E_POLICY_ALREADY_EXISTS, "Settings.Policies[0]")
	for _, policies := range []string{`{"Type":"SourceMacAddress"}`, fmt.Sprintf(neighbor, "10.7.0.0/24", "02:00:00:00:00:09")} {
		if err := modify("Remove", policies); err != nil {
			t.Fatal(err)
		}
	}
	holds(b.w, vswitch.MAC{}, nil)
	e := b.endpoint(n.Doc.Id, `{"MacAddress":"02-11-22-33-44-55"}`)
	code(t, modify("Add", sourceMAC), hcn.HCN_E_INVALID_POLICY, "Settings.SourceMacAddress", "held by")
	// The host is not on it, and no endpoint brings it there.
	w, ns, _, err := b.w.CreateNamespace([]byte(`{"NamespaceId":1}`), b.in)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = w.ModifyNamespace(ns.Doc.Id, []byte(`{"ResourceType":"Endpoint","RequestType":"Add","Settings":{"EndpointId":"`+e.Doc.Id+`"}}`), 0)
	code(t, err, hcn.HCN_E_REQUEST_UNSUPPORTED, "", "DisableHostPort")
}

func TestWirePoliciesRefused(t *testing.T) {
	b := newWired(t)
	for _, c := range []struct {
		body, field, says string
		code              hcn.ErrorCode
	}{
		{`{"Type":"Transparent","Policies":[` + sourceMAC + `]}`, "Policies[0].Type", "L2Bridge", hcn.HCN_E_REQUEST_UNSUPPORTED},
		{`{"Type":"L2Bridge","Policies":[{"Type":"SourceMacAddress","Settings":{}}]}`, "Policies[0].Settings.SourceMacAddress", "", hcn.HCN_E_INVALID_POLICY},
		{`{"Type":"L2Bridge","Policies":[{"Type":"SourceMacAddress","Settings":{"SourceMacAddress":"01-00-5E-00-00-01"}}]}`, "Policies[0].Settings.SourceMacAddress", "", hcn.HCN_E_INVALID_POLICY},
		{`{"Type":"L2Bridge","MacPool":{"Ranges":[{"StartMacAddress":"02-11-22-33-44-00","EndMacAddress":"02-11-22-33-44-FF"}]},"Policies":[` + sourceMAC + `]}`, "SourceMacAddress", "MacPool", hcn.HCN_E_INVALID_POLICY},
		{`{"Type":"Transparent","Policies":[` + fmt.Sprintf(neighbor, "::/0", "02:00:00:00:00:07") + `]}`, "Policies[0].Settings.TargetIpPrefix", "", hcn.HCN_E_INVALID_PREFIX},
		{`{"Type":"Transparent","Policies":[` + fmt.Sprintf(neighbor, "10.7.0.0/24", "x") + `]}`, "Policies[0].Settings.SenderMacAddress", "", hcn.HCN_E_INVALID_POLICY},
		{`{"Type":"Transparent","Policies":[{"Type":"NeighborDiscovery","Settings":{"TargetIpPrefix":"10.7.0.0/24","SenderIpAddress":"fd00::1","SenderMacAddress":"02:00:00:00:00:07"}}]}`, "Policies[0].Settings.SenderIpAddress", "", hcn.HCN_E_INVALID_IP},
	} {
		_, _, _, err := b.w.CreateNetwork([]byte(c.body), b.in)
		code(t, err, c.code, c.field, c.says)
	}
	// On one segment there is one answer to each of these.
	b.network(`{"Name":"first","Type":"L2Bridge","Policies":[` + fmt.Sprintf(neighbor, "10.7.0.0/24", "02:00:00:00:00:07") + `],"Ipams":[{"Subnets":[{"IpAddressPrefix":"10.8.0.0/24"}]}]}`)
	for _, c := range [][2]string{{`"Flags":1024`, "Flags"}, {`"Policies":[` + sourceMAC + `]`, "SourceMacAddress"},
		{`"Policies":[` + fmt.Sprintf(neighbor, "10.7.0.0/24", "02:00:00:00:00:08") + `]`, "NeighborDiscovery"}} {
		_, _, _, err := b.w.CreateNetwork([]byte(`{"Name":"second","Type":"L2Bridge",`+c[0]+`,"Ipams":[{"Subnets":[{"IpAddressPrefix":"10.9.9.0/24"}]}]}`), b.in)
		code(t, err, hcn.HCN_E_SHARED_SWITCH_MODIFICATION, c[1], "first")
	}
	b.network(`{"Name":"apart","Type":"L2Bridge","Flags":1056,"Ipams":[{"Subnets":[{"IpAddressPrefix":"10.9.9.0/24"}]}]}`)
}

// TestConstrainedEndpoint: an endpoint uses the interface that its constraint meant when
// it came, also when that is gone, and on a network with an uplink it must be that one.
func TestConstrainedEndpoint(t *testing.T) {
	b := newWired(t)
	nat := b.network(`{"Name":"nat"}`)
	constraint := func(alias string) string {
		return `{"Policies":[{"Type":"InterfaceConstraint","Settings":{"InterfaceAlias":"` + alias + `"}}]}`
	}
	e := b.endpoint(nat.Doc.Id, constraint("eth1"))
	b.attach(b.namespace(`{}`).Doc.Id, e.Doc.Id)
	uses := func(want string) {
		t.Helper()
		ports := flat(b.w).Switch.Ports
		i := slices.IndexFunc(ports, func(p vswitch.Port) bool { return p.Object == e.Doc.Id })
		if i < 0 || ports[i].Uplink != want {
			t.Errorf("port %d of %d, want uplink %q", i, len(ports), want)
		}
	}
	modify := func(verb, policies string) {
		t.Helper()
		w, _, err := b.w.ModifyEndpoint(e.Doc.Id, []byte(`{"ResourceType":"Policy","RequestType":"`+verb+`","Settings":`+policies+`}`), 0, b.in)
		if err != nil {
			t.Fatal(err)
		}
		b.w = w
	}
	uses("eth1")
	all := b.in.Uplinks
	b.in.Uplinks = func() []Uplink { return all()[:1] }
	modify("Add", `{"Policies":[{"Type":"QOS","Settings":{"MaximumOutgoingBandwidthInBytes":1000000}}]}`)
	uses("eth1")
	modify("Update", constraint("eth0"))
	uses("eth0")
	modify("Remove", constraint("eth0"))
	uses("")
	b.in.Uplinks = all
	_, _, _, err := b.w.CreateEndpoint(nat.Doc.Id, []byte(constraint("eth9")), b.in)
	code(t, err, hcn.HCN_E_ADAPTER_NOT_FOUND, "Policies[0].Settings.InterfaceAlias", "eth1")
	bridge := b.network(boundNet("bridge", "L2Bridge", ""))
	_, _, _, err = b.w.CreateEndpoint(bridge.Doc.Id, []byte(constraint("eth1")), b.in)
	code(t, err, hcn.HCN_E_ADAPTER_NOT_FOUND, "Policies[0].Settings.InterfaceAlias", "bound to")
	b.endpoint(bridge.Doc.Id, constraint("eth0"))
}
