// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package proto

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/hashicorp/yamux"

	"gatehouse.dev/gatehouse/hcs"
)

// Conn is the byte stream to a guest: a socket, or anything whose Close ends a
// pending Read and Write.
type Conn interface {
	io.ReadWriteCloser
}

// maxWaiting is how many notifications may wait for their reader; the next one
// waits in the guest.
const maxWaiting = 64

// Session is a session seen from the host. Its methods may be called concurrently.
type Session struct {
	mux     *yamux.Session
	control net.Conn
	notices chan Message
	done    chan struct{}

	write sync.Mutex // one message at a time on the control stream

	mu    sync.Mutex // guards the rest
	next  uint64
	calls map[uint64]pending
	err   error
}

type pending struct {
	typ    Type
	answer chan Message // room for one
}

// Connect does the preamble on conn and opens the control stream. It ends with
// ctx; then, and on any error, conn is closed.
func Connect(ctx context.Context, conn Conn) (*Session, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	s, err := connect(conn)
	if !stop() && err == nil {
		s.Close()
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			return nil, &hcs.Error{Code: hcs.CodeConnectionTimeout, Op: "guest", Message: "no handshake", Err: context.Cause(ctx)}
		}
		code := hcs.CodeConnectionClosed
		if errors.Is(err, ErrVersion) {
			code = hcs.CodeUnsupportedProtocolVersion
		}
		return nil, &hcs.Error{Code: code, Op: "guest", Err: err}
	}
	return s, nil
}

func connect(conn Conn) (*Session, error) {
	hello := NewHello()
	if _, err := conn.Write(hello.Bytes()); err != nil {
		return nil, err
	}
	if _, err := ReadWelcome(conn, hello); err != nil {
		return nil, err
	}
	mux, err := Mux(conn, true)
	if err != nil {
		return nil, err
	}
	control, err := mux.Open()
	if err != nil {
		mux.Close()
		return nil, err
	}
	s := &Session{mux: mux, control: control, notices: make(chan Message, maxWaiting), done: make(chan struct{}),
		calls: map[uint64]pending{}}
	go s.read()
	go s.refuse()
	return s, nil
}

// read takes messages off the control stream until it ends.
func (s *Session) read() {
	defer close(s.notices)
	for {
		m, err := ReadMessage(s.control)
		if err != nil {
			s.fail(err)
			return
		}
		switch {
		case m.Type.IsResponse():
			s.mu.Lock()
			p, ok := s.calls[m.ID]
			if ok && m.Type == p.typ.Response() {
				delete(s.calls, m.ID)
				p.answer <- m
			}
			s.mu.Unlock()
			if ok && m.Type != p.typ.Response() {
				s.fail(fmt.Errorf("%w: %v answers %v", ErrMessage, m.Type, p.typ))
				return
			} // else the answer of a call that was given up: dropped
		case m.Type.IsNotification():
			select {
			case s.notices <- m:
			case <-s.mux.CloseChan():
				s.fail(io.EOF)
				return
			}
		default:
			s.fail(fmt.Errorf("%w: a guest sends no %v", ErrMessage, m.Type))
			return
		}
	}
}

// refuse ends the session when the guest opens a stream.
func (s *Session) refuse() {
	if st, err := s.mux.Accept(); err == nil {
		st.Close()
		s.fail(fmt.Errorf("%w: the guest opened a stream", ErrMessage))
	}
}

// fail ends the session, once.
func (s *Session) fail(err error) {
	s.mu.Lock()
	first := s.err == nil
	if first {
		s.err = &hcs.Error{Code: hcs.CodeConnectionClosed, Op: "guest", Err: err}
		if errors.Is(err, ErrMessage) {
			s.err = &hcs.Error{Code: hcs.CodeProtocolError, Op: "guest", Err: err}
		}
		close(s.done)
	}
	s.mu.Unlock()
	if first {
		s.mux.Close()
	}
}

