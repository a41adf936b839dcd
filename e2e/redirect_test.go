// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/nettest"
)

// through does one HTTP request from a namespace and tells what a proxy says of it, and
// what the server: where it was asked.
func through(netns, addr string) (proxy, asked string, err error) {
	c, err := dialIn(netns, addr)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return "", "", err
	}
	for s := bufio.NewScanner(c); s.Scan(); {
		word, rest, _ := strings.Cut(s.Text(), " ")
		switch word {
		case "proxy":
			proxy = rest
		case "asked":
			asked = strings.TrimSpace(rest)
		}
	}
	return proxy, asked, nil
}

// TestProxyInside: a proxy in the endpoint's own namespace gets what begins and ends
// there and hears where it was to go; not what is excepted, nor what its user begins.
// That outlives the daemon and ends with the policy, with a container and without.
//
//covers:endpoint L4WFPPROXY
func TestProxyInside(t *testing.T) {
	h := newHost(t)
	if err := os.WriteFile(filepath.Join(h.root, "config.toml"), []byte("[network.users]\n\"S-1-5-32-556\" = 1337\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	b := docBenchOn(t, h)
	x := b.path(b.out)
	b.serve(x)
	h.gh("run", "-d", "--name", "c", image)
	c4, c6 := h.addrs("c")
	contained := machine{h.idOf("endpoints", "c"), h.netnsOf("c"), c4, c6}
	peer := b.machine("peer")
	for _, c := range []struct {
		user    string
		m, peer machine
	}{{"uid:1337", b.machine("m"), peer}, {"S-1-5-32-556", contained, machine{}}} {
		nettest.Proxy(t, c.m.netns, 1337, 15001, 15006)
		asks := func(netns, addr, port string, proxied bool) {
			t.Helper()
			to, want := net.JoinHostPort(addr, port), ""
			if proxied {
				want = to
			}
			proxy, asked, err := through(netns, to)
			if err != nil || proxy != want || asked != to {
				t.Errorf("%s from %s: proxy %q, asked %q, %v", to, netns, proxy, asked, err)
			}
		}
		all := func(out, in bool) {
			t.Helper()
			asks(c.m.netns, outV4, "80", out)
			asks(c.m.netns, outV6, "80", out)
			if c.peer.netns != "" {
				asks(c.m.netns, c.peer.v4, "80", out)
				asks(c.peer.netns, c.m.v4, "80", in)
				asks(c.peer.netns, c.m.v6, "80", in)
			}
		}
		modify := func(verb, settings string) {
			t.Helper()
			b.must("POST", "/endpoints/"+c.m.id+"/modify", fmt.Sprintf(`{"ResourceType":"Policy","RequestType":%q,"Settings":{"Policies":[{"Type":"L4WFPPROXY","Settings":%s}]}}`, verb, settings), nil)
		}
		all(false, false)
		modify("Add", fmt.Sprintf(`{"InboundProxyPort":"15006","OutboundProxyPort":"15001","UserSID":%q}`, c.user))
		all(true, true)
		// The proxy's own way to the server is the user's; and this is no TCP.
		if out, err := b.inside(c.m, "udp", net.JoinHostPort(outV4, "7"), "ahoy"); err != nil || !strings.Contains(out, "ahoy") {
			t.Errorf("UDP: %v, %s", err, out)
		}
		b.kill9()
		all(true, true)
		b.start()
		all(true, true)
		modify("Update", fmt.Sprintf(`{"OutboundProxyPort":"15001","UserSID":%q,"OutboundExceptions":{"IpAddressExceptions":["2001:db8:100::/64"],"PortExceptions":["7"]}}`, c.user))
		asks(c.m.netns, outV4, "80", true)
		asks(c.m.netns, outV6, "80", false)
		if s, err := dialIn(c.m.netns, net.JoinHostPort(outV4, "7")); err != nil {
			t.Errorf("a port that is excepted: %v", err)
		} else {
			if err := (&stream{c: s}).echo(); err != nil {
				t.Errorf("a port that is excepted: %v", err)
			}
			s.Close()
		}
		modify("Remove", "null")
		all(false, false)
	}
	b.refusedBy(hcn.HCN_E_INVALID_POLICY, "POST", "/networks/"+b.network+"/endpoints", `{"Policies":[{"Type":"L4WFPPROXY","Settings":{"OutboundProxyPort":"15001","UserSID":"S-1-5-18"}}]}`)
	h.gh("rm", "-f", "c")
}
