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

// overlayBody is flannel's document f: a network of a node, with policies more.
func overlayBody(name, prefix, policies, subnet string) string {
	gw := netip.MustParsePrefix(prefix).Addr().Next()
	all := "0.0.0.0/0"
	if gw.Is6() {
		all = "::/0"
	}
	return fmt.Sprintf(`{"Name":%q,"Type":"Overlay","Policies":[%s],"Flags":8,"Ipams":[{"Type":"Static","Subnets":[{"IpAddressPrefix":%q,"Policies":[%s],"Routes":[{"NextHop":%q,"DestinationPrefix":%q}]}]}]}`,
		name, policies, prefix, subnet, gw, all)
}

func vsid(v uint32) string {
	return fmt.Sprintf(`{"Type":"VSID","Settings":{"IsolationId":%d}}`, v)
}

func lease(prefix string, vni uint32, provider, router string) string {
	return fmt.Sprintf(`{"Type":"RemoteSubnetRoute","Settings":{"DestinationPrefix":%q,"IsolationId":%d,"ProviderAddress":%q,"DistributedRouterMacAddress":%q}}`, prefix, vni, provider, router)
}

func overlayBench(t *testing.T) (*bench, *Network) {
	b := newBench(t)
	wired(b)
	return b, b.network(overlayBody("flannel.4096", "10.244.3.0/24", adapter("eth0"), vsid(4096)))
}

// now is a network as it is now.
func (b *bench) now(n *Network) *Network {
	b.t.Helper()
	n, ok := b.w.Network(n.Doc.Id)
	if !ok {
		b.t.Fatal("gone")
	}
	return n
}

// ofType are the settings of a network's policies of a type.
func (n *Network) ofType(t hcn.NetworkPolicyType) (out []string) {
	for _, p := range n.Doc.Policies {
		if p.Type == t {
			out = append(out, string(p.Settings))
		}
	}
	return out
}

func TestOverlayIsFilled(t *testing.T) {
	b, n := overlayBench(t)
	if n.Uplink != eth0 || n.HostPort != 0 || n.Tunnel == 0 || n.provider() != netip.MustParseAddr("10.9.0.4") || len(n.ofType(hcn.DrMacAddress)) != 1 {
		t.Errorf("uplink %q, host port %d, tunnel %d, policies %s", n.Uplink, n.HostPort, n.Tunnel, n.Doc.Policies)
	}
	// Without policies of subnets: the lowest that are free, one for both families.
	auto := b.network(`{"Name":"auto","Type":"Overlay","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.244.3.0/24"},{"IpAddressPrefix":"10.244.5.0/24"},{"IpAddressPrefix":"fd44::/64"}]}]}`)
	var got []string
	for i, s := range auto.subnets {
		got = append(got, fmt.Sprint(s.vsid, s.gateway, string(auto.Doc.Ipams[0].Subnets[i].Policies[0])))
	}
	want := []string{"4097 10.244.3.1 " + vsid(4097), "4098 10.244.5.1 " + vsid(4098), "4097 fd44::1 " + vsid(4097)}
	if !slices.EqualFunc(got, want, func(a, b string) bool { return strings.ReplaceAll(a, " ", "") == strings.ReplaceAll(b, " ", "") }) {
		t.Errorf("%q", got)
	}
	w, more, err := b.w.ModifyNetwork(auto.Doc.Id, []byte(`{"ResourceType":"Subnet","RequestType":"Add","Settings":{"Subnets":[{"IpAddressPrefix":"10.244.6.0/24"}]}}`), 0, b.in)
	if err != nil || more.subnets[3].vsid != 4099 {
		t.Fatal(err, more)
	}
	b.w = w
	_, _, err = b.w.ModifyNetwork(auto.Doc.Id, []byte(`{"ResourceType":"Subnet","RequestType":"Add","Settings":{"Subnets":[{"IpAddressPrefix":"10.244.7.0/24","Policies":[`+vsid(4096)+`]}]}}`), 0, b.in)
	code(t, err, hcn.HCN_E_NETWORK_ALREADY_EXISTS, "Ipams[0].Subnets[4].Policies", "flannel.4096")
	if auto.Tunnel != n.Tunnel || auto.overlay.router == n.overlay.router {
		t.Errorf("tunnels %d and %d, routers %s and %s", n.Tunnel, auto.Tunnel, n.overlay.router, auto.overlay.router)
	}
	// A network without subnets; a router's MAC that was chosen, a prefix that NAT has.
	b.network(tenNet)
	for _, body := range []string{`{"Name":"none","Type":"Overlay"}`, overlayBody("ten2", "10.1.0.0/24", `{"Type":"DrMacAddress","Settings":{"Address":"02:0a:0b:0c:0d:0e"}}`, "")} {
		o := b.network(body)
		if d := o.ofType(hcn.DrMacAddress); len(d) != 1 || strings.Contains(body, "DrMac") && d[0] != `{"Address":"02:0a:0b:0c:0d:0e"}` {
			t.Errorf("%s: %s", body, d)
		}
	}
	// It is the same after a restart.
	again, err := Load(b.w.inst, b.w.Numbers(), Rows{Networks: b.w.AllNetworks()})
	if err != nil {
		t.Fatal(err)
	}
	if m, _ := again.Network(n.Doc.Id); m.overlay.router != n.overlay.router || m.Tunnel != n.Tunnel {
		t.Errorf("%+v", m)
	}
	if d := flat(again); len(d.Tunnels) != 1 || d.Tunnels[0].UDPPort != 4789 || d.Switch.Tunnels[0].Sources[0] != netip.MustParseAddr("10.9.0.4") || d.Switch.Tunnels[0].ID != n.Tunnel {
		t.Errorf("%+v %+v", d.Tunnels, d.Switch.Tunnels)
	}
}

