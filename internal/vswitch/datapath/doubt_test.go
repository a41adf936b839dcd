// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// TestDoubt: a change for who looks at packets that fails halfway is told to who
// applies, packets go on, and nobody is left looking at nothing.
func TestDoubt(t *testing.T) {
	l := newLab(t)
	l.container(10).EchoUDP("10.1.0.10:7")
	a := l.container(11)
	d := l.open()
	l.apply(d)
	flow := func(when string) {
		t.Helper()
		if err := a.Ask("udp", "10.1.0.10:7", "hello", answer); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	flow("before")
	capture := func() (began bool, err error) {
		end := errors.New("seen")
		err = d.Capture(t.Context(), []vswitch.PortID{10}, 0, func(Captured) error { began = true; return end })
		if errors.Is(err, end) {
			err = nil
		}
		return began, err
	}
	doubted := func() bool {
		select {
		case <-d.Doubts():
			return true
		default:
			return false
		}
	}
	if began, err := capture(); !began || err != nil || doubted() || d.InDoubt() {
		t.Fatalf("before: began %v, %v", began, err)
	}
	generation := d.Metrics().Generation
	epoch := d.state[bpf.SwitchMapEpoch] // rows are written, and then this fails
	d.state[bpf.SwitchMapEpoch] = d.state[bpf.SwitchMapEvents]
	began, err := capture()
	d.state[bpf.SwitchMapEpoch] = epoch
	if began || err == nil {
		t.Errorf("while the switch cannot be written: began %v, %v", began, err)
	}
	if !doubted() || !d.InDoubt() || !d.Metrics().InDoubt {
		t.Error("nobody is told that the switch is in doubt")
	}
	flow("in doubt")
	if began, err := capture(); began || !errdefs.IsUnavailable(err) {
		t.Errorf("in doubt: began %v, %v; want unavailable", began, err)
	}
	if w, err := d.Watch(WatchOptions{Flows: true}); !errdefs.IsUnavailable(err) {
		t.Errorf("watch in doubt: %v, %v; want unavailable", w, err)
	}
	w, err := d.Watch(WatchOptions{Drops: true}) // for which nothing is written
	if err != nil {
		t.Error(err)
	} else {
		w.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := d.Apply(ctx, d.base); err != nil {
		t.Fatal(err)
	}
	if doubted() || d.InDoubt() || d.Metrics().InDoubt {
		t.Error("still in doubt after an Apply")
	}
	if n := d.Metrics().Generation; n != generation {
		t.Errorf("generation %d after an Apply; one failure is mended in generation %d", n, generation)
	}
	flow("after")
	if began, err := capture(); !began || err != nil {
		t.Errorf("after: began %v, %v", began, err)
	}
}
