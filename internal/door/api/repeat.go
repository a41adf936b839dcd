// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package api

import (
	"bytes"
	"net/http"
	"sync"
	"time"

	"gatehouse.dev/gatehouse/internal/resource"
)

// repeatAge is how long the answer to an Idempotency-Key is kept, spec hcn §7.2.
const repeatAge = 10 * time.Minute

// maxRepeats bounds the memory: our choice, some MiB of answers.
const maxRepeats = 4096

// repeats remembers the first answer to each key. The zero value is ready.
type repeats struct {
	mu   sync.Mutex // guards seen
	seen map[string]*repeat
}

type repeat struct {
	made time.Time
	done chan struct{} // closed when the answer is there
	rec  recorder
}

// serve runs next once for each key and caller and gives the same answer to
// every repetition; one that comes while the first still runs waits for it. A
// server's own failure (5xx) is forgotten, so that a retry is a retry.
func (p *repeats) serve(w http.ResponseWriter, r *http.Request, key string, next http.Handler) {
	id := resource.CallerFrom(r.Context()).Owner() + " " + r.URL.RequestURI() + " " + key
	p.mu.Lock()
	if p.seen == nil {
		p.seen = map[string]*repeat{}
	}
	now := time.Now()
	if len(p.seen) >= maxRepeats {
		p.forget(now)
	}
	e, again := p.seen[id]
	if again && now.Sub(e.made) > repeatAge {
		again = false
	}
	if !again {
		e = &repeat{made: now, done: make(chan struct{}), rec: recorder{header: http.Header{}}}
		p.seen[id] = e
	}
	p.mu.Unlock()

	if again {
		select {
		case <-e.done:
			e.rec.replay(w)
		case <-r.Context().Done():
		}
		return
	}
	defer func() {
		if e.rec.status == 0 || e.rec.status >= 500 {
			p.mu.Lock()
			delete(p.seen, id)
			p.mu.Unlock()
		}
		close(e.done)
	}()
	next.ServeHTTP(&e.rec, r)
	e.rec.replay(w)
}

// forget drops what is too old and, if that is not enough, everything finished.
func (p *repeats) forget(now time.Time) {
	for _, age := range []time.Duration{repeatAge, 0} {
		for k, e := range p.seen {
			select {
			case <-e.done:
				if now.Sub(e.made) > age {
					delete(p.seen, k)
				}
			default:
			}
		}
		if len(p.seen) < maxRepeats {
			return
		}
	}
}

// recorder keeps an answer instead of sending it.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (c *recorder) Header() http.Header { return c.header }

func (c *recorder) WriteHeader(status int) {
	if c.status == 0 {
		c.status = status
	}
}

func (c *recorder) Write(b []byte) (int, error) {
	c.WriteHeader(http.StatusOK)
	return c.body.Write(b)
}

func (c *recorder) replay(w http.ResponseWriter) {
	for k, v := range c.header {
		w.Header()[k] = v
	}
	if c.status == 0 {
		c.status = http.StatusInternalServerError
	}
	w.WriteHeader(c.status)
	_, _ = w.Write(c.body.Bytes())
}
