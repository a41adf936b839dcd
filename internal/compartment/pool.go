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

// pool keeps namespaces ready. They have no name, so a killed daemon leaves none.
type pool struct {
	ready chan *namespace
	stop  context.CancelFunc
	done  sync.WaitGroup
}

func newPool(log *slog.Logger) *pool {
	ctx, stop := context.WithCancel(context.Background())
	p := &pool{ready: make(chan *namespace, poolSize), stop: stop}
	p.done.Go(func() { p.fill(ctx, log) })
	return p
}

func (p *pool) fill(ctx context.Context, log *slog.Logger) {
	for ctx.Err() == nil {
		n, err := newNamespace()
		if err != nil {
			log.Warn("keep network namespaces ready", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			continue
		}
		select {
		case p.ready <- n:
		case <-ctx.Done():
			n.close()
		}
	}
}

// take returns a ready namespace, or a new one when none is.
func (p *pool) take() (*namespace, error) {
	select {
	case n := <-p.ready:
		return n, nil
	default:
		return newNamespace()
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
			return
		}
	}
}
