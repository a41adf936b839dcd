// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package uvm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/held"
	"gatehouse.dev/gatehouse/internal/compute/silo"
	"gatehouse.dev/gatehouse/internal/guest/proto"
)

const (
	// silentCalls in a row make the agent suspect; probeLimit is what it has then
	// to answer at all (hcs.md §3.4).
	silentCalls = 3
	probeLimit  = 20 * time.Second
	// exitSlack is how long output may come after the news of a process's end.
	exitSlack = time.Second
)

// bootLimits are how long a guest may take to its handshake, and how long it may
// be silent on the way.
func bootLimits(accelerator string) (handshake, silence time.Duration) {
	if accelerator == held.AcceleratorKVM {
		return 10 * time.Second, 5 * time.Second
	}
	return 60 * time.Second, 20 * time.Second
}

// guest is the agent inside a machine, as the worker talks to it.
type guest struct {
	vm      *VM
	session *proto.Session

	key    atomic.Uint64 // of streams; never used twice
	silent atomic.Int32  // calls without an answer, in a row
	paused atomic.Bool

	mu      sync.Mutex // guards the rest
	waits   map[uint64]*guestProcess
	early   map[uint64]silo.Exit // ends that came before the call's own answer
	oom     func()
	goodbye bool
	lost    bool
	over    bool
}

// guestProcess is one whose end is waited for.
type guestProcess struct {
	exit   chan silo.Exit
	copied sync.WaitGroup // its output
	close  func()
}

// connect waits for the agent's handshake and negotiates.
func connect(ctx context.Context, vm *VM, hostName string) (*guest, error) {
	limit, silence := bootLimits(vm.c.Machine.Accelerator)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := time.Now()
	watch := time.AfterFunc(silence, func() {
		if _, last := vm.Serial(); last.Before(began) { // not a word on the console either
			cancel()
		}
	})
	defer watch.Stop()
	gone := make(chan struct{})
	defer close(gone)
	go func() {
		select {
		case <-vm.Ended():
			cancel()
		case <-gone:
		}
	}()
	s, err := proto.Connect(ctx, vm.Agent())
	if err != nil {
		return nil, err
	}
	g := &guest{vm: vm, session: s, waits: map[uint64]*guestProcess{}, early: map[uint64]silo.Exit{}}
	entropy := make([]byte, 64)
	_, _ = rand.Read(entropy)
	q := proto.NegotiateRequest{Base: proto.Base{ContainerId: proto.VM}, MinimumVersion: proto.Version, MaximumVersion: proto.Version,
		Time: time.Now().UnixNano(), Entropy: entropy, HostName: hostName}
	var a proto.NegotiateResponse
	if err := s.Call(ctx, proto.NegotiateProtocol, q, &a); err != nil {
		s.Close()
		return nil, err
	}
	go g.notices()
	go func() {
		<-vm.Ended()
		s.Close()
	}()
	return g, nil
}

// call asks the agent, within the protocol's limit. An agent that leaves several
// calls in a row unanswered, and a last question too, is lost: its machine ends.
func (g *guest) call(ctx context.Context, t proto.Type, req, resp any) error {
	if g.paused.Load() {
		return &hcs.Error{Code: hcs.CodeInvalidState, Message: "the machine is paused"}
	}
	limit, cancel := context.WithTimeout(ctx, proto.CallTimeout(t))
	defer cancel()
	err := g.session.Call(limit, t, req, resp)
	if ctx.Err() == nil && limit.Err() != nil && err != nil {
		if g.silent.Add(1) == silentCalls {
			go g.probe()
		}
		return err
	}
	g.silent.Store(0)
	return err
}

func (g *guest) probe() {
	ctx, cancel := context.WithTimeout(context.Background(), probeLimit)
	defer cancel()
	err := g.session.Call(ctx, proto.NegotiateProtocol, proto.NegotiateRequest{Base: proto.Base{ContainerId: proto.VM},
		MinimumVersion: proto.Version, MaximumVersion: proto.Version}, nil)
	if err == nil {
		g.silent.Store(0)
		return
	}
	g.mu.Lock()
	g.lost = !g.over
	g.mu.Unlock()
	clean, stop := context.WithTimeout(context.Background(), probeLimit)
	defer stop()
	_ = g.vm.Kill(clean) // its end is seen as any other
}

// notices serves what the agent says by itself. When the session ends, so does
// every process in it.
func (g *guest) notices() {
	for m := range g.session.Notifications() {
		switch m.Type {
		case proto.NotifyProcessExited:
			var n proto.ProcessExitedNotification
			if proto.Decode(m.Body, &n) == nil {
				e := silo.Exit{Code: int(n.ExitCode & 0xff), Signal: int(n.Signal & 0x7f), Time: time.Now()}
				if n.OOM {
					g.noteOOM()
				}
				g.ended(n.Key, e)
			}
		case proto.NotifyOutOfMemory:
			g.noteOOM()
		case proto.NotifyGoodbye:
			g.mu.Lock()
			g.goodbye = true
			g.mu.Unlock()
		}
	}
	g.mu.Lock()
	g.over = true
	left := g.waits
	g.waits = map[uint64]*guestProcess{}
	g.mu.Unlock()
	for _, p := range left {
		p.finish(silo.Exit{Code: 137, Signal: 9, Time: time.Now()})
	}
	// A session that broke (bytes that are no message, a stream opened from inside)
	// leaves a machine that nobody can talk to.
	clean, stop := context.WithTimeout(context.Background(), probeLimit)
	defer stop()
	select {
	case <-g.vm.Ended():
	case <-time.After(exitSlack):
		g.mu.Lock()
		g.lost = true
		g.mu.Unlock()
		_ = g.vm.Kill(clean)
	}
}

