// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"context"
	"io"
	"time"

	"gatehouse.dev/gatehouse/images"
)

// meteredReader counts, tells, and stops when its context ends.
type meteredReader struct {
	ctx context.Context
	r   io.Reader
	n   int64
	say func(int64)
}

func (m *meteredReader) Read(p []byte) (int, error) {
	if err := m.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := m.r.Read(p)
	m.n += int64(n)
	if m.say != nil {
		m.say(m.n)
	}
	return n, err
}

// progressEvery is how often a running transfer is reported: as often as a person
// sees it move.
const progressEvery = 100 * time.Millisecond

// every answers a function that reports p with a new Current, now and then.
func (r report) every(p images.Progress) func(current int64) {
	if r == nil {
		return nil
	}
	var last time.Time
	return func(n int64) {
		if now := time.Now(); now.Sub(last) >= progressEvery || n == p.Total {
			last = now
			p.Current = n
			r(p)
		}
	}
}
