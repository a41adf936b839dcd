// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/network/ipam"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// ServicePools are what services are given from where their documents leave it open.
type ServicePools struct {
	Cluster      []netip.Prefix // at most one of each family
	LoadBalancer []netip.Prefix
	NodePorts    [2]uint16 // first and last
}

// fillService checks a document, chooses what it leaves open and gives its services
// their numbers; old is what it replaces, nil = nothing.
func (w *World) fillService(s, old *Service, in Input) error {
	if old != nil {
		s.inherit(old)
	}
	if err := s.parse(); err != nil {
		return err
	}
	if id, ok := w.serviceBy.get(s.Doc.Name); ok && id != s.Doc.ID {
		return refuseAt(hcn.E_ALREADY_EXISTS, "Name", "%s has it", w.serviceLabel(id))
	}
	if err := w.checkBackends(s); err != nil {
		return err
	}
	if s.Doc.Type == hcn.ServiceExternalName {
		s.Numbers = nil
		return nil
	}
	if err := w.chooseAddresses(s, in); err != nil {
		return err
	}
	if err := w.checkAddresses(s, in); err != nil {
		return err
	}
	s.placeNodePorts()
	if err := w.chooseNodePorts(s, old, in); err != nil {
		return err
	}
	if err := w.checkServiceFrontends(s, in); err != nil {
		return err
	}
	return w.numberService(s, old)
}

// inherit what was chosen for the service before, where its document leaves it open.
func (s *Service) inherit(old *Service) {
	d, o := &s.Doc, &old.Doc
	if d.Name == "" {
		d.Name = o.Name
	}
	if d.Type == "" {
		d.Type = o.Type
	}
	if d.Type == hcn.ServiceExternalName {
		return
	}
	if len(d.ClusterIPs) == 0 && !old.headless() {
		d.ClusterIPs = o.ClusterIPs
	}
	if len(d.LoadBalancerIPs) == 0 && d.Type == hcn.ServiceLoadBalancer {
		d.LoadBalancerIPs = o.LoadBalancerIPs
	}
	d.Ports = slices.Clone(d.Ports)
	for i := range d.Ports {
		for _, p := range o.Ports {
			if s.hasNodePorts() && d.Ports[i].NodePort == 0 && p.Port == d.Ports[i].Port && strings.EqualFold(p.Protocol, d.Ports[i].Protocol) {
				d.Ports[i].NodePort = p.NodePort
			}
		}
	}
}

// checkBackends refuses ids that nobody has; a name may be that of who comes later.
func (w *World) checkBackends(s *Service) error {
	var out []string
	for i, ref := range s.Doc.Backends {
		field := fmt.Sprintf("Backends[%d]", i)
		ref = strings.TrimPrefix(ref, "name:")
		if id, ok := parseGUID(ref); ok {
			if _, ok := w.endpoints.get(id); !ok {
				return at(field, endpointMissing(ref))
			}
			ref = id
		} else if ref == "" || strings.ContainsRune(ref, 0) {
			return refuseAt(hcn.HCN_E_INVALID_ENDPOINT, field, "%q is neither an endpoint's id nor a name", ref)
		}
		if !slices.ContainsFunc(out, func(o string) bool { return strings.EqualFold(o, ref) }) {
			out = append(out, ref)
		}
	}
	s.Doc.Backends = out
	for i, ref := range s.Doc.Draining {
		ref = strings.TrimPrefix(ref, "name:")
		if !slices.ContainsFunc(out, func(o string) bool { return strings.EqualFold(o, ref) }) {
			return refuseAt(hcn.E_INVALID_PARAMETER, fmt.Sprintf("Draining[%d]", i), "%q is none of Backends", ref)
		}
	}
	return nil
}

// chooseAddresses finds those that the document leaves open.
func (w *World) chooseAddresses(s *Service, in Input) error {
	d := &s.Doc
	choose := func(member string, pools []netip.Prefix, key string) (addrs []netip.Addr, texts []string, err error) {
		for _, p := range pools {
			a, ok := w.freeServiceAddr(s, p, in)
			if !ok {
				return nil, nil, refuseAt(hcn.HCN_E_ADDR_INVALID_OR_RESERVED, member, "no address of %s ([services] %s in the configuration) is free", p, key)
			}
			addrs, texts = append(addrs, a), append(texts, a.String())
		}
		if len(addrs) == 0 {
			return nil, nil, refuseAt(hcn.HCN_E_ADDR_INVALID_OR_RESERVED, member, "no pool is configured; give an address or set [services] %s", key)
		}
		return addrs, texts, nil
	}
	var err error
	if len(s.cluster) == 0 && !s.headless() {
		if s.cluster, d.ClusterIPs, err = choose("ClusterIPs", in.Services.Cluster, "cluster_pool"); err != nil {
			return err
		}
	}
	if len(s.outside) == 0 && d.Type == hcn.ServiceLoadBalancer {
		if s.outside, d.LoadBalancerIPs, err = choose("LoadBalancerIPs", in.Services.LoadBalancer, "load_balancer_pool"); err != nil {
			return err
		}
	}
	return nil
}

