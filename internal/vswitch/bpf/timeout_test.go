// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import "testing"

func TestFlowTimeoutsAreTheObjects(t *testing.T) {
	spec, err := LoadSwitch()
	if err != nil {
		t.Fatal(err)
	}
	var object [16]uint16
	if err := spec.Variables[SwitchVarGhTimeouts].Get(&object); err != nil {
		t.Fatal(err)
	}
	if object != flowTimeouts {
		t.Errorf("the object has %v, Go %v", object, flowTimeouts)
	}
}
