// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// contest measures paths against each other: each round takes every metric of
// every path once, so that a drift of the machine hits all of them alike.
type contest struct {
	title   string
	family  int
	paths   []*path
	metrics []metric
	goals   []goal
	limits  []limit
	notes   []string

	cells map[cell][]sample
}

// goal is a ratio of two paths in one column.
type goal struct {
	column       column
	ours, theirs string
	want         float64 // at least; for columns where less is better, at most
}

// limit is a figure of one path that has a goal by itself.
type limit struct {
	path, column string
	most         float64
}

type cell struct{ path, column string }

type sample struct {
	value float64
	noisy bool
}

// run measures and reports. Errors of single cells do not end it; they are
// returned together.
func (c *contest) run(r *report, rounds int) error {
	c.cells = map[cell][]sample{}
	var errs []error
	gone := map[string]bool{} // a path or metric that failed is not tried again
	fail := func(p *path, what string, err error) {
		err = fmt.Errorf("%s, IPv%d, %s: %w", p.name, c.family, what, p.explain(err))
		errs = append(errs, err)
	}
	var paths []*path
	for _, p := range c.paths {
		to, ok := p.target(c.family)
		if !ok {
			continue
		}
		if err := p.reach(to); err != nil {
			fail(p, "first contact", err)
			continue
		}
		paths = append(paths, p)
		for name, v := range p.once {
			c.cells[cell{p.name, name}] = []sample{{value: v}}
		}
	}
	for i := range rounds {
		for _, m := range c.metrics {
			for j := range paths {
				p := paths[(i+j)%len(paths)]
				if gone[p.name+m.name] {
					continue
				}
				if err := p.client.s.b.going(); err != nil {
					return err
				}
				to, _ := p.target(c.family)
				if p.fresh && m.name != metricFlows.name {
					if err := p.forget(); err != nil {
						return err
					}
				}
				w := watchCPU()
				v, err := m.measure(p, to)
				if err != nil { // on a busy machine somebody may have come too late
					w = watchCPU()
					v, err = m.measure(p, to)
				}
				if err != nil {
					gone[p.name+m.name] = true
					fail(p, m.name, err)
					continue
				}
				_, foreign := w.used()
				for k, col := range m.columns {
					at := cell{p.name, col.name}
					c.cells[at] = append(c.cells[at], sample{v[k], foreign > quiet})
				}
			}
		}
	}
	if len(paths) == 0 {
		return errors.Join(errs...)
	}
	errs = append(errs, c.report(r, paths, rounds))
	return errors.Join(errs...)
}

// reach waits until the first connection is answered.
func (p *path) reach(to netip.AddrPort) error {
	return p.withServer("accept", func(*half) (err error) {
		for end := time.Now().Add(8 * time.Second); time.Now().Before(end) && p.client.s.b.going() == nil; {
			if _, err = p.ask(1, "crr", to.String(), "1"); err == nil {
				return nil
			}
		}
		return err
	})
}

// value is the median of the quiet samples; where strangers were never quiet, of
// all, which the second result says.
func (c *contest) value(path, col string) (v float64, noisy, ok bool) {
	var calm, all series
	for _, s := range c.cells[cell{path, col}] {
		all = append(all, s.value)
		if !s.noisy {
			calm = append(calm, s.value)
		}
	}
	if len(calm) > 0 {
		return calm.median(), false, true
	}
	return all.median(), true, len(all) > 0
}

