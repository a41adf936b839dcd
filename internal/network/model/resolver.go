// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"gatehouse.dev/gatehouse/internal/instance"
	"gatehouse.dev/gatehouse/internal/network/ipam"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// Questions of endpoints do not go through the host's stack, where a firewall that
// knows nothing of us would drop them: the switch takes them, as it does those to a
// service, to a compartment of the resolvers' own. In it each network has an
// address, by which a resolver knows whose question it is.
const (
	// ResolverPort is the resolvers' switch port. It and the number of their network
	// are the last ones there are, which takePort and takeNetworkNumber leave out.
	ResolverPort    = vswitch.FirstUplinkPort - 1
	resolverNetwork = vswitch.NetworkID(vswitch.MaxNetworks - 1)
	// firstResolverService and all above it are their services' numbers, two a network.
	firstResolverService = vswitch.MaxServiceID - 2*vswitch.ServiceID(vswitch.MaxNetworks)
	// ResolverCompartment is its id, where others have a GUID.
	ResolverCompartment = "dns"
	resolverName        = "resolvers"
)

// Addresses of resolvers are link-local (RFC 3927) and unique local (RFC 4193):
// only their own compartment and its switch port have them, and a zone of their own.
func resolverAddr(n vswitch.NetworkID, v4 bool) netip.Addr {
	if v4 {
		return netip.AddrFrom4([4]byte{169, 254, 64 | byte(n>>8), byte(n)})
	}
	a := [16]byte{0: 0xfd, 1: 'g', 2: 'h'}
	binary.BigEndian.PutUint16(a[14:], uint16(n))
	return netip.AddrFrom16(a)
}

// resolverServices give a network's questions to its resolver: one for each family.
func resolverServices(n *Network, listen []netip.Addr) (services []vswitch.Service, through []netip.Addr) {
	for family, v4 := range []bool{true, false} {
		to := resolverAddr(n.Number, v4)
		s := vswitch.Service{
			ID:     vswitch.MaxServiceID - vswitch.ServiceID(2*int(n.Number)+family),
			Object: n.Doc.Id, Name: "DNS of " + n.label(),
			Backends: []vswitch.Backend{{Addr: to, Port: 53, At: ResolverPort}},
		}
		for _, a := range listen {
			if a.Is4() != v4 {
				continue
			}
			for _, proto := range []uint8{6, 17} {
				s.Frontends = append(s.Frontends, vswitch.Frontend{Addr: a, Port: 53, Proto: proto, Network: n.Number})
			}
		}
		if len(s.Frontends) > 0 {
			services, through = append(services, s), append(through, to)
		}
	}
	return services, through
}

// addResolvers adds what all resolvers have in common to d, if there are any.
func addResolvers(d *Desired, inst instance.Instance) {
	if len(d.Resolvers) == 0 {
		return
	}
	nic := VNIC{
		Endpoint: resolverName, Port: ResolverPort, PortName: inst.PortDevice(uint16(ResolverPort)), Name: "eth0",
		MAC: vswitch.MAC(ipam.HostMAC(resolverName)),
	}
	port := vswitch.Port{
		ID: ResolverPort, Kind: vswitch.PortContainer, Network: resolverNetwork, Object: resolverName,
		Interface: nic.PortName, MAC: nic.MAC, Up: true,
	}
	for _, r := range d.Resolvers {
		for _, a := range r.Through {
			port.Addrs = append(port.Addrs, a)
			nic.Addrs = append(nic.Addrs, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	// The way back is by the switch, whoever asked. It looks at addresses alone, so
	// that any neighbour will do.
	for _, v4 := range []bool{true, false} {
		if !slices.ContainsFunc(port.Addrs, func(a netip.Addr) bool { return a.Is4() == v4 }) {
			continue
		}
		all, hop := netip.PrefixFrom(netip.IPv6Unspecified(), 0), resolverAddr(0, v4)
		if v4 {
			all = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		nic.Routes = append(nic.Routes, Route{Dst: netip.PrefixFrom(hop, hop.BitLen())}, Route{Dst: all, NextHop: hop})
		nic.Neighbours = append(nic.Neighbours, Neighbour{Addr: hop, MAC: vswitch.MAC(ipam.HostMAC(""))})
	}
	d.Switch.Networks = append(d.Switch.Networks, vswitch.Network{
		ID: resolverNetwork, Zone: vswitch.Zone(resolverNetwork), Name: resolverName,
	})
	d.Switch.Ports = append(d.Switch.Ports, port)
	d.Compartments = append(d.Compartments, Compartment{
		ID: ResolverCompartment, Path: inst.NetNs(ResolverCompartment), VNICs: []VNIC{nic},
	})
}
