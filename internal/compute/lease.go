// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"context"
	"sync"
	"time"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/model"
)

// leaseGrace is how long the end of the last lease waits for the service's own end,
// which closes all connections and must end no system.
const leaseGrace = 500 * time.Millisecond

// leaseReturn is how long a system waits for a lease after the daemon's restart.
const leaseReturn = 10 * time.Second

// Lease keeps a system with ShouldTerminateOnLastHandleClosed alive.
type Lease struct {
	once  sync.Once
	close func()
}

// Close gives the lease back. Idempotent.
func (l *Lease) Close() { l.once.Do(l.close) }

// OpenLease opens a lease on a system.
func (h *HCS) OpenLease(ctx context.Context, id string) (*Lease, error) {
	s, err := h.find(ctx, "open lease", id)
	if err != nil {
		return nil, err
	}
	if st := s.state(); st == hcs.StateStopped {
		_, code := model.Allow(st, model.Start)
		return nil, s.refused("open lease", code, st)
	}
	return s.lease(), nil
}

func (s *system) lease() *Lease {
	s.mu.Lock()
	s.leases++
	s.mu.Unlock()
	return &Lease{close: func() {
		s.mu.Lock()
		s.leases--
		last := s.leases == 0
		s.mu.Unlock()
		if last {
			s.h.lastLease(s, leaseGrace)
		}
	}}
}

// lastLease ends a system that nobody leased again after a while, if it is one
// that ends with its last lease.
func (h *HCS) lastLease(s *system, after time.Duration) {
	if !s.row.Load().Doc.ShouldTerminateOnLastHandleClosed || h.life.Err() != nil {
		return
	}
	h.wg.Go(func() {
		select {
		case <-h.life.Done():
			return
		case <-s.gone:
			return
		case <-time.After(after):
		}
		s.mu.Lock()
		held := s.leases > 0
		s.mu.Unlock()
		if held || s.row.Load().stopped() {
			return
		}
		if err := h.terminate(h.life, s, endInternal); err != nil {
			h.log.Warn("terminate after the last lease", "system", s.row.Load().ID, "err", err)
		}
	})
}
