// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

//go:build failpoint

package network

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/compartment"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// agree holds store, World, tables, kernel and what the process has against each
// other, and returns all that differs.
func (d *tortured) agree(ctx context.Context) error {
	if err := d.comps.Settle(ctx); err != nil {
		return fmt.Errorf("settle: %w", err)
	}
	w := d.h.World()
	want := w.Desired()
	return errors.Join(d.storeAgrees(w, want), d.tablesAgree(want), d.devicesAgree(want), d.portsAgree(want))
}

// storeAgrees: the World of the store's rows is the living one.
func (d *tortured) storeAgrees(w model.World, want model.Desired) error {
	loaded, _, err := d.h.load()
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if a, b := rowsOf(loaded), rowsOf(w); !slices.Equal(a, b) {
		return fmt.Errorf("store and World differ (-store +World):\n%s", cmp.Diff(a, b))
	}
	if loaded.Numbers() != w.Numbers() {
		return fmt.Errorf("numbers: the store has %+v, the World %+v", loaded.Numbers(), w.Numbers())
	}
	again := loaded.Desired()
	diff := cmp.Diff(again, want, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
		cmp.Exporter(func(reflect.Type) bool { return true }))
	if diff != "" {
		return fmt.Errorf("what is desired differs (-store +World):\n%s", diff)
	}
	return nil
}

// rowsOf are all rows as the store has them, in order.
func rowsOf(w model.World) []string {
	var out []string
	for _, rows := range []any{w.AllNetworks(), w.AllEndpoints(), w.AllNamespaces(), w.AllLoadBalancers(), w.AllSDNRoutes(), w.AllReservations(), w.AllGuestServices(), w.AllServices()} {
		v := reflect.ValueOf(rows)
		for i := range v.Len() {
			raw, err := model.Encode(v.Index(i).Interface())
			if err != nil {
				raw = []byte(err.Error())
			}
			out = append(out, string(raw))
		}
	}
	return out
}

// sum tells two Worlds apart.
func sum(w model.World) string {
	h := sha256.New()
	for _, r := range rowsOf(w) {
		h.Write([]byte(r))
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8])
}

// tablesAgree: compiled from nothing, as compiled step by step, as in the maps.
func (d *tortured) tablesAgree(want model.Desired) error {
	t, err := vswitch.Compile(want.Switch, d.h.Facts())
	if err != nil {
		return fmt.Errorf("compile: %w", err)
	}
	grown := d.h.tables.Load()
	if a, b := t.String(), grown.String(); a != b {
		return fmt.Errorf("tables differ (-from nothing +step by step):\n%s", cmp.Diff(strings.Split(a, "\n"), strings.Split(b, "\n")))
	}
	gens, err := os.ReadDir(filepath.Join(d.inst.Pins, "gen"))
	if err != nil || len(gens) != 1 {
		return fmt.Errorf("generations pinned: %v, %w; want one", gens, err)
	}
	current, err := ebpf.LoadPinnedMap(filepath.Join(d.inst.Pins, "current"), nil)
	if err != nil {
		return err
	}
	defer current.Close()
	var n uint32
	if err := current.Lookup(uint32(0), &n); err != nil || strconv.Itoa(int(n)) != gens[0].Name() {
		return fmt.Errorf("current generation %d, %w; pinned is %s", n, err, gens[0].Name())
	}
	dir := filepath.Join(d.inst.Pins, "gen", gens[0].Name(), "maps")
	delta := vswitch.Diff(vswitch.Tables{}, t)
	rows := map[string][]vswitch.Step{}
	for _, s := range delta.Steps {
		rows[s.Map] = append(rows[s.Map], s)
	}
	var errs []error
	for _, name := range bpf.ConfigMaps() {
		errs = append(errs, mapAgrees(filepath.Join(dir, name), name, rows[name]))
		delete(rows, name)
	}
	for name := range rows {
		errs = append(errs, fmt.Errorf("map %s is not looked at here", name))
	}
	return errors.Join(errs...)
}

