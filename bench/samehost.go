// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"errors"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

const ours = "gatehouse vSwitch"

// natFlags make a network of type NAT.
const natFlags = vswitch.NetSNAT | vswitch.NetHostNIC | vswitch.NetUplink | vswitch.NetFlood

// defaultRounds of the data plane's subjects.
const defaultRounds = 5

// both runs a contest for each family.
func both(r *report, rounds int, make func(family int) *contest) error {
	if rounds == 0 {
		rounds = defaultRounds
	}
	var errs []error
	for _, f := range []int{4, 6} {
		c := make(f)
		c.family = f
		errs = append(errs, c.run(r, rounds))
	}
	return errors.Join(errs...)
}

// eachFamily builds and runs a contest for each family, with what it builds
// removed between: for those that are too large to stand beside each other.
func eachFamily(b *bench, r *report, rounds int, build func(s *scope, family int) *contest) error {
	if rounds == 0 {
		rounds = defaultRounds
	}
	var errs []error
	for _, f := range []int{4, 6} {
		mark := b.mark()
		s := &scope{b: b}
		c := build(s, f)
		c.family = f
		if s.err == nil {
			errs = append(errs, c.run(r, rounds))
		} else {
			errs = append(errs, s.err)
		}
		b.release(mark)
	}
	return errors.Join(errs...)
}

// benchSameHost: container to container on one host.
func benchSameHost(b *bench, r *report, rounds int) error {
	s := &scope{b: b}
	h := s.switchHost("sw", 0, natFlags)
	client, _ := h.container("sw-c")
	server, sp := h.container("sw-s")
	h.apply()
	if s.err != nil {
		return s.err
	}
	a4, a6 := h.addrsOf(sp.ID)
	_, dc, da := s.dockerContainers("docker-same", "172.31.254.1/24", 2)
	paths := []*path{
		s.done(h.path(ours, client, server, "eth0", a4, a6)),
		s.bridge(),
		s.filteredBridge("bridge + br_netfilter", "brnf", ""),
		s.done(&path{name: "Docker's bridge", client: dc[1], server: dc[0], dev: "eth0", addr4: da[0]}),
		s.openvswitch(),
		s.direct(),
		s.bare("bare redirect (limit)", "redir", false),
		s.bare("bare redirect_peer (limit)", "rpeer", true),
	}
	if s.err != nil {
		return s.err
	}
	full, bridge := *paths[0], paths[1]
	full.name, full.flush = "gatehouse vSwitch, flow tables full", h.fillFlows
	err := both(r, rounds, func(int) *contest {
		s.fail(h.forgetFlows())
		return &contest{
			title: "Container to container, every packet a miss", paths: []*path{&full, bridge},
			metrics: []metric{metricPPS},
			goals:   []goal{{colKpps, full.name, bridge.name, 0.85}},
		}
	})
	s.fail(h.forgetFlows())
	return errors.Join(err, s.err, both(r, rounds, func(int) *contest {
		return &contest{
			title: "Container to container on one host", paths: paths,
			metrics: []metric{metricPPS, metricTCP, metricRR, metricCRR, metricFlows},
			goals: []goal{
				{colKpps, ours, "veth + bridge", 1.15},
				{colKpps, ours, "bridge + br_netfilter", 1.60},
				{colKpps, ours, "Docker's bridge", 0},
				{colKpps, ours, "Open vSwitch, userspace datapath", 0},
				{colKpps, ours, "veth to veth (limit)", 0},
				{colKpps, ours, "bare redirect_peer (limit)", 0},
				{colGbit, ours, "veth + bridge", 1.00},
				{colP50, ours, "veth + bridge", 1.05},
				{colCRR, ours, "veth + bridge", 0},
				// Both entries are made, in tables that no cache holds; a bridge makes none.
				{colFlows, ours, "veth + bridge", 0},
				{colCPU, ours, "veth + bridge", 0},
			},
		}
	}))
}

// benchHostVNIC: a process of the host to a container.
func benchHostVNIC(b *bench, r *report, rounds int) error {
	s := &scope{b: b}
	h := s.switchHost("sw", 0, natFlags)
	server, sp := h.container("sw-s")
	h.apply()
	if s.err != nil {
		return s.err
	}
	a4, a6 := h.addrsOf(sp.ID)
	host, _, bserver := s.bridgeHost("br")
	host.addr("br0", "10.88.0.1/16", "fd00:88::1/64")
	const theirs = "bridge with an address"
	paths := []*path{
		s.done(h.path(ours, h.node, server, "eth0", a4, a6)),
		s.done(&path{name: theirs, client: host, server: bserver, dev: "eth0", addr4: "10.88.0.11", addr6: "fd00:88::11"}),
	}
	if s.err != nil {
		return s.err
	}
	return both(r, rounds, func(int) *contest {
		return &contest{
			title: "Process of the host to a container", paths: paths,
			metrics: []metric{metricPPS, metricTCP, metricRR, metricCRR},
			goals:   []goal{{colKpps, ours, theirs, 1.03}, {colGbit, ours, theirs, 0}, {colP50, ours, theirs, 0}, {colCRR, ours, theirs, 0}},
		}
	})
}
