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
	var pairs [2]uint32
	if err := spec.Variables[SwitchVarGhPairs].Get(&pairs); err != nil {
		t.Fatal(err)
	}
	if pairs != flowPairs || spec.Maps["flow4"].MaxEntries != 2*pairs[0] || spec.Maps["flow6"].MaxEntries != 2*pairs[1] {
		t.Errorf("the object has room for %v conversations, Go says %v; tables of %d and %d", pairs, flowPairs,
			spec.Maps["flow4"].MaxEntries, spec.Maps["flow6"].MaxEntries)
	}
}
