// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"encoding/binary"
	"net/netip"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// PortAsked is the port in the keys of routes that say with which MAC questions for an
// address are answered; no port has the number (GH_PORT_ASKED).
const PortAsked = MaxPorts

const routeAsked = uint16(bpf.SwitchGhRouteKindGH_ROUTE_ASKED)

func checkAsked(n *Network) error {
	for i, a := range n.Asked {
		switch p := a.Prefix; {
		case !p.IsValid() || p.Addr().Is4In6() || p.Addr().Zone() != "":
			return invalid("Asked[%d].Prefix %q: not a prefix", i, p)
		case p != p.Masked():
			return invalid("Asked[%d].Prefix %q: has bits below its length; %q is meant", i, p, p.Masked())
		case p.Addr().Is6() && p.Contains(netip.AddrFrom16(netip.IPv4Unspecified().As16())):
			return invalid("Asked[%d].Prefix %q: keys of IPv4 would match it, too", i, p)
		case a.MAC == MAC{} || a.MAC[0]&1 != 0:
			return invalid("Asked[%d].MAC %s: not the address of one interface", i, a.MAC)
		}
		for _, o := range n.Asked[:i] {
			if o.Prefix == a.Prefix {
				return invalid("Asked[%d].Prefix %q: listed twice", i, a.Prefix)
			}
		}
	}
	return nil
}

// askedRoutes are the rows of Network.Asked. A MAC has six bytes, as a route's value has
// behind its kind.
func askedRoutes(n *Network) []Entry[RouteKey, RouteRow] {
	var rows []Entry[RouteKey, RouteRow]
	for _, a := range n.Asked {
		k := routeKey(n.Zone, a.Prefix)
		k.Port = PortAsked
		rows = append(rows, Entry[RouteKey, RouteRow]{k, RouteRow{Kind: routeAsked,
			Flags: binary.NativeEndian.Uint16(a.MAC[:]), Nh: binary.NativeEndian.Uint32(a.MAC[2:])}})
	}
	return rows
}

// AskedMAC is the MAC in a row of Network.Asked.
func AskedMAC(r RouteRow) (m MAC) {
	binary.NativeEndian.PutUint16(m[:], r.Flags)
	binary.NativeEndian.PutUint32(m[2:], r.Nh)
	return m
}
