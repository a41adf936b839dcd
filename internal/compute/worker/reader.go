// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package worker

import (
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"time"

	"gatehouse.dev/gatehouse/hcs"
)

// reader is one attached connection's side of the output.
type reader struct {
	conn           net.Conn
	stdout, stderr bool
	creator        bool // see fanout.attach

	// The rest is guarded by f.mu.
	f       *fanout
	ready   *sync.Cond // the queue grew, or an end
	queue   []frame
	queued  int // bytes, those being written included
	closing bool
	gone    bool
	overrun bool
}

func (r *reader) wants(k hcs.FrameType) bool {
	if r.gone || r.overrun {
		return false
	}
	return k == hcs.FrameStdout && r.stdout || k == hcs.FrameStderr && r.stderr
}

func (r *reader) push(fr frame) {
	if r.creator {
		// After the process's end nobody waits for the creator any more; what is left
		// in the pipes is little, unless a descendant floods them.
		if r.queued > 4*readerBehind {
			r.f.dropped += uint64(len(fr) - 8)
			return
		}
	} else if r.queued+len(fr) > readerBehind {
		r.overrun = true
		r.queue = nil
		// The frame on its way must be finished, or the error would stand within it.
		_ = r.conn.SetWriteDeadline(time.Now().Add(time.Second))
		r.ready.Signal()
		return
	}
	r.queue = append(r.queue, fr)
	r.queued += len(fr)
	r.ready.Signal()
}

// run writes until the end or until the connection breaks, and closes it.
func (r *reader) run() {
	f := r.f
	defer r.conn.Close()
	f.mu.Lock()
	for {
		for len(r.queue) == 0 && !r.closing && !r.gone && !r.overrun {
			r.ready.Wait()
		}
		if len(r.queue) == 0 || r.gone || r.overrun {
			break
		}
		batch := r.queue
		r.queue = nil
		n := 0
		bufs := make(net.Buffers, len(batch))
		for i, fr := range batch {
			bufs[i] = fr
			n += len(fr)
		}
		f.mu.Unlock()
		_, err := bufs.WriteTo(r.conn)
		f.mu.Lock()
		r.queued = max(r.queued-n, 0)
		f.moved.Broadcast()
		if err != nil {
			r.gone = true
		}
	}
	overrun := r.overrun && !r.gone
	r.gone = true
	delete(f.readers, r)
	f.moved.Broadcast()
	f.mu.Unlock()
	if overrun {
		_ = r.conn.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = r.conn.Write(errorFrame(hcs.CodeConnectionClosed, fmt.Sprintf("attach: reader is more than %d bytes behind, dropped", readerBehind)))
	}
}

// stop ends run: the other side is gone.
func (r *reader) stop() {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	r.gone = true
	r.queue = nil
	_ = r.conn.SetWriteDeadline(time.Now())
	r.ready.Signal()
	r.f.moved.Broadcast()
}

func jsonFrame(k hcs.FrameType, v any) frame {
	b, err := json.Marshal(v)
	if err != nil {
		b = []byte("{}")
	}
	return hcs.AppendFrame(nil, k, b)
}

func errorFrame(c hcs.Code, msg string) frame {
	return jsonFrame(hcs.FrameError, hcs.ResultError{Error: int32(c), ErrorMessage: msg})
}
