// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"gatehouse.dev/gatehouse/internal/instance"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/store"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// fake is a kernel that does what it is told, remembers it (in a file, if it has
// one, so that it outlives a process), and fails where asked.
type fake struct {
	mu   sync.Mutex
	file string

	Devices map[string]int // name -> ifindex
	Spaces  map[string]bool
	Tables  string
	Next    int

	names     [][]model.NameRecord
	resolvers []model.Resolver
	ports     []model.HostPort
	resets    []vswitch.PortID
	applies   int
	more      netip.Prefix // address of another uplink
	// fail says where: "ports", "ensure", "apply", "prune"; the count goes down.
	fail map[string]int
}

var errBoom = errors.New("boom")

func newFake(file string) *fake {
	f := &fake{file: file, Devices: map[string]int{}, Spaces: map[string]bool{}, Next: 10, fail: map[string]int{}}
	if raw, err := os.ReadFile(file); err == nil {
		_ = json.Unmarshal(raw, f)
	}
	return f
}

func (f *fake) save() {
	if f.file == "" {
		return
	}
	raw, _ := json.Marshal(f)
	_ = os.WriteFile(f.file, raw, 0o600)
}

func (f *fake) failing(where string) error {
	if f.fail[where] > 0 {
		f.fail[where]--
		return fmt.Errorf("%s: %w", where, errBoom)
	}
	return nil
}

func wantedBy(d model.Desired) (devices []string, spaces []string) {
	for _, n := range d.HostNICs {
		devices = append(devices, n.Name, n.SwitchName)
	}
	for _, t := range d.Taps {
		devices = append(devices, t.Name)
	}
	for c := range d.AllCompartments() {
		spaces = append(spaces, c.Path)
		for _, v := range c.VNICs {
			devices = append(devices, v.PortName)
		}
	}
	return devices, spaces
}

func (f *fake) Ensure(ctx context.Context, d model.Desired) (vswitch.Facts, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	devices, spaces := wantedBy(d)
	var err error
	for _, n := range devices {
		if _, ok := f.Devices[n]; !ok {
			if err = f.failing("ensure"); err != nil {
				break // half of it is there
			}
			f.Next++
			f.Devices[n] = f.Next
		}
	}
	for _, s := range spaces {
		f.Spaces[s] = true
	}
	f.save()
	facts := vswitch.Facts{Ifindex: map[string]int{}, Anchor: 2, NetnsCookie: 1}
	for n, i := range f.Devices {
		facts.Ifindex[n] = i
	}
	facts.Uplinks = []vswitch.Uplink{{Name: "up0", Ifindex: 3, MTU: 1500, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.4/24")}}}
	facts.HostAddrs = []netip.Addr{netip.MustParseAddr("10.0.0.4")}
	if f.more.IsValid() {
		facts.Uplinks = append(facts.Uplinks, vswitch.Uplink{Name: "up1", Ifindex: 4, MTU: 1500, Addrs: []netip.Prefix{f.more}})
		facts.HostAddrs = append(facts.HostAddrs, f.more.Addr())
	}
	for _, n := range d.HostNICs {
		for _, a := range n.Addrs {
			facts.HostAddrs = append(facts.HostAddrs, a.Addr())
		}
	}
	return facts, err
}

func (f *fake) Leaving() <-chan struct{} { return nil }

func (f *fake) Prune(ctx context.Context, d model.Desired) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.failing("prune"); err != nil {
		return err
	}
	devices, spaces := wantedBy(d)
	for n := range f.Devices {
		if !slices.Contains(devices, n) {
			delete(f.Devices, n)
		}
	}
	for s := range f.Spaces {
		if !slices.Contains(spaces, s) {
			delete(f.Spaces, s)
		}
	}
	f.save()
	return nil
}

func (f *fake) Apply(ctx context.Context, t vswitch.Tables) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.failing("apply"); err != nil {
		return err
	}
	f.applies++
	f.Tables = t.String()
	f.save()
	return ctx.Err()
}

func (f *fake) ResetStats(p vswitch.PortID) error { f.resets = append(f.resets, p); return nil }

func (f *fake) setNames(names [][]model.NameRecord, rs []model.Resolver) {
	f.names, f.resolvers = names, rs
}

