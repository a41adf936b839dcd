// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"bytes"
	"net/netip"
	"slices"
)

// MaxVLAN is the largest tag that names a VLAN (IEEE 802.1Q, table 9-2).
const MaxVLAN = 4094

// wire is a segment of an uplink.
type wire struct {
	uplink string
	vlan   uint16
}

// bound is what a network's ports take from the uplink it is bound to. The zero
// value is a network without one, or whose uplink is not there.
type bound struct {
	l2      bool // forwards by MAC
	rewrite bool // the uplink's MAC stands for those of endpoints
	port    PortID
	mac     MAC // of the uplink
	wire    MAC // that stands for endpoints there
	vlan    uint16
}

func (c *Compiler) boundOf(n *Network) bound {
	b := bound{l2: n.Flags&NetL2 != 0}
	if u, ok := c.uplinks.named[n.Uplink]; ok && n.Uplink != "" {
		b.rewrite, b.port, b.mac, b.vlan, b.wire = n.Flags&NetMACRewrite != 0, u.port, u.mac, n.VLAN, u.mac
		if n.WireMAC != (MAC{}) {
			b.wire = n.WireMAC
		}
	}
	return b
}

// boundNames are the uplinks that networks name, sorted.
func boundNames(ns []Network) []string {
	var names []string
	for i := range ns {
		if ns[i].Uplink != "" {
			names = append(names, ns[i].Uplink)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// checkBridge looks at the fields that decide how a network forwards.
func checkBridge(n *Network) error {
	const needL2 = NetMACRewrite | NetNoLocal | NetARPPass
	l2, bound := n.Flags&NetL2 != 0, n.Uplink != ""
	switch {
	case !l2 && n.Flags&needL2 != 0:
		return invalid("Flags %s: %s need l2, as the others know no MACs", n.Flags, n.Flags&needL2)
	case l2 && n.Flags&NetUplink != 0:
		return invalid("Flags %s: l2 reaches outside by the uplink that Uplink names, not by uplink", n.Flags)
	case l2 && n.Flags&NetSNAT != 0 && !bound:
		return invalid("Flags %s: snat needs an Uplink, as nothing leaves", n.Flags)
	case l2 && n.Overlay != (Overlay{}):
		return invalid("Overlay: what other hosts have is routed to, which l2 does not do")
	case bound && !l2:
		return invalid("Uplink %q: only networks with the flag l2 are bound to one", n.Uplink)
	case n.VLAN > MaxVLAN:
		return invalid("VLAN %d: tags are 1 to %d", n.VLAN, MaxVLAN)
	case n.VLAN != 0 && !bound:
		return invalid("VLAN %d: there is no uplink to tag frames at; set Uplink", n.VLAN)
	case bound && (n.Flags&NetMACRewrite != 0) == (n.Flags&NetARPPass != 0):
		return invalid("Flags %s: a network bound to an uplink needs one of mac-rewrite, where the switch answers for endpoints, and arp-pass", n.Flags)
	case !bound && n.Flags&(NetMACRewrite|NetNoLocal) != 0:
		return invalid("Flags %s: %s need an Uplink", n.Flags, n.Flags&(NetMACRewrite|NetNoLocal))
	case n.Flags&NetNoHost != 0 && !bound:
		return invalid("Flags %s: no-host needs an Uplink, behind which the host is", n.Flags)
	case n.WireMAC != (MAC{}) && n.Flags&NetMACRewrite == 0:
		return invalid("WireMAC %s: only with mac-rewrite one MAC stands for all", n.WireMAC)
	case n.WireMAC[0]&1 != 0:
		return invalid("WireMAC %s: not the address of one interface", n.WireMAC)
	case n.Flags&NetNoLocal != 0 && n.Flags&NetMACRewrite == 0:
		return invalid("Flags %s: no-local needs mac-rewrite, or what comes back could not be told from what goes out", n.Flags)
	}
	return nil
}

// checkWires looks at networks that share a segment of an uplink.
func checkWires(ns []Network) error {
	on := map[wire][]int{}
	for i := range ns {
		n := &ns[i]
		if n.Uplink == "" {
			continue
		}
		w := wire{n.Uplink, n.VLAN}
		for _, j := range on[w] {
			if err := checkShared(n, &ns[j]); err != nil {
				return invalid("Networks[%d] (%q): %w", i, n.Name, err)
			}
		}
		on[w] = append(on[w], i)
	}
	return nil
}

// checkShared: of two networks on one segment, one may show its MACs there, and
// an address may be of one only.
func checkShared(n, o *Network) error {
	at := "untagged"
	if n.VLAN != 0 {
		at = invalid("VLAN %d", n.VLAN).Error()
	}
	switch {
	case n.Flags&NetMACRewrite == 0 && o.Flags&NetMACRewrite == 0:
		return invalid("Uplink %q, %s: is also that of %q; give one of them another VLAN, or make them one network", n.Uplink, at, o.Name)
	case n.Flags&o.Flags&NetMACRewrite == 0:
		return nil
	}
	for i, a := range n.Subnets {
		for _, b := range o.Subnets {
			if a.Prefix.Overlaps(b.Prefix) {
				return invalid("Subnets[%d].Prefix %q: overlaps %q of %q on the same uplink %q, %s; frames from there could be for either", i,
					a.Prefix, b.Prefix, o.Name, n.Uplink, at)
			}
		}
	}
	return nil
}

// bridgeNetwork adds the rows of a network that is bound to an uplink.
func bridgeNetwork(b *block, n *Network, row *NetRow, u bound) {
	if u.port == 0 {
		return
	}
	row.Uplink, row.Vlan = uint16(u.port), u.vlan
	if u.rewrite {
		row.WireMac = u.wire
	}
	if u.mac != (MAC{}) {
		b.fdb = append(b.fdb, Entry[FdbKey, uint32]{fdbKey(n.Zone, u.mac), uint32(u.port)}) // the host
	}
	if !u.rewrite {
		b.segment = append(b.segment, Entry[SegmentKey, uint32]{SegmentKey{At: uint16(u.port), Vlan: u.vlan}, uint32(n.ID)})
	}
}

// bridgePort adds the rows of a port that concern its MACs.
func bridgePort(b *block, p *Port, x *netContext) {
	if x.bound.l2 {
		b.fdb = append(b.fdb, Entry[FdbKey, uint32]{fdbKey(x.zone, p.MAC), uint32(p.ID)})
	}
	for _, m := range p.MACs {
		b.fdb = append(b.fdb, Entry[FdbKey, uint32]{fdbKey(x.zone, m), uint32(p.ID)})
	}
	if !x.bound.rewrite || p.ID == x.hostPort {
		return
	}
	addrs := p.Addrs
	if a := linkLocal(p.MAC); !slices.Contains(addrs, a) {
		addrs = append(slices.Clone(addrs), a) // what routers answer a host's solicitations at
	}
	for _, a := range addrs {
		k := WireIPKey{Uplink: uint16(x.bound.port), Vlan: x.bound.vlan}
		k.Addr.B = a.As16()
		b.wireip = append(b.wireip, Entry[WireIPKey, uint32]{k, uint32(p.ID)})
	}
}

// checkMACs looks at the MACs of a port.
func checkMACs(p *Port, net *netContext) error {
	for i, m := range p.MACs {
		switch {
		case m == MAC{} || m[0]&1 != 0:
			return invalid("MACs[%d] %s: not the address of one interface", i, m)
		case m == p.MAC || slices.Contains(p.MACs[:i], m):
			return invalid("MACs[%d] %s: listed twice", i, m)
		case net.bound.port != 0 && (m == net.bound.mac || m == net.bound.wire):
			return invalid("MACs[%d] %s: is that of the uplink", i, m)
		}
	}
	if net.bound.port != 0 && (p.MAC == net.bound.mac || p.MAC == net.bound.wire) {
		return invalid("MAC %s: is that of the uplink", p.MAC)
	}
	return nil
}

func fdbKey(zone Zone, m MAC) FdbKey { return FdbKey{Zone: uint16(zone), Mac: m} }

// linkLocal is the IPv6 address that follows from a MAC (RFC 4291 appendix A).
func linkLocal(m MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}

// wireMACs are the MACs that stand for endpoints at an uplink besides its own, sorted.
func wireMACs(ns []Network, uplink string) []MAC {
	var macs []MAC
	for i := range ns {
		if ns[i].Uplink == uplink && ns[i].WireMAC != (MAC{}) {
			macs = append(macs, ns[i].WireMAC)
		}
	}
	slices.SortFunc(macs, func(a, b MAC) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(macs)
}

// HeardMACs are the MACs that each uplink, by ifindex, has to receive besides its
// own: those of ports whose networks show them there, and those that stand for ports.
func (t Tables) HeardMACs() map[int][]MAC {
	at := map[uint16]int{} // zone to ifindex
	for _, u := range t.Uplinks {
		if !u.Bound {
			continue
		}
		for _, b := range t.nets {
			for _, e := range b.segment {
				if PortID(e.Key.At) == u.Port {
					at[b.net[0].Value.Zone] = u.Ifindex
				}
			}
		}
	}
	heard := map[int][]MAC{}
	for _, u := range t.Uplinks {
		for _, e := range t.uplinks[u.Port].fdb {
			heard[u.Ifindex] = append(heard[u.Ifindex], e.Key.Mac)
		}
	}
	if len(at) == 0 {
		return heard
	}
	for b := range func(yield func(*block) bool) { t.ports.all(yield) } {
		for _, e := range b.fdb {
			if ifindex, ok := at[e.Key.Zone]; ok {
				heard[ifindex] = append(heard[ifindex], e.Key.Mac)
			}
		}
	}
	return heard
}
