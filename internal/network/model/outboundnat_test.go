// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/hcn"
)

// TestNATRules: what policies say of destinations, by the type of the network.
func TestNATRules(t *testing.T) {
	v4 := []netip.Prefix{netip.MustParsePrefix("10.1.0.2/16")}
	both := append(v4, netip.MustParsePrefix("fd00::2/64"))
	for _, c := range []struct {
		name     string
		typ      hcn.NetworkType
		addrs    []netip.Prefix
		policies []string
		want     string
	}{
		{"what NAT does anyway", hcn.NAT, both, []string{`{}`}, ""},
		{"exceptions", hcn.NAT, both, []string{`{"Exceptions":["10.0.0.0/24","fd01::/16","192.0.2.1"]}`}, "fd01::/16 own, 10.0.0.0/24 own, 192.0.2.1/32 own"},
		{"exceptions of another family", hcn.NAT, v4, []string{`{"Exceptions":["10.0.0.0/24","fd01::/16"]}`}, "10.0.0.0/24 own"},
		{"destinations on NAT change nothing", hcn.NAT, both, []string{`{"Destinations":["10.0.0.0/24"]}`}, ""},
		{"destinations by another address", hcn.NAT, v4, []string{`{"Destinations":["10.0.0.0/24"],"VirtualIP":"192.0.2.9"}`}, "10.0.0.0/24 pool 7"},
		{"all by another address", hcn.NAT, both, []string{`{"VirtualIP":"192.0.2.9"}`}, "0.0.0.0/0 pool 7"},
		{"all on a bridge", hcn.L2Bridge, both, []string{`{}`}, "0.0.0.0/0, ::/0"},
		{"what the CNI core sends", hcn.L2Bridge, both, []string{`{"Exceptions":["10.244.0.0/16","10.96.0.0/12","10.0.0.0/24"]}`},
			"0.0.0.0/0, ::/0, 10.96.0.0/12 own, 10.244.0.0/16 own, 10.0.0.0/24 own"},
		{"only destinations on a bridge", hcn.L2Bridge, both, []string{`{"Destinations":["192.0.2.0/24"]}`}, "192.0.2.0/24"},
		{"itself", hcn.L2Bridge, both, []string{`{"Destinations":["10.1.0.2"]}`}, ""},
		{"itself beside exceptions", hcn.Overlay, both, []string{`{"Exceptions":["10.0.0.0/8"]}`, `{"Destinations":["10.1.0.2","fd00::2"]}`}, "0.0.0.0/0, ::/0, 10.0.0.0/8 own"},
		{"the v6 rule alone", hcn.L2Bridge, both, []string{`{"Flags":2}`}, "::/0"},
		{"the v6 rule comes first there", hcn.L2Bridge, both, []string{`{"Exceptions":["fd01::/16"]}`, `{"Flags":2,"Exceptions":["fd02::/16"]}`}, "0.0.0.0/0, ::/0, fd02::/16 own"},
		{"destinations before the general one", hcn.L2Tunnel, v4, []string{`{"Exceptions":["10.0.0.0/8"]}`, `{"Destinations":["10.9.0.0/16"],"Exceptions":["10.9.9.0/24"],"VirtualIP":"192.0.2.9"}`},
			"0.0.0.0/0, 10.0.0.0/8 own, 10.9.0.0/16 pool 7, 10.9.9.0/24 own"},
		{"the first of two", hcn.L2Bridge, v4, []string{`{"Destinations":["10.9.0.0/16"]}`, `{"Destinations":["10.0.0.0/8"],"VirtualIP":"192.0.2.9"}`}, "10.0.0.0/8 pool 7, 10.9.0.0/16"},
		{"its own address", hcn.NAT, v4, []string{`{"VirtualIP":"10.1.0.2"}`}, "0.0.0.0/0 own"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := new(Network)
			n.Doc.Type = c.typ
			e := &Endpoint{addrs: c.addrs, NATPools: []NATPoolRef{{netip.MustParseAddr("192.0.2.9"), 7}}}
			for _, a := range c.addrs {
				e.Doc.IpConfigurations = append(e.Doc.IpConfigurations, IpConfig{IpConfig: hcn.IpConfig{IpAddress: a.Addr().String()}})
			}
			for _, p := range c.policies {
				policy := hcn.EndpointPolicy{Type: hcn.OutBoundNAT, Settings: json.RawMessage(p)}
				if err := checkEndpointPolicy(policy, n); err != nil {
					t.Fatal(err)
				}
				e.Doc.Policies = append(e.Doc.Policies, policy)
			}
			var got []string
			for _, r := range e.natRules(n) {
				s := r.Prefix.String()
				if r.Own {
					s += " own"
				}
				if r.Pool != 0 {
					s += fmt.Sprintf(" pool %d", r.Pool)
				}
				got = append(got, s)
			}
			if is := strings.Join(got, ", "); is != c.want {
				t.Errorf("got %q, want %q", is, c.want)
			}
		})
	}
}

