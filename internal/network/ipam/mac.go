// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package ipam

import (
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"strings"
)

// MAC is an Ethernet address in wire order.
type MAC [6]byte

// ParseMAC accepts aa-bb-cc-dd-ee-ff, aa:bb:cc:dd:ee:ff and aabbccddeeff.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	clean := s
	switch len(s) {
	case 17:
		for i := 2; i < 17; i += 3 {
			if s[i] != s[2] || s[i] != '-' && s[i] != ':' {
				return m, fmt.Errorf("MAC address %q: want aa-bb-cc-dd-ee-ff", s)
			}
		}
		clean = s[0:2] + s[3:5] + s[6:8] + s[9:11] + s[12:14] + s[15:17]
	case 12:
	default:
		return m, fmt.Errorf("MAC address %q: want aa-bb-cc-dd-ee-ff", s)
	}
	if _, err := hex.Decode(m[:], []byte(clean)); err != nil {
		return MAC{}, fmt.Errorf("MAC address %q: want aa-bb-cc-dd-ee-ff", s)
	}
	return m, nil
}

// String is the form of documents: AA-BB-CC-DD-EE-FF.
func (m MAC) String() string {
	return strings.ToUpper(fmt.Sprintf("%02x-%02x-%02x-%02x-%02x-%02x", m[0], m[1], m[2], m[3], m[4], m[5]))
}

// IsUnicast: one station's address, and not all zeroes.
func (m MAC) IsUnicast() bool { return m[0]&1 == 0 && m != MAC{} }

// Less orders as numbers.
func (m MAC) Less(n MAC) bool { return m.uint() < n.uint() }

func (m MAC) uint() (v uint64) {
	for _, b := range m {
		v = v<<8 | uint64(b)
	}
	return v
}

func macOf(v uint64) (m MAC) {
	for i := 5; i >= 0; i-- {
		m[i] = byte(v)
		v >>= 8
	}
	return m
}

// MACRange is inclusive at both ends.
type MACRange struct{ Start, End MAC }

// Check: one vendor prefix, unicast, not backwards.
func (r MACRange) Check() error {
	switch {
	case !r.Start.IsUnicast() || !r.End.IsUnicast():
		return fmt.Errorf("%s-%s: not unicast addresses", r.Start, r.End)
	case r.End.Less(r.Start):
		return fmt.Errorf("%s-%s: ends before it starts", r.Start, r.End)
	case [3]byte(r.Start[:3]) != [3]byte(r.End[:3]):
		return fmt.Errorf("%s-%s: spans two vendor prefixes", r.Start, r.End)
	}
	return nil
}

// Contains m.
func (r MACRange) Contains(m MAC) bool { return !m.Less(r.Start) && !r.End.Less(m) }

// Overlaps o.
func (r MACRange) Overlaps(o MACRange) bool { return !r.End.Less(o.Start) && !o.End.Less(r.Start) }

// NextMAC returns the first address after last (cyclic over the ranges, so that
// one just released is not given out at once) that is not used. The error is
// ErrExhausted.
func NextMAC(ranges []MACRange, last MAC, used func(MAC) bool) (MAC, error) {
	begin := 0
	for i, r := range ranges {
		if r.Contains(last) {
			begin = i
		}
	}
	// The range of last is walked twice: from last to its end, and at the end of
	// the round once more from its start.
	for i := range len(ranges) + 1 {
		r := ranges[(begin+i)%len(ranges)]
		v := r.Start.uint()
		if i == 0 && r.Contains(last) {
			v = last.uint() + 1
		}
		for ; v <= r.End.uint(); v++ {
			if m := macOf(v); !used(m) {
				return m, nil
			}
		}
	}
	return MAC{}, fmt.Errorf("MAC pool: %w", ErrExhausted)
}

// SeedMAC is an address of the ranges that depends on seed.
func SeedMAC(ranges []MACRange, seed string) MAC {
	h := fnv.New64a()
	h.Write([]byte(seed))
	r := ranges[h.Sum64()%uint64(len(ranges))]
	return macOf(r.Start.uint() + h.Sum64()%(r.End.uint()-r.Start.uint()+1))
}

// DefaultMACRange returns 4096 addresses 00-15-5D-xx-y0-00 to 00-15-5D-xx-yF-FF
// (Microsoft's prefix for virtual machines, which documents and consumers expect)
// that overlap none of taken. Where it starts looking depends on seed, so that two
// hosts on one segment hardly meet.
func DefaultMACRange(seed string, taken []MACRange) (MACRange, error) {
	h := fnv.New32a()
	h.Write([]byte(seed))
	first := h.Sum32()
	for i := range uint32(4096) {
		n := uint64((first+i)%4096) << 12
		r := MACRange{macOf(0x00155d<<24 | n), macOf(0x00155d<<24 | n | 0xfff)}
		free := true
		for _, t := range taken {
			if r.Overlaps(t) {
				free = false
				break
			}
		}
		if free {
			return r, nil
		}
	}
	return MACRange{}, fmt.Errorf("MAC ranges of 00-15-5D: %w", ErrExhausted)
}

// HostMAC is the address of a network's host vNIC: locally administered, so in no
// default pool, and the same at every start.
func HostMAC(network string) MAC {
	h := fnv.New32a()
	h.Write([]byte(network))
	n := h.Sum32()
	return MAC{0x02, 0x47, 0x48, byte(n >> 16), byte(n >> 8), byte(n)}
}
