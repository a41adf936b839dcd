// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import "gatehouse.dev/gatehouse/internal/vswitch"

// balancing is what all load balancers add to Desired, in the order of their ids and
// in parts: of ten thousand, forty are walked for a change, the rest is copied. It is
// never changed in place.
type balancing [256]balancerPart

// partOf an id: its first two digits.
func partOf(id string) (int, string) {
	const digits = "0123456789abcdef"
	n := 0
	for i := range 2 {
		n *= len(digits)
		for j := range digits {
			if digits[j] == id[i] {
				n += j
			}
		}
	}
	return n, id[:2]
}

// with has the part of a load balancer made again, which came, changed or went.
func (b *balancing) with(all pmap[*LoadBalancer], id string) *balancing {
	next := balancing{}
	if b != nil {
		next = *b
	}
	i, prefix := partOf(id)
	next[i] = balancerPart{}
	for _, lb := range all.prefixed(prefix) {
		next[i].add(lb.compiled)
	}
	return &next
}

// of makes all parts.
func (b *balancing) of(all pmap[*LoadBalancer]) *balancing {
	next := balancing{}
	for id, lb := range all.all {
		i, _ := partOf(id)
		next[i].add(lb.compiled)
	}
	return &next
}

func (p *balancerPart) add(o balancerPart) {
	p.services = append(p.services, o.services...)
	p.hostPorts = append(p.hostPorts, o.hostPorts...)
}

// whole is all parts in one.
func (b *balancing) whole(before []vswitch.Service, ports []HostPort) ([]vswitch.Service, []HostPort) {
	if b == nil {
		return before, ports
	}
	n := len(before)
	for i := range b {
		n += len(b[i].services)
	}
	services := append(make([]vswitch.Service, 0, n), before...)
	for i := range b {
		services, ports = append(services, b[i].services...), append(ports, b[i].hostPorts...)
	}
	return services, ports
}
