// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package worker

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gatehouse.dev/gatehouse/hcs"
)

func guest(args ...string) specs.Process {
	return specs.Process{Args: append([]string{"/guest"}, args...), Cwd: "/", Env: []string{"PATH=/"}}
}

func TestStdin(t *testing.T) {
	r := newRig(t)
	sp := r.spec("sum")
	sp.Stdin = true
	c := r.spawn(sp)
	early := hcs.AppendFrame(nil, hcs.FrameStdin, []byte("early "))
	s := attach(t, c, initKey, all(), early...)
	r.start(c)
	want := sha256.New()
	want.Write([]byte("early "))
	b := make([]byte, 1<<20)
	for i := range b {
		b[i] = byte(i * 31)
	}
	const mib = 64
	for range mib {
		want.Write(b)
		if err := s.w.Write(hcs.FrameStdin, b); err != nil {
			t.Fatal(err)
		}
	}
	// The second is idempotent; in one write, since the first may end all this.
	twice := hcs.AppendFrame(hcs.AppendFrame(nil, hcs.FrameCloseStdin, nil), hcs.FrameCloseStdin, nil)
	if _, err := s.conn.Write(twice); err != nil {
		t.Fatal(err)
	}
	out, _, _ := s.rest()
	if got := fmt.Sprintf("%d %x\n", mib<<20+6, want.Sum(nil)); out != got {
		t.Errorf("got %q, want %q", out, got)
	}
	if err := c.CloseStdin(ctx(t), initKey); err != nil {
		t.Errorf("CloseStdin after the exit: %v", err)
	}
	r.end(c)
}

func TestLargeOutput(t *testing.T) {
	r := newRig(t)
	c := r.spawn(r.spec("flood", "64"))
	s := attach(t, c, initKey, all())
	began := time.Now()
	r.start(c)
	h, n := sha256.New(), 0
	for {
		k, b, err := s.r.Read()
		if err != nil {
			t.Fatal(err)
		}
		if k == hcs.FrameExit {
			break
		}
		n += len(b)
		h.Write(b)
		if n < 1<<20 {
			time.Sleep(2 * time.Millisecond) // slow at first: the process waits
		}
	}
	t.Logf("64 MiB in %v", time.Since(began))
	want := sha256.New()
	b := make([]byte, 1<<20)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	for range 64 {
		want.Write(b)
	}
	if n != 64<<20 || string(h.Sum(nil)) != string(want.Sum(nil)) {
		t.Errorf("%d bytes, sum %x; want %d, %x", n, h.Sum(nil), 64<<20, want.Sum(nil))
	}
	r.end(c)
}

// A creating stream that does not read holds the process; a second reader that
// does not is dropped and holds nobody.
func TestSlowReaders(t *testing.T) {
	r := newRig(t)
	c := r.spawn(r.spec("flood", "8"))
	s := attach(t, c, initKey, all())
	slow := attach(t, c, initKey, AttachOptions{Stdout: true})
	r.start(c)
	time.Sleep(200 * time.Millisecond)
	if p, _ := c.Processes(ctx(t)); len(p) == 0 {
		t.Error("nobody held the process back")
	}
	out, _, _ := s.rest()
	if len(out) != 8<<20 {
		t.Errorf("%d bytes, want %d", len(out), 8<<20)
	}
	_ = slow.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		k, b, err := slow.r.Read()
		if k == hcs.FrameError && err == nil {
			if !strings.Contains(string(b), "behind") {
				t.Errorf("error frame %s", b)
			}
			break
		}
		if err != nil {
			// Its socket took nothing within the second that the last frames have.
			if !errors.Is(err, hcs.ErrFrame) && !errors.Is(err, io.EOF) {
				t.Errorf("slow reader: %v", err)
			}
			break
		}
	}
	r.end(c)
}

// Nobody attached: the last 256 KiB are kept. Attached twice: both get all.
func TestAttachLate(t *testing.T) {
	r := newRig(t)
	c := r.spawn(r.spec("flood", "1"))
	r.start(c)
	waitExit(t, c)
	out, _, _ := attach(t, c, initKey, all()).rest()
	if n := len(out); n < 200<<10 || n > ringBytes {
		t.Errorf("ring gave %d bytes", n)
	}
	out, _, _ = attach(t, c, initKey, all()).rest()
	if out != "" {
		t.Errorf("the second time: %d bytes", len(out))
	}
	r.end(c)

	sp := r.spec("cat")
	sp.Stdin = true
	c = r.spawn(sp)
	a, b := attach(t, c, initKey, all()), attach(t, c, initKey, AttachOptions{Stdout: true})
	if _, err := tryAttach(t, c, initKey, all()); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("a second writer: %v", err)
	}
	r.start(c)
	if err := a.w.Write(hcs.FrameStdin, []byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	a.until("hello")
	b.until("hello")
	a.conn.Close() // vanishes; another takes over
	var d *stdioConn
	for i := 0; d == nil; i++ {
		var err error
		if d, err = tryAttach(t, c, initKey, all()); err != nil && i > 1000 {
			t.Fatal(err)
		}
	}
	if err := d.w.Write(hcs.FrameStdin, []byte("again\n")); err != nil {
		t.Fatal(err)
	}
	d.until("again")
	b.until("again")
	if err := c.CloseStdin(ctx(t), initKey); err != nil {
		t.Fatal(err)
	}
	d.rest()
	b.rest()
	r.end(c)
}

