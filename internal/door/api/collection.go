// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"gatehouse.dev/gatehouse/internal/resource"
)

// replaceable kinds take a whole document by PUT.
var replaceable = map[string]bool{"loadbalancers": true, "sdnroutes": true, "services": true}

func (s *Server) routesHCN() {
	for kind, c := range s.o.HCN {
		k := kindHandler{s, kind, c}
		base := "/hcn/v2/" + kind
		s.mux.HandleFunc("GET "+base, k.list)
		s.mux.HandleFunc("POST "+base, k.create)
		s.mux.HandleFunc("GET "+base+"/{id}", k.get)
		s.mux.HandleFunc("DELETE "+base+"/{id}", k.delete)
		s.mux.HandleFunc("POST "+base+"/{id}/modify", k.modify)
		if replaceable[kind] {
			s.mux.HandleFunc("PUT "+base+"/{id}", k.modify)
		}
	}
	if nets, ok := s.o.HCN["networks"]; ok {
		if eps, ok := s.o.HCN["endpoints"]; ok {
			n, e := kindHandler{s, "networks", nets}, kindHandler{s, "endpoints", eps}
			s.mux.HandleFunc("POST /hcn/v2/networks/{id}/endpoints", func(w http.ResponseWriter, r *http.Request) {
				e.createOn(w, r, n)
			})
			if s.o.EndpointStats != nil {
				s.mux.HandleFunc("GET /hcn/v2/endpoints/{id}/stats", func(w http.ResponseWriter, r *http.Request) {
					id, err := e.resolve(r)
					if err != nil {
						s.fail(w, r, err)
						return
					}
					v, err := s.o.EndpointStats(r.Context(), id)
					s.reply(w, r, v, err)
				})
			}
		}
	}
	s.mux.HandleFunc("POST /hcn/v2/explain", s.explain)
	s.mux.HandleFunc("GET /hcn/v2/globals/version", func(w http.ResponseWriter, r *http.Request) {
		s.reply(w, r, s.o.Globals, nil)
	})
	s.mux.HandleFunc("GET /hcn/v2/features", func(w http.ResponseWriter, r *http.Request) {
		s.reply(w, r, s.o.Features, nil)
	})
	s.mux.HandleFunc("GET /hcn/v2/events", func(w http.ResponseWriter, r *http.Request) { s.stream(w, r, hcnEvents) })
}

func (s *Server) reply(w http.ResponseWriter, r *http.Request, v any, err error) {
	switch {
	case err != nil:
		s.fail(w, r, err)
	case v == nil:
		s.fail(w, r, problem(http.StatusNotImplemented, codeNotImpl, "%s is not built into this daemon", r.URL.Path))
	default:
		writeJSON(w, http.StatusOK, v)
	}
}

// query answers a question with whatever it finds.
func (s *Server) query(q Query) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.readAt(w)
		v, err := q(r.Context(), r.URL.Query())
		s.reply(w, r, v, err)
	}
}

// kindHandler is the one handler of every kind of document.
type kindHandler struct {
	s    *Server
	kind string
	c    resource.Collection
}

func (k kindHandler) list(w http.ResponseWriter, r *http.Request) {
	k.s.readAt(w)
	docs, err := k.c.List(r.Context(), r.URL.Query())
	if err != nil {
		k.s.fail(w, r, err)
		return
	}
	if b, _ := strconv.ParseBool(r.URL.Query().Get("ids")); b {
		ids := make([]string, len(docs))
		for i, d := range docs {
			ids[i] = d.ID
		}
		writeJSON(w, http.StatusOK, ids)
		return
	}
	out := make([]json.RawMessage, len(docs))
	for i, d := range docs {
		out[i] = d.JSON
	}
	writeJSON(w, http.StatusOK, out)
}

func (k kindHandler) create(w http.ResponseWriter, r *http.Request) {
	b, err := body(r, false)
	if err != nil {
		k.s.fail(w, r, err)
		return
	}
	k.createDoc(w, r, b)
}

