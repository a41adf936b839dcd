// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/instance"
	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

func ensure(t testing.TB, h *Host, want model.Desired) vswitch.Facts {
	t.Helper()
	f, err := h.Ensure(context.Background(), want)
	if err != nil {
		t.Fatalf("ensure: %v", err)
	}
	return f
}

func prune(t testing.TB, h *Host, want model.Desired) {
	t.Helper()
	if err := h.Prune(context.Background(), want); err != nil {
		t.Fatalf("prune: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := h.Settle(ctx); err != nil {
		t.Fatalf("settle: %v", err)
	}
}

// inside runs ip(8) in a compartment.
func inside(t testing.TB, path string, args ...string) string {
	t.Helper()
	out, err := exec.Command("nsenter", append([]string{"--net=" + path, "--", "ip"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %v in %s: %v\n%s", args, path, err, out)
	}
	return string(out)
}

// check compares the kernel with what is wanted, everything and nothing more.
func check(t testing.TB, h *Host, want model.Desired) {
	t.Helper()
	keep := wantedDevices(want)
	keep[h.inst.AnchorDevice()], keep[h.inst.AnchorPeer()] = true, true
	inv, err := h.Owned(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range inv.Devices {
		if !keep[d] {
			t.Errorf("device %s is there and not wanted", d)
		}
		delete(keep, d)
	}
	for d := range keep {
		t.Errorf("device %s is wanted and not there", d)
	}
	var paths []string
	for _, c := range want.Compartments {
		if !c.Foreign {
			paths = append(paths, c.Path)
		}
	}
	slices.Sort(paths)
	if !slices.Equal(inv.Namespaces, paths) {
		t.Errorf("namespaces %v, want %v", inv.Namespaces, paths)
	}
	joined, _, err := h.listQdiscs()
	if err != nil {
		t.Fatal(err)
	}
	port := func(name string) {
		l, err := h.nl.LinkByName(name)
		if err != nil {
			t.Error(err)
			return
		}
		if !joined[l.Attrs().Index] {
			t.Errorf("%s is not in the switch's block", name)
		}
		if l.Attrs().RawFlags&unix.IFF_UP == 0 {
			t.Errorf("%s is not up", name)
		}
	}
	port(h.inst.AnchorDevice())
	for _, n := range want.HostNICs {
		port(n.SwitchName)
		checkDevice(t, h.nl, n.Name, n.MAC, content{addrs: n.Addrs})
	}
	for _, p := range want.Taps {
		port(p.Name)
	}
	for _, c := range want.Compartments {
		ns, err := openAt(c.Path)
		if err != nil {
			t.Error(err)
			continue
		}
		if lo, err := ns.nl.LinkByName("lo"); err != nil || lo.Attrs().RawFlags&unix.IFF_UP == 0 {
			t.Errorf("%s: loopback is not up (%v)", c.ID, err)
		}
		for _, v := range c.VNICs {
			port(v.PortName)
			checkDevice(t, ns.nl, v.Name, v.MAC, contentOf(v))
		}
		ns.close()
	}
}

func checkDevice(t testing.TB, nl *netlink.Handle, name string, mac vswitch.MAC, want content) {
	t.Helper()
	l, err := nl.LinkByName(name)
	if err != nil {
		t.Error(err)
		return
	}
	if l.Attrs().RawFlags&unix.IFF_UP == 0 || string(l.Attrs().HardwareAddr) != string(mac[:]) {
		t.Errorf("%s: %+v, want up with MAC %x", name, l.Attrs(), mac)
	}
	have, err := list(nl, l.Attrs().Index)
	if err != nil {
		t.Fatal(err)
	}
	if less, more := want.minus(have), have.minus(want); len(less.addrs)+len(less.routes)+len(less.neighs) > 0 ||
		len(more.addrs)+len(more.routes)+len(more.neighs) > 0 {
		t.Errorf("%s: lacks %+v, has too much %+v", name, less, more)
	}
}

func TestEnsureAndPrune(t *testing.T) {
	inst := newInstance(t)
	h := openHost(t, inst)
	want := world(inst, 3)
	f := ensure(t, h, want)
	check(t, h, want)
	if f.Anchor == 0 || f.Anchor != f.Ifindex[inst.AnchorDevice()] || f.NetnsCookie == 0 {
		t.Errorf("anchor %d, cookie %d", f.Anchor, f.NetnsCookie)
	}
	for _, name := range []string{inst.PortDevice(1), inst.PortDevice(3), inst.HostDevice(1), inst.SwitchDevice(1)} {
		if f.Ifindex[name] == 0 {
			t.Errorf("no ifindex of %s", name)
		}
	}
	if !slices.Contains(f.HostAddrs, netip.MustParseAddr("172.30.0.1")) || !slices.Contains(f.HostAddrs, netip.MustParseAddr("fd30::1")) {
		t.Errorf("host addresses %v lack the gateway", f.HostAddrs)
	}
	for _, path := range []string{"ipv4/conf/" + inst.AnchorDevice() + "/forwarding", "ipv6/conf/" + inst.AnchorDevice() + "/forwarding"} {
		if b, err := os.ReadFile("/proc/sys/net/" + path); err != nil || strings.TrimSpace(string(b)) != "1" {
			t.Errorf("%s: %q %v, want 1", path, b, err)
		}
	}

	again := ensure(t, h, world(inst, 3)) // equal, not identical
	for name, index := range f.Ifindex {
		if again.Ifindex[name] != index {
			t.Errorf("%s was made anew", name)
		}
	}
	fewer := want
	fewer.Compartments = want.Compartments[1:]
	prune(t, h, fewer)
	check(t, h, fewer)
	if f := ensure(t, h, fewer); f.Ifindex[inst.PortDevice(1)] != 0 {
		t.Error("facts have a pruned device")
	}
	prune(t, h, model.Desired{})
	check(t, h, model.Desired{})
}

// TestPruneMeetsAgain: what one Prune could not remove, the next one does.
func TestPruneMeetsAgain(t *testing.T) {
	h := openHost(t, newInstance(t))
	want := world(h.inst, 1)
	ensure(t, h, want)
	prune(t, h, want)
	path := want.Compartments[0].Path
	in := filepath.Join(path, "in the way")
	if err := errors.Join(unix.Unmount(path, unix.MNT_DETACH), os.Remove(path), os.MkdirAll(in, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := h.Prune(context.Background(), model.Desired{}); err == nil {
		t.Fatal("a directory that is not empty was removed")
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	touch(t, path)
	prune(t, h, model.Desired{})
	if inv, err := h.Owned(context.Background()); err != nil || len(inv.Namespaces) > 0 {
		t.Errorf("left over: %v, %v", inv.Namespaces, err)
	}
}

func TestChangeInPlace(t *testing.T) {
	inst := newInstance(t)
	h := openHost(t, inst)
	want := world(inst, 1)
	before := ensure(t, h, want)

	changed := world(inst, 1)
	v := &changed.Compartments[0].VNICs[0]
	v.MTU, v.MAC = 1400, mac(777)
	v.Addrs = []netip.Prefix{v.Addrs[1], netip.MustParsePrefix("172.30.9.9/32"), netip.MustParsePrefix("169.254.9.9/32")}
	v.Routes = []model.Route{
		{Dst: netip.MustParsePrefix("10.0.0.0/8"), NextHop: netip.MustParseAddr("172.30.0.1"), Metric: 7}, // on no prefix of ours
		{Dst: netip.MustParsePrefix("fd99::/64"), NextHop: netip.MustParseAddr("fd30::1")},
		{Dst: netip.MustParsePrefix("192.0.2.0/24")},
	}
	v.Neighbours = []model.Neighbour{{Addr: netip.MustParseAddr("172.30.0.1"), MAC: mac(5)}}
	changed.HostNICs[0].Addrs = []netip.Prefix{netip.MustParsePrefix("172.30.0.2/20")}
	after := ensure(t, h, changed)
	check(t, h, changed)
	if before.Ifindex[v.PortName] != after.Ifindex[v.PortName] {
		t.Error("the vNIC was made anew")
	}
	if out := inside(t, changed.Compartments[0].Path, "link", "show", "eth0"); !strings.Contains(out, "mtu 1400") {
		t.Errorf("MTU: %s", out)
	}
	ensure(t, h, want)
	check(t, h, want)
}

// TestAddressInPlace: the routes by a prefix outlive the address that is exchanged for
// another of it.
func TestAddressInPlace(t *testing.T) {
	inst := newInstance(t)
	h := openHost(t, inst)
	want := world(inst, 1)
	ensure(t, h, want)
	changed := world(inst, 1)
	v := &changed.Compartments[0].VNICs[0]
	v.Addrs = []netip.Prefix{netip.MustParsePrefix("172.30.9.9/20"), netip.MustParsePrefix("fd30::99/64")}
	ensure(t, h, changed)
	check(t, h, changed)
}

func TestWorkloadsOwnRoutesStay(t *testing.T) {
	inst := newInstance(t)
	h := openHost(t, inst)
	want := world(inst, 1)
	ensure(t, h, want)
	path := want.Compartments[0].Path
	inside(t, path, "route", "add", "198.51.100.0/24", "via", "172.30.0.1")
	if _, err := h.Verify(context.Background(), want); err != nil {
		t.Fatal(err)
	}
	if out := inside(t, path, "route"); !strings.Contains(out, "198.51.100.0/24") {
		t.Errorf("a route of the workload is gone:\n%s", out)
	}
}

// TestCrashHalfWay makes what a killed daemon could leave behind, in many states.
func TestCrashHalfWay(t *testing.T) {
	want := func(inst instance.Instance) model.Desired { return world(inst, 3) }
	ip := func(t *testing.T, args ...string) { t.Helper(); nettest.Host(t).Exec("ip", args...) }
	for name, crash := range map[string]func(t *testing.T, inst instance.Instance){
		"anchor without block": func(t *testing.T, i instance.Instance) {
			ip(t, "link", "add", i.AnchorDevice(), "type", "veth", "peer", i.AnchorPeer())
		},
		"anchor of other halves": func(t *testing.T, i instance.Instance) {
			ip(t, "link", "add", i.AnchorDevice(), "type", "veth", "peer", "x1")
			ip(t, "link", "add", i.AnchorPeer(), "type", "veth", "peer", "x2")
		},
		"host vNIC without addresses": func(t *testing.T, i instance.Instance) {
			ip(t, "link", "add", i.HostDevice(1), "type", "veth", "peer", i.SwitchDevice(1))
		},
		"namespace file without mount": func(t *testing.T, i instance.Instance) {
			touch(t, i.NetNs("ns0001"))
			touch(t, i.NetNs("orphan"))
		},
		"empty namespace with loopback down": func(t *testing.T, i instance.Instance) {
			touch(t, i.NetNs("ns0001"))
			if out, err := exec.Command("unshare", "--net="+i.NetNs("ns0001"), "true").CombinedOutput(); err != nil {
				t.Fatalf("unshare: %v %s", err, out)
			}
		},
		"vNIC whose other end is elsewhere": func(t *testing.T, i instance.Instance) {
			ip(t, "link", "add", i.PortDevice(1), "type", "veth", "peer", "x3")
		},
		"orphans": func(t *testing.T, i instance.Instance) {
			ip(t, "link", "add", i.PortDevice(0x77), "type", "veth", "peer", "x4")
			ip(t, "link", "add", i.HostDevice(9), "type", "veth", "peer", i.SwitchDevice(9))
		},
		"half a life": func(t *testing.T, i instance.Instance) {
			h := openHost(t, i)
			d := world(i, 5)
			ensure(t, h, d)
			h.Close()
			for _, c := range []string{"ns0002", "ns0004"} {
				if err := dropNamespace(i.NetNs(c)); err != nil {
					t.Fatal(err)
				}
			}
			ip(t, "link", "del", i.PortDevice(3))
			inside(t, i.NetNs("ns0001"), "address", "flush", "dev", "eth0")
			inside(t, i.NetNs("ns0001"), "link", "set", "eth0", "down")
			nettest.Host(t).Exec("tc", "qdisc", "del", "dev", i.PortDevice(1), "clsact")
			ip(t, "address", "flush", "dev", i.HostDevice(1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			inst := newInstance(t)
			if err := shareDir(filepath.Join(inst.Run, "netns")); err != nil {
				t.Fatal(err)
			}
			crash(t, inst)
			t.Cleanup(func() {
				for _, d := range []string{"x1", "x2", "x3", "x4"} {
					exec.Command("ip", "link", "del", d).Run()
				}
			})
			h := openHost(t, inst)
			w := want(inst)
			ensure(t, h, w)
			prune(t, h, w)
			check(t, h, w)
		})
	}
}

func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
}

// TestAdoption: another life finds everything and makes nothing anew.
func TestAdoption(t *testing.T) {
	inst := newInstance(t)
	h := openHost(t, inst)
	want := world(inst, 20)
	before := ensure(t, h, want)
	h.Close()
	h = openHost(t, inst)
	start := time.Now()
	after := ensure(t, h, want)
	t.Logf("adopting 20 compartments took %v", time.Since(start))
	prune(t, h, want)
	check(t, h, want)
	for name, index := range before.Ifindex {
		if after.Ifindex[name] != index {
			t.Errorf("%s was made anew", name)
		}
	}
}

func TestForeignNamespace(t *testing.T) {
	inst := newInstance(t)
	h := openHost(t, inst)
	ns := nettest.NewNS(t)
	want := world(inst, 1)
	c := &want.Compartments[0]
	c.Foreign, c.Path = true, ns.Path()
	ensure(t, h, want)
	check(t, h, want)

	t.Run("a second vNIC, then only it", func(t *testing.T) {
		two := oneCompartment(inst, 2).VNICs[0]
		two.Name, two.Routes = "eth1", nil
		more := want
		more.Compartments = []model.Compartment{*c}
		more.Compartments[0].VNICs = append(slices.Clip(c.VNICs), two)
		ensure(t, h, more)
		check(t, h, more)
		more.Compartments = slices.Clone(more.Compartments)
		more.Compartments[0].VNICs = more.Compartments[0].VNICs[1:]
		ensure(t, h, more)
		prune(t, h, more)
		check(t, h, more)
		if got := ns.Links(); slices.Contains(got, "eth0") || !slices.Contains(got, "eth1") {
			t.Errorf("devices %v, want eth1 and not eth0", got)
		}
		ensure(t, h, want)
		prune(t, h, want)
		check(t, h, want)
	})
	t.Run("interface that is not ours", func(t *testing.T) {
		bad := world(inst, 2)
		bad.Compartments[0] = *c
		bad.Compartments[1].Foreign, bad.Compartments[1].Path = true, ns.Path()
		bad.Compartments[1].VNICs[0].Name = "lo"
		if _, err := h.Ensure(context.Background(), bad); !errdefs.IsAlreadyExists(err) {
			t.Errorf("error %v, want already exists", err)
		}
		prune(t, h, want)
		check(t, h, want)
	})
	t.Run("path that is no namespace", func(t *testing.T) {
		bad := world(inst, 2)
		bad.Compartments[0] = *c
		bad.Compartments[1].Foreign, bad.Compartments[1].Path = true, "/tmp"
		if _, err := h.Ensure(context.Background(), bad); !errdefs.IsNotFound(err) {
			t.Errorf("error %v, want not found", err)
		}
	})
	t.Run("namespace gone", func(t *testing.T) {
		other := nettest.NewNS(t)
		d := world(inst, 2)
		d.Compartments[0] = *c
		d.Compartments[1].Foreign, d.Compartments[1].Path = true, other.Path()
		ensure(t, h, d)
		gone := other.Path() + ".gone"
		d.Compartments = slices.Clone(d.Compartments)
		d.Compartments[1].Path = gone
		ensure(t, h, d) // nothing can be done, and nobody else must suffer
		if _, err := h.Verify(context.Background(), d); err != nil {
			t.Errorf("verify with a namespace gone: %v", err)
		}
	})
	prune(t, h, model.Desired{})
	if got := ns.Links(); slices.Contains(got, "eth0") {
		t.Errorf("devices %v after prune", got)
	}
	if _, err := os.Stat(ns.Path()); err != nil {
		t.Errorf("the foreign namespace itself was removed: %v", err)
	}
}

// TestSameNamesAtOnce: names are given out again while what had them is on its
// way out.
func TestSameNamesAtOnce(t *testing.T) {
	inst := newInstance(t)
	h := openHost(t, inst)
	ctx := context.Background()
	want := world(inst, 2)
	for range 5 {
		ensure(t, h, want)
		if err := h.Prune(ctx, model.Desired{}); err != nil { // no waiting
			t.Fatal(err)
		}
	}
	ensure(t, h, want)
	if err := h.Prune(ctx, want); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * reapAfter) // whatever the reaper had in mind has happened
	check(t, h, want)
}

func TestEndHeldOpen(t *testing.T) {
	inst := newInstance(t)
	h := openHost(t, inst)
	want := world(inst, 1)
	ensure(t, h, want)
	// A process that will not die keeps the namespace.
	fd, err := openNamespace(want.Compartments[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	prune(t, h, model.Desired{})
	check(t, h, model.Desired{})
}

func TestTwoInstances(t *testing.T) {
	a, b := newInstance(t), newInstance(t)
	ha, hb := openHost(t, a), openHost(t, b)
	wa, wb := world(a, 2), world(b, 2)
	wb.HostNICs[0].Addrs = []netip.Prefix{netip.MustParsePrefix("172.29.0.1/24")}
	ensure(t, ha, wa)
	ensure(t, hb, wb)
	prune(t, ha, wa)
	prune(t, hb, wb)
	check(t, ha, wa)
	check(t, hb, wb)
	prune(t, ha, model.Desired{})
	check(t, hb, wb)
}

func TestDestroyLeavesNothing(t *testing.T) {
	inst := newInstance(t)
	h := openHost(t, inst)
	ensure(t, h, world(inst, 3))
	if err := h.Destroy(context.Background()); err != nil {
		t.Fatal(err)
	}
	inv, err := Owned(inst)
	if err != nil {
		t.Fatal(err)
	}
	if len(inv.Devices)+len(inv.Namespaces)+len(inv.Mounts) > 0 {
		t.Errorf("left: %+v", inv)
	}
}

// TestUnmountReachesCopies: a mount namespace made later, as a worker's is, must
// not keep a dropped compartment alive.
func TestUnmountReachesCopies(t *testing.T) {
	inst := newInstance(t)
	h := openHost(t, inst)
	want := world(inst, 1)
	ensure(t, h, want)
	worker := exec.Command("unshare", "--mount", "--propagation", "slave", "sleep", "60")
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { worker.Process.Kill(); worker.Wait() }()
	copies := func() bool {
		b, _ := os.ReadFile("/proc/" + itoa(worker.Process.Pid) + "/mountinfo")
		return strings.Contains(string(b), want.Compartments[0].Path)
	}
	waitFor(t, "the worker has no copy", copies)
	if err := h.Prune(context.Background(), model.Desired{}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the worker keeps its copy", func() bool { return !copies() })
}

func waitFor(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}
