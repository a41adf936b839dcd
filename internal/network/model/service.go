// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// Service is a stored row: a name with addresses and the endpoints behind them. It is
// compiled to services of the switch as a load balancer is, one for each port and
// family, and to names.
type Service struct {
	Doc      hcn.Service // Endpoints is empty
	Numbers  map[string]vswitch.ServiceID
	Sequence uint64
	Created  time.Time
	Body     string

	cluster, outside []netip.Addr // ClusterIPs and LoadBalancerIPs
	node             []netip.Addr // where node ports are asked; unspecified = at every address
	ports            []servicePort
	compiled         servicePart
}

// servicePort is a ServicePort, taken apart.
type servicePort struct {
	name               string
	proto              uint8
	port, target, node uint16
}

// servicePart is what a service adds to Desired.
type servicePart struct {
	balancerPart
	names     []NameRecord
	announced []vswitch.Announcement
}

// Service by id.
func (w World) Service(id string) (*Service, bool) { return w.services.get(strings.ToLower(id)) }

// AllServices in order of creation.
func (w World) AllServices() []*Service {
	return sorted(w.services, func(s *Service) uint64 { return s.Sequence })
}

// CreateService adds a service. created is false when the identical create was done
// before, by its id or its name.
func (w World) CreateService(body []byte, in Input) (next World, s *Service, created bool, err error) {
	before := w
	defer func() {
		if err != nil {
			next = before
		}
	}()
	var d hcn.Service
	if err := decode(body, &d); err != nil {
		return w, nil, false, err
	}
	old, ok := w.services.get(strings.ToLower(d.ID))
	if !ok {
		if id, named := w.serviceBy.get(canonicalName(d.Name)); named {
			old, ok = w.services.get(id)
		}
	}
	if ok {
		if old.Body == digest(body) {
			return w, old, false, nil
		}
		return w, nil, false, refuseAt(hcn.E_ALREADY_EXISTS, "Name", "%s exists, made by %s at %s; change that or take another name",
			w.serviceLabel(old.Doc.ID), old.Doc.Owner, old.Created.UTC().Format(time.RFC3339))
	}
	id, err := takeID(d.ID, in.NewID)
	if err != nil {
		return w, nil, false, err
	}
	s = &Service{Doc: d, Created: in.Now, Body: digest(body)}
	s.Doc.ID, s.Doc.Version = id, 1
	if s.Doc.Owner == "" {
		s.Doc.Owner = in.Owner
	}
	if err := w.fillService(s, nil, in); err != nil {
		return w, nil, false, err
	}
	s.Sequence = w.sequence()
	w.putService(s)
	w.event(hcn.EventServiceCreate, "ServiceCreate", Services, id, s.Doc)
	return w, s, true, nil
}

// ModifyService replaces a service by a whole document, or by the one in the Settings
// of a modify request; Add and Remove change its Backends and Draining alone. Addresses and node
// ports that the document leaves to be chosen stay.
func (w World) ModifyService(id string, body []byte, match uint64, in Input) (next World, s *Service, err error) {
	before := w
	defer func() {
		if err != nil {
			next = before
		}
	}()
	old, ok := w.Service(id)
	if !ok {
		return w, nil, serviceMissing(id)
	}
	body, verb, err := wholeDocument(body, old.Doc.Version, match)
	if err != nil || verb == hcn.RequestTypeRefresh {
		return w, old, err
	}
	var d hcn.Service
	if err := decode(body, &d); err != nil {
		return w, nil, err
	}
	if verb == hcn.RequestTypeAdd || verb == hcn.RequestTypeRemove {
		change, drain := d.Backends, d.Draining
		if verb == hcn.RequestTypeRemove {
			for _, ref := range change {
				if !slices.ContainsFunc(old.Doc.Backends, func(o string) bool { return strings.EqualFold(o, ref) }) {
					return w, nil, refuseAt(hcn.HCN_E_ENDPOINT_NOT_FOUND, "Settings.Backends", "%q is no backend of %s", ref, w.serviceLabel(old.Doc.ID))
				}
			}
		}
		d = old.Doc
		d.Backends = changeList(verb, old.Doc.Backends, change)
		// Who is added again drains no longer.
		d.Draining = changeList(verb, changeList(hcn.RequestTypeRemove, old.Doc.Draining, change), drain)
	}
	c := *old
	c.Doc = d
	c.Doc.ID, c.Doc.Version = old.Doc.ID, old.Doc.Version+1
	if c.Doc.Owner == "" {
		c.Doc.Owner = old.Doc.Owner
	}
	if err := w.fillService(&c, old, in); err != nil {
		return w, nil, err
	}
	w.putService(&c)
	w.event(hcn.EventServiceModify, "ServiceModify", Services, c.Doc.ID, c.Doc)
	return w, &c, nil
}