// Pools have numbers that live as long as somebody refers to them, over a restart, too.
func TestVirtualIPs(t *testing.T) {
	b := newBench(t)
	b.in.IsHost = func(a netip.Addr) bool { return a.String() == "192.0.2.9" || a.String() == "192.0.2.10" }
	b.network(`{"Name":"nat","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.1.0.0/16"}]}]}`)
	by := func(a string) string { return `{"Type":"OutBoundNAT","Settings":{"VirtualIP":"` + a + `"}}` }
	pools := func(want string) {
		t.Helper()
		got := ""
		for _, p := range flat(b.w).Switch.NATPools {
			got += fmt.Sprintf("%d %v ", p.ID, p.Addrs)
		}
		if got != want {
			t.Errorf("pools %q, want %q", got, want)
		}
	}
	e := b.endpoint("nat", `{"Policies":[`+by("192.0.2.9")+`]}`)
	f := b.endpoint("nat", `{"Policies":[`+by("192.0.2.9")+`]}`)
	pools("1 [192.0.2.9] ")
	if _, err := b.modifyEndpoint(e.Doc.Id, "Update", by("192.0.2.10")); err != nil {
		t.Fatal(err)
	}
	pools("2 [192.0.2.10] 1 [192.0.2.9] ")
	again, err := Load(b.w.inst, b.w.numbers, Rows{Networks: b.w.AllNetworks(), Endpoints: b.w.AllEndpoints()})
	if err != nil {
		t.Fatal(err)
	}
	b.w = again
	pools("2 [192.0.2.10] 1 [192.0.2.9] ")
	if b.w, err = b.w.DeleteEndpoint(f.Doc.Id, 0, b.in); err != nil {
		t.Fatal(err)
	}
	pools("2 [192.0.2.10] ")
	// The host lost the address: that is no reason to refuse another change.
	b.in.IsHost = nil
	if _, err := b.modifyEndpoint(e.Doc.Id, "Add", `{"Type":"PortName","Settings":{"Name":"x"}}`); err != nil {
		t.Error(err)
	}
	if _, err := b.modifyEndpoint(e.Doc.Id, "Remove", by("192.0.2.10")); err != nil {
		t.Fatal(err)
	}
	pools("")
	_, err = b.modifyEndpoint(e.Doc.Id, "Add", by("192.0.2.10"))
	code(t, err, hcn.HCN_E_ADDR_INVALID_OR_RESERVED, "Settings.Policies[1].Settings.VirtualIP", "no address of this host")
	other := b.endpoint("nat", `{}`)
	_, err = b.modifyEndpoint(e.Doc.Id, "Add", by(other.addrs[0].Addr().String()))
	code(t, err, hcn.HCN_E_ADDR_INVALID_OR_RESERVED, "Settings.Policies[1].Settings.VirtualIP", "is held by endpoint")
}

// Of several policies the least share counts.
func TestMaxPortPoolUsage(t *testing.T) {
	b := newBench(t)
	b.network(tenNet)
	for policies, want := range map[string]uint8{
		``:                                     0,
		`{"Type":"OutBoundNAT","Settings":{}}`: 0,
		`{"Type":"OutBoundNAT","Settings":{"MaxPortPoolUsage":20}},{"Type":"OutBoundNAT","Settings":{"Destinations":["192.0.2.0/24"],"MaxPortPoolUsage":10}}`: 10,
	} {
		e := b.attached("ten", `{"Policies":[`+policies+`]}`)
		for _, p := range flat(b.w).Switch.Ports {
			if p.Object == e.Doc.Id && p.NATShare != want {
				t.Errorf("%s: %d%%, want %d%%", policies, p.NATShare, want)
			}
		}
	}
}

