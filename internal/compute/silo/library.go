// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package silo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/compute/held"
)

// A library OS is a silo whose runtime (runsc) brings a kernel in user space. What
// differs from any other runtime is here: its flags, that the processes we see are
// its own, so that signals go through it, and that it cannot change limits.

// libraryFlags come before the command of every invocation.
func libraryFlags(l held.Library, spec specs.Spec) []string {
	f := []string{"--platform=" + l.Platform,
		// What is written goes to our own upper directory.
		"--overlay2=none"}
	// Without a namespace of somebody's there is a loopback only, which is its own.
	network := "none"
	if spec.Linux != nil && slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.NetworkNamespace && n.Path != ""
	}) {
		network = "sandbox"
	}
	f = append(f, "--network="+network)
	if l.HostSockets {
		f = append(f, "--host-uds=open", "--host-fifo=open")
	}
	return f
}

// hideNetSysctls lets runsc believe that it is in no host's network namespace. It
// looks for /proc/sys/net/core/rmem_default there, which Linux shows in every
// namespace since 6.15, and refuses to begin. Documents that name the host's are
// refused before. It runs on the Thread, whose mounts nobody else sees. Seen with
// runsc 20221219, the newest of Debian 12; later ones look elsewhere.
func hideNetSysctls() error {
	if err := unix.Mount("none", "/proc/sys/net", "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=4k"); err != nil {
		return fmt.Errorf("hide /proc/sys/net: %w", err)
	}
	return nil
}

// internalPID reads the pid that a process has inside, and forgets the file.
func (e *Engine) internalPID(file string, host int) error {
	defer os.Remove(file)
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.inside[host] = pid
	e.mu.Unlock()
	return nil
}

// libraryKill has the runtime signal a process: what runs on the host is the
// runtime's own. Init's death is that of the whole sandbox.
func (e *Engine) libraryKill(ctx context.Context, pid, signal int) (bool, error) {
	if !e.runtime.reaper.Alive(pid) {
		return false, nil
	}
	e.mu.Lock()
	inside, exec := e.inside[pid]
	e.mu.Unlock()
	args := []string{"kill"}
	if exec {
		args = append(args, "--pid", strconv.Itoa(inside))
	}
	err := e.runtime.run(ctx, e.c.bundle(), stdio{}, append(args, e.c.ID, strconv.Itoa(signal))...)
	if err != nil && !e.runtime.reaper.Alive(pid) {
		return false, nil
	}
	return err == nil, err
}

// Limit writes limits into the group's own files.
func (g Cgroup) Limit(r specs.LinuxResources) error {
	var errs []error
	write := func(controller, file, text string) {
		if err := os.WriteFile(filepath.Join(g.dir(controller), file), []byte(text), 0); err != nil {
			errs = append(errs, fmt.Errorf("limit: %w", err))
		}
	}
	if m := r.Memory; m != nil && m.Limit != nil {
		errs = append(errs, g.limitMemory(*m.Limit, m.Swap))
	}
	if c := r.CPU; c != nil {
		if c.Quota != nil && c.Period != nil {
			errs = append(errs, g.LimitCPU(*c.Quota, *c.Period, 0))
		}
		if c.Shares != nil {
			write("cpu", "cpu.shares", strconv.FormatUint(*c.Shares, 10))
		}
		if c.Cpus != "" {
			write("cpuset", "cpuset.cpus", c.Cpus)
		}
	}
	for file, text := range r.Unified {
		write("cpu", file, text)
	}
	return errors.Join(errs...)
}

// limitMemory changes both limits of version 1 in the order that the kernel takes:
// the one of memory and swap together is never the lower.
func (g Cgroup) limitMemory(limit int64, swap *int64) error {
	write := func(file string, n int64) error {
		return os.WriteFile(filepath.Join(g.dir("memory"), file), []byte(strconv.FormatInt(n, 10)), 0)
	}
	if g.On.Unified() {
		err := write("memory.max", limit)
		if swap != nil {
			err = errors.Join(err, write("memory.swap.max", *swap-limit))
		}
		return err
	}
	const memory, both = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
	if swap == nil {
		return write(memory, limit)
	}
	now, err := strconv.ParseUint(g.read("memory", both), 10, 64)
	if err != nil || uint64(*swap) > now {
		if err := write(both, *swap); err != nil {
			return err
		}
		return write(memory, limit)
	}
	if err := write(memory, limit); err != nil {
		return err
	}
	return write(both, *swap)
}