func (g *guest) noteOOM() {
	g.mu.Lock()
	f := g.oom
	g.mu.Unlock()
	if f != nil {
		f()
	}
}

func (g *guest) ended(key uint64, e silo.Exit) {
	g.mu.Lock()
	p := g.waits[key]
	delete(g.waits, key)
	if p == nil && len(g.early) < 1024 { // a guest cannot fill our memory with ends
		g.early[key] = e
	}
	g.mu.Unlock()
	if p != nil {
		go p.finish(e)
	}
}

// finish tells the end once the output is out.
func (p *guestProcess) finish(e silo.Exit) {
	done := make(chan struct{})
	go func() { p.copied.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(exitSlack):
	}
	p.close()
	p.exit <- e
}

// adopt registers a process that runs. The end may have come already.
func (g *guest) adopt(key uint64, p *guestProcess) {
	g.mu.Lock()
	e, ended := g.early[key]
	delete(g.early, key)
	if g.over && !ended {
		e, ended = silo.Exit{Code: 137, Signal: 9, Time: time.Now()}, true
	}
	if !ended {
		g.waits[key] = p
	}
	g.mu.Unlock()
	if ended {
		go p.finish(e)
	}
}

// streams opens those of a process and joins them to its files.
func (g *guest) streams(ctx context.Context, container string, std silo.IO) (*wired, error) {
	w := &wired{stdio: proto.Stdio{Key: g.key.Add(1)}}
	open := func(kind string) (proto.Stream, error) {
		s, err := g.session.Open(ctx, proto.StreamHead{Stream: kind, ContainerId: container, Key: w.stdio.Key})
		if err == nil {
			w.all = append(w.all, s)
		}
		return s, err
	}
	var err error
	if std.Terminal || std.Stdin != nil {
		w.stdio.StdIn = true
		if w.in, err = open(proto.StreamStdin); err != nil {
			return w, err
		}
	}
	if std.Terminal || std.Stdout != nil {
		w.stdio.StdOut = true
		if w.out, err = open(proto.StreamStdout); err != nil {
			return w, err
		}
	}
	if !std.Terminal && std.Stderr != nil {
		w.stdio.StdErr = true
		if w.err, err = open(proto.StreamStderr); err != nil {
			return w, err
		}
	}
	return w, nil
}

// wired are the streams of one process.
type wired struct {
	stdio        proto.Stdio
	in, out, err proto.Stream
	all          []proto.Stream
}

func (w *wired) abandon() {
	for _, s := range w.all {
		s.Close()
	}
}

// join copies until the ends come. The files are duplicated: the caller closes its own.
func (w *wired) join(i silo.IO) (p *guestProcess, console *os.File, err error) {
	p = &guestProcess{exit: make(chan silo.Exit, 1)}
	var ours []*os.File
	fail := func(err error) (*guestProcess, *os.File, error) {
		for _, f := range ours {
			f.Close()
		}
		return nil, nil, err
	}
	var in, out, errs *os.File
	if i.Terminal {
		var mine *os.File
		if console, mine, err = socketPair(); err != nil {
			return fail(err)
		}
		ours = append(ours, mine)
		in, out = mine, mine
	} else {
		for _, x := range []struct {
			from *os.File
			to   **os.File
		}{{i.Stdin, &in}, {i.Stdout, &out}, {i.Stderr, &errs}} {
			if x.from == nil {
				continue
			}
			if *x.to, err = duplicate(x.from); err != nil {
				return fail(err)
			}
			ours = append(ours, *x.to)
		}
	}
	if in != nil {
		go func() {
			_, _ = io.Copy(w.in, in)
			_ = w.in.CloseWrite()
		}()
	}
	pump := func(to *os.File, from proto.Stream) {
		p.copied.Go(func() {
			_, err := io.Copy(to, from)
			if err != nil { // nobody reads any more: the process is not held up by that
				_, _ = io.Copy(io.Discard, from)
			}
			if !i.Terminal {
				to.Close()
			}
		})
	}
	if out != nil {
		pump(out, w.out)
	}
	if errs != nil {
		pump(errs, w.err)
	}
	p.close = func() {
		for _, f := range ours {
			f.Close()
		}
		for _, s := range w.all {
			s.Close()
		}
	}
	return p, console, nil
}

// copyFile puts a small file into the machine.
func (g *guest) copyFile(ctx context.Context, path string, mode uint32, content []byte) error {
	q := proto.CopyFileRequest{Base: proto.Base{ContainerId: proto.VM}, Path: path, Mode: mode, Key: g.key.Add(1)}
	s, err := g.session.Open(ctx, proto.StreamHead{Stream: proto.StreamCopy, ContainerId: proto.VM, Key: q.Key})
	if err != nil {
		return err
	}
	defer s.Close()
	sent := make(chan error, 1)
	go func() {
		_, err := s.Write(content)
		sent <- errors.Join(err, s.CloseWrite())
	}()
	if err := g.call(ctx, proto.CopyFile, q, nil); err != nil {
		return fmt.Errorf("copy %s: %w", path, err)
	}
	return <-sent
}

// modify makes the guest's half of a change.
func (g *guest) modify(ctx context.Context, kind string, settings any) error {
	r := hcs.GuestRequest{ResourceType: kind, RequestType: hcs.RequestAdd}
	var err error
	if r.Settings, err = marshal(settings); err != nil {
		return err
	}
	return g.call(ctx, proto.ModifySettings, proto.ModifyRequest{Base: proto.Base{ContainerId: proto.VM}, Request: r}, nil)
}
