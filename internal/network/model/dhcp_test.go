// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/hcn"
)

// lentTo makes an endpoint by DHCP as the service does, with a lease of addr.
func (b *bench) lentTo(network, body, addr string) (*Endpoint, error) {
	b.t.Helper()
	in := b.in
	id := guid(900 + b.w.endpoints.len())
	in.NewID = func() string { return id }
	_, _, _, err := b.w.CreateEndpoint(network, []byte(body), in)
	var need *NeedsLease
	if !errors.As(err, &need) {
		return nil, err
	}
	c := need.Client
	c.Lease = leaseFor(addr)
	in.Leased = []DHCPClient{c}
	w, e, _, err := b.w.CreateEndpoint(network, []byte(body), in)
	if err == nil {
		b.w = w
	}
	return e, err
}

func leaseFor(addr string) DHCPLease {
	return DHCPLease{Addr: netip.MustParsePrefix(addr), Server: netip.MustParseAddr("10.9.0.2"), MTU: 1400, Expires: time.Unix(9, 0),
		Routes: []hcn.Route{{NextHop: "10.9.0.1", DestinationPrefix: "0.0.0.0/0"}, {NextHop: "nowhere", DestinationPrefix: "10.0.0.0/8"}},
		DNS:    hcn.Dns{Domain: "lan", ServerList: []string{"9.9.9.9", "0.0.0.0"}, Search: []string{"a b"}}}
}

func bySegment(ipams string) string {
	return `{"Name":"seg","Type":"Transparent","Ipams":[{"Type":"DHCP"}` + ipams + `]}`
}

func TestLease(t *testing.T) {
	b := newWired(t)
	n := b.network(bySegment(`,{"Subnets":[{"IpAddressPrefix":"fd09::/64"}]}`))
	ns := b.namespace(`{}`)
	e, err := b.lentTo(n.Doc.Id, `{"Name":"Web","HostComputeNamespace":"`+ns.Doc.Id+`"}`, "10.9.0.50/24")
	if err != nil {
		t.Fatal(err)
	}
	show := func() string {
		e, _ = b.w.Endpoint(e.Doc.Id)
		d := flat(b.w)
		v := d.Compartments[0].VNICs[0]
		return fmt.Sprintln(e.Doc.IpConfigurations, e.Doc.Routes, e.Doc.Dns, v.Addrs, v.MTU, d.Switch.Ports[0].Addrs, d.Switch.Ports[0].MTU, len(v.Routes), d.Clients[0].Lease.Addr, d.Clients[0].Name, d.Clients[0].Attached)
	}
	const six = "{{fd09::1 64} }"
	if got, want := show(), "[{{10.9.0.50 24} } "+six+"] [{10.9.0.1 0.0.0.0/0 0}] {lan [] [9.9.9.9] []} [10.9.0.50/24 fd09::1/64] 1400 [10.9.0.50 fd09::1] 1400 1 10.9.0.50/24 web true\n"; got != want {
		t.Errorf("lent\n%s, want\n%s", got, want)
	}
	version := e.Doc.Version
	step := func(l DHCPLease) []Event {
		t.Helper()
		b.w = b.w.Clean()
		w, err := b.w.Lend(e.Doc.Id, l, b.in)
		if err != nil {
			t.Fatal(err)
		}
		b.w = w
		return w.Events()
	}
	// More time is no change.
	more := leaseFor("10.9.0.50/24")
	more.Expires = time.Unix(99, 0)
	if events := step(more); len(events) != 0 || len(b.w.Changes()) != 1 || !b.w.Changes()[0].Quiet || flat(b.w).Clients[0].Lease.Expires != more.Expires {
		t.Errorf("events %v, changes %v", events, b.w.Changes())
	}
	if e, _ = b.w.Endpoint(e.Doc.Id); e.Doc.Version != version {
		t.Errorf("version %d, was %d", e.Doc.Version, version)
	}
	// Without a lease there is no IPv4 address, and nobody may use one.
	if events := step(DHCPLease{}); len(events) != 1 || b.w.Changes()[0].Quiet {
		t.Errorf("events %v", events)
	}
	if got, want := show(), "["+six+"] [] { [] [] []} [fd09::1/64] 0 [fd09::1] 0 0 invalid Prefix web true\n"; got != want {
		t.Errorf("lost\n%s, want\n%s", got, want)
	}
	step(leaseFor("10.9.0.60/24"))
	if got := show(); !strings.HasPrefix(got, "[{{10.9.0.60 24} } "+six+"] [{10.9.0.1 ") {
		t.Errorf("another\n%s", got)
	}
	// The rows of a store say the same.
	same, err := Load(b.w.inst, b.w.Numbers(), rowsOf(t, b.w))
	if err != nil {
		t.Fatal(err)
	}
	if was, now := printDesired(flat(b.w)), printDesired(flat(same)); was != now {
		t.Errorf("loaded\n%s, was\n%s", now, was)
	}
	b.w, err = b.w.DeleteEndpoint(e.Doc.Id, 0, b.in)
	if err != nil || len(flat(b.w).Clients) != 0 {
		t.Error(err, flat(b.w).Clients)
	}
}

