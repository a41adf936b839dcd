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
	BackendRow = bpf.Backend
	NATPoolRow = bpf.NATPool
	BusyKey    = bpf.BusyKey
	FloodKey   = bpf.FloodKey
	CfgRow     = bpf.Cfg
)

// Values of maps.h in the types the rows have.
const (
	zoneHost    = 0 // GH_ZONE_HOST
	portUp      = uint8(bpf.SwitchGhPortFlagsGH_PORT_UP)
	portCopy    = uint8(bpf.SwitchGhPortFlagsGH_PORT_COPY)
	addrGateway = uint8(bpf.SwitchGhAddrFlagsGH_ADDR_GATEWAY)
	addrHost    = uint8(bpf.SwitchGhAddrFlagsGH_ADDR_HOST)
	routeLocal  = uint16(bpf.SwitchGhRouteKindGH_ROUTE_LOCAL)
	routeUplink = uint16(bpf.SwitchGhRouteKindGH_ROUTE_UPLINK)
	routeReject = uint16(bpf.SwitchGhRouteKindGH_ROUTE_REJECT)
	routeNoNAT  = uint16(bpf.SwitchGhRouteFlagsGH_ROUTE_NO_NAT)
	scopeAny    = uint8(bpf.SwitchGhSvcScopeGH_SCOPE_ANY)
	scopeHost   = uint8(bpf.SwitchGhSvcScopeGH_SCOPE_HOST)

	backendActive = 1 // gh_backend.state

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

func svcKey(m mappingKey) (k SvcKey) {
	k.Vip.B, k.PortBe, k.Zone, k.Proto, k.Scope = m.host.As16(), be16(m.port), zoneHost, m.proto, scopeAny
	if m.host.IsLoopback() {
		k.Scope = scopeHost
	}
	return k
}

func backendRow(a netip.Addr, port uint16, at PortID, zone Zone) (r BackendRow) {
	r.Addr.B, r.PortBe, r.Port, r.Zone, r.State = a.As16(), be16(port), uint16(at), uint16(zone), backendActive
	return r
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
