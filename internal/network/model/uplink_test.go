// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// wired gives the host two interfaces; the default route leaves by the first.
func wired(b *bench) {
	eth0 := Uplink{Name: "eth0", AltNames: []string{"enp1s0"}, Alias: "the fabric", Ifindex: 2, Default: true,
		Addrs: []netip.Prefix{netip.MustParsePrefix("10.9.0.4/24"), netip.MustParsePrefix("fd09::4/64")}}
	eth1 := Uplink{Name: "eth1", Ifindex: 3}
	b.in.Uplinks = func() []Uplink { return []Uplink{eth0, eth1} }
	b.in.IsHost = func(a netip.Addr) bool {
		return a == netip.MustParseAddr("10.9.0.4") || a == netip.MustParseAddr("fd09::4")
	}
	b.in.Avoid = func() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24")} }
}

// bound is a network of a type on 10.9.0.0/24, with policies.
func boundNet(name, typ, policies string) string {
	return fmt.Sprintf(`{"Name":%q,"Type":%q,"Policies":[%s],"Ipams":[{"Subnets":[{"IpAddressPrefix":"10.9.0.0/24","Routes":[{"NextHop":"10.9.0.1","DestinationPrefix":"0.0.0.0/0"}]}]}]}`, name, typ, policies)
}

func adapter(name string) string {
	return fmt.Sprintf(`{"Type":"NetAdapterName","Settings":{"NetworkAdapterName":%q}}`, name)
}

func TestUplinkIsChosen(t *testing.T) {
	for policies, want := range map[string]string{
		``:                eth0,
		adapter("eth1"):   "eth1",
		adapter("enp1s0"): eth0,
		`{"Type":"InterfaceConstraint","Settings":{"InterfaceIndex":3}}`:                                       "eth1",
		`{"Type":"InterfaceConstraint","Settings":{"InterfaceIndex":2,"InterfaceAlias":"the fabric"}}`:         eth0,
		`{"Type":"ProviderAddress","Settings":{"ProviderAddress":"fd09::4"}}`:                                  eth0,
		adapter("eth0") + `,{"Type":"ProviderAddress","Settings":{"ProviderAddress":"10.9.0.4"}}`:              eth0,
		`{"Type":"InterfaceConstraint","Settings":{"InterfaceGuid":"` + (Uplink{Name: "eth1"}).layer() + `"}}`: "eth1",
	} {
		b := newBench(t)
		wired(b)
		n := b.network(boundNet("n", "L2Bridge", policies))
		if n.Uplink != want || n.compiled.network.Uplink != want || n.Doc.Health.Extra.LayeredOn != (Uplink{Name: want}).layer() {
			t.Errorf("%s: uplink %q, layered on %q", policies, n.Uplink, n.Doc.Health.Extra.LayeredOn)
		}
		for i, p := range n.Doc.Policies {
			if i < strings.Count(policies, `"Type"`) && !strings.Contains(policies, string(p.Settings)) {
				t.Errorf("%s: comes back as %s", policies, p.Settings)
			}
		}
		if want == eth0 && !n.provider().IsValid() || want == "eth1" && n.provider().IsValid() {
			t.Errorf("%s: provider address %v", policies, n.provider())
		}
	}
}

const eth0 = "eth0"

func TestUplinkIsRefused(t *testing.T) {
	b := newBench(t)
	wired(b)
	for _, c := range []struct {
		policies, field, says string
		code                  hcn.ErrorCode
	}{
		{adapter("eth9"), "Policies[0].Settings.NetworkAdapterName", "eth0, eth1", hcn.HCN_E_ADAPTER_NOT_FOUND},
		{`{"Type":"InterfaceConstraint","Settings":{"InterfaceIndex":2,"InterfaceAlias":"eth1"}}`, "Policies[0].Settings.InterfaceIndex", "no such interface", hcn.HCN_E_ADAPTER_NOT_FOUND},
		{`{"Type":"InterfaceConstraint","Settings":{}}`, "Policies[0].Settings", "names no interface", hcn.HCN_E_INVALID_POLICY},
		{`{"Type":"ProviderAddress","Settings":{"ProviderAddress":"10.9.0.9"}}`, "Policies[0].Settings.ProviderAddress", "no such interface", hcn.HCN_E_ADAPTER_NOT_FOUND},
		{`{"Type":"LayerConstraint","Settings":{"LayerId":"` + guid(7) + `"}}`, "Policies[0].Settings.LayerId", "LayeredOn", hcn.HCN_E_LAYER_NOT_FOUND},
		{adapter("eth1") + `,{"Type":"ProviderAddress","Settings":{"ProviderAddress":"10.9.0.4"}}`, "Policies[1].Settings.ProviderAddress", "eth1", hcn.HCN_E_ADAPTER_NOT_FOUND},
	} {
		_, _, _, err := b.w.CreateNetwork([]byte(boundNet("n", "Transparent", c.policies)), b.in)
		code(t, err, c.code, c.field, c.says)
	}
	_, _, _, err := b.w.CreateNetwork([]byte(`{"Policies":[`+adapter("eth0")+`]}`), b.in)
	code(t, err, hcn.HCN_E_REQUEST_UNSUPPORTED, "Policies[0].Type", "no uplink")
	b.in.Uplinks = nil
	_, _, _, err = b.w.CreateNetwork([]byte(boundNet("n", "L2Bridge", "")), b.in)
	code(t, err, hcn.HCN_E_ADAPTER_NOT_FOUND, "Policies", "default route")
}

