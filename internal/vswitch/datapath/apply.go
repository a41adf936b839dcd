// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/failpoint"
	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// drain is how long a generation stays loaded after the switch: packets that
// entered it may still be on their way to one of its tail calls, and without its
// pins these are gone. They need microseconds; a softirq may need a tick or two.
const drain = 20 * time.Millisecond

// Apply makes the kernel's tables so. The first Apply after Open also switches
// packets to the new generation; it waits a moment for packets in the old one.
// Later ones write what differs and make flows decided before look again.
//
// After an error it is not known what the kernel holds: a row is that of the Tables
// before or of those that failed. The next Apply writes what differs from any of
// them, attaches everything anew and makes all flows look again. Where that fails
// time and again, it starts from a new generation.
func (d *Datapath) Apply(ctx context.Context, t vswitch.Tables) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("apply tables: %w", os.ErrClosed)
	}
	d.base = t
	d.captures.settle(t)
	return d.applyBase(ctx, t)
}

// applyBase is Apply of t and of what somebody looks at. The caller holds mu.
func (d *Datapath) applyBase(ctx context.Context, t vswitch.Tables) error {
	start := time.Now()
	t = t.Watched(d.watch())
	if err := d.apply(ctx, t); err != nil {
		d.tried = append(d.tried, t)
		d.lost = errors.Is(err, unix.EBADF)
		d.count.applyErrors.Add(1)
		return fmt.Errorf("apply tables: %w", err)
	}
	d.count.applies.Add(1)
	d.count.applyNanos.Add(int64(time.Since(start)))
	return nil
}

func (d *Datapath) apply(ctx context.Context, t vswitch.Tables) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d.lost || len(d.tried) > mendsMost {
		if err := d.renew(); err != nil {
			return err
		}
	}
	doubt := d.doubtful()
	delta := vswitch.Diff(d.tables, t)
	if doubt {
		delta = vswitch.Mend(slices.Concat([]vswitch.Tables{d.tables}, d.tried), t)
	}
	if err := d.write(delta.Steps); err != nil {
		return err
	}
	if err := failpoint.Hit("datapath.written"); err != nil {
		return err
	}
	if !d.live || doubt {
		if err := d.bump([]uint32{vswitch.EpochGlobal}); err != nil {
			return err
		}
		if d.live {
			if err := d.lead(t); err != nil {
				return err
			}
		} else if err := d.switchTo(ctx, t); err != nil {
			return err
		}
		gone := slices.Concat(delta.Gone, vswitch.Diff(d.last, t).Gone)
		d.live, d.tables, d.last, d.tried = true, t, vswitch.Tables{}, nil
		d.noteGone(gone)
		return d.forgetRules(vswitch.Tables{}, t, true)
	}
	if err := d.bump(delta.Epochs); err != nil {
		return err
	}
	for _, u := range delta.Attach {
		p, err := d.gen.program(uplinkProgram)
		if err != nil {
			return err
		}
		if err := d.attachUplink(u.Ifindex, u.Name, p); err != nil {
			return err
		}
		d.log.Info("uplink attached", "device", u.Name, "ifindex", u.Ifindex, "port", u.Port)
	}
	for _, u := range delta.AttachOut {
		if err := d.attachOut(u); err != nil {
			return err
		}
	}
	for _, u := range delta.DetachOut {
		if err := d.detachOut(u.Ifindex); err != nil {
			return fmt.Errorf("detach from what the host sends by %s (ifindex %d): %w", u.Name, u.Ifindex, err)
		}
	}
	for _, u := range delta.Detach {
		if err := d.detachUplink(u.Ifindex); err != nil {
			return fmt.Errorf("detach from uplink %s (ifindex %d): %w", u.Name, u.Ifindex, err)
		}
		d.log.Info("uplink detached", "device", u.Name, "ifindex", u.Ifindex, "port", u.Port)
	}
	if delta.AttachHooks {
		if err := d.attachHooks(d.gen); err != nil {
			return err
		}
	}
	if delta.DetachHooks {
		if err := d.detachHooks(); err != nil {
			return err
		}
	}
	if err := d.hearMACs(t); err != nil {
		return err
	}
	old := d.tables
	d.tables = t
	d.noteGone(delta.Gone)
	return d.forgetRules(old, t, false)
}

// mendsMost is how many Tables that failed one after the other are mended; our choice.
const mendsMost = 8

// doubtful: the maps of gen may differ from tables, or what is attached.
func (d *Datapath) doubtful() bool { return len(d.tried) > 0 }

// renew replaces a generation whose content is in doubt. The one at work stays
// until the switch.
func (d *Datapath) renew() error {
	spec, err := d.loadSpec()
	if err != nil {
		return err
	}
	g, err := d.loadGeneration(spec)
	if err != nil {
		return err
	}
	if d.live {
		d.last = d.tables
	}
	old := d.gen
	d.gen, d.live, d.tried, d.lost, d.tables = g, false, nil, false, vswitch.Tables{}
	// What packets meet is kept alive by its pins. What failed before it was
	// attached would stay for nothing, once for every try.
	return errors.Join(old.close(), d.removeGenerations(g))
}

