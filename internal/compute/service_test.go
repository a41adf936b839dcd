// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/held"
	"gatehouse.dev/gatehouse/internal/store"
)

func document() hcs.ComputeSystem {
	return hcs.ComputeSystem{Container: &hcs.Container{Image: "hello", InitProcess: &hcs.ProcessParameters{CreateStdOutPipe: true},
		Networking: &hcs.Networking{Endpoints: []json.RawMessage{json.RawMessage(`{"HostComputeNetwork":"n"}`)}}}}
}

func annotated(k string) hcs.ComputeSystem {
	d := document()
	d.Annotations = map[string]string{k: "true"}
	return d
}

func background(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// create makes a system or ends the test.
func (d *daemon) create(id string, doc hcs.ComputeSystem, start bool) Created {
	d.host.t.Helper()
	c, err := d.Create(context.Background(), id, doc, CreateOptions{Start: start})
	if err != nil {
		d.host.t.Fatalf("create %s: %v", id, err)
	}
	return c
}

func (d *daemon) wait(id string) hcs.SystemExitStatus {
	d.host.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	x, err := d.Wait(ctx, id)
	if err != nil {
		d.host.t.Fatalf("wait %s: %v", id, err)
	}
	return x
}

// events are the names since revision 0, those of processes with their key.
func (d *daemon) events() []string {
	d.host.t.Helper()
	es, _, err := d.db.Events(0)
	if err != nil {
		d.host.t.Fatal(err)
	}
	var out []string
	for _, e := range es {
		var x struct{ Key string }
		_ = json.Unmarshal(e.Data, &x)
		out = append(out, strings.TrimSuffix(e.Name+" "+x.Key, " "))
	}
	return out
}

func (d *daemon) rows() int {
	n := 0
	_ = d.db.View(func(tx *store.Tx) error {
		return systems().Each(tx, func(string, row) error { n++; return nil })
	})
	return n
}

func wantCode(t *testing.T, what string, err error, code hcs.Code) {
	t.Helper()
	if hcs.CodeOf(err) != code || err == nil && code != 0 {
		t.Errorf("%s: got %v, want %s", what, err, code.Name())
	}
}

func wantList(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %s\nwant %s", what, strings.Join(got, ", "), strings.Join(want, ", "))
	}
}

