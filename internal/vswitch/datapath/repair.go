// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"fmt"
	"slices"
)

// Repair puts back attachments that somebody else took away: a root process that
// removes a device's clsact, or all tcx programs, takes ours along. Run calls it.
// It returns what it had to put back.
func (d *Datapath) Repair() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || !d.live || d.dirty {
		return nil, nil
	}
	fixed, err := d.repair()
	if err != nil {
		return fixed, fmt.Errorf("repair data plane: %w", err)
	}
	return fixed, nil
}

func (d *Datapath) repair() ([]string, error) {
	ep, err := d.gen.program(endpointProgram)
	if err != nil {
		return nil, err
	}
	up, err := d.gen.program(uplinkProgram)
	if err != nil {
		return nil, err
	}
	var fixed []string
	filters, err := findFilters(d.nl, d.o.Block)
	if err != nil {
		return nil, err
	}
	at := map[int]bool{}
	for _, f := range filters {
		at[f.ifindex] = f.program == programID(ep) || f.program == programID(up)
	}
	if !at[blockIndex] {
		if err := d.attachBlock(ep); err != nil {
			return nil, err
		}
		fixed = append(fixed, fmt.Sprintf("filter on block %#x", d.o.Block))
	}
	for _, u := range d.tables.Uplinks {
		if at[u.Ifindex] || d.uplinkLinked(u.Ifindex) {
			continue
		}
		if _, err := d.nl.LinkByIndex(u.Ifindex); err != nil {
			continue // the device is gone, not we
		}
		if err := d.attachUplink(u.Ifindex, u.Name, up); err != nil {
			return fixed, err
		}
		fixed = append(fixed, "uplink "+u.Name)
	}
	slices.Sort(fixed)
	return fixed, nil
}
