// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package api

import (
	"encoding/json"
	"net/http"

	"gatehouse.dev/gatehouse/hcs"
)

// export [extension] answers a system's files as a tar.
func (v hcsHandler) export(w http.ResponseWriter, r *http.Request) error {
	write, err := v.h.Export(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-tar")
	if err := write(r.Context(), w); err != nil {
		if r.Context().Err() == nil {
			v.s.o.Log.Warn("export broke off", "system", r.PathValue("id"), "error", err)
		}
		panic(http.ErrAbortHandler) // so that the client sees a broken stream, not a short archive
	}
	return nil
}

// commit [extension] makes an image of a system. It takes as long as the system's
// files need, so it has no limit but the client's patience.
func (v hcsHandler) commit(w http.ResponseWriter, r *http.Request) error {
	o, err := decode[hcs.CommitOptions](w, r)
	if err != nil {
		return err
	}
	out, err := v.h.Commit(r.Context(), r.PathValue("id"), o)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	return json.NewEncoder(w).Encode(out)
}

// trace [extension] answers which files a system opens, one FileAccess a line, from
// the moment on that the answer begins.
func (v hcsHandler) trace(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := v.s.untilClosing(r.Context())
	defer cancel()
	files, err := v.h.Trace(ctx, r.PathValue("id"))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	_ = rc.Flush()
	out := json.NewEncoder(w)
	for f, err := range files {
		if err != nil {
			v.s.o.Log.Warn("trace broke off", "system", r.PathValue("id"), "error", err)
			panic(http.ErrAbortHandler) // a trace that is not whole must not look like one
		}
		if out.Encode(f) != nil {
			return nil
		}
	}
	return nil
}
