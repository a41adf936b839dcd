// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

func itoa(n int) string { return strconv.Itoa(n) }

// signalled waits for a value; several may come for one change.
func signalled(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(5 * time.Second):
		t.Fatalf("no signal after: %s", what)
	}
}

// silent drains what is under way and demands silence after it.
func silent(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
		t.Errorf("signal after: %s", what)
	case <-time.After(4 * quiet):
	}
}

func TestFactsFollowTheHost(t *testing.T) {
	inst := newInstance(t)
	host, outside := nettest.Host(t), nettest.NewNS(t)
	h := openHost(t, inst)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	changes := h.Watch(ctx)
	want := world(inst, 1)
	if f := ensure(t, h, want); len(f.Uplinks) != 0 {
		t.Fatalf("uplinks %v, want none", f.Uplinks)
	}
	silent(t, changes, "making our own devices")

	nettest.Veth(t, host, "up0", outside, "eth0", "192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64")
	signalled(t, changes, "an uplink")
	uplink := func() vswitch.Uplink {
		f := ensure(t, h, want)
		if len(f.Uplinks) != 1 {
			return vswitch.Uplink{}
		}
		return f.Uplinks[0]
	}
	waitFor(t, "the uplink is not in the facts", func() bool {
		u := uplink()
		return u.Name == "up0" && u.Ifindex > 0 && u.MTU == 1500 && u.MAC != vswitch.MAC{} &&
			slices.Equal(u.Addrs, []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")})
	})
	time.Sleep(2 * quiet)
	select { // the address that came second may have its own
	case <-changes:
	default:
	}

	routes := ensure(t, h, want).Routes
	for _, c := range []struct {
		args []string
		ok   func(vswitch.Uplink) bool
	}{
		{[]string{"address", "add", "192.0.2.50/24", "dev", "up0"}, func(u vswitch.Uplink) bool { return len(u.Addrs) == 3 }},
		{[]string{"address", "del", "192.0.2.50/24", "dev", "up0"}, func(u vswitch.Uplink) bool { return len(u.Addrs) == 2 }},
		{[]string{"link", "set", "up0", "mtu", "1400"}, func(u vswitch.Uplink) bool { return u.MTU == 1400 }},
		{[]string{"route", "add", "default", "via", "192.0.2.2"}, func(vswitch.Uplink) bool { return ensure(t, h, want).Routes == routes+1 }},
		{[]string{"route", "add", "blackhole", "198.51.100.0/24"}, func(vswitch.Uplink) bool { return ensure(t, h, want).Routes == routes+2 }},
		{[]string{"link", "set", "up0", "down"}, func(u vswitch.Uplink) bool { return u.Name == "" }},
	} {
		what := fmt.Sprintf("ip %v", c.args)
		host.Exec("ip", c.args...)
		signalled(t, changes, what)
		waitFor(t, "not in the facts: "+what, func() bool { return c.ok(uplink()) })
		time.Sleep(2 * quiet)
		select {
		case <-changes:
		default:
		}
	}
	prune(t, h, world(inst, 0))
	silent(t, changes, "pruning our own devices")
	cancel()
	waitFor(t, "the channel is not closed", func() bool {
		select {
		case _, open := <-changes:
			return !open
		default:
			return false
		}
	})
}

func TestMTUFollowsUplink(t *testing.T) {
	inst := newInstance(t)
	host, outside := nettest.Host(t), nettest.NewNS(t)
	nettest.Veth(t, host, "up0", outside, "eth0", "192.0.2.1/24")
	host.Exec("ip", "link", "set", "up0", "mtu", "1420")
	h := openHost(t, inst)
	want := world(inst, 1)
	ensure(t, h, want)
	check := func(n int) {
		t.Helper()
		waitFor(t, fmt.Sprintf("MTU is not %d", n), func() bool {
			ensure(t, h, want)
			ns, err := openAt(want.Compartments[0].Path)
			if err != nil {
				t.Fatal(err)
			}
			defer ns.close()
			l, err := ns.nl.LinkByName("eth0")
			if err != nil {
				t.Fatal(err)
			}
			near, err := h.nl.LinkByName(inst.PortDevice(1))
			if err != nil {
				t.Fatal(err)
			}
			return l.Attrs().MTU == n && near.Attrs().MTU == n
		})
	}
	check(1420)
	host.Exec("ip", "link", "set", "up0", "mtu", "1380")
	check(1380)
}

// An uplink without addresses is there for the networks that are bound to it: only
// their vNICs follow it.
func TestMTUOfBoundUplink(t *testing.T) {
	inst := newInstance(t)
	host, outside := nettest.Host(t), nettest.NewNS(t)
	nettest.Veth(t, host, "up0", outside, "eth0", "192.0.2.1/24")
	nettest.Veth(t, host, "up1", outside, "eth1")
	host.Exec("ip", "link", "set", "up1", "mtu", "1300", "up")
	h := openHost(t, inst)
	want := world(inst, 2)
	want.Switch.Networks = append(want.Switch.Networks, vswitch.Network{ID: 9, Zone: 9, Flags: vswitch.NetL2 | vswitch.NetARPPass, Uplink: "up1"})
	want.Compartments[1].VNICs[0].Uplink, want.Compartments[1].VNICs[0].Overhead = "up1", 20
	want.Compartments[1].VNICs[0].Alias = "a name"
	for i, mtu := range []int{1500, 1280} {
		waitFor(t, fmt.Sprintf("MTU of vNIC %d is not %d", i, mtu), func() bool {
			ensure(t, h, want)
			return strings.Contains(inside(t, want.Compartments[i].Path, "link", "show", "eth0"), fmt.Sprintf("mtu %d ", mtu))
		})
	}
	l, err := h.nl.LinkByName(want.Compartments[1].VNICs[0].PortName)
	if err != nil || l.Attrs().Alias != "a name" || l.Attrs().MTU != 1280 {
		t.Errorf("%+v, %v", l.Attrs(), err)
	}
}

// TestRepair: somebody with root's rights takes away what is ours.
func TestRepair(t *testing.T) {
	inst := newInstance(t)
	host := nettest.Host(t)
	h := openHost(t, inst)
	changes := h.Watch(t.Context())
	want := world(inst, 2)
	ensure(t, h, want)
	for _, c := range [][]string{
		{"tc", "qdisc", "del", "dev", inst.PortDevice(1), "clsact"},
		{"tc", "qdisc", "del", "dev", inst.AnchorDevice(), "clsact"},
		{"ip", "link", "del", inst.PortDevice(2)},
		{"ip", "link", "del", inst.SwitchDevice(1)},
		{"ip", "address", "flush", "dev", inst.HostDevice(1)},
		{"ip", "link", "del", inst.AnchorPeer()},
	} {
		host.Exec(c[0], c[1:]...)
		signalled(t, changes, fmt.Sprint(c))
		ensure(t, h, want)
		time.Sleep(2 * quiet)
		select {
		case <-changes:
			ensure(t, h, want)
		default:
		}
		check(t, h, want)
		if t.Failed() {
			t.Fatalf("after %v", c)
		}
	}
}

func TestMissedEvents(t *testing.T) {
	inst := newInstance(t)
	h := openHost(t, inst)
	want := world(inst, 2)
	ensure(t, h, want)
	h.view.mu.Lock() // the events of this pile up, as if nobody read them
	nettest.Host(t).Exec("ip", "link", "del", inst.PortDevice(1))
	h.view.mu.Unlock()
	h.view.losses()
	h.view.mu.Lock()
	h.view.lost, h.view.missed = nil, true
	h.view.mu.Unlock()
	ensure(t, h, want)
	check(t, h, want)
}

// TestMissedQueues: what only qdiscs hold comes back too when the events that told
// of its loss were dropped.
func TestMissedQueues(t *testing.T) {
	inst := newInstance(t)
	h := openHost(t, inst)
	want := limited(h, world(inst, 2), 1_000_000, 2_000_000)
	ensure(t, h, want)
	port, near, far := inst.PortDevice(1), inst.ShaperDevice(1), inst.ShaperPeer(1)
	gone := [][]string{
		{port, "root"}, {near, "root"}, {far, "clsact"}, {port, "clsact"}, {inst.PortDevice(2), "clsact"}, {inst.AnchorDevice(), "clsact"},
	}
	for _, q := range gone {
		nettest.Host(t).Exec("tc", "qdisc", "del", "dev", q[0], q[1])
	}
	waitFor(t, "not all losses were seen", func() bool {
		h.view.mu.Lock()
		defer h.view.mu.Unlock()
		if len(h.view.lost) < len(gone) {
			return false
		}
		h.view.lost, h.view.missed = nil, true
		return true
	})
	ensure(t, h, want)
	check(t, h, want)
	if a, b := rate(t, h, port), rate(t, h, near); a != 1_000_000 || b != 2_000_000 {
		t.Errorf("rates %d and %d", a, b)
	}
	joined, _, err := h.listQdiscs()
	if err != nil || !joined[h.devices[far]] {
		t.Errorf("the shaper is in the block: %v, %v", joined[h.devices[far]], err)
	}
}

// TestUplinkWithoutAddress: an uplink counts without any address while an L2
// network is bound to it, and no longer.
func TestUplinkWithoutAddress(t *testing.T) {
	inst := newInstance(t)
	host, outside := nettest.Host(t), nettest.NewNS(t)
	h := openHost(t, inst)
	nettest.Veth(t, host, "up0", outside, "eth0")
	host.Exec("ip", "address", "flush", "dev", "up0") // the kernel's own link-local one
	plain := world(inst, 1)
	bound := plain
	bound.Switch.Networks = []vswitch.Network{{ID: 1, Name: "l2", Flags: vswitch.NetL2, Uplink: "up0"}}
	waitFor(t, "the uplink is not in the facts", func() bool {
		f := ensure(t, h, bound)
		return len(f.Uplinks) == 1 && f.Uplinks[0].Name == "up0" && len(f.Uplinks[0].Addrs) == 0
	})
	if f := h.Facts(); len(f.Uplinks) != 1 {
		t.Errorf("uplinks %v, want up0", f.Uplinks)
	}
	changes := h.Watch(t.Context())
	host.Exec("ip", "link", "set", "up0", "down")
	signalled(t, changes, "its end")
	if f := ensure(t, h, bound); len(f.Uplinks) != 0 {
		t.Errorf("uplinks %v while it is down", f.Uplinks)
	}
	host.Exec("ip", "link", "set", "up0", "up")
	signalled(t, changes, "its return")
	if f := ensure(t, h, bound); len(f.Uplinks) != 1 {
		t.Errorf("uplinks %v after its return", f.Uplinks)
	}
	if f := ensure(t, h, plain); len(f.Uplinks) != 0 {
		t.Errorf("uplinks %v, want none", f.Uplinks)
	}
}

// TestUplinkChanges: an uplink that loses its carrier, goes, and comes back as
// another device is told of and in the facts, with an address or bound without.
func TestUplinkChanges(t *testing.T) {
	inst := newInstance(t)
	host, outside := nettest.Host(t), nettest.NewNS(t)
	nettest.Veth(t, host, "up0", outside, "eth0", "192.0.2.1/24", "")
	h := openHost(t, inst)
	want := world(inst, 1)
	want.Switch.Networks = []vswitch.Network{{ID: 1, Name: "l2", Flags: vswitch.NetL2, Uplink: "up1"}}
	indexOf := func(name string) int {
		for _, u := range ensure(t, h, want).Uplinks {
			if u.Name == name {
				return u.Ifindex
			}
		}
		return 0
	}
	// Others may come between: the kernel tells of a carrier when it likes.
	told := func(name, change string, index int) {
		t.Helper()
		late := time.After(5 * time.Second)
		for {
			select {
			case c := <-h.Uplinks():
				if c == (UplinkChange{name, index, change}) {
					return
				}
			case <-late:
				t.Fatalf("nothing told of %s %s, ifindex %d", name, change, index)
			}
		}
	}
	first := indexOf("up0")
	if first == 0 {
		t.Fatal("no uplink")
	}
	outside.Exec("ip", "link", "set", "eth0", "down")
	told("up0", uplinkCarrierLost, first)
	outside.Exec("ip", "link", "set", "eth0", "up")
	told("up0", UplinkCarrierBack, first)
	host.Exec("ip", "link", "del", "up0")
	told("up0", uplinkGone, first)
	if i := indexOf("up0"); i != 0 {
		t.Errorf("up0 is still in the facts, ifindex %d", i)
	}
	nettest.Veth(t, host, "spare0", outside, "spare1") // takes the number, if it is given again
	nettest.Veth(t, host, "up0", outside, "eth0", "192.0.2.1/24", "")
	waitFor(t, "up0 is not in the facts again", func() bool { return indexOf("up0") != 0 })
	second := indexOf("up0")
	if second == first {
		t.Errorf("the same ifindex %d", first)
	}
	told("up0", uplinkAdded, second)

	for range 2 {
		nettest.Veth(t, host, "up1", outside, "eth1")
		waitFor(t, "up1 is not in the facts", func() bool { return indexOf("up1") != 0 })
		bound := indexOf("up1")
		told("up1", uplinkAdded, bound)
		host.Exec("ip", "link", "del", "up1")
		told("up1", uplinkGone, bound)
		if i := indexOf("up1"); i != 0 {
			t.Errorf("up1 is still in the facts, ifindex %d", i)
		}
	}
}

func TestUplinksOf(t *testing.T) {
	p := func(s string) address { return address{netip.MustParsePrefix(s), true} }
	up := link{up: true, ethernet: true, mtu: 1500}
	named := func(n string, f func(*link)) link {
		l := up
		l.name = n
		f(&l)
		return l
	}
	links := map[int]link{
		1: named("lo", func(l *link) { l.loopback, l.ethernet = true, false }), 2: named("eth0", func(*link) {}),
		3: named("gh000n0001", func(l *link) { l.ours = true }), 4: named("down", func(l *link) { l.up = false }),
		5: named("tun0", func(l *link) { l.ethernet = false }), 6: named("only-link-local", func(*link) {}),
		7: named("eth1", func(*link) {}),
	}
	addrs := map[int][]address{
		1: {p("127.0.0.1/8"), p("::1/128"), p("198.51.100.7/32")}, 2: {p("192.0.2.2/24"), p("192.0.2.1/24"), p("fe80::1/64")},
		3: {p("172.30.0.1/16")}, 4: {p("203.0.113.1/24")}, 5: {p("10.8.0.1/24")}, 6: {p("fe80::2/64")}, 7: {p("2001:db8::1/64")},
	}
	ups, local := uplinksOf(links, addrs, map[string]bool{"only-link-local": true, "down": true, "tun0": true})
	want := []vswitch.Uplink{
		{Name: "eth0", Ifindex: 2, MTU: 1500, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("192.0.2.2/24")}},
		{Name: "only-link-local", Ifindex: 6, MTU: 1500},
		{Name: "eth1", Ifindex: 7, MTU: 1500, Addrs: []netip.Prefix{netip.MustParsePrefix("2001:db8::1/64")}},
	}
	if !slices.EqualFunc(ups, want, sameUplink) {
		t.Errorf("uplinks %v, want %v", ups, want)
	}
	if got := fmt.Sprint(local); got != "[10.8.0.1 192.0.2.1 192.0.2.2 198.51.100.7 203.0.113.1 2001:db8::1]" {
		t.Errorf("host addresses %s", got)
	}
}

