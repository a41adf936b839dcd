// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute"
	"gatehouse.dev/gatehouse/internal/compute/held"
)

// Systems is the host compute service as this door calls it; *compute.HCS is it.
type Systems interface {
	Create(ctx context.Context, id string, doc hcs.ComputeSystem, o compute.CreateOptions) (compute.Created, error)
	Start(ctx context.Context, id string) (hcs.ProcessInformation, error)
	Shutdown(ctx context.Context, id string, o hcs.ShutdownOptions) error
	Terminate(ctx context.Context, id string) error
	Crash(ctx context.Context, id string, o hcs.CrashOptions) error
	Pause(ctx context.Context, id string, o hcs.PauseOptions) error
	Resume(ctx context.Context, id string) error
	Save(ctx context.Context, id string, o hcs.SaveOptions) error
	Modify(ctx context.Context, id string, r hcs.ModifySettingRequest) error
	Delete(ctx context.Context, id string) error
	Properties(ctx context.Context, id string, q hcs.PropertyQuery) (hcs.Properties, error)
	Export(ctx context.Context, id string) (write func(context.Context, io.Writer) error, err error)
	Commit(ctx context.Context, id string, o hcs.CommitOptions) (hcs.CommitResult, error)
	Trace(ctx context.Context, id string) (iter.Seq2[hcs.FileAccess, error], error)
	Document(ctx context.Context, id string) (hcs.ComputeSystem, error)
	Enumerate(ctx context.Context, q hcs.SystemQuery, all bool) ([]hcs.Properties, error)
	Wait(ctx context.Context, id string) (hcs.SystemExitStatus, error)
	OpenLease(ctx context.Context, id string) (*compute.Lease, error)
	CreateProcess(ctx context.Context, id string, p hcs.ProcessParameters) (hcs.ProcessInformation, error)
	Processes(ctx context.Context, id string) ([]hcs.ProcessDetails, error)
	OpenProcess(ctx context.Context, id, process string) (hcs.ProcessInformation, hcs.ProcessStatus, error)
	SignalProcess(ctx context.Context, id, process string, s hcs.Signal) (delivered bool, err error)
	TerminateProcess(ctx context.Context, id, process string) (delivered bool, err error)
	ModifyProcess(ctx context.Context, id, process string, r hcs.ProcessModifyRequest) error
	WaitProcess(ctx context.Context, id, process string) (hcs.ProcessStatus, error)
	Attach(ctx context.Context, id, process string, o held.AttachOptions, conn *net.UnixConn, early []byte) error
	Logs(ctx context.Context, id string, o hcs.LogOptions) (iter.Seq2[hcs.LogRecord, error], error)
	Owns(ctx context.Context, runtimeID string) bool
	Policy(ctx context.Context) (hcs.Policy, error)
	SetPolicy(ctx context.Context, p *hcs.Policy) (hcs.Policy, error)
	ServiceProperties(ctx context.Context, types []string) (map[string]any, error)
}