// DeleteService removes a service.
func (w World) DeleteService(id string, match uint64) (World, error) {
	s, ok := w.Service(id)
	if !ok {
		return w, serviceMissing(id)
	}
	if match != 0 && match != s.Doc.Version {
		return w, versionMismatch(s.Doc.Version, match)
	}
	w.unindexService(s)
	w.setService(s.Doc.ID, nil)
	w.changed(Services, s.Doc.ID, nil)
	w.event(hcn.EventServiceDelete, "ServiceDelete", Services, s.Doc.ID, struct{ ID string }{s.Doc.ID})
	return w, nil
}

func (w *World) putService(s *Service) {
	if old, ok := w.services.get(s.Doc.ID); ok {
		w.unindexService(old)
	}
	w.serviceBy = w.serviceBy.set(s.Doc.Name, s.Doc.ID)
	for _, n := range s.Numbers {
		w.use(serviceNumbers, uint32(n))
	}
	for _, a := range s.addresses() {
		w.serving = w.serving.set(a.String(), s.Doc.ID)
	}
	for _, ref := range s.Doc.Backends {
		w.awaited = w.awaited.set(awaitedKey(ref, s.Doc.ID), s.Doc.ID)
	}
	w.publishAll(s.claims())
	s.compiled = w.compileService(s)
	w.setService(s.Doc.ID, s)
	w.changed(Services, s.Doc.ID, s)
}

func (w *World) unindexService(s *Service) {
	w.serviceBy = w.serviceBy.del(s.Doc.Name)
	for _, n := range s.Numbers {
		w.free(serviceNumbers, uint32(n))
	}
	for _, a := range s.addresses() {
		w.serving = w.serving.del(a.String())
	}
	for _, ref := range s.Doc.Backends {
		w.awaited = w.awaited.del(awaitedKey(ref, s.Doc.ID))
	}
	w.unpublishAll(s.claims())
}

// setService writes a row, or removes it (nil).
func (w *World) setService(id string, s *Service) {
	if s == nil {
		w.services = w.services.del(id)
	} else {
		w.services = w.services.set(id, s)
	}
	if !w.loading {
		w.balancing = w.balancing.with(w.loadBalancers, w.services, id)
	}
}

// addresses that are the service's alone.
func (s *Service) addresses() []netip.Addr { return slices.Concat(s.cluster, s.outside) }

func awaitedKey(ref, service string) string { return strings.ToLower(ref) + "\x00" + service }

// backends are the endpoints that a service means, in the order of its list.
func (w *World) backends(s *Service) (out []*Endpoint) {
	add := func(id string) {
		if e, ok := w.endpoints.get(id); ok && !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	for _, ref := range s.Doc.Backends {
		ref = strings.ToLower(ref)
		add(ref)
		for _, id := range w.named.prefixed(ref + "\x00") {
			add(id)
		}
	}
	return out
}

// isDraining: named so, by id or name.
func (s *Service) isDraining(e *Endpoint) bool {
	return slices.ContainsFunc(s.Doc.Draining, func(ref string) bool {
		return strings.EqualFold(ref, e.Doc.Id) || strings.EqualFold(ref, e.Doc.Name)
	})
}

// reserve compiles the services again that mean an endpoint: it came or went.
func (w *World) reserve(e *Endpoint) {
	for _, ref := range []string{e.Doc.Id, e.Doc.Name} {
		if ref == "" {
			continue
		}
		for _, id := range w.awaited.prefixed(awaitedKey(ref, "")) {
			w.recompileService(id)
		}
	}
}

// reserveNetwork does so for those that have a backend on a network, whose routes changed.
func (w *World) reserveNetwork(network string) {
	for id, s := range w.services.all {
		if slices.ContainsFunc(w.backends(s), func(e *Endpoint) bool { return e.Doc.HostComputeNetwork == network }) {
			w.recompileService(id)
		}
	}
}

func (w *World) recompileService(id string) {
	if s, ok := w.services.get(id); ok {
		c := *s
		c.compiled = w.compileService(&c)
		w.setService(id, &c)
	}
}

func (w *World) serviceLabel(id string) string {
	if s, ok := w.services.get(id); ok {
		return fmt.Sprintf("service %s (%s)", s.Doc.Name, id)
	}
	return "service " + id
}

// ServiceDoc is a service as it is shown: with its backends of the moment.
func (w World) ServiceDoc(s *Service) hcn.Service {
	d := s.Doc
	for _, e := range w.backends(s) {
		x := hcn.ServiceEndpoint{ID: e.Doc.Id, Name: e.Doc.Name, State: "Active"}
		for _, a := range e.addrs {
			x.Addresses = append(x.Addresses, a.Addr().String())
		}
		switch {
		case !e.IsRemote() && !e.compiled.attached:
			x.State = "NotAttached"
		case s.isDraining(e):
			x.State = "Draining"
		}
		d.Endpoints = append(d.Endpoints, x)
	}
	return d
}
