// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package host has the documents below /host/v1, what a daemon says of itself and
// of the host it runs on, and the thin client of that prefix. Nothing here can be
// changed; it is all read.
package host

import (
	"net/netip"
	"time"
)

// Version says who answers.
type Version struct {
	Version string
	Go      string
	Kernel  string
	Root    string // "" = the system's own places
	PID     int
	Started time.Time
	// API is the numbered list of what the API can do; it only grows.
	//  1: networks, endpoints, namespaces; systems with process isolation; images
	API int
}

// APILevel of this build, see Version.API.
const APILevel = 1

// Check is one line of doctor.
type Check struct {
	Name string
	// State: ok, warn (works, with less), fail (will not work).
	State string
	Found string
	// Do says what to do about it; empty when ok.
	Do string `json:",omitempty"`
}

// States of a Check.
const (
	OK   = "ok"
	Warn = "warn"
	Fail = "fail"
)

// Object is something in the kernel or on disk that carries a root's mark.
type Object struct {
	Kind string // device, netns, pin, cgroup, worker, mount, scratch, blob …
	Name string
	// Of is the object of the store that it belongs to; empty = an orphan.
	Of string `json:",omitempty"`
}

// Leaks is everything a root owns.
type Leaks struct {
	Root    string
	Owned   []Object `json:",omitempty"`
	Orphans []Object
}

// Flow is a conversation that the switch tracks, told from the side that began it.
type Flow struct {
	Zone, Network uint16
	Proto         uint8
	Src, Dst      netip.AddrPort // as the packets arrive; ICMP echo: the id is Src's port
	// NATSrc and NATDst are what the addresses become; absent = unchanged. Answers
	// come from NATDst to NATSrc.
	NATSrc netip.AddrPort `json:",omitzero"`
	NATDst netip.AddrPort `json:",omitzero"`
	// In and Out are ports of the switch; In is 0 for an uplink. From and To say what
	// is plugged in there: "endpoint web", "host of nat", "uplink eth0", "outside".
	In, Out  uint16
	From, To string
	// State: syn, est, fin, tw, rst (TCP); udp1, udp2 (one way, both); icmp; other.
	State string `json:",omitempty"`
	NAT   bool   `json:",omitempty"` // addresses or ports are translated
	// Service and Backend are numbers of a published port, Rule that of the ACL rule
	// that let it in; absent = none.
	Service, Backend uint32 `json:",omitempty"`
	Rule             uint16 `json:",omitempty"`
	Packets, Bytes   uint64
	// ReplyPackets and ReplyBytes are of the answers.
	ReplyPackets, ReplyBytes uint64
	// IdleSeconds since the last packet, AgeSeconds since the first; after
	// TimeoutSeconds of silence it is no more.
	IdleSeconds, AgeSeconds, TimeoutSeconds float64
}

// SwitchEvent is a line of the stream watch.
type SwitchEvent struct {
	Time time.Time
	// Kind: drop; flow-new, flow-end; lost (the client was too slow: Lost events
	// since it began).
	Kind string
	// Port is where the packet or the conversation entered; 0 = outside, or a device
	// the switch does not know. From says what is plugged in there.
	Port          uint16
	From          string `json:",omitempty"`
	Endpoint, ID  string `json:",omitempty"` // name and GUID
	Network       string `json:",omitempty"`
	Suppressed    int    `json:",omitempty"` // like events held back before this one
	Layer, Reason string `json:",omitempty"` // of a drop
	Packet        string `json:",omitempty"` // "tcp 10.0.0.2:40000 > 10.0.0.3:80 [S]"
	Length        int    `json:",omitempty"`
	Ifindex       int    `json:",omitempty"`
	Flow          *Flow  `json:",omitempty"` // Idle and Age as of its end
	// Why a conversation ended: idle, reopened, changed, port-gone.
	Why  string `json:",omitempty"`
	Lost uint64 `json:",omitempty"`
}

// Drop counts packets that the switch refused, by port and reason.
type Drop struct {
	Port    int    // 0 = a device the switch does not know
	At      string `json:",omitempty"` // what is plugged in there: "endpoint web"
	Layer   string
	Reason  string
	Packets uint64
	Bytes   uint64
}
