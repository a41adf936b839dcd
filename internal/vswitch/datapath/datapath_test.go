// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/features"
	"github.com/containerd/errdefs"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// haveTCX is by version: an attempt to attach is what the tests are about.
func haveTCX(t testing.TB) bool {
	t.Helper()
	v, err := features.LinuxVersionCode()
	if err != nil {
		t.Fatal(err)
	}
	return v >= 6<<16|6<<8
}

// uplinkOwned is how Owned begins to name an attachment to an uplink.
func uplinkOwned(noTCX bool) string {
	if noTCX {
		return "filter gh_uplink"
	}
	return "links/uplink_"
}

func TestOpenApplyClose(t *testing.T) {
	l := newLab(t)
	l.container(10)
	l.publish(10, 6, 8080, 80)
	d := l.open()
	owned(t, l.o, "filter", 0)
	l.apply(d)
	owned(t, l.o, "filter gh_ep", 1)
	owned(t, l.o, uplinkOwned(!haveTCX(t)), 1)
	owned(t, l.o, "links/sock_", len(socketHooks))
	checkMaps(t, d, l.tables())

	// A later change, then back; and the same Tables again.
	was := l.s
	l.container(11)
	l.apply(d)
	checkMaps(t, d, l.tables())
	l.s = was
	l.s.Mappings = nil
	l.apply(d)
	checkMaps(t, d, l.tables())
	owned(t, l.o, "links/sock_", 0)
	rows := d.Metrics().RowsWritten
	l.apply(d)
	if d.Metrics().RowsWritten != rows {
		t.Error("the same Tables wrote rows")
	}

	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := d.Apply(context.Background(), vswitch.Tables{}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("apply after close: %v", err)
	}
	owned(t, l.o, "filter gh_ep", 1)
}

func TestUplinksComeAndGo(t *testing.T) {
	for _, noTCX := range []bool{false, true} {
		name := map[bool]string{false: "tcx", true: "clsact"}[noTCX]
		t.Run(name, func(t *testing.T) {
			if !noTCX && !haveTCX(t) {
				t.Skip("tcx requires Linux 6.6")
			}
			l := newLab(t)
			l.o.NoTCX = noTCX
			what := uplinkOwned(noTCX)
			d := l.open()
			l.apply(d)
			owned(t, l.o, what, 1)
			second, _ := l.pair("u2", "u2p", nil)
			l.up(second)
			l.addUplink(second.Attrs().Name)
			l.apply(d)
			owned(t, l.o, what, 2)
			// It goes while no daemon runs.
			d.Close()
			l.f.Uplinks = l.f.Uplinks[:1]
			d = l.open()
			owned(t, l.o, what, 2)
			l.apply(d)
			owned(t, l.o, what, 1)
			l.f.Uplinks = nil
			l.apply(d)
			owned(t, l.o, what, 0)
			// A device that is gone by the time it is attached to is no error.
			l.f.Uplinks = []vswitch.Uplink{{Name: "ghost", Ifindex: 1 << 20}}
			l.apply(d)
		})
	}
}

// TestObjectFits holds the sizes that Compile counts on against the object.
func TestObjectFits(t *testing.T) {
	spec, err := bpf.LoadSwitch()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]uint32{
		"port": vswitch.MaxPorts, "net": vswitch.MaxNetworks, "floodn": vswitch.MaxNetworks, "member": vswitch.MaxBackends, "slot": 2 * vswitch.MaxSlots,
		"natpool": 256 + vswitch.MaxNATPools*2*vswitch.MaxNATAddrs, "epoch": vswitch.EpochGlobal + 1,
	} {
		if m := spec.Maps[name]; m == nil || m.MaxEntries != want {
			t.Errorf("map %s: %v, want %d entries", name, m, want)
		}
	}
	known := map[string]bool{".rodata": true, ".bss": true, ".data": true}
	for _, n := range slices.Concat(bpf.StateMaps(), bpf.ConfigMaps(), bpf.PrivateMaps()) {
		known[n] = true
	}
	for name := range spec.Maps {
		if !known[name] && !strings.HasPrefix(name, ".") {
			t.Errorf("map %s is in no list: neither pinned nor kept", name)
		}
	}
	for _, h := range socketHooks {
		if p := spec.Programs[h.program]; p == nil || p.AttachType != h.attach {
			t.Errorf("program %s: %v, want attach type %v", h.program, p, h.attach)
		}
	}
}

