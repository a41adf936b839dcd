// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Tables are the content of every configuration map, and where programs must be
// attached. They are the union of the rows of each object, are never changed once
// made, and share what did not change with the Tables made before. The zero value
// is a switch with nothing in it.
type Tables struct {
	// Uplinks to attach, from the highest port number down.
	Uplinks []UplinkPort
	// SocketHooks tells that host processes must be translated at connect and
	// sendmsg: something is published.
	SocketHooks bool

	cfg, host *block
	announced *block
	inside    *block // frontends inside subnets of their clients
	outside   *block
	fib       *block // no rows: what goes stale with the host's routes
	uplinks   map[PortID]*block
	pools     map[NATPoolID]*block
	nets      map[NetworkID]*block
	floods    map[NetworkID]*block
	ports     *blockSet[PortID]
	services  *blockSet[ServiceID]
	acls      map[ACLID]*block
	classes   map[uint8]*block // of address sets, by a hash of the prefix
	vteps     *block
	tunnels   map[PortID]*block
	overlays  map[NetworkID]*block
	ways      map[PortID]*block // routes of single ports
	remotes   map[AddrKey]*block
}

// blocks yields every object's block.
func (t Tables) blocks(yield func(*block) bool) {
	for _, b := range []*block{t.cfg, t.host, t.announced, t.inside, t.outside, t.fib, t.vteps} {
		if b != nil && !yield(b) {
			return
		}
	}
	_ = each(t.uplinks, yield) && each(t.pools, yield) && each(t.nets, yield) && each(t.floods, yield) && t.ports.all(yield) &&
		t.services.all(yield) && each(t.acls, yield) && each(t.classes, yield) && each(t.tunnels, yield) && each(t.overlays, yield) &&
		each(t.ways, yield) && each(t.remotes, yield)
}

func each[K comparable](m map[K]*block, yield func(*block) bool) bool {
	for _, b := range m {
		if !yield(b) {
			return false
		}
	}
	return true
}

// Port returns the row of a port, and whether there is one.
func (t Tables) Port(id PortID) (PortRow, bool) {
	b := t.ports.get(id)
	if b == nil {
		b = t.uplinks[id]
	}
	if b == nil {
		b = t.tunnels[id]
	}
	if b == nil || len(b.port) == 0 {
		return PortRow{}, false
	}
	return b.port[0].Value, true
}

// String lists all rows, one a line, sorted: what golden tests and people compare.
func (t Tables) String() string {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	for _, u := range t.Uplinks {
		add("attach %s ifindex %d port %d", u.Name, u.Ifindex, u.Port)
		if u.Bound {
			add("attach %s ifindex %d to what the host sends", u.Name, u.Ifindex)
		}
	}
	if t.SocketHooks {
		add("attach socket hooks")
	}
	for b := range t.blocks {
		b.print(add)
	}
	// Numbers are padded in no line, so sort by text but shorter numbers first.
	slices.SortFunc(lines, func(a, b string) int { return cmp.Or(natural(a, b), strings.Compare(a, b)) })
	if len(lines) == 0 {
		return ""
	}
	return strings.Join(lines, "\n") + "\n"
}

