// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package dhcp

import (
	"encoding/binary"
	"net/netip"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

const (
	ethLen, ipLen, udpLen  = 14, 20, 8
	serverPort, clientPort = 67, 68
)

var everybody = vswitch.MAC{255, 255, 255, 255, 255, 255}

// payload of a whole UDP datagram to a port over IPv4; nil = it is something else.
func payload(f []byte, port uint16) []byte {
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
	if binary.BigEndian.Uint16(udp[2:]) != port || size < udpLen || size > len(udp) {
		return nil
	}
	return udp[udpLen:size]
}

// datagram puts a message into UDP, IPv4 and Ethernet.
func datagram(dst, src vswitch.MAC, from, to netip.AddrPort, message []byte) []byte {
	f := make([]byte, ethLen+ipLen+udpLen, ethLen+ipLen+udpLen+len(message))
	copy(f, dst[:])
	copy(f[6:], src[:])
	binary.BigEndian.PutUint16(f[12:], 0x0800)
	ip, udp := f[ethLen:], f[ethLen+ipLen:]
	ip[0], ip[8], ip[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(ipLen+udpLen+len(message)))
	copy(ip[12:], from.Addr().AsSlice())
	copy(ip[16:], to.Addr().AsSlice())
	var sum uint32
	for i := 0; i < ipLen; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(udp, from.Port())
	binary.BigEndian.PutUint16(udp[2:], to.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(udpLen+len(message))) // no checksum: IPv4 allows that
	return append(f, message...)
}

// tagged is a frame with the tag of a VLAN; 0 = as it is.
func tagged(f []byte, vlan uint16) []byte {
	if vlan == 0 {
		return f
	}
	out := append(make([]byte, 0, len(f)+4), f[:12]...)
	out = binary.BigEndian.AppendUint16(out, 0x8100)
	out = binary.BigEndian.AppendUint16(out, vlan)
	return append(out, f[12:]...)
}
