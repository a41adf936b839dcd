// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// retry is how long to wait before looking again at a port, a disk, a NIC.
const retry = 5 * time.Millisecond

// port is the virtio-serial port to the host.
type port struct {
	f *os.File
	// pending came in an older session and is of the next one.
	pending []byte
}

// openPort waits for the port: its driver finds it out from the host.
func openPort(name string) (*port, error) {
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		files, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, n := range files {
			if b, _ := os.ReadFile(n); strings.TrimSpace(string(b)) == name {
				f, err := os.OpenFile(filepath.Join("/dev", filepath.Base(filepath.Dir(n))), os.O_RDWR, 0)
				if err != nil {
					return nil, err
				}
				return &port{f: f}, nil
			}
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("no virtio port %s", name)
		}
	}
}

// session is the port for one session.
func (p *port) session() *sessionPort {
	_ = p.f.SetDeadline(time.Time{})
	return &sessionPort{port: p}
}

// sessionPort reads EOF whenever the host is not connected. Before the first byte
// that means to wait; later the session is over.
type sessionPort struct {
	*port
	began  bool // reads are never concurrent
	closed atomic.Bool
}

func (s *sessionPort) Read(b []byte) (int, error) {
	for {
		if s.closed.Load() {
			return 0, os.ErrClosed
		}
		if n := copy(b, s.pending); n > 0 {
			s.pending = s.pending[n:]
			s.began = true
			return n, nil
		}
		n, err := s.f.Read(b)
		if n > 0 {
			s.began = true
			return n, nil
		}
		if s.began || !errors.Is(err, io.EOF) {
			return 0, err
		}
		time.Sleep(retry)
	}
}

// Unread keeps what is of the next session. It is called from within Read.
func (s *sessionPort) Unread(b []byte) { s.pending = b }

func (s *sessionPort) Write(b []byte) (int, error) { return s.f.Write(b) }

// Close ends the session, not the port: a Read that waits ends.
func (s *sessionPort) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	return s.f.SetDeadline(time.Unix(1, 0))
}
