// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// TestExplainFrame asks about frames as somebody captured them.
func TestExplainFrame(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	for i := range 2 {
		if _, err := w.h.Plug(ctx, fmt.Sprintf("rt-%d", i+1), id(i+1), plugDocs(i+1)); err != nil {
			t.Fatal(err)
		}
	}
	ends, err := w.h.World().Speakers("c1")
	if err != nil {
		t.Fatal(err)
	}
	others, err := w.h.World().Speakers("c2")
	if err != nil {
		t.Fatal(err)
	}
	row, _ := w.h.tables.Load().Port(ends[0].Port)
	frame := func(from pkt.MAC, src netip.Addr) []byte {
		p := pkt.Packet{From: from, To: pkt.MAC(row.GwMac), Ether: pkt.EtherIP, Src: src, Dst: others[0].Addr(true), Proto: pkt.TCP, TTL: 64, SrcPort: 40000, DstPort: 80, Flags: pkt.SYN}
		return p.Bytes()
	}
	mine := frame(pkt.MAC(row.Mac), ends[0].Addr(true))
	tagged := slices.Insert(slices.Clone(mine), 12, 0x81, 0, 0, 7)
	ask := func(r hcn.ExplainRequest) (hcn.Explanation, error) {
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return w.h.Explain(ctx, b)
	}
	for _, c := range []struct {
		name, from    string
		frame         []byte
		verdict, says string
	}{
		{"its own", "c1", mine, "forward", "endpoint c2"},
		{"by its container", "rt-1", mine, "forward", "endpoint c2"},
		{"of another's MAC", "c1", frame(pkt.MAC{2, 9, 9, 9, 9, 9}, ends[0].Addr(true)), "drop", "SPOOF_MAC"},
		{"of another's address", "c1", frame(pkt.MAC(row.Mac), others[0].Addr(true)), "drop", "SPOOF_IP"},
		{"as if another sent it", "c2", mine, "drop", "SPOOF_MAC"},
		{"tagged", "c1", tagged, "drop", "VLAN"},
		{"short", "c1", mine[:20], "drop", "PARSE"},
	} {
		x, err := ask(hcn.ExplainRequest{From: c.from, Frame: c.frame})
		if raw, _ := json.Marshal(x); err != nil || x.Verdict != c.verdict || !strings.Contains(string(raw), c.says) {
			t.Errorf("%s: %s, %v; want %s and %q", c.name, raw, err, c.verdict, c.says)
		}
	}
	for _, c := range []struct {
		r    hcn.ExplainRequest
		says string
	}{
		{hcn.ExplainRequest{From: "c1", To: "c2", Frame: mine}, "leave out To"},
		{hcn.ExplainRequest{From: "c1", Frame: mine[:13]}, "13 bytes"},
		{hcn.ExplainRequest{From: "host", Frame: mine}, "no one port"},
		{hcn.ExplainRequest{From: "uplink nowhere", Frame: mine}, "uplink"},
	} {
		if _, err := ask(c.r); err == nil || !strings.Contains(err.Error(), c.says) || !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%+v: %v; want %q", c.r, err, c.says)
		}
	}
}

func TestPortNames(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	if _, err := w.h.PortsOf("c1"); err == nil {
		t.Error("ports of nobody")
	}
	if _, err := w.h.Plug(ctx, "rt-1", id(1), plugDocs(1)); err != nil {
		t.Fatal(err)
	}
	ports, err := w.h.PortsOf("rt-1")
	if err != nil || len(ports) != 1 {
		t.Fatalf("%v, %v", ports, err)
	}
	kinds := map[string]bool{}
	for _, p := range w.h.PortNames() {
		kinds[p.Kind] = true
	}
	p := w.h.PortNames()[ports[0]]
	if p.String() != "endpoint c1" || p.Network == "" || p.ID == "" || !kinds["host"] {
		t.Errorf("%+v, %v", p, kinds)
	}
}
