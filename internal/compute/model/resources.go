// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gatehouse.dev/gatehouse/hcs"
)

const (
	period     = 100_000   // µs, the kernel's and Docker's default
	longPeriod = 1_000_000 // µs, the kernel's largest
	minQuota   = 1_000     // µs, the kernel's floor, kernel/sched/core.c min_cfs_quota_period
)

// Memory is the OCI form of a memory limit: swap included, so that there is none
// beyond it.
func Memory(mib uint64, f Facts) *specs.LinuxMemory {
	if mib == 0 {
		return nil
	}
	limit := int64(mib) << 20
	m := &specs.LinuxMemory{Limit: &limit}
	if !f.NoSwapLimit {
		swap := limit
		m.Swap = &swap
	}
	return m
}

// CPU is the OCI form of processor limits, with what goes to the unified hierarchy.
func CPU(p hcs.Processor, f Facts) (*specs.LinuxCPU, map[string]string) {
	var c specs.LinuxCPU
	var unified map[string]string
	switch {
	case p.Count > 0:
		c.Quota, c.Period = quota(int64(p.Count)*period, period)
	case p.Maximum > 0:
		share := p.Maximum * int64(max(f.CPUs, 1))
		q, per := share*period/10000, int64(period)
		if q < minQuota {
			q, per = share*longPeriod/10000, longPeriod
		}
		c.Quota, c.Period = quota(q, per)
	case p.Weight > 0 && f.Cgroup == CgroupV2:
		// The runtime's conversion of shares would make 39 of the default.
		unified = map[string]string{"cpu.weight": strconv.FormatInt(min(max(p.Weight, 1), 10000), 10)}
	case p.Weight > 0:
		s := uint64(min(max((p.Weight*1024+50)/100, 2), 262144))
		c.Shares = &s
	}
	c.Cpus = p.Cpus
	if c.Quota == nil && c.Shares == nil && c.Cpus == "" {
		return nil, unified
	}
	return &c, unified
}

func quota(q, per int64) (*int64, *uint64) {
	q = max(q, minQuota)
	p := uint64(per)
	return &q, &p
}

// Update is the OCI form of a modify request's new limits, and the document after
// it. Errors are *hcs.Error.
func Update(d hcs.ComputeSystem, path string, settings []byte, f Facts) (hcs.ComputeSystem, specs.LinuxResources, error) {
	c := *d.Container
	var r specs.LinuxResources
	switch path {
	case hcs.ResourceMemory:
		n, err := number(settings, "SizeInMB")
		if err != nil {
			return d, r, err
		}
		m := hcs.Memory{SizeInMB: n}
		if n == 0 {
			return d, r, invalid("Settings.SizeInMB", "0: a limit is wanted")
		}
		if err := limits(hcs.Container{Memory: &m}, f); err != nil {
			return d, r, invalid("Settings.SizeInMB", "%d: at least %d are wanted", n, minMemoryMB)
		}
		c.Memory = &m
		r.Memory = Memory(n, f)
	case hcs.ResourceProcessor:
		p, _, err := hcs.Decode[hcs.Processor](settings)
		if err != nil {
			return d, r, err
		}
		if p == (hcs.Processor{}) {
			return d, r, invalid("Settings", "one of Count, Maximum, Weight, Cpus is wanted")
		}
		if err := Processor("Settings.", p, f); err != nil {
			return d, r, err
		}
		c.Processor = &p
		r.CPU, r.Unified = CPU(p, f)
	case hcs.ResourcePids:
		n, err := number(settings, "PidsLimit")
		if err != nil {
			return d, r, err
		}
		if n == 0 || n > 1<<22 {
			return d, r, invalid("Settings.PidsLimit", "%d: not within 1 and %d", n, 1<<22)
		}
		c.PidsLimit = int64(n)
		limit := c.PidsLimit
		r.Pids = &specs.LinuxPids{Limit: &limit}
	default:
		return d, r, refuse("ResourcePath", "%q: %s, %s and %s can be changed now", path, hcs.ResourceMemory, hcs.ResourceProcessor, hcs.ResourcePids)
	}
	d.Container = &c
	return d, r, nil
}

// number reads n or {"member": n}.
func number(settings []byte, member string) (uint64, error) {
	if n, err := strconv.ParseUint(string(settings), 10, 63); err == nil {
		return n, nil
	}
	m, err := members(settings)
	if err != nil {
		return 0, badJSON("Settings", "a number or {%q: number} is wanted", member)
	}
	n, err := strconv.ParseUint(string(m[member]), 10, 63)
	if err != nil {
		return 0, badJSON("Settings."+member, "%s", fmt.Sprintf("%q is no number", m[member]))
	}
	return n, nil
}
