// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

func TestPmap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var m pmap[int]
	have := map[string]int{}
	var old []pmap[int]
	var was []map[string]int
	for i := range 3000 {
		k := fmt.Sprint(r.IntN(200))
		if r.IntN(3) == 0 {
			m = m.del(k)
			delete(have, k)
		} else {
			m = m.set(k, i)
			have[k] = i
		}
		if i%500 == 0 {
			c := map[string]int{}
			for k, v := range have {
				c[k] = v
			}
			old, was = append(old, m), append(was, c)
		}
	}
	old, was = append(old, m), append(was, have)
	for i, m := range old { // older versions are untouched
		var keys []string
		got := map[string]int{}
		for k, v := range m.all {
			keys = append(keys, k)
			got[k] = v
		}
		if d := cmp.Diff(was[i], got); d != "" || !slices.IsSorted(keys) || m.len() != len(got) {
			t.Fatalf("version %d: sorted %v, len %d, diff %s", i, slices.IsSorted(keys), m.len(), d)
		}
		for i, k := range keys {
			if m.at(i) != k || m.rank(k) != i {
				t.Fatalf("at(%d) %q, rank(%q) %d", i, m.at(i), k, m.rank(k))
			}
		}
		var pre []string
		for k := range m.prefixed("1") {
			pre = append(pre, k)
		}
		want := slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return !strings.HasPrefix(k, "1") })
		if !slices.Equal(pre, want) {
			t.Errorf("prefixed: %v, want %v", pre, want)
		}
	}
}

// TestWholeAndPartAgree makes random Worlds and demands that loading the rows
// that the changes would have stored gives the same Desired, that the switch
// compiles it, and that nobody holds what another does.
func TestWholeAndPartAgree(t *testing.T) {
	wholeAndPart(t, newBench, randomVerb)
}

func wholeAndPart(t *testing.T, bench func(testing.TB) *bench, randomVerb func(*bench, *rand.Rand, int)) {
	for seed := range uint64(60) {
		b := bench(t)
		ids := 0x1000
		b.in.NewID = func() string { // in eight of the parts of Desired
			ids++
			return fmt.Sprintf("%d%s", ids%8, guid(ids)[1:])
		}
		r := rand.New(rand.NewPCG(seed, 3))
		rows := map[string]any{}
		var compiler vswitch.Compiler
		for i := range 80 {
			before := b.w
			b.in.Now = b.in.Now.Add(time.Duration(r.IntN(20)) * time.Second)
			randomVerb(b, r, i)
			for _, c := range b.w.Changes() {
				key := string(c.Kind) + "/" + c.ID
				if c.Row == nil {
					delete(rows, key)
				} else {
					rows[key] = c.Row
				}
			}
			if i%20 == 7 { // undone: as if it had not been
				for _, c := range b.w.Undo(before) {
					key := string(c.Kind) + "/" + c.ID
					if c.Row == nil {
						delete(rows, key)
					} else {
						rows[key] = c.Row
					}
				}
				b.w = before.With(b.w.Numbers())
			}
			b.w = b.w.Clean()
			d := flat(b.w)
			grown, err := compiler.Compile(b.w.Desired().Switch, vswitch.Facts{})
			if err != nil {
				t.Fatalf("seed %d step %d: %v", seed, i, err)
			}
			if i%10 != 9 {
				continue
			}
			loaded := reload(t, b, rows)
			whole, err := vswitch.Compile(flat(loaded).Switch, vswitch.Facts{})
			if err != nil {
				t.Fatalf("seed %d step %d: loaded: %v", seed, i, err)
			}
			if diff := cmp.Diff(whole.String(), grown.String()); diff != "" {
				t.Fatalf("seed %d step %d: tables differ (-loaded +grown):\n%s", seed, i, diff)
			}
			if diff := cmp.Diff(printDesired(flat(loaded)), printDesired(d)); diff != "" {
				t.Fatalf("seed %d step %d: loaded and grown differ (-loaded +grown):\n%s", seed, i, diff)
			}
			if l, g := indexSizes(loaded), indexSizes(b.w); l != g {
				t.Fatalf("seed %d step %d: indexes differ: loaded %v, grown %v", seed, i, l, g)
			}
		}
	}
}

func indexSizes(w World) [14]int {
	return [14]int{w.far.len(), w.farWays.len(), w.addrs.len(), w.macs.len(), w.members.len(), w.remotes.len(), w.published.len(), w.balanced.len(), w.routed.len(), w.hops.len(),
		w.numbersIn[0].len(), w.numbersIn[1].len(), w.numbersIn[2].len(), w.numbersIn[3].len()}
}

