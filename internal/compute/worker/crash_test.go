// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/silo"
)

// A worker that was killed: the client says so, the journal is there, Destroy
// removes all the rest.
func TestWorkerKilled(t *testing.T) {
	r := newRig(t)
	c := r.spawn(r.spec("forks", "10"))
	s := attach(t, c, initKey, all())
	i := r.start(c)
	s.until("forked")
	dir := c.Spec().Dir
	if err := Destroy(ctx(t), dir); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("Destroy of a live worker: %v", err)
	}
	ch, err := c.Journal(ctx(t), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(c.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var last JournalEntry
	for e := range ch { // closes
		last = e
	}
	if last.What != WhatProcessCreated {
		t.Errorf("last entry %+v", last)
	}
	for _, call := range []func() error{
		func() error { _, err := c.Stats(ctx(t)); return err },
		func() error { _, err := c.Signal(ctx(t), initKey, 9); return err },
		func() error { return c.KillAll(ctx(t)) },
		func() error { _, err := Adopt(ctx(t), dir); return err },
	} {
		if err := call(); !errors.Is(err, ErrGone) || !errors.Is(err, errdefs.ErrUnavailable) {
			t.Errorf("call of a dead worker: %v", err)
		}
	}
	if !Dead(dir) {
		t.Error("Dead says it lives")
	}
	if err := unix.Kill(i.PID, 0); err != nil {
		t.Errorf("the container did not outlive its worker: %v", err)
	}
	if o, err := Owned(r.inst); err != nil || len(o.Orphans()) != 3 {
		t.Errorf("orphans %q, %v; want worker, cgroup and runtime state", o.Orphans(), err)
	}
	for range 2 { // again is no error
		if err := Destroy(ctx(t), dir); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", i.PID)); err == nil && !strings.Contains(string(st), ") Z ") {
		t.Errorf("init is left: %s", st)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("directory: %v", err)
	}
	// All the rest is the rig's check.
}

// The worker dies at any moment of a start, the runtime at work: Destroy removes
// what there is. The rig checks that nothing is left.
func TestWorkerKilledWhileStarting(t *testing.T) {
	r := newRig(t)
	for i := range 25 {
		c := r.spawn(r.spec("sleep", "60"))
		go func() {
			time.Sleep(time.Duration(i) * time.Millisecond)
			_ = unix.Kill(c.PID(), unix.SIGKILL)
		}()
		if _, err := c.Start(ctx(t)); err != nil && !errors.Is(err, ErrGone) {
			t.Errorf("after %d ms: %v", i, err)
		}
		for !Dead(c.Spec().Dir) {
			time.Sleep(time.Millisecond)
		}
		if err := Destroy(ctx(t), c.Spec().Dir); err != nil {
			t.Errorf("after %d ms: %v", i, err)
		}
	}
	time.Sleep(50 * time.Millisecond) // what the runtime might still do
}

// The daemon goes and another adopts in the middle of the output: the attached
// connection loses nothing, the journal goes on where it was.
func TestAdopt(t *testing.T) {
	r := newRig(t)
	c := r.spawn(r.spec("lines", "3000", "100"))
	s := attach(t, c, initKey, all())
	r.start(c)
	s.until("line 50\n")
	r.sp.Close()
	dir := c.Spec().Dir
	c, err := Adopt(ctx(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	if c.PID() < 2 || c.Spec().ID != "c1" {
		t.Errorf("adopted %d, %+v", c.PID(), c.Spec())
	}
	ch, err := c.Journal(ctx(t), 2)
	if err != nil {
		t.Fatal(err)
	}
	if e := <-ch; e.Seq != 3 || e.What != WhatProcessCreated {
		t.Errorf("entry after 2: %+v", e)
	}
	out, _, st := s.rest()
	if !strings.HasSuffix(out, "line 2999\n") || st.ExitCode != 0 {
		t.Errorf("output ends %q, %+v", tail(out), st)
	}
	log, err := os.ReadFile(c.Spec().LogPath)
	if err != nil || strings.Count(string(log), "\n") != 3000 {
		t.Errorf("log has %d lines, %v", strings.Count(string(log), "\n"), err)
	}
	r.end(c)
}

func TestSpawnRefused(t *testing.T) {
	r := newRig(t)
	sp := r.spec("exit", "0")
	sp.Root.Lower = []string{"/nonexistent/layer", guestRoot(t)}
	_, err := r.sp.Spawn(ctx(t), sp)
	if err == nil || !strings.Contains(err.Error(), "/nonexistent/layer") {
		t.Errorf("missing layer: %v", err)
	}
	if _, err := os.Stat(sp.Dir); !os.IsNotExist(err) {
		t.Errorf("directory: %v", err)
	}
	sp = r.spec("exit", "0")
	r.sp.Exe = "/nonexistent/worker"
	if _, err := r.sp.Spawn(ctx(t), sp); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing program: %v", err)
	}
	r.sp.Exe = "/bin/true"
	if _, err := r.sp.Spawn(ctx(t), sp); err == nil || !strings.Contains(err.Error(), "ended at once") {
		t.Errorf("wrong program: %v", err)
	}
	r.sp.Exe = ""
	c := r.spawn(sp)
	if _, err := r.sp.Spawn(ctx(t), sp); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("the same again: %v", err)
	}
	if err := c.Close(ctx(t)); err != nil { // never started
		t.Fatal(err)
	}
}

