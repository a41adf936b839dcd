// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/resource"
	"gatehouse.dev/gatehouse/internal/store"
)

// heartbeat is how often a silent stream gets an empty line, spec hcn §7.4.
const heartbeat = 15 * time.Second

// eventSet is which events a stream shows and how it says good-bye.
type eventSet struct {
	kinds      []string // empty = all
	disconnect uint32   // type of the last line, ServiceDisconnect
}

var (
	hcnEvents  = eventSet{[]string{"networks", "endpoints", "namespaces", "loadbalancers", "sdnroutes", "guestnetworkservices"}, 0x01000000}
	hcsEvents  = eventSet{[]string{"systems", "processes", "layers", "operations"}, 0x02000000}
	hostEvents = eventSet{nil, 0x02000000}
)

// owns tells whether an event is about a system of the caller's.
func (s *Server) owns(r *http.Request, e store.Event) bool {
	var of struct{ RuntimeId string }
	return s.o.HCS != nil && json.Unmarshal(e.Data, &of) == nil && of.RuntimeId != "" && s.o.HCS.Owns(r.Context(), of.RuntimeId)
}

// stream answers with one event a line until the client leaves or the daemon
// stops. since = a revision (absent: from now on), follow=false ends it at now.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, set eventSet) {
	if s.o.Events == nil {
		s.reply(w, r, nil, nil)
		return
	}
	q := r.URL.Query()
	since := s.o.Events.Revision()
	if v := q.Get("since"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			s.fail(w, r, problem(http.StatusBadRequest, codeInvalidArg, "since %q is not a revision", v))
			return
		}
		since = n
	}
	events, wake, err := s.o.Events.Events(since)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	sse := strings.Contains(r.Header.Get("Accept"), "text/event-stream")
	if sse {
		w.Header().Set("Content-Type", "text/event-stream")
	} else {
		w.Header().Set("Content-Type", "application/x-ndjson")
	}
	w.Header().Set(revisionHeader, strconv.FormatUint(since, 10))
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	send := func(e store.Event) error {
		b, err := marshal(e)
		if err != nil {
			return err
		}
		if sse {
			_, err = fmt.Fprintf(w, "id: %d\ndata: %s\n\n", e.Revision, b)
		} else {
			_, err = w.Write(append(b, '\n'))
		}
		return err
	}
	who := resource.CallerFrom(r.Context())
	kind, id, typ := q.Get("kind"), q.Get("id"), q.Get("type")
	shown := func(e store.Event) bool {
		return (len(set.kinds) == 0 || slices.Contains(set.kinds, e.Kind)) &&
			(kind == "" || e.Kind == kind) &&
			(id == "" || strings.EqualFold(e.ID, id)) &&
			(typ == "" || e.Name == typ || strconv.FormatUint(uint64(e.Type), 10) == typ) &&
			(who.Admin || s.owns(r, e))
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		for _, e := range events {
			since = max(since, e.Revision)
			if !shown(e) {
				continue
			}
			if send(e) != nil {
				return
			}
		}
		if q.Get("follow") == "false" || rc.Flush() != nil {
			return
		}
		select {
		case <-wake:
			if events, wake, err = s.o.Events.Events(since); err != nil {
				return // too slow: what it lacks is gone; the client lists again
			}
		case <-beat.C:
			events = nil
			if _, err := w.Write([]byte("\n")); err != nil {
				return
			}
		case <-s.closing:
			_ = send(store.Event{Revision: s.o.Events.Revision(), Time: time.Now().UTC(), Type: set.disconnect, Name: "ServiceDisconnect", Kind: "service"})
			_ = rc.Flush()
			return
		case <-r.Context().Done():
			return
		}
	}
}
