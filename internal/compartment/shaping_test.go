// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"os/exec"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// limited gives the first vNIC of a world limits.
func limited(h *Host, want model.Desired, ingress, egress uint64) model.Desired {
	p := vswitch.Port{ID: 1, Object: "ep0001", Interface: h.inst.PortDevice(1), IngressBps: ingress, EgressBps: egress}
	if egress != 0 {
		p.Shaper, p.ShaperPeer = h.inst.ShaperDevice(1), h.inst.ShaperPeer(1)
	}
	want.Switch.Ports = []vswitch.Port{p}
	return want
}

// rate is the token bucket of a device, 0 for none.
func rate(t *testing.T, h *Host, name string) uint64 {
	t.Helper()
	l, err := h.nl.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	qs, err := h.nl.QdiscList(l)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range qs {
		if b, ok := q.(*netlink.Tbf); ok {
			if b.Limit < 2*burstLeast {
				t.Errorf("%s: a queue of %d bytes", name, b.Limit)
			}
			return b.Rate
		}
	}
	return 0
}

func TestShaping(t *testing.T) {
	inst := newInstance(t)
	h := openHost(t, inst)
	plain := world(inst, 2)
	port, near, far := inst.PortDevice(1), inst.ShaperDevice(1), inst.ShaperPeer(1)

	want := limited(h, plain, 1_000_000, 2_000_000)
	f := ensure(t, h, want)
	prune(t, h, want)
	check(t, h, want)
	if f.Ifindex[near] == 0 || f.Ifindex[far] == 0 || len(f.Uplinks) != 0 {
		t.Errorf("facts: near %d, far %d, uplinks %v", f.Ifindex[near], f.Ifindex[far], f.Uplinks)
	}
	if a, b := rate(t, h, port), rate(t, h, near); a != 1_000_000 || b != 2_000_000 {
		t.Errorf("rates %d and %d", a, b)
	}
	joined, _, err := h.listQdiscs()
	if err != nil || !joined[f.Ifindex[far]] || joined[f.Ifindex[near]] {
		t.Errorf("in the block: far %v, near %v, %v", joined[f.Ifindex[far]], joined[f.Ifindex[near]], err)
	}

	// Another rate changes no device.
	want = limited(h, plain, 3_000_000, 4_000_000_000)
	if g := ensure(t, h, want); g.Ifindex[near] != f.Ifindex[near] || g.Ifindex[port] != f.Ifindex[port] {
		t.Error("another rate made other devices")
	}
	if a, b := rate(t, h, port), rate(t, h, near); a != 3_000_000 || b != 4_000_000_000 {
		t.Errorf("rates %d and %d", a, b)
	}

	// What others take away comes back.
	watch := h.Watch(t.Context())
	for _, args := range [][]string{{"tc", "qdisc", "del", "dev", port, "root"}, {"ip", "link", "del", far}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
		select {
		case <-watch:
		case <-time.After(5 * time.Second):
			t.Fatalf("%v: nobody was told", args)
		}
		ensure(t, h, want)
		prune(t, h, want)
		check(t, h, want)
		if a, b := rate(t, h, port), rate(t, h, near); a != 3_000_000 || b != 4_000_000_000 {
			t.Errorf("after %v: rates %d and %d", args, a, b)
		}
	}

	// Another life adopts them, and takes off what is not wanted any more.
	adopted := h.Facts()
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	h = openHost(t, inst)
	want = limited(h, plain, 0, 4_000_000_000)
	if g := ensure(t, h, want); g.Ifindex[near] != adopted.Ifindex[near] {
		t.Error("the shaper was not adopted")
	}
	prune(t, h, want)
	check(t, h, want)
	if a, b := rate(t, h, port), rate(t, h, near); a != 0 || b != 4_000_000_000 {
		t.Errorf("after a restart: rates %d and %d", a, b)
	}

	// No limits: no devices and no queue.
	want = limited(h, plain, 500_000, 0)
	ensure(t, h, want)
	prune(t, h, want)
	check(t, h, want)
	if a := rate(t, h, port); a != 500_000 {
		t.Errorf("rate %d", a)
	}
	ensure(t, h, plain)
	prune(t, h, plain)
	check(t, h, plain)
	select {
	case <-watch: // whatever is left of before
	default:
	}
	want = limited(h, plain, 0, 0)
	ensure(t, h, want)
	if a := rate(t, h, port); a != 0 {
		t.Errorf("rate %d without a limit", a)
	}
	select {
	case <-h.Watch(t.Context()):
		t.Error("our own removal of a queue is told as a loss")
	case <-time.After(4 * quiet):
	}
}
