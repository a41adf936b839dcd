// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package api

import (
	"bytes"
	"net/http"
)

func (s *Server) routesHost() {
	for name, q := range s.o.Host {
		s.mux.HandleFunc("GET /host/v1/"+name, s.query(q))
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
