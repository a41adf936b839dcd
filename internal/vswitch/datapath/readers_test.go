// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/cilium/ebpf/perf"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// brokenReader fails as a perf buffer does that somebody took away.
type brokenReader struct{ closed bool }

var errBroken = errors.New("broken")

func (*brokenReader) SetDeadline(time.Time)       {}
func (*brokenReader) ReadInto(*perf.Record) error { return errBroken }
func (r *brokenReader) Close() error              { r.closed = true; return nil }

func TestCaptureOfBrokenReader(t *testing.T) {
	d := &Datapath{log: slog.New(slog.DiscardHandler)}
	c := &capture{out: make(chan []Sample, captureQueue), gone: make(chan struct{})}
	cs := &d.captures
	cs.all, cs.stop = map[*capture]bool{c: true}, func() { t.Error("the reader that failed was asked to stop") }
	r := &brokenReader{}
	cs.serve(r, d)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := c.run(ctx, func(Captured) error { return nil }); !errors.Is(err, errBroken) {
		t.Errorf("the capture ended with %v, want %v", err, errBroken)
	}
	if cs.remove(c); cs.stop != nil || len(cs.all) != 0 || !r.closed {
		t.Error("the next capture would get the reader that failed")
	}
	if n := d.count.readErrors.Load(); n != 1 {
		t.Errorf("%d errors counted, want 1", n)
	}
}

// TestEventsOfBrokenRing: who watches is told, and the reader goes on.
func TestEventsOfBrokenRing(t *testing.T) {
	l := newLab(t)
	d := l.open()
	l.apply(d)
	w, err := d.Watch(WatchOptions{Drops: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ring := d.state[bpf.SwitchMapEvents]
	d.state[bpf.SwitchMapEvents] = d.state[bpf.SwitchMapPstats] // which is no ring
	ctx, cancel := context.WithCancel(t.Context())
	end := make(chan error, 1)
	go func() { end <- d.followEvents(ctx) }()
	select {
	case err := <-w.Failed:
		if err == nil {
			t.Error("told without a reason")
		}
	case err := <-end:
		t.Errorf("the reader gave up: %v", err)
	case <-time.After(5 * time.Second):
		t.Error("the watcher was not told")
	}
	cancel()
	if err := <-end; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v, want %v", err, context.Canceled)
	}
	d.state[bpf.SwitchMapEvents] = ring
}
