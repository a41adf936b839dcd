// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package proto

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/hcs"
)

// pair is a host's session and the guest's end of it.
func pair(t *testing.T) (*Session, *Guest) {
	t.Helper()
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	got := make(chan *Guest, 1)
	go func() {
		g, err := Answer(b)
		if err != nil {
			t.Error(err)
		}
		got <- g
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s, err := Connect(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, <-got
}

// backed is a connection that takes bytes back.
type backed struct {
	net.Conn
	pending []byte
}

func (b *backed) Unread(p []byte) { b.pending = p }

// Close leaves the wire to the next session.
func (b *backed) Close() error { return b.SetReadDeadline(time.Unix(1, 0)) }

func (b *backed) Read(p []byte) (int, error) {
	if n := copy(p, b.pending); n > 0 {
		b.pending = b.pending[n:]
		return n, nil
	}
	return b.Conn.Read(p)
}

// A new Hello in the middle of a session ends it and begins the next; the same
// bytes as content of a stream do not.
func TestHelloEndsTheSession(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	guest := &backed{Conn: b}
	s := make(chan *Session, 1)
	go func() {
		h, err := Connect(context.Background(), a)
		if err != nil {
			t.Error(err)
		}
		s <- h
	}()
	g, err := Answer(guest)
	if err != nil {
		t.Fatal(err)
	}
	host := <-s
	go func() {
		st, err := host.Open(context.Background(), StreamHead{Stream: StreamStdin})
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = st.Write(NewHello().Bytes())
		st.CloseWrite()
	}()
	st, err := g.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReadHead(st); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(st); len(text) != 32 || err != nil {
		t.Fatalf("content: %q, %v", text, err)
	}
	hello := NewHello()
	go func() {
		_, _ = a.Write(hello.Bytes()[:1]) // however it is cut
		_, _ = a.Write(hello.Bytes()[1:])
	}()
	<-g.Done()
	_ = guest.SetReadDeadline(time.Now().Add(5 * time.Second))
	if got, err := ReadHello(guest); err != nil || got != hello {
		t.Errorf("the next session's Hello: %v, %v", got, err)
	}
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestAnswersComeInAnyOrder(t *testing.T) {
	s, g := pair(t)
	go func() {
		first, _ := g.Read()
		second, _ := g.Read()
		_ = g.Respond(second, WaitResponse{ExitCode: 2})
		_ = g.Respond(first, ResultOf(&hcs.Error{Code: hcs.CodeProcessAlreadyStopped, Message: "gone"}))
	}()
	failed := make(chan error, 1)
	go func() { failed <- s.Call(within(t), SignalProcess, SignalRequest{}, nil) }()
	time.Sleep(10 * time.Millisecond)
	var w WaitResponse
	if err := s.Call(within(t), WaitForProcess, WaitRequest{}, &w); err != nil || w.ExitCode != 2 {
		t.Errorf("wait: %d, %v", w.ExitCode, err)
	}
	if err := <-failed; hcs.CodeOf(err) != hcs.CodeProcessAlreadyStopped {
		t.Errorf("signal: %v", err)
	}
}

func TestLateAnswerIsDropped(t *testing.T) {
	s, g := pair(t)
	late := make(chan Message, 1)
	go func() { m, _ := g.Read(); late <- m }()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := s.Call(ctx, Start, Base{}, nil); !hcs.IsTimeout(err) {
		t.Fatalf("got %v, want a timeout", err)
	}
	if err := g.Respond(<-late, StartResponse{Pid: 1}); err != nil {
		t.Fatal(err)
	}
	go func() { m, _ := g.Read(); _ = g.Respond(m, StartResponse{Pid: 2}) }()
	var r StartResponse
	if err := s.Call(within(t), Start, Base{}, &r); err != nil || r.Pid != 2 {
		t.Errorf("next call: %d, %v", r.Pid, err)
	}
}

// A guest that breaks a rule loses its session; a waiting call ends with it.
func TestFaultsEndTheSession(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(*Guest, Message)
		code hcs.Code
	}{
		"wrong type":    {func(g *Guest, m Message) { m.Type = Create; _ = g.Respond(m, Result{}) }, hcs.CodeProtocolError},
		"request":       {func(g *Guest, m Message) { _ = g.Notify(Start, Base{}) }, hcs.CodeProtocolError},
		"no message":    {func(g *Guest, m Message) { _, _ = g.control.Write(make([]byte, 64)) }, hcs.CodeProtocolError},
		"stream":        {func(g *Guest, m Message) { _, _ = g.mux.Open() }, hcs.CodeProtocolError},
		"end":           {func(g *Guest, m Message) { g.Close() }, hcs.CodeConnectionClosed},
		"control ended": {func(g *Guest, m Message) { g.control.Close() }, hcs.CodeConnectionClosed},
	} {
		t.Run(name, func(t *testing.T) {
			s, g := pair(t)
			go func() { m, _ := g.Read(); c.do(g, m) }()
			if err := s.Call(within(t), Start, Base{}, nil); hcs.CodeOf(err) != c.code {
				t.Errorf("call: %v, want %v", err, c.code)
			}
			<-s.Done()
			for range s.Notifications() {
			}
		})
	}
}

func TestNoHandshake(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	go io.Copy(io.Discard, b)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := Connect(ctx, a); hcs.CodeOf(err) != hcs.CodeConnectionTimeout {
		t.Errorf("silence: %v", err)
	}
	a, b = net.Pipe()
	go func() { h, _ := ReadHello(b); _, _ = b.Write(Welcome{Nonce: h.Nonce}.Bytes()) }()
	if _, err := Connect(within(t), a); !errors.Is(err, ErrVersion) || hcs.CodeOf(err) != hcs.CodeUnsupportedProtocolVersion {
		t.Errorf("no common version: %v", err)
	}
}

// Half of a stream may end; notifications keep their order.
func TestStreamsAndNotifications(t *testing.T) {
	s, g := pair(t)
	go func() {
		st, err := g.Accept()
		if err != nil {
			return
		}
		h, err := ReadHead(st)
		if err != nil || h.Key != 4 {
			t.Errorf("head %+v, %v", h, err)
		}
		b, _ := io.ReadAll(st) // to the host's half close
		_, _ = st.Write(append(b, '!'))
		st.Close()
		for i := range 100 {
			_ = g.Notify(NotifyProcessExited, ProcessExitedNotification{ProcessId: uint32(i)})
		}
	}()
	st, err := s.Open(within(t), StreamHead{Stream: StreamDial, Key: 4})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(st, "hi"); err != nil {
		t.Fatal(err)
	}
	st.CloseWrite()
	if b, err := io.ReadAll(st); string(b) != "hi!" || err != nil {
		t.Errorf("echo %q, %v", b, err)
	}
	for i := range 100 {
		var n ProcessExitedNotification
		m := <-s.Notifications()
		if err := Decode(m.Body, &n); err != nil || n.ProcessId != uint32(i) || m.Type != NotifyProcessExited {
			t.Fatalf("notification %d: %+v, %v", i, n, err)
		}
	}
}
