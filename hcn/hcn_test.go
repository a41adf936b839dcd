// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestWireForm(t *testing.T) {
	for _, tc := range []struct {
		doc  any
		want string
	}{
		{HostComputeNetwork{SchemaVersion: V2SchemaVersion()}, `{"MacPool":{},"Dns":{},"Health":{"Extra":{}},"SchemaVersion":{"Major":2,"Minor":0}}`},
		{HostComputeEndpoint{Id: "x", Flags: EndpointFlagsRemoteEndpoint}, `{"ID":"x","Dns":{},"Flags":1,"Health":{"Extra":{}},"SchemaVersion":{"Major":0,"Minor":0}}`},
		{HostComputeNamespace{NamespaceId: 5, Type: NamespaceTypeGuest}, `{"NamespaceId":5,"Type":"Guest","SchemaVersion":{"Major":0,"Minor":0}}`},
		{NamespaceResourceEndpoint{Id: "x"}, `{"ID":"x"}`},
		{AclPolicySetting{}, `{"Action":"","Direction":""}`},
		{SetPolicySetting{Type: SetPolicyTypeIpSet}, `{"Id":"","Name":"","PolicyType":"IPSET","Values":""}`},
		{RemoteSubnetRoutePolicySetting{}, `{"DestinationPrefix":"","IsolationId":0,"ProviderAddress":"","DistributedRouterMacAddress":""}`},
		{QosPolicySetting{}, `{"MaximumOutgoingBandwidthInBytes":0}`},
		{L4ProxyPolicySetting{}, `{"Destination":""}`},
		{VmEndpointRequest{}, `{"PortId":"00000000-0000-0000-0000-000000000000","VirtualMachineId":"00000000-0000-0000-0000-000000000000"}`},
		{HostComputeQuery{}, `{"SchemaVersion":{"Major":0,"Minor":0}}`},
		{EndpointPolicy{Type: PortMapping}, `{"Type":"PortMapping"}`},
	} {
		raw, err := json.Marshal(tc.doc)
		if err != nil || string(raw) != tc.want {
			t.Errorf("%T: got %s %v, want %s", tc.doc, raw, err, tc.want)
		}
	}
}

func TestFlags(t *testing.T) {
	for in, want := range map[string]NetworkFlags{
		`0`: 0, `8`: EnableNonPersistent, `"EnableIov"`: EnableIov, `"enablenonpersistent, DisableHostPort"`: 1032, `"None"`: 0, `""`: 0, `null`: 0, `"8, EnableIov"`: 8200,
	} {
		var f NetworkFlags
		if err := json.Unmarshal([]byte(in), &f); err != nil || f != want {
			t.Errorf("%s: got %d %v, want %d", in, f, err, want)
		}
	}
	for _, in := range []string{`"Nope"`, `-1`, `4294967296`, `{}`, `[]`, `1.5`} {
		var f NetworkFlags
		if err := json.Unmarshal([]byte(in), &f); err == nil {
			t.Errorf("%s: accepted as %d", in, f)
		}
	}
}

func FuzzFlags(f *testing.F) {
	f.Add("\"EnableIov, 8\"")
	f.Fuzz(func(t *testing.T, s string) {
		var a, b EndpointFlags
		if json.Unmarshal([]byte(s), &a) != nil {
			return
		}
		raw, err := json.Marshal(a)
		if err != nil || json.Unmarshal(raw, &b) != nil || a != b {
			t.Fatalf("%s: %d, printed %s, %d", s, a, raw, b)
		}
	})
}

func TestFeatures(t *testing.T) {
	if f := FeaturesOf(Version{10, 0}); f.DSR || !f.Api.V2 {
		t.Errorf("10.0: %+v", f)
	}
	if f := FeaturesOf(Version{12, 0}); f.L4Proxy || !f.SessionAffinity {
		t.Errorf("12.0: %+v", f)
	}
	if f := FeaturesOf(Version{16, 0}); f != (SupportedFeatures{AclFeatures{true, true, true, true}, ApiSupport{true, true},
		true, true, true, true, true, true, true, true, true, true, true, true, true, true, true, true, true}) {
		t.Errorf("16.0: %+v", f)
	}
	if f := FeaturesOf(Version{7, 1}); f != (SupportedFeatures{Api: ApiSupport{V1: true}}) {
		t.Errorf("7.1: %+v", f)
	}
}

