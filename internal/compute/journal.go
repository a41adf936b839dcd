// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/held"
	"gatehouse.dev/gatehouse/internal/failpoint"
)

// Words of held.JournalEntry.What.
const (
	whatStarted        = "started"
	whatPaused         = "paused"
	whatResumed        = "resumed"
	whatProcessCreated = "process-created"
	whatProcessExited  = "process-exited"
	whatOOM            = "oom"
	whatCrashed        = "crashed"
	whatExited         = "exited"
)

// together is how long init's exit waits for its system's, which is known to
// follow at once, so that both cost one transaction.
const together = 5 * time.Millisecond

// pump starts the goroutine that owns all facts of a running system.
func (h *HCS) pump(s *system) {
	h.wg.Add(1)
	go func() {
		defer h.wg.Done()
		for h.life.Err() == nil {
			h.follow(s)
			if h.life.Err() != nil {
				return
			}
			if s.row.Load().stopped() {
				h.finish(s)
				return
			}
			if s.row.Load().State == stateCreating {
				// The worker died before it was seen to run.
				entries, err := h.o.Workers.Journal(h.o.Instance.Worker(s.row.Load().RuntimeID))
				if err == nil && len(entries) > 0 {
					h.apply(s, entries)
				}
				if s.row.Load().State == stateCreating {
					s.interrupt(errWorkerDied)
					return
				}
				continue
			}
			if !h.adoptAgain(s) {
				h.lost(s)
				return
			}
		}
	}()
}

// follow applies the journal until the worker or the service goes, or all is told.
func (h *HCS) follow(s *system) {
	ctx, cancel := context.WithCancel(h.life)
	defer cancel()
	entries, err := s.client().Journal(ctx, s.row.Load().Journal)
	if err != nil {
		h.log.Debug("journal cannot be followed", "system", s.row.Load().ID, "err", err)
		return
	}
	for !s.row.Load().stopped() {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		if s.row.Load().stopped() {
			return
		}
		var e held.JournalEntry
		var ok bool
		select {
		case e, ok = <-entries:
		case <-changed: // a system that never ran is stopped by a verb
			continue
		}
		if !ok {
			return
		}
		batch, open := drain(entries, []held.JournalEntry{e})
		h.apply(s, batch)
		if !open {
			return
		}
	}
}

// drain takes what is there already, and waits shortly for what must follow.
func drain(entries <-chan held.JournalEntry, batch []held.JournalEntry) ([]held.JournalEntry, bool) {
	var wait <-chan time.Time
	for {
		last := batch[len(batch)-1]
		follows := last.What == whatProcessExited && last.Process == initKey
		if follows && wait == nil {
			wait = time.After(together)
		}
		if follows {
			select {
			case e, ok := <-entries:
				if !ok {
					return batch, false
				}
				batch = append(batch, e)
				continue
			case <-wait:
				return batch, true
			}
		}
		select {
		case e, ok := <-entries:
			if !ok {
				return batch, false
			}
			batch = append(batch, e)
		default:
			return batch, true
		}
	}
}

var errNoNews = errors.New("no news")

// apply commits facts; when the store refuses (a full disk) they wait for it.
func (h *HCS) apply(s *system, entries []held.JournalEntry) {
	h.takeOver(s, entries)
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		_, err := s.commit(func(c *change) error {
			for _, e := range entries {
				c.fact(e)
			}
			if len(c.events) == 0 {
				return errNoNews // not worth a transaction: to read it again changes nothing
			}
			return nil
		})
		if err == nil || errors.Is(err, errAbandoned) || errors.Is(err, errNoNews) {
			return
		}
		h.log.Error("facts of a system cannot be stored; trying again", "system", s.row.Load().ID, "err", err)
		select {
		case <-time.After(wait):
		case <-h.life.Done():
			return
		}
	}
}

