// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// switched prints the switch's networks on uplinks, and which ports are in them.
func switched(w World) string {
	d := flat(w)
	var out []string
	for _, n := range d.Switch.Networks {
		if n.Uplink == "" {
			continue
		}
		s := fmt.Sprintf("%d: %s/%d", n.ID, n.Uplink, n.VLAN)
		for _, v := range n.Subnets {
			s += " " + v.Prefix.String()
		}
		for _, p := range d.Switch.Ports {
			if p.Network == n.ID {
				s += " " + p.Addrs[0].String()
			}
		}
		out = append(out, s)
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func tagged(prefix string, vlan int) string {
	return fmt.Sprintf(`{"IpAddressPrefix":%q,"Policies":[{"Type":"VLAN","Settings":{"IsolationId":%d}}]}`, prefix, vlan)
}

// TestSegments: a VLAN of an uplink is one network of the switch, whichever subnets and
// endpoints of whichever networks are in it.
func TestSegments(t *testing.T) {
	b := newWired(t)
	same := func(what, want string) {
		t.Helper()
		if got := switched(b.w); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", what, got, want)
		}
		if _, err := vswitch.Compile(flat(b.w).Switch, vswitch.Facts{Uplinks: []vswitch.Uplink{{Name: "eth0", Ifindex: 2, MTU: 1500, MAC: vswitch.MAC{2, 1}}}}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		rows := Rows{Networks: b.w.AllNetworks(), Endpoints: b.w.AllEndpoints(), Namespaces: b.w.AllNamespaces()}
		loaded, err := Load(b.w.inst, b.w.numbers, rows)
		if err != nil {
			t.Fatal(err)
		}
		if got := switched(loaded); got != want {
			t.Errorf("%s: after a restart:\n%s", what, got)
		}
	}
	plug := func(network, body string) *Endpoint {
		t.Helper()
		e := b.endpoint(network, body)
		b.attach(b.namespace(`{}`).Doc.Id, e.Doc.Id)
		e, _ = b.w.Endpoint(e.Doc.Id)
		return e
	}
	for _, typ := range []string{"Transparent", "L2Bridge"} {
		b = newWired(t)
		one := b.network(`{"Name":"one","Type":"` + typ + `","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.1.0.0/24"},` + tagged("10.2.0.0/24", 5) + `,` + tagged("fd02::/64", 5) + `]}]}`)
		first := plug(one.Doc.Id, `{"Name":"first"}`)
		plug(one.Doc.Id, `{"IpConfigurations":[{"IpAddress":"10.2.0.7"},{"IpAddress":"fd02::7"}]}`)
		same(typ, "1: eth0/0 10.1.0.0/24 10.2.0.0/24 fd02::/64 10.1.0.1\n2: eth0/5 10.1.0.0/24 10.2.0.0/24 fd02::/64 10.2.0.7")
		if len(first.addrs) != 1 {
			t.Errorf("%s: chosen %v in two VLANs", typ, first.addrs)
		}
		// Another network of the same prefix is on the same wires.
		two := b.network(`{"Name":"two","Type":"` + typ + `","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.1.0.0/16"}]}]}`)
		plug(two.Doc.Id, `{}`)
		same(typ+", two", "1: eth0/0 10.2.0.0/24 fd02::/64 10.1.0.0/16 10.1.0.1 10.1.0.2\n2: eth0/5 10.1.0.0/24 10.2.0.0/24 fd02::/64 10.2.0.7")
		_, _, _, err := b.w.CreateEndpoint(two.Doc.Id, []byte(`{"IpConfigurations":[{"IpAddress":"10.1.0.1"}]}`), b.in)
		code(t, err, hcn.HCN_E_ADDR_INVALID_OR_RESERVED, "IpConfigurations[0].IpAddress", `"first"`)
		_, _, _, err = b.w.CreateEndpoint(two.Doc.Id, []byte(`{"MacAddress":"`+first.Doc.MacAddress+`"}`), b.in)
		code(t, err, hcn.HCN_E_INVALID_ENDPOINT, "MacAddress", `"first"`)
		// An endpoint's own VLAN, where the address is free; it can be changed.
		moved := plug(two.Doc.Id, `{"IpConfigurations":[{"IpAddress":"10.1.0.1"}],"Policies":[{"Type":"VLAN","Settings":{"IsolationId":9}}]}`)
		same(typ+", policy", "1: eth0/0 10.2.0.0/24 fd02::/64 10.1.0.0/16 10.1.0.1 10.1.0.2\n2: eth0/5 10.1.0.0/24 10.2.0.0/24 fd02::/64 10.2.0.7\n3: eth0/9 10.1.0.0/16 10.1.0.1")
		_, err = b.modifyEndpoint(moved.Doc.Id, "Remove", `{"Type":"VLAN"}`)
		code(t, err, hcn.HCN_E_ADDR_INVALID_OR_RESERVED, "Settings.IpConfigurations[0].IpAddress", `"first"`)
		if _, err = b.modifyEndpoint(moved.Doc.Id, "Update", `{"Type":"VLAN","Settings":{"IsolationId":5}}`); err != nil {
			t.Fatal(err)
		}
		same(typ+", moved", "1: eth0/0 10.2.0.0/24 fd02::/64 10.1.0.0/16 10.1.0.1 10.1.0.2\n2: eth0/5 10.2.0.0/24 fd02::/64 10.1.0.0/16 10.2.0.7 10.1.0.1\n3: eth0/9 10.1.0.0/16")
		_, _, _, err = b.w.CreateEndpoint(one.Doc.Id, []byte(`{"IpConfigurations":[{"IpAddress":"10.1.0.9"},{"IpAddress":"10.2.0.9"}]}`), b.in)
		code(t, err, hcn.HCN_E_INVALID_ENDPOINT, "IpConfigurations[1]", "VLAN 5", "untagged")
		// What is shared lives as long as one of them.
		if b.w, err = b.w.DeleteNetwork(one.Doc.Id, 0, b.in); err != nil {
			t.Fatal(err)
		}
		same(typ+", one gone", "1: eth0/0 10.1.0.0/16 10.1.0.2\n2: eth0/5 10.1.0.0/16 10.1.0.1\n3: eth0/9 10.1.0.0/16")
		if b.w, err = b.w.DeleteNetwork(two.Doc.Id, 0, b.in); err != nil {
			t.Fatal(err)
		}
		empty(t, b.w)
	}
}