// mapAgrees: a map has the rows of steps and no others.
func mapAgrees(path, name string, steps []vswitch.Step) error {
	m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer m.Close()
	want := map[string]bool{}
	for _, s := range steps {
		for i := range s.Rows {
			k, v := s.At(i)
			value := reflect.New(reflect.TypeOf(v).Elem())
			if err := m.Lookup(k, value.Interface()); err != nil {
				return fmt.Errorf("map %s: row %+v: %w", name, reflect.ValueOf(k).Elem(), err)
			}
			if !reflect.DeepEqual(value.Interface(), v) {
				return fmt.Errorf("map %s: row %+v is %+v, want %+v", name, reflect.ValueOf(k).Elem(), value.Elem(), reflect.ValueOf(v).Elem())
			}
			if m.Type() != ebpf.Array || !value.Elem().IsZero() {
				want[fmt.Sprintf("%+v", reflect.ValueOf(k).Elem())] = true
			}
		}
	}
	have := 0
	var key, value []byte
	for it := m.Iterate(); it.Next(&key, &value); {
		if m.Type() == ebpf.Array && len(slices.Compact(slices.Concat([]byte{0}, value))) == 1 {
			continue // never written, or gone
		}
		have++
	}
	if have != len(want) {
		return fmt.Errorf("map %s has %d rows, want %d", name, have, len(want))
	}
	return nil
}

// devicesAgree: devices, namespaces and what is in them, in the kernel.
func (d *tortured) devicesAgree(want model.Desired) error {
	inv, err := compartment.Owned(d.inst)
	if err != nil {
		return err
	}
	var errs []error
	differ := func(what string, have, want []string) {
		slices.Sort(have)
		slices.Sort(want)
		if !slices.Equal(have, want) {
			errs = append(errs, fmt.Errorf("%s differ (-kernel +desired):\n%s", what, cmp.Diff(have, want)))
		}
	}
	devices := []string{d.inst.AnchorDevice(), d.inst.AnchorPeer()}
	var spaces []string
	for _, n := range want.HostNICs {
		devices = append(devices, n.Name, n.SwitchName)
	}
	for _, n := range want.Tunnels {
		devices = append(devices, n.Name)
	}
	for _, t := range want.Taps {
		devices = append(devices, t.Name)
	}
	for p := range want.Switch.AllPorts() {
		if p.EgressBps != 0 {
			devices = append(devices, p.Shaper, p.ShaperPeer)
		}
	}
	for c := range want.AllCompartments() {
		if !c.Foreign {
			spaces = append(spaces, c.Path)
		}
		for _, v := range c.VNICs {
			devices = append(devices, v.PortName)
			if v.Host {
				devices = append(devices, v.Name)
			}
		}
	}
	differ("devices", inv.Devices, devices)
	differ("namespaces", inv.Namespaces, spaces)
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer nl.Close()
	facts := d.h.Facts()
	for _, name := range devices {
		l, err := nl.LinkByName(name)
		if err != nil {
			continue // told above
		}
		if got := facts.Ifindex[name]; got != l.Attrs().Index {
			errs = append(errs, fmt.Errorf("facts say %s has ifindex %d, it has %d", name, got, l.Attrs().Index))
		}
		if l.Attrs().RawFlags&unix.IFF_UP == 0 {
			errs = append(errs, fmt.Errorf("%s is not up", name))
		}
	}
	for _, n := range want.HostNICs {
		errs = append(errs, deviceAgrees(nl, "host", n.Name, n.MAC, n.Addrs, nil, nil))
	}
	for p := range want.Switch.AllPorts() {
		if p.EgressBps != 0 {
			errs = append(errs, rateAgrees(nl, p.Shaper, p.EgressBps))
		}
	}
	for c := range want.AllCompartments() {
		if c.Foreign {
			for _, v := range c.VNICs {
				errs = append(errs, deviceAgrees(nl, "host", v.Name, v.MAC, v.Addrs, nil, nil))
			}
			continue
		}
		errs = append(errs, compartment.Do(c.Path, func() error {
			in, err := netlink.NewHandle(unix.NETLINK_ROUTE)
			if err != nil {
				return err
			}
			defer in.Close()
			var errs []error
			names := []string{"lo"}
			for _, v := range c.VNICs {
				names = append(names, v.Name)
				errs = append(errs, deviceAgrees(in, c.ID, v.Name, v.MAC, v.Addrs, v.Routes, v.Neighbours))
			}
			links, err := in.LinkList()
			var have []string
			for _, l := range links {
				have = append(have, l.Attrs().Name)
			}
			slices.Sort(have)
			slices.Sort(names)
			if !slices.Equal(have, names) {
				errs = append(errs, fmt.Errorf("namespace %s has %v, want %v", c.ID, have, names))
			}
			return errors.Join(append(errs, err, redirectsAgree(c))...)
		}))
	}
	return errors.Join(errs...)
}

