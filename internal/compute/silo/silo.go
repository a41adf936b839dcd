// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package silo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/held"
)

// Config is one silo.
type Config struct {
	// ID is the runtime's name for it.
	ID string
	// Dir gets bundle/, links/ and short-lived files.
	Dir string
	// Runtime is the OCI runtime's path or name, RuntimeRoot its state directory.
	Runtime     string
	RuntimeRoot string
	// OCI is the spec; root.path is set here, and cgroupsPath where Cgroup says one.
	OCI    specs.Spec
	Root   Root
	Cgroup string
	// Library is set where Runtime is a library OS's; RuntimeRoot is then its own.
	Library *held.Library
}

func (c Config) bundle() string { return filepath.Join(c.Dir, "bundle") }
func (c Config) rootfs() string { return held.RootFS(c.Dir) }

// state is what the runtime keeps of this silo; a library OS has a root of its own.
func (c Config) state() string {
	if c.Library != nil {
		return c.RuntimeRoot
	}
	return filepath.Join(c.RuntimeRoot, c.ID)
}

// Engine runs one silo: Prepare, Start, then anything, then Cleanup.
type Engine struct {
	c       Config
	group   Cgroup
	runtime *ociRuntime

	mu     sync.Mutex  // guards the rest
	begun  bool        // the runtime has been given the spec
	inside map[int]int // library OS: host pid of an exec's helper to the pid inside
}

// New returns the engine of c; t and r must be running.
func New(c Config, t *Thread, r *Reaper) (*Engine, error) {
	on, err := LoadCgroups()
	if err != nil {
		return nil, err
	}
	if c.Cgroup == "" && c.OCI.Linux != nil {
		c.Cgroup = c.OCI.Linux.CgroupsPath
	}
	if c.Cgroup == "" {
		return nil, errors.New("silo: no cgroup path")
	}
	if c.OCI.Process == nil {
		return nil, errors.New("silo: OCI spec without process")
	}
	e := &Engine{c: c, group: Cgroup{On: on, Path: c.Cgroup}, inside: map[int]int{},
		runtime: &ociRuntime{path: c.Runtime, root: c.RuntimeRoot, dir: c.Dir, thread: t, reaper: r}}
	if c.Library != nil {
		e.runtime.flags = libraryFlags(*c.Library, c.OCI)
	}
	return e, nil
}

// Group is the silo's cgroup.
func (e *Engine) Group() Cgroup { return e.group }

// Prepare mounts the root file system.
func (e *Engine) Prepare() error {
	if err := os.MkdirAll(e.c.rootfs(), 0o755); err != nil {
		return fmt.Errorf("prepare bundle: %w", err)
	}
	return e.runtime.thread.Do(func() error {
		if e.c.Library != nil {
			if err := hideNetSysctls(); err != nil {
				return err
			}
		}
		return mountRoot(e.c.Root, e.c.rootfs(), filepath.Join(e.c.Dir, "links"))
	})
}

// IO is the stdio of a process. Without Terminal the files become its own (nil =
// /dev/null); with it they are ignored and Process.Console is set. The caller
// closes its files after the call.
type IO struct {
	Stdin, Stdout, Stderr *os.File
	Terminal              bool
	Height, Width         uint16 // of the terminal; 0 = unset
}

// Process is a running process of the silo.
type Process struct {
	PID     int
	Exit    <-chan Exit // receives once
	Console *os.File    // master of the terminal; the caller closes it
	// Resize sizes the terminal; nil without one.
	Resize func(height, width uint16) error
}

// Start runs the container: one invocation of the runtime. When it fails nothing
// of it is left.
func (e *Engine) Start(ctx context.Context, io IO) (*Process, error) {
	e.mu.Lock()
	e.begun = true
	spec := e.c.OCI
	e.mu.Unlock()
	spec.Root = &specs.Root{Path: e.c.rootfs()}
	if e.c.OCI.Root != nil {
		spec.Root.Readonly = e.c.OCI.Root.Readonly
	}
	spec.Root.Readonly = spec.Root.Readonly || e.c.Root.ReadOnly
	if err := os.MkdirAll(e.c.RuntimeRoot, 0o711); err != nil { // a start that failed removed a library OS's
		return nil, fmt.Errorf("prepare runtime state: %w", err)
	}
	proc := *spec.Process
	e.complete(&proc, io)
	spec.Process = &proc
	linux := specs.Linux{}
	if spec.Linux != nil {
		linux = *spec.Linux
	}
	linux.CgroupsPath = e.c.Cgroup
	spec.Linux = &linux
	b, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("write bundle: %w", err)
	}
	if err := os.WriteFile(filepath.Join(e.c.bundle(), "config.json"), b, 0o600); err != nil {
		return nil, fmt.Errorf("write bundle: %w", err)
	}
	p, err := e.launch(ctx, "init", io, "run", "--detach")
	if err != nil {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		e.mu.Lock()
		e.begun = false
		e.mu.Unlock()
		return nil, errors.Join(err, e.remove(clean))
	}
	return p, nil
}

