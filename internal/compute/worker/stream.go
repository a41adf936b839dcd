// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package worker

import (
	"os"
	"sync"
	"time"

	"gatehouse.dev/gatehouse/hcs"
)

const (
	// ringBytes is kept of output that nobody is attached to (hcs.md §2.8).
	ringBytes = 256 << 10
	// readerBehind is how far a reader may fall back before it is dropped.
	readerBehind = 1 << 20
	// creatorBehind is how far the creating stream may, before the process waits.
	creatorBehind = 256 << 10
	// chunk is one read of a process's output; a pipe holds 64 KiB.
	chunk = 32 << 10
)

// frame is a stdio frame, header included; shared by all readers, never changed.
type frame []byte

func (f frame) kind() hcs.FrameType { return hcs.FrameType(f[0]) }

// fanout carries the output of one process to its log, to the connections that
// are attached, and to a ring while there are none.
type fanout struct {
	log *logFile // nil = none

	mu      sync.Mutex // guards the rest
	moved   *sync.Cond // a reader took frames, or went
	readers map[*reader]struct{}
	ring    []frame
	ringLen int
	dropped uint64 // bytes the ring lost
	had     bool   // somebody was attached before: the creator came
	final   frame  // the exit frame, once ended
	free    bool   // the process is gone: nothing may wait for readers any more
	pumps   int    // streams still open
	drained chan struct{}
}

func newFanout(log *logFile) *fanout {
	f := &fanout{log: log, readers: map[*reader]struct{}{}, drained: make(chan struct{})}
	f.moved = sync.NewCond(&f.mu)
	return f
}

// pump copies src until its end. Call begin for all streams first.
func (f *fanout) pump(kind hcs.FrameType, src *os.File) {
	name := "stdout"
	if kind == hcs.FrameStderr {
		name = "stderr"
	}
	buf := make([]byte, chunk)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			f.log.write(name, buf[:n], time.Now())
			f.put(frame(hcs.AppendFrame(make([]byte, 0, n+8), kind, buf[:n])))
		}
		if err != nil { // EOF; EIO of a terminal whose last user went
			break
		}
	}
	f.log.end(name, time.Now())
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pumps--; f.pumps == 0 {
		close(f.drained)
	}
}

// begin announces n streams.
func (f *fanout) begin(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pumps = n; n == 0 {
		close(f.drained)
	}
}

// put hands a frame to everybody who wants it.
func (f *fanout) put(fr frame) {
	f.mu.Lock()
	defer f.mu.Unlock()
	// The creating stream holds the process back.
	for !f.free && f.creatorFull(fr.kind()) {
		f.moved.Wait()
	}
	taken := false
	for r := range f.readers {
		if r.wants(fr.kind()) {
			taken = true
			r.push(fr)
		}
	}
	if !taken {
		f.keep(fr)
	}
}

func (f *fanout) creatorFull(kind hcs.FrameType) bool {
	for r := range f.readers {
		if r.creator && r.wants(kind) && r.queued > creatorBehind {
			return true
		}
	}
	return false
}

func (f *fanout) keep(fr frame) {
	f.ring = append(f.ring, fr)
	f.ringLen += len(fr)
	for f.ringLen > ringBytes && len(f.ring) > 1 {
		f.ringLen -= len(f.ring[0])
		f.dropped += uint64(len(f.ring[0]) - 8)
		f.ring[0] = nil
		f.ring = f.ring[1:]
	}
	if len(f.ring) > 1 && cap(f.ring) > 4*len(f.ring)+64 {
		f.ring = append([]frame(nil), f.ring...)
	}
}

// attach adds a reader. The first one is the creating stream.
func (f *fanout) attach(r *reader, replay bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.had {
		f.had, r.creator = true, true
	}
	r.f = f
	if replay {
		var rest []frame
		f.ringLen = 0
		for _, fr := range f.ring {
			if r.wants(fr.kind()) {
				r.queue = append(r.queue, fr)
				r.queued += len(fr)
			} else {
				rest = append(rest, fr)
				f.ringLen += len(fr)
			}
		}
		f.ring = rest
	}
	if f.final != nil {
		r.queue = append(r.queue, f.final)
		r.closing = true
	}
	f.readers[r] = struct{}{}
}

// finish sends the last frame to all who are attached and to those to come.
func (f *fanout) finish(last frame) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.final = last
	f.free = true
	for r := range f.readers {
		r.queue = append(r.queue, last)
		r.closing = true
		r.ready.Signal()
	}
	f.moved.Broadcast()
}

// release lets a pump go that waits for a reader: its process is gone.
func (f *fanout) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.free = true
	f.moved.Broadcast()
}

// forget drops what is kept for readers to come.
func (f *fanout) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ring, f.ringLen = nil, 0
}