// redirectsAgree: the compartment that the caller is in has as many as are wanted.
func redirectsAgree(c *model.Compartment) error {
	want := 0
	for _, r := range c.Redirects {
		for _, s := range []model.ProxySide{r.In, r.Out} {
			want += min(int(s.Port), 1)
		}
	}
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	chains, err := conn.ListChains()
	if err != nil {
		return err
	}
	have := 0
	for _, chain := range chains {
		if chain.Hooknum == nil {
			continue
		}
		rules, err := conn.GetRules(chain.Table, chain)
		if err != nil {
			return err
		}
		have += len(rules)
	}
	if have != want {
		return fmt.Errorf("namespace %s has %d redirects, want %d", c.ID, have, want)
	}
	return nil
}

func rateAgrees(nl *netlink.Handle, name string, rate uint64) error {
	l, err := nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	qs, err := nl.QdiscList(l)
	if err != nil {
		return err
	}
	for _, q := range qs {
		if t, ok := q.(*netlink.Tbf); ok && t.Rate == rate {
			return nil
		}
	}
	return fmt.Errorf("%s has no queue of %d bytes a second: %v", name, rate, qs)
}

func deviceAgrees(nl *netlink.Handle, where, name string, mac vswitch.MAC, addrs []netip.Prefix, routes []model.Route, neighbours []model.Neighbour) error {
	l, err := nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", where, name, err)
	}
	var errs []error
	a := l.Attrs()
	if a.RawFlags&unix.IFF_UP == 0 || string(a.HardwareAddr) != string(mac[:]) {
		errs = append(errs, fmt.Errorf("%s: %s has MAC %s and flags %#x, want %x and up", where, name, a.HardwareAddr, a.RawFlags, mac))
	}
	all, err := nl.AddrList(l, netlink.FAMILY_ALL)
	errs = append(errs, err)
	have, want := map[string]bool{}, map[string]bool{}
	for _, x := range all {
		if x.IP.To4() != nil || !x.IP.IsLinkLocalUnicast() {
			have["address "+x.IPNet.String()] = true
		}
	}
	for _, p := range addrs {
		want["address "+p.String()] = true
	}
	if routes != nil {
		rs, err := nl.RouteList(l, netlink.FAMILY_ALL)
		errs = append(errs, err)
		for _, r := range rs {
			if r.Protocol != unix.RTPROT_KERNEL {
				have["route "+ofRoute(r)] = true
			}
		}
		for _, r := range routes {
			hop := ""
			if r.NextHop.IsValid() {
				hop = r.NextHop.String()
			}
			want["route "+r.Dst.Masked().String()+" via "+hop] = true
		}
	}
	if neighbours != nil {
		ns, err := nl.NeighList(a.Index, netlink.FAMILY_ALL)
		errs = append(errs, err)
		for _, n := range ns {
			if n.State&netlink.NUD_PERMANENT != 0 && !n.IP.IsMulticast() {
				have["neighbour "+n.IP.String()+" "+n.HardwareAddr.String()] = true
			}
		}
		for _, n := range neighbours {
			want["neighbour "+n.Addr.String()+" "+n.MAC.String()] = true
		}
	}
	if !maps.Equal(have, want) {
		errs = append(errs, fmt.Errorf("%s: %s differs (-kernel +desired):\n%s", where, name, cmp.Diff(have, want)))
	}
	return errors.Join(errs...)
}

func ofRoute(r netlink.Route) string {
	dst, hop := "", ""
	if r.Dst != nil {
		dst = r.Dst.String()
	} else if r.Family == unix.AF_INET6 {
		dst = "::/0"
	} else {
		dst = "0.0.0.0/0"
	}
	if r.Gw != nil {
		hop = r.Gw.String()
	}
	return dst + " via " + hop
}

// portsAgree: what is to be held on the host is, and nothing else of this process.
func (d *tortured) portsAgree(want model.Desired) error {
	if errs := d.ports.Set(context.Background(), want.HostPorts); errs != nil {
		return fmt.Errorf("ports: %w", errors.Join(errs...))
	}
	return nil
}

// descriptors counts the descriptors of this process by kind, for what grows.
func descriptors() map[string]int {
	out := map[string]int{}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil {
			continue
		}
		kind, _, _ := strings.Cut(to, ":[")
		if strings.HasPrefix(to, "/") {
			kind = "file"
		}
		out[kind]++
	}
	return out
}

// settled is f's error after it had some time to go away: devices of a namespace
// that was dropped go in the kernel's own time.
func settled(f func() error) error {
	var err error
	for range 200 {
		if err = f(); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}
