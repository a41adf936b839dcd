// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package silo

import (
	"math"
	"strconv"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/hcs"
)

// Statistics reads what the kernel counted. A part without a source is absent.
func (g Cgroup) Statistics(now time.Time) hcs.Statistics {
	s := hcs.Statistics{Timestamp: now}
	if !g.Exists() {
		return s
	}
	if g.On.Unified() {
		g.statsV2(&s)
	} else {
		g.statsV1(&s)
	}
	return s
}

func (g Cgroup) statsV1(s *hcs.Statistics) {
	if n, ok := number(g.read("cpuacct", "cpuacct.usage")); ok {
		user, _ := number(g.read("cpuacct", "cpuacct.usage_user"))
		sys, _ := number(g.read("cpuacct", "cpuacct.usage_sys"))
		s.Processor = &hcs.ProcessorStats{TotalRuntime100ns: n / 100, RuntimeUser100ns: user / 100, RuntimeKernel100ns: sys / 100}
	}
	if n, ok := number(g.read("memory", "memory.usage_in_bytes")); ok {
		peak, _ := number(g.read("memory", "memory.max_usage_in_bytes"))
		s.Memory = &hcs.MemoryStats{MemoryUsageCommitBytes: n, MemoryUsageCommitPeakBytes: peak,
			MemoryUsagePrivateWorkingSetBytes: sub(n, flatKey(g.read("memory", "memory.stat"), "total_inactive_file"))}
		// Without a limit the file shows the largest page-aligned int64.
		if l, ok := number(g.read("memory", "memory.limit_in_bytes")); ok && l < math.MaxInt64&^0xffff {
			s.Memory.LimitBytes = l
		}
	}
	if d := g.dir("blkio"); d != "" {
		st := hcs.StorageStats{}
		st.ReadCountNormalized, st.WriteCountNormalized = blkioV1(g.read("blkio", "blkio.throttle.io_serviced_recursive"))
		st.ReadSizeBytes, st.WriteSizeBytes = blkioV1(g.read("blkio", "blkio.throttle.io_service_bytes_recursive"))
		s.Storage = &st
	}
	g.statsPids(s)
}

func (g Cgroup) statsV2(s *hcs.Statistics) {
	if cpu := g.read("cpu", "cpu.stat"); cpu != "" {
		s.Processor = &hcs.ProcessorStats{TotalRuntime100ns: flatKey(cpu, "usage_usec") * 10,
			RuntimeUser100ns: flatKey(cpu, "user_usec") * 10, RuntimeKernel100ns: flatKey(cpu, "system_usec") * 10}
	}
	if n, ok := number(g.read("memory", "memory.current")); ok {
		peak, _ := number(g.read("memory", "memory.peak")) // since Linux 5.19
		s.Memory = &hcs.MemoryStats{MemoryUsageCommitBytes: n, MemoryUsageCommitPeakBytes: peak,
			MemoryUsagePrivateWorkingSetBytes: sub(n, flatKey(g.read("memory", "memory.stat"), "inactive_file"))}
		if l, ok := number(g.read("memory", "memory.max")); ok { // "max" = none
			s.Memory.LimitBytes = l
		}
	}
	if io := g.read("io", "io.stat"); io != "" {
		st := ioV2(io)
		s.Storage = &st
	}
	g.statsPids(s)
}

func (g Cgroup) statsPids(s *hcs.Statistics) {
	if n, ok := number(g.read("pids", "pids.current")); ok {
		s.Pids = &hcs.PidsStats{Current: n}
		if l, ok := number(g.read("pids", "pids.max")); ok {
			s.Pids.Limit = l
		}
	}
}

// blkioV1 sums "8:0 Read 4096" over devices.
func blkioV1(text string) (read, write uint64) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue // the last line is "Total n"
		}
		n, _ := strconv.ParseUint(f[2], 10, 64)
		switch f[1] {
		case "Read":
			read += n
		case "Write":
			write += n
		}
	}
	return read, write
}

// ioV2 sums "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0" over devices.
func ioV2(text string) hcs.StorageStats {
	var s hcs.StorageStats
	for f := range strings.FieldsSeq(text) {
		k, v, _ := strings.Cut(f, "=")
		n, _ := strconv.ParseUint(v, 10, 64)
		switch k {
		case "rbytes":
			s.ReadSizeBytes += n
		case "wbytes":
			s.WriteSizeBytes += n
		case "rios":
			s.ReadCountNormalized += n
		case "wios":
			s.WriteCountNormalized += n
		}
	}
	return s
}

func number(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil
}

func sub(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}
