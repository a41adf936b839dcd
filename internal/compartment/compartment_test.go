// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"gatehouse.dev/gatehouse/internal/instance"
	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

// newInstance has a root of its own, and is checked for leaks when it ends.
func newInstance(t testing.TB) instance.Instance {
	t.Helper()
	nettest.RequireRoot(t)
	inst, err := instance.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(inst.Run, 0o755); err != nil {
		t.Fatal(err)
	}
	nettest.CheckLeaks(t, nettest.LeakOptions{Device: "gh" + inst.Tag, Dirs: []string{inst.Run}, Fds: true})
	t.Cleanup(func() {
		if err := Destroy(context.Background(), inst); err != nil {
			t.Error(err)
		}
		os.RemoveAll(filepath.Join(inst.Run, "netns"))
	})
	return inst
}

func openHost(t testing.TB, inst instance.Instance) *Host {
	t.Helper()
	h, err := Open(Options{Instance: inst, Log: slog.New(slog.NewTextHandler(testWriter{t}, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) { w.t.Logf("%s", p); return len(p), nil }

func mac(n int) vswitch.MAC { return vswitch.MAC{0x02, 0x47, 0x48, 0, byte(n >> 8), byte(n)} }

// world is one network and n compartments with one vNIC each.
func world(inst instance.Instance, n int) model.Desired {
	d := model.Desired{HostNICs: []model.HostNIC{{
		Network: "net", Name: inst.HostDevice(1), SwitchName: inst.SwitchDevice(1), MAC: mac(0xffff),
		Addrs: []netip.Prefix{netip.MustParsePrefix("172.30.0.1/20"), netip.MustParsePrefix("fd30::1/64")},
	}}}
	for i := range n {
		d.Compartments = append(d.Compartments, oneCompartment(inst, i+1))
	}
	return d
}

func oneCompartment(inst instance.Instance, i int) model.Compartment {
	gw4, gw6 := netip.MustParseAddr("172.30.0.1"), netip.MustParseAddr("fd30::1")
	id := fmt.Sprintf("ns%04d", i)
	return model.Compartment{ID: id, Path: inst.NetNs(id), VNICs: []model.VNIC{{
		Endpoint: fmt.Sprintf("ep%04d", i), Port: vswitch.PortID(i), PortName: inst.PortDevice(uint16(i)), Name: "eth0", MAC: mac(i),
		Addrs: []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 30, byte(i >> 8), byte(i)}), 20),
			netip.MustParsePrefix(fmt.Sprintf("fd30::%x/64", i+0x1000)),
		},
		Routes: []model.Route{
			{Dst: netip.MustParsePrefix("0.0.0.0/0"), NextHop: gw4},
			{Dst: netip.MustParsePrefix("::/0"), NextHop: gw6},
		},
		Neighbours: []model.Neighbour{{Addr: gw4, MAC: mac(0xffff)}, {Addr: gw6, MAC: mac(0xffff)}},
	}}}
}
