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
//	networks/       <guid> -> model.Network
//	endpoints/      <guid> -> model.Endpoint
//	namespaces/     <guid> -> model.Namespace
//	loadbalancers/  <guid> -> model.LoadBalancer
//	sdnroutes/      <guid> -> model.SDNRoute
//	ports/          <guid> -> model.Reservation
//	guestnetworkservices/ <guid> -> model.GuestService
//	services/       <guid> -> model.Service
//	hns/            state  -> meta
func networkRows() store.Bucket[*model.Network] {
	return store.Bucket[*model.Network]{Name: "networks"}
}

func endpointRows() store.Bucket[*model.Endpoint] {
	return store.Bucket[*model.Endpoint]{Name: "endpoints"}
}

func namespaceRows() store.Bucket[*model.Namespace] {
	return store.Bucket[*model.Namespace]{Name: "namespaces"}
}

func loadBalancerRows() store.Bucket[*model.LoadBalancer] {
	return store.Bucket[*model.LoadBalancer]{Name: "loadbalancers"}
}

func sdnRouteRows() store.Bucket[*model.SDNRoute] {
	return store.Bucket[*model.SDNRoute]{Name: "sdnroutes"}
}

func reservationRows() store.Bucket[*model.Reservation] {
	return store.Bucket[*model.Reservation]{Name: "ports"}
}

func guestServiceRows() store.Bucket[*model.GuestService] {
	return store.Bucket[*model.GuestService]{Name: "guestnetworkservices"}
}

func serviceRows() store.Bucket[*model.Service] {
	return store.Bucket[*model.Service]{Name: "services"}
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
		return saveAs(tx, networkRows(), c)
	case model.Endpoints:
		return saveAs(tx, endpointRows(), c)
	case model.Namespaces:
		return saveAs(tx, namespaceRows(), c)
	case model.LoadBalancers:
		return saveAs(tx, loadBalancerRows(), c)
	case model.SDNRoutes:
		return saveAs(tx, sdnRouteRows(), c)
	case model.Reservations:
		return saveAs(tx, reservationRows(), c)
	case model.GuestServices:
		return saveAs(tx, guestServiceRows(), c)
	case model.Services:
		return saveAs(tx, serviceRows(), c)
	}
	return fmt.Errorf("change of kind %q", c.Kind)
}

func saveAs[R any](tx *store.Tx, bucket store.Bucket[R], c model.Change) error {
	if r, ok := c.Row.(R); ok {
		return bucket.Put(tx, c.ID, r)
	}
	return bucket.Delete(tx, c.ID)
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
		m    meta
		rows model.Rows
	)
	err := h.o.Store.View(func(tx *store.Tx) error {
		var err error
		if m, err = metaRows().Get(tx, metaKey); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		return errors.Join(
			gather(tx, networkRows(), &rows.Networks),
			gather(tx, endpointRows(), &rows.Endpoints),
			gather(tx, namespaceRows(), &rows.Namespaces),
			gather(tx, loadBalancerRows(), &rows.LoadBalancers),
			gather(tx, sdnRouteRows(), &rows.SDNRoutes),
			gather(tx, reservationRows(), &rows.Reservations),
			gather(tx, guestServiceRows(), &rows.GuestServices),
			gather(tx, serviceRows(), &rows.Services),
		)
	})
	if err != nil {
		return model.World{}, m, err
	}
	w, err := model.Load(h.o.Instance, m.Numbers, rows)
	return w, m, err
}

func gather[R any](tx *store.Tx, bucket store.Bucket[R], into *[]R) error {
	return bucket.Each(tx, func(_ string, r R) error { *into = append(*into, r); return nil })
}
