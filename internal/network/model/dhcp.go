// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/network/ipam"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// An endpoint that has its IPv4 address by DHCP is lent it before it is made, and keeps
// it until it is deleted: consumers read the address of the answer, and a container's
// resolv.conf is written before it runs. So the model, which waits for nobody, ends a
// create in a NeedsLease; whoever runs it comes back with the lease.

// DHCPLease is what a DHCP server lent an endpoint. The zero value: nothing at present.
type DHCPLease struct {
	Addr      netip.Prefix
	Server    netip.Addr
	ServerMAC vswitch.MAC // who brought its messages: the server, or a relay
	Routes    []hcn.Route `json:",omitempty"`
	DNS       hcn.Dns     `json:",omitzero"`
	MTU       uint16      `json:",omitempty"` // 0 = not said
	// When it is to be renewed at its server, then at any, and when it ends.
	Renew, Rebind, Expires time.Time
}

// DHCPClient is an endpoint that has its IPv4 address by DHCP, and what it is lent.
type DHCPClient struct {
	Endpoint string // GUID
	Name     string // told to the server as host name; "" = none
	MAC      vswitch.MAC
	Uplink   string // the device of the host that the server is asked by
	VLAN     uint16
	// AsUplink: its frames have the uplink's MAC as their source.
	AsUplink bool
	// Attached: somebody answers ARP for the address.
	Attached bool
	Lease    DHCPLease
}

// NeedsLease ends a create that is right, but for the lease that Client needs first. It
// is run again with one in Input.Leased.
type NeedsLease struct{ Client DHCPClient }

func (e *NeedsLease) Error() string {
	return "endpoint " + e.Client.Endpoint + " needs an address by DHCP"
}

// lendsOn: there may be a DHCP server on what networks of a type are bound to.
func lendsOn(t hcn.NetworkType) bool { return t == hcn.Transparent || t == hcn.L2Bridge }

func isDHCP(ipamType string) bool { return strings.EqualFold(ipamType, "Dhcp") }

// asks says whether a new endpoint has its IPv4 address by DHCP: its flag says so, or
// its network, unless the document brings one.
func (e *Endpoint) asks(n *Network) (bool, error) {
	brings := slices.IndexFunc(e.Doc.IpConfigurations, func(c IpConfig) bool {
		a, err := netip.ParseAddr(c.IpAddress)
		s, _, ok := n.poolByID(c.IpSubnetId)
		return err == nil && a.Is4() || c.IpAddress == "" && ok && s.pool.Prefix.Addr().Is4()
	})
	if e.Doc.Flags&enableDhcp == 0 {
		return brings < 0 && slices.ContainsFunc(n.Doc.Ipams, func(i Ipam) bool { return isDHCP(i.Type) }), nil
	}
	switch {
	case servesDHCP(&n.Doc):
		return false, nil // the gateway tells it what the document says
	case !lendsOn(n.Doc.Type):
		return false, refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "Flags", "EnableDhcp: nobody on a network of type %s could be asked; Transparent and L2Bridge are on a segment that may have a DHCP server", n.Doc.Type)
	case brings >= 0:
		return false, refuseAt(hcn.HCN_E_INVALID_ENDPOINT, fmt.Sprintf("IpConfigurations[%d]", brings), "is an IPv4 address, and the flag EnableDhcp asks for one; leave out one of both")
	}
	return true, nil
}

// ownVLAN of an endpoint by DHCP that has no policy and no address: that of all IPv4
// subnets of its network.
func (n *Network) ownVLAN() (uint16, error) {
	var vlans []uint16
	for _, s := range n.subnets {
		if s.pool.Prefix.Addr().Is4() && !slices.Contains(vlans, s.vlan) {
			vlans = append(vlans, s.vlan)
		}
	}
	switch len(vlans) {
	case 0:
		return 0, nil
	case 1:
		return vlans[0], nil
	}
	return 0, refuseAt(hcn.HCN_E_INVALID_ENDPOINT, "Policies", "%s has subnets in several VLANs; choose with the policy VLAN in which the endpoint asks by DHCP", n.label())
}

// client of an endpoint that has its address by DHCP.
func (e *Endpoint) client(n *Network) DHCPClient {
	return DHCPClient{
		Endpoint: e.Doc.Id, Name: canonicalName(e.Doc.Name), MAC: vswitch.MAC(e.mac), Uplink: n.Uplink, VLAN: e.vlan,
		AsUplink: kinds[n.Doc.Type].flags&vswitch.NetMACRewrite != 0, Attached: e.compiled.attached, Lease: *e.Lease,
	}
}

// leased finds the lease that was got for a new endpoint.
func (in Input) leased(d *EndpointDoc) DHCPLease {
	for _, c := range in.Leased {
		if c.Endpoint == d.Id && ipam.MAC(c.MAC).String() == d.MacAddress {
			return c.Lease
		}
	}
	return DHCPLease{}
}