// What sees a file system: many layers, names with punctuation, read-only, bind.
func TestRoots(t *testing.T) {
	r := newRig(t)
	odd := filepath.Join(t.TempDir(), "a:b,c\\d")
	var many []string
	for i := range 200 {
		d := filepath.Join(odd, fmt.Sprintf("layer-with-a-rather-long-name-%03d", i))
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		many = append(many, d)
	}
	long := filepath.Join(t.TempDir(), strings.Repeat("long/", 60), "x")
	if err := os.MkdirAll(long, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		with func(*Spec)
		out  string
	}{
		{"overlay", func(*Spec) {}, "<nil>\n"},
		{"many layers", func(s *Spec) { s.Root.Lower = append(slices.Clone(many), guestRoot(t)) }, "<nil>\n"},
		{"long names", func(s *Spec) {
			s.Root.Lower = append(s.Root.Lower, slices.Repeat([]string{long}, 0)...)
			s.Root.Lower = append([]string{long}, s.Root.Lower...)
		}, "<nil>\n"},
		{"read-only", func(s *Spec) { s.Root.ReadOnly = true }, "open /new: read-only file system\n"},
		{"no upper", func(s *Spec) { s.Root.Upper, s.Root.Work = "", "" }, "open /new: read-only file system\n"},
		{"no upper, two layers", func(s *Spec) { s.Root.Upper, s.Root.Work = "", ""; s.Root.Lower = append(s.Root.Lower, many[0]) }, "open /new: read-only file system\n"},
		{"bind, read-only", func(s *Spec) { s.Root = Root{Path: guestRoot(t), ReadOnly: true} }, "open /new: read-only file system\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sp := r.spec("write", "/new")
			tc.with(&sp)
			c, err := r.sp.Spawn(ctx(t), sp)
			if err != nil {
				t.Fatal(err)
			}
			s := attach(t, c, initKey, all())
			r.start(c)
			if out, _, _ := s.rest(); out != tc.out {
				t.Errorf("got %q, want %q", out, tc.out)
			}
			r.end(c)
			if _, err := os.Stat(filepath.Join(guestRoot(t), "guest")); err != nil {
				t.Fatalf("the clean-up went into the root: %v", err)
			}
		})
	}
}

// A root so deep that no socket's address holds it.
func TestLongDirectory(t *testing.T) {
	r := newRig(t)
	sp := r.spec("size", "0")
	sp.Dir = filepath.Join(r.inst.Run, "workers", strings.Repeat("deep/", 30), sp.RuntimeID)
	sp.Terminal = true
	c := r.spawn(sp)
	s := attach(t, c, initKey, all())
	r.start(c)
	s.rest()
	r.end(c)
	os.RemoveAll(filepath.Join(r.inst.Run, "workers"))
}

