// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package uvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/held"
	"gatehouse.dev/gatehouse/internal/compute/mirror"
	"gatehouse.dev/gatehouse/internal/compute/silo"
	"gatehouse.dev/gatehouse/internal/guest/proto"
)

// Silo is a container in a machine of its own.
type Silo struct {
	ID      string // the container's inside
	Machine held.Machine
	// Spec is for the guest (model.GuestSpec).
	Spec specs.Spec
	// Dir and Serial as in Config.
	Dir, Serial string
	Group       silo.Cgroup
	Reaper      *silo.Reaper
}

// Engine runs one Silo: Start, then anything, then Cleanup. It has the methods of
// package silo's Engine.
type Engine struct {
	s Silo

	mu     sync.Mutex // guards the rest
	vm     *VM
	guest  *guest
	oom    func()
	killed bool
}

// NewEngine returns the engine of s.
func NewEngine(s Silo) *Engine { return &Engine{s: s} }

// Prepare has nothing to do before the machine runs.
func (e *Engine) Prepare() error { return nil }

func (e *Engine) current() (*VM, *guest) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.vm, e.guest
}

var errNotUp = &hcs.Error{Code: hcs.CodeInvalidState, Message: "the machine is not up"}

// Start boots the machine and runs the container in it. A machine that says
// nothing at all is started once more: some emulated boots hang early.
func (e *Engine) Start(ctx context.Context, io silo.IO) (*silo.Process, error) {
	var p *silo.Process
	err := e.boot(ctx)
	if hcs.CodeOf(err) == hcs.CodeConnectionTimeout && ctx.Err() == nil {
		err = e.boot(ctx)
	}
	if err == nil {
		if p, err = e.run(ctx, io); err != nil {
			err = e.why(err)
		}
	}
	if err != nil {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return nil, errors.Join(err, e.Kill(clean), e.s.Group.Remove(clean))
	}
	return p, nil
}

