// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package worker

import (
	"errors"
	"os"
	"sync"
)

// stdinBehind is how much input waits for a process that does not read; beyond it
// the writer waits.
const stdinBehind = 256 << 10

// stdin carries input to a process. Control frames overtake what waits here.
type stdin struct {
	mu      sync.Mutex // guards the rest
	changed *sync.Cond
	to      *os.File // nil before the start
	queue   [][]byte
	queued  int
	eof     bool // no more will come: close once the queue is out
	dead    bool
	held    bool // a writer is attached
}

func newStdin() *stdin {
	s := &stdin{}
	s.changed = sync.NewCond(&s.mu)
	return s
}

var errStdinClosed = errors.New("stdin is closed")

// write queues a copy of p, after waiting for room.
func (s *stdin) write(p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.queued > stdinBehind && !s.dead && !s.eof {
		s.changed.Wait()
	}
	if s.dead || s.eof {
		return errStdinClosed
	}
	s.queue = append(s.queue, append([]byte(nil), p...))
	s.queued += len(p)
	s.changed.Broadcast()
	return nil
}

// end closes the process's stdin once all was delivered. Again is no error.
func (s *stdin) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.eof = true
	s.changed.Broadcast()
}

// cut drops everything: the process is gone.
func (s *stdin) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dead = true
	s.queue = nil
	if s.to != nil {
		s.to.Close()
	}
	s.changed.Broadcast()
}

// run delivers to f, which it closes unless it is a terminal.
func (s *stdin) run(f *os.File, terminal bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		f.Close()
		return
	}
	if !terminal {
		s.to = f
	}
	for {
		for len(s.queue) == 0 && !s.eof && !s.dead {
			s.changed.Wait()
		}
		if s.dead {
			return
		}
		if len(s.queue) == 0 {
			if terminal {
				return
			}
			s.dead = true
			f.Close()
			return
		}
		p := s.queue[0]
		s.queue = s.queue[1:]
		s.mu.Unlock()
		_, err := f.Write(p)
		s.mu.Lock()
		s.queued -= len(p)
		if err != nil && !s.dead {
			s.dead = true
			s.queue = nil
			if !terminal {
				f.Close()
			}
		}
		s.changed.Broadcast()
	}
}

// hold makes the caller the one writer; false if there is one.
func (s *stdin) hold() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held {
		return false
	}
	s.held = true
	return true
}

func (s *stdin) unhold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = false
}

func (s *stdin) isHeld() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}
