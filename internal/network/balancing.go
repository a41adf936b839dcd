// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package network

import (
	"context"
	"encoding/json"
	"net/url"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/resource"
)

// CreateLoadBalancer makes a load balancer of a document. created is false when the
// identical create was done before.
func (h *HNS) CreateLoadBalancer(ctx context.Context, body []byte) (lb *model.LoadBalancer, created bool, err error) {
	err = h.change(ctx, "create load balancer", func(w model.World, in model.Input) (model.World, error) {
		var err error
		w, lb, created, err = w.CreateLoadBalancer(body, in)
		return w, err
	})
	if err != nil {
		return nil, false, err
	}
	if created {
		h.log.Info("load balancer created", "loadbalancer", lb.Doc.Id, "network", lb.Doc.HostComputeNetwork)
	}
	return lb, created, nil
}

// ModifyLoadBalancer replaces a load balancer, or changes its endpoints.
func (h *HNS) ModifyLoadBalancer(ctx context.Context, ref string, body []byte, match uint64) (lb *model.LoadBalancer, err error) {
	err = h.change(ctx, "modify load balancer", func(w model.World, in model.Input) (model.World, error) {
		found, err := w.ResolveLoadBalancer(ref)
		if err != nil {
			return w, err
		}
		w, lb, err = w.ModifyLoadBalancer(found.Doc.Id, body, match, in)
		return w, err
	})
	return lb, err
}

// DeleteLoadBalancer removes a load balancer.
func (h *HNS) DeleteLoadBalancer(ctx context.Context, ref string, match uint64) error {
	err := h.change(ctx, "delete load balancer", func(w model.World, _ model.Input) (model.World, error) {
		lb, err := w.ResolveLoadBalancer(ref)
		if err != nil {
			return w, err
		}
		return w.DeleteLoadBalancer(lb.Doc.Id, match)
	})
	if err == nil {
		h.log.Info("load balancer deleted", "loadbalancer", ref)
	}
	return err
}

// CreateSDNRoute gives endpoints routes.
func (h *HNS) CreateSDNRoute(ctx context.Context, body []byte) (r *model.SDNRoute, created bool, err error) {
	err = h.change(ctx, "create SDN route", func(w model.World, in model.Input) (model.World, error) {
		var err error
		w, r, created, err = w.CreateSDNRoute(body, in)
		return w, err
	})
	if err != nil {
		return nil, false, err
	}
	if created {
		h.log.Info("SDN route created", "route", r.Doc.ID, "network", r.Doc.HostComputeNetwork)
	}
	return r, created, nil
}

// ModifySDNRoute replaces an SDN route, or changes its endpoints.
func (h *HNS) ModifySDNRoute(ctx context.Context, ref string, body []byte, match uint64) (r *model.SDNRoute, err error) {
	err = h.change(ctx, "modify SDN route", func(w model.World, _ model.Input) (model.World, error) {
		found, err := w.ResolveSDNRoute(ref)
		if err != nil {
			return w, err
		}
		w, r, err = w.ModifySDNRoute(found.Doc.ID, body, match)
		return w, err
	})
	return r, err
}

// DeleteSDNRoute takes routes away.
func (h *HNS) DeleteSDNRoute(ctx context.Context, ref string, match uint64) error {
	err := h.change(ctx, "delete SDN route", func(w model.World, _ model.Input) (model.World, error) {
		r, err := w.ResolveSDNRoute(ref)
		if err != nil {
			return w, err
		}
		return w.DeleteSDNRoute(r.Doc.ID, match)
	})
	if err == nil {
		h.log.Info("SDN route deleted", "route", ref)
	}
	return err
}

// ReservePorts keeps ports of the host.
func (h *HNS) ReservePorts(ctx context.Context, body []byte) (r *model.Reservation, created bool, err error) {
	err = h.change(ctx, "reserve ports", func(w model.World, in model.Input) (model.World, error) {
		var err error
		w, r, created, err = w.ReservePorts(body, in)
		return w, err
	})
	return r, created, err
}

// ReleasePorts ends a reservation.
func (h *HNS) ReleasePorts(ctx context.Context, ref string, match uint64) error {
	return h.change(ctx, "release ports", func(w model.World, _ model.Input) (model.World, error) {
		r, err := w.ResolveReservation(ref)
		if err != nil {
			return w, err
		}
		return w.ReleasePorts(r.Doc.ID, match)
	})
}

type loadBalancers struct{ h *HNS }

func (c loadBalancers) doc(lb *model.LoadBalancer) (resource.Doc, error) {
	raw, err := model.Encode(lb.Doc)
	return resource.Doc{ID: lb.Doc.Id, Version: lb.Doc.Version, JSON: raw}, err
}

func (c loadBalancers) List(_ context.Context, q url.Values) ([]resource.Doc, error) {
	w := c.h.World()
	f, err := spreadFilter(w, q)
	if err != nil {
		return nil, wrap("list load balancers", err)
	}
	return docs(w.FindLoadBalancers(f), c.doc)
}

