// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	hostdoc "gatehouse.dev/gatehouse/internal/door/host"
	"gatehouse.dev/gatehouse/internal/pcap"
)

// watcher is a gatehouse command that goes on until it is told to end.
type watcher struct {
	t        *testing.T
	cmd      *exec.Cmd
	out, err string // files
}

// watch starts a command and waits until what it says on standard error, or on
// standard output, tells that it has begun.
func (h *host) watch(begun string, args ...string) *watcher {
	h.t.Helper()
	dir := h.t.TempDir()
	w := &watcher{t: h.t, out: filepath.Join(dir, "out"), err: filepath.Join(dir, "err")}
	w.cmd = exec.Command(h.bin, append([]string{"--root", h.root}, args...)...)
	out, err := os.Create(w.out)
	if err != nil {
		h.t.Fatal(err)
	}
	defer out.Close()
	errs, err := os.Create(w.err)
	if err != nil {
		h.t.Fatal(err)
	}
	defer errs.Close()
	w.cmd.Stdout, w.cmd.Stderr = out, errs
	if err := w.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = w.cmd.Process.Kill(); _ = w.cmd.Wait() })
	eventually(h.t, 10*time.Second, "begun: "+strings.Join(args, " "), func() bool { return strings.Contains(w.said(), begun) })
	return w
}

func read(file string) string {
	b, _ := os.ReadFile(file)
	return string(b)
}

func (w *watcher) said() string { return read(w.err) }

// end interrupts the command, as ctrl-c does, and returns its exit code.
func (w *watcher) end() int {
	w.t.Helper()
	_ = w.cmd.Process.Signal(syscall.SIGINT)
	return w.wait()
}

func (w *watcher) wait() int {
	w.t.Helper()
	done := make(chan struct{})
	go func() { _ = w.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		w.t.Fatalf("does not end: %s", w.said())
	}
	return w.cmd.ProcessState.ExitCode()
}

// packets reads a capture; each packet is a line of its direction, head and comment.
func packets(t *testing.T, file string) (lines []string, lost uint64) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := pcap.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return lines, r.Lost()
		}
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", r.Interfaces[p.Interface].Name, p.Direction, pcap.Decode(p.Data), p.Comment)))
	}
}

func anyWith(lines []string, words ...string) bool {
	for _, l := range lines {
		all := true
		for _, w := range words {
			all = all && strings.Contains(l, w)
		}
		if all {
			return true
		}
	}
	return false
}

