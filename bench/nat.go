// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import "fmt"

// Addresses between a host and the outside (RFC 5737, RFC 3849).
const (
	inside4, inside6   = "198.51.100.1", "2001:db8:1::1"
	outside4, outside6 = "198.51.100.2", "2001:db8:1::2"
)

// outside makes a namespace behind the host's up0, which gets its address elsewhere.
func (s *scope) outside(name string, host *node) *node {
	n := s.node(name)
	s.veth(host, "up0", n, "eth0")
	n.addr("eth0", outside4+"/24", outside6+"/64")
	return n
}

func (h *switchHost) outside(name string) *node {
	n := h.s.outside(name, h.node)
	h.uplink("up0", inside4+"/24", inside6+"/64")
	return n
}

// kernelNAT is a router with conntrack that masquerades and publishes.
const kernelNAT = `
table %[1]s nat {
	chain pre {
		type nat hook prerouting priority dstnat;
		fib daddr type local tcp dport %[2]d dnat to %[3]s
		fib daddr type local udp dport %[2]d dnat to %[3]s
	}
	chain post {
		type nat hook postrouting priority srcnat;
		oifname "up0" masquerade
	}
}
`

// natHost is a host of the kernel's NAT with one container and an outside.
func (s *scope) natHost(name string) (host, container, outside *node) {
	host, container = s.node(name), s.node(name+"-c")
	s.veth(host, "a", container, "eth0")
	host.addr("a", "10.88.0.1/24", "fd00:88::1/64")
	container.addr("eth0", "10.88.0.10/24", "fd00:88::10/64")
	container.ip("route add default via 10.88.0.1", "route add default via fd00:88::1 dev eth0")
	outside = s.outside(name+"-o", host)
	host.addr("up0", inside4+"/24", inside6+"/64")
	host.forwarding()
	host.nft(fmt.Sprintf(kernelNAT, "ip", trafficPort, "10.88.0.10") + fmt.Sprintf(kernelNAT, "ip6", trafficPort, "fd00:88::10") +
		fmt.Sprintf(forwardRules, ""))
	return host, container, outside
}

// dockerNAT is a container on Docker's default bridge and an outside.
func (s *scope) dockerNAT(name, bridge string) (host, container, outside *node) {
	host, c, _ := s.dockerContainers(name, bridge, 1)
	outside = s.outside(name+"-o", host)
	host.addr("up0", inside4+"/24")
	return host, c[0], outside
}

// natPorts spreads new flows over so many ports of the remote host: to one, no
// source NAT has as many flows as it has ports.
const natPorts = 8

// benchNAT: a container to the outside, behind the host's address.
func benchNAT(b *bench, r *report, rounds int) error {
	s := &scope{b: b}
	h := s.switchHost("sw", 0, natFlags)
	client, _ := h.container("sw-c")
	out := h.outside("sw-o")
	h.apply()
	khost, kclient, kout := s.natHost("nft")
	dhost, dclient, dout := s.dockerNAT("docker-nat", "172.31.254.1/24")
	const nft, docker = "nftables masquerade", "Docker's masquerade"
	paths := []*path{
		s.done(h.path(ours, client, out, "eth0", outside4, outside6)),
		s.done(&path{name: nft, client: kclient, server: kout, dev: "eth0", addr4: outside4, addr6: outside6, flush: khost.flushConntrack()}),
		s.done(&path{name: docker, client: dclient, server: dout, dev: "eth0", addr4: outside4, flush: dhost.flushConntrack()}),
	}
	for _, p := range paths {
		p.dports = natPorts
	}
	if s.err != nil {
		return s.err
	}
	return both(r, rounds, func(int) *contest {
		return &contest{
			title: "Outbound NAT", paths: paths, metrics: []metric{metricPPS, metricTCP, metricRR, metricCRR, metricFlows},
			goals: []goal{
				{colKpps, ours, nft, 1.30}, {colKpps, ours, docker, 0}, {colCRR, ours, nft, 1.15}, {colCRR, ours, docker, 0},
				{colGbit, ours, nft, 0}, {colP50, ours, nft, 0}, {colFlows, ours, nft, 0},
			},
		}
	})
}

// benchPublish: from outside to a published port of a container.
func benchPublish(b *bench, r *report, rounds int) error {
	s := &scope{b: b}
	h := s.switchHost("sw", 0, natFlags)
	server, sp := h.container("sw-s")
	out := h.outside("sw-o")
	h.publish(sp, trafficPort)
	h.apply()
	khost, kserver, kout := s.natHost("nft")
	dhost, dserver, dout := s.dockerNAT("docker-pub", "172.31.254.1/24")
	const nft, docker = "nftables DNAT", "Docker's published port"
	paths := []*path{
		s.done(h.path(ours, out, server, "eth0", inside4, inside6)),
		s.done(&path{name: nft, client: kout, server: kserver, dev: "eth0", addr4: inside4, addr6: inside6, flush: khost.flushConntrack()}),
		s.done(&path{name: docker, client: dout, server: dserver, dev: "eth0", addr4: inside4, flush: dhost.flushConntrack()}),
	}
	if s.err != nil {
		return s.err
	}
	return both(r, rounds, func(int) *contest {
		return &contest{
			title: "Published port, from outside", paths: paths, metrics: []metric{metricPPS, metricTCP, metricRR, metricCRR, metricFlows},
			goals: []goal{
				{colKpps, ours, docker, 1.30}, {colKpps, ours, nft, 1.30}, {colCRR, ours, nft, 1.08}, {colCRR, ours, docker, 0},
				{colGbit, ours, nft, 0}, {colP50, ours, nft, 0}, {colFlows, ours, nft, 0},
			},
		}
	})
}

// benchLoopback: a process of the host to a port published on its own loopback,
// where Docker has a proxy, or with userland-proxy off a rule.
func benchLoopback(b *bench, r *report, rounds int) error {
	s := &scope{b: b}
	h := s.switchHost("sw", 0, natFlags)
	server, sp := h.container("sw-s")
	h.outside("sw-o")
	h.publish(sp, trafficPort)
	h.apply()
	phost, pc, _ := s.dockerContainers("docker-px", "172.31.254.1/24", 1)
	rhost, rc, _ := s.dockerContainers("docker-nopx", "172.31.253.1/24", 1, "--userland-proxy=false")
	const proxy, rule = "Docker with userland-proxy", "Docker without userland-proxy"
	paths := []*path{
		s.done(h.path(ours, h.node, server, "eth0", "127.0.0.1", "::1")),
		s.done(&path{name: proxy, client: phost, server: pc[0], dev: "eth0", addr4: "127.0.0.1", flush: phost.flushConntrack()}),
		s.done(&path{name: rule, client: rhost, server: rc[0], dev: "eth0", addr4: "127.0.0.1", flush: rhost.flushConntrack()}),
	}
	if s.err != nil {
		return s.err
	}
	return both(r, rounds, func(int) *contest {
		return &contest{
			title: "Published port, from the host's loopback", paths: paths, metrics: []metric{metricPPS, metricTCP, metricRR, metricCRR},
			goals: []goal{
				{colKpps, ours, proxy, 1.30}, {colKpps, ours, rule, 1.30}, {colGbit, ours, proxy, 0}, {colGbit, ours, rule, 0},
				{colP50, ours, proxy, 0}, {colP50, ours, rule, 0}, {colCRR, ours, proxy, 0}, {colCRR, ours, rule, 0},
			},
		}
	})
}
