// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/silo"
)

func TestExitCodes(t *testing.T) {
	r := newRig(t)
	for _, tc := range []struct {
		name  string
		args  []string
		do    func(c Client, s *stdioConn)
		code  uint32
		typ   hcs.ExitType
		who   string
		cause string
	}{
		{"zero", []string{"exit", "0"}, nil, 0, hcs.GracefulExit, hcs.InitiatorGuestOS, ""},
		{"seven", []string{"exit", "7"}, nil, 7, hcs.GracefulExit, hcs.InitiatorGuestOS, ""},
		{"term handled", []string{"trap"}, func(c Client, s *stdioConn) {
			s.until("ready")
			if ok, err := c.Signal(ctx(t), initKey, 15); !ok || err != nil {
				t.Errorf("Signal: %v, %v", ok, err)
			}
		}, 7, hcs.GracefulExit, hcs.InitiatorClient, ""},
		{"signal frame", []string{"trap"}, func(c Client, s *stdioConn) {
			s.until("ready")
			if err := s.w.WriteJSON(hcs.FrameSignal, hcs.SignalProcessOptions{Signal: 15}); err != nil {
				t.Error(err)
			}
		}, 7, hcs.GracefulExit, hcs.InitiatorClient, ""},
		{"kill by client", []string{"sleep", "60"}, func(c Client, s *stdioConn) {
			if ok, err := c.Signal(ctx(t), initKey, 9); !ok || err != nil {
				t.Errorf("Signal: %v, %v", ok, err)
			}
		}, 137, hcs.ForcedExit, hcs.InitiatorClient, ""},
		{"terminate", []string{"forks", "20"}, func(c Client, s *stdioConn) {
			s.until("forked")
			if err := c.KillAll(ctx(t)); err != nil {
				t.Error(err)
			}
			if err := c.KillAll(ctx(t)); err != nil {
				t.Errorf("again: %v", err)
			}
		}, 137, hcs.ForcedExit, hcs.InitiatorClient, ""},
		{"killed by a stranger", []string{"sleep", "60"}, func(c Client, s *stdioConn) {
			p, err := c.Processes(ctx(t))
			if err != nil || len(p) != 1 || p[0].Key != initKey || p[0].ImageName != "guest" || p[0].MemoryCommitBytes == 0 {
				t.Fatalf("processes %+v, %v", p, err)
			}
			if age := time.Since(p[0].CreateTimestamp); age < -2*time.Second || age > time.Minute {
				t.Errorf("CreateTimestamp is %v old", age)
			}
			pr, _ := os.FindProcess(int(p[0].ProcessId))
			_ = pr.Kill()
		}, 137, hcs.UnexpectedExit, hcs.InitiatorGuestOS, "signal 9"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := r.spawn(r.spec(tc.args...))
			s := attach(t, c, initKey, all())
			r.start(c)
			if tc.do != nil {
				tc.do(c, s)
			}
			if _, _, st := s.rest(); st.ExitCode != tc.code {
				t.Errorf("exit code %d, want %d", st.ExitCode, tc.code)
			}
			if ok, err := c.Signal(ctx(t), initKey, 15); ok || err != nil {
				t.Errorf("Signal after the exit: %v, %v, want false, nil", ok, err)
			}
			e := r.end(c)
			a := e.Exit.Attribution[0].SystemExit
			if e.Exit.ExitType != tc.typ || a.Initiator != tc.who || e.Exit.Reason != tc.cause {
				t.Errorf("exit %s by %s, reason %q; want %s by %s, %q", e.Exit.ExitType, a.Initiator, e.Exit.Reason, tc.typ, tc.who, tc.cause)
			}
		})
	}
}

func TestOutOfMemory(t *testing.T) {
	r := newRig(t)
	sp := r.spec("eat", "200")
	limit := int64(32 << 20)
	sp.OCI.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}
	c := r.spawn(sp)
	ch, err := c.Journal(ctx(t), 0)
	if err != nil {
		t.Fatal(err)
	}
	r.start(c)
	sawOOM := false
	for e := range ch {
		if e.What == WhatOOM {
			sawOOM = true
		}
		if e.What == WhatExited {
			break
		}
	}
	e := r.end(c)
	if !sawOOM || e.Exit.Reason != "oom" || e.Exit.ExitType != hcs.UnexpectedExit || *e.Exit.InitExitCode != 137 {
		t.Errorf("oom entry %v, exit %+v, code %d", sawOOM, e.Exit, *e.Exit.InitExitCode)
	}
}

