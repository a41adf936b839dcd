// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// sickbed is a small healthy switch into which faults are seeded: two endpoints on
// a NAT network, one on an internal network, three uplinks, a published port.
//
//	a .10, b .11 on 192.168.100.0/24 and fd00:100::/64    c .12 on 192.168.101.0/24
type sickbed struct {
	*lab
	state vswitch.State
	facts vswitch.Facts
	rows  *vswitch.Rows
	// at is where the packet comes in; vlan tells that it bears a tag.
	at    int
	vlan  bool
	frame []byte
}

const (
	bedA, bedB, bedC = 1, 2, 3
	bedHost1         = 101
)

func newSickbed(l *lab) *sickbed {
	b := &sickbed{lab: l, facts: vswitch.Facts{Ifindex: map[string]int{}, Anchor: l.index["anchor"]}, at: l.index["e0"]}
	for name, i := range l.index {
		if name[0] == 'e' || name[0] == 'h' {
			b.facts.Ifindex[name] = i
		}
	}
	for i := range labUplinks {
		u := vswitch.Uplink{Name: uplinkDev(i), Ifindex: l.index[uplinkDev(i)], MAC: l.mac[uplinkDev(i)], MTU: 1500, Addrs: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.%d.0.4/24", i)), netip.MustParsePrefix(fmt.Sprintf("fd00:a%d::4/64", i))}}
		b.facts.Uplinks = append(b.facts.Uplinks, u)
		b.facts.HostAddrs = append(b.facts.HostAddrs, u.Addrs[0].Addr(), u.Addrs[1].Addr())
	}
	for i, flags := range []vswitch.NetFlags{vswitch.NetSNAT | vswitch.NetUplink | vswitch.NetHostNIC, vswitch.NetHostNIC} {
		n := vswitch.Network{ID: vswitch.NetworkID(i + 1), Zone: vswitch.Zone(i + 1), Name: fmt.Sprintf("n%d", i), Flags: flags, HostPort: vswitch.PortID(100 + i + 1)}
		host := vswitch.Port{ID: n.HostPort, Kind: vswitch.PortHost, Network: n.ID, Object: n.Name, Interface: switchDev(i), HostNIC: nicDev(i),
			MAC: l.mac[switchDev(i)], Up: true}
		for _, prefix := range []string{fmt.Sprintf("192.168.%d.0/24", 100+i), fmt.Sprintf("fd00:%d::/64", 100+i)} {
			p := netip.MustParsePrefix(prefix)
			n.Subnets = append(n.Subnets, vswitch.Subnet{Prefix: p, Gateway: p.Addr().Next()})
			b.facts.HostAddrs = append(b.facts.HostAddrs, p.Addr().Next())
			host.Addrs = append(host.Addrs, p.Addr().Next())
		}
		b.state.Networks = append(b.state.Networks, n)
		b.state.Ports = append(b.state.Ports, host)
	}
	for i, net := range []int{0, 0, 1} {
		b.state.Ports = append(b.state.Ports, vswitch.Port{ID: vswitch.PortID(i + 1), Kind: vswitch.PortContainer, Network: vswitch.NetworkID(net + 1),
			Object: string(rune('a' + i)), Interface: endpointDev(i), MAC: vswitch.MAC{6, 1, 0, 0, 0, byte(i)}, Up: true,
			Addrs: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("192.168.%d.%d", 100+net, 10+i)), netip.MustParseAddr(fmt.Sprintf("fd00:%d::%d", 100+net, 10+i))}})
	}
	b.publish(6, 8080, 80)
	return b
}

// publish makes the host's port an endpoint b's.
func (b *sickbed) publish(proto uint8, host, target uint16) {
	p := b.port(bedB)
	b.state.Mappings = append(b.state.Mappings, vswitch.PortMapping{Object: p.Object, Proto: proto, HostPort: host, Port: p.ID, Addr: p.Addrs[0], AddrPort: target})
}

