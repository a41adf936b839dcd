// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package silo

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gatehouse.dev/gatehouse/hcs"
)

func TestParseCgroupMounts(t *testing.T) {
	for name, tc := range map[string]struct{ mounts, mode, memory string }{
		"v2":     {"cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nsdelegate 0 0\n", "v2", "/sys/fs/cgroup/x"},
		"hybrid": {"cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n", "hybrid", "/sys/fs/cgroup/memory/x"},
		"v1":     {"cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\ncgroup /c/memory cgroup rw,memory 0 0\n", "v1", "/c/memory/x"},
		"none":   {"proc /proc proc rw 0 0\nshort\n", "v1", ""},
	} {
		c := parseCgroupMounts(tc.mounts)
		if got := c.Mode(); got != tc.mode {
			t.Errorf("%s: mode %s, want %s", name, got, tc.mode)
		}
		if got := (Cgroup{On: c, Path: "/x"}).dir("memory"); got != tc.memory {
			t.Errorf("%s: memory in %q, want %q", name, got, tc.memory)
		}
	}
	c := parseCgroupMounts("cgroup /s/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\ncgroup /s/systemd cgroup rw,name=systemd 0 0\n")
	if diff := cmp.Diff([]string{"/s/cpu,cpuacct/g", "/s/systemd/g"}, c.Dirs("/g")); diff != "" {
		t.Error(diff)
	}
}

func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	d := t.TempDir()
	for n, s := range files {
		p := filepath.Join(d, n)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func TestStatistics(t *testing.T) {
	now := time.Unix(1000, 0)
	v2 := tree(t, map[string]string{
		"g/cpu.stat":       "usage_usec 1000\nuser_usec 600\nsystem_usec 400\n",
		"g/memory.current": "8192\n", "g/memory.peak": "9000\n", "g/memory.max": "max\n", "g/memory.stat": "anon 1\nkernel 50\nshmem 10\nslab_reclaimable 20\ninactive_file 192\n",
		"g/io.stat":      "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:16 rbytes=10 wbytes=20 rios=30 wios=40 dbytes=0 dios=0\n",
		"g/pids.current": "3\n", "g/pids.max": "10\n", "g/memory.events": "low 0\noom 2\noom_kill 1\n",
	})
	g := Cgroup{On: Cgroups{V2: v2}, Path: "/g"}
	want := hcs.Statistics{Timestamp: now,
		Processor: &hcs.ProcessorStats{TotalRuntime100ns: 10000, RuntimeUser100ns: 6000, RuntimeKernel100ns: 4000},
		Memory:    &hcs.MemoryStats{MemoryUsageCommitBytes: 8192, MemoryUsageCommitPeakBytes: 9000, MemoryUsagePrivateWorkingSetBytes: 8000},
		Storage:   &hcs.StorageStats{ReadCountNormalized: 33, ReadSizeBytes: 11, WriteCountNormalized: 44, WriteSizeBytes: 22},
		Pids:      &hcs.PidsStats{Current: 3, Limit: 10}}
	if diff := cmp.Diff(want, g.Statistics(now)); diff != "" {
		t.Error(diff)
	}
	if n := g.OOMKills(); n != 1 {
		t.Errorf("OOM kills %d", n)
	}
	if n := g.pinnedMemory(); n != 41 {
		t.Errorf("pinned memory %d", n)
	}

	v1 := tree(t, map[string]string{
		"a/g/cpuacct.usage": "1000000\n", "a/g/cpuacct.usage_user": "600000\n", "a/g/cpuacct.usage_sys": "400000\n",
		"m/g/memory.usage_in_bytes": "8192\n", "m/g/memory.max_usage_in_bytes": "9000\n", "m/g/memory.limit_in_bytes": "9223372036854771712\n",
		"m/g/memory.stat": "inactive_file 1\ntotal_inactive_file 9192\n", "m/g/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
		"b/g/blkio.throttle.io_serviced_recursive":      "254:0 Read 3\n254:0 Write 4\n254:0 Total 7\nTotal 7\n",
		"b/g/blkio.throttle.io_service_bytes_recursive": "254:0 Read 1\n254:0 Write 2\nTotal 3\n",
	})
	g.On = Cgroups{V1: map[string]string{"cpuacct": v1 + "/a", "memory": v1 + "/m", "blkio": v1 + "/b"}}
	want.Memory.MemoryUsagePrivateWorkingSetBytes = 0 // never below
	want.Storage = &hcs.StorageStats{ReadCountNormalized: 3, ReadSizeBytes: 1, WriteCountNormalized: 4, WriteSizeBytes: 2}
	want.Pids = nil
	if diff := cmp.Diff(want, g.Statistics(now)); diff != "" {
		t.Error(diff)
	}
	if n := g.OOMKills(); n != 4 {
		t.Errorf("OOM kills %d", n)
	}
	if diff := cmp.Diff(hcs.Statistics{Timestamp: now}, Cgroup{On: g.On, Path: "/gone"}.Statistics(now)); diff != "" {
		t.Error(diff)
	}
}

// The real kernel's groups: as they are mounted here, and version 2 alone where
// it is mounted too (kill and freeze need no controller).
func TestKillAndFreeze(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("requires root: it makes cgroups")
	}
	on, err := LoadCgroups()
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]Cgroups{on.Mode(): on}
	if on.V2 != "" {
		cases["v2 alone"] = Cgroups{V2: on.V2}
	}
	for name, on := range cases {
		t.Run(name, func(t *testing.T) {
			g := Cgroup{On: on, Path: "/gatehouse-silotest/" + filepath.Base(t.TempDir())}
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			cmd := exec.Command("sh", "-c", "read x; for i in 1 2 3 4 5; do sleep 100 & done; wait")
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			t.Cleanup(func() { // the parent too
				c, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				defer cancel()
				if err := (Cgroup{On: on, Path: "/gatehouse-silotest"}).Remove(c); err != nil {
					t.Error(err)
				}
			})
			for c, m := range on.V1 {
				if c == "freezer" || c == "pids" {
					enter(t, filepath.Join(m, g.Path), cmd.Process.Pid)
				}
			}
			if on.V2 != "" {
				enter(t, filepath.Join(on.V2, g.Path), cmd.Process.Pid)
			}
			in.Close()
			for len(g.Processes()) < 6 && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			if err := g.Freeze(ctx, true); err != nil || !g.Frozen() {
				t.Errorf("freeze: %v, frozen %v", err, g.Frozen())
			}
			if err := g.Remove(done()); err == nil {
				t.Error("a group with processes was removed")
			}
			if n := len(g.ProcessDetails()); n != 6 {
				t.Errorf("%d processes are described", n)
			}
			if err := g.Kill(ctx); err != nil || !g.Empty() {
				t.Errorf("kill: %v, left %v", err, g.Processes())
			}
			<-ended
			for range 2 {
				if err := g.Remove(ctx); err != nil || g.Exists() {
					t.Errorf("remove: %v", err)
				}
			}
		})
	}
}

func enter(t *testing.T, dir string, pid int) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, pid), 0); err != nil {
		t.Fatal(err)
	}
}

func done() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
