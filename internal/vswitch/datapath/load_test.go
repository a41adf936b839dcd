// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import "testing"

// BenchmarkOpen is what a start of the daemon costs, verifier included.
func BenchmarkOpen(b *testing.B) {
	l := newLab(b)
	l.o.Log = nil
	for b.Loop() {
		l.open().Close()
	}
}
