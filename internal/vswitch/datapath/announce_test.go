// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// neighbour is who a namespace thinks has an address.
func neighbour(t *testing.T, ns *nettest.NS, dev string, a netip.Addr) string {
	t.Helper()
	nl := ns.Netlink()
	x, err := nl.LinkByName(dev)
	if err != nil {
		t.Fatal(err)
	}
	all, err := nl.NeighList(x.Attrs().Index, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range all {
		if n.IP.Equal(net.IP(a.AsSlice())) {
			return n.HardwareAddr.String()
		}
	}
	return ""
}

// A VIP is on the link of its clients: the host that announces it answers who asks
// for it, and the one that takes it over says so.
func TestAnnounce(t *testing.T) {
	a, b, outside := twoHosts(t)
	nameServer(a.container(10), "[::]:7", "a")
	nameServer(b.container(20), "[::]:7", "b")
	vips := map[string]netip.Addr{"4": netip.MustParseAddr("198.51.100.80"), "6": netip.MustParseAddr("2001:db8:1::80")}
	for i, f := range families() {
		for j, l := range []*lab{a, b} {
			l.s.Services = append(l.s.Services, f.service(vswitch.ServiceID(i+1), vips[f.name].String(), 80, vswitch.ScopeOutside, vswitch.PortID(10+10*j)))
			for k := range l.s.Services[i].Backends {
				l.s.Services[i].Backends[k].Port = 7
			}
		}
		a.s.Announced = append(a.s.Announced, vswitch.Announcement{Addr: vips[f.name]})
	}
	da, db := a.open(), b.open()
	a.apply(da)
	b.apply(db)
	mac := func(l *lab) vswitch.MAC { return l.f.Uplinks[0].MAC }
	for _, f := range families() {
		vip := vips[f.name]
		if who, sees := whoIs(t, outside, "tcp", f.addr(vip.String(), 80)); who != "a" || netip.MustParseAddrPort(sees).Addr().Unmap().String() != f.outside {
			t.Errorf("announced by A: answered by %s, who sees %s", who, sees)
		}
		if got := neighbour(t, outside, "wire", vip); got != mac(a).String() {
			t.Errorf("%s is at %s, want A's %s", vip, got, mac(a))
		}
	}
	// B takes over.
	b.s.Announced, a.s.Announced = a.s.Announced, nil
	a.apply(da)
	b.apply(db)
	for _, f := range families() {
		vip := vips[f.name]
		u := b.f.Uplinks[0]
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- b.in(func() error { return Announce(ctx, u.Ifindex, u.MAC, vip) }) }()
		deadline := time.Now().Add(answer)
		for neighbour(t, outside, "wire", vip) != mac(b).String() && time.Now().Before(deadline) {
			time.Sleep(5 * time.Millisecond)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := neighbour(t, outside, "wire", vip); got != mac(b).String() {
			t.Errorf("after takeover %s is at %s, want B's %s", vip, got, mac(b))
		}
		if who, _ := whoIs(t, outside, "tcp", f.addr(vip.String(), 80)); who != "b" {
			t.Errorf("announced by B: answered by %s", who)
		}
		group := strings.ReplaceAll(solicitedMAC(vip).String(), "0x", "")
		heard := func() bool {
			return strings.Contains(b.host.Exec("ip", "maddr", "show", "dev", u.Name), group+" static")
		}
		if want := vip.Is6(); heard() != want {
			t.Errorf("%s: group %s on the device: %v, want %v", vip, group, heard(), want)
		}
		for range 2 { // gone already is no error
			if err := b.in(func() error { return Withdraw(u.Ifindex, vip) }); err != nil {
				t.Error(err)
			}
		}
		if heard() {
			t.Errorf("%s: group %s is still on the device", vip, group)
		}
	}
	if err := b.in(func() error { return Announce(context.Background(), 99999, mac(b), vips["6"]) }); err == nil || !strings.Contains(err.Error(), fmt.Sprint(vips["6"])) {
		t.Errorf("at a device that is not there: %v", err)
	}
}
