// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

// serviceCounts are how many services there are beside the one that is measured,
// that one included.
var serviceCounts = []int{1, 100, 10000}

// serviceBackends each service has, all of them addresses of one server.
const serviceBackends = 10

// vip is the address of service i.
func vip(family, i int) string {
	if family == 6 {
		return fmt.Sprintf("fd00:96::%x", i+1)
	}
	return fmt.Sprintf("10.96.%d.%d", (i+1)>>8, (i+1)&255)
}

// measured is the service that gets traffic: in the middle of a list that is read
// from its beginning.
func measured(n int) int { return n / 2 }

// serviceProtocols of service i: the one measured also has UDP.
func serviceProtocols(i, n int) []string {
	if i == measured(n) {
		return []string{"tcp", "udp"}
	}
	return []string{"tcp"}
}

// serviceRouter is a host of the kernel's that routes between a client and a
// server with the backends' addresses.
func (s *scope) serviceRouter(name string) (host, client, server *node) {
	host, client, server = s.routedPair(name)
	for j := 1; j < serviceBackends; j++ {
		server.addr("eth0", fmt.Sprintf("10.89.0.%d/24", 11+j), fmt.Sprintf("fd00:89::%x/64", 0x11+j))
	}
	return host, client, server
}

func backendAddr(family, j int) string {
	if family == 6 {
		return fmt.Sprintf("fd00:89::%x", 0x11+j)
	}
	return fmt.Sprintf("10.89.0.%d", 11+j)
}

// nftServices are rules in the shape of kube-proxy's nftables mode: a verdict map
// of all services, a chain for each and for each of its endpoints.
func nftServices(family, n, backends int) string {
	table, typ := "ip", "ipv4_addr"
	if family == 6 {
		table, typ = "ip6", "ipv6_addr"
	}
	var b, elements strings.Builder
	fmt.Fprintf(&b, "table %s services {\n", table)
	b.WriteString("chain masq { meta mark set meta mark or 0x4000; }\n")
	for i := range n {
		for _, proto := range serviceProtocols(i, n) {
			choice := nftService(&b, table, family, i, proto, backends)
			fmt.Fprintf(&b, "chain service-%d-%s { %s; }\n", i, proto, choice)
			fmt.Fprintf(&elements, "%s . %s . %d : goto service-%d-%s, ", vip(family, i), proto, trafficPort, i, proto)
		}
	}
	fmt.Fprintf(&b, "map service-ips { type %s . inet_proto . inet_service : verdict; elements = { %s } }\n", typ, elements.String())
	fmt.Fprintf(&b, "chain services { %s daddr . meta l4proto . th dport vmap @service-ips; }\n", table)
	b.WriteString("chain pre { type nat hook prerouting priority dstnat; jump services; }\n")
	b.WriteString("chain post { type nat hook postrouting priority srcnat; meta mark & 0x4000 != 0 masquerade; }\n}\n")
	return b.String()
}

// nftService writes the endpoints' chains and returns the rule that chooses.
func nftService(b *strings.Builder, table string, family, i int, proto string, backends int) string {
	var choice []string
	for j := range backends {
		a := backendAddr(family, j)
		to := netip.AddrPortFrom(netip.MustParseAddr(a), trafficPort)
		fmt.Fprintf(b, "chain endpoint-%d-%s-%d { %s saddr %s jump masq; meta l4proto %s dnat to %s; }\n", i, proto, j, table, a, proto, to)
		choice = append(choice, fmt.Sprintf("%d : goto endpoint-%d-%s-%d", j, i, proto, j))
	}
	return fmt.Sprintf("numgen random mod %d vmap { %s }", backends, strings.Join(choice, ", "))
}

// nftChange gives the measured service one backend less, as a transaction.
func nftChange(family, n, backends int) string {
	table := "ip"
	if family == 6 {
		table = "ip6"
	}
	var choice []string
	for j := range max(1, backends-1) {
		choice = append(choice, fmt.Sprintf("%d : goto endpoint-%d-tcp-%d", j, measured(n), j))
	}
	return fmt.Sprintf("flush chain %[1]s services service-%[2]d-tcp\nadd rule %[1]s services service-%[2]d-tcp numgen random mod %[3]d vmap { %[4]s }\n",
		table, measured(n), len(choice), strings.Join(choice, ", "))
}

