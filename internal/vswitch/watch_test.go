// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMirrorRow(t *testing.T) {
	f := testFacts()
	s := State{Networks: []Network{testNetwork(1)}, Ports: []Port{testHostPort(1, f), testPort(10, 1, f), testPort(11, 1, f)}}
	s.Ports[1].Mirror = 11
	tables, err := Compile(s, f)
	if err != nil {
		t.Fatal(err)
	}
	row, _ := tables.Port(10)
	if row.Mirror != 11 || row.Flags&portCopy == 0 || !strings.Contains(tables.String(), " mirror 11\n") {
		t.Errorf("row %+v\n%s", row, tables)
	}
	if other, _ := tables.Port(11); other.Mirror != 0 || other.Flags&portCopy != 0 {
		t.Errorf("row of the other port %+v", other)
	}
}

// Who looks changes the rows of the port, and makes only its flows stale.
func TestWatched(t *testing.T) {
	f := testFacts()
	s := State{Networks: []Network{testNetwork(1)}, Ports: []Port{testHostPort(1, f), testPort(10, 1, f), testPort(11, 1, f)}}
	plain, err := Compile(s, f)
	if err != nil {
		t.Fatal(err)
	}
	before := plain.String()
	if diff := cmp.Diff(before, plain.Watched(Watch{}).String()); diff != "" {
		t.Errorf("nobody looks:\n%s", diff)
	}
	watched := plain.Watched(Watch{Capture: map[PortID]uint16{10: 128, 99: 5, 11: 0}, FlowEvents: 7})
	if plain.String() != before {
		t.Error("Watched changed its receiver")
	}
	up := plain.Uplinks[0].Port
	row, _ := watched.Port(10)
	if row.Snap != 128 || row.Flags&portCopy == 0 {
		t.Errorf("row %+v", row)
	}
	if other, _ := watched.Port(11); other.Snap != 0 || other.Flags&portCopy != 0 {
		t.Errorf("row of the other port %+v", other)
	}
	for _, c := range []struct {
		name     string
		from, to Tables
		epochs   string
		rows     int
	}{
		{"begin", plain, watched, "[10]", 2},
		{"end", watched, plain, "[10]", 2},
		{"more", watched, plain.Watched(Watch{Capture: map[PortID]uint16{10: 256}, FlowEvents: 7}), "[10]", 1},
		{"of an uplink", plain, plain.Watched(Watch{Capture: map[PortID]uint16{up: 64}}), fmt.Sprintf("[%d]", up), 1},
		{"flows alone", plain, plain.Watched(Watch{FlowEvents: 7}), "[]", 1},
		{"as before", watched, plain.Watched(Watch{Capture: map[PortID]uint16{10: 128}, FlowEvents: 7}), "[]", 0},
	} {
		d := Diff(c.from, c.to)
		n := 0
		for _, step := range d.Steps {
			n += step.Rows
		}
		if got := fmt.Sprint(d.Epochs); got != c.epochs || n != c.rows {
			t.Errorf("%s: epochs %s and %d rows, want %s and %d", c.name, got, n, c.epochs, c.rows)
		}
	}
	// A change of the port itself is seen beneath.
	s.Ports[1].Up = false
	down, err := Compile(s, f)
	if err != nil {
		t.Fatal(err)
	}
	d := Diff(watched, down.Watched(Watch{Capture: map[PortID]uint16{10: 128}, FlowEvents: 7}))
	if got := fmt.Sprint(d.Epochs); got != "[10]" {
		t.Errorf("down: epochs %s", got)
	}
}
