// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/model"
	"gatehouse.dev/gatehouse/internal/compute/silo"
	"gatehouse.dev/gatehouse/internal/guest/nic"
	"gatehouse.dev/gatehouse/internal/guest/proto"
	"gatehouse.dev/gatehouse/internal/guest/start"
)

// groupName is the cgroup above those of all containers.
const groupName = "gatehouse"

// stopSignal is the annotation of images that name the signal to stop them with.
const stopSignal = "org.opencontainers.image.stopSignal"

// container is one in this machine.
type container struct {
	config proto.ContainerConfig
	group  silo.Cgroup
	dir    *os.File       // the group's directory
	init   *start.Process // process 1: the caller's or the holder
	wiring *wiring        // of the caller's, until Start
	engine *silo.Engine   // where crun starts it; init is nil until then
	ended  chan struct{}  // closed when process 1 has ended

	mu      sync.Mutex // guards the rest
	started time.Time  // zero: not yet
	asked   bool       // a shutdown was asked for
	forced  bool
	oom     bool
}

// isID: 1 to 128 of A-Z a-z 0-9 _ . @ -, the first a letter or digit. It is a name
// of a directory.
func isID(s string) bool {
	if len(s) == 0 || len(s) > 128 {
		return false
	}
	for i, c := range []byte(s) {
		plain := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !plain && (i == 0 || !strings.ContainsRune("_.@-", rune(c))) {
			return false
		}
	}
	return true
}

func (a *Agent) create(q proto.CreateRequest) (any, error) {
	cfg := q.ContainerConfig
	switch {
	case cfg.Id != q.ContainerId || !isID(cfg.Id):
		return nil, &hcs.Error{Code: hcs.CodeInvalidArg, Field: "ContainerConfig.Id", Message: fmt.Sprintf("%q for container %q", cfg.Id, q.ContainerId)}
	case cfg.Mode != proto.ModeHolder && cfg.Mode != proto.ModeInit:
		return nil, &hcs.Error{Code: hcs.CodeInvalidArg, Field: "ContainerConfig.Mode", Message: fmt.Sprintf("%q", cfg.Mode)}
	case cfg.OCI == nil || cfg.Mode == proto.ModeInit && (cfg.OCI.Process == nil || len(cfg.OCI.Process.Args) == 0):
		return nil, &hcs.Error{Code: hcs.CodeInvalidArg, Field: "ContainerConfig.OCI", Message: "no process to run"}
	}
	if st, err := os.Stat(cfg.RootPath); err != nil || !st.IsDir() {
		return nil, &hcs.Error{Code: hcs.CodeInvalidLayer, Field: "ContainerConfig.RootPath", Message: "no directory of this machine", Err: err}
	}
	c := &container{config: cfg, group: silo.Cgroup{On: silo.Cgroups{V2: cgroupRoot}, Path: filepath.Join(groupName, cfg.Id)}, ended: make(chan struct{})}
	a.mu.Lock()
	_, dup := a.containers[cfg.Id]
	if !dup && !a.stopping {
		a.containers[cfg.Id] = c
	}
	stopping := a.stopping
	a.mu.Unlock()
	switch {
	case dup:
		return nil, &hcs.Error{Code: hcs.CodeSystemAlreadyExists, Message: fmt.Sprintf("container %q is here already", cfg.Id)}
	case stopping:
		return nil, &hcs.Error{Code: hcs.CodeInvalidState, Message: "the machine is going down"}
	}
	if err := a.prepare(c); err != nil {
		a.mu.Lock()
		delete(a.containers, cfg.Id)
		a.mu.Unlock()
		return nil, errors.Join(err, c.cleanup())
	}
	return nil, nil
}

// prepare readies a container, by the own starter or for crun.
func (a *Agent) prepare(c *container) error {
	c.wiring = &wiring{}
	if err := a.user(c); err != nil {
		return err
	}
	err := start.Supported(c.config.OCI, c.config.Seccomp)
	if err == nil {
		return a.prepareOwn(c)
	}
	if c.engine, err = a.fallback(c.config, err); err != nil {
		return err
	}
	c.wiring, err = a.wire(c.config.Stdio, c.config.OCI.Process.Terminal)
	return err
}

// user resolves the user's name of process 1.
func (a *Agent) user(c *container) error {
	if c.config.OCI.Process == nil || c.config.OCI.Process.User.Username == "" {
		return nil
	}
	p := *c.config.OCI.Process
	u, err := resolveUser(c.config.RootPath, p.User.Username)
	if err != nil {
		return err
	}
	u.Umask = p.User.Umask
	p.User = u
	spec := *c.config.OCI
	spec.Process = &p
	c.config.OCI = &spec
	return nil
}

