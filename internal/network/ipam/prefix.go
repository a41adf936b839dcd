// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package ipam

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
)

// ChoosePrefix returns the first /20 of 172.16.0.0/12, then the first /24 of
// 192.168.0.0/16, that overlaps none of avoid. The error is ErrExhausted.
func ChoosePrefix(avoid []netip.Prefix) (netip.Prefix, error) {
	for _, from := range []struct {
		pool netip.Prefix
		bits int
	}{
		{netip.MustParsePrefix("172.16.0.0/12"), 20},
		{netip.MustParsePrefix("192.168.0.0/16"), 24},
	} {
		for a := from.pool.Addr(); from.pool.Contains(a); {
			p := netip.PrefixFrom(a, from.bits)
			if !overlaps(p, avoid) {
				return p, nil
			}
			a = Last(p).Next()
		}
	}
	return netip.Prefix{}, fmt.Errorf("prefixes of 172.16.0.0/12 and 192.168.0.0/16: %w", ErrExhausted)
}

func overlaps(p netip.Prefix, others []netip.Prefix) bool {
	for _, o := range others {
		// A default route overlaps everything and says nothing.
		if o.Bits() > 0 && o.Overlaps(p) {
			return true
		}
	}
	return false
}

// UniqueLocal is the IPv6 prefix of a network: fd00::/8, a 40-bit global id from
// the seed, subnet 0 (RFC 4193 section 3.2.2, with the network's GUID as the source of
// randomness), so the same at every start.
func UniqueLocal(seed string) netip.Prefix {
	sum := sha256.Sum256([]byte(seed))
	b := [16]byte{0: 0xfd}
	copy(b[1:6], sum[:5])
	return netip.PrefixFrom(netip.AddrFrom16(b), 64)
}