func TestLifeInOneRequest(t *testing.T) {
	d := newHost(t).daemon()
	c := d.create("web", document(), true)
	if c.Properties.State != hcs.StateRunning || c.Process.Key != "init" || c.Process.ProcessId == 0 || c.Properties.Image != "hello" ||
		!slices.Equal(c.Properties.Command, []string{"/srv", "run"}) {
		t.Fatalf("created: %+v", c)
	}
	w := d.host.worker(d, "web")
	if p := w.spec.OCI.Process; p.User.UID != 101 || p.User.GID != 102 || w.spec.OCI.Linux.Namespaces[4].Path == "" {
		t.Errorf("compiled: user %+v, namespaces %+v", p.User, w.spec.OCI.Linux.Namespaces)
	}
	if b, _ := os.ReadFile(d.host.inst.Scratch(c.Properties.RuntimeId) + "/etc/hosts"); !strings.Contains(string(b), "10.0.0.2\tweb\n") {
		t.Errorf("hosts: %s", b)
	}
	p, err := d.CreateProcess(t.Context(), "web", hcs.ProcessParameters{CommandArgs: []string{"ps"}, User: "0:0"})
	if err != nil || p.Key != "p1" {
		t.Fatalf("create process: %+v %v", p, err)
	}
	w.exitProcess("p1", 4)
	if st, err := d.WaitProcess(background(t), "web", "p1"); err != nil || st.ExitCode != 4 {
		t.Errorf("wait for process: %+v %v", st, err)
	}
	w.exit(3)
	x := d.wait("web")
	if x.ExitType != hcs.GracefulExit || x.InitExitCode == nil || *x.InitExitCode != 3 {
		t.Errorf("exit: %+v", x)
	}
	d.host.clean()
	wantList(t, "events", d.events(), []string{"SystemCreated", "SystemStarted", "ProcessCreated init", "ProcessCreated p1",
		"ProcessExited p1", "ProcessExited init", "SystemExited"})
	// A tombstone answers, and the Id is free.
	old := "rid:" + c.Properties.RuntimeId
	again := d.create("web", document(), true)
	if again.Properties.RuntimeId == c.Properties.RuntimeId {
		t.Error("RuntimeId used twice")
	}
	if x := d.wait(old); *x.InitExitCode != 3 {
		t.Errorf("tombstone: %+v", x)
	}
	if l, _ := d.Enumerate(t.Context(), hcs.SystemQuery{}, true); len(l) != 2 {
		t.Errorf("all: %d systems", len(l))
	}
	if l, _ := d.Enumerate(t.Context(), hcs.SystemQuery{}, false); len(l) != 1 || l[0].RuntimeId != again.Properties.RuntimeId {
		t.Errorf("running: %+v", l)
	}
	if err := d.Delete(t.Context(), "web"); err != nil {
		t.Error(err)
	}
	if err := d.Delete(t.Context(), "web"); err != nil {
		t.Errorf("second delete: %v", err)
	}
	d.host.clean()
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	boom := errors.New("boom")
	for step, want := range map[string]struct {
		err  error
		code hcs.Code
		exit int
	}{
		"use":   {os.ErrNotExist, hcs.CodeUnspecified, 0},
		"plug":  {boom, hcs.CodeUnspecified, 0},
		"spawn": {boom, hcs.CodeUnspecified, 0},
		"start": {&held.StartError{ExitCode: 127, Message: "exec: /srv: no such file"}, hcs.CodeInvalidArg, 127},
	} {
		d := newHost(t).daemon()
		d.host.set(step, want.err)
		_, err := d.Create(t.Context(), "web", document(), CreateOptions{Start: true})
		wantCode(t, step, err, want.code)
		var e *hcs.Error
		if !errors.As(err, &e) || e.ExitCode != want.exit || e.Op != "create" || e.ID != "web" {
			t.Errorf("%s: %+v", step, e)
		}
		d.host.clean()
		if n := d.rows(); n != 0 {
			t.Errorf("%s: %d rows are left", step, n)
		}
		wantCode(t, "after "+step, d.Terminate(t.Context(), "web"), hcs.CodeSystemNotFound)
		d.host.set(step, nil)
		d.create("web", document(), true)
		wantList(t, "events after "+step, d.events(), []string{"SystemCreated", "SystemStarted", "ProcessCreated init"})
		d.down()
	}
}

// An undo that fails keeps its row, frees the Id, and is tried again.
func TestUndoIsTriedAgain(t *testing.T) {
	d := newHost(t).daemon()
	d.host.set("spawn", errors.New("boom"))
	d.host.set("unplug", errors.New("busy"))
	if _, err := d.Create(t.Context(), "web", document(), CreateOptions{}); err == nil {
		t.Fatal("create succeeded")
	}
	if d.rows() != 1 {
		t.Fatalf("%d rows", d.rows())
	}
	d.host.set("spawn", nil)
	d.create("web", document(), false)
	d.host.set("unplug", nil)
	d.sweep(t.Context(), time.Now())
	if d.rows() != 1 || len(d.host.networks) != 1 {
		t.Errorf("after the sweep: %d rows, networks %v", d.rows(), d.host.networks)
	}
	if err := d.Delete(t.Context(), "web"); err != nil {
		t.Error(err)
	}
	d.host.clean()
}