func (b *sickbed) port(id vswitch.PortID) *vswitch.Port {
	for i := range b.state.Ports {
		if b.state.Ports[i].ID == id {
			return &b.state.Ports[i]
		}
	}
	panic("no such port")
}

func (b *sickbed) net(id vswitch.NetworkID) *vswitch.Network { return &b.state.Networks[id-1] }

// compile makes the rows; it and what follows run in the lab.
func (b *sickbed) compile() error {
	t, err := vswitch.Compile(b.state, b.facts)
	if err != nil {
		return err
	}
	b.rows = t.Rows()
	return b.apply(t)
}

// send is a packet of endpoint a, as its stack would make it.
func (b *sickbed) send(line string) {
	k := pkt.MustParse(line)
	k.From, k.To = pkt.MAC(b.port(bedA).MAC), pkt.MAC(b.mac[switchDev(0)])
	b.frame = k.Bytes()
}

// arrive is a packet that comes by the first uplink.
func (b *sickbed) arrive(line string) {
	k := pkt.MustParse(line)
	k.From, k.To = pkt.MAC{2, 0, 0, 0, 0, 0x98}, pkt.MAC(b.mac["u0"])
	b.frame, b.at = k.Bytes(), b.index["u0"]
}

// look explains the packet and puts it into the programs, which must agree.
func (b *sickbed) look() (Trace, error) {
	p := Packet{Ifindex: b.at, Uplink: b.at == b.index["u0"], VLAN: b.vlan, TCI: 5, Frame: b.frame}
	t := Explain(Switch{Rows: b.rows, Live: b, FIB: b}, p)
	if b.vlan { // TEST_RUN cannot put a tag beside a frame
		return t, nil
	}
	in := append([]byte{}, b.frame...)
	ret, res, out, err := b.run(p, b.rows.IfPort[uint32(b.at)])
	if err != nil {
		return t, err
	}
	if diff := differs(t, ret, res, in, out); diff != "" {
		return t, fmt.Errorf("%s\n%v", diff, t)
	}
	return t, nil
}

// fault is one thing that is wrong. ask is the packet that suffers; seed spoils
// the State or Facts before they are compiled, poke the rows afterwards. The
// packet passes while nothing is seeded, unless the packet is itself what is wrong.
type fault struct {
	name          string
	ask           func(*sickbed)
	seed          func(*sickbed)
	poke          func(*sickbed) error
	reason, layer string
}

const (
	askB       = "192.168.100.10.40000 > 192.168.100.11.80: tcp S"
	askOutside = "192.168.100.10.40000 > 8.8.8.8.53: udp \"x\""
	askHost    = "192.168.100.10.40000 > 10.0.0.4.8080: tcp S"
)

func ask(line string) func(*sickbed) { return func(b *sickbed) { b.send(line) } }

func arrive(line string) func(*sickbed) { return func(b *sickbed) { b.arrive(line) } }

// raw is a packet of a whose bytes are spoilt.
func raw(line string, f func(b []byte) []byte) func(*sickbed) {
	return func(b *sickbed) { b.send(line); b.frame = f(b.frame) }
}