// fact applies one journal entry.
func (c *change) fact(e held.JournalEntry) {
	if e.Seq <= c.Journal || c.stopped() {
		return
	}
	c.Journal = e.Seq
	switch e.What {
	case whatStarted:
		c.started(e.Time, e.PID, e.HostPID)
	case whatPaused:
		c.State = hcs.StatePaused
		c.emit(hcs.EventSystemPaused, hcs.KindSystems, e.Time, c.base())
	case whatResumed:
		c.State = hcs.StateRunning
		c.emit(hcs.EventSystemResumed, hcs.KindSystems, e.Time, c.base())
	case whatProcessCreated:
		if _, ok := c.Processes[e.Process]; !ok {
			c.processCreated(e.Process, e.PID, e.HostPID, e.Time)
		}
	case whatProcessExited:
		if e.Status != nil {
			c.processExited(e.Process, e.Time, e.Status)
		}
	case whatOOM:
		c.OOM = true
		c.emit(hcs.EventOutOfMemory, hcs.KindSystems, e.Time, struct{ RuntimeId string }{c.RuntimeID})
	case whatCrashed:
		report := hcs.CrashReport{SystemId: c.ID, CrashLog: e.Log}
		if e.Exit != nil {
			report.Status = e.Exit.Status
		}
		c.emit(hcs.EventSystemCrashReport, hcs.KindSystems, e.Time, report)
	case whatExited:
		x := e.Exit
		if x == nil || c.Ending != "" {
			ours := c.classify(false)
			if x != nil {
				ours.InitExitCode = x.InitExitCode
			}
			x = ours
		}
		c.exited(e.Time, x)
	}
}

// adoptAgain reconnects to a worker whose connection broke.
func (h *HCS) adoptAgain(s *system) bool {
	w, err := h.o.Workers.Adopt(h.life, h.o.Instance.Worker(s.row.Load().RuntimeID))
	if err != nil {
		return false
	}
	s.setWorker(w)
	return true
}

// lost ends a system whose worker is dead: what it had written down counts, the
// rest is killed. It does not say Stopped while anything of it lives.
func (h *HCS) lost(s *system) {
	r := s.row.Load()
	dir := h.o.Instance.Worker(r.RuntimeID)
	if entries, err := h.o.Workers.Journal(dir); err == nil && len(entries) > 0 {
		h.apply(s, entries)
	}
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		ctx, cancel := context.WithTimeout(h.life, terminateLimit)
		err := h.o.Workers.Sweep(ctx, dir)
		cancel()
		if err == nil {
			break
		}
		if h.life.Err() != nil {
			return
		}
		if h.unreachable(s) {
			h.log.Warn("a system whose worker is dead does not end; trying again", "system", r.ID, "err", err)
		}
		select {
		case <-time.After(wait):
		case <-h.life.Done():
			return
		}
	}
	for wait := 100 * time.Millisecond; !s.row.Load().stopped(); wait = min(2*wait, 5*time.Second) {
		_, err := s.commit(func(c *change) error {
			if !c.stopped() {
				c.exited(time.Now().UTC(), c.classify(true))
			}
			return nil
		})
		if err == nil {
			break
		}
		h.log.Error("the end of a system cannot be stored; trying again", "system", r.ID, "err", err)
		select {
		case <-time.After(wait):
		case <-h.life.Done():
			return
		}
	}
	h.log.Warn("worker died", "system", r.ID, "runtime", r.RuntimeID, "exit", s.row.Load().Exit.ExitType)
	h.finish(s)
}

// unreachable marks a system; true the first time.
func (h *HCS) unreachable(s *system) bool {
	s.mu.Lock()
	first := !s.unreachable
	s.unreachable = true
	s.mu.Unlock()
	if first {
		_, _ = s.commit(func(c *change) error { // only news; the state is not stored
			c.emit(hcs.EventSystemUnreachable, hcs.KindSystems, time.Now(), c.base())
			return nil
		})
	}
	return first
}

