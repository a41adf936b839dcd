// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/images"
)

// maxBody of a request that is a document.
const maxBody = 1 << 20

// maxSlimBody: a request that names every file of a large image.
const maxSlimBody = 64 << 20

// NewHandler serves the store under /images/v1, the paths included. Who may call
// is decided before.
//
//	GET    /images/v1/images              list
//	GET    /images/v1/images/{ref}        inspect
//	DELETE /images/v1/images/{ref}?force= remove
//	POST   /images/v1/pull                PullRequest   -> lines of Progress
//	POST   /images/v1/load                archive       -> lines of Progress
//	POST   /images/v1/import?name=&change=&platform=&message=&from=   a tar of files -> lines of Progress
//	POST   /images/v1/slim                SlimRequest   -> lines of Progress
//	GET    /images/v1/save?ref=&format=   archive
//	POST   /images/v1/tag                 TagRequest    -> Image
//	POST   /images/v1/push                PushRequest   -> lines of Progress
//	POST   /images/v1/login               LoginRequest  -> 204
func NewHandler(s *Store) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /images/v1/images", func(w http.ResponseWriter, r *http.Request) {
		list, err := s.List(r.Context())
		answer(w, list, err)
	})
	mux.HandleFunc("GET /images/v1/images/{ref...}", func(w http.ResponseWriter, r *http.Request) {
		img, err := s.Inspect(r.Context(), r.PathValue("ref"))
		answer(w, img, err)
	})
	mux.HandleFunc("DELETE /images/v1/images/{ref...}", func(w http.ResponseWriter, r *http.Request) {
		force, err := parseForce(r.URL.Query().Get("force"))
		if err != nil {
			answer(w, nil, err)
			return
		}
		removed, err := s.Remove(r.Context(), r.PathValue("ref"), force)
		answer(w, removed, err)
	})
	mux.HandleFunc("POST /images/v1/tag", func(w http.ResponseWriter, r *http.Request) {
		var req images.TagRequest
		if err := readJSON(w, r, maxBody, &req); err != nil {
			answer(w, nil, err)
			return
		}
		img, err := s.Tag(r.Context(), req.Source, req.Target)
		answer(w, img, err)
	})
	mux.HandleFunc("POST /images/v1/login", func(w http.ResponseWriter, r *http.Request) {
		var req images.LoginRequest
		err := readJSON(w, r, maxBody, &req)
		if err == nil {
			err = s.Login(r.Context(), req)
		}
		if err != nil {
			answer(w, nil, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /images/v1/pull", func(w http.ResponseWriter, r *http.Request) {
		var req images.PullRequest
		if err := readJSON(w, r, maxBody, &req); err != nil {
			answer(w, nil, err)
			return
		}
		stream(w, r, s.log, func(ctx context.Context, p report) (images.Progress, error) { return one(s.Pull(ctx, req, p)) })
	})
	mux.HandleFunc("POST /images/v1/push", func(w http.ResponseWriter, r *http.Request) {
		var req images.PushRequest
		if err := readJSON(w, r, maxBody, &req); err != nil {
			answer(w, nil, err)
			return
		}
		stream(w, r, s.log, func(ctx context.Context, p report) (images.Progress, error) { return one(s.Push(ctx, req, p)) })
	})
	// take is a verb that reads an archive; its progress goes out while that still
	// comes in.
	take := func(w http.ResponseWriter, r *http.Request, verb func(context.Context, report) (images.Progress, error)) {
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			answer(w, nil, err)
			return
		}
		stream(w, r, s.log, verb)
		// A client still sending would lose the answer if we closed on it; it hangs up
		// once it has read the last line.
		_, _ = io.Copy(io.Discard, r.Body)
	}
	mux.HandleFunc("POST /images/v1/load", func(w http.ResponseWriter, r *http.Request) {
		take(w, r, func(ctx context.Context, p report) (images.Progress, error) { return all(s.Load(ctx, r.Body, p)) })
	})
	mux.HandleFunc("POST /images/v1/import", func(w http.ResponseWriter, r *http.Request) {
		req := images.ImportRequestOf(r.URL.Query())
		take(w, r, func(ctx context.Context, p report) (images.Progress, error) {
			return one(s.Import(ctx, req, r.Body, p))
		})
	})
	mux.HandleFunc("POST /images/v1/slim", func(w http.ResponseWriter, r *http.Request) {
		var req images.SlimRequest
		if err := readJSON(w, r, maxSlimBody, &req); err != nil {
			answer(w, nil, err)
			return
		}
		stream(w, r, s.log, func(ctx context.Context, p report) (images.Progress, error) {
			img, rep, err := s.Slim(ctx, req, p)
			return images.Progress{Images: []images.Image{img}, Report: &rep}, err
		})
	})
	mux.HandleFunc("GET /images/v1/save", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		v, err := s.Save(r.Context(), q["ref"], q.Get("format"))
		if err != nil {
			answer(w, nil, err)
			return
		}
		defer func() {
			if err := v.Close(); err != nil {
				s.log.Warn("save left files behind", "error", err)
			}
		}()
		w.Header().Set("Content-Type", "application/x-tar")
		if err := v.Write(r.Context(), w); err != nil {
			if r.Context().Err() == nil {
				s.log.Warn("save broke off", "error", err)
			}
			panic(http.ErrAbortHandler) // so that the client sees a broken stream, not a short archive
		}
	})
	mux.HandleFunc("/images/v1/", func(w http.ResponseWriter, r *http.Request) {
		answer(w, nil, images.Errorf(images.CodeNotFound, "%s %s: no such call", r.Method, r.URL.Path))
	})
	return mux
}

