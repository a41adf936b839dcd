// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestOutboundNAT: which address the machines outside see of a container, by its
// policies, which change while it runs.
//
//covers:endpoint OutBoundNAT
func TestOutboundNAT(t *testing.T) {
	h := newHost(t)
	h.start()
	h.background(h.out, h.hello, "serve")
	const far4, far6, second4, second6 = "203.0.113.9", "2001:db8:77::9", "192.0.2.77", "2001:db8:78::77"
	for _, a := range []string{far4 + "/32", far6 + "/128"} {
		h.must("ip", "-n", h.out, "addr", "add", a, "dev", "lo")
	}
	for _, a := range []string{second4 + "/32", second6 + "/128"} {
		h.must("ip", "-n", h.ns, "addr", "add", a, "dev", "lo")
	}
	h.gh("run", "-d", "--name", "a", image)
	v4, v6 := h.addrs("a")
	for addr, via := range map[string]string{v4: hostV4, v6: hostV6, second4: hostV4, second6: hostV6} {
		h.must("ip", "-n", h.out, "route", "add", addr, "via", via)
	}
	sees := func(to, want string) {
		t.Helper()
		h.sees("a", to, "client", want)
	}
	all := func(near4, near6, away4, away6 string) {
		t.Helper()
		sees(outV4, near4)
		sees(outV6, near6)
		sees(far4, away4)
		sees(far6, away6)
	}
	all(hostV4, hostV6, hostV4, hostV6)
	exceptions := `OutBoundNAT {"Exceptions":["` + outV4 + `/24","` + outV6 + `/64"]}`
	h.policy("endpoints", "a", "Add", exceptions)
	all(v4, v6, hostV4, hostV6)
	// The first of those whose Destinations match comes before the general one.
	h.policy("endpoints", "a", "Add", `OutBoundNAT {"Destinations":["203.0.113.0/24"],"VirtualIP":"`+second4+`"}`,
		`OutBoundNAT {"Destinations":["2001:db8:77::/48"],"VirtualIP":"`+second6+`","Flags":2}`)
	all(v4, v6, second4, second6)
	h.stop()
	h.start()
	all(v4, v6, second4, second6)
	h.policy("endpoints", "a", "Update", `OutBoundNAT {"VirtualIP":"`+second4+`"}`)
	all(second4, hostV6, second4, hostV6)
	body := `{"ResourceType":"Policy","RequestType":"Add","Settings":{"Policies":[{"Type":"OutBoundNAT","Settings":{"VirtualIP":"198.51.100.200"}}]}}`
	if out, errs, code := h.tryStdin(body, "hcn", "modify", "endpoints", h.idOf("endpoints", "a")); code == 0 || !strings.Contains(errs+out, "no address of this host") {
		t.Errorf("a VirtualIP of nobody: exit %d, %s%s", code, out, errs)
	}
	h.policy("endpoints", "a", "Reset", `OutBoundNAT null`)
	all(hostV4, hostV6, hostV4, hostV6)
}

// sees asks an address from a container by HTTP and looks at what the server says of
// the conversation: the "client" that it sees, or the address at which it was "asked".
func (h *host) sees(from, to, what, want string) {
	h.t.Helper()
	out, errs, _ := h.try("exec", from, "/hello", "get", "-t", "3", "http://"+net.JoinHostPort(to, "80")+"/")
	_, got, _ := strings.Cut(out, what+" ")
	got, _, _ = strings.Cut(strings.TrimSpace(got), "\n")
	if a, err := netip.ParseAddrPort(strings.TrimSpace(got)); err != nil || a.Addr() != netip.MustParseAddr(want) {
		h.t.Errorf("%s asks %s: %s is %s, want %s; %s", from, to, what, got, want, errs)
	}
}