// reload passes the rows through JSON, as the store does.
func reload(t *testing.T, b *bench, rows map[string]any) World {
	t.Helper()
	var all Rows
	through := func(in, out any) {
		raw, err := Encode(in)
		if err == nil {
			err = json.Unmarshal(raw, out)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range rows {
		switch row := row.(type) {
		case *Network:
			again(through, row, &all.Networks)
		case *Endpoint:
			again(through, row, &all.Endpoints)
		case *Namespace:
			again(through, row, &all.Namespaces)
		case *LoadBalancer:
			again(through, row, &all.LoadBalancers)
		case *SDNRoute:
			again(through, row, &all.SDNRoutes)
		case *Reservation:
			again(through, row, &all.Reservations)
		}
	}
	w, err := Load(b.w.inst, b.w.Numbers(), all)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func again[R any](through func(in, out any), row *R, into *[]*R) {
	r := new(R)
	through(row, r)
	*into = append(*into, r)
}

func randomVerb(b *bench, r *rand.Rand, i int) {
	w := b.w
	nets, eps, nss := w.AllNetworks(), w.AllEndpoints(), w.AllNamespaces()
	pick := func(n int) int { return r.IntN(max(n, 1)) }
	switch v := r.IntN(20); {
	case len(nets) == 0 || v == 0:
		w, _, _, _ = w.CreateNetwork(fmt.Appendf(nil, `{"Name":"n%d","Type":%q}`, i, []string{"NAT", "Internal"}[r.IntN(2)]), b.in)
	case v == 1 && r.IntN(3) == 0:
		w, _ = w.DeleteNetwork(nets[pick(len(nets))].Doc.Id, 0, b.in)
	case v <= 4:
		policy := ""
		if r.IntN(2) == 0 {
			policy = fmt.Sprintf(`{"Type":"SDNRoute","Settings":{"DestinationPrefix":"10.%d.0.0/16","NeedEncap":true}},{"Type":"PortMapping","Settings":{"ExternalPort":%d,"Protocol":%d}}`,
				r.IntN(3), r.IntN(4), []int{0, 6, 17}[r.IntN(3)])
		}
		w, _, _, _ = w.CreateEndpoint(nets[pick(len(nets))].Doc.Id, fmt.Appendf(nil, `{"Name":"e%d","Policies":[%s]}`, i, policy), b.in)
	case v == 5 || len(nss) == 0:
		w, _, _, _ = w.CreateNamespace([]byte(`{}`), b.in)
	case len(eps) == 0:
	case v == 6:
		w, _ = w.DeleteNamespace(nss[pick(len(nss))].Doc.Id, 0)
	case v == 7:
		w, _ = w.DeleteEndpoint(eps[pick(len(eps))].Doc.Id, 0, b.in)
	case v == 8:
		e := eps[pick(len(eps))]
		w, _, _ = w.ModifyNamespace(e.Doc.HostComputeNamespace, fmt.Appendf(nil, `{"ResourceType":"Endpoint","RequestType":"Remove","Settings":{"EndpointId":%q}}`, e.Doc.Id), 0)
	case v == 9:
		w, _, _ = w.ModifyEndpoint(eps[pick(len(eps))].Doc.Id, fmt.Appendf(nil,
			`{"ResourceType":"Policy","RequestType":%q,"Settings":{"Policies":[{"Type":"PortMapping","Settings":{"ExternalPort":%d}}]}}`,
			[]string{"Add", "Remove", "Update"}[r.IntN(3)], r.IntN(5)), 0, b.in)
	case v >= 12:
		w = randomSpread(b, r, i)
	default:
		w, _, _ = w.ModifyNamespace(nss[pick(len(nss))].Doc.Id,
			fmt.Appendf(nil, `{"ResourceType":"Endpoint","RequestType":"Add","Settings":{"EndpointId":%q}}`, eps[pick(len(eps))].Doc.Id), 0)
	}
	b.w = w
}

// randomSpread is a verb on what is spread over endpoints, and on remote ones.
func randomSpread(b *bench, r *rand.Rand, i int) World {
	w := b.w
	nets, eps, lbs, routes, held := w.AllNetworks(), w.AllEndpoints(), w.AllLoadBalancers(), w.AllSDNRoutes(), w.AllReservations()
	pick := func(n int) int { return r.IntN(max(n, 1)) }
	var some []string
	for range r.IntN(4) {
		some = append(some, eps[pick(len(eps))].Doc.Id)
	}
	list, _ := json.Marshal(some)
	balancer := func() []byte {
		v6 := r.IntN(3) / 2
		vips := ""
		if r.IntN(2) == 0 {
			vips = fmt.Sprintf(`"FrontendVIPs":[%q],`, []string{fmt.Sprintf("10.96.0.%d", 1+r.IntN(3)), fmt.Sprintf("fd96::%d", 1+r.IntN(3))}[v6])
		}
		return fmt.Appendf(nil, `{"HostComputeEndpoints":%s,%s"Flags":%d,"PortMappings":[{"Protocol":%d,"ExternalPort":%d,"InternalPort":%d,"DistributionType":%d,"Flags":%d}]}`,
			list, vips, 2*v6+r.IntN(2), []int{0, 6, 17}[r.IntN(3)], 1+r.IntN(4), r.IntN(3), r.IntN(3), []int{0, 1, 2, 3, 4, 8, 12, 16}[r.IntN(8)])
	}
	switch v := r.IntN(12); {
	case v == 0:
		n := nets[pick(len(nets))]
		w, _, _, _ = w.CreateEndpoint(n.Doc.Id, fmt.Appendf(nil, `{"Flags":1,"MacAddress":"02-11-00-00-00-%02x","IpConfigurations":[{"IpAddress":%q}],"Policies":[{"Type":"ProviderAddress","Settings":{"ProviderAddress":"10.0.0.%d"}}]}`,
			r.IntN(4), []string{"172.16.0.2", "172.16.0.5", "192.0.2.7", "fd96::9"}[r.IntN(4)], 5+r.IntN(2)), b.in)
	case v <= 3:
		w, _, _, _ = w.CreateLoadBalancer(balancer(), b.in)
	case v == 4 && len(lbs) > 0:
		w, _, _ = w.ModifyLoadBalancer(lbs[pick(len(lbs))].Doc.Id, balancer(), 0, b.in)
	case v == 5 && len(lbs) > 0:
		w, _, _ = w.ModifyLoadBalancer(lbs[pick(len(lbs))].Doc.Id, fmt.Appendf(nil, `{"RequestType":%q,"Settings":{"HostComputeEndpoints":%s}}`,
			[]string{"Add", "Remove"}[r.IntN(2)], list), 0, b.in)
	case v == 6 && len(lbs) > 0:
		w, _ = w.DeleteLoadBalancer(lbs[pick(len(lbs))].Doc.Id, 0)
	case v <= 8:
		setting := fmt.Sprintf(`{"DestinationPrefix":"10.%d.0.0/16","NeedEncap":%v,"NextHop":%q}`, r.IntN(3), r.IntN(2) == 0, []string{"", "172.16.0.2", "172.16.0.1"}[r.IntN(3)])
		w, _, _, _ = w.CreateSDNRoute(fmt.Appendf(nil, `{"HostComputeEndpoints":%s,"Setting":[%s]}`, list, setting), b.in)
	case v == 9 && len(routes) > 0:
		w, _ = w.DeleteSDNRoute(routes[pick(len(routes))].Doc.ID, 0)
	case v == 10 && len(held) > 0 && r.IntN(2) == 0:
		w, _ = w.ReleasePorts(held[pick(len(held))].Doc.ID, 0)
	default:
		w, _, _, _ = w.ReservePorts(fmt.Appendf(nil, `{"Protocol":%d,"Access":%d,"StartingPort":%d,"Count":2}`, 1+r.IntN(3), r.IntN(3), r.IntN(4)), b.in)
	}
	return w
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"ID":"00000000-0000-4000-8000-000000000001","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.0.0.0/24"}]}],"Flags":"EnableIov"}`))
	f.Add([]byte(`{"IpConfigurations":[{"IpAddress":"172.16.0.9"}],"Policies":[{"Type":"PortMapping","Settings":{"ExternalPort":0,"VIP":"::"}}],"AdditionalParams":{"Aliases":["a"]}}`))
	f.Add([]byte(`{"Type":"Guest","NamespaceId":5,"Resources":[{"Type":"Endpoint","Data":{"Id":"x"}}]}`))
	f.Add([]byte(`{"FrontendVIPs":["10.96.0.1"],"SourceVIP":"172.16.0.9","PortMappings":[{"ExternalPort":80,"Flags":"ILB, LocalRoutedVIP"}],"RequestType":"Update"}`))
	f.Add([]byte(`{"HostComputeEndpoints":["00000000-0000-4000-8000-000000001004"],"Setting":[{"DestinationPrefix":"10.0.0.0/8","NeedEncap":true}]}`))
	f.Add([]byte(`{"Protocol":3,"StartingPort":65000,"Count":7}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		b := newBench(t)
		b.network(`{"Name":"nat"}`)
		again := func(doc any, decode func([]byte) (any, error)) {
			raw, err := Encode(doc)
			if err != nil {
				t.Fatalf("%s: print: %v", body, err)
			}
			back, err := decode(raw)
			if err != nil {
				t.Fatalf("%s: printed %s: %v", body, raw, err)
			}
			if raw2, err := Encode(back); err != nil || string(raw2) != string(raw) {
				t.Fatalf("%s: printed %s, then %s, %v", body, raw, raw2, err)
			}
		}
		if w, n, _, err := b.w.CreateNetwork(body, b.in); err == nil {
			again(n.Doc, func(r []byte) (any, error) { d, err := DecodeNetwork(r); return d, err })
			flat(w)
		}
		if w, e, _, err := b.w.CreateEndpoint("nat", body, b.in); err == nil {
			again(e.Doc, func(r []byte) (any, error) { d, err := DecodeEndpoint(r); return d, err })
			if _, err := vswitch.Compile(flat(w).Switch, vswitch.Facts{}); err != nil {
				t.Fatal(err)
			}
			w, _ = w.DeleteEndpoint(e.Doc.Id, 0, b.in)
			if w.addrs.len()+w.published.len() != 0 {
				t.Fatalf("%s: something is left", body)
			}
			_, _, _ = w.ModifyEndpoint(e.Doc.Id, body, 0, b.in)
		}
		if w, ns, _, err := b.w.CreateNamespace(body, b.in); err == nil {
			again(ns.Doc, func(r []byte) (any, error) { d, err := DecodeNamespace(r); return d, err })
			_, _, _ = w.ModifyNamespace(ns.Doc.Id, body, 0)
		}
		b.endpoint("nat", `{"ID":"00000000-0000-4000-8000-000000001004"}`)
		if w, lb, _, err := b.w.CreateLoadBalancer(body, b.in); err == nil {
			again(lb.Doc, func(r []byte) (any, error) { d, err := DecodeLoadBalancer(r); return d, err })
			if _, err := vswitch.Compile(flat(w).Switch, vswitch.Facts{}); err != nil {
				t.Fatal(err)
			}
			_, _, _ = w.ModifyLoadBalancer(lb.Doc.Id, body, 0, b.in)
		}
		if w, route, _, err := b.w.CreateSDNRoute(body, b.in); err == nil {
			again(route.Doc, func(r []byte) (any, error) { d, err := DecodeSDNRoute(r); return d, err })
			if _, err := vswitch.Compile(flat(w).Switch, vswitch.Facts{}); err != nil {
				t.Fatal(err)
			}
			_, _, _ = w.ModifySDNRoute(route.Doc.ID, body, 0)
		}
		if w, r, _, err := b.w.ReservePorts(body, b.in); err == nil {
			again(r.Doc, func(raw []byte) (any, error) { d, err := DecodeReservation(raw); return d, err })
			flat(w)
		}
		_, _ = ParseFilter(string(body))
	})
}

