// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestWirePolicies: a network whose endpoints have a MAC of its own on the wire, where
// the host is no member, and where a machine that does not answer for its hidden
// addresses is found by a policy; an endpoint of a NAT network that uses one interface.
//
//covers:network SourceMacAddress NeighborDiscovery
//covers:endpoint InterfaceConstraint
func TestWirePolicies(t *testing.T) {
	b := newDocBench(t)
	b.serve(b.path(b.out))
	b.serve(b.path(b.ns))
	nat := b.network
	const mac, hidden4, hidden6 = "02:11:22:33:44:55", "198.51.100.77", "2001:db8:100::77"
	for _, a := range []string{hidden4 + "/32", hidden6 + "/128"} {
		b.host.must("ip", "-n", b.out, "addr", "add", a, "dev", "lo")
	}
	b.mustAt(b.out, "sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1")
	outMAC := strings.Fields(b.host.must("ip", "-n", b.out, "-br", "link", "show", "dev", "wire"))[2]
	asked := func(prefix string) string {
		return fmt.Sprintf(`{"Type":"NeighborDiscovery","Settings":{"TargetIpPrefix":%q,"SenderMacAddress":%q}}`, prefix, outMAC)
	}
	var n struct{ ID string }
	b.must("POST", "/networks", fmt.Sprintf(`{"Name":"seg","Type":"L2Bridge","Flags":1024,"Policies":[{"Type":"SourceMacAddress","Settings":{"SourceMacAddress":%q}},%s,%s],
		"Ipams":[{"Subnets":[{"IpAddressPrefix":"198.51.100.0/24","Routes":[{"NextHop":%q,"DestinationPrefix":"0.0.0.0/0"}]},
		{"IpAddressPrefix":"2001:db8:100::/64","Routes":[{"NextHop":%q,"DestinationPrefix":"::/0"}]}]}]}`, mac, asked(hidden4+"/32"), asked(hidden6+"/128"), outV4, outV6), &n)
	t.Cleanup(func() { b.must("DELETE", "/networks/"+n.ID, "", nil) })
	b.network = n.ID
	m := b.machine("pod")
	for _, to := range []string{outV4, "[" + outV6 + "]", hidden4, "[" + hidden6 + "]"} {
		b.reaches(m.netns, to+":80")
	}
	for _, a := range []string{m.v4, m.v6} {
		if got := b.macSeen(a); got != mac {
			t.Errorf("outside %s is at %s", a, got)
		}
	}
	b.unreached(m.netns, hostV4+":80")
	b.unreached(b.path(b.ns), m.v4+":80")
	b.reaches(b.path(b.ns), outV4+":80")

	// An interface that leads nowhere is the only one that an endpoint may use.
	b.host.must("ip", "-n", b.ns, "link", "add", "side", "type", "veth", "peer", "name", "sidep")
	b.host.must("ip", "-n", b.ns, "addr", "add", "192.0.2.1/24", "dev", "side")
	b.host.must("ip", "-n", b.ns, "link", "set", "side", "up")
	b.network = nat
	c := b.machine("bound")
	b.reaches(c.netns, outV4+":80")
	constrain := func(to string) {
		t.Helper()
		b.must("POST", "/endpoints/"+c.id+"/modify", fmt.Sprintf(`{"ResourceType":"Policy","RequestType":"Update","Settings":{"Policies":[{"Type":"InterfaceConstraint","Settings":{"InterfaceAlias":%q}}]}}`, to), nil)
	}
	constrain("side")
	b.unreached(c.netns, outV4+":80")
	constrain("wire")
	b.reaches(c.netns, outV4+":80")
}
