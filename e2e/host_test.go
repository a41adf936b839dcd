// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Addresses of the wire between the host and the machine outside: TEST-NET-2
// (RFC 5737) and the documentation prefix of IPv6 (RFC 3849).
const (
	hostV4, outV4 = "198.51.100.1", "198.51.100.2"
	hostV6, outV6 = "2001:db8:100::1", "2001:db8:100::2"
)

// host is a machine: a network namespace, another one on the wire, and a daemon
// under a root of its own.
type host struct {
	t          *testing.T
	ns, out    string // network namespaces: the host, the machine outside
	root       string
	bin, hello string
	daemon     *exec.Cmd
	log        *os.File
}

func bin(t *testing.T) (gatehouse, hello string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces, eBPF, runc")
	}
	if testing.Short() {
		t.Skip("end-to-end tests are not short")
	}
	gatehouse, err := filepath.Abs("../bin/gatehouse")
	if err != nil {
		t.Fatal(err)
	}
	found, _ := filepath.Glob("../internal/hello/bin/hello-*")
	if _, err := os.Stat(gatehouse); err != nil || len(found) == 0 {
		t.Fatal("bin/gatehouse is missing; run make build first")
	}
	hello, _ = filepath.Abs(found[0])
	return gatehouse, hello
}

// newHost makes the two namespaces and the wire; start brings the daemon up.
func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{t: t, root: tempRoot(t)}
	h.bin, h.hello = bin(t)
	id := fmt.Sprintf("%x", time.Now().UnixNano()&0xffffff)
	h.ns, h.out = "ght-h"+id, "ght-o"+id
	for _, n := range []string{h.ns, h.out} {
		h.must("ip", "netns", "add", n)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", n).Run() })
		h.must("ip", "-n", n, "link", "set", "lo", "up")
	}
	h.must("ip", "-n", h.ns, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", h.out)
	for n, a := range map[string][]string{h.ns: {hostV4, hostV6}, h.out: {outV4, outV6}} {
		h.must("ip", "-n", n, "addr", "add", a[0]+"/24", "dev", "wire")
		h.must("ip", "-n", n, "addr", "add", a[1]+"/64", "dev", "wire", "nodad")
		h.must("ip", "-n", n, "link", "set", "wire", "up")
	}
	h.must("ip", "-n", h.ns, "route", "add", "default", "via", outV4)
	h.must("ip", "-n", h.ns, "-6", "route", "add", "default", "via", outV6)
	return h
}

// tempRoot is short: unix socket paths end at 107 bytes.
func tempRoot(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gh-e2e.")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove root: %v", err)
		}
	})
	return dir
}

