// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package worker

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// bareRun times "runc run" of a program that ends at once.
func bareRun(r *rig) (time.Duration, error) {
	s := ociSpec([]string{"/guest", "exit", "0"})
	s.Root = &specs.Root{Path: guestRoot(r.t)}
	s.Linux.CgroupsPath = r.inst.Cgroup + "/bare"
	dir := r.t.TempDir()
	b, err := json.Marshal(s)
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600); err != nil {
		return 0, err
	}
	cmd := exec.Command("runc", "--root", filepath.Join(dir, "state"), "run", "--bundle", dir, "bare")
	began := time.Now()
	err = cmd.Run()
	return time.Since(began), err
}

func mountTmpfs(dir, opts string) error { return unix.Mount("tmpfs", dir, "tmpfs", 0, opts) }

func unmount(t testing.TB, dir string) {
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Error(err)
	}
}
