// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// balancerPart is what one load balancer adds to Desired.
type balancerPart struct {
	services  []vswitch.Service
	hostPorts []HostPort
}

func (lb *LoadBalancer) is6() bool { return lb.Doc.Flags&hcn.LoadBalancerFlagsIPv6 != 0 }

func (lb *LoadBalancer) family() string {
	if lb.is6() {
		return "IPv6 (Flags 2)"
	}
	return "IPv4"
}

// parse derives what the verbs and the compiler look at from the document.
func (lb *LoadBalancer) parse() error {
	d := &lb.Doc
	if d.Flags&^knownBalancerFlags != 0 {
		return refuseAt(hcn.E_INVALID_PARAMETER, "Flags", "%d has unknown bits", d.Flags)
	}
	if d.SourceVIP != "" {
		if _, err := lb.parseVIP(d.SourceVIP); err != nil {
			return at("SourceVIP", err)
		}
	}
	lb.vips = nil
	for i, s := range d.FrontendVIPs {
		field := fmt.Sprintf("FrontendVIPs[%d]", i)
		a, err := lb.parseVIP(s)
		if err != nil {
			return at(field, err)
		}
		if slices.Contains(lb.vips, a) {
			return refuseAt(hcn.E_INVALID_PARAMETER, field, "%s is listed twice", a)
		}
		lb.vips = append(lb.vips, a)
	}
	if len(lb.vips) == 0 {
		lb.vips = []netip.Addr{anyOf(!lb.is6())}
	}
	if len(d.PortMappings) == 0 {
		return refuseAt(hcn.E_INVALID_PARAMETER, "PortMappings", "a load balancer needs at least one")
	}
	lb.balancers = nil
	taken := map[[2]uint16]int{}
	for i, m := range d.PortMappings {
		bs, err := parseBalancer(m)
		if err != nil {
			return at(fmt.Sprintf("PortMappings[%d]", i), err)
		}
		if len(d.FrontendVIPs) == 0 && m.Flags&hcn.LoadBalancerPortMappingFlagsPreserveDIP != 0 {
			return refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, fmt.Sprintf("PortMappings[%d].Flags", i), "PreserveDIP (8) without FrontendVIPs: no backend has every address of the host; name those that the backends have")
		}
		for _, b := range bs {
			for _, proto := range b.protos {
				k := [2]uint16{uint16(proto), b.port}
				if j, ok := taken[k]; ok {
					return refuseAt(hcn.E_INVALID_PARAMETER, fmt.Sprintf("PortMappings[%d].ExternalPort", i), "%d/%s is also that of PortMappings[%d]", b.port, protoName(proto), j)
				}
				taken[k] = i
			}
		}
		lb.balancers = append(lb.balancers, bs...)
	}
	return nil
}

func anyOf(v4 bool) netip.Addr {
	if v4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func (lb *LoadBalancer) parseVIP(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil, a.Zone() != "", a.Is4In6(), a.IsUnspecified(), a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return a, refuse(hcn.HCN_E_INVALID_IP, "%q is not the address of one host or service", s)
	case a.IsLoopback():
		return a, refuse(hcn.HCN_E_INVALID_IP, "%s is the host's own; leave FrontendVIPs out for every address of the host", a)
	case a.Is6() != lb.is6():
		return a, refuse(hcn.HCN_E_INVALID_IP, "%s is not of the load balancer's family, %s", a, lb.family())
	}
	return a, nil
}