func faults() []fault {
	return []fault{
		{name: "sender's port is down", ask: ask(askB), seed: func(b *sickbed) { b.port(bedA).Up = false }, reason: "PORT_DOWN", layer: "L0 port"},
		{name: "sender's device is not known", ask: ask(askB), seed: func(b *sickbed) { delete(b.facts.Ifindex, "e0") }, reason: "PORT_DOWN", layer: "L0 port"},
		{name: "tagged frame at an access port", ask: func(b *sickbed) { b.send(askB); b.vlan = true }, reason: "VLAN", layer: "L0 port"},
		{name: "not IP", ask: raw(askB, func(f []byte) []byte { f[12], f[13] = 0x88, 0xcc; return f }), reason: "L2_PROTO", layer: "L0 port"},
		{name: "cut short", ask: raw(askB, func(f []byte) []byte { return f[:40] }), reason: "PARSE", layer: "L0 port"},
		{name: "fragment without its ports", ask: raw(askB, func(f []byte) []byte { return tiny(f) }), reason: "FRAG_TINY", layer: "L0 port"},
		{name: "MAC of another", ask: ask(askB), seed: func(b *sickbed) { b.port(bedA).MAC[5] = 0x77 }, reason: "SPOOF_MAC", layer: "L1 anti-spoof"},
		{name: "address of another", ask: ask("192.168.100.99.40000 > 192.168.100.11.80: tcp S"), reason: "SPOOF_IP", layer: "L1 anti-spoof"},
		{name: "stale address after a renumbering", ask: ask(askB), seed: func(b *sickbed) { b.port(bedA).Addrs = []netip.Addr{netip.MustParseAddr("192.168.100.20")} }, reason: "SPOOF_IP", layer: "L1 anti-spoof"},
		{name: "ARP for another", ask: ask("arp who-has 192.168.100.11 tell 192.168.100.12"), reason: "SPOOF_ARP", layer: "L1 anti-spoof"},
		{name: "DHCP server behind an endpoint", ask: ask("192.168.100.10.67 > 192.168.100.11.68: udp \"x\""), reason: "DHCP_GUARD", layer: "L1 anti-spoof"},
		{name: "published port with nobody behind", ask: ask(askHost), seed: func(b *sickbed) {
			m := b.state.Mappings[0]
			b.state.Mappings = nil
			b.state.Services = []vswitch.Service{{ID: 1, Name: "web", Frontends: []vswitch.Frontend{
				{Addr: netip.IPv4Unspecified(), Port: m.HostPort, Proto: m.Proto, Scope: vswitch.ScopeAll}}}}
		}, reason: "NO_BACKEND", layer: "L4 services"},
		{name: "middle of a connection to a published port", ask: ask("192.168.100.10.40000 > 10.0.0.4.8080: tcp A"), reason: "NOSTATE", layer: "L4 services"},
		{name: "nobody has the address", ask: ask(askB), seed: func(b *sickbed) { b.port(bedB).Addrs = b.port(bedB).Addrs[1:]; b.state.Mappings = nil }, reason: "UNKNOWN_DST", layer: "L6 route"},
		{name: "receiver's port is down", ask: ask(askB), seed: func(b *sickbed) { b.port(bedB).Up = false }, reason: "PORT_DOWN", layer: "L6 route"},
		{name: "receiver's device went", ask: ask(askB), seed: func(b *sickbed) { delete(b.facts.Ifindex, "e1") }, reason: "PORT_DOWN", layer: "L6 route"},
		{name: "network without a way out", ask: ask(askOutside), seed: func(b *sickbed) { b.net(1).Flags &^= vswitch.NetUplink }, reason: "NO_ROUTE", layer: "L6 route"},
		{name: "other network", ask: ask("192.168.100.10.40000 > 192.168.101.1.80: tcp S"), seed: func(b *sickbed) { b.net(1).Flags &^= vswitch.NetHostNIC; b.net(1).HostPort = 0; b.drop(bedHost1) }, reason: "NO_ROUTE", layer: "L6 route"},
		{name: "host's route prohibits", ask: ask("192.168.100.10.40000 > 198.51.100.9.53: udp \"x\""), reason: "NO_ROUTE", layer: "L6 route"},
		{name: "host's route is a black hole", ask: ask("192.168.100.10.40000 > 198.51.101.9.53: udp \"x\""), reason: "NO_ROUTE", layer: "L6 route"},
		{name: "route over a device that is no uplink", ask: ask("192.168.100.10.40000 > 198.51.102.9.53: udp \"x\""), reason: "NO_ROUTE", layer: "L6 route"},
		{name: "uplink went away", ask: ask(askOutside), seed: func(b *sickbed) { b.facts.Uplinks = b.facts.Uplinks[1:] }, reason: "NO_ROUTE", layer: "L6 route"},
		{name: "group address as a destination of unicast", ask: ask("192.168.100.10.40000 > 224.0.0.5.53: udp \"x\""), reason: "NO_ROUTE", layer: "L6 route"},
		{name: "to itself by the switch", ask: ask("192.168.100.10.40000 > 192.168.100.10.80: tcp S"), reason: "LOOP", layer: "L6 route"},
		{name: "uplink lost its address", ask: ask(askOutside), seed: func(b *sickbed) { b.facts.Uplinks[0].Addrs = b.facts.Uplinks[0].Addrs[1:] }, reason: "NO_ROUTE", layer: "L7 NAT"},
		{name: "NAT pool exhausted", ask: func(b *sickbed) {
			b.send("192.168.100.10.40000 > 8.8.8.8.53: udp \"x\"")
		}, poke: exhaust, reason: "NAT_PORTS", layer: "L7 NAT"},
		{name: "reset of a connection that nobody knows", ask: ask("192.168.100.10.40000 > 192.168.100.11.80: tcp R"), reason: "NOSTATE", layer: "L7 NAT"},
		{name: "quota of flows used up", ask: ask(askB), poke: func(b *sickbed) error {
			v := b.rows.Port[bedA]
			v.MaxFlows = 1
			b.rows.Port[bedA] = v
			return errors.Join(b.coll.Maps["port"].Put(uint32(bedA), v), b.coll.Maps["pflows"].Put(uint32(bedA), uint32(1)))
		}, reason: "PORT_QUOTA", layer: "L7 NAT"},
		{name: "blocked where it was sent to, before load balancing", ask: ask(askHost), seed: func(b *sickbed) {
			b.rule(bedA, vswitch.ACLOut, vswitch.ViewOriginal, "10.0.0.4/32")
		}, reason: "ACL_OUT_PRE", layer: "L3 outbound rules, as sent"},
		{name: "blocked where it goes", ask: ask(askB), seed: func(b *sickbed) {
			b.rule(bedA, vswitch.ACLOut, vswitch.ViewTranslated, "192.168.100.11/32")
		}, reason: "ACL_OUT", layer: "L5 outbound rules"},
		{name: "blocked behind a published port", ask: ask(askHost), seed: func(b *sickbed) {
			b.rule(bedA, vswitch.ACLOut, vswitch.ViewTranslated, "192.168.100.11/32")
		}, reason: "ACL_OUT", layer: "L5 outbound rules"},
		{name: "blocked by the receiver", ask: ask(askB), seed: func(b *sickbed) {
			b.rule(bedB, vswitch.ACLIn, vswitch.ViewTranslated, "192.168.100.10/32")
		}, reason: "ACL_IN", layer: "L8 inbound rules"},
		{name: "not let in by default", ask: ask(askB), seed: func(b *sickbed) {
			b.state.ACLs = append(b.state.ACLs, vswitch.ACLSet{ID: 1, Name: "closed", DefaultIn: vswitch.ACLBlock})
			b.port(bedB).ACLs = []vswitch.ACLID{1}
		}, reason: "ACL_IN", layer: "L8 inbound rules"},
		{name: "blocked from outside", ask: arrive("203.0.113.77.40000 > 10.0.0.4.8080: tcp S"), seed: func(b *sickbed) {
			b.rule(bedB, vswitch.ACLIn, vswitch.ViewTranslated, "203.0.113.0/24")
		}, reason: "ACL_IN", layer: "L8 inbound rules"},
		{name: "service without backends", ask: ask("192.168.100.10.40000 > 10.96.0.1.80: tcp S"), seed: func(b *sickbed) {
			b.state.Services = append(b.state.Services, vswitch.Service{ID: 1, Name: "empty", Frontends: []vswitch.Frontend{
				{Addr: netip.MustParseAddr("10.96.0.1"), Port: 80, Proto: 6, Scope: vswitch.ScopeCluster}}})
		}, reason: "NO_BACKEND", layer: "L4 services"},
		{name: "all backends draining", ask: ask("192.168.100.10.40000 > 10.96.0.1.80: tcp S"), seed: func(b *sickbed) {
			b.state.Services = append(b.state.Services, vswitch.Service{ID: 1, Name: "closing", Frontends: []vswitch.Frontend{
				{Addr: netip.MustParseAddr("10.96.0.1"), Port: 80, Proto: 6, Scope: vswitch.ScopeCluster}},
				Backends: []vswitch.Backend{{Addr: b.port(bedB).Addrs[0], Port: 80, At: bedB, State: vswitch.BackendDraining}}})
		}, reason: "NO_BACKEND", layer: "L4 services"},
		{name: "backend of an overlay on no known host", ask: arrive("203.0.113.77.40000 > 10.96.0.1.80: tcp S"), seed: func(b *sickbed) {
			b.facts.Ifindex[tunnelDev] = b.index[tunnelDev]
			b.state.Tunnels = []vswitch.Tunnel{{ID: labTunnel, Interface: tunnelDev, Up: true}}
			b.net(1).Tunnel = labTunnel
			for i := range b.net(1).Subnets {
				b.net(1).Subnets[i].VNI = uint32(5000 + i)
			}
			b.state.Services = append(b.state.Services, vswitch.Service{ID: 1, Name: "far", SourceVIP: netip.MustParseAddr("192.168.100.250"),
				Frontends: []vswitch.Frontend{{Addr: netip.MustParseAddr("10.96.0.1"), Port: 80, Proto: 6, Scope: vswitch.ScopeOutside}},
				Backends:  []vswitch.Backend{{Addr: netip.MustParseAddr("192.168.100.77"), Port: 80, Network: 1}}})
		}, reason: "UNKNOWN_DST", layer: "L6 route"},
		{name: "route that rejects", ask: ask(askOutside), seed: func(b *sickbed) {
			b.net(1).Routes = []vswitch.Route{{Prefix: netip.MustParsePrefix("8.8.8.0/24"), To: vswitch.RouteReject}}
		}, reason: "NO_ROUTE", layer: "L6 route"},
		{name: "route by a machine that is not there", ask: ask(askOutside), seed: func(b *sickbed) {
			b.net(1).Routes = []vswitch.Route{{Prefix: netip.MustParsePrefix("8.8.8.0/24"), To: vswitch.RouteVia, Via: netip.MustParseAddr("192.168.100.200")}}
		}, reason: "UNKNOWN_DST", layer: "L6 route"},
		{name: "time to live is over", ask: ask("192.168.100.10.40000 > 8.8.8.8.53: tcp S ttl 1"), reason: "TTL", layer: "L9 delivery"},
		{name: "MTU of the receiver's network is too small", ask: ask("192.168.100.10.40000 > 192.168.100.11.80: udp len 1500"), seed: func(b *sickbed) { b.net(1).MTU = 1400 }, reason: "MTU", layer: "L9 delivery"},
		{name: "MTU of the uplink is too small", ask: ask("192.168.100.10.40000 > 8.8.8.8.53: udp len 1500"), seed: func(b *sickbed) { b.facts.Uplinks[0].MTU = 1300 }, reason: "MTU", layer: "L9 delivery"},
		{name: "MTU of the host's route is too small", ask: ask("192.168.100.10.40000 > 203.0.113.9.53: udp len 1400"), reason: "MTU", layer: "L9 delivery"},
		{name: "ICMP error about nothing", ask: ask("192.168.100.10 > 192.168.100.11: icmp error 3.3 0 [192.168.100.11.80 > 192.168.100.10.40000: udp \"x\"]"), reason: "ICMP_NOFLOW", layer: "flow"},
	}
}

