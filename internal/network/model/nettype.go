// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"net/netip"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// netKind is what a network's type means.
type netKind struct {
	flags vswitch.NetFlags
	// host: the host has a vNIC in it, the gateway, and so its prefixes are the
	// host's, too: none may be in use elsewhere, and what is left out is chosen.
	host bool
	// uplink: it is bound to one interface of the host.
	uplink bool
}

// kinds of networks that there are.
var kinds = map[hcn.NetworkType]netKind{
	hcn.NAT: {flags: vswitch.NetFlood | vswitch.NetSNAT | vswitch.NetUplink, host: true},
	// ICS differs by what is on the gateway: a DHCP server, see servesDHCP.
	hcn.ICS:      {flags: vswitch.NetFlood | vswitch.NetSNAT | vswitch.NetUplink, host: true},
	hcn.Internal: {flags: vswitch.NetFlood, host: true},
	hcn.Private:  {flags: vswitch.NetFlood | vswitch.NetL2},
	// Frames show the endpoints' MACs on the wire; everybody there answers for himself.
	hcn.Transparent: {flags: vswitch.NetFlood | vswitch.NetL2 | vswitch.NetARPPass, uplink: true},
	// Frames show the uplink's MAC on the wire.
	hcn.L2Bridge: {flags: vswitch.NetFlood | vswitch.NetL2 | vswitch.NetMACRewrite, uplink: true},
	// And the fabric switches between endpoints of one host, too.
	hcn.L2Tunnel: {flags: vswitch.NetFlood | vswitch.NetL2 | vswitch.NetMACRewrite | vswitch.NetNoLocal, uplink: true},
	// Whoever is on another host is reached through a tunnel.
	hcn.Overlay: {flags: vswitch.NetFlood, uplink: true},
}

// bindsUplink: networks of the type are bound to one interface of the host.
func bindsUplink(t hcn.NetworkType) bool { return kinds[t].uplink }

// hasHostNIC: the host has a vNIC in the network.
func hasHostNIC(d *NetworkDoc) bool {
	host := kinds[d.Type].host || d.Type == hcn.Overlay && hasPolicy(d, hcn.HostRoute)
	return host && d.Flags&hcn.DisableHostPort == 0
}

// The schema's flags that have no Go names there.
const (
	enableDhcpServer  hcn.NetworkFlags = 2
	knownNetworkFlags hcn.NetworkFlags = 1<<14 - 1
)

func (w *World) checkNetworkType(d *NetworkDoc) error {
	switch d.Type {
	case "":
		d.Type = hcn.NAT
	default:
		if _, ok := kinds[d.Type]; !ok {
			return refuseAt(hcn.HCN_E_INVALID_NETWORK_TYPE, "Type", "%q is not a network type; NAT, Internal, Private, Transparent, L2Bridge, L2Tunnel, Overlay and ICS are", d.Type)
		}
	}
	switch {
	case d.Flags&^knownNetworkFlags != 0:
		return refuseAt(hcn.E_INVALID_PARAMETER, "Flags", "%d has unknown bits", d.Flags)
	case translates(d.Type) && d.Flags&hcn.DisableHostPort != 0:
		return refuseAt(hcn.HCN_E_INVALID_NETWORK, "Flags", "DisableHostPort: a network of type %s needs its host port, the gateway", d.Type)
	case d.Flags&enableDhcpServer != 0 && !hasHostNIC(d):
		return refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "Flags", "EnableDhcpServer: the server is on the gateway that the host has, and here it has none")
	}
	return nil
}

// checkBound holds a network against the others that its frames, or the host's, meet.
func (w *World) checkBound(n *Network, in Input) error {
	if err := w.checkOverlay(n); err != nil {
		return err
	}
	return w.checkHostRoute(n, in)
}

// isHostAddr reports an address that the host itself has on the network's uplink.
func (n *Network) isHostAddr(in Input, a netip.Addr) bool {
	return n.Uplink != "" && in.IsHost != nil && in.IsHost(a)
}