// TestOutboundNATOnL2Bridge: what the CNI plugins ask for. Nothing is translated
// without the policy; with it all but the fabric's prefixes shows the host's address;
// and a proxy outside is asked in its name.
//
//covers:endpoint OutBoundNAT L4Proxy
func TestOutboundNATOnL2Bridge(t *testing.T) {
	h := newHost(t)
	h.start()
	const gate4, gate6, fabric4, fabric6 = "10.77.0.1", "fd77::1", "203.0.113.9", "2001:db8:77::9"
	for _, a := range []string{gate4 + "/24", gate6 + "/64"} {
		h.must("ip", "-n", h.out, "addr", "add", a, "dev", "wire", "nodad")
	}
	for _, a := range []string{fabric4 + "/32", fabric6 + "/128"} {
		h.must("ip", "-n", h.out, "addr", "add", a, "dev", "lo")
	}
	h.background(h.out, h.hello, "serve")
	h.gh("network", "create", "seg", "--type", "l2bridge", "--uplink", "wire", "--subnet", "10.77.0.0/24", "--gateway", gate4, "--subnet", "fd77::/64", "--gateway", gate6)
	h.gh("run", "-d", "--name", "a", "--network", "seg", image)
	v4, v6 := h.addrs("a")
	all := func(near4, near6, far4, far6 string) {
		t.Helper()
		for _, x := range [][2]string{{gate4, v4}, {gate6, v6}, {fabric4, near4}, {fabric6, near6}, {outV4, far4}, {outV6, far6}} {
			h.sees("a", x[0], "client", x[1])
		}
	}
	all(v4, v6, v4, v6)
	h.policy("endpoints", "a", "Add", `OutBoundNAT {"Exceptions":["10.77.0.0/24","203.0.113.0/24","fd77::/64","2001:db8:77::/48"]}`,
		`OutBoundNAT {"Destinations":["`+v4+`"]}`)
	all(v4, v6, hostV4, hostV6)
	h.policy("endpoints", "a", "Update", `OutBoundNAT {"Destinations":["203.0.113.0/24","2001:db8:77::/48"]}`)
	all(hostV4, hostV6, v4, v6)
	h.policy("endpoints", "a", "Reset", `OutBoundNAT null`)
	all(v4, v6, v4, v6)
	h.policy("endpoints", "a", "Add", `L4Proxy {"IP":"`+outV4+`","Port":"80","Protocol":6,"Destination":"198.18.0.0/15"}`)
	h.sees("a", "198.18.0.1", "asked", outV4)
	h.sees("a", "198.18.0.1", "client", hostV4)
}

// TestL4Proxy: what a container begins is answered by a proxy on its network, as if
// by who was asked; by a policy of its own and by one of its network.
//
//covers:endpoint L4Proxy
//covers:network L4Proxy
func TestL4Proxy(t *testing.T) {
	h := newHost(t)
	h.start()
	h.background(h.out, h.hello, "serve")
	for _, name := range []string{"a", "b", "p"} {
		h.gh("run", "-d", "--name", name, image)
	}
	p4, p6 := h.addrs("p")
	// asks who answers for an address, and gets the address at which he was asked.
	asks := func(from, to, want string) {
		t.Helper()
		h.sees(from, to, "asked", want)
		// A datagram's answer is taken only from who was asked.
		h.gh("exec", from, "/hello", "udp", net.JoinHostPort(to, "7"), "x")
	}
	const nobody4, nobody6 = "203.0.113.77", "2001:db8:99::77"
	policies := func(more string) []string {
		var all []string
		for ip, but := range map[string]string{p4: outV4, p6: outV6} {
			all = append(all, `L4Proxy {"IP":"`+ip+`","Port":"80","Protocol":6,"Exceptions":["`+but+`"]`+more+`}`,
				`L4Proxy {"IP":"`+ip+`","Port":"7","Protocol":17,"ExceptionList":["`+but+`"]`+more+`}`)
		}
		return all
	}
	for _, on := range []struct{ kind, name string }{{"endpoints", "a"}, {"networks", "nat"}} {
		h.policy(on.kind, on.name, "Add", policies("")...)
		asks("a", nobody4, p4)
		asks("a", nobody6, p6)
		asks("a", outV4, outV4)
		asks("a", outV6, outV6)
		asks("p", outV4, outV4)
		if on.kind == "networks" {
			asks("b", nobody4, p4)
		} else if err := h.from("b", "get", "-t", "1", "http://"+nobody4+"/"); err == nil {
			t.Error("another container has its proxy")
		}
		h.policy(on.kind, on.name, "Remove", policies("")...)
		if err := h.from("a", "get", "-t", "1", "http://"+nobody4+"/"); err == nil {
			t.Errorf("the proxy of %s is there without a policy", on.name)
		}
	}
	if e := h.explain("a", nobody4+":80"); e.Verdict != "forward" || strings.Contains(h.gh("explain", "a", nobody4+":80"), "its proxy") {
		t.Errorf("explained as %+v", e)
	}
	h.policy("endpoints", "a", "Add", policies(`,"OutboundNAT":true`)...)
	if text := h.gh("explain", "a", nobody4+":80"); !strings.Contains(text, "its proxy at "+p4+":80") {
		t.Errorf("explained as %s", text)
	}
	if out := h.gh("exec", "a", "/hello", "get", "-t", "3", "http://"+nobody4+"/"); !strings.Contains(out, "client  169.254.") {
		t.Errorf("the proxy sees who asks: %s", out)
	}
}