// one and all are the outcome of a verb.
func one(img images.Image, err error) (images.Progress, error) { return all([]images.Image{img}, err) }

func all(imgs []images.Image, err error) (images.Progress, error) {
	return images.Progress{Images: imgs}, err
}

func parseForce(s string) (bool, error) {
	if s == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, images.Errorf(images.CodeInvalid, "force %q: must be true or false", s)
	}
	return b, nil
}

func readJSON(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit)).Decode(v); err != nil {
		// The text of a JSON error may quote the body, and the body may hold a password.
		return images.Errorf(images.CodeInvalid, "%s: the body is not a request of this call", strings.TrimPrefix(r.URL.Path, "/images/v1/"))
	}
	return nil
}

func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		var e *images.Error
		if !errors.As(err, &e) {
			e = images.Errorf(images.CodeUnspecified, "%w", err)
		}
		w.WriteHeader(e.HTTPStatus())
		v = e
	}
	_ = json.NewEncoder(w).Encode(v) // a client that is gone needs no answer
}

// stream runs a verb and sends its progress, a line each, then its outcome. A
// client that reads slowly misses lines of progress and delays nobody; one that
// goes away cancels the verb.
func stream(w http.ResponseWriter, r *http.Request, log *slog.Logger, verb func(context.Context, report) (images.Progress, error)) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	lines := make(chan images.Progress, 64)
	done := make(chan images.Progress, 1)
	go func() {
		last, err := verb(ctx, func(p images.Progress) {
			select {
			case lines <- p:
			default:
			}
		})
		last.Status = images.StatusDone
		if err != nil {
			var e *images.Error
			if !errors.As(err, &e) {
				e = images.Errorf(images.CodeUnspecified, "%w", err)
			}
			last = images.Progress{Status: images.StatusError, Error: e}
		}
		done <- last
	}()
	w.Header().Set("Content-Type", "application/x-ndjson")
	rc := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	send := func(v any) {
		var err error
		if v == nil {
			_, err = io.WriteString(w, "\n")
		} else {
			err = enc.Encode(v)
		}
		if err == nil {
			err = rc.Flush()
		}
		if err != nil {
			cancel() // nobody listens
		}
	}
	warm := time.NewTicker(15 * time.Second)
	defer warm.Stop()
	for {
		select {
		case p := <-lines:
			send(p)
		case <-warm.C:
			send(nil)
		case last := <-done:
			for len(lines) > 0 {
				send(<-lines)
			}
			if last.Error != nil && r.Context().Err() == nil {
				log.Debug("image verb refused", "path", r.URL.Path, "error", last.Error)
			}
			send(last)
			return
		}
	}
}