func TestNoBlock(t *testing.T) {
	l := newLab(t)
	l.o.Block ^= 0x800000
	d := l.open()
	err := d.Apply(context.Background(), l.tables())
	if err == nil || !strings.Contains(err.Error(), "no device is a member") || !errdefs.IsFailedPrecondition(err) {
		t.Errorf("apply without block: %v", err)
	}
}

func TestGenerations(t *testing.T) {
	l := newLab(t)
	d := l.open()
	// Killed between Open and Apply, twice: only half-made generations.
	d.Close()
	d = l.open()
	if n := dirs(t, l.o); len(n) != 1 {
		t.Errorf("generations %v, want one", n)
	}
	l.apply(d)
	first := dirs(t, l.o)
	// The one at work must survive another's Open, and its removal.
	half := l.open()
	half.Close()
	third := l.open()
	if n := dirs(t, l.o); len(n) != 2 || n[0] != first[0] {
		t.Errorf("generations %v, want %v and a new one", n, first)
	}
	l.apply(third)
	if n := dirs(t, l.o); len(n) != 1 || n[0] == first[0] {
		t.Errorf("generations %v after the switch, want only the new one", n)
	}
	// What fails half-way is renewed by the next Apply.
	if err := third.gen.coll.Maps["ifport"].Close(); err != nil {
		t.Fatal(err)
	}
	l.container(12)
	if err := third.Apply(context.Background(), l.tables()); err == nil {
		t.Fatal("apply with a closed map: no error")
	}
	l.apply(third)
	checkMaps(t, third, l.tables())
	if n := dirs(t, l.o); len(n) != 1 {
		t.Errorf("generations %v after renewal, want one", n)
	}
}

func TestOpenNotOnBPF(t *testing.T) {
	_, err := Open(Options{Pins: filepath.Join(t.TempDir(), "pins"), Block: 1})
	if err == nil || !strings.Contains(err.Error(), "not on a bpf file system") {
		t.Errorf("open: %v", err)
	}
	if _, err := Open(Options{}); err == nil {
		t.Error("open without pins: no error")
	}
}

func dirs(t *testing.T, o Options) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(o.Pins, "gen"))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// owned wants n things with this text among what the instance owns.
func owned(t *testing.T, o Options, text string, n int) {
	t.Helper()
	all, err := Owned(o)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range all {
		if strings.Contains(s, text) {
			got = append(got, s)
		}
	}
	if len(got) != n {
		t.Errorf("%d of %q, want %d: %v", len(got), text, n, got)
	}
}

// checkMaps compares the kernel's hash maps, key by key, with the Tables.
func checkMaps(t *testing.T, d *Datapath, tables vswitch.Tables) {
	t.Helper()
	want := map[string]int{}
	for _, s := range vswitch.Diff(vswitch.Tables{}, tables).Steps {
		m := d.gen.coll.Maps[s.Map]
		for i := range s.Rows {
			key, value := s.At(i)
			got, err := m.LookupBytes(key)
			if err != nil || got == nil {
				t.Errorf("map %s: key %v: %v", s.Map, key, err)
			}
			_ = value
		}
		want[s.Map] += s.Rows
	}
	for _, name := range []string{"ifport", "portip", "addr", "route", "svc", "slot", "portbusy", "flood"} {
		n := 0
		var k, v []byte
		it := d.gen.coll.Maps[name].Iterate()
		for it.Next(&k, &v) {
			n++
		}
		if n != want[name] {
			t.Errorf("map %s: %d rows, want %d", name, n, want[name])
		}
	}
}
