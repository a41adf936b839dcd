// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// quiet is how much of one CPU processes that are not ours may use during a
// sample before it counts as noisy.
const quiet = 0.06

// userHZ is the unit of /proc's CPU times (USER_HZ, fixed in the kernel's ABI).
const userHZ = 100

// cpuWatch measures who used the CPUs since it was made.
type cpuWatch struct {
	t0      time.Time
	busy    float64
	foreign float64
}

func watchCPU() *cpuWatch {
	foreign := foreignCPU()
	return &cpuWatch{t0: time.Now(), busy: busyCPU(), foreign: foreign}
}

// used is what the CPUs worked since, in seconds, everything counted; and how much
// of one CPU strangers used.
func (w *cpuWatch) used() (busy, foreign float64) {
	wall := time.Since(w.t0).Seconds()
	busy = busyCPU() - w.busy
	foreign = max(0, foreignCPU()-w.foreign)
	return busy - foreign, foreign / wall
}

// busyCPU is the time all CPUs have spent with anything but idling.
func busyCPU() float64 {
	raw, _ := os.ReadFile("/proc/stat")
	line, _, _ := bytes.Cut(raw, []byte("\n"))
	f := strings.Fields(string(line))
	sum := 0.0
	// user nice system idle iowait irq softirq steal, proc(5)
	for _, i := range []int{1, 2, 3, 6, 7} {
		if i < len(f) {
			n, _ := strconv.ParseFloat(f[i], 64)
			sum += n / userHZ
		}
	}
	return sum
}

// cpuOf is the CPU time of a process, in seconds.
func cpuOf(pid int) float64 {
	raw, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	_, rest, _ := bytes.Cut(raw, []byte(") ")) // the name may hold anything
	sum := 0.0
	// utime, stime, proc(5)
	if f := strings.Fields(string(rest)); len(f) > 12 {
		for _, s := range f[11:13] {
			n, _ := strconv.ParseFloat(s, 64)
			sum += n / userHZ
		}
	}
	return sum
}

// foreignCPU is the CPU time of every process that neither descends from this one
// nor is a kernel thread, its ended and awaited children included: when one ends,
// its time moves to its parent and the sum stays.
func foreignCPU() float64 {
	type proc struct {
		parent int
		time   float64
	}
	all := map[int]proc{}
	dirs, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range dirs {
		raw, err := os.ReadFile(f)
		if err != nil {
			continue // it ended meanwhile
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		// pid (comm) state ppid …; comm may hold anything.
		rest := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
		if len(rest) < 15 {
			continue
		}
		p := proc{}
		p.parent, _ = strconv.Atoi(rest[1])
		for _, s := range rest[11:15] { // utime stime cutime cstime
			n, _ := strconv.ParseFloat(s, 64)
			p.time += n / userHZ
		}
		all[pid] = p
	}
	self := os.Getpid()
	foreign := 0.0
	for pid, p := range all {
		ours := false
		for up := pid; up > 0; up = all[up].parent {
			if up == self || up == 2 { // 2 = kthreadd
				ours = true
				break
			}
		}
		// An ancestor of ours collects our own children's time only when we end.
		if !ours {
			foreign += p.time
		}
	}
	return foreign
}
