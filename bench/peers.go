// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cilium/ebpf"
)

// What people use today, each in namespaces of its own. Clients are .10, servers
// .11, gateways .1 of the peer's prefixes.

// pair makes a host with a client and a server on veth pairs a and b.
func (s *scope) pair(name string) (host, client, server *node) {
	host, client, server = s.node(name), s.node(name+"-c"), s.node(name+"-s")
	s.veth(host, "a", client, "eth0")
	s.veth(host, "b", server, "eth0")
	return host, client, server
}

func (s *scope) done(p *path) *path {
	if s.err != nil {
		return p
	}
	m, err := newMeter()
	if err != nil {
		s.fail(err)
		return p
	}
	s.b.defer_(m.close)
	p.meter = m
	if p.dev != "" {
		for _, n := range append([]*node{p.server}, p.others...) {
			n.attach(p.dev, m.prog)
		}
	}
	return p
}

// onePrefix gives client and server addresses of one prefix.
func onePrefix(client, server *node) {
	client.addr("eth0", "10.88.0.10/16", "fd00:88::10/64")
	server.addr("eth0", "10.88.0.11/16", "fd00:88::11/64")
}

func (s *scope) bridgeHost(name string) (host, client, server *node) {
	host, client, server = s.pair(name)
	host.ip("link add name br0 type bridge", "link set dev br0 up", "link set dev a master br0", "link set dev b master br0")
	onePrefix(client, server)
	return host, client, server
}

func (s *scope) bridge() *path {
	_, client, server := s.bridgeHost("br")
	return s.done(&path{name: "veth + bridge", client: client, server: server, dev: "eth0", addr4: "10.88.0.11", addr6: "fd00:88::11"})
}

// forwardRules are what a host firewall has at least.
const forwardRules = `
table inet filter {
	chain forward {
		type filter hook forward priority 0; policy drop;
		ct state established,related,untracked accept
		%s
		ct state new accept
	}
}
`

// filteredBridge is a bridge with a firewall of nftables, and more rules for the
// first packet of a connection, if any.
func (s *scope) filteredBridge(label, name, more string) *path {
	p, host := s.filtered(label, name)
	host.nft(fmt.Sprintf(forwardRules, more))
	return p
}

// filtered is a bridge whose packets netfilter sees, which has no rules yet.
func (s *scope) filtered(label, name string) (*path, *node) {
	host, client, server := s.bridgeHost(name)
	host.sysctl("net/bridge/bridge-nf-call-iptables=1", "net/bridge/bridge-nf-call-ip6tables=1")
	return s.done(&path{name: label, client: client, server: server, dev: "eth0", addr4: "10.88.0.11", addr6: "fd00:88::11", flush: host.flushConntrack()}), host
}

func (s *scope) direct() *path {
	client, server := s.node("dir-c"), s.node("dir-s")
	s.veth(client, "eth0", server, "eth0")
	onePrefix(client, server)
	return s.done(&path{name: "veth to veth (limit)", client: client, server: server, dev: "eth0", addr4: "10.88.0.11", addr6: "fd00:88::11"})
}

// bare is two programs that redirect whatever comes.
func (s *scope) bare(label, name string, peer bool) *path {
	host, client, server := s.pair(name)
	onePrefix(client, server)
	for _, way := range [][2]string{{"a", "b"}, {"b", "a"}} {
		to := host.device(way[1])
		if s.err != nil {
			break
		}
		var prog *ebpf.Program
		prog, s.err = fixedRedirect(to.Ifindex, peer)
		if s.err == nil {
			host.attach(way[0], prog)
			prog.Close()
		}
	}
	return s.done(&path{name: label, client: client, server: server, dev: "eth0", addr4: "10.88.0.11", addr6: "fd00:88::11"})
}

// routedPair is a host that routes between client and server.
func (s *scope) routedPair(name string) (host, client, server *node) {
	host, client, server = s.pair(name)
	host.addr("a", "10.88.0.1/24", "fd00:88::1/64")
	client.addr("eth0", "10.88.0.10/24", "fd00:88::10/64")
	host.addr("b", "10.89.0.1/24", "fd00:89::1/64")
	server.addr("eth0", "10.89.0.11/24", "fd00:89::11/64")
	host.forwarding()
	client.ip("route add default via 10.88.0.1", "route add default via fd00:88::1 dev eth0")
	server.ip("route add default via 10.89.0.1", "route add default via fd00:89::1 dev eth0")
	return host, client, server
}

