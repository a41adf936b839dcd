// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package uvm

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
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/compute/held"
	"gatehouse.dev/gatehouse/internal/compute/mirror"
	"gatehouse.dev/gatehouse/internal/compute/silo"
)

const (
	// serialMax bytes of a machine's console are kept on disk, twice.
	serialMax = 1 << 20
	// helloLimit bounds the wait for QEMU's first word; it says it before the guest runs.
	helloLimit = 10 * time.Second
	// oomScore of QEMU: it goes before its worker (-998) and after everything else.
	oomScore = "-798"
)

// Config of a machine.
type Config struct {
	Machine held.Machine
	// Dir gets the mount point of QEMU's root; Serial is the file of the console.
	Dir    string
	Serial string
	Group  silo.Cgroup
	// Reaper collects QEMU; it must be running.
	Reaper *silo.Reaper
	// Mirrors are vNICs beside the machine's own.
	Mirrors []mirror.Interface
}

// VM is a running machine.
type VM struct {
	c       Config
	pid     int
	qmp     *QMP
	agent   *net.UnixConn
	serial  *console
	stderr  *console
	ended   chan struct{}
	end     End // valid after ended
	readers sync.WaitGroup

	mu       sync.Mutex // guards the rest
	shutdown string
	panicked bool
}

// Start starts QEMU. When it fails nothing of it is left.
func Start(ctx context.Context, c Config) (vm *VM, err error) {
	v := &VM{c: c, serial: &console{path: c.Serial, max: serialMax}, stderr: &console{}, ended: make(chan struct{})}
	f := &files{}
	defer f.close()
	if err := f.open(c.Machine.Files); err != nil {
		return nil, fmt.Errorf("start machine: %w", err)
	}
	args, err := f.nics(c)
	if err != nil {
		return nil, fmt.Errorf("start machine: %w", err)
	}
	out, err := f.pipe()
	if err != nil {
		return nil, fmt.Errorf("start machine: %w", err)
	}
	err = errors.Join(c.Group.Make(), c.Group.LimitCPU(c.Machine.QuotaMicros, c.Machine.PeriodMicros, c.Machine.Weight))
	if err == nil && len(c.Machine.Shares) > 0 {
		var fs *os.File
		if fs, err = share(c); err == nil {
			args = append(args, shareArgs(len(f.theirs))...)
			f.give(fs)
		}
	}
	var exit <-chan silo.Exit
	if err == nil {
		exit, err = v.fork(f, args)
	}
	if err != nil {
		out.Close()
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("start machine: %w", err), c.Group.Kill(clean), c.Group.Remove(clean))
	}
	v.readers.Go(func() { v.stderr.run(out); out.Close() })
	serial := f.ours[held.RoleSerial]
	v.readers.Go(func() { v.serial.run(serial); serial.Close() })
	v.agent = f.ours[held.RoleAgent]
	v.qmp = NewQMP(f.ours[held.RoleQMP], v.event)
	f.ours = nil
	f.close() // QEMU's ends are QEMU's alone: their end is its end
	go v.wait(exit)

	ctx, cancel := context.WithTimeout(ctx, helloLimit)
	defer cancel()
	if err := v.qmp.Hello(ctx); err != nil {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		kerr := v.Kill(clean)
		if kerr == nil {
			<-v.ended
			if s := v.end.Status(Told{}).Reason; errors.Is(err, ErrQMPClosed) {
				err = errors.New(s) // its own words
			}
		}
		return nil, errors.Join(fmt.Errorf("start machine: %w", err), kerr, c.Group.Remove(clean))
	}
	return v, nil
}

