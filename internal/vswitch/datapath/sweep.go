// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// crowdedSYN replaces the time of half-open connections in a table that is
// more than 80 % full, as in the programs (GH_CROWDED_SYN_S): a flood of them must
// not drive out the others.
const crowdedSYN = bpf.CrowdedSYN

func timeout(s bpf.FlowState, crowded bool) uint32 {
	if crowded && s == bpf.SwitchGhFlowStateGH_FLOW_SYN {
		return crowdedSYN
	}
	return bpf.FlowTimeout(s)
}

func (h *half[K]) expired(now uint32, crowded bool) bool {
	// last may be a moment ahead of now: other CPU, later read.
	return int32(now-h.last) > int32(timeout(h.state, crowded))
}

// Sweep periods: the fuller the tables, the more often.
const (
	periodCrowded = 1 * time.Second
	periodBusy    = 5 * time.Second
	periodIdle    = 30 * time.Second
	// periodBeat is how often the programs hear that somebody sweeps; they wait
	// for GH_REAP_PATIENCE before they do it themselves.
	periodBeat = 2 * time.Second
)

// Run removes flows that are over, guards attachments and passes on events until
// ctx ends, whose error it returns. The data plane works without it; only space
// is not freed.
func (d *Datapath) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.followEvents(ctx) })
	g.Go(func() error { return d.guard(ctx) })
	g.Go(func() error {
		beat := time.NewTicker(periodBeat)
		defer beat.Stop()
		for next := time.Now().Add(periodBusy); ; {
			if err := d.beat(); err != nil {
				d.log.Warn("flow sweep incomplete", "error", err)
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-beat.C:
				continue
			case <-time.After(time.Until(next)):
			}
			r, err := d.Sweep()
			if err != nil {
				d.log.Warn("flow sweep incomplete", "error", err)
			}
			if _, err := d.LookForPreceded(); err != nil {
				d.log.Warn("others' programs not looked for", "error", err)
			}
			next = time.Now().Add(r.next())
		}
	})
	return g.Wait()
}

// SweepResult is what one sweep found.
type SweepResult struct {
	Entries4, Entries6 int // before
	Removed            int
	crowded            bool
}

func (r SweepResult) next() time.Duration {
	switch n := r.Entries4 + r.Entries6; {
	case r.crowded:
		return periodCrowded
	case n < 1024:
		return periodIdle
	}
	return periodBusy
}

// Sweep removes the flows of which both directions are idle for longer than
// their state allows, those through ports that are gone, and the counters of
// services that are gone. Run calls it.
func (d *Datapath) Sweep() (SweepResult, error) {
	now, err := monotonicSeconds()
	if err != nil {
		return SweepResult{}, err
	}
	var t tally
	var r SweepResult
	first := d.count.sweeps.Load() == 0
	start, o := time.Now(), d.ending(now)
	removed4, n4, crowded4, err4 := sweepTable(d.flow4(), d.queue4(), first, o, d.count.crowded4.Load(), t.family(0))
	removed6, n6, crowded6, err6 := sweepTable(d.flow6(), d.queue6(), first, o, d.count.crowded6.Load(), t.family(1))
	d.count.found.Store(&o.found)
	d.count.sweepNanos.Add(int64(time.Since(start)))
	r.Entries4, r.Entries6, r.Removed, r.crowded = n4, n6, removed4+removed6, crowded4 || crowded6
	d.count.crowded4.Store(crowded4)
	d.count.crowded6.Store(crowded6)
	d.count.flows4.Store(int64(n4 - removed4))
	d.count.flows6.Store(int64(n6 - removed6))
	d.count.sweeps.Add(1)
	d.count.swept.Add(int64(r.Removed))
	err = errors.Join(err4, err6)
	if err == nil { // a partial walk counts too little
		err = d.storeTally(&t)
	}
	if err == nil {
		d.mu.Lock()
		for p, n := range o.gone {
			if d.gone[p] == n { // it may have come and gone again
				delete(d.gone, p)
			}
		}
		d.mu.Unlock()
	}
	err = errors.Join(err, d.sweepServices())
	if err != nil {
		return r, fmt.Errorf("sweep flows: %w", err)
	}
	return r, nil
}