func (s *Server) routesHCS() {
	s.mux.HandleFunc("GET /hcs/v2/events", func(w http.ResponseWriter, r *http.Request) { s.stream(w, r, hcsEvents) })
	h := s.o.HCS
	if h == nil {
		return
	}
	verbs := hcsHandler{s, h}
	for pattern, f := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /hcs/v2/systems":                                 verbs.enumerate,
		"POST /hcs/v2/systems/{id}":                           verbs.create,
		"PUT /hcs/v2/systems/{id}":                            verbs.create,
		"GET /hcs/v2/systems/{id}":                            verbs.properties,
		"DELETE /hcs/v2/systems/{id}":                         verbs.delete,
		"POST /hcs/v2/systems/{id}/properties":                verbs.properties,
		"GET /hcs/v2/systems/{id}/document":                   verbs.document,
		"POST /hcs/v2/systems/{id}/start":                     verbs.start,
		"POST /hcs/v2/systems/{id}/shutdown":                  plain(h.Shutdown),
		"POST /hcs/v2/systems/{id}/terminate":                 plain(func(ctx context.Context, id string, _ struct{}) error { return h.Terminate(ctx, id) }),
		"POST /hcs/v2/systems/{id}/crash":                     plain(h.Crash),
		"POST /hcs/v2/systems/{id}/pause":                     plain(h.Pause),
		"POST /hcs/v2/systems/{id}/resume":                    plain(func(ctx context.Context, id string, _ struct{}) error { return h.Resume(ctx, id) }),
		"POST /hcs/v2/systems/{id}/save":                      plain(h.Save),
		"POST /hcs/v2/systems/{id}/modify":                    plain(h.Modify),
		"GET /hcs/v2/systems/{id}/export":                     verbs.export,
		"POST /hcs/v2/systems/{id}/commit":                    verbs.commit,
		"GET /hcs/v2/systems/{id}/trace":                      verbs.trace,
		"GET /hcs/v2/systems/{id}/exit":                       verbs.wait,
		"GET /hcs/v2/systems/{id}/handle":                     verbs.lease,
		"GET /hcs/v2/systems/{id}/logs":                       verbs.logs,
		"GET /hcs/v2/systems/{id}/processes":                  verbs.processes,
		"POST /hcs/v2/systems/{id}/processes":                 verbs.createProcess,
		"GET /hcs/v2/systems/{id}/processes/{pid}":            verbs.process,
		"GET /hcs/v2/systems/{id}/processes/{pid}/stdio":      verbs.stdio,
		"GET /hcs/v2/systems/{id}/processes/{pid}/exit":       verbs.waitProcess,
		"POST /hcs/v2/systems/{id}/processes/{pid}/signal":    verbs.signal,
		"POST /hcs/v2/systems/{id}/processes/{pid}/terminate": verbs.terminateProcess,
		"POST /hcs/v2/systems/{id}/processes/{pid}/modify":    verbs.modifyProcess,
		"GET /hcs/v2/service/properties":                      verbs.service,
		"GET /hcs/v2/operations":                              notBuilt,
		"GET /hcs/v2/operations/{op}":                         notBuilt,
		"POST /hcs/v2/service/modify":                         notBuilt,
		"POST /hcs/v2/layers/{verb}":                          notBuilt,
		"DELETE /hcs/v2/layers":                               notBuilt,
		"GET /hcs/v2/policy":                                  verbs.policy,
		"PUT /hcs/v2/policy":                                  verbs.setPolicy,
		"DELETE /hcs/v2/policy":                               verbs.dropPolicy,
	} {
		s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.Header.Get("Prefer"), "respond-async") {
				s.fail(w, r, problem(http.StatusNotImplemented, codeNotImpl, "asynchronous verbs are not built into this daemon; leave Prefer: respond-async out"))
				return
			}
			if err := f(w, r); err != nil {
				s.fail(w, r, err)
			}
		})
	}
}

func notBuilt(_ http.ResponseWriter, r *http.Request) error {
	return problem(http.StatusNotImplemented, codeNotImpl, "%s is not built into this daemon", r.URL.Path)
}

// decode reads the request's document; an empty body is the zero document.
// Members it does not know are named in a header, or refused if strict is asked for.
func decode[T any](w http.ResponseWriter, r *http.Request) (v T, err error) {
	b, err := body(r, true)
	if err != nil || b == nil {
		return v, err
	}
	v, ignored, err := hcs.Decode[T](b)
	if err != nil {
		return v, err
	}
	if len(ignored) > 0 {
		if flag(r.URL.Query(), "strict") {
			return v, &hcs.Error{Code: hcs.CodeInvalidJSON, Field: ignored[0], Message: "unknown member"}
		}
		w.Header().Set(hcs.IgnoredHeader, strings.Join(ignored, ", "))
	}
	return v, nil
}

// plain is a verb whose success has nothing to say.
func plain[T any](f func(context.Context, string, T) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		v, err := decode[T](w, r)
		if err != nil {
			return err
		}
		ctx, cancel := verb(r)
		defer cancel()
		if err := f(ctx, r.PathValue("id"), v); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
}

type hcsHandler struct {
	s *Server
	h Systems
}

func flag(q url.Values, name string) bool {
	v := q.Get(name)
	b, err := strconv.ParseBool(v)
	return err == nil && b
}

