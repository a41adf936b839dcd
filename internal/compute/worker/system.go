// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/silo"
)

const (
	// keepExited is how many exited processes can be asked for (hcs.md §1.1).
	keepExited = 1024
	// keepOutput is how many of those keep output that nobody fetched.
	keepOutput = 16
	// runtimeLimit bounds every call of the runtime whose caller has no deadline.
	runtimeLimit = 60 * time.Second
)

// system is one compute system inside its worker.
type system struct {
	spec    Spec
	engine  engine
	journal *journal
	logFile *logFile
	log     *slog.Logger

	verb sync.Mutex // one of start, pause, resume, update at a time

	mu         sync.Mutex // guards the rest
	state      string     // created, running, paused, exited
	started    time.Time
	procs      map[string]*process
	order      []string // keys of exited execs, oldest first
	next       int
	terminated bool // KillAll was called
	oom        bool // journaled
	ending     bool // init is gone: no exec may begin
	execs      sync.WaitGroup
	exited     chan struct{}
	killed     chan struct{} // closed when terminated is set
}

// States of a system as hello tells them.
const (
	stateCreated = "created"
	stateRunning = "running"
	statePaused  = "paused"
	stateExited  = "exited"
)

func newSystem(spec Spec, e engine, j *journal, lf *logFile, log *slog.Logger) *system {
	s := &system{spec: spec, engine: e, journal: j, logFile: lf, log: log, state: stateCreated,
		procs: map[string]*process{}, exited: make(chan struct{}), killed: make(chan struct{})}
	s.procs[initKey] = newProcess(initKey, spec.Terminal, spec.Stdin, spec.StdinOnce, spec.ConsoleSize, lf)
	return s
}

// note journals a fact.
func (s *system) note(e JournalEntry) {
	if err := s.journal.add(e); err != nil {
		s.log.Warn("journal entry not written down", "what", e.What, "err", err)
	}
}

func busy(key string) error {
	return errdefs.ErrConflict.WithMessage("attach " + key + ": another connection writes its stdin")
}

func (s *system) process(key string) (*process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.procs[key]
	if p == nil {
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("process %q: not known", key))
	}
	return p, nil
}

func (s *system) want(verb string, states ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range states {
		if s.state == st && (st != stateCreated || !s.terminated) {
			return nil
		}
	}
	if s.terminated {
		return errdefs.ErrFailedPrecondition.WithMessage(verb + ": the system was terminated")
	}
	return errdefs.ErrFailedPrecondition.WithMessage(verb + ": the system is " + s.state)
}

func (s *system) set(state string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != stateExited {
		s.state = state
	}
}

func limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, runtimeLimit)
}

func (s *system) start(ctx context.Context) (ProcessInfo, error) {
	s.verb.Lock()
	defer s.verb.Unlock()
	if err := s.want("start", stateCreated); err != nil {
		return ProcessInfo{}, err
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	started := make(chan struct{})
	defer close(started)
	go func() { // KillAll overtakes
		select {
		case <-s.killed:
			cancel()
		case <-started:
		}
	}()
	p, err := s.process(initKey)
	if err != nil {
		return ProcessInfo{}, err
	}
	proc, tail, err := p.launch(func(io silo.IO) (*silo.Process, error) { return s.engine.Start(ctx, io) })
	if err != nil {
		err = startError(err, tail)
		if s.want("start", stateCreated) != nil {
			err = errdefs.ErrAborted.WithMessage("start: terminated on the way")
		}
		s.failed(p, err)
		return ProcessInfo{}, err
	}
	s.mu.Lock()
	s.state, s.started = stateRunning, time.Now()
	s.mu.Unlock()
	host := s.engine.HostPID()
	s.note(JournalEntry{What: WhatStarted, PID: proc.PID, HostPID: host})
	s.note(JournalEntry{What: WhatProcessCreated, Process: initKey, PID: proc.PID, HostPID: host})
	go s.engine.WatchOOM(s.context(), s.noteOOM)
	go s.initExit(p, proc)
	return ProcessInfo{Key: initKey, PID: proc.PID, HostPID: host}, nil
}

// context ends with the system.
func (s *system) context() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-s.exited
		cancel()
	}()
	return ctx
}

func (s *system) noteOOM() {
	s.mu.Lock()
	first := !s.oom && s.state != stateExited
	s.oom = true
	s.mu.Unlock()
	if first {
		s.note(JournalEntry{What: WhatOOM})
	}
}

// failed tells those who attached before a start that failed, and puts init's
// streams back to how they were.
func (s *system) failed(p *process, err error) {
	code := uint32(hcs.CodeUnspecified)
	res := hcs.ResultError{Error: int32(code), ErrorMessage: "start: " + err.Error()}
	var se *StartError
	if errors.As(err, &se) {
		res.ExitCode = se.ExitCode
	}
	p.out.finish(jsonFrame(hcs.FrameError, res))
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.key == initKey {
		s.procs[initKey] = newProcess(initKey, s.spec.Terminal, s.spec.Stdin, s.spec.StdinOnce, p.size, s.logFile)
	}
}

