// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/nettest"
)

// TestUplinkChosen: a network says by a constraint, another by the first one's layer, a
// third by an address of the host, which interface it is on, and its endpoints reach the
// machine there, known by the interface's MAC.
//
//covers:network InterfaceConstraint LayerConstraint ProviderAddress
//covers:endpoint L2Driver
func TestUplinkChosen(t *testing.T) {
	h := newHost(t)
	lab := nettest.NewNS(t)
	name := filepath.Base(lab.Path())
	for _, line := range []string{
		"-n " + h.ns + " link add side type veth peer name eth0 netns " + name,
		"-n " + h.ns + " link set side up alias lab",
		"-n " + name + " link set eth0 up",
		"-n " + name + " addr add 10.66.0.1/24 dev eth0",
		"-n " + name + " addr add fd66::1/64 dev eth0 nodad",
	} {
		h.must("ip", strings.Fields(line)...)
	}
	h.start()
	b := docBenchOn(t, h)
	b.serve(lab.Path())
	b.serve(b.path(b.out))
	network := func(name, policy, subnets string) string {
		t.Helper()
		var n struct {
			ID     string
			Health struct{ Extra struct{ LayeredOn string } }
		}
		b.must("POST", "/networks", fmt.Sprintf(`{"Name":%q,"Type":"L2Bridge","Policies":[%s],"Ipams":[{"Subnets":[%s]}]}`, name, policy, subnets), &n)
		b.network = n.ID
		return n.Health.Extra.LayeredOn
	}
	subnet := func(prefix, gateway, all string) string {
		return fmt.Sprintf(`{"IpAddressPrefix":%q,"Routes":[{"NextHop":%q,"DestinationPrefix":%q}]}`, prefix, gateway, all)
	}
	both := subnet("10.66.0.0/24", "10.66.0.1", "0.0.0.0/0") + "," + subnet("fd66::/64", "fd66::1", "::/0")
	mac := strings.Fields(h.must("ip", "-n", h.ns, "-br", "link", "show", "dev", "side"))[2]
	known := func(m machine) {
		t.Helper()
		for _, a := range []string{m.v4, m.v6} {
			if out := h.must("ip", "-n", name, "neigh", "show", a); !strings.Contains(out, mac) {
				t.Errorf("the machine there knows %s as %q, want the interface's MAC %s", a, out, mac)
			}
		}
	}

	layer := network("constrained", `{"Type":"InterfaceConstraint","Settings":{"InterfaceAlias":"lab"}}`, both)
	one := b.machine("one")
	b.must("POST", "/endpoints/"+one.id+"/modify", `{"ResourceType":"Policy","RequestType":"Add","Settings":{"Policies":[{"Type":"L2Driver","Settings":{}}]}}`, nil)
	network("layered", fmt.Sprintf(`{"Type":"LayerConstraint","Settings":{"LayerId":%q}}`, layer), both)
	two := b.machine("two")
	for _, m := range []machine{one, two} {
		b.reaches(m.netns, "10.66.0.1:80")
		b.reaches(m.netns, "[fd66::1]:80")
		b.reaches(lab.Path(), m.v4+":80")
		known(m)
	}
	b.reaches(one.netns, two.v4+":80")

	network("provided", fmt.Sprintf(`{"Type":"ProviderAddress","Settings":{"ProviderAddress":%q}}`, hostV4), subnet("198.51.100.0/24", outV4, "0.0.0.0/0")+","+subnet("2001:db8:100::/64", outV6, "::/0"))
	b.reaches(b.machine("three").netns, outV4+":80")
}

// TestAnnouncedAgain: neighbours hear of a service's addresses again when a carrier comes
// back, as where another host had taken them over meanwhile.
func TestAnnouncedAgain(t *testing.T) {
	b := newDocBench(t)
	b.stop()
	if err := os.WriteFile(filepath.Join(b.root, "config.toml"), []byte(servicesConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.machine("one")
	lb := b.service("lb", "--type", "LoadBalancer", "-p", "443:80", "-b", "one")
	t.Cleanup(func() { b.gh("service", "rm", "lb") })
	time.Sleep(3 * time.Second) // it is told of, and told no more
	set := func(state string) { b.host.must("ip", "-n", b.out, "link", "set", "wire", state) }
	set("down")
	eventually(t, 5*time.Second, "the carrier's loss", func() bool {
		return strings.Contains(b.gh("events", "--since", "1m", "--until", "0s", "-o", "json"), "carrier-lost")
	})
	set("up")
	for _, a := range lb.LoadBalancerIPs {
		b.host.must("ip", "-n", b.out, "neigh", "replace", a, "lladdr", "02:00:00:00:00:99", "dev", "wire", "nud", "stale")
	}
	mac := strings.Fields(b.host.must("ip", "-n", b.ns, "-br", "link", "show", "dev", "wire"))[2]
	for _, a := range lb.LoadBalancerIPs {
		eventually(t, 5*time.Second, a+" at its new place", func() bool { return strings.Contains(b.host.must("ip", "-n", b.out, "neigh", "show", a), mac) })
	}
}