func waitExit(t testing.TB, c Client) JournalEntry {
	t.Helper()
	ch, err := c.Journal(ctx(t), 0)
	if err != nil {
		t.Fatal(err)
	}
	for e := range ch {
		if e.What == WhatExited {
			return e
		}
	}
	t.Fatal("no exit in the journal")
	return JournalEntry{}
}

func TestStdinOnce(t *testing.T) {
	r := newRig(t)
	sp := r.spec("sum")
	sp.Stdin, sp.StdinOnce = true, true
	c := r.spawn(sp)
	s := attach(t, c, initKey, all())
	r.start(c)
	if err := s.w.Write(hcs.FrameStdin, []byte("x")); err != nil {
		t.Fatal(err)
	}
	s.conn.Close()
	if e := waitExit(t, c); e.Status.ExitCode != 0 {
		t.Errorf("exit %+v", e.Status)
	}
	r.end(c)
}

func TestNoStdin(t *testing.T) {
	r := newRig(t)
	c := r.spawn(r.spec("sum")) // /dev/null
	s := attach(t, c, initKey, all())
	r.start(c)
	if out, _, _ := s.rest(); !strings.HasPrefix(out, "0 ") {
		t.Errorf("got %q", out)
	}
	r.end(c)
}

func TestTerminal(t *testing.T) {
	r := newRig(t)
	sp := r.spec("size", "1")
	sp.Terminal, sp.Stdin, sp.ConsoleSize = true, true, [2]uint16{10, 20}
	c := r.spawn(sp)
	s := attach(t, c, initKey, all())
	if err := c.Resize(ctx(t), initKey, 30, 90); err != nil { // before the start
		t.Fatal(err)
	}
	r.start(c)
	if out := s.until("true\r\n"); !strings.Contains(out, "size 30 90 true") {
		t.Errorf("first size: %q", out)
	}
	if err := s.w.WriteJSON(hcs.FrameResize, hcs.ConsoleSize{Height: 41, Width: 99}); err != nil {
		t.Fatal(err)
	}
	if out, _, st := s.rest(); !strings.Contains(out, "size 41 99 true") || st.ExitCode != 0 {
		t.Errorf("second size: %q, %+v", out, st)
	}
	r.end(c)

	sp = r.spec("cat")
	sp.Terminal, sp.Stdin = true, true
	c = r.spawn(sp)
	s = attach(t, c, initKey, all())
	r.start(c)
	if err := s.w.Write(hcs.FrameStdin, []byte("typed\n")); err != nil {
		t.Fatal(err)
	}
	s.until("typed\r\ntyped\r\n") // the terminal's echo and cat's
	if err := s.w.Write(hcs.FrameStdin, []byte{4}); err != nil {
		t.Fatal(err)
	}
	if _, _, st := s.rest(); st.ExitCode != 0 {
		t.Errorf("exit %+v", st)
	}
	r.end(c)

	sp = r.spec("sleep", "60")
	sp.Terminal, sp.Stdin = true, true
	c = r.spawn(sp)
	s = attach(t, c, initKey, all())
	r.start(c)
	i, err := c.Exec(ctx(t), func() specs.Process { p := guest("sleep", "60"); p.Terminal = true; return p }(), true)
	if err != nil {
		t.Fatal(err)
	}
	x := attach(t, c, i.Key, all())
	if err := x.w.Write(hcs.FrameStdin, []byte{3}); err != nil { // ^C
		t.Fatal(err)
	}
	if _, _, st := x.rest(); st.ExitCode != 130 && st.ExitCode != 2 {
		t.Errorf("exec after ^C: %+v", st)
	}
	if err := c.KillAll(ctx(t)); err != nil {
		t.Fatal(err)
	}
	s.rest()
	r.end(c)
}