func TestOverlayIsRefused(t *testing.T) {
	b, _ := overlayBench(t)
	port := func(p int) string { return fmt.Sprintf(`{"Type":"VxlanPort","Settings":{"Port":%d}}`, p) }
	sub := "Ipams[0].Subnets[0].Policies"
	for _, c := range []struct {
		policies, subnet string
		code             hcn.ErrorCode
		field            string
	}{
		{"", vsid(0), hcn.HCN_E_INVALID_POLICY, sub + "[0].Settings.IsolationId"},
		{"", vsid(1<<24 - 1), hcn.HCN_E_INVALID_POLICY, sub + "[0].Settings.IsolationId"},
		{"", vsid(4096), hcn.HCN_E_NETWORK_ALREADY_EXISTS, sub},
		{"", vsid(5) + "," + vsid(6), hcn.HCN_E_POLICY_ALREADY_EXISTS, sub + "[1].Type"},
		{"", `{"Type":"VLAN","Settings":{"IsolationId":5}}`, hcn.HCN_E_REQUEST_UNSUPPORTED, sub + "[0].Type"},
		{port(0), "", hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.Port"},
		{port(4790), "", hcn.HCN_E_REQUEST_UNSUPPORTED, "Policies"},
		{`{"Type":"DrMacAddress","Settings":{"Address":"01:00:00:00:00:01"}}`, "", hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.Address"},
		{lease("10.244.4.0/33", 1, "10.9.0.5", "02:00:00:00:00:05"), "", hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.DestinationPrefix"},
		{lease("10.244.4.0/24", 0, "10.9.0.5", "02:00:00:00:00:05"), "", hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.IsolationId"},
		{lease("10.244.4.0/24", 1, "x", "02:00:00:00:00:05"), "", hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.ProviderAddress"},
		{lease("10.244.4.0/24", 1, "10.9.0.5", ""), "", hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings.DistributedRouterMacAddress"},
		{lease("10.244.4.0/24", 4096, "10.9.0.5", "02:00:00:00:00:05"), "", hcn.HCN_E_NETWORK_ALREADY_EXISTS, "Policies[0].Settings.IsolationId"},
	} {
		_, _, _, err := b.w.CreateNetwork([]byte(overlayBody("n", "10.244.9.0/24", c.policies, c.subnet)), b.in)
		code(t, err, c.code, c.field)
	}
	_, _, _, err := b.w.CreateNetwork([]byte(`{"Type":"Overlay","Ipams":[{"Subnets":[{}]}]}`), b.in)
	code(t, err, hcn.HCN_E_INVALID_PREFIX, "Ipams[0].Subnets[0].IpAddressPrefix")
	// Other uplinks may have other ports, as many as there are tunnels.
	for i, other := range []string{"eth2", "eth3", "eth4"} {
		have := b.in.Uplinks()
		b.in.Uplinks = func() []Uplink { return append(have, Uplink{Name: other, Ifindex: 10 + i}) }
		if n := b.network(overlayBody(other, "10.244.3.0/24", adapter(other)+","+port(5000+i), vsid(4096))); n.overlay.udp != uint16(5000+i) {
			t.Error(n.overlay.udp)
		}
	}
	_, _, _, err = b.w.CreateNetwork([]byte(overlayBody("fifth", "10.244.3.0/24", adapter("eth1")+","+port(6000), "")), b.in)
	code(t, err, hcn.HCN_E_REQUEST_UNSUPPORTED, "Policies", "share one")
	if d := flat(b.w); len(d.Tunnels) != vswitch.MaxTunnels {
		t.Errorf("%+v", d.Tunnels)
	}
}

// TestOverlayTunnelIsShared: the last overlay of a port takes its tunnel along, and no
// number is lost on the way.
func TestOverlayTunnelIsShared(t *testing.T) {
	b, n := overlayBench(t)
	port := func(p int) string { return fmt.Sprintf(`{"Type":"VxlanPort","Settings":{"Port":%d}}`, p) }
	if err := b.modifyNetwork(n.Doc.Id, "Add", port(4790)); err != nil {
		t.Fatal(err)
	}
	if d := flat(b.w); len(d.Tunnels) != 1 || d.Tunnels[0].UDPPort != 4790 || d.Switch.Tunnels[0].ID != n.Tunnel {
		t.Errorf("%+v %+v", d.Tunnels, d.Switch.Tunnels)
	}
	far := b.network(overlayBody("far", "10.244.3.0/24", adapter("eth1"), ""))
	if far.Tunnel == n.Tunnel || far.subnets[0].vsid != 4096 {
		t.Errorf("tunnel %d, VSID %d", far.Tunnel, far.subnets[0].vsid)
	}
	err := b.modifyNetwork(n.Doc.Id, "Remove", port(4790))
	code(t, err, hcn.HCN_E_NETWORK_ALREADY_EXISTS, "Settings.Ipams[0].Subnets[0].Policies", "far")
	for _, id := range []string{n.Doc.Id, far.Doc.Id} {
		if b.w, err = b.w.DeleteNetwork(id, 0, b.in); err != nil {
			t.Fatal(err)
		}
	}
	if d := flat(b.w); len(d.Tunnels) != 0 || b.w.numbersIn[portNumbers].len() != 0 {
		t.Errorf("%+v, %d numbers in use", d.Tunnels, b.w.numbersIn[portNumbers].len())
	}
}

// TestRemoteSubnets goes through a lease's life as flannel and Felix know it.
func TestRemoteSubnets(t *testing.T) {
	b, n := overlayBench(t)
	const mac5, mac6 = "00:15:5d:0a:00:05", "00-15-5D-0A-00-06"
	do := func(verb, policies string) {
		t.Helper()
		if err := b.modifyNetwork(n.Doc.Id, verb, policies); err != nil {
			t.Fatal(err)
		}
	}
	routes := func(want ...string) {
		t.Helper()
		var got []string
		for _, r := range flat(b.w).Switch.Networks[0].Routes {
			got = append(got, fmt.Sprintf("%s %d %s %s", r.Prefix, r.VNI, r.VTEP, r.MAC))
		}
		if !slices.Equal(got, want) {
			t.Errorf("routes %q, want %q", got, want)
		}
	}
	old, fresh := lease("10.244.4.0/24", 4096, "10.9.0.5", mac5), lease("10.244.4.0/24", 4096, "10.9.0.6", mac6)
	do("Add", old)
	do("Add", old) // once more is no more
	routes("10.244.4.0/24 4096 10.9.0.5 00:15:5d:0a:00:05")
	code(t, b.modifyNetwork(n.Doc.Id, "Add", fresh), hcn.HCN_E_POLICY_ALREADY_EXISTS, "Settings.Policies[0]")
	// By value, in any order of members.
	do("Remove", `{"Type":"RemoteSubnetRoute","Settings":{"IsolationId":4096,"DistributedRouterMacAddress":"00-15-5D-0A-00-05","ProviderAddress":"10.9.0.5","DestinationPrefix":"10.244.4.0/24"}}`)
	routes()
	do("Add", fresh)
	if got := b.now(n).ofType(hcn.RemoteSubnetRoute); len(got) != 1 || !strings.Contains(fresh, got[0]) {
		t.Errorf("stored as %s", got)
	}
	// The old lease's removal comes late.
	do("Remove", old)
	routes("10.244.4.0/24 4096 10.9.0.6 00:15:5d:0a:00:06")
	// Another VSID is another policy; the later one leads.
	do("Add", lease("10.244.4.0/24", 4100, "10.9.0.7", mac5))
	routes("10.244.4.0/24 4100 10.9.0.7 00:15:5d:0a:00:05")
	do("Remove", `{"Type":"RemoteSubnetRoute","Settings":{"IsolationId":4100}}`)
	routes("10.244.4.0/24 4096 10.9.0.6 00:15:5d:0a:00:06")
	do("Update", old)
	routes("10.244.4.0/24 4096 10.9.0.5 00:15:5d:0a:00:05")
	code(t, b.modifyNetwork(n.Doc.Id, "Update", lease("10.244.8.0/24", 4096, "10.9.0.5", mac5)), hcn.HCN_E_POLICY_NOT_FOUND, "Settings.Policies[0].Settings.DestinationPrefix")
	// This host's own subnets, and what is on this host, lead nowhere.
	do("Add", lease("10.244.3.0/24", 4096, "10.9.0.5", mac5)+","+lease("10.244.7.0/24", 4096, "10.9.0.4", mac5))
	routes("10.244.4.0/24 4096 10.9.0.5 00:15:5d:0a:00:05")
	do("Remove", `{"Type":"RemoteSubnetRoute","Settings":{}}`)
	routes()
	// The router is for good.
	router := n.ofType(hcn.DrMacAddress)[0]
	do("Remove", `{"Type":"DrMacAddress"}`)
	if got := b.now(n).ofType(hcn.DrMacAddress); len(got) != 1 || got[0] != router {
		t.Errorf("router %s, was %s", got, router)
	}
	code(t, b.modifyNetwork(n.Doc.Id, "Update", `{"Type":"DrMacAddress","Settings":{"Address":"02:00:00:00:00:09"}}`), hcn.HCN_E_REQUEST_UNSUPPORTED, "Settings.Policies")
}

func TestHostRoute(t *testing.T) {
	b, n := overlayBench(t)
	e := b.endpoint("flannel.4096", `{}`)
	ns := b.namespace(`{}`)
	b.attach(ns.Doc.Id, e.Doc.Id)
	gateway := func() (mac vswitch.MAC) {
		for _, c := range flat(b.w).Compartments {
			if c.ID == ns.Doc.Id {
				mac = c.VNICs[0].Neighbours[0].MAC
			}
		}
		return mac
	}
	before := gateway()
	for range 2 {
		if err := b.modifyNetwork(n.Doc.Id, "Add", `{"Type":"HostRoute","Settings":{}}`); err != nil {
			t.Fatal(err)
		}
	}
	d := flat(b.w)
	if m := b.now(n); m.HostPort == 0 || len(d.HostNICs) != 1 || d.HostNICs[0].Addrs[0] != netip.MustParsePrefix("10.244.3.1/24") || d.HostNICs[0].MAC != before ||
		d.HostNICs[0].Fit(1500) != 1450 || m.Doc.Policies[len(m.Doc.Policies)-1].Type != hcn.HostRoute {
		t.Errorf("%d %+v %s", m.HostPort, d.HostNICs, m.Doc.Policies)
	}
	if gateway() != before || before != vswitch.MAC(n.overlay.router) {
		t.Errorf("the gateway's MAC is %s, was %s", gateway(), before)
	}
	// The host can tell only one of two equal prefixes.
	b.network(overlayBody("twin", "10.244.3.0/24", "", ""))
	code(t, b.modifyNetwork(mustNamed(b, "twin").Doc.Id, "Add", `{"Type":"HostRoute"}`), hcn.E_DUPLICATE_NAME, "Settings.Policies", "flannel.4096")
	if err := b.modifyNetwork(n.Doc.Id, "Remove", `{"Type":"HostRoute"}`); err != nil {
		t.Fatal(err)
	}
	if d := flat(b.w); len(d.HostNICs) != 0 || gateway() != before {
		t.Errorf("%+v", d.HostNICs)
	}
	if err := b.modifyNetwork(mustNamed(b, "twin").Doc.Id, "Add", `{"Type":"HostRoute"}`); err != nil {
		t.Error(err)
	}
	_, _, _, err := b.w.CreateNetwork([]byte(overlayBody("on the wire", "10.9.0.0/25", `{"Type":"HostRoute"}`, "")), b.in)
	code(t, err, hcn.E_DUPLICATE_NAME, "Policies", "the host routes")
	_, _, _, err = b.w.CreateNetwork([]byte(`{"Type":"Overlay","Flags":1024,"Policies":[{"Type":"HostRoute"}]}`), b.in)
	code(t, err, hcn.HCN_E_REQUEST_UNSUPPORTED, "Policies")
}

func mustNamed(b *bench, name string) *Network {
	b.t.Helper()
	n, ok := b.w.NetworkNamed(name)
	if !ok {
		b.t.Fatal(name)
	}
	return n
}

// TestOverlayEndpoints: what local and remote ones may say, and where remote ones are.
func TestOverlayEndpoints(t *testing.T) {
	b, n := overlayBench(t)
	provider := func(a string) string {
		return fmt.Sprintf(`"Policies":[{"Type":"ProviderAddress","Settings":{"ProviderAddress":%q}}]`, a)
	}
	refused := func(body string, want hcn.ErrorCode, field string) {
		t.Helper()
		_, _, _, err := b.w.CreateEndpoint(n.Doc.Id, []byte(body), b.in)
		code(t, err, want, field)
	}
	e := b.endpoint("flannel.4096", `{"MacAddress":"0E-2A-0a-f4-03-11","IpConfigurations":[{"IpAddress":"10.244.3.17"}],"Routes":[{"NextHop":"10.244.3.2","DestinationPrefix":"0.0.0.0/0"}],`+provider("10.9.0.4")+`}`)
	if e.Doc.Routes[0].NextHop != "10.244.3.2" || e.Doc.MacAddress != "0E-2A-0A-F4-03-11" {
		t.Errorf("%+v", e.Doc)
	}
	refused(`{`+provider("10.9.0.5")+`}`, hcn.HCN_E_REQUEST_UNSUPPORTED, "Policies[0].Settings.ProviderAddress")
	refused(`{"MacAddress":"`+n.overlay.router.String()+`"}`, hcn.HCN_E_INVALID_ENDPOINT, "MacAddress")
	refused(`{"Flags":1,"MacAddress":"02-11-0a-f4-04-07","IpConfigurations":[{"IpAddress":"10.244.4.7"}]}`, hcn.HCN_E_INVALID_ENDPOINT, "Policies")
	refused(`{"Flags":1,"IpConfigurations":[{"IpAddress":"10.244.3.7"}],`+provider("10.9.0.5")+`}`, hcn.HCN_E_INVALID_ENDPOINT, "MacAddress")

	// The gateway is everywhere, so nobody has it; what is for nobody is nowhere.
	open := b.network(`{"Name":"open","Type":"Overlay","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.245.0.0/24","Flags":1}]}]}`)
	_, _, _, err := b.w.CreateEndpoint(open.Doc.Id, []byte(`{"IpConfigurations":[{"IpAddress":"10.245.0.1"}]}`), b.in)
	code(t, err, hcn.HCN_E_ADDR_INVALID_OR_RESERVED, "IpConfigurations[0].IpAddress")
	refused(`{"Flags":1,"MacAddress":"02-11-0a-f4-04-07","IpConfigurations":[{"IpAddress":"255.255.255.255"}],`+provider("10.9.0.5")+`}`, hcn.HCN_E_INVALID_IP, "IpConfigurations[0].IpAddress")

	remote := func(addr, at string) *Endpoint {
		return b.endpoint("flannel.4096", fmt.Sprintf(`{"Flags":1,"MacAddress":"02-11-0a-f4-04-07","IpConfigurations":[{"IpAddress":%q}],`, addr)+provider(at)+`}`)
	}
	inside, outside, vip := remote("10.244.3.7", "10.9.0.5"), remote("10.244.4.7", "10.9.0.5"), remote("10.96.0.10", "10.9.0.4")
	d := flat(b.w).Switch
	if len(d.Remotes) != 1 || d.Remotes[0].Addr != inside.addrs[0].Addr() || d.Remotes[0].VTEP != netip.MustParseAddr("10.9.0.5") {
		t.Errorf("remotes %+v", d.Remotes)
	}
	if r := d.Networks[0].Routes; len(r) != 1 || r[0].Prefix != netip.MustParsePrefix("10.244.4.7/32") || r[0].VNI != 4096 || r[0].MAC != vswitch.MAC(outside.mac) {
		t.Errorf("routes %+v", r)
	}
	// A lease covers it: the frames are for that host's router.
	if err := b.modifyNetwork(n.Doc.Id, "Add", lease("10.244.4.0/24", 4096, "10.9.0.5", "02:00:00:00:00:05")); err != nil {
		t.Fatal(err)
	}
	if r := flat(b.w).Switch.Networks[0].Routes; len(r) != 1 || r[0].Prefix.Bits() != 24 {
		t.Errorf("routes %+v", r)
	}
	b.endpoint("flannel.4096", `{"Flags":1,"IpConfigurations":[{"IpAddress":"10.244.4.8"}]}`) // so that it needs no policy
	_, err = b.modifyEndpoint(inside.Doc.Id, "Remove", `{"Type":"ProviderAddress"}`)
	code(t, err, hcn.HCN_E_INVALID_ENDPOINT, "Settings.Policies")
	// The host moves: what was its own is another's, and the other way round.
	now := b.in.Uplinks()
	now[0].Addrs = []netip.Prefix{netip.MustParsePrefix("10.9.0.5/24")}
	b.in.Uplinks = func() []Uplink { return now }
	b.w = b.w.FollowUplinks(b.in)
	d = flat(b.w).Switch
	if len(d.Remotes) != 0 || len(d.Networks[0].Routes) != 1 || d.Networks[0].Routes[0].Prefix.Addr() != vip.addrs[0].Addr() || d.Tunnels[0].Sources[0] != netip.MustParseAddr("10.9.0.5") {
		t.Errorf("remotes %+v, routes %+v, tunnels %+v", d.Remotes, d.Networks[0].Routes, d.Tunnels)
	}
}

// TestVSIDsOfTheHost: the switch's own VNI is nobody's, and one VNI is one network's on a
// UDP port, also across uplinks; another port is another tunnel.
func TestVSIDsOfTheHost(t *testing.T) {
	b := newWired(t)
	overlay := func(name, adapter string, vni int, more string) string {
		return fmt.Sprintf(`{"Name":%q,"Type":"Overlay","Policies":[{"Type":"NetAdapterName","Settings":{"NetworkAdapterName":%q}}%s],"Ipams":[{"Subnets":[{"IpAddressPrefix":"10.1.0.0/24","Policies":[{"Type":"VSID","Settings":{"IsolationId":%d}}]}]}]}`, name, adapter, more, vni)
	}
	_, _, _, err := b.w.CreateNetwork([]byte(overlay("own", "eth0", 16777215, "")), b.in)
	code(t, err, hcn.HCN_E_INVALID_POLICY, "Ipams[0].Subnets[0].Policies[0].Settings.IsolationId", "the switch's own", "16777214")
	b.network(overlay("last", "eth0", 16777214, ""))
	_, _, _, err = b.w.CreateNetwork([]byte(overlay("second", "eth1", 16777214, "")), b.in)
	code(t, err, hcn.HCN_E_NETWORK_ALREADY_EXISTS, "Ipams[0].Subnets[0].Policies", "last", `"eth0"`, "VxlanPort")
	b.network(overlay("second", "eth1", 16777214, `,{"Type":"VxlanPort","Settings":{"Port":8472}}`))
}
