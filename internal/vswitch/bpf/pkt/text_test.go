// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package pkt

import "testing"

// Lines survive text -> bytes -> text, and their checksums are right.
func TestRoundTrip(t *testing.T) {
	for _, line := range []string{
		"192.168.100.10.40000 > 10.0.0.9.80: tcp S",
		"192.168.100.10.40000 > 10.0.0.9.80: tcp FP. ttl 3 \"data\"",
		"192.168.100.10.40000 > 10.0.0.9.80: tcp R. seq 1 ack 2",
		"fd00:100::10.53 > fd00:a::9.53: udp \"x\"",
		"10.0.0.1.1 > 10.0.0.2.2: udp nosum \"abc\"",
		"fd00:100::10 > fd00:a::9: icmp6 echo 7 ttl 63",
		"10.0.0.9 > 10.0.0.4: icmp reply 7",
		"10.0.0.254 > 10.0.0.4: icmp error 3.4 1300 [10.0.0.4.40000 > 10.0.0.9.80: tcp S]",
		"fd00::1 > fd00::2: icmp6 error 2.0 1280 [fd00::2.1 > fd00::3.2: udp]",
		"fe80::1 > ff02::1:ff00:11: icmp6 nd 135 fd00:100::11 mac 02:00:00:00:00:0a ttl 255",
		"10.0.0.1.5 > 10.0.0.2.6: sctp",
		"10.0.0.1 > 10.0.0.2: proto 47",
		"arp who-has 192.168.100.11 tell 192.168.100.10",
		"arp reply 192.168.100.11 is-at 02:00:00:00:00:0b",
	} {
		p, err := Parse(line)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		q, err := Decode(p.Bytes())
		if err != nil {
			t.Errorf("%s: decode: %v", line, err)
			continue
		}
		if got := q.String(); got != line {
			t.Errorf("got  %s\nwant %s", got, line)
		}
	}
}

func TestDecodeFindsWrongSums(t *testing.T) {
	b := MustParse("10.0.0.1.1 > 10.0.0.2.2: udp \"abc\"").Bytes()
	for _, i := range []int{14 + 13, 14 + 20, len(b) - 1} {
		c := append([]byte{}, b...)
		c[i] ^= 1
		if _, err := Decode(c); err == nil {
			t.Errorf("byte %d changed and nobody saw it", i)
		}
	}
}

func TestFragments(t *testing.T) {
	for _, line := range []string{"10.0.0.1.1 > 10.0.0.2.2: udp len 900", "fd00::1.1 > fd00::2.2: udp len 900"} {
		p := MustParse(line)
		parts := p.Fragments(7, 400)
		var back []*Packet
		for i := len(parts) - 1; i >= 0; i-- {
			q, err := Decode(parts[i].Bytes())
			if err != nil {
				t.Fatal(err)
			}
			back = append(back, q)
		}
		q, err := Reassemble(back)
		if err != nil {
			t.Fatal(err)
		}
		if q.String() != p.String() || len(q.Data) != len(p.Data) {
			t.Errorf("got %v (%d), want %v (%d)", q, len(q.Data), p, len(p.Data))
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(MustParse("10.0.0.1.1 > 10.0.0.2.2: udp \"abc\"").Bytes())
	f.Add(MustParse("fd00::1 > fd00::2: icmp6 error 2.0 1280 [fd00::2.1 > fd00::3.2: udp]").Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := Decode(b); err == nil {
			_ = p.String()
		}
	})
}
