// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package store is one bbolt database behind typed buckets, a store-wide revision
// and a bounded ring of events written in the same transaction as the state they
// report. It knows bytes, versions and JSON; it knows none of our nouns.
//
//	meta/      revision, schema
//	events/    <revision, 8 bytes big endian><n> -> Event
//	<bucket>/  <key> -> JSON
package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// Version of the layout this code reads and writes.
const Version = 1

// MaxEvents is how many events are kept; an older revision answers ErrTooOld.
// Our choice: some minutes of heavy churn, about 8 MiB.
const MaxEvents = 16384

var (
	// ErrLocked: another process holds the database.
	ErrLocked = errors.New("store is in use by another process")
	// ErrNotFound: no such key.
	ErrNotFound = errors.New("not found")
	// ErrTooOld: events since that revision are no longer kept; list again.
	ErrTooOld = errors.New("revision too old")
	// ErrVersion: written by a newer gatehouse.
	ErrVersion = errors.New("store was written by a newer version")
)

var (
	metaBucket  = []byte("meta")
	eventBucket = []byte("events")
	revKey      = []byte("revision")
	versionKey  = []byte("version")
)

// Event is one fact, ordered by Revision. Data is a document or null.
type Event struct {
	Revision uint64
	Time     time.Time
	Type     uint32
	Name     string
	Kind     string // collection: networks, endpoints, systems, processes …
	ID       string
	Flags    uint32
	Status   int64
	Data     json.RawMessage `json:",omitempty"`
}

// DB is an open store. Safe for concurrent use.
type DB struct {
	bolt *bolt.DB

	mu   sync.Mutex    // guards wake
	wake chan struct{} // closed and replaced after every commit that appended events
}

// Open opens or creates the database at path. It waits at most 100 ms for the
// file lock, then fails with ErrLocked.
func Open(path string) (*DB, error) { return open(path, false) }

// OpenReadOnly opens an existing database for inspection while no daemon runs.
func OpenReadOnly(path string) (*DB, error) { return open(path, true) }

func open(path string, readOnly bool) (*DB, error) {
	if readOnly {
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
	} else if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	b, err := bolt.Open(path, fs.FileMode(0o600), &bolt.Options{
		Timeout:        100 * time.Millisecond,
		FreelistType:   bolt.FreelistMapType,
		NoFreelistSync: true,
		ReadOnly:       readOnly,
	})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("open store %s: %w", path, ErrLocked)
	}
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	db := &DB{bolt: b, wake: make(chan struct{})}
	if readOnly {
		return db, nil
	}
	err = b.Update(func(tx *bolt.Tx) error {
		m, err := tx.CreateBucketIfNotExists(metaBucket)
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucketIfNotExists(eventBucket); err != nil {
			return err
		}
		if v := m.Get(versionKey); v != nil && binary.BigEndian.Uint64(v) > Version {
			return fmt.Errorf("%w: have %d, know up to %d", ErrVersion, binary.BigEndian.Uint64(v), Version)
		}
		return m.Put(versionKey, be64(Version))
	})
	if err != nil {
		b.Close()
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	return db, nil
}

// Close waits for open transactions.
func (db *DB) Close() error { return db.bolt.Close() }

// Tx is one transaction. Revision is the one this transaction will have when it
// commits (Update), or the newest committed one (View).
type Tx struct {
	tx       *bolt.Tx
	revision uint64
	events   int
}

// Revision as documented on Tx.
func (tx *Tx) Revision() uint64 { return tx.revision }

// Update runs fn in a read-write transaction and makes it durable. Any error
// rolls everything back. It returns the revision of the commit.
func (db *DB) Update(fn func(*Tx) error) (uint64, error) {
	var t *Tx
	err := db.bolt.Update(func(btx *bolt.Tx) error {
		t = &Tx{tx: btx, revision: readRevision(btx) + 1}
		if err := fn(t); err != nil {
			return err
		}
		return btx.Bucket(metaBucket).Put(revKey, be64(t.revision))
	})
	if err != nil {
		return 0, err
	}
	if t.events > 0 {
		db.mu.Lock()
		close(db.wake)
		db.wake = make(chan struct{})
		db.mu.Unlock()
	}
	return t.revision, nil
}

// View runs fn on a consistent snapshot.
func (db *DB) View(fn func(*Tx) error) error {
	return db.bolt.View(func(btx *bolt.Tx) error {
		return fn(&Tx{tx: btx, revision: readRevision(btx)})
	})
}

