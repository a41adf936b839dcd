// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Do runs f on a thread inside the network namespace at path and returns f's
// error. Sockets that f opens stay there; goroutines that it starts do not run
// there.
func Do(path string, f func() error) error {
	fd, err := openNamespace(path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return doAt(fd, f)
}

// doAt is Do for an open namespace.
func doAt(fd int, f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// onThread runs f on a locked thread whose network namespace f may change. The
// thread is used again only when it could go back to where it was.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		old, err := openNamespace("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer unix.Close(old)
		err = f()
		if back := unix.Setns(old, unix.CLONE_NEWNET); back != nil {
			// Staying locked ends the thread together with this goroutine.
			done <- errors.Join(err, fmt.Errorf("leave network namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

func openNamespace(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open network namespace", Path: path, Err: err}
	}
	return fd, nil
}
