// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"fmt"
	"strings"
	"testing"
)

// changeLimits sets limits of a port, now and then without their devices.
func (w *world) changeLimits(n byte) {
	if len(w.s.Ports) == 0 {
		return
	}
	p := &w.s.Ports[int(n/8)%len(w.s.Ports)]
	if p.Kind == PortHost && n%16 != 0 {
		return
	}
	switch n % 8 {
	case 0, 1:
		p.IngressBps = uint64(n) * 1000
	case 2, 3, 4:
		p.EgressBps, p.Shaper, p.ShaperPeer = uint64(1+n)*1000, fmt.Sprintf("near%d", p.ID), fmt.Sprintf("far%d", p.ID)
		w.f.Ifindex[p.Shaper], w.f.Ifindex[p.ShaperPeer] = 10000+int(p.ID), 20000+int(p.ID)
		if n%3 == 0 {
			delete(w.f.Ifindex, p.ShaperPeer)
		}
	case 5:
		p.EgressBps, p.Shaper, p.ShaperPeer = 0, "", ""
	case 6:
		p.PPS = uint32(n)
	case 7:
		p.Class, p.MaxFlows = uint16(n), uint32(n)
	}
}

func TestInvalidLimits(t *testing.T) {
	for _, c := range []struct {
		name, want string
		change     func(*Port, *Facts)
	}{
		{"no shaper", `Shaper "" and ShaperPeer "": EgressBps needs both`, func(p *Port, _ *Facts) { p.Shaper, p.ShaperPeer = "", "" }},
		{"half a shaper", "EgressBps needs both", func(p *Port, _ *Facts) { p.ShaperPeer = "" }},
		{"shaper for nothing", "are for a port with EgressBps", func(p *Port, _ *Facts) { p.EgressBps = 0 }},
		{"slow", "EgressBps 10: at least 1000", func(p *Port, _ *Facts) { p.EgressBps = 10 }},
		{"slow in", "IngressBps 10: at least 1000", func(p *Port, _ *Facts) { p.IngressBps = 10 }},
		{"one device", "must be a device of its own", func(p *Port, f *Facts) { f.Ifindex["near"] = f.Ifindex["far"] }},
		{"the port's device", "must be a device of its own", func(p *Port, f *Facts) { f.Ifindex["near"] = f.Ifindex[p.Interface] }},
		{"far is a port", "its ifindex 101 is also that of port 1", func(p *Port, f *Facts) { f.Ifindex["far"] = 101 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := testFacts()
			s := State{Networks: []Network{testNetwork(1)}, Ports: []Port{testHostPort(1, f), testPort(10, 1, f)}}
			p := &s.Ports[1]
			p.EgressBps, p.Shaper, p.ShaperPeer = 1e6, "near", "far"
			f.Ifindex["near"], f.Ifindex["far"] = 3001, 3002
			if _, err := Compile(s, f); err != nil {
				t.Fatalf("the State before the change: %v", err)
			}
			c.change(p, &f)
			if _, err := Compile(s, f); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
	f := testFacts()
	s := State{Networks: []Network{testNetwork(1)}, Ports: []Port{testHostPort(1, f)}}
	s.Ports[0].PPS = 5
	if _, err := Compile(s, f); err == nil || !strings.Contains(err.Error(), "are for endpoints") {
		t.Errorf("limits of the host: %v", err)
	}
}
