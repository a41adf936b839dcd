// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/resource"
)

func id(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012x", n) }

func plugDocs(n int) []json.RawMessage {
	return []json.RawMessage{json.RawMessage(fmt.Sprintf(
		`{"ID":%q,"Name":"c%d","Policies":[{"Type":"PortMapping","Settings":{"Protocol":6,"InternalPort":80,"ExternalPort":%d}}]}`, id(0x2000+n), n, 8000+n))}
}

func TestFirstStartAndRestart(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	n, ok := w.h.World().NetworkNamed("nat")
	if !ok || n.Doc.Owner != "gatehouse" {
		t.Fatal("no default network")
	}
	p, err := w.h.Plug(ctx, "rt-1", id(1), plugDocs(1))
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Addrs) != 2 || len(p.Servers) != 2 || p.Servers[0] != "172.16.0.1" || p.NetNsPath == "" || len(p.Endpoints) != 1 {
		t.Errorf("%+v", p)
	}
	w.consistent()
	before := w.k.Tables
	w.restart()
	w.consistent()
	if w.k.Tables != before {
		t.Errorf("a restart changed the tables:\n%s\n%s", before, w.k.Tables)
	}
	if again, err := w.h.Plug(ctx, "rt-1", id(1), plugDocs(1)); err != nil || again.Addrs[0] != p.Addrs[0] {
		t.Errorf("repeated plug: %+v %v", again, err)
	}
	if l, err := w.h.Look(ctx, id(1)); err != nil || l.Addrs[0] != p.Addrs[0] || w.h.Plugs()[id(1)] != "rt-1" {
		t.Errorf("look: %+v %v", l, err)
	}
	for range 2 {
		if err := w.h.Unplug(ctx, id(1)); err != nil {
			t.Fatal(err)
		}
	}
	w.consistent()
	if err := w.h.DeleteNetwork(ctx, "name:nat", 0); err != nil {
		t.Fatal(err)
	}
	w.restart()
	if got := len(w.h.World().AllNetworks()); got != 0 {
		t.Errorf("the default network came back: %d", got)
	}
	w.consistent()
	if len(w.k.Devices) != 0 {
		t.Errorf("left: %v", w.k.Devices)
	}
}