func startError(err error, tail string) error {
	var re *silo.RuntimeError
	if !errors.As(err, &re) {
		return &StartError{ExitCode: 125, Message: err.Error()}
	}
	se := &StartError{ExitCode: re.ExitCode, Message: re.Message, Log: re.Log}
	// A runtime without a log said it on stderr, which was the container's.
	if t := strings.TrimSpace(tail); re.Log == nil && re.Cause == nil && t != "" {
		t = t[strings.LastIndexByte(t, '\n')+1:]
		se.Message, se.ExitCode = t, silo.ExitCodeOf(t)
	}
	if re.Cause != nil {
		return errors.Join(se, re.Cause)
	}
	return se
}

func (s *system) exec(ctx context.Context, op specs.Process, input bool) (ProcessInfo, error) {
	if err := s.want("exec", stateRunning); err != nil {
		return ProcessInfo{}, err
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	var size [2]uint16
	if op.ConsoleSize != nil {
		size = [2]uint16{uint16(op.ConsoleSize.Height), uint16(op.ConsoleSize.Width)}
	}
	s.mu.Lock()
	if s.ending {
		s.mu.Unlock()
		return ProcessInfo{}, errdefs.ErrFailedPrecondition.WithMessage("exec: the system has exited")
	}
	s.next++
	key := fmt.Sprintf("p%d", s.next)
	p := newProcess(key, op.Terminal, input, false, size, nil)
	s.procs[key] = p
	s.execs.Add(1)
	s.mu.Unlock()
	proc, tail, err := p.launch(func(io silo.IO) (*silo.Process, error) { return s.engine.Exec(ctx, key, op, io) })
	if err != nil {
		s.mu.Lock()
		delete(s.procs, key)
		s.mu.Unlock()
		s.execs.Done()
		if s.want("exec", stateRunning, statePaused) != nil {
			return ProcessInfo{}, errdefs.ErrFailedPrecondition.WithMessage("exec: the system has exited")
		}
		return ProcessInfo{}, startError(err, tail)
	}
	host := s.engine.HostPID()
	s.note(JournalEntry{What: WhatProcessCreated, Process: key, PID: proc.PID, HostPID: host})
	go s.execExit(p, proc)
	return ProcessInfo{Key: key, PID: proc.PID, HostPID: host}, nil
}

func status(p *process, e silo.Exit) *hcs.ProcessStatus {
	return &hcs.ProcessStatus{ProcessId: uint32(p.pid), Exited: true, ExitCode: uint32(e.Code), Key: p.key, ExitedAt: e.Time}
}

func (p *process) setStatus(st *hcs.ProcessStatus) {
	p.mu.Lock()
	p.status = st
	p.mu.Unlock()
	close(p.done)
}

func (s *system) execExit(p *process, proc *silo.Process) {
	defer s.execs.Done()
	e := <-proc.Exit
	p.drain()
	st := status(p, e)
	p.setStatus(st)
	s.note(JournalEntry{What: WhatProcessExited, Process: p.key, PID: p.pid, Time: e.Time, Status: st})
	p.out.finish(jsonFrame(hcs.FrameExit, st))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.order = append(s.order, p.key)
	if n := len(s.order) - keepOutput - 1; n >= 0 {
		if old := s.procs[s.order[n]]; old != nil {
			old.out.forget()
		}
	}
	if len(s.order) > keepExited {
		delete(s.procs, s.order[0])
		s.order = s.order[1:]
	}
}

func (s *system) initExit(p *process, proc *silo.Process) {
	e := <-proc.Exit
	fault, crash := s.engine.Fault() // before anything of it is ended
	if s.engine.OOMKills() > 0 {
		s.noteOOM()
	}
	// With a pid namespace the kernel ended the others; without one they are ours.
	// Those that do not end keep their cgroup, and Close reports them.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	if err := s.engine.Kill(ctx); err != nil {
		s.log.Warn("processes are left", "err", err)
	}
	cancel()
	p.drain()
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	s.execs.Wait()
	st := status(p, e)
	p.setStatus(st)
	s.note(JournalEntry{What: WhatProcessExited, Process: initKey, PID: p.pid, Time: e.Time, Status: st})
	s.mu.Lock()
	s.state = stateExited
	x := classify(e, s.terminated, p.lastSignal(), s.oom)
	if fault != nil && !s.terminated {
		fault.InitExitCode = x.InitExitCode
		x = fault
	}
	s.mu.Unlock()
	if fault != nil {
		s.note(JournalEntry{What: WhatCrashed, Exit: x, Log: crash})
	}
	s.note(JournalEntry{What: WhatExited, Process: initKey, PID: p.pid, Time: e.Time, Status: st, Exit: x})
	p.out.finish(jsonFrame(hcs.FrameExit, st))
	close(s.exited)
	// A busy disk takes its time, which those who wait for the exit need not share.
	if err := s.journal.sync(); err != nil {
		s.log.Warn("exit not on the disk", "err", err)
	}
}

