// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package start

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcs"
)

var rlimits = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}

// privileges makes this thread what the process may be. Its order is that of the
// rights each step needs.
func (c *config) privileges() error {
	p := &c.Process
	var set capabilities
	if p.Capabilities != nil {
		var err error
		if set, err = parseCapabilities(p.Capabilities.Bounding, p.Capabilities.Effective, p.Capabilities.Permitted,
			p.Capabilities.Inheritable, p.Capabilities.Ambient); err != nil {
			return err
		}
	}
	if p.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("noNewPrivileges: %w", err)
		}
	} else if len(c.Seccomp) > 0 {
		// Without no_new_privs only who has CAP_SYS_ADMIN may set a filter.
		if err := setFilter(c.Seccomp); err != nil {
			return err
		}
	}
	for n := 0; unix.Prctl(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0) == nil; n++ {
		if set.bounding&(1<<n) == 0 {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(n), 0, 0, 0); err != nil {
				return fmt.Errorf("drop capability %d: %w", n, err)
			}
		}
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := ids(p.User.UID, p.User.GID, p.User.AdditionalGids); err != nil {
		return err
	}
	if err := set.apply(); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	return nil
}

// ids sets those of the calling thread alone, which is the one that executes.
func ids(uid, gid uint32, groups []uint32) error {
	var first unsafe.Pointer
	if len(groups) > 0 {
		first = unsafe.Pointer(&groups[0])
	}
	_, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(first), 0)
	runtime.KeepAlive(groups)
	if e != 0 {
		return fmt.Errorf("groups %v: %w", groups, e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)); e != 0 {
		return fmt.Errorf("group %d: %w", gid, e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
		return fmt.Errorf("user %d: %w", uid, e)
	}
	return nil
}

// capabilities as bit sets, CAP_CHOWN the lowest.
type capabilities struct{ bounding, effective, permitted, inheritable, ambient uint64 }

func parseCapabilities(bounding, effective, permitted, inheritable, ambient []string) (c capabilities, err error) {
	all := hcs.AllCapabilities()
	for _, s := range []struct {
		to    *uint64
		names []string
	}{{&c.bounding, bounding}, {&c.effective, effective}, {&c.permitted, permitted}, {&c.inheritable, inheritable}, {&c.ambient, ambient}} {
		for _, n := range s.names {
			i := slices.Index(all, strings.ToUpper(n))
			if i < 0 {
				return capabilities{}, fmt.Errorf("capability %q is none", n)
			}
			*s.to |= 1 << i
		}
	}
	return c, nil
}

func (c capabilities) apply() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(c.effective), Permitted: uint32(c.permitted), Inheritable: uint32(c.inheritable)},
		{Effective: uint32(c.effective >> 32), Permitted: uint32(c.permitted >> 32), Inheritable: uint32(c.inheritable >> 32)},
	}
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	for n := range 64 {
		if c.ambient&(1<<n) != 0 {
			if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(n), 0, 0); err != nil {
				return fmt.Errorf("ambient %d: %w", n, err)
			}
		}
	}
	return nil
}

// setFilter sets a seccomp filter on the calling thread.
func setFilter(filter []byte) error {
	if len(filter)%8 != 0 || len(filter)/8 > 4096 {
		return fmt.Errorf("seccomp: a filter of %d bytes", len(filter))
	}
	p := struct {
		n uint16
		f *byte
	}{uint16(len(filter) / 8), &filter[0]}
	_, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&p)))
	runtime.KeepAlive(filter)
	if e != 0 {
		return fmt.Errorf("seccomp: %w", e)
	}
	return nil
}
