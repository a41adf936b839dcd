// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/hcn"
)

func printRedirect(r Redirect) string {
	var o strings.Builder
	fmt.Fprint(&o, r.Local)
	for _, l := range []struct {
		name string
		list any
		n    int
	}{{"lports", r.LocalPorts, len(r.LocalPorts)}, {"to", r.Remote, len(r.Remote)}, {"rports", r.RemotePorts, len(r.RemotePorts)}} {
		if l.n > 0 {
			fmt.Fprintf(&o, " %s %v", l.name, l.list)
		}
	}
	for i, s := range []ProxySide{r.In, r.Out} {
		if s.Port != 0 {
			fmt.Fprintf(&o, " %s %d", []string{"in", "out"}[i], s.Port)
			if len(s.Except)+len(s.ExceptPorts) > 0 {
				fmt.Fprintf(&o, " but %v %v", s.Except, s.ExceptPorts)
			}
		}
	}
	if r.User != "" {
		fmt.Fprintf(&o, " user %s", r.User)
	}
	return o.String()
}

// TestRedirects: what L4WFPPROXY policies of the endpoints of a namespace come to.
func TestRedirects(t *testing.T) {
	for _, c := range []struct {
		name     string
		policies [2][]string // of each endpoint, 10.1.0.2 and fd01::2, 10.1.0.3
		want     string
	}{
		{"both ways", [2][]string{{`{"InboundProxyPort":"15006","OutboundProxyPort":"15001","UserSID":"uid:1337"}`}}, "[10.1.0.2/32 fd01::2/128] in 15006 out 15001 user 1337"},
		{"by a SID, of TCP", [2][]string{{`{"OutboundProxyPort":"1","UserSID":"S-1-5-32-556","FilterTuple":{"Protocols":"6"}}`}}, "[10.1.0.2/32 fd01::2/128] out 1 user S-1-5-32-556"},
		{"exceptions", [2][]string{{`{"InboundProxyPort":"2","OutboundProxyPort":"1","UserSID":"0","OutboundExceptions":{"IpAddressExceptions":["10.0.0.0/8","fd00::7"],"PortExceptions":["22","8000-8080"]},"InboundExceptions":{"PortExceptions":["9"]}}`}},
			"[10.1.0.2/32 fd01::2/128] in 2 but [] [9] out 1 but [10.0.0.0/8 fd00::7/128] [22 8000-8080] user 0"},
		{"tuple", [2][]string{{`{"OutboundProxyPort":"1","FilterTuple":{"LocalAddresses":"10.1.0.0/16","RemoteAddresses":"203.0.113.0/24,::/0","LocalPorts":"1024-65535","RemotePorts":"80,443"}}`}},
			"[10.1.0.2/32] lports [1024-65535] to [203.0.113.0/24 ::/0] rports [80 443] out 1"},
		{"by priority, whosever", [2][]string{{`{"OutboundProxyPort":"1"}`, `{"OutboundProxyPort":"2","FilterTuple":{"Priority":200}}`}, {`{"OutboundProxyPort":"3","FilterTuple":{"Priority":100}}`}},
			"[10.1.0.3/32] out 3, [10.1.0.2/32 fd01::2/128] out 2, [10.1.0.2/32 fd01::2/128] out 1"},
		{"of no address here", [2][]string{{`{"OutboundProxyPort":"1","FilterTuple":{"LocalAddresses":"192.0.2.0/24"}}`}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.in.Users = map[string]uint32{"S-1-5-32-556": 1337}
			b.network(`{"Name":"n","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.1.0.0/16"},{"IpAddressPrefix":"fd01::/64"}]}]}`)
			ns := b.namespace(`{}`)
			var ids []string
			for i, addrs := range []string{`{"IpAddress":"10.1.0.2"},{"IpAddress":"fd01::2"}`, `{"IpAddress":"10.1.0.3"}`} {
				var list []string
				for _, s := range c.policies[i] {
					list = append(list, `{"Type":"L4WFPPROXY","Settings":`+s+`}`)
				}
				e := b.endpoint("n", `{"IpConfigurations":[`+addrs+`],"Policies":[`+strings.Join(list, ",")+`]}`)
				b.attach(ns.Doc.Id, e.Doc.Id)
				ids = append(ids, e.Doc.Id)
			}
			redirects := func() string {
				var all []string
				for _, r := range flat(b.w).Compartments[0].Redirects {
					all = append(all, printRedirect(r))
				}
				return strings.Join(all, ", ")
			}
			if got := redirects(); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			for _, id := range ids { // they go with a change of policies, too
				var err error
				if b.w, _, err = b.w.ModifyEndpoint(id, []byte(`{"ResourceType":"Policy","RequestType":"Reset"}`), 0, b.in); err != nil {
					t.Fatal(err)
				}
			}
			if got := redirects(); got != "" {
				t.Errorf("without policies: %s", got)
			}
			again, err := Load(b.w.inst, b.w.Numbers(), rowsOf(t, b.w))
			if err != nil {
				t.Fatal(err)
			}
			d := again.Desired()
			for x := range d.AllCompartments() {
				if x.ID == ns.Doc.Id && x.Redirected != (c.want != "") {
					t.Errorf("redirected once: %v", x.Redirected)
				}
			}
		})
	}
}

