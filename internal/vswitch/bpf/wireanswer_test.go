// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import (
	"testing"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// TestWireAnswers: what the switch answers itself goes back as the question came:
// in its VLAN, and to the host if its frame was turned round at the uplink.
func TestWireAnswers(t *testing.T) {
	l := newLab(t, true)
	z, router := l.port("z"), mac(0x99)
	for _, name := range []string{"t1", "l1", "n1"} {
		p := l.port(name)
		var row Port
		if err := l.coll.Maps["port"].Lookup(p.id, &row); err != nil {
			t.Fatal(err)
		}
		row.Mtu = 1300
		l.put("port", p.id, row)
	}
	for _, a := range []string{"10.4.0.200", "fd00:4::200"} {
		l.put("vip_l2", VIPKey{Uplink: bridgeUplink, Addr: addr(a)}, uint8(1))
	}
	const out, in = SwitchGhOutKindGH_OUT_EGRESS, SwitchGhOutKindGH_OUT_INGRESS
	all := pkt.MAC{255, 255, 255, 255, 255, 255}
	for _, c := range []struct {
		name, packet string
		from, to     pkt.MAC
		tag          uint16
		want         OutKind
	}{
		{"too big, from the wire", "10.4.0.9.5 > 10.4.0.11.7: udp", router, l.port("t1").mac, 0, out},
		{"too big, from the wire v6", "fd00:4::9.5 > fd00:4::11.7: udp", router, l.port("t1").mac, 0, out},
		{"too big, from the host", "10.4.0.4.5 > 10.4.0.11.7: udp", z.mac, l.port("t1").mac, 0, in},
		{"too big, from the host v6", "fd00:4::4.5 > fd00:4::11.7: udp", z.mac, l.port("t1").mac, 0, in},
		{"too big, tagged", "10.5.0.9.5 > 10.5.0.11.7: udp", router, z.mac, 7, out},
		{"too big, tagged v6", "fd00:5::9.5 > fd00:5::11.7: udp", router, z.mac, 7, out},
		{"too big, tagged, from the host", "10.5.0.4.5 > 10.5.0.11.7: udp", z.mac, z.mac, 7, in},
		{"too big, tagged, from the host v6", "fd00:5::4.5 > fd00:5::11.7: udp", z.mac, z.mac, 7, in},
		{"too big, from an endpoint that the fabric sent back", "10.6.0.12.5 > 10.6.0.11.7: udp", z.mac, z.mac, 8, out},
		{"announced", "arp who-has 10.4.0.200 tell 10.4.0.9", router, all, 0, out},
		{"announced v6", "fd00:4::9 > ff02::1:ff00:200: icmp6 nd 135 fd00:4::200 mac 02:00:00:00:00:99", router, pkt.MAC{0x33, 0x33, 0xff, 0, 2, 0}, 0, out},
		{"announced, to the host", "arp who-has 10.4.0.200 tell 10.4.0.4", z.mac, all, 0, in},
		{"announced, to the host v6", "fd00:4::4 > ff02::1:ff00:200: icmp6 nd 135 fd00:4::200 mac 02:00:00:00:00:f3", z.mac, pkt.MAC{0x33, 0x33, 0xff, 0, 2, 0}, 0, in},
	} {
		l.reset()
		k := pkt.MustParse(c.packet)
		k.From, k.To = c.from, c.to
		if k.Proto == pkt.UDP {
			k.Data = make([]byte, 1400)
		}
		var o outcome
		var err error
		if c.tag != 0 {
			o, err = l.runTagged(z, c.tag, l.frame(z, k))
		} else {
			o, err = l.run(z, l.frame(z, k), 0)
		}
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if SwitchGhResultVerdict(o.res.Verdict) != SwitchGhResultVerdictGH_RESULT_REPLY || OutKind(o.res.OutKind) != c.want || o.res.Tag != c.tag {
			t.Errorf("%s: %+v, want kind %d and tag %d", c.name, o.res, c.want, c.tag)
		}
		if got, err := pkt.Decode(o.out); err != nil || got.To != c.from {
			t.Errorf("%s: answered with %v, %v", c.name, got, err)
		}
	}
}
