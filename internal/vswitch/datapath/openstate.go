// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// openState opens the pinned state maps, makes those that are missing, and
// carries over what programs with another layout have.
func (d *Datapath) openState(spec *ebpf.CollectionSpec) error {
	if err := d.setAsideState(spec); err != nil {
		return err
	}
	dirs, shared, err := d.stateInUse()
	if err != nil {
		return err
	}
	if len(dirs) > 0 && !shared {
		// Left by a start that did not come to its switch, and outdated since.
		if err := os.RemoveAll(d.stateDir()); err != nil {
			return err
		}
		if err := os.Mkdir(d.stateDir(), 0o700); err != nil {
			return err
		}
	}
	for _, name := range bpf.StateMaps() {
		m, err := openStateMap(filepath.Join(d.stateDir(), name), spec.Maps[name])
		if err != nil {
			return fmt.Errorf("state map %s: %w", name, err)
		}
		d.state[name] = m
	}
	return d.startCarryover(spec, dirs, shared)
}

func openStateMap(path string, ms *ebpf.MapSpec) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return m, err
	}
	if m, err = ebpf.NewMap(ms); err != nil {
		return nil, err
	}
	if err := m.Pin(path); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// setAsideState gives the directory of our layout another name when a map in it
// is not laid out as ours, or not as large: builds between two releases may say
// the same version of different layouts. It is then another layout's.
func (d *Datapath) setAsideState(spec *ebpf.CollectionSpec) error {
	var why error
	for _, name := range bpf.StateMaps() {
		ms := spec.Maps[name]
		if ms == nil {
			return fmt.Errorf("state map %s: not in the object", name)
		}
		if why = fits(filepath.Join(d.stateDir(), name), ms); why != nil {
			why = fmt.Errorf("map %s: %w", name, why)
			break
		}
	}
	if why == nil {
		return nil
	}
	for i := 1; ; i++ {
		aside := fmt.Sprintf("%s-%d", d.stateDir(), i) // a bpffs takes no dots
		if _, err := os.Lstat(aside); !errors.Is(err, os.ErrNotExist) {
			if err != nil {
				return err
			}
			continue
		}
		d.log.Info("state of this version is laid out otherwise", "reason", why, "now", aside)
		if err := os.Rename(d.stateDir(), aside); err != nil {
			return err
		}
		return os.Mkdir(d.stateDir(), 0o700)
	}
}

// fits tells what is wrong with a pinned map; one that is not there fits.
func fits(path string, ms *ebpf.MapSpec) error {
	m, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer m.Close()
	if err := ms.Compatible(m); err != nil {
		return err
	}
	if ms.Key == nil || ms.Value == nil { // ring buffers
		return nil
	}
	key, value, err := mapTypes(m)
	if errors.Is(err, ebpf.ErrNotSupported) {
		return nil // made without BTF; the sizes have to do
	}
	if err != nil {
		return err
	}
	if !sameLayout(key, ms.Key) || !sameLayout(value, ms.Value) {
		return errors.New("another layout of keys or values")
	}
	return nil
}
