// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package network

import (
	"context"
	"encoding/json"
	"slices"

	"gatehouse.dev/gatehouse/internal/network/model"
)

// Plugged says what a container needs to know of its network. It has the fields of
// compute.Plugged, which it converts to.
type Plugged struct {
	NamespaceID string
	NetNsPath   string
	Endpoints   []json.RawMessage
	Addrs       []string
	Servers     []string
	Search      []string
	Options     []string
}

// Plug makes a namespace with the given id and one endpoint for each document (ids
// set by the caller; an empty network means the default one), attached in order:
// one transaction, all or nothing. Repeated with the same ids it changes nothing.
func (h *HNS) Plug(ctx context.Context, owner, namespaceID string, endpoints []json.RawMessage) (Plugged, error) {
	var (
		ns    *model.Namespace
		after model.World
	)
	err := h.lending(ctx, "plug network", func(w model.World, in model.Input) (model.World, error) {
		var err error
		w, ns, err = w.Plug(owner, namespaceID, endpoints, in)
		after = w
		return w, err
	})
	if err != nil {
		return Plugged{}, err
	}
	return describe(after, ns)
}

// Unplug removes the namespace and the endpoints made by Plug. Absent is no error.
func (h *HNS) Unplug(ctx context.Context, namespaceID string) error {
	return h.change(ctx, "unplug "+namespaceID, func(w model.World, in model.Input) (model.World, error) {
		return w.Unplug(namespaceID, in), nil
	})
}

// TakeOver says whether a network stack of its own speaks for the vNICs of a
// namespace: the kernel's have no addresses then.
func (h *HNS) TakeOver(ctx context.Context, namespaceID string, on bool) error {
	return h.change(ctx, "take over "+namespaceID, func(w model.World, _ model.Input) (model.World, error) {
		return w.TakeOver(namespaceID, on)
	})
}

// Look describes an existing namespace.
func (h *HNS) Look(_ context.Context, namespaceID string) (Plugged, error) {
	w := h.World()
	ns, err := w.ResolveNamespace(namespaceID)
	if err != nil {
		return Plugged{}, wrap("look at namespace", err)
	}
	return describe(w, ns)
}

// Plugs are the owners of namespaces made by Plug, by namespace id: compute's
// reconcile unplugs those whose owner is gone.
func (h *HNS) Plugs() map[string]string {
	out := map[string]string{}
	for _, ns := range h.World().AllNamespaces() {
		if ns.Plug != "" {
			out[ns.Doc.Id] = ns.Plug
		}
	}
	return out
}

func describe(w model.World, ns *model.Namespace) (Plugged, error) {
	p := Plugged{NamespaceID: ns.Doc.Id, NetNsPath: ns.Doc.NetNsPath}
	for i, nic := range ns.NICs {
		e, ok := w.Endpoint(nic.Endpoint)
		if !ok {
			continue
		}
		raw, err := model.Encode(e.Doc)
		if err != nil {
			return p, err
		}
		p.Endpoints = append(p.Endpoints, raw)
		if i == 0 {
			for _, c := range e.Doc.IpConfigurations {
				p.Addrs = append(p.Addrs, c.IpAddress)
			}
		}
		servers, search, options := w.ResolverConfig(e)
		p.Servers = appendNew(p.Servers, servers...)
		p.Search = appendNew(p.Search, search...)
		p.Options = appendNew(p.Options, options...)
	}
	return p, nil
}

func appendNew(have []string, more ...string) []string {
	for _, m := range more {
		if !slices.Contains(have, m) {
			have = append(have, m)
		}
	}
	return have
}
