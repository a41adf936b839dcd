// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package silo

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestExitCodeOf(t *testing.T) {
	for msg, want := range map[string]int{
		`exec: "nope": executable file not found in $PATH`:                                                   127,
		`runc run failed: unable to start container process: exec: "/x": stat /x: no such file or directory`: 127,
		`unable to start container process: exec: "/etc/passwd": permission denied`:                          126,
		`exec /x: exec format error`:                       126,
		`exec: "/etc": is a directory`:                     126,
		`mounting "/f" to rootfs at "/d": not a directory`: 127,
		`container with given ID already exists`:           125,
	} {
		if got := ExitCodeOf(msg); got != want {
			t.Errorf("ExitCodeOf(%q) = %d, want %d", msg, got, want)
		}
	}
}

func TestLastLog(t *testing.T) {
	p := filepath.Join(t.TempDir(), "log")
	log := `{"level":"warning","msg":"not this","time":"x"}
{"level":"error","msg":"first","time":"x"}
{"level":"error","msg":"two\nlines","time":"x"}
no json
{"level":"info","msg":"nor this"}
{"level":"err`
	if err := os.WriteFile(p, []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	msg, rec := lastLog(p)
	if msg != "two lines" || !strings.Contains(string(rec), `two\nlines`) {
		t.Errorf("got %q, %s", msg, rec)
	}
	if msg, rec := lastLog(p + "x"); msg != "" || rec != nil {
		t.Errorf("no log: %q, %s", msg, rec)
	}
}

func TestOverlayOptions(t *testing.T) {
	r := Root{Lower: []string{"/top", "/base"}, Upper: "/u", Work: "/w"}
	if o, short := overlayOptions(r); short || o != "lowerdir=/top:/base,upperdir=/u,workdir=/w,index=off" {
		t.Errorf("got %q, %v", o, short)
	}
	r.Lower[0] = "/with:colon"
	if o, short := overlayOptions(r); !short || o != "lowerdir=0:1,upperdir=u,workdir=w,index=off" {
		t.Errorf("punctuation: %q, %v", o, short)
	}
	// As many as overlayfs takes (OVL_MAX_STACK), under names of any length.
	r.Lower = slices.Repeat([]string{"/" + strings.Repeat("x", 200)}, 500)
	if o, short := overlayOptions(r); !short || len(o) > mountOptions {
		t.Errorf("500 layers: %d bytes, %v", len(o), short)
	}
}

func TestParseStat(t *testing.T) {
	const line = "42 (a ) name) S 1 42 42 0 -1 4194560 100 0 0 0 7 3 0 0 20 0 1 0 500 1000 10 18446744073709551615"
	boot := time.Unix(100, 0)
	d, ok := parseStat(line, boot)
	if !ok || d.ImageName != "a ) name" || d.UserTime100ns != 700_000 || d.KernelTime100ns != 300_000 || !d.CreateTimestamp.Equal(boot.Add(5*time.Second)) {
		t.Errorf("got %+v, %v", d, ok)
	}
	for _, s := range []string{"", "42", "42 (x", "42 (x) S 1", strings.Replace(line, " S ", " Z ", 1), ")("} {
		if _, ok := parseStat(s, boot); ok {
			t.Errorf("%q was taken", s)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("42 (a) S 1 42 42 0 -1 4194560 100 0 0 0 7 3 0 0 20 0 1 0 500 1000 10")
	f.Fuzz(func(t *testing.T, s string) { parseStat(s, time.Time{}) })
}
