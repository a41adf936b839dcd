// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package trace

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSession: what is opened on the file system is told once, and nothing else.
func TestSession(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: fanotify")
	}
	base := t.TempDir()
	lower, at := filepath.Join(base, "lower"), filepath.Join(base, "at")
	for _, d := range []string{lower, at, filepath.Join(base, "u"), filepath.Join(base, "w")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"a", "b", "c"} {
		if err := os.WriteFile(filepath.Join(lower, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("overlay", at, "overlay", 0, "lowerdir="+lower+",upperdir="+base+"/u,workdir="+base+"/w"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Errorf("something of the file system is held: %v", err)
		}
	}()
	s, err := Start(at)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	read := func(dir, name string) {
		t.Helper()
		if _, err := os.ReadFile(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	read(at, "a")
	read(at, "a")
	read(lower, "c") // another file system
	read(at, "b")
	ctx, cancel := context.WithCancel(t.Context())
	var got []string
	for len(got) < 2 {
		more, err := s.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, more...)
	}
	if want := []string{filepath.Join(at, "a"), filepath.Join(at, "b")}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	// What was opened before the end is told after it.
	read(at, "c")
	cancel()
	if got, err := s.Next(ctx); err != nil || !slices.Equal(got, []string{filepath.Join(at, "c")}) {
		t.Errorf("%v %v", got, err)
	}
	if _, err := s.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
	// Somebody waiting is woken.
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waited: %v", err)
	}
}

func FuzzPaths(f *testing.F) {
	f.Add(make([]byte, 48))
	f.Fuzz(func(t *testing.T, b []byte) {
		for i := 16; i+4 <= len(b); i++ { // no descriptor of this process
			b[i] |= 0x80
		}
		_, _ = (&Session{told: map[string]bool{}}).paths(b)
	})
}
