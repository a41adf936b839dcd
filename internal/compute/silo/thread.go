// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package silo

import (
	"context"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Thread is one OS thread with a mount namespace of its own, on which mounts are
// made and the runtime is forked. It lives as long as the process: the parent
// death signal of the runtime follows it.
type Thread struct{ work chan func() }

// NewThread returns a Thread that is not running yet.
func NewThread() *Thread { return &Thread{work: make(chan func())} }

// Run locks the calling goroutine to its thread and serves until ctx ends. Call
// it from the goroutine of main.
func (t *Thread) Run(ctx context.Context) {
	runtime.LockOSThread()
	for {
		select {
		case f := <-t.work:
			f()
		case <-ctx.Done():
			return
		}
	}
}

// Do runs f on the thread and waits for it.
func (t *Thread) Do(f func() error) error {
	done := make(chan error, 1)
	t.work <- func() { done <- f() }
	return <-done
}

// Isolate gives the thread its mount namespace: a slave of the one it leaves, so
// that the host's mounts come in and ours do not go out. The working directory
// becomes the thread's own as well.
func (t *Thread) Isolate() error {
	return t.Do(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("new mount namespace: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("make mounts slaves: %w", err)
		}
		return nil
	})
}
