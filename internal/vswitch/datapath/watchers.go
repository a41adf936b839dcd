// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// flowEventRate is how many events of conversations one port may send in a second
// while somebody watches; our choice: more than a person reads, and 100 ports of
// that are still nothing to the ring.
const flowEventRate = 100

// WatchOptions say what a Watcher gets.
type WatchOptions struct {
	Drops, Flows bool
}

// Watcher gets events as they happen. Close it.
type Watcher struct {
	// C yields the events. It is never closed.
	C <-chan Event
	// Failed gets why no more events come.
	Failed <-chan error

	o    WatchOptions
	c    chan Event
	fail chan error
	lost atomic.Uint64
	d    *Datapath
}

// Lost is how many events came while C was full.
func (w *Watcher) Lost() uint64 { return w.lost.Load() }

// watchers are all of them.
type watchers struct {
	mu  sync.Mutex
	all map[*Watcher]bool
}

// Watch begins to pass events on, which come while Run runs. Programs report
// conversations only while somebody watches them.
func (d *Datapath) Watch(o WatchOptions) (*Watcher, error) {
	c := make(chan Event, eventBuffer)
	fail := make(chan error, 1)
	w := &Watcher{C: c, Failed: fail, c: c, fail: fail, o: o, d: d}
	d.watchers.mu.Lock()
	if d.watchers.all == nil {
		d.watchers.all = map[*Watcher]bool{}
	}
	d.watchers.all[w] = true
	d.watchers.mu.Unlock()
	if !o.Flows {
		return w, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.sure()
	if err == nil {
		err = d.rewatch()
	}
	if err != nil {
		d.watchers.remove(w)
		return nil, fmt.Errorf("watch: %w", err)
	}
	return w, nil
}

// Close ends it.
func (w *Watcher) Close() error {
	w.d.watchers.remove(w)
	if !w.o.Flows {
		return nil
	}
	w.d.mu.Lock()
	defer w.d.mu.Unlock()
	if w.d.closed {
		return nil
	}
	return w.d.rewatch()
}

func (ws *watchers) remove(w *Watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.all, w)
}

// end tells all that no more events come to them.
func (ws *watchers) end(why error) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for w := range ws.all {
		w.fail <- why // has room: each is told once
	}
	clear(ws.all)
}

// flows reports whether anybody wants to know of conversations.
func (ws *watchers) flows() bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for w := range ws.all {
		if w.o.Flows {
			return true
		}
	}
	return false
}

// publish passes an event on to who wants it.
func (d *Datapath) publish(e Event) {
	d.watchers.mu.Lock()
	defer d.watchers.mu.Unlock()
	for w := range d.watchers.all {
		if e.Kind == EventDrop && !w.o.Drops || e.Kind != EventDrop && !w.o.Flows {
			continue
		}
		select {
		case w.c <- e:
		default:
			w.lost.Add(1)
			d.count.eventsLost.Add(1)
		}
	}
}