// tiny makes the frame's packet a first fragment that ends in its TCP header.
func tiny(f []byte) []byte {
	k, err := pkt.Decode(f)
	if err != nil {
		panic(err)
	}
	k.Data = make([]byte, 64)
	parts := k.Fragments(7, 8)
	parts[0].From, parts[0].To = k.From, k.To
	return parts[0].Bytes()
}

// drop removes a port from the State.
func (b *sickbed) drop(id vswitch.PortID) {
	for i := range b.state.Ports {
		if b.state.Ports[i].ID == id {
			b.state.Ports = append(b.state.Ports[:i:i], b.state.Ports[i+1:]...)
			return
		}
	}
}

// rule gives a port a set with one rule that blocks what it has with remote.
func (b *sickbed) rule(at vswitch.PortID, d vswitch.ACLDirection, v vswitch.ACLView, remote string) {
	p := netip.MustParsePrefix(remote)
	r := vswitch.ACLRule{ID: 1, Name: "no", Direction: d, Action: vswitch.ACLBlock, View: v, Remote: []netip.Prefix{p}}
	b.state.ACLs = append(b.state.ACLs, vswitch.ACLSet{ID: 1, Name: "set", Rules: []vswitch.ACLRule{r}})
	b.port(at).ACLs = []vswitch.ACLID{1}
}

