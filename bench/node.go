// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// scope is what one subject builds. The first error sticks: later steps do
// nothing, so that a topology reads as a list; whoever built looks at err.
type scope struct {
	b   *bench
	err error
}

// node is a network namespace to build in.
type node struct {
	s    *scope
	name string
	path string // what setns takes
}

// node makes a namespace that ends with the subject.
func (s *scope) node(name string) *node {
	n := &node{s: s, name: "ghbench-" + name}
	n.path = "/run/netns/" + n.name
	if s.err == nil {
		s.err = s.b.netns(n.name)
	}
	// Default in new namespaces is on, which is not the plain bridge; and a probe of
	// duplicate addresses would delay the start.
	n.sysctl("net/bridge/bridge-nf-call-iptables=0", "net/bridge/bridge-nf-call-ip6tables=0", "net/bridge/bridge-nf-call-arptables=0",
		"net/ipv6/conf/all/accept_dad=0", "net/ipv6/conf/default/accept_dad=0")
	return n
}

// given is a namespace that somebody else made.
func (s *scope) given(path string) *node { return &node{s: s, name: filepath.Base(path), path: path} }

func (s *scope) fail(err error) {
	if s.err == nil && err != nil {
		s.err = err
	}
}

// run runs a command inside the namespace, with input on its standard input.
func (n *node) run(input string, words ...string) string {
	if n.s.err != nil {
		return ""
	}
	w := n.in(words...)
	cmd := exec.Command(w[0], w[1:]...)
	cmd.Stdin = strings.NewReader(input)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		n.s.fail(fmt.Errorf("%s: %s: %w: %s", n.name, strings.Join(words, " "), err, strings.TrimSpace(errs.String())))
	}
	return out.String()
}

func (n *node) in(words ...string) []string {
	return slices.Concat([]string{"nsenter", "--net=" + n.path}, words)
}

// ip runs lines of ip-batch(8).
func (n *node) ip(lines ...string) { n.run(strings.Join(lines, "\n"), "ip", "-batch", "-") }

// sysctl sets "path=value" below /proc/sys.
func (n *node) sysctl(settings ...string) {
	var script strings.Builder
	for _, s := range settings {
		path, value, _ := strings.Cut(s, "=")
		fmt.Fprintf(&script, "[ ! -e /proc/sys/%[1]s ] || echo %[2]s > /proc/sys/%[1]s\n", path, value)
	}
	n.run(script.String(), "sh", "-e")
}

func (n *node) nft(rules string) { n.run(rules, "nft", "-f", "-") }

// forwarding makes the namespace a router of both families.
func (n *node) forwarding() {
	n.sysctl("net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1")
}

// veth joins two namespaces; both ends are up.
func (s *scope) veth(a *node, aDev string, b *node, bDev string) {
	a.ip(fmt.Sprintf("link add name %s type veth peer name %s netns %s", aDev, bDev, b.name), "link set dev "+aDev+" up")
	b.ip("link set dev " + bDev + " up")
}

func (n *node) addr(dev string, cidrs ...string) {
	for _, c := range cidrs {
		if strings.Contains(c, ":") {
			c += " nodad"
		}
		n.ip("addr add " + c + " dev " + dev)
	}
}

// device is what ip says about one.
type device struct {
	Ifindex int
	MTU     uint16
	Address string
	mac     net.HardwareAddr
}

func (n *node) device(name string) device {
	out := n.run("", "ip", "-j", "link", "show", "dev", name)
	if n.s.err != nil {
		return device{}
	}
	var all []device
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 1 {
		n.s.fail(fmt.Errorf("%s: device %s: %q", n.name, name, out))
		return device{}
	}
	d := all[0]
	var err error
	if d.mac, err = net.ParseMAC(d.Address); err != nil {
		n.s.fail(err)
	}
	return d
}
