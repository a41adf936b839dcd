// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package host

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"

	"github.com/containerd/errdefs"
)

// Client of /host/v1. Transport replaces the way there.
type Client struct {
	Socket    string
	Transport http.RoundTripper
}

// Transport returns the way to the daemon behind a unix socket.
func Transport(socket string) http.RoundTripper {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}
}

// Do sends a request to any path of the API and answers its body, whatever the
// path; an answer that is an error becomes one.
func (c *Client) Do(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://gatehouse"+path, body)
	if err != nil {
		return nil, err
	}
	rt := c.Transport
	if rt == nil {
		rt = Transport(c.Socket)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return nil, Unreachable(c.Socket, err)
	}
	if resp.StatusCode < 400 {
		return resp, nil
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return nil, &Error{Status: resp.StatusCode, Text: textOf(b, resp.Status), Record: b}
}

// Unreachable says in words why the daemon does not answer.
func Unreachable(socket string, err error) error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no daemon answers on %s; start one with: gatehouse serve (%w)", socket, errdefs.ErrUnavailable)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("may not use %s; become root or join the socket's group (%w)", socket, errdefs.ErrPermissionDenied)
	}
	return fmt.Errorf("daemon on %s: %w", socket, err)
}

// Error is an answer that is an error record of any prefix.
type Error struct {
	Status int
	Text   string
	Record json.RawMessage
}

func (e *Error) Error() string { return e.Text }

// textOf finds the text in a record of any prefix.
func textOf(b []byte, status string) string {
	var r struct {
		ErrorMessage string
		Error        any
	}
	if json.Unmarshal(b, &r) == nil {
		if r.ErrorMessage != "" {
			return r.ErrorMessage
		}
		if s, ok := r.Error.(string); ok && s != "" {
			return trimRight(s)
		}
	}
	return "the daemon answered " + status
}

func trimRight(s string) string {
	for len(s) > 0 && (s[len(s)-1] == ' ' || s[len(s)-1] == '\n') {
		s = s[:len(s)-1]
	}
	return s
}

func get[T any](ctx context.Context, c *Client, name string, q url.Values) (T, error) {
	var v T
	path := "/host/v1/" + name
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	resp, err := c.Do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return v, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		return v, fmt.Errorf("GET %s: answer: %w", path, err)
	}
	return v, nil
}

// Version asks who answers.
func (c *Client) Version(ctx context.Context) (Version, error) {
	return get[Version](ctx, c, "version", nil)
}

// Doctor asks the daemon what its host can do.
func (c *Client) Doctor(ctx context.Context) ([]Check, error) {
	return get[[]Check](ctx, c, "doctor", nil)
}

// Leaks asks what the daemon's root owns and what of it is orphaned.
func (c *Client) Leaks(ctx context.Context) (Leaks, error) {
	return get[Leaks](ctx, c, "leaks", nil)
}

// Flows lists the conversations that the switch tracks. q: endpoint, address, port,
// proto, state; all must fit.
func (c *Client) Flows(ctx context.Context, q url.Values) ([]Flow, error) {
	return get[[]Flow](ctx, c, "flows", q)
}

// Drops counts what the switch refused.
func (c *Client) Drops(ctx context.Context) ([]Drop, error) {
	return get[[]Drop](ctx, c, "drops", nil)
}

// Metrics copies the counters in Prometheus' text form to w.
func (c *Client) Metrics(ctx context.Context, w io.Writer) error {
	resp, err := c.Do(ctx, http.MethodGet, "/host/v1/metrics", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(w, resp.Body)
	return err
}

// Events calls fn with each line of the event stream of all kinds until it fails
// or the stream ends.
func (c *Client) Events(ctx context.Context, q url.Values, fn func(json.RawMessage) error) error {
	return c.lines(ctx, "events", q, fn)
}

// Watch calls fn with each SwitchEvent. q: drops=true, flows=true, endpoint.
func (c *Client) Watch(ctx context.Context, q url.Values, fn func(json.RawMessage) error) error {
	return c.lines(ctx, "watch", q, fn)
}

func (c *Client) lines(ctx context.Context, name string, q url.Values, fn func(json.RawMessage) error) error {
	resp, err := c.Do(ctx, http.MethodGet, "/host/v1/"+name+"?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(nil, 32<<20)
	for sc.Scan() {
		if len(sc.Bytes()) == 0 {
			continue
		}
		if err := fn(sc.Bytes()); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil {
		return err
	}
	return ended(resp)
}

// Capture calls fn with the pcapng stream of what passes an endpoint. q: endpoint or
// uplink, filter, snaplen, count.
func (c *Client) Capture(ctx context.Context, q url.Values, fn func(io.Reader) error) error {
	resp, err := c.Do(ctx, http.MethodGet, "/host/v1/capture?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := fn(resp.Body); err != nil {
		return err
	}
	return ended(resp)
}

// ended is why a stream that was read to its end ended; nil = it was done.
func ended(resp *http.Response) error {
	if why := resp.Trailer.Get("Gatehouse-End"); why != "" {
		return errors.New(why)
	}
	return nil
}