func TestVerbsInEachState(t *testing.T) {
	ctx := background(t)
	d := newHost(t).daemon()
	verbs := map[string]func(id string) error{
		"start":    func(id string) error { _, err := d.Start(ctx, id); return err },
		"pause":    func(id string) error { return d.Pause(ctx, id, hcs.PauseOptions{}) },
		"resume":   func(id string) error { return d.Resume(ctx, id) },
		"shutdown": func(id string) error { return d.Shutdown(ctx, id, hcs.ShutdownOptions{}) },
		"exec": func(id string) error {
			_, err := d.CreateProcess(ctx, id, hcs.ProcessParameters{CommandArgs: []string{"x"}})
			return err
		},
		"modify": func(id string) error {
			return d.Modify(ctx, id, hcs.ModifySettingRequest{ResourcePath: hcs.ResourceMemory, Settings: json.RawMessage("64")})
		},
	}
	check := func(id string, want map[string]hcs.Code) {
		t.Helper()
		for v, code := range want {
			wantCode(t, v+" on "+id, verbs[v](id), code)
		}
	}
	is, as, nf := hcs.CodeInvalidState, hcs.CodeSystemAlreadyStopped, hcs.CodeSystemNotFound
	check("none", map[string]hcs.Code{"start": nf, "pause": nf, "resume": nf, "shutdown": nf, "exec": nf, "modify": nf})
	d.create("created", document(), false)
	check("created", map[string]hcs.Code{"pause": is, "resume": is, "shutdown": is, "exec": is})
	d.create("running", document(), true)
	check("running", map[string]hcs.Code{"start": is, "resume": is, "exec": 0, "modify": 0})
	if doc, _ := d.Document(ctx, "running"); doc.Container.Memory == nil || doc.Container.Memory.SizeInMB != 64 {
		t.Errorf("modified document: %+v", doc.Container.Memory)
	}
	if err := d.Pause(ctx, "running", hcs.PauseOptions{}); err != nil {
		t.Fatal(err)
	}
	check("running", map[string]hcs.Code{"start": is, "pause": is, "shutdown": is, "exec": is, "modify": 0})
	if err := d.Resume(ctx, "running"); err != nil {
		t.Fatal(err)
	}
	if err := d.Shutdown(ctx, "running", hcs.ShutdownOptions{}); err != nil {
		t.Fatal(err)
	}
	if x := d.wait("running"); x.ExitType != hcs.GracefulExit || *x.InitExitCode != 143 {
		t.Errorf("after shutdown: %+v", x)
	}
	check("running", map[string]hcs.Code{"start": as, "pause": as, "resume": as, "shutdown": as, "exec": as, "modify": as})
	_, err := d.Create(ctx, "created", document(), CreateOptions{})
	wantCode(t, "create twice", err, hcs.CodeSystemAlreadyExists)
	for range 2 {
		if err := d.Terminate(ctx, "created"); err != nil {
			t.Errorf("terminate: %v", err)
		}
	}
	if x := d.wait("created"); x.ExitType != hcs.ForcedExit || x.InitExitCode != nil {
		t.Errorf("terminated before it ran: %+v", x)
	}
	d.host.clean()
}

func TestTerminateOvertakes(t *testing.T) {
	ctx := background(t)
	for _, step := range []string{"plug", "start"} {
		d := newHost(t).daemon()
		release := d.host.hold(step)
		failed := make(chan error, 1)
		go func() {
			_, err := d.Create(ctx, "web", document(), CreateOptions{Start: true})
			failed <- err
		}()
		for d.look("web") == nil || step == "start" && len(d.host.running()) == 0 {
			time.Sleep(time.Millisecond)
		}
		ended := make(chan error, 1)
		go func() { ended <- d.Terminate(ctx, "web") }()
		time.Sleep(20 * time.Millisecond)
		release()
		wantCode(t, "create while terminated in "+step, <-failed, hcs.CodeTerminatedDuringStart)
		if err := <-ended; err != nil {
			t.Errorf("terminate during %s: %v", step, err)
		}
		d.host.clean()
		if d.rows() != 0 {
			t.Errorf("%s: %d rows are left", step, d.rows())
		}
	}
	// A Start of a system that is there.
	d := newHost(t).daemon()
	d.create("web", document(), false)
	release := d.host.hold("start")
	failed := make(chan error, 1)
	go func() {
		_, err := d.Start(ctx, "web")
		failed <- err
	}()
	time.Sleep(20 * time.Millisecond)
	go func() {
		time.Sleep(50 * time.Millisecond)
		release()
	}()
	if err := d.Terminate(ctx, "web"); err != nil {
		t.Error(err)
	}
	if err := <-failed; hcs.CodeOf(err) != hcs.CodeTerminatedDuringStart {
		t.Errorf("start: %v", err)
	}
	if x := d.wait("web"); x.ExitType != hcs.ForcedExit {
		t.Errorf("exit: %+v", x)
	}
	d.host.clean()
}

func (h *host) running() (out []*fakeWorker) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.workers {
		out = append(out, w)
	}
	return out
}