// prepareOwn makes the group and process 1.
func (a *Agent) prepareOwn(c *container) error {
	cfg := c.config
	path := filepath.Join(cgroupRoot, c.group.Path)
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	if l := cfg.OCI.Linux; l != nil && l.Resources != nil {
		if err := setLimits(path, l.Resources); err != nil {
			return err
		}
	}
	var err error
	if c.dir, err = os.Open(path); err != nil {
		return err
	}
	if l := cfg.OCI.Linux; l != nil && l.Resources != nil {
		if err := start.LimitDevices(c.dir, l.Resources.Devices); err != nil {
			return err
		}
	}
	spec := *cfg.OCI
	if err := a.nets.files(&spec, cfg); err != nil {
		return err
	}
	box := start.Container{Spec: &spec, Root: cfg.RootPath, Seccomp: cfg.Seccomp, Cgroup: c.dir}
	if box.Joins, err = a.joins(cfg); err != nil {
		return err
	}
	defer leave(box.Joins)
	io := start.IO{}
	if cfg.Mode == proto.ModeInit {
		box.Init = cfg.OCI.Process
		if c.wiring, err = a.wire(cfg.Stdio, cfg.OCI.Process.Terminal); err != nil {
			return err
		}
		io = c.wiring.io
	}
	if c.init, err = start.Create(a.reaper, box, io); err != nil {
		c.wiring.abandon()
		return err
	}
	ns, err := c.network()
	if err != nil {
		return a.undo(c, err)
	}
	defer unix.Close(ns)
	if err := nic.Loopback(ns); err != nil {
		return a.undo(c, err)
	}
	c.wiring.forked()
	a.watchOOM(c)
	a.watchInit(c)
	return nil
}

// watchOOM tells when the kernel kills in the container for want of memory, until
// it ends.
func (a *Agent) watchOOM(c *container) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-c.ended; cancel() }()
	go c.group.WatchOOM(ctx, func() {
		c.mu.Lock()
		c.oom = true
		c.mu.Unlock()
		a.notify(proto.NotifyOutOfMemory, proto.Base{ContainerId: c.config.Id})
	})
}

// undo ends a process 1 that nobody watches yet.
func (a *Agent) undo(c *container, err error) error {
	c.wiring.abandon()
	_, kerr := a.reaper.Kill(c.init.PID, int(unix.SIGKILL))
	<-c.init.Exit
	return errors.Join(err, kerr)
}

// joins are the namespaces of others that a container is to be in.
func (a *Agent) joins(cfg proto.ContainerConfig) (map[specs.LinuxNamespaceType]int, error) {
	joins := map[specs.LinuxNamespaceType]int{}
	done := func(err error) (map[specs.LinuxNamespaceType]int, error) {
		leave(joins)
		return nil, err
	}
	join := func(t specs.LinuxNamespaceType, id string) error {
		if id == proto.VM {
			joins[t] = start.Ours
			return nil
		}
		other, err := a.container(id)
		if err != nil {
			return err
		}
		fd, err := other.pidfd()
		if err == nil {
			joins[t] = fd
		}
		return err
	}
	if l := cfg.OCI.Linux; l != nil {
		for i, n := range l.Namespaces {
			switch id := n.Path; {
			case n.Type == specs.NetworkNamespace && cfg.NamespaceId != "":
				if err := join(n.Type, cfg.NamespaceId); err != nil {
					return done(err)
				}
			case id != "":
				if err := join(n.Type, id); err != nil {
					return done(fmt.Errorf("OCI.linux.namespaces[%d]: %w", i, err))
				}
			}
		}
	}
	return joins, nil
}

// leave closes the descriptors of joins.
func leave(joins map[specs.LinuxNamespaceType]int) {
	for _, fd := range joins {
		if fd != start.Ours {
			unix.Close(fd)
		}
	}
}

// watchInit waits for the end of process 1, which is the container's.
func (a *Agent) watchInit(c *container) {
	p := &process{pid: uint32(c.init.PID), key: c.config.Stdio.Key, container: c.config.Id, console: c.init.Console,
		done: make(chan struct{}), holder: c.config.Mode == proto.ModeHolder}
	a.add(p)
	a.watch(p, c.init, c.wiring, func() { a.othersEnd(c) })
	go func() {
		<-p.done
		close(c.ended)
		c.mu.Lock()
		n := proto.ContainerNotification{Base: proto.Base{ContainerId: c.config.Id}, Operation: "None", Type: hcs.GracefulExit}
		switch {
		case c.forced:
			n.Type = hcs.ForcedExit
		case p.exit.Signal != 0 && !c.asked:
			n.Type, n.Result = hcs.UnexpectedExit, hcs.CodeUnexpectedExit.HRESULT()
		}
		c.mu.Unlock()
		a.notify(proto.NotifyContainer, n)
	}()
}

// othersEnd waits for the other processes of a container whose process 1 has
// ended: the kernel kills them, or we do where the pid namespace is another's.
func (a *Agent) othersEnd(c *container) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := c.group.Kill(ctx); err != nil {
		log("%v", err)
	}
	a.mu.Lock()
	var others []*process
	for _, p := range a.processes {
		if p.container == c.config.Id && p.pid != uint32(c.init.PID) {
			others = append(others, p)
		}
	}
	a.mu.Unlock()
	for _, p := range others {
		<-p.done
	}
}