// parseBalancer makes the services of a port mapping: one, or one for each protocol
// where a client's backend is chosen for each protocol.
func parseBalancer(m hcn.LoadBalancerPortMapping) ([]balancer, error) {
	switch m.Protocol {
	case 0, 6, 17, 132:
	default:
		return nil, refuseAt(hcn.E_INVALID_PARAMETER, "Protocol", "%d: only 6 (TCP), 17 (UDP), 132 (SCTP) and 0 (TCP and UDP) have ports", m.Protocol)
	}
	target := m.InternalPort
	if target == 0 || m.Flags&hcn.LoadBalancerPortMappingFlagsPreserveDIP != 0 {
		target = m.ExternalPort
	}
	switch {
	case m.ExternalPort == 0 && m.InternalPort == 0 && m.Protocol == 0:
		return nil, refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "ExternalPort", "0 with InternalPort 0 and Protocol 0 is all that is sent to the address; the switch publishes single ports: name one")
	case m.ExternalPort == 0:
		return nil, refuseAt(hcn.E_INVALID_PARAMETER, "ExternalPort", "0 is not a port to ask at")
	case m.Protocol == 132 && target != m.ExternalPort:
		return nil, refuseAt(hcn.HCN_E_INVALID_INTERNAL_PORT, "InternalPort", "SCTP ports cannot be translated: make it %d", m.ExternalPort)
	case m.DistributionType > maxDistribution:
		return nil, refuseAt(hcn.E_INVALID_PARAMETER, "DistributionType", "%d is none of 0 (the conversation), 1 (client and protocol) and 2 (client)", m.DistributionType)
	case m.Flags&^knownPortFlags != 0:
		return nil, refuseAt(hcn.E_INVALID_PARAMETER, "Flags", "%d has unknown bits", m.Flags)
	case m.Flags&hcn.LoadBalancerPortMappingFlagsPreserveDIP != 0 && m.Flags&hcn.LoadBalancerPortMappingFlagsLocalRoutedVIP != 0:
		return nil, refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "Flags", "PreserveDIP (8) with LocalRoutedVIP (2): connections of the host's processes are given to a backend's own address; leave one of them out")
	}
	b := balancer{
		key: fmt.Sprintf("%d/%d", m.Protocol, m.ExternalPort), protos: []uint8{uint8(m.Protocol)}, port: m.ExternalPort, target: target,
		affinity: m.DistributionType != hcn.LoadBalancerDistributionNone, flags: m.Flags,
		internal: m.Flags&hcn.LoadBalancerPortMappingFlagsILB != 0,
		host:     m.Flags&hcn.LoadBalancerPortMappingFlagsLocalRoutedVIP != 0,
	}
	if m.Protocol != 0 {
		return []balancer{b}, nil
	}
	if m.DistributionType != hcn.LoadBalancerDistributionSourceIPProtocol {
		b.protos = []uint8{6, 17}
		return []balancer{b}, nil
	}
	var out []balancer
	for _, proto := range []uint8{6, 17} {
		one := b
		one.protos, one.key = []uint8{proto}, fmt.Sprintf("%d/%d", proto, m.ExternalPort)
		out = append(out, one)
	}
	return out, nil
}

// claims of a load balancer: its frontends.
func (lb *LoadBalancer) claims() []claim {
	var out []claim
	for _, b := range lb.balancers {
		for _, vip := range lb.vips {
			p := publish{kind: LoadBalancers, id: lb.Doc.Id, host: vip, vip: !vip.IsUnspecified()}
			if p.vip && b.internal && !b.host {
				p.network = lb.Doc.HostComputeNetwork
			}
			for _, proto := range b.protos {
				out = append(out, claim{proto: proto, port: b.port, publish: p})
			}
		}
	}
	return out
}

// onHost: a process of the host must not have it.
func (c claim) onHost() bool { return c.host.IsUnspecified() }

// hostPort is what to hold on the host.
func (c claim) hostPort() HostPort {
	return HostPort{Object: c.id, Proto: c.proto, Addr: c.host, Port: c.port}
}

// frontends of one service: who asks it where.
//
// Endpoints of every network and what comes by an uplink ask by default, processes
// of the host with LocalRoutedVIP. With ILB only endpoints do: at an address those of
// the load balancer's own network, since networks may use one address for two things.
// UseMux and VipExternalIP ask for what comes by an uplink, which is the default.
func (b *balancer) frontends(vips []netip.Addr, network vswitch.NetworkID) []vswitch.Frontend {
	var out []vswitch.Frontend
	for _, vip := range vips {
		for _, proto := range b.protos {
			f := vswitch.Frontend{Addr: vip, Port: b.port, Proto: proto}
			switch {
			case b.internal && network != 0 && !vip.IsUnspecified():
				f.Network = network
				out = append(out, f)
				f.Network = 0
			case b.internal:
				f.Scope = vswitch.ScopeNetworks
			default:
				f.Scope = vswitch.ScopeNetworks | vswitch.ScopeOutside
			}
			if b.host {
				f.Scope |= vswitch.ScopeHost
			}
			if f.Scope != 0 {
				out = append(out, f)
			}
		}
	}
	return out
}

