// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package pcap reads packet captures (pcap and pcapng), writes pcapng, tells what
// is in the head of a frame, and chooses packets by a filter expression. It knows
// nothing of switches, and is not a dissector: a frame is decoded as far as a
// filter or a line for people needs.
//
// Be aware: the frames of a host's own sender often have checksums that the device
// was to fill in. Nothing here looks at them.
package pcap

import "time"

// Direction is which way a packet went at its interface.
type Direction uint8

// Directions, as in the epb_flags of pcapng.
const (
	Unknown Direction = 0
	In      Direction = 1 // the interface got it
	Out     Direction = 2 // the interface sent it
)

// String is "in", "out" or "".
func (d Direction) String() string { return [...]string{"", "in", "out"}[d&3%3] }

// Packet is one packet of a capture.
type Packet struct {
	Time      time.Time
	Interface int // index of the interface in its file
	Direction Direction
	Length    int // as it was; Data may be less
	Data      []byte
	Comment   string
}

// Interface is what packets were captured at.
type Interface struct {
	Name        string
	Description string
	Link        uint16 // LINKTYPE_; 1 is Ethernet
	Snaplen     uint32 // 0 = no bound
}

// LinkEthernet is LINKTYPE_ETHERNET, the only link that Decode knows.
const LinkEthernet = 1
