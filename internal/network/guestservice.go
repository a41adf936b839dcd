// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package network

import (
	"context"
	"encoding/json"
	"net/url"

	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/resource"
)

// guestServices are the networking services inside virtual machines.
type guestServices struct{ h *HNS }

func (c guestServices) doc(g *model.GuestService) (resource.Doc, error) {
	raw, err := model.Encode(g.Doc)
	return resource.Doc{ID: g.Doc.ID, Version: g.Doc.Version, JSON: raw}, err
}

func (c guestServices) List(_ context.Context, q url.Values) ([]resource.Doc, error) {
	f, _, err := filterOf(q)
	if err != nil {
		return nil, wrap("list guest network services", err)
	}
	return docs(c.h.World().FindGuestServices(f), c.doc)
}

func (c guestServices) Get(_ context.Context, id string, _ url.Values) (resource.Doc, error) {
	g, err := c.h.World().ResolveGuestService(id)
	if err != nil {
		return resource.Doc{}, err
	}
	return c.doc(g)
}

func (c guestServices) Create(ctx context.Context, body json.RawMessage) (resource.Doc, bool, error) {
	var (
		g       *model.GuestService
		created bool
	)
	err := c.h.change(ctx, "create guest network service", func(w model.World, in model.Input) (model.World, error) {
		var err error
		w, g, created, err = w.CreateGuestService(body, in)
		return w, err
	})
	if err != nil {
		return resource.Doc{}, false, err
	}
	d, err := c.doc(g)
	return d, created, err
}

func (c guestServices) Modify(ctx context.Context, ref string, body json.RawMessage, match uint64) (resource.Doc, error) {
	var g *model.GuestService
	err := c.h.change(ctx, "modify guest network service", func(w model.World, _ model.Input) (model.World, error) {
		found, err := w.ResolveGuestService(ref)
		if err != nil {
			return w, err
		}
		w, g, err = w.ModifyGuestService(found.Doc.ID, body, match)
		return w, err
	})
	if err != nil {
		return resource.Doc{}, err
	}
	return c.doc(g)
}

func (c guestServices) Delete(ctx context.Context, ref string, match uint64) error {
	return c.h.change(ctx, "delete guest network service", func(w model.World, _ model.Input) (model.World, error) {
		g, err := w.ResolveGuestService(ref)
		if err != nil {
			return w, err
		}
		return w.DeleteGuestService(g.Doc.ID, match)
	})
}