func (a *Agent) start(q proto.Base) (any, error) {
	c, err := a.container(q.ContainerId)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	started := !c.started.IsZero()
	if !started {
		c.started = time.Now()
	}
	c.mu.Unlock()
	if started || c.hasEnded() {
		return nil, &hcs.Error{Code: hcs.CodeInvalidState, Message: fmt.Sprintf("container %q was started before", q.ContainerId)}
	}
	pid := uint32(0)
	if c.config.Mode == proto.ModeInit {
		run := a.startByCrun
		if c.engine == nil {
			run = func(c *container) error { return c.init.Run() }
		}
		if err := run(c); err != nil {
			if c.engine != nil {
				a.neverStarted(c, hcs.UnexpectedExit)
			}
			return nil, err
		}
		pid = uint32(c.init.PID)
	}
	return proto.StartResponse{Pid: pid}, nil
}

func (c *container) hasEnded() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

func (c *container) mustRun() error {
	c.mu.Lock()
	started := !c.started.IsZero()
	c.mu.Unlock()
	switch {
	case c.hasEnded():
		return &hcs.Error{Code: hcs.CodeSystemAlreadyStopped, Message: fmt.Sprintf("container %q has ended", c.config.Id)}
	case !started:
		return &hcs.Error{Code: hcs.CodeInvalidState, Message: fmt.Sprintf("container %q was not started", c.config.Id)}
	}
	return nil
}

// pid of process 1.
func (c *container) pid() (int, error) {
	if c.init == nil || c.hasEnded() {
		return 0, &hcs.Error{Code: hcs.CodeSystemAlreadyStopped, Message: fmt.Sprintf("container %q has no process", c.config.Id)}
	}
	return c.init.PID, nil
}

// network is a descriptor of its network namespace.
func (c *container) network() (int, error) {
	pid, err := c.pid()
	if err != nil {
		return -1, err
	}
	return unix.Open(fmt.Sprintf("/proc/%d/ns/net", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

func (c *container) pidfd() (int, error) {
	pid, err := c.pid()
	if err != nil {
		return 0, err
	}
	return unix.PidfdOpen(pid, 0)
}

// root of the container, for who reads its files.
func (c *container) root() string { return c.config.RootPath }

func (c *container) exec(r *silo.Reaper, p specs.Process, io start.IO, key uint64) (*start.Process, error) {
	if c.engine != nil {
		return c.execByCrun(p, io, key)
	}
	fd, err := c.pidfd()
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	mounts, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", c.init.PID))
	if err != nil {
		return nil, err
	}
	defer mounts.Close()
	return start.Exec(r, fd, mounts, c.dir, p, c.config.Seccomp, io)
}

// oomed reports whether the kernel killed in a container for want of memory.
func (a *Agent) oomed(id string) bool {
	c, err := a.container(id)
	if err != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.oom || c.group.OOMKills() > 0
}

// resolveUser reads the container's own passwd and group files.
func resolveUser(root, name string) (specs.User, error) {
	read := func(path string) ([]byte, error) {
		h, err := pathrs.OpenInRoot(root, path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		defer h.Close()
		f, err := pathrs.Reopen(h, os.O_RDONLY|unix.O_NONBLOCK)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return readLimited(f, 1<<20)
	}
	passwd, err := read("/etc/passwd")
	if err != nil {
		return specs.User{}, err
	}
	group, err := read("/etc/group")
	if err != nil {
		return specs.User{}, err
	}
	u, err := model.ResolveUser(name, passwd, group)
	if err != nil {
		return u, &hcs.Error{Code: hcs.CodeInvalidArg, Field: "User", Err: err}
	}
	return u, nil
}

func (a *Agent) remove(q proto.Base) (any, error) {
	c, err := a.container(q.ContainerId)
	if hcs.IsNotExist(err) {
		return nil, nil // removed already
	}
	if err != nil {
		return nil, err
	}
	if !c.hasEnded() {
		return nil, &hcs.Error{Code: hcs.CodeInvalidState, Message: fmt.Sprintf("container %q: its process lives, or is still to come", q.ContainerId)}
	}
	if err := c.cleanup(); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.containers, q.ContainerId)
	delete(a.lanes, q.ContainerId)
	for pid, p := range a.processes {
		if p.container == q.ContainerId {
			delete(a.processes, pid)
		}
	}
	return nil, a.nets.forget(q.ContainerId)
}

// cleanup takes away what the kernel has of a container without processes.
func (c *container) cleanup() error {
	if c.dir != nil {
		c.dir.Close()
		c.dir = nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if c.engine != nil {
		return c.engine.Cleanup(ctx)
	}
	return errors.Join(c.group.Kill(ctx), c.group.Remove(ctx))
}
