// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/compute/silo"
	"gatehouse.dev/gatehouse/internal/failpoint"
)

const (
	// spawnLimit bounds the wait for a new worker's answer.
	spawnLimit = 20 * time.Second
	// refillAfter is how long after the last spawn spares are made again: a start
	// under way has the processors first.
	refillAfter = 150 * time.Millisecond
)

// Spawner starts workers. The zero value works and keeps none waiting.
type Spawner struct {
	// Exe is the program that is a worker when named Name; "" = this one.
	Exe string
	// Cgroup is where workers live, away from the daemon's own service, below each
	// hierarchy's root; "" = with the daemon.
	Cgroup string
	// Spare is how many workers wait ready; they are made by Warm and after spawns.
	Spare int
	Log   *slog.Logger // nil = none

	mu     sync.Mutex // guards the rest
	spares []*child
	timer  *time.Timer
	closed bool
}

// child is a worker process that has no order yet.
type child struct {
	pid     int
	pidfd   int
	control *net.UnixConn
	gone    chan struct{} // closed when reaped
}

// Warm makes the spares now.
func (s *Spawner) Warm() error {
	for {
		s.mu.Lock()
		enough := s.closed || len(s.spares) >= s.Spare
		s.mu.Unlock()
		if enough {
			return nil
		}
		c, err := s.startChild()
		if err != nil {
			return fmt.Errorf("spare worker: %w", err)
		}
		s.mu.Lock()
		if s.closed {
			c.control.Close()
		} else {
			s.spares = append(s.spares, c)
		}
		s.mu.Unlock()
	}
}

// Close ends the spares. Workers live on.
func (s *Spawner) Close() error {
	s.mu.Lock()
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
	spares := s.spares
	s.spares = nil
	s.mu.Unlock()
	for _, c := range spares {
		c.control.Close() // which they take as their end
		select {
		case <-c.gone:
		case <-time.After(2 * time.Second):
			c.kill()
			<-c.gone
		}
	}
	return nil
}

func (s *Spawner) take() *child {
	s.mu.Lock()
	defer s.mu.Unlock()
	var c *child
	for c == nil && len(s.spares) > 0 {
		c, s.spares = s.spares[0], s.spares[1:]
		select {
		case <-c.gone:
			c.control.Close()
			c = nil
		default:
		}
	}
	if s.Spare > 0 && !s.closed {
		if s.timer == nil {
			s.timer = time.AfterFunc(refillAfter, s.refill)
		} else {
			s.timer.Reset(refillAfter)
		}
	}
	return c
}

func (s *Spawner) refill() {
	if err := s.Warm(); err != nil && s.Log != nil {
		s.Log.Warn("no spare worker", "err", err)
	}
}

// Spawn starts the worker of spec and returns when it answers. When it fails
// nothing is left. spec.Dir must not exist.
func (s *Spawner) Spawn(ctx context.Context, spec Spec) (Client, error) {
	if spec.Dir == "" || !filepath.IsAbs(spec.Dir) || spec.RuntimeID == "" {
		return nil, errdefs.ErrInvalidArgument.WithMessage("spawn worker: Dir and RuntimeID are wanted")
	}
	if err := os.MkdirAll(filepath.Dir(spec.Dir), 0o711); err != nil {
		return nil, fmt.Errorf("spawn worker: %w", err)
	}
	if err := os.Mkdir(spec.Dir, 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil, errdefs.ErrAlreadyExists.WithMessage("spawn worker: " + spec.Dir + " exists")
		}
		return nil, fmt.Errorf("spawn worker: %w", err)
	}
	c, err := s.spawn(ctx, spec)
	if err != nil {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("spawn worker: %w", err), destroy(clean, spec))
	}
	return c, nil
}

