// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import "slices"

// Sizes of a Maglev table, prime as the algorithm needs them. A backend should
// have about 25 slots or more, so that shares are even.
const (
	maglevSmall, maglevLarge = 251, 2039
	maglevShare              = 25
)

// choice is a backend as slots see it.
type choice struct {
	id     uint32 // of its member
	weight int
	hash   uint64 // of its address and port: the same on every host
}

// maglev fills a table as in Eisenbud et al., "Maglev: A Fast and Reliable
// Software Network Load Balancer" (NSDI 2016), section 3.4: every backend has its
// own order of all slots, and they take turns, by weight, at taking the next free
// one. The table follows from the set of backends alone, and a change of the set
// moves little more than the share that changed.
func maglev(of []choice) []uint32 {
	if len(of) == 0 {
		return nil
	}
	of = slices.Clone(of)
	slices.SortFunc(of, func(a, b choice) int {
		switch {
		case a.hash != b.hash && a.hash < b.hash:
			return -1
		case a.hash != b.hash:
			return 1
		}
		return int(int64(a.id) - int64(b.id))
	})
	size := uint64(maglevSmall)
	if len(of)*maglevShare > maglevSmall {
		size = maglevLarge
	}
	type order struct{ at, step uint64 }
	orders := make([]order, len(of))
	for i, c := range of {
		orders[i] = order{c.hash % size, c.hash/size%(size-1) + 1}
	}
	table := make([]uint32, size)
	for filled := uint64(0); ; {
		for i := range of {
			o := &orders[i]
			for range of[i].weight {
				for table[o.at] != 0 {
					o.at = (o.at + o.step) % size
				}
				table[o.at] = of[i].id
				if filled++; filled == size {
					return table
				}
			}
		}
	}
}

// repeated gives every backend as many slots as it has weight.
func repeated(of []choice) []uint32 {
	var table []uint32
	for _, c := range of {
		for range c.weight {
			table = append(table, c.id)
		}
	}
	return table
}
