// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import "net/netip"

const (
	// MaxTunnels is how many tunnel devices, one a UDP port, a host has (GH_MAX_TUNNELS).
	MaxTunnels = 4
	// MaxVTEPs is how many tunnel ends of other hosts fit (GH_MAX_VTEPS).
	MaxVTEPs = 4095
	// MaxNextHops is how many next hops all routes together have (GH_MAX_NH).
	MaxNextHops = 4095
	// VXLANPort is the UDP port that RFC 7348 section 5 gives to VXLAN.
	VXLANPort = 4789

	// ServiceVNI is of no network (GH_SERVICE_VNI): by it a host hands on what clients
	// outside sent to a service with ServiceDSR, untranslated.
	ServiceVNI = 1<<24 - 1
)

// VXLANOverhead is the bytes that a tunnel to a adds to an IP packet: Ethernet 14,
// VXLAN 8, UDP 8 and the outer header.
func VXLANOverhead(a netip.Addr) uint16 {
	if a.Is6() {
		return 70
	}
	return 50
}

// Tunnel is a device that carries the frames of every network to every other host
// by VXLAN, in collect-metadata mode. It is a port of the switch and of no network.
type Tunnel struct {
	ID        PortID
	Interface string // its ifindex comes from Facts
	UDPPort   uint16 // 0 = VXLANPort; no two tunnels share one
	// Sources are the outer source addresses, one of a family; of a family that is
	// missing the kernel's routing table chooses.
	Sources [2]netip.Addr
	Up      bool
}

// Overlay extends a network to other hosts.
type Overlay struct {
	Tunnel PortID // the Tunnel that carries it; 0 = none
	// RouterMAC is the source of what this host routes into the tunnel, and what
	// other hosts send to for us to route (DrMacAddress); zero = the gateway's.
	RouterMAC MAC
	// FloodPeers copies broadcasts and multicasts of local endpoints, where
	// NetFlood has them copied at all, to every host of the network.
	FloodPeers bool
}

// Remote is an address of an overlay that is on another host. Neighbour discovery
// for it is answered here.
type Remote struct {
	Network NetworkID
	Addr    netip.Addr // in one of the network's subnets
	MAC     MAC
	VTEP    netip.Addr // the other host's tunnel end
}

// RouteKind says where a Route leads (enum gh_route_kind).
type RouteKind uint16

// The kinds. Subnets are local routes and cannot be routed elsewhere.
const (
	// RouteUplink leaves by the host's routing table. Needs NetUplink.
	RouteUplink RouteKind = 2
	// RouteReject refuses and tells the sender.
	RouteReject RouteKind = 3
	// RouteHost hands over to the host's stack, untranslated, to be routed there.
	// Needs a host port that is set to Forward (SDNRoute with NeedEncap).
	RouteHost RouteKind = 4
	// RouteVia hands over to the endpoint with address Via, here (its port must be
	// set to Forward) or on another host (SDNRoute with NextHop).
	RouteVia RouteKind = 5
	// RouteTunnel sends to the router MAC at VTEP, with VNI (RemoteSubnetRoute).
	RouteTunnel RouteKind = 6
)

// Route leads a prefix that is none of the network's subnets.
type Route struct {
	Prefix netip.Prefix
	To     RouteKind
	Via    netip.Addr // RouteVia: an address in one of the network's subnets
	VTEP   netip.Addr // RouteTunnel
	VNI    uint32     // RouteTunnel
	MAC    MAC        // RouteTunnel
}

// udp is the tunnel's UDP port.
func (t *Tunnel) udp() uint16 {
	if t.UDPPort == 0 {
		return VXLANPort
	}
	return t.UDPPort
}

// source is the outer source for a tunnel end of the family of a.
func (t *Tunnel) source(a netip.Addr) netip.Addr {
	for _, s := range t.Sources {
		if s.IsValid() && s.Is4() == a.Is4() {
			return s
		}
	}
	return anyAddr(a)
}

func (n *Network) routerMAC(x *netContext) MAC {
	if n.Tunnel != 0 && n.RouterMAC == (MAC{}) {
		return x.mac
	}
	return n.RouterMAC
}

// vni of the subnet that a is in; 0 where the network is no overlay.
func (x *netContext) vni(a netip.Addr) uint32 {
	for i := range x.subnets {
		if x.subnets[i].Prefix.Contains(a) {
			return x.subnets[i].VNI
		}
	}
	return 0
}