// TestWatch looks at packets, drops and conversations, while they happen.
func TestWatch(t *testing.T) {
	h := newHost(t)
	h.start()
	h.background(h.out, h.hello, "serve")
	h.gh("network", "create", "blue", "--type", "nat", "--subnet", "10.77.0.0/24")
	h.gh("run", "-d", "--name", "web", "-p", "8080:80", "-p", "7007:7/udp", image)
	h.gh("run", "-d", "--name", "db", image)
	h.gh("run", "-d", "--name", "b", "--network", "blue", "--ip", "10.77.0.50", image)
	web4, web6 := h.addrs("web")
	db4, _ := h.addrs("db")
	in := func(c string, words ...string) { h.gh(append([]string{"exec", c, "/hello"}, words...)...) }
	refusedFrom := func(c, url string) {
		if err := h.from(c, "get", "-t", "1", url); err == nil {
			t.Errorf("%s reaches %s", c, url)
		}
	}
	const capturing = "capturing"

	t.Run("capture", func(t *testing.T) {
		h := *h
		h.t = t
		in("db", "get", "http://"+web4+"/") // a conversation is known already
		w := h.watch(capturing, "capture", "web")
		in("db", "get", "http://"+web4+"/")
		in("db", "get", "http://["+web6+"]/")
		h.mustAt(h.out, h.hello, "get", "http://"+hostV4+":8080/")
		in("web", "get", "http://"+outV4+"/")
		refusedFrom("web", "http://10.77.0.50/")
		want := [][]string{
			{"web in tcp " + db4, "> " + web4 + ":80 [S]"}, {"web out tcp " + web4 + ":80 > " + db4, "[S.]"},
			{"web in tcp", "> [" + web6 + "]:80 [S]"}, {"web out tcp [" + web6 + "]:80"},
			{"web in tcp " + outV4, "> " + web4 + ":80 [S]"}, // published: the address is its own by now
			{"web out tcp " + web4, "> " + outV4 + ":80 [S]"}, {"web in tcp " + outV4 + ":80 > " + web4, "[S.]"},
			{"web out tcp " + web4, "> 10.77.0.50:80 [S] dropped: no_route, at layer route"},
			{"web in icmp", "made by the switch: no_route"},
		}
		var got []string
		eventually(t, 5*time.Second, "all packets", func() bool {
			got, _ = packets(t, w.out)
			return anyWith(got, want[len(want)-1]...)
		})
		for _, words := range want {
			if !anyWith(got, words...) {
				t.Errorf("no packet %q", words)
			}
		}
		if t.Failed() {
			t.Log(strings.Join(got, "\n"))
		}
		if code := w.end(); code != 0 {
			t.Errorf("exit %d: %s", code, w.said())
		}
		if n, lost := packets(t, w.out); lost != 0 || !strings.Contains(w.said(), fmt.Sprintf("%d packets captured, 0 lost", len(n))) {
			t.Errorf("%d lost of %d; said %s", lost, len(n), w.said())
		}
		if tool, err := exec.LookPath("tcpdump"); err == nil {
			if out, err := exec.Command(tool, "-nr", w.out).CombinedOutput(); err != nil {
				t.Errorf("tcpdump: %v: %s", err, out)
			}
		}
	})
	t.Run("capture with a filter", func(t *testing.T) {
		h := *h
		h.t = t
		w := h.watch(capturing, "capture", "-c", "3", "-s", "60", "web", "tcp", "and", "dir", "in", "and", "host", db4)
		in("db", "ping", "-c", "1", web4)
		in("db", "get", "http://"+web4+"/")
		if code := w.wait(); code != 0 {
			t.Errorf("exit %d: %s", code, w.said())
		}
		got, _ := packets(t, w.out)
		if len(got) != 3 {
			t.Errorf("%d packets: %q", len(got), got)
		}
		for _, l := range got {
			if !strings.HasPrefix(l, "web in tcp "+db4) {
				t.Errorf("took %q", l)
			}
		}
		h.refused(2, "at character 5", "capture", "web", "tcp xor udp")
		h.refused(1, "nobody", "capture", "nobody")
		h.refused(2, "capture takes", "capture")
	})
	t.Run("capture of an uplink", func(t *testing.T) {
		h := *h
		h.t = t
		w := h.watch(capturing, "capture", "--uplink", "wire", "-c", "4", "tcp", "and", "port", "80", "or", "port", "8080")
		h.mustAt(h.out, h.hello, "get", "http://"+hostV4+":8080/")
		if code := w.wait(); code != 0 {
			t.Errorf("exit %d: %s", code, w.said())
		}
		got, _ := packets(t, w.out)
		for _, words := range [][]string{{"wire in tcp " + outV4, "> " + hostV4 + ":8080 [S]"}, {"wire out tcp " + hostV4 + ":8080 > " + outV4, "[S.]"}} {
			if !anyWith(got, words...) {
				t.Errorf("no packet %q of %q", words, got)
			}
		}
		h.refused(1, `uplink "nosuch": the switch has wire`, "capture", "--uplink", "nosuch")
	})
	t.Run("capture of what goes", func(t *testing.T) {
		h := *h
		h.t = t
		h.gh("run", "-d", "--name", "brief", image)
		w := h.watch(capturing, "capture", "brief")
		h.gh("rm", "-f", "brief")
		if code := w.wait(); code != 1 || !strings.Contains(w.said(), "brief is gone") {
			t.Errorf("exit %d: %s", code, w.said())
		}
	})
	t.Run("events", func(t *testing.T) {
		h := *h
		h.t = t
		w := h.watch("", "events", "--drops", "--flows", "-o", "json")
		events := func() (all []hostdoc.SwitchEvent) {
			d := json.NewDecoder(strings.NewReader(read(w.out)))
			for {
				var e hostdoc.SwitchEvent
				if d.Decode(&e) != nil {
					return all
				}
				all = append(all, e)
			}
		}
		has := func(what string, is func(e hostdoc.SwitchEvent) bool) {
			t.Helper()
			for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
				for _, e := range events() {
					if is(e) {
						return
					}
				}
			}
			t.Errorf("no event of %s:\n%s", what, read(w.out))
		}
		eventually(t, 10*time.Second, "conversations are told of", func() bool {
			in("db", "udp", web4+":7", "ahoy")
			return strings.Contains(read(w.out), "flow-new")
		})
		refusedFrom("web", "http://10.77.0.50/")
		h.mustAt(h.out, h.hello, "udp", hostV4+":7007", "ahoy")
		has("a drop", func(e hostdoc.SwitchEvent) bool {
			return e.Kind == "drop" && e.Reason == "no_route" && e.Endpoint == "web" && e.Network == "nat" && strings.Contains(e.Packet, "> 10.77.0.50:80 [S]")
		})
		has("a conversation with a backend", func(e hostdoc.SwitchEvent) bool {
			f := e.Flow
			return e.Kind == "flow-new" && f.Dst.String() == hostV4+":7007" && f.NATDst.String() == web4+":7" && f.To == "endpoint web" && f.From == "uplink wire" && f.Service != 0
		})
		w.end()
		text := h.watch("", "events", "--drops", "--endpoint", "web", "--filter", "reason=no_route")
		eventually(t, 10*time.Second, "a line", func() bool {
			_ = h.from("web", "get", "-t", "1", "http://10.77.0.50/")
			return strings.Contains(read(text.out), "no_route at layer route, from endpoint web: tcp "+web4)
		})
		text.end()
		h.refused(2, "not kept", "events", "--drops", "--since", "1m")
		h.refused(2, "the keys are", "events", "--drops", "--filter", "id=x")
		h.refused(1, "nobody", "events", "--drops", "--endpoint", "nobody")
	})
	t.Run("flows", func(t *testing.T) {
		h := *h
		h.t = t
		h.mustAt(h.out, h.hello, "udp", hostV4+":7007", "ahoy")
		in("db", "get", "http://"+web4+"/")
		list := func(flags ...string) (fl []hostdoc.Flow) {
			t.Helper()
			if err := json.Unmarshal([]byte(h.gh(append([]string{"flows", "-o", "json"}, flags...)...)), &fl); err != nil {
				t.Fatal(err)
			}
			return fl
		}
		all := list()
		for _, c := range []struct {
			flags []string
			fits  func(f hostdoc.Flow) bool
		}{
			{[]string{"--endpoint", "db"}, func(f hostdoc.Flow) bool { return f.From == "endpoint db" || f.To == "endpoint db" }},
			{[]string{"--address", outV4 + "/24"}, func(f hostdoc.Flow) bool {
				return strings.HasPrefix(f.Src.String()+" ", "198.51.100.") || strings.HasPrefix(f.Dst.String(), "198.51.100.") || strings.HasPrefix(f.NATSrc.String(), "198.51.100.")
			}},
			{[]string{"--port", "7007"}, func(f hostdoc.Flow) bool { return f.Src.Port() == 7007 || f.Dst.Port() == 7007 }},
			{[]string{"--proto", "udp"}, func(f hostdoc.Flow) bool { return f.Proto == 17 }},
			{[]string{"--state", "tw"}, func(f hostdoc.Flow) bool { return f.State == "tw" }},
		} {
			some := list(c.flags...)
			if len(some) == 0 || len(some) >= len(all) {
				t.Errorf("%v: %d of %d", c.flags, len(some), len(all))
			}
			for _, f := range some {
				if !c.fits(f) {
					t.Errorf("%v: %+v", c.flags, f)
				}
			}
		}
		one := list("--port", "7007", "--proto", "udp")[0]
		if one.NATDst.String() != web4+":7" || one.Packets == 0 || one.ReplyPackets == 0 || one.TimeoutSeconds == 0 || !one.NAT {
			t.Errorf("%+v", one)
		}
		if out := h.gh("flows", "-o", "wide", "--port", "7007"); !strings.Contains(out, "to "+web4+":7") || !strings.Contains(out, "endpoint web") {
			t.Error(out)
		}
		h.refused(1, "one of", "flows", "--state", "asleep")
		h.refused(1, "an address", "flows", "--address", "here")
		h.refused(1, "nobody", "flows", "--endpoint", "nobody")
	})
	t.Run("explain packets", func(t *testing.T) {
		h := *h
		h.t = t
		file := filepath.Join(t.TempDir(), "db.pcapng")
		w := h.watch(capturing, "capture", "-w", file, "db")
		in("db", "get", "http://"+web4+"/")
		refusedFrom("db", "http://10.77.0.50/")
		eventually(t, 5*time.Second, "packets", func() bool { got, _ := packets(t, file); return anyWith(got, "10.77.0.50", "dropped") })
		w.end()
		out := h.gh("explain", "--pcap", file, "--from", "db")
		for _, want := range []string{"FORWARD: reaches endpoint web", "DROP: NO_ROUTE at L6 route", "(then: dropped: no_route, at layer route)"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
		var all []struct {
			Packet      int
			Summary     string
			Explanation struct{ Verdict, Reason string }
		}
		if err := json.Unmarshal([]byte(h.gh("explain", "--pcap", file, "--from", "db", "-o", "json")), &all); err != nil || len(all) == 0 {
			t.Fatal(err)
		}
		for _, x := range all {
			if strings.Contains(x.Summary, "10.77.0.50") != (x.Explanation.Reason == "NO_ROUTE") {
				t.Errorf("%+v", x)
			}
			if strings.Contains(x.Summary, "10.77.0.50") {
				if out := h.gh("explain", "--pcap", file, "--packet", fmt.Sprint(x.Packet), "--from", "db"); !strings.Contains(out, "L1 anti-spoof") {
					t.Errorf("packet %d: %s", x.Packet, out)
				}
			}
		}
		// As if somebody else sent them.
		if out := h.gh("explain", "--pcap", file, "--from", "web"); !strings.Contains(out, "SPOOF_MAC") {
			t.Error(out)
		}
		if out := h.gh("explain", "--pcap", file, "--from", "uplink wire"); !strings.Contains(out, "PASS") {
			t.Error(out)
		}
		h.refused(1, "there are: wire", "explain", "--pcap", file, "--from", "uplink eth7")
		h.refused(1, "no packet 9999", "explain", "--pcap", file, "--from", "db", "--packet", "9999")
		h.refused(2, "--pcap needs --from", "explain", "--pcap", file)
		h.refused(1, "not a capture", "explain", "--pcap", "/etc/hostname", "--from", "db")
	})
	t.Run("metrics", func(t *testing.T) {
		h := *h
		h.t = t
		refusedFrom("web", "http://10.77.0.50/")
		m := h.gh("metrics")
		for _, want := range []string{
			`gatehouse_port_transmit_packets_total{port="`, `kind="uplink",network="",name="wire"} `, `gatehouse_switch_captures 0`,
			`gatehouse_switch_flows_limit{family="4"} 262144`, `gatehouse_switch_conversations{state="est"} `, `layer="route",reason="no_route"} `,
			`gatehouse_port_flows{port="`, "gatehouse_switch_nat_bindings ",
		} {
			if !strings.Contains(m, want) {
				t.Errorf("no %s in\n%s", want, m)
			}
		}
		problems, err := promlint.New(strings.NewReader(m)).Lint()
		if err != nil {
			t.Fatalf("Prometheus cannot read it: %v", err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	})
	t.Run("a daemon that dies", func(t *testing.T) {
		w := h.watch(capturing, "capture", "web")
		in("db", "get", "http://"+web4+"/")
		h.kill9()
		if code := w.wait(); code == 0 {
			t.Errorf("exit 0: %s", w.said())
		}
		h.start()
		in("db", "get", "http://"+web4+"/")
		if m := h.gh("metrics"); !strings.Contains(m, "gatehouse_switch_captures 0") || !strings.Contains(m, "gatehouse_switch_captured_packets_total 0") {
			t.Error("a capture outlived its client")
		}
	})
	if b, err := os.ReadFile(h.log.Name()); err == nil && bytes.Contains(b, []byte("panic")) {
		t.Errorf("%s", b)
	}
}
