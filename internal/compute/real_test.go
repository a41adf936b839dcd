// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute"
	"gatehouse.dev/gatehouse/internal/compute/held"
	"gatehouse.dev/gatehouse/internal/compute/worker"
	"gatehouse.dev/gatehouse/internal/instance"
	"gatehouse.dev/gatehouse/internal/store"
)

func TestMain(m *testing.M) {
	if worker.Is(os.Args) {
		os.Exit(worker.Main(os.Args))
	}
	os.Exit(m.Run())
}

// workers joins the real hand to the service, as the daemon does.
type workers struct{ *worker.Spawner }

func (workers) Adopt(ctx context.Context, dir string) (held.Client, error) {
	return worker.Adopt(ctx, dir)
}
func (workers) Journal(dir string) ([]held.JournalEntry, error) { return worker.ReadJournal(dir) }
func (workers) Sweep(ctx context.Context, dir string) error {
	if c, err := worker.Adopt(ctx, dir); err == nil {
		_ = c.KillAll(ctx)
		return c.Close(ctx)
	}
	return worker.Destroy(ctx, dir)
}

// images has one image: a shell-less static program.
type images struct{ layer string }

func (i images) Use(context.Context, string, string) (compute.Image, error) {
	return compute.Image{Name: "guest", Layers: []string{i.layer}, Config: ispec.ImageConfig{Cmd: []string{"/guest"}}}, nil
}
func (images) Release(context.Context, string) error { return nil }

type noNetworks struct{}

func (noNetworks) Plug(context.Context, string, string, []json.RawMessage) (compute.Plugged, error) {
	return compute.Plugged{}, fmt.Errorf("no network")
}
func (noNetworks) Unplug(context.Context, string) error         { return nil }
func (noNetworks) TakeOver(context.Context, string, bool) error { return nil }
func (noNetworks) Look(context.Context, string) (compute.Plugged, error) {
	return compute.Plugged{}, fmt.Errorf("no network")
}

func (images) Export(context.Context, compute.Files, io.Writer) error { return fmt.Errorf("no images") }
func (images) Commit(context.Context, compute.Files, compute.CommitRequest) (string, error) {
	return "", fmt.Errorf("no images")
}

type realRig struct {
	t    *testing.T
	inst instance.Instance
	img  images
}

func newRealRig(t *testing.T) *realRig {
	if os.Geteuid() != 0 {
		t.Skip("requires root: it runs containers")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		t.Skip("requires an OCI runtime: runc is not installed")
	}
	inst, err := instance.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	layer := t.TempDir()
	if err := os.Chmod(layer, 0o755); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", filepath.Join(layer, "guest"), "./testdata/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build guest: %v: %s", err, out)
	}
	r := &realRig{t, inst, images{layer}}
	t.Cleanup(func() {
		h, err := worker.Owned(inst)
		if err != nil || len(h.Workers)+len(h.Cgroups)+len(h.RuntimeState) > 0 {
			t.Errorf("left: %+v %v", h, err)
		}
		if err := worker.Sweep(context.Background(), inst); err != nil {
			t.Error(err)
		}
		if l, _ := os.ReadDir(filepath.Join(inst.Lib, "scratch")); len(l) > 0 {
			t.Errorf("scratch left: %v", l)
		}
	})
	return r
}