// finish lets go of what a stopped system used. Those who wait are woken when its
// name, addresses and ports are free; worker and scratch go on their own time.
func (h *HCS) finish(s *system) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(h.life), undoLimit)
	defer cancel()
	if err := errors.Join(failpoint.Hit("compute.stopped"), h.letGo(ctx, s, s.setGone)); err != nil {
		h.log.Warn("a stopped system left something; it is tried again", "system", s.row.Load().ID, "err", err)
	}
	if err := failpoint.Hit("compute.freed"); err != nil {
		h.log.Warn("failpoint", "err", err)
	}
	s.setGone()
	if r := s.row.Load(); r.remove() && !r.Forgotten {
		if _, err := s.commit(func(c *change) error { c.forget(); return nil }); err != nil {
			h.log.Warn("a removed system stays listed for now", "system", r.ID, "err", err)
		}
	}
	h.log.Info("system stopped", "system", s.row.Load().ID, "exit", s.row.Load().Exit.ExitType)
}

// setGone wakes who waits for the system's end. Any number of times.
func (s *system) setGone() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.gone:
	default:
		close(s.gone)
	}
}

func (c *change) forget() {
	if !c.Forgotten {
		c.Forgotten = true
		c.emit(hcs.EventSystemForgotten, hcs.KindSystems, time.Now(), struct{ Id, RuntimeId string }{c.ID, c.RuntimeID})
	}
}

// letGo removes worker, network, and, unless they are kept, image pin and scratch
// of a stopped system. Idempotent; the row's Unclean is cleared in memory only
// and stored with the next commit or sweep. unplugged, if any, is called as soon
// as the network is gone.
func (h *HCS) letGo(ctx context.Context, s *system, unplugged func()) error {
	s.letting.Lock()
	defer s.letting.Unlock()
	r := s.row.Load()
	net := make(chan error, 1)
	go func() {
		err := h.unplug(ctx, r)
		if err == nil && unplugged != nil {
			unplugged()
		}
		net <- err
	}()
	errs := []error{h.endWorker(ctx, s), <-net}
	if !r.keep() || r.Forgotten {
		errs = append(errs, h.release(ctx, r), h.removeScratch(r))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	s.write.Lock()
	defer s.write.Unlock()
	c := s.row.Load().clone()
	if c.Forgotten && !r.Forgotten && c.keep() {
		return nil // deleted meanwhile: log and writable layer are still there
	}
	c.Unclean = false
	s.row.Store(c)
	s.mu.Lock()
	s.unsaved = true
	s.mu.Unlock()
	return nil
}

func (h *HCS) endWorker(ctx context.Context, s *system) error {
	if w := s.client(); w != nil {
		err := w.Close(ctx)
		if err == nil {
			s.setWorker(nil)
			return nil
		}
		h.log.Debug("worker does not close by itself", "system", s.row.Load().ID, "err", err)
		if w.KillAll(ctx) == nil && w.Close(ctx) == nil {
			s.setWorker(nil)
			return nil
		}
	}
	if err := h.o.Workers.Sweep(ctx, h.o.Instance.Worker(s.row.Load().RuntimeID)); err != nil {
		return fmt.Errorf("end worker: %w", err)
	}
	s.setWorker(nil)
	return nil
}

func (h *HCS) unplug(ctx context.Context, r *row) error {
	if !r.Plugged {
		if err := h.giveBack(ctx, r); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("give the network back: %w", err)
		}
		return nil
	}
	if err := h.o.Networks.Unplug(ctx, r.Namespace); err != nil {
		return fmt.Errorf("unplug network: %w", err)
	}
	return nil
}

func (h *HCS) release(ctx context.Context, r *row) error {
	if r.Doc.Container.Image == "" {
		return nil
	}
	if err := h.o.Images.Release(ctx, r.RuntimeID); err != nil {
		return fmt.Errorf("release image: %w", err)
	}
	return nil
}
