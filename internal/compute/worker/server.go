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
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcs"
)

func contextDeadline() error { return context.DeadlineExceeded }

// server answers the RPC.
type server struct {
	sys  *system
	l    *net.UnixListener
	log  *slog.Logger
	quit chan struct{} // closed when Close has been answered
	once sync.Once
	over atomic.Bool // nothing is left to hold: the process ends
}

// requestLimit is how long a connection may take to say what it wants.
const requestLimit = 10 * time.Second

func (s *server) serve() {
	for {
		c, err := s.l.AcceptUnix()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			s.log.Warn("accept", "err", err)
			time.Sleep(50 * time.Millisecond) // out of descriptors, say
			continue
		}
		go s.connection(c)
	}
}

func (s *server) connection(c *net.UnixConn) {
	keep := false
	defer func() {
		if !keep {
			c.Close()
		}
	}()
	if uid, err := peerUID(c); err != nil || (uid != 0 && uid != os.Geteuid()) {
		_ = send(c, response{V: wireVersion, Error: &wireError{Class: "precondition", Message: "worker: only its owner may talk to it"}})
		return
	}
	_ = c.SetReadDeadline(time.Now().Add(requestLimit))
	var r request
	fds, err := receive(c, &r)
	if err != nil {
		return
	}
	defer func() { closeAll(fds) }()
	_ = c.SetReadDeadline(time.Time{})
	// The caller's hanging up cancels the call.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if r.LimitMs > 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(r.LimitMs)*time.Millisecond)
		defer cancel()
	}
	go func() {
		var b [1]byte
		_, _ = c.Read(b[:])
		cancel()
	}()
	if r.Method == "journal" {
		s.streamJournal(ctx, c, r.Params)
		return
	}
	v, err := s.call(ctx, r.Method, r.Params, &fds)
	resp := response{V: wireVersion}
	if err != nil {
		resp.Error = toWire(err)
	} else if v != nil {
		if resp.Result, err = json.Marshal(v); err != nil {
			resp.Error = toWire(err)
		}
	}
	if err := send(c, resp); err != nil && ctx.Err() == nil {
		s.log.Warn("answer", "method", r.Method, "err", err)
	}
	if r.Method == "close" && s.over.Load() {
		keep = true // until the process ends: see client.Close
		s.once.Do(func() { close(s.quit) })
	}
}

func params[T any](b json.RawMessage) (T, error) {
	var v T
	if len(b) == 0 {
		return v, nil
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return v, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("parameters: %v", err))
	}
	return v, nil
}

func (s *server) call(ctx context.Context, method string, raw json.RawMessage, fds *[]int) (any, error) {
	switch method {
	case "hello":
		return s.hello(), nil
	case "start":
		return s.sys.start(ctx)
	case "exec":
		p, err := params[execParams](raw)
		if err != nil {
			return nil, err
		}
		op, err := params[specs.Process](p.Process)
		if err != nil {
			return nil, err
		}
		return s.sys.exec(ctx, op, p.Stdin)
	case "kill":
		return nil, s.sys.killAll(ctx)
	case "pause":
		return nil, s.sys.pause(ctx, true)
	case "resume":
		return nil, s.sys.pause(ctx, false)
	case "update":
		r, err := params[specs.LinuxResources](raw)
		if err != nil {
			return nil, err
		}
		return nil, s.sys.update(ctx, r)
	case "stats":
		return s.sys.stats(), nil
	case "processes":
		return s.sys.details(), nil
	case "close":
		return nil, s.close(ctx)
	case "signal", "resize", "closestdin":
		return s.onProcess(method, raw)
	case "attach":
		return nil, s.attach(raw, fds)
	}
	return nil, errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("worker: method %q is not known to version %d", method, wireVersion))
}