// ending is how conversations end now: watched or not.
func (d *Datapath) ending(now uint32) *ending {
	o := &ending{now: now, stillGone: d.stillGone}
	d.mu.Lock()
	o.gone = maps.Clone(d.gone)
	d.mu.Unlock()
	if d.watchers.flows() {
		o.ended = func(c Conversation, why string) {
			d.publish(Event{Kind: EventFlowEnd, Since: time.Duration(now) * time.Second, Port: c.In, Flow: c, Why: why})
		}
	}
	return o
}

// sweepTable sweeps one table. Where the queue of its conversations is worn, or
// begins a life, it is written anew from what is found alive.
func sweepTable[K comparable, V any](t flowTable[K, V], q queue[K], first bool, o *ending, crowded bool, count func(vswitch.PortID)) (removed, n int, isCrowded bool, err error) {
	now := o.now
	head, worn, err := q.worn()
	if err != nil {
		return 0, 0, crowded, err
	}
	worn = worn || first
	var live []K
	type candidate struct {
		key K
		half[K]
	}
	var over []candidate
	err = t.walk(func(k *K, v *V) bool {
		n++
		h := t.half(v)
		if h.expired(now, crowded) || h.orphaned(o.gone) {
			over = append(over, candidate{*k, h})
		} else {
			o.count(h.state, h.reply, h.nat)
			if !h.reply {
				count(h.in)
			}
		}
		if worn && !h.reply { // the dead too: their answers may live
			live = append(live, *k)
		}
		return true
	})
	isCrowded = n > int(t.m.MaxEntries())/10*8
	if err != nil {
		return 0, n, isCrowded, err
	}
	if worn {
		if err := q.renew(head, live); err != nil {
			return 0, n, isCrowded, err
		}
	}
	for _, c := range over {
		// Read both again: a packet may have come since.
		h, ok, err := t.get(&c.key)
		if err != nil {
			return removed, n, isCrowded, err
		}
		if !ok {
			continue // removed together with its pair
		}
		why, gone := whyIdle, h.expired(now, crowded)
		if h.orphaned(o.gone) && o.stillGone(h.in, h.out) {
			why, gone = whyGone, true
		} else if gone {
			p, ok, err := t.get(&h.pair)
			if err != nil {
				return removed, n, isCrowded, err
			}
			gone = !ok || p.expired(now, crowded)
		}
		if !gone {
			o.count(h.state, h.reply, h.nat)
			if !h.reply {
				count(h.in)
			}
			continue
		}
		k, err := t.end(c.key, h, why, o)
		removed += k
		if err != nil {
			return removed, n, isCrowded, err
		}
	}
	return removed, n, isCrowded, nil
}

// tally is how many conversations there are.
type tally struct {
	port [vswitch.MaxPorts]uint32 // that began at each port
	fill [2]uint32                // in each table
}

func (t *tally) family(i int) func(vswitch.PortID) {
	return func(p vswitch.PortID) {
		t.fill[i]++
		if int(p) < len(t.port) {
			t.port[p]++
		}
	}
}

// storeTally puts right what the programs' own counting has drifted by.
func (d *Datapath) storeTally(t *tally) error {
	keys := make([]uint32, len(t.port))
	for i := range keys {
		keys[i] = uint32(i)
	}
	if _, err := d.state[bpf.SwitchMapPflows].BatchUpdate(keys, t.port[:], nil); err != nil {
		return fmt.Errorf("flows by port: %w", err)
	}
	if _, err := d.state[bpf.SwitchMapFill].BatchUpdate(keys[:2], t.fill[:], nil); err != nil {
		return fmt.Errorf("flows by table: %w", err)
	}
	return nil
}

// noteGone remembers ports for the next sweep, and forgets those that are there
// again. Called with d.mu.
func (d *Datapath) noteGone(ports []vswitch.PortID) {
	for _, p := range ports {
		d.going++
		d.gone[p] = d.going
	}
	maps.DeleteFunc(d.gone, func(p vswitch.PortID, _ uint64) bool {
		_, back := d.tables.Port(p)
		return back
	})
}

// stillGone reports whether one of two ports has not come back.
func (d *Datapath) stillGone(a, b vswitch.PortID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.gone[a] != 0 || d.gone[b] != 0
}

// monotonicSeconds is the clock the programs stamp flows with. It does not jump
// when somebody sets the time, and it stands still while the machine sleeps: what
// was alive before is alive after, for the rest of its time.
func monotonicSeconds() (uint32, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil {
		return 0, fmt.Errorf("read clock: %w", err)
	}
	return uint32(ts.Sec), nil
}

func isNoSpace(err error) bool { return errors.Is(err, unix.ENOSPC) }
