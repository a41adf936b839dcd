// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// trunkState is a trunk, port 10, whose VLANs 5 and 6 are ports 11 and 12.
func trunkState() (State, Facts) {
	f := testFacts()
	var s State
	for id := range NetworkID(3) {
		n := testNetwork(id + 1)
		n.Flags, n.HostPort, n.Uplink, n.VLAN = NetL2|NetARPPass|NetFlood, 0, "eth0", uint16(id)
		s.Networks = append(s.Networks, n)
		p := testPort(PortID(10+id), id+1, f)
		if id > 0 {
			p.Trunk, p.VLAN, p.Interface = 10, uint16(4+id), ""
		}
		s.Ports = append(s.Ports, p)
	}
	return s, f
}

func TestInvalidTrunk(t *testing.T) {
	for _, c := range []struct {
		name, want string
		change     func(p []Port)
	}{
		{"no such trunk", "Trunk 99: no such port", func(p []Port) { p[1].Trunk = 99 }},
		{"trunk of a trunk", "Trunk 10: others name this port as theirs", func(p []Port) { p[2].Trunk = 11 }},
		{"itself", "Trunk 11: no such port", func(p []Port) { p[1].Trunk = 11 }},
		{"no tag", "VLAN 0: tags are 1 to 4094", func(p []Port) { p[1].VLAN = 0 }},
		{"large tag", "VLAN 4095: tags are 1 to 4094", func(p []Port) { p[1].VLAN = 4095 }},
		{"tag twice", "VLAN 5: is also that of port 11 of trunk 10", func(p []Port) { p[2].VLAN = 5 }},
		{"tag of no trunk", "VLAN 5: is that of a port of a Trunk", func(p []Port) { p[0].VLAN = 5 }},
		{"a device", `Interface "x": is that of trunk 10; leave it empty`, func(p []Port) { p[1].Interface = "x" }},
		{"another kind", "Kind vm: trunk 10 is of kind container", func(p []Port) { p[1].Kind = PortVM }},
		{"rates", "IngressBps, EgressBps, PPS: are the trunk's", func(p []Port) { p[1].PPS = 7 }},
		{"tagged only, one VLAN", "TaggedOnly: is for the trunk itself", func(p []Port) { p[1].TaggedOnly = true }},
		{"tagged only, addresses", "Addrs: a trunk with TaggedOnly gets nothing", func(p []Port) { p[0].TaggedOnly = true }},
		{"copies", "Mirror 11: takes frames with a tag only", func(p []Port) { p[0].Mirror = 11 }},
		{"mac of a neighbour", "MAC 02:02:00:00:00:0b: is also that of port 11", func(p []Port) { p[2].Network, p[2].MAC = 2, p[1].MAC }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, f := trunkState()
			if _, err := Compile(s, f); err != nil {
				t.Fatalf("the State before the change: %v", err)
			}
			c.change(s.Ports)
			_, err := Compile(s, f)
			if err == nil || !strings.Contains(err.Error(), c.want) || !errdefs.IsInvalidArgument(err) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

// The VLANs of a trunk are open while it is, and follow its device and queue.
func TestTrunkLeads(t *testing.T) {
	s, f := trunkState()
	var c Compiler
	row := func(id PortID) PortRow {
		t.Helper()
		tables, err := c.Compile(s, f)
		if err != nil {
			t.Fatal(err)
		}
		r, _ := tables.Port(id)
		return r
	}
	if r := row(11); r.Flags&portUp == 0 || r.Vlan != 5 || r.Ifindex != row(10).Ifindex {
		t.Errorf("VLAN 5 of an open trunk: %+v", r)
	}
	s.Ports[0].IngressBps = 1e6
	if r := row(11); r.Flags&portNoPeer == 0 {
		t.Errorf("behind the trunk's queue: %+v", r)
	}
	s.Ports[0].Up = false
	if r := row(11); r.Flags&portUp != 0 {
		t.Errorf("of a closed trunk: %+v", r)
	}
	s.Ports[0].Up = true
	delete(f.Ifindex, s.Ports[0].Interface)
	if r := row(12); r.Flags&portUp != 0 || r.Ifindex != 0 {
		t.Errorf("of a trunk without its device: %+v", r)
	}
}