// spreadFilter is filterOf for what is spread over endpoints of a network.
func spreadFilter(w model.World, q url.Values) (model.Filter, error) {
	f, _, err := filterOf(q)
	if err != nil || !q.Has("network") {
		return f, err
	}
	n, err := w.FindNetwork(q.Get("network"))
	if err != nil {
		return nil, err
	}
	f["HostComputeNetwork"] = n.Doc.Id
	return f, nil
}

func (c loadBalancers) Get(_ context.Context, id string, _ url.Values) (resource.Doc, error) {
	lb, err := c.h.World().ResolveLoadBalancer(id)
	if err != nil {
		return resource.Doc{}, err
	}
	return c.doc(lb)
}

func (c loadBalancers) Create(ctx context.Context, body json.RawMessage) (resource.Doc, bool, error) {
	lb, created, err := c.h.CreateLoadBalancer(ctx, body)
	if err != nil {
		return resource.Doc{}, false, err
	}
	d, err := c.doc(lb)
	return d, created, err
}

func (c loadBalancers) Modify(ctx context.Context, id string, body json.RawMessage, match uint64) (resource.Doc, error) {
	lb, err := c.h.ModifyLoadBalancer(ctx, id, body, match)
	if err != nil {
		return resource.Doc{}, err
	}
	return c.doc(lb)
}

func (c loadBalancers) Delete(ctx context.Context, id string, match uint64) error {
	return c.h.DeleteLoadBalancer(ctx, id, match)
}

type sdnRoutes struct{ h *HNS }

func (c sdnRoutes) doc(r *model.SDNRoute) (resource.Doc, error) {
	raw, err := model.Encode(r.Doc)
	return resource.Doc{ID: r.Doc.ID, Version: r.Doc.Version, JSON: raw}, err
}

func (c sdnRoutes) List(_ context.Context, q url.Values) ([]resource.Doc, error) {
	w := c.h.World()
	f, err := spreadFilter(w, q)
	if err != nil {
		return nil, wrap("list SDN routes", err)
	}
	return docs(w.FindSDNRoutes(f), c.doc)
}

func (c sdnRoutes) Get(_ context.Context, id string, _ url.Values) (resource.Doc, error) {
	r, err := c.h.World().ResolveSDNRoute(id)
	if err != nil {
		return resource.Doc{}, err
	}
	return c.doc(r)
}

func (c sdnRoutes) Create(ctx context.Context, body json.RawMessage) (resource.Doc, bool, error) {
	r, created, err := c.h.CreateSDNRoute(ctx, body)
	if err != nil {
		return resource.Doc{}, false, err
	}
	d, err := c.doc(r)
	return d, created, err
}

func (c sdnRoutes) Modify(ctx context.Context, id string, body json.RawMessage, match uint64) (resource.Doc, error) {
	r, err := c.h.ModifySDNRoute(ctx, id, body, match)
	if err != nil {
		return resource.Doc{}, err
	}
	return c.doc(r)
}

func (c sdnRoutes) Delete(ctx context.Context, id string, match uint64) error {
	return c.h.DeleteSDNRoute(ctx, id, match)
}

type reservations struct{ h *HNS }

func (c reservations) doc(r *model.Reservation) (resource.Doc, error) {
	raw, err := model.Encode(r.Doc)
	return resource.Doc{ID: r.Doc.ID, Version: r.Doc.Version, JSON: raw}, err
}

func (c reservations) List(_ context.Context, q url.Values) ([]resource.Doc, error) {
	f, _, err := filterOf(q)
	if err != nil {
		return nil, wrap("list port reservations", err)
	}
	return docs(c.h.World().FindReservations(f), c.doc)
}

func (c reservations) Get(_ context.Context, id string, _ url.Values) (resource.Doc, error) {
	r, err := c.h.World().ResolveReservation(id)
	if err != nil {
		return resource.Doc{}, err
	}
	return c.doc(r)
}

func (c reservations) Create(ctx context.Context, body json.RawMessage) (resource.Doc, bool, error) {
	r, created, err := c.h.ReservePorts(ctx, body)
	if err != nil {
		return resource.Doc{}, false, err
	}
	d, err := c.doc(r)
	return d, created, err
}

// Modify refuses: a reservation is made and released.
func (c reservations) Modify(_ context.Context, id string, _ json.RawMessage, _ uint64) (resource.Doc, error) {
	if _, err := c.h.World().ResolveReservation(id); err != nil {
		return resource.Doc{}, err
	}
	return resource.Doc{}, &model.Error{Code: hcn.HCN_E_REQUEST_UNSUPPORTED, Text: "a port reservation cannot be changed; release it and make another"}
}

func (c reservations) Delete(ctx context.Context, id string, match uint64) error {
	return c.h.ReleasePorts(ctx, id, match)
}