func FuzzSetMember(f *testing.F) {
	f.Add(`{ "a" : 1 , "ExternalPort":0}`)
	f.Add(`{}`)
	f.Add(`null`)
	f.Fuzz(func(t *testing.T, raw string) {
		if !json.Valid([]byte(raw)) {
			return
		}
		got := setMember(json.RawMessage(raw), "ExternalPort", []byte("77"))
		var v struct{ ExternalPort int }
		if err := json.Unmarshal(got, &v); err != nil || v.ExternalPort != 77 {
			t.Fatalf("%q -> %q: %v %v", raw, got, v, err)
		}
	})
}

// BenchmarkChange is one endpoint more and one less, each with its Desired, in a
// World of a thousand.
func BenchmarkChange(bb *testing.B) {
	b := newBench(bb)
	n := b.network(`{"Name":"nat"}`)
	for i := range 1000 {
		ns := b.namespace(`{}`)
		b.endpoint(n.Doc.Id, fmt.Sprintf(`{"Name":"c%d","HostComputeNamespace":%q}`, i, ns.Doc.Id))
		b.w = b.w.Clean()
	}
	bb.ReportAllocs()
	for bb.Loop() {
		w, _, err := b.w.Plug("rt", guid(1), []json.RawMessage{json.RawMessage(`{"ID":"` + guid(2) + `","Name":"x"}`)}, b.in)
		if err != nil {
			bb.Fatal(err)
		}
		if d := flat(w); len(d.Compartments) != 1001 {
			bb.Fatal(len(d.Compartments))
		}
	}
}

func BenchmarkDesired(bb *testing.B) {
	b := newBench(bb)
	n := b.network(`{"Name":"nat"}`)
	for i := range 1000 {
		ns := b.namespace(`{}`)
		b.endpoint(n.Doc.Id, fmt.Sprintf(`{"Name":"c%d","HostComputeNamespace":%q}`, i, ns.Doc.Id))
		b.w = b.w.Clean()
	}
	bb.ReportAllocs()
	for bb.Loop() {
		flat(b.w)
	}
}
