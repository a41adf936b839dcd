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

// CreateService makes a service of a document. created is false when the identical
// create was done before.
func (h *HNS) CreateService(ctx context.Context, body []byte) (s *model.Service, created bool, err error) {
	err = h.change(ctx, "create service", func(w model.World, in model.Input) (model.World, error) {
		var err error
		w, s, created, err = w.CreateService(body, in)
		return w, err
	})
	if err != nil {
		return nil, false, err
	}
	if created {
		h.log.Info("service created", "service", s.Doc.ID, "name", s.Doc.Name, "type", s.Doc.Type)
	}
	return s, created, nil
}

// ModifyService replaces a service, or changes its backends.
func (h *HNS) ModifyService(ctx context.Context, ref string, body []byte, match uint64) (s *model.Service, err error) {
	err = h.change(ctx, "modify service", func(w model.World, in model.Input) (model.World, error) {
		found, err := w.ResolveService(ref)
		if err != nil {
			return w, err
		}
		w, s, err = w.ModifyService(found.Doc.ID, body, match, in)
		return w, err
	})
	return s, err
}

// DeleteService removes a service.
func (h *HNS) DeleteService(ctx context.Context, ref string, match uint64) error {
	err := h.change(ctx, "delete service", func(w model.World, _ model.Input) (model.World, error) {
		s, err := w.ResolveService(ref)
		if err != nil {
			return w, err
		}
		return w.DeleteService(s.Doc.ID, match)
	})
	if err == nil {
		h.log.Info("service deleted", "service", ref)
	}
	return err
}

type services struct{ h *HNS }

func (c services) doc(s *model.Service) (resource.Doc, error) {
	d := c.h.World().ServiceDoc(s)
	raw, err := model.Encode(d)
	return resource.Doc{ID: d.ID, Version: d.Version, JSON: raw}, err
}

func (c services) List(_ context.Context, q url.Values) ([]resource.Doc, error) {
	f, _, err := filterOf(q)
	if err != nil {
		return nil, wrap("list services", err)
	}
	return docs(c.h.World().FindServices(f), c.doc)
}

func (c services) Get(_ context.Context, id string, _ url.Values) (resource.Doc, error) {
	s, err := c.h.World().ResolveService(id)
	if err != nil {
		return resource.Doc{}, err
	}
	return c.doc(s)
}

func (c services) Create(ctx context.Context, body json.RawMessage) (resource.Doc, bool, error) {
	s, created, err := c.h.CreateService(ctx, body)
	if err != nil {
		return resource.Doc{}, false, err
	}
	d, err := c.doc(s)
	return d, created, err
}

func (c services) Modify(ctx context.Context, id string, body json.RawMessage, match uint64) (resource.Doc, error) {
	s, err := c.h.ModifyService(ctx, id, body, match)
	if err != nil {
		return resource.Doc{}, err
	}
	return c.doc(s)
}

func (c services) Delete(ctx context.Context, id string, match uint64) error {
	return c.h.DeleteService(ctx, id, match)
}
