// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package silo

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Make creates the group in every hierarchy, for processes that no OCI runtime
// puts there.
func (g Cgroup) Make() error {
	if g.On.V2 != "" {
		if err := g.makeV2(); err != nil {
			return fmt.Errorf("make cgroup %s: %w", g.Path, err)
		}
	}
	for controller, m := range g.On.V1 {
		d := filepath.Join(m, g.Path)
		err := os.MkdirAll(d, 0o755)
		if err == nil && controller == "cpuset" {
			err = fillCpuset(m, g.Path)
		}
		if err != nil {
			return fmt.Errorf("make cgroup %s: %w", g.Path, err)
		}
	}
	return nil
}

// makeV2 hands each controller down as far as it goes: one that a parent does not
// have is not missed.
func (g Cgroup) makeV2() error {
	d := g.On.V2
	for part := range strings.SplitSeq(strings.Trim(g.Path, "/"), "/") {
		for _, c := range []string{"cpu", "cpuset", "memory", "pids", "io"} {
			_ = os.WriteFile(filepath.Join(d, "cgroup.subtree_control"), []byte("+"+c), 0)
		}
		d = filepath.Join(d, part)
		if err := os.Mkdir(d, 0o755); err != nil && !os.IsExist(err) {
			return err
		}
	}
	return nil
}

// fillCpuset copies a parent's sets, without which a group takes no process.
func fillCpuset(mount, path string) error {
	d := mount
	for part := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		parent := d
		d = filepath.Join(d, part)
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			b, err := os.ReadFile(filepath.Join(d, f))
			if err != nil {
				return err
			}
			if len(bytes.TrimSpace(b)) > 0 {
				continue
			}
			if b, err = os.ReadFile(filepath.Join(parent, f)); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(d, f), b, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// Join moves a process into the group.
func (g Cgroup) Join(pid int) error {
	var errs []error
	for _, d := range g.On.Dirs(g.Path) {
		if err := os.WriteFile(filepath.Join(d, "cgroup.procs"), fmt.Append(nil, pid), 0); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// LimitCPU sets quota and period in µs, and a weight whose default is 100; 0
// leaves one as it is.
func (g Cgroup) LimitCPU(quota int64, period, weight uint64) error {
	write := func(file, text string) error {
		return os.WriteFile(filepath.Join(g.dir("cpu"), file), []byte(text), 0)
	}
	var errs []error
	if g.On.Unified() {
		if quota > 0 {
			errs = append(errs, write("cpu.max", fmt.Sprintf("%d %d", quota, period)))
		}
		if weight > 0 {
			errs = append(errs, write("cpu.weight", strconv.FormatUint(min(weight, 10000), 10)))
		}
		return errors.Join(errs...)
	}
	if quota > 0 {
		errs = append(errs, write("cpu.cfs_period_us", strconv.FormatUint(period, 10)), write("cpu.cfs_quota_us", strconv.FormatInt(quota, 10)))
	}
	if weight > 0 {
		errs = append(errs, write("cpu.shares", strconv.FormatUint(min(max((weight*1024+50)/100, 2), 262144), 10)))
	}
	return errors.Join(errs...)
}
