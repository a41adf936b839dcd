// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestExitCodes(t *testing.T) {
	h := newHost(t)
	h.start()
	for _, c := range []struct {
		want int
		args []string
	}{
		{0, []string{"run", "--rm", image, "exit", "0"}},
		{7, []string{"run", "--rm", image, "exit", "7"}},
		{127, []string{"run", "--rm", "--entrypoint", "/nothing", image}},
		{126, []string{"run", "--rm", "--entrypoint", "/etc", image}},
		{125, []string{"run", "--rm", "127.0.0.1:1/no/such:image"}},
		{125, []string{"run", "--rm", "-v", "/no/such/dir:/x", image}},
		{125, []string{"run", "--rm", "--memory", "lots", image}},
	} {
		if out, err, code := h.try(c.args...); code != c.want {
			t.Errorf("%v: exit %d, want %d\n%s%s", c.args, code, c.want, out, err)
		}
	}
	h.gh("run", "-d", "--name", "c", image)
	for _, c := range []struct {
		want int
		args []string
	}{
		{3, []string{"exec", "c", "/hello", "exit", "3"}},
		{127, []string{"exec", "c", "/nothing"}},
		{1, []string{"exec", "nobody", "/hello"}},
	} {
		if out, err, code := h.try(c.args...); code != c.want {
			t.Errorf("%v: exit %d, want %d\n%s%s", c.args, code, c.want, out, err)
		}
	}
	if _, _, code := h.try("ps", "--no-such-flag"); code != 2 {
		t.Errorf("unknown flag: exit %d, want 2", code)
	}
}

func TestLifecycle(t *testing.T) {
	h := newHost(t)
	h.start()
	h.gh("run", "-d", "--name", "c", "-e", "A=1", "--hostname", "box", "--label", "x=y", image)
	if out := h.gh("ps"); !strings.Contains(out, "c") || !strings.Contains(out, image) {
		t.Errorf("ps: %s", out)
	}
	if out := h.gh("exec", "c", "/hello", "env"); !strings.Contains(out, "A=1") {
		t.Errorf("env: %s", out)
	}
	h.refused(125, "c", "run", "-d", "--name", "c", image)
	h.gh("pause", "c")
	if out := h.gh("ps"); !strings.Contains(out, "aused") {
		t.Errorf("ps of a paused container: %s", out)
	}
	h.gh("resume", "c")
	h.gh("exec", "c", "/hello", "id")
	if out := h.gh("stats", "--no-stream", "c"); !strings.Contains(out, "c") {
		t.Errorf("stats: %s", out)
	}
	t0 := time.Now()
	h.gh("stop", "-t", "5", "c")
	if d := time.Since(t0); d > 4*time.Second {
		t.Errorf("stop took %v: the signal was not delivered", d)
	}
	if out := h.gh("ps", "-o", "name"); strings.TrimSpace(out) != "" {
		t.Errorf("ps after stop: %q", out)
	}
	if out := h.gh("ps", "-a"); !strings.Contains(out, "c") {
		t.Errorf("ps -a after stop: %s", out)
	}
	h.gh("logs", "c")
	h.gh("inspect", "c")
	h.gh("rm", "c")
	h.refused(1, "c", "rm", "c")
	h.refused(1, "c", "inspect", "c")

	h.gh("run", "-d", "--name", "k", image, "exit", "9")
	if out := h.gh("wait", "k"); strings.TrimSpace(out) != "9" {
		t.Errorf("wait: %q, want 9", out)
	}
	h.gh("run", "-d", "--name", "s", image, "sleep", "100")
	h.gh("kill", "s")
	if out := h.gh("wait", "s"); strings.TrimSpace(out) != "137" {
		t.Errorf("wait after kill: %q, want 137", out)
	}
}

func TestStdio(t *testing.T) {
	h := newHost(t)
	h.start()
	in := strings.Repeat("0123456789abcdef\n", 64<<10) // 1 MiB and some
	out, errs, code := h.tryStdin(in, "run", "--rm", "-i", image, "cat")
	if code != 0 || out != in {
		t.Errorf("cat: exit %d, %d bytes of %d back\n%.200s", code, len(out), len(in), errs)
	}
	h.gh("run", "-d", "--name", "c", image, "sleep", "1000")
	out, errs, code = h.tryStdin(in, "exec", "-i", "c", "/hello", "cat")
	if code != 0 || out != in {
		t.Errorf("exec cat: exit %d, %d bytes of %d back\n%.200s", code, len(out), len(in), errs)
	}
	h.gh("run", "--name", "say", image, "env")
	if out := h.gh("logs", "say"); !strings.Contains(out, "PATH=") {
		t.Errorf("logs: %q", out)
	}
	if out := h.gh("logs", "--tail", "1", "say"); strings.Count(out, "\n") != 1 {
		t.Errorf("logs --tail 1: %q", out)
	}
	if out := h.gh("logs", "-t", "--tail", "1", "say"); !strings.HasPrefix(out, time.Now().UTC().Format("2006-")) {
		t.Errorf("logs -t: %q", out)
	}
}

