// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package network

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// still is a kernel that has everything and does nothing, so that what is measured is
// ours: the model, the store, the compiler and the difference.
type still struct {
	facts vswitch.Facts
	now   vswitch.Tables
}

func (s *still) Ensure(_ context.Context, d model.Desired) (vswitch.Facts, error) {
	if s.facts.Ifindex == nil {
		s.facts = vswitch.Facts{Ifindex: map[string]int{}, Anchor: 2, NetnsCookie: 1}
		s.facts.Uplinks = []vswitch.Uplink{{Name: "up0", Ifindex: 3, MTU: 1500, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.4/24")}}}
		s.facts.HostAddrs = []netip.Addr{netip.MustParseAddr("10.0.0.4")}
	}
	devices, _ := wantedBy(d)
	for _, n := range devices {
		if s.facts.Ifindex[n] == 0 {
			s.facts.Ifindex[n] = 10 + len(s.facts.Ifindex)
		}
	}
	return s.facts, nil
}

func (s *still) Prune(context.Context, model.Desired) error { return nil }

func (s *still) Leaving() <-chan struct{} { return nil }

func (s *still) Apply(_ context.Context, t vswitch.Tables) error {
	vswitch.Diff(s.now, t)
	s.now = t
	return nil
}

func (s *still) ResetStats(vswitch.PortID) error { return nil }

// BenchmarkBalancerChange is one backend more or less in one of ten thousand load
// balancers of ten backends each.
func BenchmarkBalancerChange(b *testing.B) {
	const balancers, backends = 10_000, 11
	k := &still{}
	h, db, err := open(b.TempDir(), newFake(""))
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	h.o.Compartments, h.o.Datapath = k, k
	ctx := context.Background()
	if _, _, err := h.CreateNetwork(ctx, []byte(`{"Name":"blue","Type":"NAT"}`)); err != nil {
		b.Fatal(err)
	}
	var ends []string
	for i := range backends {
		if _, _, err := h.CreateNamespace(ctx, fmt.Appendf(nil, `{"ID":%q}`, id(i))); err != nil {
			b.Fatal(err)
		}
		if _, _, err := h.CreateEndpoint(ctx, "blue", fmt.Appendf(nil, `{"ID":%q,"HostComputeNamespace":%q}`, id(0x1000+i), id(i))); err != nil {
			b.Fatal(err)
		}
		ends = append(ends, fmt.Sprintf("%q", id(0x1000+i)))
	}
	doc := func(i, n int) []byte {
		return fmt.Appendf(nil, `{"ID":"%08x-0000-4000-8000-000000000000","HostComputeEndpoints":[%s],"FrontendVIPs":["10.96.%d.%d"],"PortMappings":[{"Protocol":6,"InternalPort":80,"ExternalPort":80}]}`,
			uint32(i)*0x9e3779b1, strings.Join(ends[:n], ","), i>>8, i&255)
	}
	err = h.change(ctx, "all", func(w model.World, in model.Input) (model.World, error) {
		for i := range balancers {
			var err error
			if w, _, _, err = w.CreateLoadBalancer(doc(i, 10), in); err != nil {
				return w, err
			}
		}
		return w, nil
	})
	if err != nil {
		b.Fatal(err)
	}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		i++
		body := doc(i%balancers, 10+i/balancers%2)
		if i <= balancers {
			body = doc(i%balancers, 11)
		}
		if _, err := h.ModifyLoadBalancer(ctx, fmt.Sprintf("%08x-0000-4000-8000-000000000000", uint32(i%balancers)*0x9e3779b1), body, 0); err != nil {
			b.Fatal(err)
		}
	}
}