func TestWorkerDies(t *testing.T) {
	d := newHost(t).daemon()
	d.create("said", document(), true)
	d.create("silent", document(), true)
	w := d.host.worker(d, "said")
	w.mu.Lock() // it writes down, dies, and nobody was told
	x := hcs.SystemExitStatus{ExitType: hcs.GracefulExit}
	w.journal = append(w.journal, held.JournalEntry{Seq: 4, Time: time.Now(), What: "process-exited", Process: "init", Status: &hcs.ProcessStatus{Exited: true, ExitCode: 5}},
		held.JournalEntry{Seq: 5, Time: time.Now(), What: "exited", Exit: &x})
	w.mu.Unlock()
	w.die()
	d.host.worker(d, "silent").die()
	if x := d.wait("said"); x.ExitType != hcs.GracefulExit {
		t.Errorf("exit that was written down: %+v", x)
	}
	if st, err := d.WaitProcess(background(t), "said", "init"); err != nil || st.ExitCode != 5 {
		t.Errorf("process: %+v %v", st, err)
	}
	if x := d.wait("silent"); x.ExitType != hcs.UnexpectedExit || x.Attribution[0].WorkerExit == nil {
		t.Errorf("exit that nobody saw: %+v", x)
	}
	if st, err := d.WaitProcess(background(t), "silent", "init"); err != nil || st.ExitCode != 137 {
		t.Errorf("process: %+v %v", st, err)
	}
	d.host.clean()
}

// A worker whose processes do not end is not said to be stopped.
func TestUnreachable(t *testing.T) {
	d := newHost(t).daemon()
	d.create("web", document(), true)
	d.host.set("sweep", errors.New("process 7 does not end"))
	d.host.worker(d, "web").die()
	for {
		p, err := d.Properties(background(t), "web", hcs.PropertyQuery{})
		if err != nil {
			t.Fatal(err)
		}
		if p.State == hcs.StateUnknown {
			break
		}
		time.Sleep(time.Millisecond)
	}
	wantCode(t, "pause", d.Pause(t.Context(), "web", hcs.PauseOptions{}), hcs.CodeServiceNotAvailable)
	d.host.set("sweep", nil)
	if err := d.Terminate(background(t), "web"); err != nil {
		t.Error(err)
	}
	d.host.clean()
}

func TestRestart(t *testing.T) {
	h := newHost(t)
	d := h.daemon()
	for _, id := range []string{"runs", "ends", "dies"} {
		d.create(id, document(), true)
	}
	d.create("made", document(), false)
	d.create("gone", annotated(hcs.AnnotationKeep), true)
	h.worker(d, "gone").exit(9)
	d.wait("gone")
	rid := d.look("ends").row.Load().RuntimeID
	ends, dies := h.worker(d, "ends"), h.worker(d, "dies")
	d.down()
	// While nobody watches:
	ends.exit(6)
	dies.die()
	half := row{ID: "half", RuntimeID: "11111111-1111-1111-1111-111111111111", State: stateCreating, Doc: document(), Namespace: "ns", Plugged: true}
	half.Doc.Container.GuestOs = &hcs.GuestOs{HostName: "half"}
	h.networks["ns"], h.images[half.RuntimeID] = half.RuntimeID, "hello"
	db, err := store.Open(h.inst.Store())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Update(func(tx *store.Tx) error { return systems().Put(tx, half.RuntimeID, half) }); err != nil {
		t.Fatal(err)
	}
	db.Close()
	for _, r := range []string{half.RuntimeID, "orphan"} {
		if _, err := h.Spawn(t.Context(), held.Spec{RuntimeID: r, Dir: h.inst.Worker(r)}); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(h.inst.Scratch(r)+"/upper", 0o700); err != nil {
			t.Fatal(err)
		}
	}

	d = h.daemon()
	if x := d.wait("ends"); *x.InitExitCode != 6 || x.ExitType != hcs.GracefulExit {
		t.Errorf("ended meanwhile: %+v", x)
	}
	if x := d.wait("rid:" + rid); *x.InitExitCode != 6 {
		t.Errorf("by RuntimeId: %+v", x)
	}
	if x := d.wait("dies"); x.ExitType != hcs.UnexpectedExit {
		t.Errorf("died meanwhile: %+v", x)
	}
	if x := d.wait("gone"); *x.InitExitCode != 9 {
		t.Errorf("kept: %+v", x)
	}
	if _, err := d.Start(t.Context(), "made"); err != nil {
		t.Errorf("start after the restart: %v", err)
	}
	if _, err := d.Properties(t.Context(), "half", hcs.PropertyQuery{}); !hcs.IsNotExist(err) {
		t.Errorf("half-made: %v", err)
	}
	if len(h.running()) != 2 || len(h.networks) != 2 || len(h.images) != 3 {
		t.Errorf("after the restart: %d workers, networks %v, images %v", len(h.running()), h.networks, h.images)
	}
	for _, id := range []string{"runs", "made", "gone"} {
		if err := d.Delete(t.Context(), id); err != nil {
			t.Errorf("delete %s: %v", id, err)
		}
	}
	h.clean()
}