// createOn is POST networks/ID/endpoints: the network of the path wins over the
// one in the document.
func (k kindHandler) createOn(w http.ResponseWriter, r *http.Request, networks kindHandler) {
	id, err := networks.resolve(r)
	if err != nil {
		k.s.fail(w, r, err)
		return
	}
	b, err := body(r, false)
	if err != nil {
		k.s.fail(w, r, err)
		return
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil {
		k.s.fail(w, r, problem(http.StatusBadRequest, codeInvalidJSON, "request body is not a JSON object"))
		return
	}
	for name := range m {
		if strings.EqualFold(name, "HostComputeNetwork") {
			delete(m, name)
		}
	}
	if m == nil {
		m = map[string]json.RawMessage{}
	}
	m["HostComputeNetwork"], _ = json.Marshal(id)
	b, err = marshal(m)
	if err != nil {
		k.s.fail(w, r, err)
		return
	}
	k.createDoc(w, r, b)
}

func (k kindHandler) createDoc(w http.ResponseWriter, r *http.Request, b json.RawMessage) {
	ctx, cancel := verb(r)
	defer cancel()
	doc, created, err := k.c.Create(ctx, b)
	if err != nil {
		k.s.fail(w, r, err)
		return
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
		w.Header().Set("Location", "/hcn/v2/"+k.kind+"/"+url.PathEscape(doc.ID))
	}
	writeDoc(w, status, doc)
}

func (k kindHandler) get(w http.ResponseWriter, r *http.Request) {
	id, err := k.resolve(r)
	if err != nil {
		k.s.fail(w, r, err)
		return
	}
	doc, err := k.c.Get(r.Context(), id, r.URL.Query())
	if err != nil {
		k.s.fail(w, r, err)
		return
	}
	writeDoc(w, http.StatusOK, doc)
}

func (k kindHandler) modify(w http.ResponseWriter, r *http.Request) {
	id, version, err := k.target(r)
	if err != nil {
		k.s.fail(w, r, err)
		return
	}
	b, err := body(r, false)
	if err != nil {
		k.s.fail(w, r, err)
		return
	}
	ctx, cancel := verb(r)
	defer cancel()
	doc, err := k.c.Modify(ctx, id, b, version)
	if err != nil {
		k.s.fail(w, r, err)
		return
	}
	writeDoc(w, http.StatusOK, doc)
}

func (k kindHandler) delete(w http.ResponseWriter, r *http.Request) {
	id, version, err := k.target(r)
	if err != nil {
		k.s.fail(w, r, err)
		return
	}
	ctx, cancel := verb(r)
	defer cancel()
	if err := k.c.Delete(ctx, id, version); err != nil {
		k.s.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (k kindHandler) target(r *http.Request) (id string, version uint64, err error) {
	if id, err = k.resolve(r); err != nil {
		return "", 0, err
	}
	version, err = match(r)
	return id, version, err
}

// resolve turns name:<name> into the ID of the only object of that name.
func (k kindHandler) resolve(r *http.Request) (string, error) {
	id := r.PathValue("id")
	name, ok := strings.CutPrefix(id, "name:")
	if !ok {
		return id, nil
	}
	docs, err := k.c.List(r.Context(), url.Values{"name": {name}})
	if err != nil {
		return "", fmt.Errorf("look up %s %q: %w", k.kind, name, err)
	}
	switch len(docs) {
	case 0:
		return "", k.absent(name)
	case 1:
		return docs[0].ID, nil
	}
	return "", problem(http.StatusConflict, codeInvalidArg, "%d %s are named %q; name one by its ID", len(docs), k.kind, name)
}

// absent is the not-found error of the kind, spec hcn §4.4.
func (k kindHandler) absent(name string) error {
	code := codeNotFound
	switch k.kind {
	case "networks":
		code = 0x803b0001 // HCN_E_NETWORK_NOT_FOUND
	case "endpoints":
		code = 0x803b0002 // HCN_E_ENDPOINT_NOT_FOUND
	}
	noun := strings.TrimSuffix(k.kind, "s")
	return problem(http.StatusNotFound, code, "%s %q was not found; list with: gatehouse %s ls", noun, name, noun)
}

func writeDoc(w http.ResponseWriter, status int, d resource.Doc) {
	w.Header().Set("ETag", `"`+strconv.FormatUint(d.Version, 10)+`"`)
	writeJSON(w, status, d.JSON)
}

// explain answers a question about a packet. It is a POST for its body's sake and
// changes nothing.
func (s *Server) explain(w http.ResponseWriter, r *http.Request) {
	if s.o.Explain == nil {
		s.reply(w, r, nil, nil)
		return
	}
	b, err := body(r, false)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.readAt(w)
	v, err := s.o.Explain(r.Context(), b)
	s.reply(w, r, v, err)
}
