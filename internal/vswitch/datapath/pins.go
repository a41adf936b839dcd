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
		if err := d.pinAgain(path, pin); err != nil {
			errs = append(errs, fmt.Errorf("pin %s again: %w", path, err))
			return
		}
		n++
	}
	// lacks reads a directory once: a look at each pin would cost several times that.
	lacks := func(dir string) func(name string) bool {
		there := map[string]bool{}
		f, err := os.Open(dir)
		if err == nil {
			var names []string
			names, err = f.Readdirnames(-1)
			f.Close()
			for _, name := range names {
				there[name] = true
			}
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
			return func(string) bool { return false }
		}
		return func(name string) bool { return !there[name] }
	}
	dir := d.stateDir()
	gone := lacks(dir)
	for _, name := range bpf.StateMaps() {
		if gone(name) {
			put(filepath.Join(dir, name), pinMap(d.state[name]))
		}
	}
	dir = filepath.Join(d.gen.dir, "maps")
	gone = lacks(dir)
	for name, m := range d.gen.pinned() {
		if gone(name) {
			put(filepath.Join(dir, name), pinMap(m))
		}
	}
	dir = filepath.Join(d.gen.dir, "progs")
	gone = lacks(dir)
	for name, p := range d.gen.coll.Programs {
		if gone(name) {
			put(filepath.Join(dir, name), func(path string) error {
				c, err := p.Clone()
				return pinClone(c, err, path)
			})
		}
	}
	gone = lacks(d.o.Pins)
	if d.macs != nil && gone(filepath.Base(macsPin(d.o.Pins))) {
		put(macsPin(d.o.Pins), pinMap(d.macs))
	}
	if gone(filepath.Base(d.currentPin())) {
		put(d.currentPin(), func(string) error { return d.setCurrent(d.gen.number) })
	}
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
