// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/hcn"
)

// maxAffinity is a day, as Kubernetes has it.
const maxAffinity = 86400

// serviceProtos are the protocols of ports by name.
var serviceProtos = map[string]uint8{"": 6, "TCP": 6, "UDP": 17, "SCTP": 132}

// parse derives what the verbs and the compiler look at from the document.
func (s *Service) parse() error {
	d := &s.Doc
	name := canonicalName(d.Name)
	if name == "" {
		return refuseAt(hcn.E_INVALID_PARAMETER, "Name", "%q is no DNS name: use labels of a-z, 0-9 and - (web, db.prod)", d.Name)
	}
	d.Name, d.Endpoints = name, nil
	for field, p := range map[string]hcn.TrafficPolicy{"ExternalPolicy": d.ExternalPolicy, "InternalPolicy": d.InternalPolicy} {
		if p != "" && p != hcn.TrafficCluster && p != hcn.TrafficLocal {
			return refuseAt(hcn.E_INVALID_PARAMETER, field, "%q is neither Cluster nor Local", p)
		}
	}
	if d.AffinitySeconds > maxAffinity {
		return refuseAt(hcn.E_INVALID_PARAMETER, "AffinitySeconds", "%d is over %d, a day", d.AffinitySeconds, maxAffinity)
	}
	if err := s.checkType(); err != nil {
		return err
	}
	s.cluster = nil
	if !s.headless() {
		var err error
		if s.cluster, err = parseServiceAddrs("ClusterIPs", d.ClusterIPs, true); err != nil {
			return err
		}
	}
	var err error
	if s.outside, err = parseServiceAddrs("LoadBalancerIPs", d.LoadBalancerIPs, true); err != nil {
		return err
	}
	if s.node, err = parseServiceAddrs("NodeAddresses", d.NodeAddresses, false); err != nil {
		return err
	}
	s.placeNodePorts()
	return s.parsePorts()
}

// placeNodePorts at every address of the host of the service's families, where none is named.
func (s *Service) placeNodePorts() {
	if !s.hasNodePorts() || len(s.node) > 0 {
		return
	}
	for _, a := range s.cluster {
		s.node = append(s.node, anyOf(a.Is4()))
	}
}

func (s *Service) hasNodePorts() bool {
	return s.Doc.Type == hcn.ServiceNodePort || s.Doc.Type == hcn.ServiceLoadBalancer
}

// checkType refuses members that the type has not.
func (s *Service) checkType() error {
	d := &s.Doc
	no := func(has bool, field string) error {
		if has {
			return refuseAt(hcn.E_INVALID_PARAMETER, field, "a service of type %s has none", d.Type)
		}
		return nil
	}
	first := func(errs ...error) error {
		for _, err := range errs {
			if err != nil {
				return err
			}
		}
		return nil
	}
	switch d.Type {
	case "":
		d.Type = hcn.ServiceClusterIP
		return s.checkType()
	case hcn.ServiceClusterIP:
		return first(no(len(d.LoadBalancerIPs) > 0, "LoadBalancerIPs"), no(len(d.NodeAddresses) > 0, "NodeAddresses"), no(d.ExternalName != "", "ExternalName"))
	case hcn.ServiceNodePort:
		return first(no(len(d.LoadBalancerIPs) > 0, "LoadBalancerIPs"), no(d.ExternalName != "", "ExternalName"), no(s.headless(), `ClusterIPs ["None"]`))
	case hcn.ServiceLoadBalancer:
		return first(no(d.ExternalName != "", "ExternalName"), no(s.headless(), `ClusterIPs ["None"]`))
	case hcn.ServiceExternalName:
		if name := canonicalName(d.ExternalName); name == "" || name == d.Name {
			return refuseAt(hcn.E_INVALID_PARAMETER, "ExternalName", "%q is no DNS name of another", d.ExternalName)
		}
		d.ExternalName = canonicalName(d.ExternalName)
		return first(no(len(d.ClusterIPs) > 0, "ClusterIPs"), no(len(d.LoadBalancerIPs) > 0, "LoadBalancerIPs"), no(len(d.NodeAddresses) > 0, "NodeAddresses"),
			no(len(d.Ports) > 0, "Ports"), no(len(d.Backends) > 0, "Backends"))
	}
	return refuseAt(hcn.E_INVALID_PARAMETER, "Type", "%q is none of ClusterIP, NodePort, LoadBalancer and ExternalName", d.Type)
}

