// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/compartment"
	"gatehouse.dev/gatehouse/internal/compute/worker"
	"gatehouse.dev/gatehouse/internal/door/host"
	"gatehouse.dev/gatehouse/internal/instance"
	"gatehouse.dev/gatehouse/internal/network"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/store"
	"gatehouse.dev/gatehouse/internal/vswitch/datapath"
)

// systemRow is as much of a compute system's row as ownership needs.
type systemRow struct {
	ID        string
	State     string
	Forgotten bool
	Unclean   bool
}

// owns reports whether a system may still own anything: the zero row does not.
func (r systemRow) owns() bool { return r.ID != "" && (!r.Forgotten || r.Unclean) }

// systemRows are the compute systems that the store knows, by RuntimeId.
func systemRows(db *store.DB) (map[string]systemRow, error) {
	out := map[string]systemRow{}
	err := db.View(func(tx *store.Tx) error {
		return store.Bucket[systemRow]{Name: "systems"}.Each(tx, func(k string, r systemRow) error {
			out[k] = r
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read compute systems: %w", err)
	}
	return out, nil
}

// ledger is what the store says should be, and what of the kernel was found.
type ledger struct {
	inst    instance.Instance
	world   model.World
	systems map[string]systemRow
	// serving: the daemon runs, or what it plugged goes on without it. Then the
	// switch itself (anchor, pins, filters) belongs to it.
	serving bool
	host.Leaks
}

func (l *ledger) put(kind, name, of string) {
	o := host.Object{Kind: kind, Name: name, Of: of}
	l.Owned = append(l.Owned, o)
	if of == "" {
		l.Orphans = append(l.Orphans, o)
	}
}

// find fills the ledger from the kernel and the disk.
func (l *ledger) find() error {
	l.Root = l.inst.Root
	l.Orphans = []host.Object{}
	d := l.world.Desired()
	owner := map[string]string{}
	for _, n := range d.HostNICs {
		owner[n.Name], owner[n.SwitchName] = "network "+n.Network, "network "+n.Network
	}
	for _, n := range d.Tunnels {
		owner[n.Name] = "the switch"
	}
	for _, t := range d.Taps {
		owner[t.Name] = "endpoint " + t.Endpoint
	}
	for c := range d.AllCompartments() {
		owner[c.Path] = "namespace " + c.ID
		for _, v := range c.VNICs {
			owner[v.PortName] = "endpoint " + v.Endpoint
		}
	}
	for p := range d.Switch.AllPorts() {
		if p.EgressBps != 0 {
			owner[p.Shaper], owner[p.ShaperPeer] = "endpoint "+p.Object, "endpoint "+p.Object
		}
	}
	netns := filepath.Join(l.inst.Run, "netns")
	if l.serving {
		for _, n := range []string{l.inst.AnchorDevice(), l.inst.AnchorPeer(), netns} {
			owner[n] = "the switch"
		}
	}
	inv, err := compartment.Owned(l.inst)
	if err != nil {
		return err
	}
	for _, n := range inv.Devices {
		l.put("device", n, owner[n])
	}
	for _, p := range inv.Namespaces {
		l.put("namespace", p, owner[p])
	}
	for _, p := range inv.Mounts {
		l.put("mount", p, owner[p])
	}
	of := ""
	if l.serving {
		of = "the switch"
	}
	pins, err := datapath.Owned(datapath.Options{Pins: l.inst.Pins, Block: l.inst.Block})
	if err != nil {
		return err
	}
	for _, p := range pins {
		kind, name, _ := strings.Cut(p, " ")
		l.put(kind, name, of)
	}
	return l.findSystems()
}

func (l *ledger) findSystems() error {
	system := func(rid string) string {
		if r := l.systems[rid]; r.owns() {
			return "system " + r.ID
		}
		return ""
	}
	h, err := worker.Owned(l.inst)
	if err != nil {
		return err
	}
	for _, w := range h.Workers {
		of := system(w.RuntimeID)
		if !w.Alive && l.systems[w.RuntimeID].State != "Stopped" {
			of = "" // nobody holds what the store says is held
		}
		l.put("worker", w.Dir, of)
	}
	for _, c := range h.Cgroups {
		l.put("cgroup", c.Path, system(c.RuntimeID))
	}
	for _, p := range h.RuntimeState {
		l.put("runtime state", p, system(strings.TrimPrefix(filepath.Base(p), "gh-")))
	}
	for _, dir := range []struct {
		kind, path string
		of         func(string) string
	}{
		{"scratch", filepath.Join(l.inst.Lib, "scratch"), system},
		{"half an image", filepath.Join(l.inst.Lib, "ingest"), func(string) string {
			if l.serving {
				return "a running pull or load"
			}
			return ""
		}},
	} {
		es, err := os.ReadDir(dir.path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range es {
			l.put(dir.kind, filepath.Join(dir.path, e.Name()), dir.of(e.Name()))
		}
	}
	return nil
}

// leaks is what a running daemon says of itself.
func (d *daemon) leaks(ctx context.Context) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	// What was pruned a moment ago may still be on its way out.
	if err := d.comp.Settle(ctx); err != nil {
		return nil, err
	}
	rows, err := systemRows(d.db)
	if err != nil {
		return nil, err
	}
	l := ledger{inst: d.inst, world: d.hns.World(), systems: rows, serving: true}
	if err := l.find(); err != nil {
		return nil, err
	}
	return l.Leaks, nil
}

// Leaks looks at a root that no daemon serves, and with remove takes its orphans
// away. Where something of the root goes on without its daemon, that stays.
func Leaks(ctx context.Context, root string, remove bool) (host.Leaks, error) {
	inst, err := instance.New(root)
	if err != nil {
		return host.Leaks{}, err
	}
	l, err := look(inst)
	if err != nil || !remove || len(l.Orphans) == 0 {
		return l.Leaks, err
	}
	errs := []error{worker.Sweep(ctx, inst)}
	if !l.serving {
		errs = append(errs, datapath.Destroy(datapath.Options{Pins: inst.Pins, Block: inst.Block}), compartment.Destroy(ctx, inst))
	}
	for _, o := range l.Orphans {
		if o.Kind == "scratch" || o.Kind == "half an image" {
			errs = append(errs, os.RemoveAll(o.Name))
		}
	}
	again, err := look(inst)
	return again.Leaks, errors.Join(append(errs, err)...)
}

func look(inst instance.Instance) (*ledger, error) {
	l := &ledger{inst: inst, world: model.New(inst), systems: map[string]systemRow{}}
	db, err := store.OpenReadOnly(inst.Store())
	switch {
	case errors.Is(err, fs.ErrNotExist): // nothing is known: all that is found is orphaned
	case errors.Is(err, store.ErrLocked):
		return l, fmt.Errorf("a daemon uses %s but does not answer; ask it with --socket", inst.Lib)
	case err != nil:
		return l, err
	default:
		defer db.Close()
		if l.world, err = network.Read(inst, db); err != nil {
			return l, err
		}
		if l.systems, err = systemRows(db); err != nil {
			return l, err
		}
		l.serving = len(l.world.AllEndpoints()) > 0
	}
	return l, l.find()
}
