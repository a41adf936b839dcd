// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package nettest

import (
	"bufio"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// LeakOptions says where CheckLeaks looks.
type LeakOptions struct {
	// NS whose devices are compared; nil = the test's own namespace.
	NS *NS
	// Device prefix; "" = every device.
	Device string
	// Dirs below which mounts and files are compared, bpffs directories included.
	Dirs []string
	// Fds compares this process's open descriptors (kinds and counts).
	Fds bool
}

// CheckLeaks compares the kernel now with the kernel after the test and fails the
// test for whatever came and stayed. Call it before making anything.
func CheckLeaks(t testing.TB, o LeakOptions) {
	t.Helper()
	if o.NS == nil {
		o.NS = Host(t)
	}
	before := o.snapshot(t)
	t.Cleanup(func() {
		var left []string
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			// A dropped namespace takes its devices along a moment later.
			if left = more(before, o.snapshot(t)); len(left) == 0 {
				return
			}
			if time.Now().After(deadline) {
				break
			}
		}
		t.Errorf("left behind:\n\t%s", strings.Join(left, "\n\t"))
	})
}

func more(before, after []string) []string {
	rest := slices.Clone(before)
	var left []string
	for _, s := range after {
		if i := slices.Index(rest, s); i >= 0 {
			rest = slices.Delete(rest, i, i+1)
			continue
		}
		left = append(left, s)
	}
	return left
}

func (o LeakOptions) snapshot(t testing.TB) []string {
	t.Helper()
	var all []string
	links, err := o.NS.links()
	if err != nil {
		t.Error(err)
	}
	for _, l := range links {
		if strings.HasPrefix(l, o.Device) {
			all = append(all, "device "+l)
		}
	}
	mounts, err := Mounts()
	if err != nil {
		t.Error(err)
	}
	for _, d := range o.Dirs {
		for _, m := range mounts {
			if m == d || strings.HasPrefix(m, d+"/") {
				all = append(all, "mount "+m)
			}
		}
		_ = filepath.WalkDir(d, func(p string, _ fs.DirEntry, err error) error {
			if err == nil && p != d {
				all = append(all, "file "+p)
			}
			return nil
		})
	}
	if o.Fds {
		all = append(all, fds()...)
	}
	return all
}

// Mounts lists the mount points of this process's mount namespace.
func Mounts() ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []string
	s := bufio.NewScanner(f)
	for s.Scan() {
		if fields := strings.Fields(s.Text()); len(fields) > 4 { // proc_pid_mountinfo(5)
			all = append(all, strings.ReplaceAll(fields[4], `\040`, " "))
		}
	}
	return all, s.Err()
}

func fds() []string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil
	}
	var all []string
	for _, e := range entries {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil {
			continue // the directory's own
		}
		if kind, _, ok := strings.Cut(to, ":["); ok { // socket:[123] and the like
			to = kind
		}
		all = append(all, "descriptor "+to)
	}
	return all
}
