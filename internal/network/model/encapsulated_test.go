// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"slices"
	"testing"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// farSets prints the address sets of what other hosts have.
func (b *bench) farSets() (out []string) {
	for _, s := range flat(b.w).Switch.AddrSets {
		out = append(out, fmt.Sprint(s.Name, s.Prefixes))
	}
	return out
}

func TestEncapsulatedACL(t *testing.T) {
	b, n := overlayBench(t)
	const far = ` in on other hosts of network "flannel.4096"`
	modify := func(verb, policies string) {
		t.Helper()
		if err := b.modifyNetwork(n.Doc.Id, verb, policies); err != nil {
			t.Fatal(err)
		}
	}
	// A wide way leads around the network's own subnet; a remote endpoint may be in it.
	modify("Add", lease("10.244.0.0/21", 4096, "10.9.0.5", "02:00:00:00:00:05")+","+ipset("s", "IPSET", "10.0.0.0/8"))
	b.endpoint("flannel.4096", `{"Flags":1,"MacAddress":"02-11-0a-f4-03-07","IpConfigurations":[{"IpAddress":"10.244.3.7"}],"Policies":[{"Type":"ProviderAddress","Settings":{"ProviderAddress":"10.9.0.6"}}]}`)
	if got, want := b.farSets(), []string{"s[10.0.0.0/8]"}; !slices.Equal(got, want) {
		t.Errorf("before a rule asks: %q", got)
	}
	plain := b.attached("flannel.4096", `{"Policies":[`+acl(`{"Protocols":"252","Action":"Block","Direction":"Out","RemotePorts":"80","LocalAddresses":"10.244.3.0/24","Priority":200}`)+`]}`)
	mixed := b.attached("flannel.4096", `{"Policies":[`+acl(`{"Protocols":"6,252","Action":"Block","Direction":"In","LocalPorts":"80"}`)+`]}`)
	sets := b.attached("flannel.4096", `{"Policies":[`+acl(`{"Protocols":"252","Action":"Allow","Direction":"Out","RemoteAddresses":"s"}`)+`]}`)
	any := b.attached("flannel.4096", `{"Policies":[`+acl(`{"Protocols":"252,256","Action":"Allow","Direction":"Out","RemoteAddresses":"10.0.0.0/8"}`)+`]}`)
	rules := func() (out []string) {
		for _, e := range []*Endpoint{plain, mixed, sets, any} {
			out = append(out, b.rulesOf(e))
		}
		return out
	}
	before := rules()
	if want := []string{
		"ACL 0\n  200 out block proto [] local [10.244.3.0/24] [] remote [] []" + far + "\n",
		"ACL 0\n  65500 in block proto [] local [] [] remote [] []" + far + "\n  65500 in block proto [6] local [] [80] remote [] []\n",
		"ACL 0\n  65500 out allow proto [] local [0.0.0.0/0] [] remote [] [] in s" + far + "\n",
		"ACL 0\n  65500 out allow proto [] local [] [] remote [10.0.0.0/8] []\n",
	}; !slices.Equal(before, want) {
		t.Errorf("rules %q", before)
	}
	const name = `on other hosts of network "flannel.4096"`
	if got, want := b.farSets(), []string{"s[10.0.0.0/8]", name + "[10.244.0.0/23 10.244.2.0/24 10.244.3.7/32 10.244.4.0/22]"}; !slices.Equal(got, want) {
		t.Errorf("sets %q", got)
	}
	// Leases go, remote endpoints outside the subnets come; the rules stay.
	modify("Remove", lease("10.244.0.0/21", 4096, "10.9.0.5", "02:00:00:00:00:05"))
	b.endpoint("flannel.4096", `{"Flags":1,"MacAddress":"02-11-0a-f4-09-07","IpConfigurations":[{"IpAddress":"10.244.9.7"}],"Policies":[{"Type":"ProviderAddress","Settings":{"ProviderAddress":"10.9.0.6"}}]}`)
	if got, want := b.farSets(), []string{"s[10.0.0.0/8]", name + "[10.244.3.7/32 10.244.9.7/32]"}; !slices.Equal(got, want) {
		t.Errorf("sets %q", got)
	}
	if got := rules(); !slices.Equal(got, before) {
		t.Errorf("rules %q", got)
	}
	// It is the same after a restart.
	again, err := Load(b.w.inst, b.w.Numbers(), rowsOf(t, b.w))
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(flat(again).Switch.ACLs, flat(again).Switch.AddrSets) != fmt.Sprint(flat(b.w).Switch.ACLs, flat(b.w).Switch.AddrSets) {
		t.Error("other rules after a restart")
	}
	var c vswitch.Compiler
	if _, err := c.Compile(flat(b.w).Switch, vswitch.Facts{}); err != nil {
		t.Error(err)
	}
	_, _, _, err = b.w.CreateEndpoint(n.Doc.Id, []byte(`{"Policies":[`+acl(`{"Protocols":"252","Action":"Block","Direction":"Out","RemoteAddresses":"10.0.0.1"}`)+`]}`), b.in)
	code(t, err, hcn.HCN_E_REQUEST_UNSUPPORTED, "Policies[0].Settings.RemoteAddresses", "SetPolicy")
	_, _, _, err = b.w.CreateEndpoint(n.Doc.Id, []byte(`{"Policies":[`+acl(`{"Protocols":"252","Action":"Block","Direction":"In","LocalAddresses":"10.0.0.1","RemoteAddresses":"s"}`)+`]}`), b.in)
	code(t, err, hcn.HCN_E_REQUEST_UNSUPPORTED, "Policies[0].Settings.LocalAddresses")
	// Without a tunnel nothing goes through one.
	b.network(`{"Name":"nat"}`)
	e := b.attached("nat", `{"Policies":[`+acl(`{"Protocols":"252","Action":"Block","Direction":"In"}`)+`,`+acl(`{"Protocols":"6,252","Action":"Block","Direction":"Out"}`)+`]}`)
	if got, want := b.rulesOf(e), "ACL 0\n  65500 out block proto [6] local [] [] remote [] []\n"; got != want {
		t.Errorf("in a network without a tunnel: %q", got)
	}
}
