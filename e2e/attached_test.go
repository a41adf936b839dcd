// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestHostAttach: an endpoint in the host's own namespace gives the host an address on
// the network, and takes nothing from it: a stream over the uplink goes on while that
// comes and goes, with a prefix that is the uplink's, too.
func TestHostAttach(t *testing.T) {
	b := newDocBench(t)
	x, host := b.path(b.out), b.path(b.ns)
	b.serve(x)
	b.serve(host)
	routes := func() string { return b.mustAt(b.ns, "ip", "route") + b.mustAt(b.ns, "ip", "-6", "route") }
	before := routes()
	wire := b.stream(host, outV4+":7", "")

	// The host has no other address there: this network has no host port.
	const body = `{"Name":"inner","Type":"Private","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.78.0.0/24"},{"IpAddressPrefix":"fd78::/64"}]}]}`
	var n struct{ ID string }
	b.must("POST", "/networks", body, &n)
	t.Cleanup(func() { b.must("DELETE", "/networks/"+n.ID, "", nil) })
	b.network = n.ID
	pod := b.machine("pod")

	for _, form := range []string{`{"NamespaceId":1}`, `{"Type":"HostDefault"}`} {
		var ns struct{ ID, NetNsPath string }
		b.must("POST", "/namespaces", form, &ns)
		var e struct {
			ID               string
			State            uint16
			IpConfigurations []struct{ IpAddress string }
		}
		b.must("POST", "/networks/"+n.ID+"/endpoints", fmt.Sprintf(`{"Name":"inner_ep","HostComputeNamespace":%q}`, ns.ID), &e)
		if e.State != 2 || ns.NetNsPath != "" {
			t.Errorf("%s: state %d, path %q", form, e.State, ns.NetNsPath)
		}
		for _, a := range []string{pod.v4 + ":80", "[" + pod.v6 + "]:80"} {
			b.reaches(host, a)
		}
		for _, c := range e.IpConfigurations {
			a := c.IpAddress + ":80"
			if strings.Contains(c.IpAddress, ":") {
				a = "[" + c.IpAddress + "]:80"
			}
			b.reaches(pod.netns, a)
		}
		now := routes()
		for line := range strings.Lines(before) {
			if !strings.Contains(now, line) {
				t.Errorf("%s: the host's route %q is gone", form, line)
			}
		}
		if strings.Count(now, "default") != strings.Count(before, "default") {
			t.Errorf("%s: default routes are now\n%s", form, now)
		}
		if err := wire.echo(); err != nil {
			t.Errorf("%s: the stream over the uplink: %v", form, err)
		}
		// A new life of the daemon leaves it as it is; the namespace takes only vNICs along.
		b.kill9()
		b.start()
		b.reaches(host, pod.v4+":80")
		b.must("DELETE", "/namespaces/"+ns.ID, "", nil)
		eventually(t, 5*time.Second, "routes as before", func() bool { return routes() == before })
		b.unreached(host, pod.v4+":80")
		b.must("DELETE", "/endpoints/"+e.ID, "", nil)
	}
	if err := wire.echo(); err != nil {
		t.Errorf("the stream over the uplink: %v", err)
	}
}

// TestHostIsTheGateway: as flannel does with L2Bridge, whose pods' prefix is routed to
// the host: the pods' gateway is an endpoint in the host's own namespace.
//
//covers:type L2Bridge
func TestHostIsTheGateway(t *testing.T) {
	b := newDocBench(t)
	x, host := b.path(b.out), b.path(b.ns)
	b.serve(x)
	b.serve(host)
	b.mustAt(b.ns, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	b.mustAt(b.out, "ip", "route", "add", "10.79.0.0/24", "via", hostV4)
	b.mustAt(b.out, "ip", "route", "add", "fd79::/64", "via", hostV6)
	const subnet = `{"IpAddressPrefix":"%s","Flags":1,"Routes":[{"NextHop":"%s","DestinationPrefix":"%s"}]}`
	var n struct{ ID string }
	b.must("POST", "/networks", fmt.Sprintf(`{"Name":"cbr0","Type":"L2Bridge","Policies":[{"Type":"NetAdapterName","Settings":{"NetworkAdapterName":"wire"}}],"Ipams":[{"Subnets":[`+subnet+`,`+subnet+`]}]}`,
		"10.79.0.0/24", "10.79.0.2", "0.0.0.0/0", "fd79::/64", "fd79::2", "::/0"), &n)
	t.Cleanup(func() { b.must("DELETE", "/networks/"+n.ID, "", nil) })
	var ns struct{ ID string }
	b.must("POST", "/namespaces", `{"NamespaceId":1}`, &ns)
	b.spaces = append(b.spaces, ns.ID)
	b.must("POST", "/networks/"+n.ID+"/endpoints", fmt.Sprintf(`{"Name":"cbr0_ep","HostComputeNamespace":%q,"IpConfigurations":[{"IpAddress":"10.79.0.2"},{"IpAddress":"fd79::2"}]}`, ns.ID), nil)
	b.network = n.ID
	pod := b.machine("pod")
	for what, way := range map[string][2]string{
		"host to pod": {host, pod.v4 + ":80"}, "host to pod by IPv6": {host, "[" + pod.v6 + "]:80"},
		"pod to host": {pod.netns, "10.79.0.2:80"}, "pod to host by IPv6": {pod.netns, "[fd79::2]:80"},
		"pod to outside": {pod.netns, outV4 + ":80"}, "pod to outside by IPv6": {pod.netns, "[" + outV6 + "]:80"},
		"outside to pod": {x, pod.v4 + ":80"}, "outside to pod by IPv6": {x, "[" + pod.v6 + "]:80"},
	} {
		a, err := ask(way[0], way[1])
		if err != nil {
			t.Errorf("%s: %v", what, err)
		} else if strings.HasPrefix(what, "pod to outside") && !strings.Contains(a.client, pod.v4) && !strings.Contains(a.client, pod.v6) {
			t.Errorf("%s: seen as %s", what, a.client)
		}
	}
}
