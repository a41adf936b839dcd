// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package network

import (
	"context"
	"encoding/json"
	"net/url"
	"strconv"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/resource"
)

// Version that the service reports. By the Windows API's list the features follow
// from it, so it is the highest of whose features none is missing: 16.0, which has them all.
func Version() hcn.Version { return hcn.Version{Major: 16} }

// Collections by the name of their kind, for the API door.
func (h *HNS) Collections() map[string]resource.Collection {
	return map[string]resource.Collection{
		"networks":             networks{h},
		"endpoints":            endpoints{h},
		"namespaces":           namespaces{h},
		"loadbalancers":        loadBalancers{h},
		"sdnroutes":            sdnRoutes{h},
		"ports":                reservations{h},
		"guestnetworkservices": guestServices{h},
		"services":             services{h},
	}
}

// filterOf reads the query of a list.
func filterOf(q url.Values) (f model.Filter, detailed bool, err error) {
	f, detailed, err = model.ParseQuery(q.Get("query"))
	if err != nil {
		return nil, false, err
	}
	more, err := model.ParseFilter(q.Get("filter"))
	if err != nil {
		return nil, false, err
	}
	if f == nil {
		f = model.Filter{}
	}
	for k, v := range more {
		f[k] = v
	}
	for param, member := range map[string]string{
		"name": "Name", "namespace": "HostComputeNamespace", "owner": "Owner", "id": "ID", "type": "Type",
	} {
		if q.Has(param) {
			f[member] = q.Get(param)
		}
	}
	if b, _ := strconv.ParseBool(q.Get("detailed")); b {
		detailed = true
	}
	return f, detailed, nil
}

// health is what a detailed query adds.
func (h *HNS) health(detailed bool, have hcn.Health) hcn.Health {
	if !detailed {
		return have
	}
	data := map[string]string{"Status": "Ok"}
	if t := h.Trouble(); t != "" {
		data = map[string]string{"Status": "Degraded", "Reason": t}
	}
	have.Data = data
	return have
}

type networks struct{ h *HNS }

func (c networks) doc(n *model.Network, detailed bool) (resource.Doc, error) {
	d := n.Doc
	d.Health = c.h.health(detailed, d.Health)
	raw, err := model.Encode(d)
	return resource.Doc{ID: d.Id, Version: d.Version, JSON: raw}, err
}

func (c networks) List(_ context.Context, q url.Values) ([]resource.Doc, error) {
	f, detailed, err := filterOf(q)
	if err != nil {
		return nil, wrap("list networks", err)
	}
	return docs(c.h.World().FindNetworks(f), func(n *model.Network) (resource.Doc, error) { return c.doc(n, detailed) })
}

func (c networks) Get(_ context.Context, id string, q url.Values) (resource.Doc, error) {
	n, err := c.h.World().ResolveNetwork(id)
	if err != nil {
		return resource.Doc{}, err
	}
	return c.doc(n, isDetailed(q))
}

func (c networks) Create(ctx context.Context, body json.RawMessage) (resource.Doc, bool, error) {
	n, created, err := c.h.CreateNetwork(ctx, body)
	if err != nil {
		return resource.Doc{}, false, err
	}
	d, err := c.doc(n, false)
	return d, created, err
}

func (c networks) Modify(ctx context.Context, id string, body json.RawMessage, match uint64) (resource.Doc, error) {
	n, err := c.h.ModifyNetwork(ctx, id, body, match)
	if err != nil {
		return resource.Doc{}, err
	}
	return c.doc(n, false)
}

func (c networks) Delete(ctx context.Context, id string, match uint64) error {
	return c.h.DeleteNetwork(ctx, id, match)
}

type endpoints struct{ h *HNS }