// TestUndo fails each step of each verb once and demands that nothing of it is
// left, and that it works the second time.
func TestUndo(t *testing.T) {
	ctx := context.Background()
	verbs := []struct {
		name string
		do   func(*HNS) error
	}{
		{"create network", func(h *HNS) error { _, _, err := h.CreateNetwork(ctx, []byte(`{"Name":"x"}`)); return err }},
		{"plug", func(h *HNS) error { _, err := h.Plug(ctx, "rt-2", id(2), plugDocs(2)); return err }},
		{"modify endpoint", func(h *HNS) error {
			_, err := h.ModifyEndpoint(ctx, id(0x2001), []byte(`{"ResourceType":"Policy","RequestType":"Update","Settings":{"Policies":[{"Type":"PortMapping","Settings":{"ExternalPort":9000}}]}}`), 0)
			return err
		}},
		{"create remote endpoint", func(h *HNS) error {
			_, _, err := h.CreateEndpoint(ctx, "nat", fmt.Appendf(nil, `{"ID":%q,"Name":"far","Flags":1,"IpConfigurations":[{"IpAddress":"192.0.2.7"}]}`, id(0x3000)))
			return err
		}},
		{"create load balancer", func(h *HNS) error {
			_, _, err := h.CreateLoadBalancer(ctx, fmt.Appendf(nil, `{"ID":%q,"HostComputeEndpoints":[%q,%q],"PortMappings":[{"Protocol":6,"ExternalPort":30080}]}`, id(0x4000), id(0x2001), id(0x3000)))
			return err
		}},
		{"create SDN route", func(h *HNS) error {
			_, _, err := h.CreateSDNRoute(ctx, fmt.Appendf(nil, `{"ID":%q,"HostComputeEndpoints":[%q],"Setting":[{"DestinationPrefix":"10.96.0.0/12","NeedEncap":true}]}`, id(0x5000), id(0x2001)))
			return err
		}},
		{"reserve ports", func(h *HNS) error {
			_, _, err := h.ReservePorts(ctx, fmt.Appendf(nil, `{"ID":%q,"Protocol":1,"StartingPort":7000,"Count":2}`, id(0x6000)))
			return err
		}},
		{"modify load balancer", func(h *HNS) error {
			_, err := h.ModifyLoadBalancer(ctx, id(0x4000), fmt.Appendf(nil, `{"HostComputeEndpoints":[%q],"PortMappings":[{"Protocol":17,"ExternalPort":30081}]}`, id(0x2001)), 0)
			return err
		}},
		{"modify SDN route", func(h *HNS) error {
			_, err := h.ModifySDNRoute(ctx, id(0x5000), fmt.Appendf(nil, `{"HostComputeEndpoints":[%q],"Setting":[{"DestinationPrefix":"10.97.0.0/16","NeedEncap":true}]}`, id(0x2001)), 0)
			return err
		}},
		{"release ports", func(h *HNS) error { return h.ReleasePorts(ctx, id(0x6000), 0) }},
		{"delete endpoint", func(h *HNS) error { return h.DeleteEndpoint(ctx, id(0x2001), 0) }},
		{"delete load balancer", func(h *HNS) error { return h.DeleteLoadBalancer(ctx, id(0x4000), 0) }},
		{"unplug", func(h *HNS) error { return h.Unplug(ctx, id(2)) }},
		{"delete network", func(h *HNS) error { return h.DeleteNetwork(ctx, "name:x", 0) }},
	}
	for _, where := range []string{"ports", "ensure", "apply"} {
		t.Run(where, func(t *testing.T) {
			w := newWorld(t)
			if _, err := w.h.Plug(ctx, "rt-1", id(1), plugDocs(1)); err != nil {
				t.Fatal(err)
			}
			for _, v := range verbs {
				before := w.h.World().Desired()
				w.k.fail[where] = 1
				err := v.do(w.h)
				left := w.k.fail[where]
				w.k.fail[where] = 0
				w.consistent()
				switch {
				case left > 0: // the verb does not take that step
					if err != nil {
						t.Errorf("%s: %v", v.name, err)
					}
					continue
				case !errors.Is(err, errBoom):
					t.Errorf("%s: got %v", v.name, err)
				}
				var re resource.Error
				if !errors.As(err, &re) || re.HTTPStatus() < 400 {
					t.Errorf("%s: %v is no resource.Error", v.name, err)
				}
				after := w.h.World().Desired()
				counts := func(d model.Desired) [4]int {
					return [4]int{
						len(slices.Collect(d.Switch.AllPorts())), len(slices.Collect(d.AllCompartments())), len(d.HostPorts),
						len(slices.Collect(d.Switch.AllServices())),
					}
				}
				if counts(after) != counts(before) {
					t.Errorf("%s: not undone", v.name)
				}
				w.restart()
				w.consistent()
				if err := v.do(w.h); err != nil {
					t.Errorf("%s again: %v", v.name, err)
				}
				w.consistent()
			}
		})
	}
}

func TestPruneFailureIsMet(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	if _, err := w.h.Plug(ctx, "rt-1", id(1), plugDocs(1)); err != nil {
		t.Fatal(err)
	}
	w.k.fail["prune"] = 1
	if err := w.h.Unplug(ctx, id(1)); err != nil {
		t.Fatal(err)
	}
	if w.h.Trouble() == "" {
		t.Error("no trouble told")
	}
	if _, err := w.h.Plug(ctx, "rt-2", id(2), plugDocs(2)); err != nil {
		t.Fatal(err)
	}
	w.consistent()
	if w.h.Trouble() != "" {
		t.Error(w.h.Trouble())
	}
}

// TestUndoThatFailsToo: the store is right, and the next change repairs the kernel.
func TestUndoThatFailsToo(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	w.k.fail["apply"] = 2
	if _, err := w.h.Plug(ctx, "rt-1", id(1), plugDocs(1)); !errors.Is(err, errBoom) || !strings.Contains(err.Error(), "undo") {
		t.Errorf("got %v", err)
	}
	if w.h.Trouble() == "" || len(w.h.World().AllEndpoints()) != 0 {
		t.Error("no trouble told, or not undone")
	}
	if err := w.h.Recompile(ctx); err != nil || w.h.Trouble() != "" {
		t.Fatal(err, w.h.Trouble())
	}
	w.consistent()
}

// TestFirstStartFails: the default network is made by the next start.
func TestFirstStartFails(t *testing.T) {
	dir, k := t.TempDir(), newFake("")
	k.fail["ensure"] = 1
	_, db, err := open(dir, k)
	if !errors.Is(err, errBoom) {
		t.Fatalf("got %v", err)
	}
	db.Close()
	h, db, err := open(dir, k)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, ok := h.World().NetworkNamed("nat"); !ok {
		t.Error("no default network")
	}
}

