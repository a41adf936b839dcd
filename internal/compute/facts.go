// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"gatehouse.dev/gatehouse/internal/compute/model"
)

// HostFacts finds out what the compiler needs to know of this host.
func HostFacts(ociRuntime string) model.Facts {
	f := model.Facts{Cgroup: cgroupMode(), CPUs: hostCPUs()}
	if b, err := os.ReadFile("/proc/sys/kernel/cap_last_cap"); err == nil {
		f.LastCapability, _ = strconv.Atoi(strings.TrimSpace(string(b)))
	}
	if _, err := os.Stat("/proc/sys/kernel/seccomp/actions_avail"); err != nil {
		f.NoSeccomp = true
	}
	switch f.Cgroup {
	case model.CgroupV2: // the root group has no such file
		m, _ := filepath.Glob("/sys/fs/cgroup/*/memory.swap.max")
		f.NoSwapLimit = len(m) == 0
	default:
		m, _ := filepath.Glob("/sys/fs/cgroup/*/memory.memsw.limit_in_bytes")
		f.NoSwapLimit = len(m) == 0
	}
	f.MaxOpenFiles = maxOpenFiles()
	f.RecursiveReadOnly = slices.Contains(mountOptions(ociRuntime), "rro")
	return f
}

// maxOpenFiles is our own hard limit where it cannot be raised: without
// CAP_SYS_RESOURCE (24 in uapi/linux/capability.h), as in some VMs and containers.
func maxOpenFiles() uint64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		hex, ok := strings.CutPrefix(line, "CapEff:")
		if !ok {
			continue
		}
		eff, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		if err != nil || eff&(1<<24) != 0 {
			return 0
		}
		var l syscall.Rlimit
		if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
			return 0
		}
		return l.Max
	}
	return 0
}

func cgroupMode() model.CgroupMode {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return model.CgroupV2
	}
	mounts, err := os.Open("/proc/self/mounts")
	if err != nil {
		return model.CgroupV1
	}
	defer mounts.Close()
	for s := bufio.NewScanner(mounts); s.Scan(); {
		if f := strings.Fields(s.Text()); len(f) > 2 && f[2] == "cgroup2" {
			return model.CgroupHybrid
		}
	}
	return model.CgroupV1
}

// hostCPUs counts those online, not those that the daemon may use.
func hostCPUs() int {
	b, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return runtime.NumCPU()
	}
	n := 0
	for r := range strings.SplitSeq(strings.TrimSpace(string(b)), ",") {
		lo, hi, ranged := strings.Cut(r, "-")
		a, err := strconv.Atoi(lo)
		b := a
		if err == nil && ranged {
			b, err = strconv.Atoi(hi)
		}
		if err != nil {
			return runtime.NumCPU()
		}
		n += b - a + 1
	}
	return max(n, 1)
}

// mountOptions that the runtime says it knows; runc from 1.1 on.
func mountOptions(ociRuntime string) []string {
	out, err := exec.Command(ociRuntime, "features").Output()
	if err != nil {
		return nil
	}
	var f struct {
		MountOptions []string `json:"mountOptions"`
	}
	_ = json.Unmarshal(out, &f)
	return f.MountOptions
}
