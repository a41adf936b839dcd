// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"strings"
	"testing"
)

// TestPolicyCommands: policies and load balancers as people type them.
//
//covers:endpoint ACL QOS PortMapping
//covers:network NetworkACL
func TestPolicyCommands(t *testing.T) {
	b := newDocBench(t)
	client, web := b.machine("client"), b.machine("web")
	at, out := web.v4+":80", b.path(b.out)
	b.reaches(client.netns, at)

	b.gh("policy", "add", "-e", "web", "acl", "--direction", "in", "--protocol", "tcp", "--local-port", "80", "--remote", client.v4)
	b.unreached(client.netns, at)
	b.reaches(client.netns, "["+web.v6+"]:80")
	if s := b.gh("policy", "ls", "-e", "web"); !strings.Contains(s, "ACL") || !strings.Contains(s, `"RemoteAddresses":"`+client.v4) {
		t.Errorf("list:\n%s", s)
	}
	b.gh("policy", "rm", "-e", "web", "acl", "--remote", "192.0.2.1") // no such rule
	b.gh("policy", "rm", "-e", "web", "acl", "--remote", client.v4)
	b.reaches(client.netns, at)

	b.gh("policy", "add", "-n", "blue", "acl", "--direction", "in", "--protocol", "6", "--local-port", "80")
	b.unreached(client.netns, at)
	b.gh("policy", "rm", "-n", "blue", "acl")
	b.reaches(client.netns, at)

	b.gh("policy", "add", "-e", "web", "port", "-p", "8088:80")
	b.reaches(out, hostV4+":8088")
	b.refused(1, "endpoint", "policy", "add", "-e", "client", "port", "-p", "8088:80")
	b.gh("policy", "rm", "-e", "web", "port", "-p", "8088:80")
	b.unreached(out, hostV4+":8088")
	b.gh("policy", "add", "-e", "web", "QOS", "--json", `{"MaximumOutgoingBandwidthInBytes":1000000}`)
	if s := b.gh("policy", "ls", "-e", "web", "-o", "name"); s != "QOS\n" {
		t.Errorf("types: %q", s)
	}
	b.gh("policy", "rm", "-e", "web", "qos")
	b.refused(2, "--endpoint or --network", "policy", "ls")
	b.refused(2, "--direction", "policy", "add", "-e", "web", "acl")

	id := strings.TrimSpace(b.gh("lb", "create", "front", "--vip", "10.96.0.30", "-p", "8000:80", "-b", "web", "--host"))
	b.reaches(client.netns, "10.96.0.30:8000")
	b.reaches(b.path(b.ns), "10.96.0.30:8000")
	if s := b.gh("lb", "ls"); !strings.Contains(s, "8000->80/tcp") || !strings.Contains(s, "web") || !strings.Contains(s, id) {
		t.Errorf("list:\n%s", s)
	}
	if s := b.gh("who", "10.96.0.30"); !strings.Contains(s, "loadbalancer") || !strings.Contains(s, "front") {
		t.Errorf("who:\n%s", s)
	}
	b.refused(1, "load balancer", "lb", "create", "--vip", "10.96.0.30", "-p", "8000", "-b", "client")
	b.gh("lb", "rm", "front")
	b.unreached(client.netns, "10.96.0.30:8000")
}
