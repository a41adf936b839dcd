// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import (
	"net/netip"
	"strconv"
	"strings"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf/bpfrun"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// The part of the test bed that forwards by MAC, at uplink z of its own: network
// 4 shows its MACs there untagged; 5 stands behind z's MAC on VLAN 7; 6 likewise
// on VLAN 8 and switches nothing here; 7 is bound to nothing; 8 stands behind z's MAC
// untagged, and in the host's name where its NAT has no exception; what 198.19.0.0/16
// and 2001:2:0:1::/64 have is for the host's own stack. 9 stands behind a MAC of its own
// on VLAN 12, where the host is no member; somebody stands for 10.99.7.0/24 and fd00:99:7::/48.
func bridgePorts() []*labPort {
	port := func(name string, id uint32, net uint16, kind PortKind, n byte, addrs ...string) *labPort {
		return &labPort{name: name, id: id, kind: kind, net: net, mac: mac(n), gw: mac(0x99), addrs: addrs}
	}
	const container, vm = SwitchGhPortKindGH_PORT_CONTAINER, SwitchGhPortKindGH_PORT_VM
	return []*labPort{
		port("t1", 140, 4, container, 0x41, "10.4.0.11", "fd00:4::11"),
		port("t2", 141, 4, vm, 0x42, "10.4.0.12", "fd00:4::12", "10.40.0.12", "fd00:40::12"), // in two subnets
		port("free", 142, 4, container, 0x43, "10.4.0.13"),                                   // may use any MAC and address
		port("l1", 150, 5, container, 0x51, "10.5.0.11", "fd00:5::11"),
		port("l2", 151, 5, container, 0x52, "10.5.0.12", "fd00:5::12"),
		port("n1", 160, 6, container, 0x61, "10.6.0.11", "fd00:6::11"),
		port("n2", 161, 6, container, 0x62, "10.6.0.12", "fd00:6::12"),
		port("p1", 170, 7, container, 0x71, "10.7.0.11", "fd00:7::11"),
		port("p2", 171, 7, container, 0x72, "10.7.0.12", "fd00:7::12"),
		port("o1", 180, 8, container, 0x81, "10.8.0.11", "fd00:8::11"),
		port("o2", 181, 8, vm, 0x82, "10.8.0.12", "fd00:8::12"), // has an address of its own outside
		port("w1", 195, 9, container, 0xa1, "10.99.0.11", "fd00:99::11"),
		port("oh", 182, 8, vm, 0x83, "10.8.0.2", "fd00:8::2"),  // the host's own vNIC
		port("k", 190, 4, vm, 0x91, "10.4.0.91", "fd00:4::91"), // a trunk, native in 4
		port("k5", 191, 5, vm, 0x91, "10.5.0.91", "fd00:5::91"),
		port("k8", 192, 8, vm, 0x91, "10.8.0.91", "fd00:8::91"),
		port("g", 193, 0, container, 0x92), // a trunk without native VLAN
		port("g4", 194, 4, container, 0x92, "10.4.0.92", "fd00:4::92"),
		{name: "z", id: bridgeUplink, kind: SwitchGhPortKindGH_PORT_UPLINK, addrs: []string{"10.4.0.4", "fd00:4::4"}, mac: mac(0xf3), gw: mac(0xf3)},
	}
}

const (
	bridgeUplink = 4000
	netL2        = uint32(SwitchGhNetFlagsGH_NET_L2)
	netFlood     = uint32(SwitchGhNetFlagsGH_NET_FLOOD)
	netRewrite   = uint32(SwitchGhNetFlagsGH_NET_MAC_REWRITE)
	netNoLocal   = uint32(SwitchGhNetFlagsGH_NET_NO_LOCAL)
	netARPPass   = uint32(SwitchGhNetFlagsGH_NET_ARP_PASS)
)

func (p *labPort) l2() bool { return p.net >= 4 }

// trunkVLAN is the trunk that a port of the test bed is one VLAN of.
func trunkVLAN(name string) (trunk string, vlan uint16) {
	switch name {
	case "k5":
		return "k", 50
	case "k8":
		return "k", 80
	case "g4":
		return "g", 40
	}
	return "", 0
}

// bridgeVLAN is the tag of a network's frames at z.
func bridgeVLAN(net uint16) uint16 {
	switch net {
	case 5:
		return 7
	case 6:
		return 8
	case 9:
		return 12
	}
	return 0
}

