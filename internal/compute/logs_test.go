// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/hcs"
)

func lines(from, to int) string {
	var b strings.Builder
	for i := from; i <= to; i++ {
		fmt.Fprintf(&b, "2026-01-02T03:04:%02dZ stdout F line %d\n", i%60, i)
	}
	return b.String()
}

func collect(t *testing.T, d *daemon, o hcs.LogOptions) (out []string) {
	t.Helper()
	seq, err := d.Logs(background(t), "web", o)
	if err != nil {
		t.Fatal(err)
	}
	for l, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(l.Bytes()))
	}
	return out
}

func TestLogs(t *testing.T) {
	d := newHost(t).daemon()
	d.create("web", annotated(hcs.AnnotationKeep), true)
	path := d.host.worker(d, "web").spec.LogPath
	write := func(name, text string) {
		t.Helper()
		f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	if got := collect(t, d, hcs.LogOptions{}); len(got) != 0 {
		t.Errorf("no log: %v", got)
	}
	write(path+".1", lines(1, 5))
	write(path, lines(6, 8)+"2026-01-02T03:05:00Z stderr P par\n2026-01-02T03:05:00Z stderr F tial\nnot a line of ours\n2026-01-02T03:05:01Z stdout F cut sho")
	tail := func(n int) *int { return &n }
	at := func(s int) time.Time { return time.Date(2026, 1, 2, 3, 4, s, 0, time.UTC) }
	for name, c := range map[string]struct {
		o    hcs.LogOptions
		want string
	}{
		"all":    {hcs.LogOptions{}, "line 1|line 2|line 3|line 4|line 5|line 6|line 7|line 8|par|tial"},
		"tail":   {hcs.LogOptions{Tail: tail(2)}, "line 8|par|tial"},
		"none":   {hcs.LogOptions{Tail: tail(0)}, ""},
		"stderr": {hcs.LogOptions{Stderr: true}, "par|tial"},
		"since":  {hcs.LogOptions{Since: at(7)}, "line 7|line 8|par|tial"},
		"until":  {hcs.LogOptions{Until: at(2)}, "line 1|line 2"},
		"both":   {hcs.LogOptions{Since: at(3), Until: at(9), Stdout: true, Tail: tail(1)}, "line 8"},
	} {
		if got := strings.Join(collect(t, d, c.o), "|"); got != c.want {
			t.Errorf("%s: got %s", name, got)
		}
	}
}

func TestLogsFollowThroughATurn(t *testing.T) {
	d := newHost(t).daemon()
	d.create("web", annotated(hcs.AnnotationKeep), true)
	w := d.host.worker(d, "web")
	path := w.spec.LogPath
	got := make(chan []string)
	go func() { got <- collect(t, d, hcs.LogOptions{Follow: true}) }()
	for _, part := range []string{lines(1, 3), lines(4, 6) + "2026-01-02T03:05:00Z stdout F ha", "lf\n"} {
		time.Sleep(30 * time.Millisecond)
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		f.WriteString(part)
		f.Close()
	}
	time.Sleep(2 * logPoll)
	f, _ := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0o600)
	f.WriteString(lines(7, 7))
	f.Close()
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(lines(8, 9)), 0o600); err != nil {
		t.Fatal(err)
	}
	w.exit(0)
	want := "line 1|line 2|line 3|line 4|line 5|line 6|half|line 7|line 8|line 9"
	if g := strings.Join(<-got, "|"); g != want {
		t.Errorf("got %s", g)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Logs(ctx, "none", hcs.LogOptions{}); !hcs.IsNotExist(err) {
		t.Errorf("no system: %v", err)
	}
}
