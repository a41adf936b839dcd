// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package network

import (
	"gatehouse.dev/gatehouse/internal/instance"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/store"
)

// Read returns the World that a store holds, without a service: for inspection.
func Read(inst instance.Instance, db *store.DB) (model.World, error) {
	w, _, err := New(Options{Instance: inst, Store: db}).load()
	return w, wrap("read networks", err)
}
