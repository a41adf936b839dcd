// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"gatehouse.dev/gatehouse/internal/resource"
	"gatehouse.dev/gatehouse/internal/store"
)

// things is a collection in memory: what a service is to the door.
type things struct {
	mu   sync.Mutex // guards docs
	docs []resource.Doc
	db   *store.DB
	kind string
	// block, when set, holds a create until it is closed.
	block chan struct{}
}

func (c *things) List(_ context.Context, q url.Values) ([]resource.Doc, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []resource.Doc
	for _, d := range c.docs {
		var m struct{ Name string }
		_ = json.Unmarshal(d.JSON, &m)
		if n := q.Get("name"); n == "" || n == m.Name {
			out = append(out, d)
		}
	}
	return out, nil
}

func (c *things) find(id string) (int, error) {
	i := slices.IndexFunc(c.docs, func(d resource.Doc) bool { return d.ID == id })
	if i < 0 {
		return 0, fmt.Errorf("%s %q: %w", c.kind, id, errdefs.ErrNotFound)
	}
	return i, nil
}

func (c *things) Get(_ context.Context, id string, _ url.Values) (resource.Doc, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, err := c.find(id)
	if err != nil {
		return resource.Doc{}, err
	}
	return c.docs[i], nil
}

func (c *things) Create(ctx context.Context, body json.RawMessage) (resource.Doc, bool, error) {
	if c.block != nil {
		<-c.block
	}
	if err := ctx.Err(); err != nil {
		return resource.Doc{}, false, err
	}
	var m map[string]any
	if err := json.Unmarshal(body, &m); err != nil {
		return resource.Doc{}, false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id, _ := m["ID"].(string)
	if i, err := c.find(id); err == nil {
		return c.docs[i], false, nil
	}
	if id == "" {
		id = fmt.Sprintf("id-%d", len(c.docs))
		m["ID"] = id
	}
	m["Owner"] = resource.CallerFrom(ctx).Owner()
	b, _ := json.Marshal(m)
	d := resource.Doc{ID: id, Version: 1, JSON: b}
	c.docs = append(c.docs, d)
	_, err := c.db.Update(func(tx *store.Tx) error {
		return tx.Append(store.Event{Name: "ThingCreate", Kind: c.kind, ID: id, Data: b})
	})
	return d, true, err
}

func (c *things) Modify(_ context.Context, id string, body json.RawMessage, match uint64) (resource.Doc, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, err := c.find(id)
	if err != nil {
		return resource.Doc{}, err
	}
	if match != 0 && match != c.docs[i].Version {
		return resource.Doc{}, refusal{http.StatusPreconditionFailed}
	}
	c.docs[i].Version++
	c.docs[i].JSON = body
	return c.docs[i], nil
}

func (c *things) Delete(_ context.Context, id string, _ uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, err := c.find(id)
	if err != nil {
		return err
	}
	c.docs = slices.Delete(c.docs, i, i+1)
	return nil
}

type refusal struct{ status int }

func (r refusal) Error() string   { return "refused" }
func (r refusal) HTTPStatus() int { return r.status }
func (r refusal) Record() any     { return map[string]any{"Mine": true} }

type fixture struct {
	t      *testing.T
	s      *Server
	db     *store.DB
	nets   *things
	socket string
	client *http.Client
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	dir, err := os.MkdirTemp("", "gh-api.")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	db, err := store.Open(filepath.Join(dir, "s.db"))
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, db: db, nets: &things{db: db, kind: "networks"}, socket: filepath.Join(dir, "s.sock")}
	f.s = New(Options{
		HCN:     map[string]resource.Collection{"networks": f.nets, "endpoints": &things{db: db, kind: "endpoints"}},
		Globals: map[string]int{"Major": 16},
		Host:    map[string]Query{"echo": func(_ context.Context, q url.Values) (any, error) { return q, nil }},
		Streams: map[string]Stream{"drip": {Type: "text/plain", Run: drip}},
		Metrics: func(_ context.Context, w io.Writer) error { _, err := io.WriteString(w, "up 1\n"); return err },
		Events:  db, GID: -1, Log: slog.New(slog.DiscardHandler),
	})
	l, err := Listen(f.socket, -1, false)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- f.s.Serve(l) }()
	f.client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", f.socket)
	}}}
	t.Cleanup(func() {
		f.client.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := f.s.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		db.Close()
	})
	return f
}

