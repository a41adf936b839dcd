// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// poolSize namespaces are kept ready. Making one takes about 0.5 ms, half of
// what creating an endpoint costs; sixteen ride out a burst and hold 3 MiB.
const poolSize = 16

// refillPause keeps the refill out of the way of the request that caused it, as
// long as half of the pool is left.
const refillPause = 5 * time.Millisecond

// pool keeps namespaces ready. They have no name, so a killed daemon leaves none.
type pool struct {
	ready chan *namespace
	taken chan struct{} // wakes fill
	stop  context.CancelFunc
	done  sync.WaitGroup
	procs ownProc
}

func newPool(log *slog.Logger) *pool {
	ctx, stop := context.WithCancel(context.Background())
	p := &pool{ready: make(chan *namespace, poolSize), taken: make(chan struct{}, 1), stop: stop}
	p.done.Go(func() { p.fill(ctx, log) })
	return p
}

// fill is the only one that puts namespaces in, so there is room when it looks.
func (p *pool) fill(ctx context.Context, log *slog.Logger) {
	for ctx.Err() == nil {
		for len(p.ready) == cap(p.ready) {
			select {
			case <-ctx.Done():
				return
			case <-p.taken:
			}
		}
		if len(p.ready) >= poolSize/2 {
			sleep(ctx, refillPause)
		}
		n, err := newNamespace(&p.procs)
		if err != nil {
			log.Warn("keep network namespaces ready", "err", err)
			sleep(ctx, time.Second)
			continue
		}
		p.ready <- n
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// take returns a ready namespace, or a new one when none is.
func (p *pool) take() (*namespace, error) {
	select {
	case n := <-p.ready:
		select {
		case p.taken <- struct{}{}:
		default:
		}
		return n, nil
	default:
		return newNamespace(&p.procs)
	}
}

func (p *pool) close() {
	p.stop()
	p.done.Wait()
	for {
		select {
		case n := <-p.ready:
			n.close()
		default:
			p.procs.close()
			return
		}
	}
}
