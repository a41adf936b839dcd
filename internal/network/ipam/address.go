// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package ipam chooses addresses, MAC addresses and prefixes. It keeps nothing:
// what is free follows from what the caller says is used, so no number is stored
// twice and none can leak. It is pure; the time comes in as an argument.
package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Quarantine is how long a released address is given to nobody else while another
// is free, so that a peer's stale neighbour entry or flow meets no stranger.
const Quarantine = 30 * time.Second

var (
	// ErrExhausted: every address, MAC or prefix is used.
	ErrExhausted = errors.New("exhausted")
	// ErrOutside: not in the pool.
	ErrOutside = errors.New("outside the pool")
	// ErrReserved: network, broadcast or gateway address.
	ErrReserved = errors.New("reserved")
	// ErrUsed: somebody else has it.
	ErrUsed = errors.New("in use")
)

// Pool is the addresses of one subnet.
type Pool struct {
	Prefix netip.Prefix
	// Gateway is not given out; invalid = there is none or it need not be kept free.
	Gateway netip.Addr
}

// Check says whether an endpoint may ask for a by name; it does not look at who
// uses it. Errors are ErrOutside or ErrReserved with the rule.
func (p Pool) Check(a netip.Addr) error {
	switch {
	case !p.Prefix.Contains(a):
		return fmt.Errorf("%s is not in %s: %w", a, p.Prefix, ErrOutside)
	case a == p.Gateway:
		return fmt.Errorf("%s is the gateway of %s: %w", a, p.Prefix, ErrReserved)
	case p.hasEnds() && a == p.Prefix.Masked().Addr():
		return fmt.Errorf("%s is the network address of %s: %w", a, p.Prefix, ErrReserved)
	case p.hasEnds() && a.Is4() && a == Last(p.Prefix):
		return fmt.Errorf("%s is the broadcast address of %s: %w", a, p.Prefix, ErrReserved)
	}
	return nil
}

// hasEnds: the first and last address of a prefix of four and more are special
// (RFC 950; RFC 3021 frees them on a /31; RFC 4291 section 2.6.1 keeps the first
// of an IPv6 subnet as the routers' anycast address).
func (p Pool) hasEnds() bool { return p.Prefix.Addr().BitLen()-p.Prefix.Bits() >= 2 }

// Lowest returns the lowest free address; one released within Quarantine only if
// nothing else is free, and then the one released longest ago. The error is
// ErrExhausted.
//
// unused must return the lowest address from its argument on that nobody has,
// whatever the pool; released tells the quarantine.
func (p Pool) Lowest(now time.Time, unused func(netip.Addr) netip.Addr, released func(netip.Addr) (time.Time, bool)) (netip.Addr, error) {
	var (
		fallback netip.Addr
		oldest   time.Time
	)
	for a := p.Prefix.Masked().Addr(); a.IsValid(); a = a.Next() {
		if a = unused(a); !p.Prefix.Contains(a) { // also when there is none
			break
		}
		if p.Check(a) != nil {
			continue
		}
		at, ok := released(a)
		if !ok || now.Sub(at) >= Quarantine {
			return a, nil
		}
		if !fallback.IsValid() || at.Before(oldest) {
			fallback, oldest = a, at
		}
	}
	if fallback.IsValid() {
		return fallback, nil
	}
	return netip.Addr{}, fmt.Errorf("%s: %w", p.Prefix, ErrExhausted)
}

// Last is the last address of a prefix.
func Last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// First is the first address of a prefix that a host may have: what a gateway
// gets unless told otherwise. It is invalid for a prefix of a single address.
func First(p netip.Prefix) netip.Addr {
	pool := Pool{Prefix: p}
	a := p.Masked().Addr()
	if pool.hasEnds() {
		a = a.Next()
	}
	if p.Addr().BitLen() == p.Bits() {
		return netip.Addr{}
	}
	return a
}
