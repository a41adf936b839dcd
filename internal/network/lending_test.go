// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/network/model"
)

// lender is a segment's DHCP server and the clients of it, which remember what they were told.
type lender struct {
	mu       sync.Mutex
	next     byte
	gone     bool
	given    map[string]netip.Prefix // by endpoint
	released []string
	set      []model.DHCPClient
	during   func() // the asking
}

func (l *lender) Acquire(_ context.Context, c model.DHCPClient) (model.DHCPLease, error) {
	if l.during != nil {
		l.during()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone {
		return model.DHCPLease{}, errors.New("no server lent one within 10s")
	}
	a, ok := l.given[c.Endpoint]
	if !ok {
		l.next++
		a = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, 50 + l.next}), 24)
		l.given[c.Endpoint] = a
	}
	return model.DHCPLease{Addr: a, Server: netip.MustParseAddr("10.0.0.2"), Expires: time.Now().Add(time.Hour)}, nil
}

func (l *lender) Release(c model.DHCPClient) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.released = append(l.released, c.Endpoint)
}

func (l *lender) Set(want []model.DHCPClient) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set = want
}

func lendingWorld(t *testing.T) (*world, *lender, string) {
	t.Helper()
	w := newWorld(t)
	l := &lender{given: map[string]netip.Prefix{}}
	w.h.o.Clients = l
	w.h.o.Uplinks = func() ([]model.Uplink, error) {
		return []model.Uplink{{Name: "up0", Default: true, Ifindex: 3}}, nil
	}
	n, _, err := w.h.CreateNetwork(context.Background(), []byte(`{"Name":"seg","Type":"Transparent","Ipams":[{"Type":"Dhcp"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	return w, l, n.Doc.Id
}

// TestLending: endpoints are made with what they were lent while others' verbs go on,
// several at once, and what no endpoint has is given back.
func TestLending(t *testing.T) {
	w, l, n := lendingWorld(t)
	ctx := context.Background()
	l.during = func() {
		if _, _, err := w.h.CreateNamespace(ctx, []byte(`{}`)); err != nil {
			t.Error(err)
		}
	}
	var wait sync.WaitGroup
	for i := range 4 {
		wait.Go(func() {
			if _, _, err := w.h.CreateEndpoint(ctx, n, []byte(fmt.Sprintf(`{"Name":"e%d"}`, i))); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	l.during = nil
	seen := map[string]bool{}
	for _, e := range w.h.World().AllEndpoints() {
		seen[e.Doc.IpConfigurations[0].IpAddress] = true
	}
	if len(seen) != 4 || len(l.set) != 4 || len(l.released) != 0 {
		t.Errorf("%v, %d clients, %v given back", seen, len(l.set), l.released)
	}
	const id1, id2, ns = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002", "00000000-0000-4000-8000-000000000003"
	doc := func(id string) json.RawMessage {
		return json.RawMessage(`{"ID":"` + id + `","HostComputeNetwork":"` + n + `"}`)
	}
	p, err := w.h.Plug(ctx, "owner", ns, []json.RawMessage{doc(id1), doc(id2)})
	if err != nil || len(p.Addrs) != 1 || len(l.set) != 6 {
		t.Fatal(err, p, len(l.set))
	}
	if err := w.h.Unplug(ctx, ns); err != nil || len(l.set) != 4 {
		t.Error(err, len(l.set))
	}
	l.given = map[string]netip.Prefix{}
	// The kernel refuses: the endpoint is not made, so it has no lease.
	w.k.fail["apply"] = 1
	if _, _, err := w.h.CreateEndpoint(ctx, n, []byte(`{"ID":"`+id1+`","HostComputeNamespace":"`+w.h.World().AllNamespaces()[0].Doc.Id+`"}`)); err == nil {
		t.Error("made although the kernel failed")
	}
	if len(l.released) != 1 || l.released[0] != id1 || len(l.set) != 4 {
		t.Errorf("given back: %v; %d clients", l.released, len(l.set))
	}
	// No server.
	l.gone, l.released = true, nil
	_, _, err = w.h.CreateEndpoint(ctx, n, []byte(`{}`))
	var refused *model.Error
	if !errors.As(err, &refused) || refused.Code != hcn.HCN_E_ADDR_INVALID_OR_RESERVED || refused.HTTPStatus() != 504 || refused.Field != "IpConfigurations" {
		t.Errorf("%v", err)
	}
	if len(w.h.World().AllEndpoints()) != 4 || l.released != nil {
		t.Errorf("%d endpoints, given back %v", len(w.h.World().AllEndpoints()), l.released)
	}
	w.consistent()
}

// TestLendIsStored: a lease is in the store with its times, and is there for another
// daemon; more time alone moves no hand.
func TestLendIsStored(t *testing.T) {
	w, l, n := lendingWorld(t)
	ctx := context.Background()
	e, _, err := w.h.CreateEndpoint(ctx, n, []byte(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	more := *e.Lease
	more.Expires = more.Expires.Add(time.Hour).Round(0)
	applies := w.k.applies
	if err := w.h.Lend(ctx, e.Doc.Id, more); err != nil || w.k.applies != applies {
		t.Error(err, w.k.applies-applies)
	}
	w.restart()
	if got, _ := w.h.World().Endpoint(e.Doc.Id); !got.Lease.Expires.Equal(more.Expires) || got.Lease.Addr != more.Addr || got.Doc.IpConfigurations[0].IpAddress != more.Addr.Addr().String() {
		t.Errorf("%+v", got.Lease)
	}
	w.h.o.Clients = l
	health := func() string {
		got, _ := w.h.World().Endpoint(e.Doc.Id)
		d, err := endpoints{w.h}.doc(got, true)
		if err != nil {
			t.Fatal(err)
		}
		return string(d.JSON)
	}
	if got := health(); !strings.Contains(got, `"LeaseExpires":"`+more.Expires.UTC().Format(time.RFC3339)+`","LeasedBy":"10.0.0.2","Status":"Ok"`) {
		t.Error(got)
	}
	if err := w.h.Lend(ctx, e.Doc.Id, model.DHCPLease{}); err != nil || w.k.applies == applies || len(l.set) != 1 || l.set[0].Lease.Addr.IsValid() {
		t.Error(err, l.set)
	}
	if got, _ := w.h.World().Endpoint(e.Doc.Id); len(got.Doc.IpConfigurations) != 0 {
		t.Errorf("%+v", got.Doc)
	}
	if got := health(); !strings.Contains(got, `"Status":"Degraded"`) {
		t.Error(got)
	}
	w.consistent()
}