// TestVNICPolicies: what policies say of a container's device, while it runs: a
// packet as large as its MTU reaches it, one byte more does not.
//
//covers:endpoint EncapOverhead InterfaceParameters PortName
func TestVNICPolicies(t *testing.T) {
	h := newHost(t)
	h.start()
	h.gh("run", "-d", "--name", "a", image)
	h.gh("run", "-d", "--name", "b", image)
	a4, a6 := h.addrs("a")
	inA, inB := h.netnsOf("a"), h.netnsOf("b")
	mtu := func(want int) {
		t.Helper()
		if out, err := h.run(inA, "ip", "link", "show", "eth0"); err != nil || !strings.Contains(out, fmt.Sprintf(" mtu %d ", want)) {
			t.Errorf("want MTU %d: %s %v", want, out, err)
		}
		for addr, headers := range map[string]int{a4: 28, a6: 48} {
			if err := whole(inB, addr, want-headers); err != nil {
				t.Errorf("%d bytes to %s: %v", want, addr, err)
			}
			if err := whole(inB, addr, want-headers+1); err == nil {
				t.Errorf("%d bytes to %s pass", want+1, addr)
			}
		}
	}
	mtu(1500)
	h.policy("endpoints", "a", "Add", `EncapOverhead {"Overhead":100}`, `PortName {"Name":"the web"}`)
	mtu(1400)
	if out := h.must("ip", "-n", h.ns, "-d", "link"); !strings.Contains(out, "alias the web\n") {
		t.Errorf("no alias: %s", out)
	}
	h.policy("endpoints", "a", "Add", `InterfaceParameters {"Mtu":1300}`)
	mtu(1300)
	h.policy("endpoints", "a", "Remove", `InterfaceParameters null`, `EncapOverhead null`)
	h.policy("endpoints", "a", "Update", `PortName {"Name":"other"}`)
	mtu(1500)
	if out := h.must("ip", "-n", h.ns, "-d", "link"); !strings.Contains(out, "alias other\n") || strings.Contains(out, "the web") {
		t.Errorf("alias: %s", out)
	}
}

// whole sends a datagram of n bytes, uncut, to the echo server at addr and waits for
// its answer.
func whole(netns, addr string, n int) error {
	_, err := within(netns, func() (int, error) {
		c, err := net.Dial("udp", net.JoinHostPort(addr, "7"))
		if err != nil {
			return 0, err
		}
		defer c.Close()
		raw, err := c.(*net.UDPConn).SyscallConn()
		if err != nil {
			return 0, err
		}
		if e := raw.Control(func(fd uintptr) {
			if strings.Contains(addr, ":") {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
			} else {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
			}
		}); e != nil || err != nil {
			return 0, fmt.Errorf("%v %v", e, err)
		}
		if _, err := c.Write(make([]byte, n)); err != nil {
			return 0, err
		}
		_ = c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		got, err := c.Read(make([]byte, 2048))
		if err == nil && got != n {
			err = fmt.Errorf("%d bytes of %d came back", got, n)
		}
		return got, err
	})
	return err
}
