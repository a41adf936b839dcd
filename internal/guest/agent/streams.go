// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/guest/nic"
	"gatehouse.dev/gatehouse/internal/guest/proto"
)

// streamWait is how long a call waits for the streams it names.
const streamWait = 5 * time.Second

// streams are those that the host opened and no call has taken yet.
type streams struct {
	mu    sync.Mutex // guards the rest
	open  map[streamID]proto.Stream
	more  chan struct{} // closed and replaced when one comes
	ended bool
}

type streamID struct {
	kind string
	key  uint64
}

func newStreams() *streams {
	return &streams{open: map[streamID]proto.Stream{}, more: make(chan struct{})}
}

func (s *streams) put(id streamID, st proto.Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, dup := s.open[id]; dup || s.ended {
		st.Close()
		return
	}
	s.open[id] = st
	close(s.more)
	s.more = make(chan struct{})
}

// take waits for a stream and takes it.
func (s *streams) take(id streamID) (proto.Stream, error) {
	timeout := time.After(streamWait)
	for {
		s.mu.Lock()
		st, ok := s.open[id]
		delete(s.open, id)
		more := s.more
		s.mu.Unlock()
		if ok {
			return st, nil
		}
		select {
		case <-more:
		case <-timeout:
			return proto.Stream{}, &hcs.Error{Code: hcs.CodeInvalidArg, Message: fmt.Sprintf("no %s stream with key %d", id.kind, id.key)}
		}
	}
}

func (s *streams) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for _, st := range s.open {
		st.Close()
	}
	clear(s.open)
}

// accept takes the streams of a session until it ends.
func (a *Agent) accept(g *proto.Guest, s *streams) {
	for {
		st, err := g.Accept()
		if err != nil {
			return
		}
		go func() {
			h, err := proto.ReadHead(st)
			if err != nil {
				log("%v", err)
				st.Close()
				return
			}
			switch h.Stream {
			case proto.StreamDial:
				err = a.dial(h, st)
			case proto.StreamLog:
				err = kernelLog(st)
			default:
				s.put(streamID{h.Stream, h.Key}, st)
				return
			}
			if err != nil {
				log("%s stream: %v", h.Stream, err)
			}
			st.Close()
		}()
	}
}

// dial joins a stream to a connection made inside: in the machine, or in the
// network of a container.
func (a *Agent) dial(h proto.StreamHead, st proto.Stream) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := a.dialIn(ctx, h)
	if err != nil {
		return err
	}
	defer conn.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(conn, st)
		if c, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = c.CloseWrite()
		}
	}()
	_, err = io.Copy(st, conn)
	_ = st.CloseWrite()
	if err != nil {
		return err
	}
	<-done
	return nil
}

func (a *Agent) dialIn(ctx context.Context, h proto.StreamHead) (net.Conn, error) {
	var d net.Dialer
	if h.ContainerId == "" {
		h.ContainerId = proto.VM
	}
	fd, err := a.networkOf(h.ContainerId)
	if err != nil {
		return nil, err
	}
	if fd >= 0 {
		defer unix.Close(fd)
	}
	var conn net.Conn
	err = nic.In(fd, func() (err error) {
		conn, err = d.DialContext(ctx, h.Network, h.Address)
		return err
	})
	return conn, err
}

// kernelLog follows the kernel's log, from its beginning.
func kernelLog(st proto.Stream) error {
	f, err := os.Open("/dev/kmsg")
	if err != nil {
		return err
	}
	defer f.Close()
	go func() { // the host's end of the stream ends it
		_, _ = io.Copy(io.Discard, st)
		_ = f.SetDeadline(time.Unix(1, 0))
	}()
	buf := make([]byte, 8<<10)
	for {
		n, err := f.Read(buf)
		if pe, ok := err.(*os.PathError); ok && pe.Err == unix.EPIPE {
			continue // overwritten before it was read
		}
		if err != nil {
			return err
		}
		if _, err := st.Write(buf[:n]); err != nil {
			return err
		}
	}
}