// Exec runs a further process. name is unique among the silo's processes.
func (e *Engine) Exec(ctx context.Context, name string, p specs.Process, io IO) (*Process, error) {
	e.complete(&p, io)
	b, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("exec: %w", err)
	}
	file := filepath.Join(e.c.bundle(), name+".json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return nil, fmt.Errorf("exec: %w", err)
	}
	defer os.Remove(file)
	return e.launch(ctx, name, io, "exec", "--detach", "--process", file)
}

// complete fills what the worker's own state would leak into the process.
func (e *Engine) complete(p *specs.Process, io IO) {
	p.Terminal = io.Terminal
	p.ConsoleSize = nil
	if io.Terminal && io.Height > 0 && io.Width > 0 {
		p.ConsoleSize = &specs.Box{Height: uint(io.Height), Width: uint(io.Width)}
	}
	if p.OOMScoreAdj == nil {
		p.OOMScoreAdj = new(int)
	}
	if p.Cwd == "" {
		p.Cwd = "/"
	}
}

func (e *Engine) launch(ctx context.Context, name string, io IO, args ...string) (*Process, error) {
	pidFile := filepath.Join(e.c.bundle(), name+".pid")
	defer os.Remove(pidFile)
	args = append(args, "--pid-file", pidFile)
	insideFile := ""
	if e.c.Library != nil && args[0] == "exec" {
		insideFile = filepath.Join(e.c.bundle(), name+".inside")
		args = append(args, "--internal-pid-file", insideFile)
	}
	s := stdio{io.Stdin, io.Stdout, io.Stderr}
	var cs *consoleSocket
	if io.Terminal {
		s = stdio{}
		var err error
		// Relative, as a socket's name is short; the runtime's directory is the bundle.
		if cs, err = listenConsole(e.c.bundle(), name+".tty"); err != nil {
			return nil, fmt.Errorf("console: %w", err)
		}
		defer cs.Close()
		args = append(args, "--console-socket", name+".tty")
	}
	// The console is taken, and its size set, while the runtime is at it: one that
	// knows nothing of sizes starts the process as soon as it has handed it over.
	console := make(chan received, 1)
	if cs != nil {
		go func() {
			f, err := cs.receive(ctx)
			if err == nil && io.Height > 0 && io.Width > 0 {
				_ = Resize(f, io.Height, io.Width)
			}
			console <- received{f, err}
		}()
	}
	e.runtime.reaper.begin()
	defer e.runtime.reaper.end()
	if err := e.runtime.run(ctx, e.c.bundle(), s, append(args, e.c.ID)...); err != nil {
		if cs != nil {
			cs.Close()
			if c := <-console; c.file != nil {
				c.file.Close()
			}
		}
		return nil, err
	}
	b, err := os.ReadFile(pidFile)
	if err != nil {
		return nil, &RuntimeError{ExitCode: 125, Message: fmt.Sprintf("OCI runtime %s %s: it wrote no pid", e.c.Runtime, args[0]), Cause: err}
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return nil, &RuntimeError{ExitCode: 125, Message: fmt.Sprintf("OCI runtime %s %s: it wrote pid %q", e.c.Runtime, args[0], b)}
	}
	p := &Process{PID: pid, Exit: e.runtime.reaper.Adopt(pid)}
	if insideFile != "" {
		if err := e.internalPID(insideFile, pid); err != nil {
			_, _ = e.runtime.reaper.Kill(pid, int(unix.SIGKILL))
			return nil, &RuntimeError{ExitCode: 125, Message: fmt.Sprintf("OCI runtime %s exec: pid inside: %v", e.c.Runtime, err)}
		}
	}
	if cs == nil {
		return p, nil
	}
	got := <-console
	if p.Console, err = got.file, got.err; err != nil {
		_, _ = e.Signal(ctx, pid, int(unix.SIGKILL))
		return nil, &RuntimeError{ExitCode: 125, Message: fmt.Sprintf("OCI runtime %s %s: no console came: %v", e.c.Runtime, args[0], err)}
	}
	p.Resize = func(h, w uint16) error { return Resize(p.Console, h, w) }
	return p, nil
}

// received is what came on a console socket.
type received struct {
	file *os.File
	err  error
}

