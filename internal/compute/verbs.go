// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/model"
	"gatehouse.dev/gatehouse/internal/failpoint"
)

// Start runs a Created system.
func (h *HCS) Start(ctx context.Context, id string) (hcs.ProcessInformation, error) {
	s, err := h.find(ctx, "start", id)
	if err != nil {
		return hcs.ProcessInformation{}, err
	}
	_, end, err := s.begin(ctx, model.Start)
	if err != nil {
		return hcs.ProcessInformation{}, err
	}
	defer end()
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	w := s.client()
	if w == nil {
		return hcs.ProcessInformation{}, s.refused("start", hcs.CodeServiceNotAvailable, hcs.StateUnknown)
	}
	if _, err := w.Start(ctx); err != nil {
		if s.row.Load().Ending != "" {
			err = &hcs.Error{Code: hcs.CodeTerminatedDuringStart, Message: "terminated on the way"}
		}
		return hcs.ProcessInformation{}, s.err("start", err)
	}
	r, err := s.until(ctx, func(r *row) bool { return r.State != hcs.StateCreated })
	if err != nil {
		return hcs.ProcessInformation{}, s.err("start", err)
	}
	if r.StartTime.IsZero() {
		return hcs.ProcessInformation{}, s.err("start", &hcs.Error{Code: hcs.CodeTerminatedDuringStart, Message: "terminated on the way"})
	}
	return r.init(), nil
}

// Shutdown asks the system to end; it does not wait for it. With Force what has
// not ended after ten seconds is killed.
func (h *HCS) Shutdown(ctx context.Context, id string, o hcs.ShutdownOptions) error {
	const op = "shutdown"
	s, err := h.find(ctx, op, id)
	if err != nil {
		return err
	}
	if o.Type != "" && o.Type != "Shutdown" {
		return s.err(op, &hcs.Error{Code: hcs.CodeNotSupported, Field: "Type", Message: o.Type + ": only Shutdown is known"})
	}
	r, end, err := s.begin(ctx, model.Shutdown)
	if err != nil {
		return err
	}
	defer end()
	sig := r.StopSignal
	if o.Signal != 0 {
		sig = int(o.Signal)
	}
	if sig == 0 {
		sig = int(hcs.SIGTERM)
	}
	if _, err := s.client().Signal(ctx, initKey, sig); err != nil {
		return s.err(op, err)
	}
	if o.Force {
		h.wg.Go(func() {
			select {
			case <-s.gone:
			case <-h.life.Done():
			case <-time.After(10 * time.Second):
				if err := h.terminate(h.life, s, endClient); err != nil {
					h.log.Warn("forced shutdown", "system", r.ID, "err", err)
				}
			}
		})
	}
	return nil
}

// Terminate ends the system and returns when it is Stopped and what it used was
// let go. Idempotent; a create under way is undone.
func (h *HCS) Terminate(ctx context.Context, id string) error {
	s := h.lookFor(ctx, id)
	if s == nil {
		return notFound("terminate", id)
	}
	return h.terminate(ctx, s, endClient)
}

func (h *HCS) terminate(ctx context.Context, s *system, by string) error {
	const op = "terminate"
	ctx, cancel := context.WithTimeout(ctx, terminateLimit)
	defer cancel()
	if s.row.Load().State == stateCreating {
		s.interrupt(errTerminated)
		select {
		case <-s.undone:
		case <-ctx.Done():
			return s.err(op, &hcs.Error{Code: hcs.CodeOperationTimeout, Err: ctx.Err()})
		}
		if s.row.Load().State == stateCreating {
			return nil
		}
	}
	if r := s.row.Load(); !r.stopped() && r.Ending == "" {
		// In memory only: if we die before the exit is stored, the worker's own word
		// for it counts.
		s.write.Lock()
		c := s.row.Load().clone()
		c.Ending = by
		s.row.Store(c)
		s.write.Unlock()
	}
	var last error
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		if s.row.Load().stopped() {
			break
		}
		last = h.kill(ctx, s)
		if s.row.Load().stopped() {
			break
		}
		pause, stop := context.WithTimeout(ctx, wait)
		_, err := s.until(pause, (*row).stopped)
		stop()
		if err == nil {
			break
		}
		if ctx.Err() != nil || h.life.Err() != nil {
			return s.err(op, &hcs.Error{Code: hcs.CodeOperationTimeout, Message: "it does not end", Err: errors.Join(last, err)})
		}
	}
	select {
	case <-s.gone:
		return nil
	case <-ctx.Done():
		return s.err(op, &hcs.Error{Code: hcs.CodeOperationTimeout, Message: "it has stopped; what it used is not free yet", Err: ctx.Err()})
	}
}

// kill makes one attempt to end a system.
func (h *HCS) kill(ctx context.Context, s *system) error {
	w := s.client()
	if w == nil {
		return nil // its worker is dead: lost ends it
	}
	if err := w.KillAll(ctx); err != nil {
		return err
	}
	if s.row.Load().State != hcs.StateCreated {
		return nil
	}
	select { // never started, and not being started now
	case <-s.verb:
		defer func() { s.verb <- struct{}{} }()
	default:
		return nil
	}
	_, err := s.commit(func(c *change) error { // the pump sees it and finishes
		if c.State == hcs.StateCreated {
			c.exited(time.Now().UTC(), c.classify(false))
		}
		return nil
	})
	return err
}

