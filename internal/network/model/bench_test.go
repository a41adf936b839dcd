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
	"gatehouse.dev/gatehouse/internal/instance"
)

// bench is a World under test with an Input that invents ids and time.
type bench struct {
	t  testing.TB
	w  World
	in Input
}

func guid(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012x", n) }

func newBench(t testing.TB) *bench {
	inst, err := instance.New("")
	if err != nil {
		t.Fatal(err)
	}
	ids := 0x1000
	return &bench{t: t, w: New(inst), in: Input{
		Now: time.Unix(1000, 0).UTC(), Owner: "uid:0",
		NewID: func() string { ids++; return guid(ids) },
		Services: ServicePools{
			Cluster:      []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd96::/112")},
			LoadBalancer: []netip.Prefix{netip.MustParsePrefix("192.0.2.240/29")},
			NodePorts:    [2]uint16{30000, 30002},
		},
	}}
}

func (b *bench) network(body string) *Network {
	b.t.Helper()
	w, n, _, err := b.w.CreateNetwork([]byte(body), b.in)
	if err != nil {
		b.t.Fatalf("create network %s: %v", body, err)
	}
	b.w = w
	return n
}

func (b *bench) endpoint(network, body string) *Endpoint {
	b.t.Helper()
	w, e, _, err := b.w.CreateEndpoint(network, []byte(body), b.in)
	if err != nil {
		b.t.Fatalf("create endpoint %s: %v", body, err)
	}
	b.w = w
	return e
}

func (b *bench) namespace(body string) *Namespace {
	b.t.Helper()
	w, ns, _, err := b.w.CreateNamespace([]byte(body), b.in)
	if err != nil {
		b.t.Fatalf("create namespace %s: %v", body, err)
	}
	b.w = w
	return ns
}

func (b *bench) modifyNamespace(id, resource, verb, member, value string) error {
	w, _, err := b.w.ModifyNamespace(id, fmt.Appendf(nil, `{"ResourceType":%q,"RequestType":%q,"Settings":{%q:%q}}`, resource, verb, member, value), 0)
	if err == nil {
		b.w = w
	}
	return err
}

func (b *bench) attach(ns, ep string) {
	b.t.Helper()
	if err := b.modifyNamespace(ns, "Endpoint", "Add", "EndpointId", ep); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) modifyEndpoint(id, verb, policies string) (*Endpoint, error) {
	w, e, err := b.w.ModifyEndpoint(id, fmt.Appendf(nil, `{"ResourceType":"Policy","RequestType":%q,"Settings":{"Policies":[%s]}}`, verb, policies), 0, b.in)
	if err == nil {
		b.w = w
	}
	return e, err
}

// code checks what an error says.
func code(t testing.TB, err error, want hcn.ErrorCode, field string, parts ...string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want code 0x%x", err, uint32(want))
	}
	if e.Code != want || e.Field != field {
		t.Errorf("got 0x%x at %q (%v), want 0x%x at %q", uint32(e.Code), e.Field, err, uint32(want), field)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("%q does not say %q", err, p)
		}
	}
}
