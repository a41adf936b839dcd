// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// DefaultSocket is where the service listens unless told otherwise; SocketEnv
// names the environment variable that overrides it.
const (
	DefaultSocket = "/run/gatehouse/gatehouse.sock"
	SocketEnv     = "GATEHOUSE_SOCKET"
)

// Headers of answers. IgnoredHeader lists members that the service did not know.
// ProcessHeader carries a ProcessInformation and SystemHeader a Properties on
// answers that are upgraded, which have no body.
const (
	IgnoredHeader  = "Gatehouse-Ignored"
	RevisionHeader = "Gatehouse-Revision"
	ProcessHeader  = "Gatehouse-Process"
	SystemHeader   = "Gatehouse-System"
)

// Client speaks to the service. The zero value is ready and uses the socket that
// SocketEnv names, else DefaultSocket. Safe for concurrent use; do not copy after
// first use. A refusal is an *Error.
type Client struct {
	// Socket is the path of the API socket.
	Socket string
	// Dial replaces the way to the socket.
	Dial func(ctx context.Context) (net.Conn, error)
	// Transport replaces HTTP for all but upgraded connections, for doors inside
	// the daemon.
	Transport http.RoundTripper
	// Owner is written into documents that are created without one.
	Owner string

	once sync.Once
	http *http.Client
}

// SocketPath is the socket that the client uses.
func (c *Client) SocketPath() string {
	if c.Socket != "" {
		return c.Socket
	}
	if s := os.Getenv(SocketEnv); s != "" {
		return s
	}
	return DefaultSocket
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	if c.Dial != nil {
		return c.Dial(ctx)
	}
	return new(net.Dialer).DialContext(ctx, "unix", c.SocketPath())
}

func (c *Client) client() *http.Client {
	c.once.Do(func() {
		t := c.Transport
		if t == nil {
			t = &http.Transport{
				DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
				MaxIdleConnsPerHost: 16,
				IdleConnTimeout:     time.Minute,
				DisableCompression:  true,
			}
		}
		c.http = &http.Client{Transport: t}
	})
	return c.http
}

func request(ctx context.Context, method, path string, in any) (*http.Request, error) {
	var body io.Reader
	if in != nil {
		raw, ok := in.(json.RawMessage)
		if !ok {
			var err error
			if raw, err = json.Marshal(in); err != nil {
				return nil, err
			}
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://gatehouse/hcs/v2"+path, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// do returns a response with a success status; its body is the caller's to close.
func (c *Client) do(ctx context.Context, method, path string, in any) (*http.Response, error) {
	req, err := request(ctx, method, path, in)
	if err != nil {
		return nil, err
	}
	resp, err := c.client().Do(req)
	if err != nil {
		if ue := (*url.Error)(nil); errors.As(err, &ue) {
			err = ue.Err // the made-up URL says nothing to the reader
		}
		return nil, err
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, refusal(resp)
}

func refusal(resp *http.Response) error {
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var r ResultError
	if json.Unmarshal(raw, &r) == nil && r.Error != 0 {
		return FromResult(r)
	}
	msg := strings.TrimSpace(string(raw))
	if msg == "" || strings.HasPrefix(msg, "{") {
		msg = resp.Status
	}
	return &Error{Code: statusCode(resp.StatusCode), Message: msg}
}

// Call does one request below /hcs/v2: in (nil, json.RawMessage, or anything that
// marshals) goes as the body; the answer is decoded into out (nil, or
// *json.RawMessage for the bytes). An empty answer leaves out as it was.
func (c *Client) Call(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.do(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if out == nil || len(raw) == 0 {
		return nil
	}
	if m, ok := out.(*json.RawMessage); ok {
		*m = raw
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	return nil
}

// upgrade does one request that becomes a connection.
func (c *Client) upgrade(ctx context.Context, method, path, proto string, in any) (net.Conn, *bufio.Reader, http.Header, error) {
	req, err := request(ctx, method, path, in)
	if err != nil {
		return nil, nil, nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", proto)
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	fail := func(err error) (net.Conn, *bufio.Reader, http.Header, error) {
		stop()
		conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, nil, nil, err
	}
	if err := req.Write(conn); err != nil {
		return fail(err)
	}
	br := bufio.NewReaderSize(conn, 32<<10)
	resp, err := http.ReadResponse(br, req)
	if err != nil {
		return fail(fmt.Errorf("read answer: %w", err))
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		err := refusal(resp)
		resp.Body.Close()
		return fail(err)
	}
	if !stop() { // ctx ended just now and set the deadline
		return fail(ctx.Err())
	}
	return conn, br, resp.Header, nil
}

func systemPath(id string, rest ...string) string {
	p := "/systems/" + url.PathEscape(id)
	for _, r := range rest {
		p += "/" + r
	}
	return p
}

func processPath(id, process string, rest ...string) string {
	return systemPath(id, append([]string{"processes", url.PathEscape(process)}, rest...)...)
}

func query(path string, v url.Values) string {
	if len(v) == 0 {
		return path
	}
	return path + "?" + v.Encode()
}

func millis(ctx context.Context) url.Values {
	v := url.Values{}
	if d, ok := ctx.Deadline(); ok {
		v.Set("timeoutMs", strconv.FormatInt(max(time.Until(d).Milliseconds(), 1), 10))
	}
	return v
}