func TestUplinkIsShared(t *testing.T) {
	b := newBench(t)
	wired(b)
	first := b.network(boundNet("first", "L2Bridge", ""))
	layer := fmt.Sprintf(`{"Type":"LayerConstraint","Settings":{"LayerId":%q}}`, first.Doc.Health.Extra.LayeredOn)
	second := b.network(`{"Name":"second","Type":"L2Bridge","Policies":[` + layer + `],"Ipams":[{"Subnets":[{"IpAddressPrefix":"10.8.0.0/24"}]}]}`)
	if second.Uplink != eth0 || second.Doc.Health.Extra.SwitchGuid != first.Doc.Health.Extra.SwitchGuid {
		t.Errorf("%q, switches %s and %s", second.Uplink, first.Doc.Health.Extra.SwitchGuid, second.Doc.Health.Extra.SwitchGuid)
	}
	refused := func(body string, want hcn.ErrorCode, field string, parts ...string) {
		t.Helper()
		_, _, _, err := b.w.CreateNetwork([]byte(body), b.in)
		code(t, err, want, field, parts...)
	}
	refused(boundNet("third", "Transparent", ""), hcn.HCN_E_SHARED_SWITCH_MODIFICATION, "Type", "first")
	isolated := strings.Replace(boundNet("third", "L2Bridge", ""), `{`, `{"Flags":32,`, 1)
	refused(isolated, hcn.E_DUPLICATE_NAME, "Ipams[0].Subnets[0].IpAddressPrefix", "first", "untagged")
	refused(`{"Type":"L2Bridge","Flags":128}`, hcn.HCN_E_SHARED_SWITCH_MODIFICATION, "Flags", "DisableSharing")
	// On a VLAN of its own the same prefix is another.
	tagged := b.network(`{"Name":"third","Type":"L2Bridge","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.9.0.0/24","Policies":[{"Type":"VLAN","Settings":{"IsolationId":12}}]}]}]}`)
	if v := tagged.compiled.network.VLAN; v != 12 {
		t.Errorf("VLAN %d", v)
	}
	b.network(boundNet("beside", "Transparent", adapter("eth1")))
	isolated = strings.Replace(boundNet("again", "Transparent", adapter("eth1")), `{`, `{"Flags":32,`, 1)
	refused(isolated, hcn.HCN_E_SHARED_SWITCH_MODIFICATION, "Flags", "beside")
}

func TestUplinkIsFollowed(t *testing.T) {
	b := newBench(t)
	wired(b)
	late := b.network(boundNet("late", "L2Bridge", adapter("eth1")))
	fixed := b.network(boundNet("fixed", "L2Bridge", `{"Type":"ProviderAddress","Settings":{"ProviderAddress":"10.9.0.4"}}`))
	ups := b.in.Uplinks()
	ups[0].Addrs = []netip.Prefix{netip.MustParsePrefix("10.9.0.5/24")}
	ups[1].Addrs = []netip.Prefix{netip.MustParsePrefix("10.7.0.1/24")}
	b.in.Uplinks = func() []Uplink { return ups }
	w := b.w.FollowUplinks(b.in)
	if n, _ := w.Network(late.Doc.Id); n.provider().String() != "10.7.0.1" || n.Doc.Version != 2 {
		t.Errorf("late has %v at version %d", n.provider(), n.Doc.Version)
	}
	if n, _ := w.Network(fixed.Doc.Id); n.provider().String() != "10.9.0.4" || n.Doc.Version != 1 {
		t.Errorf("fixed has %v at version %d", n.provider(), n.Doc.Version)
	}
	if again := w.FollowUplinks(b.in); len(again.Changes()) != len(w.Changes()) {
		t.Error("followed twice")
	}
	// An uplink that loses its address keeps what was said of it.
	ups[1].Addrs = nil
	if n, _ := w.FollowUplinks(b.in).Network(late.Doc.Id); n.provider().String() != "10.7.0.1" {
		t.Errorf("late has %v", n.provider())
	}
	// Bound for good.
	_, _, err := w.ModifyNetwork(late.Doc.Id, []byte(`{"ResourceType":"Policy","RequestType":"Update","Settings":{"Policies":[`+adapter("eth0")+`]}}`), 0, b.in)
	code(t, err, hcn.HCN_E_REQUEST_UNSUPPORTED, "Settings.Policies", "eth1")
}

