// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package uvm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/compute/held"
)

// cage is what QEMU sees of the host: a root file system in memory, read-only,
// with the distribution's /usr, a few devices and the machine's kernel, in a mount
// namespace of its own; and an empty network namespace. All of it goes with the
// thread that entered it.
type cage struct {
	dir     string // where the root is made
	program string // QEMU inside
	files   map[string]string
	// kvm is the device's number, 0 = not wanted. It gets a node of QEMU's own there,
	// whomever the host's belongs to.
	kvm uint64
	uid uint32
}

func newCage(m held.Machine, dir string) (*cage, error) {
	program, err := filepath.EvalSymlinks(m.QEMU)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(program, "/usr/") {
		return nil, fmt.Errorf("%s: not below /usr, which is all of the host that it would see", program)
	}
	c := &cage{dir: dir, program: program, uid: m.UID, files: map[string]string{held.MachineKernel: m.Kernel}}
	if m.Initrd != "" {
		c.files[held.MachineInitrd] = m.Initrd
	}
	for _, d := range []string{"/dev/null", "/dev/urandom"} {
		c.files[d] = d
	}
	if m.Accelerator == held.AcceleratorKVM {
		st, err := os.Stat("/dev/kvm")
		if err != nil {
			return nil, err
		}
		c.kvm = st.Sys().(*syscall.Stat_t).Rdev
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return c, nil
}

// enter moves the calling thread inside, for good.
func (c *cage) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("namespaces of qemu: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mounts of qemu: %w", err)
	}
	if err := unix.Mount("qemu", c.dir, "tmpfs", unix.MS_NOSUID, "mode=0755,size=1m"); err != nil {
		return fmt.Errorf("root of qemu: %w", err)
	}
	if err := c.fill(); err != nil {
		return fmt.Errorf("root of qemu: %w", err)
	}
	if err := unix.Chdir(c.dir); err != nil {
		return fmt.Errorf("root of qemu: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("root of qemu: pivot: %w", err)
	}
	// The old root lies on the new one now.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("root of qemu: leave the host's: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("root of qemu: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID, ""); err != nil {
		return fmt.Errorf("root of qemu: read-only: %w", err)
	}
	return nil
}

func (c *cage) fill() error {
	for _, d := range []string{"/usr", "/lib", "/lib64"} {
		st, err := os.Lstat(d)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return err
		case st.Mode()&fs.ModeSymlink != 0: // merged into /usr
			to, err := os.Readlink(d)
			if err != nil {
				return err
			}
			if err := os.Symlink(to, filepath.Join(c.dir, d)); err != nil {
				return err
			}
			continue
		}
		at := filepath.Join(c.dir, d)
		if err := os.Mkdir(at, 0o755); err != nil {
			return err
		}
		if err := bind(d, at, unix.MS_NODEV); err != nil {
			return err
		}
	}
	if c.kvm != 0 {
		at := filepath.Join(c.dir, "dev", "kvm")
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		if err := unix.Mknod(at, unix.S_IFCHR|0o600, int(c.kvm)); err != nil {
			return fmt.Errorf("/dev/kvm of qemu: %w", err)
		}
		if err := os.Chown(at, int(c.uid), int(c.uid)); err != nil {
			return err
		}
	}
	for at, from := range c.files {
		at = filepath.Join(c.dir, at)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		f, err := os.OpenFile(at, os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		f.Close()
		// A read-only mount takes no writes to files, but devices are as they are.
		if err := bind(from, at, 0); err != nil {
			return err
		}
	}
	return nil
}

// bind mounts from at a place, read-only.
func bind(from, at string, flags uintptr) error {
	if err := unix.Mount(from, at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", from, err)
	}
	if err := unix.Mount("", at, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|flags, ""); err != nil {
		return fmt.Errorf("bind %s read-only: %w", from, err)
	}
	return nil
}
