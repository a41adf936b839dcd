// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/hcn"
)

const (
	netID  = "9c0f1c1a-0000-4000-8000-000000000001"
	epID   = "5d2e1c1a-0000-4000-8000-000000000002"
	ep2ID  = "77b11c1a-0000-4000-8000-000000000003"
	nsID   = "4b7c1c1a-0000-4000-8000-000000000004"
	lbID   = "1a2b1c1a-0000-4000-8000-000000000005"
	noID   = "00001c1a-0000-4000-8000-00000000dead"
	record = `{"Success":false,"Error":%q,"ErrorCode":%d}`
)

// service stands for the daemon: it keeps what it is asked, and answers by script.
type service struct {
	asked  []string                                // "METHOD path?query body"
	answer func(method, path string) (int, string) // nil, or 0 = echo
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	path := strings.TrimPrefix(r.URL.Path, "/hcn/v2")
	line := r.Method + " " + path
	if q := r.URL.Query().Get("query"); q != "" {
		line += "?" + q
	}
	if len(body) > 0 {
		line += " " + string(body)
	}
	s.asked = append(s.asked, line)
	w.Header().Set("Gatehouse-Revision", "812")
	status, text := 0, ""
	if s.answer != nil {
		status, text = s.answer(r.Method, path)
	}
	if status == 0 {
		status, text = 200, string(body)
		if r.Method == "GET" {
			text = "[]"
		}
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

// serve has the package speak to s.
func serve(t *testing.T, s *service) {
	t.Helper()
	sock := filepath.Join(t.TempDir(), "s")
	listen(t, sock, s)
	before := hcn.DefaultClient
	hcn.DefaultClient = &hcn.Client{Socket: sock}
	t.Cleanup(func() { hcn.DefaultClient = before })
}

func listen(t *testing.T, sock string, h http.Handler) {
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Error(err)
		return
	}
	server := &http.Server{Handler: h}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
}

func settings(t *testing.T, v any) json.RawMessage {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// The bodies of the consumers' documents, byte for byte: the letters are those of the
// specification's list, the members that Go cannot omit included.
func TestConsumersDocuments(t *testing.T) {
	const (
		sv    = `"SchemaVersion":{"Major":2,"Minor":0}`
		quiet = `"Health":{"Extra":{}},` + sv
	)
	v2 := hcn.V2SchemaVersion()
	network := &hcn.HostComputeNetwork{Id: netID}
	pa := func(a string) []hcn.EndpointPolicy {
		return []hcn.EndpointPolicy{{Type: hcn.NetworkProviderAddress, Settings: settings(t, hcn.ProviderAddressEndpointPolicySetting{ProviderAddress: a})}}
	}
	ip := func(a string) []hcn.IpConfig { return []hcn.IpConfig{{IpAddress: a}} }
	static := func(prefix, gateway string, p hcn.SubnetPolicy) []hcn.Ipam {
		return []hcn.Ipam{{Type: "Static", Subnets: []hcn.Subnet{{IpAddressPrefix: prefix, Policies: []json.RawMessage{settings(t, p)},
			Routes: []hcn.Route{{NextHop: gateway, DestinationPrefix: "0.0.0.0/0"}}}}}}
	}
	eth0 := []hcn.NetworkPolicy{{Type: hcn.NetAdapterName, Settings: settings(t, hcn.NetAdapterNameNetworkPolicySetting{NetworkAdapterName: "eth0"})}}
	for _, tc := range []struct {
		doc  string
		call func() error
		want string
	}{
		{"a", func() error {
			_, err := network.CreateEndpoint(&hcn.HostComputeEndpoint{IpConfigurations: ip("10.244.3.250"), MacAddress: "52:54:00:0a:00:04", SchemaVersion: v2})
			return err
		}, `POST /endpoints {"HostComputeNetwork":"` + netID + `","IpConfigurations":[{"IpAddress":"10.244.3.250"}],"Dns":{},"MacAddress":"52:54:00:0a:00:04",` + quiet + `}`},
		{"b", func() error {
			_, err := network.CreateRemoteEndpoint(&hcn.HostComputeEndpoint{IpConfigurations: ip("10.96.0.10"), Policies: pa("10.0.0.4"), MacAddress: "52:54:00:0a:00:04", SchemaVersion: v2})
			return err
		}, `POST /endpoints {"HostComputeNetwork":"` + netID + `","Policies":[{"Type":"ProviderAddress","Settings":{"ProviderAddress":"10.0.0.4"}}],"IpConfigurations":[{"IpAddress":"10.96.0.10"}],"Dns":{},"MacAddress":"52:54:00:0a:00:04","Flags":1,` + quiet + `}`},
		{"c", func() error {
			_, err := (&hcn.HostComputeEndpoint{HostComputeNetwork: netID, IpConfigurations: ip("10.244.4.7"), Policies: pa("10.0.0.5"), MacAddress: "02-11-0a-f4-04-07", Flags: hcn.EndpointFlagsRemoteEndpoint, SchemaVersion: v2}).Create()
			return err
		}, `POST /endpoints {"HostComputeNetwork":"` + netID + `","Policies":[{"Type":"ProviderAddress","Settings":{"ProviderAddress":"10.0.0.5"}}],"IpConfigurations":[{"IpAddress":"10.244.4.7"}],"Dns":{},"MacAddress":"02-11-0a-f4-04-07","Flags":1,` + quiet + `}`},
		{"d", func() error {
			_, err := hcn.AddLoadBalancer([]hcn.HostComputeEndpoint{{Id: epID}, {Id: ep2ID}}, hcn.LoadBalancerFlagsDSR, hcn.LoadBalancerPortMappingFlagsNone, "10.244.3.250", []string{"10.96.0.10"}, 17, 53, 53)
			return err
		}, `POST /loadbalancers {"HostComputeEndpoints":["` + epID + `","` + ep2ID + `"],"SourceVIP":"10.244.3.250","FrontendVIPs":["10.96.0.10"],"PortMappings":[{"Protocol":17,"InternalPort":53,"ExternalPort":53}],` + sv + `,"Flags":1}`},
		{"e", func() error {
			_, err := (&hcn.HostComputeLoadBalancer{HostComputeEndpoints: []string{epID}, SourceVIP: "10.244.3.250", FrontendVIPs: []string{}, SchemaVersion: v2,
				PortMappings: []hcn.LoadBalancerPortMapping{{Protocol: 6, InternalPort: 8080, ExternalPort: 30080, DistributionType: hcn.LoadBalancerDistributionSourceIP, Flags: hcn.LoadBalancerPortMappingFlagsLocalRoutedVIP | 16}}}).Create()
			return err
		}, `POST /loadbalancers {"HostComputeEndpoints":["` + epID + `"],"SourceVIP":"10.244.3.250","PortMappings":[{"Protocol":6,"InternalPort":8080,"ExternalPort":30080,"DistributionType":2,"Flags":18}],` + sv + `}`},
		{"f", func() error {
			_, err := (&hcn.HostComputeNetwork{Name: "flannel.4096", Type: hcn.Overlay, Policies: eth0, Flags: hcn.EnableNonPersistent, SchemaVersion: v2,
				Ipams: static("10.244.3.0/24", "10.244.3.1", hcn.SubnetPolicy{Type: hcn.VSID, Settings: settings(t, hcn.VsidPolicySetting{IsolationId: 4096})})}).Create()
			return err
		}, `POST /networks {"Name":"flannel.4096","Type":"Overlay","Policies":[{"Type":"NetAdapterName","Settings":{"NetworkAdapterName":"eth0"}}],"MacPool":{},"Dns":{},"Ipams":[{"Type":"Static","Subnets":[{"IpAddressPrefix":"10.244.3.0/24","Policies":[{"Type":"VSID","Settings":{"IsolationId":4096}}],"Routes":[{"NextHop":"10.244.3.1","DestinationPrefix":"0.0.0.0/0"}]}]}],"Flags":8,` + quiet + `}`},
		{"g", func() error {
			return network.AddPolicy(hcn.PolicyNetworkRequest{Policies: []hcn.NetworkPolicy{{Type: hcn.RemoteSubnetRoute, Settings: settings(t, hcn.RemoteSubnetRoutePolicySetting{
				DestinationPrefix: "10.244.4.0/24", IsolationId: 4096, ProviderAddress: "10.0.0.5", DistributedRouterMacAddress: "00:15:5d:0a:00:05"})}}})
		}, `POST /networks/` + netID + `/modify {"ResourceType":"Policy","RequestType":"Add","Settings":{"Policies":[{"Type":"RemoteSubnetRoute","Settings":{"DestinationPrefix":"10.244.4.0/24","IsolationId":4096,"ProviderAddress":"10.0.0.5","DistributedRouterMacAddress":"00:15:5d:0a:00:05"}}]}}`},
		{"h", func() error {
			_, err := (&hcn.HostComputeEndpoint{Name: "0a1b_sdn", HostComputeNetwork: netID, IpConfigurations: ip("10.244.3.17"), SchemaVersion: v2,
				Dns:    hcn.Dns{Search: []string{"default.svc.cluster.local"}, ServerList: []string{"10.96.0.10"}},
				Routes: []hcn.Route{{NextHop: "10.244.3.2", DestinationPrefix: "0.0.0.0/0"}},
				Policies: []hcn.EndpointPolicy{
					{Type: hcn.OutBoundNAT, Settings: settings(t, hcn.OutboundNatPolicySetting{Exceptions: []string{"10.244.0.0/16", "10.96.0.0/12", "10.0.0.0/24"}})},
					{Type: hcn.SDNRoute, Settings: settings(t, hcn.SDNRoutePolicySetting{DestinationPrefix: "10.96.0.0/12", NeedEncap: true})},
					{Type: hcn.PortMapping, Settings: settings(t, hcn.PortMappingPolicySetting{Protocol: 6, InternalPort: 80, ExternalPort: 8080, Flags: hcn.NatFlagsLocalRoutedVip})},
					{Type: hcn.ACL, Settings: settings(t, hcn.AclPolicySetting{Protocols: "6", Action: hcn.ActionTypeAllow, Direction: hcn.DirectionTypeIn, LocalPorts: "80", Priority: 1000})},
				}}).Create()
			return err
		}, `POST /endpoints {"Name":"0a1b_sdn","HostComputeNetwork":"` + netID + `","Policies":[{"Type":"OutBoundNAT","Settings":{"Exceptions":["10.244.0.0/16","10.96.0.0/12","10.0.0.0/24"]}},{"Type":"SDNRoute","Settings":{"DestinationPrefix":"10.96.0.0/12","NeedEncap":true}},{"Type":"PortMapping","Settings":{"Protocol":6,"InternalPort":80,"ExternalPort":8080,"Flags":1}},{"Type":"ACL","Settings":{"Protocols":"6","Action":"Allow","Direction":"In","LocalPorts":"80","Priority":1000}}],"IpConfigurations":[{"IpAddress":"10.244.3.17"}],"Dns":{"Search":["default.svc.cluster.local"],"ServerList":["10.96.0.10"]},"Routes":[{"NextHop":"10.244.3.2","DestinationPrefix":"0.0.0.0/0"}],` + quiet + `}`},
		{"i", func() error {
			return (&hcn.HostComputeEndpoint{Id: epID}).ApplyPolicy(hcn.RequestTypeUpdate, hcn.PolicyEndpointRequest{Policies: []hcn.EndpointPolicy{{Type: hcn.ACL,
				Settings: settings(t, hcn.AclPolicySetting{Protocols: "256", Action: hcn.ActionTypeBlock, Direction: hcn.DirectionTypeIn, RuleType: hcn.RuleTypeSwitch, Priority: 65500})}}})
		}, `POST /endpoints/` + epID + `/modify {"ResourceType":"Policy","RequestType":"Update","Settings":{"Policies":[{"Type":"ACL","Settings":{"Protocols":"256","Action":"Block","Direction":"In","RuleType":"Switch","Priority":65500}}]}}`},
		{"j", func() error {
			_, err := (&hcn.HostComputeNetwork{Name: "azure", Type: hcn.L2Bridge, Policies: eth0, Flags: hcn.EnableNonPersistent, SchemaVersion: v2,
				Ipams: static("10.240.0.0/16", "10.240.0.1", hcn.SubnetPolicy{Type: hcn.VLAN, Settings: settings(t, hcn.VlanPolicySetting{IsolationId: 12})})}).Create()
			return err
		}, `POST /networks {"Name":"azure","Type":"L2Bridge","Policies":[{"Type":"NetAdapterName","Settings":{"NetworkAdapterName":"eth0"}}],"MacPool":{},"Dns":{},"Ipams":[{"Type":"Static","Subnets":[{"IpAddressPrefix":"10.240.0.0/16","Policies":[{"Type":"VLAN","Settings":{"IsolationId":12}}],"Routes":[{"NextHop":"10.240.0.1","DestinationPrefix":"0.0.0.0/0"}]}]}],"Flags":8,` + quiet + `}`},
		{"k", func() error {
			_, err := (&hcn.HostComputeEndpoint{Name: "8d3e-eth0", HostComputeNetwork: netID, IpConfigurations: []hcn.IpConfig{{IpAddress: "10.240.0.33", PrefixLength: 16}},
				Routes: []hcn.Route{{NextHop: "10.240.0.1", DestinationPrefix: "0.0.0.0/0"}}, MacAddress: "00-15-5D-01-02-03", SchemaVersion: v2}).Create()
			return err
		}, `POST /endpoints {"Name":"8d3e-eth0","HostComputeNetwork":"` + netID + `","IpConfigurations":[{"IpAddress":"10.240.0.33","PrefixLength":16}],"Dns":{},"Routes":[{"NextHop":"10.240.0.1","DestinationPrefix":"0.0.0.0/0"}],"MacAddress":"00-15-5D-01-02-03",` + quiet + `}`},
		{"l", func() error {
			return network.ModifyNetworkSettings(&hcn.ModifyNetworkSettingRequest{ResourceType: hcn.NetworkResourceTypePolicy, RequestType: hcn.RequestTypeAdd,
				Settings: settings(t, hcn.PolicyNetworkRequest{Policies: []hcn.NetworkPolicy{
					{Type: hcn.SetPolicy, Settings: settings(t, hcn.SetPolicySetting{Id: "npm-1", Name: "podlabel-app:web", Type: hcn.SetPolicyTypeIpSet, Values: "10.240.0.33,10.240.0.40"})},
					{Type: hcn.SetPolicy, Settings: settings(t, hcn.SetPolicySetting{Id: "npm-2", Name: "nestedlabel-app:web,api", Type: hcn.SetPolicyTypeNestedIpSet, Values: "npm-1"})},
				}})})
		}, `POST /networks/` + netID + `/modify {"ResourceType":"Policy","RequestType":"Add","Settings":{"Policies":[{"Type":"SetPolicy","Settings":{"Id":"npm-1","Name":"podlabel-app:web","PolicyType":"IPSET","Values":"10.240.0.33,10.240.0.40"}},{"Type":"SetPolicy","Settings":{"Id":"npm-2","Name":"nestedlabel-app:web,api","PolicyType":"NESTEDIPSET","Values":"npm-1"}}]}}`},
		{"containerd's namespace", func() error { _, err := (&hcn.HostComputeNamespace{}).Create(); return err },
			`POST /namespaces {"SchemaVersion":{"Major":0,"Minor":0}}`},
		{"attach", func() error { return hcn.AddNamespaceEndpoint(nsID, epID) },
			`POST /namespaces/` + nsID + `/modify {"ResourceType":"Endpoint","RequestType":"Add","Settings":{"EndpointId":"` + epID + `"}}`},
		{"detach", func() error { return (&hcn.HostComputeEndpoint{Id: epID}).NamespaceDetach(nsID) },
			`POST /namespaces/` + nsID + `/modify {"ResourceType":"Endpoint","RequestType":"Remove","Settings":{"EndpointId":"` + epID + `"}}`},
		{"sync", func() error { return (&hcn.HostComputeNamespace{Id: nsID, Type: hcn.NamespaceTypeGuest}).Sync() },
			`POST /namespaces/` + nsID + `/modify {"ResourceType":"Endpoint","RequestType":"Refresh"}`},
		{"route", func() error {
			_, err := hcn.AddRoute([]hcn.HostComputeEndpoint{{Id: epID}}, "10.9.0.0/16", "10.0.0.9", true)
			return err
		},
			`POST /sdnroutes {"HostComputeEndpoints":["` + epID + `"],"Setting":[{"DestinationPrefix":"10.9.0.0/16","NextHop":"10.0.0.9","NeedEncap":true}],` + sv + `}`},
		{"NPM's query", func() error {
			_, err := hcn.ListEndpointsQuery(hcn.HostComputeQuery{SchemaVersion: v2, Flags: hcn.HostComputeQueryFlagsDetailed, Filter: `{"State":3}`})
			return err
		}, `GET /endpoints?{` + sv + `,"Flags":1,"Filter":"{\"State\":3}"}`},
		{"of a network", func() error { _, err := hcn.ListEndpointsOfNetwork(netID); return err },
			`GET /endpoints?{` + sv + `,"Filter":"{\"VirtualNetwork\":\"` + netID + `\"}"}`},
		{"VM port", func() error {
			return hcn.ModifyEndpointSettings(epID, &hcn.ModifyEndpointSettingRequest{ResourceType: hcn.EndpointResourceTypePort, RequestType: hcn.RequestTypeAdd, Settings: json.RawMessage(`{"VirtualNicName":"<a>&b"}`)})
		}, `POST /endpoints/` + epID + `/modify {"ResourceType":"Port","RequestType":"Add","Settings":{"VirtualNicName":"<a>&b"}}`},
	} {
		s := &service{}
		serve(t, s)
		if err := tc.call(); err != nil {
			t.Errorf("%s: %v", tc.doc, err)
		}
		if len(s.asked) != 1 || s.asked[0] != tc.want {
			t.Errorf("%s:\nhave %q\nwant %q", tc.doc, s.asked, tc.want)
		}
	}
}

// What is said before anything is sent.
func TestChecksOfTheClient(t *testing.T) {
	s := &service{}
	serve(t, s)
	subnet := func(prefix string, rs ...hcn.Route) error {
		_, err := (&hcn.HostComputeNetwork{Ipams: []hcn.Ipam{{Subnets: []hcn.Subnet{{IpAddressPrefix: prefix, Routes: rs}}}}}).Create()
		return err
	}
	const noGateway, noDefault = "network create error, subnet has address prefix but no gateway specified", "network create error, no default gateway"
	_, namespaced := (&hcn.HostComputeEndpoint{HostComputeNetwork: netID, HostComputeNamespace: nsID}).Create()
	_, nowhere := (&hcn.HostComputeEndpoint{}).Create()
	_, update := (&hcn.HostComputeLoadBalancer{Id: lbID}).Update("x")
	_, noBalancer := (&hcn.HostComputeLoadBalancer{}).AddEndpoint(&hcn.HostComputeEndpoint{Id: epID})
	_, badRoute := (&hcn.HostComputeRoute{ID: "x"}).AddEndpoint(&hcn.HostComputeEndpoint{Id: epID})
	_, noEndpoints := hcn.AddRoute(nil, "10.0.0.0/8", "", false)
	for want, errs := range map[string][]error{
		noGateway: {subnet("10.0.0.0/8", hcn.Route{DestinationPrefix: "0.0.0.0/0"}),
			subnet("10.0.0.0/8", hcn.Route{NextHop: "10.0.0.1", DestinationPrefix: "0.0.0.0/0"}, hcn.Route{DestinationPrefix: "10.1.0.0/16"})},
		noDefault:            {subnet("10.0.0.0/8"), subnet("10.0.0.0/8", hcn.Route{NextHop: "10.0.0.1", DestinationPrefix: "1.1.1.1/0"})},
		"invalid network ID": {nowhere, (&hcn.HostComputeNetwork{}).Delete(), (&hcn.HostComputeNetwork{Id: "x"}).AddPolicy(hcn.PolicyNetworkRequest{})},
		"invalid endpoint ID": {(&hcn.HostComputeEndpoint{Id: "x"}).Delete(), hcn.ModifyEndpointSettings("", nil),
			(&hcn.HostComputeEndpoint{}).ApplyPolicy(hcn.RequestTypeAdd, hcn.PolicyEndpointRequest{})},
		"invalid namespace ID":     {(&hcn.HostComputeNamespace{}).Delete(), hcn.AddNamespaceEndpoint("{"+nsID+"}", epID), hcn.RemoveNamespaceEndpoint("", epID), hcn.ModifyNamespaceSettings("", nil)},
		"invalid load balancer ID": {update, noBalancer, (&hcn.HostComputeLoadBalancer{}).Delete()},
		"invalid route ID":         {badRoute},
		"missing endpoints":        {noEndpoints},
		"endpoint create error, endpoint json HostComputeNamespace is read only and should not be set": {namespaced},
	} {
		for i, err := range errs {
			if err == nil || err.Error() != want {
				t.Errorf("%d: %v, want %s", i, err, want)
			}
		}
	}
	if len(s.asked) != 0 {
		t.Errorf("sent: %q", s.asked)
	}
	for i, err := range []error{subnet("", hcn.Route{}), subnet("fd00::/64", hcn.Route{NextHop: "fd00::1", DestinationPrefix: "::/0"}),
		(&hcn.HostComputeNamespace{Type: hcn.NamespaceTypeHost, Id: nsID}).Sync()} {
		if err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
	if len(s.asked) != 2 {
		t.Errorf("sent: %q", s.asked)
	}
}

// The ways in which consumers look at errors.
func TestConsumersErrors(t *testing.T) {
	serve(t, &service{answer: func(method, path string) (int, string) {
		if method == "GET" {
			return 0, ""
		}
		switch {
		case strings.HasPrefix(path, "/networks"):
			return 404, fmt.Sprintf(record, "network was not found ", uint32(hcn.HCN_E_NETWORK_NOT_FOUND))
		case strings.HasPrefix(path, "/endpoints/"):
			return 404, fmt.Sprintf(record, "endpoint was not found ", uint32(hcn.HCN_E_ENDPOINT_NOT_FOUND))
		case path == "/endpoints":
			return 404, fmt.Sprintf(record, "network was not found ", uint32(hcn.HCN_E_NETWORK_NOT_FOUND))
		case method == "PUT":
			return 501, fmt.Sprintf(record, "not here ", uint32(hcn.HCN_E_NOTIMPL))
		}
		return 404, fmt.Sprintf(record, "Element not found. ", uint32(hcn.E_ELEMENT_NOT_FOUND))
	}})
	_, err := hcn.GetNetworkByName("flannel")
	if e, ok := err.(hcn.NetworkNotFoundError); !ok || e != (hcn.NetworkNotFoundError{NetworkName: "flannel"}) { // kube-proxy
		t.Errorf("%T %v", err, err)
	}
	_, err = hcn.GetEndpointByName("c_sdn")
	if e, ok := err.(hcn.EndpointNotFoundError); !ok || e.EndpointName != "c_sdn" || err.Error() != `Endpoint name "c_sdn" not found` { // CNI
		t.Errorf("%T %v", err, err)
	}
	var missing hcn.EndpointNotFoundError
	if !errors.As(fmt.Errorf("delete: %w", err), &missing) || !strings.Contains(err.Error(), "not found") { // Azure, Calico
		t.Error(err)
	}
	for id, want := range map[string]error{
		noID: hcn.NamespaceNotFoundError{NamespaceID: noID}, "": hcn.NamespaceNotFoundError{}, "no guid": hcn.NamespaceNotFoundError{NamespaceID: "no guid"},
	} {
		if _, err := hcn.GetNamespaceByID(id); err != want || !hcn.IsNotFoundError(err) || hcn.IsElementNotFoundError(err) { // containerd
			t.Errorf("%q: %T %v", id, err, err)
		}
		if ids, err := hcn.GetNamespaceEndpointIds(id); ids != nil || err != want {
			t.Error(ids, err)
		}
	}
	if _, err := hcn.GetLoadBalancerByID(noID); err != (hcn.LoadBalancerNotFoundError{LoadBalancerId: noID}) {
		t.Error(err)
	}
	if _, err := hcn.GetRouteByID(noID); err != (hcn.RouteNotFoundError{RouteId: noID}) {
		t.Error(err)
	}
	if err := (&hcn.HostComputeRoute{ID: noID}).Delete(); err != nil {
		t.Error(err)
	}
	if err := (&hcn.HostComputeNamespace{Id: noID, Type: hcn.NamespaceTypeGuest}).Sync(); err != nil {
		t.Error(err)
	}
	if ns, err := hcn.ListNetworks(); ns != nil || err != nil {
		t.Error(ns, err)
	}
	_, fallsBack := (&hcn.HostComputeLoadBalancer{}).Update(lbID)
	if !hcn.IsNotImplemented(fallsBack) || hcn.IsNotFoundError(fallsBack) { // kube-proxy deletes and creates
		t.Error(fallsBack)
	}
	_, noNetwork := (&hcn.HostComputeEndpoint{HostComputeNetwork: noID}).Create()
	for _, tc := range []struct {
		err  error
		is   func(error) bool
		text string
	}{
		{(&hcn.HostComputeNetwork{Id: noID}).Delete(), hcn.IsNetworkNotFoundError, "hcnDeleteNetwork failed in Win32: The network was not found. (0x803b0001) {"},
		{(&hcn.HostComputeNetwork{Id: noID}).AddPolicy(hcn.PolicyNetworkRequest{}), hcn.IsNetworkNotFoundError, "hcnOpenNetwork failed in Win32: "},
		{noNetwork, hcn.IsNetworkNotFoundError, "hcnOpenNetwork failed in Win32: "},
		{(&hcn.HostComputeEndpoint{Id: noID}).Delete(), hcn.IsEndpointNotFoundError, `hcnDeleteEndpoint failed in Win32: The endpoint was not found. (0x803b0002) {"Success":false,"Error":"endpoint was not found ","ErrorCode":2151350274}`},
		{(&hcn.HostComputeEndpoint{Id: noID}).ApplyPolicy(hcn.RequestTypeAdd, hcn.PolicyEndpointRequest{}), hcn.IsEndpointNotFoundError, "hcnOpenEndpoint failed in Win32: "},
		{hcn.RemoveNamespaceEndpoint(noID, epID), hcn.IsElementNotFoundError, `hcnOpenNamespace failed in Win32: Element not found. (0x490) {"Success":false,"Error":"Element not found. ","ErrorCode":2147943568}`},
		{(&hcn.HostComputeLoadBalancer{Id: noID}).Delete(), hcn.IsElementNotFoundError, "hcnDeleteLoadBalancer failed in Win32: Element not found. (0x490)"},
	} {
		if !tc.is(tc.err) || !tc.is(fmt.Errorf("wrapped: %w", tc.err)) || !hcn.IsNotFoundError(tc.err) || !strings.HasPrefix(tc.err.Error(), tc.text) {
			t.Errorf("have %v\nwant %s", tc.err, tc.text)
		}
	}
	var he *hcn.HcnError
	if err := (&hcn.HostComputeEndpoint{Id: noID}).Delete(); !errors.As(err, &he) || he.Err == nil || he.HnsError.Error() != err.Error() {
		t.Error(err)
	}
}

// AddEndpoint and RemoveEndpoint are one request; the receiver follows what happened.
func TestBackendsChangeInOneStep(t *testing.T) {
	status := 0
	s := &service{answer: func(method, path string) (int, string) {
		if status != 0 && method == "PUT" {
			return status, fmt.Sprintf(record, "no ", uint32(hcn.E_ELEMENT_NOT_FOUND))
		}
		return 0, ""
	}}
	serve(t, s)
	lb := &hcn.HostComputeLoadBalancer{Id: lbID, HostComputeEndpoints: []string{strings.ToUpper(epID)}}
	for _, step := range []struct {
		f    func(*hcn.HostComputeEndpoint) (*hcn.HostComputeLoadBalancer, error)
		id   string
		want []string
	}{
		{lb.AddEndpoint, ep2ID, []string{strings.ToUpper(epID), ep2ID}},
		{lb.AddEndpoint, ep2ID, []string{strings.ToUpper(epID), ep2ID}},
		{lb.RemoveEndpoint, noID, []string{strings.ToUpper(epID), ep2ID}},
		{lb.RemoveEndpoint, epID, []string{ep2ID}},
	} {
		s.asked = nil
		shared, before := lb.HostComputeEndpoints, slices.Clone(lb.HostComputeEndpoints)
		out, err := step.f(&hcn.HostComputeEndpoint{Id: step.id})
		if err != nil || out == lb || !slices.Equal(out.HostComputeEndpoints, step.want) || !slices.Equal(lb.HostComputeEndpoints, step.want) {
			t.Errorf("%+v %+v %v", out, lb, err)
		}
		if len(s.asked) != 1 || !strings.HasPrefix(s.asked[0], "PUT /loadbalancers/"+lbID+" ") {
			t.Errorf("asked %q", s.asked)
		}
		if !slices.Equal(shared, before) {
			t.Errorf("the caller's list was written into: %q", shared)
		}
	}
	status = 404
	if _, err := lb.AddEndpoint(&hcn.HostComputeEndpoint{Id: epID}); !hcn.IsElementNotFoundError(err) || !slices.Equal(lb.HostComputeEndpoints, []string{ep2ID}) {
		t.Errorf("%+v %v", lb, err)
	}
	route := &hcn.HostComputeRoute{ID: lbID}
	s.asked = nil
	if _, err := route.AddEndpoint(&hcn.HostComputeEndpoint{Id: epID}); err != nil || len(s.asked) != 2 || !strings.HasPrefix(s.asked[1], "POST /sdnroutes") {
		t.Errorf("%q %v", s.asked, err) // one that is not there is made
	}
	status = 0
	s.asked = nil
	if _, err := route.RemoveEndpoint(&hcn.HostComputeEndpoint{Id: noID}); err != nil || len(s.asked) != 1 || len(route.HostComputeEndpoints) != 1 {
		t.Errorf("%q %+v %v", s.asked, route, err) // not the first, as the original does
	}
}

// Features are asked until they are known; each name is that of the original.
func TestFeaturesAreCachedOnceKnown(t *testing.T) {
	status, version := 500, `{"Major":16,"Minor":0}`
	s := &service{answer: func(method, path string) (int, string) {
		if status != 200 {
			return status, fmt.Sprintf(record, "broken ", uint32(hcn.E_FAIL))
		}
		return 200, version
	}}
	serve(t, s)
	if _, err := hcn.GetGlobals(); err == nil || err.Error() != "HNS failed with error : broken " {
		t.Error(err)
	}
	const lead = "failed to query HCN version number (this is expected on pre 1803 builds): "
	if f, err := hcn.GetCachedSupportedFeatures(); err == nil || !strings.HasPrefix(err.Error(), lead) || f.Api.V2 {
		t.Error(f, err)
	}
	if err := hcn.V2ApiSupported(); err == nil || !strings.HasPrefix(err.Error(), lead) {
		t.Error(err)
	}
	status = 200
	all := map[string]func() error{
		"V2 Api/Schema": hcn.V2ApiSupported, "Remote Subnet": hcn.RemoteSubnetSupported, "Host Route": hcn.HostRouteSupported,
		"Direct Server Return (DSR)": hcn.DSRSupported, "Slash 32 Endpoint prefixes": hcn.Slash32EndpointPrefixesSupported,
		"HNS ACL Policies to support protocol 252 for VXLAN": hcn.AclSupportForProtocol252Supported,
		"Session Affinity": hcn.SessionAffinitySupported, "IPv6 DualStack": hcn.IPv6DualStackSupported, "SetPolicy": hcn.SetPolicySupported,
		"VXLAN port configuration": hcn.VxlanPortSupported, "L4ProxyPolicy": hcn.L4proxyPolicySupported, "L4WfpProxyPolicy": hcn.L4WfpProxyPolicySupported,
		"TierAcl": hcn.TierAclPolicySupported, "NetworkACL": hcn.NetworkACLPolicySupported, "NestedIpSet": hcn.NestedIpSetSupported,
		"DisableHostPort": hcn.DisableHostPortSupported, "ModifyLoadbalancer": hcn.ModifyLoadbalancerSupported, "Accelnet": hcn.AccelnetSupported,
	}
	s.asked = nil
	for name, f := range all {
		if err := f(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(s.asked) != 1 {
		t.Errorf("asked %d times", len(s.asked))
	}
	version = `{"Major":7,"Minor":1}`
	serve(t, s)
	for name, f := range all {
		if err := f(); err == nil || err.Error() != "platform does not support feature "+name {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The client waits for a service that starts, as long as it is told to.
func TestPatience(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "s")
	if _, err := (&hcn.Client{Socket: sock}).Revision(t.Context()); err == nil || !strings.Contains(err.Error(), sock) {
		t.Errorf("without patience: %v", err)
	}
	time.AfterFunc(150*time.Millisecond, func() { listen(t, sock, &service{}) })
	if r, err := (&hcn.Client{Socket: sock, Patience: 10 * time.Second}).Revision(t.Context()); r != 812 || err != nil {
		t.Errorf("with patience: %d %v", r, err)
	}
	begun := time.Now()
	if _, err := (&hcn.Client{Socket: sock + "x", Patience: 100 * time.Millisecond}).Revision(t.Context()); err == nil || time.Since(begun) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(begun))
	}
}

// The rest of the client's own verbs.
func TestClientVerbs(t *testing.T) {
	s := &service{answer: func(method, path string) (int, string) {
		switch {
		case method != "GET":
			return 0, ""
		case path == "/ports/"+noID || path == "/sdnroutes/"+noID || path == "/loadbalancers/"+noID:
			return 404, fmt.Sprintf(record, "no ", uint32(hcn.E_ELEMENT_NOT_FOUND))
		case path == "/events":
			return 410, fmt.Sprintf(record, "gone ", uint32(hcn.E_INVALID_PARAMETER))
		case path == "/ports":
			return 200, `[{"ID":"1","Protocol":1,"Access":2,"StartingPort":8000,"EndingPort":8009}]`
		case path == "/networks":
			return 200, `[{"ID":"1"}]`
		}
		return 200, "{}"
	}}
	serve(t, s)
	ctx, c := t.Context(), hcn.DefaultClient
	c.Owner = "me\a\"" // what JSON spells otherwise than Go
	r, err := c.ReservePorts(ctx, &hcn.PortReservation{Protocol: hcn.PortProtocolTCP, Access: hcn.PortAccessExclusive, Count: 4})
	if err != nil || r.Count != 4 || r.Owner != c.Owner {
		t.Errorf("%+v %v", r, err)
	}
	if l, err := c.ListPortReservations(ctx, hcn.HostComputeQuery{}); err != nil || len(l) != 1 || l[0].EndingPort != 8009 || l[0].Access != hcn.PortAccessShared {
		t.Errorf("%+v %v", l, err)
	}
	if _, err := c.PortReservation(ctx, noID); err != (hcn.PortReservationNotFoundError{ID: noID}) || !hcn.IsNotFoundError(err) {
		t.Error(err)
	}
	if _, err := c.Route(ctx, noID); err != (hcn.RouteNotFoundError{RouteId: noID}) {
		t.Error(err)
	}
	if _, err := c.LoadBalancer(ctx, noID); err != (hcn.LoadBalancerNotFoundError{LoadBalancerId: noID}) {
		t.Error(err)
	}
	if n, err := c.ListNetworks(ctx, hcn.HostComputeQuery{}); err != nil || n[0].Type != hcn.NAT {
		t.Error(n, err)
	}
	if n, err := c.Network(ctx, "name:a/b"); err != nil || n.Type != hcn.NAT || s.asked[len(s.asked)-1] != "GET /networks/name:a/b" {
		t.Error(n, err, s.asked)
	}
	if err := c.ReleasePorts(ctx, epID); err != nil {
		t.Error(err)
	}
	var he *hcn.HcnError
	for _, err := range c.Events(ctx, hcn.EventOptions{Since: 1}) {
		if !errors.As(err, &he) || he.HTTPStatus() != http.StatusGone {
			t.Errorf("%v", err)
		}
	}
	if he == nil {
		t.Error("events that are gone are no error")
	}
}