func TestKeepAndRemove(t *testing.T) {
	d := newHost(t).daemon()
	h := d.host
	h.onStart = func(w *fakeWorker) {
		if err := os.WriteFile(w.spec.LogPath, []byte("2026-01-02T03:04:05Z stdout F hello\n"), 0o600); err != nil {
			t.Error(err)
		}
	}
	for id, note := range map[string]string{"keep": hcs.AnnotationKeep, "rm": hcs.AnnotationRemove, "plain": "x"} {
		d.create(id, annotated(note), true)
		h.worker(d, id).exit(0)
		d.wait(id)
	}
	logs := func(id string) (n int, err error) {
		lines, err := d.Logs(t.Context(), id, hcs.LogOptions{})
		if err != nil {
			return 0, err
		}
		for _, err := range lines {
			if err != nil {
				return n, err
			}
			n++
		}
		return n, nil
	}
	if n, err := logs("keep"); n != 1 || err != nil {
		t.Errorf("log of a kept system: %d lines, %v", n, err)
	}
	// Its scratch goes after those who wait were woken.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := logs("plain"); err != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Error("log of a system that is not kept")
			break
		}
	}
	_, err := d.Create(t.Context(), "keep", document(), CreateOptions{})
	wantCode(t, "name of a kept system", err, hcs.CodeSystemAlreadyExists)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		_, err := d.Properties(t.Context(), "rm", hcs.PropertyQuery{})
		if hcs.IsNotExist(err) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a removed system is still there")
		}
	}
	if x := d.wait("rm"); x.ExitType != hcs.GracefulExit {
		t.Errorf("exit of a removed system: %+v", x)
	}
	// Tombstones go with time; what is kept stays.
	d.sweep(t.Context(), time.Now().Add(tombstoneLife+time.Minute))
	if l, _ := d.Enumerate(t.Context(), hcs.SystemQuery{}, true); len(l) != 1 || l[0].Id != "keep" || d.rows() != 1 {
		t.Errorf("after ten minutes: %+v, %d rows", l, d.rows())
	}
	if err := d.Delete(t.Context(), "keep"); err != nil {
		t.Error(err)
	}
	h.clean()
	if _, err := d.Properties(t.Context(), "keep", hcs.PropertyQuery{}); !hcs.IsNotExist(err) {
		t.Errorf("deleted: %v", err)
	}
}

func TestLastLeaseEnds(t *testing.T) {
	d := newHost(t).daemon()
	doc := document()
	doc.ShouldTerminateOnLastHandleClosed = true
	c, err := d.Create(t.Context(), "web", doc, CreateOptions{Start: true, Lease: true})
	if err != nil {
		t.Fatal(err)
	}
	l, err := d.OpenLease(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	c.Lease.Close()
	c.Lease.Close()
	time.Sleep(2 * leaseGrace)
	if p, _ := d.Properties(t.Context(), "web", hcs.PropertyQuery{}); p.State != hcs.StateRunning {
		t.Fatalf("with a lease: %s", p.State)
	}
	l.Close()
	if x := d.wait("web"); x.ExitType != hcs.ForcedExit || x.Attribution[0].SystemExit.Initiator != hcs.InitiatorInternal {
		t.Errorf("exit: %+v", x)
	}
	d.host.clean()
}