// fakeNames and fakePorts have their Set under their own types.
type fakeNames struct{ *fake }

func (f fakeNames) Set(n [][]model.NameRecord, r []model.Resolver) { f.setNames(n, r) }

type fakePorts struct{ *fake }

func (f fakePorts) Set(_ context.Context, want []model.HostPort) []error {
	var errs []error
	for i, p := range want {
		if !slices.Contains(f.ports, p) {
			if err := f.failing("ports"); err != nil {
				errs = make([]error, len(want))
				errs[i] = err
			}
		}
	}
	f.ports = want
	return errs
}

func (f fakePorts) Check(p model.HostPort) error {
	if p.Port == 22 {
		return errors.New("held by sshd")
	}
	return nil
}

func (f fakePorts) Free(uint8, netip.Addr) (uint16, error) { return 61000, nil }

// world of a test: a real store, a fake kernel.
type world struct {
	t   testing.TB
	dir string
	k   *fake
	db  *store.DB
	h   *HNS
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, dir: t.TempDir()}
	w.k = newFake("")
	w.start()
	t.Cleanup(func() { w.db.Close() })
	return w
}

func open(dir string, k *fake) (*HNS, *store.DB, error) {
	inst, err := instance.New(dir)
	if err != nil {
		return nil, nil, err
	}
	db, err := store.Open(filepath.Join(dir, "s.db"))
	if err != nil {
		return nil, nil, err
	}
	h := New(Options{
		Instance: inst, Store: db, Compartments: k, Datapath: k, Names: fakeNames{k}, Ports: fakePorts{k},
		HostRoutes: func() ([]netip.Prefix, error) { return nil, nil },
	})
	return h, db, h.Start(context.Background())
}

func (w *world) start() {
	w.t.Helper()
	h, db, err := open(w.dir, w.k)
	if err != nil {
		w.t.Fatal(err)
	}
	w.h, w.db = h, db
}

// restart is a daemon that ends and comes back over the same store and kernel.
func (w *world) restart() {
	w.t.Helper()
	w.h.Stop()
	w.db.Close()
	w.start()
}

// consistent checks that kernel, World and store agree.
func (w *world) consistent() {
	w.t.Helper()
	if err := consistent(w.h, w.k); err != nil {
		w.t.Error(err)
	}
}

func consistent(h *HNS, k *fake) error {
	d := h.World().Desired()
	devices, spaces := wantedBy(d)
	if len(k.Devices) != len(devices) || len(k.Spaces) != len(spaces) {
		return fmt.Errorf("kernel has %d devices and %d namespaces, wanted %d and %d", len(k.Devices), len(k.Spaces), len(devices), len(spaces))
	}
	for _, n := range devices {
		if k.Devices[n] == 0 {
			return fmt.Errorf("device %s is missing", n)
		}
	}
	t, err := vswitch.Compile(d.Switch, h.Facts())
	if err != nil {
		return err
	}
	if t.String() != k.Tables {
		return fmt.Errorf("tables are\n%s\nwant\n%s", k.Tables, t)
	}
	if !slices.Equal(d.HostPorts, k.ports) {
		return fmt.Errorf("ports held %v, want %v", k.ports, d.HostPorts)
	}
	if !slices.EqualFunc(d.Names, k.names, sameNames) || !slices.EqualFunc(d.Resolvers, k.resolvers, sameResolver) {
		return fmt.Errorf("names %v, want %v", k.names, d.Names)
	}
	loaded, _, err := h.load()
	if err != nil {
		return err
	}
	for _, pair := range [][2]int{
		{len(loaded.AllNetworks()), len(h.World().AllNetworks())},
		{len(loaded.AllEndpoints()), len(h.World().AllEndpoints())},
		{len(loaded.AllNamespaces()), len(h.World().AllNamespaces())},
		{len(loaded.AllLoadBalancers()), len(h.World().AllLoadBalancers())},
		{len(loaded.AllSDNRoutes()), len(h.World().AllSDNRoutes())},
		{len(loaded.AllReservations()), len(h.World().AllReservations())},
		{len(loaded.AllGuestServices()), len(h.World().AllGuestServices())},
	} {
		if pair[0] != pair[1] {
			return fmt.Errorf("the store has %d objects of a kind, the World %d", pair[0], pair[1])
		}
	}
	return nil
}
