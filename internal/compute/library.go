// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"context"
	"slices"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/held"
)

func (r *row) isLibraryOS() bool {
	return r.Doc.Container != nil && r.Doc.Container.Isolation == hcs.IsolationLibraryOS
}

// takeOver tells the networks that a library OS has begun: it has read the addresses
// of its namespace and speaks for them. That is told before the start is stored, so
// that a start which is read again after a crash is told again.
func (h *HCS) takeOver(s *system, entries []held.JournalEntry) {
	r := s.row.Load()
	if !r.isLibraryOS() || r.Namespace == "" || !slices.ContainsFunc(entries, func(e held.JournalEntry) bool { return e.What == whatStarted && e.Seq > r.Journal }) {
		return
	}
	ctx, cancel := context.WithTimeout(h.life, undoLimit)
	defer cancel()
	if err := h.o.Networks.TakeOver(ctx, r.Namespace, true); err != nil {
		h.log.Warn("the kernel keeps the addresses of a library OS and may answer in its place", "system", r.ID, "err", err)
	}
}

// giveBack is the reverse, for a namespace that outlives its library OS.
func (h *HCS) giveBack(ctx context.Context, r *row) error {
	if !r.isLibraryOS() || r.Namespace == "" || r.StartTime.IsZero() {
		return nil
	}
	return h.o.Networks.TakeOver(ctx, r.Namespace, false)
}