// lend gives an endpoint that is not in the World what it is lent, in place of what it
// was. What a server says that makes no sense is left out.
func (w *World) lend(e *Endpoint, n *Network, l DHCPLease, in Input) error {
	was := *e.Lease
	l.Routes = slices.DeleteFunc(slices.Clone(l.Routes), func(r hcn.Route) bool { return checkRoutes([]hcn.Route{r}) != nil })
	l.DNS = saneDNS(l.DNS)
	e.Lease = &l
	e.Doc.IpConfigurations = slices.DeleteFunc(slices.Clone(e.Doc.IpConfigurations), func(c IpConfig) bool {
		return was.Addr.IsValid() && sameAddr(c.IpAddress, was.Addr.Addr())
	})
	if l.Addr.IsValid() {
		if err := w.checkLent(e, n, in); err != nil {
			return err
		}
		e.Doc.IpConfigurations = slices.Insert(e.Doc.IpConfigurations, 0, IpConfig{IpConfig: hcn.IpConfig{IpAddress: l.Addr.Addr().String(), PrefixLength: uint8(l.Addr.Bits())}})
	}
	if !e.OwnRoutes {
		rest := slices.DeleteFunc(slices.Clone(e.Doc.Routes), func(r hcn.Route) bool { return slices.Contains(was.Routes, r) })
		e.Doc.Routes = slices.Concat(l.Routes, rest)
	}
	if e.InheritDNS {
		e.Doc.Dns = e.inheritedDNS(n)
	}
	return nil
}

// checkLent holds the address that a server gave against what the World knows.
func (w *World) checkLent(e *Endpoint, n *Network, in Input) error {
	a := e.Lease.Addr.Addr()
	if !a.Is4() || !a.IsGlobalUnicast() || e.Lease.Addr.Bits() == 0 {
		return refuseAt(hcn.HCN_E_ADDR_INVALID_OR_RESERVED, "IpConfigurations", "the DHCP server %s lends %s, which is no machine's address", e.Lease.Server, e.Lease.Addr)
	}
	var refusal *Error
	if _, err := w.checkAddress(e, n, a, e.Lease.Addr.Bits(), in); errors.As(err, &refusal) {
		return refuseAt(refusal.Code, "IpConfigurations", "the DHCP server %s lends %s: %s", e.Lease.Server, a, refusal.Text)
	}
	return nil
}

// saneDNS is what can be used of what a server said.
func saneDNS(d hcn.Dns) hcn.Dns {
	d.ServerList = slices.DeleteFunc(slices.Clone(d.ServerList), func(s string) bool { return checkDNS(hcn.Dns{ServerList: []string{s}}) != nil })
	d.Search = slices.DeleteFunc(slices.Clone(d.Search), func(s string) bool { return !isHostName(s) })
	if !isHostName(d.Domain) {
		d.Domain = ""
	}
	return d
}

// inheritedDNS of an endpoint without its own: the network's, else what its DHCP server said.
func (e *Endpoint) inheritedDNS(n *Network) hcn.Dns {
	d := n.inheritedDNS()
	if e.Lease != nil && emptyDNS(n.Doc.Dns) {
		return e.Lease.DNS
	}
	return d
}

// leastLentMTU: below it an MTU that a server tells is a mistake (RFC 791: every host
// takes 576).
const leastLentMTU = 576

// vnicSettings are those of the policies, else the MTU that the endpoint was lent.
func (e *Endpoint) vnicSettings() vnicSettings {
	s := vnicSettingsOf(e.Doc.Policies)
	if l := e.Lease; l != nil && s.mtu == 0 && s.overhead == 0 && l.MTU >= leastLentMTU &&
		(l.MTU >= leastMTU6 || !slices.ContainsFunc(e.addrs, func(p netip.Prefix) bool { return p.Addr().Is6() })) {
		s.mtu = l.MTU
	}
	return s
}

// Lend gives an endpoint the lease that its client now has; without an address, none.
// The refusal says why an address cannot be the endpoint's.
func (w World) Lend(id string, l DHCPLease, in Input) (World, error) {
	e, ok := w.Endpoint(id)
	if !ok || e.Lease == nil {
		return w, endpointMissing(id)
	}
	before := w
	n, _ := w.networks.get(e.Doc.HostComputeNetwork)
	c := *e
	if err := w.lend(&c, n, l, in); err != nil {
		return before, err
	}
	was, _ := Encode(e.Doc)
	now, _ := Encode(c.Doc)
	if string(was) == string(now) && e.Lease.MTU == l.MTU {
		w.extend(&c)
		return w, nil
	}
	if err := c.parse(n); err != nil {
		return before, err
	}
	if _, err := w.plugIn(&c, n); err != nil {
		return before, err
	}
	n, _ = w.networks.get(e.Doc.HostComputeNetwork)
	if err := w.refer(&c, n); err != nil {
		return before, err
	}
	c.Doc.Version++
	w.putEndpoint(&c)
	w.refit(c.Doc.HostComputeNamespace)
	w.event(hcn.EventEndpointModify, "EndpointModify", Endpoints, c.Doc.Id, c.Doc)
	return w, nil
}

// extend notes a lease that differs in its times, or its server, alone: nothing that a
// hand made follows from them.
func (w *World) extend(e *Endpoint) {
	w.endpoints = w.endpoints.set(e.Doc.Id, e)
	w.replug(e.Doc.Id)
	w.changes = w.changes.add(Change{Kind: Endpoints, ID: e.Doc.Id, Row: e, Quiet: true})
}
