// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package worker

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	defaultLogMax = 10 << 20
	// maxLogText is the most text of one log line; the rest of a longer line
	// follows in further ones, marked P.
	maxLogText = 16 << 10
)

// logFile writes a process's output, one line each: time, stream, F for a whole
// line or P for a part that the next one of the stream goes on with, text. A disk
// that takes nothing loses output and never blocks.
type logFile struct {
	path string
	max  int64

	mu      sync.Mutex // guards the rest
	f       *os.File
	size    int64
	part    map[string][]byte // unfinished line of each stream
	buf     bytes.Buffer
	dropped uint64 // bytes that could not be written
}

func openLog(path string, limit int64) (*logFile, error) {
	if path == "" {
		return nil, nil
	}
	if limit <= 0 {
		limit = defaultLogMax
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	l := &logFile{path: path, max: limit, part: map[string][]byte{}}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	return l, nil
}

func (l *logFile) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.f, l.size = f, st.Size()
	return nil
}

// write takes bytes as they came.
func (l *logFile) write(stream string, p []byte, now time.Time) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	stamp := now.UTC().Format(time.RFC3339Nano)
	line := func(tag byte, a, b []byte) {
		l.buf.WriteString(stamp)
		l.buf.WriteByte(' ')
		l.buf.WriteString(stream)
		l.buf.WriteByte(' ')
		l.buf.WriteByte(tag)
		l.buf.WriteByte(' ')
		l.buf.Write(a)
		l.buf.Write(b)
		l.buf.WriteByte('\n')
		if int64(l.buf.Len()) >= 256<<10 {
			l.flush()
		}
	}
	part := l.part[stream]
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		n := i
		if i < 0 {
			n = len(p)
		}
		if room := maxLogText - len(part); n > room {
			line('P', part, p[:room])
			part, p = part[:0], p[room:]
			continue
		}
		if i < 0 {
			part = append(part, p...)
			break
		}
		line('F', part, p[:n])
		part, p = part[:0], p[n+1:]
	}
	l.part[stream] = part
	l.flush()
}

// end writes what is left of a stream that ended without a newline.
func (l *logFile) end(stream string, now time.Time) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.part[stream]; len(p) > 0 {
		fmt.Fprintf(&l.buf, "%s %s P %s\n", now.UTC().Format(time.RFC3339Nano), stream, p)
	}
	delete(l.part, stream)
	l.flush()
}

func (l *logFile) flush() {
	b := l.buf.Bytes()
	defer l.buf.Reset()
	for len(b) > 0 {
		if l.f == nil && l.open() != nil {
			l.f = nil
			l.dropped += uint64(len(b))
			return
		}
		if l.size > 0 && l.size+int64(len(b)) > l.max {
			// Fill up to the limit by whole lines before turning the page.
			if room := l.max - l.size; room > 0 {
				if i := bytes.LastIndexByte(b[:room], '\n'); i >= 0 {
					l.put(b[:i+1])
					b = b[i+1:]
				}
			}
			l.rotate()
			if l.f == nil {
				continue
			}
		}
		n := len(b)
		if int64(n) > l.max {
			if i := bytes.LastIndexByte(b[:l.max], '\n'); i >= 0 {
				n = i + 1
			}
		}
		l.put(b[:n])
		b = b[n:]
	}
}

// put appends whole lines or nothing.
func (l *logFile) put(b []byte) {
	n, err := l.f.Write(b)
	if err != nil {
		if n > 0 && l.f.Truncate(l.size) != nil {
			l.size += int64(n)
		}
		l.dropped += uint64(len(b))
		return
	}
	l.size += int64(n)
}

func (l *logFile) rotate() {
	if err := os.Rename(l.path, l.path+".1"); err != nil && !os.IsNotExist(err) {
		// Better one page too long than none.
		l.size = 0
		return
	}
	l.f.Close()
	l.f = nil
	if l.open() != nil {
		l.f = nil
	}
}

func (l *logFile) close() uint64 {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != nil {
		l.f.Close()
		l.f = nil
	}
	return l.dropped
}
