// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package network

import (
	"context"
	"errors"
	"fmt"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/network/ipam"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/store"
)

// accelnetRows has one row: the MAC addresses that a client of the v1 API keeps here
// for the management vNICs of accelerated networking. Nothing here acts on them.
func accelnetRows() store.Bucket[[]string] { return store.Bucket[[]string]{Name: "accelnet"} }

const accelnetKey = "macs"

// ManagementMACs returns the list that SetManagementMACs stored; Element not found
// if there is none.
func (h *HNS) ManagementMACs(context.Context) (macs []string, err error) {
	err = h.o.Store.View(func(tx *store.Tx) error {
		macs, err = accelnetRows().Get(tx, accelnetKey)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		err = &model.Error{Code: hcn.E_ELEMENT_NOT_FOUND, Text: "no list of MAC addresses: Element not found."}
	}
	return macs, err
}

// SetManagementMACs stores a list, in the form that MAC addresses are answered in;
// nil deletes it.
func (h *HNS) SetManagementMACs(_ context.Context, macs []string) error {
	out := make([]string, len(macs))
	for i, s := range macs {
		m, err := ipam.ParseMAC(s)
		if err != nil {
			field := fmt.Sprintf("MacAddressList[%d].MacAddress", i)
			return &model.Error{Code: hcn.E_INVALID_PARAMETER, Field: field, Text: err.Error()}
		}
		out[i] = m.String()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped.Load() {
		return &model.Error{Code: hcn.HCN_E_MANAGER_STOPPED, Text: "the service is stopping"}
	}
	_, err := h.o.Store.Update(func(tx *store.Tx) error {
		if macs == nil {
			return accelnetRows().Delete(tx, accelnetKey)
		}
		return accelnetRows().Put(tx, accelnetKey, out)
	})
	return wrap("store MAC addresses", err)
}