// TestNetworkTypes: what each type is in the switch, and whose addresses it has.
func TestNetworkTypes(t *testing.T) {
	b := newBench(t)
	wired(b)
	for typ, want := range map[string]vswitch.NetFlags{
		"Private":     vswitch.NetFlood | vswitch.NetL2,
		"Transparent": vswitch.NetFlood | vswitch.NetL2 | vswitch.NetARPPass,
		"L2Bridge":    vswitch.NetFlood | vswitch.NetL2 | vswitch.NetMACRewrite,
		"L2Tunnel":    vswitch.NetFlood | vswitch.NetL2 | vswitch.NetMACRewrite | vswitch.NetNoLocal,
	} {
		b := newBench(t)
		wired(b)
		n := b.network(boundNet("n", typ, ""))
		if n.compiled.network.Flags != want || n.HostPort != 0 || n.compiled.network.Subnets[0].Gateway.IsValid() {
			t.Errorf("%s: %s, host port %d, %v", typ, n.compiled.network.Flags, n.HostPort, n.compiled.network.Subnets)
		}
		// The router and the host have their addresses already.
		ids := map[string]bool{}
		for range 4 {
			e := b.endpoint(n.Doc.Id, `{}`)
			ids[e.Doc.IpConfigurations[0].IpAddress] = true
			if e.Doc.Routes[0].NextHop != "10.9.0.1" {
				t.Errorf("%s: routes %v", typ, e.Doc.Routes)
			}
		}
		if ids["10.9.0.1"] || typ != "Private" && ids["10.9.0.4"] {
			t.Errorf("%s gives out %v", typ, ids)
		}
		if typ != "Private" {
			_, _, _, err := b.w.CreateEndpoint(n.Doc.Id, []byte(`{"IpConfigurations":[{"IpAddress":"10.9.0.4"}]}`), b.in)
			code(t, err, hcn.HCN_E_ADDR_INVALID_OR_RESERVED, "IpConfigurations[0].IpAddress", "host's own")
		}
		if got := flat(b.w); len(got.HostNICs) != 0 || len(got.Resolvers) != 0 {
			t.Errorf("%s: %v %v", typ, got.HostNICs, got.Resolvers)
		}
	}
	// Without subnets an endpoint brings its address.
	bare := b.network(`{"Name":"bare","Type":"Transparent"}`)
	if len(bare.Doc.Ipams) != 0 {
		t.Errorf("invented %v", bare.Doc.Ipams)
	}
	_, _, _, err := b.w.CreateEndpoint(bare.Doc.Id, []byte(`{}`), b.in)
	code(t, err, hcn.HCN_E_INVALID_IP, "IpConfigurations", "no subnets")
	_, _, _, err = b.w.CreateEndpoint(bare.Doc.Id, []byte(`{"IpConfigurations":[{"IpAddress":"10.9.0.77"}]}`), b.in)
	code(t, err, hcn.E_INVALID_PARAMETER, "IpConfigurations[0].PrefixLength")
	e := b.endpoint(bare.Doc.Id, `{"IpConfigurations":[{"IpAddress":"10.9.0.77","PrefixLength":24}]}`)
	if e.addrs[0].String() != "10.9.0.77/24" {
		t.Errorf("addresses %v", e.addrs)
	}
	for body, field := range map[string]string{
		`{"Type":"L2Bridge","Ipams":[{"Subnets":[{}]}]}`:        "Ipams[0].Subnets[0].IpAddressPrefix",
		`{"Type":"Private","Ipams":[{"Type":"Dhcp"}]}`:          "Ipams[0].Type",
		`{"Type":"Private","Policies":[` + adapter(eth0) + `]}`: "Policies[0].Type",
		`{"Type":"Private","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.1.0.0/24","Policies":[{"Type":"VLAN","Settings":{"IsolationId":12}}]}]}]}`:       "Ipams[0].Subnets[0].Policies[0].Type",
		`{"Type":"Transparent","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.1.0.0/24","Policies":[{"Type":"VLAN","Settings":{"IsolationId":4095}}]}]}]}`: "Ipams[0].Subnets[0].Policies[0].Settings.IsolationId",
	} {
		_, _, _, err := newWired(t).w.CreateNetwork([]byte(body), newWired(t).in)
		if err == nil {
			t.Errorf("%s was taken", body)
			continue
		}
		if e := err.(*Error); e.Field != field {
			t.Errorf("%s: %v at %s, want %s", body, err, e.Field, field)
		}
	}
	// A NAT network keeps clear of what is on the wire.
	b.network(`{"Name":"wide","Type":"L2Bridge","Policies":[` + adapter("eth1") + `],"Ipams":[{"Subnets":[{"IpAddressPrefix":"172.16.0.0/16"}]}]}`)
	if p := b.network(`{"Name":"nat"}`).Doc.Ipams[0].Subnets[0].IpAddressPrefix; p != "172.17.0.0/20" {
		t.Errorf("NAT beside it got %s", p)
	}
	if got := slices.Sorted(func(yield func(string) bool) {
		for _, n := range flat(b.w).Switch.Networks {
			if n.Uplink != "" && !yield(n.Uplink) {
				return
			}
		}
	}); !slices.Equal(got, []string{eth0, "eth1"}) {
		t.Errorf("uplinks %v", got)
	}
}

func newWired(t *testing.T) *bench {
	b := newBench(t)
	wired(b)
	return b
}
