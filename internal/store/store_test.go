// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package store

import (
	"errors"
	"path/filepath"
	"testing"
)

type row struct{ A int }

var rows = Bucket[row]{Name: "rows"}

func TestUpdateIsAllOrNothing(t *testing.T) {
	db, err := Open(filepath.Join(t.TempDir(), "s.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	boom := errors.New("boom")
	if _, err := db.Update(func(tx *Tx) error {
		if err := rows.Put(tx, "k", row{1}); err != nil {
			return err
		}
		if err := tx.Append(Event{Name: "X"}); err != nil {
			return err
		}
		return boom
	}); !errors.Is(err, boom) {
		t.Fatalf("got %v, want %v", err, boom)
	}
	if err := db.View(func(tx *Tx) error { _, err := rows.Get(tx, "k"); return err }); !errors.Is(err, ErrNotFound) {
		t.Fatalf("after rollback: got %v, want ErrNotFound", err)
	}
	if ev, _, _ := db.Events(0); len(ev) != 0 {
		t.Fatalf("after rollback: %d events", len(ev))
	}
	if db.Revision() != 0 {
		t.Fatalf("revision %d after rollback", db.Revision())
	}
}

func TestEventsSince(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	db, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	_, wake, _ := db.Events(0)
	for range 3 {
		if _, err := db.Update(func(tx *Tx) error {
			return errors.Join(tx.Append(Event{Name: "A"}), tx.Append(Event{Name: "B"}))
		}); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-wake:
	default:
		t.Fatal("no wake-up after an append")
	}
	db.Close()
	if db, err = Open(path); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ev, _, err := db.Events(1)
	if err != nil || len(ev) != 4 || ev[0].Revision != 2 || ev[3].Name != "B" {
		t.Fatalf("events since 1: %v %v", ev, err)
	}
}

func TestRingForgetsOldest(t *testing.T) {
	db, err := Open(filepath.Join(t.TempDir(), "s.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for range 3 {
		if _, err := db.Update(func(tx *Tx) error {
			for range MaxEvents/2 + 1 {
				if err := tx.Append(Event{Name: "A"}); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	ev, _, err := db.Events(0)
	if err != nil || len(ev) != MaxEvents {
		t.Fatalf("kept %d, err %v; want %d", len(ev), err, MaxEvents)
	}
	if _, _, err := db.Events(2); err != nil {
		t.Fatalf("since 2: %v", err)
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	db, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := Open(path); !errors.Is(err, ErrLocked) {
		t.Fatalf("got %v, want ErrLocked", err)
	}
}
