// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
)

// CreateProcess runs one more process in a running system. Its output is kept
// (256 KiB) until somebody attaches; Exec attaches at once.
func (c *Client) CreateProcess(ctx context.Context, id string, p ProcessParameters) (ProcessInformation, error) {
	var out ProcessInformation
	return out, c.Call(ctx, "POST", systemPath(id, "processes"), p, &out)
}

// Exec runs one more process with its stdio attached from the first byte on.
func (c *Client) Exec(ctx context.Context, id string, p ProcessParameters) (ProcessInformation, *Stdio, error) {
	v := url.Values{}
	AttachOptions{Stdin: p.CreateStdInPipe, Stdout: p.CreateStdOutPipe || p.EmulateConsole, Stderr: p.CreateStdErrPipe, Replay: true}.add(v)
	conn, r, h, err := c.upgrade(ctx, "POST", query(systemPath(id, "processes"), v), StdioUpgrade, p)
	if err != nil {
		return ProcessInformation{}, nil, err
	}
	var out ProcessInformation
	if err := json.Unmarshal([]byte(h.Get(ProcessHeader)), &out); err != nil {
		conn.Close()
		return out, nil, fmt.Errorf("answer has no %s: %w", ProcessHeader, err)
	}
	return out, newStdio(conn, r), nil
}

// Processes lists every process of a system.
func (c *Client) Processes(ctx context.Context, id string) ([]ProcessDetails, error) {
	var out []ProcessDetails
	return out, c.Call(ctx, "GET", systemPath(id, "processes"), nil, &out)
}

// OpenProcess finds a process by "init", "p<n>" or its ProcessId.
func (c *Client) OpenProcess(ctx context.Context, id, process string) (ProcessInformation, error) {
	var out ProcessInformation
	return out, c.Call(ctx, "GET", processPath(id, process), nil, &out)
}

// SignalProcess sends a signal; false = the process was gone.
func (c *Client) SignalProcess(ctx context.Context, id, process string, s Signal) (bool, error) {
	return c.delivered(c.Call, ctx, processPath(id, process, "signal"), SignalProcessOptions{Signal: s})
}

// TerminateProcess kills one process; false = it was gone.
func (c *Client) TerminateProcess(ctx context.Context, id, process string) (bool, error) {
	return c.delivered(c.Call, ctx, processPath(id, process, "terminate"), nil)
}

func (c *Client) delivered(call func(context.Context, string, string, any, any) error, ctx context.Context, path string, in any) (bool, error) {
	var d SignalDelivered
	err := call(ctx, "POST", path, in, &d)
	if CodeOf(err) == CodeProcessAlreadyStopped {
		return false, nil
	}
	return d.Delivered, err
}

// ResizeConsole sets the size of a process's console.
func (c *Client) ResizeConsole(ctx context.Context, id, process string, size ConsoleSize) error {
	return c.Call(ctx, "POST", processPath(id, process, "modify"), ProcessModifyRequest{Operation: ModifyConsoleSize, ConsoleSize: &size}, nil)
}

// CloseStdin closes a process's stdin after what was sent is delivered. Idempotent.
func (c *Client) CloseStdin(ctx context.Context, id, process string) error {
	return c.Call(ctx, "POST", processPath(id, process, "modify"), ProcessModifyRequest{Operation: ModifyCloseHandle, CloseHandle: &CloseHandle{HandleStdIn}}, nil)
}

// WaitProcess returns the status of a process once it has exited.
func (c *Client) WaitProcess(ctx context.Context, id, process string) (ProcessStatus, error) {
	for {
		resp, err := c.do(ctx, "GET", query(processPath(id, process, "exit"), millis(ctx)), nil)
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return ProcessStatus{}, err
		}
		var s ProcessStatus
		done, err := waited(resp, &s)
		if done || err != nil {
			return s, err
		}
		if err := ctx.Err(); err != nil {
			return s, err
		}
	}
}

// AttachOptions say which streams a connection wants.
type AttachOptions struct {
	Stdin, Stdout, Stderr bool
	// Replay first sends what the ring still holds of output that nobody read.
	Replay bool
}

func (a AttachOptions) add(v url.Values) {
	one := func(name string, b bool) {
		if b {
			v.Set(name, "1")
		}
	}
	one("stdin", a.Stdin)
	one("stdout", a.Stdout)
	one("stderr", a.Stderr)
	one("replay", a.Replay)
}

// Attach connects to the stdio of a process.
func (c *Client) Attach(ctx context.Context, id, process string, a AttachOptions) (*Stdio, error) {
	v := url.Values{}
	a.add(v)
	conn, r, _, err := c.upgrade(ctx, "GET", query(processPath(id, process, "stdio"), v), StdioUpgrade, nil)
	if err != nil {
		return nil, err
	}
	return newStdio(conn, r), nil
}

// Stdio is a connection to a process's streams. Writing is safe for concurrent
// use; Copy is for one goroutine. Closing it does not end the process.
type Stdio struct {
	conn net.Conn
	w    *FrameWriter
	r    *FrameReader

	mu     sync.Mutex // guards closed
	closed bool
}

func newStdio(conn net.Conn, r *bufio.Reader) *Stdio {
	return &Stdio{conn: conn, w: NewFrameWriter(conn), r: NewFrameReader(r)}
}

// ErrDetached: the connection ended and the process may go on.
var ErrDetached = errors.New("stdio connection ended before the process")

// Write sends bytes to stdin.
func (s *Stdio) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := s.w.Write(FrameStdin, p); err != nil {
		return 0, s.err(err)
	}
	return len(p), nil
}

// CloseStdin closes stdin after what was written. Idempotent; a terminal has no
// half close, there it hangs up.
func (s *Stdio) CloseStdin() error { return s.err(s.w.Write(FrameCloseStdin, nil)) }

// Resize sets the console's size.
func (s *Stdio) Resize(c ConsoleSize) error { return s.err(s.w.WriteJSON(FrameResize, c)) }

// Signal sends a signal to the process.
func (s *Stdio) Signal(sig Signal) error {
	return s.err(s.w.WriteJSON(FrameSignal, SignalProcessOptions{Signal: sig}))
}

// Copy writes output to stdout and stderr (either may be nil) until the process
// exited and returns its status. A refusal by the service is an *Error;
// ErrDetached wraps all ends that are not the process's.
func (s *Stdio) Copy(stdout, stderr io.Writer) (ProcessStatus, error) {
	for {
		t, p, err := s.r.Read()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return ProcessStatus{}, s.err(ErrDetached)
			}
			return ProcessStatus{}, s.err(fmt.Errorf("%w: %w", ErrDetached, err))
		}
		w := stdout
		switch t {
		case FrameStderr:
			w = stderr
			fallthrough
		case FrameStdout:
			if w == nil {
				continue
			}
			if _, err := w.Write(p); err != nil {
				return ProcessStatus{}, fmt.Errorf("write output: %w", err)
			}
		case FrameExit:
			var st ProcessStatus
			if err := json.Unmarshal(p, &st); err != nil {
				return st, fmt.Errorf("exit frame: %w", err)
			}
			return st, nil
		case FrameError:
			var r ResultError
			if err := json.Unmarshal(p, &r); err != nil {
				return ProcessStatus{}, fmt.Errorf("error frame: %w", err)
			}
			return ProcessStatus{}, FromResult(r)
		}
	}
}

// Close ends the connection; the process goes on.
func (s *Stdio) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	return s.conn.Close()
}

func (s *Stdio) err(err error) error {
	if err == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrAlreadyClosed
	}
	return err
}
