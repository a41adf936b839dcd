// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"errors"
	"fmt"
	"net/netip"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

// Two hosts joined by a veth pair, up0 of each, with one container each: the
// client is on host 1, the server on host 2.

func underlay4(i int) string { return fmt.Sprintf("198.51.100.%d", i) }
func underlay6(i int) string { return fmt.Sprintf("2001:db8:1::%d", i) }

// kernelHosts are two that route, by plain routes or through a VXLAN device as
// flannel does: a bridge for the containers, one device without learning, routes
// to the other host's, neighbours and forwarding entries by hand.
func (s *scope) kernelHosts(label, name string, vxlan, filter bool) *path {
	hosts, containers := [3]*node{}, [3]*node{}
	for i := 1; i <= 2; i++ {
		hosts[i], containers[i] = s.node(fmt.Sprintf("%s%d", name, i)), s.node(fmt.Sprintf("%s%dc", name, i))
	}
	s.veth(hosts[1], "up0", hosts[2], "up0")
	mtu := 1500
	if vxlan {
		mtu = 1450
	}
	for i := 1; i <= 2; i++ {
		h, c := hosts[i], containers[i]
		h.addr("up0", underlay4(i)+"/24", underlay6(i)+"/64")
		s.veth(h, "c", c, "eth0")
		gw := "c"
		if vxlan {
			gw = "cni0"
			h.ip("link add name cni0 type bridge", "link set dev cni0 up", "link set dev c master cni0")
		}
		h.addr(gw, fmt.Sprintf("10.%d.0.1/24", i), fmt.Sprintf("fd00:%d::1/64", i))
		c.addr("eth0", fmt.Sprintf("10.%d.0.11/24", i), fmt.Sprintf("fd00:%d::11/64", i))
		c.ip(fmt.Sprintf("link set dev eth0 mtu %d", mtu), fmt.Sprintf("route add default via 10.%d.0.1", i), fmt.Sprintf("route add default via fd00:%d::1 dev eth0", i))
		h.forwarding()
		if filter {
			h.nft(fmt.Sprintf(forwardRules, ""))
			h.sysctl("net/bridge/bridge-nf-call-iptables=1", "net/bridge/bridge-nf-call-ip6tables=1")
		}
		if vxlan {
			h.ip(fmt.Sprintf("link add name flannel.1 address 02:00:00:00:00:0%d type vxlan id 1 local %s dstport 8472 nolearning", i, underlay4(i)), "link set dev flannel.1 up")
			h.addr("flannel.1", fmt.Sprintf("10.%d.255.0/32", i), fmt.Sprintf("fd00:%d:ff::/128", i))
		}
	}
	for i := 1; i <= 2; i++ {
		h, o := hosts[i], 3-i
		if !vxlan {
			h.ip(fmt.Sprintf("route add 10.%d.0.0/24 via %s", o, underlay4(o)), fmt.Sprintf("route add fd00:%d::/64 via %s", o, underlay6(o)))
			continue
		}
		lladdr := fmt.Sprintf("02:00:00:00:00:0%d", o)
		h.ip(fmt.Sprintf("neigh add 10.%d.255.0 lladdr %s dev flannel.1 nud permanent", o, lladdr),
			fmt.Sprintf("neigh add fd00:%d:ff:: lladdr %s dev flannel.1 nud permanent", o, lladdr),
			fmt.Sprintf("route add 10.%d.0.0/24 via 10.%d.255.0 dev flannel.1 onlink", o, o),
			fmt.Sprintf("route add fd00:%d::/64 via fd00:%d:ff:: dev flannel.1 onlink", o, o))
		h.run("", "bridge", "fdb", "append", lladdr, "dev", "flannel.1", "dst", underlay4(o))
	}
	p := &path{name: label, client: containers[1], server: containers[2], dev: "eth0", addr4: "10.2.0.11", addr6: "fd00:2::11"}
	if filter {
		a, b := hosts[1].flushConntrack(), hosts[2].flushConntrack()
		p.flush = func() error {
			if err := a(); err != nil {
				return err
			}
			return b()
		}
	}
	return s.done(p)
}

// The overlay's numbers.
const (
	overlayVNI  = 4242
	tunnelPort  = vswitch.PortID(3000)
	overlayMTU  = 1500 - 50 // what VXLAN over IPv4 leaves
	secondFirst = firstPort + 10
)

