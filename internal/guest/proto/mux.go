// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package proto

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/yamux"
)

// Mux puts a multiplexer on a connection whose preamble is done. A paused VM is
// silent for hours, so nothing of it watches a clock.
func Mux(conn io.ReadWriteCloser, host bool) (*yamux.Session, error) {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false
	c.ConnectionWriteTimeout = 100 * 365 * 24 * time.Hour // yamux has no way to say none
	c.StreamOpenTimeout = 0
	c.StreamCloseTimeout = 0
	c.LogOutput = io.Discard
	if host {
		return yamux.Client(conn, c)
	}
	return yamux.Server(conn, c)
}

// Stream kinds. Stdin carries bytes to the guest, stdout, stderr and log from it,
// copy the content of CopyFile to it; dial both ways. The end of a direction is EOF.
// The host ends its direction of an output stream only to say that it wants no more.
const (
	StreamStdin  = "stdin"
	StreamStdout = "stdout" // of a terminal: all output
	StreamStderr = "stderr"
	StreamLog    = "log"  // the agent's own log
	StreamDial   = "dial" // a connection inside: Address says where to
	StreamCopy   = "copy"
)

// StreamHead is the first line of every stream but the first.
type StreamHead struct {
	Stream      string
	ContainerId string `json:",omitempty"`
	// Key joins the streams of one process, or of one CopyFile, to the call that
	// names it. The host never uses one twice in a session.
	Key uint64 `json:",omitempty"`
	// Network and Address as net.Dial has them, for dial: "tcp" or "unix".
	Network string `json:",omitempty"`
	Address string `json:",omitempty"`
}

// WriteHead starts a stream.
func WriteHead(w io.Writer, h StreamHead) error {
	b, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if len(b)+1 > MaxHead {
		return fmt.Errorf("head of a stream: %d bytes, at most %d", len(b)+1, MaxHead)
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// ReadHead reads the first line of a stream and nothing beyond it.
func ReadHead(r io.Reader) (StreamHead, error) {
	var line []byte
	var c [1]byte
	for {
		if _, err := io.ReadFull(r, c[:]); err != nil {
			return StreamHead{}, fmt.Errorf("head of a stream: %w", err)
		}
		if c[0] == '\n' {
			break
		}
		if line = append(line, c[0]); len(line) >= MaxHead {
			return StreamHead{}, fmt.Errorf("head of a stream: longer than %d bytes", MaxHead)
		}
	}
	var h StreamHead
	if err := Decode(bytes.TrimSpace(line), &h); err != nil {
		return StreamHead{}, fmt.Errorf("head of a stream: %w", err)
	}
	return h, nil
}
