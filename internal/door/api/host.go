// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package api

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
)

// endTrailer says why a stream ended before its client wanted.
const endTrailer = "Gatehouse-End"

// run answers with a stream.
func (s *Server) run(w http.ResponseWriter, r *http.Request, x Stream) {
	ctx, cancel := s.untilClosing(r.Context())
	defer cancel()
	out := &flushed{w: w, kind: x.Type}
	err := x.Run(ctx, r.URL.Query(), out)
	switch {
	case err == nil:
	case errors.Is(err, context.Canceled):
		err = errors.New("the daemon stops")
	case !out.begun:
		s.fail(w, r, err)
		return
	}
	out.begin()
	if err != nil {
		w.Header().Set(endTrailer, strings.Join(strings.Fields(err.Error()), " "))
	}
}

// flushed sends every Write at once.
type flushed struct {
	w     http.ResponseWriter
	kind  string
	begun bool
}

func (f *flushed) begin() {
	if !f.begun {
		f.begun = true
		f.w.Header().Set("Content-Type", f.kind)
		f.w.Header().Set("Trailer", endTrailer)
		f.w.WriteHeader(http.StatusOK)
	}
}

func (f *flushed) Write(b []byte) (int, error) {
	f.begin()
	n, err := f.w.Write(b)
	if err == nil {
		err = http.NewResponseController(f.w).Flush()
	}
	return n, err
}

func (s *Server) routesHost() {
	for name, q := range s.o.Host {
		s.mux.HandleFunc("GET /host/v1/"+name, s.query(q))
	}
	for name, x := range s.o.Streams {
		s.mux.HandleFunc("GET /host/v1/"+name, func(w http.ResponseWriter, r *http.Request) { s.run(w, r, x) })
	}
	s.mux.HandleFunc("GET /host/v1/events", func(w http.ResponseWriter, r *http.Request) { s.stream(w, r, hostEvents) })
	if s.o.Metrics != nil {
		s.mux.HandleFunc("GET /host/v1/metrics", func(w http.ResponseWriter, r *http.Request) {
			var b bytes.Buffer
			if err := s.o.Metrics(r.Context(), &b); err != nil {
				s.fail(w, r, err)
				return
			}
			w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
			_, _ = w.Write(b.Bytes())
		})
	}
}
