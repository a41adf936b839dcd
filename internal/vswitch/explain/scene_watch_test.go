// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"bytes"
	"math/rand/v2"
	"slices"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

// mirror has some ports mirrored to others, which are then not mirrored themselves.
func (s *scene) mirror(r *rand.Rand) {
	var to []vswitch.PortID
	for i := range s.state.Ports {
		p := &s.state.Ports[i]
		p.Mirror = 0
		if p.Kind != vswitch.PortHost && p.Trunk == 0 && !p.TaggedOnly && one(r, 4) {
			to = append(to, p.ID)
		}
	}
	for i := range s.state.Ports {
		p := &s.state.Ports[i]
		is := false
		for _, id := range to {
			is = is || id == p.ID
		}
		if !is && len(to) > 0 && one(r, 3) {
			p.Mirror = pickOf(r, to)
		}
	}
}

// withoutCopies takes the frames out of seen that mirrors got. Those of a packet
// that was sent look as it did.
func (r *reality) withoutCopies(s *scene, t Trace, sent []byte, seen []seenFrame) (rest []seenFrame, diff string) {
	rest = slices.Clone(seen)
	for _, to := range t.Raw.Mirrors {
		at := r.device(int(s.rows.Port[uint32(to)].Ifindex))
		i := slices.IndexFunc(rest, func(f seenFrame) bool { return f.at == at && bytes.HasPrefix(f.data, sent) })
		if i < 0 {
			i = slices.IndexFunc(rest, func(f seenFrame) bool { return f.at == at })
		}
		switch {
		case i >= 0:
			rest = slices.Delete(rest, i, i+1)
		case len(sent) < 1200: // larger ones no device may have taken
			return rest, "no copy arrived at " + at
		}
	}
	return rest, ""
}
