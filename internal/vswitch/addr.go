// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// anyAddr is the all-zero vip of a's family: "any address of the host".
func anyAddr(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// be16 is a port as a field in wire order holds it on this machine.
func be16(p uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], p)
	return binary.NativeEndian.Uint16(b[:])
}

// prefixLen counts the 32 bits of zone+zero that precede the address in an LPM
// key, and the 96 bits that a v4-mapped address has before the IPv4 ones.
func prefixLen(p netip.Prefix) uint32 {
	n := 32 + uint32(p.Bits())
	if p.Addr().Is4() {
		n += 96
	}
	return n
}

// prefixOf is the prefix of a route row.
func prefixOf(k RouteKey) netip.Prefix {
	a, bits := ip(k.Addr.B), int(k.Prefixlen)-32
	if a.Is4() && bits >= 96 {
		bits -= 96
	}
	return netip.PrefixFrom(a, bits)
}

// hairpin4 is the source an endpoint sees when it reaches itself by a published
// port: link-local, so it never leaves and is nobody's address, and answered
// through the default route. 169.254.72.0/22 holds all MaxNetworks ids.
func hairpin4(id NetworkID) netip.Addr {
	return netip.AddrFrom4([4]byte{169, 254, 72 + byte(id>>8), byte(id)})
}

// hairpin6 is the same for IPv6. A unique local address, not fe80::/10: a guest
// would ask ND for a link-local peer, whereas it sends this one to its gateway.
// fd67:6861:6972::/48 is ours by choice; it never leaves the switch.
func hairpin6(id NetworkID) netip.Addr {
	a := [16]byte{0: 0xfd, 1: 0x67, 2: 0x68, 3: 0x61, 4: 0x69, 5: 0x72}
	binary.BigEndian.PutUint16(a[14:], uint16(id))
	return netip.AddrFrom16(a)
}

// networkMAC is the source of what a network without a host vNIC delivers:
// locally administered, "GH" and the id.
func networkMAC(id NetworkID) MAC {
	return MAC{0x02, 'G', 'H', 0, byte(id >> 8), byte(id)}
}

// String writes the MAC in the usual form.
func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// checkUnicast says why a cannot be the address of a vNIC or of the host.
func checkUnicast(a netip.Addr) error {
	switch {
	case !a.IsValid():
		return fmt.Errorf("no address")
	case a.Is4In6():
		return fmt.Errorf("%q: write an IPv4 address as IPv4", a)
	case a.Zone() != "":
		return fmt.Errorf("%q: an address with an interface", a)
	case a.IsUnspecified(), a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%q: not a unicast address", a)
	}
	return nil
}
