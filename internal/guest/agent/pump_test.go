// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package agent

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/guest/proto"
)

// output is a process's pipe, pumped into a stream whose other end the host has.
type output struct {
	process *os.File // where it writes
	ours    *os.File
	host    proto.Stream
	done    chan struct{}
}

func newOutput(t *testing.T) *output {
	t.Helper()
	a, b := net.Pipe()
	guest := make(chan *proto.Guest, 1)
	go func() {
		g, err := proto.Answer(b)
		if err != nil {
			t.Error(err)
		}
		guest <- g
	}()
	s, err := proto.Connect(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	host, err := s.Open(t.Context(), proto.StreamHead{Stream: proto.StreamStdout})
	if err != nil {
		t.Fatal(err)
	}
	st, err := (<-guest).Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := proto.ReadHead(st); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	o := &output{w, r, host, make(chan struct{})}
	t.Cleanup(func() { r.Close(); w.Close() })
	go func() { pump(&st, r, false); close(o.done) }()
	return o
}

func (o *output) ended(t *testing.T) {
	t.Helper()
	select {
	case <-o.done:
	case <-time.After(5 * time.Second):
		t.Fatal("the pump does not end")
	}
}

// A host that reads long after the process has ended gets every byte.
func TestSlowHostLosesNothing(t *testing.T) {
	o := newOutput(t)
	text := bytes.Repeat([]byte("0123456789abcdef"), 20<<10) // more than window and pipe hold
	go func() { _, _ = o.process.Write(text); o.process.Close() }()
	time.Sleep(50 * time.Millisecond)
	if err := o.ours.SetReadDeadline(time.Now()); err != nil { // the process has ended
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	got := make([]byte, 0, len(text))
	for buf := make([]byte, 4096); ; time.Sleep(100 * time.Microsecond) {
		n, err := o.host.Read(buf)
		got = append(got, buf[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// What did not fit into the pipe before the end was never written.
	if len(got) < 256<<10 || !bytes.HasPrefix(text, got) {
		t.Errorf("%d of %d bytes", len(got), len(text))
	}
	o.ended(t)
}

// A descendant that keeps the pipe open keeps nobody waiting.
func TestDescendantKeepsNothingOpen(t *testing.T) {
	o := newOutput(t)
	_, _ = o.process.WriteString("last words")
	time.Sleep(10 * time.Millisecond)
	_ = o.ours.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	b, err := io.ReadAll(o.host)
	if string(b) != "last words" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	o.ended(t)
}

func TestHostWantsNoMore(t *testing.T) {
	o := newOutput(t)
	if err := o.host.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	o.ended(t)
	for end := time.Now().Add(5 * time.Second); ; {
		if _, err := o.process.WriteString("x"); errors.Is(err, unix.EPIPE) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the process may write for ever")
		}
	}
}
