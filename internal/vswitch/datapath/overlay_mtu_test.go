// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/nettest"
)

// TestOverlayNarrower: the way between two hosts becomes narrow in the middle of
// conversations, and a router on it says so.
func TestOverlayNarrower(t *testing.T) {
	for _, six := range []bool{false, true} {
		t.Run(map[bool]string{false: "over IPv4", true: "over IPv6"}[six], func(t *testing.T) {
			wire := newWire(t)
			n1, n2 := newNode(t, wire, 1, blueSubnets()...), newNode(t, wire, 2, blueSubnets()...)
			a, _ := n1.container(0, 11)
			c, cAddrs := n2.container(0, 12)
			n1.knows(six, n2)
			n2.knows(six, n1)
			// The first host's way to the second is by a router.
			router := nettest.NewNS(t)
			plug(t, wire, router, 77)
			router.Exec("sh", "-ec", "cd /proc/sys/net; echo 1 > ipv4/ip_forward; echo 1 > ipv6/conf/all/forwarding; echo 0 > ipv4/conf/all/send_redirects; echo 0 > ipv4/conf/up0/send_redirects")
			n1.ns.Exec("sh", "-ec", "cd /proc/sys/net; echo 0 > ipv6/conf/up0/accept_redirects; echo 0 > ipv4/conf/up0/accept_redirects")
			end, via, overhead := n2.vtep(six), "192.0.2.77", 50
			if six {
				via, overhead = "2001:db8::4d", 70
			}
			n1.ns.Route(netip.PrefixFrom(end, end.BitLen()).String(), via, "up0")
			n1.apply()
			n2.apply()

			var live []*client
			for i, at := range cAddrs {
				c, err := dialSink(t, a, c, netip.AddrPortFrom(at, uint16(2000+i)))
				if err != nil {
					t.Fatal(err)
				}
				live = append(live, c)
			}
			for _, narrow := range []int{1400, 1360, 1300} {
				if six && narrow < 1280+overhead {
					break // IPv6 inside has a right to 1280, and IPv6 outside is not cut
				}
				for i, at := range cAddrs {
					// It runs at full width before, and goes on.
					if err := live[i].pour(256 << 10); err != nil {
						t.Fatalf("%v before it is %d wide: %v", at, narrow, err)
					}
				}
				router.Exec("ip", "route", "replace", netip.PrefixFrom(end, end.BitLen()).String(), "dev", "up0", "mtu", "lock", fmt.Sprint(narrow))
				for i, at := range cAddrs {
					if err := live[i].pour(256 << 10); err != nil {
						t.Errorf("%v when it is %d wide: %v", at, narrow, err)
					}
					want := narrow - overhead
					if at.Is6() {
						want = max(want, 1280)
					}
					if got := a.Exec("ip", "route", "get", at.String()); !strings.Contains(got, fmt.Sprintf("mtu %d", want)) {
						t.Errorf("path MTU to %v: %s, want %d", at, got, want)
					}
				}
			}
		})
	}
}

// dialSink opens a connection to a socket that counts what it gets.
func dialSink(t *testing.T, from, to *nettest.NS, at netip.AddrPort) (*client, error) {
	ln := to.Listen(at.String())
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		for n, b := 0, make([]byte, 64<<10); ; {
			k, err := c.Read(b)
			if err != nil {
				return
			}
			if n += k; n%(256<<10) == 0 {
				_, _ = io.WriteString(c, "all\n")
			}
		}
	}()
	return dial(t, from, "tcp", at.String())
}

// pour sends size bytes, a multiple of 256 KiB, and waits until all have arrived.
func (c *client) pour(size int) error {
	if err := c.SetDeadline(time.Now().Add(2 * answer)); err != nil {
		return err
	}
	if _, err := c.Write(make([]byte, size)); err != nil {
		return err
	}
	_, err := c.r.ReadString('\n')
	return err
}
