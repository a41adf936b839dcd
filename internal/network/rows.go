// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package network

import (
	"errors"
	"fmt"

	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/store"
)

// Buckets of the store:
//
//	networks/    <guid> -> model.Network
//	endpoints/   <guid> -> model.Endpoint
//	namespaces/  <guid> -> model.Namespace
//	hns/         state  -> meta
func networkRows() store.Bucket[*model.Network] {
	return store.Bucket[*model.Network]{Name: "networks"}
}

func endpointRows() store.Bucket[*model.Endpoint] {
	return store.Bucket[*model.Endpoint]{Name: "endpoints"}
}

func namespaceRows() store.Bucket[*model.Namespace] {
	return store.Bucket[*model.Namespace]{Name: "namespaces"}
}

func metaRows() store.Bucket[meta] { return store.Bucket[meta]{Name: "hns"} }

// meta is what belongs to no object.
type meta struct {
	Numbers model.Numbers
	// Started: the default network was made once; it is not made again after it was deleted.
	Started bool
	BootID  string `json:",omitempty"`
}

const metaKey = "state"

// save writes rows, numbers and events in one transaction.
func (h *HNS) save(changes []model.Change, numbers model.Numbers, events []store.Event) error {
	_, err := h.o.Store.Update(func(tx *store.Tx) error {
		for _, c := range changes {
			if err := saveRow(tx, c); err != nil {
				return err
			}
		}
		m, err := metaRows().Get(tx, metaKey)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		m.Numbers, m.BootID = numbers, h.o.BootID
		if err := metaRows().Put(tx, metaKey, m); err != nil {
			return err
		}
		for _, e := range events {
			if err := tx.Append(e); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

func saveRow(tx *store.Tx, c model.Change) error {
	switch c.Kind {
	case model.Networks:
		if n, ok := c.Row.(*model.Network); ok {
			return networkRows().Put(tx, c.ID, n)
		}
		return networkRows().Delete(tx, c.ID)
	case model.Endpoints:
		if e, ok := c.Row.(*model.Endpoint); ok {
			return endpointRows().Put(tx, c.ID, e)
		}
		return endpointRows().Delete(tx, c.ID)
	case model.Namespaces:
		if n, ok := c.Row.(*model.Namespace); ok {
			return namespaceRows().Put(tx, c.ID, n)
		}
		return namespaceRows().Delete(tx, c.ID)
	}
	return fmt.Errorf("change of kind %q", c.Kind)
}

// markStarted notes that the default network was made once.
func (h *HNS) markStarted() error {
	_, err := h.o.Store.Update(func(tx *store.Tx) error {
		m, err := metaRows().Get(tx, metaKey)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		m.Started = true
		return metaRows().Put(tx, metaKey, m)
	})
	return err
}

// load reads everything.
func (h *HNS) load() (model.World, meta, error) {
	var (
		m          meta
		networks   []*model.Network
		endpoints  []*model.Endpoint
		namespaces []*model.Namespace
	)
	err := h.o.Store.View(func(tx *store.Tx) error {
		var err error
		if m, err = metaRows().Get(tx, metaKey); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		return errors.Join(
			networkRows().Each(tx, func(_ string, n *model.Network) error { networks = append(networks, n); return nil }),
			endpointRows().Each(tx, func(_ string, e *model.Endpoint) error { endpoints = append(endpoints, e); return nil }),
			namespaceRows().Each(tx, func(_ string, n *model.Namespace) error { namespaces = append(namespaces, n); return nil }),
		)
	})
	if err != nil {
		return model.World{}, m, err
	}
	w, err := model.Load(h.o.Instance, m.Numbers, networks, endpoints, namespaces)
	return w, m, err
}
