// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"gatehouse.dev/gatehouse/internal/compute/worker"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"gatehouse": func() { os.Exit(commands(os.Args[1:])) },
		worker.Name: func() { os.Exit(worker.Main(os.Args)) },
	})
}

// TestScripts runs each script of testdata/script against a daemon of its own: a
// root and a network namespace of its own. Beside testscript's own commands:
//
//	daemon start|stop|kill   the daemon; kill is SIGKILL
//	exits CODE WORD…         runs a command that must exit with CODE
//	eventually WORD…         repeats a command until it succeeds, 20 s at most
//
// The script's end removes every container and network, stops the daemon and
// fails when anything of the root is left.
func TestScripts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces, eBPF, runc")
	}
	if testing.Short() {
		t.Skip("scripts are not short")
	}
	if m, _ := filepath.Glob("../../internal/hello/bin/hello-*"); len(m) == 0 {
		t.Skip("the hello image is not built; run make hello")
	}
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		Setup:               setup,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"daemon":     func(ts *testscript.TestScript, _ bool, args []string) { hostOf(ts).command(ts, args) },
			"exits":      exits,
			"eventually": eventually,
		},
	})
}

type hostKey struct{}

// scriptHost is one script's daemon.
type scriptHost struct {
	root, ns string
	cmd      *exec.Cmd
	log      bytes.Buffer
}

func hostOf(ts *testscript.TestScript) *scriptHost {
	return ts.Value(hostKey{}).(*scriptHost)
}

var scripts atomic.Int32

func setup(e *testscript.Env) error {
	// Short: a unix socket's path ends at 107 bytes.
	root, err := os.MkdirTemp("", "ghs.")
	if err != nil {
		return err
	}
	h := &scriptHost{root: root, ns: fmt.Sprintf("ghs-%d-%d", os.Getpid(), scripts.Add(1))}
	for _, args := range [][]string{{"netns", "add", h.ns}, {"-n", h.ns, "link", "set", "lo", "up"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
	}
	e.Values[hostKey{}] = h
	e.Setenv("GATEHOUSE_ROOT", root)
	e.Setenv("HOME", e.WorkDir)
	e.Setenv("NETNS", "/run/netns/"+h.ns)
	hello, err := filepath.Glob("../../internal/hello/bin/hello-*")
	if err != nil || len(hello) == 0 {
		return errors.New("no hello")
	}
	abs, err := filepath.Abs(hello[0])
	if err != nil {
		return err
	}
	e.Setenv("HELLO", abs)
	env := append([]string{}, e.Vars...)
	e.Defer(func() {
		if err := h.end(env); err != nil {
			e.T().Log(h.log.String())
			e.T().Fatal(err)
		}
	})
	return nil
}

func (h *scriptHost) command(ts *testscript.TestScript, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: daemon start|stop|kill")
	}
	switch args[0] {
	case "start":
		ts.Check(h.start([]string{"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.Getenv("HOME"), "GATEHOUSE_ROOT=" + h.root}))
	case "stop":
		ts.Check(h.stop(syscall.SIGTERM))
	case "kill":
		ts.Check(h.stop(syscall.SIGKILL))
	default:
		ts.Fatalf("daemon %s: no such verb", args[0])
	}
}

func lookPath(env []string, name string) string {
	for _, v := range env {
		if p, ok := strings.CutPrefix(v, "PATH="); ok {
			for _, dir := range filepath.SplitList(p) {
				if f := filepath.Join(dir, name); func() bool { _, err := os.Stat(f); return err == nil }() {
					return f
				}
			}
		}
	}
	return name
}

func (h *scriptHost) start(env []string) error {
	h.cmd = exec.Command("nsenter", "--net=/run/netns/"+h.ns, lookPath(env, "gatehouse"), "serve")
	h.cmd.Env = env
	h.cmd.Stdout, h.cmd.Stderr = &h.log, &h.log
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Workers hold the daemon's standard error; its end must not wait for theirs.
	h.cmd.WaitDelay = 100 * time.Millisecond
	if err := h.cmd.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if h.gatehouse(env, "ps") == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("daemon does not answer:\n%s", h.log.String())
		}
	}
}

func (h *scriptHost) stop(sig syscall.Signal) error {
	if h.cmd == nil {
		return errors.New("no daemon runs")
	}
	_ = h.cmd.Process.Signal(sig)
	done := make(chan error, 1)
	go func() { done <- h.cmd.Wait() }()
	defer func() { h.cmd = nil }()
	select {
	case err := <-done:
		if sig == syscall.SIGTERM && err != nil && !errors.Is(err, exec.ErrWaitDelay) {
			return fmt.Errorf("daemon's end: %w\n%s", err, h.log.String())
		}
		return nil
	case <-time.After(30 * time.Second):
		_ = h.cmd.Process.Kill()
		<-done
		return fmt.Errorf("daemon does not stop:\n%s", h.log.String())
	}
}

func (h *scriptHost) gatehouse(env []string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, "nsenter", append([]string{"--net=/run/netns/" + h.ns, lookPath(env, "gatehouse")}, args...)...)
	c.Env = env
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("gatehouse %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// end takes everything away through the API and looks at what is left.
func (h *scriptHost) end(env []string) error {
	defer func() { _ = exec.Command("ip", "netns", "del", h.ns).Run() }()
	if h.cmd == nil {
		if err := h.start(env); err != nil {
			return err
		}
	}
	out := func(args ...string) []string {
		c := exec.Command(lookPath(env, "gatehouse"), args...)
		c.Env = env
		b, _ := c.Output()
		return strings.Fields(string(b))
	}
	var errs []error
	if names := out("ps", "-a", "-o", "name"); len(names) > 0 {
		errs = append(errs, h.gatehouse(env, append([]string{"rm", "-f"}, names...)...))
	}
	if ids := out("namespace", "ls", "-o", "name"); len(ids) > 0 {
		errs = append(errs, h.gatehouse(env, append([]string{"namespace", "rm"}, ids...)...))
	}
	errs = append(errs, h.gatehouse(env, "doctor", "--leaks"))
	if names := out("network", "ls", "-o", "name"); len(names) > 0 {
		errs = append(errs, h.gatehouse(env, append([]string{"network", "rm", "-f"}, names...)...))
	}
	errs = append(errs, h.stop(syscall.SIGTERM), h.gatehouse(env, "doctor", "--leaks"))
	links, err := exec.Command("ip", "-n", h.ns, "-o", "link").Output()
	if err != nil || bytes.Contains(links, []byte(": gh")) {
		errs = append(errs, fmt.Errorf("devices left: %w\n%s", err, links))
	}
	return errors.Join(append(errs, os.RemoveAll(h.root))...)
}

// exits runs a command and compares its exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE WORD…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var x *exec.ExitError
	switch {
	case errors.As(err, &x):
		got = x.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("%s exits with %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 1 {
		ts.Fatalf("usage: [!] eventually WORD…")
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if err := ts.Exec(args[0], args[1:]...); (err == nil) != neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("not within 20 s: %s", strings.Join(args, " "))
		}
	}
}
