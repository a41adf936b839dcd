// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/images"
)

func TestPsTable(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	code := uint32(137)
	var b bytes.Buffer
	psTable([]hcs.Properties{
		{Id: "web", Image: "docker.io/library/nginx:1", Command: []string{"nginx", "-g", "daemon off; and a rather long rest"}, State: hcs.StateRunning,
			CreateTime: now.Add(-5 * time.Minute), StartTime: now.Add(-3 * time.Minute), RuntimeId: "r1", HostProcessId: 42, Owner: "uid:0"},
		{Id: "db", Image: "docker.io/gatehouse/hello:latest", State: hcs.StatePaused, CreateTime: now.Add(-time.Hour), StartTime: now.Add(-time.Hour)},
		{Id: "old", State: hcs.StateStopped, CreateTime: now.Add(-48 * time.Hour), StopTime: now.Add(-24 * time.Hour), ExitStatus: &hcs.SystemExitStatus{InitExitCode: &code, Reason: "oom"}},
	}, testGraph(), now).write(&b, false)
	got := b.String()
	for _, s := range []string{"Up 3 minutes ", "8080->80/tcp, [::1]:53->53/udp", "10.88.0.2,fd12::2", "Up about an hour (Paused)", "Exited (137) out of memory, 24 hours ago", "nginx -g daemon off; an…", "gatehouse/hello:latest"} {
		if !strings.Contains(got, s) {
			t.Errorf("no %q in\n%s", s, got)
		}
	}
	if strings.Contains(got, "r1") {
		t.Errorf("the narrow table has wide columns:\n%s", got)
	}
}

func TestLogPrinter(t *testing.T) {
	var out, errs bytes.Buffer
	p := logPrinter{out: &out, err: &errs, stamps: true}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for _, r := range []hcs.LogRecord{
		{Time: at, Stream: "stdout", Text: "long ", Partial: true},
		{Time: at, Stream: "stderr", Text: "oops"},
		{Time: at, Stream: "stdout", Text: "line"},
		{Time: at, Stream: "stdout", Raw: []byte{0xff}},
	} {
		if err := p.print(r); err != nil {
			t.Fatal(err)
		}
	}
	const stamp = "2026-01-02T03:04:05.000000006Z "
	if want := stamp + "long line\n" + stamp + "\xff\n"; out.String() != want {
		t.Errorf("stdout %q, want %q", out.String(), want)
	}
	if want := stamp + "oops\n"; errs.String() != want {
		t.Errorf("stderr %q, want %q", errs.String(), want)
	}
}

func TestMoment(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for s, want := range map[string]time.Time{
		"": {}, "10m": now.Add(-10 * time.Minute), "2026-01-01T00:00:00Z": time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), "1767323045": now,
	} {
		if got, err := moment(s, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v; want %v", s, got, err, want)
		}
	}
	if _, err := moment("yesterday", now); err == nil {
		t.Error("yesterday: no error")
	}
}

