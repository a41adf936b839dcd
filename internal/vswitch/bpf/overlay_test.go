// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import (
	"fmt"
	"net/netip"
	"testing"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf/bpfrun"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// overlayLab is the lab with network 1 extended to other hosts:
//
//	f: subnet of a with VNI 4096; f.50 behind tunnel end 7 (10.0.0.9), IPv4
//	g: another with VNI 4097;     g.50 behind tunnel end 8 (fd00:a::9), IPv6
//	r: a remote subnet behind the router at tunnel end 7, VNI 5000
type overlayLab struct {
	*lab
	tunnel *bpfrun.Tunneller
	dev    uint32
}

type overlayNames struct{ a, near, far, remote, free, g string }

func overlayFamilies() []overlayNames {
	return []overlayNames{
		{"192.168.100.10", "192.168.100.50", "192.168.101.50", "10.9.1.1", "192.168.100.99", "192.168.101.0"},
		{"fd00:100::10", "fd00:100::50", "fd00:101::50", "fd00:9::1", "fd00:100::99", "fd00:101::"},
	}
}

const (
	overlayPort  = 50
	nearEnd      = 7
	farEnd       = 8
	overlayOther = 9 // the next hop's number
)

func newOverlayLab(t *testing.T) *overlayLab {
	l := &overlayLab{lab: newLab(t, true)}
	l.dev = uint32(l.port("down").dev)
	l.put("ifport", l.dev, uint32(overlayPort))
	l.put("port", uint32(overlayPort), Port{Ifindex: l.dev, Kind: uint8(SwitchGhPortKindGH_PORT_TUNNEL), Flags: 1})
	l.put("vtep", uint32(nearEnd), VTEP{Addr: addr("10.0.0.9"), Local: addr("0.0.0.0"), Mtu: 1450})
	l.put("vtep", uint32(farEnd), VTEP{Addr: addr("fd00:a::9"), Mtu: 1430})
	for _, vni := range []uint32{4096, 4097, 5000} {
		row := PeerVal{Net: 1, Zone: 1}
		l.put("peer", PeerKey{Vni: vni, Port: overlayPort}, row)
		for end, a := range map[uint16]string{nearEnd: "10.0.0.9", farEnd: "fd00:a::9"} {
			row.Vtep = end
			l.put("peer", PeerKey{Vni: vni, Port: overlayPort, Addr: addr(a)}, row)
		}
	}
	l.put("nh", uint32(overlayOther), NextHop{Vni: 5000, Vtep: nearEnd, Port: overlayPort, Mac: mac(0xd1)})
	var n Net
	if err := l.coll.Maps["net"].Lookup(uint32(1), &n); err != nil {
		t.Fatal(err)
	}
	n.RouterMac = mac(0xd0)
	l.put("net", uint32(1), n)
	for _, f := range overlayFamilies() {
		l.put("addr", AddrKey{Zone: 1, Addr: addr(f.a)}, AddrVal{Port: 1, Mac: mac(0x0a), Vni: 4096})
		l.put("addr", AddrKey{Zone: 1, Addr: addr(f.near)}, AddrVal{Port: overlayPort, Mac: mac(0x50), Vtep: nearEnd, Vni: 4096})
		l.put("addr", AddrKey{Zone: 1, Addr: addr(f.far)}, AddrVal{Port: overlayPort, Mac: mac(0x51), Vtep: farEnd, Vni: 4097})
		bits := uint32(32 + 64)
		if netip.MustParseAddr(f.a).Is4() {
			bits = 32 + 96 + 24
		}
		l.put("route", RouteKey{Prefixlen: bits, Zone: 1, Addr: addr(f.g)}, RouteVal{Kind: uint16(SwitchGhRouteKindGH_ROUTE_LOCAL)})
		r := addr(f.remote)
		if bits -= 32; true {
			for i := int(bits / 8); i < 16; i++ {
				r.B[i] = 0
			}
		}
		l.put("route", RouteKey{Prefixlen: bits + 32, Zone: 1, Addr: r}, RouteVal{Kind: uint16(SwitchGhRouteKindGH_ROUTE_TUNNEL), Nh: overlayOther})
	}
	var err error
	l.in(func() { l.tunnel, err = bpfrun.NewTunneller(l.coll.Programs["ep_in"]) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.tunnel.Close)
	l.reset()
	return l
}

// from puts a packet in as if it came out of the tunnel.
func (l *overlayLab) from(t *testing.T, vni uint32, end, text string) (outcome, *pkt.Packet) {
	t.Helper()
	p, err := l.tunnel.Program(vni, netip.MustParseAddr(end))
	if err != nil {
		t.Fatal(err)
	}
	k := pkt.MustParse(text)
	k.From, k.To = mac(0x50), mac(0x0a)
	l.put("result", uint32(0), Result{})
	var o outcome
	ctx := bpfrun.Context{Ifindex: l.dev, IngressIfindex: l.dev}
	l.in(func() { o.ret, o.out, _, err = bpfrun.Run(p, &ctx, k.Bytes(), 256) })
	if err != nil {
		t.Fatal(err)
	}
	if err := l.coll.Maps["result"].Lookup(uint32(0), &o.res); err != nil {
		t.Fatal(err)
	}
	got, _ := pkt.Decode(o.out)
	return o, got
}

func (l *overlayLab) send(t *testing.T, text string) (outcome, *pkt.Packet) {
	t.Helper()
	p := l.port("a")
	o, err := l.run(p, l.frame(p, pkt.MustParse(text)), 0)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := pkt.Decode(o.out)
	return o, got
}

func TestOverlay(t *testing.T) {
	l := newOverlayLab(t)
	for _, f := range overlayFamilies() {
		for _, c := range []struct {
			name, to string
			vni      uint32
			end      uint16
			from, at pkt.MAC
			ttl      uint8
		}{
			{"inside a subnet", f.near, 4096, nearEnd, mac(0x0a), mac(0x50), 64},
			{"between subnets", f.far, 4097, farEnd, mac(0xd0), mac(0x51), 63},
			{"to a remote subnet", f.remote, 5000, nearEnd, mac(0xd0), mac(0xd1), 63},
		} {
			for i, via := range []Via{SwitchGhViaGH_VIA_NEW, SwitchGhViaGH_VIA_HIT} {
				o, got := l.send(t, fmt.Sprintf("%s.40000 > %s.53: udp \"x\"", f.a, c.to))
				r := o.res
				if OutKind(r.OutKind) != SwitchGhOutKindGH_OUT_TUNNEL || o.ret != 7 || r.OutIfindex != l.dev || r.Tun != c.vni || r.Vtep != c.end ||
					Via(r.Flow) != via || got.From != c.from || got.To != c.at || got.TTL != c.ttl {
					t.Errorf("%s, %s, packet %d: returned %d %+v, %v > %v ttl %d", f.a, c.name, i, o.ret, r, got.From, got.To, got.TTL)
				}
			}
			end := map[uint16]string{nearEnd: "10.0.0.9", farEnd: "fd00:a::9"}[c.end]
			o, got := l.from(t, c.vni, end, fmt.Sprintf("%s.53 > %s.40000: udp \"y\"", c.to, f.a))
			if r := o.res; r.OutPort != 1 || Via(r.Flow) != SwitchGhViaGH_VIA_HIT || got.To != mac(0x0a) || got.From != mac(1) || got.TTL != 64 {
				t.Errorf("%s, %s, answer: %+v, %v > %v ttl %d", f.a, c.name, r, got.From, got.To, got.TTL)
			}
			// Begun there: the answer is routed by the rows here.
			if o, _ = l.from(t, c.vni, end, fmt.Sprintf("%s.5000 > %s.80: tcp S", c.to, f.a)); o.res.OutPort != 1 {
				t.Errorf("%s, %s, from there: %+v", f.a, c.name, o.res)
			}
			o, got = l.send(t, fmt.Sprintf("%s.80 > %s.5000: tcp S.", f.a, c.to))
			if r := o.res; OutKind(r.OutKind) != SwitchGhOutKindGH_OUT_TUNNEL || r.Tun != c.vni || r.Vtep != c.end || got.From != c.from || got.To != c.at ||
				got.TTL != c.ttl {
				t.Errorf("%s, %s, answer to there: %+v, %v > %v ttl %d", f.a, c.name, r, got.From, got.To, got.TTL)
			}
		}
	}
	l.checkNoDrops(t)
}

func (l *overlayLab) checkNoDrops(t *testing.T) {
	t.Helper()
	if d := l.drops(); len(d) > 0 {
		t.Errorf("drops: %v", d)
	}
}

func TestOverlayRefused(t *testing.T) {
	l := newOverlayLab(t)
	for _, f := range overlayFamilies() {
		for _, c := range []struct {
			name, end string
			vni       uint32
			packet    string
			reason    DropReason
		}{
			{"unknown end", "10.0.0.66", 4096, "%s.1 > %s.2: udp", SwitchGhDropReasonGH_DROP_TUN_PEER},
			{"unknown end, IPv6", "fd00:a::66", 4096, "%s.1 > %s.2: udp", SwitchGhDropReasonGH_DROP_TUN_PEER},
			{"unknown VNI", "10.0.0.9", 77, "%s.1 > %s.2: udp", SwitchGhDropReasonGH_DROP_TUN_VNI},
			{"VNI 0", "10.0.0.9", 0, "%s.1 > %s.2: udp", SwitchGhDropReasonGH_DROP_TUN_VNI},
		} {
			if o, _ := l.from(t, c.vni, c.end, fmt.Sprintf(c.packet, f.near, f.a)); DropReason(o.res.Reason) != c.reason || o.ret != 2 {
				t.Errorf("%s: %v, returned %d", c.name, DropReason(o.res.Reason), o.ret)
			}
		}
		for src, reason := range map[string]DropReason{
			f.a: SwitchGhDropReasonGH_DROP_SPOOF_IP, f.free: SwitchGhDropReasonGH_DROP_SPOOF_IP,
		} {
			if o, _ := l.from(t, 4096, "10.0.0.9", fmt.Sprintf("%s.1 > %s.2: udp", src, f.a)); DropReason(o.res.Reason) != reason {
				t.Errorf("inner source %s: %v", src, DropReason(o.res.Reason))
			}
		}
		// Who asks for what is not here hears so, by the tunnel.
		o, got := l.from(t, 4096, "10.0.0.9", fmt.Sprintf("%s.1 > %s.2: udp", f.near, f.free))
		if r := o.res; DropReason(r.Reason) != SwitchGhDropReasonGH_DROP_UNKNOWN_DST || r.Tun != 4096 || r.Vtep != nearEnd || o.ret != 7 || got.Inner == nil {
			t.Errorf("unknown destination: %+v, returned %d: %v", r, o.ret, got)
		}
	}
}

// The sender hears what fits inside.
func TestOverlayMTU(t *testing.T) {
	l := newOverlayLab(t)
	for _, f := range overlayFamilies() {
		for to, mtu := range map[string]int{f.near: 1450, f.far: 1430, f.remote: 1450} {
			header := 28
			if netip.MustParseAddr(to).Is6() {
				header = 48
			}
			for _, over := range []int{0, 1} {
				k := pkt.MustParse(fmt.Sprintf("%s.1 > %s.2: udp", f.a, to))
				k.Data = make([]byte, mtu-header+over)
				p := l.port("a")
				o, err := l.run(p, l.frame(p, k), 0)
				if err != nil {
					t.Fatal(err)
				}
				got, _ := pkt.Decode(o.out)
				if over == 0 && OutKind(o.res.OutKind) != SwitchGhOutKindGH_OUT_TUNNEL {
					t.Errorf("%d bytes to %s: %+v", mtu, to, o.res)
				}
				if over == 1 && (DropReason(o.res.Reason) != SwitchGhDropReasonGH_DROP_MTU || got == nil || int(got.MTU) != mtu || o.ret != 7) {
					t.Errorf("%d bytes to %s: %+v, %v", mtu+1, to, o.res, got)
				}
			}
		}
	}
}

// Questions for addresses on other hosts are answered here, and those of other
// hosts for ours by the tunnel.
func TestOverlayNeighbours(t *testing.T) {
	l := newOverlayLab(t)
	p := l.port("a")
	o, err := l.run(p, l.frame(p, pkt.MustParse("arp who-has 192.168.100.50 tell 192.168.100.10")), 0)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := pkt.Decode(o.out); ResultVerdict(o.res.Verdict) != SwitchGhResultVerdictGH_RESULT_REPLY || got.ArpSrc != mac(0x50) || int(o.res.OutIfindex) != p.dev {
		t.Errorf("from here: %+v, %v", o.res, got)
	}
	k := pkt.MustParse("arp who-has 192.168.100.10 tell 192.168.100.50")
	k.From, k.To, k.ArpSrc = mac(0x50), pkt.MAC{255, 255, 255, 255, 255, 255}, mac(0x50)
	prog, err := l.tunnel.Program(4096, netip.MustParseAddr("10.0.0.9"))
	if err != nil {
		t.Fatal(err)
	}
	l.put("result", uint32(0), Result{})
	ctx := bpfrun.Context{Ifindex: l.dev, IngressIfindex: l.dev}
	l.in(func() { o.ret, o.out, _, err = bpfrun.Run(prog, &ctx, k.Bytes(), 64) })
	if err == nil {
		err = l.coll.Maps["result"].Lookup(uint32(0), &o.res)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := pkt.Decode(o.out); ResultVerdict(o.res.Verdict) != SwitchGhResultVerdictGH_RESULT_REPLY || got.ArpSrc != mac(0x0a) || o.res.OutIfindex != l.dev ||
		o.res.Tun != 4096 || o.res.Vtep != nearEnd {
		t.Errorf("from there: %+v, %v", o.res, got)
	}
	l.checkNoDrops(t)
}

// TestOverlayNarrower: errors about shells to known ends make a tunnel's flows
// stale, and no flood of them does more than a few.
func TestOverlayNarrower(t *testing.T) {
	l := newOverlayLab(t)
	l.put("peer", PeerKey{PortBe: be(4789), Addr: addr("10.0.0.9")}, PeerVal{Vtep: nearEnd, Port: overlayPort})
	l.put("peer", PeerKey{PortBe: be(4789), Addr: addr("fd00:a::9")}, PeerVal{Vtep: farEnd, Port: overlayPort})
	epoch := func() (n uint32) {
		if err := l.coll.Maps["epoch"].Lookup(uint32(overlayPort), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	x := l.port("x")
	for _, c := range []struct {
		name, text string
		stale      bool
	}{
		{"a router", "10.0.0.254 > 10.0.0.4: icmp error 3.4 1300 [10.0.0.4.50000 > 10.0.0.9.4789: udp \"x\"]", true},
		{"a router, IPv6", "fd00:a::fe > fd00:a::4: icmp6 error 2.0 1300 [fd00:a::4.50000 > fd00:a::9.4789: udp \"x\"]", true},
		{"an unknown end", "10.0.0.254 > 10.0.0.4: icmp error 3.4 1300 [10.0.0.4.50000 > 10.0.0.10.4789: udp \"x\"]", false},
		{"another port", "10.0.0.254 > 10.0.0.4: icmp error 3.4 1300 [10.0.0.4.50000 > 10.0.0.9.53: udp \"x\"]", false},
		{"TCP", "10.0.0.254 > 10.0.0.4: icmp error 3.4 1300 [10.0.0.4.50000 > 10.0.0.9.4789: tcp S]", false},
		{"of a third", "10.0.0.254 > 10.0.0.4: icmp error 3.4 1300 [10.0.0.5.50000 > 10.0.0.9.4789: udp \"x\"]", false},
		{"something else", "10.0.0.254 > 10.0.0.4: icmp error 3.3 [10.0.0.4.50000 > 10.0.0.9.4789: udp \"x\"]", false},
	} {
		l.put("rate", uint32(overlayPort), Rate{})
		before := epoch()
		o, err := l.run(x, l.frame(x, pkt.MustParse(c.text)), 0)
		if err != nil {
			t.Fatal(err)
		}
		if ResultVerdict(o.res.Verdict) != SwitchGhResultVerdictGH_RESULT_NEXT {
			t.Errorf("%s: not left to the host: %+v", c.name, o.res)
		}
		if stale := epoch() != before; stale != c.stale {
			t.Errorf("%s: stale %v, want %v", c.name, stale, c.stale)
		}
		if !c.stale {
			continue
		}
		for range 100 {
			if _, err := l.run(x, l.frame(x, pkt.MustParse(c.text)), 0); err != nil {
				t.Fatal(err)
			}
		}
		if n := epoch() - before; n < 8 || n > 24 { // of up to three seconds
			t.Errorf("%s: 101 of them count %d times", c.name, n)
		}
	}
}