func (v hcsHandler) enumerate(w http.ResponseWriter, r *http.Request) error {
	v.s.readAt(w)
	q := r.URL.Query()
	var sq hcs.SystemQuery
	if s := q.Get("query"); s != "" {
		var err error
		if sq, _, err = hcs.Decode[hcs.SystemQuery]([]byte(s)); err != nil {
			return err
		}
	}
	if o := q.Get("owner"); o != "" {
		sq.Owners = append(sq.Owners, o)
	}
	if t := q.Get("type"); t != "" {
		sq.Types = append(sq.Types, t)
	}
	out, err := v.h.Enumerate(r.Context(), sq, flag(q, "all"))
	if err != nil {
		return err
	}
	if out == nil {
		out = []hcs.Properties{}
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func systemPath(id string) string { return "/hcs/v2/systems/" + url.PathEscape(id) }

// create makes a system. With Upgrade: gatehouse-stdio the same request carries
// init's stdio, so that running a container is one request and no byte is lost.
func (v hcsHandler) create(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	doc, err := decode[hcs.ComputeSystem](w, r)
	if err != nil {
		return err
	}
	id := r.PathValue("id")
	o := compute.CreateOptions{Start: flag(q, "start"), Lease: flag(q, "lease")}
	up := upgrade{w: w, r: r}
	if r.Header.Get("Upgrade") == hcs.StdioUpgrade {
		o.AttachOptions = attachOptions(q, true)
		o.Attach = func(runtimeID string) (*net.UnixConn, []byte, error) {
			return up.to(hcs.StdioUpgrade, hcs.SystemHeader, headerJSON(hcs.Properties{Id: id, SystemType: hcs.TypeContainer, RuntimeId: runtimeID}))
		}
	}
	ctx, cancel := verb(r)
	defer cancel()
	made, err := v.h.Create(ctx, id, doc, o)
	if up.conn != nil {
		// Whatever happened after the 101 was told in frames; the worker has the
		// connection now, this is only our copy.
		if err != nil {
			up.fail(err)
		}
		up.conn.Close()
		return nil
	}
	if err != nil {
		return err
	}
	if made.Lease != nil {
		w.Header().Set("Location", systemPath(id))
		return v.hold(w, r, made.Lease)
	}
	w.Header().Set("Location", systemPath(id))
	if made.Revision != 0 {
		w.Header().Set(revisionHeader, strconv.FormatUint(made.Revision, 10))
	}
	writeJSON(w, http.StatusCreated, made.Properties)
	return nil
}

func attachOptions(q url.Values, replay bool) held.AttachOptions {
	o := held.AttachOptions{Replay: replay, Stdin: true, Stdout: true, Stderr: true}
	if q.Has("stdin") || q.Has("stdout") || q.Has("stderr") {
		o.Stdin, o.Stdout, o.Stderr = flag(q, "stdin"), flag(q, "stdout"), flag(q, "stderr")
	}
	if q.Has("replay") {
		o.Replay = flag(q, "replay")
	}
	return o
}

func (v hcsHandler) properties(w http.ResponseWriter, r *http.Request) error {
	var q hcs.PropertyQuery
	if r.Method == http.MethodPost {
		var err error
		if q, err = decode[hcs.PropertyQuery](w, r); err != nil {
			return err
		}
	}
	for _, t := range r.URL.Query()["types"] {
		for name := range strings.SplitSeq(t, ",") {
			if name != "" {
				q.PropertyTypes = append(q.PropertyTypes, hcs.PropertyType(name))
			}
		}
	}
	p, err := v.h.Properties(r.Context(), r.PathValue("id"), q)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, p)
	return nil
}

func (v hcsHandler) document(w http.ResponseWriter, r *http.Request) error {
	d, err := v.h.Document(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, d)
	return nil
}

func (v hcsHandler) delete(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := verb(r)
	defer cancel()
	if err := v.h.Delete(ctx, r.PathValue("id")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (v hcsHandler) start(w http.ResponseWriter, r *http.Request) error {
	b, err := body(r, true)
	if err != nil {
		return err
	}
	if b != nil && string(b) != "{}" && string(b) != "null" {
		return problem(http.StatusBadRequest, codeInvalidArg, "start takes no options; send no body")
	}
	ctx, cancel := verb(r)
	defer cancel()
	p, err := v.h.Start(ctx, r.PathValue("id"))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, p)
	return nil
}

// await is a wait with ?timeoutMs=: 204 when that time ran out. It ends with its
// client, and with the daemon, which must not wait for what may take for ever.
func await[T any](s *Server, w http.ResponseWriter, r *http.Request, f func(context.Context) (T, error)) error {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	if q := r.URL.Query().Get("timeoutMs"); q != "" {
		ms, err := strconv.ParseUint(q, 10, 40)
		if err != nil {
			return problem(http.StatusBadRequest, codeInvalidArg, "timeoutMs %q is not a number of milliseconds", q)
		}
		defer time.AfterFunc(time.Duration(ms)*time.Millisecond, func() { cancel(errLate) }).Stop()
	}
	go func() {
		select {
		case <-s.closing:
			cancel(errClosing)
		case <-ctx.Done():
		}
	}()
	x, err := f(ctx)
	switch cause := context.Cause(ctx); {
	case err == nil:
		writeJSON(w, http.StatusOK, x)
	case errors.Is(cause, errLate):
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(cause, errClosing):
		return &hcs.Error{Code: hcs.CodeServiceDisconnect, Message: "the daemon stops; wait again when it is back"}
	default:
		return err
	}
	return nil
}

// Why a wait ended before what it waits for.
var (
	errLate    = errors.New("time ran out")
	errClosing = errors.New("the daemon stops")
)

func (v hcsHandler) wait(w http.ResponseWriter, r *http.Request) error {
	return await(v.s, w, r, func(ctx context.Context) (hcs.SystemExitStatus, error) { return v.h.Wait(ctx, r.PathValue("id")) })
}

func (v hcsHandler) waitProcess(w http.ResponseWriter, r *http.Request) error {
	return await(v.s, w, r, func(ctx context.Context) (hcs.ProcessStatus, error) {
		return v.h.WaitProcess(ctx, r.PathValue("id"), r.PathValue("pid"))
	})
}

func (v hcsHandler) lease(w http.ResponseWriter, r *http.Request) error {
	if r.Header.Get("Upgrade") != hcs.HandleUpgrade {
		return needsUpgrade(hcs.HandleUpgrade)
	}
	l, err := v.h.OpenLease(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return v.hold(w, r, l)
}

// hold keeps a lease as long as its connection. When the daemon stops the
// connection goes but the lease is not given back: the worker waits for one to return.
func (v hcsHandler) hold(w http.ResponseWriter, r *http.Request, l *compute.Lease) error {
	up := upgrade{w: w, r: r}
	conn, _, err := up.to(hcs.HandleUpgrade, "Location", systemPath(r.PathValue("id")))
	if err != nil {
		l.Close()
		return err
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		var b [64]byte
		for {
			if _, err := conn.Read(b[:]); err != nil {
				return
			}
		}
	}()
	select {
	case <-gone:
		l.Close()
	case <-v.s.closing:
	}
	conn.Close()
	return nil
}

func (v hcsHandler) processes(w http.ResponseWriter, r *http.Request) error {
	ps, err := v.h.Processes(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if ps == nil {
		ps = []hcs.ProcessDetails{}
	}
	writeJSON(w, http.StatusOK, ps)
	return nil
}

func (v hcsHandler) createProcess(w http.ResponseWriter, r *http.Request) error {
	p, err := decode[hcs.ProcessParameters](w, r)
	if err != nil {
		return err
	}
	id := r.PathValue("id")
	ctx, cancel := verb(r)
	defer cancel()
	made, err := v.h.CreateProcess(ctx, id, p)
	if err != nil {
		return err
	}
	where := systemPath(id) + "/processes/" + made.Key
	if r.Header.Get("Upgrade") == hcs.StdioUpgrade {
		return v.attach(w, r, made.Key, attachOptions(r.URL.Query(), true), "Location", where, hcs.ProcessHeader, headerJSON(made))
	}
	w.Header().Set("Location", where)
	writeJSON(w, http.StatusCreated, made)
	return nil
}

func (v hcsHandler) process(w http.ResponseWriter, r *http.Request) error {
	info, status, err := v.h.OpenProcess(r.Context(), r.PathValue("id"), r.PathValue("pid"))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, struct {
		hcs.ProcessInformation
		Status hcs.ProcessStatus
	}{info, status})
	return nil
}

func (v hcsHandler) stdio(w http.ResponseWriter, r *http.Request) error {
	if r.Header.Get("Upgrade") != hcs.StdioUpgrade {
		return needsUpgrade(hcs.StdioUpgrade)
	}
	// Errors that can be known before the 101 are answered as HTTP.
	info, _, err := v.h.OpenProcess(r.Context(), r.PathValue("id"), r.PathValue("pid"))
	if err != nil {
		return err
	}
	return v.attach(w, r, info.Key, attachOptions(r.URL.Query(), false))
}

func (v hcsHandler) attach(w http.ResponseWriter, r *http.Request, process string, o held.AttachOptions, header ...string) error {
	up := upgrade{w: w, r: r}
	conn, early, err := up.to(hcs.StdioUpgrade, header...)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), verbLimit)
	defer cancel()
	if err := v.h.Attach(ctx, r.PathValue("id"), process, o, conn, early); err != nil {
		up.fail(err)
	}
	return nil
}

func (v hcsHandler) signal(w http.ResponseWriter, r *http.Request) error {
	o, err := decode[hcs.SignalProcessOptions](w, r)
	if err != nil {
		return err
	}
	if o.Signal == 0 {
		o.Signal = hcs.SIGTERM
	}
	ctx, cancel := verb(r)
	defer cancel()
	ok, err := v.h.SignalProcess(ctx, r.PathValue("id"), r.PathValue("pid"), o.Signal)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, hcs.SignalDelivered{Delivered: ok})
	return nil
}

