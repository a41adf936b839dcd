// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/guest/modules"
)

// loader loads kernel modules from the initramfs, which it keeps open beyond the
// switch of the root.
type loader struct {
	dir  *os.File
	sets map[string][]string

	mu   sync.Mutex // guards what follows, and loads one set at a time
	done map[string]bool
}

func openModules(dir string) (*loader, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(dir, modules.Index))
	if err != nil {
		return nil, err
	}
	sets, err := modules.Parse(string(text))
	return &loader{dir: d, sets: sets, done: map[string]bool{}}, err
}

// load makes sure that a set is in the kernel.
func (l *loader) load(set string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range l.sets[set] {
		if l.done[name] {
			continue
		}
		if err := l.insert(name); err != nil {
			return fmt.Errorf("kernel module %s: %w", name, err)
		}
		l.done[name] = true
	}
	return nil
}

func (l *loader) insert(name string) error {
	fd, err := unix.Openat(int(l.dir.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.FinitModule(fd, "", 0); err != nil && err != unix.EEXIST {
		return err
	}
	return nil
}

// devices are the virtio devices (virtio specification, 5) that want a set.
var devices = map[string]string{"0x0001": modules.Net, "0x0004": modules.RNG, "0x0005": modules.Balloon,
	"0x0008": modules.SCSI, "0x001a": modules.VirtioFS}

// present are the sets that this machine's devices want.
func (l *loader) present() (sets []string, err error) {
	names, err := filepath.Glob("/sys/bus/virtio/devices/*/device")
	for _, n := range names {
		id, rerr := os.ReadFile(n)
		if errors.Is(rerr, fs.ErrNotExist) {
			continue
		}
		err = errors.Join(err, rerr)
		if set, ok := devices[strings.TrimSpace(string(id))]; ok {
			sets = append(sets, set)
		}
	}
	return sets, err
}

// loadRest loads what this machine's devices need, and what reports its end.
func (l *loader) loadRest() {
	want, err := l.present()
	if slices.Contains(want, modules.SCSI) {
		want = append(want, modules.EROFS, modules.Overlay)
	}
	for _, set := range append(want, modules.Panic) {
		err = errors.Join(err, l.load(set))
	}
	if err != nil {
		log("%v", err)
	}
}
