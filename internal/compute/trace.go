// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/held"
)

// Trace tells which files of its root file system a system opens from now on, each
// once, until it has stopped or ctx ends. Asked for before Start it misses nothing.
// The sequence can be walked once, and must be.
func (h *HCS) Trace(ctx context.Context, id string) (iter.Seq2[hcs.FileAccess, error], error) {
	const op = "trace"
	s, err := h.find(ctx, op, id)
	if err != nil {
		return nil, err
	}
	w := s.client()
	switch st := s.state(); {
	case h.o.Tracer == nil:
		return nil, s.err(op, &hcs.Error{Code: hcs.CodeNotSupported, Message: "this daemon cannot watch files"})
	case st == hcs.StateStopped:
		return nil, s.refused(op, hcs.CodeSystemAlreadyStopped, st)
	case w == nil || st == hcs.StateUnknown:
		return nil, s.refused(op, hcs.CodeServiceNotAvailable, st)
	}
	if s.row.Load().inMachine() {
		return nil, s.err(op, inMachine())
	}
	root := held.RootFS(h.o.Instance.Worker(s.row.Load().RuntimeID))
	watch, err := h.o.Tracer.Watch(fmt.Sprintf("/proc/%d/root%s", w.PID(), root))
	if err != nil {
		return nil, s.err(op, err)
	}
	return func(yield func(hcs.FileAccess, error) bool) {
		defer watch.Close()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stop := context.AfterFunc(h.life, cancel)
		defer stop()
		go func() {
			select {
			case <-s.gone:
				cancel()
			case <-ctx.Done():
			}
		}()
		for {
			paths, err := watch.Next(ctx)
			for _, p := range paths {
				// The runtime opens some before the root is the container's.
				if !yield(hcs.FileAccess{Path: "/" + strings.Trim(strings.TrimPrefix(p, root), "/")}, nil) {
					return
				}
			}
			if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
				return
			}
			if err != nil {
				yield(hcs.FileAccess{}, s.err(op, err))
				return
			}
		}
	}, nil
}
