// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import "slices"

// history is a list that grows at its end. Worlds that come from one share what it
// was, so adding costs the same however long it is.
type history[T any] struct{ last *moment[T] }

type moment[T any] struct {
	value  T
	before *moment[T]
}

func (h history[T]) add(v T) history[T] { return history[T]{&moment[T]{v, h.last}} }

// all in the order they were added.
func (h history[T]) all() []T {
	var out []T
	for m := h.last; m != nil; m = m.before {
		out = append(out, m.value)
	}
	slices.Reverse(out)
	return out
}