func TestSpare(t *testing.T) {
	r := newRig(t)
	r.sp.Spare = 2
	if err := r.sp.Warm(); err != nil {
		t.Fatal(err)
	}
	pids := []int{r.sp.spares[0].pid, r.sp.spares[1].pid}
	// A spare that died is passed over.
	if err := unix.Kill(pids[0], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-r.sp.spares[0].gone
	c := r.spawn(r.spec("exit", "0"))
	if c.PID() != pids[1] {
		t.Errorf("worker %d, want the spare %d", c.PID(), pids[1])
	}
	r.start(c)
	r.end(c)

	// A spare sees what the host mounted after its start.
	if err := r.sp.Warm(); err != nil {
		t.Fatal(err)
	}
	pids = []int{r.sp.spares[0].pid, r.sp.spares[1].pid}
	late := t.TempDir()
	if err := mountTmpfs(late, ""); err != nil {
		t.Fatal(err)
	}
	defer unmount(t, late)
	if err := os.WriteFile(filepath.Join(late, "seen"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	sp := r.spec("write", "/seen/seen")
	sp.OCI.Mounts = append(sp.OCI.Mounts, specs.Mount{Destination: "/seen", Type: "bind", Source: late, Options: []string{"rbind"}})
	c = r.spawn(sp)
	if c.PID() != pids[0] {
		t.Errorf("worker %d, want the spare %d", c.PID(), pids[0])
	}
	s := attach(t, c, initKey, all())
	r.start(c)
	if out, _, _ := s.rest(); out != "<nil>\n" {
		t.Errorf("got %q", out)
	}
	if b, err := os.ReadFile(filepath.Join(late, "seen")); string(b) != "x" {
		t.Errorf("host sees %q, %v", b, err)
	}
	r.end(c)
	r.sp.Close()
	if err := unix.Kill(pids[1], 0); err == nil {
		t.Error("the spare is left")
	}
}

func TestManyAtOnce(t *testing.T) {
	r := newRig(t)
	r.sp.Spare = 2
	_ = r.sp.Warm()
	fds := openFiles(t)
	var list []Spec
	const n = 30
	for range n {
		list = append(list, r.spec("trap"))
	}
	var wg sync.WaitGroup
	began := time.Now()
	clients := make([]Client, n)
	for i := range n {
		wg.Go(func() {
			cx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
			defer cancel()
			c, err := r.sp.Spawn(cx, list[i])
			if err != nil {
				t.Error(err)
				return
			}
			clients[i] = c
			s := attach(t, c, initKey, all())
			if _, err := c.Start(cx); err != nil {
				t.Error(err)
				return
			}
			s.until("ready")
		})
	}
	wg.Wait()
	t.Logf("%d started in %v", n, time.Since(began))
	began = time.Now()
	for _, c := range clients {
		if c == nil {
			continue
		}
		wg.Go(func() {
			cx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
			defer cancel()
			if err := errors.Join(c.KillAll(cx), c.Close(cx)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d removed in %v", n, time.Since(began))
	r.sp.Close()
	// The attached connections are closed by the test's own clean-up.
	deadline := time.Now().Add(5 * time.Second)
	for openFiles(t) > fds+n && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if now := openFiles(t); now > fds+n {
		t.Errorf("%d descriptors, %d before", now, fds)
	}
}

func openFiles(t *testing.T) int {
	es, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(es)
}

// Sweep finds what has no directory any more.
func TestSweep(t *testing.T) {
	r := newRig(t)
	c := r.spawn(r.spec("forks", "3"))
	s := attach(t, c, initKey, all())
	i := r.start(c)
	s.until("forked")
	if err := Sweep(ctx(t), r.inst); err != nil { // touches nothing alive
		t.Fatal(err)
	}
	if err := unix.Kill(i.PID, 0); err != nil {
		t.Fatalf("sweep killed a live system: %v", err)
	}
	_ = unix.Kill(c.PID(), unix.SIGKILL)
	for !Dead(c.Spec().Dir) {
		time.Sleep(time.Millisecond)
	}
	os.RemoveAll(c.Spec().Dir)
	if err := Sweep(ctx(t), r.inst); err != nil {
		t.Fatal(err)
	}
	if (silo.Cgroup{On: groups(t), Path: c.Spec().CgroupPath}).Exists() {
		t.Error("the cgroup is left")
	}
}

func TestClassify(t *testing.T) {
	for _, tc := range []struct {
		e          silo.Exit
		terminated bool
		sent       int
		oom        bool
		want       hcs.ExitType
		reason     string
	}{
		{silo.Exit{Code: 0}, false, 0, false, hcs.GracefulExit, ""},
		{silo.Exit{Code: 3}, false, 0, true, hcs.GracefulExit, ""},
		{silo.Exit{Code: 137}, false, 0, true, hcs.UnexpectedExit, "oom"},
		{silo.Exit{Code: 137, Signal: 9}, false, 0, true, hcs.UnexpectedExit, "oom"},
		{silo.Exit{Code: 137, Signal: 9}, true, 0, true, hcs.ForcedExit, ""},
		{silo.Exit{Code: 137, Signal: 9}, false, 9, false, hcs.ForcedExit, ""},
		{silo.Exit{Code: 143, Signal: 15}, false, 15, false, hcs.GracefulExit, ""},
		{silo.Exit{Code: 139, Signal: 11}, false, 0, false, hcs.UnexpectedExit, "signal 11"},
		{silo.Exit{Code: 139, Signal: 11}, false, 15, false, hcs.UnexpectedExit, "signal 11"},
	} {
		x := classify(tc.e, tc.terminated, tc.sent, tc.oom)
		if x.ExitType != tc.want || x.Reason != tc.reason || (x.Status != 0) != (tc.want == hcs.UnexpectedExit) || *x.InitExitCode != uint32(tc.e.Code) {
			t.Errorf("classify(%+v, %v, %d, %v) = %+v", tc.e, tc.terminated, tc.sent, tc.oom, x)
		}
	}
}