func TestEventFilter(t *testing.T) {
	f, err := parseFilters([]string{"kind=system", "id=web", "id=db"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		e    event
		want bool
	}{
		{event{Kind: "systems", ID: "web"}, true},
		{event{Kind: "systems", ID: "db"}, true},
		{event{Kind: "systems", ID: "x"}, false},
		{event{Kind: "networks", ID: "web"}, false},
	} {
		if got := f.match(tt.e); got != tt.want {
			t.Errorf("%+v: %v", tt.e, got)
		}
	}
	for _, bad := range []string{"x", "x=y", "id="} {
		if _, err := parseFilters([]string{bad}); err == nil {
			t.Errorf("filter %q: no error", bad)
		}
	}
	if got := eventText(event{Kind: "systems", Name: "SystemExited", ID: "web", Data: json.RawMessage(`{"ExitType":"GracefulExit","InitExitCode":3}`)}); !strings.Contains(got, "web (exit=3, GracefulExit)") {
		t.Errorf("event text %q", got)
	}
}

func TestProgressLines(t *testing.T) {
	var b bytes.Buffer
	p := &bars{w: &b, last: map[string]images.Progress{}}
	for i := range 3 {
		p.line(images.Progress{ID: "sha256:0123456789abcdef", Status: images.StatusDownloading, Current: int64(i) * 10, Total: 2_000_000})
	}
	p.line(images.Progress{ID: "sha256:0123456789abcdef", Status: images.StatusComplete})
	p.line(images.Progress{Status: images.StatusDone})
	if want := "0123456789ab: downloading 2MB\n0123456789ab: complete\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
	for _, w := range []int{0, 20, 40, 80, 200} {
		if s := barProgress(images.Progress{ID: "sha256:0123456789abcdef", Status: images.StatusUnpacking, Current: 5, Total: 10}, w); len(s) > w {
			t.Errorf("width %d: %d columns", w, len(s))
		}
	}
}

// Every command has help, takes -o where it lists, and refuses what it does not
// know with one line and code 2.
func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--help"}, 0, ""},
		{[]string{"run", "--help"}, 0, ""},
		{[]string{"frobnicate"}, 2, "unknown command"},
		{[]string{"network", "frobnicate"}, 2, "unknown command"},
		{[]string{"network"}, 2, "needs a verb"},
		{[]string{"ps", "--no-such-flag"}, 2, "unknown flag"},
		{[]string{"ps", "word"}, 2, "takes no words"},
		{[]string{"run"}, 2, "takes an image"},
		{[]string{"exec", "c"}, 2, "takes a name and a command"},
		{[]string{"logs", "--tail", "x", "c"}, 2, "--tail"},
		{[]string{"kill", "-s", "NOPE", "c"}, 2, "NOPE"},
		{[]string{"completion", "tcsh"}, 2, "tcsh"},
		{[]string{"completion", "bash"}, 0, ""},
		{[]string{"hcn", "list", "things"}, 2, "kind"},
		{[]string{"hcs", "get"}, 2, "needs an ID"},
		{[]string{"network", "create", "x", "--type", "warp"}, 1, "type"},
		{[]string{"network", "create", "x", "--subnet", "10.0.0.0/33"}, 1, "10.0.0.0/33"},
		{[]string{"run", "--memory", "lots", "i"}, 125, "lots"},
		{[]string{"run", "--name", "no spaces", "i"}, 125, "name"},
		{[]string{"ps"}, 1, "no daemon answers on /nonexistent/run/gatehouse.sock; start one with: gatehouse serve"},
		{[]string{"run", "i"}, 125, "no daemon answers"},
		{[]string{"exec", "c", "x"}, 1, "no daemon answers"},
		{[]string{"image", "ls"}, 1, "no daemon answers"},
		{[]string{"network", "ls"}, 1, "no daemon answers"},
		{[]string{"flows"}, 1, "no daemon answers"},
	} {
		var out, errs bytes.Buffer
		a := &app{in: devNull(t), out: &out, err: &errs}
		t.Setenv("GATEHOUSE_SOCKET", "")
		code := a.main(context.Background(), append([]string{"--root", "/nonexistent"}, tt.args...))
		if code != tt.code || !strings.Contains(errs.String(), tt.want) {
			t.Errorf("%v: exit %d, stderr %q; want %d, %q", tt.args, code, errs.String(), tt.code, tt.want)
		}
		if n := strings.Count(strings.TrimSpace(errs.String()), "\n"); n > 0 {
			t.Errorf("%v: error of %d lines:\n%s", tt.args, n+1, errs.String())
		}
	}
}

func TestErrorLine(t *testing.T) {
	a := &app{}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{&hcs.Error{Code: hcs.CodeSystemNotFound, Message: "system \"x\" not found"}, `system "x" not found`},
		{fmt.Errorf("a\n  b\n"), "a; b"},
		{errors.Join(errors.New("a"), errors.New("b")), "a; b"},
		{&exit{code: 3}, ""},
		{nil, ""},
	} {
		if got := a.line(tt.err); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.err, got, tt.want)
		}
	}
}

func devNull(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
