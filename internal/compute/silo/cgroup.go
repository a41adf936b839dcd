// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package silo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Cgroups are the hierarchies of this host: version 1, version 2 or both side by
// side (hybrid: version 2 is there without controllers).
type Cgroups struct {
	// V1 maps a controller ("memory", "name=systemd") to its mount point.
	V1 map[string]string
	// V2 is the mount point of the unified hierarchy, "" if there is none.
	V2 string
}

// LoadCgroups reads the mounted hierarchies.
func LoadCgroups() (Cgroups, error) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return Cgroups{}, fmt.Errorf("cgroup hierarchies: %w", err)
	}
	return parseCgroupMounts(string(b)), nil
}

func parseCgroupMounts(mounts string) Cgroups {
	c := Cgroups{V1: map[string]string{}}
	known := []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "pids", "blkio", "net_cls",
		"net_prio", "perf_event", "hugetlb", "rdma", "misc"}
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		switch f[2] {
		case "cgroup2":
			if c.V2 == "" {
				c.V2 = f[1]
			}
		case "cgroup":
			for o := range strings.SplitSeq(f[3], ",") {
				if strings.HasPrefix(o, "name=") || slices.Contains(known, o) {
					if _, dup := c.V1[o]; !dup {
						c.V1[o] = f[1]
					}
				}
			}
		}
	}
	return c
}

// Unified reports whether version 2 has the controllers.
func (c Cgroups) Unified() bool { return c.V2 != "" && c.V1["memory"] == "" && c.V1["pids"] == "" }

// Mode is "v1", "hybrid" or "v2".
func (c Cgroups) Mode() string {
	switch {
	case c.Unified():
		return "v2"
	case c.V2 != "":
		return "hybrid"
	}
	return "v1"
}

// Dirs are the directories of path in each hierarchy, whether they exist or not.
func (c Cgroups) Dirs(path string) []string {
	var dirs []string
	for _, m := range c.V1 {
		if d := filepath.Join(m, path); !slices.Contains(dirs, d) {
			dirs = append(dirs, d)
		}
	}
	if c.V2 != "" {
		dirs = append(dirs, filepath.Join(c.V2, path))
	}
	slices.Sort(dirs)
	return dirs
}

// Cgroup is one group, by its path below each hierarchy's root.
type Cgroup struct {
	On   Cgroups
	Path string
}

// dir is where a controller of version 1, or version 2, has the group.
func (g Cgroup) dir(controller string) string {
	if g.On.Unified() {
		return filepath.Join(g.On.V2, g.Path)
	}
	if m := g.On.V1[controller]; m != "" {
		return filepath.Join(m, g.Path)
	}
	return ""
}

func (g Cgroup) read(controller, file string) string {
	d := g.dir(controller)
	if d == "" {
		return ""
	}
	b, err := os.ReadFile(filepath.Join(d, file))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// Processes are the pids in the group and below it, by every hierarchy.
func (g Cgroup) Processes() []int {
	var pids []int
	for _, d := range g.On.Dirs(g.Path) {
		pids = append(pids, treeProcs(d)...)
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

func treeProcs(dir string) []int {
	var pids []int
	// An absent directory and one that vanishes on the way hold nobody.
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			if p == dir {
				return fs.SkipAll
			}
			return fs.SkipDir
		}
		if !d.IsDir() {
			return nil
		}
		b, _ := os.ReadFile(filepath.Join(p, "cgroup.procs"))
		for f := range strings.FieldsSeq(string(b)) {
			// 0 is a process outside our pid namespace: not ours to kill.
			if n, err := strconv.Atoi(f); err == nil && n > 0 {
				pids = append(pids, n)
			}
		}
		return nil
	})
	return pids
}

// Empty reports whether no process is left.
func (g Cgroup) Empty() bool { return len(g.Processes()) == 0 }

// Kill ends every process of the group and returns when it is empty.
func (g Cgroup) Kill(ctx context.Context) error {
	for wait, pass := time.Millisecond, 0; ; pass++ {
		pids := g.Processes()
		if len(pids) == 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("kill cgroup %s: processes %v do not end: %w", g.Path, pids, err)
		}
		g.killOnce(pids, pass > 0)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, 50*time.Millisecond)
	}
}

func (g Cgroup) killOnce(pids []int, freeze bool) {
	if g.On.V2 != "" {
		// Since Linux 5.14; hybrid too, as the runtime joins the group there.
		_ = os.WriteFile(filepath.Join(g.On.V2, g.Path, "cgroup.kill"), []byte("1"), 0)
	}
	v1 := !g.On.Unified() && g.On.V1["freezer"] != ""
	if v1 && freeze { // a fork bomb outruns us otherwise
		_ = g.freezerState("FROZEN")
		pids = g.Processes()
	}
	for _, p := range pids {
		_ = unix.Kill(p, unix.SIGKILL)
	}
	if v1 { // a frozen task takes its SIGKILL only when thawed
		_ = g.freezerState("THAWED")
	}
}

