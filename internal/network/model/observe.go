// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/network/ipam"
)

// Graph is the World as a drawing shows it; uplinks are added by who knows them.
func (w World) Graph() hcn.Graph {
	var g hcn.Graph
	for _, n := range w.AllNetworks() {
		gn := hcn.GraphNetwork{
			ID: n.Doc.Id, Name: n.Doc.Name, Type: n.Doc.Type, Owner: n.Doc.Owner,
			HostNIC: n.compiled.hostNIC.Name, HostPort: uint16(n.HostPort), Outbound: translates(n.Doc.Type),
			Uplink: n.Uplink, VXLANPort: n.overlay.udp,
		}
		for _, s := range n.subnets {
			gs := hcn.GraphSubnet{Prefix: s.pool.Prefix.String(), VSID: s.vsid}
			if s.gateway.IsValid() {
				gs.Gateway = s.gateway.String()
			}
			for a := range w.usedIn(n.Doc.Id) {
				if s.pool.Prefix.Contains(a) {
					gs.Used++
				}
			}
			gn.Subnets = append(gn.Subnets, gs)
		}
		for _, e := range w.EndpointsOf(n.Doc.Id) {
			gn.Endpoints = append(gn.Endpoints, w.graphEndpoint(e))
		}
		g.Networks = append(g.Networks, gn)
	}
	for _, s := range w.AllServices() {
		gs := hcn.GraphService{Kind: string(Services), ID: s.Doc.ID, Name: s.Doc.Name, Type: string(s.Doc.Type), External: s.Doc.ExternalName}
		w.graphFrontends(&gs, s.claims(), w.backends(s))
		g.Services = append(g.Services, gs)
	}
	for _, lb := range w.AllLoadBalancers() {
		gs := hcn.GraphService{Kind: string(LoadBalancers), ID: lb.Doc.Id, Name: lb.Doc.Name}
		w.graphFrontends(&gs, lb.claims(), w.listed(lb))
		g.Services = append(g.Services, gs)
	}
	for _, r := range w.AllReservations() {
		g.Reserved = append(g.Reserved, hcn.GraphReservation{ID: r.Doc.ID, Name: r.Doc.Name, Owner: r.Doc.Owner,
			Protocol: uint32(r.Doc.Protocol), StartingPort: r.Doc.StartingPort, EndingPort: r.Doc.EndingPort})
	}
	return g
}

func (w World) graphFrontends(g *hcn.GraphService, claims []claim, backends []*Endpoint) {
	for _, c := range claims {
		g.Frontends = append(g.Frontends, c.String())
	}
	for _, e := range backends {
		name := e.Doc.Name
		if name == "" {
			name = e.Doc.Id
		}
		g.Backends = append(g.Backends, name)
	}
}

func (w World) graphEndpoint(e *Endpoint) hcn.GraphEndpoint {
	ge := hcn.GraphEndpoint{
		ID: e.Doc.Id, Name: e.Doc.Name, Namespace: e.Doc.HostComputeNamespace, Port: uint16(e.Port),
		MAC: e.Doc.MacAddress, State: e.Doc.State, Device: e.compiled.port.Interface,
	}
	for _, a := range e.addrs {
		ge.Addresses = append(ge.Addresses, a.String())
	}
	if ns, ok := w.namespaces.get(e.Doc.HostComputeNamespace); ok {
		ge.Container = slices.Clone(ns.Containers)
		if ns.Plug != "" {
			ge.Container = append(ge.Container, ns.Plug)
		}
		for _, nic := range ns.NICs {
			if nic.Endpoint == e.Doc.Id {
				ge.Interface = "eth" + itoa(nic.Index)
			}
		}
	}
	for _, m := range e.mappings {
		p := hcn.GraphPublished{Protocol: uint32(m.proto), Port: m.port, To: m.addrPort}
		if !m.host.IsUnspecified() {
			p.Address = m.host.String()
		}
		if !slices.Contains(ge.Published, p) { // one line for both families
			ge.Published = append(ge.Published, p)
		}
	}
	return ge
}

// PublishedPorts lists every published port with its holder.
func (w World) PublishedPorts() []hcn.PortHolder {
	var out []hcn.PortHolder
	for _, e := range w.AllEndpoints() {
		for _, m := range e.mappings {
			p := hcn.PortHolder{
				ID: e.Doc.Id, Name: e.Doc.Name, Protocol: m.proto, Port: m.port,
				Target: netip.AddrPortFrom(m.addr, m.addrPort).String(),
			}
			if !m.host.IsUnspecified() {
				p.Address = m.host.String()
			}
			out = append(out, p)
		}
	}
	return out
}

// Who says who holds an address, a MAC or a published port ("8080", "8080/udp").
func (w World) Who(query string) ([]hcn.Holder, error) {
	query = strings.TrimSpace(query)
	if a, err := netip.ParseAddr(query); err == nil {
		return w.whoAddress(a), nil
	}
	if m, err := ipam.ParseMAC(query); err == nil {
		return w.whoMAC(m), nil
	}
	text, protoText, hasProto := strings.Cut(query, "/")
	port, err := strconv.ParseUint(text, 10, 16)
	protos := map[string]uint8{"tcp": 6, "udp": 17, "sctp": 132}
	proto, known := protos[strings.ToLower(protoText)]
	if err != nil || port == 0 || hasProto && !known {
		return nil, refuse(hcn.E_INVALID_PARAMETER, "%q is not an address, a MAC address or a port (8080, 8080/udp)", query)
	}
	return w.whoPort(uint16(port), proto), nil
}