func TestInvalidRedirects(t *testing.T) {
	b := newBench(t)
	b.network(`{"Name":"n","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.1.0.0/16"}]}]}`)
	for _, c := range []struct {
		settings string
		field    string
	}{
		{`{}`, "OutboundProxyPort"},
		{`{"OutboundProxyPort":"0"}`, "OutboundProxyPort"},
		{`{"OutboundProxyPort":15001}`, "OutboundProxyPort"},
		{`{"InboundProxyPort":"65536"}`, "InboundProxyPort"},
		{`{"OutboundProxyPort":"1","FilterTuple":{"Protocols":"17"}}`, "FilterTuple.Protocols"},
		{`{"OutboundProxyPort":"1","FilterTuple":{"Protocols":"252"}}`, "FilterTuple.Protocols"},
		{`{"OutboundProxyPort":"1","FilterTuple":{"LocalAddresses":"x"}}`, "FilterTuple.LocalAddresses"},
		{`{"OutboundProxyPort":"1","FilterTuple":{"RemoteAddresses":"10.0.0.0/33"}}`, "FilterTuple.RemoteAddresses"},
		{`{"OutboundProxyPort":"1","FilterTuple":{"LocalPorts":"9-8"}}`, "FilterTuple.LocalPorts"},
		{`{"OutboundProxyPort":"1","FilterTuple":{"RemotePorts":"http"}}`, "FilterTuple.RemotePorts"},
		{`{"OutboundProxyPort":"1","UserSID":"envoy"}`, "UserSID"},
		{`{"OutboundProxyPort":"1","UserSID":"uid:S-1-5-32-556"}`, "UserSID"},
		{`{"OutboundProxyPort":"1","UserSID":"4294967295"}`, "UserSID"},
		{`{"OutboundProxyPort":"1","UserSID":"S-1-5-32-556"}`, "UserSID"}, // nobody's
		{`{"OutboundProxyPort":"1","OutboundExceptions":{"IpAddressExceptions":["a"]}}`, "OutboundExceptions.IpAddressExceptions"},
		{`{"OutboundProxyPort":"1","InboundExceptions":{"PortExceptions":["-1"]}}`, "InboundExceptions.PortExceptions"},
	} {
		_, _, _, err := b.w.CreateEndpoint("n", []byte(`{"Policies":[{"Type":"L4WFPPROXY","Settings":`+c.settings+`}]}`), b.in)
		code(t, err, hcn.HCN_E_INVALID_POLICY, "Policies[0].Settings."+c.field)
	}
}

// In the host's own namespace it would be about the host's traffic.
func TestNoRedirectOfTheHost(t *testing.T) {
	b := newBench(t)
	b.network(`{"Name":"n","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.1.0.0/16"}]}]}`)
	host := b.namespace(`{"NamespaceId":1}`)
	const policy = `{"Type":"L4WFPPROXY","Settings":{"OutboundProxyPort":"1"}}`
	e := b.endpoint("n", `{"Policies":[`+policy+`]}`)
	code(t, b.modifyNamespace(host.Doc.Id, "Endpoint", "Add", "EndpointId", e.Doc.Id), hcn.HCN_E_REQUEST_UNSUPPORTED, "Type")
	plain := b.endpoint("n", `{}`)
	b.attach(host.Doc.Id, plain.Doc.Id)
	_, _, err := b.w.ModifyEndpoint(plain.Doc.Id, []byte(`{"ResourceType":"Policy","RequestType":"Add","Settings":{"Policies":[`+policy+`]}}`), 0, b.in)
	code(t, err, hcn.HCN_E_REQUEST_UNSUPPORTED, "Settings.Policies[0].Type")

	// In a virtual machine there is no namespace of ours.
	const port = `{"ResourceType":"Port","RequestType":"Add","Settings":{"VirtualMachineId":"vm"}}`
	_, _, err = b.w.ModifyEndpoint(e.Doc.Id, []byte(port), 0, b.in)
	code(t, err, hcn.HCN_E_REQUEST_UNSUPPORTED, "Type")
	vm := b.endpoint("n", `{}`)
	if b.w, _, err = b.w.ModifyEndpoint(vm.Doc.Id, []byte(port), 0, b.in); err != nil {
		t.Fatal(err)
	}
	_, _, err = b.w.ModifyEndpoint(vm.Doc.Id, []byte(`{"ResourceType":"Policy","RequestType":"Add","Settings":{"Policies":[`+policy+`]}}`), 0, b.in)
	code(t, err, hcn.HCN_E_REQUEST_UNSUPPORTED, "Settings.Policies[0].Type")

	// A library OS has a stack of its own.
	ns := b.namespace(`{}`)
	b.attach(ns.Doc.Id, e.Doc.Id)
	_, err = b.w.TakeOver(ns.Doc.Id, true)
	code(t, err, hcn.HCN_E_REQUEST_UNSUPPORTED, "Type")
	taken := b.namespace(`{}`)
	there := b.endpoint("n", `{}`)
	b.attach(taken.Doc.Id, there.Doc.Id)
	if b.w, err = b.w.TakeOver(taken.Doc.Id, true); err != nil {
		t.Fatal(err)
	}
	_, _, err = b.w.ModifyEndpoint(there.Doc.Id, []byte(`{"ResourceType":"Policy","RequestType":"Add","Settings":{"Policies":[`+policy+`]}}`), 0, b.in)
	code(t, err, hcn.HCN_E_REQUEST_UNSUPPORTED, "Settings.Policies[0].Type")
}