func (p *process) lastSignal() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.signaled
}

// classify is the table of hcs.md §1.6 for what runs init.
func classify(e silo.Exit, terminated bool, sent int, oom bool) *hcs.SystemExitStatus {
	code := uint32(e.Code)
	x := &hcs.SystemExitStatus{InitExitCode: &code}
	attr := func(detail, who string) {
		x.Attribution = []hcs.AttributionRecord{{SystemExit: &hcs.SystemExit{Detail: detail, Initiator: who}}}
	}
	killed := e.Signal == int(unix.SIGKILL)
	switch {
	case terminated:
		x.ExitType = hcs.ForcedExit
		attr(hcs.DetailTerminate, hcs.InitiatorClient)
	case killed && sent == int(unix.SIGKILL):
		x.ExitType = hcs.ForcedExit
		attr(hcs.DetailShutdown, hcs.InitiatorClient)
	case oom && e.Code == 128+int(unix.SIGKILL): // init itself, or a shell that says so of its child
		x.ExitType, x.Reason = hcs.UnexpectedExit, "oom"
	case e.Signal != 0 && sent != e.Signal:
		x.ExitType, x.Reason = hcs.UnexpectedExit, fmt.Sprintf("signal %d", e.Signal)
	case sent != 0:
		x.ExitType = hcs.GracefulExit
		attr(hcs.DetailShutdown, hcs.InitiatorClient)
	default:
		x.ExitType = hcs.GracefulExit
		attr(hcs.DetailShutdown, hcs.InitiatorGuestOS)
	}
	if x.ExitType == hcs.UnexpectedExit {
		c := uint32(hcs.CodeUnexpectedExit)
		x.Status = int32(c)
		attr(hcs.DetailUnexpectedExit, hcs.InitiatorGuestOS)
	}
	return x
}

func (s *system) signal(ctx context.Context, key string, sig int) (bool, error) {
	p, err := s.process(key)
	if err != nil {
		return false, err
	}
	if sig < 1 || sig > hcs.MaxSignal {
		return false, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("signal %d: not within 1 and %d", sig, hcs.MaxSignal))
	}
	p.mu.Lock()
	pid, gone := p.pid, p.status != nil
	if pid != 0 && !gone {
		p.signaled = sig
	}
	p.mu.Unlock()
	if gone {
		return false, nil
	}
	if pid == 0 {
		return false, errdefs.ErrFailedPrecondition.WithMessage("signal: process " + key + " is not started")
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	return s.engine.Signal(ctx, pid, sig)
}

// killAll ends everything and returns when init's exit is journaled.
func (s *system) killAll(ctx context.Context) error {
	s.mu.Lock()
	if !s.terminated && s.state != stateExited {
		s.terminated = true
		close(s.killed)
	}
	s.mu.Unlock()
	if err := s.engine.Kill(ctx); err != nil {
		return err
	}
	s.verb.Lock() // a start under way comes to its end
	s.mu.Lock()
	state := s.state
	s.mu.Unlock()
	s.verb.Unlock()
	if state == stateCreated {
		return nil
	}
	// It may have started after the first kill.
	if err := s.engine.Kill(ctx); err != nil {
		return err
	}
	select {
	case <-s.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("kill: init does not end: %w", ctx.Err())
	}
}

func (s *system) pause(ctx context.Context, on bool) error {
	s.verb.Lock()
	defer s.verb.Unlock()
	verb, from, to, what := "pause", stateRunning, statePaused, WhatPaused
	if !on {
		verb, from, to, what = "resume", statePaused, stateRunning, WhatResumed
	}
	if err := s.want(verb, from); err != nil {
		return err
	}
	if err := s.engine.Pause(ctx, on); err != nil {
		return err
	}
	s.set(to)
	s.note(JournalEntry{What: what})
	return nil
}

func (s *system) update(ctx context.Context, r specs.LinuxResources) error {
	s.verb.Lock()
	defer s.verb.Unlock()
	if err := s.want("update", stateCreated, stateRunning, statePaused); err != nil {
		return err
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	return s.engine.Update(ctx, r)
}

func (s *system) stats() hcs.Statistics {
	s.mu.Lock()
	started := s.started
	s.mu.Unlock()
	return s.engine.Statistics(started)
}

func (s *system) details() []hcs.ProcessDetails {
	out := s.engine.ProcessDetails()
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := map[uint32]string{}
	for _, p := range s.procs {
		p.mu.Lock()
		if p.pid != 0 && p.status == nil {
			keys[uint32(p.pid)] = p.key
		}
		p.mu.Unlock()
	}
	for i := range out {
		out[i].Key = keys[out[i].ProcessId]
		delete(keys, out[i].ProcessId)
	}
	for pid, key := range keys { // what stands for a process inside a library OS
		out = append(out, hcs.ProcessDetails{ProcessId: pid, Key: key})
	}
	return out
}
