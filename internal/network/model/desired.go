// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"iter"
	"net/netip"
	"slices"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

// Desired is everything the hands should make true for one World. Hands compare
// it with what they made before; they never keep notes of their own.
type Desired struct {
	Switch       vswitch.State
	HostNICs     []HostNIC
	Tunnels      []Tunnel
	Taps         []Tap
	Compartments []Compartment
	// CompartmentParts are more of them, in parts that Desireds share: one that begins
	// at the same place in memory is the same. So are the Names.
	CompartmentParts [][]Compartment
	Names            [][]NameRecord
	Resolvers        []Resolver
	HostPorts        []HostPort
	Leases           []Lease
	Clients          []DHCPClient
}

// AllCompartments are those of Compartments and of all parts.
func (d *Desired) AllCompartments() iter.Seq[*Compartment] {
	return func(yield func(*Compartment) bool) {
		for _, part := range append(d.CompartmentParts[:len(d.CompartmentParts):len(d.CompartmentParts)], d.Compartments) {
			for i := range part {
				if !yield(&part[i]) {
					return
				}
			}
		}
	}
}

// OutsideACL and the rules from FirstOutsideRule up are the daemon's own, of
// vswitch.State.OutsideACLs; what documents ask for has lower numbers.
const (
	OutsideACL       vswitch.ACLID  = 1<<16 - 1
	FirstOutsideRule vswitch.RuleID = 0xff00
)

// HostNIC is a veth pair, both ends in the host's namespace: Name carries the
// gateway addresses in the host's stack, SwitchName is the port of the switch.
type HostNIC struct {
	Network    string // network GUID
	Name       string
	SwitchName string
	MAC        vswitch.MAC // of Name
	Addrs      []netip.Prefix
	MTU        int // 0 = follow the uplinks
	Overhead   int // less than they have
}

// Tunnel is a VXLAN device of the host's namespace that carries overlays on one
// UDP port: the Interface of a vswitch.Tunnel.
type Tunnel struct {
	Name    string
	UDPPort uint16
}

// Compartment is a network namespace and the vNICs in it.
type Compartment struct {
	ID string // HCN namespace GUID
	// Path of the persistent namespace, bind-mounted by us.
	Path string
	// Foreign is true when Path was handed in (CNI), or is the host's own namespace, and
	// must be neither made nor removed.
	Foreign bool
	VNICs   []VNIC
	// Redirects are asked in order; the first that a connection is of decides.
	Redirects []Redirect
	// Redirected: it has Redirects or had some once, which may be there still.
	Redirected bool
}

// VNIC is one endpoint's interface inside a compartment. PortName is its host side.
type VNIC struct {
	Endpoint string // endpoint GUID
	Port     vswitch.PortID
	PortName string
	Name     string // eth0, eth1 … in order of attachment; unlike any other where Host
	// Host: it is in the host's own namespace, where what it brings yields to what is
	// there: the prefixes of Addrs are on link, others' routes to them come first.
	Host     bool
	MAC      vswitch.MAC
	MTU      int    // 0 = follow the uplinks
	Overhead int    // less than they have
	Uplink   string // that its network is bound to; "" = none
	Alias    string // of the host side, for people
	Addrs    []netip.Prefix
	Routes   []Route
	// Neighbours are permanent entries (the gateway), so that no ARP or ND
	// stands in the start-up path.
	Neighbours []Neighbour
}

// Fit is the MTU of the vNIC where devices that follow the uplinks have that one.
// It is never so small that the vNIC's addresses would go.
func (v *VNIC) Fit(follow int) int { return fit(v.MTU, v.Overhead, follow, v.Addrs) }

// Fit as on VNIC.
func (n *HostNIC) Fit(follow int) int { return fit(n.MTU, n.Overhead, follow, n.Addrs) }

func fit(mtu, overhead, follow int, addrs []netip.Prefix) int {
	least := leastMTU4
	if slices.ContainsFunc(addrs, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		least = leastMTU6
	}
	return fitMTU(mtu, overhead, follow, least)
}

func fitMTU(mtu, overhead, follow, least int) int {
	if mtu != 0 {
		return mtu
	}
	return max(follow-overhead, min(least, follow))
}

// Route inside a compartment. An invalid NextHop means on-link.
type Route struct {
	Dst     netip.Prefix
	NextHop netip.Addr
	Metric  int
}

// Neighbour is a permanent ARP or ND entry.
type Neighbour struct {
	Addr netip.Addr
	MAC  vswitch.MAC
}

// NameRecord is one name the resolvers answer, within one network.
type NameRecord struct {
	Network string // network GUID; "" = every network's
	Name    string // lower case, no trailing dot, unqualified or qualified
	Addrs   []netip.Addr
	// Alias is the name that this one stands for (CNAME), wherever that is; Addrs is empty.
	Alias string
	// Servers are what SRV questions get.
	Servers []Server
}

// Server is one of a name's SRV records (RFC 2782).
type Server struct {
	Target string // one of the names
	Port   uint16
}

// Resolver is a DNS listener on a network's gateway address.
type Resolver struct {
	Network string
	Listen  []netip.Addr // port 53, UDP and TCP; in the host's own namespace, for its processes
	// Through are the addresses, in the compartment ResolverCompartment, at which
	// questions of the network's endpoints arrive. The switch lets nobody else there.
	Through []netip.Addr
	Domain  string
	// Clients are the sources that are answered beside this host's own: the
	// network's prefixes. Anybody else who reaches the address hears nothing.
	Clients []netip.Prefix
	// Upstream servers; empty = the host's /etc/resolv.conf.
	Upstream []netip.Addr
}

// Lease is what an endpoint is told when it asks by DHCP.
type Lease struct {
	Device         string // host side of its vNIC
	MAC            vswitch.MAC
	Addr           netip.Prefix // IPv4
	Server, Router netip.Addr   // the gateway that the host has, and the endpoint's own; the latter may be missing
	ServerMAC      vswitch.MAC
	DNS            []netip.Addr
	Domain         string
}

// HostPort is a port to hold on the host, so that nobody else binds it.
type HostPort struct {
	Object string // GUID of the endpoint, load balancer, service or reservation it is for
	Proto  uint8
	Addr   netip.Addr // invalid = any
	Port   uint16
}