// Signal sends a signal to a process of the silo; false if it is gone.
func (e *Engine) Signal(ctx context.Context, pid, signal int) (bool, error) {
	var ok bool
	var err error
	if e.c.Library != nil {
		ok, err = e.libraryKill(ctx, pid, signal)
	} else {
		ok, err = e.runtime.reaper.Kill(pid, signal)
	}
	if err != nil {
		return false, fmt.Errorf("signal %d to process %d: %w", signal, pid, err)
	}
	return ok, nil
}

// Kill ends every process of the silo and returns when none is left.
func (e *Engine) Kill(ctx context.Context) error { return e.group.Kill(ctx) }

// Pause stops or lets go all processes.
func (e *Engine) Pause(ctx context.Context, on bool) error { return e.group.Freeze(ctx, on) }

// Update changes limits. A memory limit below what cannot be given back is
// refused, as version 1 of cgroups refuses it; version 2 would kill processes.
func (e *Engine) Update(ctx context.Context, r specs.LinuxResources) error {
	if waits, err := e.amend(r); waits || err != nil {
		return err
	}
	if r.Memory != nil && r.Memory.Limit != nil && *r.Memory.Limit > 0 {
		if used := e.group.pinnedMemory(); used > uint64(*r.Memory.Limit) {
			return fmt.Errorf("update: memory limit %d is below the %d bytes in use", *r.Memory.Limit, used)
		}
	}
	if e.c.Library != nil {
		return e.group.Limit(r)
	}
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	file := filepath.Join(e.c.bundle(), "update.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	defer os.Remove(file)
	return e.runtime.run(ctx, e.c.bundle(), stdio{}, "update", "--resources", file, e.c.ID)
}

// amend changes limits of a silo that has not begun; waits tells that it had not.
func (e *Engine) amend(r specs.LinuxResources) (waits bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.begun {
		return false, nil
	}
	linux, all := specs.Linux{}, specs.LinuxResources{}
	if e.c.OCI.Linux != nil {
		linux = *e.c.OCI.Linux
	}
	for _, x := range []*specs.LinuxResources{linux.Resources, &r} { // the later one's members count
		if x == nil {
			continue
		}
		b, err := json.Marshal(x)
		if err == nil {
			err = json.Unmarshal(b, &all)
		}
		if err != nil {
			return true, fmt.Errorf("update: %w", err)
		}
	}
	linux.Resources = &all
	e.c.OCI.Linux = &linux
	return true, nil
}

// Statistics of the silo; started is when Start returned.
func (e *Engine) Statistics(started time.Time) hcs.Statistics {
	now := time.Now()
	s := e.group.Statistics(now)
	if !started.IsZero() {
		s.ContainerStartTime = started
		s.Uptime100ns = uint64(now.Sub(started) / 100)
	}
	return s
}

// Cleanup removes the runtime's state, the cgroup and the mount.
func (e *Engine) Cleanup(ctx context.Context) error {
	return errors.Join(e.remove(ctx), e.runtime.thread.Do(func() error { return unmountRoot(e.c.rootfs()) }))
}

// remove undoes what the runtime made. Its own delete costs another invocation
// and does no more than this, unless there are hooks to run or state is left.
func (e *Engine) remove(ctx context.Context) error {
	var errs []error
	if err := e.group.Kill(ctx); err != nil {
		return err // the runtime's state is kept: somebody must try again
	}
	if e.c.OCI.Hooks != nil && len(e.c.OCI.Hooks.Poststop) > 0 {
		if err := e.runtime.run(ctx, e.c.bundle(), stdio{}, "delete", "--force", e.c.ID); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, e.group.Remove(ctx))
	if err := os.RemoveAll(e.c.state()); err != nil {
		errs = append(errs, fmt.Errorf("remove runtime state: %w", err))
	}
	return errors.Join(errs...)
}

// Destroy removes what a silo left whose process is dead: its mounts went with
// the mount namespace. Absent is no error.
func Destroy(ctx context.Context, c Config) error {
	on, err := LoadCgroups()
	if err != nil {
		return err
	}
	g := Cgroup{On: on, Path: c.Cgroup}
	if g.Path == "" && c.OCI.Linux != nil {
		g.Path = c.OCI.Linux.CgroupsPath
	}
	var errs []error
	if g.Path != "" {
		if err := g.Kill(ctx); err != nil {
			return err
		}
		errs = append(errs, g.Remove(ctx))
	}
	if c.RuntimeRoot != "" && c.ID != "" {
		if err := os.RemoveAll(c.state()); err != nil {
			errs = append(errs, fmt.Errorf("remove runtime state: %w", err))
		}
	}
	return errors.Join(errs...)
}
