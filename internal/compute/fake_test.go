// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/held"
	"gatehouse.dev/gatehouse/internal/compute/model"
	"gatehouse.dev/gatehouse/internal/instance"
	"gatehouse.dev/gatehouse/internal/store"
)

// host is the fake host below a service: what outlives a daemon.
type host struct {
	t    *testing.T
	inst instance.Instance

	mu       sync.Mutex // guards the rest
	workers  map[string]*fakeWorker
	networks map[string]string // namespace -> owner
	taken    map[string]bool   // namespaces that a library OS was said to have
	images   map[string]string // runtime id -> reference
	fail     map[string]error  // use, plug, unplug, spawn, start, close
	block    map[string]chan struct{}
	layer    string
	onStart  func(*fakeWorker)
}

func newHost(t *testing.T) *host {
	inst, err := instance.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, inst: inst, workers: map[string]*fakeWorker{}, networks: map[string]string{}, images: map[string]string{},
		fail: map[string]error{}, block: map[string]chan struct{}{}, layer: t.TempDir()}
	if err := os.Mkdir(filepath.Join(h.layer, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.layer, "etc/passwd"), []byte("root:x:0:0::/:/bin/sh\nweb:x:101:102::/:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return h
}

// daemon is one life of the service on a host.
type daemon struct {
	*HCS
	host *host
	db   *store.DB
}

func (h *host) daemon() *daemon {
	h.t.Helper()
	db, err := store.Open(h.inst.Store())
	if err != nil {
		h.t.Fatal(err)
	}
	s, err := New(Options{Instance: h.inst, Store: db, Images: h, Networks: h, Workers: h, Runtime: "runc",
		Facts: model.Facts{Cgroup: model.CgroupHybrid, CPUs: 2, NoSeccomp: true}})
	if err != nil {
		h.t.Fatal(err)
	}
	d := &daemon{s, h, db}
	if err := s.Recover(context.Background()); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(d.down)
	return d
}

func (d *daemon) down() {
	d.Close()
	d.db.Close()
}

// at blocks or fails a step.
func (h *host) at(step string) error {
	h.mu.Lock()
	err, wait := h.fail[step], h.block[step]
	h.mu.Unlock()
	if wait != nil {
		<-wait
	}
	return err
}

func (h *host) set(step string, err error) {
	h.mu.Lock()
	h.fail[step] = err
	h.mu.Unlock()
}

func (h *host) hold(step string) (release func()) {
	c := make(chan struct{})
	h.mu.Lock()
	h.block[step] = c
	h.mu.Unlock()
	return func() {
		h.mu.Lock()
		delete(h.block, step)
		h.mu.Unlock()
		close(c)
	}
}

// clean fails the test if anything of a system is left on the host.
func (h *host) clean() {
	h.t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		h.mu.Lock()
		left := fmt.Sprint(len(h.workers), h.networks, h.images)
		h.mu.Unlock()
		scratch, _ := os.ReadDir(filepath.Join(h.inst.Lib, "scratch"))
		if left == "0 map[] map[]" && len(scratch) == 0 {
			return
		}
		if time.Now().After(deadline) {
			h.t.Errorf("left on the host: workers, networks, images %s; scratch %v", left, scratch)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (h *host) Use(_ context.Context, rid, ref string) (Image, error) {
	if err := h.at("use"); err != nil {
		return Image{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.images[rid] = ref
	return Image{ID: "sha256:1", Name: ref, Layers: []string{h.layer}, OS: "linux",
		Config: ispec.ImageConfig{Entrypoint: []string{"/srv"}, Cmd: []string{"run"}, User: "web"}}, nil
}

func (h *host) Release(_ context.Context, rid string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.images, rid)
	return nil
}

func (h *host) Export(_ context.Context, f Files, w io.Writer) error {
	if err := h.at("export"); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%s %v", f.Pinned, f.Lower)
	return err
}

func (h *host) Commit(_ context.Context, f Files, req CommitRequest) (string, error) {
	if err := h.at("commit"); err != nil {
		return "", err
	}
	c, err := req.Configure(ispec.ImageConfig{Cmd: []string{"run"}})
	return fmt.Sprint(f.Pinned, " ", req.Name, " ", c.Cmd), err
}

func (h *host) Plug(ctx context.Context, owner, ns string, endpoints []json.RawMessage) (Plugged, error) {
	if err := h.at("plug"); err != nil {
		return Plugged{}, err
	}
	if err := ctx.Err(); err != nil {
		return Plugged{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.networks[ns] = owner
	return Plugged{NamespaceID: ns, NetNsPath: h.inst.NetNs(ns), Endpoints: endpoints, Addrs: []string{"10.0.0.2/24"}, Servers: []string{"10.0.0.1"}}, nil
}

func (h *host) Unplug(_ context.Context, ns string) error {
	if err := h.at("unplug"); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.networks, ns)
	return nil
}

func (h *host) TakeOver(_ context.Context, ns string, on bool) error {
	if err := h.at("take over"); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.taken == nil {
		h.taken = map[string]bool{}
	}
	h.taken[ns] = on
	return nil
}

func (h *host) Look(_ context.Context, ns string) (Plugged, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.networks[ns]; !ok {
		return Plugged{}, errdefs.ErrNotFound
	}
	return Plugged{NamespaceID: ns, NetNsPath: h.inst.NetNs(ns)}, nil
}

var errGone = fmt.Errorf("the worker is gone: %w", errdefs.ErrUnavailable)

func (h *host) Spawn(_ context.Context, spec held.Spec) (held.Client, error) {
	if err := h.at("spawn"); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(spec.Dir, 0o700); err != nil {
		return nil, err
	}
	w := &fakeWorker{host: h, spec: spec, state: "created", changed: make(chan struct{}), pids: 100}
	h.mu.Lock()
	h.workers[spec.Dir] = w
	h.mu.Unlock()
	w.note(held.JournalEntry{What: "created"})
	return w, nil
}

func (h *host) Adopt(_ context.Context, dir string) (held.Client, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w := h.workers[dir]; w != nil && !w.isDead() {
		return w, nil
	}
	return nil, errGone
}

func (h *host) Journal(dir string) ([]held.JournalEntry, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w := h.workers[dir]; w != nil {
		return w.journal, nil
	}
	return nil, os.ErrNotExist
}

func (h *host) Sweep(_ context.Context, dir string) error {
	if err := h.at("sweep"); err != nil {
		return err
	}
	h.mu.Lock()
	w := h.workers[dir]
	delete(h.workers, dir)
	h.mu.Unlock()
	if w != nil {
		w.die()
	}
	return os.RemoveAll(dir)
}

func (h *host) worker(d *daemon, id string) *fakeWorker {
	h.t.Helper()
	s := d.look(id)
	if s == nil {
		h.t.Fatalf("no system %s", id)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.workers[h.inst.Worker(s.row.Load().RuntimeID)]
	if w == nil {
		h.t.Fatalf("no worker of %s", id)
	}
	return w
}

// fakeWorker holds a container that does what the test says.
type fakeWorker struct {
	host *host
	spec held.Spec

	mu         sync.Mutex // guards the rest
	state      string
	journal    []held.JournalEntry
	changed    chan struct{}
	dead       bool
	terminated bool
	pids       int
	execs      []string
	sent       int
	updates    []specs.LinuxResources
}

func (w *fakeWorker) isDead() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dead
}

func (w *fakeWorker) note(es ...held.JournalEntry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range es {
		e.Seq, e.Time = uint64(len(w.journal))+1, time.Now()
		w.journal = append(w.journal, e)
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *fakeWorker) die() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.dead {
		w.dead = true
		close(w.changed)
		w.changed = make(chan struct{})
	}
}

func (w *fakeWorker) Spec() held.Spec { return w.spec }
func (w *fakeWorker) PID() int        { return 1 }

func (w *fakeWorker) pid() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pids++
	return w.pids
}

func (w *fakeWorker) Start(ctx context.Context) (held.ProcessInfo, error) {
	if err := w.host.at("start"); err != nil {
		return held.ProcessInfo{}, err
	}
	w.mu.Lock()
	if w.terminated || w.dead {
		w.mu.Unlock()
		return held.ProcessInfo{}, errdefs.ErrAborted
	}
	w.state = "running"
	w.mu.Unlock()
	pid := w.pid()
	w.note(held.JournalEntry{What: "started", PID: pid}, held.JournalEntry{What: "process-created", Process: "init", PID: pid})
	if w.host.onStart != nil {
		w.host.onStart(w)
	}
	return held.ProcessInfo{Key: "init", PID: pid}, nil
}

func (w *fakeWorker) Exec(_ context.Context, p specs.Process, _ bool) (held.ProcessInfo, error) {
	if err := w.host.at("exec"); err != nil {
		return held.ProcessInfo{}, err
	}
	pid := w.pid()
	w.mu.Lock()
	key := fmt.Sprintf("p%d", len(w.execs)+1)
	w.execs = append(w.execs, key)
	w.mu.Unlock()
	w.note(held.JournalEntry{What: "process-created", Process: key, PID: pid})
	return held.ProcessInfo{Key: key, PID: pid}, nil
}

func (w *fakeWorker) exitProcess(key string, code uint32) {
	w.note(held.JournalEntry{What: "process-exited", Process: key, Status: &hcs.ProcessStatus{Exited: true, ExitCode: code, Key: key}})
}

// exit ends init.
func (w *fakeWorker) exit(code uint32) {
	w.mu.Lock()
	if w.state == "exited" || w.state == "created" {
		w.mu.Unlock()
		return
	}
	w.state = "exited"
	x := model.Classify(model.Seen{Reaped: true, Code: code, Terminated: w.terminated, Sent: w.sent})
	w.mu.Unlock()
	w.exitProcess("init", code)
	w.note(held.JournalEntry{What: "exited", Process: "init", Exit: &x})
}

func (w *fakeWorker) Signal(_ context.Context, p string, sig int) (bool, error) {
	w.mu.Lock()
	w.sent = sig
	w.mu.Unlock()
	if p == "init" {
		w.exit(128 + uint32(sig))
	} else {
		w.exitProcess(p, 128+uint32(sig))
	}
	return true, nil
}

func (w *fakeWorker) KillAll(context.Context) error {
	if w.isDead() {
		return errGone
	}
	w.mu.Lock()
	w.terminated = true
	w.mu.Unlock()
	w.exit(137)
	return nil
}

func (w *fakeWorker) Resize(context.Context, string, uint16, uint16) error { return nil }
func (w *fakeWorker) CloseStdin(context.Context, string) error             { return nil }

func (w *fakeWorker) Pause(context.Context) error {
	w.note(held.JournalEntry{What: "paused"})
	return nil
}

func (w *fakeWorker) Resume(context.Context) error {
	w.note(held.JournalEntry{What: "resumed"})
	return nil
}

func (w *fakeWorker) Attach(context.Context, string, held.AttachOptions, *net.UnixConn, []byte) error {
	return nil
}

func (w *fakeWorker) Journal(ctx context.Context, seq uint64) (<-chan held.JournalEntry, error) {
	if w.isDead() {
		return nil, errGone
	}
	c := make(chan held.JournalEntry)
	go func() {
		defer close(c)
		for {
			w.mu.Lock()
			all, changed, dead := slices.Clone(w.journal), w.changed, w.dead
			w.mu.Unlock()
			if dead {
				return
			}
			for _, e := range all {
				if e.Seq <= seq {
					continue
				}
				select {
				case c <- e:
					seq = e.Seq
				case <-ctx.Done():
					return
				}
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return c, nil
}

func (w *fakeWorker) Stats(context.Context) (hcs.Statistics, error) {
	return hcs.Statistics{Uptime100ns: 7}, nil
}

func (w *fakeWorker) Processes(context.Context) ([]hcs.ProcessDetails, error) {
	return []hcs.ProcessDetails{{ProcessId: 101, Key: "init"}}, nil
}

func (w *fakeWorker) Update(_ context.Context, r specs.LinuxResources) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.updates = append(w.updates, r)
	return nil
}

func (w *fakeWorker) Close(context.Context) error {
	if err := w.host.at("close"); err != nil {
		return err
	}
	w.mu.Lock()
	running := w.state == "running"
	w.mu.Unlock()
	if running {
		return errors.New("running")
	}
	w.die()
	w.host.mu.Lock()
	delete(w.host.workers, w.spec.Dir)
	w.host.mu.Unlock()
	return os.RemoveAll(w.spec.Dir)
}