func TestInvalidPortPolicies(t *testing.T) {
	b := newBench(t)
	b.network(`{"Name":"nat","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.1.0.0/16"},{"IpAddressPrefix":"fd00:1::/64"}]}]}`)
	b.network(`{"Name":"in","Type":"Internal","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.2.0.0/16"}]}]}`)
	for _, c := range []struct {
		network, policies string
		code              hcn.ErrorCode
		field             string
	}{
		{"nat", `{"Type":"OutBoundNAT","Settings":{"Exceptions":["10.0.0.0/8","any"]}}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.Exceptions[1]"},
		{"nat", `{"Type":"OutBoundNAT","Settings":{"Destinations":["10.0.0.0/40"]}}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.Destinations[0]"},
		{"nat", `{"Type":"OutBoundNAT","Settings":{"Destinations":"10.0.0.0/8"}}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.Destinations"},
		{"nat", `{"Type":"OutBoundNAT","Settings":{"Flags":64}}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.Flags"},
		{"nat", `{"Type":"OutBoundNAT","Settings":{"MaxPortPoolUsage":101}}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.MaxPortPoolUsage"},
		{"nat", `{"Type":"OutBoundNAT","Settings":{"VirtualIP":"224.0.0.1"}}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.VirtualIP"},
		{"nat", `{"Type":"OutBoundNAT","Settings":{"VirtualIP":"192.0.2.9","Flags":2}}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.VirtualIP"},
		{"in", `{"Type":"OutBoundNAT"}`, hcn.HCN_E_REQUEST_UNSUPPORTED, "Policies[0].Type"},
		{"nat", `{"Type":"InterfaceParameters","Settings":{"Mtu":60}}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.Mtu"},
		{"nat", `{"Type":"InterfaceParameters","Settings":{"Mtu":1200}}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.Mtu"},
		{"nat", `{"Type":"InterfaceParameters","Settings":{"Mtu":1300}},{"Type":"InterfaceParameters","Settings":{"Mtu":1400}}`, hcn.HCN_E_INTERFACEPARAMETERS_ALREADY_APPLIED, "Policies[1].Settings"},
		{"nat", `{"Type":"EncapOverhead","Settings":{"Overhead":70000}}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.Overhead"},
		{"nat", `{"Type":"PortName","Settings":{"Name":"a\nb"}}`, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.Name"},
		{"nat", `{"Type":"PortName","Settings":{"Name":"a"}},{"Type":"PortName","Settings":{"Name":"b"}}`, hcn.HCN_E_POLICY_ALREADY_EXISTS, "Policies[1].Settings"},
	} {
		_, _, _, err := b.w.CreateEndpoint(c.network, []byte(`{"Policies":[`+c.policies+`]}`), b.in)
		code(t, err, c.code, c.field)
	}
	e := b.endpoint("in", `{"Policies":[{"Type":"InterfaceParameters","Settings":{"Mtu":1200}}]}`)
	if e.compiled.attached {
		t.Error("attached")
	}
}

// What a policy says of the device is changed where it runs.
func TestVNICPolicies(t *testing.T) {
	b := newBench(t)
	b.network(`{"Name":"nat","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.1.0.0/16"}]}]}`)
	e := b.attached("nat", `{}`)
	for _, c := range []struct {
		verb, policies, want string
	}{
		{"Add", `{"Type":"EncapOverhead","Settings":{"Overhead":100}},{"Type":"PortName","Settings":{"Name":"web"}}`, `0 100 "web" 1400`},
		{"Update", `{"Type":"EncapOverhead","Settings":{"Overhead":1490}}`, `0 1490 "web" 68`},
		{"Add", `{"Type":"InterfaceParameters","Settings":{"Mtu":1300}}`, `1300 0 "web" 1300`},
		{"Update", `{"Type":"InterfaceParameters","Settings":{"Mtu":1301}}`, `1301 0 "web" 1301`},
		{"Remove", `{"Type":"PortName"},{"Type":"InterfaceParameters"},{"Type":"EncapOverhead"}`, `0 0 "" 1500`},
	} {
		if _, err := b.modifyEndpoint(e.Doc.Id, c.verb, c.policies); err != nil {
			t.Fatal(err)
		}
		d := flat(b.w)
		v := d.Compartments[0].VNICs[0]
		if got := fmt.Sprintf("%d %d %q %d", v.MTU, v.Overhead, v.Alias, v.Fit(1500)); got != c.want {
			t.Errorf("%s %s: vNIC %s, want %s", c.verb, c.policies, got, c.want)
		}
		for _, p := range d.Switch.Ports {
			if p.ID == e.Port && (int(p.MTU) != v.MTU || int(p.Overhead) != v.Overhead) {
				t.Errorf("%s: port %d %d", c.policies, p.MTU, p.Overhead)
			}
		}
	}
}
