// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcs"
)

// ErrGone says that the worker is dead: what it left is Destroy's, what it wrote
// down ReadJournal's. Of class errdefs.ErrUnavailable.
var ErrGone = fmt.Errorf("the worker is gone: %w", errdefs.ErrUnavailable)

// client talks to one worker; it keeps no connection.
type client struct {
	spec Spec
	pid  int
}

// Adopt returns the client of a worker that runs already, by its directory. A
// dead one is ErrGone.
func Adopt(ctx context.Context, dir string) (Client, error) {
	spec, err := readSpec(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("adopt %s: %w", dir, errors.Join(ErrGone, err))
	}
	if err != nil {
		return nil, fmt.Errorf("adopt %s: %w", dir, err)
	}
	c := &client{spec: spec}
	var h helloResult
	if err := c.call(ctx, "hello", nil, &h); err != nil {
		return nil, fmt.Errorf("adopt %s: %w", dir, err)
	}
	c.pid = h.PID
	return c, nil
}

// Dead reports whether no worker holds dir: its lock is free.
func Dead(dir string) bool {
	f, err := os.Open(filepath.Join(dir, "lock"))
	if err != nil {
		return true
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	return err != unix.EWOULDBLOCK
}

func (c *client) Spec() Spec { return c.spec }
func (c *client) PID() int   { return c.pid }

// dial connects whatever the length of the directory's name.
func (c *client) dial(ctx context.Context) (*net.UnixConn, error) {
	d, err := os.Open(c.spec.Dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	var nd net.Dialer
	conn, err := nd.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/sock", d.Fd()))
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// open sends a request and reads the first answer. The connection is the
// caller's, who ends stop first.
func (c *client) open(ctx context.Context, method string, p, result any, fds ...int) (conn *net.UnixConn, stop func() bool, err error) {
	req := request{V: wireVersion, Method: method}
	if p != nil {
		if req.Params, err = json.Marshal(p); err != nil {
			return nil, nil, err
		}
	}
	if d, ok := ctx.Deadline(); ok && method != "journal" {
		// A little less than we wait, so that the worker's words reach us.
		left := time.Until(d)
		req.LimitMs = max(1, (left - min(left/10, 500*time.Millisecond)).Milliseconds())
	}
	conn, err = c.dial(ctx)
	if err != nil {
		return nil, nil, c.broken(ctx, err)
	}
	stop = context.AfterFunc(ctx, func() { conn.Close() })
	fail := func(err error) (*net.UnixConn, func() bool, error) {
		stop()
		conn.Close()
		return nil, nil, err
	}
	var resp response
	if err = send(conn, req, fds...); err == nil {
		var got []int
		got, err = receive(conn, &resp)
		closeAll(got)
	}
	if err != nil {
		return fail(c.broken(ctx, err))
	}
	if resp.Error != nil {
		return fail(resp.Error.err())
	}
	if result != nil && len(resp.Result) > 0 {
		if err := json.Unmarshal(resp.Result, result); err != nil {
			return fail(fmt.Errorf("worker's answer: %w", err))
		}
	}
	return conn, stop, nil
}

// broken says why a connection failed: our side, or the worker's death.
func (c *client) broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// A worker that is being killed closes its sockets before its lock.
	for range 20 {
		if Dead(c.spec.Dir) {
			return ErrGone
		}
		time.Sleep(5 * time.Millisecond)
	}
	return errdefs.ErrUnavailable.WithMessage("worker: " + err.Error())
}

func (c *client) call(ctx context.Context, method string, p, result any, fds ...int) error {
	// The worker ends the call at our deadline by the connection's end.
	conn, stop, err := c.open(ctx, method, p, result, fds...)
	if err != nil {
		return err
	}
	stop()
	return conn.Close()
}

func (c *client) Start(ctx context.Context) (ProcessInfo, error) {
	var i ProcessInfo
	err := c.call(ctx, "start", nil, &i)
	return i, err
}

func (c *client) Exec(ctx context.Context, p specs.Process, stdin bool) (ProcessInfo, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return ProcessInfo{}, err
	}
	var i ProcessInfo
	err = c.call(ctx, "exec", execParams{Process: b, Stdin: stdin}, &i)
	return i, err
}

func (c *client) Signal(ctx context.Context, process string, signal int) (bool, error) {
	var r signalResult
	err := c.call(ctx, "signal", processParams{Process: process, Signal: signal}, &r)
	return r.Delivered, err
}

func (c *client) KillAll(ctx context.Context) error { return c.call(ctx, "kill", nil, nil) }

func (c *client) Resize(ctx context.Context, process string, height, width uint16) error {
	return c.call(ctx, "resize", processParams{Process: process, Height: height, Width: width}, nil)
}

func (c *client) CloseStdin(ctx context.Context, process string) error {
	return c.call(ctx, "closestdin", processParams{Process: process}, nil)
}

func (c *client) Pause(ctx context.Context) error  { return c.call(ctx, "pause", nil, nil) }
func (c *client) Resume(ctx context.Context) error { return c.call(ctx, "resume", nil, nil) }

// Attach does not close conn: the worker has a duplicate, the caller closes its own.
func (c *client) Attach(ctx context.Context, process string, o AttachOptions, conn *net.UnixConn, early []byte) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	e := raw.Control(func(fd uintptr) {
		err = c.call(ctx, "attach", attachParams{Process: process, AttachOptions: o, Early: early}, nil, int(fd))
	})
	return errors.Join(e, err)
}

// Journal yields what the worker wrote down before its death too, as long as its
// directory is there.
func (c *client) Journal(ctx context.Context, seq uint64) (<-chan JournalEntry, error) {
	conn, stop, err := c.open(ctx, "journal", journalParams{Seq: seq}, nil)
	if err != nil {
		return nil, err
	}
	ch := make(chan JournalEntry)
	go func() {
		defer close(ch)
		defer conn.Close()
		defer stop()
		put := func(e JournalEntry) bool {
			if e.Seq <= seq {
				return true
			}
			select {
			case ch <- e:
				seq = e.Seq
				return true
			case <-ctx.Done():
				return false
			}
		}
		for {
			var e JournalEntry
			if err := decode(conn, &e); err != nil {
				break
			}
			if !put(e) {
				return
			}
		}
		rest, _ := ReadJournal(c.spec.Dir) // an absent one was closed in order
		for _, e := range rest {
			if !put(e) {
				return
			}
		}
	}()
	return ch, nil
}

func (c *client) Stats(ctx context.Context) (hcs.Statistics, error) {
	var s hcs.Statistics
	err := c.call(ctx, "stats", nil, &s)
	return s, err
}

func (c *client) Processes(ctx context.Context) ([]hcs.ProcessDetails, error) {
	var p []hcs.ProcessDetails
	err := c.call(ctx, "processes", nil, &p)
	return p, err
}

func (c *client) Update(ctx context.Context, r specs.LinuxResources) error {
	return c.call(ctx, "update", r, nil)
}

func (c *client) Close(ctx context.Context) error {
	conn, stop, err := c.open(ctx, "close", nil, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer stop()
	// The connection ends with the process, which may stay for a while to give
	// attached clients the rest of their output: that is not waited for.
	_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	_, _ = conn.Read(make([]byte, 1))
	return nil
}