func (c endpoints) doc(e *model.Endpoint, detailed bool) (resource.Doc, error) {
	d := e.Doc
	d.Health = c.h.health(detailed, d.Health)
	if data, ok := d.Health.Data.(map[string]string); ok && e.Lease != nil {
		leaseHealth(e.Lease, data)
	}
	raw, err := model.Encode(d)
	return resource.Doc{ID: d.Id, Version: d.Version, JSON: raw}, err
}

func (c endpoints) List(_ context.Context, q url.Values) ([]resource.Doc, error) {
	f, detailed, err := filterOf(q)
	if err != nil {
		return nil, wrap("list endpoints", err)
	}
	w := c.h.World()
	if q.Has("network") {
		n, err := w.FindNetwork(q.Get("network"))
		if err != nil {
			return nil, wrap("list endpoints", err)
		}
		f["HostComputeNetwork"] = n.Doc.Id
	}
	return docs(w.FindEndpoints(f), func(e *model.Endpoint) (resource.Doc, error) { return c.doc(e, detailed) })
}

func (c endpoints) Get(_ context.Context, id string, q url.Values) (resource.Doc, error) {
	e, err := c.h.World().ResolveEndpoint(id)
	if err != nil {
		return resource.Doc{}, err
	}
	return c.doc(e, isDetailed(q))
}

func (c endpoints) Create(ctx context.Context, body json.RawMessage) (resource.Doc, bool, error) {
	e, created, err := c.h.CreateEndpoint(ctx, "", body)
	if err != nil {
		return resource.Doc{}, false, err
	}
	d, err := c.doc(e, false)
	return d, created, err
}

func (c endpoints) Modify(ctx context.Context, id string, body json.RawMessage, match uint64) (resource.Doc, error) {
	e, err := c.h.ModifyEndpoint(ctx, id, body, match)
	if err != nil {
		return resource.Doc{}, err
	}
	return c.doc(e, false)
}

func (c endpoints) Delete(ctx context.Context, id string, match uint64) error {
	return c.h.DeleteEndpoint(ctx, id, match)
}

type namespaces struct{ h *HNS }

func (c namespaces) doc(ns *model.Namespace) (resource.Doc, error) {
	raw, err := model.Encode(ns.Doc)
	return resource.Doc{ID: ns.Doc.Id, Version: ns.Doc.Version, JSON: raw}, err
}

func (c namespaces) List(_ context.Context, q url.Values) ([]resource.Doc, error) {
	f, _, err := filterOf(q)
	if err != nil {
		return nil, wrap("list namespaces", err)
	}
	return docs(c.h.World().FindNamespaces(f), c.doc)
}

func (c namespaces) Get(_ context.Context, id string, _ url.Values) (resource.Doc, error) {
	ns, err := c.h.World().ResolveNamespace(id)
	if err != nil {
		return resource.Doc{}, err
	}
	return c.doc(ns)
}

func (c namespaces) Create(ctx context.Context, body json.RawMessage) (resource.Doc, bool, error) {
	ns, created, err := c.h.CreateNamespace(ctx, body)
	if err != nil {
		return resource.Doc{}, false, err
	}
	d, err := c.doc(ns)
	return d, created, err
}

func (c namespaces) Modify(ctx context.Context, id string, body json.RawMessage, match uint64) (resource.Doc, error) {
	ns, err := c.h.ModifyNamespace(ctx, id, body, match)
	if err != nil {
		return resource.Doc{}, err
	}
	return c.doc(ns)
}

func (c namespaces) Delete(ctx context.Context, id string, match uint64) error {
	return c.h.DeleteNamespace(ctx, id, match)
}

func isDetailed(q url.Values) bool {
	if b, _ := strconv.ParseBool(q.Get("detailed")); b {
		return true
	}
	_, detailed, _ := model.ParseQuery(q.Get("query"))
	return detailed
}

func docs[R any](rows []R, doc func(R) (resource.Doc, error)) ([]resource.Doc, error) {
	out := make([]resource.Doc, 0, len(rows))
	for _, r := range rows {
		d, err := doc(r)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}
