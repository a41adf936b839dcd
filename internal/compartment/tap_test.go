// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"testing"

	"github.com/vishvananda/netlink"

	"gatehouse.dev/gatehouse/internal/network/model"
)

// TestTap: a tap outlives whoever opens it, is adopted by another life with its
// index, so that an open descriptor stays good, and is mended and removed like
// other devices.
func TestTap(t *testing.T) {
	h := openHost(t, newInstance(t))
	name := h.inst.TapDevice(5)
	want := model.Desired{Taps: []model.Tap{{Endpoint: "e", Name: name, MTU: 1400, Alias: "vm"}}}
	ensure(t, h, model.Desired{}) // whose facts are others
	f := ensure(t, h, want)
	check(t, h, want)
	l, err := h.nl.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := l.(*netlink.Tuntap); !ok || v.Mode != netlink.TUNTAP_MODE_TAP || v.NonPersist || v.Flags&netlink.TUNTAP_VNET_HDR == 0 ||
		v.Flags&netlink.TUNTAP_MULTI_QUEUE != 0 || v.MTU != 1400 || v.Alias != "vm" || f.Ifindex[name] != v.Index {
		t.Errorf("made %+v", l)
	}
	h.forget()
	if again := ensure(t, h, want); again.Ifindex[name] != f.Ifindex[name] {
		t.Errorf("made anew: %d, was %d", again.Ifindex[name], f.Ifindex[name])
	}
	changed := model.Desired{Taps: []model.Tap{{Endpoint: "e", Name: name, MTU: 1300}}}
	if again := ensure(t, h, changed); again.Ifindex[name] != f.Ifindex[name] {
		t.Error("made anew for its MTU")
	}
	if l, err := h.nl.LinkByName(name); err != nil || l.Attrs().MTU != 1300 || l.Attrs().Alias != "" {
		t.Errorf("changed: %+v, %v", l, err)
	}
	// Somebody removes it, and puts a device of another kind there.
	if err := h.nl.LinkDel(l); err != nil {
		t.Fatal(err)
	}
	h.forget()
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: name})
	veth.PeerName = "theirs"
	if err := h.nl.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	ensure(t, h, want)
	check(t, h, want)
	if l, err := h.nl.LinkByName(name); err != nil || !isTap(l) {
		t.Errorf("mended: %+v, %v", l, err)
	}
	prune(t, h, model.Desired{})
	check(t, h, model.Desired{})
}