// configureBridge writes the rows that Compile would.
func (l *lab) configureBridge() {
	for id, flags := range map[uint32]uint32{
		4: netL2 | netFlood | netARPPass, 5: netL2 | netFlood | netRewrite, 6: netL2 | netFlood | netRewrite | netNoLocal, 7: netL2 | netFlood,
		8: netL2 | netFlood | netRewrite | uint32(SwitchGhNetFlagsGH_NET_SNAT), 9: netL2 | netFlood | netRewrite | uint32(SwitchGhNetFlagsGH_NET_NO_HOST),
	} {
		n := Net{Flags: flags, Zone: uint16(id), Mtu: 1500, Vlan: bridgeVLAN(uint16(id))}
		if id != 7 {
			n.Uplink, n.WireMac = bridgeUplink, l.port("z").mac
			if id == 9 {
				n.WireMac = mac(0x5e)
				l.put("fdb", FdbKey{Zone: bridgeUplink, Mac: n.WireMac}, uint32(bridgeUplink))
			}
			l.put("fdb", FdbKey{Zone: n.Zone, Mac: l.port("z").mac}, uint32(bridgeUplink))
		}
		l.put("net", id, n)
	}
	l.put("segment", SegmentKey{At: bridgeUplink}, uint32(4))
	for _, subnet := range []string{"10.4.0.0/24", "10.40.0.0/24", "fd00:4::/64", "fd00:40::/64"} {
		p := netip.MustParsePrefix(subnet)
		bits := uint32(32 + 128 - p.Addr().BitLen() + p.Bits())
		l.put("route", RouteKey{Prefixlen: bits, Zone: 4, Addr: addr(p.Addr().String())}, RouteVal{Kind: uint16(SwitchGhRouteKindGH_ROUTE_LOCAL)})
	}
	for _, p := range l.ports {
		if trunk, vlan := trunkVLAN(p.name); vlan != 0 {
			l.put("segment", SegmentKey{At: uint16(l.port(trunk).id), Vlan: vlan}, p.id)
		}
		if !p.l2() {
			continue
		}
		l.put("fdb", FdbKey{Zone: p.net, Mac: p.mac}, p.id)
		if p.net == 5 || p.net == 6 || p.net == 8 || p.net == 9 {
			for _, a := range append(p.addrs, "fe80::ff:fe00:"+strconv.FormatInt(int64(p.mac[5]), 16)) {
				l.put("wireip", WireIPKey{Uplink: bridgeUplink, Vlan: bridgeVLAN(p.net), Addr: addr(a)}, p.id)
			}
		}
	}
	for prefix, bits := range map[string]uint32{"10.99.7.0": 32 + 96 + 24, "fd00:99:7::": 32 + 48} { // of 02:00:00:00:00:77
		l.put("route", RouteKey{Prefixlen: bits, Zone: 9, Port: 4096, Addr: addr(prefix)}, RouteVal{Kind: 7, Flags: 2, Nh: 0x77000000})
		l.put("route", RouteKey{Prefixlen: bits, Zone: 4, Port: 4096, Addr: addr(prefix)}, RouteVal{Kind: 7, Flags: 2, Nh: 0x77000000})
	}
	l.put("fdb", FdbKey{Zone: 4, Mac: mac(0x4a)}, uint32(140)) // a further MAC of t1
	for prefix, v := range map[string]RouteVal{
		"0.0.0.0/0": {Kind: 2, Flags: 1}, "::/0": {Kind: 2, Flags: 1}, "10.8.0.0/24": {Kind: 1}, "fd00:8::/64": {Kind: 1},
		"10.244.0.0/16": {Kind: 2}, "fd00:244::/32": {Kind: 2}, // exceptions
		"198.18.0.0/16": {Kind: 2}, "2001:2::/64": {Kind: 2}, "198.19.0.0/16": {Kind: 4}, "2001:2:0:1::/64": {Kind: 4},
	} {
		p := netip.MustParsePrefix(prefix)
		k := RouteKey{Prefixlen: uint32(32 + p.Bits()), Zone: 8, Addr: addr(p.Addr().String())}
		if p.Addr().Is4() {
			k.Prefixlen += 96
		}
		l.put("route", k, v)
	}
	// A router of the segment of 4, and one of 5, where the host knows nobody.
	for id, way := range map[uint32]struct {
		zone   uint16
		prefix string
		via    string
	}{101: {4, "10.97.0.0/16", "10.4.0.99"}, 102: {4, "fd00:97::/32", "fd00:4::99"}, 103: {5, "10.97.0.0/16", "10.5.0.99"}, 104: {5, "fd00:97::/32", "fd00:5::99"}} {
		p := netip.MustParsePrefix(way.prefix)
		l.put("nh", id, NextHop{Via: addr(way.via)})
		bits := uint32(32 + 128 - p.Addr().BitLen() + p.Bits())
		l.put("route", RouteKey{Prefixlen: bits, Zone: way.zone, Addr: addr(p.Addr().String())}, RouteVal{Kind: uint16(SwitchGhRouteKindGH_ROUTE_VIA), Nh: id})
	}
	for id, a := range map[uint32]string{5: "192.0.2.50", 6: "2001:db8:9::50"} {
		l.put("natpool", id, NATPool{Addr: addr(a), Lo: 40000, Hi: 49999, Count: 1})
	}
}