func (v hcsHandler) terminateProcess(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := verb(r)
	defer cancel()
	ok, err := v.h.TerminateProcess(ctx, r.PathValue("id"), r.PathValue("pid"))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, hcs.SignalDelivered{Delivered: ok})
	return nil
}

func (v hcsHandler) modifyProcess(w http.ResponseWriter, r *http.Request) error {
	m, err := decode[hcs.ProcessModifyRequest](w, r)
	if err != nil {
		return err
	}
	ctx, cancel := verb(r)
	defer cancel()
	if err := v.h.ModifyProcess(ctx, r.PathValue("id"), r.PathValue("pid"), m); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (v hcsHandler) service(w http.ResponseWriter, r *http.Request) error {
	var types []string
	for _, t := range r.URL.Query()["types"] {
		types = append(types, strings.Split(t, ",")...)
	}
	p, err := v.h.ServiceProperties(r.Context(), types)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, p)
	return nil
}

// headerJSON is a document that fits into a header of an upgraded answer.
func headerJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return "{}"
	}
	return string(b)
}

// untilClosing is for a follower, which must not hold up the daemon's stop.
func (s *Server) untilClosing(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-s.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// logs [extension] answers the kept output of init, one LogRecord a line.
func (v hcsHandler) logs(w http.ResponseWriter, r *http.Request) error {
	o, err := hcs.ParseLogOptions(r.URL.Query())
	if err != nil {
		return err
	}
	ctx, cancel := v.s.untilClosing(r.Context())
	defer cancel()
	lines, err := v.h.Logs(ctx, r.PathValue("id"), o)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	if o.Follow {
		_ = rc.Flush()
	}
	out := json.NewEncoder(w)
	for l, err := range lines {
		if err != nil {
			// The answer has begun: cutting it short is the only way to say so.
			if ctx.Err() == nil {
				v.s.o.Log.Warn("log stream broke off", "system", r.PathValue("id"), "error", err)
				panic(http.ErrAbortHandler)
			}
			return nil
		}
		if out.Encode(l) != nil {
			return nil
		}
		if o.Follow {
			_ = rc.Flush()
		}
	}
	return nil
}