func TestManyAtOnce(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	const n = 100
	var wg sync.WaitGroup
	start := time.Now()
	for i := range n {
		wg.Go(func() {
			if _, err := w.h.Plug(ctx, fmt.Sprint("rt-", i), id(i), plugDocs(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d plugs in %v: %d applies, revision %d", n, time.Since(start), w.k.applies, w.db.Revision())
	w.consistent()
	if got := len(w.h.World().AllEndpoints()); got != n {
		t.Errorf("%d endpoints", got)
	}
	for i := range n {
		wg.Go(func() {
			if err := w.h.Unplug(ctx, id(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	w.consistent()
}

// TestNobodyPaysForAnother: of verbs taken together, those whose step fails fail,
// the others succeed.
func TestNobodyPaysForAnother(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	w.h.mu.Lock() // hold the transaction so that all queue up
	var wg sync.WaitGroup
	var mu sync.Mutex
	failed := 0
	for i := range 10 {
		wg.Go(func() {
			if _, err := w.h.Plug(ctx, fmt.Sprint("rt-", i), id(i), plugDocs(i)); err != nil {
				mu.Lock()
				failed++
				mu.Unlock()
			}
		})
	}
	for {
		w.h.queueMu.Lock()
		n := len(w.h.queue)
		w.h.queueMu.Unlock()
		if n == 10 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	w.k.fail["ensure"] = 2 // the batch, then one of the ten
	w.h.mu.Unlock()
	wg.Wait()
	if failed != 1 || len(w.h.World().AllEndpoints()) != 9 {
		t.Errorf("%d failed, %d endpoints", failed, len(w.h.World().AllEndpoints()))
	}
	w.consistent()
}

func TestStop(t *testing.T) {
	w := newWorld(t)
	w.h.Stop()
	_, _, err := w.h.CreateNetwork(context.Background(), []byte(`{}`))
	var re resource.Error
	if !errors.As(err, &re) || re.HTTPStatus() != 503 || !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if len(w.k.Devices) == 0 {
		t.Error("stop took the kernel down")
	}
}

// TestAddressBecomesHosts: an address of one load balancer comes to the host, where
// another has the port on every address. Nobody else's verb fails for that.
func TestAddressBecomesHosts(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	for _, vips := range []string{`["10.0.0.77"]`, `[]`} {
		if _, _, err := w.h.CreateLoadBalancer(ctx, []byte(`{"FrontendVIPs":`+vips+`,"PortMappings":[{"Protocol":6,"ExternalPort":12000}]}`)); err != nil {
			t.Fatal(err)
		}
	}
	w.k.more = netip.MustParsePrefix("10.0.0.77/24")
	if _, _, err := w.h.CreateNetwork(ctx, []byte(`{"Name":"x"}`)); err != nil {
		t.Errorf("a network beside: %v", err)
	}
	if _, _, err := w.h.CreateLoadBalancer(ctx, []byte(`{"FrontendVIPs":["10.0.0.77"],"PortMappings":[{"Protocol":6,"ExternalPort":12000}]}`)); err == nil {
		t.Error("a third has the port, too")
	}
	w.restart()
	w.consistent()
}

func TestCollections(t *testing.T) {
	w := newWorld(t)
	ctx := resource.WithCaller(context.Background(), resource.Caller{UID: 1000})
	c := w.h.Collections()
	body := json.RawMessage(`{"ID":"` + id(9) + `","Name":"web","Policies":[{"Type":"VSwitchExtension","Settings":{ "ExtensionID":"<a&b>" }}]}`)
	d, created, err := c["networks"].Create(ctx, body)
	if err != nil || !created || d.Version != 1 || !strings.Contains(string(d.JSON), `"Owner":"uid:1000"`) || !strings.Contains(string(d.JSON), `"<a&b>"`) {
		t.Fatalf("%s %v %v", d.JSON, created, err)
	}
	if _, created, err := c["networks"].Create(ctx, body); err != nil || created {
		t.Errorf("repeat: %v %v", created, err)
	}
	w.restart()
	c = w.h.Collections()
	if again, err := c["networks"].Get(ctx, "name:web", nil); err != nil || string(again.JSON) != string(d.JSON) {
		t.Errorf("after a restart:\n%s\n%s\n%v", d.JSON, again.JSON, err)
	}
	_, _, err = c["networks"].Create(ctx, json.RawMessage(`{"Name":"web"}`))
	var re resource.Error
	if !errors.As(err, &re) || re.HTTPStatus() != 409 || !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Fatalf("got %v", err)
	}
	if r := re.Record().(hcn.Record); r.ErrorCode != uint32(hcn.HCN_E_NETWORK_ALREADY_EXISTS) || r.Field != "Name" || r.Success || !strings.HasSuffix(r.Error, " ") {
		t.Errorf("%+v", r)
	}
	e, _, err := c["endpoints"].Create(ctx, json.RawMessage(`{"HostComputeNetwork":"`+id(9)+`","Name":"e"}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []url.Values{
		{"network": {"name:web"}}, {"network": {id(9)}}, {"name": {"e"}}, {"filter": {`{"VirtualNetwork":"` + id(9) + `"}`}},
		{"query": {`{"SchemaVersion":{"Major":1,"Minor":0},"Filter":"{\"ID\":\"` + e.ID + `\"}","Flags":1}`}}, {"detailed": {"true"}},
	} {
		docs, err := c["endpoints"].List(ctx, q)
		if err != nil || len(docs) != 1 || docs[0].ID != e.ID {
			t.Errorf("%v: %v %v", q, docs, err)
		}
	}
	if docs, err := c["endpoints"].List(ctx, url.Values{"name": {""}}); err != nil || len(docs) != 0 {
		t.Errorf("empty name: %v %v", docs, err)
	}
	if _, err := c["endpoints"].Modify(ctx, e.ID, json.RawMessage(`{"ResourceType":"Policy","RequestType":"Refresh"}`), 77); !errors.As(err, &re) || re.HTTPStatus() != 412 {
		t.Errorf("If-Match: %v", err)
	}
	ns, _, err := c["namespaces"].Create(ctx, json.RawMessage(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := c["namespaces"].Modify(ctx, ns.ID, json.RawMessage(`{"ResourceType":"Endpoint","RequestType":"Add","Settings":{"EndpointId":"`+e.ID+`"}}`), ns.Version)
	if err != nil || got.Version != ns.Version+1 || !strings.Contains(string(got.JSON), strings.ToUpper(e.ID)) {
		t.Errorf("%s %v", got.JSON, err)
	}
	if len(w.k.resets) != 1 {
		t.Errorf("resets %v", w.k.resets)
	}
	if s, err := w.h.EndpointStats(ctx, e.ID); err != nil || s.InstanceId == "" {
		t.Errorf("%+v %v", s, err)
	}
	if g, err := w.h.Graph(ctx); err != nil || len(g.Networks) != 2 || g.Uplinks[0].Name != "up0" {
		t.Errorf("%+v %v", g, err)
	}
	if err := c["namespaces"].Delete(ctx, ns.ID, 0); err != nil {
		t.Fatal(err)
	}
	if err := c["endpoints"].Delete(ctx, e.ID, 0); err != nil {
		t.Fatal(err)
	}
	if err := c["endpoints"].Delete(ctx, e.ID, 0); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("second delete: %v", err)
	}
	w.consistent()

	var names []string
	events, _, err := w.db.Events(0)
	if err != nil {
		t.Fatal(err)
	}
	for _, ev := range events {
		names = append(names, ev.Name)
	}
	want := "NetworkPreCreate NetworkCreate NetworkPreCreate NetworkCreate EndpointCreate NamespaceCreate NamespaceModify NetworkEndpointAttached " +
		"NamespaceModify NetworkEndpointDetached NamespaceDelete EndpointDelete"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("events\n%s\nwant\n%s", got, want)
	}
}

func TestHostRoutes(t *testing.T) {
	ours := func(n string) bool { return n == "gh000n0001" }
	got := parseRoutes4(strings.NewReader(`Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	0100000A	0003	0	0	0	00000000	0	0	0
eth0	0000000A	00000000	0001	0	0	0	00FFFFFF	0	0	0
gh000n0001	000010AC	00000000	0001	0	0	0	00F0FFFF	0	0	0
`), ours)
	if fmt.Sprint(got) != "[0.0.0.0/0 10.0.0.0/24]" {
		t.Error(got)
	}
	got = parseRoutes6(strings.NewReader(`fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
00000000000000000000000000000001 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000000 00000002 00000000 80200001       lo
`), ours)
	if fmt.Sprint(got) != "[fd00::/64]" {
		t.Error(got)
	}
}

func BenchmarkPlug(b *testing.B) {
	w := newWorld(b)
	ctx := context.Background()
	i := 0
	for b.Loop() {
		i++
		if _, err := w.h.Plug(ctx, "rt", id(i), []json.RawMessage{json.RawMessage(`{}`)}); err != nil {
			b.Fatal(err)
		}
		if i%2000 == 0 {
			break
		}
	}
}

// TestEveryFeature: the version says that each feature is there, by the list of the
// package for Windows.
func TestEveryFeature(t *testing.T) {
	var all func(path string, v reflect.Value)
	all = func(path string, v reflect.Value) {
		if v.Kind() != reflect.Struct {
			if !v.Bool() {
				t.Errorf("%v lacks %s", Version(), path)
			}
			return
		}
		for i := range v.NumField() {
			all(path+"."+v.Type().Field(i).Name, v.Field(i))
		}
	}
	all("", reflect.ValueOf(hcn.FeaturesOf(Version())))
}
