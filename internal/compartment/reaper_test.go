// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

//go:build failpoint

package compartment

import (
	"context"
	"testing"

	"gatehouse.dev/gatehouse/internal/network/model"
)

// TestReapsAgain: devices that could not be deleted are deleted later; nobody else
// remembers them.
func TestReapsAgain(t *testing.T) {
	inst := newInstance(t)
	h := openHost(t, inst)
	ensure(t, h, world(inst, 0))
	if err := h.Prune(context.Background(), model.Desired{}); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GATEHOUSE_FAILPOINTS", "compartment.call=1*error") // from now on only the reaper calls
	prune(t, h, model.Desired{})
	t.Setenv("GATEHOUSE_FAILPOINTS", "")
	check(t, h, model.Desired{})
}