// frameWords takes "vlan N", "from MAC" and "to MAC" from the front of a packet,
// where a MAC may be the name of a port.
func (r *scriptRun) frameWords(text string) (rest string, tci int, from, to pkt.MAC) {
	tci = -1
	for {
		word, after, _ := strings.Cut(text, " ")
		arg, more, _ := strings.Cut(after, " ")
		switch word {
		case "vlan":
			n, err := strconv.ParseUint(arg, 0, 16)
			if err != nil {
				r.fail("%v", err)
			}
			tci = int(n)
		case "from":
			from = r.mac(arg)
		case "to":
			to = r.mac(arg)
		default:
			return text, tci, from, to
		}
		text = more
	}
}

func (r *scriptRun) mac(s string) (m pkt.MAC) {
	if b := strings.Split(s, ":"); len(b) == 6 {
		for i := range m {
			n, err := strconv.ParseUint(b[i], 16, 8)
			if err != nil {
				r.fail("%v", err)
			}
			m[i] = byte(n)
		}
		return m
	}
	switch s {
	case "all":
		return pkt.MAC{255, 255, 255, 255, 255, 255}
	case "router":
		return mac(0x99)
	}
	return r.l.port(s).mac
}

// checkFrame holds a frame that was switched by MAC against the script.
func (r *scriptRun) checkFrame(p *labPort, text *string) {
	r.t.Helper()
	rest, tci, from, to := r.frameWords(*text)
	*text = rest
	res := r.o.res
	kind := SwitchGhOutKindGH_OUT_EGRESS
	if p.kind == SwitchGhPortKindGH_PORT_CONTAINER {
		kind = SwitchGhOutKindGH_OUT_PEER
	}
	if p.kind == SwitchGhPortKindGH_PORT_UPLINK && r.sent.To == p.mac && r.from.net != 6 {
		kind = SwitchGhOutKindGH_OUT_INGRESS
	}
	if OutKind(res.OutKind) != kind || int(res.OutIfindex) != p.dev {
		r.fail("out kind %d device %d, want %d %d", res.OutKind, res.OutIfindex, kind, p.dev)
	}
	if _, vlan := trunkVLAN(p.name); tci < 0 {
		tci = int(vlan)
	}
	if int(res.Tag) != max(tci, 0) {
		r.fail("tag %d", res.Tag)
	}
	var zero pkt.MAC
	if from == zero {
		from = r.sent.From
	}
	if to == zero {
		to = r.sent.To
	}
	if r.got.From != from || r.got.To != to {
		r.fail("frame %v > %v, want %v > %v", r.got.From, r.got.To, from, to)
	}
	if r.o.mark != 0 || kind == SwitchGhOutKindGH_OUT_PEER && r.o.prio != 0 {
		r.fail("mark %#x priority %d leak", r.o.mark, r.o.prio)
	}
}

// runTagged puts a frame in that bears a tag.
func (l *lab) runTagged(p *labPort, tci uint16, frame []byte) (o outcome, err error) {
	if err := l.coll.Maps["result"].Put(uint32(0), Result{}); err != nil {
		return o, err
	}
	ctx := bpfrun.Context{Ifindex: uint32(p.dev), IngressIfindex: uint32(p.dev), Mark: 0x77, Priority: 5}
	l.in(func() {
		var t *bpfrun.Tagger
		if t, err = bpfrun.NewTagger(l.coll.Programs[progOf(p)]); err != nil {
			return
		}
		defer t.Close()
		var got bpfrun.Context
		o.ret, o.out, got, err = t.Run(0, tci, &ctx, frame, 256)
		o.mark, o.prio = got.Mark, got.Priority
	})
	if err != nil {
		return o, err
	}
	return o, l.coll.Maps["result"].Lookup(uint32(0), &o.res)
}