func TestLimitsAndDefaults(t *testing.T) {
	h := newHost(t)
	h.start()
	if out := h.gh("run", "--rm", "-u", "65534:65534", "-w", "/tmp", image, "id"); !strings.Contains(out, "65534") {
		t.Errorf("user: %s", out)
	}
	// The same bounding set as Docker's default: 14 capabilities.
	const dockerDefault = "00000000a80425fb"
	if out := h.gh("run", "--rm", image, "cat", "/proc/self/status"); !strings.Contains(out, "CapBnd:\t"+dockerDefault) ||
		!strings.Contains(out, "Seccomp:\t2") {
		t.Errorf("capabilities or seccomp are not Docker's defaults:\n%s", out)
	}
	if out := h.gh("run", "--rm", "--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE", image, "cat", "/proc/self/status"); !strings.Contains(out, "CapBnd:\t0000000000000400") {
		t.Errorf("--cap-drop ALL --cap-add NET_BIND_SERVICE:\n%s", out)
	}
	for _, masked := range []string{"/proc/kcore", "/proc/keys", "/sys/firmware"} {
		if out, _, code := h.try("run", "--rm", image, "cat", masked); code == 0 && out != "" {
			t.Errorf("%s is readable: %d bytes", masked, len(out))
		}
	}
	if out, _, code := h.try("run", "--rm", image, "write", "/proc/sys/kernel/hostname", "x"); code == 0 {
		t.Errorf("/proc/sys is writable: %s", out)
	}
}

// TestWorkersOutliveTheDaemon: what ran runs on, what ended is known, output is whole.
func TestWorkersOutliveTheDaemon(t *testing.T) {
	h := newHost(t)
	h.start()
	h.gh("run", "-d", "--name", "stays", image)
	h.gh("run", "-d", "--name", "ends", image, "sleep", "1", "--exit", "5")
	type res struct {
		out  string
		code int
	}
	fg := make(chan res, 1)
	go func() {
		out, _, code := h.try("run", "--rm", "--name", "fg", image, "sleep", "2", "--exit", "6", "--say", "bye")
		fg <- res{out, code}
	}()
	eventually(t, 5*time.Second, "fg runs", func() bool { out, _, _ := h.try("ps", "-o", "name"); return strings.Contains(out, "fg") })
	h.kill9()
	time.Sleep(1500 * time.Millisecond)
	r := <-fg
	if r.code != 6 || !strings.Contains(r.out, "bye") {
		t.Errorf("foreground run while the daemon was dead: exit %d, output %q; want 6, bye", r.code, r.out)
	}
	h.start()
	if out := h.gh("wait", "ends"); strings.TrimSpace(out) != "5" {
		t.Errorf("exit while the daemon was dead: %q, want 5", out)
	}
	h.gh("exec", "stays", "/hello", "id")
	eventually(t, 5*time.Second, "fg is removed (--rm)", func() bool {
		out, _, _ := h.try("ps", "-a", "-o", "name")
		return !strings.Contains(out, "fg")
	})
}

// TestHundredAtOnce: all answer, all go, nothing stays.
func TestHundredAtOnce(t *testing.T) {
	h := newHost(t)
	h.start()
	const n = 100
	each := func(what string, f func(i int) (string, string, int)) time.Duration {
		var wg sync.WaitGroup
		t0 := time.Now()
		for i := range n {
			wg.Go(func() {
				if out, err, code := f(i); code != 0 {
					t.Errorf("%s %d: exit %d\n%s%s", what, i, code, out, err)
				}
			})
		}
		wg.Wait()
		return time.Since(t0)
	}
	name := func(i int) string { return fmt.Sprintf("c%d", i) }
	up := each("run", func(i int) (string, string, int) { return h.try("run", "-d", "--name", name(i), image) })
	if t.Failed() {
		return
	}
	get := each("get", func(i int) (string, string, int) {
		return h.try("exec", name(i), "/hello", "get", "http://"+name((i+1)%n)+"/")
	})
	down := each("rm", func(i int) (string, string, int) { return h.try("rm", "-f", name(i)) })
	t.Logf("%d containers: started in %v, each asked its neighbour by name in %v, removed in %v", n, up, get, down)
}
