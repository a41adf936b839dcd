// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

// An interface drops frames for MACs that it does not know, in hardware or in its
// driver. So those of endpoints that are seen on the wire as they are go into the
// unicast filter of their uplink; where that is refused the uplink receives all.
//
// The kernel does not say who put an address there. What we did is therefore
// written down in a pinned map before it is done, and crossed out after it was
// taken back: a daemon that was killed in between leaves at most an entry too many.

// heardMAC is an address that an uplink was told to receive, or with a zero MAC
// that it was told to receive everything.
type heardMAC struct {
	Ifindex uint32
	MAC     vswitch.MAC
	_       [2]byte
}

func macsPin(pins string) string { return filepath.Join(pins, "macs") }

// openMACs opens the record; nil where nothing was ever written down.
func openMACs(pins string) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(macsPin(pins), nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return m, err
}

func createMACs(pins string) (*ebpf.Map, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "gh_macs", Type: ebpf.Hash, KeySize: 12, ValueSize: 1, MaxEntries: 65536, Flags: unix.BPF_F_NO_PREALLOC})
	if err != nil {
		return nil, err
	}
	if err := m.Pin(macsPin(pins)); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func heardMACs(m *ebpf.Map) (map[heardMAC]bool, error) {
	all := map[heardMAC]bool{}
	var k heardMAC
	var v uint8
	it := m.Iterate()
	for it.Next(&k, &v) {
		all[k] = true
	}
	return all, it.Err()
}

// hearMACs makes uplinks receive what t wants, and no more of ours.
func (d *Datapath) hearMACs(t vswitch.Tables) error {
	want := map[heardMAC]bool{}
	for ifindex, macs := range t.HeardMACs() {
		for _, mac := range macs {
			want[heardMAC{Ifindex: uint32(ifindex), MAC: mac}] = true
		}
	}
	if d.macs == nil {
		m, err := openMACs(d.o.Pins)
		if err == nil && m == nil {
			if len(want) == 0 {
				return nil
			}
			m, err = createMACs(d.o.Pins)
		}
		if err != nil {
			return fmt.Errorf("record of MACs: %w", err)
		}
		d.macs = m
	}
	m := d.macs
	have, err := heardMACs(m)
	if err != nil {
		return fmt.Errorf("record of MACs: %w", err)
	}
	var errs []error
	all := map[uint32]bool{} // uplinks that receive everything for us
	for k := range want {
		if everything := (heardMAC{Ifindex: k.Ifindex}); have[everything] {
			all[k.Ifindex] = true
			delete(have, everything)
			continue
		}
		if have[k] {
			delete(have, k)
			continue
		}
		if all[k.Ifindex] {
			continue
		}
		everything, err := d.hear(m, k)
		if everything {
			all[k.Ifindex] = true
		}
		errs = append(errs, err)
	}
	for k := range have {
		if !all[k.Ifindex] || k.MAC != (vswitch.MAC{}) {
			errs = append(errs, unhear(d.nl, m, k))
		}
	}
	return errors.Join(errs...)
}

// hear adds one address; everything tells that the uplink was made to receive all.
func (d *Datapath) hear(m *ebpf.Map, k heardMAC) (everything bool, err error) {
	if err := m.Put(k, uint8(1)); err != nil {
		return false, fmt.Errorf("record of MACs: %w", err)
	}
	err = d.nl.NeighAdd(filterEntry(k))
	switch {
	case err == nil:
		return false, nil
	case errors.Is(err, unix.ENODEV):
		return false, m.Delete(k)
	case errors.Is(err, unix.EEXIST): // another's, who may want it longer than we do
		return false, m.Delete(k)
	}
	d.log.Warn("the uplink has no room for MACs; it is made to receive everything", "ifindex", k.Ifindex, "error", err)
	if err := m.Delete(k); err != nil {
		return false, err
	}
	dev, err := d.nl.LinkByIndex(int(k.Ifindex))
	if err != nil {
		return false, fmt.Errorf("uplink %d: %w", k.Ifindex, err)
	}
	if dev.Attrs().RawFlags&unix.IFF_PROMISC != 0 {
		return true, nil // not by us
	}
	if err := m.Put(heardMAC{Ifindex: k.Ifindex}, uint8(1)); err != nil {
		return false, fmt.Errorf("record of MACs: %w", err)
	}
	if err := d.nl.SetPromiscOn(dev); err != nil {
		return false, fmt.Errorf("make uplink %s receive everything: %w", dev.Attrs().Name, err)
	}
	return true, nil
}

// unhear takes one address back, and then crosses it out.
func unhear(nl *netlink.Handle, m *ebpf.Map, k heardMAC) error {
	var err error
	if k.MAC != (vswitch.MAC{}) {
		err = nl.NeighDel(filterEntry(k))
	} else if dev, lerr := nl.LinkByIndex(int(k.Ifindex)); lerr == nil {
		err = nl.SetPromiscOff(dev)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("uplink %d no longer receives %s: %w", k.Ifindex, k.MAC, err)
	}
	return m.Delete(k)
}

// destroyMACs takes everything back.
func destroyMACs(nl *netlink.Handle, pins string) error {
	m, err := openMACs(pins)
	if m == nil || err != nil {
		return err
	}
	defer m.Close()
	have, err := heardMACs(m)
	errs := []error{err}
	for k := range have {
		errs = append(errs, unhear(nl, m, k))
	}
	return errors.Join(errs...)
}

func filterEntry(k heardMAC) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: int(k.Ifindex), Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT,
		HardwareAddr: net.HardwareAddr(k.MAC[:])}
}
