// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import (
	"bytes"
	"testing"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// FuzzPacket puts any bytes in at any port. Whatever they are, the verdict is
// one of ours and written down once, what is left to the host is unchanged, and
// what was right before it was forwarded is right afterwards.
func FuzzPacket(f *testing.F) {
	ports := labPorts()
	for _, line := range []string{
		"192.168.100.10.40000 > 192.168.100.11.80: tcp S",
		"192.168.100.10.40000 > 10.0.0.9.80: udp \"x\"",
		"fd00:100::10.40000 > fd00:a::9.80: tcp S",
		"fd00:100::10 > fd00:a::9: icmp6 echo 7",
		"10.0.0.9.50000 > 10.0.0.4.8080: tcp S",
		"fd00:a::9.50000 > fd00:a::4.8053: udp \"y\"",
		"10.0.0.9 > 10.0.0.4: icmp error 3.3 0 [10.0.0.4.40000 > 10.0.0.9.80: udp]",
		"arp who-has 192.168.100.11 tell 192.168.100.10",
		"fe80::1 > ff02::1:ff00:11: icmp6 nd 135 fd00:100::11 mac 02:00:00:00:00:0a",
	} {
		for i := range ports {
			k := pkt.MustParse(line)
			k.From, k.To = ports[i].mac, ports[i].gw
			if ports[i].kind == SwitchGhPortKindGH_PORT_UPLINK {
				k.To = ports[i].mac
			}
			f.Add(byte(i), k.Bytes())
		}
	}
	frag := pkt.MustParse("192.168.100.10.40000 > 10.0.0.9.80: udp len 800").Fragments(9, 400)
	f.Add(byte(0), frag[0].Bytes())
	f.Add(byte(0), frag[1].Bytes())
	l := newLab(f, true)
	f.Fuzz(func(t *testing.T, port byte, frame []byte) {
		if len(frame) < 34 || len(frame) > 3000 { // TEST_RUN takes no less and no more
			t.Skip()
		}
		p := l.ports[int(port)%len(l.ports)]
		_, before := pkt.Decode(frame)
		o, err := l.run(p, bytes.Clone(frame), 0)
		if err != nil {
			t.Skip()
		}
		v := SwitchGhResultVerdict(o.res.Verdict)
		switch {
		case o.ret == 0xffffffff && v == SwitchGhResultVerdictGH_RESULT_NEXT:
			if !bytes.Equal(o.out[:len(frame)], frame) {
				t.Fatalf("left to the host, but changed:\n%x\n%x", frame, o.out)
			}
			if p.kind != SwitchGhPortKindGH_PORT_UPLINK {
				t.Fatal("a switch port passed a packet on")
			}
		case o.ret == 2 && (v == SwitchGhResultVerdictGH_RESULT_DROP || v == SwitchGhResultVerdictGH_RESULT_CONSUMED):
			if v == SwitchGhResultVerdictGH_RESULT_DROP && o.res.Reason == 0 {
				t.Fatal("dropped without a reason")
			}
			if r := DropReason(o.res.Reason); r == SwitchGhDropReasonGH_DROP_TAIL_CALL {
				t.Fatalf("dropped for %v", r)
			}
		case o.ret == 7 && (v == SwitchGhResultVerdictGH_RESULT_FORWARD || v == SwitchGhResultVerdictGH_RESULT_REPLY):
			if o.res.OutIfindex == 0 {
				t.Fatal("redirected nowhere")
			}
			if before != nil {
				break // it was wrong already
			}
			if k, err := pkt.Decode(o.out); err != nil {
				t.Fatalf("%v\n in %x\nout %x", err, frame, o.out)
			} else if k.TTL == 0 && v == SwitchGhResultVerdictGH_RESULT_FORWARD && (k.Ether == pkt.EtherIP || k.Ether == pkt.EtherIP6) {
				if in, _ := pkt.Decode(frame); in.TTL != 0 {
					t.Fatal("sent with TTL 0")
				}
			}
		default:
			t.Fatalf("returned %d, noted %+v", o.ret, o.res)
		}
	})
}
