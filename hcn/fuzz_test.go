// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

// FuzzDocuments: what decodes is written in a form that decodes to the same again, and
// settings of policies keep their bytes but for white space.
func FuzzDocuments(f *testing.F) {
	docs := []any{
		new(HostComputeNetwork), new(HostComputeEndpoint), new(HostComputeNamespace), new(HostComputeLoadBalancer), new(HostComputeRoute),
		new(HostComputeQuery), new(PolicyNetworkRequest), new(PolicyEndpointRequest), new(VmEndpointRequest), new(PortReservation),
		new(TierAclPolicySetting), new(L4WfpProxyPolicySetting), new(SetPolicySetting), new(Event), new(Explanation), new(Graph),
	}
	for _, seed := range []string{
		`{"ID":"x","Type":"NAT","Flags":"EnableNonPersistent, 1024","Ipams":[{"Subnets":[{"Policies":[{"Type":"VSID"}]}]}],"MacPool":{}}`,
		`{"id":"x","policies":[{"Type":"ACL","Settings": {"Id" : "<a&b>", "Priority":1e2}}],"Health":{"Data":{"a":[1]}},"Flags":1}`,
		`{"Resources":[{"Type":"Endpoint","Data":{"Id":"X"}}],"NamespaceId":5,"SchemaVersion":{"Major":0}}`,
		`{"PortMappings":[{"Protocol":6,"Flags":"ILB"}],"Setting":[{"NeedEncap":true}]}`,
		`{"PortId":"00000000-0000-0000-0000-000000000000","Data":null}`,
	} {
		for i := range docs {
			f.Add(uint8(i), []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, raw []byte) {
		typ := reflect.TypeOf(docs[int(which)%len(docs)]).Elem()
		first, again := reflect.New(typ).Interface(), reflect.New(typ).Interface()
		if json.Unmarshal(raw, first) != nil {
			return
		}
		out, err := encode(first)
		if err != nil {
			t.Fatalf("%s: %v", typ, err)
		}
		if err := json.Unmarshal(out, again); err != nil {
			t.Fatalf("%s does not read what it wrote, %s: %v", typ, out, err)
		}
		if twice, err := encode(again); err != nil || !bytes.Equal(out, twice) {
			t.Fatalf("%s: %s, then %s (%v)", typ, out, twice, err)
		}
		if e, ok := first.(*PolicyEndpointRequest); ok {
			for i, p := range again.(*PolicyEndpointRequest).Policies {
				var have, want bytes.Buffer
				if len(e.Policies[i].Settings) == 0 {
					continue
				}
				if json.Compact(&have, p.Settings) != nil || json.Compact(&want, e.Policies[i].Settings) != nil || have.String() != want.String() {
					t.Fatalf("settings %s became %s", want.String(), have.String())
				}
			}
		}
	})
}

// canned answers every request alike.
type canned struct {
	status int
	body   string
}

func (c canned) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: c.status, Status: http.StatusText(c.status), Header: http.Header{}, Body: io.NopCloser(strings.NewReader(c.body))}, nil
}

// FuzzAnswers: whatever a server says, the client returns a value or an error that has
// a text; never neither.
func FuzzAnswers(f *testing.F) {
	f.Add(uint16(404), `{"Success":false,"Error":"x ","ErrorCode":2147943568}`)
	f.Add(uint16(500), `<html>`)
	f.Add(uint16(200), `{"Revision":1}`+"\n\n"+`{"Revision":2}`)
	f.Add(uint16(200), `[{"ID":"1"},null]`)
	f.Add(uint16(409), `{"ErrorCode":4294967295,"Field":"Policies[0]"}`)
	f.Fuzz(func(t *testing.T, status uint16, body string) {
		c := &Client{Transport: canned{200 + int(status)%400, body}}
		ctx := context.Background()
		n, err := c.Network(ctx, "x")
		if (n == nil) == (err == nil) {
			t.Fatalf("%v and %v", n, err)
		}
		if err != nil && err.Error() == "" {
			t.Fatal("an error without text")
		}
		IsNotFoundError(err)
		_, _ = c.ListLoadBalancers(ctx, HostComputeQuery{})
		_, _ = c.Revision(ctx)
		for _, err := range c.Events(ctx, EventOptions{}) {
			if err != nil && err.Error() == "" {
				t.Fatal("an error without text")
			}
		}
	})
}
