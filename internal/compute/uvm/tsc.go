// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package uvm

import (
	"os"
	"strconv"
	"strings"
)

// TSCKHz is the frequency of this host's time stamp counter, 0 if it is not known.
// A guest that is told need not measure it, at which emulated ones sometimes hang.
func TSCKHz() uint64 {
	if b, err := os.ReadFile("/sys/devices/system/cpu/cpu0/cpufreq/base_frequency"); err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err == nil {
			return n
		}
	}
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return 0
	}
	return tscOf(string(b))
}

// tscOf reads /proc/cpuinfo. The nominal frequency in the model's name, where
// there is one, is the counter's; that of the moment is so on virtual hosts only.
func tscOf(cpuinfo string) uint64 {
	khz := uint64(0)
	for line := range strings.Lines(cpuinfo) {
		k, v, _ := strings.Cut(line, ":")
		switch v = strings.TrimSpace(v); strings.TrimSpace(k) {
		case "model name":
			if _, at, ok := strings.Cut(v, "@ "); ok {
				if f, err := strconv.ParseFloat(strings.TrimSuffix(at, "GHz"), 64); err == nil {
					return uint64(f*1e6 + 0.5)
				}
			}
		case "cpu MHz":
			if f, err := strconv.ParseFloat(v, 64); err == nil && khz == 0 {
				khz = uint64(f * 1000)
			}
		case "": // the first processor's end
			if khz > 0 {
				return khz
			}
		}
	}
	return khz
}