func (f *fixture) do(method, path, body string, header ...string) (*http.Response, string) {
	f.t.Helper()
	req, err := http.NewRequest(method, "http://g"+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := f.client.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp, strings.TrimSpace(string(b))
}

func TestCollectionVerbs(t *testing.T) {
	f := newFixture(t)
	me := fmt.Sprintf("uid:%d", os.Getuid())
	for _, tt := range []struct {
		method, path, body string
		header             []string
		status             int
		want               string // of the answer's body
	}{
		{"GET", "/hcn/v2/networks", "", nil, 200, `[]`},
		{"POST", "/hcn/v2/networks", `{"ID":"a","Name":"web"}`, nil, 201, `{"ID":"a","Name":"web","Owner":"` + me + `"}`},
		{"POST", "/hcn/v2/networks", `{"ID":"a","Name":"web"}`, nil, 200, ``},
		{"GET", "/hcn/v2/networks?ids=true", "", nil, 200, `["a"]`},
		{"GET", "/hcn/v2/networks/a", "", nil, 200, `"web"`},
		{"GET", "/hcn/v2/networks/name:web", "", nil, 200, `"web"`},
		{"GET", "/hcn/v2/networks/name:none", "", nil, 404, `{"Success":false,"Error":"network \"none\" was not found; list with: gatehouse network ls ","ErrorCode":2151350273}`},
		{"GET", "/hcn/v2/networks/none", "", nil, 404, `"ErrorCode":2147943568`},
		{"POST", "/hcn/v2/networks/name:web/endpoints", `{"hostComputeNetwork":"other","Name":"e"}`, nil, 201, `"HostComputeNetwork":"a"`},
		{"POST", "/hcn/v2/networks/none/modify", `{}`, nil, 404, ``},
		{"POST", "/hcn/v2/networks/a/modify", `{"Name":"w2"}`, []string{"If-Match", `"7"`}, 412, `{"Mine":true}`},
		{"POST", "/hcn/v2/networks/a/modify", `{"Name":"w2"}`, []string{"If-Match", `x`}, 412, `is not an ETag`},
		{"POST", "/hcn/v2/networks/a/modify", `{"Name":"w2"}`, []string{"If-Match", `"1"`}, 200, `w2`},
		{"POST", "/hcn/v2/networks", `{"ID":`, nil, 400, `"ErrorCode":2151350299`},
		{"POST", "/hcn/v2/networks", ``, nil, 400, `request body is empty`},
		{"POST", "/hcn/v2/networks", `{"x":"` + strings.Repeat("x", 33<<20) + `"}`, nil, 413, `over 32 MiB`},
		{"PUT", "/hcn/v2/networks/a", `{}`, nil, 405, `"Success":false`},
		{"GET", "/hcn/v2/nothing", "", nil, 404, `"Success":false`},
		{"GET", "/hcs/v2/nothing", "", nil, 404, `"ErrorMessage":"no such path /hcs/v2/nothing"`},
		{"GET", "/", "", nil, 404, `{"Error":"no such path /"}`},
		{"GET", "/hcn/v2/globals/version", "", nil, 200, `{"Major":16}`},
		{"GET", "/hcn/v2/features", "", nil, 501, `not built`},
		{"GET", "/host/v1/echo?a=b", "", nil, 200, `{"a":["b"]}`},
		{"GET", "/host/v1/metrics", "", nil, 200, `up 1`},
		{"DELETE", "/hcn/v2/networks/name:w2", "", nil, 204, ``},
		{"DELETE", "/hcn/v2/networks/a", "", nil, 404, `"Success":false`},
	} {
		resp, body := f.do(tt.method, tt.path, tt.body, tt.header...)
		if resp.StatusCode != tt.status || !strings.Contains(body, tt.want) {
			t.Errorf("%s %s: %d %.300s; want %d %s", tt.method, tt.path, resp.StatusCode, body, tt.status, tt.want)
		}
		if resp.Header.Get("Gatehouse-Revision") == "" {
			t.Errorf("%s %s: no Gatehouse-Revision", tt.method, tt.path)
		}
		if ct := resp.Header.Get("Content-Type"); body != "" && !strings.HasPrefix(ct, "application/json") && !strings.Contains(tt.path, "metrics") {
			t.Errorf("%s %s: content type %q", tt.method, tt.path, ct)
		}
		if tt.status == 201 && (resp.Header.Get("ETag") != `"1"` || resp.Header.Get("Location") == "") {
			t.Errorf("%s %s: headers %v", tt.method, tt.path, resp.Header)
		}
	}
	if resp, _ := f.do("PUT", "/hcn/v2/networks/a", `{}`); resp.Header.Get("Allow") == "" {
		t.Error("405 without Allow")
	}
}

func TestIdempotencyKey(t *testing.T) {
	f := newFixture(t)
	f.nets.block = make(chan struct{})
	bodies := make(chan string, 3)
	for range 3 {
		go func() {
			_, b := f.do("POST", "/hcn/v2/networks", `{"Name":"x"}`, "Idempotency-Key", "k1")
			bodies <- b
		}()
	}
	close(f.nets.block)
	first := <-bodies
	for range 2 {
		if b := <-bodies; b != first {
			t.Errorf("repeated create answered %s, first %s", b, first)
		}
	}
	if _, b := f.do("POST", "/hcn/v2/networks", `{"Name":"x"}`, "Idempotency-Key", "k2"); b == first {
		t.Errorf("another key gave the first answer %s", b)
	}
	if n := len(f.nets.docs); n != 2 {
		t.Errorf("%d objects, want 2", n)
	}
}

// A verb goes on when its client has gone.
func TestDisconnectDoesNotCut(t *testing.T) {
	f := newFixture(t)
	f.nets.block = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "POST", "http://g/hcn/v2/networks", strings.NewReader(`{"ID":"left"}`))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := f.client.Do(req); err == nil {
			resp.Body.Close()
		}
	}()
	time.Sleep(50 * time.Millisecond)
	cancel()
	<-done
	time.Sleep(50 * time.Millisecond)
	close(f.nets.block)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if resp, _ := f.do("GET", "/hcn/v2/networks/left", ""); resp.StatusCode == 200 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the verb was cut off with its client")
		}
	}
}

