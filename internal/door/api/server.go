// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package api is the one door that knows the services: HTTP/JSON on a unix
// socket. One generic handler serves every kind of hcn document (/hcn/v2), one
// set of verbs the compute systems (/hcs/v2); v1 of the networking API (/hns/v1),
// images (/images/v1) and the host itself (/host/v1) stand beside them. It translates and keeps no state but the
// answers of repeated requests.
//
// Be aware: a verb that changes something runs on a context without the
// client's cancellation, so a client that goes away never cuts a verb in half.
// Only waits, streams and reads end with their client.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"gatehouse.dev/gatehouse/internal/resource"
	"gatehouse.dev/gatehouse/internal/store"
)

// maxBody is the largest request body, spec hcn §7.2: set and port lists are long.
const maxBody = 32 << 20

// verbLimit ends a verb that hangs. hcsshim gives every operation 4 minutes.
const verbLimit = 4 * time.Minute

// Events is the log of what happened, with the store's revision.
type Events interface {
	Events(since uint64) ([]store.Event, <-chan struct{}, error)
	Revision() uint64
}

// Query answers one read-only question.
type Query func(ctx context.Context, q url.Values) (any, error)

// Stream answers until ctx ends, which it does with the client or the daemon. An
// error before the first Write is a refusal; a later one ends the stream, and the
// client finds it in the trailer. Every Write is sent at once.
type Stream struct {
	Type string // Content-Type
	Run  func(ctx context.Context, q url.Values, w io.Writer) error
}

// Options are the services behind the door. A nil service answers 501.
type Options struct {
	// HCN are the collections by the name of their kind: networks, endpoints …
	HCN map[string]resource.Collection
	// Globals and Features answer their GETs.
	Globals, Features any
	// EndpointStats answers GET endpoints/ID/stats.
	EndpointStats func(ctx context.Context, id string) (any, error)
	// Explain answers POST explain; nil = 501.
	Explain func(ctx context.Context, body json.RawMessage) (any, error)
	// HCS is the host compute service.
	HCS Systems
	// HNS serves everything below /hns/v1.
	HNS http.Handler
	// Images serves everything below /images/v1.
	Images http.Handler
	Events Events
	// Host are the questions below /host/v1 by name.
	Host map[string]Query
	// Streams are the answers below /host/v1 that go on until their client leaves.
	Streams map[string]Stream
	// Metrics writes Prometheus' text form.
	Metrics func(ctx context.Context, w io.Writer) error
	// Admits tells which callers without full rights may use the compute service;
	// nil = none.
	Admits func(resource.Caller) bool
	// GID is the group that may use the socket besides root; -1 = none.
	GID int
	Log *slog.Logger
}

// Server is the door. Make it with New, then Serve.
type Server struct {
	o       Options
	mux     *http.ServeMux
	http    *http.Server
	repeats repeats
	closing chan struct{}
	once    sync.Once
}

