// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import "gatehouse.dev/gatehouse/internal/vswitch"

// balancing is what all load balancers and services add to Desired, in the order of their ids and
// in parts: of ten thousand, forty are walked for a change, and the switch is given the
// others as it knows them. It is never changed in place.
type balancing struct {
	services  [parts]*vswitch.ServicePart // nil = none
	hostPorts [parts][]HostPort
}

const parts = 256

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

// with has the part of a load balancer or service made again, which came, changed or went.
func (b *balancing) with(lbs pmap[*LoadBalancer], services pmap[*Service], id string) *balancing {
	next := balancing{}
	if b != nil {
		next = *b
	}
	i, prefix := partOf(id)
	var p balancerPart
	for _, lb := range lbs.prefixed(prefix) {
		p.add(lb.compiled)
	}
	for _, s := range services.prefixed(prefix) {
		p.add(s.compiled.balancerPart)
	}
	next.set(i, p)
	return &next
}

// of makes all parts.
func (b *balancing) of(lbs pmap[*LoadBalancer], services pmap[*Service]) *balancing {
	var made [parts]balancerPart
	for id, lb := range lbs.all {
		i, _ := partOf(id)
		made[i].add(lb.compiled)
	}
	for id, s := range services.all {
		i, _ := partOf(id)
		made[i].add(s.compiled.balancerPart)
	}
	next := balancing{}
	for i := range made {
		next.set(i, made[i])
	}
	return &next
}

func (b *balancing) set(i int, p balancerPart) {
	b.services[i], b.hostPorts[i] = nil, p.hostPorts
	if len(p.services) > 0 {
		b.services[i] = vswitch.NewServicePart(p.services)
	}
}

func (p *balancerPart) add(o balancerPart) {
	p.services = append(p.services, o.services...)
	p.hostPorts = append(p.hostPorts, o.hostPorts...)
}

// into adds all parts to d.
func (b *balancing) into(d *Desired) {
	if b == nil {
		return
	}
	d.Switch.ServiceParts = b.services[:]
	for _, p := range b.hostPorts {
		d.HostPorts = append(d.HostPorts, p...)
	}
}