// compileLoadBalancer makes the services of a load balancer with the endpoints of
// the moment. One that is not attached is no backend: nothing is behind it.
func (w *World) compileLoadBalancer(lb *LoadBalancer) balancerPart {
	var p balancerPart
	var number vswitch.NetworkID
	n, ok := w.networks.get(lb.Doc.HostComputeNetwork)
	if ok {
		number = n.Number
	}
	backends, remote := backendsAt(w.listed(lb), lb.is6(), func(e *Endpoint) bool {
		return slices.ContainsFunc(lb.Doc.DrainingEndpoints, func(id string) bool { return strings.EqualFold(id, e.Doc.Id) })
	})
	var source netip.Addr
	overlay := remote && n != nil && n.compiled.network.Tunnel != 0
	if overlay {
		backends = w.overTunnel(n, backends)
		if a, err := netip.ParseAddr(lb.Doc.SourceVIP); err == nil && n.holds(a) {
			source = a
		}
	}
	for _, b := range lb.balancers {
		s := vswitch.Service{
			ID: lb.Services[b.key], Object: lb.Doc.Id, Name: lb.Doc.Name, SourceVIP: source,
			Frontends: b.frontends(lb.vips, number), Backends: make([]vswitch.Backend, 0, len(backends)),
		}
		if b.affinity {
			s.Affinity = affinitySeconds
		}
		preserve := b.flags&hcn.LoadBalancerPortMappingFlagsPreserveDIP != 0
		switch {
		case preserve:
			s.Flags = vswitch.ServicePreserve
		case !remote:
		case lb.returnsDirect(b):
			s.Flags = vswitch.ServiceDSR | vswitch.ServiceConsistent
		case overlay && !source.IsValid():
			// The other hosts answer to an address of the overlay only: without one,
			// clients outside get the backends of this host.
			s.Flags = vswitch.ServiceLocal
		}
		for _, x := range backends {
			if preserve && x.At == 0 {
				continue // its host gives it what is sent there
			}
			x.Port = b.target
			s.Backends = append(s.Backends, x)
		}
		p.services = append(p.services, s)
	}
	for _, c := range lb.claims() {
		if c.onHost() {
			p.hostPorts = append(p.hostPorts, c.hostPort())
		}
	}
	return p
}

// returnsDirect: what comes by an uplink for a backend of another host goes there as
// it is, and that host answers. It takes DSR and a frontend that a mux outside, or the
// outside as such, sends to several hosts: they all must choose alike, which needs a
// table of its own for each service. A cluster's own address is not asked from there.
func (lb *LoadBalancer) returnsDirect(b balancer) bool {
	outside := hcn.LoadBalancerPortMappingFlagsUseMux | vipExternalIP
	return lb.Doc.Flags&hcn.LoadBalancerFlagsDSR != 0 && b.flags&outside != 0 && !lb.vips[0].IsUnspecified()
}

// listed are a load balancer's endpoints.
func (w *World) listed(lb *LoadBalancer) (out []*Endpoint) {
	for _, id := range lb.Doc.HostComputeEndpoints {
		if e, ok := w.Endpoint(id); ok {
			out = append(out, e)
		}
	}
	return out
}

// overTunnel says of an overlay's backends elsewhere how clients outside reach them, and
// leaves out those that no tunnel leads to.
func (w *World) overTunnel(n *Network, backends []vswitch.Backend) []vswitch.Backend {
	backends = slices.DeleteFunc(backends, func(b vswitch.Backend) bool { return b.At == 0 && !w.leadsTo(n, b.Addr) })
	for i := range backends {
		if backends[i].At == 0 {
			backends[i].Network = n.Number
		}
	}
	return backends
}

// backendsAt are endpoints as backends without their port, and whether one of them is
// on another host. One that is not attached is none: nothing is behind it. Of several
// with one address the local one is it, else the last made.
func backendsAt(list []*Endpoint, v6 bool, draining func(*Endpoint) bool) (out []vswitch.Backend, remote bool) {
	at := map[netip.Addr]int{}
	sequence := map[netip.Addr]uint64{}
	for _, e := range list {
		if !e.IsRemote() && !e.compiled.attached {
			continue
		}
		i := slices.IndexFunc(e.addrs, func(p netip.Prefix) bool { return p.Addr().Is6() == v6 })
		if i < 0 {
			continue
		}
		b := vswitch.Backend{Addr: e.addrs[i].Addr(), At: e.Port}
		if draining(e) {
			b.State = vswitch.BackendDraining
		}
		remote = remote || b.At == 0
		j, double := at[b.Addr]
		switch {
		case !double:
			at[b.Addr] = len(out)
			out = append(out, b)
		case b.At != 0 || out[j].At == 0 && e.Sequence > sequence[b.Addr]:
			out[j] = b
		default:
			continue
		}
		sequence[b.Addr] = e.Sequence
	}
	return out, remote
}
