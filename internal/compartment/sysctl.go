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

// sysctl4 writes pairs of name and value under net/ipv4/conf/dev in the calling
// thread's network namespace.
func sysctl4(dev string, pairs ...string) error {
	return sysctl("/proc/sys/net/ipv4/conf/"+dev, pairs)
}

// sysctl6 is sysctl4 for IPv6. A kernel without IPv6, and a device with an MTU
// below 1280, have nothing to set.
func sysctl6(dev string, pairs ...string) error {
	if err := sysctl("/proc/sys/net/ipv6/conf/"+dev, pairs); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func sysctl(dir string, pairs []string) error {
	if err := failpoint.Hit("compartment.call"); err != nil {
		return err
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		if err := write(dir+"/"+pairs[i], pairs[i+1]); err != nil {
			return fmt.Errorf("set %s to %s: %w", pairs[i], pairs[i+1], err)
		}
	}
	return nil
}

// write is os.WriteFile without the poller, which costs twice the write itself.
func write(path, value string) error {
	fd, err := ignoringEINTR(func() (int, error) { return unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0) })
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
