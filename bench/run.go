// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const image = "gatehouse/hello"

// dockerImage gives docker the same image, by the archive that gatehouse saves.
func (b *bench) dockerImage() error {
	h, err := b.gatehouse()
	if err != nil {
		return err
	}
	d, err := b.dockerd()
	if err != nil {
		return err
	}
	tar := filepath.Join(b.dir, "hello.tar")
	if _, err := os.Stat(tar); err == nil {
		return nil
	}
	if _, err := h.ctl("image", "save", "--format", "docker", "--output", tar, image); err != nil {
		return err
	}
	_, err = d.ctl("load", "--input", tar)
	return err
}

// bareBundle is an OCI bundle of the image's files with the runtime's own default
// spec: a lower bound, without network, log, image store or policy.
func (b *bench) bareBundle() (string, error) {
	bundle := filepath.Join(b.dir, "bundle")
	root := filepath.Join(bundle, "rootfs")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", err
	}
	if _, err := sh("cp", b.hello, filepath.Join(root, "hello")); err != nil {
		return "", err
	}
	if _, err := sh("runc", "spec", "--bundle", bundle); err != nil {
		return "", err
	}
	path := filepath.Join(bundle, "config.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var spec map[string]any
	if err := json.Unmarshal(raw, &spec); err != nil {
		return "", err
	}
	p := spec["process"].(map[string]any)
	p["terminal"] = false
	p["args"] = []string{"/hello", "exit", "0"}
	raw, err = json.Marshal(spec)
	if err != nil {
		return "", err
	}
	return bundle, os.WriteFile(path, raw, 0o644)
}

// sameBundle is the bundle that gatehouse made for a container, without its
// network: what the runtime itself takes for the same safe defaults.
func (b *bench) sameBundle() (string, error) {
	if _, err := b.gh.ctl("run", "-d", "--name", "spec", "--network", "none", image); err != nil {
		return "", err
	}
	defer func() { _, _ = b.gh.ctl("rm", "-f", "spec") }()
	found, err := filepath.Glob(filepath.Join(b.gh.root, "run", "workers", "*", "bundle", "config.json"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("bundle of the container: %v %w", found, err)
	}
	raw, err := os.ReadFile(found[0])
	if err != nil {
		return "", err
	}
	var spec map[string]any
	if err := json.Unmarshal(raw, &spec); err != nil {
		return "", err
	}
	bundle := filepath.Join(b.dir, "same")
	root := filepath.Join(bundle, "rootfs")
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		return "", err
	}
	if _, err := sh("cp", b.hello, filepath.Join(root, "hello")); err != nil {
		return "", err
	}
	var mounts []any
	for _, m := range spec["mounts"].([]any) { // the files of this very container go with it
		if m.(map[string]any)["type"] != "bind" {
			mounts = append(mounts, m)
		}
	}
	spec["mounts"] = mounts
	spec["root"] = map[string]any{"path": "rootfs"}
	spec["process"].(map[string]any)["args"] = []string{"/hello", "exit", "0"}
	spec["linux"].(map[string]any)["cgroupsPath"] = fmt.Sprintf("/ghbench-%d", os.Getpid())
	if raw, err = json.Marshal(spec); err != nil {
		return "", err
	}
	return bundle, os.WriteFile(filepath.Join(bundle, "config.json"), raw, 0o644)
}

