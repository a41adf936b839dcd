// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

// facts puts together what the view knows of others and what we know of ours, so
// that a host vNIC just made shows at once.
func (h *Host) facts() vswitch.Facts {
	if h.told == nil {
		h.told = maps.Clone(h.devices)
		h.version++
	}
	f := vswitch.Facts{Ifindex: h.told, Devices: h.version, Anchor: h.anchor, NetnsCookie: h.cookie, LocalPortLow: h.local[0], LocalPortHigh: h.local[1], LocalReserved: h.reserved}
	f.Uplinks, f.HostAddrs, f.Routes = h.view.facts()
	for _, n := range h.nics {
		for _, a := range n.want.Addrs {
			if isHostAddr(a.Addr()) {
				f.HostAddrs = append(f.HostAddrs, a.Addr())
			}
		}
	}
	for _, c := range h.foreign { // as the host's own is
		for _, v := range c.vnics {
			for _, a := range v.want.Addrs {
				if v.want.Host && isHostAddr(a.Addr()) {
					f.HostAddrs = append(f.HostAddrs, a.Addr())
				}
			}
		}
	}
	slices.SortFunc(f.HostAddrs, netip.Addr.Compare)
	f.HostAddrs = slices.Compact(f.HostAddrs)
	return f
}

// localPorts is the range that sockets of the host's namespace get their ports
// from, for both families, and what is left out of it. It is read once: nobody is
// told when it changes.
func localPorts() (r [2]uint16, reserved [][2]uint16, err error) {
	const dir = "/proc/sys/net/ipv4/"
	b, err := os.ReadFile(dir + "ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(string(b), &r[0], &r[1])
	}
	if err == nil {
		b, err = os.ReadFile(dir + "ip_local_reserved_ports")
	}
	if err != nil {
		return r, nil, fmt.Errorf("read the host's port range: %w", err)
	}
	return r, ReservedPorts(string(b)), nil
}

// ReservedPorts reads net.ipv4.ip_local_reserved_ports: "8080,9148-9200" are two
// ranges, each with its first and its last port.
func ReservedPorts(s string) (ranges [][2]uint16) {
	for r := range strings.SplitSeq(strings.TrimSpace(s), ",") {
		first, last, is := strings.Cut(r, "-")
		if !is {
			last = first
		}
		a, aerr := strconv.ParseUint(first, 10, 16)
		b, berr := strconv.ParseUint(last, 10, 16)
		if aerr == nil && berr == nil { // else: none are reserved
			ranges = append(ranges, [2]uint16{uint16(a), uint16(b)})
		}
	}
	return ranges
}

func isHostAddr(a netip.Addr) bool {
	return a.IsValid() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsMulticast() && !a.IsUnspecified()
}

// uplinksOf picks the devices traffic may leave by: up, Ethernet (the programs
// expect a link-layer header) and with an address that is more than link-local,
// or bound to an L2 network, which needs none.
func uplinksOf(links map[int]link, addrs map[int][]address, bound map[string]bool) ([]vswitch.Uplink, []netip.Addr) {
	var ups []vswitch.Uplink
	var local []netip.Addr
	for index, l := range links {
		if l.ours {
			continue
		}
		var global []netip.Prefix
		for _, a := range addrs[index] {
			if isHostAddr(a.prefix.Addr()) {
				local = append(local, a.prefix.Addr())
				if a.global {
					global = append(global, a.prefix)
				}
			}
		}
		if l.loopback || !l.up || !l.ethernet || len(global) == 0 && !bound[l.name] {
			continue
		}
		slices.SortFunc(global, func(a, b netip.Prefix) int {
			return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
		})
		ups = append(ups, vswitch.Uplink{Name: l.name, Ifindex: index, MAC: l.mac, MTU: uint16(min(l.mtu, 0xffff)), Addrs: global})
	}
	slices.SortFunc(ups, func(a, b vswitch.Uplink) int { return cmp.Compare(a.Ifindex, b.Ifindex) })
	slices.SortFunc(local, netip.Addr.Compare)
	return ups, slices.Compact(local)
}

func sameUplink(a, b vswitch.Uplink) bool {
	return a.Name == b.Name && a.Ifindex == b.Ifindex && a.MAC == b.MAC && a.MTU == b.MTU && slices.Equal(a.Addrs, b.Addrs)
}