// daemon starts one life of the service; stop ends it and leaves the workers.
func (r *realRig) daemon() (h *compute.HCS, stop func()) {
	r.t.Helper()
	db, err := store.Open(r.inst.Store())
	if err != nil {
		r.t.Fatal(err)
	}
	sp := &worker.Spawner{Cgroup: worker.WorkerCgroup(r.inst)}
	h, err = compute.New(compute.Options{Instance: r.inst, Store: db, Images: r.img, Networks: noNetworks{}, Workers: workers{sp}})
	if err != nil {
		r.t.Fatal(err)
	}
	if err := h.Recover(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	return h, func() { h.Close(); sp.Close(); db.Close() }
}

func run(args ...string) hcs.ComputeSystem {
	return hcs.ComputeSystem{Annotations: map[string]string{hcs.AnnotationKeep: "true"}, Container: &hcs.Container{Image: "guest",
		InitProcess: &hcs.ProcessParameters{CommandArgs: append([]string{"/guest"}, args...), CreateStdOutPipe: true, CreateStdErrPipe: true}}}
}

func text(t *testing.T, h *compute.HCS, id string) string {
	t.Helper()
	lines, err := h.Logs(t.Context(), id, hcs.LogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for l, err := range lines {
		if err != nil {
			t.Fatal(err)
		}
		b.Write(append(l.Bytes(), '\n'))
	}
	return b.String()
}

func TestRealContainer(t *testing.T) {
	r := newRealRig(t)
	h, stop := r.daemon()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	// To its exit, with what a container is told of itself.
	doc := run("show")
	doc.Container.InitProcess.User = "7:8"
	doc.Container.InitProcess.Environment = map[string]string{"A": "b"}
	doc.Container.Memory = &hcs.Memory{SizeInMB: 64}
	doc.Container.PidsLimit = 50
	doc.Container.Processor = &hcs.Processor{Maximum: 5000}
	if _, err := h.Create(ctx, "show", doc, compute.CreateOptions{Start: true}); err != nil {
		t.Fatal(err)
	}
	x, err := h.Wait(ctx, "show")
	if err != nil || x.InitExitCode == nil || *x.InitExitCode != 3 || x.ExitType != hcs.GracefulExit {
		t.Fatalf("exit: %+v %v", x, err)
	}
	out := text(t, h, "show")
	for _, want := range []string{"ids 7 8", "A=b", "host show", "pid 1", "caps 00000000a80425fb", "seccomp 2", "hosts ok", "sysro true", "interfaces lo"} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if err := h.Delete(ctx, "show"); err != nil {
		t.Error(err)
	}

	// A program that is not there.
	bad := run()
	bad.Container.InitProcess.CommandArgs = []string{"/nothing"}
	_, err = h.Create(ctx, "bad", bad, compute.CreateOptions{Start: true})
	if res := hcs.ResultOf(err); err == nil || res.ExitCode != 127 {
		t.Errorf("a program that is not there: %v (%d)", err, res.ExitCode)
	}

	// The daemon goes and comes again; the container does not notice.
	if _, err := h.Create(ctx, "long", run("sleep"), compute.CreateOptions{Start: true}); err != nil {
		t.Fatal(err)
	}
	stop()
	h, stop = r.daemon()
	defer func() { stop() }()
	p, err := h.CreateProcess(ctx, "long", hcs.ProcessParameters{CommandArgs: []string{"/guest", "exit", "5"}})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := h.WaitProcess(ctx, "long", p.Key); err != nil || st.ExitCode != 5 {
		t.Errorf("exec: %+v %v", st, err)
	}
	if err := h.Pause(ctx, "long", hcs.PauseOptions{}); err != nil {
		t.Error(err)
	}
	if err := h.Resume(ctx, "long"); err != nil {
		t.Error(err)
	}
	props, err := h.Properties(ctx, "long", hcs.PropertyQuery{PropertyTypes: []hcs.PropertyType{hcs.PropertyStatistics, hcs.PropertyProcessList}})
	if err != nil || props.Statistics == nil || props.Statistics.Memory == nil || len(props.ProcessList) != 1 {
		t.Errorf("properties: %+v %v", props, err)
	}
	if err := h.Modify(ctx, "long", hcs.ModifySettingRequest{ResourcePath: hcs.ResourceMemory, Settings: json.RawMessage(`{"SizeInMB":96}`)}); err != nil {
		t.Error(err)
	}
	if err := h.Shutdown(ctx, "long", hcs.ShutdownOptions{}); err != nil {
		t.Error(err)
	}
	if x, err = h.Wait(ctx, "long"); err != nil || *x.InitExitCode != 0 {
		t.Errorf("after shutdown: %+v %v", x, err)
	}
	if err := h.Delete(ctx, "long"); err != nil {
		t.Error(err)
	}
}

// Stdio of the one request that runs a container.
func TestRealAttach(t *testing.T) {
	r := newRealRig(t)
	h, stop := r.daemon()
	defer stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	mine, err := net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	theirs, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	doc := run("cat")
	doc.Annotations = map[string]string{hcs.AnnotationRemove: "true"}
	doc.Container.InitProcess.CreateStdInPipe = true
	early := hcs.AppendFrame(nil, hcs.FrameStdin, []byte("first "))
	_, err = h.Create(ctx, "cat", doc, compute.CreateOptions{Start: true,
		Attach:        func(string) (*net.UnixConn, []byte, error) { return theirs, early, nil },
		AttachOptions: held.AttachOptions{Stdin: true, Stdout: true, Stderr: true}})
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	w := hcs.NewFrameWriter(mine)
	if err := w.Write(hcs.FrameStdin, []byte("second")); err != nil {
		t.Fatal(err)
	}
	if err := w.Write(hcs.FrameCloseStdin, nil); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	fr := hcs.NewFrameReader(mine)
	for {
		typ, p, err := fr.Read()
		if err != nil {
			t.Fatalf("after %q: %v", out.String(), err)
		}
		if typ == hcs.FrameStdout {
			out.Write(p)
		}
		if typ == hcs.FrameExit {
			break
		}
	}
	if out.String() != "first second" {
		t.Errorf("echoed %q", out.String())
	}
	if _, err := h.Wait(ctx, "cat"); err != nil {
		t.Error(err)
	}
}
