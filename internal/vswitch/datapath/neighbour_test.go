// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// mended is how soon damage must be put right: a quarter of a second at most, and
// what a busy machine takes.
const mended = 2 * time.Second

// stranger is another's program that leaves every packet to the next one.
func stranger(t *testing.T) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "stranger", Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}, // TCX_NEXT, TC_ACT_UNSPEC
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func both(t *testing.T, f func(t *testing.T, noTCX bool)) {
	for _, noTCX := range []bool{false, true} {
		t.Run(map[bool]string{false: "tcx", true: "clsact"}[noTCX], func(t *testing.T) {
			if !noTCX && !haveTCX(t) {
				t.Skip("tcx requires Linux 6.6")
			}
			f(t, noTCX)
		})
	}
}

// TestNeighbours: other processes with root's rights take away, one after the
// other, what is attached, or attach before it, under traffic from outside. Each
// time it is put right at once and told of.
func TestNeighbours(t *testing.T) {
	both(t, func(t *testing.T, noTCX bool) {
		l := newLab(t)
		l.o.NoTCX = noTCX
		a := l.container(10)
		l.publish(10, 17, 5353, 7)
		d := l.open()
		if found, err := d.Repair(); err != nil || len(found) > 0 {
			t.Errorf("repair before the first Apply: %v, %v", found, err)
		}
		l.apply(d)
		if found, err := d.Repair(); err != nil || len(found) > 0 {
			t.Errorf("repair of what is whole: %v, %v", found, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- d.Run(ctx) }()
		stop := sync.OnceFunc(func() {
			cancel()
			if err := <-ran; !errors.Is(err, context.Canceled) {
				t.Errorf("run: %v", err)
			}
		})
		defer stop()
		a.EchoUDP("10.1.0.10:7")
		uplink := l.f.Uplinks[0]
		other := stranger(t)
		sh := func(line string) {
			t.Helper()
			l.host.Exec("sh", "-c", line)
		}
		bpfFilter := func(dev netlink.Link, parent uint32, name string) {
			t.Helper()
			if err := l.nl.FilterAdd(&netlink.BpfFilter{
				FilterAttrs: netlink.FilterAttrs{LinkIndex: dev.Attrs().Index, Parent: parent, Handle: 77, Priority: filterPriority, Protocol: unix.ETH_P_ALL},
				Fd:          other.FD(), Name: name, DirectAction: true,
			}); err != nil {
				t.Fatal(err)
			}
		}
		type fault struct {
			name string
			do   func()
			kind DamageKind
			tcx  bool // only where uplinks are attached by tcx; else: only where not
			any  bool
		}
		for _, c := range []fault{
			{name: "filter of the block deleted", any: true, kind: DamageGone, do: func() {
				sh(fmt.Sprintf("tc filter del block %d pref %d", l.o.Block, filterPriority))
			}},
			{name: "another before us on the block", any: true, kind: DamageBehind, do: func() { bpfFilter(&blockLink, l.o.Block, "stranger") }},
			{name: "clsact of the uplink deleted", kind: DamageGone, do: func() { sh("tc qdisc del dev " + uplink.Name + " clsact") }},
			{name: "filters of the uplink deleted", kind: DamageGone, do: func() { sh("tc filter del dev " + uplink.Name + " ingress") }},
			{name: "another before us on the uplink", kind: DamageBehind, do: func() {
				bpfFilter(deviceLink(uplink.Ifindex), netlink.HANDLE_MIN_INGRESS, "stranger")
			}},
			{name: "tcx link detached", tcx: true, kind: DamageGone, do: func() {
				k, err := link.LoadPinnedLink(d.linkPin(uplinkPin(uplink.Ifindex)), nil)
				if err != nil {
					t.Fatal(err)
				}
				defer k.Close()
				if err := k.Detach(); err != nil {
					t.Fatal(err)
				}
			}},
			{name: "tcx link's pin removed", tcx: true, kind: DamageGone, do: func() { sh("rm " + d.linkPin(uplinkPin(uplink.Ifindex))) }},
			{name: "another before us by tcx", tcx: true, kind: DamageBehind, do: func() {
				k, err := link.AttachTCX(link.TCXOptions{Interface: uplink.Ifindex, Program: other, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { k.Close() })
			}},
			{name: "again before us by tcx", tcx: true, kind: DamageBehind, do: func() {
				k, err := link.AttachTCX(link.TCXOptions{Interface: uplink.Ifindex, Program: stranger(t), Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { k.Close() })
			}},
		} {
			if !c.any && c.tcx == noTCX {
				continue
			}
			c.do()
			start := time.Now()
			select {
			case x := <-d.Damages():
				if x.Kind != c.kind {
					t.Errorf("%s: told of %v, want %s", c.name, x, c.kind)
				}
				t.Logf("%s: %v after %v", c.name, x, time.Since(start).Round(time.Millisecond))
			case <-time.After(mended):
				t.Errorf("%s: not noticed", c.name)
			}
			if found, err := d.Repair(); err != nil || len(found) > 0 {
				t.Errorf("%s: still %v, %v", c.name, found, err)
			}
			if err := l.outside.Ask("udp", "198.51.100.1:5353", c.name, answer); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		owned(t, l.o, "filter gh_ep", 1)
		owned(t, l.o, uplinkOwned(noTCX), 1)
		m := d.Metrics()
		if m.RepairedGone == 0 || m.RepairedBehind == 0 || m.RepairErrors != 0 {
			t.Errorf("metrics %+v", m)
		}
		stop() // as a daemon does before its successor starts
		// The next generation replaces what was moved, in its place.
		d2 := l.open()
		l.apply(d2)
		owned(t, l.o, "filter gh_ep", 1)
		owned(t, l.o, uplinkOwned(noTCX), 1)
		if err := l.outside.Ask("udp", "198.51.100.1:5353", "next generation", answer); err != nil {
			t.Error(err)
		}
		// What others attached is theirs still.
		if !noTCX {
			q, err := link.QueryPrograms(link.QueryOptions{Target: uplink.Ifindex, Attach: ebpf.AttachTCXIngress})
			if err != nil || len(q.Programs) != 3 {
				t.Errorf("%d programs at the uplink, %v; want ours and two of others", len(q.Programs), err)
			}
		}
	})
}

// TestPreceded: another's tcx program on a port's device is told of.
func TestPreceded(t *testing.T) {
	if !haveTCX(t) {
		t.Skip("tcx requires Linux 6.6")
	}
	l := newLab(t)
	l.container(10)
	d := l.open()
	l.apply(d)
	look := func(want ...int) {
		t.Helper()
		if got, err := d.LookForPreceded(); err != nil || !slices.Equal(got, want) || d.Metrics().Preceded != int64(len(want)) {
			t.Errorf("preceded: %v, %v, metric %d; want %v", got, err, d.Metrics().Preceded, want)
		}
	}
	look()
	ifindex := l.f.Ifindex[l.s.Ports[1].Interface]
	k, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: stranger(t), Attach: ebpf.AttachTCXIngress})
	if err != nil {
		t.Fatal(err)
	}
	look(ifindex)
	look(ifindex)
	k.Close()
	look()
}

// TestQuarrel: another process that insists on being the first gets its way, but
// not unnoticed.
func TestQuarrel(t *testing.T) {
	both(t, func(t *testing.T, noTCX bool) {
		l := newLab(t)
		l.o.NoTCX = noTCX
		d := l.open()
		l.apply(d)
		up := l.f.Uplinks[0].Ifindex
		for i := range movesMost + 2 {
			p := stranger(t)
			if noTCX {
				// Each before the last, as ours does.
				if err := l.nl.FilterReplace(&netlink.BpfFilter{
					FilterAttrs: netlink.FilterAttrs{LinkIndex: up, Parent: netlink.HANDLE_MIN_INGRESS, Handle: uint32(100 + i), Priority: filterPriority, Protocol: unix.ETH_P_ALL},
					Fd:          p.FD(), Name: "stranger", DirectAction: true,
				}); err != nil {
					t.Fatal(err)
				}
			} else {
				k, err := link.AttachTCX(link.TCXOptions{Interface: up, Program: p, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { k.Close() })
			}
			found, err := d.Repair()
			if want := i < movesMost; err != nil || (len(found) == 1) != want {
				t.Errorf("attack %d: %v, %v; moved should be %v", i, found, err, want)
			}
		}
	})
}

// TestNothingInNetfilter: not a rule of ours is in nftables or iptables, before,
// while and after the switch runs.
func TestNothingInNetfilter(t *testing.T) {
	l := newLab(t)
	rules := func() string {
		t.Helper()
		var all strings.Builder
		for _, c := range [][]string{{"nft", "list", "ruleset"}, {"iptables-save"}, {"ip6tables-save"}} {
			if _, err := exec.LookPath(c[0]); err != nil {
				continue
			}
			// The heads of iptables-save tell the time.
			for line := range strings.Lines(l.host.Exec(c[0], c[1:]...)) {
				if !strings.HasPrefix(line, "#") {
					all.WriteString(line)
				}
			}
		}
		return all.String()
	}
	l.host.Exec("sh", "-c", "! command -v nft || { nft add table inet theirs && nft add chain inet theirs c && nft add rule inet theirs c counter; }")
	before := rules()
	a := l.container(10)
	l.publish(10, 17, 5353, 7)
	d := l.open()
	l.apply(d)
	a.EchoUDP("10.1.0.10:7")
	if err := l.outside.Ask("udp", "198.51.100.1:5353", "hello", answer); err != nil {
		t.Error(err)
	}
	if now := rules(); now != before {
		t.Errorf("rules before:\n%s\nwith the switch:\n%s", before, now)
	}
	d.Close()
	if err := Destroy(l.o); err != nil {
		t.Error(err)
	}
	if now := rules(); now != before {
		t.Errorf("rules before:\n%s\nafter the switch:\n%s", before, now)
	}
}
