// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package worker

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func FuzzDecode(f *testing.F) {
	msg := func(s string) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...)
	}
	f.Add(msg(`{"V":1,"Method":"hello"}`))
	f.Add(msg(`{"V":1,"Method":"attach","Params":{"Process":"init","Early":"AAA="}}`))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 9, '{'})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r request
		if err := decode(bytes.NewReader(b), &r); err != nil {
			return
		}
		_, _ = params[execParams](r.Params)
		_, _ = params[processParams](r.Params)
		_, _ = params[attachParams](r.Params)
	})
}

func FuzzJournal(f *testing.F) {
	f.Add([]byte(`{"Seq":1,"Time":"2026-01-02T03:04:05Z","What":"created","PID":7}` + "\n"))
	f.Add([]byte(`{"Seq":2,"What":"exited","Status":{"ExitCode":3},"Exit":{"Status":0}}` + "\n" + `{"Seq":3,"Wh`))
	f.Fuzz(func(t *testing.T, b []byte) {
		es, _ := parseJournal(bytes.NewReader(b))
		for _, e := range es {
			if e.Seq == 0 || e.What == "" {
				t.Errorf("entry %+v of %q", e, b)
			}
		}
	})
}

// A journal cut short anywhere gives the whole entries before the cut.
func TestJournalCut(t *testing.T) {
	dir := t.TempDir()
	j, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := j.add(JournalEntry{What: WhatPaused}); err != nil {
			t.Fatal(err)
		}
	}
	j.close()
	b, err := os.ReadFile(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(b) + 1 {
		es, err := parseJournal(bytes.NewReader(b[:n]))
		whole := bytes.Count(b[:n], []byte{'\n'})
		// The last line may be whole but for its end.
		if err != nil || (len(es) != whole && len(es) != whole+1) {
			t.Fatalf("cut at %d: %d entries, %v; want %d", n, len(es), err, whole)
		}
	}
}

func TestJournalCompacts(t *testing.T) {
	j, err := openJournal(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer j.close()
	_ = j.add(JournalEntry{What: WhatStarted})
	for range journalKeep + 1 {
		_ = j.add(JournalEntry{What: WhatProcessCreated, Process: "p1"})
		_ = j.add(JournalEntry{What: WhatProcessExited, Process: "p1"})
	}
	es, err := ReadJournal(filepath.Dir(j.path))
	if err != nil {
		t.Fatal(err)
	}
	mem, _, _ := j.after(0)
	if len(es) > 2*journalKeep || len(es) != len(mem) || es[0].What != WhatStarted || es[len(es)-1].Seq != j.seq {
		t.Errorf("%d entries in the file, %d in memory, first %+v, last %+v of %d", len(es), len(mem), es[0], es[len(es)-1], j.seq)
	}
}

func TestLogLines(t *testing.T) {
	p := filepath.Join(t.TempDir(), "log")
	l, err := openLog(p, 0)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	l.write("stdout", []byte("a\nb"), now)
	l.write("stderr", []byte("x\n\n"), now)
	l.write("stdout", []byte("c\n"), now)
	l.write("stdout", []byte(strings.Repeat("y", maxLogText+3)+"\nend"), now)
	l.end("stdout", now)
	l.close()
	b, _ := os.ReadFile(p)
	const at = "2026-01-02T03:04:05.000006Z "
	want := at + "stdout F a\n" + at + "stderr F x\n" + at + "stderr F \n" + at + "stdout F bc\n" +
		at + "stdout P " + strings.Repeat("y", maxLogText) + "\n" + at + "stdout F yyy\n" + at + "stdout P end\n"
	if string(b) != want {
		t.Errorf("got\n%s\nwant\n%s", b, want)
	}
}

// A full disk loses lines, never halves of them, and comes back.
func TestLogFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("requires root: it mounts a small tmpfs")
	}
	dir := t.TempDir()
	if err := mountTmpfs(dir, "size=64k"); err != nil {
		t.Skip(err)
	}
	defer unmount(t, dir)
	l, err := openLog(filepath.Join(dir, "log"), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	line := []byte(strings.Repeat("z", 1000) + "\n")
	for range 200 {
		l.write("stdout", line, time.Now())
	}
	if l.dropped == 0 {
		t.Error("nothing was dropped")
	}
	b, _ := os.ReadFile(l.path)
	for i, s := range strings.Split(strings.TrimSuffix(string(b), "\n"), "\n") {
		if !strings.HasSuffix(s, "z") || len(s) < 1000 {
			t.Fatalf("line %d: %q", i, s)
		}
	}
	if err := os.Truncate(l.path, 0); err != nil {
		t.Fatal(err)
	}
	l.size = 0
	l.write("stdout", []byte("back\n"), time.Now())
	if b, _ := os.ReadFile(l.path); !strings.HasSuffix(string(b), "F back\n") {
		t.Errorf("after room was made: %q", b)
	}
}
