// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package daemon

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestFollow: what fails is tried again by itself, soon and then seldom; what is
// well is left alone.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		changed, doubts := make(chan struct{}, 1), make(chan struct{}, 1)
		fail, doubt := 0, false
		var at []time.Duration
		start := time.Now()
		done := make(chan struct{})
		go func() {
			defer close(done)
			follow(changed, doubts, func() bool { return doubt }, func() error {
				at = append(at, time.Since(start))
				if fail > 0 {
					fail--
					return errors.New("once more")
				}
				doubt = false
				return nil
			})
		}()
		pass := func(d time.Duration) (calls []time.Duration) {
			time.Sleep(d)
			synctest.Wait()
			calls, at, start = at, nil, time.Now()
			return calls
		}
		if n := pass(time.Minute); len(n) != 0 {
			t.Errorf("called at %v for nothing", n)
		}
		fail, doubt = 10, true
		doubts <- struct{}{}
		got := pass(time.Minute)
		if doubt || len(got) != 11 || got[0] != 0 || got[1] != repairSoon || got[2] != 3*repairSoon || got[10]-got[9] != repairEvery {
			t.Errorf("while it failed ten times: called at %v, still in doubt: %v", got, doubt)
		}
		doubt = true // told to whoever changed something, who left it
		if n := pass(2 * repairEvery); len(n) != 1 {
			t.Errorf("needed, and called at %v", n)
		}
		changed <- struct{}{}
		if n := pass(time.Minute); len(n) != 1 || n[0] != 0 {
			t.Errorf("after a change: called at %v", n)
		}
		close(changed)
		<-done
	})
}