// Crash sends init SIGABRT.
func (h *HCS) Crash(ctx context.Context, id string, _ hcs.CrashOptions) error {
	s, err := h.find(ctx, "crash", id)
	if err != nil {
		return err
	}
	if _, code := model.Allow(s.state(), model.Shutdown); code != 0 {
		return s.refused("crash", code, s.state())
	}
	_, err = s.client().Signal(ctx, initKey, int(hcs.SIGABRT))
	return s.err("crash", err)
}

// Pause freezes a Running system, Resume thaws it. Levels are accepted.
func (h *HCS) Pause(ctx context.Context, id string, _ hcs.PauseOptions) error {
	return h.freeze(ctx, id, model.Pause, hcs.StatePaused)
}

// Resume as on Pause.
func (h *HCS) Resume(ctx context.Context, id string) error {
	return h.freeze(ctx, id, model.Resume, hcs.StateRunning)
}

func (h *HCS) freeze(ctx context.Context, id string, v model.Verb, to hcs.State) error {
	s, err := h.find(ctx, v.String(), id)
	if err != nil {
		return err
	}
	_, end, err := s.begin(ctx, v)
	if err != nil {
		return err
	}
	defer end()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if v == model.Pause {
		err = s.client().Pause(ctx)
	} else {
		err = s.client().Resume(ctx)
	}
	if err != nil {
		return s.err(v.String(), err)
	}
	r, err := s.until(ctx, func(r *row) bool { return r.State == to || r.stopped() })
	if err != nil {
		return s.err(v.String(), err)
	}
	if r.stopped() {
		return s.refused(v.String(), hcs.CodeSystemAlreadyStopped, hcs.StateStopped)
	}
	return nil
}

// Save is for virtual machines.
func (h *HCS) Save(ctx context.Context, id string, _ hcs.SaveOptions) error {
	s, err := h.find(ctx, "save", id)
	if err != nil {
		return err
	}
	if _, code := model.Allow(s.state(), model.Save); code != 0 {
		return s.refused("save", code, s.state())
	}
	return s.err("save", &hcs.Error{Code: hcs.CodeNotSupported, Message: "only virtual machines can be saved"})
}

// Modify changes settings of a system: its limits now.
func (h *HCS) Modify(ctx context.Context, id string, q hcs.ModifySettingRequest) error {
	const op = "modify"
	s, err := h.find(ctx, op, id)
	if err != nil {
		return err
	}
	if q.GuestRequest != nil {
		return s.err(op, &hcs.Error{Code: hcs.CodeNotSupported, Field: "GuestRequest", Message: "a silo has no guest"})
	}
	if q.RequestType != "" && q.RequestType != hcs.RequestUpdate {
		return s.err(op, &hcs.Error{Code: hcs.CodeNotSupported, Field: "RequestType", Message: string(q.RequestType) + ": only Update is here yet"})
	}
	r, end, err := s.begin(ctx, model.Modify)
	if err != nil {
		return err
	}
	defer end()
	doc, limits, err := model.Update(r.Doc, q.ResourcePath, q.Settings, h.facts)
	if err != nil {
		return s.err(op, err)
	}
	if err := model.Validate(r.ID, doc, h.facts); err != nil { // its isolation may not know the limit
		return s.err(op, err)
	}
	grant, err := h.grant(ctx, r)
	if err == nil {
		err = grant.Quotas(doc, h.facts)
	}
	if err != nil {
		return s.err(op, err)
	}
	if r.State == hcs.StateCreated && r.inMachine() {
		return s.err(op, &hcs.Error{Code: hcs.CodeInvalidState, Message: "limits in a utility VM can be changed once it runs"})
	}
	if err := s.client().Update(ctx, limits); err != nil {
		return s.err(op, err)
	}
	_, err = s.commit(func(c *change) error {
		c.Doc = doc
		c.emit(hcs.EventSystemModified, hcs.KindSystems, time.Now(), struct {
			RuntimeId, ResourcePath string
			Settings                json.RawMessage
		}{c.RuntimeID, q.ResourcePath, q.Settings})
		return nil
	})
	return s.err(op, err)
}

// Delete terminates the system and forgets it with its log and writable layer. On
// one that was forgotten it succeeds as long as its tombstone is there.
func (h *HCS) Delete(ctx context.Context, id string) error {
	const op = "delete"
	s := h.lookFor(ctx, id)
	if s == nil {
		return notFound(op, id)
	}
	if err := h.terminate(ctx, s, endClient); err != nil {
		return fail(op, id, err)
	}
	r := s.row.Load()
	if r.State == stateCreating || r.Forgotten {
		return nil
	}
	kept := r.keep()
	if _, err := s.commit(func(c *change) error {
		c.forget()
		c.Unclean = c.Unclean || kept // its log and layer; a crash before they went is mended
		return nil
	}); err != nil {
		return s.err(op, err)
	}
	if !kept && !s.row.Load().Unclean {
		return nil
	}
	if err := failpoint.Hit("compute.deleted"); err != nil {
		return s.err(op, err)
	}
	ctx, cancel := detached(ctx, undoLimit)
	defer cancel()
	return s.err(op, h.letGo(ctx, s, nil))
}