// openvswitch is Debian's Open vSwitch with its datapath in user space.
func (s *scope) openvswitch() *path {
	host, client, server := s.pair("ovs")
	onePrefix(client, server)
	p := &path{name: "Open vSwitch, userspace datapath", client: client, server: server, dev: "eth0", addr4: "10.88.0.11", addr6: "fd00:88::11", lossy: true}
	dir := filepath.Join(s.b.dir, "ovs")
	if s.err == nil {
		s.err = os.MkdirAll(dir, 0o755)
	}
	db, sock := filepath.Join(dir, "conf.db"), "unix:"+filepath.Join(dir, "db.sock")
	env := []string{"env", "OVS_RUNDIR=" + dir, "OVS_LOGDIR=" + dir, "OVS_DBDIR=" + dir, "OVS_SYSCONFDIR=" + dir}
	host.run("", append(env, "ovsdb-tool", "create", db, "/usr/share/openvswitch/vswitch.ovsschema")...)
	if s.err != nil {
		return p
	}
	daemon := func(log string, words ...string) {
		if s.err == nil {
			_, s.err = s.b.daemon(log, host.in(append(env, words...)...)...)
		}
	}
	ctl := func(args ...string) {
		host.run("", append(append(env, "ovs-vsctl", "--timeout=10", "--db="+sock), args...)...)
	}
	daemon("ovsdb.log", "ovsdb-server", "--remote=p"+sock, "--unixctl="+filepath.Join(dir, "ovsdb.ctl"), db)
	if s.err == nil {
		s.err = s.b.waitFor(10*time.Second, "ovsdb-server", func() bool { _, err := os.Stat(filepath.Join(dir, "db.sock")); return err == nil })
	}
	ctl("--no-wait", "init")
	// Without it, packets whose checksums are left to a device would arrive with
	// wrong ones, and large ones not at all.
	ctl("--no-wait", "set", "Open_vSwitch", ".", "other_config:userspace-tso-enable=true")
	daemon("ovs.log", "ovs-vswitchd", "--unixctl="+filepath.Join(dir, "ovs.ctl"), sock)
	ctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")
	ctl("add-port", "br0", "a")
	ctl("add-port", "br0", "b")
	s.done(p)
	return p
}

// dockerContainers starts a dockerd in a namespace of this name and containers on
// its default bridge, the first of which publishes the traffic port.
func (s *scope) dockerContainers(name, bridge string, count int, flags ...string) (host *node, containers []*node, addrs []string) {
	host = &node{s: s, name: "ghbench-" + name, path: "/run/netns/ghbench-" + name}
	if s.err != nil {
		return host, make([]*node, count), make([]string, count)
	}
	d, err := s.b.startDocker(name, bridge, flags...)
	if err != nil {
		s.fail(err)
		return host, make([]*node, count), make([]string, count)
	}
	ctl := func(args ...string) string {
		if s.err != nil {
			return ""
		}
		out, err := d.ctl(args...)
		s.fail(err)
		return strings.TrimSpace(out)
	}
	tar := filepath.Join(s.b.dir, name+".tar")
	_, err = sh("tar", "-C", filepath.Dir(s.b.hello), "-cf", tar, "--transform", "s|.*|hello|", filepath.Base(s.b.hello))
	s.fail(err)
	ctl("import", tar, "bench")
	for i := range count {
		args := []string{"run", "-d", "--name", fmt.Sprint("c", i)}
		if i == 0 {
			args = append(args, "-p", fmt.Sprintf("%d:%[1]d/tcp", trafficPort), "-p", fmt.Sprintf("%d:%[1]d/udp", trafficPort))
		}
		id := ctl(append(args, "bench", "/hello", "sleep", "36000")...)
		s.b.defer_(func() { _, _ = d.ctl("rm", "-f", id) })
		pid := ctl("inspect", "-f", "{{.State.Pid}}", id)
		containers = append(containers, s.given("/proc/"+pid+"/ns/net"))
		addrs = append(addrs, ctl("inspect", "-f", "{{.NetworkSettings.IPAddress}}", id))
	}
	return host, containers, addrs
}