// Close ends the session; calls under way fail.
func (s *Session) Close() error {
	s.fail(net.ErrClosed)
	return nil
}

// Done is closed when the session has ended; then Err says why.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err is nil while the session lasts, then an *hcs.Error.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Notifications must be read until it is closed, at the end of the session.
func (s *Session) Notifications() <-chan Message { return s.notices }

// Call sends a request and decodes its response; an answer with a Result is an
// *hcs.Error. When ctx ends first the answer is dropped when it comes. Limits of
// time are the caller's: see CallTimeout.
func (s *Session) Call(ctx context.Context, t Type, req, resp any) error {
	answer := make(chan Message, 1)
	s.mu.Lock()
	if err := s.err; err != nil {
		s.mu.Unlock()
		return err
	}
	s.next++
	id := s.next
	s.calls[id] = pending{t, answer}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.calls, id)
		s.mu.Unlock()
	}()
	if err := s.send(t, id, req); err != nil {
		return err
	}
	select {
	case m := <-answer:
		return s.decode(m, resp)
	case <-s.done:
		return s.Err()
	case <-ctx.Done():
		code := hcs.CodeOperationTimeout
		if errors.Is(ctx.Err(), context.Canceled) {
			code = hcs.CodeTerminated
		}
		return &hcs.Error{Code: code, Op: "guest", Message: "no answer to " + t.String(), Err: context.Cause(ctx)}
	}
}

// Tell sends a request that has no response: the shutdown of the VM.
func (s *Session) Tell(t Type, req any) error {
	s.mu.Lock()
	s.next++
	id := s.next
	s.mu.Unlock()
	return s.send(t, id, req)
}

func (s *Session) send(t Type, id uint64, doc any) error {
	m, err := Encode(t, id, doc)
	if err != nil {
		return &hcs.Error{Code: hcs.CodeInvalidJSON, Op: "guest", Err: err}
	}
	b, err := m.Bytes()
	if err != nil {
		return &hcs.Error{Code: hcs.CodeInvalidArg, Op: "guest", Err: err}
	}
	s.write.Lock()
	_, err = s.control.Write(b)
	s.write.Unlock()
	if err != nil {
		s.fail(err)
		return s.Err()
	}
	return nil
}

func (s *Session) decode(m Message, resp any) error {
	var r Result
	err := Decode(m.Body, &r)
	if err == nil {
		if err := r.Err(); err != nil {
			return err
		}
		if resp == nil {
			return nil
		}
		err = Decode(m.Body, resp)
	}
	if err != nil {
		return &hcs.Error{Code: hcs.CodeProtocolError, Op: "guest", Err: err}
	}
	return nil
}

// Stream is one stream: CloseWrite ends this side's direction, Close both.
type Stream struct{ *yamux.Stream }

// CloseWrite sends the end of the host's direction; reading goes on.
func (s Stream) CloseWrite() error { return s.Stream.Close() }

// Open opens a stream. A guest that acknowledges none makes it wait for ctx.
func (s *Session) Open(ctx context.Context, head StreamHead) (Stream, error) {
	type opened struct {
		stream *yamux.Stream
		err    error
	}
	c := make(chan opened, 1)
	go func() {
		st, err := s.mux.OpenStream()
		if err == nil {
			if err = WriteHead(st, head); err != nil {
				st.Close()
			}
		}
		c <- opened{st, err}
	}()
	select {
	case o := <-c:
		if o.err != nil {
			return Stream{}, &hcs.Error{Code: hcs.CodeConnectionClosed, Op: "guest", Message: "open " + head.Stream, Err: o.err}
		}
		return Stream{o.stream}, nil
	case <-ctx.Done():
		go func() {
			if o := <-c; o.err == nil {
				o.stream.Close()
			}
		}()
		return Stream{}, &hcs.Error{Code: hcs.CodeOperationTimeout, Op: "guest", Message: "open " + head.Stream, Err: context.Cause(ctx)}
	}
}