func (s *server) hello() helloResult {
	s.sys.mu.Lock()
	defer s.sys.mu.Unlock()
	h := helloResult{PID: os.Getpid(), State: s.sys.state}
	for _, p := range s.sys.procs {
		p.out.mu.Lock()
		h.Dropped += p.out.dropped
		p.out.mu.Unlock()
	}
	if l := s.sys.logFile; l != nil {
		l.mu.Lock()
		h.LogDropped = l.dropped
		l.mu.Unlock()
	}
	return h
}

func (s *server) onProcess(method string, raw json.RawMessage) (any, error) {
	a, err := params[processParams](raw)
	if err != nil {
		return nil, err
	}
	if method == "signal" {
		ok, err := s.sys.signal(context.Background(), a.Process, a.Signal)
		return signalResult{ok}, err
	}
	p, err := s.sys.process(a.Process)
	if err != nil {
		return nil, err
	}
	if method == "resize" {
		return nil, p.resize(a.Height, a.Width)
	}
	p.closeStdin()
	return nil, nil
}

func (s *server) attach(raw json.RawMessage, fds *[]int) error {
	a, err := params[attachParams](raw)
	if err != nil {
		return err
	}
	if len(*fds) != 1 {
		return errdefs.ErrInvalidArgument.WithMessage("attach: one descriptor is wanted")
	}
	p, err := s.sys.process(a.Process)
	if err != nil {
		return err
	}
	fd := (*fds)[0]
	*fds = nil
	_ = unix.SetNonblock(fd, true)
	conn, err := connOf(fd)
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	err = p.attach(conn, a.AttachOptions, a.Early, func(sig int) {
		if _, err := s.sys.signal(context.Background(), p.key, sig); err != nil {
			s.log.Debug("signal frame", "process", p.key, "err", err)
		}
	})
	if err != nil {
		conn.Close()
	}
	return err
}

func (s *server) streamJournal(ctx context.Context, c *net.UnixConn, raw json.RawMessage) {
	a, err := params[journalParams](raw)
	if err != nil {
		_ = send(c, response{V: wireVersion, Error: toWire(err)})
		return
	}
	if err := send(c, response{V: wireVersion}); err != nil {
		return
	}
	for seq := a.Seq; ; {
		es, changed, closed := s.sys.journal.after(seq)
		for _, e := range es {
			if err := send(c, e); err != nil {
				return
			}
			seq = e.Seq
		}
		if closed {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// close undoes everything, Dir included; the answer goes out after it.
func (s *server) close(ctx context.Context) error {
	s.sys.verb.Lock()
	defer s.sys.verb.Unlock()
	if err := s.sys.want("close", stateExited, stateCreated); err != nil && s.sys.current() != stateCreated {
		return err
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	if err := s.sys.engine.Cleanup(ctx); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	s.sys.mu.Lock()
	s.sys.terminated = true // nothing starts any more
	created := s.sys.state == stateCreated
	p := s.sys.procs[initKey]
	s.sys.mu.Unlock()
	if created { // those who wait for it to start
		p.out.finish(errorFrame(hcs.CodeTerminatedDuringStart, "the system was removed before it started"))
	}
	s.sys.journal.close()
	s.sys.logFile.close()
	s.l.Close()
	s.over.Store(true) // whatever of Dir cannot be removed is Destroy's
	if err := os.RemoveAll(s.sys.spec.Dir); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}

func (s *system) current() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// linger waits for attached connections to take the rest of their output: one
// that takes nothing for linger's length is left.
func (s *server) linger(d time.Duration) {
	left := func() (n int) {
		s.sys.mu.Lock()
		defer s.sys.mu.Unlock()
		for _, p := range s.sys.procs {
			p.out.mu.Lock()
			for r := range p.out.readers {
				n += r.queued + 1
			}
			p.out.mu.Unlock()
		}
		return n
	}
	for last, since := left(), time.Now(); last > 0 && time.Since(since) < d; {
		time.Sleep(5 * time.Millisecond)
		if n := left(); n != last {
			last, since = n, time.Now()
		}
	}
}

func peerUID(c *net.UnixConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	if e := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); e != nil {
		return 0, e
	}
	if err != nil {
		return 0, err
	}
	return int(cred.Uid), nil
}
