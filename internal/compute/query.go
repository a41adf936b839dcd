// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"context"
	"fmt"
	"slices"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/resource"
)

// Properties answers the base and the parts asked for; a part that fails says so
// in PropertyResponses and leaves the others.
func (h *HCS) Properties(ctx context.Context, id string, q hcs.PropertyQuery) (hcs.Properties, error) {
	s, err := h.find(ctx, "get properties", id)
	if err != nil {
		return hcs.Properties{}, err
	}
	r := s.row.Load()
	p := r.base()
	p.State = s.state()
	for _, t := range q.PropertyTypes {
		if err := h.part(ctx, s, r, t, &p); err != nil {
			if p.PropertyResponses == nil {
				p.PropertyResponses = map[hcs.PropertyType]hcs.PropertyResponse{}
			}
			e := hcs.ResultOf(s.err("get "+string(t), err))
			p.PropertyResponses[t] = hcs.PropertyResponse{Error: &e}
		}
	}
	return p, nil
}

func (h *HCS) part(ctx context.Context, s *system, r *row, t hcs.PropertyType, p *hcs.Properties) error {
	switch t {
	case hcs.PropertyStatistics, hcs.PropertyProcessList:
		w := s.client()
		if st := s.state(); w == nil || st != hcs.StateRunning && st != hcs.StatePaused {
			return &hcs.Error{Code: hcs.CodeInvalidState, Message: "the system does not run"}
		}
		if t == hcs.PropertyProcessList {
			var err error
			p.ProcessList, err = w.Processes(ctx)
			return err
		}
		st, err := w.Stats(ctx)
		if err != nil {
			return err
		}
		if h.o.Stats != nil {
			for _, e := range r.Endpoints {
				n, err := h.o.Stats.EndpointStats(ctx, e)
				if err != nil {
					return fmt.Errorf("endpoint %s: %w", e, err)
				}
				st.Network = append(st.Network, n)
			}
		}
		p.Statistics = &st
	case hcs.PropertyNetwork:
		p.NetNsPath = r.NetNsPath
		if r.Namespace == "" || r.stopped() {
			return nil
		}
		n, err := h.o.Networks.Look(ctx, r.Namespace)
		if err != nil {
			return err
		}
		p.NetNsPath, p.Endpoints = n.NetNsPath, n.Endpoints
	case hcs.PropertyTerminateOnLastHandleClosed:
	case hcs.PropertyMemory, hcs.PropertyGuestMemory, hcs.PropertySharedMemoryRegion, hcs.PropertyGuestConnection,
		hcs.PropertyContainerCredentialGuard, hcs.PropertyICHeartbeatStatus, hcs.PropertyProcessorTopology, hcs.PropertyCpuGroup:
		return &hcs.Error{Code: hcs.CodeNotSupported, Message: string(t) + " is not a property of a silo"}
	default:
		return &hcs.Error{Code: hcs.CodeInvalidArg, Message: string(t) + " is no property type"}
	}
	return nil
}

// Document is the create document after defaults and modifications.
func (h *HCS) Document(ctx context.Context, id string) (hcs.ComputeSystem, error) {
	s, err := h.find(ctx, "get document", id)
	if err != nil {
		return hcs.ComputeSystem{}, err
	}
	return s.row.Load().Doc, nil
}

// Enumerate lists systems in the order of their creation; all = stopped ones too.
func (h *HCS) Enumerate(ctx context.Context, q hcs.SystemQuery, all bool) ([]hcs.Properties, error) {
	has := func(set []string, v string) bool { return len(set) == 0 || slices.Contains(set, v) }
	out := []hcs.Properties{}
	who := resource.CallerFrom(ctx)
	for _, s := range h.all() {
		r := s.row.Load()
		if !owns(who, s) || r.State == stateCreating || r.Forgotten || r.stopped() && !all {
			continue
		}
		p := r.base()
		p.State = s.state()
		if has(q.Ids, p.Id) && has(q.Names, p.Name) && has(q.Types, p.SystemType) && has(q.Owners, p.Owner) {
			out = append(out, p)
		}
	}
	return out, nil
}

// Wait returns the exit status when the system has stopped and its network and
// mounts are gone. Any number may wait, also later, by RuntimeId too ("rid:…").
func (h *HCS) Wait(ctx context.Context, id string) (hcs.SystemExitStatus, error) {
	s := h.lookFor(ctx, id)
	if s == nil {
		return hcs.SystemExitStatus{}, notFound("wait", id)
	}
	if err := h.made(ctx, s); err != nil {
		return hcs.SystemExitStatus{}, s.err("wait", err)
	}
	if s.row.Load().State == stateCreating {
		return hcs.SystemExitStatus{}, notFound("wait", id)
	}
	if err := h.until(ctx, s.gone); err != nil {
		return hcs.SystemExitStatus{}, s.err("wait", err)
	}
	return *s.row.Load().Exit, nil
}

// made waits for a create under way: a client with init's stdio may see its exit
// before the create has been answered.
func (h *HCS) made(ctx context.Context, s *system) error {
	if s.row.Load().State != stateCreating {
		return nil
	}
	return h.until(ctx, s.undone)
}

// until waits for a channel to close, which wins over ctx and the service's end.
func (h *HCS) until(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	default:
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-h.life.Done():
		return &hcs.Error{Code: hcs.CodeServiceDisconnect, Message: "the service is going down"}
	}
}

// ServiceProperties answers GET /service/properties.
func (h *HCS) ServiceProperties(_ context.Context, types []string) (map[string]any, error) {
	out := map[string]any{}
	if len(types) == 0 {
		types = []string{"Basic", "Host"}
	}
	for _, t := range types {
		switch t {
		case "Basic":
			out[t] = struct{ SupportedSchemaVersions []hcs.SchemaVersion }{[]hcs.SchemaVersion{{Major: 2, Minor: 6}}}
		case "Host":
			isolations, runtimes := []hcs.Isolation{hcs.IsolationProcess}, []string{h.o.Runtime}
			if h.facts.LibraryOS {
				isolations, runtimes = append(isolations, hcs.IsolationLibraryOS), append(runtimes, h.o.LibraryOS)
			}
			out[t] = struct {
				Runtimes   []string
				CgroupMode string
				CPUs       int
				Isolations []hcs.Isolation
				Profile    hcs.PolicyProfile
			}{Runtimes: runtimes, CgroupMode: string(h.facts.Cgroup), CPUs: h.facts.CPUs, Isolations: isolations, Profile: h.policy.Load().Profile}
		default:
			return nil, fail("get service properties", "", &hcs.Error{Code: hcs.CodeNotSupported, Field: "types", Message: fmt.Sprintf("%q: Basic and Host are known", t)})
		}
	}
	return out, nil
}
