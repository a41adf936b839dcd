// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package uvm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// maxQMP bounds one message; the longest real ones are some tens of KiB.
const maxQMP = 1 << 20

// ErrQMPClosed: the machine's monitor is gone, and so is the machine.
var ErrQMPClosed = errors.New("qmp: closed")

// QMPError is a refusal by QEMU.
type QMPError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *QMPError) Error() string { return "qemu: " + e.Desc }

// QMPEvent is something that QEMU told by itself.
type QMPEvent struct {
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
}

// QMP is the machine protocol's client (QEMU's docs/interop/qmp-spec). Calls may
// be made from several goroutines.
type QMP struct {
	conn *net.UnixConn

	send sync.Mutex // one message, with its descriptors, at a time

	mu    sync.Mutex // guards the rest
	next  uint64
	waits map[uint64]chan qmpMessage
	err   error
	done  chan struct{}
}

type qmpMessage struct {
	QMPEvent
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Error    *QMPError       `json:"error"`
	ID       *uint64         `json:"id"`
}

// NewQMP speaks on conn, which it owns. event is called for each event in order,
// and must not call back; the end is the end of Done.
func NewQMP(conn *net.UnixConn, event func(QMPEvent)) *QMP {
	q := &QMP{conn: conn, waits: map[uint64]chan qmpMessage{}, done: make(chan struct{})}
	go q.read(event)
	return q
}

func (q *QMP) read(event func(QMPEvent)) {
	in := bufio.NewScanner(q.conn)
	in.Buffer(make([]byte, 0, 4096), maxQMP)
	err := ErrQMPClosed
	for in.Scan() {
		var m qmpMessage
		if e := json.Unmarshal(in.Bytes(), &m); e != nil {
			err = fmt.Errorf("%w: %w", ErrQMPClosed, e)
			break
		}
		switch {
		case m.Event != "":
			event(m.QMPEvent)
		case m.ID != nil:
			q.mu.Lock()
			c := q.waits[*m.ID]
			delete(q.waits, *m.ID)
			q.mu.Unlock()
			if c != nil {
				c <- m
			}
		}
	}
	q.mu.Lock()
	q.err = err
	q.mu.Unlock()
	close(q.done)
	q.conn.Close()
}

// Done is closed when the monitor is gone.
func (q *QMP) Done() <-chan struct{} { return q.done }

// Hello ends the negotiation: no call can be made before it.
func (q *QMP) Hello(ctx context.Context) error { return q.Call(ctx, "qmp_capabilities", nil, nil) }

// Call executes a command; result may be nil. Descriptors go with it, for getfd
// and add-fd. A refusal is a *QMPError.
func (q *QMP) Call(ctx context.Context, command string, args, result any, fds ...int) error {
	c := make(chan qmpMessage, 1)
	q.mu.Lock()
	q.next++
	id := q.next
	q.waits[id] = c
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		delete(q.waits, id)
		q.mu.Unlock()
	}()
	b, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, args, id})
	if err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	b = append(b, '\n')
	q.send.Lock()
	stop := context.AfterFunc(ctx, func() { q.conn.Close() }) // half a message cannot be taken back
	if len(fds) > 0 {
		_, _, err = q.conn.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
	} else {
		_, err = q.conn.Write(b)
	}
	stop()
	q.send.Unlock()
	if err != nil {
		return fmt.Errorf("qmp %s: %w: %w", command, ErrQMPClosed, err)
	}
	select {
	case m := <-c:
		if m.Error != nil {
			return fmt.Errorf("qmp %s: %w", command, m.Error)
		}
		if result != nil {
			if err := json.Unmarshal(m.Return, result); err != nil {
				return fmt.Errorf("qmp %s: answer: %w", command, err)
			}
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("qmp %s: %w", command, ctx.Err())
	case <-q.done:
		q.mu.Lock()
		defer q.mu.Unlock()
		return fmt.Errorf("qmp %s: %w", command, q.err)
	}
}