func benchRun(b *bench, r *report, rounds int) error {
	if rounds == 0 {
		rounds = 20
	}
	if err := b.dockerImage(); err != nil {
		return err
	}
	bundle, err := b.bareBundle()
	if err != nil {
		return err
	}
	same, err := b.sameBundle()
	if err != nil {
		return err
	}
	type contender struct {
		name string
		once func(i int) error
		t    series
	}
	all := []*contender{
		{name: "gatehouse run --rm", once: func(int) error {
			_, err := b.gh.ctl("run", "--rm", image, "exit", "0")
			return err
		}},
		{name: "docker run --rm", once: func(int) error {
			_, err := b.docker.ctl("run", "--rm", image, "exit", "0")
			return err
		}},
		{name: "runc run, its default spec", once: func(i int) error {
			_, err := sh("runc", "run", "--bundle", bundle, fmt.Sprintf("ghbench-%d-%d", os.Getpid(), i))
			return err
		}},
		{name: "runc run, our spec (seccomp, masked paths)", once: func(i int) error {
			_, err := sh("runc", "run", "--bundle", same, fmt.Sprintf("ghbench-s%d-%d", os.Getpid(), i))
			return err
		}},
	}
	for i := -2; i < rounds; i++ {
		for _, c := range all {
			t0 := time.Now()
			if err := c.once(i + 2); err != nil {
				return err
			}
			if i >= 0 {
				c.t = append(c.t, ms(time.Since(t0)))
			}
		}
	}
	r.title("A container to its exit (%d rounds, interleaved)", rounds)
	var rows []string
	for _, c := range all {
		rows = append(rows, fmt.Sprintf("%s | %.1f | %.1f | %.2f", c.name, c.t.median(), c.t.q(0.95), c.t.median()/all[0].t.median()))
	}
	r.table("what | median ms | p95 ms | / gatehouse", rows...)
	return nil
}

// benchMany starts n containers at once and removes them at once.
func benchMany(b *bench, r *report, n int) error {
	if n == 0 {
		n = 100
	}
	if err := b.dockerImage(); err != nil {
		return err
	}
	type side struct {
		name  string
		ctl   func(...string) (string, error)
		procs []string // command names of the service's own processes
	}
	var rows []string
	for _, s := range []side{
		{"gatehouse", b.gh.ctl, []string{"gatehouse", "gatehouse-worker"}},
		{"docker", b.docker.ctl, []string{"dockerd", "containerd", "containerd-shim-runc-v2"}},
	} {
		each := func(f func(i int) error) (series, time.Duration, error) {
			var (
				wg   sync.WaitGroup
				mu   sync.Mutex
				t    series
				fail error
			)
			t0 := time.Now()
			for i := range n {
				wg.Go(func() {
					t1 := time.Now()
					err := f(i)
					mu.Lock()
					defer mu.Unlock()
					t = append(t, ms(time.Since(t1)))
					if err != nil && fail == nil {
						fail = err
					}
				})
			}
			wg.Wait()
			return t, time.Since(t0), fail
		}
		up, upAll, err := each(func(i int) error {
			_, err := s.ctl("run", "-d", "--name", fmt.Sprintf("many%d", i), image)
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		time.Sleep(2 * time.Second)
		mem, err := pss(s.procs)
		if err != nil {
			return err
		}
		down, downAll, err := each(func(i int) error {
			_, err := s.ctl("rm", "-f", fmt.Sprintf("many%d", i))
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		rows = append(rows, fmt.Sprintf("%s | %.2f | %.0f | %.0f | %.2f | %.0f | %.0f", s.name,
			upAll.Seconds(), up.median(), up.q(0.99), downAll.Seconds(), down.q(0.99), float64(mem)/(1<<20)))
	}
	r.title("%d containers at once", n)
	r.table("what | all started s | each p50 ms | p99 ms | all removed s | p99 ms | idle MiB (PSS)", rows...)
	return nil
}

// pss is the proportional memory of every process whose program has one of these
// names, in bytes: shared pages are counted once over all who share them.
func pss(names []string) (int64, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, f := range stats {
		raw, err := os.ReadFile(f)
		if err != nil {
			continue // it ended meanwhile
		}
		arg0, _, _ := strings.Cut(string(raw), "\x00")
		if !slices.Contains(names, filepath.Base(arg0)) {
			continue
		}
		sum += pssOf(filepath.Dir(f))
	}
	return sum, nil
}

// pssOf a process, by its directory in /proc; 0 when it ended.
func pssOf(proc string) int64 {
	rollup, err := os.ReadFile(filepath.Join(proc, "smaps_rollup"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(rollup)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "Pss: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	return 0
}
