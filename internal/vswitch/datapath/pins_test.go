// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// TestPinsRemoved: what another process unpins is pinned again, so that packets
// and conversations outlive the daemon all the same.
func TestPinsRemoved(t *testing.T) {
	l := newLab(t)
	l.container(10).EchoUDP("10.1.0.10:7")
	a := l.container(11)
	l.publish(10, 17, 5353, 7)
	d := l.open()
	l.apply(d)
	ask := func(when string) {
		t.Helper()
		if err := a.Ask("udp", "10.1.0.10:7", "inside", answer); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if err := l.outside.Ask("udp", "198.51.100.1:5353", "outside", answer); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	flows := filepath.Join(d.stateDir(), bpf.SwitchMapFlow4)
	ask("before")
	for _, c := range []struct{ name, path string }{
		{"programs", filepath.Join(d.gen.dir, "progs")},
		{"a state map", flows},
		{"the generation", d.gen.dir},
		{"everything", d.o.Pins},
	} {
		if err := os.RemoveAll(c.path); err != nil {
			t.Fatal(err)
		}
		if err := a.Ask("udp", "10.1.0.10:7", "unpinned", answer); err != nil {
			t.Errorf("%s unpinned: %v", c.name, err)
		}
		found, err := d.Repair()
		if err != nil || len(found) == 0 || found[0].Kind != DamageUnpinned {
			t.Errorf("%s unpinned: found %v, %v", c.name, found, err)
		}
		if found, err := d.Repair(); err != nil || len(found) > 0 {
			t.Errorf("%s unpinned: after the repair still %v, %v", c.name, found, err)
		}
		ask(c.name + " pinned again")
	}
	if n := d.Metrics().RepairedUnpinned; n != 4 {
		t.Errorf("counted %d repairs of pins, want 4", n)
	}
	// Only pins hold what is there now.
	was, err := d.state[bpf.SwitchMapFlow4].Info()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	ask("no daemon")
	m, err := ebpf.LoadPinnedMap(flows, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	is, err := m.Info()
	if err != nil {
		t.Fatal(err)
	}
	if id, _ := is.ID(); !sameMap(was, id) {
		t.Error("the flow table is another one")
	}
	d2 := l.open()
	l.apply(d2)
	ask("next generation")
}

func sameMap(info *ebpf.MapInfo, id ebpf.MapID) bool {
	was, ok := info.ID()
	return ok && was == id
}
