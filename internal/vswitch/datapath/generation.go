// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/cilium/ebpf"

	"gatehouse.dev/gatehouse/internal/failpoint"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// generation is one load of the whole object: programs, their tail-call array and
// the configuration they read.
type generation struct {
	number uint32
	dir    string
	coll   *ebpf.Collection
	second *ebpf.Program // another instance of the uplinks' program; see moveTCXFirst
}

func (g *generation) close() error {
	g.coll.Close()
	return g.second.Close() // nil closes well
}

// pinned yields the maps that have pins; the scratch maps of constants (.rodata
// and such) are held by the programs.
func (g *generation) pinned() iter.Seq2[string, *ebpf.Map] {
	return func(yield func(string, *ebpf.Map) bool) {
		for _, name := range slices.Concat(bpf.ConfigMaps(), bpf.PrivateMaps()) {
			if m := g.coll.Maps[name]; m != nil && !yield(name, m) {
				return
			}
		}
	}
}

func (g *generation) program(name string) (*ebpf.Program, error) {
	p := g.coll.Programs[name]
	if p == nil {
		return nil, fmt.Errorf("program %s: not in the object", name)
	}
	return p, nil
}

// loadGeneration loads and pins the next generation. On an error nothing of it
// stays.
func (d *Datapath) loadGeneration(spec *ebpf.CollectionSpec) (_ *generation, err error) {
	if err := failpoint.Hit("datapath.call"); err != nil {
		return nil, err
	}
	last, err := d.lastGeneration()
	if err != nil {
		return nil, err
	}
	g := &generation{number: last + 1}
	g.dir = filepath.Join(d.genRoot(), strconv.Itoa(int(g.number)))
	shared := maps.Clone(d.state)
	shared[bpf.SwitchMapSamples] = d.samples
	g.coll, err = ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
	if err != nil {
		return nil, fmt.Errorf("load programs: %w", err)
	}
	defer func() {
		if err != nil {
			g.close()
			_ = os.RemoveAll(g.dir)
		}
	}()
	for _, sub := range []string{"maps", "progs"} {
		if err := os.MkdirAll(filepath.Join(g.dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	for name, m := range g.pinned() {
		if err := m.Pin(filepath.Join(g.dir, "maps", name)); err != nil {
			return nil, fmt.Errorf("generation %d: %w", g.number, err)
		}
	}
	for name, p := range g.coll.Programs {
		if err := p.Pin(filepath.Join(g.dir, "progs", name)); err != nil {
			return nil, fmt.Errorf("generation %d: %w", g.number, err)
		}
	}
	return g, nil
}

// generations lists the numbers that have a directory.
func (d *Datapath) generations() ([]uint32, error) {
	entries, err := os.ReadDir(d.genRoot())
	if err != nil {
		return nil, err
	}
	var all []uint32
	for _, e := range entries {
		if n, err := strconv.ParseUint(e.Name(), 10, 32); err == nil {
			all = append(all, uint32(n))
		}
	}
	return all, nil
}

// lastGeneration is the highest number that is or was in use.
func (d *Datapath) lastGeneration() (uint32, error) {
	all, err := d.generations()
	if err != nil {
		return 0, err
	}
	last := uint32(0)
	if m, err := ebpf.LoadPinnedMap(d.currentPin(), nil); err == nil {
		_ = m.Lookup(uint32(0), &last) // 0 when it was never written
		m.Close()
	}
	for _, n := range all {
		last = max(last, n)
	}
	return last, nil
}

func (d *Datapath) currentPin() string { return filepath.Join(d.o.Pins, "current") }

// setCurrent notes the generation for people and tools that look from outside.
func (d *Datapath) setCurrent(n uint32) error {
	if err := failpoint.Hit("datapath.call"); err != nil {
		return err
	}
	m, err := ebpf.LoadPinnedMap(d.currentPin(), nil)
	if errors.Is(err, os.ErrNotExist) {
		m, err = ebpf.NewMap(&ebpf.MapSpec{Name: "gh_current", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
		if err == nil {
			if err = m.Pin(d.currentPin()); err != nil {
				m.Close()
			}
		}
	}
	if err != nil {
		return fmt.Errorf("note current generation: %w", err)
	}
	defer m.Close()
	if err := m.Put(uint32(0), n); err != nil {
		return fmt.Errorf("note current generation: %w", err)
	}
	return nil
}

// removeGenerations unpins all generations but keep and those of which a program
// is attached: unpinning one of these would empty its tail-call array.
func (d *Datapath) removeGenerations(keep *generation) error {
	all, err := d.generations()
	if err != nil {
		return err
	}
	attached, err := d.attachedPrograms()
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range all {
		if keep != nil && n == keep.number {
			continue
		}
		dir := filepath.Join(d.genRoot(), strconv.Itoa(int(n)))
		used, err := anyProgram(filepath.Join(dir, "progs"), attached)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if used {
			continue
		}
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

// anyProgram reports whether a program pinned in dir is one of ids.
func anyProgram(dir string, ids map[ebpf.ProgramID]bool) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil // killed before the directory was made
	}
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		p, err := ebpf.LoadPinnedProgram(filepath.Join(dir, e.Name()), nil)
		if err != nil {
			return false, err
		}
		info, err := p.Info()
		p.Close()
		if err != nil {
			return false, err
		}
		if id, ok := info.ID(); ok && ids[id] {
			return true, nil
		}
	}
	return false, nil
}
