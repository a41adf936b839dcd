// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"encoding/json"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/silo"
	"gatehouse.dev/gatehouse/internal/instance"
)

func TestMain(m *testing.M) {
	if Is(os.Args) {
		os.Exit(Main(os.Args))
	}
	code := m.Run()
	if guestDir != "" {
		os.RemoveAll(guestDir)
	}
	os.Exit(code)
}

var (
	guestOnce sync.Once
	guestDir  string
	guestErr  error
)

// guestRoot is a root file system that holds /guest and nothing else.
func guestRoot(t testing.TB) string {
	t.Helper()
	guestOnce.Do(func() {
		if guestDir, guestErr = os.MkdirTemp("", "ghguest"); guestErr != nil {
			return
		}
		cmd := exec.Command("go", "build", "-o", filepath.Join(guestDir, "guest"), "./testdata/guest")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			guestErr = fmt.Errorf("build guest: %w: %s", err, out)
			return
		}
		for _, d := range []string{"proc", "dev", "sys", "tmp", "etc"} {
			_ = os.Mkdir(filepath.Join(guestDir, d), 0o755)
		}
		_ = os.WriteFile(filepath.Join(guestDir, "etc", "plain"), []byte("no program"), 0o644)
		_ = os.Chmod(guestDir, 0o755)
	})
	if guestErr != nil {
		t.Fatal(guestErr)
	}
	return guestDir
}

// rig is an instance with a spawner, and a check that nothing is left of it.
type rig struct {
	t    testing.TB
	inst instance.Instance
	sp   *Spawner
	n    int
}

func newRig(t testing.TB) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("requires root: it runs containers")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		t.Skip("requires an OCI runtime: runc is not installed")
	}
	guestRoot(t)
	inst, err := instance.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, inst: inst, sp: &Spawner{Cgroup: WorkerCgroup(inst)}}
	t.Cleanup(r.check)
	return r
}

func (r *rig) check() {
	t := r.t
	r.sp.Close()
	o, err := Owned(r.inst)
	if err != nil {
		t.Error(err)
	}
	for _, w := range o.Workers {
		if w.Alive {
			t.Errorf("worker %s is left", w.Dir)
			if c, err := Adopt(context.Background(), w.Dir); err == nil {
				if out, err := os.ReadFile(filepath.Join(w.Dir, "worker.log")); err == nil {
					t.Logf("%s", out)
				}
				_ = c.KillAll(context.Background())
				_ = c.Close(context.Background())
			}
		}
	}
	for _, x := range o.Orphans() {
		t.Errorf("left: %s", x)
	}
	deadline := time.Now().Add(5 * time.Second)
	on, _ := silo.LoadCgroups()
	for len(silo.Cgroup{On: on, Path: WorkerCgroup(r.inst)}.Processes()) > 0 && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	if p := (silo.Cgroup{On: on, Path: r.inst.Cgroup}).Processes(); len(p) > 0 {
		t.Errorf("processes are left: %v", p)
	}
	if err := Sweep(context.Background(), r.inst); err != nil {
		t.Error(err)
	}
	if (silo.Cgroup{On: on, Path: r.inst.Cgroup}).Exists() {
		t.Errorf("cgroup %s is left", r.inst.Cgroup)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(mounts), r.inst.Root) {
		t.Errorf("mounts are left below %s", r.inst.Root)
	}
}

// spec runs /guest args on an overlay of the guest's root.
func (r *rig) spec(args ...string) Spec {
	r.n++
	id := fmt.Sprintf("00000000-0000-0000-0000-%012d", r.n)
	scratch := r.inst.Scratch(id)
	for _, d := range []string{"upper", "work"} {
		if err := os.MkdirAll(filepath.Join(scratch, d), 0o755); err != nil {
			r.t.Fatal(err)
		}
	}
	return Spec{
		RuntimeID: id, ID: fmt.Sprintf("c%d", r.n), Dir: r.inst.Worker(id), Runtime: "runc", RuntimeRoot: RuntimeRoot(r.inst),
		OCI:        ociSpec(append([]string{"/guest"}, args...)),
		Root:       Root{Lower: []string{guestRoot(r.t)}, Upper: filepath.Join(scratch, "upper"), Work: filepath.Join(scratch, "work")},
		CgroupPath: r.inst.Cgroup + "/" + id, LogPath: filepath.Join(scratch, "log"),
	}
}

func ociSpec(args []string) specs.Spec {
	caps := []string{"CAP_KILL", "CAP_SETUID", "CAP_SETGID"}
	return specs.Spec{
		Version: "1.0.2", Hostname: "guest",
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666", "mode=0620"}},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: "pid"}, {Type: "mount"}, {Type: "ipc"}, {Type: "uts"}, {Type: "network"}}},
	}
}