func (s *Spawner) spawn(ctx context.Context, spec Spec) (*client, error) {
	// The lock is taken here and handed over: at no moment does a live worker look
	// dead, though the daemon end in between.
	lock, err := os.OpenFile(filepath.Join(spec.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	b, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("write spec: %w", err)
	}
	if err := os.WriteFile(filepath.Join(spec.Dir, "spec.json"), b, 0o600); err != nil {
		return nil, fmt.Errorf("write spec: %w", err)
	}
	if err := failpoint.Hit("worker.ordering"); err != nil {
		return nil, err
	}
	c := s.take()
	if c == nil {
		if c, err = s.startChild(); err != nil {
			return nil, err
		}
	}
	defer c.control.Close()
	if err := s.order(ctx, c, spec.Dir, int(lock.Fd())); err != nil {
		c.kill()
		<-c.gone
		return nil, err
	}
	return &client{spec: spec, pid: c.pid}, nil
}

func (s *Spawner) order(ctx context.Context, c *child, dir string, lock int) error {
	ctx, cancel := context.WithTimeout(ctx, spawnLimit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = c.control.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err := send(c.control, order{V: wireVersion, Dir: dir}, lock)
	var resp response
	if err == nil {
		var fds []int
		fds, err = receive(c.control, &resp)
		closeAll(fds)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("no answer: %w", ctx.Err())
	}
	if err != nil {
		return fmt.Errorf("it ended at once: %w", err)
	}
	if resp.Error != nil {
		return resp.Error.err()
	}
	return nil
}

// startChild starts a worker process, which waits for its order.
func (s *Spawner) startChild() (*child, error) {
	exe := s.Exe
	if exe == "" {
		exe = "/proc/self/exe" // the program of this daemon, though the file was replaced
	}
	sp, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("start worker: %w", err)
	}
	theirs := osFile(sp[1], "control")
	defer theirs.Close()
	control, err := connOf(sp[0])
	if err != nil {
		return nil, fmt.Errorf("start worker: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		control.Close()
		return nil, fmt.Errorf("start worker: %w", err)
	}
	defer null.Close()
	c := &child{pidfd: -1, control: control, gone: make(chan struct{})}
	env := []string{"PATH=" + os.Getenv("PATH"), "GOMAXPROCS=2", "GOTRACEBACK=single"}
	p, err := os.StartProcess(exe, []string{Name}, &os.ProcAttr{
		Dir: "/", Env: env, Files: []*os.File{null, null, os.Stderr, theirs},
		Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &c.pidfd},
	})
	if err != nil {
		control.Close()
		return nil, fmt.Errorf("start worker: %w", err)
	}
	c.pid = p.Pid
	if err := p.Release(); err != nil {
		s.warn("release worker", err)
	}
	if c.pidfd < 0 { // before Linux 5.4
		if c.pidfd, err = unix.PidfdOpen(c.pid, 0); err != nil {
			_ = unix.Kill(c.pid, unix.SIGKILL)
			control.Close()
			return nil, fmt.Errorf("start worker: requires Linux 5.3: %w", err)
		}
	}
	if err := c.watch(); err != nil {
		return nil, fmt.Errorf("start worker: %w", err)
	}
	if s.Cgroup != "" {
		if err := join(s.Cgroup, c.pid); err != nil {
			s.warn("worker stays in the daemon's cgroup", err)
		}
	}
	return c, nil
}

func (s *Spawner) warn(msg string, err error) {
	if s.Log != nil {
		s.Log.Warn(msg, "err", err)
	}
}

// watch reaps the child when it ends, without a thread that waits for it.
func (c *child) watch() error {
	if err := unix.SetNonblock(c.pidfd, true); err != nil {
		return err
	}
	f := osFile(c.pidfd, "pidfd")
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	go func() {
		defer close(c.gone)
		defer f.Close()
		err := raw.Read(func(fd uintptr) bool {
			for {
				err := unix.Waitid(unix.P_PIDFD, int(fd), nil, unix.WEXITED, nil)
				if err != unix.EINTR {
					return err != unix.EAGAIN
				}
			}
		})
		if err != nil { // no poller: a thread then
			_ = unix.SetNonblock(int(f.Fd()), false)
			_ = unix.Waitid(unix.P_PIDFD, int(f.Fd()), nil, unix.WEXITED, nil)
		}
	}()
	return nil
}

func (c *child) kill() {
	select {
	case <-c.gone:
	default:
		_ = unix.Kill(c.pid, unix.SIGKILL) // not reaped yet: the pid is its own
	}
}

// join moves a process to a group of its own in the hierarchies that a service
// manager looks at. Those of version 1 that only count are left out: a move costs
// each a wait for all processors.
func join(path string, pid int) error {
	on, err := silo.LoadCgroups()
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range []string{on.V2, on.V1["name=systemd"]} {
		if m == "" {
			continue
		}
		d := filepath.Join(m, path)
		err := os.MkdirAll(d, 0o755)
		if err == nil {
			err = os.WriteFile(filepath.Join(d, "cgroup.procs"), fmt.Append(nil, pid), 0)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
