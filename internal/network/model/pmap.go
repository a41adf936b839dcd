// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

// pmap is a persistent ordered map: a treap whose priorities follow from the key,
// so its shape depends on the content alone. set and del copy the path to the key
// and share the rest. The zero value is empty.
type pmap[V any] struct{ root *pnode[V] }

type pnode[V any] struct {
	key         string
	prio        uint64
	val         V
	size        int // of the tree below, this node included
	left, right *pnode[V]
}

func (n *pnode[V]) count() int {
	if n == nil {
		return 0
	}
	return n.size
}

func (n *pnode[V]) sum() *pnode[V] {
	n.size = 1 + n.left.count() + n.right.count()
	return n
}

// priority mixes the bytes of a key (FNV-1a and a finalizer): equal in every
// process, so that golden results do not depend on a seed.
func priority(k string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(k) {
		h = (h ^ uint64(k[i])) * 1099511628211
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	return h ^ h>>33
}

func (m pmap[V]) len() int { return m.root.count() }

// rank is how many keys are below k.
func (m pmap[V]) rank(k string) int {
	r := 0
	for n := m.root; n != nil; {
		if n.key < k {
			r += 1 + n.left.count()
			n = n.right
		} else {
			n = n.left
		}
	}
	return r
}

// at is the key of a rank, "" outside.
func (m pmap[V]) at(rank int) string {
	for n := m.root; n != nil; {
		switch l := n.left.count(); {
		case rank < l:
			n = n.left
		case rank > l:
			rank -= l + 1
			n = n.right
		default:
			return n.key
		}
	}
	return ""
}

func (m pmap[V]) get(k string) (v V, ok bool) {
	for n := m.root; n != nil; {
		switch {
		case k < n.key:
			n = n.left
		case k > n.key:
			n = n.right
		default:
			return n.val, true
		}
	}
	return v, false
}

func (m pmap[V]) has(k string) bool {
	_, ok := m.get(k)
	return ok
}

func (m pmap[V]) set(k string, v V) pmap[V] { return pmap[V]{insert(m.root, k, v)} }

func insert[V any](n *pnode[V], k string, v V) *pnode[V] {
	if n == nil {
		return &pnode[V]{key: k, prio: priority(k), val: v, size: 1}
	}
	c := *n
	switch {
	case k < n.key:
		c.left = insert(n.left, k, v)
		if l := c.left; l.prio > c.prio { // l is ours: insert made it
			c.left = l.right
			l.right = c.sum()
			return l.sum()
		}
	case k > n.key:
		c.right = insert(n.right, k, v)
		if r := c.right; r.prio > c.prio {
			c.right = r.left
			r.left = c.sum()
			return r.sum()
		}
	default:
		c.val = v
	}
	return c.sum()
}

func (m pmap[V]) del(k string) pmap[V] {
	if !m.has(k) {
		return m
	}
	return pmap[V]{remove(m.root, k)}
}

func remove[V any](n *pnode[V], k string) *pnode[V] {
	c := *n
	switch {
	case k < n.key:
		c.left = remove(n.left, k)
	case k > n.key:
		c.right = remove(n.right, k)
	default:
		return merge(n.left, n.right)
	}
	return c.sum()
}

func merge[V any](a, b *pnode[V]) *pnode[V] {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.prio > b.prio:
		c := *a
		c.right = merge(a.right, b)
		return c.sum()
	}
	c := *b
	c.left = merge(a, b.left)
	return c.sum()
}

// all yields in order of the keys.
func (m pmap[V]) all(yield func(string, V) bool) { walk(m.root, yield) }

func walk[V any](n *pnode[V], yield func(string, V) bool) bool {
	return n == nil || walk(n.left, yield) && yield(n.key, n.val) && walk(n.right, yield)
}

// prefixed yields the entries whose key begins with p, in order.
func (m pmap[V]) prefixed(p string) func(yield func(string, V) bool) {
	return func(yield func(string, V) bool) { walkPrefix(m.root, p, yield) }
}

func walkPrefix[V any](n *pnode[V], p string, yield func(string, V) bool) bool {
	if n == nil {
		return true
	}
	head := n.key
	if len(head) > len(p) {
		head = head[:len(p)]
	}
	switch {
	case head < p:
		return walkPrefix(n.right, p, yield)
	case head > p:
		return walkPrefix(n.left, p, yield)
	}
	return walkPrefix(n.left, p, yield) && yield(n.key, n.val) && walkPrefix(n.right, p, yield)
}
