// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import "net/netip"

// ServiceID is the stable number of a service, 1 to MaxServiceID. It is part of
// the stored model: flows, affinity and counters of the data plane are by it.
type ServiceID uint32

// MaxServiceID is the highest number of a Service. The ones above are those of
// published ports, which Compile derives from what is published.
const MaxServiceID ServiceID = 1<<31 - 1

const (
	// MaxBackends bounds the backends of all services together (the member map).
	MaxBackends = 262144
	// MaxSlots bounds the slots of all services together: one for each backend and
	// unit of weight, or a Maglev table. The slot map has room for twice as many,
	// because a list that changes is there twice for a moment.
	MaxSlots = 262144
	// MaxServiceSlots bounds those of one service.
	MaxServiceSlots = 4096
)

// Service spreads what is sent to its frontends over its backends. All their
// addresses are of one family.
type Service struct {
	ID     ServiceID
	Object string // GUID of the load balancer; for counters and people
	Name   string // for people
	// Frontends are where it is asked.
	Frontends []Frontend
	// Backends answer. Their order does not matter.
	Backends []Backend
	// Affinity is how many seconds after its last new conversation a client still
	// gets the backend it had; 0 = none. A client is an address in its network, or
	// all processes of a network namespace. With ServiceConsistent it has no end:
	// the client's address decides.
	Affinity uint32
	Flags    ServiceFlags
	// SourceVIP is what backends with a Network see instead of clients outside, so
	// that they answer to this host: an address in that network which is this host's
	// alone, and which the other hosts have as a Remote behind its tunnel end, or
	// reach by a route. Nobody answers at it. Not needed with ServiceLocal or ServiceDSR.
	SourceVIP netip.Addr

	// Of a proxy that a port asks, which has no frontends: for which prefixes.
	proxy     proxyTo
	redirects []netip.Prefix
}

// Scope says who sees a frontend (the first flags of enum gh_svc_flags).
type Scope uint8

const (
	ScopeNetworks Scope = 1 << 0 // the endpoints of every network
	ScopeHost     Scope = 1 << 1 // processes of the host
	ScopeOutside  Scope = 1 << 2 // what comes by an uplink

	ScopeCluster = ScopeNetworks | ScopeHost
	ScopeAll     = ScopeCluster | ScopeOutside
)

// Frontend is an address and port that a service answers at. The one with a
// Network is preferred to the one without, and a single address to every one.
type Frontend struct {
	// Addr; unspecified = every address of the host of that family. It need not be
	// an address of the host: see Announcement for who answers ARP for it.
	Addr  netip.Addr
	Port  uint16
	Proto uint8 // 6, 17 or 132
	Scope Scope
	// Network is the only one that sees it; Scope must then be 0. 0 = as Scope says.
	Network NetworkID
}

// Backend is one that answers.
type Backend struct {
	Addr netip.Addr
	Port uint16
	// Weight is its share of new conversations beside the others'; 0 = 1.
	Weight uint16
	State  BackendState
	// At is the switch port that holds Addr; 0 = not on this host: the client's
	// network finds the way, and for clients outside Network does.
	At PortID
	// Network is the overlay by which clients outside reach a backend that is not on
	// this host; 0 = the host's routing table.
	Network NetworkID
}

// BackendState says what a backend still gets.
type BackendState uint8

const (
	BackendActive BackendState = 0
	// BackendDraining keeps its TCP connections and gets nothing new. What is not
	// TCP moves to another backend with its next packet.
	BackendDraining BackendState = 1
)

// ServiceFlags change how a service treats its clients.
type ServiceFlags uint8

const (
	// ServiceDrop: without an active backend clients hear nothing. By default they
	// are refused: a reset, port unreachable, ECONNREFUSED.
	ServiceDrop ServiceFlags = 1 << 0
	// ServiceLocal: clients outside get backends of this host only. By default they
	// get any, and for one of another host their source becomes this host's, so that
	// its answers come back this way. Towards backends of this host clients keep
	// their address in any case.
	ServiceLocal ServiceFlags = 1 << 1
	// ServiceConsistent: hosts with the same list of backends choose the same one
	// for a conversation, and a change of the list moves few (a Maglev table).
	ServiceConsistent ServiceFlags = 1 << 2
	// ServiceDSR: what a client outside sends to a backend of another host goes to
	// that host as it is: over a link that both are on, where only the MACs change,
	// or through the tunnel of the backend's Network, with ServiceVNI. The host must
	// have the same service, gives it to its backend, and answers the client itself.
	// Needs ServiceConsistent, by which both choose alike.
	ServiceDSR ServiceFlags = 1 << 3
	// ServiceLocalInside: endpoints and processes of this host get its own backends
	// only (Kubernetes' internalTrafficPolicy Local), as ServiceLocal has it for clients
	// outside (externalTrafficPolicy).
	ServiceLocalInside ServiceFlags = 1 << 4
	// ServicePreserve: a backend gets what it was sent as it is, to the frontend's
	// address and port, at which it must listen. Its port may answer from there, and
	// only answer. All backends must be here, and no process of the host may ask.
	ServicePreserve ServiceFlags = 1 << 5
)

// Announcement makes the host answer ARP and neighbour solicitations for an
// address that none of its devices has: a frontend, an address of a NAT pool. Who
// asks gets the uplink's MAC. Which host announces an address is decided
// elsewhere; datapath.Announce tells the neighbours when that changes.
type Announcement struct {
	Object string // for people
	Addr   netip.Addr
	// Uplink it is announced at, by device name; "" = every one. One that is not
	// there announces nothing.
	Uplink string
}
