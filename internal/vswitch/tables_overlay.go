// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import "fmt"

func (b *block) printOverlay(add func(string, ...any)) {
	for _, e := range b.nh {
		v := e.Value
		if v.Port == 0 {
			add("nh %d via %s", e.Key, ip(v.Via.B))
			continue
		}
		add("nh %d port %d%s mac %s", e.Key, v.Port, farOf(v.Vtep, v.Vni), MAC(v.Mac))
	}
	for _, e := range b.vtep {
		s := fmt.Sprintf("vtep %d %s mtu %d", e.Key, ip(e.Value.Addr.B), e.Value.Mtu)
		if l := ip(e.Value.Local.B); !l.IsUnspecified() {
			s += " from " + l.String()
		}
		add("%s", s)
	}
	for _, e := range b.peer {
		switch a := ip(e.Key.Addr.B); {
		case e.Key.Vni == 0:
			add("peer %s udp %d vtep %d", a, be16(e.Key.PortBe), e.Value.Vtep)
		case e.Value.Vtep == 0:
			add("peer vni %d port %d -> net %d zone %d", e.Key.Vni, e.Key.Port, e.Value.Net, e.Value.Zone)
		default:
			add("peer vni %d port %d %s vtep %d -> net %d zone %d", e.Key.Vni, e.Key.Port, a, e.Value.Vtep, e.Value.Net, e.Value.Zone)
		}
	}
}

// farOf says where on other hosts something is.
func farOf(vtep uint16, vni uint32) (s string) {
	if vtep != 0 {
		s += fmt.Sprintf(" vtep %d", vtep)
	}
	if vni != 0 {
		s += fmt.Sprintf(" vni %d", vni)
	}
	return s
}

func overlayOfPort(v PortRow) string {
	s := farOf(0, v.Vni)
	if v.Flags&portForward != 0 {
		s += " forward"
	}
	if v.Flags&portRoutes != 0 {
		s += " routes"
	}
	return s
}

func routerOf(v NetRow) string {
	if v.RouterMac == [6]byte{} {
		return ""
	}
	return " router " + MAC(v.RouterMac).String()
}

func tunnelsOf(v CfgRow) (s string) {
	for _, p := range v.TunnelBe {
		if p != 0 {
			s += fmt.Sprintf(" tunnel %d", be16(p))
		}
	}
	return s
}

// ownerOf names the port that a route is of, if it is not the network's.
func ownerOf(k RouteKey) string {
	if k.Port == 0 {
		return ""
	}
	return fmt.Sprintf(" port %d", k.Port)
}

// RouteName is a route's end in the words of String.
func RouteName(v RouteRow) string {
	names := [...]string{routeLocal: "local", uint16(RouteUplink): "uplink", uint16(RouteReject): "reject", uint16(RouteHost): "host",
		uint16(RouteVia): "via", uint16(RouteTunnel): "tunnel", routeAsked: "asked"}
	if int(v.Kind) >= len(names) || names[v.Kind] == "" {
		return "?"
	}
	switch {
	case v.Kind == routeAsked:
		return fmt.Sprintf("%s %s", names[v.Kind], AskedMAC(v))
	case v.Flags&routeNAT != 0 && v.Nh != 0:
		return fmt.Sprintf("%s natpool %d", names[v.Kind], v.Nh)
	case v.Flags&routeNAT != 0:
		return names[v.Kind] + " nat"
	case v.Nh != 0:
		return fmt.Sprintf("%s nh %d", names[v.Kind], v.Nh)
	}
	return names[v.Kind]
}
