// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import "slices"

// MaxSnap is how many bytes of one packet a capture can have: a record of a perf
// buffer ends at 64 KiB (perf_event_header.size), and needs room for its own head.
const MaxSnap = 65400

// Watch is what somebody looks at now. It is no part of a State: it lives only as
// long as who looks, and costs nothing when nobody does.
type Watch struct {
	// Capture has, by port, uplinks among them, how many bytes of each packet a capture wants, at most
	// MaxSnap. Ports that are not there are passed over.
	Capture map[PortID]uint16
	// FlowEvents is how many events of conversations that begin or end one port may
	// send in a second; 0 = none.
	FlowEvents uint32
}

// Watched returns t with what w asks of the programs. Only flows of captured ports
// are decided anew by the difference between the two.
func (t Tables) Watched(w Watch) Tables {
	if w.FlowEvents != 0 && t.cfg != nil {
		b := *t.cfg
		b.plain = t.cfg
		b.cfg = slices.Clone(b.cfg)
		b.cfg[0].Value.FlowRate = w.FlowEvents
		t.cfg = &b
	}
	ports, uplinks, shared := setWriter[PortID]{set: &t.ports}, t.uplinks, true
	for id, snap := range w.Capture {
		if b := t.ports.get(id); b != nil && snap != 0 {
			ports.put(id, b.captured(snap))
		} else if b := t.uplinks[id]; b != nil && snap != 0 {
			uplinks = with(uplinks, &shared, id, b.captured(snap))
		}
	}
	t.uplinks = uplinks
	return t
}

// captured is the block of a port with its row marked so.
func (b *block) captured(snap uint16) *block {
	of := *b
	of.plain = b
	of.port = slices.Clone(b.port)
	of.port[0].Value.Flags |= portCopy
	of.port[0].Value.Snap = min(snap, MaxSnap)
	return &of
}

// unwatched is what the block is when nobody looks.
func (b *block) unwatched() *block {
	if b.plain != nil {
		return b.plain
	}
	return b
}