func TestEventStream(t *testing.T) {
	f := newFixture(t)
	f.do("POST", "/hcn/v2/networks", `{"ID":"a"}`)
	resp, body := f.do("GET", "/hcn/v2/events?since=0&follow=false", "")
	if resp.StatusCode != 200 || !strings.Contains(body, `"Name":"ThingCreate"`) || !strings.Contains(body, `"ID":"a"`) {
		t.Fatalf("events since 0: %d %s", resp.StatusCode, body)
	}
	req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://g/hcn/v2/events", nil)
	req.Header.Set("Accept", "text/event-stream")
	live, err := f.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer live.Body.Close()
	f.do("POST", "/hcn/v2/networks", `{"ID":"b"}`)
	lines := bufio.NewScanner(live.Body)
	lines.Scan()
	if got := lines.Text(); got != "id: 2" {
		t.Errorf("first line %q, want id: 2", got)
	}
	lines.Scan()
	if got := lines.Text(); !strings.HasPrefix(got, "data: {") || !strings.Contains(got, `"b"`) {
		t.Errorf("second line %q", got)
	}
	// The stop of the daemon is the last line.
	go f.s.Shutdown(context.Background())
	var last string
	for lines.Scan() {
		if lines.Text() != "" {
			last = lines.Text()
		}
	}
	if !strings.Contains(last, "ServiceDisconnect") {
		t.Errorf("last line %q, want ServiceDisconnect", last)
	}
}

func TestListen(t *testing.T) {
	f := newFixture(t)
	fi, err := os.Stat(f.socket)
	if err != nil || fi.Mode().Perm() != 0o660 {
		t.Fatalf("socket mode %v, %v; want 0660", fi.Mode(), err)
	}
	if _, err := Listen(f.socket, -1, false); err == nil || !strings.Contains(err.Error(), "another daemon answers") {
		t.Errorf("second listener: %v", err)
	}
	dir := filepath.Dir(f.socket)
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if l, err := Listen(stale, -1, false); err != nil {
		t.Errorf("over a stale socket: %v", err)
	} else {
		l.Close()
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file, -1, false); err == nil || !strings.Contains(err.Error(), "a file is in the way") {
		t.Errorf("over a file: %v", err)
	}
	if _, err := Listen("/tmp/"+strings.Repeat("x", 110), -1, false); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("long path: %v", err)
	}
}

// A stranger who got hold of the socket is refused by its credentials.
func TestCallerIsChecked(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become somebody else")
	}
	f := newFixture(t)
	if err := os.Chmod(filepath.Dir(f.socket), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(f.socket, 0o666); err != nil {
		t.Fatal(err)
	}
	// Credentials are taken by connect(2): a socket pair's other end would be ours.
	status := make(chan int, 1)
	go func() {
		// This thread changes its user for good and dies with the goroutine.
		runtime.LockOSThread()
		if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, 65534, 65534, 65534); e != 0 {
			status <- -1
			return
		}
		fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		if err != nil {
			status <- -2
			return
		}
		defer syscall.Close(fd)
		if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: f.socket}); err != nil {
			status <- -3
			return
		}
		_, _ = syscall.Write(fd, []byte("GET /hcn/v2/networks HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"))
		b := make([]byte, 12)
		_, _ = syscall.Read(fd, b)
		var n int
		_, _ = fmt.Sscanf(string(b), "HTTP/1.1 %d", &n)
		status <- n
	}()
	if got := <-status; got != http.StatusForbidden {
		t.Fatalf("user 65534: %d, want 403", got)
	}
}
