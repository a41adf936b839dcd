// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/silo"
)

// Name is the argv[0] under which the binary is a worker.
const Name = "gatehouse-worker"

// controlFD is where the daemon's end of the start-up talk is: one order comes,
// one answer goes.
const controlFD = 3

// order is the first message: everything else is in <Dir>/spec.json. The locked
// <Dir>/lock comes with it as a descriptor.
type order struct {
	V   int
	Dir string
}

// Is reports whether args are those of a worker.
func Is(args []string) bool { return len(args) > 0 && filepath.Base(args[0]) == Name }

// Main is the worker process, from start to end; it returns the exit status. It
// waits for its order, so that a worker can be started before it is needed. Call
// it from the goroutine of main.
func Main(args []string) int {
	if len(args) > 1 {
		fmt.Fprintln(os.Stderr, Name+": is started by gatehouse serve, not by hand")
		return 2
	}
	control, err := connOf(controlFD)
	if err != nil {
		fmt.Fprintln(os.Stderr, Name+": is started by gatehouse serve, not by hand:", err)
		return 2
	}
	// Small and steady: the heap is a few buffers.
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(64 << 20)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	thread := silo.NewThread()
	reaper, err := silo.NewReaper()
	if err != nil {
		fmt.Fprintln(os.Stderr, Name+":", err)
		return 1
	}
	go reaper.Run(ctx)
	warm()
	code := 0
	go func() {
		defer cancel()
		code = work(control, thread, reaper)
	}()
	thread.Run(ctx)
	return code
}

// warm touches what an order will need while there is none: the tables that
// encoding/json makes of a type, and their pages of the program.
func warm() {
	var s Spec
	_ = json.Unmarshal([]byte(`{"OCI":{"process":{"args":["x"],"user":{},"rlimits":[{}],"capabilities":{"bounding":["x"]}},`+
		`"mounts":[{"options":["x"]}],"linux":{"namespaces":[{}],"resources":{"devices":[{}],"memory":{},"pids":{}},`+
		`"seccomp":{"syscalls":[{"names":["x"],"args":[{}]}]},"maskedPaths":["x"]}},"Root":{"Lower":["x"]}}`), &s)
	_, _ = json.Marshal(s.OCI)
	st := &hcs.ProcessStatus{}
	_, _ = json.Marshal(JournalEntry{Status: st, Exit: classify(silo.Exit{}, false, 0, false)})
	_ = jsonFrame(hcs.FrameExit, st)
	_, _ = silo.LoadCgroups()
}

func work(control *net.UnixConn, thread *silo.Thread, reaper *silo.Reaper) int {
	var o order
	fds, err := receive(control, &o)
	if errors.Is(err, io.EOF) { // the daemon ended, or does not need us
		return 0
	}
	if err != nil {
		_ = send(control, response{V: wireVersion, Error: toWire(err)})
		return 1
	}
	// The lock in fds is held for as long as the process lives.
	s, err := open(o, thread, reaper)
	if err != nil {
		_ = send(control, response{V: wireVersion, Error: toWire(fmt.Errorf("worker: %w", err))})
		return 1
	}
	if err := send(control, response{V: wireVersion}); err != nil {
		// The daemon is gone; the next one finds us by our directory.
		s.log.Info("daemon left before the answer", "err", err)
	}
	control.Close()
	go s.serve()
	<-s.quit
	closeAll(fds)
	s.linger(10 * time.Second)
	return 0
}

// open makes a system of an order.
func open(o order, thread *silo.Thread, reaper *silo.Reaper) (*server, error) {
	if o.V > wireVersion {
		return nil, fmt.Errorf("order of version %d, this is %d", o.V, wireVersion)
	}
	spec, err := readSpec(o.Dir)
	if err != nil {
		return nil, err
	}
	logTo, err := os.OpenFile(filepath.Join(o.Dir, "worker.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer logTo.Close()
	for _, fd := range []int{1, 2} {
		if err := unix.Dup3(int(logTo.Fd()), fd, 0); err != nil {
			return nil, fmt.Errorf("stderr: %w", err)
		}
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("system", spec.ID)
	// The container's own score is in its spec; ours is that of what must not go.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-998"), 0); err != nil {
		log.Debug("oom score", "err", err) // requires CAP_SYS_RESOURCE
	}
	unix.Umask(0o022)
	if err := thread.Isolate(); err != nil {
		return nil, err
	}
	engine, err := newEngine(spec, thread, reaper)
	if err != nil {
		return nil, err
	}
	if err := engine.Prepare(); err != nil {
		return nil, err
	}
	lf, err := openLog(spec.LogPath, spec.LogMaxBytes)
	if err != nil {
		return nil, err
	}
	j, err := openJournal(o.Dir)
	if err != nil {
		return nil, err
	}
	l, err := silo.ListenUnix(o.Dir, "sock")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(filepath.Join(o.Dir, "sock"), 0o600); err != nil {
		return nil, err
	}
	s := &server{sys: newSystem(spec, engine, j, lf, log), l: l, log: log, quit: make(chan struct{})}
	s.sys.note(JournalEntry{What: WhatCreated, PID: os.Getpid()})
	return s, nil
}

func siloConfig(s Spec) silo.Config {
	return silo.Config{ID: "gh-" + s.RuntimeID, Dir: s.Dir, Runtime: s.Runtime, RuntimeRoot: s.RuntimeRoot, OCI: s.OCI,
		Root: silo.Root(s.Root), Cgroup: s.CgroupPath, Library: s.Library}
}

func readSpec(dir string) (Spec, error) {
	var s Spec
	b, err := os.ReadFile(filepath.Join(dir, "spec.json"))
	if err != nil {
		return s, fmt.Errorf("read spec: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("read spec %s: %w", filepath.Join(dir, "spec.json"), err)
	}
	s.Dir = dir
	return s, nil
}
