// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"
)

// LogRecord is one line of a system's output, or one part of a long line.
type LogRecord struct {
	Time   time.Time
	Stream string // stdout, stderr
	// Partial: the line goes on in the next record of the stream.
	Partial bool   `json:",omitempty"`
	Text    string `json:",omitempty"` // without the newline
	Raw     []byte `json:",omitempty"` // instead of Text where that is no UTF-8
}

// Bytes of the line, without the newline.
func (r LogRecord) Bytes() []byte {
	if r.Raw != nil {
		return r.Raw
	}
	return []byte(r.Text)
}

// SetBytes fills Text or Raw.
func (r *LogRecord) SetBytes(b []byte) {
	if utf8.Valid(b) {
		r.Text, r.Raw = string(b), nil
		return
	}
	r.Text, r.Raw = "", bytes.Clone(b)
}

// LogOptions select lines. Zero = all there are, then end.
type LogOptions struct {
	Follow bool
	// Tail, when not nil, is how many of the last lines to begin with.
	Tail *int
	// Since and Until bound the time; zero = unbounded.
	Since, Until time.Time
	// Stdout and Stderr select; both false = both.
	Stdout, Stderr bool
}

// Values are the options as a query of GET /systems/ID/logs.
func (o LogOptions) Values() url.Values {
	v := url.Values{}
	flag(v, "follow", o.Follow)
	flag(v, "stdout", o.Stdout)
	flag(v, "stderr", o.Stderr)
	if o.Tail != nil {
		v.Set("tail", strconv.Itoa(*o.Tail))
	}
	if !o.Since.IsZero() {
		v.Set("since", o.Since.Format(time.RFC3339Nano))
	}
	if !o.Until.IsZero() {
		v.Set("until", o.Until.Format(time.RFC3339Nano))
	}
	return v
}

// ParseLogOptions reads what Values wrote; the service's side.
func ParseLogOptions(v url.Values) (LogOptions, error) {
	var o LogOptions
	bad := func(field string, err error) (LogOptions, error) {
		return o, &Error{Code: CodeInvalidArg, Field: field, Err: err}
	}
	for name, p := range map[string]*bool{"follow": &o.Follow, "stdout": &o.Stdout, "stderr": &o.Stderr} {
		if s := v.Get(name); s != "" {
			b, err := strconv.ParseBool(s)
			if err != nil {
				return bad(name, err)
			}
			*p = b
		}
	}
	if s := v.Get("tail"); s != "" && s != "all" {
		n, err := strconv.Atoi(s)
		if err != nil {
			return bad("tail", err)
		}
		if n >= 0 {
			o.Tail = &n
		}
	}
	for name, p := range map[string]*time.Time{"since": &o.Since, "until": &o.Until} {
		if s := v.Get(name); s != "" {
			t, err := time.Parse(time.RFC3339Nano, s)
			if err != nil {
				return bad(name, err)
			}
			*p = t
		}
	}
	return o, nil
}

// Logs yields the output of a system's init. A follower ends when the system
// stopped, or with ctx. The last pair may carry an error.
func (c *Client) Logs(ctx context.Context, id string, o LogOptions) iter.Seq2[LogRecord, error] {
	return stream[LogRecord](ctx, c, query(systemPath(id, "logs"), o.Values()))
}

// EventOptions select events. The zero value asks for all from now on.
type EventOptions struct {
	Since uint64 // revisions above this one; 0 = from now on
	ID    string
	Type  string
}

// Events yields events until ctx ends, the service stops or the loop breaks. The
// last pair may carry an error.
func (c *Client) Events(ctx context.Context, o EventOptions) iter.Seq2[Event, error] {
	v := url.Values{}
	if o.Since > 0 {
		v.Set("since", strconv.FormatUint(o.Since, 10))
	}
	if o.ID != "" {
		v.Set("id", o.ID)
	}
	if o.Type != "" {
		v.Set("type", o.Type)
	}
	return stream[Event](ctx, c, query("/events", v))
}

// stream yields the lines of a JSON stream; blank ones keep it alive.
func stream[T any](ctx context.Context, c *Client, path string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		resp, err := c.do(ctx, "GET", path, nil)
		if err != nil {
			var zero T
			yield(zero, err)
			return
		}
		lines[T](ctx, resp.Body)(yield)
	}
}

// lines yields those of an answer that has begun, and closes it.
func lines[T any](ctx context.Context, body io.ReadCloser) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		defer body.Close()
		lines := bufio.NewScanner(body)
		lines.Buffer(nil, 32<<20)
		for lines.Scan() {
			line := bytes.TrimSpace(lines.Bytes())
			if len(line) == 0 {
				continue
			}
			var v T
			if err := json.Unmarshal(line, &v); err != nil {
				yield(zero, fmt.Errorf("read stream: %w", err))
				return
			}
			if !yield(v, nil) {
				return
			}
		}
		if err := lines.Err(); err != nil && ctx.Err() == nil {
			yield(zero, fmt.Errorf("read stream: %w", err))
		}
	}
}