// boot starts the machine up to the agent's handshake.
func (e *Engine) boot(ctx context.Context) error {
	c := Config{Machine: e.s.Machine, Dir: e.s.Dir, Serial: e.s.Serial, Group: e.s.Group, Reaper: e.s.Reaper}
	if e.s.Machine.NetNsPath != "" {
		var err error
		if c.Mirrors, err = mirror.All(e.s.Machine.NetNsPath); err != nil {
			return err
		}
		defer mirror.Close(c.Mirrors) // QEMU has its own
	}
	vm, err := Start(ctx, c)
	if err != nil {
		return err
	}
	g, err := connect(ctx, vm, e.s.Spec.Hostname)
	if err == nil {
		for _, m := range c.Mirrors {
			q := proto.NetworkRequest{Base: proto.Base{ContainerId: proto.VM}, Network: m.Network}
			if err = g.call(ctx, proto.AddNetwork, q, nil); err != nil {
				err = fmt.Errorf("network %s: %w", m.Network.Name, err)
				break
			}
		}
	}
	if err != nil {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = withTail(err, vm)
		return errors.Join(err, vm.Kill(clean))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.vm, e.guest = vm, g
	g.mu.Lock()
	g.oom = e.oom
	g.mu.Unlock()
	if e.killed {
		return context.Canceled
	}
	return nil
}

// withTail adds the last of the console to an error about a machine that does not
// come up.
func withTail(err error, vm *VM) error {
	tail, _ := vm.Serial()
	select {
	case <-vm.Ended():
		if r := vm.End().Status(Told{}).Reason; r != "" {
			err = fmt.Errorf("%w (%s)", err, r)
		}
	default:
	}
	if n := len(tail) - 1024; n > 0 {
		tail = tail[n:]
	}
	if tail == "" {
		return err
	}
	return fmt.Errorf("%w; the console's last words: %q", err, tail)
}

// why says that a call failed because the machine ended, if so.
func (e *Engine) why(err error) error {
	if vm, _ := e.current(); vm != nil && hcs.CodeOf(err) == hcs.CodeConnectionClosed {
		return withTail(err, vm)
	}
	return err
}

// run makes the root file system and starts the container's process.
func (e *Engine) run(ctx context.Context, io silo.IO) (*silo.Process, error) {
	_, g := e.current()
	root, err := e.root(ctx, g)
	if err != nil {
		return nil, err
	}
	w, err := g.streams(ctx, e.s.ID, io)
	if err != nil {
		w.abandon()
		return nil, err
	}
	spec := e.s.Spec
	p := *spec.Process
	complete(&p, io)
	spec.Process = &p
	base := proto.Base{ContainerId: e.s.ID}
	q := proto.CreateRequest{Base: base, ContainerConfig: proto.ContainerConfig{Id: e.s.ID, Mode: proto.ModeInit, RootPath: root, OCI: &spec,
		Seccomp: e.s.Machine.Seccomp, Stdio: w.stdio, NamespaceId: proto.VM, Isolation: string(hcs.IsolationProcess)}}
	if err := g.call(ctx, proto.Create, q, nil); err != nil {
		w.abandon()
		return nil, refusal(err)
	}
	var started proto.StartResponse
	if err := g.call(ctx, proto.Start, base, &started); err != nil {
		w.abandon()
		return nil, refusal(err)
	}
	return e.process(g, w, io, started.Pid)
}

// root mounts the layers and the scratch, side by side, and stacks them.
func (e *Engine) root(ctx context.Context, g *guest) (string, error) {
	const at = "/c/1"
	stack := proto.CombinedLayers{ContainerRootPath: at + "/r", ScratchPath: at}
	var all errgroup.Group
	for _, lun := range e.s.Machine.Disks.Layers {
		path := fmt.Sprintf("/l/%d", lun)
		stack.Layers = append(stack.Layers, hcs.Layer{Path: path})
		all.Go(func() error {
			return g.modify(ctx, proto.ResourceMappedVirtualDisk, proto.MappedVirtualDisk{MountPath: path, Lun: uint8(lun), ReadOnly: true})
		})
	}
	all.Go(func() error {
		return g.modify(ctx, proto.ResourceMappedVirtualDisk, proto.MappedVirtualDisk{MountPath: at, Lun: uint8(e.s.Machine.Disks.Scratch)})
	})
	for i, s := range e.s.Machine.Shares {
		all.Go(func() error {
			err := g.modify(ctx, proto.ResourceMappedDirectory, proto.MappedDirectory{MountPath: fmt.Sprintf("/m/%d", i), ShareName: strconv.Itoa(i), ReadOnly: s.ReadOnly})
			if err != nil {
				err = fmt.Errorf("share %s: %w", s.Path, err)
			}
			return err
		})
	}
	for inside, host := range e.s.Machine.Copy {
		all.Go(func() error {
			b, err := os.ReadFile(host)
			if err != nil {
				return err
			}
			return g.copyFile(ctx, filepath.Join(proto.FilesRoot, inside), 0o644, b)
		})
	}
	if err := all.Wait(); err != nil {
		return "", err
	}
	return stack.ContainerRootPath, g.modify(ctx, proto.ResourceCombinedLayers, stack)
}

// complete fills in what is the caller's of this moment.
func complete(p *specs.Process, io silo.IO) {
	p.Terminal, p.ConsoleSize = io.Terminal, nil
	if io.Terminal && io.Height > 0 && io.Width > 0 {
		p.ConsoleSize = &specs.Box{Height: uint(io.Height), Width: uint(io.Width)}
	}
	if p.Cwd == "" {
		p.Cwd = "/"
	}
}

// refusal is the agent's, as a runtime's.
func refusal(err error) error {
	var h *hcs.Error
	if errors.As(err, &h) && h.Code != hcs.CodeConnectionClosed && h.Code != hcs.CodeOperationTimeout {
		code := h.ExitCode
		if code == 0 {
			code = silo.ExitCodeOf(h.Error())
		}
		return &silo.RuntimeError{ExitCode: code, Message: h.Error()}
	}
	return err
}

func (e *Engine) process(g *guest, w *wired, io silo.IO, pid uint32) (*silo.Process, error) {
	gp, console, err := w.join(io)
	if err != nil {
		w.abandon()
		return nil, err
	}
	g.adopt(w.stdio.Key, gp)
	p := &silo.Process{PID: int(pid), Exit: gp.exit, Console: console}
	if console != nil {
		p.Resize = func(h, w uint16) error {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			err := g.call(ctx, proto.ResizeConsole, proto.ResizeRequest{Base: proto.Base{ContainerId: e.s.ID}, ProcessId: pid, Height: h, Width: w}, nil)
			if hcs.IsAlreadyStopped(err) {
				err = nil
			}
			return err
		}
	}
	return p, nil
}

// Exec runs a further process.
func (e *Engine) Exec(ctx context.Context, _ string, p specs.Process, io silo.IO) (*silo.Process, error) {
	_, g := e.current()
	if g == nil {
		return nil, errNotUp
	}
	complete(&p, io)
	w, err := g.streams(ctx, e.s.ID, io)
	if err != nil {
		w.abandon()
		return nil, err
	}
	params := hcs.ProcessParameters{CommandArgs: p.Args, User: p.User.Username, WorkingDirectory: p.Cwd, EmulateConsole: io.Terminal, Oci: &p}
	q := proto.ExecuteRequest{Base: proto.Base{ContainerId: e.s.ID}, Settings: proto.ExecuteSettings{ProcessParameters: params, Stdio: w.stdio}}
	var r proto.ExecuteResponse
	if err := g.call(ctx, proto.ExecuteProcess, q, &r); err != nil {
		w.abandon()
		return nil, refusal(err)
	}
	return e.process(g, w, io, r.ProcessId)
}

// Signal sends a signal to a process of the container; false if it is gone.
func (e *Engine) Signal(ctx context.Context, pid, signal int) (bool, error) {
	_, g := e.current()
	if g == nil {
		return false, errNotUp
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	q := proto.SignalRequest{Base: proto.Base{ContainerId: e.s.ID}, ProcessId: uint32(pid), Options: hcs.SignalProcessOptions{Signal: hcs.Signal(signal)}}
	err := g.call(ctx, proto.SignalProcess, q, nil)
	if hcs.IsAlreadyStopped(err) || hcs.CodeOf(err) == hcs.CodeProcessAlreadyStopped {
		return false, nil
	}
	return err == nil, err
}

// Kill ends the machine, and so all in it, and returns when nothing is left.
func (e *Engine) Kill(ctx context.Context) error {
	e.mu.Lock()
	e.killed = true
	e.mu.Unlock()
	return e.s.Group.Kill(ctx)
}

// Pause stops the machine or lets it go on, with the time put right.
func (e *Engine) Pause(ctx context.Context, on bool) error {
	vm, g := e.current()
	if g == nil {
		return errNotUp
	}
	if on {
		if err := vm.QMP().Call(ctx, "stop", nil, nil); err != nil {
			return err
		}
		g.paused.Store(true)
		return nil
	}
	if err := vm.QMP().Call(ctx, "cont", nil, nil); err != nil {
		return err
	}
	g.paused.Store(false)
	return g.call(ctx, proto.SetTime, proto.SetTimeRequest{Base: proto.Base{ContainerId: proto.VM}, UnixNano: time.Now().UnixNano()}, nil)
}

// Update changes limits of the container.
func (e *Engine) Update(ctx context.Context, r specs.LinuxResources) error {
	_, g := e.current()
	if g == nil {
		return errNotUp
	}
	return g.call(ctx, proto.UpdateContainer, proto.UpdateRequest{Base: proto.Base{ContainerId: e.s.ID}, Resources: r}, nil)
}

// properties are the guest's word about the container.
func (e *Engine) properties(t hcs.PropertyType) (hcs.Properties, error) {
	_, g := e.current()
	if g == nil {
		return hcs.Properties{}, errNotUp
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	var r proto.PropertiesResponse
	err := g.call(ctx, proto.GetProperties, proto.PropertiesRequest{Base: proto.Base{ContainerId: e.s.ID},
		Query: hcs.PropertyQuery{PropertyTypes: []hcs.PropertyType{t}}}, &r)
	return r.Properties, err
}

// Statistics as the guest counts them; those of the machine while it is paused or
// does not answer.
func (e *Engine) Statistics(started time.Time) hcs.Statistics {
	now := time.Now()
	s := hcs.Statistics{Timestamp: now}
	if p, err := e.properties(hcs.PropertyStatistics); err == nil && p.Statistics != nil {
		s = *p.Statistics
		s.Timestamp = now
	} else {
		s = e.s.Group.Statistics(now)
	}
	if !started.IsZero() {
		s.ContainerStartTime, s.Uptime100ns = started, uint64(now.Sub(started)/100)
	}
	return s
}

// ProcessDetails are the container's, with pids of the machine.
func (e *Engine) ProcessDetails() []hcs.ProcessDetails {
	p, err := e.properties(hcs.PropertyProcessList)
	if err != nil {
		return nil
	}
	return slices.Clip(p.ProcessList)
}

// WatchOOM calls f when the guest's kernel killed for want of memory.
func (e *Engine) WatchOOM(_ context.Context, f func()) {
	e.mu.Lock()
	e.oom = f
	g := e.guest
	e.mu.Unlock()
	if g != nil {
		g.mu.Lock()
		g.oom = f
		g.mu.Unlock()
	}
}

// OOMKills is known by WatchOOM alone.
func (e *Engine) OOMKills() uint64 { return 0 }

// HostPID is QEMU's, 0 before the start.
func (e *Engine) HostPID() int {
	if vm, _ := e.current(); vm != nil {
		return vm.PID()
	}
	return 0
}

// Fault is how the machine ended if it did so by itself, with the last of the
// console; nil if it runs, or was ended by us.
func (e *Engine) Fault() (*hcs.SystemExitStatus, string) {
	vm, g := e.current()
	e.mu.Lock()
	killed := e.killed
	e.mu.Unlock()
	if vm == nil {
		return nil, ""
	}
	g.mu.Lock()
	lost, over := g.lost, g.over
	g.mu.Unlock()
	if over && !lost {
		select {
		case <-vm.Ended():
		case <-time.After(exitSlack):
		}
	}
	select {
	case <-vm.Ended():
	default:
		if !lost {
			return nil, ""
		}
	}
	if killed && !lost {
		return nil, ""
	}
	end := vm.End()
	return end.Status(Told{Lost: lost}), end.Serial
}

// Cleanup ends what is left and takes the mirror away.
func (e *Engine) Cleanup(ctx context.Context) error {
	if err := e.Kill(ctx); err != nil {
		return err
	}
	if vm, _ := e.current(); vm != nil {
		select {
		case <-vm.Ended():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	errs := []error{e.s.Group.Remove(ctx)}
	if e.s.Machine.NetNsPath != "" {
		errs = append(errs, mirror.Undo(e.s.Machine.NetNsPath))
	}
	return errors.Join(errs...)
}