func TestParseMount(t *testing.T) {
	for line, want := range map[string]mountPoint{
		`36 35 98:0 /mnt1 /mnt\0402 rw,noatime shared:1 master:2 - ext3 /dev/root rw`: {"/mnt 2", true},
		`36 35 98:0 /mnt1 /mnt2 rw,noatime - ext3 shared:1 rw`:                        {"/mnt2", false},
		`too short`: {},
	} {
		if got, _ := parseMount(line); got != want {
			t.Errorf("%s: %+v, want %+v", line, got, want)
		}
	}
}

// FuzzEvent: no message of the kernel, whole or cut, may do more than be ignored.
func FuzzEvent(f *testing.F) {
	f.Add(uint16(syscall.RTM_NEWLINK), make([]byte, 40))
	f.Add(uint16(syscall.RTM_DELADDR), append(make([]byte, 8), 8, 0, 1, 0, 127, 0, 0, 1))
	f.Add(uint16(syscall.RTM_NEWROUTE), make([]byte, 12))
	f.Add(uint16(syscall.RTM_DELQDISC), make([]byte, 20))
	f.Fuzz(func(t *testing.T, kind uint16, data []byte) {
		v := &view{
			owns: func(s string) bool { return s == "gh" }, links: map[int]link{}, addrs: map[int][]address{},
			expected: map[int]bool{}, watchers: map[chan struct{}]bool{}, closed: true,
		}
		m := syscall.NetlinkMessage{Data: data}
		m.Header.Type = kind
		v.take([]syscall.NetlinkMessage{m, m})
		v.facts()
	})
}

func TestDescriptorOfDo(t *testing.T) {
	nettest.RequireRoot(t)
	n := nettest.NewNS(t)
	before, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var in string
	if err := Do(n.Path(), func() (err error) { in, err = os.Readlink("/proc/thread-self/ns/net"); return err }); err != nil {
		t.Fatal(err)
	}
	if in == before {
		t.Error("Do did not enter the namespace")
	}
	if err := Do("/nowhere", func() error { return nil }); !os.IsNotExist(err) && err == nil {
		t.Error("Do with a missing path succeeded")
	}
}