func (g Cgroup) freezerState(s string) error {
	d := g.dir("freezer")
	if _, err := os.Stat(d); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(d, "freezer.state"), []byte(s), 0)
}

// Freeze stops (or lets go) every process and returns when that is so.
func (g Cgroup) Freeze(ctx context.Context, frozen bool) error {
	set, is := g.freezeV2, g.frozenV2
	if !g.On.Unified() && g.On.V1["freezer"] != "" {
		set, is = g.freezeV1, g.frozenV1
	}
	for wait := 200 * time.Microsecond; ; wait = min(2*wait, 20*time.Millisecond) {
		if err := set(frozen); err != nil {
			return fmt.Errorf("freeze cgroup %s: %w", g.Path, err)
		}
		if is() == frozen {
			return nil
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			if frozen { // never leave half of it frozen
				_ = set(false)
			}
			return fmt.Errorf("freeze cgroup %s: %w", g.Path, ctx.Err())
		}
	}
}

func (g Cgroup) freezeV1(on bool) error {
	if on {
		return g.freezerState("FROZEN")
	}
	return g.freezerState("THAWED")
}

func (g Cgroup) frozenV1() bool { return g.read("freezer", "freezer.state") == "FROZEN" }

func (g Cgroup) freezeV2(on bool) error {
	v := "0"
	if on {
		v = "1"
	}
	return os.WriteFile(filepath.Join(g.On.V2, g.Path, "cgroup.freeze"), []byte(v), 0)
}

func (g Cgroup) frozenV2() bool {
	b, _ := os.ReadFile(filepath.Join(g.On.V2, g.Path, "cgroup.events"))
	return flatKey(string(b), "frozen") == 1
}

// Frozen reports whether the group is stopped.
func (g Cgroup) Frozen() bool {
	if !g.On.Unified() && g.On.V1["freezer"] != "" {
		return g.frozenV1()
	}
	return g.frozenV2()
}

// OOMKills counts the processes that the kernel killed for want of memory.
func (g Cgroup) OOMKills() uint64 {
	if g.On.Unified() {
		return flatKey(g.read("memory", "memory.events"), "oom_kill")
	}
	return flatKey(g.read("memory", "memory.oom_control"), "oom_kill")
}

// pinnedMemory is what the kernel could take back only by killing, in bytes;
// known on version 2 alone.
func (g Cgroup) pinnedMemory() uint64 {
	if !g.On.Unified() {
		return 0
	}
	stat := g.read("memory", "memory.stat")
	used := flatKey(stat, "anon") + flatKey(stat, "shmem") + flatKey(stat, "kernel")
	return used - min(used, flatKey(stat, "slab_reclaimable"))
}

// Exists reports whether a hierarchy still has the group.
func (g Cgroup) Exists() bool {
	for _, d := range g.On.Dirs(g.Path) {
		if _, err := os.Stat(d); err == nil {
			return true
		}
	}
	return false
}

// Remove deletes the group and what is below it from every hierarchy. It waits
// for processes that are just ending, until ctx does.
func (g Cgroup) Remove(ctx context.Context) error {
	if g.Path == "" || filepath.Clean(g.Path) == "/" {
		return errors.New("remove cgroup: no path")
	}
	var errs []error
	for _, d := range g.On.Dirs(g.Path) {
		if err := removeTree(ctx, d); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// RemoveEmpty deletes the group itself where no group is below it. A last process
// may still be ending, and the kernel calls a group busy for a moment after it is
// out of the list: both are waited for, about four seconds at most.
func (g Cgroup) RemoveEmpty() {
	for _, d := range g.On.Dirs(g.Path) {
		for wait := time.Millisecond; wait < 4*time.Second; wait *= 2 {
			if unix.Rmdir(d) != unix.EBUSY || hasGroups(d) {
				break
			}
			time.Sleep(wait)
		}
	}
}

func hasGroups(dir string) bool {
	l, err := os.ReadDir(dir)
	return err == nil && slices.ContainsFunc(l, fs.DirEntry.IsDir)
}

func removeTree(ctx context.Context, dir string) error {
	var dirs []string
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, p)
		}
		return nil
	})
	slices.Reverse(dirs) // below first
	for _, d := range dirs {
		for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
			err := unix.Rmdir(d)
			if err == nil || err == unix.ENOENT {
				break
			}
			if err != unix.EBUSY {
				return fmt.Errorf("remove cgroup %s: %w", d, err)
			}
			select {
			case <-time.After(wait):
				continue
			case <-ctx.Done():
			}
			return fmt.Errorf("remove cgroup %s: %w", d, err)
		}
	}
	return nil
}

// flatKey reads one number of a "key value" file.
func flatKey(s, key string) uint64 {
	for line := range strings.Lines(s) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && k == key {
			n, _ := strconv.ParseUint(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}
