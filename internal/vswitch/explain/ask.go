// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"net/netip"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

// FIB asks the host's routing table, with the anchor as input device, and for its
// sockets, as the programs do.
type FIB interface {
	// Lookup returns the way to q.Dst. ok is false where the table has none, or
	// one that is not a forwarding route (local, unreachable, prohibited).
	Lookup(q FIBQuery) (r FIBRoute, ok bool)
	// Socket reports whether one gets what comes from remote for local by proto, 6 or
	// 17, which outbound NAT then leaves alone.
	Socket(proto uint8, local, remote netip.AddrPort) bool
}

// FIBQuery is what the routing table is asked.
type FIBQuery struct {
	Anchor   int // ifindex of the input device
	Src, Dst netip.Addr
	Protocol uint8
	TOS      uint8 // IPv4
}

// FIBRoute is its answer.
type FIBRoute struct {
	Ifindex int
	// NextHop is the router, or the destination itself where it is on the link.
	// Invalid: a router of the other address family.
	NextHop netip.Addr
	MTU     int // 0 = unknown
}

// Switch is what packets are explained on.
type Switch struct {
	Rows *vswitch.Rows
	Live Live // nil = no flows
	FIB  FIB  // nil = no routes
	// Name says what is plugged into a port ("endpoint web"); nil or "" = not known.
	Name func(vswitch.PortID) string
	// NetworkName likewise; uplinks have network 0.
	NetworkName func(vswitch.NetworkID) string
}

// Packet is what is put in.
type Packet struct {
	Ifindex int    // device it comes in by
	Uplink  bool   // by the program of uplinks, else by the one of switch ports
	VLAN    bool   // it bears a tag beside the frame,
	TCI     uint16 // whose tag control information this is
	Tunnel  *Outer // of a frame that comes out of a tunnel
	Frame   []byte // from the Ethernet header on
}

// Outer is what the shell of a tunnelled frame said.
type Outer struct {
	VNI  uint32
	From netip.Addr
}