// iptablesServices are rules in the shape of kube-proxy's iptables mode: one rule
// for each service, read in order.
func iptablesServices(family, n, backends int) string {
	var chains, rules strings.Builder
	chains.WriteString("*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n")
	rules.WriteString("-A PREROUTING -j KUBE-SERVICES\n-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n" +
		"-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE\n")
	for i := range n {
		for _, proto := range serviceProtocols(i, n) {
			iptablesService(&chains, &rules, family, i, proto, backends)
			fmt.Fprintf(&rules, "-A KUBE-SERVICES -d %s -p %s -m %[2]s --dport %d -j KUBE-SVC-%d-%[2]s\n", vip(family, i), proto, trafficPort, i)
		}
	}
	return chains.String() + rules.String() + "COMMIT\n"
}

func iptablesService(chains, rules *strings.Builder, family, i int, proto string, backends int) {
	fmt.Fprintf(chains, ":KUBE-SVC-%d-%s - [0:0]\n", i, proto)
	for j := range backends {
		chance := ""
		if j < backends-1 {
			chance = fmt.Sprintf(" -m statistic --mode random --probability %.10f", 1/float64(backends-j))
		}
		a := backendAddr(family, j)
		to := netip.AddrPortFrom(netip.MustParseAddr(a), trafficPort)
		fmt.Fprintf(chains, ":KUBE-SEP-%d-%s-%d - [0:0]\n", i, proto, j)
		fmt.Fprintf(rules, "-A KUBE-SVC-%d-%s%s -j KUBE-SEP-%[1]d-%[2]s-%[4]d\n", i, proto, chance, j)
		fmt.Fprintf(rules, "-A KUBE-SEP-%d-%s-%d -s %s -j KUBE-MARK-MASQ\n", i, proto, j, a)
		fmt.Fprintf(rules, "-A KUBE-SEP-%d-%s-%d -p %[2]s -m %[2]s -j DNAT --to-destination %[4]s\n", i, proto, j, to)
	}
}

// iptablesChange rewrites the measured service's chains alone.
func iptablesChange(family, n, backends int) string {
	var chains, rules strings.Builder
	iptablesService(&chains, &rules, family, measured(n), "tcp", max(1, backends-1))
	return "*nat\n" + chains.String() + rules.String() + "COMMIT\n"
}

// Columns of what is measured once, when a path is built.
const (
	colSync   = "sync ms"
	colChange = "change ms"
)

// onceRounds is how often a change is made when it is measured; its median counts.
const onceRounds = 5

// timed runs a command in the namespace and returns how long it took, in ms.
func (n *node) timed(input string, words ...string) float64 {
	t0 := time.Now()
	n.run(input, words...)
	return ms(time.Since(t0))
}

// timedOften is timed for what can be done again and again.
func (n *node) timedOften(input string, words ...string) float64 {
	var all series
	for range onceRounds {
		all = append(all, n.timed(input, words...))
	}
	return all.median()
}

// nftServicePath is a way to a service of n by nftables' rules. Sync is the whole
// of them loaded into nothing.
func (s *scope) nftServicePath(family, n, backends int) *path {
	host, client, server := s.serviceRouter(fmt.Sprintf("nft%d", n))
	once := map[string]float64{
		colSync:   host.timed(nftServices(family, n, backends), "nft", "-f", "-"),
		colChange: host.timedOften(nftChange(family, n, backends), "nft", "-f", "-"),
	}
	return s.done(servicePath(fmt.Sprintf("nftables, %d services", n), family, n, host, client, server, once))
}

func (s *scope) iptablesServicePath(family, n, backends int) *path {
	host, client, server := s.serviceRouter(fmt.Sprintf("ipt%d", n))
	restore := "iptables-restore"
	if family == 6 {
		restore = "ip6tables-restore"
	}
	once := map[string]float64{
		colSync:   host.timed(iptablesServices(family, n, backends), restore),
		colChange: host.timedOften(iptablesChange(family, n, backends), restore, "--noflush"),
	}
	return s.done(servicePath(fmt.Sprintf("iptables, %d services", n), family, n, host, client, server, once))
}

func servicePath(name string, family, n int, host, client, server *node, once map[string]float64) *path {
	p := &path{name: name, client: client, server: server, dev: "eth0", flush: host.flushConntrack(), once: once}
	if family == 6 {
		p.addr6 = vip(6, measured(n))
	} else {
		p.addr4 = vip(4, measured(n))
	}
	return p
}

