// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcs

import (
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// AllCapabilities are the names in the order of their numbers,
// uapi/linux/capability.h; the last one is CAP_CHECKPOINT_RESTORE, 40.
func AllCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
		"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
		"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
		"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
		"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
		"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
	}
}

// DefaultCapabilities are what a container has unless it says otherwise: Docker's set.
func DefaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SYS_CHROOT", "CAP_MKNOD", "CAP_AUDIT_WRITE", "CAP_SETFCAP",
	}
}

// Capabilities is the default set with some added and dropped, for
// ProcessParameters.Oci.Capabilities. Names go with or without CAP_, in any case;
// ALL stands for every one. A name in both lists is dropped, but adding counts
// after dropping ALL, and dropping after adding ALL.
func Capabilities(add, drop []string) (*specs.LinuxCapabilities, error) {
	all := AllCapabilities()
	norm := func(in []string) (out []string, every bool, err error) {
		for _, c := range in {
			n := strings.ToUpper(strings.TrimSpace(c))
			if n == "ALL" || n == "CAP_ALL" {
				every = true
				continue
			}
			if !strings.HasPrefix(n, "CAP_") {
				n = "CAP_" + n
			}
			if !slices.Contains(all, n) {
				return nil, false, fmt.Errorf("capability %q: unknown", c)
			}
			out = append(out, n)
		}
		return out, every, nil
	}
	a, addAll, err := norm(add)
	if err != nil {
		return nil, err
	}
	d, dropAll, err := norm(drop)
	if err != nil {
		return nil, err
	}
	base := DefaultCapabilities()
	switch {
	case addAll:
		base = all
	case dropAll:
		base = nil
	}
	set := []string{}
	for _, c := range all {
		if slices.Contains(d, c) || !slices.Contains(base, c) && !slices.Contains(a, c) {
			continue
		}
		set = append(set, c)
	}
	return CapabilitySet(set), nil
}

// CapabilitySet makes names bounding, permitted and effective, as Docker does: not
// inheritable, not ambient.
func CapabilitySet(names []string) *specs.LinuxCapabilities {
	return &specs.LinuxCapabilities{Bounding: slices.Clone(names), Permitted: slices.Clone(names), Effective: slices.Clone(names)}
}