// checkAddresses refuses addresses that are somebody's, and nodes' that are not this host's.
func (w *World) checkAddresses(s *Service, in Input) error {
	for i, a := range s.cluster {
		if err := w.checkServiceAddr(s, a, in); err != nil {
			return at(fmt.Sprintf("ClusterIPs[%d]", i), err)
		}
	}
	for i, a := range s.outside {
		if slices.Contains(s.cluster, a) {
			return refuseAt(hcn.E_INVALID_PARAMETER, fmt.Sprintf("LoadBalancerIPs[%d]", i), "%s is the cluster address, too; take another", a)
		}
		if err := w.checkServiceAddr(s, a, in); err != nil {
			return at(fmt.Sprintf("LoadBalancerIPs[%d]", i), err)
		}
	}
	for i, a := range s.node {
		if !a.IsUnspecified() && in.IsHost != nil && !in.IsHost(a) {
			return refuseAt(hcn.HCN_E_INVALID_IP, fmt.Sprintf("NodeAddresses[%d]", i), "%s is no address of this host", a)
		}
	}
	return nil
}

// freeServiceAddr searches a pool from a place that the service's name decides: one
// made again is likely to get the address that others may still remember.
func (w *World) freeServiceAddr(s *Service, pool netip.Prefix, in Input) (netip.Addr, bool) {
	pool = pool.Masked()
	size := uint64(1) << min(pool.Addr().BitLen()-pool.Bits(), 24)
	h := fnv.New64a()
	h.Write([]byte(s.Doc.Name))
	p := ipam.Pool{Prefix: pool}
	for i := range size {
		a, _ := addPlus(pool.Addr(), int((h.Sum64()+i)%size))
		if p.Check(a) == nil && w.checkServiceAddr(s, a, in) == nil {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// checkServiceAddr refuses an address that is somebody's.
func (w *World) checkServiceAddr(s *Service, a netip.Addr, in Input) error {
	if id, ok := w.serving.get(a.String()); ok && id != s.Doc.ID {
		return refuse(hcn.HCN_E_INVALID_IP, "%s is that of %s; take another", a, w.serviceLabel(id))
	}
	if in.IsHost != nil && in.IsHost(a) {
		return refuse(hcn.HCN_E_INVALID_IP, "%s is this host's own; ask there by a node port", a)
	}
	for _, n := range w.networks.all {
		if slices.Contains(n.gateways(), a) {
			return refuse(hcn.HCN_E_INVALID_IP, "%s is the gateway of network %s; take another", a, n.label())
		}
		if id, ok := w.addrs.get(addrKey(n.Doc.Id, a)); ok {
			return refuse(hcn.HCN_E_INVALID_IP, "%s is that of %s; take another", a, w.endpointLabel(id))
		}
	}
	return nil
}

// chooseNodePorts finds the node ports that the document leaves open.
func (w *World) chooseNodePorts(s, old *Service, in Input) error {
	if !s.hasNodePorts() {
		return nil
	}
	first, last := in.Services.NodePorts[0], in.Services.NodePorts[1]
	s.Doc.Ports = slices.Clone(s.Doc.Ports)
	for i := range s.ports {
		p := &s.ports[i]
		if p.node == 0 {
			for port := int(first); port <= int(last) && port != 0; port++ {
				used := slices.ContainsFunc(s.ports, func(o servicePort) bool { return o.proto == p.proto && int(o.node) == port })
				if p.node = uint16(port); !used && w.checkNodePort(s, old, *p, in) == nil {
					break
				}
				p.node = 0
			}
			if p.node == 0 {
				return refuseAt(hcn.HCN_E_PORT_ALREADY_EXISTS, fmt.Sprintf("Ports[%d].NodePort", i), "none from %d to %d is free ([services] node_ports in the configuration)", first, last)
			}
			s.Doc.Ports[i].NodePort = p.node
			continue
		}
		if err := w.checkNodePort(s, old, *p, in); err != nil {
			return at(fmt.Sprintf("Ports[%d].NodePort", i), err)
		}
	}
	return nil
}

// checkNodePort says who else has a port of the host.
func (w *World) checkNodePort(s, old *Service, p servicePort, in Input) error {
	var had []claim
	if old != nil {
		had = old.claims()
	}
	for _, a := range s.node {
		c := claim{proto: p.proto, port: p.node, publish: publish{kind: Services, id: s.Doc.ID, host: a}}
		if o, taken := w.holder(c, in, nil); taken {
			return refuse(hcn.HCN_E_PORT_ALREADY_EXISTS, "%s is that of %s; take another", c, w.holderLabel(o))
		}
		if in.Ports == nil || slices.ContainsFunc(had, func(o claim) bool { return o.key() == c.key() && o.host == c.host && !o.vip }) {
			continue
		}
		if err := in.Ports.Check(c.hostPort()); err != nil {
			return refuse(hcn.HCN_E_PORT_ALREADY_EXISTS, "port %s cannot be published: %v", c, err)
		}
	}
	return nil
}

// checkServiceFrontends refuses ports of its addresses that a load balancer has.
func (w *World) checkServiceFrontends(s *Service, in Input) error {
	for _, c := range s.claims() {
		if !c.vip {
			continue
		}
		if o, taken := w.holder(c, in, nil); taken {
			return refuseAt(hcn.HCN_E_PORT_ALREADY_EXISTS, "Ports", "%s is that of %s; take another port or address", c, w.holderLabel(o))
		}
	}
	return nil
}

// numberService keeps the numbers of what stays: flows go on.
func (w *World) numberService(s, old *Service) (err error) {
	s.Numbers = map[string]vswitch.ServiceID{}
	for _, p := range s.ports {
		for _, v4 := range []bool{true, false} {
			key := p.key(v4)
			if len(s.frontends(p, v4)) == 0 {
				continue
			}
			if old != nil && old.Numbers[key] != 0 {
				s.Numbers[key] = old.Numbers[key]
			} else if s.Numbers[key], err = w.takeServiceNumber(); err != nil {
				return err
			}
		}
	}
	return nil
}