func TestExec(t *testing.T) {
	r := newRig(t)
	c := r.spawn(r.spec("sleep", "60"))
	if _, err := c.Exec(ctx(t), guest("echo"), false); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("exec before the start: %v", err)
	}
	r.start(c)
	i, err := c.Exec(ctx(t), guest("both"), false)
	if err != nil {
		t.Fatal(err)
	}
	if i.Key != "p1" || i.PID < 2 {
		t.Errorf("info %+v", i)
	}
	out, errs, st := attach(t, c, i.Key, all()).rest()
	if out != "to stdout\n" || errs != "to stderr\n" || st.ExitCode != 0 || st.Key != "p1" {
		t.Errorf("%q %q %+v", out, errs, st)
	}
	i, err = c.Exec(ctx(t), guest("sum"), true)
	if err != nil {
		t.Fatal(err)
	}
	s := attach(t, c, i.Key, all())
	_ = s.w.Write(hcs.FrameStdin, []byte("abc"))
	_ = s.w.Write(hcs.FrameCloseStdin, nil)
	if out, _, _ := s.rest(); !strings.HasPrefix(out, "3 ba7816bf") {
		t.Errorf("sum %q", out)
	}
	if i, err = c.Exec(ctx(t), guest("exit", "9"), false); err != nil {
		t.Fatal(err)
	}
	if _, _, st := attach(t, c, i.Key, all()).rest(); st.ExitCode != 9 {
		t.Errorf("exit %+v", st)
	}
	var se *StartError
	if _, err := c.Exec(ctx(t), specs.Process{Args: []string{"/nope"}, Cwd: "/"}, false); !errors.As(err, &se) || se.ExitCode != 127 {
		t.Errorf("exec of nothing: %v, %+v", err, se)
	}
	if _, err := c.Exec(ctx(t), specs.Process{Args: []string{"/etc/plain"}, Cwd: "/"}, false); !errors.As(err, &se) || se.ExitCode != 126 {
		t.Errorf("exec of no program: %v, %+v", err, se)
	}
	// Output held open by a descendant ends a second after the exit.
	if i, err = c.Exec(ctx(t), guest("daemon"), false); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if out, _, _ := attach(t, c, i.Key, all()).rest(); out != "left\n" {
		t.Errorf("got %q", out)
	}
	if d := time.Since(began); d > 3*time.Second {
		t.Errorf("descendant held the exit for %v", d)
	}
	if i, err = c.Exec(ctx(t), guest("sleep", "60"), false); err != nil {
		t.Fatal(err)
	}
	// init's end ends it, and is journaled after it.
	if ok, err := c.Signal(ctx(t), initKey, 9); !ok || err != nil {
		t.Fatalf("signal: %v, %v", ok, err)
	}
	waitExit(t, c)
	es, err := ReadJournal(c.Spec().Dir)
	if err != nil {
		t.Fatal(err)
	}
	n := len(es)
	if es[n-3].Process != i.Key || es[n-3].Status.ExitCode != 137 || es[n-2].Process != initKey || es[n-1].What != WhatExited {
		t.Errorf("last entries %+v", es[n-3:])
	}
	if _, err := c.Exec(ctx(t), guest("echo"), false); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("exec after the exit: %v", err)
	}
	r.end(c)
}

func TestLogRotation(t *testing.T) {
	r := newRig(t)
	sp := r.spec("lines", "5000")
	sp.LogMaxBytes = 64 << 10
	c := r.spawn(sp)
	r.start(c)
	waitExit(t, c)
	for _, p := range []string{sp.LogPath, sp.LogPath + ".1"} {
		st, err := os.Stat(p)
		if err != nil || st.Size() == 0 || st.Size() > 64<<10 {
			t.Errorf("%s: %v, %v", p, st, err)
		}
	}
	b, _ := os.ReadFile(sp.LogPath)
	old, _ := os.ReadFile(sp.LogPath + ".1")
	if !strings.HasSuffix(string(b), "stdout F line 4999\n") {
		t.Errorf("log ends %q", tail(string(b)))
	}
	first := strings.SplitN(string(b), "\n", 2)[0]
	last := string(old[strings.LastIndexByte(strings.TrimSpace(string(old)), '\n')+1:])
	var x, y int
	fmt.Sscanf(first[strings.Index(first, "line"):], "line %d", &x)
	fmt.Sscanf(last[strings.Index(last, "line"):], "line %d", &y)
	if x != y+1 {
		t.Errorf("pages do not meet: %q then %q", last, first)
	}
	r.end(c)
}

// The container does not inherit what makes the worker special.
func TestOOMScore(t *testing.T) {
	r := newRig(t)
	c := r.spawn(r.spec("oom"))
	s := attach(t, c, initKey, all())
	r.start(c)
	if out, _, _ := s.rest(); !strings.HasPrefix(out, "0\n") {
		t.Errorf("oom_score_adj %q", out)
	}
	score, _ := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", c.PID()))
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1"), 0); err != nil {
		t.Logf("worker's score not looked at: %v", err)
	} else if _ = os.WriteFile("/proc/self/oom_score_adj", []byte("0"), 0); strings.TrimSpace(string(score)) != "-998" {
		t.Errorf("worker's %q", score)
	}
	r.end(c)
}
