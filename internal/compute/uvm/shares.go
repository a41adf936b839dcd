// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package uvm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/compute/held"
	"gatehouse.dev/gatehouse/internal/compute/silo"
	"gatehouse.dev/gatehouse/internal/guest/proto"
)

// virtiofsd serves directories of the host to a guest; of package qemu-system-common.
const virtiofsd = "/usr/lib/qemu/virtiofsd"

// share starts virtiofsd over a directory that has each share under its number, and
// returns QEMU's end of the talk. The directory and its mounts are in a namespace
// of the daemon's own, which goes with it; it ends when QEMU does.
func share(c Config) (*os.File, error) {
	l, err := silo.ListenUnix(c.Dir, "fs.sock")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	lf, err := l.File()
	if err != nil {
		return nil, err
	}
	defer lf.Close()
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return nil, err
	}
	root := filepath.Join(c.Dir, "shared")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	// It takes the limit that it can have: each file that the guest knows is a
	// descriptor. What others change is seen within a second (cache=auto).
	argv := []string{"virtiofsd", "-f", "--fd=3", "-o", "source=" + root, "-o", "cache=auto", "-o", "announce_submounts", "-o", "xattr",
		"--rlimit-nofile=" + strconv.FormatUint(min(lim.Max, 1_000_000), 10)}
	attr := &syscall.ProcAttr{Dir: "/", Env: []string{"PATH=/usr/bin:/bin"}, Files: []uintptr{null.Fd(), 2, 2, lf.Fd()},
		Sys: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}}
	thread := silo.NewThread()
	go thread.Run(context.Background())
	pid := 0
	err = thread.Do(func() (err error) {
		if err := mountShares(root, c.Machine.Shares); err != nil {
			return err
		}
		if pid, _, err = c.Reaper.Fork(virtiofsd, argv, attr); err != nil {
			return fmt.Errorf("%s (apt install qemu-system-common): %w", virtiofsd, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := c.Group.Join(pid); err != nil && !errors.Is(err, unix.ESRCH) {
		_, _ = c.Reaper.Kill(pid, int(unix.SIGKILL))
		return nil, err
	}
	d, err := os.Open(c.Dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	conn, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/fs.sock", d.Fd())) // whatever the name's length
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*net.UnixConn).File()
}

// mountShares makes the directory in a mount namespace of the calling thread.
// What is read-only is so on the host's side, whatever the guest does.
func mountShares(root string, list []held.Share) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := unix.Mount("shared", root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=1m"); err != nil {
		return err
	}
	for i, s := range list {
		at := filepath.Join(root, strconv.Itoa(i))
		st, err := os.Stat(s.Path)
		if err != nil {
			return err
		}
		if st.IsDir() {
			err = os.Mkdir(at, 0o755)
		} else {
			err = os.WriteFile(at, nil, 0o644)
		}
		if err != nil {
			return err
		}
		if err := unix.Mount(s.Path, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("share %s: %w", s.Path, err)
		}
		if !s.ReadOnly {
			continue
		}
		if err := unix.MountSetattr(unix.AT_FDCWD, at, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return fmt.Errorf("share %s read-only: %w", s.Path, err)
		}
	}
	return nil
}

// shareArgs are QEMU's for the one file system of all shares.
func shareArgs(fd int) []string {
	return []string{"-chardev", fmt.Sprintf("socket,id=fs0,fd=%d", fd), "-device", "vhost-user-fs-device,chardev=fs0,tag=" + proto.ShareTag}
}