// switchServices is a way to a service of n by our switch.
func (s *scope) switchServices(family, i, n int) *path {
	h := s.switchHost(fmt.Sprintf("sw%d", n), i, natFlags)
	client, _ := h.container(fmt.Sprintf("sw%d-c", n))
	server, sp := h.container(fmt.Sprintf("sw%d-s", n))
	h.apply()
	if s.err != nil {
		return &path{}
	}
	// More addresses for the server, one for each backend.
	p := &h.State.Ports[len(h.State.Ports)-1]
	sub := h.State.Networks[0].Subnets[map[int]int{4: 0, 6: 1}[family]]
	var backends []vswitch.Backend
	for j := range serviceBackends {
		a := hostOf(sub, 100+j)
		p.Addrs = append(p.Addrs, a)
		server.addr("eth0", netip.PrefixFrom(a, sub.Prefix.Bits()).String())
		backends = append(backends, vswitch.Backend{Addr: a, Port: trafficPort, At: sp.ID})
	}
	h.apply()
	for i := range n {
		x := vswitch.Service{ID: vswitch.ServiceID(i + 1), Object: fmt.Sprint("svc", i), Name: fmt.Sprint("svc", i), Backends: backends}
		for _, proto := range serviceProtocols(i, n) {
			number := map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}[proto]
			x.Frontends = append(x.Frontends, vswitch.Frontend{
				Addr: netip.MustParseAddr(vip(family, i)), Port: trafficPort, Proto: number, Scope: vswitch.ScopeCluster,
			})
		}
		h.State.Services = append(h.State.Services, x)
	}
	services := h.State.Services
	var sync, change series
	for range onceRounds {
		h.State.Services = nil
		h.apply()
		h.State.Services = services
		a := h.apply()
		sync = append(sync, ms(a.Compile+a.Apply))
		h.State.Services = slices.Clone(services)
		h.State.Services[measured(n)].Backends = backends[1:]
		a = h.apply()
		change = append(change, ms(a.Compile+a.Apply))
	}
	once := map[string]float64{colSync: sync.median(), colChange: change.median()}
	if family == 6 {
		return s.withOnce(h.path(fmt.Sprintf("%s, %d services", ours, n), client, server, "eth0", "", vip(6, measured(n))), once)
	}
	return s.withOnce(h.path(fmt.Sprintf("%s, %d services", ours, n), client, server, "eth0", vip(4, measured(n)), ""), once)
}

func (s *scope) withOnce(p *path, once map[string]float64) *path {
	p.once = once
	return s.done(p)
}

// benchServices: a container to a service's address, and what it takes to tell the
// switch of all services and of one change.
func benchServices(b *bench, r *report, rounds int) error {
	return eachFamily(b, r, rounds, func(s *scope, family int) *contest {
		c := &contest{
			title: "Services (ClusterIP)", metrics: []metric{metricPPS, metricCRR, metricFlows},
			notes: []string{"Sync: every service told to a switch that has none, compile included. Change: one backend less of one service."},
		}
		for i, n := range serviceCounts {
			c.paths = append(c.paths, s.switchServices(family, i, n))
		}
		for _, n := range serviceCounts {
			nft := serviceBackends
			if n > 1000 {
				if family == 6 {
					continue
				}
				nft = 1
			}
			c.paths = append(c.paths, s.nftServicePath(family, n, nft))
		}
		for _, n := range serviceCounts {
			if n > 1000 && family == 6 {
				continue
			}
			c.paths = append(c.paths, s.iptablesServicePath(family, n, serviceBackends))
		}
		c.notes = append(c.notes, fmt.Sprintf("Every service has %d backends; with nftables and 10000 services one, since loading more takes minutes.", serviceBackends))
		if family == 6 {
			c.notes = append(c.notes, "nftables and iptables with 10000 services: see IPv4.")
		}
		name := func(kind string, n int) string { return fmt.Sprintf("%s, %d services", kind, n) }
		last := serviceCounts[len(serviceCounts)-1]
		c.goals = []goal{
			{colKpps, name(ours, 1), name("nftables", 1), 1.30},
			{colCRR, name(ours, 1), name("nftables", 1), 1.08},
			{colCRR, name(ours, 100), name("nftables", 100), 1.08},
			{colCRR, name(ours, last), name("nftables", last), 1.08},
			{colCRR, name(ours, last), name("iptables", last), 1.08},
			{colFlows, name(ours, 1), name("nftables", 1), 0},
			{colFlows, name(ours, last), name("iptables", last), 0},
			// A first packet's cost is flat: within 5 %.
			{colFlows, name(ours, 100), name(ours, 1), 0.95},
			{colFlows, name(ours, last), name(ours, 1), 0.95},
		}
		c.limits = []limit{{name(ours, last), colSync, 300}, {name(ours, last), colChange, 2}}
		return c
	})
}
