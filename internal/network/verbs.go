// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package network

import (
	"context"

	"gatehouse.dev/gatehouse/internal/network/model"
)

// CreateNetwork makes a network of a document. created is false when the
// identical create was done before.
func (h *HNS) CreateNetwork(ctx context.Context, body []byte) (n *model.Network, created bool, err error) {
	err = h.change(ctx, "create network", func(w model.World, in model.Input) (model.World, error) {
		var err error
		w, n, created, err = w.CreateNetwork(body, in)
		return w, err
	})
	if err != nil {
		return nil, false, err
	}
	if created {
		h.log.Info("network created", "network", n.Doc.Id, "name", n.Doc.Name, "type", n.Doc.Type)
	}
	return n, created, nil
}

// ModifyNetwork applies a modify request; match is the version it is meant for, 0 = any.
func (h *HNS) ModifyNetwork(ctx context.Context, ref string, body []byte, match uint64) (n *model.Network, err error) {
	err = h.change(ctx, "modify network", func(w model.World, in model.Input) (model.World, error) {
		found, err := w.ResolveNetwork(ref)
		if err != nil {
			return w, err
		}
		w, n, err = w.ModifyNetwork(found.Doc.Id, body, match, in)
		return w, err
	})
	return n, err
}

// DeleteNetwork removes a network with its endpoints.
func (h *HNS) DeleteNetwork(ctx context.Context, ref string, match uint64) error {
	err := h.change(ctx, "delete network", func(w model.World, in model.Input) (model.World, error) {
		n, err := w.ResolveNetwork(ref)
		if err != nil {
			return w, err
		}
		return w.DeleteNetwork(n.Doc.Id, match, in)
	})
	if err == nil {
		h.log.Info("network deleted", "network", ref)
	}
	return err
}

// CreateEndpoint makes an endpoint on network, or on the one its document names if
// network is "".
func (h *HNS) CreateEndpoint(ctx context.Context, network string, body []byte) (e *model.Endpoint, created bool, err error) {
	err = h.lending(ctx, "create endpoint", func(w model.World, in model.Input) (model.World, error) {
		var err error
		w, e, created, err = w.CreateEndpoint(network, body, in)
		return w, err
	})
	if err != nil {
		return nil, false, err
	}
	if created {
		h.log.Info("endpoint created", "endpoint", e.Doc.Id, "network", e.Doc.HostComputeNetwork, "port", e.Port)
	}
	return e, created, nil
}

// ModifyEndpoint applies a modify request.
func (h *HNS) ModifyEndpoint(ctx context.Context, ref string, body []byte, match uint64) (e *model.Endpoint, err error) {
	err = h.change(ctx, "modify endpoint", func(w model.World, in model.Input) (model.World, error) {
		found, err := w.ResolveEndpoint(ref)
		if err != nil {
			return w, err
		}
		w, e, err = w.ModifyEndpoint(found.Doc.Id, body, match, in)
		return w, err
	})
	return e, err
}

// DeleteEndpoint detaches and removes an endpoint.
func (h *HNS) DeleteEndpoint(ctx context.Context, ref string, match uint64) error {
	err := h.change(ctx, "delete endpoint", func(w model.World, in model.Input) (model.World, error) {
		e, err := w.ResolveEndpoint(ref)
		if err != nil {
			return w, err
		}
		return w.DeleteEndpoint(e.Doc.Id, match, in)
	})
	if err == nil {
		h.log.Info("endpoint deleted", "endpoint", ref)
	}
	return err
}

// CreateNamespace makes a namespace.
func (h *HNS) CreateNamespace(ctx context.Context, body []byte) (ns *model.Namespace, created bool, err error) {
	err = h.change(ctx, "create namespace", func(w model.World, in model.Input) (model.World, error) {
		var err error
		w, ns, created, err = w.CreateNamespace(body, in)
		return w, err
	})
	if err != nil {
		return nil, false, err
	}
	if created {
		h.log.Info("namespace created", "namespace", ns.Doc.Id)
	}
	return ns, created, nil
}

// ModifyNamespace attaches and detaches endpoints and containers.
func (h *HNS) ModifyNamespace(ctx context.Context, ref string, body []byte, match uint64) (ns *model.Namespace, err error) {
	err = h.change(ctx, "modify namespace", func(w model.World, _ model.Input) (model.World, error) {
		found, err := w.ResolveNamespace(ref)
		if err != nil {
			return w, err
		}
		w, ns, err = w.ModifyNamespace(found.Doc.Id, body, match)
		return w, err
	})
	return ns, err
}

// DeleteNamespace detaches a namespace's endpoints and removes it.
func (h *HNS) DeleteNamespace(ctx context.Context, ref string, match uint64) error {
	err := h.change(ctx, "delete namespace", func(w model.World, _ model.Input) (model.World, error) {
		ns, err := w.ResolveNamespace(ref)
		if err != nil {
			return w, err
		}
		return w.DeleteNamespace(ns.Doc.Id, match)
	})
	if err == nil {
		h.log.Info("namespace deleted", "namespace", ref)
	}
	return err
}
