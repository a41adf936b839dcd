// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// States of what a verb is about. Anything else, a verb's state says in words, is
// neither: half done.
const before, after = "before", "after"

// spaceID is the namespace that the verbs are about.
const spaceID = "c0ffee00-0000-4000-8000-000000000001"

// crash is a verb and where the daemon dies in it.
type crash struct {
	verb   []string
	stdin  string
	points []string
	given  [][]string // what is made before, by commands that must succeed
	// state looks at a daemon that was started again.
	state func(h *host) string
	clean [][]string // commands that take all of it away, from wherever it is
}

// Points that every change of the network passes, in order; and those of a
// namespace that is made, and of a container that starts and ends.
func crashes(archive, space, ref, ca string) []crash {
	change := []string{"network.committed", "network.attach", "network.ensured", "datapath.written", "network.applied", "network.pruned"}
	found := func(what ...string) func(h *host) string {
		return func(h *host) string {
			if _, _, code := h.try(what...); code == 0 {
				return after
			}
			return before
		}
	}
	endpointOf := func(name string) func(h *host) string { return found("endpoint", "inspect", name) }
	isNamespace := found("namespace", "inspect", spaceID)
	named := func(name string, list ...string) func(h *host) string {
		return func(h *host) string {
			if slices.Contains(strings.Fields(h.gh(append(list, "-o", "name")...)), name) {
				return after
			}
			return before
		}
	}
	not := func(f func(h *host) string) func(h *host) string {
		return func(h *host) string {
			switch s := f(h); s {
			case after:
				return before
			case before:
				return after
			default:
				return s
			}
		}
	}
	network := [][]string{{"network", "create", "net", "--type", "nat"}}
	endpoint := append(slices.Clone(network), []string{"endpoint", "create", "--network", "net", "--name", "ep", "-p", "9001:80"})
	both := append(slices.Clone(endpoint), []string{"hcn", "create", "namespaces", "-f", space})
	attached := append(slices.Clone(both), []string{"endpoint", "attach", "ep", spaceID})
	isAttached := func(h *host) string {
		switch n := strings.Count(h.gh("namespace", "inspect", spaceID), `"Endpoint"`); {
		case strings.Contains(h.gh("endpoint", "inspect", "ep"), `"HostComputeNamespace"`) != (n > 0):
			return "endpoint and namespace disagree"
		case n > 0:
			return after
		}
		return before
	}
	gone := [][]string{{"endpoint", "rm", "ep"}, {"namespace", "rm", spaceID}, {"network", "rm", "-f", "net"}}
	run := []string{"run", "-d", "--name", "crash", "-p", "9000:80", image}
	isRunning := func(h *host) string {
		there, runs := named("crash", "ps", "-a")(h), named("crash", "ps")(h)
		var err error
		for range 20 { // its server may need a moment
			if _, err = h.at(h.out, h.hello, "get", "-t", "2", "http://"+hostV4+":9000/"); err == nil || there == before {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		plugged := endpointOf("crash")(h)
		switch {
		case there == after && runs == after && plugged == after && err == nil:
			return after
		case there == before && plugged == before && err != nil:
			return before
		}
		return fmt.Sprintf("in ps -a: %s, in ps: %s, its endpoint: %s, answers: %v", there, runs, plugged, err == nil)
	}
	rm := [][]string{{"rm", "-f", "crash"}}
	start := []string{"compute.reserved", "compute.prepared", "worker.ordering", "compute.plugged", "compute.spawned", "compute.started",
		"compartment.namespace", "compartment.device"}
	return []crash{
		{verb: run, points: append(start, change...), state: isRunning, clean: rm},
		{verb: []string{"run", "--rm", "--name", "crash", image, "exit", "0"},
			points: []string{"compute.prepared", "compute.started", "compute.stopped", "compute.freed"},
			state: func(h *host) string { // it goes in its own time
				for range 40 {
					if named("crash", "ps", "-a")(h) == before {
						return after
					}
					time.Sleep(50 * time.Millisecond)
				}
				return "not removed"
			}, clean: rm},
		{verb: []string{"rm", "-f", "crash"}, given: [][]string{run},
			points: append([]string{"compute.stopped", "compute.freed", "compute.deleted"}, change...),
			state: func(h *host) string {
				switch s := isRunning(h); s {
				case after:
					return before
				case before:
					return after
				default:
					if named("crash", "ps")(h) == before && endpointOf("crash")(h) == before {
						return before // it was stopped, and told so; it is still to be removed
					}
					return s
				}
			}, clean: rm},
		{verb: []string{"stop", "-t", "1", "crash"}, given: [][]string{run}, points: []string{"compute.stopped", "compute.freed", "network.committed"},
			state: func(h *host) string {
				if s := isRunning(h); s == after {
					return before
				}
				if named("crash", "ps", "-a")(h) == after && endpointOf("crash")(h) == before {
					return after
				}
				return "stopped, and not all that it used is free"
			}, clean: rm},
		{verb: network[0], points: change, state: named("net", "network", "ls"), clean: [][]string{{"network", "rm", "net"}}},
		{verb: []string{"network", "rm", "net"}, given: network, points: change, state: not(named("net", "network", "ls")),
			clean: [][]string{{"network", "rm", "net"}}},
		{verb: endpoint[1], given: network, points: []string{"network.committed", "network.attach", "network.pruned"},
			state: endpointOf("ep"), clean: gone},
		{verb: []string{"endpoint", "attach", "ep", spaceID}, given: both, points: append([]string{"compartment.device"}, change...),
			state: isAttached, clean: gone},
		{verb: []string{"endpoint", "detach", "ep", spaceID}, given: attached, points: change, state: not(isAttached), clean: gone},
		{verb: []string{"endpoint", "rm", "ep"}, given: attached, points: change, state: not(endpointOf("ep")), clean: gone},
		{verb: []string{"hcn", "create", "namespaces", "-f", space}, points: []string{"network.committed", "compartment.namespace", "network.ensured", "network.pruned"},
			state: isNamespace, clean: [][]string{{"namespace", "rm", spaceID}}},
		{verb: []string{"namespace", "rm", spaceID}, given: both[2:], points: []string{"network.committed", "network.applied", "network.pruned"},
			state: not(isNamespace), clean: [][]string{{"namespace", "rm", spaceID}}},
		{verb: []string{"image", "load", "--input", archive}, points: []string{"image.blob", "image.layer", "image.committed"},
			state: isImage("crash/image"), clean: [][]string{{"image", "rm", "crash/image"}}},
		{verb: []string{"image", "pull", "--tls-ca", ca, "--username", "alice", "--password-stdin", ref}, stdin: "wonderland",
			points: []string{"image.blob", "image.layer", "image.committed"}, state: isImage(ref), clean: [][]string{{"image", "rm", ref}}},
		{verb: []string{"image", "rm", "crash/image"}, given: [][]string{{"image", "load", "--input", archive}},
			points: []string{"image.removed", "image.discarded"}, state: not(isImage("crash/image")), clean: [][]string{{"image", "rm", "crash/image"}}},
	}
}

// isImage: an image that is listed must also work.
func isImage(name string) func(h *host) string {
	return func(h *host) string {
		if _, _, code := h.try("image", "inspect", name); code != 0 {
			return before
		}
		if _, err, code := h.try("run", "--rm", "--network", "none", name, "/hello", "exit", "0"); code != 0 {
			return "the image is listed and does not run: " + err
		}
		for range 40 { // what ran on it lets go in its own time
			if !strings.Contains(h.gh("image", "inspect", name), `"UsedBy"`) {
				return after
			}
			time.Sleep(50 * time.Millisecond)
		}
		return "the image is still in use"
	}
}

// TestCrash lets the daemon die as by kill -9 at every named point of every verb.
// Started again, what was answered as done is there; what was not is there or not,
// never half; nothing is leaked; the verb can be done again. All the while a
// container that ran before answers to the machine outside. A point that its verb
// does not pass fails, so that the list stays true.
func TestCrash(t *testing.T) {
	h := failing(t)
	h.start()
	h.gh("run", "-d", "--name", "steady", "-p", "8080:80", image)
	h.steady("8080")
	space := filepath.Join(t.TempDir(), "space.json")
	if err := os.WriteFile(space, []byte(`{"Id":"`+spaceID+`","Type":"Host","SchemaVersion":{"Major":2}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	archive := h.archive()
	addr, ca := h.registry()
	ref := addr + "/crash/image:1"
	h.gh("image", "load", "--input", archive)
	h.gh("image", "tag", "crash/image", ref)
	if _, err, code := h.tryStdin("wonderland", "image", "push", "--tls-ca", ca, "--username", "alice", "--password-stdin", ref); code != 0 {
		t.Fatalf("push: %s", err)
	}
	h.gh("image", "rm", ref)
	h.gh("image", "rm", "crash/image")
	for _, c := range crashes(archive, space, ref, ca) {
		for _, p := range c.points {
			t.Run(strings.Join(c.verb[:2], " ")+" at "+p, func(t *testing.T) {
				defer h.in(t)()
				h.crash(c, p)
			})
			if h.daemon == nil {
				h.start()
			}
		}
	}
	for _, p := range []string{"datapath.loaded", "network.reconciled", "datapath.written", "datapath.switched", "datapath.current", "daemon.recovered"} {
		t.Run("serve at "+p, func(t *testing.T) {
			defer h.in(t)()
			h.kill9()
			h.dyingStart(p)
			h.start()
			h.noLeaks()
		})
	}
}

// TestCrashAtFirstStart is about a root and a host that have nothing yet, and of
// which nothing is left when the daemon stops.
func TestCrashAtFirstStart(t *testing.T) {
	h := failing(t)
	h.start()
	h.stop()
	points := []string{"datapath.loaded", "datapath.switched", "datapath.current", "network.reconciled", "network.committed", "network.attach",
		"network.ensured", "datapath.written", "network.applied", "network.pruned", "image.blob", "image.layer", "image.committed", "daemon.recovered"}
	for _, p := range points {
		t.Run("serve at "+p, func(t *testing.T) {
			defer h.in(t)()
			for _, d := range []string{"lib", "run"} {
				if err := os.RemoveAll(filepath.Join(h.root, d)); err != nil {
					t.Fatal(err)
				}
			}
			h.dyingStart(p)
			h.start()
			h.noLeaks()
			h.gh("run", "--rm", image, "exit", "0")
			eventually(t, 5*time.Second, "its endpoint is gone", func() bool {
				return strings.TrimSpace(h.gh("endpoint", "ls", "-o", "name")) == ""
			})
			if out := h.gh("network", "ls", "-o", "name"); strings.TrimSpace(out) != "nat" {
				t.Errorf("networks: %q, want nat", out)
			}
			h.stop()
			h.noTrace()
		})
		if h.daemon != nil {
			h.stop()
		}
	}
	t.Run("stop at daemon.closing", func(t *testing.T) {
		defer h.in(t)()
		h.start()
		h.arm("daemon.closing")
		if err := h.daemon.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		h.died("daemon.closing")
		h.start()
		h.noLeaks()
		h.stop()
		h.noTrace()
	})
}

// failing is a host whose daemon has failpoints.
func failing(t *testing.T) *host {
	t.Helper()
	bin(t) // skips where the test cannot run
	h := newHost(t)
	h.bin = filepath.Join(t.TempDir(), "gatehouse")
	cmd := exec.Command("go", "build", "-tags", "failpoint", "-o", h.bin, "../cmd/gatehouse")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	t.Setenv("GATEHOUSE_FAILPOINT_FILE", filepath.Join(t.TempDir(), "points"))
	h.arm("")
	return h
}

// in makes the host report to a subtest until the returned function is called.
func (h *host) in(t *testing.T) func() {
	outer := h.t
	h.t = t
	return func() {
		h.t = outer
		if t.Failed() {
			t.Logf("daemon log:\n%s", h.logs())
		}
	}
}

// arm makes the daemon die at a point; "" = none.
func (h *host) arm(point string) {
	h.t.Helper()
	if point != "" {
		point += "=crash"
	}
	h.points(point)
}

// points says what happens where, in the words of package failpoint.
func (h *host) points(text string) {
	h.t.Helper()
	path := os.Getenv("GATEHOUSE_FAILPOINT_FILE")
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		h.t.Fatal(err)
	}
}

// died waits until the daemon has killed itself, and disarms.
func (h *host) died(point string) {
	h.t.Helper()
	defer h.arm("")
	done := make(chan error, 1)
	daemon := h.daemon
	go func() { done <- daemon.Wait() }()
	select {
	case err := <-done:
		h.daemon = nil
		var x *exec.ExitError
		if !errors.As(err, &x) || x.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			h.t.Fatalf("the daemon ended by itself: %v", err)
		}
	case <-time.After(5 * time.Second):
		h.arm("")
		_ = daemon.Process.Kill()
		<-done
		h.daemon = nil
		h.t.Fatalf("%s was not reached", point)
	}
}

// crash does one verb that does not end, and looks at what is left.
func (h *host) crash(c crash, point string) {
	h.t.Helper()
	for _, g := range c.given {
		h.gh(g...)
	}
	defer func() {
		if h.daemon == nil {
			h.start()
		}
		for _, g := range c.clean {
			h.try(g...)
		}
		h.noLeaks()
	}()
	h.arm(point)
	_, msg, code := h.tryStdin(c.stdin, c.verb...)
	h.died(point)
	h.start()
	state := c.state(h)
	switch {
	case state != before && state != after:
		h.t.Errorf("half done: %s", state)
	case code == 0 && state != after:
		h.t.Errorf("it was answered as done and is not")
	case code != 0 && (strings.Count(msg, "gatehouse:") != 1 || !strings.HasSuffix(msg, "\n")):
		h.t.Errorf("exit %d; want one line that says what is wrong, got %q", code, msg)
	}
	h.noLeaks()
	if state == after { // take it away, to do it again
		for _, g := range c.clean {
			h.try(g...)
		}
		for _, g := range c.given {
			h.gh(g...)
		}
	}
	if out, err, code := h.tryStdin(c.stdin, c.verb...); code != 0 {
		h.t.Errorf("done again: exit %d\n%s%s", code, out, err)
	}
	if s := c.state(h); s != after {
		h.t.Errorf("done again, it is %s", s)
	}
}

// dyingStart starts a daemon that dies on the way.
func (h *host) dyingStart(point string) {
	h.t.Helper()
	h.arm(point)
	h.spawn()
	h.died(point)
}

func (h *host) noLeaks() {
	h.t.Helper()
	var out string
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		var code int
		if out, _, code = h.try("doctor", "--leaks"); code == 0 {
			return
		}
		if time.Now().After(deadline) {
			h.t.Errorf("leaks:\n%s", out)
			return
		}
	}
}

// steady asks a published port from the machine outside until the test ends; no
// request may fail.
func (h *host) steady(port string) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan []string, 1)
	url := "http://" + hostV4 + ":" + port + "/"
	eventually(h.t, 5*time.Second, "it answers", func() bool {
		_, err := h.at(h.out, h.hello, "get", "-t", "2", url)
		return err == nil
	})
	go func() {
		var failed []string
		for ctx.Err() == nil {
			from := time.Now().UTC()
			if _, err := h.at(h.out, h.hello, "get", url, "-n", "40", "-r", "200", "-new", "-t", "2"); err != nil {
				failed = append(failed, fmt.Sprintf("%s to %s: %v", from.Format("15:04:05.000"), time.Now().UTC().Format("15:04:05.000"), err))
			}
		}
		done <- failed
	}()
	h.t.Cleanup(func() {
		stop()
		for _, f := range <-done {
			h.t.Errorf("a container that ran before did not answer all the while: %s", f)
		}
	})
}

// archive is an image of its own, as docker save would write it.
func (h *host) archive() string {
	h.t.Helper()
	dir := h.t.TempDir()
	body, err := os.ReadFile(h.hello)
	if err != nil {
		h.t.Fatal(err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	err = errors.Join(
		w.WriteHeader(&tar.Header{Name: "hello", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(body))}),
		func() error { _, err := io.Copy(w, bytes.NewReader(body)); return err }(),
		w.Close(),
		os.WriteFile(filepath.Join(dir, "rootfs.tar"), layer.Bytes(), 0o600))
	if err != nil {
		h.t.Fatal(err)
	}
	out := filepath.Join(dir, "image.tar")
	h.must("python3", "../scripts/mkimage.py", "--rootfs", filepath.Join(dir, "rootfs.tar"), "--tag", "crash/image:latest", "--output", out, "--cmd", "/hello")
	return out
}
