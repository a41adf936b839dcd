// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package silo

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Exit is how a process ended.
type Exit struct {
	Code   int // the exit byte, or 128 + signal
	Signal int // 0 = it exited by itself
	Time   time.Time
}

// Reaper collects every child of this process, those that the kernel hands to it
// as a subreaper included.
type Reaper struct {
	mu      sync.Mutex // guards the rest, and forks against reaping
	waits   map[int]chan Exit
	pending int // invocations under way that may leave a child behind
	// orphans are children nobody asked for yet: a container's init may end before
	// the runtime has said its pid. Kept only while pending > 0, so that a pid that
	// comes round again is not taken for them.
	orphans map[int]Exit
}

// NewReaper makes this process a subreaper. Run must be running before the
// first child ends.
func NewReaper() (*Reaper, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, err
	}
	return &Reaper{waits: map[int]chan Exit{}, orphans: map[int]Exit{}}, nil
}

// Run reaps until ctx ends.
func (r *Reaper) Run(ctx context.Context) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGCHLD)
	defer signal.Stop(c)
	for {
		r.reap()
		select {
		case <-c:
		case <-ctx.Done():
			return
		}
	}
}

func (r *Reaper) reap() {
	for {
		r.mu.Lock()
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == unix.EINTR {
			r.mu.Unlock()
			continue
		}
		if err != nil || pid <= 0 {
			r.mu.Unlock()
			return
		}
		e := Exit{Code: ws.ExitStatus(), Time: time.Now()}
		if ws.Signaled() {
			e.Signal = int(ws.Signal())
			e.Code = 128 + e.Signal
		}
		if c, ok := r.waits[pid]; ok {
			delete(r.waits, pid)
			c <- e
		} else if r.pending > 0 {
			r.orphans[pid] = e
		}
		r.mu.Unlock()
	}
}

// Fork starts a program and returns its pid and where its exit will arrive.
func (r *Reaper) Fork(path string, argv []string, attr *syscall.ProcAttr) (int, <-chan Exit, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return 0, nil, err
	}
	c := make(chan Exit, 1)
	r.waits[pid] = c
	return pid, c, nil
}

// begin and end bracket an invocation that may leave a child to adopt.
func (r *Reaper) begin() {
	r.mu.Lock()
	r.pending++
	r.mu.Unlock()
}

func (r *Reaper) end() {
	r.mu.Lock()
	if r.pending--; r.pending == 0 {
		clear(r.orphans)
	}
	r.mu.Unlock()
}

// Adopt returns where the exit of a child that another process forked arrives.
func (r *Reaper) Adopt(pid int) <-chan Exit {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := make(chan Exit, 1)
	if e, ok := r.orphans[pid]; ok {
		delete(r.orphans, pid)
		c <- e
	} else {
		r.waits[pid] = c
	}
	return c
}

// Alive tells whether a child has not been reaped.
func (r *Reaper) Alive(pid int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.waits[pid]
	return ok
}

// Kill signals a child that has not been reaped; false if it has.
func (r *Reaper) Kill(pid, sig int) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.waits[pid]; !ok {
		return false, nil
	}
	if err := unix.Kill(pid, unix.Signal(sig)); err == unix.ESRCH {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return true, nil
}