func (c *contest) report(r *report, paths []*path, rounds int) error {
	var cols []column
	for _, m := range c.metrics {
		cols = append(cols, m.columns...)
	}
	for _, p := range paths {
		for name := range p.once {
			if !slices.ContainsFunc(cols, func(c column) bool { return c.name == name }) {
				cols = append(cols, onceColumn(name))
			}
		}
	}
	slices.SortStableFunc(cols[len(c.metricColumns()):], func(a, b column) int { return strings.Compare(a.name, b.name) })
	r.title("%s, IPv%d (%d rounds, interleaved, medians)", c.title, c.family, rounds)
	var rows []string
	anyNoise := false
	for _, p := range paths {
		row := p.name
		for _, col := range cols {
			v, noisy, ok := c.value(p.name, col.name)
			switch {
			case !ok:
				row += " | –"
			case noisy:
				anyNoise = true
				row += " | ~" + fmt.Sprintf(col.format, v)
			default:
				row += " | " + fmt.Sprintf(col.format, v)
			}
			s := samples{Row: p.name, Column: col.name}
			for _, x := range c.cells[cell{p.name, col.name}] {
				s.Values, s.Noisy = append(s.Values, x.value), append(s.Noisy, x.noisy)
			}
			if len(s.Values) > 0 {
				r.last().Samples = append(r.last().Samples, s)
			}
		}
		rows = append(rows, row)
	}
	head := "path"
	for _, col := range cols {
		head += " | " + col.name
	}
	r.table(head, rows...)
	if anyNoise {
		r.note("~: other processes used more than %.0f %% of a CPU during every sample.", quiet*100)
	}
	err := c.reportGoals(r, paths)
	for _, n := range c.notes {
		r.note("%s", n)
	}
	return err
}

func (c *contest) metricColumns() (cols []column) {
	for _, m := range c.metrics {
		cols = append(cols, m.columns...)
	}
	return cols
}

func onceColumn(name string) column {
	format := "%.0f"
	if strings.HasSuffix(name, " ms") {
		format = "%.2f"
	}
	return column{name: name, format: format, less: true}
}

// reportGoals compares; for packets it also says what our programs took of each,
// which is where a missed goal is explained or not.
func (c *contest) reportGoals(r *report, paths []*path) error {
	var rows []string
	var errs []error
	hinted := map[string]bool{}
	for _, g := range c.goals {
		a, noisyA, okA := c.value(g.ours, g.column.name)
		b, noisyB, okB := c.value(g.theirs, g.column.name)
		if !okA || !okB || b == 0 {
			continue
		}
		ratio, sign, mark, verdict := a/b, "≥", "", "no"
		if g.column.less {
			sign = "≤"
		}
		if noisyA || noisyB {
			mark = "~"
		}
		if g.column.less == (ratio <= g.want) || ratio == g.want {
			verdict = "yes"
		}
		if g.want == 0 {
			verdict = ""
		}
		hint := ""
		if g.column.name == colKpps.name && !hinted[g.ours] {
			hinted[g.ours] = true
			h, err := c.hint(paths, g.ours, a)
			if err != nil {
				errs = append(errs, err)
			}
			hint = h
		}
		want := fmt.Sprintf("%s %.2f", sign, g.want)
		if g.want == 0 {
			want = ""
		}
		rows = append(rows, fmt.Sprintf("%s: %s / %s | %s%.2f | %s | %s | %s", g.column.name, g.ours, g.theirs, mark, ratio, want, verdict, hint))
	}
	for _, l := range c.limits {
		v, _, ok := c.value(l.path, l.column)
		if !ok {
			continue
		}
		verdict := "no"
		if v <= l.most {
			verdict = "yes"
		}
		rows = append(rows, fmt.Sprintf("%s: %s | %.2f | ≤ %.0f | %s | ", l.column, l.path, v, l.most, verdict))
	}
	if len(rows) > 0 {
		r.table("ratio | seen | goal | met | our programs, of a packet's whole way", rows...)
	}
	return errors.Join(errs...)
}

// hint measures packets once more with the kernel's program statistics on. These
// cost a packet two clock reads for each program, of which about half is in the
// figure.
func (c *contest) hint(paths []*path, name string, kpps float64) (string, error) {
	i := slices.IndexFunc(paths, func(p *path) bool { return p.name == name })
	if i < 0 {
		return "", nil
	}
	p := paths[i]
	to, _ := p.target(c.family)
	pr, err := profile(p.pins)
	if err != nil {
		return "", err
	}
	n0 := p.meter.count()
	_, _, err = p.packets(to, 300*time.Millisecond)
	programs := pr.end(float64(p.meter.count() - n0))
	if err != nil {
		return "", fmt.Errorf("%s: profile: %w", name, err)
	}
	if programs == "" {
		programs = "none"
	}
	return fmt.Sprintf("%s; whole %.0f ns", programs, 1e6/kpps), nil
}
