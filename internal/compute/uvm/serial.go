// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package uvm

import (
	"io"
	"os"
	"sync"
	"time"
)

// tailBytes of a stream are kept in memory, for reports.
const tailBytes = 16 << 10

// console keeps what a machine prints: the last of it in memory, and up to twice
// a limit in a file, whose older half is moved to <path>.1. It never blocks the
// machine on a disk that is full.
type console struct {
	path string // "" = in memory only
	max  int64

	mu   sync.Mutex // guards the rest
	tail []byte
	f    *os.File
	size int64
	last time.Time // of the last byte
}

// run reads until the stream ends.
func (c *console) run(r io.Reader) {
	b := make([]byte, 16<<10)
	for {
		n, err := r.Read(b)
		if n > 0 {
			c.write(b[:n])
		}
		if err != nil {
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.f != nil {
		c.f.Close()
		c.f = nil
	}
	c.path = ""
}

func (c *console) write(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = time.Now()
	c.tail = append(c.tail, p...)
	if n := len(c.tail) - tailBytes; n > 0 {
		c.tail = append(c.tail[:0], c.tail[n:]...)
	}
	if c.path == "" {
		return
	}
	if c.f != nil && c.size > c.max {
		c.f.Close()
		c.f, c.size = nil, 0
		_ = os.Rename(c.path, c.path+".1")
	}
	if c.f == nil {
		f, err := os.OpenFile(c.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return
		}
		c.f = f
	}
	n, _ := c.f.Write(p)
	c.size += int64(n)
}

// Tail is the last 16 KiB, and when the last byte came.
func (c *console) Tail() (string, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.tail), c.last
}