func TestLimitsAndStatistics(t *testing.T) {
	r := newRig(t)
	sp := r.spec("forks", "100")
	limit, mem := int64(30), int64(64<<20)
	sp.OCI.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}, Memory: &specs.LinuxMemory{Limit: &mem}}
	c := r.spawn(sp)
	s := attach(t, c, initKey, all())
	r.start(c)
	out, _, st := s.rest()
	if st.ExitCode != 9 || !strings.Contains(out, "resource temporarily unavailable") {
		t.Errorf("beyond the pids limit: %q, code %d", out, st.ExitCode)
	}
	r.end(c)

	sp = r.spec("eat", "10")
	sp.OCI.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}, Memory: &specs.LinuxMemory{Limit: &mem}}
	c = r.spawn(sp)
	s = attach(t, c, initKey, all())
	r.start(c)
	s.until("ate")
	x, err := c.Stats(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	if x.Processor == nil || x.Processor.TotalRuntime100ns == 0 || x.Memory == nil || x.Memory.MemoryUsageCommitBytes < 10<<20 ||
		x.Memory.LimitBytes != uint64(mem) || x.Pids == nil || x.Pids.Current == 0 || x.Pids.Limit != 30 || x.Uptime100ns == 0 {
		t.Errorf("statistics %+v %+v %+v %+v", x, x.Processor, x.Memory, x.Pids)
	}
	more := int64(128 << 20)
	if err := c.Update(ctx(t), specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &more, Swap: &more}}); err != nil {
		t.Fatal(err)
	}
	if x, _ = c.Stats(ctx(t)); x.Memory.LimitBytes != uint64(more) {
		t.Errorf("limit after update %d, want %d", x.Memory.LimitBytes, more)
	}
	little := int64(1 << 20)
	var se *StartError
	if err := c.Update(ctx(t), specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &little}}); err == nil {
		t.Error("a limit below the use was taken")
	} else if errors.As(err, &se) {
		t.Errorf("update's error is a StartError: %v", err)
	}
	if err := c.KillAll(ctx(t)); err != nil {
		t.Fatal(err)
	}
	r.end(c)
}

func TestPause(t *testing.T) {
	r := newRig(t)
	c := r.spawn(r.spec("lines", "1000000", "500"))
	s := attach(t, c, initKey, all())
	if err := c.Pause(ctx(t)); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("pause before the start: %v", err)
	}
	r.start(c)
	s.until("line 20\n")
	if err := c.Pause(ctx(t)); err != nil {
		t.Fatal(err)
	}
	quiet := func() bool { // no frame for 100 ms
		_ = s.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, _, err := s.r.Read()
		return errors.Is(err, os.ErrDeadlineExceeded)
	}
	for i := 0; !quiet(); i++ {
		if i > 1000 {
			t.Fatal("it writes on while paused")
		}
	}
	if _, err := c.Exec(ctx(t), specs.Process{Args: []string{"/guest", "echo", "x"}, Cwd: "/"}, false); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("exec while paused: %v", err)
	}
	if err := c.Resume(ctx(t)); err != nil {
		t.Fatal(err)
	}
	s.until("line")
	if err := c.Pause(ctx(t)); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(ctx(t)); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("close while paused: %v", err)
	}
	if err := c.KillAll(ctx(t)); err != nil { // frozen ones too
		t.Fatal(err)
	}
	r.end(c)
}

