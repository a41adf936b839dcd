// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"net/netip"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// servesDHCP: endpoints that ask by DHCP are told their addresses.
func servesDHCP(d *NetworkDoc) bool {
	return d.Type == hcn.ICS || d.Flags&enableDhcpServer != 0
}

// compileLease is what an endpoint is told: its first IPv4 address. There is none
// where the network has no server, which is the gateway, or the endpoint no address.
func compileLease(e *Endpoint, n *Network, device string) (Lease, bool) {
	if !servesDHCP(&n.Doc) || n.HostPort == 0 {
		return Lease{}, false
	}
	for _, a := range e.addrs {
		s, ok := n.subnetOf(a.Addr())
		if !a.Addr().Is4() || !ok || !s.gateway.IsValid() {
			continue
		}
		l := Lease{
			Device: device, MAC: vswitch.MAC(e.mac), Addr: a,
			Server: s.gateway, ServerMAC: vswitch.MAC(n.gatewayMAC()), Domain: e.Doc.Dns.Domain,
		}
		for _, r := range e.Doc.Routes {
			if hop, err := netip.ParseAddr(r.NextHop); err == nil && isDefault(r) && hop.Is4() && !hop.IsUnspecified() && !l.Router.IsValid() {
				l.Router = hop
			}
		}
		for _, d := range e.Doc.Dns.ServerList {
			if server, err := netip.ParseAddr(d); err == nil && server.Is4() {
				l.DNS = append(l.DNS, server)
			}
		}
		return l, true
	}
	return Lease{}, false
}
