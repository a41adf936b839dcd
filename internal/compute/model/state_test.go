// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"testing"

	"gatehouse.dev/gatehouse/hcs"
)

// Every cell of the table of states and verbs.
func TestAllow(t *testing.T) {
	const (
		is = hcs.CodeInvalidState
		as = hcs.CodeSystemAlreadyStopped
		sn = hcs.CodeServiceNotAvailable
		nf = hcs.CodeSystemNotFound
	)
	type want struct {
		next hcs.State
		code hcs.Code
	}
	table := map[hcs.State][verbs]want{
		"":                       {{"", nf}, {"", nf}, {"", nf}, {"", nf}, {"", nf}, {"", nf}, {"", nf}, {"", nf}, {"", nf}},
		hcs.StateCreated:         {{"Running", 0}, {"", is}, {"", is}, {"", is}, {"", is}, {"Stopped", 0}, {"", 0}, {"", is}, {"", 0}},
		hcs.StateRunning:         {{"", is}, {"Paused", 0}, {"", is}, {"", is}, {"", 0}, {"Stopped", 0}, {"", 0}, {"", 0}, {"", 0}},
		hcs.StatePaused:          {{"", is}, {"", is}, {"Running", 0}, {"", 0}, {"", is}, {"Stopped", 0}, {"", 0}, {"", is}, {"", 0}},
		hcs.StateSavedAsTemplate: {{"", is}, {"", is}, {"", is}, {"", is}, {"", is}, {"Stopped", 0}, {"", is}, {"", is}, {"", 0}},
		hcs.StateStopped:         {{"", as}, {"", as}, {"", as}, {"", as}, {"", as}, {"", as}, {"", as}, {"", as}, {"", 0}},
		hcs.StateUnknown:         {{"", sn}, {"", sn}, {"", sn}, {"", sn}, {"", sn}, {"Stopped", 0}, {"", sn}, {"", sn}, {"", 0}},
	}
	for s, row := range table {
		for v, w := range row {
			if w.next == "" {
				w.next = s
			}
			next, code := Allow(s, Verb(v))
			if next != w.next || code != w.code {
				t.Errorf("%s in state %q: got %q %v, want %q %v", Verb(v), s, next, code, w.next, w.code)
			}
		}
	}
}
