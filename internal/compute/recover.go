// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/store"
)

const (
	sweepEvery = 15 * time.Second
	// tombstones are kept this long, or until there are this many newer ones.
	tombstoneLife = 10 * time.Minute
	tombstoneMax  = 4096
)

// Recover adopts the workers of an earlier daemon, replays their journals, undoes
// creates that were half made, ends what is dead and removes what has no row.
// Verbs must wait for it.
func (h *HCS) Recover(ctx context.Context) error {
	var rows []row
	if err := h.o.Store.View(func(tx *store.Tx) error {
		return systems().Each(tx, func(_ string, r row) error { rows = append(rows, r); return nil })
	}); err != nil {
		return fmt.Errorf("recover systems: %w", err)
	}
	sortBy(rows, func(a, b row) bool { return a.CreateTime.Before(b.CreateTime) })
	known := map[string]bool{}
	var g errgroup.Group
	g.SetLimit(8) // each waits for disks and processes, hardly for CPUs
	for i := range rows {
		s := newSystem(h, rows[i].clone())
		r := s.row.Load()
		h.mu.Lock()
		h.byRID[r.RuntimeID] = s
		if r.State != stateCreating {
			h.byID[r.ID] = s // the newest last
			close(s.undone)
		}
		h.mu.Unlock()
		known[r.RuntimeID] = r.State != hcs.StateStopped
		g.Go(func() error { h.recoverSystem(ctx, s); return nil })
	}
	_ = g.Wait()
	h.orphans(ctx, known)
	return ctx.Err()
}

func (h *HCS) recoverSystem(ctx context.Context, s *system) {
	r := s.row.Load()
	switch {
	case r.State == stateCreating:
		if w, err := h.o.Workers.Adopt(ctx, h.o.Instance.Worker(r.RuntimeID)); err == nil {
			s.setWorker(w)
			_ = w.KillAll(ctx)
		}
		if err := h.undoCreate(ctx, s); err != nil {
			h.log.Warn("a half-made system left something; it is tried again", "system", r.ID, "runtime", r.RuntimeID, "err", err)
		}
		close(s.undone)
	case r.stopped() && !r.Unclean:
		close(s.gone)
	case r.stopped():
		h.wg.Go(func() { h.finish(s) })
	default:
		w, err := h.o.Workers.Adopt(ctx, h.o.Instance.Worker(r.RuntimeID))
		if err != nil {
			h.log.Info("worker of a system is gone", "system", r.ID, "err", err)
			h.lost(s)
			return
		}
		s.setWorker(w)
		h.pump(s)
		h.lastLease(s, leaseReturn)
		if r.Committing {
			h.wg.Go(func() { h.thaw(s) })
		}
		h.log.Info("system adopted", "system", r.ID, "runtime", r.RuntimeID, "worker", w.PID())
	}
}

// orphans ends workers and removes scratches that no row speaks of.
func (h *HCS) orphans(ctx context.Context, known map[string]bool) {
	for _, rid := range names(filepath.Dir(h.o.Instance.Worker("x"))) {
		if alive, ok := known[rid]; ok && alive {
			continue
		}
		if s := h.look("rid:" + rid); s != nil {
			continue // stopped and not clean: finish does it
		}
		if err := h.o.Workers.Sweep(ctx, h.o.Instance.Worker(rid)); err != nil {
			h.log.Warn("an orphaned worker does not end", "runtime", rid, "err", err)
			continue
		}
		h.log.Info("orphaned worker ended", "runtime", rid)
	}
	for _, rid := range names(filepath.Dir(h.o.Instance.Scratch("x"))) {
		if _, ok := known[rid]; ok {
			continue
		}
		if err := os.RemoveAll(h.o.Instance.Scratch(rid)); err != nil {
			h.log.Warn("an orphaned scratch cannot be removed", "runtime", rid, "err", err)
		}
	}
}

func names(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out
}

// sweep stores what was learnt since, repeats what failed, and forgets tombstones.
func (h *HCS) sweep(ctx context.Context, now time.Time) {
	var old, unsaved []*system
	stopped := 0
	all := h.all()
	for i := len(all) - 1; i >= 0; i-- { // the newest first
		s := all[i]
		r := s.row.Load()
		switch {
		case r.State == stateCreating:
			select {
			case <-s.undone: // its undo failed
				if err := h.undoCreate(ctx, s); err != nil {
					h.log.Debug("undo of a create", "system", r.ID, "err", err)
				}
			default:
			}
			continue
		case !r.stopped():
			continue
		}
		select {
		case <-s.gone:
		default:
			continue // finish is at it
		}
		if r.Unclean {
			if err := h.letGo(ctx, s, nil); err != nil {
				h.log.Debug("let go of a stopped system", "system", r.ID, "err", err)
				continue
			}
			r = s.row.Load()
		}
		s.mu.Lock()
		if s.unsaved {
			unsaved = append(unsaved, s)
		}
		s.mu.Unlock()
		if r.keep() && !r.Forgotten {
			continue
		}
		if stopped++; stopped > tombstoneMax || now.Sub(r.StopTime) > tombstoneLife {
			old = append(old, s)
		}
	}
	if err := h.forget(old, unsaved); err != nil {
		h.log.Warn("tombstones cannot be forgotten", "err", err)
	}
}

// forget removes tombstones and saves rows, in one transaction.
func (h *HCS) forget(old, unsaved []*system) error {
	if len(old)+len(unsaved) == 0 {
		return nil
	}
	_, err := h.o.Store.Update(func(tx *store.Tx) error {
		for _, s := range unsaved {
			s.write.Lock()
			r := s.row.Load()
			s.write.Unlock()
			if err := systems().Put(tx, r.RuntimeID, *r); err != nil {
				return err
			}
		}
		for _, s := range old {
			r := s.row.Load()
			c := &change{row: r.clone()}
			c.forget()
			for _, e := range c.events {
				if err := tx.Append(e); err != nil {
					return err
				}
			}
			if err := systems().Delete(tx, r.RuntimeID); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, s := range unsaved {
		s.mu.Lock()
		s.unsaved = false
		s.mu.Unlock()
	}
	for _, s := range old {
		h.drop(s)
	}
	return nil
}

// removeScratch removes the log and, where it was ours, the writable layer.
func (h *HCS) removeScratch(r *row) error {
	err := os.RemoveAll(h.o.Instance.Scratch(r.RuntimeID))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