func TestLeaseOfItsOwn(t *testing.T) {
	b := newWired(t)
	n := b.network(bySegment(""))
	// What the document says comes first.
	e, err := b.lentTo(n.Doc.Id, `{"Routes":[{"NextHop":"10.9.0.3","DestinationPrefix":"0.0.0.0/0"}],"Dns":{"Domain":"own"},"Policies":[{"Type":"InterfaceParameters","Settings":{"Mtu":1300}},{"Type":"VLAN","Settings":{"IsolationId":7}}]}`, "10.9.0.50/24")
	if err != nil {
		t.Fatal(err)
	}
	if c := flat(b.w).Clients[0]; e.Doc.Routes[0].NextHop != "10.9.0.3" || len(e.Doc.Routes) != 1 || e.Doc.Dns.Domain != "own" || e.vnicSettings().mtu != 1300 || c.VLAN != 7 || c.AsUplink {
		t.Errorf("%+v, %+v", e.Doc, c)
	}
	// An address of its own is no lease.
	if e := b.endpoint(n.Doc.Id, `{"IpConfigurations":[{"IpAddress":"10.9.0.51","PrefixLength":24}]}`); e.Lease != nil {
		t.Errorf("%+v", e.Lease)
	}
	// Two that ask at the same time do so by MACs of their own.
	var macs []string
	for i := range 2 {
		in := b.in
		in.NewID = func() string { return guid(800 + i) }
		_, _, _, err := b.w.CreateEndpoint(n.Doc.Id, []byte(`{}`), in)
		var need *NeedsLease
		if !errors.As(err, &need) {
			t.Fatal(err)
		}
		macs = append(macs, need.Client.MAC.String())
	}
	if macs[0] == macs[1] {
		t.Error(macs)
	}
	// The flag asks on a network that has a pool; the subnets hold for what is lent, too.
	b = newWired(t)
	n = b.network(boundNet("seg", "L2Bridge", ""))
	if e, err = b.lentTo(n.Doc.Id, `{"Flags":32}`, "10.9.0.50/24"); err != nil || !flat(b.w).Clients[0].AsUplink {
		t.Error(err, e)
	}
	for addr, says := range map[string]string{"10.8.0.50/24": "in no subnet", "10.9.0.50/24": "is held by", "10.9.0.4/24": "host's own", "10.9.0.1/24": "", "127.0.0.1/8": "no machine's", "fd09::9/64": "no machine's"} {
		_, err := b.lentTo(n.Doc.Id, `{"Flags":32}`, addr)
		if err == nil || !strings.Contains(err.Error(), "the DHCP server 10.9.0.2 lends "+addr[:strings.IndexByte(addr, '/')]) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", addr, err)
		}
	}
	// An ICS network's server says what the document does.
	ics := b.network(`{"Name":"ics","Type":"ICS"}`)
	if e := b.endpoint(ics.Doc.Id, `{"Flags":32}`); e.Lease != nil || len(e.Doc.IpConfigurations) == 0 {
		t.Errorf("%+v", e.Doc)
	}
}

func TestLeaseRefused(t *testing.T) {
	b := newWired(t)
	for body, field := range map[string]string{
		`{"Type":"NAT","Ipams":[{"Type":"Dhcp"}]}`:                                                     "Ipams[0].Type",
		`{"Type":"L2Tunnel","Ipams":[{"Type":"Dhcp"}]}`:                                                "Ipams[0].Type",
		`{"Type":"Overlay","Ipams":[{"Type":"Dhcp"}]}`:                                                 "Ipams[0].Type",
		`{"Type":"Transparent","Ipams":[{"Type":"Dhcp","Subnets":[{"IpAddressPrefix":"fd09::/64"}]}]}`: "Ipams[0].Subnets[0].IpAddressPrefix",
	} {
		_, _, _, err := b.w.CreateNetwork([]byte(body), b.in)
		code(t, err, hcn.HCN_E_REQUEST_UNSUPPORTED, field)
	}
	tagged := func(prefix string, vlan int) string {
		return fmt.Sprintf(`{"IpAddressPrefix":%q,"Policies":[{"Type":"VLAN","Settings":{"IsolationId":%d}}]}`, prefix, vlan)
	}
	seg := b.network(`{"Name":"seg","Type":"Transparent","Ipams":[{"Type":"Dhcp","Subnets":[` + tagged("10.9.0.0/24", 7) + `,` + tagged("10.8.0.0/24", 8) + `]}]}`)
	nat := b.network(`{"Name":"nat"}`)
	for _, c := range []struct {
		network, body, field string
		code                 hcn.ErrorCode
	}{
		{nat.Doc.Id, `{"Flags":32}`, "Flags", hcn.HCN_E_REQUEST_UNSUPPORTED},
		{seg.Doc.Id, `{"Flags":32,"IpConfigurations":[{"IpAddress":"10.9.0.9"}]}`, "IpConfigurations[0]", hcn.HCN_E_INVALID_ENDPOINT},
		{seg.Doc.Id, `{"IpConfigurations":[{"IpSubnetId":"` + seg.subnets[0].id + `"}]}`, "IpConfigurations[0].IpSubnetId", hcn.HCN_E_INVALID_IP},
		{seg.Doc.Id, `{}`, "Policies", hcn.HCN_E_INVALID_ENDPOINT},
	} {
		_, _, _, err := b.w.CreateEndpoint(c.network, []byte(c.body), b.in)
		code(t, err, c.code, c.field)
	}
	// Nobody is asked for what cannot be.
	_, _, _, err := b.w.CreateEndpoint(seg.Doc.Id, []byte(`{"Policies":[{"Type":"VLAN","Settings":{"IsolationId":7}}],"HostComputeNamespace":"`+guid(77)+`"}`), b.in)
	code(t, err, hcn.E_ELEMENT_NOT_FOUND, "HostComputeNamespace")
	if _, err := b.lentTo(seg.Doc.Id, `{"Policies":[{"Type":"VLAN","Settings":{"IsolationId":7}}]}`, "10.9.0.9/24"); err != nil {
		t.Error(err)
	}
	e := b.endpoint(nat.Doc.Id, `{}`)
	if _, err := b.w.Lend(e.Doc.Id, DHCPLease{}, b.in); err == nil {
		t.Error("an endpoint of a pool was lent something")
	}
}
