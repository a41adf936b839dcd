// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package worker

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Words of JournalEntry.What.
const (
	WhatCreated        = "created"
	WhatStarted        = "started"
	WhatPaused         = "paused"
	WhatResumed        = "resumed"
	WhatProcessCreated = "process-created"
	WhatProcessExited  = "process-exited"
	WhatOOM            = "oom"
	WhatCrashed        = "crashed"
	WhatExited         = "exited"
)

// journalKeep is how many entries stay; beyond twice that the oldest go, those of
// the system itself excepted. A probe every second makes 2 an hour × 3600.
const journalKeep = 4096

// maxEntry bounds a line when reading.
const maxEntry = 64 << 10

// journal is the worker's list of facts: written to a file first, then to be read.
type journal struct {
	path string

	mu      sync.Mutex // guards the rest
	f       *os.File
	entries []JournalEntry
	seq     uint64
	changed chan struct{} // closed and replaced at each entry
	closed  bool
	torn    bool // the file's last line was cut short
}

func openJournal(dir string) (*journal, error) {
	p := filepath.Join(dir, "journal")
	f, err := os.OpenFile(p, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return &journal{path: p, f: f, changed: make(chan struct{})}, nil
}

// add writes an entry down and then shows it: it outlives this process from here
// on. That it outlives the host too is sync's; no container does. An entry that cannot be written (a
// full disk) is shown all the same: the daemon stores it too.
func (j *journal) add(e JournalEntry) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return errors.New("journal: closed")
	}
	j.seq++
	e.Seq = j.seq
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	b, err := json.Marshal(e)
	if err == nil {
		if j.torn {
			b = append([]byte{'\n'}, b...)
		}
		_, err = j.f.Write(append(b, '\n'))
		j.torn = err != nil
	}
	j.entries = append(j.entries, e)
	if len(j.entries) > 2*journalKeep {
		err = errors.Join(err, j.compact())
	}
	close(j.changed)
	j.changed = make(chan struct{})
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// sync brings what was written to the disk.
func (j *journal) sync() error {
	j.mu.Lock()
	f, closed := j.f, j.closed
	j.mu.Unlock()
	if closed {
		return nil
	}
	if err := f.Sync(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// compact drops old entries of processes and rewrites the file.
func (j *journal) compact() error {
	old := len(j.entries) - journalKeep
	var kept []JournalEntry
	for i, e := range j.entries {
		if i >= old || (e.What != WhatProcessCreated && e.What != WhatProcessExited) || e.Process == initKey {
			kept = append(kept, e)
		}
	}
	j.entries = kept
	var b bytes.Buffer
	for _, e := range kept {
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		b.Write(append(line, '\n'))
	}
	tmp := j.path + ".new"
	if err := os.WriteFile(tmp, b.Bytes(), 0o600); err != nil {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, j.path); err != nil {
		f.Close()
		return err
	}
	j.f.Close()
	j.f = f
	return nil
}

// after returns the entries after seq, a channel that closes at the next one, and
// whether there will be none.
func (j *journal) after(seq uint64) ([]JournalEntry, <-chan struct{}, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	i := len(j.entries)
	for i > 0 && j.entries[i-1].Seq > seq {
		i--
	}
	return append([]JournalEntry(nil), j.entries[i:]...), j.changed, j.closed
}

func (j *journal) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.closed {
		j.closed = true
		close(j.changed)
		j.f.Close()
	}
}

// ReadJournal reads the journal of the worker in dir, dead or alive. A last line
// that was cut short is left out. An absent journal is an error (fs.ErrNotExist).
func ReadJournal(dir string) ([]JournalEntry, error) {
	f, err := os.Open(filepath.Join(dir, "journal"))
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	defer f.Close()
	return parseJournal(f)
}

func parseJournal(r io.Reader) ([]JournalEntry, error) {
	var out []JournalEntry
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), maxEntry)
	for s.Scan() {
		var e JournalEntry
		// A line that is none (cut short by a full disk, and written over) hides
		// nothing that came after it.
		if json.Unmarshal(s.Bytes(), &e) != nil || e.Seq == 0 || e.What == "" {
			continue
		}
		out = append(out, e)
	}
	if err := s.Err(); err != nil {
		return out, fmt.Errorf("read journal: %w", err)
	}
	return out, nil
}
