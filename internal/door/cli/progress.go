// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"gatehouse.dev/gatehouse/images"
)

// bars shows progress: a bar for each blob on a terminal, a plain line for each
// step elsewhere.
type bars struct {
	w     io.Writer
	width int // of the terminal; 0 = no terminal
	order []string
	last  map[string]images.Progress
	drawn int // lines on the screen
	when  time.Time
}

func (a *app) progress() *bars {
	b := &bars{w: a.err, last: map[string]images.Progress{}}
	if f, ok := a.err.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil {
			b.width = w
		}
	}
	return b
}

// line takes one line of progress.
func (b *bars) line(p images.Progress) {
	if p.Status == images.StatusDone || p.Status == images.StatusError {
		return
	}
	old, known := b.last[p.ID]
	if !known {
		b.order = append(b.order, p.ID)
	}
	b.last[p.ID] = p
	if b.width == 0 {
		// Where it fails at once, the error is to be the only line.
		if p.Status == images.StatusResolving || p.Status == images.StatusReading {
			return
		}
		if !known || old.Status != p.Status {
			fmt.Fprintln(b.w, plainProgress(p))
		}
		return
	}
	if known && old.Status == p.Status && time.Since(b.when) < 50*time.Millisecond {
		return
	}
	b.draw()
}

func (b *bars) draw() {
	b.when = time.Now()
	if b.drawn > 0 {
		fmt.Fprintf(b.w, "\x1b[%dA", b.drawn)
	}
	for _, id := range b.order {
		fmt.Fprintf(b.w, "\x1b[2K%s\n", barProgress(b.last[id], b.width-1))
	}
	b.drawn = len(b.order)
}

func (b *bars) done() {
	if b.width > 0 && len(b.order) > 0 {
		b.draw()
	}
}

func subject(p images.Progress) string {
	if p.ID == "" {
		return ""
	}
	return images.ShortID(p.ID) + ": "
}

// plainProgress is a step for a log.
func plainProgress(p images.Progress) string {
	s := subject(p) + p.Status
	if p.Total > 0 {
		s += " " + si(uint64(p.Total))
	}
	if p.Message != "" {
		s += " (" + p.Message + ")"
	}
	return s
}

// barProgress is a step within width columns.
func barProgress(p images.Progress, width int) string {
	head := fmt.Sprintf("%-14s%-12s", subject(p), p.Status)
	tail := ""
	whole := p.Status == images.StatusComplete || p.Status == images.StatusExists
	switch {
	case whole && p.Total > 0:
		tail = " " + si(uint64(p.Total))
	case p.Total > 0:
		tail = fmt.Sprintf(" %8s / %8s", si(uint64(p.Current)), si(uint64(p.Total)))
	case p.Current > 0:
		tail = " " + si(uint64(p.Current))
	case p.Message != "":
		tail = " " + p.Message
	}
	room := width - len(head) - len(tail) - 3
	bar := ""
	if p.Total > 0 && !whole && room >= 10 {
		room = min(room, 40)
		n := int(min(p.Current, p.Total) * int64(room) / p.Total)
		bar = " [" + strings.Repeat("=", n) + strings.Repeat(" ", room-n) + "]"
	}
	s := head + bar + tail
	if len(s) > width {
		s = s[:max(width, 0)]
	}
	return strings.TrimRight(s, " ")
}
