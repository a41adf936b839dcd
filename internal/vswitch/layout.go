// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"net/netip"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// Keys and values of the configuration maps, as the programs read them. The
// layouts come from package bpf and from nowhere else.
type (
	PortRow    = bpf.Port
	NetRow     = bpf.Net
	PortIPKey  = bpf.PortIPKey
	AddrKey    = bpf.AddrKey
	AddrRow    = bpf.AddrVal
	RouteKey   = bpf.RouteKey
	RouteRow   = bpf.RouteVal
	SvcKey     = bpf.SvcKey
	SvcRow     = bpf.SvcVal
	SlotKey    = bpf.SlotKey
	MemberKey  = bpf.MemberKey
	MemberRow  = bpf.Member
	VIPKey     = bpf.VIPKey
	NATPoolRow = bpf.NATPool
	BusyKey    = bpf.BusyKey
	FloodKey   = bpf.FloodKey
	FdbKey     = bpf.FdbKey
	SegmentKey = bpf.SegmentKey
	ProxyKey   = bpf.ProxyKey
	WireIPKey  = bpf.WireIPKey
	CfgRow     = bpf.Cfg
	NextHopRow = bpf.NextHop
	VTEPRow    = bpf.VTEP
	PeerKey    = bpf.PeerKey
	PeerRow    = bpf.PeerVal

	svcFlags    = bpf.SvcFlags
	ACLSetKey   = bpf.ACLSetKey
	ACLSetRow   = bpf.ACLSet
	ACLTuple    = bpf.ACLTuple
	ACLKey      = bpf.ACLKey
	ACLRow      = bpf.ACLRule
	ACLClassKey = bpf.ACLClassKey
)

// Values of maps.h in the types the rows have.
const (
	zoneHost    = 0 // GH_ZONE_HOST
	portGuard   = uint8(bpf.SwitchGhPortFlagsGH_PORT_GUARD)
	portNoPeer  = uint8(bpf.SwitchGhPortFlagsGH_PORT_NO_PEER)
	portUp      = uint8(bpf.SwitchGhPortFlagsGH_PORT_UP)
	portCopy    = uint8(bpf.SwitchGhPortFlagsGH_PORT_COPY)
	portForward = uint8(bpf.SwitchGhPortFlagsGH_PORT_FORWARD)
	portRoutes  = uint8(bpf.SwitchGhPortFlagsGH_PORT_ROUTES)
	portAnyMAC  = uint8(bpf.SwitchGhPortFlagsGH_PORT_ANY_MAC)
	portAnyIP   = uint8(bpf.SwitchGhPortFlagsGH_PORT_ANY_IP)
	portWires   = uint8(bpf.SwitchGhPortFlagsGH_PORT_WIRES)
	addrGateway = uint8(bpf.SwitchGhAddrFlagsGH_ADDR_GATEWAY)
	addrHost    = uint8(bpf.SwitchGhAddrFlagsGH_ADDR_HOST)
	routeLocal  = uint16(bpf.SwitchGhRouteKindGH_ROUTE_LOCAL)
	routeUplink = uint16(bpf.SwitchGhRouteKindGH_ROUTE_UPLINK)
	routeNAT    = uint16(bpf.SwitchGhRouteFlagsGH_ROUTE_NAT)

	svcDrop     = bpf.SwitchGhSvcFlagsGH_SVC_DROP
	svcLocal    = bpf.SwitchGhSvcFlagsGH_SVC_LOCAL
	svcDSR      = bpf.SwitchGhSvcFlagsGH_SVC_DSR
	svcByClient = bpf.SwitchGhSvcFlagsGH_SVC_BY_CLIENT
	svcLocalIn  = bpf.SwitchGhSvcFlagsGH_SVC_LOCAL_IN
	svcPreserve = bpf.SwitchGhSvcFlagsGH_SVC_PRESERVE
	svcSNAT     = bpf.SwitchGhSvcFlagsGH_SVC_SNAT

	memberActive   = uint8(bpf.SwitchGhMemberStateGH_MEMBER_ACTIVE)
	memberDraining = uint8(bpf.SwitchGhMemberStateGH_MEMBER_DRAINING)

	// EpochNet and EpochGlobal index the epoch map. A port's index is its id,
	EpochNet    = 8192  // GH_EPOCH_NET, plus the network id
	EpochGlobal = 16383 // GH_EPOCH_GLOBAL
)

// Rows hold addresses as 16 bytes, IPv4 v4-mapped (netip.Addr.As16).

func addrKey(zone Zone, a netip.Addr) (k AddrKey) {
	k.Zone, k.Addr.B = uint16(zone), a.As16()
	return k
}

func portIPKey(id PortID, a netip.Addr) (k PortIPKey) {
	k.Port, k.Addr.B = uint16(id), a.As16()
	return k
}

func routeKey(zone Zone, p netip.Prefix) (k RouteKey) {
	k.Prefixlen, k.Zone, k.Addr.B = prefixLen(p), uint16(zone), p.Addr().As16()
	return k
}

func svcKey(f Frontend, zone Zone) (k SvcKey) {
	k.Vip.B, k.PortBe, k.Zone, k.Proto = f.Addr.As16(), be16(f.Port), uint16(zone), f.Proto
	return k
}

func vipKey(uplink PortID, a netip.Addr) (k VIPKey) {
	k.Uplink, k.Addr.B = uint16(uplink), a.As16()
	return k
}

func natPoolRow(n natRange, count int) (r NATPoolRow) {
	r.Addr.B, r.Lo, r.Hi, r.Count = n.addr.As16(), n.low, n.high, uint16(count)
	return r
}

func busyKey(a netip.Addr, port uint16, proto uint8) (k BusyKey) {
	k.Addr.B, k.PortBe, k.Proto = a.As16(), be16(port), proto
	return k
}

// ip is the address of a row as people write it.
func ip(b [16]byte) netip.Addr { return netip.AddrFrom16(b).Unmap() }
