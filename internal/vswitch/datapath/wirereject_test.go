// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/nettest"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// TestWireRejects: who asks by a wire hears that he is refused, in his VLAN; so
// does the host behind the uplink, whose questions are turned round there.
func TestWireRejects(t *testing.T) {
	const transparent = vswitch.NetL2 | vswitch.NetARPPass | vswitch.NetFlood
	const bridged = vswitch.NetL2 | vswitch.NetMACRewrite | vswitch.NetFlood
	for name, n := range map[string]vswitch.Network{
		"transparent":           {Flags: transparent, Uplink: "up"},
		"transparent on a VLAN": {Flags: transparent, Uplink: "up", VLAN: 7},
		"l2bridge":              {Flags: bridged, Uplink: "up"},
		"l2bridge on a VLAN":    {Flags: bridged, Uplink: "up", VLAN: 7},
		"l2tunnel":              {Flags: bridged | vswitch.NetNoLocal, Uplink: "up"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFabric(t, n)
			a, b := f.hosts[0], f.hosts[1]
			if n.Flags&vswitch.NetNoLocal == 0 {
				f.ns.Exec("bridge", "link", "set", "dev", "host0", "hairpin", "off") // it must not mend what went the wrong way
			}
			a.container(11)
			neighbour, elsewhere := a.container(12), b.container(21)
			a.s.ACLs = []vswitch.ACLSet{{ID: 1, Name: "closed", DefaultIn: vswitch.ACLReject}}
			a.s.Ports[0].ACLs = []vswitch.ACLID{1}
			a.apply()
			b.apply()
			asks := map[string]*nettest.NS{"a neighbour": neighbour, "an endpoint elsewhere": elsewhere}
			if n.VLAN == 0 {
				asks["the other machine"], asks["the other host"], asks["the host"] = f.other, b.ns, a.ns
			}
			for _, c := range []struct {
				network, to string
				want        error
			}{ // ICMP first, of which there are ten a second
				{"udp", "10.9.0.11:7", unix.EHOSTUNREACH}, {"udp", "[fd09::b]:7", unix.EACCES},
				{"tcp", "10.9.0.11:7", unix.ECONNREFUSED}, {"tcp", "[fd09::b]:7", unix.ECONNREFUSED},
			} {
				for who, ns := range asks {
					if err := ns.Ask(c.network, c.to, "hello", answer); !errors.Is(err, c.want) {
						t.Errorf("%s, %s %s: %v, want %v", who, c.network, c.to, err, c.want)
					}
				}
			}
		})
	}
}