func (b *block) print(add func(string, ...any)) {
	for _, e := range b.cfg {
		flows := ""
		if e.Value.FlowRate != 0 {
			flows = fmt.Sprintf(" flow events %d/s", e.Value.FlowRate)
		}
		add("cfg anchor %d netns %d events %d/s%s%s", e.Value.AnchorIfindex, e.Value.NetnsCookie, e.Value.EventRate, flows, tunnelsOf(e.Value))
	}
	for _, e := range b.port {
		v := e.Value
		s := fmt.Sprintf("port %d %s %s ifindex %d", e.Key, PortKind(v.Kind), upDown(v.Flags), v.Ifindex)
		if v.NicIfindex != 0 {
			s += fmt.Sprintf(" nic %d", v.NicIfindex)
		}
		s += fmt.Sprintf(" net %d zone %d mtu %d mac %s gw %s", v.Net, v.Zone, v.Mtu, MAC(v.Mac), MAC(v.GwMac))
		if v.Natpool4 != 0 || v.Natpool6 != 0 {
			s += fmt.Sprintf(" natpool %d %d", v.Natpool4, v.Natpool6)
		}
		if v.Flags&portNoPeer != 0 {
			s += " no-peer"
		}
		if v.Shaper != 0 {
			s += fmt.Sprintf(" shaper %d", v.Shaper)
		}
		if v.Pps != 0 {
			s += fmt.Sprintf(" pps %d", v.Pps)
		}
		if v.Class != 0 {
			s += fmt.Sprintf(" class %d", v.Class)
		}
		if v.NatShare != 0 {
			s += fmt.Sprintf(" nat-share %d%%", v.NatShare)
		}
		if v.MaxFlows != 0 {
			s += fmt.Sprintf(" flows %d", v.MaxFlows)
		}
		if v.Mirror != 0 {
			s += fmt.Sprintf(" mirror %d", v.Mirror)
		}
		if v.Snap != 0 {
			s += fmt.Sprintf(" capture %d", v.Snap)
		}
		add("%s%s%s%s", s, portFlags(v), aclNumbers(v.Acl), overlayOfPort(v))
	}
	for _, e := range b.net {
		v := e.Value
		s := fmt.Sprintf("net %d zone %d flags %s host %d mtu %d hairpin %s %s gateway %s %s", e.Key, v.Zone, NetFlags(v.Flags), v.HostPort, v.Mtu,
			ip(v.Hairpin4.B), ip(v.Hairpin6.B), ip(v.Gw4.B), ip(v.Gw6.B))
		if v.Natpool4 != 0 || v.Natpool6 != 0 {
			s += fmt.Sprintf(" natpool %d %d", v.Natpool4, v.Natpool6)
		}
		if v.Uplink != 0 {
			s += fmt.Sprintf(" uplink %d vlan %d", v.Uplink, v.Vlan)
		}
		add("%s%s", s, routerOf(v))
	}
	for _, e := range b.ifport {
		add("ifport %d -> port %d", e.Key, e.Value)
	}
	for _, e := range b.portip {
		add("portip %d %s", e.Key.Port, ip(e.Key.Addr.B))
	}
	for _, e := range b.addr {
		add("addr zone %d %s -> port %d %s%s%s", e.Key.Zone, ip(e.Key.Addr.B), e.Value.Port, MAC(e.Value.Mac), addrFlags(e.Value.Flags),
			farOf(e.Value.Vtep, e.Value.Vni))
	}
	for _, e := range b.route {
		add("route zone %d%s %s -> %s", e.Key.Zone, ownerOf(e.Key), prefixOf(e.Key), RouteName(e.Value))
	}
	b.printService(add)
	for _, e := range b.natpool {
		s := fmt.Sprintf("natpool %d %s %d-%d", e.Key, ip(e.Value.Addr.B), e.Value.Lo, e.Value.Hi)
		if e.Value.Count > 1 {
			s += fmt.Sprintf(" first of %d", e.Value.Count)
		}
		add("%s", s)
	}
	for _, e := range b.busy {
		add("portbusy %s %s %d", protoName(e.Key.Proto), ip(e.Key.Addr.B), be16(e.Key.PortBe))
	}
	for _, e := range b.flood {
		add("flood net %d %d -> port %d%s", e.Key.Net, e.Key.I, e.Value&0xffff, farOf(uint16(e.Value>>16), 0))
	}
	for _, e := range b.floodn {
		add("floodn net %d %d", e.Key, e.Value)
	}
	b.printACL(add)
	b.printOverlay(add)
	for _, e := range b.fdb {
		add("fdb zone %d %s -> port %d", e.Key.Zone, MAC(e.Key.Mac), e.Value)
	}
	for _, e := range b.segment {
		whose := "net"
		if PortID(e.Key.At) < FirstUplinkPort {
			whose = "port"
		}
		add("segment port %d vlan %d -> %s %d", e.Key.At, e.Key.Vlan, whose, e.Value)
	}
	for _, e := range b.wireip {
		add("wireip uplink %d vlan %d %s -> port %d", e.Key.Uplink, e.Key.Vlan, ip(e.Key.Addr.B), e.Value)
	}
}

// natural compares text with runs of digits by value.
func natural(a, b string) int {
	for a != "" && b != "" {
		x, y := digits(a), digits(b)
		if x > 0 && y > 0 {
			if n, m := strings.TrimLeft(a[:x], "0"), strings.TrimLeft(b[:y], "0"); n != m {
				if len(n) != len(m) {
					return len(n) - len(m)
				}
				return strings.Compare(n, m)
			}
			a, b = a[x:], b[y:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// String names the kind as drawings do.
func (k PortKind) String() string {
	names := [...]string{"none", "container", "vm", "host", "uplink", "tunnel"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("kind%d", uint8(k))
}

// String lists the flags, "-" for none.
func (f NetFlags) String() string {
	var s []string
	for i, name := range [...]string{"snat", "hostnic", "uplink", "flood", "l2", "mac-rewrite", "no-local", "arp-pass", "dhcp", "no-host"} {
		if f&(1<<i) != 0 {
			s = append(s, name)
		}
	}
	if len(s) == 0 {
		return "-"
	}
	return strings.Join(s, ",")
}

func upDown(flags uint8) string {
	if flags&portUp != 0 {
		return "up"
	}
	return "down"
}

func portFlags(v PortRow) string {
	s := ""
	if v.Flags&portAnyMAC != 0 {
		s += " any-mac"
	}
	if v.Flags&portAnyIP != 0 {
		s += " any-ip"
	}
	if v.Vlan != 0 {
		s += fmt.Sprintf(" vlan %d", v.Vlan)
	}
	if v.Tagged != 0 {
		s += " tagged-only"
	}
	if v.Flags&portWires != 0 && PortKind(v.Kind) == PortUplink {
		s += " wires"
	}
	return s
}

func addrFlags(f uint8) string {
	s := ""
	if f&addrGateway != 0 {
		s += " gateway"
	}
	if f&addrHost != 0 {
		s += " host"
	}
	return s
}
