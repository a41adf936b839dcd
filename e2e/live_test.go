// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/hcn"
)

// TestLiveChange: published ports, rules, rates, vNICs and addresses of a running
// container change while a stream to it goes on.
func TestLiveChange(t *testing.T) {
	b := newDocBench(t)
	x := b.path(b.out)
	b.gh("run", "-d", "--name", "web", "-p", "7007:7", image)
	web, netns := b.idOf("endpoints", "web"), b.netnsOf("web")
	eventually(t, 5*time.Second, "the container's server", func() bool {
		c, err := dialIn(x, hostV4+":7007")
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	s := b.stream(x, hostV4+":7007", "")
	goesOn := func(what string) {
		t.Helper()
		if err := s.echo(); err != nil {
			t.Fatalf("the stream after %s: %v", what, err)
		}
	}
	policy := func(verb, typ, settings string) {
		t.Helper()
		b.must("POST", "/endpoints/"+web+"/modify", fmt.Sprintf(`{"ResourceType":"Policy","RequestType":%q,"Settings":{"Policies":[{"Type":%q,"Settings":%s}]}}`, verb, typ, settings), nil)
		goesOn(verb + " " + typ)
	}
	const published, acl = `{"Protocol":6,"InternalPort":80,"ExternalPort":8080}`, `{"Protocols":"6","Action":"Block","Direction":"In","LocalPorts":"80","Priority":200}`
	b.unreached(x, hostV4+":8080")
	policy("Add", "PortMapping", published)
	b.reaches(x, hostV4+":8080")
	policy("Add", "ACL", acl)
	b.unreached(x, hostV4+":8080")
	policy("Remove", "ACL", acl)
	b.reaches(x, hostV4+":8080")
	policy("Add", "QOS", `{"MaximumOutgoingBandwidthInBytes":200000}`)
	policy("Update", "QOS", `{"MaximumOutgoingBandwidthInBytes":400000}`)
	policy("Remove", "QOS", `{}`)
	policy("Remove", "PortMapping", published)
	b.unreached(x, hostV4+":8080")

	// Another vNIC on another network, named by the container; its addresses serve at once.
	near := b.machine("near")
	b.unreached(near.netns, "10.77.0.70:80")
	b.must("POST", "/networks/"+b.network+"/endpoints", `{"Name":"more","IpConfigurations":[{"IpAddress":"10.77.0.70"},{"IpAddress":"fd77::70"}]}`, nil)
	links := func() string {
		t.Helper()
		out, err := b.run(netns, "ip", "-o", "addr")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	b.refused(1, "neither a namespace nor a container with a network", "endpoint", "attach", "more", "nobody")
	for _, daemon := range []string{"same", "next"} {
		b.gh("endpoint", "attach", "more", "web")
		goesOn("attach")
		if out := links(); !strings.Contains(out, "eth1") || !strings.Contains(out, "10.77.0.70/24") || !strings.Contains(out, "fd77::70/64") {
			t.Errorf("inside:\n%s", out)
		}
		for _, a := range []string{"10.77.0.70:80", "[fd77::70]:80"} {
			eventually(t, 10*time.Second, a+" from its network", func() bool { // whose neighbours may have given up on it
				_, err := ask(near.netns, a)
				return err == nil
			})
		}
		if daemon == "same" {
			b.kill9()
			b.start()
			goesOn("a new life of the daemon")
			b.reaches(near.netns, "10.77.0.70:80")
		}
		b.gh("endpoint", "detach", "more", "web")
		goesOn("detach")
		eventually(t, 5*time.Second, "the vNIC's end", func() bool { return !strings.Contains(links(), "eth1") })
		b.unreached(near.netns, "10.77.0.70:80")
	}
	// Another address: another endpoint in its place.
	b.must("POST", "/networks/"+b.network+"/endpoints", `{"Name":"again","IpConfigurations":[{"IpAddress":"10.77.0.71"}]}`, nil)
	b.gh("endpoint", "attach", "again", "web")
	goesOn("another address")
	b.reaches(near.netns, "10.77.0.71:80")

	// The container goes, and takes only what was made for it.
	b.gh("rm", "-f", "web")
	var e struct {
		State                uint16
		HostComputeNamespace string
	}
	eventually(t, 5*time.Second, "the container's end", func() bool {
		return hcn.IsEndpointNotFoundError(b.call("GET", "/endpoints/"+web, "", nil))
	})
	if b.must("GET", "/endpoints/name:again", "", &e); e.State != 4 || e.HostComputeNamespace != "" {
		t.Errorf("left over: %+v", e)
	}
}
