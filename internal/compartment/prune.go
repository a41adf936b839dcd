// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"gatehouse.dev/gatehouse/internal/network/model"
)

// Prune removes what is ours and not in want. Namespaces lose their name before
// it returns; devices go in the background (Settle waits for them). It goes on
// after an error and returns all of them joined.
func (h *Host) Prune(ctx context.Context, want model.Desired) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.load(); err != nil {
		return fmt.Errorf("prune compartments: %w", err)
	}
	if h.swept && h.exactly(want) {
		return nil
	}
	keep := wantedDevices(want)
	keep[h.inst.AnchorDevice()], keep[h.inst.AnchorPeer()] = true, true
	for name, index := range h.devices {
		if !keep[name] { // first of all: a namespace takes its devices along as soon as it goes
			h.view.expect(index)
		}
	}
	seen := h.seen(want)
	for k := range h.kept {
		if k >= len(want.CompartmentParts) || !h.kept[k].holds(want.CompartmentParts[k]) {
			h.kept[k] = nil // what it has may go now
		}
	}
	var errs []error
	if err := h.pruneNamespaces(ctx, want); err != nil {
		errs = append(errs, err)
	}
	for _, c := range h.comps {
		for port := range c.vnics {
			if !keep[port] {
				delete(c.vnics, port)
			}
		}
	}
	for port := range h.shaped {
		if !keep[port] {
			delete(h.shaped, port)
		}
	}
	for name := range h.nics {
		if !keep[name] {
			delete(h.nics, name)
		}
	}
	for name := range h.tunnels {
		if !keep[name] {
			delete(h.tunnels, name)
		}
	}
	for name := range h.taps {
		if !keep[name] {
			delete(h.taps, name)
		}
	}
	for name, index := range h.devices {
		if keep[name] {
			continue
		}
		h.dropDevice(name)
		delete(h.joined, index)
		delete(h.queued, index)
		h.reaper.add(index, name, seen[name])
	}
	h.swept = len(errs) == 0 // what could not be removed, nobody else remembers
	return errors.Join(errs...)
}

// seen are devices of which somebody would notice that they are still there: the
// interfaces of namespaces that stay, and what a virtual machine holds.
func (h *Host) seen(want model.Desired) map[string]bool {
	out := map[string]bool{}
	for name := range h.taps {
		out[name] = true
	}
	for _, c := range h.comps {
		for port := range c.vnics {
			out[port] = c.foreign
		}
	}
	for c := range want.AllCompartments() {
		if c := h.comps[c.ID]; c != nil {
			for port := range c.vnics {
				out[port] = true
			}
		}
	}
	return out
}

// Leaving is closed when what the last Prune took from namespaces that stay, or from
// a virtual machine, is gone from there; nil where there was no such thing.
func (h *Host) Leaving() <-chan struct{} { return h.reaper.leaving() }

// exactly reports that want is what we have, no more: the usual case after a
// create, found without building anything.
func (h *Host) exactly(want model.Desired) bool {
	if len(want.HostNICs) != len(h.nics) || len(want.Tunnels) != len(h.tunnels) || len(want.Taps) != len(h.taps) {
		return false
	}
	for i := range want.HostNICs {
		if h.nics[want.HostNICs[i].Name] == nil {
			return false
		}
	}
	for i := range want.Tunnels {
		if h.tunnels[want.Tunnels[i].Name] == nil {
			return false
		}
	}
	for i := range want.Taps {
		if h.taps[want.Taps[i].Name] == nil {
			return false
		}
	}
	comps := len(want.Compartments)
	ports, exact := h.exactEnds(want.Compartments)
	for k, part := range want.CompartmentParts {
		comps += len(part)
		if k >= len(h.kept) || !h.kept[k].holds(part) {
			return false
		}
		kept := h.kept[k]
		if kept.ends < 0 {
			n, is := h.exactEnds(part)
			if !is {
				return false
			}
			kept.ends = n
		}
		ports += kept.ends
	}
	for _, s := range h.shaped {
		if s.egress != 0 {
			ports += 2
		}
	}
	return exact && comps == len(h.comps) && len(h.devices) == ports+len(h.tunnels)+len(h.taps)+2*len(h.nics)+2 // and the anchor's two
}

// exactEnds counts the ends in the host's namespace of compartments' vNICs; exact:
// they have no other vNIC of ours.
func (h *Host) exactEnds(list []model.Compartment) (ends int, exact bool) {
	for i := range list {
		c := &list[i]
		rec := h.comps[c.ID]
		if rec == nil || rec.path != c.Path || len(rec.vnics) > len(c.VNICs) {
			return 0, false
		}
		for j := range c.VNICs {
			for _, end := range endsOf(&c.VNICs[j]) {
				if _, there := h.devices[end]; there {
					ends++
				}
			}
		}
	}
	return ends, true
}

// endsOf a vNIC's pair that are in the host's namespace.
func endsOf(v *model.VNIC) []string {
	if v.Host {
		return []string{v.PortName, v.Name}
	}
	return []string{v.PortName}
}

func wantedDevices(want model.Desired) map[string]bool {
	keep := make(map[string]bool, 2+2*len(want.HostNICs)+len(want.Compartments))
	for i := range want.HostNICs {
		keep[want.HostNICs[i].Name], keep[want.HostNICs[i].SwitchName] = true, true
	}
	for i := range want.Tunnels {
		keep[want.Tunnels[i].Name] = true
	}
	for i := range want.Taps {
		keep[want.Taps[i].Name] = true
	}
	for c := range want.AllCompartments() {
		for j := range c.VNICs {
			for _, end := range endsOf(&c.VNICs[j]) {
				keep[end] = true
			}
		}
	}
	for p := range want.Switch.Limited() {
		if p.EgressBps != 0 {
			keep[p.Shaper], keep[p.ShaperPeer] = true, true
		}
	}
	return keep
}

func (h *Host) pruneNamespaces(ctx context.Context, want model.Desired) error {
	ids := make(map[string]bool, len(want.Compartments))
	paths := make(map[string]bool, len(want.Compartments))
	for c := range want.AllCompartments() {
		ids[c.ID] = true
		paths[filepath.Clean(c.Path)] = true
	}
	var drop []string
	if !h.swept { // an earlier life may have left some
		found, err := namespacesIn(h.dir())
		if err != nil {
			return err
		}
		drop = found
	}
	for id, c := range h.comps {
		if !ids[id] && !c.foreign {
			drop = append(drop, c.path)
		}
	}
	var errs []error
	for _, path := range drop {
		if paths[filepath.Clean(path)] {
			continue
		}
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if err := dropNamespace(path); err != nil {
			errs = append(errs, err)
		}
	}
	for id, c := range h.comps {
		if !ids[id] {
			if c.foreign && !paths[filepath.Clean(c.path)] {
				if err := h.dropRedirects(c); err != nil {
					errs = append(errs, err)
				}
			}
			delete(h.comps, id)
			delete(h.foreign, id)
		} else if !c.foreign && !paths[filepath.Clean(c.path)] {
			c.broken, h.kept = true, nil
		}
	}
	return errors.Join(errs...)
}
