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
	"strings"
	"sync"
	"syscall"
	"time"

	"gatehouse.dev/gatehouse/hcn"
)

// bench holds what the measurements share: a scratch directory, a gatehouse
// daemon and a dockerd, each in a network namespace of its own.
type bench struct {
	dir   string
	bin   string
	hello string

	mu      sync.Mutex // guards what follows: an interrupt comes from beside
	undo    []func()
	stopped bool // nothing new starts

	gh     *ghHost
	docker *dockerHost
}

func newBench() (*bench, error) {
	dir, err := os.MkdirTemp("", "gatehouse-bench.")
	if err != nil {
		return nil, err
	}
	b := &bench{dir: dir}
	b.undo = append(b.undo, func() { os.RemoveAll(dir) })
	if b.bin, err = filepath.Abs("bin/gatehouse"); err != nil {
		return nil, err
	}
	found, _ := filepath.Glob("internal/hello/bin/hello-*")
	if _, err := os.Stat(b.bin); err != nil || len(found) == 0 {
		return nil, errors.New("bin/gatehouse or its hello image is missing; run make build")
	}
	b.hello, _ = filepath.Abs(found[0])
	return b, nil
}

// defer_ has f run when the bench, or the subject, ends.
func (b *bench) defer_(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.undo = append(b.undo, f)
}

// stop has everything that would start something fail, so that the bench comes to
// its end and undoes what it made.
func (b *bench) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopped = true
}

var errStopped = errors.New("interrupted")

// going is nil until stop.
func (b *bench) going() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return errStopped
	}
	return nil
}

// mark is where release goes back to.
func (b *bench) mark() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.undo)
}

// release undoes what was deferred after the mark, the last first.
func (b *bench) release(mark int) {
	for {
		b.mu.Lock()
		if len(b.undo) <= mark {
			b.mu.Unlock()
			return
		}
		f := b.undo[len(b.undo)-1]
		b.undo = b.undo[:len(b.undo)-1]
		b.mu.Unlock()
		f()
	}
}

func (b *bench) close() { b.release(0) }

// begin starts a process in a group of its own, so that an interrupt at the
// terminal is ours to handle.
func (b *bench) begin(cmd *exec.Cmd) error {
	if err := b.going(); err != nil {
		return err
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	return cmd.Start()
}

// sh runs a command and returns what it printed; its error holds that too.
func sh(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(out.String()))
	}
	return out.String(), nil
}

// netns makes a network namespace that ends with the bench.
func (b *bench) netns(name string) error {
	if err := b.going(); err != nil {
		return err
	}
	_, _ = sh("ip", "netns", "del", name)
	if _, err := sh("ip", "netns", "add", name); err != nil {
		return err
	}
	b.defer_(func() { _, _ = sh("ip", "netns", "del", name) })
	_, err := sh("ip", "-n", name, "link", "set", "lo", "up")
	return err
}

// in returns the words that run a command inside a namespace. nsenter, since ip
// netns exec would hide the bpf and cgroup file systems.
func in(ns string, words ...string) []string {
	return append([]string{"nsenter", "--net=/run/netns/" + ns}, words...)
}

func (b *bench) daemon(log string, words ...string) (*exec.Cmd, error) {
	f, err := os.Create(filepath.Join(b.dir, log))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = f, f
	if err := b.begin(cmd); err != nil {
		f.Close()
		return nil, err
	}
	b.defer_(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		done := make(chan struct{})
		go func() { _ = cmd.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-done
		}
		f.Close()
	})
	return cmd, nil
}

func (b *bench) waitFor(limit time.Duration, what string, ok func() bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for {
		if ok() {
			return nil
		}
		if err := b.going(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not there after %v", what, limit)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// ghHost is a gatehouse daemon under a root of its own.
type ghHost struct {
	ns, root, bin string
	pid           int
}

func (b *bench) gatehouse() (*ghHost, error) {
	if b.gh != nil {
		return b.gh, nil
	}
	h, err := b.startGatehouse("gh")
	b.gh = h
	return h, err
}

// startGatehouse starts a daemon of this name.
func (b *bench) startGatehouse(name string) (*ghHost, error) {
	h := &ghHost{ns: "ghbench-" + name, root: filepath.Join(b.dir, name), bin: b.bin}
	if err := b.netns(h.ns); err != nil {
		return nil, err
	}
	b.defer_(func() { _, _ = sh(b.bin, "--root", h.root, "doctor", "--leaks", "--remove") })
	cmd, err := b.daemon(name+".log", in(h.ns, b.bin, "--root", h.root, "serve")...)
	if err != nil {
		return nil, err
	}
	h.pid = cmd.Process.Pid
	b.defer_(func() {
		if out, err := h.ctl("ps", "-a", "-o", "name"); err == nil {
			for _, n := range strings.Fields(out) {
				_, _ = h.ctl("rm", "-f", n)
			}
		}
		if out, err := h.ctl("network", "ls", "-o", "name"); err == nil {
			for _, n := range strings.Fields(out) {
				_, _ = h.ctl("network", "rm", "-f", n) // with its endpoints
			}
		}
		if all, err := h.client().ListNamespaces(context.Background(), hcn.HostComputeQuery{}); err == nil {
			for _, ns := range all {
				_ = h.client().DeleteNamespace(context.Background(), ns.Id)
			}
		}
	})
	if err := b.waitFor(20*time.Second, "gatehouse daemon", func() bool { _, err := h.ctl("ps"); return err == nil }); err != nil {
		log, _ := os.ReadFile(filepath.Join(b.dir, name+".log"))
		return nil, fmt.Errorf("%w\n%s", err, log)
	}
	return h, nil
}

// client of the daemon's API.
func (h *ghHost) client() *hcn.Client {
	return &hcn.Client{Socket: filepath.Join(h.root, "run", "gatehouse.sock")}
}

func (h *ghHost) ctl(args ...string) (string, error) {
	return sh(h.bin, append([]string{"--root", h.root}, args...)...)
}

// dockerHost is a dockerd of Debian's package under directories of its own; its
// bridge and its iptables rules stay in its network namespace.
type dockerHost struct{ ns, sock string }

func (b *bench) dockerd() (*dockerHost, error) {
	if b.docker != nil {
		return b.docker, nil
	}
	d, err := b.startDocker("docker", "172.31.255.1/24")
	b.docker = d
	return d, err
}

// startDocker starts a dockerd in a namespace of this name, with more of its flags.
func (b *bench) startDocker(name, bridge string, flags ...string) (*dockerHost, error) {
	d := &dockerHost{ns: "ghbench-" + name, sock: filepath.Join(b.dir, name+".sock")}
	if err := b.netns(d.ns); err != nil {
		return nil, err
	}
	root := filepath.Join(b.dir, name)
	words := in(d.ns, "dockerd", "--data-root", root, "--exec-root", root+"-exec",
		"--pidfile", root+".pid", "--host", "unix://"+d.sock, "--bip", bridge)
	if _, err := b.daemon(name+".log", append(words, flags...)...); err != nil {
		return nil, err
	}
	if err := b.waitFor(60*time.Second, "dockerd", func() bool { _, err := d.ctl("version"); return err == nil }); err != nil {
		log, _ := os.ReadFile(filepath.Join(b.dir, name+".log"))
		return nil, fmt.Errorf("%w\n%s", err, log)
	}
	return d, nil
}

func (d *dockerHost) ctl(args ...string) (string, error) {
	return sh("docker", append([]string{"--host", "unix://" + d.sock}, args...)...)
}
