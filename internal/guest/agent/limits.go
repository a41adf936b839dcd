// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package agent

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/guest/proto"
)

// setting is one write to a file of a cgroup.
type setting struct{ file, value string }

func (a *Agent) update(q proto.UpdateRequest) (any, error) {
	c, err := a.container(q.ContainerId)
	if err != nil {
		return nil, err
	}
	if c.hasEnded() {
		return nil, &hcs.Error{Code: hcs.CodeSystemAlreadyStopped}
	}
	return nil, setLimits(filepath.Join(cgroupRoot, c.group.Path), &q.Resources)
}

// setLimits writes every limit or, when one is refused, none.
func setLimits(dir string, r *specs.LinuxResources) error {
	var undo []setting
	for _, s := range settings(r) {
		path := filepath.Join(dir, s.file)
		was, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, []byte(s.value), 0)
		}
		if err != nil {
			err = &hcs.Error{Code: hcs.CodeInvalidArg, Field: "resources", Message: fmt.Sprintf("%s = %s", s.file, s.value), Err: err}
			for _, u := range slices.Backward(undo) {
				err = errors.Join(err, os.WriteFile(filepath.Join(dir, u.file), []byte(u.value), 0))
			}
			return err
		}
		undo = append(undo, setting{s.file, strings.TrimSpace(string(was))})
	}
	return nil
}

// settings are the limits of an OCI document as cgroup version 2 has them.
func settings(r *specs.LinuxResources) []setting {
	var out []setting
	set := func(file string, value any) { out = append(out, setting{file, fmt.Sprint(value)}) }
	limit := func(n int64) string {
		if n < 0 {
			return "max"
		}
		return strconv.FormatInt(n, 10)
	}
	if m := r.Memory; m != nil {
		if m.Swap != nil && m.Limit != nil && *m.Limit > 0 && *m.Swap >= *m.Limit {
			set("memory.swap.max", *m.Swap-*m.Limit) // there: memory and swap together
		} else if m.Swap != nil && *m.Swap < 0 {
			set("memory.swap.max", "max")
		}
		if m.Limit != nil && *m.Limit != 0 {
			set("memory.max", limit(*m.Limit))
		}
		if m.Reservation != nil && *m.Reservation != 0 {
			set("memory.low", limit(*m.Reservation))
		}
	}
	if c := r.CPU; c != nil {
		if c.Quota != nil || c.Period != nil {
			quota, period := "max", uint64(100000)
			if c.Quota != nil && *c.Quota > 0 {
				quota = limit(*c.Quota)
			}
			if c.Period != nil && *c.Period > 0 {
				period = *c.Period
			}
			set("cpu.max", fmt.Sprintf("%s %d", quota, period))
		}
		if c.Shares != nil && *c.Shares > 0 && r.Unified["cpu.weight"] == "" {
			// 1024 shares are what a weight of 100 is: the default of either.
			set("cpu.weight", min(max(*c.Shares*100/1024, 1), 10000))
		}
		if c.Cpus != "" {
			set("cpuset.cpus", c.Cpus)
		}
		if c.Mems != "" {
			set("cpuset.mems", c.Mems)
		}
	}
	if r.Pids != nil && r.Pids.Limit != nil && *r.Pids.Limit != 0 {
		set("pids.max", limit(*r.Pids.Limit))
	}
	for _, k := range slices.Sorted(maps.Keys(r.Unified)) {
		set(k, r.Unified[k])
	}
	return out
}
