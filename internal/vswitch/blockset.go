// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import "maps"

// setChunks is how many parts a blockSet has: of 10 000 blocks, one with 40 is cloned
// and compared for a change.
const setChunks = 256

// blockSet is the blocks of many objects by number. Sets share the chunks in which
// they do not differ.
type blockSet[K ~uint16 | ~uint32] [setChunks]*blockChunk[K]

type blockChunk[K comparable] struct{ blocks map[K]*block }

func (s *blockSet[K]) get(id K) *block {
	if s == nil || s[id%setChunks] == nil {
		return nil
	}
	return s[id%setChunks].blocks[id]
}

func (s *blockSet[K]) all(yield func(*block) bool) bool {
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

func (s *blockSet[K]) chunk(i int) map[K]*block {
	if s == nil || s[i] == nil {
		return nil
	}
	return s[i].blocks
}

// pairSets calls f for each object whose block the two sets do not share.
func pairSets[K ~uint16 | ~uint32](old, new *blockSet[K], f func(a, b *block)) {
	if old == new {
		return
	}
	for i := range setChunks {
		if old == nil || new == nil || old[i] != new[i] {
			pair(old.chunk(i), new.chunk(i), f)
		}
	}
}

// setWriter changes a set of Tables that are being made; the chunks it came with
// belong to Tables handed out.
type setWriter[K ~uint16 | ~uint32] struct {
	set *(*blockSet[K])
	own [setChunks]bool
	any bool
}

func (w *setWriter[K]) put(id K, b *block) {
	if !w.any {
		set := blockSet[K]{}
		if *w.set != nil {
			set = **w.set
		}
		*w.set, w.any = &set, true
	}
	set, i := *w.set, id%setChunks
	if !w.own[i] {
		c := &blockChunk[K]{blocks: map[K]*block{}}
		if old := set[i]; old != nil {
			c.blocks = maps.Clone(old.blocks)
		}
		set[i], w.own[i] = c, true
	}
	if b == nil {
		delete(set[i].blocks, id)
	} else {
		set[i].blocks[id] = b
	}
}
