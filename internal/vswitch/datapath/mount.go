// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// bpfMount is where every distribution has the bpffs.
const bpfMount = "/sys/fs/bpf"

// mountBPF makes sure that pins will be on a bpffs.
func mountBPF(pins string) error {
	on, err := isBPF(pins)
	if err != nil || on {
		return err
	}
	if !strings.HasPrefix(pins, bpfMount+"/") {
		return fmt.Errorf("pins %s: not on a bpf file system, and only %s is mounted for you", pins, bpfMount)
	}
	if err := unix.Mount("bpf", bpfMount, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount bpf file system on %s: %w", bpfMount, err)
	}
	return nil
}

// isBPF tells about the nearest directory of path that exists.
func isBPF(path string) (bool, error) {
	for {
		var s unix.Statfs_t
		err := unix.Statfs(path, &s)
		if err == nil {
			return s.Type == unix.BPF_FS_MAGIC, nil
		}
		if err != unix.ENOENT || path == "/" {
			return false, &os.PathError{Op: "statfs", Path: path, Err: err}
		}
		path = filepath.Dir(path)
	}
}

// cgroup2Root finds the root of the cgroup2 hierarchy: /sys/fs/cgroup where it is
// alone, /sys/fs/cgroup/unified beside version 1; "" where there is none.
func cgroup2Root(mountinfo string) (string, error) {
	f, err := os.Open(mountinfo)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return parseCgroup2(f)
}

// parseCgroup2 reads proc_pid_mountinfo(5): fields before " - " are positional,
// the fourth is the root of the mount within its file system.
func parseCgroup2(r io.Reader) (string, error) {
	found := ""
	s := bufio.NewScanner(r)
	for s.Scan() {
		left, right, ok := strings.Cut(s.Text(), " - ")
		fields := strings.Fields(left)
		if !ok || len(fields) < 5 || !strings.HasPrefix(right, "cgroup2 ") {
			continue
		}
		at := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(fields[4])
		if fields[3] == "/" { // the whole hierarchy; prefer it to a part
			return at, nil
		}
		if found == "" {
			found = at
		}
	}
	return found, s.Err()
}