func TestStartRefused(t *testing.T) {
	r := newRig(t)
	script := func(body string) string {
		p := filepath.Join(t.TempDir(), "runtime")
		if err := os.WriteFile(p, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, tc := range []struct {
		name string
		with func(*Spec)
		code int
		text string
	}{
		{"no such file", func(s *Spec) { s.OCI.Process.Args = []string{"/nope"} }, 127, "/nope"},
		{"not in PATH", func(s *Spec) { s.OCI.Process.Args = []string{"nope"} }, 127, "nope"},
		{"not executable", func(s *Spec) { s.OCI.Process.Args = []string{"/etc/plain"} }, 126, "permission denied"},
		{"a directory", func(s *Spec) { s.OCI.Process.Args = []string{"/etc"} }, 126, "/etc"},
		{"no working directory", func(s *Spec) { s.OCI.Process.Cwd = "/etc/plain" }, 127, "/etc/plain"},
		{"no such file, terminal", func(s *Spec) { s.OCI.Process.Args = []string{"/nope"}; s.Terminal = true }, 127, "/nope"},
		{"runtime missing", func(s *Spec) { s.Runtime = "/nonexistent/runtime" }, 125, "/nonexistent/runtime"},
		{"runtime fails", func(s *Spec) { s.Runtime = script("echo first; echo it broke >&2; exit 3") }, 125, "it broke"},
		{"runtime is mute", func(s *Spec) { s.Runtime = script("exit 3") }, 125, "exit status 3"},
		{"runtime does nothing", func(s *Spec) { s.Runtime = script("exit 0") }, 125, "no pid"},
		{"runtime lies", func(s *Spec) { s.Runtime = script(`while [ "$1" != --pid-file ]; do shift; done; echo 0 > $2`) }, 125, "pid \"0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sp := r.spec("exit", "0")
			tc.with(&sp)
			c := r.spawn(sp)
			s := attach(t, c, initKey, all())
			_, err := c.Start(ctx(t))
			if k, b, err := s.r.Read(); err != nil || k != hcs.FrameError {
				t.Errorf("attached: frame %d %q, %v", k, b, err)
			} else {
				var re hcs.ResultError
				if json.Unmarshal(b, &re) != nil || re.ExitCode != tc.code {
					t.Errorf("attached: %s", b)
				}
			}
			var se *StartError
			if !errors.As(err, &se) || se.ExitCode != tc.code || !strings.Contains(se.Message, tc.text) || strings.Contains(se.Message, "\n") {
				t.Errorf("got %v (%+v), want code %d and %q on one line", err, se, tc.code, tc.text)
			}
			if (silo.Cgroup{On: groups(t), Path: sp.CgroupPath}).Exists() {
				t.Error("the cgroup is left")
			}
			if err := c.Close(ctx(t)); err != nil {
				t.Error(err)
			}
		})
	}
}

func groups(t testing.TB) silo.Cgroups {
	on, err := silo.LoadCgroups()
	if err != nil {
		t.Fatal(err)
	}
	return on
}

func TestRuntimeHangs(t *testing.T) {
	r := newRig(t)
	dir := t.TempDir()
	p := filepath.Join(dir, "runtime")
	if err := os.WriteFile(p, []byte("#!/bin/sh\necho $$ > "+dir+"/pid\nsleep 1000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{"deadline", "terminate"} {
		sp := r.spec("exit", "0")
		sp.Runtime = p
		c := r.spawn(sp)
		os.Remove(dir + "/pid")
		d := 500 * time.Millisecond
		if how == "terminate" {
			d = 20 * time.Second
			go func() {
				for i := 0; i < 1000; i++ {
					if _, err := os.Stat(dir + "/pid"); err == nil {
						break
					}
					time.Sleep(5 * time.Millisecond)
				}
				if err := c.KillAll(ctx(t)); err != nil {
					t.Error(err)
				}
			}()
		}
		cx, cancel := context.WithTimeout(context.Background(), d)
		began := time.Now()
		_, err := c.Start(cx)
		cancel()
		if err == nil || time.Since(began) > 10*time.Second {
			t.Errorf("%s: got %v after %v", how, err, time.Since(began))
		}
		if want := map[string]string{"deadline": "no answer after", "terminate": "terminated"}[how]; !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%s: %v, want %q", how, err, want)
		}
		if err := c.Close(ctx(t)); err != nil {
			t.Fatal(err)
		}
	}
}
