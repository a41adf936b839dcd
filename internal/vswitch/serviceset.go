// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import "maps"

// serviceChunks is how many parts a set of services has: of 10 000, one with 40
// is cloned and compared for a change.
const serviceChunks = 256

// serviceSet is the blocks of all services by number. Sets share the chunks in
// which they do not differ.
type serviceSet [serviceChunks]*serviceChunk

type serviceChunk struct{ blocks map[ServiceID]*block }

func (s *serviceSet) get(id ServiceID) *block {
	if s == nil || s[id%serviceChunks] == nil {
		return nil
	}
	return s[id%serviceChunks].blocks[id]
}

func (s *serviceSet) all(yield func(*block) bool) bool {
	if s == nil {
		return true
	}
	for _, c := range s {
		if c != nil && !each(c.blocks, yield) {
			return false
		}
	}
	return true
}

// pairServices calls f for each service that the two sets do not share.
func pairServices(old, new *serviceSet, f func(a, b *block)) {
	if old == new {
		return
	}
	blocks := func(s *serviceSet, i int) map[ServiceID]*block {
		if s == nil || s[i] == nil {
			return nil
		}
		return s[i].blocks
	}
	for i := range serviceChunks {
		if old == nil || new == nil || old[i] != new[i] {
			pair(blocks(old, i), blocks(new, i), f)
		}
	}
}

// serviceWriter changes the services of Tables that are being made; the chunks
// they came with belong to Tables handed out.
type serviceWriter struct {
	t   *Tables
	own [serviceChunks]bool
	any bool
}

func (w *serviceWriter) put(id ServiceID, b *block) {
	if !w.any {
		set := serviceSet{}
		if w.t.services != nil {
			set = *w.t.services
		}
		w.t.services, w.any = &set, true
	}
	i := id % serviceChunks
	if !w.own[i] {
		c := &serviceChunk{blocks: map[ServiceID]*block{}}
		if old := w.t.services[i]; old != nil {
			c.blocks = maps.Clone(old.blocks)
		}
		w.t.services[i], w.own[i] = c, true
	}
	if b == nil {
		delete(w.t.services[i].blocks, id)
	} else {
		w.t.services[i].blocks[id] = b
	}
}
