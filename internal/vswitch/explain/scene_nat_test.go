// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// shape limits what an endpoint sends; its packets come in by the device returned.
func (l *lab) shape(p *vswitch.Port, i int) string {
	p.EgressBps, p.Shaper, p.ShaperPeer = 1e6, shaperDev(i), shaperDev(i)+".p"
	return p.ShaperPeer
}

// pools gives some networks and endpoints NAT pools, exceptions and destinations.
func (s *scene) pools(r *rand.Rand) {
	s.state.NATPools = nil
	for id := range vswitch.NATPoolID(1 + r.IntN(3)) {
		p := vswitch.NATPool{ID: id + 1}
		for i := range r.IntN(4) {
			p.Addrs = append(p.Addrs, netip.AddrFrom4([4]byte{203, 0, 113, byte(100 + 10*int(id) + i)}))
		}
		for i := range r.IntN(4) {
			p.Addrs = append(p.Addrs, netip.MustParseAddr(fmt.Sprintf("2001:db8:9::%d:%d", id, i)))
		}
		if len(p.Addrs) == 0 {
			p.Addrs = append(p.Addrs, netip.AddrFrom4([4]byte{10, 0, 0, 4})) // an uplink's
		}
		if one(r, 3) {
			p.PortLow, p.PortHigh = 20000, uint16(20000+r.IntN(3))
		}
		s.state.NATPools = append(s.state.NATPools, p)
		s.addrs = append(s.addrs, p.Addrs...)
	}
	some := func() vswitch.NATPoolID {
		if one(r, 2) {
			return 0
		}
		return pickOf(r, s.state.NATPools).ID
	}
	for i := range s.state.Networks {
		n := &s.state.Networks[i]
		n.NATPool, n.NATExceptions, n.NATDestinations = some(), nil, nil
		for _, p := range []string{"203.0.113.0/24", "8.0.0.0/8", "8.8.0.0/16", "192.168.0.0/16", "10.0.0.0/8", "2001:db8::/32", "2001:db8:1::/48", "fd00::/8"} {
			switch prefix := netip.MustParsePrefix(p); r.IntN(12) {
			case 0, 1:
				n.NATExceptions = append(n.NATExceptions, prefix)
			case 2:
				n.NATDestinations = append(n.NATDestinations, prefix)
			}
		}
		if one(r, 2) {
			n.NATDestinations = slices.Clip(n.NATDestinations[:0])
		}
	}
	for i := range s.state.Ports {
		if p := &s.state.Ports[i]; p.Kind != vswitch.PortHost {
			p.NATPool, p.MaxFlows, p.IngressBps, p.Class, p.NATShare = 0, 0, 0, 0, 0
			if one(r, 3) {
				p.NATShare = pickOf(r, []uint8{1, 50, 99, 100})
			}
			if one(r, 4) && p.Trunk == 0 {
				p.IngressBps = 1e6
			}
			if one(r, 3) {
				p.Class = uint16(r.IntN(100))
			}
			if one(r, 8) {
				p.MaxFlows = uint32(1 + r.IntN(20))
			}
			if one(r, 4) {
				p.NATPool = some()
			}
			p.NAT = nil
			if n := s.network(p.Network); one(r, 3) && (n.Flags&vswitch.NetL2 == 0 || n.Uplink != "") {
				for _, prefix := range []string{"0.0.0.0/0", "::/0", "203.0.113.0/24", "8.8.0.0/16", "10.0.0.0/8", "2001:db8:1::/48"} {
					if one(r, 2) {
						continue
					}
					rule := vswitch.NATRule{Prefix: netip.MustParsePrefix(prefix), Own: one(r, 3)}
					if !rule.Own {
						rule.Pool = some()
					}
					p.NAT = append(p.NAT, rule)
				}
			}
		}
	}
}

func (s *scene) network(id vswitch.NetworkID) *vswitch.Network {
	i := slices.IndexFunc(s.state.Networks, func(n vswitch.Network) bool { return n.ID == id })
	return &s.state.Networks[i]
}

// mark counts what the outcome of a packet does not tell.
func (t *traffic) mark(tr Trace) {
	if t.seen == nil || tr.Verdict != Forward {
		return
	}
	if tr.Raw.Priority != 0 {
		t.seen["class"]++
	}
	if q := t.rows.Port[uint32(tr.Out)]; q.Kind == uint8(vswitch.PortContainer) && tr.Raw.OutKind == bpf.SwitchGhOutKindGH_OUT_EGRESS {
		t.seen["past a queue"]++
	}
	if t.rows.Port[uint32(tr.In)].Shaper != 0 {
		t.seen["from a shaper"]++
	}
	if t.rows.Port[uint32(tr.In)].Kind == uint8(vswitch.PortUplink) && tr.Flow == "hit" && t.rows.Net[uint32(t.rows.Port[uint32(tr.Out)].Net)].Flags&(netL2|netSNAT) == netL2|netSNAT {
		t.seen["answer to nat by MAC"]++
	}
	for _, s := range tr.Steps {
		var entry int
		if strings.Contains(s.Reason, "is reached by") && t.rows.Net[uint32(t.rows.Port[uint32(tr.In)].Net)].Flags&netL2 != 0 {
			t.seen["a router by MAC, kind "+strconv.Itoa(int(t.rows.Port[uint32(tr.Out)].Kind))]++
		}
		if own := t.rows.Port[uint32(tr.In)]; strings.Contains(s.Reason, "an address that the route names") {
			t.seen["nat of a route"]++
			if t.rows.Net[uint32(own.Net)].Flags&netSNAT == 0 {
				t.seen["nat of a route alone"]++
			}
		}
		if _, err := fmt.Sscanf(s.Rule, "natpool %d", &entry); err == nil && entry >= 256 {
			t.seen["nat pool"]++
			if t.rows.Net[uint32(t.rows.Port[uint32(tr.In)].Net)].Flags&netL2 != 0 {
				t.seen["nat pool by MAC"]++
			}
			if entry%8 != 0 {
				t.seen["second address of a pool"]++
			}
		}
		if s.Layer == layerName(layNAT) && s.Verdict == "pass" && t.rows.Port[uint32(tr.Out)].Kind == uint8(vswitch.PortUplink) {
			t.seen["no nat"]++
		}
	}
}