func (w World) whoAddress(a netip.Addr) []hcn.Holder {
	out := []hcn.Holder{}
	for _, lb := range w.AllLoadBalancers() {
		if slices.Contains(lb.vips, a) {
			out = append(out, w.balancerHolder(lb, "address", a.String()))
		}
	}
	if id, ok := w.serving.get(a.String()); ok {
		s, _ := w.services.get(id)
		out = append(out, serviceHolder(s, "address", a.String()))
	}
	for _, e := range w.AllEndpoints() {
		if e.natPool(a) != 0 {
			out = append(out, w.endpointHolder("nat address", a.String(), e))
		}
	}
	for _, n := range w.AllNetworks() {
		for _, id := range w.remotes.prefixed(remotesOf(n.Doc.Id, a)) {
			if e, ok := w.endpoints.get(id); ok {
				out = append(out, w.endpointHolder("address", a.String(), e))
			}
		}
		h := n.holder("subnet", a.String())
		if slices.Contains(n.gateways(), a) {
			h.What = "gateway"
			out = append(out, h)
			continue
		}
		if id, ok := w.addrs.get(addrKey(n.Doc.Id, a)); ok {
			e, _ := w.endpoints.get(id)
			out = append(out, w.endpointHolder("address", a.String(), e))
			continue
		}
		if s, ok := n.subnetOf(a); ok {
			h.Value = s.pool.Prefix.String() // nobody holds it; it is of this pool
			out = append(out, h)
		}
	}
	return out
}

func (w World) whoMAC(m ipam.MAC) []hcn.Holder {
	out := []hcn.Holder{}
	for _, n := range w.AllNetworks() {
		if n.HostPort != 0 && m == n.gatewayMAC() {
			out = append(out, n.holder("mac", m.String()))
		}
		if id, ok := w.macs.get(macKey(n.Doc.Id, m)); ok {
			e, _ := w.endpoints.get(id)
			out = append(out, w.endpointHolder("mac", m.String(), e))
		}
	}
	return out
}

func (w World) whoPort(port uint16, proto uint8) []hcn.Holder {
	out := []hcn.Holder{}
	for _, e := range w.AllEndpoints() {
		for _, m := range e.mappings {
			if m.port == port && (proto == 0 || m.proto == proto) {
				out = append(out, w.endpointHolder("port", fmt.Sprintf("%s -> %s", m, netip.AddrPortFrom(m.addr, m.addrPort)), e))
			}
		}
	}
	for _, lb := range w.AllLoadBalancers() {
		for _, c := range lb.claims() {
			if c.port == port && (proto == 0 || c.proto == proto) {
				out = append(out, w.balancerHolder(lb, "port", c.String()))
			}
		}
	}
	for _, s := range w.AllServices() {
		for _, c := range s.claims() {
			if c.port == port && (proto == 0 || c.proto == proto) {
				out = append(out, serviceHolder(s, "port", c.String()))
			}
		}
	}
	for _, r := range w.AllReservations() {
		if port < r.Doc.StartingPort || port > r.Doc.EndingPort || proto != 0 && !slices.Contains(r.protos(), proto) {
			continue
		}
		out = append(out, hcn.Holder{What: "port", Value: fmt.Sprintf("%d-%d", r.Doc.StartingPort, r.Doc.EndingPort), Kind: string(Reservations),
			ID: r.Doc.ID, Name: r.Doc.Name, Owner: r.Doc.Owner, Since: r.Created})
	}
	return out
}

func (w World) balancerHolder(lb *LoadBalancer, what, value string) hcn.Holder {
	h := hcn.Holder{What: what, Value: value, Kind: string(LoadBalancers), ID: lb.Doc.Id, Name: lb.Doc.Name,
		Network: lb.Doc.HostComputeNetwork, Owner: lb.Doc.Owner, Since: lb.Created}
	if n, ok := w.networks.get(lb.Doc.HostComputeNetwork); ok && n.Doc.Name != "" {
		h.Network = n.Doc.Name
	}
	return h
}

func serviceHolder(s *Service, what, value string) hcn.Holder {
	return hcn.Holder{What: what, Value: value, Kind: string(Services), ID: s.Doc.ID, Name: s.Doc.Name, Owner: s.Doc.Owner, Since: s.Created}
}

func (n *Network) holder(what, value string) hcn.Holder {
	return hcn.Holder{What: what, Value: value, Kind: string(Networks), ID: n.Doc.Id, Name: n.Doc.Name,
		Network: n.Doc.Name, Owner: n.Doc.Owner, Since: n.Created}
}

func (w World) endpointHolder(what, value string, e *Endpoint) hcn.Holder {
	h := hcn.Holder{What: what, Value: value, Kind: string(Endpoints), ID: e.Doc.Id, Name: e.Doc.Name,
		Network: e.Doc.HostComputeNetwork, Owner: e.Doc.Owner, Since: e.Created, Attached: e.Doc.HostComputeNamespace}
	if n, ok := w.networks.get(e.Doc.HostComputeNetwork); ok && n.Doc.Name != "" {
		h.Network = n.Doc.Name
	}
	return h
}
