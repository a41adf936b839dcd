// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/held"
	"gatehouse.dev/gatehouse/internal/compute/model"
	"gatehouse.dev/gatehouse/internal/resource"
)

// system is one compute system in memory: its row, its worker, and who waits.
type system struct {
	h *HCS

	row       atomic.Pointer[row]
	write     sync.Mutex // serializes commits, guards abandoned
	abandoned bool       // its create is being undone: nothing is stored any more
	// verb is a token: who holds it runs a verb.
	verb chan struct{}
	// gone closes when the system is stopped and what it used was let go.
	gone    chan struct{}
	letting sync.Mutex // one letGo at a time
	// undone closes when a create has ended, either way.
	undone chan struct{}

	mu          sync.Mutex // guards the rest
	changed     chan struct{}
	worker      held.Client
	cancel      context.CancelCauseFunc // of the create under way
	unreachable bool
	leases      int
	uid         uint32 // of its machine
	unsaved     bool   // the row in memory is newer than the stored one
}

func newSystem(h *HCS, r *row) *system {
	s := &system{h: h, verb: make(chan struct{}, 1), gone: make(chan struct{}), undone: make(chan struct{}), changed: make(chan struct{})}
	s.verb <- struct{}{}
	s.row.Store(r)
	return s
}

// notify wakes everybody who waits for a change.
func (s *system) notify() {
	s.mu.Lock()
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
}

func (s *system) client() held.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.worker
}

func (s *system) setWorker(w held.Client) {
	s.mu.Lock()
	s.worker = w
	s.mu.Unlock()
}

// state is the row's, or Unknown while the worker cannot be reached.
func (s *system) state() hcs.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.row.Load(); s.unreachable && !r.stopped() {
		return hcs.StateUnknown
	}
	return s.row.Load().State
}

// until waits for ok to hold of the row.
func (s *system) until(ctx context.Context, ok func(*row) bool) (*row, error) {
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		if r := s.row.Load(); ok(r) {
			return r, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.h.life.Done():
			return nil, &hcs.Error{Code: hcs.CodeServiceDisconnect, Message: "the service is going down"}
		}
	}
}

// begin takes the system's verb token and checks that the verb may begin. end
// gives the token back.
func (s *system) begin(ctx context.Context, v model.Verb) (r *row, end func(), err error) {
	select {
	case <-s.verb:
	case <-ctx.Done():
		return nil, nil, s.err(v.String(), &hcs.Error{Code: hcs.CodeOperationTimeout, Message: "another verb is under way", Err: ctx.Err()})
	}
	end = func() { s.verb <- struct{}{} }
	st := s.state()
	if _, code := model.Allow(st, v); code != 0 {
		end()
		return nil, nil, s.refused(v.String(), code, st)
	}
	return s.row.Load(), end, nil
}

func (s *system) refused(op string, code hcs.Code, st hcs.State) error {
	return s.err(op, &hcs.Error{Code: code, Message: "the system is " + strings.ToLower(string(st))})
}

// err puts operation and id in front of an error and gives it a code.
func (s *system) err(op string, err error) error { return fail(op, s.row.Load().ID, err) }

func fail(op, id string, err error) error {
	if err == nil {
		return nil
	}
	var e *hcs.Error
	if errors.As(err, &e) && e.Op == "" {
		c := *e
		c.Op, c.ID = op, id
		return &c
	}
	out := &hcs.Error{Code: codeOf(err), Op: op, ID: id, Err: err}
	if e != nil {
		out.Field, out.ExitCode = e.Field, e.ExitCode
	}
	var st *held.StartError
	if errors.As(err, &st) {
		out.ExitCode = st.ExitCode
		if st.ExitCode == 126 || st.ExitCode == 127 {
			out.Code = hcs.CodeInvalidArg
		}
	}
	return out
}

func codeOf(err error) hcs.Code {
	var e *hcs.Error
	var x interface{ HTTPStatus() int }
	switch {
	case errors.As(err, &e):
		return e.Code
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return hcs.CodeDiskFull
	case errors.Is(err, syscall.ENOMEM):
		return hcs.CodeNoMemory
	case errdefs.IsConflict(err):
		return hcs.CodeSharing
	}
	if c := hcs.CodeOf(err); c != hcs.CodeUnspecified {
		return c
	}
	if errors.As(err, &x) { // another service's refusal keeps its class
		switch s := x.HTTPStatus(); {
		case s == 404:
			return hcs.CodeNotFound
		case s == 409:
			return hcs.CodeSharing
		case s >= 400 && s < 500:
			return hcs.CodeInvalidArg
		case s == 507:
			return hcs.CodeNoMemory
		}
	}
	return hcs.CodeUnspecified
}

// look finds a system by Id or "rid:<RuntimeId>", whatever its state.
func (h *HCS) look(id string) *system {
	h.mu.Lock()
	defer h.mu.Unlock()
	if rid, ok := strings.CutPrefix(id, "rid:"); ok {
		return h.byRID[strings.ToLower(rid)]
	}
	return h.byID[id]
}

// lookFor is look for a caller: what is not its own is not there.
func (h *HCS) lookFor(ctx context.Context, id string) *system {
	if s := h.look(id); s != nil && owns(resource.CallerFrom(ctx), s) {
		return s
	}
	return nil
}

// find finds a system that the caller can see: its own, made and not forgotten.
func (h *HCS) find(ctx context.Context, op, id string) (*system, error) {
	if s := h.lookFor(ctx, id); s != nil {
		if r := s.row.Load(); r.State != stateCreating && !r.Forgotten {
			return s, nil
		}
	}
	return nil, notFound(op, id)
}

func notFound(op, id string) error {
	return &hcs.Error{Code: hcs.CodeSystemNotFound, Op: op, ID: id, Message: "system \"" + id + "\" not found; list with: gatehouse ps -a"}
}

// all systems in the order of their creation.
func (h *HCS) all() []*system {
	h.mu.Lock()
	out := make([]*system, 0, len(h.byRID))
	for _, s := range h.byRID {
		out = append(out, s)
	}
	h.mu.Unlock()
	sortBy(out, func(a, b *system) bool {
		x, y := a.row.Load(), b.row.Load()
		if !x.CreateTime.Equal(y.CreateTime) {
			return x.CreateTime.Before(y.CreateTime)
		}
		return x.RuntimeID < y.RuntimeID
	})
	return out
}

// drop takes a system out of memory.
func (h *HCS) drop(s *system) {
	r := s.row.Load()
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.byRID, r.RuntimeID)
	if h.byID[r.ID] == s {
		delete(h.byID, r.ID)
	}
}

func sortBy[T any](s []T, less func(a, b T) bool) {
	slices.SortStableFunc(s, func(a, b T) int {
		switch {
		case less(a, b):
			return -1
		case less(b, a):
			return 1
		}
		return 0
	})
}

// detached is a context for undoing: it lost its cancellation and has a limit of
// its own.
func detached(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), limit)
}

// interrupt cuts a create under way short.
func (s *system) interrupt(cause error) {
	s.mu.Lock()
	cancel := s.cancel
	s.mu.Unlock()
	if cancel != nil {
		cancel(cause)
	}
}
