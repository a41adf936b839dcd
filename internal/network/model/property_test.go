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
	for seed := range uint64(60) {
		b := newBench(t)
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
			d := b.w.Desired()
			if _, err := compiler.Compile(d.Switch, vswitch.Facts{}); err != nil {
				t.Fatalf("seed %d step %d: %v", seed, i, err)
			}
			if i%10 != 9 {
				continue
			}
			loaded := reload(t, b, rows)
			if diff := cmp.Diff(printDesired(loaded.Desired()), printDesired(d)); diff != "" {
				t.Fatalf("seed %d step %d: loaded and grown differ (-loaded +grown):\n%s", seed, i, diff)
			}
			if loaded.addrs.len() != b.w.addrs.len() || loaded.published.len() != b.w.published.len() || loaded.macs.len() != b.w.macs.len() ||
				loaded.numbersIn[0].len() != b.w.numbersIn[0].len() {
				t.Fatalf("seed %d step %d: indexes differ", seed, i)
			}
		}
	}
}

// reload passes the rows through JSON, as the store does.
func reload(t *testing.T, b *bench, rows map[string]any) World {
	t.Helper()
	var ns []*Network
	var es []*Endpoint
	var ss []*Namespace
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
			n := new(Network)
			through(row, n)
			ns = append(ns, n)
		case *Endpoint:
			e := new(Endpoint)
			through(row, e)
			es = append(es, e)
		case *Namespace:
			s := new(Namespace)
			through(row, s)
			ss = append(ss, s)
		}
	}
	w, err := Load(b.w.inst, b.w.Numbers(), ns, es, ss)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func randomVerb(b *bench, r *rand.Rand, i int) {
	w := b.w
	nets, eps, nss := w.AllNetworks(), w.AllEndpoints(), w.AllNamespaces()
	pick := func(n int) int { return r.IntN(max(n, 1)) }
	switch v := r.IntN(12); {
	case len(nets) == 0 || v == 0:
		w, _, _, _ = w.CreateNetwork(fmt.Appendf(nil, `{"Name":"n%d","Type":%q}`, i, []string{"NAT", "Internal"}[r.IntN(2)]), b.in)
	case v == 1 && r.IntN(3) == 0:
		w, _ = w.DeleteNetwork(nets[pick(len(nets))].Doc.Id, 0, b.in)
	case v <= 4:
		policy := ""
		if r.IntN(2) == 0 {
			policy = fmt.Sprintf(`{"Type":"PortMapping","Settings":{"ExternalPort":%d,"Protocol":%d}}`, r.IntN(4), []int{0, 6, 17}[r.IntN(3)])
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
	default:
		w, _, _ = w.ModifyNamespace(nss[pick(len(nss))].Doc.Id,
			fmt.Appendf(nil, `{"ResourceType":"Endpoint","RequestType":"Add","Settings":{"EndpointId":%q}}`, eps[pick(len(eps))].Doc.Id), 0)
	}
	b.w = w
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"ID":"00000000-0000-4000-8000-000000000001","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.0.0.0/24"}]}],"Flags":"EnableIov"}`))
	f.Add([]byte(`{"IpConfigurations":[{"IpAddress":"172.16.0.9"}],"Policies":[{"Type":"PortMapping","Settings":{"ExternalPort":0,"VIP":"::"}}],"AdditionalParams":{"Aliases":["a"]}}`))
	f.Add([]byte(`{"Type":"Guest","NamespaceId":5,"Resources":[{"Type":"Endpoint","Data":{"Id":"x"}}]}`))
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
			w.Desired()
		}
		if w, e, _, err := b.w.CreateEndpoint("nat", body, b.in); err == nil {
			again(e.Doc, func(r []byte) (any, error) { d, err := DecodeEndpoint(r); return d, err })
			if _, err := vswitch.Compile(w.Desired().Switch, vswitch.Facts{}); err != nil {
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
		if d := w.Desired(); len(d.Compartments) != 1001 {
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
		b.w.Desired()
	}
}
