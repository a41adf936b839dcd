// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// TestOneOwner holds random switches against a rule that Diff lives by: no row
// belongs to two objects, or it would go with the first of them. Diff knows that a
// port may be kept free for two.
func TestOneOwner(t *testing.T) {
	l := newLab(t)
	for seed := range env("GATEHOUSE_EXPLAIN_SCENES", 200) {
		l.in(func() {
			r := rand.New(rand.NewPCG(seed, 7))
			s, err := l.newScene(r)
			for range 10 {
				if err != nil {
					t.Error(err)
					return
				}
				rows := map[string]bool{}
				for row := range strings.Lines(s.tables.String()) {
					if rows[row] && !strings.HasPrefix(row, "portbusy ") {
						t.Errorf("scene %d: twice: %s", seed, row)
					}
					rows[row] = true
				}
				err = s.change(r)
			}
		})
	}
}
