// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package dhcp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

func testLease() *model.Lease {
	a := netip.MustParseAddr
	return &model.Lease{Device: "p", MAC: vswitch.MAC{2, 0, 0, 0, 0, 9}, Addr: netip.MustParsePrefix("10.1.0.9/24"), Server: a("10.1.0.1"),
		Router: a("10.1.0.254"), ServerMAC: vswitch.MAC{2, 0, 0, 0, 0, 1}, DNS: []netip.Addr{a("10.1.0.1"), a("9.9.9.9")}, Domain: "lan"}
}

// Options and message types of RFC 2132.
const (
	optMask, optRouter, optDNS, optDomain             = 1, 3, 6, 15
	optAddress, optLease, optType, optServer, optRest = 50, 51, 53, 54, 255

	discover, offer, request, ack, nak, inform = 1, 2, 3, 5, 6, 8

	bootpLen = 236
)

var cookie = [4]byte{99, 130, 83, 99} // RFC 2131 section 3

// options by number.
func options(b []byte) map[byte][]byte {
	out := map[byte][]byte{}
	for len(b) > 1 && b[0] != optRest {
		out[b[0]] = b[2 : 2+b[1]]
		b = b[2+b[1]:]
	}
	return out
}

// asking is a client's frame.
func asking(kind byte, more ...byte) []byte {
	m := make([]byte, bootpLen)
	m[0], m[1], m[2], m[7] = 1, 1, 6, 77
	copy(m[28:], []byte{2, 0, 0, 0, 0, 9})
	m = append(append(append(m, cookie[:]...), optType, 1, kind), more...)
	m = append(m, optRest)
	f := make([]byte, ethLen+ipLen+udpLen)
	binary.BigEndian.PutUint16(f[12:], 0x0800)
	f[ethLen], f[ethLen+9] = 0x45, 17
	binary.BigEndian.PutUint16(f[ethLen+ipLen+2:], serverPort)
	binary.BigEndian.PutUint16(f[ethLen+ipLen+4:], uint16(udpLen+len(m)))
	return append(f, m...)
}

func TestAnswer(t *testing.T) {
	l := testLease()
	mine, other, server := []byte{optAddress, 4, 10, 1, 0, 9}, []byte{optAddress, 4, 10, 1, 0, 8}, []byte{optServer, 4, 10, 1, 0, 1}
	for what, c := range map[string]struct {
		frame []byte
		kind  byte // 0 = no answer
	}{
		"discover":                {asking(discover), offer},
		"discover, asking other":  {asking(discover, other...), offer},
		"request":                 {asking(request, append(mine, server...)...), ack},
		"request after a reboot":  {asking(request, mine...), ack},
		"request of another's":    {asking(request, other...), nak},
		"request of nothing":      {asking(request), nak},
		"request from another":    {asking(request, append(mine, optServer, 4, 10, 1, 0, 2)...), 0},
		"inform":                  {asking(inform), ack},
		"release":                 {asking(7), 0},
		"no type":                 {asking(discover)[:ethLen+ipLen+udpLen+bootpLen+4], 0},
		"another's hardware":      {func() []byte { f := asking(discover); f[ethLen+ipLen+udpLen+33] = 8; return f }(), 0},
		"a reply":                 {func() []byte { f := asking(discover); f[ethLen+ipLen+udpLen] = 2; return f }(), 0},
		"longer than it is":       {func() []byte { f := asking(discover); f[ethLen+ipLen+4] = 0xff; return f }(), 0},
		"a fragment":              {func() []byte { f := asking(discover); f[ethLen+6] = 0x20; return f }(), 0},
		"an option beyond an end": {asking(discover, optServer, 200), 0},
	} {
		out := answer(l, c.frame)
		if c.kind == 0 {
			if out != nil {
				t.Errorf("%s is answered", what)
			}
			continue
		}
		if len(out) < ethLen+ipLen+udpLen+300 {
			t.Errorf("%s: %x", what, out)
			continue
		}
		m := out[ethLen+ipLen+udpLen:]
		got := options(m[bootpLen+4:])
		if !bytes.Equal(got[optType], []byte{c.kind}) || !bytes.Equal(got[optServer], []byte{10, 1, 0, 1}) || m[7] != 77 || m[33] != 9 {
			t.Errorf("%s: %v", what, got)
		}
		var sum uint32
		for i := range ipLen / 2 {
			sum += uint32(binary.BigEndian.Uint16(out[ethLen+2*i:]))
		}
		if sum&0xffff+sum>>16 != 0xffff {
			t.Errorf("%s: the checksum is wrong", what)
		}
		if given := [4]byte(m[16:]); c.kind == nak || what == "inform" {
			if given != [4]byte{} || got[optLease] != nil {
				t.Errorf("%s gives %v", what, given)
			}
		} else if given != [4]byte{10, 1, 0, 9} || !bytes.Equal(got[optMask], []byte{255, 255, 255, 0}) || !bytes.Equal(got[optRouter], []byte{10, 1, 0, 254}) ||
			!bytes.Equal(got[optDNS], []byte{10, 1, 0, 1, 9, 9, 9, 9}) || string(got[optDomain]) != "lan" || !bytes.Equal(got[optLease], []byte{0, 1, 0x51, 0x80}) {
			t.Errorf("%s: %v with %v", what, given, got)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(asking(discover))
	f.Add(asking(request, optAddress, 4, 10, 1, 0, 9))
	f.Fuzz(func(t *testing.T, frame []byte) { answer(testLease(), frame) })
}