// parseServiceAddrs reads addresses; single: one of each family.
func parseServiceAddrs(member string, list []string, single bool) (out []netip.Addr, err error) {
	for i, text := range list {
		field := fmt.Sprintf("%s[%d]", member, i)
		a, err := netip.ParseAddr(text)
		switch {
		case err != nil, a.Zone() != "", a.Is4In6(), a.IsUnspecified(), a.IsMulticast(), a.IsLoopback(), a.IsLinkLocalUnicast():
			return nil, refuseAt(hcn.HCN_E_INVALID_IP, field, "%q is not an address that others can ask", text)
		case slices.Contains(out, a):
			return nil, refuseAt(hcn.E_INVALID_PARAMETER, field, "%s is listed twice", a)
		case single && slices.ContainsFunc(out, func(o netip.Addr) bool { return o.Is4() == a.Is4() }):
			return nil, refuseAt(hcn.E_INVALID_PARAMETER, field, "%s is the second of its family; a service has one", a)
		}
		out = append(out, a)
	}
	return out, nil
}

func (s *Service) parsePorts() error {
	d := &s.Doc
	if len(d.Ports) == 0 && d.Type != hcn.ServiceExternalName && !s.headless() {
		return refuseAt(hcn.E_INVALID_PARAMETER, "Ports", "a service of type %s needs at least one", d.Type)
	}
	s.ports = nil
	for i, p := range d.Ports {
		field := fmt.Sprintf("Ports[%d]", i)
		proto, ok := serviceProtos[strings.ToUpper(p.Protocol)]
		x := servicePort{name: strings.ToLower(p.Name), proto: proto, port: p.Port, target: p.TargetPort, node: p.NodePort}
		if x.target == 0 {
			x.target = x.port
		}
		switch {
		case !ok:
			return refuseAt(hcn.E_INVALID_PARAMETER, field+".Protocol", "%q is none of TCP, UDP and SCTP", p.Protocol)
		case p.Port == 0:
			return refuseAt(hcn.E_INVALID_PARAMETER, field+".Port", "0 is not a port to ask at")
		case p.Name != "" && (canonicalName(p.Name) == "" || strings.ContainsAny(p.Name, "._")):
			return refuseAt(hcn.E_INVALID_PARAMETER, field+".Name", "%q is not a label of a-z, 0-9 and -", p.Name)
		case p.NodePort != 0 && !s.hasNodePorts():
			return refuseAt(hcn.E_INVALID_PARAMETER, field+".NodePort", "a service of type %s has none", d.Type)
		case proto == 132 && (x.target != x.port || s.hasNodePorts() && x.node != x.port):
			return refuseAt(hcn.HCN_E_INVALID_INTERNAL_PORT, field, "SCTP ports cannot be translated: Port, TargetPort and NodePort must be one")
		}
		for j, o := range s.ports {
			switch {
			case x.name != "" && o.name == x.name && o.proto == x.proto:
				return refuseAt(hcn.E_INVALID_PARAMETER, field+".Name", "%q is also that of Ports[%d]", p.Name, j)
			case o.port == x.port && o.proto == x.proto:
				return refuseAt(hcn.E_INVALID_PARAMETER, field+".Port", "%d/%s is also that of Ports[%d]", x.port, protoName(proto), j)
			case x.node != 0 && o.node == x.node && o.proto == x.proto:
				return refuseAt(hcn.E_INVALID_PARAMETER, field+".NodePort", "%d/%s is also that of Ports[%d]", x.node, protoName(proto), j)
			}
		}
		s.ports = append(s.ports, x)
	}
	return nil
}
