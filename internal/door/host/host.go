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

// Graph is the host's networks as a drawing needs them.
type Graph struct {
	Uplinks  []Uplink
	Networks []GraphNetwork
}

// Uplink is a host interface that traffic may leave by.
type Uplink struct {
	Name  string
	Addrs []string
}

// GraphNetwork is one network with its switch.
type GraphNetwork struct {
	ID, Name, Type string
	Subnets        []string
	Gateways       []string `json:",omitempty"`
	// HostDevice carries the gateway addresses in the host's stack.
	HostDevice string `json:",omitempty"`
	HostPort   int    `json:",omitempty"`
	Endpoints  []GraphEndpoint
}

// GraphEndpoint is an endpoint and the port it is plugged into.
type GraphEndpoint struct {
	ID, Name  string
	Addrs     []string
	MAC       string
	Port      int      `json:",omitempty"` // 0 = not attached
	Device    string   `json:",omitempty"`
	VNIC      string   `json:",omitempty"` // inside the namespace
	Namespace string   `json:",omitempty"`
	System    string   `json:",omitempty"` // the compute system that has it
	Published []string `json:",omitempty"` // "8080/tcp -> 80"
}

// Holder answers who: what holds an address, a port, a MAC or a name.
type Holder struct {
	Kind    string // network, endpoint, gateway, publication, host
	ID      string
	Name    string
	Network string    `json:",omitempty"`
	System  string    `json:",omitempty"`
	What    string    // "address 10.0.0.2", "port 8080/tcp"
	Since   time.Time `json:",omitzero"`
}

// Flow is one conversation that the switch tracks.
type Flow struct {
	Zone  uint16
	Proto uint8
	Src   netip.AddrPort
	Dst   netip.AddrPort
	State string `json:",omitempty"`
	// NATSrc and NATDst are what the addresses become; invalid = unchanged.
	NATSrc  netip.AddrPort `json:",omitzero"`
	NATDst  netip.AddrPort `json:",omitzero"`
	Packets uint64
	Bytes   uint64
	// IdleSeconds since the last packet.
	IdleSeconds float64
}

// Drop counts packets that the switch refused, by port and reason.
type Drop struct {
	Port    int `json:",omitempty"`
	Reason  string
	Packets uint64
	Bytes   uint64 `json:",omitempty"`
}
