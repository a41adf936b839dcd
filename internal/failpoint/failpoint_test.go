// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

//go:build failpoint

package failpoint

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
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
	t.Setenv("GATEHOUSE_FAILPOINTS", "e=20%error;f=x%error")
	failed := 0
	for range 1000 {
		if Hit("e") != nil {
			failed++
		}
	}
	if failed < 120 || failed > 280 {
		t.Errorf("e: failed %d times in 1000, want about 200", failed)
	}
	if err := Hit("f"); err == nil || !strings.Contains(err.Error(), "percentage") {
		t.Errorf("f: %v", err)
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
