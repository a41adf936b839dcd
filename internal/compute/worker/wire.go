// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package worker

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// The RPC: a connection carries one request and its answers, so that a cancelled
// call is a closed connection and nothing needs a number. A message is a length
// (uint32, big endian) and JSON. Descriptors ride on the first byte.
//
// A worker may be older than the daemon that talks to it. Members are added,
// never changed; a method it does not know it answers with class
// not-implemented; the answer carries its version.

// wireVersion history:
// 1: hello, start, exec, signal, kill, resize, closestdin, pause, resume, attach,
// journal, stats, processes, update, close.
const wireVersion = 1

// maxMessage bounds a message: a spec with a seccomp profile is some 50 KB.
const maxMessage = 8 << 20

// maxRights is the most descriptors a message may carry.
const maxRights = 2

type request struct {
	V      int
	Method string
	Params json.RawMessage `json:",omitempty"`
	// LimitMs is how long the caller waits; 0 = as long as it holds the connection.
	LimitMs int64 `json:",omitempty"`
}

type response struct {
	V      int
	Error  *wireError      `json:",omitempty"`
	Result json.RawMessage `json:",omitempty"`
}

type wireError struct {
	Class   string
	Message string
	Start   *StartError `json:",omitempty"`
}

// Parameters and results of the methods.
type (
	helloResult struct {
		PID   int
		State string
		// Dropped counts bytes of output nobody read, LogDropped those the log lost.
		Dropped, LogDropped uint64
	}
	execParams struct {
		Process json.RawMessage // specs.Process
		Stdin   bool
	}
	processParams struct {
		Process       string
		Signal        int    `json:",omitempty"`
		Height, Width uint16 `json:",omitempty"`
	}
	signalResult struct{ Delivered bool }
	attachParams struct {
		Process string
		AttachOptions
		Early []byte `json:",omitempty"`
	}
	journalParams struct{ Seq uint64 }
)

func classes() map[string]error {
	return map[string]error{
		"not-found": errdefs.ErrNotFound, "exists": errdefs.ErrAlreadyExists, "invalid": errdefs.ErrInvalidArgument,
		"precondition": errdefs.ErrFailedPrecondition, "unavailable": errdefs.ErrUnavailable,
		"not-implemented": errdefs.ErrNotImplemented, "aborted": errdefs.ErrAborted, "conflict": errdefs.ErrConflict,
		"deadline": contextDeadline(), "internal": errdefs.ErrInternal,
	}
}

// toWire flattens an error for the way.
func toWire(err error) *wireError {
	w := &wireError{Class: "internal", Message: err.Error()}
	for c, e := range classes() {
		if errors.Is(err, e) {
			w.Class = c
		}
	}
	errors.As(err, &w.Start)
	return w
}

// err rebuilds it.
func (w *wireError) err() error {
	class, ok := classes()[w.Class]
	if !ok {
		class = errdefs.ErrUnknown
	}
	if w.Start != nil {
		return &remoteError{w.Message, w.Start, class}
	}
	return &remoteError{w.Message, nil, class}
}

// remoteError is an error that came over the wire.
type remoteError struct {
	msg   string
	start *StartError
	class error
}

func (e *remoteError) Error() string { return e.msg }

// Unwrap gives the class, and the *StartError if it is one.
func (e *remoteError) Unwrap() []error {
	if e.start != nil {
		return []error{e.start, e.class}
	}
	return []error{e.class}
}

// send writes one message; fds are duplicated into it.
func send(c *net.UnixConn, v any, fds ...int) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("message of %d bytes, over %d", len(b), maxMessage)
	}
	msg := append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b))), b...)
	if len(fds) > 0 {
		n, oobn, err := c.WriteMsgUnix(msg, unix.UnixRights(fds...), nil)
		if err != nil {
			return err
		}
		if oobn == 0 {
			return errors.New("descriptors were not sent")
		}
		msg = msg[n:]
	}
	if len(msg) > 0 {
		_, err = c.Write(msg)
	}
	return err
}

// receive reads one message and the descriptors that came with it, which the
// caller closes.
func receive(c *net.UnixConn, v any) (fds []int, err error) {
	r := &rightsReader{c: c}
	defer func() {
		if err != nil {
			closeAll(r.fds)
		}
	}()
	if err := decode(r, v); err != nil {
		return nil, err
	}
	return r.fds, nil
}

// decode reads one message.
func decode(r io.Reader, v any) error {
	var hdr [4]byte
	if _, err := io.ReadFull(r, hdr[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(hdr[:])
	if n > maxMessage {
		return fmt.Errorf("message of %d bytes, over %d", n, maxMessage)
	}
	// Grown as bytes come: a length alone shall not cost memory.
	b, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err != nil {
		return err
	}
	if len(b) < int(n) {
		return io.ErrUnexpectedEOF
	}
	return json.Unmarshal(b, v)
}

// rightsReader reads a socket's bytes and keeps the descriptors among them.
type rightsReader struct {
	c   *net.UnixConn
	fds []int
}

func (r *rightsReader) Read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*maxRights))
	n, oobn, _, _, err := r.c.ReadMsgUnix(p, oob)
	if oobn > 0 {
		if e := r.take(oob[:oobn]); e != nil && err == nil {
			err = e
		}
	}
	if n == 0 && err == nil {
		err = io.EOF
	}
	return max(n, 0), err
}

func (r *rightsReader) take(oob []byte) error {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return err
	}
	for _, m := range msgs {
		if m.Header.Level != unix.SOL_SOCKET || m.Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return err
		}
		r.fds = append(r.fds, fds...)
	}
	if len(r.fds) > maxRights {
		return fmt.Errorf("%d descriptors, over %d", len(r.fds), maxRights)
	}
	return nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// connOf makes a connection of a socket's descriptor, which it takes over.
func connOf(fd int) (*net.UnixConn, error) {
	f := osFile(fd, "socket")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("not a unix socket")
	}
	return u, nil
}
