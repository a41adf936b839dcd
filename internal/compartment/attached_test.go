// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/network/model"
)

// TestAttachedToTheHost: a vNIC in the host's own namespace brings its addresses and
// leaves the host's routes as they are, also that to the very prefix.
func TestAttachedToTheHost(t *testing.T) {
	inst := newInstance(t)
	h := openHost(t, inst)
	host := nettest.Host(t)
	host.Exec("ip", "link", "add", "wire", "type", "veth", "peer", "far")
	t.Cleanup(func() { host.Exec("ip", "link", "del", "wire") })
	host.Exec("ip", "link", "set", "wire", "up")
	host.Exec("ip", "link", "set", "far", "up")
	host.Exec("ip", "addr", "add", "172.31.0.4/24", "dev", "wire")
	host.Exec("ip", "addr", "add", "fd31::4/64", "dev", "wire", "nodad")
	routes := func() string { return host.Exec("ip", "route") + host.Exec("ip", "-6", "route") }
	before := routes()

	c := model.Compartment{ID: "host", Path: "/proc/thread-self/ns/net", Foreign: true, VNICs: []model.VNIC{{
		Endpoint: "ep", Port: 9, PortName: inst.PortDevice(9), Name: inst.AttachedDevice(9), MAC: mac(9), Host: true,
		Addrs: []netip.Prefix{netip.MustParsePrefix("172.31.0.9/24"), netip.MustParsePrefix("fd31::9/64"), netip.MustParsePrefix("172.32.0.9/24")},
	}}}
	want := world(inst, 1)
	want.Compartments = append(want.Compartments, c)
	f := ensure(t, h, want)
	check(t, h, want)
	prune(t, h, want)
	check(t, h, want)
	if !slices.Contains(f.HostAddrs, netip.MustParseAddr("172.31.0.9")) || !slices.Contains(f.HostAddrs, netip.MustParseAddr("fd31::9")) {
		t.Errorf("host addresses %v lack the attached ones", f.HostAddrs)
	}
	for dst, dev := range map[string]string{"172.31.0.77": "wire", "fd31::77": "wire", "172.32.0.77": inst.AttachedDevice(9)} {
		if out := host.Exec("ip", "route", "get", dst); !strings.Contains(out, " dev "+dev+" ") {
			t.Errorf("%s is reached by %s, want %s", dst, out, dev)
		}
	}

	// Another one of the same network has its prefix, too.
	two := want
	two.Compartments = slices.Clone(want.Compartments)
	second := &two.Compartments[1]
	second.VNICs = append(slices.Clone(c.VNICs), model.VNIC{
		Endpoint: "ep10", Port: 10, PortName: inst.PortDevice(10), Name: inst.AttachedDevice(10), MAC: mac(10), Host: true,
		Addrs: []netip.Prefix{netip.MustParsePrefix("172.32.0.10/24"), netip.MustParsePrefix("fd31::a/64")},
	})
	ensure(t, h, two)
	check(t, h, two)
	prune(t, h, want)
	check(t, h, want)

	// A new life adopts it; what others take away comes back.
	index := f.Ifindex[inst.PortDevice(9)]
	if f, err := h.Verify(context.Background(), want); err != nil || f.Ifindex[inst.PortDevice(9)] != index {
		t.Errorf("made anew (%v)", err)
	}
	host.Exec("ip", "addr", "del", "172.31.0.9/24", "dev", inst.AttachedDevice(9))
	if _, err := h.Verify(context.Background(), want); err != nil {
		t.Fatal(err)
	}
	check(t, h, want)

	prune(t, h, world(inst, 1))
	check(t, h, world(inst, 1))
	prune(t, h, model.Desired{})
	if after := routes(); after != before {
		t.Errorf("routes were\n%s\nand are\n%s", before, after)
	}
}