func (r *rig) spawn(s Spec) Client {
	r.t.Helper()
	c, err := r.sp.Spawn(ctx(r.t), s)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func ctx(t testing.TB) context.Context {
	c, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return c
}

func (r *rig) start(c Client) ProcessInfo {
	r.t.Helper()
	i, err := c.Start(ctx(r.t))
	if err != nil {
		r.t.Fatal(err)
	}
	return i
}

// stdio is a client's end of an attached connection.
type stdioConn struct {
	t    testing.TB
	conn *net.UnixConn
	w    *hcs.FrameWriter
	r    *hcs.FrameReader
}

func attach(t testing.TB, c Client, process string, o AttachOptions, early ...byte) *stdioConn {
	t.Helper()
	s, err := tryAttach(t, c, process, o, early...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func tryAttach(t testing.TB, c Client, process string, o AttachOptions, early ...byte) (*stdioConn, error) {
	sp, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := connOf(sp[0])
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := connOf(sp[1])
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	if err := c.Attach(ctx(t), process, o, theirs, early); err != nil {
		ours.Close()
		return nil, err
	}
	t.Cleanup(func() { ours.Close() })
	return &stdioConn{t, ours, hcs.NewFrameWriter(ours), hcs.NewFrameReader(ours)}, nil
}

func all() AttachOptions { return AttachOptions{Stdin: true, Stdout: true, Stderr: true, Replay: true} }

// rest reads until the last frame.
func (s *stdioConn) rest() (stdout, stderr string, st hcs.ProcessStatus) {
	s.t.Helper()
	_ = s.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	var out, errs bytes.Buffer
	for {
		k, b, err := s.r.Read()
		if err != nil {
			s.t.Fatalf("stdio after %q, %q: %v", tail(out.String()), tail(errs.String()), err)
		}
		switch k {
		case hcs.FrameStdout:
			out.Write(b)
		case hcs.FrameStderr:
			errs.Write(b)
		case hcs.FrameExit:
			if err := json.Unmarshal(b, &st); err != nil {
				s.t.Fatal(err)
			}
			if _, _, err := s.r.Read(); !errors.Is(err, io.EOF) {
				s.t.Errorf("after the exit frame: %v, want EOF", err)
			}
			return out.String(), errs.String(), st
		case hcs.FrameError:
			s.t.Fatalf("error frame: %s", b)
		}
	}
}

func tail(s string) string { return s[max(0, len(s)-200):] }

// until reads output until it holds want.
func (s *stdioConn) until(want string) string {
	s.t.Helper()
	_ = s.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	var out bytes.Buffer
	for !strings.Contains(out.String(), want) {
		k, b, err := s.r.Read()
		if err != nil || k == hcs.FrameExit || k == hcs.FrameError {
			s.t.Fatalf("want %q in the output, got %q, frame %d %q, %v", want, tail(out.String()), k, b, err)
		}
		out.Write(b)
	}
	return out.String()
}

// end waits for the system's exit and closes the worker.
func (r *rig) end(c Client) JournalEntry {
	r.t.Helper()
	cx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ch, err := c.Journal(cx, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	for e := range ch {
		if e.What == WhatExited {
			if err := c.Close(cx); err != nil {
				r.t.Fatal(err)
			}
			if _, err := os.Stat(c.Spec().Dir); !os.IsNotExist(err) {
				r.t.Errorf("directory after Close: %v", err)
			}
			return e
		}
	}
	r.t.Fatal("journal ended without an exit")
	return JournalEntry{}
}

func TestRun(t *testing.T) {
	r := newRig(t)
	c := r.spawn(r.spec("both"))
	s := attach(t, c, initKey, all())
	i := r.start(c)
	out, errs, st := s.rest()
	if out != "to stdout\n" || errs != "to stderr\n" {
		t.Errorf("output %q, %q", out, errs)
	}
	if !st.Exited || st.ExitCode != 0 || st.Key != initKey || st.ProcessId != uint32(i.PID) {
		t.Errorf("exit frame %+v", st)
	}
	log, _ := os.ReadFile(c.Spec().LogPath)
	if n := strings.Count(string(log), "\n"); n != 2 || !strings.Contains(string(log), " stderr F to stderr\n") {
		t.Errorf("log %q", log)
	}
	es, err := ReadJournal(c.Spec().Dir)
	if err != nil {
		t.Fatal(err)
	}
	var whats []string
	for i, e := range es {
		whats = append(whats, e.What)
		if e.Seq != uint64(i+1) {
			t.Errorf("entry %d has Seq %d", i, e.Seq)
		}
	}
	if want := []string{WhatCreated, WhatStarted, WhatProcessCreated, WhatProcessExited, WhatExited}; !slices.Equal(whats, want) {
		t.Errorf("journal %v, want %v", whats, want)
	}
	e := r.end(c)
	if e.Exit.ExitType != hcs.GracefulExit || *e.Exit.InitExitCode != 0 {
		t.Errorf("exit %+v", e.Exit)
	}
	if _, err := c.Stats(ctx(t)); !errors.Is(err, ErrGone) {
		t.Errorf("call after Close: %v, want ErrGone", err)
	}
}