// exhaust narrows the pool of the first uplink to one port and lets b use it.
func exhaust(b *sickbed) error {
	for id, v := range b.rows.NATPool {
		v.Lo, v.Hi = 40000, 40000
		b.rows.NATPool[id] = v
		if err := b.coll.Maps["natpool"].Put(id, v); err != nil {
			return err
		}
	}
	k := pkt.MustParse("192.168.100.11.40000 > 8.8.8.8.53: udp \"x\"")
	k.From, k.To = pkt.MAC(b.port(bedB).MAC), pkt.MAC(b.mac[switchDev(0)])
	_, res, _, err := b.run(Packet{Ifindex: b.index["e1"], Frame: k.Bytes()}, bedB)
	if err == nil && bpf.ResultVerdict(res.Verdict) != bpf.SwitchGhResultVerdictGH_RESULT_FORWARD {
		err = fmt.Errorf("b's packet was not forwarded: %+v", res)
	}
	return err
}

// TestFaults seeds one fault after the other into a switch that works; explain
// and the programs must both name the layer that is to blame.
func TestFaults(t *testing.T) {
	l := newLab(t)
	for _, f := range faults() {
		var sound, sick Trace
		var err error
		l.in(func() {
			run := func(seeded bool) (tr Trace, err error) {
				b := newSickbed(l)
				f.ask(b)
				if seeded && f.seed != nil {
					f.seed(b)
				}
				if err := errors.Join(l.apply(vswitch.Tables{}), l.clear(), b.compile()); err != nil {
					return tr, err
				}
				if seeded && f.poke != nil {
					if err := f.poke(b); err != nil {
						return tr, err
					}
				}
				tr, err = b.look()
				return tr, err
			}
			if sound, err = run(false); err != nil {
				return
			}
			sick, err = run(true)
		})
		if err != nil {
			t.Errorf("%s: %v", f.name, err)
			continue
		}
		if (f.seed != nil || f.poke != nil) && sound.Verdict == Drop {
			t.Errorf("%s: the packet is dropped before the fault is there: %s at %s", f.name, sound.Reason, sound.Layer)
		}
		if sick.Verdict != Drop || sick.Reason != f.reason || sick.Layer != f.layer {
			t.Errorf("%s: %s %s at %q, want %s at %q\n%v", f.name, sick.Verdict, sick.Reason, sick.Layer, f.reason, f.layer, sick)
		}
	}
	t.Logf("%d faults", len(faults()))
}
