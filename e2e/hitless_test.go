// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf/bpfnext"
)

// netnsOf is the path of the namespace of a container.
func (h *host) netnsOf(name string) string {
	h.t.Helper()
	v4, _ := h.addrs(name)
	found, _ := filepath.Glob(filepath.Join(h.root, "run", "netns", "*"))
	for _, path := range found {
		out, err := h.at(h.ns, "nsenter", "--net="+path, "ip", "-4", "-o", "addr")
		if err == nil && strings.Contains(out, " "+v4+"/") {
			return path
		}
	}
	h.t.Fatalf("no namespace of %s (%s) among %v", name, v4, found)
	return ""
}

// TestHitless stops and kills the daemon, and goes to a version with other eBPF
// programs and other layouts of their state and back, under 50 000 datagrams a
// second and TCP connections, through NAT and through published ports. Nothing
// is lost, no connection breaks, and nobody outside sees another source port.
func TestHitless(t *testing.T) {
	h := newHost(t)
	if _, err := exec.LookPath("clang-14"); err != nil {
		t.Skip("the compiler of the eBPF objects is not here: no next version to go to")
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	this, next := h.bin, filepath.Join(t.TempDir(), "gatehouse")
	if err := bpfnext.Build(root, t.TempDir(), next); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.gh("run", "-d", "--name", "a", image)
	h.gh("run", "-d", "--name", "b", "-p", "5300:53/udp", "-p", "6300:63", image)
	a, b, out := h.netnsOf("a"), h.netnsOf("b"), "/run/netns/"+h.out
	bv4, _ := h.addrs("b")

	type stream struct {
		name           string
		send, received *running
	}
	var udp, tcp []stream
	for _, s := range []struct{ name, from, to, addr, listen string }{
		{"between containers", a, b, bv4 + ":5000", bv4 + ":5000"},
		{"to the outside", a, out, outV4 + ":5001", outV4 + ":5001"},
		{"to the outside v6", b, out, "[" + outV6 + "]:5002", "[" + outV6 + "]:5002"},
		{"from outside, published", out, b, hostV4 + ":5300", bv4 + ":53"},
	} {
		r := h.peer(s.to, "udp-receive "+s.listen)
		udp = append(udp, stream{s.name, h.peer(s.from, "udp-send "+s.addr+" 12500"), r})
	}
	for _, s := range []struct{ name, from, to, addr, listen string }{
		{"to the outside", a, out, outV4 + ":6001", outV4 + ":6001"},
		{"from outside, published", out, b, hostV4 + ":6300", bv4 + ":63"},
	} {
		r := h.peer(s.to, "tcp-receive "+s.listen)
		tcp = append(tcp, stream{s.name, h.peer(s.from, "tcp-send "+s.addr), r})
	}
	pause := func() { time.Sleep(500 * time.Millisecond) }
	for _, step := range []struct {
		what string
		do   func()
	}{
		{"stopped", h.stop}, {"started", h.start},
		{"killed", h.kill9}, {"started after a kill", h.start},
		{"stopped for the upgrade", h.stop}, {"upgraded", func() { h.bin = next; h.start() }},
		{"killed after the upgrade", h.kill9}, {"started, the next version again", h.start},
		{"killed for the way back", h.kill9}, {"rolled back", func() { h.bin = this; h.start() }},
		{"killed at once", h.kill9}, {"upgraded and killed while it starts", func() {
			h.bin = next
			h.spawn()
			time.Sleep(150 * time.Millisecond)
			h.kill9()
		}},
		{"back to this version", func() { h.bin = this; h.start() }},
	} {
		start := time.Now()
		step.do()
		t.Logf("%s (%v)", step.what, time.Since(start).Round(time.Millisecond))
		pause()
	}
	log, err := os.ReadFile(h.log.Name())
	if n := strings.Count(string(log), "state of another version carried over"); err != nil || n < 2 {
		t.Errorf("state was carried over %d times, %v; want once each way at least", n, err)
	}
	var total int64
	for _, s := range udp {
		sent := s.send.end()
		got := s.received.end()
		total += sent.Sent
		lost := sent.Sent - got.Received - got.Overrun
		line := fmt.Sprintf("udp %s: %d sent, %d lost, %d over the receiver's buffer, seen from %v", s.name, sent.Sent, lost, got.Overrun, got.From)
		t.Log(line)
		if lost != 0 || sent.Failed != 0 || sent.Sent == 0 || len(got.From) != 1 {
			t.Errorf("%s; %d not sent", line, sent.Failed)
		}
	}
	t.Logf("udp: %d datagrams in all", total)
	for _, s := range tcp {
		sent := s.send.end()
		got := s.received.end()
		t.Logf("tcp %s: %d bytes", s.name, sent.Bytes)
		if sent.Bytes == 0 || sent.Bytes != got.Bytes {
			t.Errorf("tcp %s: %d bytes sent, %d received", s.name, sent.Bytes, got.Bytes)
		}
	}
	if left, _ := filepath.Glob(fmt.Sprintf("/sys/fs/bpf/*/state/v%s", bpfnext.Layout)); len(left) > 0 {
		t.Errorf("state of the other version is left: %v", left)
	}
}