// fork starts QEMU from a thread of its own, whose namespaces it gets and which
// lives as long as the worker: QEMU dies with its parent, and its parent is the
// thread.
func (v *VM) fork(f *files, args []string) (<-chan silo.Exit, error) {
	m := v.c.Machine
	cage, err := newCage(m, filepath.Join(v.c.Dir, "qemu"))
	if err != nil {
		return nil, err
	}
	attr := &syscall.ProcAttr{
		Dir: "/", Env: []string{"PATH=/usr/bin:/bin"}, Files: f.theirs,
		Sys: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: &syscall.Credential{Uid: m.UID, Gid: m.UID}},
	}
	// A core would be the guest's memory. The limit is inherited, for another user's
	// could be set with CAP_SYS_RESOURCE only.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return nil, fmt.Errorf("no core files: %w", err)
	}
	thread := silo.NewThread()
	go thread.Run(context.Background())
	var exit <-chan silo.Exit
	err = thread.Do(func() (err error) {
		if err := cage.enter(); err != nil {
			return err
		}
		v.pid, exit, err = v.c.Reaper.Fork(cage.program, slices.Concat([]string{filepath.Base(cage.program)}, m.Args, args), attr)
		if err != nil {
			return fmt.Errorf("%s: %w", m.QEMU, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = v.c.Group.Join(v.pid)
	// Requires CAP_SYS_RESOURCE, without which it stays as the worker's.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", v.pid), []byte(oomScore), 0)
	if errors.Is(err, unix.ESRCH) { // it has ended: its own words say why
		err = nil
	}
	if err != nil {
		_, _ = v.c.Reaper.Kill(v.pid, int(unix.SIGKILL))
		<-exit
		return nil, err
	}
	return exit, nil
}

func (v *VM) event(e QMPEvent) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch e.Event {
	case "SHUTDOWN":
		var d struct{ Reason string }
		_ = json.Unmarshal(e.Data, &d)
		v.shutdown = d.Reason
	case "GUEST_PANICKED":
		v.panicked = true
	}
}

func (v *VM) wait(exit <-chan silo.Exit) {
	e := <-exit
	<-v.qmp.Done() // all of its last words
	v.readers.Wait()
	if v.agent != nil {
		v.agent.Close()
	}
	v.mu.Lock()
	v.end = End{Exit: e, Shutdown: v.shutdown, Panicked: v.panicked || v.shutdown == "guest-panic"}
	v.mu.Unlock()
	v.end.Serial, _ = v.serial.Tail()
	v.end.Stderr, _ = v.stderr.Tail()
	close(v.ended)
}

// PID is QEMU's.
func (v *VM) PID() int { return v.pid }

// QMP is the machine's monitor.
func (v *VM) QMP() *QMP { return v.qmp }

// Agent is the host's end of the agent's port; nil without one.
func (v *VM) Agent() *net.UnixConn { return v.agent }

// Ended is closed when QEMU is gone; End is then how.
func (v *VM) Ended() <-chan struct{} { return v.ended }

// End is valid once Ended is closed.
func (v *VM) End() End { return v.end }

// Serial is the last of the console, and when it last grew.
func (v *VM) Serial() (string, time.Time) { return v.serial.Tail() }

// Kill ends the machine at once and returns when its group is empty.
func (v *VM) Kill(ctx context.Context) error { return v.c.Group.Kill(ctx) }

// files are the descriptors of a machine under construction.
type files struct {
	theirs  []uintptr
	closers []io.Closer
	ours    map[held.MachineRole]*net.UnixConn
}

func (f *files) close() {
	for _, c := range f.closers {
		c.Close()
	}
	for _, c := range f.ours {
		c.Close()
	}
	f.closers, f.ours = nil, nil
}

func (f *files) give(file *os.File) {
	f.closers = append(f.closers, file)
	f.theirs = append(f.theirs, file.Fd())
}

// open makes stdin, stdout and stderr, the latter two filled in by pipe, and the
// machine's files.
func (f *files) open(list []held.MachineFile) error {
	f.ours = map[held.MachineRole]*net.UnixConn{}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	for range 3 {
		f.theirs = append(f.theirs, null.Fd())
	}
	f.closers = append(f.closers, null)
	for _, m := range list {
		var file *os.File
		switch m.Role {
		case held.RoleDisk:
			mode := os.O_RDWR
			if m.ReadOnly {
				mode = os.O_RDONLY
			}
			file, err = os.OpenFile(m.Path, mode, 0)
		default:
			file, err = f.pair(m.Role)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", m.Role, err)
		}
		f.give(file)
	}
	return nil
}

// nics opens the taps and says what QEMU is told of them.
func (f *files) nics(c Config) (args []string, err error) {
	add := func(tap *os.File, mac string, mtu int) {
		n := len(args) / 4
		args = append(args, "-netdev", fmt.Sprintf("tap,id=net%d,fd=%d,vhost=off", n, len(f.theirs)))
		dev := fmt.Sprintf("virtio-net-device,netdev=net%d,id=nic%d,mac=%s,rx_queue_size=1024", n, n, mac)
		if mtu > 0 {
			dev += fmt.Sprintf(",host_mtu=%d", mtu)
		}
		args = append(args, "-device", dev)
		f.give(tap)
	}
	for _, n := range c.Machine.NICs {
		tap, err := mirror.OpenTap(n.Tap)
		if err != nil {
			return nil, err
		}
		add(tap, n.MAC, n.MTU)
	}
	for _, m := range c.Mirrors {
		add(m.Tap, m.Network.MacAddress, int(m.Network.MTU))
	}
	return args, nil
}

// pair returns QEMU's end of a socket and keeps ours.
func (f *files) pair(r held.MachineRole) (*os.File, error) {
	sp, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	mine := os.NewFile(uintptr(sp[0]), string(r))
	defer mine.Close()
	c, err := net.FileConn(mine)
	if err != nil {
		unix.Close(sp[1])
		return nil, err
	}
	f.ours[r] = c.(*net.UnixConn)
	return os.NewFile(uintptr(sp[1]), string(r)), nil
}

// pipe makes QEMU's stdout and stderr one stream, and returns our end.
func (f *files) pipe() (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	f.closers = append(f.closers, w)
	f.theirs[1], f.theirs[2] = w.Fd(), w.Fd()
	return r, nil
}
