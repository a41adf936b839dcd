// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// copied is gh_copy for mirrors: who gets a copy of what port id sends or gets.
// Captures are no step of a packet's way.
func (w *walk) copied(id uint16, l bpf.Layer) {
	p := w.s.Rows.Port[uint32(id)]
	if p.Flags&watched == 0 || p.Mirror == 0 || w.s.Rows.Port[uint32(p.Mirror)].Flags&up == 0 {
		return
	}
	w.t.Raw.Mirrors = append(w.t.Raw.Mirrors, vswitch.PortID(p.Mirror))
	w.note(l, w.portName(id), "", "copy", "%s is mirrored: a copy goes to %s", w.portName(id), w.portName(p.Mirror))
}
