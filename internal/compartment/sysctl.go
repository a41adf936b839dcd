// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/failpoint"
)

// confDirs are the directories of per-device settings of one network namespace,
// open. From /proc/sys/net down the kernel keeps the "ipv4" and "ipv6" of every
// namespace in one list and walks it; below an open directory, a look-up costs the
// same however many namespaces there are.
type confDirs struct{ v4, v6 int } // v6 < 0: a kernel without IPv6

// openConfDirs opens those of the calling thread's namespace.
func openConfDirs() (confDirs, error) {
	d := confDirs{-1, -1}
	var err error
	if d.v4, err = openDir(unix.AT_FDCWD, "/proc/sys/net/ipv4/conf"); err != nil {
		return d, err
	}
	if d.v6, err = openDir(unix.AT_FDCWD, "/proc/sys/net/ipv6/conf"); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.close()
		return d, err
	}
	return d, nil
}

func (d confDirs) close() {
	unix.Close(d.v4)
	if d.v6 >= 0 {
		unix.Close(d.v6)
	}
}

func openDir(at int, path string) (int, error) {
	fd, err := ignoringEINTR(func() (int, error) { return unix.Openat(at, path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// sysctl4 writes pairs of name and value of a device of the host's.
func (h *Host) sysctl4(dev string, pairs ...string) error { return sysctl(h.conf.v4, dev, pairs) }

// sysctl6 is sysctl4 for IPv6. A kernel without IPv6, and a device with an MTU
// below 1280, have nothing to set.
func (h *Host) sysctl6(dev string, pairs ...string) error {
	if h.conf.v6 < 0 {
		return nil
	}
	if err := sysctl(h.conf.v6, dev, pairs); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func sysctl(at int, dir string, pairs []string) error {
	if err := failpoint.Hit("compartment.call"); err != nil {
		return err
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		if err := write(at, dir+"/"+pairs[i], pairs[i+1]); err != nil {
			return fmt.Errorf("set %s to %s: %w", pairs[i], pairs[i+1], err)
		}
	}
	return nil
}

// write is os.WriteFile without the poller, which costs twice the write itself.
func write(at int, path, value string) error {
	fd, err := ignoringEINTR(func() (int, error) { return unix.Openat(at, path, unix.O_WRONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if _, err = ignoringEINTR(func() (int, error) { return unix.Write(fd, []byte(value)) }); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

func ignoringEINTR(f func() (int, error)) (int, error) {
	for {
		if n, err := f(); err != unix.EINTR {
			return n, err
		}
	}
}