// switchTo leads packets into the filled generation and removes the others.
func (d *Datapath) switchTo(ctx context.Context, t vswitch.Tables) error {
	if err := d.lead(t); err != nil {
		return err
	}
	if err := d.setCurrent(d.gen.number); err != nil {
		return err
	}
	if err := failpoint.Hit("datapath.current"); err != nil {
		return err
	}
	d.log.Info("data plane switched", "generation", d.gen.number, "uplinks", len(t.Uplinks), "hooks", t.SocketHooks)

	// From here on only rubbish is removed; what fails is tried by the next switch.
	select {
	case <-time.After(drain):
	case <-ctx.Done():
	}
	d.continueCarryover(true)
	d.endCarryover()
	if err := errors.Join(d.removeGenerations(d.gen), d.removeOldState()); err != nil {
		d.log.Warn("older generation not removed", "error", err)
	}
	return nil
}

// lead attaches the programs of the generation wherever t wants them, and nothing else.
func (d *Datapath) lead(t vswitch.Tables) error {
	ep, err := d.gen.program(endpointProgram)
	if err != nil {
		return err
	}
	up, err := d.gen.program(uplinkProgram)
	if err != nil {
		return err
	}
	d.continueCarryover(false)
	if err := d.attachBlock(ep); err != nil {
		return err
	}
	if err := failpoint.Hit("datapath.switched"); err != nil {
		return err
	}
	for _, u := range t.Uplinks {
		if err := d.attachUplink(u.Ifindex, u.Name, up); err != nil {
			return err
		}
		if u.Bound {
			if err := d.attachOut(u); err != nil {
				return err
			}
		}
	}
	d.continueCarryover(true)
	if t.SocketHooks {
		if err := d.attachHooks(d.gen); err != nil {
			return err
		}
	}
	return errors.Join(d.removeOthers(t), d.hearMACs(t))
}

// removeOthers detaches what t does not want: uplinks that went, unused hooks.
func (d *Datapath) removeOthers(t vswitch.Tables) error {
	wanted, bound := map[int]bool{}, map[int]bool{}
	for _, u := range t.Uplinks {
		wanted[u.Ifindex], bound[u.Ifindex] = true, u.Bound
	}
	names, err := pinnedLinks(d.linkDir())
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		ifindex, isUplink := ifindexOf(name)
		moved := strings.HasPrefix(name, movedPrefix) // by a daemon that was killed meanwhile
		out, isOut := outIfindexOf(name)
		if isOut && bound[out] {
			continue
		}
		if isUplink && !wanted[ifindex] || !isUplink && !t.SocketHooks || moved || isOut {
			errs = append(errs, d.removeLink(name))
		}
	}
	filters, err := findFilters(d.nl, d.o.Block)
	if err != nil {
		return err
	}
	for _, f := range filters {
		if f.ifindex != blockIndex && (!wanted[f.ifindex] || f.name == outFilterName(d.o.Block) && !bound[f.ifindex]) {
			errs = append(errs, removeFilter(d.nl, f))
		}
	}
	return errors.Join(errs...)
}

// removeOldState removes state maps of other layouts.
func (d *Datapath) removeOldState() error {
	dir := filepath.Dir(d.stateDir())
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if p := filepath.Join(dir, e.Name()); p != d.stateDir() {
			errs = append(errs, os.RemoveAll(p))
		}
	}
	return errors.Join(errs...)
}

// write carries out steps in order.
func (d *Datapath) write(steps []vswitch.Step) error {
	for _, s := range steps {
		m := d.gen.coll.Maps[s.Map]
		if m == nil {
			return fmt.Errorf("map %s: not in the object", s.Map)
		}
		if err := writeStep(m, s); err != nil {
			return fmt.Errorf("map %s: %w", s.Map, err)
		}
		d.count.rows.Add(int64(s.Rows))
	}
	return nil
}

// batchFrom is the number of rows from which one batch call is cheaper than
// single ones (0.4 against 1.6-2.4 us a row, and a few us for itself).
const batchFrom = 8

func writeStep(m *ebpf.Map, s vswitch.Step) error {
	if err := failpoint.Hit("datapath.call"); err != nil {
		return err
	}
	if s.Rows >= batchFrom {
		var err error
		if s.Values == nil {
			_, err = m.BatchDelete(s.Keys, nil)
		} else {
			_, err = m.BatchUpdate(s.Keys, s.Values, nil)
		}
		if err == nil {
			return nil
		}
		// Not for this map type or kernel, or a key that is gone already: one by
		// one says which, and rows written twice are the same rows.
	}
	for i := range s.Rows {
		key, value := s.At(i)
		if value == nil {
			if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("delete row: %w", err)
			}
			continue
		}
		if err := m.Put(key, value); err != nil {
			if errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC) {
				return fmt.Errorf("table full at %d rows: %w", m.MaxEntries(), err)
			}
			return fmt.Errorf("write row: %w", err)
		}
	}
	return nil
}

// bump adds one to epochs. Nobody else writes them, and only we, one at a time.
func (d *Datapath) bump(epochs []uint32) error {
	m := d.state[bpf.SwitchMapEpoch]
	for _, i := range epochs {
		var v uint32
		if err := failpoint.Hit("datapath.call"); err != nil {
			return err
		}
		if err := m.Lookup(&i, &v); err != nil {
			return fmt.Errorf("epoch %d: %w", i, err)
		}
		v++
		if err := m.Put(&i, &v); err != nil {
			return fmt.Errorf("epoch %d: %w", i, err)
		}
	}
	return nil
}
