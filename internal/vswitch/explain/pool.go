// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"encoding/binary"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

// poolOf is the natpool entry where the packet's pool begins, 0 for none, and
// whose it is.
func (w *walk) poolOf(net vswitch.NetRow) (uint32, string) {
	of := func(v4, v6 uint16) uint32 {
		if w.k.fam == 4 {
			return uint32(v4)
		}
		return uint32(v6)
	}
	if w.routePool != 0 {
		return w.routePool, "an address that the route names"
	}
	if pool := of(w.in.Natpool4, w.in.Natpool6); pool != 0 && w.endpoint() {
		return pool, "an address of its own pool"
	}
	if pool := of(net.Natpool4, net.Natpool6); pool != 0 {
		return pool, "an address of its network's pool"
	}
	q := w.s.Rows.Port[uint32(w.outPort)]
	return of(q.Natpool4, q.Natpool6), "the host's address"
}

// poolPick is the entry for this packet; 0 where the pool is empty.
func (w *walk) poolPick(pool uint32) (uint32, vswitch.NATPoolRow) {
	at := func(i uint32) (uint32, vswitch.NATPoolRow) {
		r := w.s.Rows.NATPool[i]
		if i == 0 || r.Hi == 0 {
			return 0, vswitch.NATPoolRow{}
		}
		return i, r
	}
	i, first := at(pool)
	if i == 0 || first.Count <= 1 {
		return i, first
	}
	count := min(uint32(first.Count), vswitch.MaxNATAddrs)
	for j := uint32(0); w.keep && j < count; j++ {
		if i, r := at(pool + j); i != 0 && r.Addr.B == w.nsrc {
			return i, r
		}
	}
	return at(pool + w.srcHash()%count)
}

func (w *walk) srcHash() uint32 {
	hash := uint32(0)
	for b := 0; b < 16; b += 4 {
		hash = mix(hash, binary.NativeEndian.Uint32(w.k.src[b:]))
	}
	return hash
}

// poolShare leaves an endpoint its share of the ports: a run of them that its address
// chooses.
func (w *walk) poolShare() {
	if !w.endpoint() || w.in.NatShare == 0 || w.natHi < w.natLo {
		return
	}
	all := uint32(w.natHi) - uint32(w.natLo) + 1
	if some := max(all*uint32(w.in.NatShare)/100, 1); some < all {
		w.natLo += uint16(w.srcHash() % (all - some + 1))
		w.natHi = w.natLo + uint16(some-1)
	}
}
