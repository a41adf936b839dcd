// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"time"

	"gatehouse.dev/gatehouse/hcs"
)

const (
	// logPoll is how often a follower looks for more. Ours: below what people notice.
	logPoll = 100 * time.Millisecond
	// maxLogLine is far beyond what a worker writes in one line; what is longer is
	// no log of ours.
	maxLogLine = 1 << 20
)

// Logs yields the lines of init's output. A follower ends when the system has
// stopped and all was read, or with ctx. The sequence can be walked once.
func (h *HCS) Logs(ctx context.Context, id string, o hcs.LogOptions) (iter.Seq2[hcs.LogRecord, error], error) {
	const op = "logs"
	s, err := h.find(ctx, op, id)
	if err != nil {
		return nil, err
	}
	r := s.row.Load()
	l := &logs{path: h.logPath(r.RuntimeID), o: o}
	if err := l.open(); err != nil {
		return nil, s.err(op, err)
	}
	if l.now == nil && r.stopped() && !r.keep() {
		return nil, s.err(op, &hcs.Error{Code: hcs.CodeNotFound, Message: "its log went with it; to keep it, create with the annotation " + hcs.AnnotationKeep})
	}
	return func(yield func(hcs.LogRecord, error) bool) {
		defer l.close()
		if err := l.walk(ctx, s, func(r hcs.LogRecord) bool { return yield(r, nil) }); err != nil && ctx.Err() == nil {
			yield(hcs.LogRecord{}, s.err(op, err))
		}
	}, nil
}

// logs reads a worker's log: the page before (path.1), then the current one, which
// may be turned while it is read.
type logs struct {
	path        string
	o           hcs.LogOptions
	before, now *page
}

// page is one file, read line by line as it grows.
type page struct {
	f    *os.File
	rest []byte // of a line that is not whole yet
}

func openPage(path string) (*page, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &page{f: f}, nil
}

func (l *logs) open() (err error) {
	if l.now, err = openPage(l.path); err != nil {
		return err
	}
	if l.before, err = openPage(l.path + ".1"); err != nil {
		return err
	}
	if l.now != nil && l.before != nil && same(l.now.f, l.before.f) { // turned just now
		l.now.f.Close()
		l.now, err = openPage(l.path)
	}
	return err
}

func same(a, b *os.File) bool {
	x, err1 := a.Stat()
	y, err2 := b.Stat()
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

func (l *logs) close() {
	for _, p := range []*page{l.before, l.now} {
		if p != nil {
			p.f.Close()
		}
	}
}

// walk yields what there is, the last lines only if so asked, and then follows.
func (l *logs) walk(ctx context.Context, s *system, yield func(hcs.LogRecord) bool) error {
	var tail []hcs.LogRecord
	lines, more := 0, true
	keep := func(r hcs.LogRecord) bool {
		if l.o.Tail == nil {
			more = yield(r)
			return more
		}
		tail = append(tail, r)
		if !r.Partial {
			lines++
		}
		for lines > *l.o.Tail || *l.o.Tail == 0 && len(tail) > 0 {
			if !tail[0].Partial {
				lines--
			}
			tail = tail[1:]
		}
		return true
	}
	stopped := s.row.Load().stopped() // before reading: what came until then is there
	for _, p := range []*page{l.before, l.now} {
		if _, err := l.read(p, keep); err != nil || !more {
			return err
		}
	}
	for _, r := range tail {
		if !yield(r) {
			return nil
		}
	}
	if !l.o.Follow {
		return nil
	}
	for {
		n, err := l.read(l.now, yield)
		if err != nil || n < 0 {
			return err
		}
		turned, err := l.turn()
		if err != nil {
			return err
		}
		if turned || n > 0 {
			continue
		}
		if stopped {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.h.life.Done():
			return nil
		case <-time.After(logPoll):
		}
		stopped = s.row.Load().stopped()
	}
}

// turn goes on to the next page if there is one; the last of the old one is read
// by then, as the worker writes there no more.
func (l *logs) turn() (bool, error) {
	if l.now == nil {
		var err error
		l.now, err = openPage(l.path)
		return l.now != nil, err
	}
	fi, err := os.Stat(l.path)
	if err != nil {
		return false, nil // removed with its system: there is no more
	}
	if mine, err := l.now.f.Stat(); err != nil || os.SameFile(fi, mine) {
		return false, err
	}
	next, err := openPage(l.path)
	if err != nil || next == nil {
		return false, err
	}
	// Between the read that found the end and the turn more may have come.
	if l.before != nil {
		l.before.f.Close()
	}
	l.before, l.now = l.now, &page{f: next.f, rest: nil}
	rest, err := io.ReadAll(io.LimitReader(l.before.f, 64<<20))
	if err != nil {
		return true, err
	}
	l.now.rest = append(append(l.now.rest, l.before.rest...), rest...)
	return true, nil
}

// read yields the whole lines that a page has now; -1 = no more are wanted.
func (l *logs) read(p *page, yield func(hcs.LogRecord) bool) (int, error) {
	if p == nil {
		return 0, nil
	}
	buf, n := make([]byte, 64<<10), 0
	for {
		for {
			i := bytes.IndexByte(p.rest, '\n')
			if i < 0 {
				break
			}
			r, ok := parseLog(p.rest[:i])
			p.rest = p.rest[i+1:]
			if !ok || !l.wants(r) {
				continue
			}
			if !l.o.Until.IsZero() && r.Time.After(l.o.Until) {
				return -1, nil
			}
			n++
			if !yield(r) {
				return -1, nil
			}
		}
		if len(p.rest) > maxLogLine {
			p.rest = nil
		}
		k, err := p.f.Read(buf)
		p.rest = append(p.rest, buf[:k]...)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

func (l *logs) wants(r hcs.LogRecord) bool {
	o := l.o
	if (o.Stdout || o.Stderr) && !(o.Stdout && r.Stream == "stdout" || o.Stderr && r.Stream == "stderr") {
		return false
	}
	return o.Since.IsZero() || !r.Time.Before(o.Since)
}

// parseLog reads "time stream P|F text".
func parseLog(line []byte) (hcs.LogRecord, bool) {
	f := bytes.SplitN(line, []byte{' '}, 4)
	if len(f) != 4 || len(f[2]) != 1 {
		return hcs.LogRecord{}, false
	}
	t, err := time.Parse(time.RFC3339Nano, string(f[0]))
	if err != nil {
		return hcs.LogRecord{}, false
	}
	r := hcs.LogRecord{Time: t, Stream: string(f[1]), Partial: f[2][0] == 'P'}
	r.SetBytes(f[3])
	return r, true
}
