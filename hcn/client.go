// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcn

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// DefaultSocket is where the service listens unless told otherwise.
const DefaultSocket = "/run/gatehouse/gatehouse.sock"

// SocketEnv names the environment variable that overrides DefaultSocket.
const SocketEnv = "GATEHOUSE_SOCKET"

// DefaultClient is what the functions of this package and the methods of its documents
// use. A program that keeps its socket elsewhere sets SocketEnv, or replaces the client
// before its first call.
var DefaultClient = &Client{Patience: 5 * time.Second}

// Client speaks to the service. The zero value is ready and uses the socket that
// SocketEnv names, else DefaultSocket. It keeps its connections, and is safe for
// concurrent use; do not copy it after first use.
type Client struct {
	// Socket is the path of the API socket.
	Socket string
	// Patience is how long a service that does not listen (it starts, or starts anew) is
	// tried again. A request that was sent is never sent twice.
	Patience time.Duration
	// Dial replaces the way to the socket.
	Dial func(ctx context.Context) (net.Conn, error)
	// Transport replaces HTTP altogether, for doors inside the daemon.
	Transport http.RoundTripper
	// Owner is written into documents that are created without one.
	Owner string

	once sync.Once
	http *http.Client
}

func (c *Client) client() *http.Client {
	c.once.Do(func() {
		t := c.Transport
		if t == nil {
			dial := c.Dial
			if dial == nil {
				path := c.SocketPath()
				dial = func(ctx context.Context) (net.Conn, error) {
					return c.knock(ctx, path)
				}
			}
			t = &http.Transport{
				DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
				MaxIdleConnsPerHost: 16,
				IdleConnTimeout:     time.Minute,
				DisableCompression:  true,
			}
		}
		c.http = &http.Client{Transport: t}
	})
	return c.http
}

// knock connects to the socket. Nobody there, nobody listening, and a full queue are
// states that pass.
func (c *Client) knock(ctx context.Context, path string) (net.Conn, error) {
	const pause = 20 * time.Millisecond
	for end := time.Now().Add(c.Patience); ; {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
		passing := errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EAGAIN)
		if !passing || time.Until(end) < pause {
			return conn, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
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

// Call does one request below /hcn/v2, or to a whole path below /host/v1 or /hns/v1: in (nil,
// json.RawMessage, or anything that marshals) goes as the body, the answer is decoded into out (nil, or *json.RawMessage
// for the raw bytes). A refusal is an *HcnError whose text begins with op.
func (c *Client) Call(ctx context.Context, op, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = encode(in); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	resp, err := c.do(ctx, op, method, path, body)
	slog.DebugContext(ctx, op, "method", method, "path", path, "body", json.RawMessage(body), "error", err)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%s: read answer: %w", op, err)
	}
	if out == nil || len(raw) == 0 {
		return nil
	}
	if m, ok := out.(*json.RawMessage); ok {
		*m = raw
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%s: decode answer: %w", op, err)
	}
	return nil
}

// do returns a response with a success status; its body is the caller's to close.
func (c *Client) do(ctx context.Context, op, method, path string, body []byte) (*http.Response, error) {
	if !strings.HasPrefix(path, "/host/v1/") && !strings.HasPrefix(path, "/hns/v1/") {
		path = "/hcn/v2" + path
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://gatehouse"+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.client().Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // the made-up URL says nothing to the reader
		}
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var r Record
	if json.Unmarshal(raw, &r) != nil || r.ErrorCode == 0 {
		r = Record{Error: strings.TrimSpace(string(raw)), ErrorCode: uint32(E_FAIL)}
		if r.Error == "" {
			r.Error = resp.Status
		}
	}
	return nil, newError(op, r, resp.StatusCode)
}

// encode keeps policy settings byte for byte: json.Marshal would escape <, > and &.
func encode(v any) ([]byte, error) {
	if raw, ok := v.(json.RawMessage); ok {
		return raw, nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// owned adds the client's Owner to a document, which the Go documents have no member for.
func (c *Client) owned(doc any) (json.RawMessage, error) {
	raw, err := encode(doc)
	if err != nil || c.Owner == "" || len(raw) < 2 || raw[0] != '{' {
		return raw, err
	}
	owner, err := encode(c.Owner)
	if err != nil {
		return nil, err
	}
	sep := ","
	if raw[1] == '}' {
		sep = ""
	}
	return json.RawMessage("{\"Owner\":" + string(owner) + sep + string(raw[1:])), nil
}

// Globals returns the version of the service.
func (c *Client) Globals(ctx context.Context) (*Globals, error) {
	var v Version
	if err := c.Call(ctx, "hcnGetGlobals", "GET", "/globals/version", nil, &v); err != nil {
		return nil, err
	}
	return &Globals{Version: v}, nil
}

// Version of the service.
func (c *Client) Version(ctx context.Context) (Version, error) {
	g, err := c.Globals(ctx)
	if err != nil {
		return Version{}, err
	}
	return g.Version, nil
}

// Features of the service.
func (c *Client) Features(ctx context.Context) (SupportedFeatures, error) {
	var out SupportedFeatures
	return out, c.Call(ctx, "hcnGetFeatures", "GET", "/features", nil, &out)
}
