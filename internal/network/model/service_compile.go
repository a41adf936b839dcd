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

// claims of a service: its frontends.
func (s *Service) claims() []claim {
	var out []claim
	add := func(p servicePort, port uint16, a netip.Addr, vip bool) {
		out = append(out, claim{proto: p.proto, port: port, publish: publish{kind: Services, id: s.Doc.ID, host: a, vip: vip}})
	}
	for _, p := range s.ports {
		for _, a := range s.addresses() {
			add(p, p.port, a, true)
		}
		if p.node != 0 {
			for _, a := range s.node {
				add(p, p.node, a, false)
			}
		}
	}
	return out
}

// key of one service of the switch.
func (p servicePort) key(v4 bool) string {
	family := 6
	if v4 {
		family = 4
	}
	return fmt.Sprintf("%d %d/%d", family, p.proto, p.port)
}

// frontends of a port in one family.
func (s *Service) frontends(p servicePort, v4 bool) []vswitch.Frontend {
	var out []vswitch.Frontend
	add := func(list []netip.Addr, port uint16, scope vswitch.Scope) {
		for _, a := range list {
			if a.Is4() == v4 && port != 0 {
				out = append(out, vswitch.Frontend{Addr: a, Port: port, Proto: p.proto, Scope: scope})
			}
		}
	}
	add(s.cluster, p.port, vswitch.ScopeCluster)
	add(s.outside, p.port, vswitch.ScopeAll)
	add(s.node, p.node, vswitch.ScopeAll)
	return out
}

// compileService makes a service's part with the endpoints of the moment.
func (w *World) compileService(s *Service) servicePart {
	var out servicePart
	endpoints := w.backends(s)
	for _, v4 := range []bool{true, false} {
		backends, flags := w.serviceBackends(s, endpoints, v4)
		for _, p := range s.ports {
			front := s.frontends(p, v4)
			if len(front) == 0 {
				continue
			}
			x := vswitch.Service{
				ID: s.Numbers[p.key(v4)], Object: s.Doc.ID, Name: s.Doc.Name, Frontends: front,
				Backends: slices.Clone(backends), Affinity: s.Doc.AffinitySeconds, Flags: flags,
			}
			for i := range x.Backends {
				x.Backends[i].Port = p.target
			}
			out.services = append(out.services, x)
		}
	}
	for _, c := range s.claims() {
		if !c.vip {
			out.hostPorts = append(out.hostPorts, c.hostPort())
		}
	}
	for _, a := range s.outside {
		out.announced = append(out.announced, vswitch.Announcement{Object: s.Doc.ID, Addr: a})
	}
	out.names = s.names(endpoints)
	return out
}

// serviceBackends are those of a family, whatever their networks. An address that two
// networks have is that of the first.
func (w *World) serviceBackends(s *Service, endpoints []*Endpoint, v4 bool) (out []vswitch.Backend, flags vswitch.ServiceFlags) {
	if s.Doc.ExternalPolicy == hcn.TrafficLocal {
		flags |= vswitch.ServiceLocal
	}
	if s.Doc.InternalPolicy == hcn.TrafficLocal {
		flags |= vswitch.ServiceLocalInside
	}
	var networks []string
	on := map[string][]*Endpoint{}
	for _, e := range endpoints {
		n := e.Doc.HostComputeNetwork
		if on[n] == nil {
			networks = append(networks, n)
		}
		on[n] = append(on[n], e)
	}
	have := map[netip.Addr]bool{}
	for _, id := range networks {
		backends, remote := backendsAt(on[id], !v4, s.isDraining)
		if n, ok := w.networks.get(id); ok && remote && n.compiled.network.Tunnel != 0 {
			// The other hosts answer to addresses of the overlay only.
			backends = w.overTunnel(n, backends)
			flags |= vswitch.ServiceLocal
		}
		for _, b := range backends {
			if !have[b.Addr] {
				have[b.Addr] = true
				out = append(out, b)
			}
		}
	}
	return out, flags
}

// names of a service, which every network's resolver answers: its own, one for each
// backend below it where it is headless, and what SRV questions ask, "_web._tcp.NAME".
func (s *Service) names(endpoints []*Endpoint) []NameRecord {
	name := s.Doc.Name
	if s.Doc.Type == hcn.ServiceExternalName {
		return []NameRecord{{Name: name, Alias: s.Doc.ExternalName}}
	}
	own := NameRecord{Name: name, Addrs: s.cluster}
	targets, records := []string{name}, []NameRecord{}
	if s.headless() {
		targets = nil
		for _, e := range endpoints {
			if !e.IsRemote() && !e.compiled.attached || s.isDraining(e) {
				continue
			}
			r := NameRecord{Name: backendName(e) + "." + name}
			for _, a := range e.addrs {
				r.Addrs = append(r.Addrs, a.Addr())
			}
			own.Addrs = append(own.Addrs, r.Addrs...)
			records, targets = append(records, r), append(targets, r.Name)
		}
	}
	records = append(records, own)
	for _, p := range s.ports {
		if p.name == "" {
			continue
		}
		r := NameRecord{Name: fmt.Sprintf("_%s._%s.%s", p.name, protoName(p.proto), name)}
		port := p.port
		if s.headless() {
			port = p.target
		}
		for _, t := range targets {
			r.Servers = append(r.Servers, Server{Target: t, Port: port})
		}
		records = append(records, r)
	}
	return records
}

// backendName is a label: an endpoint's name, else the beginning of its id.
func backendName(e *Endpoint) string {
	if n := canonicalName(e.Doc.Name); n != "" && !strings.Contains(n, ".") {
		return n
	}
	return e.Doc.Id[:8]
}

func (s *Service) headless() bool {
	return len(s.Doc.ClusterIPs) == 1 && strings.EqualFold(s.Doc.ClusterIPs[0], hcn.Headless)
}
