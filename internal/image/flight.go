// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"context"
	"sync"

	"gatehouse.dev/gatehouse/images"
)

// report receives progress; it is called from several goroutines and must not
// block. A nil report is silent.
type report func(images.Progress)

func (r report) say(p images.Progress) {
	if r != nil {
		r(p)
	}
}

// flights makes the same work, asked for several times at once, happen once. The
// work goes on while anybody waits for it and is cancelled when the last one has
// given up. The zero value is ready.
type flights[T any] struct {
	mu sync.Mutex // guards m and every flight's waiters and reports
	m  map[string]*flight[T]
}

type flight[T any] struct {
	done    chan struct{} // closed when val and err are set
	val     T
	err     error
	cancel  context.CancelFunc
	waiters int
	next    int
	reports map[int]report
}

func (g *flights[T]) do(ctx context.Context, key string, r report, work func(context.Context, report) (T, error)) (T, error) {
	v, joined, err := g.once(ctx, key, r, work)
	if joined && err != nil && ctx.Err() == nil { // their registry, their credentials; ours may do
		v, _, err = g.once(ctx, key, r, work)
	}
	return v, err
}

func (g *flights[T]) once(ctx context.Context, key string, r report, work func(context.Context, report) (T, error)) (val T, joined bool, err error) {
	g.mu.Lock()
	f, running := g.m[key]
	if !running {
		wctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		f = &flight[T]{done: make(chan struct{}), cancel: cancel, reports: map[int]report{}}
		if g.m == nil {
			g.m = map[string]*flight[T]{}
		}
		g.m[key] = f
		go func() {
			defer cancel()
			f.val, f.err = work(wctx, func(p images.Progress) {
				g.mu.Lock()
				defer g.mu.Unlock()
				for _, r := range f.reports {
					r.say(p)
				}
			})
			g.mu.Lock()
			if g.m[key] == f {
				delete(g.m, key)
			}
			g.mu.Unlock()
			close(f.done)
		}()
	}
	id := f.next
	f.next++
	f.waiters++
	f.reports[id] = r
	g.mu.Unlock()

	select {
	case <-f.done:
		return f.val, running, f.err
	case <-ctx.Done():
	}
	g.mu.Lock()
	delete(f.reports, id)
	f.waiters--
	last := f.waiters == 0
	if last {
		f.cancel()
		if g.m[key] == f { // nobody may join what is being cancelled
			delete(g.m, key)
		}
	}
	g.mu.Unlock()
	if last {
		<-f.done // its files are gone when we answer
	}
	return val, running, ctx.Err()
}
