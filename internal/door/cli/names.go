// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// Words of generated names: what one sees at a gate, and by the way.
const (
	adjectives = "able amber ample azure bold brave brisk bright calm clear clever cosy crisp deft early easy fair " +
		"fleet fond fresh gentle glad golden grand happy hardy honest jolly keen kind light lively lucky mellow merry " +
		"mild modest neat nimble noble plain polite proud quick quiet rapid ready robust rosy sage silver smart snug " +
		"solid spry steady still stout sturdy sunny swift tidy true vivid warm wise witty worthy zesty"
	nouns = "arch bailey barn beacon bell bolt bridge castle chain cloister coach corridor court door drawbridge ferry " +
		"gable garden gate gatekeeper hall harbour hinge inn keep key ladder lamp lantern latch lever lintel lock lodge " +
		"mews mill moat oriel passage path pier pillar plaza porch portal porter post quay rampart sentry shutter sill " +
		"spire stair stile threshold tollgate tower turnstile turret valley vault viaduct wall warden well wicket window"
)

// newName makes a name for a system that was given none. It is the host name
// inside too, so it must be one: an underscore is not.
func newName(r *rand.Rand) string {
	a, n := strings.Fields(adjectives), strings.Fields(nouns)
	return a[r.IntN(len(a))] + "-" + n[r.IntN(len(n))]
}

// checkName says what is wrong with a name, by the rule of compute systems.
func checkName(s string) error {
	ok := func(c byte) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
	}
	good := len(s) >= 1 && len(s) <= 128 && ok(s[0])
	for i := 0; good && i < len(s); i++ {
		good = ok(s[i]) || strings.IndexByte("_.@-", s[i]) >= 0
	}
	if !good {
		return fmt.Errorf("name %q: use 1 to 128 of A-Z a-z 0-9 _ . @ -, the first a letter or digit", s)
	}
	return nil
}
