// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

//go:build failpoint

package failpoint

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestHit(t *testing.T) {
	t.Setenv("GATEHOUSE_FAILPOINTS", "a=error; b=sleep(20ms);c=2*error;d=nonsense")
	if err := Hit("a"); !errors.Is(err, Err) {
		t.Errorf("a: got %v, want Err", err)
	}
	start := time.Now()
	if err := Hit("b"); err != nil || time.Since(start) < 20*time.Millisecond {
		t.Errorf("b: %v after %v", err, time.Since(start))
	}
	var got []bool
	for range 4 {
		got = append(got, Hit("c") != nil)
	}
	if !got[0] || !got[1] || got[2] || got[3] {
		t.Errorf("c: failed %v, want the first two times", got)
	}
	if err := Hit("d"); err == nil {
		t.Error("d: an unknown action passes")
	}
	if err := Hit("other"); err != nil {
		t.Errorf("other: %v", err)
	}
	file := filepath.Join(t.TempDir(), "points")
	t.Setenv("GATEHOUSE_FAILPOINT_FILE", file)
	if err := os.WriteFile(file, []byte("other=error"), 0o600); err != nil {
		t.Fatal(err)
	}
	if Hit("other") == nil || Hit("a") != nil {
		t.Error("the file does not win")
	}
}
