// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/hcn"
)

// dhcpServer runs busybox's DHCP server on the machine outside, which lends seconds at
// a time; the function ends it.
func (h *host) dhcpServer(pool string, seconds int, more ...string) func() {
	h.t.Helper()
	dir := h.t.TempDir()
	conf := filepath.Join(dir, "conf")
	from, to, _ := strings.Cut(pool, "-")
	lines := append([]string{"start " + from, "end " + to, "interface br0", "min_lease 1", "lease_file " + filepath.Join(dir, "leases"), "pidfile " + filepath.Join(dir, "pid"),
		fmt.Sprintf("opt lease %d", seconds), "opt subnet 255.255.255.0", "opt dns 192.0.2.53", "opt domain lan.test"}, more...)
	for name, body := range map[string]string{conf: strings.Join(lines, "\n") + "\n", filepath.Join(dir, "leases"): ""} {
		if err := os.WriteFile(name, []byte(body), 0o600); err != nil {
			h.t.Fatal(err)
		}
	}
	c := exec.Command("nsenter", "--net=/run/netns/"+h.out, "udhcpd", "-f", "-a", "100", conf)
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	ended := false
	end := func() {
		if !ended {
			ended = true
			_ = c.Process.Kill()
			_ = c.Wait()
		}
	}
	h.t.Cleanup(end)
	return end
}

// endpointOf is the document of a container's endpoint.
func (h *host) endpointOf(network string) hcn.HostComputeEndpoint {
	h.t.Helper()
	var all []hcn.HostComputeEndpoint
	if err := json.Unmarshal([]byte(h.gh("endpoint", "ls", "--network", network, "-o", "json")), &all); err != nil || len(all) != 1 {
		h.t.Fatalf("endpoints of %s: %v, %v", network, all, err)
	}
	return all[0]
}

// within waits until f returns "", for a while.
func (h *host) within(limit time.Duration, what string, f func() string) {
	h.t.Helper()
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		why := f()
		if why == "" {
			return
		}
		if time.Since(begin) > limit {
			h.t.Fatalf("%s: %s\n%s", what, why, h.logs())
		}
	}
}

// TestDHCPLease: endpoints on the wire are lent their addresses by a DHCP server there.
// What it says is in the document, the vNIC and the container; it is extended, outlives
// the daemon, is not ended by another server's word, ends with its time, and is given
// back.
//
//covers:type Transparent L2Bridge
func TestDHCPLease(t *testing.T) {
	if _, err := exec.LookPath("udhcpd"); err != nil {
		t.Skip("needs a DHCP server: udhcpd")
	}
	for _, typ := range []string{"transparent", "l2bridge"} {
		t.Run(typ, func(t *testing.T) {
			h := newHost(t)
			h.segment()
			h.start()
			h.background(h.out, h.hello, "serve")
			h.gh("network", "create", "seg", "--type", typ, "--uplink", "wire", "--subnet", "dhcp", "--subnet", "2001:db8:100::/64", "--gateway", outV6)
			const lasts = 3
			end := h.dhcpServer("198.51.100.50-198.51.100.51", lasts, "opt mtu 1400", "opt staticroutes 203.0.113.0/24 198.51.100.9, 0.0.0.0/0 "+outV4)
			h.gh("run", "-d", "--name", "a", "--network", "seg", image)
			begin := time.Now()
			e := h.endpointOf("seg")
			a4, a6 := h.addrs("a")
			if !strings.HasPrefix(a4, "198.51.100.5") || e.IpConfigurations[0].PrefixLength != 24 || len(e.Routes) != 3 || e.Dns.Domain != "lan.test" || a6 == "" {
				t.Errorf("lent %+v", e)
			}
			netns := h.netnsOf("a")
			in := func(words ...string) string {
				t.Helper()
				out, err := h.run(netns, words...)
				if err != nil {
					t.Fatal(err)
				}
				return out
			}
			for what, want := range map[string]string{
				in("ip", "addr", "show", "dev", "eth0"):                a4 + "/24",
				in("ip", "link", "show", "dev", "eth0"):                "mtu 1400",
				in("ip", "route"):                                      "203.0.113.0/24 via 198.51.100.9",
				h.gh("exec", "a", "/hello", "cat", "/etc/resolv.conf"): "nameserver 192.0.2.53\n",
			} {
				if !strings.Contains(what, want) {
					t.Errorf("no %q in\n%s", want, what)
				}
			}
			works := func(addr string) string {
				if out, err := h.at(h.out, h.hello, "get", "-t", "1", "http://"+addr+"/"); err != nil {
					return out + err.Error()
				}
				if _, err := h.run(netns, h.hello, "get", "-t", "1", "http://"+outV4+"/"); err != nil {
					return "to the outside: " + err.Error()
				}
				return ""
			}
			must := func(when string) {
				t.Helper()
				if why := works(a4); why != "" {
					t.Errorf("%s: %s", when, why)
				}
			}
			must("at first")

			// Another daemon confirms the lease; a second server, which knows nothing of
			// it, says that there is none.
			h.kill9()
			must("without a daemon")
			for _, line := range []string{"link add rival type veth peer name rival1", "link set rival1 master br0 up", "addr add 198.51.100.3/32 dev rival", "link set rival up"} {
				h.must("ip", append([]string{"-n", h.out}, strings.Fields(line)...)...)
			}
			endRival := h.dhcpServer("198.51.100.100-198.51.100.100", lasts, "interface rival")
			h.start()
			must("with another daemon")
			time.Sleep(time.Until(begin.Add((lasts + 1) * time.Second)))
			must("when the first lease had ended")
			if got := h.endpointOf("seg").IpConfigurations[0].IpAddress; got != a4 {
				t.Errorf("it has %s now, and had %s", got, a4)
			}

			if typ == "transparent" { // what ends a lease does not depend on the type
				h.leaseEnds(netns, a4, works, func() { end(); endRival() })
			}
			h.gh("rm", "-f", "a")
			// The server may have one address left: what was lent must have been given back.
			end()
			endRival()
			h.dhcpServer("198.51.100.60-198.51.100.60", 3600, "opt router "+outV4)
			for _, name := range []string{"b", "c"} {
				h.gh("run", "-d", "--name", name, "--network", "seg", image)
				if got, _ := h.addrs(name); got != "198.51.100.60" {
					t.Errorf("%s is lent %s", name, got)
				}
				h.gh("rm", "-f", name)
			}
			h.gh("network", "rm", "seg")
			h.noLeaks()
		})
	}
}

// leaseEnds: without a server the lease ends, and nobody uses its address any more;
// another server lends another one.
func (h *host) leaseEnds(netns, a4 string, works func(addr string) string, end func()) {
	h.t.Helper()
	end()
	h.within(8*time.Second, "the lease does not end", func() string {
		if got := h.endpointOf("seg").IpConfigurations; len(got) != 1 {
			return fmt.Sprint(got)
		}
		return ""
	})
	if _, err := h.run(netns, "ip", "addr", "replace", a4+"/24", "dev", "eth0"); err != nil {
		h.t.Fatal(err)
	}
	if why := works(a4); why == "" {
		h.t.Error("an address that is not lent any more is used")
	}
	if _, err := h.run(netns, h.hello, "get", "-t", "2", "http://["+outV6+"]/"); err != nil {
		h.t.Errorf("IPv6 without a lease: %v", err)
	}
	defer h.dhcpServer("198.51.100.70-198.51.100.70", 3600, "opt router "+outV4)()
	h.within(8*time.Second, "no lease of another server", func() string { return works("198.51.100.70") })
}
