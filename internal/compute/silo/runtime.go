// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package silo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// RuntimeError is a refusal by the OCI runtime, as one line.
type RuntimeError struct {
	// ExitCode is what a shell would say: 127 not found, 126 not executable, 125
	// for all else.
	ExitCode int
	Message  string
	Log      json.RawMessage // the runtime's last error record, if it wrote one
	// Cause is set when the runtime could not be run at all or did not answer.
	Cause error
}

func (e *RuntimeError) Error() string { return e.Message }

// Unwrap returns Cause.
func (e *RuntimeError) Unwrap() error { return e.Cause }

// runtime runs an OCI runtime's command line.
type ociRuntime struct {
	path, root string
	dir        string // for log files; the working directory is the bundle
	flags      []string
	thread     *Thread
	reaper     *Reaper
	calls      atomic.Uint64
}

// stdio of an invocation, inherited by the container when it has no terminal.
type stdio struct{ in, out, err *os.File }

// run executes one command. The runtime is killed, with its process group, when
// ctx ends.
func (r *ociRuntime) run(ctx context.Context, dir string, s stdio, args ...string) error {
	path, err := exec.LookPath(r.path)
	if err != nil {
		return &RuntimeError{ExitCode: 125, Message: fmt.Sprintf("OCI runtime %s: %v", r.path, unwrapExec(err)), Cause: err}
	}
	log := filepath.Join(r.dir, fmt.Sprintf("runtime-%d.log", r.calls.Add(1)))
	defer os.Remove(log)
	argv := append([]string{filepath.Base(path), "--root", r.root, "--log", log, "--log-format", "json"}, r.flags...)
	argv = append(argv, args...)

	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	capture := s.err == nil
	if capture {
		fd, err := unix.MemfdCreate("runtime-stderr", unix.MFD_CLOEXEC)
		if err != nil {
			return fmt.Errorf("runtime's stderr: %w", err)
		}
		s.err = os.NewFile(uintptr(fd), "runtime-stderr")
		defer s.err.Close()
	}
	fd := func(f *os.File) uintptr {
		if f == nil {
			f = null
		}
		return f.Fd()
	}
	attr := &syscall.ProcAttr{
		Dir: dir, Env: []string{"PATH=" + os.Getenv("PATH")},
		Files: []uintptr{fd(s.in), fd(s.out), fd(s.err)},
		Sys:   &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	}
	var pid int
	var done <-chan Exit
	err = r.thread.Do(func() (err error) {
		pid, done, err = r.reaper.Fork(path, argv, attr)
		return err
	})
	if err != nil {
		return &RuntimeError{ExitCode: 125, Message: fmt.Sprintf("OCI runtime %s: %v", r.path, err), Cause: err}
	}
	began := time.Now()
	var e Exit
	select {
	case e = <-done:
	case <-ctx.Done():
		_ = unix.Kill(-pid, unix.SIGKILL)
		_, _ = r.reaper.Kill(pid, int(unix.SIGKILL))
		select {
		case <-done:
		case <-time.After(5 * time.Second): // in the kernel; the reaper takes it later
		}
		return &RuntimeError{ExitCode: 125, Cause: ctx.Err(), Message: fmt.Sprintf(
			"OCI runtime %s %s: no answer after %v, killed", r.path, args[0], time.Since(began).Round(time.Millisecond))}
	}
	if e.Code == 0 {
		return nil
	}
	text := ""
	if capture {
		b := make([]byte, 16<<10)
		n, _ := s.err.ReadAt(b, 0)
		text = string(b[:n])
	}
	return r.refused(log, text, e)
}

func (r *ociRuntime) refused(log, stderr string, e Exit) *RuntimeError {
	msg, record := lastLog(log)
	if msg == "" {
		msg = lastLine(stderr)
	}
	if msg == "" {
		msg = fmt.Sprintf("OCI runtime %s: exit status %d without a word", r.path, e.Code)
		if e.Signal != 0 {
			msg = fmt.Sprintf("OCI runtime %s: killed by signal %d", r.path, e.Signal)
		}
	}
	return &RuntimeError{ExitCode: ExitCodeOf(msg), Message: msg, Log: record}
}

// ExitCodeOf reads a runtime's words as Docker does.
func ExitCodeOf(msg string) int {
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(msg, w) {
				return true
			}
		}
		return false
	}
	switch {
	case has("executable file not found", "no such file or directory", "not a directory"):
		return 127
	case has("permission denied", "is a directory", "exec format error"):
		return 126
	}
	return 125
}

// lastLog returns the last error of a runtime's JSON log.
func lastLog(path string) (string, json.RawMessage) {
	f, err := os.Open(path)
	if err != nil {
		return "", nil
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > 64<<10 {
		_, _ = f.Seek(-64<<10, io.SeekEnd)
	}
	b, _ := io.ReadAll(f)
	msg, rec := "", json.RawMessage(nil)
	for line := range strings.Lines(string(b)) {
		var l struct{ Level, Msg string }
		if json.Unmarshal([]byte(line), &l) == nil && l.Msg != "" && (l.Level == "error" || l.Level == "fatal") {
			msg, rec = oneLine(l.Msg), json.RawMessage(strings.TrimSpace(line))
		}
	}
	return msg, rec
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return oneLine(s[strings.LastIndexByte(s, '\n')+1:])
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 2000 {
		s = s[:2000] + "…"
	}
	return s
}

func unwrapExec(err error) error {
	var e *exec.Error
	if errors.As(err, &e) {
		err = e.Err
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return err
}
