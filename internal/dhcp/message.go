// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package dhcp

import (
	"encoding/binary"
	"net/netip"

	"gatehouse.dev/gatehouse/internal/network/model"
)

// Options and message types of RFC 2132.
const (
	optMask, optRouter, optDNS, optDomain             = 1, 3, 6, 15
	optAddress, optLease, optType, optServer, optRest = 50, 51, 53, 54, 255

	discover, offer, request, ack, nak, inform = 1, 2, 3, 5, 6, 8
)

// leaseTime is what a client is told. The address is its own as long as the endpoint
// is there; a day lets changes of servers and routers arrive. Our choice.
const leaseTime = 24 * 60 * 60

const (
	ethLen, ipLen, udpLen, bootpLen = 14, 20, 8, 236
	serverPort, clientPort          = 67, 68
)

var (
	cookie    = [4]byte{99, 130, 83, 99} // RFC 2131 section 3
	broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})
)

// answer is the frame that a client's frame is answered with; nil = none.
func answer(l *model.Lease, frame []byte) []byte {
	m := payload(frame)
	if len(m) < bootpLen+len(cookie) || m[0] != 1 || m[1] != 1 || m[2] != 6 || [4]byte(m[bootpLen:]) != cookie || [6]byte(m[28:]) != l.MAC {
		return nil
	}
	asked := options(m[bootpLen+len(cookie):])
	if len(asked[optType]) != 1 {
		return nil
	}
	if s := asked[optServer]; len(s) == 4 && netip.AddrFrom4([4]byte(s)) != l.Server {
		return nil // meant for another
	}
	held := netip.AddrFrom4([4]byte(m[12:])) // ciaddr
	wanted := held
	if a := asked[optAddress]; len(a) == 4 {
		wanted = netip.AddrFrom4([4]byte(a))
	}
	switch asked[optType][0] {
	case discover:
		return reply(l, m, offer, broadcastOr(m, l.Addr.Addr()))
	case request:
		if wanted != l.Addr.Addr() {
			return reply(l, m, nak, broadcast)
		}
		return reply(l, m, ack, broadcastOr(m, l.Addr.Addr()))
	case inform:
		return reply(l, m, ack, held)
	}
	return nil
}

// broadcastOr is where a client wants to be answered that may have no address yet.
func broadcastOr(m []byte, a netip.Addr) netip.Addr {
	if m[10]&0x80 != 0 {
		return broadcast
	}
	return a
}

// payload of a UDP datagram to the server's port over IPv4; nil = it is something else.
func payload(f []byte) []byte {
	if len(f) < ethLen+ipLen || binary.BigEndian.Uint16(f[12:]) != 0x0800 {
		return nil
	}
	ip := f[ethLen:]
	head := int(ip[0]&15) * 4
	if ip[0]>>4 != 4 || head < ipLen || ip[9] != 17 || binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 || len(ip) < head+udpLen {
		return nil
	}
	udp := ip[head:]
	size := int(binary.BigEndian.Uint16(udp[4:]))
	if binary.BigEndian.Uint16(udp[2:]) != serverPort || size < udpLen || size > len(udp) {
		return nil
	}
	return udp[udpLen:size]
}

// options by number; the first of each.
func options(b []byte) map[byte][]byte {
	out := map[byte][]byte{}
	for len(b) > 1 && b[0] != optRest {
		if b[0] == 0 { // padding
			b = b[1:]
			continue
		}
		n := int(b[1])
		if len(b) < 2+n {
			break
		}
		if _, have := out[b[0]]; !have {
			out[b[0]] = b[2 : 2+n]
		}
		b = b[2+n:]
	}
	return out
}

// reply to the message m of a client.
func reply(l *model.Lease, m []byte, kind byte, to netip.Addr) []byte {
	b := make([]byte, bootpLen, 320)
	b[0], b[1], b[2] = 2, 1, 6
	copy(b[4:8], m[4:8])     // xid
	copy(b[10:12], m[10:12]) // flags
	copy(b[28:44], m[28:44]) // chaddr
	b = append(b, cookie[:]...)
	add := func(option byte, value ...byte) { b = append(append(b, option, byte(len(value))), value...) }
	addrs := func(option byte, as ...netip.Addr) {
		var v []byte
		for _, a := range as {
			if a.Is4() && len(v) < 32 {
				v = append(v, a.AsSlice()...)
			}
		}
		if len(v) > 0 {
			add(option, v...)
		}
	}
	add(optType, kind)
	addrs(optServer, l.Server)
	if kind != nak {
		copy(b[12:16], m[12:16]) // ciaddr
		if options(m[bootpLen+len(cookie):])[optType][0] != inform {
			copy(b[16:20], l.Addr.Addr().AsSlice())
			add(optLease, binary.BigEndian.AppendUint32(nil, leaseTime)...)
		}
		mask := ^uint32(0) << (32 - l.Addr.Bits())
		add(optMask, binary.BigEndian.AppendUint32(nil, mask)...)
		addrs(optRouter, l.Router)
		addrs(optDNS, l.DNS...)
		if l.Domain != "" && len(l.Domain) < 256 {
			add(optDomain, []byte(l.Domain)...)
		}
	}
	b = append(b, optRest)
	for len(b) < 300 { // the least that BOOTP clients take (RFC 1542 section 2.1)
		b = append(b, 0)
	}
	return frameOf(l, b, to)
}

// frameOf puts a message into UDP, IPv4 and Ethernet.
func frameOf(l *model.Lease, message []byte, to netip.Addr) []byte {
	f := make([]byte, ethLen+ipLen+udpLen, ethLen+ipLen+udpLen+len(message))
	copy(f, l.MAC[:])
	if to == broadcast {
		copy(f, []byte{255, 255, 255, 255, 255, 255})
	}
	copy(f[6:], l.ServerMAC[:])
	binary.BigEndian.PutUint16(f[12:], 0x0800)
	ip, udp := f[ethLen:], f[ethLen+ipLen:]
	ip[0], ip[8], ip[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(ipLen+udpLen+len(message)))
	copy(ip[12:], l.Server.AsSlice())
	copy(ip[16:], to.AsSlice())
	var sum uint32
	for i := 0; i < ipLen; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(udp, serverPort)
	binary.BigEndian.PutUint16(udp[2:], clientPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(udpLen+len(message))) // no checksum: IPv4 allows that
	return append(f, message...)
}