// New builds the door over its services.
func New(o Options) *Server {
	s := &Server{o: o, mux: http.NewServeMux(), closing: make(chan struct{})}
	s.routesHCN()
	s.routesHCS()
	s.routesHost()
	if o.HNS != nil {
		s.mux.HandleFunc("/hns/v1/", s.hns)
	}
	if o.Images != nil {
		s.mux.Handle("/images/v1/", o.Images)
	}
	s.http = &http.Server{
		Handler:           s,
		ConnContext:       connContext,
		ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	return s
}

// Serve answers on l until Shutdown.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown ends the streams with a last line, lets verbs finish until ctx ends,
// then closes what is left. Connections that were handed to workers live on.
func (s *Server) Shutdown(ctx context.Context) error {
	s.once.Do(func() { close(s.closing) })
	err := s.http.Shutdown(ctx)
	if err != nil {
		return errors.Join(err, s.http.Close())
	}
	return nil
}

// ServeHTTP implements http.Handler: who asks, how large, what revision, then
// the route; every refusal is a record in the prefix's own form.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w = &answer{ResponseWriter: w, events: s.o.Events}
	r, err := s.asked(w, r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	h, pattern := s.mux.Handler(r)
	if pattern == "" {
		s.unrouted(w, r, h)
		return
	}
	if key := r.Header.Get("Idempotency-Key"); key != "" && r.Method == http.MethodPost && r.Header.Get("Upgrade") == "" {
		s.repeats.serve(w, r, key, s.mux)
		return
	}
	s.mux.ServeHTTP(w, r)
}

func (s *Server) asked(w http.ResponseWriter, r *http.Request) (*http.Request, error) {
	id, err := s.identify(r)
	if err != nil {
		return r, err
	}
	r = id
	if !strings.HasPrefix(r.URL.Path, "/images/") { // archives are streams, capped where they are read
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	}
	return r, nil
}

// unrouted turns the router's own plain answers (404, 405, redirects) into records.
func (s *Server) unrouted(w http.ResponseWriter, r *http.Request, h http.Handler) {
	rec := &recorder{header: http.Header{}}
	h.ServeHTTP(rec, r)
	switch {
	case rec.status == http.StatusMethodNotAllowed:
		w.Header().Set("Allow", rec.header.Get("Allow"))
		s.fail(w, r, problem(http.StatusMethodNotAllowed, codeNotImpl, "%s is not a verb of %s; it takes %s", r.Method, r.URL.Path, rec.header.Get("Allow")))
	default:
		s.fail(w, r, problem(http.StatusNotFound, codeNotFound, "no such path %s", r.URL.Path))
	}
}

// verb detaches a changing verb from its client and limits it.
func verb(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(r.Context()), verbLimit)
}

// hns hands a request to the door of v1, verbs detached as everywhere.
func (s *Server) hns(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		ctx, cancel := verb(r)
		defer cancel()
		r = r.WithContext(ctx)
	}
	s.o.HNS.ServeHTTP(w, r)
}

// body reads the request's JSON. An empty body is nil where that is allowed.
func body(r *http.Request, optional bool) (json.RawMessage, error) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	b = bytes.TrimSpace(b)
	if len(b) == 0 && optional {
		return nil, nil
	}
	code := codeInvalidJSON
	if dialectOf(r.URL.Path) == dialectHCS {
		code = codeSysJSON
	}
	if len(b) == 0 {
		return nil, problem(http.StatusBadRequest, code, "request body is empty; send a JSON document")
	}
	if !json.Valid(b) {
		var v any
		return nil, problem(http.StatusBadRequest, code, "request body is not JSON: %v", json.Unmarshal(b, &v))
	}
	return b, nil
}

// match is the version that If-Match asks for; 0 = any.
func match(r *http.Request) (uint64, error) {
	v := r.Header.Get("If-Match")
	if v == "" || v == "*" {
		return 0, nil
	}
	n, err := strconv.ParseUint(strings.Trim(v, `"`), 10, 64)
	if err != nil || n == 0 {
		return 0, problem(http.StatusPreconditionFailed, codeInvalidArg, "If-Match %s is not an ETag of this API", v)
	}
	return n, nil
}

// answer adds the revision header to whatever is written through it.
type answer struct {
	http.ResponseWriter
	events Events
	wrote  bool
}

const revisionHeader = "Gatehouse-Revision"

func (a *answer) stamp() {
	if a.wrote {
		return
	}
	a.wrote = true
	if a.events != nil && a.Header().Get(revisionHeader) == "" {
		a.Header().Set(revisionHeader, strconv.FormatUint(a.events.Revision(), 10))
	}
}

func (a *answer) WriteHeader(status int) {
	a.stamp()
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	a.stamp()
	return a.ResponseWriter.Write(b)
}

// Flush keeps http.Flusher visible to handlers that ask for it directly.
func (a *answer) Flush() { _ = http.NewResponseController(a.ResponseWriter).Flush() }

// Unwrap lets http.ResponseController reach the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// readAt stamps the revision before a list is taken, so that events since that
// revision miss nothing.
func (s *Server) readAt(w http.ResponseWriter) {
	if s.o.Events != nil {
		w.Header().Set(revisionHeader, strconv.FormatUint(s.o.Events.Revision(), 10))
	}
}
