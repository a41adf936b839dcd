// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// repairPins pins again what another process unpinned, and says how much that was.
// Packets flow on without pins while we hold the descriptors: they are what keeps
// tail calls, flows and counters when this process ends.
func (d *Datapath) repairPins() (n int, err error) {
	var errs []error
	put := func(path string, pin func(string) error) {
		_, err := os.Lstat(path)
		if err == nil {
			return
		}
		if errors.Is(err, os.ErrNotExist) {
			if err = d.pinAgain(path, pin); err == nil {
				n++
				return
			}
		}
		errs = append(errs, fmt.Errorf("pin %s again: %w", path, err))
	}
	for _, name := range bpf.StateMaps() {
		put(filepath.Join(d.stateDir(), name), pinMap(d.state[name]))
	}
	for name, m := range d.gen.pinned() {
		put(filepath.Join(d.gen.dir, "maps", name), pinMap(m))
	}
	for name, p := range d.gen.coll.Programs {
		put(filepath.Join(d.gen.dir, "progs", name), func(path string) error {
			c, err := p.Clone()
			return pinClone(c, err, path)
		})
	}
	put(d.currentPin(), func(string) error { return d.setCurrent(d.gen.number) })
	if n > 0 {
		errs = append(errs, os.MkdirAll(d.linkDir(), 0o700)) // links have a look of their own
	}
	return n, errors.Join(errs...)
}

// pinAgain makes the way to a pin, too: whoever removes pins often removes all.
func (d *Datapath) pinAgain(path string, pin func(string) error) error {
	if err := mountBPF(d.o.Pins); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return pin(path)
}

func pinMap(m *ebpf.Map) func(string) error {
	return func(path string) error {
		c, err := m.Clone()
		return pinClone(c, err, path)
	}
}

// pinClone pins a clone, for the library believes the original to be pinned still.
func pinClone(c interface {
	io.Closer
	Pin(string) error
}, err error, path string) error {
	if err != nil {
		return err
	}
	return errors.Join(c.Pin(path), c.Close())
}