// switchOverlay is two hosts of ours with one network by VXLAN.
func (s *scope) switchOverlay() *path {
	var hosts [3]*switchHost
	var containers [3]*node
	var ports [3]vswitch.Port
	for i := 1; i <= 2; i++ {
		hosts[i] = s.switchHost(fmt.Sprintf("ov%d", i), 0, natFlags)
	}
	hosts[2].first = secondFirst
	s.veth(hosts[1].node, "up0", hosts[2].node, "up0")
	for i := 1; i <= 2; i++ {
		h := hosts[i]
		h.uplink("up0", underlay4(i)+"/24", underlay6(i)+"/64")
		h.ip("link add name vx0 type vxlan external dstport 4789", "link set dev vx0 up")
		h.join("vx0")
		containers[i], ports[i] = h.container(fmt.Sprintf("ov%dc", i))
		containers[i].ip(fmt.Sprintf("link set dev eth0 mtu %d", overlayMTU))
		h.State.Tunnels = []vswitch.Tunnel{{ID: tunnelPort, Interface: "vx0", Sources: [2]netip.Addr{netip.MustParseAddr(underlay4(i))}, Up: true}}
		n := &h.State.Networks[0]
		n.Tunnel = tunnelPort
		for j := range n.Subnets {
			n.Subnets[j].VNI = overlayVNI + uint32(j)
		}
	}
	for i := 1; i <= 2; i++ {
		for _, a := range ports[3-i].Addrs {
			hosts[i].State.Remotes = append(hosts[i].State.Remotes, vswitch.Remote{
				Network: benchNetwork, Addr: a, MAC: ports[3-i].MAC, VTEP: netip.MustParseAddr(underlay4(3 - i)),
			})
		}
		hosts[i].apply()
	}
	return s.twoSwitches(ours, hosts, containers, ports)
}

// twoSwitches is the way from host 1's container to host 2's.
func (s *scope) twoSwitches(label string, hosts [3]*switchHost, containers [3]*node, ports [3]vswitch.Port) *path {
	if s.err != nil {
		return &path{}
	}
	p := hosts[1].path(label, containers[1], containers[2], "eth0", ports[2].Addrs[0].String(), ports[2].Addrs[1].String())
	p.pins = append(p.pins, hosts[2].pins)
	p.flush = func() error { return errors.Join(hosts[1].forgetFlows(), hosts[2].forgetFlows()) }
	p.why = func() (string, error) {
		a, err1 := hosts[1].drops()
		b, err2 := hosts[2].drops()
		return "host 1: " + a + "; host 2: " + b, errors.Join(err1, err2)
	}
	return s.done(p)
}

// benchOverlay: container to container on another host, by VXLAN.
func benchOverlay(b *bench, r *report, rounds int) error {
	s := &scope{b: b}
	const plain, filtered = "kernel VXLAN + bridge", "kernel VXLAN + bridge + filter"
	paths := []*path{
		s.switchOverlay(),
		s.kernelHosts(plain, "kv", true, false),
		s.kernelHosts(filtered, "kvf", true, true),
	}
	if s.err != nil {
		return s.err
	}
	return both(r, rounds, func(int) *contest {
		return &contest{
			title: "Overlay between two hosts (VXLAN over IPv4)", paths: paths, metrics: []metric{metricPPS, metricTCP, metricRR, metricCRR, metricFlows},
			goals: []goal{
				{colKpps, ours, plain, 1.20}, {colKpps, ours, filtered, 0}, {colGbit, ours, plain, 1.00}, {colGbit, ours, filtered, 0},
				{colP50, ours, plain, 0}, {colCRR, ours, plain, 0}, {colFlows, ours, plain, 0},
			},
		}
	})
}

// switchRouted is two hosts of ours whose containers have addresses of the fabric
// (a network of type L2Bridge): what comes for one is told by its address, and
// outside the uplink's MAC stands for all.
func (s *scope) switchRouted() *path {
	var hosts [3]*switchHost
	var containers [3]*node
	var ports [3]vswitch.Port
	for i := 1; i <= 2; i++ {
		hosts[i] = s.bareSwitch(fmt.Sprintf("rt%d", i), 0)
	}
	hosts[1].first, hosts[2].first = firstPort, secondFirst
	s.veth(hosts[1].node, "up0", hosts[2].node, "up0")
	for i := 1; i <= 2; i++ {
		h := hosts[i]
		h.uplink("up0", underlay4(i)+"/24", underlay6(i)+"/64")
		h.State.Networks = []vswitch.Network{{
			ID: benchNetwork, Zone: 1, Name: "fabric", Uplink: "up0", Flags: vswitch.NetL2 | vswitch.NetMACRewrite | vswitch.NetFlood,
			Subnets: []vswitch.Subnet{{Prefix: netip.MustParsePrefix(underlay4(0) + "/24")}, {Prefix: netip.MustParsePrefix(underlay6(0) + "/64").Masked()}},
		}}
		containers[i], ports[i] = h.container(fmt.Sprintf("rt%dc", i))
	}
	for i := 1; i <= 2; i++ {
		hosts[i].apply()
	}
	return s.twoSwitches(ours, hosts, containers, ports)
}

// benchRoute: container to container on another host, by addresses that the
// network between knows.
func benchRoute(b *bench, r *report, rounds int) error {
	s := &scope{b: b}
	const plain, filtered = "kernel routing", "kernel routing + filter"
	paths := []*path{
		s.switchRouted(),
		s.kernelHosts(plain, "kr", false, false),
		s.kernelHosts(filtered, "krf", false, true),
	}
	if s.err != nil {
		return s.err
	}
	return both(r, rounds, func(int) *contest {
		return &contest{
			title: "Between two hosts, without a tunnel", paths: paths, metrics: []metric{metricPPS, metricTCP, metricRR, metricCRR, metricFlows},
			goals: []goal{
				{colKpps, ours, plain, 1.20}, {colKpps, ours, filtered, 0}, {colGbit, ours, plain, 0}, {colP50, ours, plain, 0},
				{colCRR, ours, plain, 0}, {colFlows, ours, plain, 0},
			},
		}
	})
}