func (h *host) must(name string, args ...string) string {
	h.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// spawn runs the daemon. Its end is checked for leaks.
func (h *host) spawn() {
	h.t.Helper()
	if h.log == nil {
		f, err := os.Create(filepath.Join(h.t.TempDir(), "daemon.log"))
		if err != nil {
			h.t.Fatal(err)
		}
		h.log = f
		h.t.Cleanup(h.end)
	}
	h.daemon = exec.Command("nsenter", "--net=/run/netns/"+h.ns, h.bin, "--root", h.root, "serve")
	h.daemon.Stdout, h.daemon.Stderr = h.log, h.log
	h.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := h.daemon.Start(); err != nil {
		h.t.Fatal(err)
	}
}

// start runs the daemon and waits until it answers.
func (h *host) start() {
	h.t.Helper()
	h.spawn()
	deadline := time.Now().Add(time.Minute) // emulated machines are slow
	for {
		if _, _, code := h.try("ps"); code == 0 {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("daemon does not answer\n%s", h.logs())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (h *host) logs() string {
	raw, _ := os.ReadFile(h.log.Name())
	if len(raw) > 8000 {
		raw = raw[len(raw)-8000:]
	}
	return string(raw)
}

// kill9 ends the daemon as a crash would; nsenter replaced itself by it.
func (h *host) kill9() {
	h.t.Helper()
	_ = h.daemon.Process.Kill()
	_ = h.daemon.Wait()
	h.daemon = nil
}

func (h *host) stop() {
	h.t.Helper()
	_ = h.daemon.Process.Signal(syscall.SIGTERM)
	done := make(chan error, 1)
	go func() { done <- h.daemon.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			h.t.Errorf("daemon's end: %v\n%s", err, h.logs())
		}
	case <-time.After(20 * time.Second):
		h.t.Errorf("daemon does not stop\n%s", h.logs())
		_ = h.daemon.Process.Kill()
		<-done
	}
	h.daemon = nil
}

// end removes every object through the API, stops the daemon, and fails the test
// when anything of this root is left in the kernel or on the disk.
func (h *host) end() {
	if h.daemon == nil {
		h.start()
	}
	if out, _, _ := h.try("ps", "-a", "-o", "name"); out != "" {
		h.try(append([]string{"rm", "-f"}, strings.Fields(out)...)...)
	}
	if out, err, code := h.try("doctor", "--leaks"); code != 0 {
		h.t.Errorf("leaks while the daemon runs:\n%s%s", out, err)
	}
	out, _, _ := h.try("network", "ls", "-o", "name")
	for _, n := range strings.Fields(out) {
		if _, err, code := h.try("network", "rm", n); code != 0 {
			h.t.Errorf("network rm %s: %s", n, err)
		}
	}
	h.stop()
	if out, err, code := h.try("doctor", "--leaks", "--remove"); code != 0 {
		h.t.Errorf("leaks after the daemon stopped:\n%s%s", out, err)
	}
	h.noTrace()
	if h.t.Failed() {
		h.t.Logf("daemon log:\n%s", h.logs())
	}
	h.log.Close()
}

// noTrace looks with other eyes than gatehouse's own: devices, mounts, pins,
// cgroups and processes that name this root.
func (h *host) noTrace() {
	h.t.Helper()
	links := h.must("ip", "-n", h.ns, "-o", "link")
	for line := range strings.Lines(links) {
		if strings.Contains(line, ": gh") {
			h.t.Errorf("device left: %s", line)
		}
	}
	if raw, _ := os.ReadFile("/proc/self/mountinfo"); bytes.Contains(raw, []byte(h.root+"/")) {
		for line := range bytes.Lines(raw) {
			if bytes.Contains(line, []byte(h.root+"/")) {
				h.t.Errorf("mount left: %s", line)
			}
		}
	}
	sum := fnv.New32a() // as the daemon names what it owns after its root
	sum.Write([]byte(h.root))
	tag := fmt.Sprintf("%03x", sum.Sum32()%0xfff+1)
	for _, pattern := range []string{"/sys/fs/cgroup/gatehouse-" + tag, "/sys/fs/cgroup/*/gatehouse-" + tag, "/sys/fs/bpf/gatehouse-" + tag} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			h.t.Errorf("left: %v", left)
		}
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if raw, _ := os.ReadFile(p); bytes.Contains(raw, []byte(h.root)) {
			h.t.Errorf("process left: %s %q", p, raw)
		}
	}
}

// try runs a gatehouse command; code is its exit status.
func (h *host) try(args ...string) (stdout, stderr string, code int) {
	return h.tryStdin("", args...)
}

func (h *host) tryStdin(stdin string, args ...string) (stdout, stderr string, code int) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.bin, append([]string{"--root", h.root}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var x *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &x) && x.ExitCode() >= 0:
		code = x.ExitCode()
	default:
		return out.String(), errs.String() + err.Error(), -1
	}
	return out.String(), errs.String(), code
}

// gh runs a gatehouse command that must succeed and returns its output.
func (h *host) gh(args ...string) string {
	h.t.Helper()
	out, err, code := h.try(args...)
	if code != 0 {
		h.t.Fatalf("gatehouse %s: exit %d\n%s%s", strings.Join(args, " "), code, out, err)
	}
	return out
}

// refused runs a command that must fail with code and one line that says text.
func (h *host) refused(code int, text string, args ...string) {
	h.t.Helper()
	out, err, got := h.try(args...)
	if got != code || !strings.Contains(err, text) {
		h.t.Errorf("gatehouse %s: exit %d, stderr %q; want exit %d and %q\n%s", strings.Join(args, " "), got, err, code, text, out)
	}
	if n := strings.Count(strings.TrimSpace(err), "\n"); n > 0 {
		h.t.Errorf("gatehouse %s: error has %d lines, want one:\n%s", strings.Join(args, " "), n+1, err)
	}
}

// at runs a command in a namespace (h.ns or h.out).
func (h *host) at(ns string, words ...string) (string, error) {
	return h.run("/run/netns/"+ns, words...)
}

// run runs a command in a namespace that a path names.
func (h *host) run(netns string, words ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + netns}, words...)...)
	raw, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(words, " "), err, raw)
	}
	return string(raw), err
}

func (h *host) mustAt(ns string, words ...string) string {
	h.t.Helper()
	out, err := h.at(ns, words...)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// background starts a command in a namespace until the test ends.
func (h *host) background(ns string, words ...string) {
	h.t.Helper()
	h.keep("/run/netns/"+ns, words...)
}

// keep does so in a namespace that a path names.
func (h *host) keep(netns string, words ...string) {
	h.t.Helper()
	cmd := exec.Command("nsenter", append([]string{"--net=" + netns}, words...)...)
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
}

func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}