func TestErrors(t *testing.T) {
	err := newError("hcnOpenNamespace", Record{Error: "namespace x: Element not found. ", ErrorCode: 0x80070490}, 404)
	want := `hcnOpenNamespace failed in Win32: Element not found. (0x490) {"Success":false,"Error":"namespace x: Element not found. ","ErrorCode":2147943568}`
	if err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
	if !IsElementNotFoundError(err) || !IsNotFoundError(err) || IsNetworkNotFoundError(err) || !errors.Is(err, errdefs.ErrNotFound) {
		t.Error("classes")
	}
	if err := newError("x", Record{ErrorCode: uint32(HCN_E_PORT_ALREADY_EXISTS)}, 409); !IsPortAlreadyExistsError(err) || !errors.Is(err, errdefs.ErrAlreadyExists) || IsNotFoundError(err) {
		t.Error(err)
	}
	var he *HcnError
	if !errors.As(err, &he) || he.Err.Error() != "Element not found." { // promoted
		t.Error(he)
	}
	if e := (NetworkNotFoundError{NetworkName: "x"}); e.Error() != `Network name "x" not found` || !IsNotFoundError(e) || IsNetworkNotFoundError(e) {
		t.Error(e)
	}
	for c := range ErrorCode(0x37) {
		if c++; (0x803b0000|c).Text() == "" || (0x803b0000|c).HTTPStatus() == 0 {
			t.Errorf("code %x has no text", c)
		}
	}
}

func TestClient(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /hcn/v2/networks", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if !strings.HasPrefix(string(b), `{"Owner":"me",`) || !strings.Contains(string(b), "<a&b>") {
			t.Errorf("body %s", b)
		}
		w.WriteHeader(201)
		_, _ = w.Write([]byte(`{"ID":"1","Name":"n"}`))
	})
	mux.HandleFunc("GET /hcn/v2/endpoints", func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(`[{"ID":"` + strings.Trim(r.URL.Query().Get("query")[len(`{"SchemaVersion":{"Major":0,"Minor":0},"Filter":`):], `"}`) + `"}]`))
	})
	mux.HandleFunc("GET /hcn/v2/networks/{id}", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(404)
		_, _ = w.Write([]byte(`{"Success":false,"Error":"no ","ErrorCode":2151350273}`))
	})
	mux.HandleFunc("DELETE /hcn/v2/networks/{id}", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) })
	mux.HandleFunc("GET /hcn/v2/events", func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("{\"Revision\":1,\"Name\":\"A\"}\n\n{\"Revision\":2,\"Name\":\"B\"}\n"))
	})
	s := &http.Server{Handler: mux}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	t.Setenv(SocketEnv, sock)

	ctx := context.Background()
	c := &Client{Owner: "me"}
	n, err := c.CreateNetwork(ctx, &HostComputeNetwork{Name: "n", Policies: []NetworkPolicy{{Type: VSwitchExtension, Settings: json.RawMessage(`"<a&b>"`)}}})
	if err != nil || n.Id != "1" || n.Type != NAT {
		t.Errorf("%+v %v", n, err)
	}
	if es, err := c.ListEndpoints(ctx, HostComputeQuery{Filter: "x"}); err != nil || len(es) != 1 || es[0].Id != "x" {
		t.Errorf("%+v %v", es, err)
	}
	if _, err := c.Network(ctx, "name:web"); err != (NetworkNotFoundError{NetworkName: "web"}) {
		t.Errorf("%v", err)
	}
	if err := c.DeleteNetwork(ctx, "1"); err != nil {
		t.Error(err)
	}
	var names string
	for e, err := range c.Events(ctx, EventOptions{}) {
		if err != nil {
			t.Error(err)
		}
		names += e.Name
	}
	if names != "AB" {
		t.Errorf("events %q", names)
	}
	if _, err := c.Version(ctx); err == nil { // plain 404 of another server
		t.Error("no error")
	}
	if _, err := (&Client{Socket: sock + "x"}).ListNetworks(ctx, HostComputeQuery{}); err == nil {
		t.Error("no error without a server")
	}
}
