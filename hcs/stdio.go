// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcs

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// StdioUpgrade is the Upgrade token of a stdio connection: after the 101 answer
// both sides speak frames. HandleUpgrade is that of a lease.
const (
	StdioUpgrade  = "gatehouse-stdio"
	HandleUpgrade = "gatehouse-handle"
)

// MaxFrame is the largest payload of a stdio frame.
const MaxFrame = 1 << 20

const frameHeader = 8 // type, 0, 0, 0, length big endian

// FrameType of a stdio frame.
type FrameType uint8

// Frame types. To the process: stdin, resize, close-stdin, signal. From it:
// stdout (all output of a terminal), stderr, exit (the last frame), error.
const (
	FrameStdin      FrameType = 0 // bytes
	FrameStdout     FrameType = 1 // bytes
	FrameStderr     FrameType = 2 // bytes
	FrameResize     FrameType = 3 // ConsoleSize
	FrameCloseStdin FrameType = 4 // empty
	FrameExit       FrameType = 5 // ProcessStatus
	FrameError      FrameType = 6 // ResultError
	FrameSignal     FrameType = 7 // SignalProcessOptions
)

// ErrFrame is wrapped by every error about bytes that are no frame.
var ErrFrame = errors.New("malformed stdio frame")

// FrameReader reads frames. Not safe for concurrent use.
type FrameReader struct {
	r   io.Reader
	hdr [frameHeader]byte
	buf []byte
}

// NewFrameReader reads frames from r, which should be buffered or a socket.
func NewFrameReader(r io.Reader) *FrameReader { return &FrameReader{r: r} }

// Read returns the next frame; its payload is valid until the next call. io.EOF
// means the stream ended between frames.
func (f *FrameReader) Read() (FrameType, []byte, error) {
	if _, err := io.ReadFull(f.r, f.hdr[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return 0, nil, fmt.Errorf("%w: cut short in the header", ErrFrame)
		}
		return 0, nil, err
	}
	t := FrameType(f.hdr[0])
	n := binary.BigEndian.Uint32(f.hdr[4:])
	if t > FrameSignal || f.hdr[1]|f.hdr[2]|f.hdr[3] != 0 {
		return 0, nil, fmt.Errorf("%w: header % x", ErrFrame, f.hdr[:])
	}
	if n > MaxFrame {
		return 0, nil, fmt.Errorf("%w: %d bytes, over %d", ErrFrame, n, MaxFrame)
	}
	if cap(f.buf) < int(n) {
		f.buf = make([]byte, n)
	}
	b := f.buf[:n]
	if _, err := io.ReadFull(f.r, b); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return 0, nil, fmt.Errorf("%w: cut short in the payload", ErrFrame)
		}
		return 0, nil, err
	}
	return t, b, nil
}

// FrameWriter writes frames, each with one Write call of the writer below. Safe
// for concurrent use.
type FrameWriter struct {
	mu  sync.Mutex // guards buf and the order of writes
	w   io.Writer
	buf []byte
}

// NewFrameWriter writes frames to w.
func NewFrameWriter(w io.Writer) *FrameWriter { return &FrameWriter{w: w} }

// Write sends p as one frame, or as several when it is a stream's bytes beyond
// MaxFrame.
func (f *FrameWriter) Write(t FrameType, p []byte) error {
	for {
		n := min(len(p), MaxFrame)
		if n < len(p) && t > FrameStderr {
			return fmt.Errorf("%w: %d bytes, over %d", ErrFrame, len(p), MaxFrame)
		}
		if err := f.write(t, p[:n]); err != nil {
			return err
		}
		if p = p[n:]; len(p) == 0 {
			return nil
		}
	}
}

func (f *FrameWriter) write(t FrameType, p []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.buf = AppendFrame(f.buf[:0], t, p)
	_, err := f.w.Write(f.buf)
	return err
}

// WriteJSON sends v as the payload of one frame.
func (f *FrameWriter) WriteJSON(t FrameType, v any) error {
	p, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("stdio frame: %w", err)
	}
	return f.Write(t, p)
}

// AppendFrame appends one frame to b. p must not be longer than MaxFrame.
func AppendFrame(b []byte, t FrameType, p []byte) []byte {
	b = append(b, byte(t), 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
	return append(b, p...)
}
