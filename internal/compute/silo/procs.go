// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package silo

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/hcs"
)

// clockTicks per second of /proc/<pid>/stat: USER_HZ, 100 on every architecture
// that Linux offers us.
const clockTicks = 100

// ProcessDetails describes every process in the group. One that ends on the way
// is left out.
func (g Cgroup) ProcessDetails() []hcs.ProcessDetails {
	boot := bootTime()
	var out []hcs.ProcessDetails
	for _, pid := range g.Processes() {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		d, ok := parseStat(string(stat), boot)
		if !ok {
			continue
		}
		d.ProcessId = uint32(pid)
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		kb := func(key string) uint64 { return statusKB(string(status), key) << 10 }
		d.MemoryCommitBytes = kb("VmRSS") + kb("VmSwap")
		d.MemoryWorkingSetPrivateBytes = kb("RssAnon")
		d.MemoryWorkingSetSharedBytes = kb("RssFile") + kb("RssShmem")
		out = append(out, d)
	}
	return out
}

// parseStat reads name, times and start of proc_pid_stat(5).
func parseStat(s string, boot time.Time) (hcs.ProcessDetails, bool) {
	open, end := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
	if open < 0 || end < open {
		return hcs.ProcessDetails{}, false
	}
	f := strings.Fields(s[end+1:]) // f[0] is field 3, state
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return hcs.ProcessDetails{}, false
	}
	tick := func(i int) uint64 { n, _ := strconv.ParseUint(f[i-3], 10, 64); return n }
	const unit = uint64(10_000_000 / clockTicks) // 100 ns
	return hcs.ProcessDetails{
		ImageName: s[open+1 : end], UserTime100ns: tick(14) * unit, KernelTime100ns: tick(15) * unit,
		CreateTimestamp: boot.Add(time.Duration(tick(22)) * (time.Second / clockTicks)),
	}, true
}

func statusKB(s, key string) uint64 {
	for line := range strings.Lines(s) {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			n, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			return n
		}
	}
	return 0
}

func bootTime() time.Time {
	b, _ := os.ReadFile("/proc/stat")
	return time.Unix(int64(flatKey(string(b), "btime")), 0)
}
