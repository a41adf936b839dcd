// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package silo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// WatchOOM calls f each time the kernel killed for want of memory, until ctx
// ends or the group goes. It returns at once where the kernel tells nothing.
func (g Cgroup) WatchOOM(ctx context.Context, f func()) {
	ev, err := g.oomEvents()
	if err != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = ev.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	defer ev.Close()
	seen := g.OOMKills()
	if seen > 0 {
		f()
	}
	buf := make([]byte, 4096)
	for {
		if _, err := ev.Read(buf); err != nil {
			return
		}
		// Version 1 tells that memory ran out, a moment before the killing.
		for range 20 {
			if n := g.OOMKills(); n > seen {
				seen = n
				f()
				break
			}
			if !g.Exists() {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

func (g Cgroup) oomEvents() (*os.File, error) {
	if g.On.Unified() {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return nil, err
		}
		if _, err := unix.InotifyAddWatch(fd, filepath.Join(g.dir("memory"), "memory.events"), unix.IN_MODIFY); err != nil {
			unix.Close(fd)
			return nil, err
		}
		return os.NewFile(uintptr(fd), "memory.events"), nil
	}
	dir := g.dir("memory")
	if dir == "" {
		return nil, fmt.Errorf("watch memory of cgroup %s: no controller", g.Path)
	}
	ctl, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return nil, err
	}
	defer ctl.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	reg := fmt.Sprintf("%d %d", fd, int(ctl.Fd()))
	if err := os.WriteFile(filepath.Join(dir, "cgroup.event_control"), []byte(reg), 0); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "memory.oom_control"), nil
}
