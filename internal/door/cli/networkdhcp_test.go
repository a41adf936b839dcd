// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"encoding/json"
	"testing"
)

func TestSubnetsByDHCP(t *testing.T) {
	for _, c := range []struct {
		subnets []string
		vlan    uint32
		want    string
	}{
		{[]string{"dhcp"}, 0, `[{"Type":"Dhcp"}]`},
		{[]string{"10.9.0.0/24"}, 0, `[{"Type":"Static","Subnets":[{"IpAddressPrefix":"10.9.0.0/24"}]}]`},
		{[]string{"fd09::/64", "DHCP", "10.9.0.0/24"}, 7, `[{"Type":"Dhcp","Subnets":[{"IpAddressPrefix":"10.9.0.0/24","Policies":[{"Type":"VLAN","Settings":{"IsolationId":7}}]}]},` +
			`{"Type":"Static","Subnets":[{"IpAddressPrefix":"fd09::/64","Policies":[{"Type":"VLAN","Settings":{"IsolationId":7}}]}]}]`},
	} {
		f := networkFlags{typ: "transparent", subnets: c.subnets, vlan: c.vlan}
		n, err := f.document("seg")
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := json.Marshal(n.Ipams); string(got) != c.want {
			t.Errorf("%v: %s, want %s", c.subnets, got, c.want)
		}
	}
	f := networkFlags{typ: "transparent", subnets: []string{"dhcp"}, vlan: 7}
	if _, err := f.document("seg"); err == nil {
		t.Error("a tag of no subnet was taken")
	}
	r := runFlags{ip: "dhcp", ip6: "fd09::9"}
	ep, err := r.endpoint()
	if got, _ := json.Marshal(ep); err != nil || string(got) != `{"Flags":32,"IpConfigurations":[{"IpAddress":"fd09::9"}]}` {
		t.Errorf("%s, %v", got, err)
	}
}
