// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/network/model"
)

// Candidates are the interfaces of the host that networks can be bound to, in order
// of ifindex: every Ethernet device that is not ours, not loopback, and not a member
// of a bridge or bond, whose frames are the master's. It asks the kernel each time.
func (h *Host) Candidates() ([]model.Uplink, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	links, err := dump(h.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("uplinks: list devices: %w", err)
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return h.nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("uplinks: list addresses: %w", err)
	}
	way, err := h.defaultDevice()
	if err != nil {
		return nil, err
	}
	kinds := map[int]string{}
	for _, l := range links {
		kinds[l.Attrs().Index] = l.Type()
	}
	var out []model.Uplink
	for _, l := range links {
		a := l.Attrs()
		// A VRF's members see their frames before it does.
		member := a.MasterIndex != 0 && kinds[a.MasterIndex] != "vrf"
		if h.inst.OwnsDevice(a.Name) || a.RawFlags&unix.IFF_LOOPBACK != 0 || a.EncapType != "ether" || member {
			continue
		}
		u := model.Uplink{Name: a.Name, AltNames: a.AltNames, Alias: a.Alias, Ifindex: a.Index, Default: a.Index == way}
		for _, x := range addrs {
			if p, ok := fromNet(x.IPNet); ok && x.LinkIndex == a.Index && isGlobal(uint8(x.Scope)) && isHostAddr(p.Addr()) && !passing(x.Flags) {
				u.Addrs = append(u.Addrs, p)
			}
		}
		out = append(out, u)
	}
	slices.SortFunc(out, func(a, b model.Uplink) int { return cmp.Compare(a.Ifindex, b.Ifindex) })
	return out, nil
}

// passing says of an address's flags that others should not be told of it: somebody
// else has it, or it is not for long.
func passing(flags int) bool {
	return flags&(unix.IFA_F_DADFAILED|unix.IFA_F_TEMPORARY|unix.IFA_F_DEPRECATED) != 0
}

// defaultDevice is the interface of the host's default route of the lowest metric,
// IPv4 before IPv6; 0 = there is none.
func (h *Host) defaultDevice() (int, error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := dump(func() ([]netlink.Route, error) {
			return h.nl.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN, Dst: nil}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
		})
		if err != nil {
			return 0, fmt.Errorf("uplinks: list routes: %w", err)
		}
		device, metric := 0, 0
		for _, r := range routes {
			index := r.LinkIndex
			if len(r.MultiPath) > 0 {
				index = r.MultiPath[0].LinkIndex
			}
			if index != 0 && r.Type == unix.RTN_UNICAST && (device == 0 || r.Priority < metric) {
				device, metric = index, r.Priority
			}
		}
		if device != 0 {
			return device, nil
		}
	}
	return 0, nil
}