// Revision of the newest commit.
func (db *DB) Revision() (rev uint64) {
	_ = db.View(func(tx *Tx) error { rev = tx.revision; return nil })
	return rev
}

func readRevision(tx *bolt.Tx) uint64 {
	if m := tx.Bucket(metaBucket); m != nil {
		if v := m.Get(revKey); v != nil {
			return binary.BigEndian.Uint64(v)
		}
	}
	return 0
}

// encode is json.Marshal that leaves <, > and & in raw messages as they are:
// documents hold members that clients compare byte for byte.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func be64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

// Append adds an event to this transaction; Revision and, if zero, Time are set.
func (tx *Tx) Append(e Event) error {
	e.Revision = tx.revision
	if e.Time.IsZero() {
		e.Time = time.Now().UTC()
	}
	v, err := encode(e)
	if err != nil {
		return fmt.Errorf("event %s: %w", e.Name, err)
	}
	b := tx.tx.Bucket(eventBucket)
	seq, err := b.NextSequence()
	if err != nil {
		return err
	}
	if err := b.Put(binary.BigEndian.AppendUint64(be64(tx.revision), seq), v); err != nil {
		return err
	}
	tx.events++
	if seq > MaxEvents {
		if k, _ := b.Cursor().First(); k != nil {
			return b.Delete(k)
		}
	}
	return nil
}

// Events returns those with a revision above since, oldest first, and a channel
// that closes when there may be more.
func (db *DB) Events(since uint64) ([]Event, <-chan struct{}, error) {
	db.mu.Lock()
	wake := db.wake
	db.mu.Unlock()
	var out []Event
	err := db.View(func(tx *Tx) error {
		b := tx.tx.Bucket(eventBucket)
		c := b.Cursor()
		if k, _ := c.First(); k != nil && since > 0 && b.Sequence() > MaxEvents &&
			binary.BigEndian.Uint64(k) > since+1 {
			return fmt.Errorf("events since %d: %w", since, ErrTooOld)
		}
		for k, v := c.Seek(be64(since + 1)); k != nil; k, v = c.Next() {
			var e Event
			if err := json.Unmarshal(v, &e); err != nil {
				return fmt.Errorf("event %x: %w", k, err)
			}
			out = append(out, e)
		}
		return nil
	})
	return out, wake, err
}

// Bucket is a typed collection of JSON values under string keys.
type Bucket[T any] struct{ Name string }

// Get decodes the value at key or fails with ErrNotFound.
func (b Bucket[T]) Get(tx *Tx, key string) (T, error) {
	var v T
	bb := tx.tx.Bucket([]byte(b.Name))
	if bb == nil {
		return v, fmt.Errorf("%s %q: %w", b.Name, key, ErrNotFound)
	}
	raw := bb.Get([]byte(key))
	if raw == nil {
		return v, fmt.Errorf("%s %q: %w", b.Name, key, ErrNotFound)
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return v, fmt.Errorf("%s %q: %w", b.Name, key, err)
	}
	return v, nil
}

// Put writes the value at key.
func (b Bucket[T]) Put(tx *Tx, key string, v T) error {
	bb, err := tx.tx.CreateBucketIfNotExists([]byte(b.Name))
	if err != nil {
		return fmt.Errorf("%s: %w", b.Name, err)
	}
	raw, err := encode(v)
	if err != nil {
		return fmt.Errorf("%s %q: %w", b.Name, key, err)
	}
	return bb.Put([]byte(key), raw)
}

// Delete removes key; an absent key is no error.
func (b Bucket[T]) Delete(tx *Tx, key string) error {
	bb := tx.tx.Bucket([]byte(b.Name))
	if bb == nil {
		return nil
	}
	return bb.Delete([]byte(key))
}

// Each calls fn for every value in key order until it fails.
func (b Bucket[T]) Each(tx *Tx, fn func(key string, v T) error) error {
	bb := tx.tx.Bucket([]byte(b.Name))
	if bb == nil {
		return nil
	}
	return bb.ForEach(func(k, raw []byte) error {
		var v T
		if err := json.Unmarshal(raw, &v); err != nil {
			return fmt.Errorf("%s %q: %w", b.Name, k, err)
		}
		return fn(string(k), v)
	})
}
