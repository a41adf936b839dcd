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

// Flow is one direction of a conversation that the switch tracks.
type Flow struct {
	Zone, Network uint16
	Proto         uint8
	Src, Dst      netip.AddrPort // as the packets arrive
	// NATSrc and NATDst are what the addresses become; absent = unchanged.
	NATSrc  netip.AddrPort `json:",omitzero"`
	NATDst  netip.AddrPort `json:",omitzero"`
	In, Out uint16         // ports; 0 = an uplink
	State   string         `json:",omitempty"`
	Reply   bool           `json:",omitempty"` // the answering direction
	Packets uint64
	Bytes   uint64
	// IdleSeconds since the last packet, AgeSeconds since the first.
	IdleSeconds, AgeSeconds float64
}

// Drop counts packets that the switch refused, by port and reason.
type Drop struct {
	Port    int // 0 = a device the switch does not know
	Layer   string
	Reason  string
	Packets uint64
	Bytes   uint64
}
