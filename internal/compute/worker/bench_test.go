// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package worker

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkRun takes a container through its life and reports each part, in
// milliseconds (medians): with a spare worker and without. The bare runtime runs
// the same root in between; ratio is of whole to it.
func BenchmarkRun(b *testing.B) {
	for _, spare := range []int{0, 1} {
		b.Run("spare="+strconv.Itoa(spare), func(b *testing.B) { benchmarkRun(b, spare) })
	}
}

func benchmarkRun(b *testing.B, spare int) {
	r := newRig(b)
	r.sp.Spare = spare
	parts := map[string][]float64{}
	add := func(what string, since time.Time) {
		parts[what] = append(parts[what], float64(time.Since(since).Microseconds())/1000)
	}
	cx := context.Background()
	for range b.N {
		if err := r.sp.Warm(); err != nil {
			b.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
		sp := r.spec("exit", "0")
		t0 := time.Now()
		c, err := r.sp.Spawn(cx, sp)
		if err != nil {
			b.Fatal(err)
		}
		add("spawn-ms", t0)
		s := attach(b, c, initKey, all())
		t1 := time.Now()
		if _, err := c.Start(cx); err != nil {
			b.Fatal(err)
		}
		add("start-ms", t1)
		t2 := time.Now()
		s.rest()
		add("exit-frame-ms", t2)
		add("whole-ms", t0)
		if rss, ok := proportional(c.PID()); ok {
			parts["pss-MiB"] = append(parts["pss-MiB"], rss)
		}
		t3 := time.Now()
		if err := c.Close(cx); err != nil {
			b.Fatal(err)
		}
		add("close-ms", t3)
		time.Sleep(20 * time.Millisecond)
		d, err := bareRun(r)
		if err != nil {
			b.Fatal(err)
		}
		parts["runc-ms"] = append(parts["runc-ms"], float64(d.Microseconds())/1000)
	}
	for what, xs := range parts {
		slices.Sort(xs)
		b.ReportMetric(xs[len(xs)/2], what)
	}
	whole, bare := parts["whole-ms"], parts["runc-ms"]
	b.ReportMetric(whole[len(whole)/2]/bare[len(bare)/2], "ratio")
}

func proportional(pid int) (float64, bool) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "Pss:"); ok {
			kb, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 64)
			return kb / 1024, true
		}
	}
	return 0, false
}
