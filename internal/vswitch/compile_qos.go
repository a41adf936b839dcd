// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

// shaperFacts are the ifindexes of a port's shaper pair; 0 = not there, or none.
type shaperFacts struct{ near, far int }

func shaperOf(p *Port, f Facts) shaperFacts {
	if p.EgressBps == 0 {
		return shaperFacts{}
	}
	return shaperFacts{f.Ifindex[p.Shaper], f.Ifindex[p.ShaperPeer]}
}

// ready: a port whose sending is limited is closed without the pair that does it,
// like one without its device.
func (s shaperFacts) ready(p *Port) bool { return p.EgressBps == 0 || s.near != 0 && s.far != 0 }

// limits fills what the programs do of them. The rates themselves are queues.
func (m *portMemo) limits(row *PortRow) {
	p := &m.was
	if p.IngressBps != 0 {
		row.Flags |= portNoPeer // past the queue of its device
	}
	if p.EgressBps != 0 || p.PPS != 0 {
		row.Flags |= portGuard
	}
	row.Shaper, row.Pps, row.Class, row.NatShare = uint32(m.shaper.near), p.PPS, p.Class, p.NATShare
}

func sameLimits(a, b *Port) bool {
	return a.IngressBps == b.IngressBps && a.EgressBps == b.EgressBps && a.Shaper == b.Shaper && a.ShaperPeer == b.ShaperPeer &&
		a.PPS == b.PPS && a.Class == b.Class && a.NATShare == b.NATShare
}

// minRate is the least a queue can keep: at fewer bytes a second its burst, which
// must take a whole GSO packet, would last longer than a minute.
const minRate = 1000

func checkLimits(p *Port, ifindex int, s shaperFacts) error {
	limited := p.IngressBps != 0 || p.EgressBps != 0 || p.PPS != 0 || p.Class != 0 || p.NATShare != 0
	switch {
	case p.Kind == PortHost && limited:
		return invalid("IngressBps, EgressBps, PPS, Class, NATShare: are for endpoints; the host limits itself")
	case p.NATShare > 100:
		return invalid("NATShare %d: percent, at most 100", p.NATShare)
	case p.IngressBps != 0 && p.IngressBps < minRate:
		return invalid("IngressBps %d: at least %d bytes a second", p.IngressBps, minRate)
	case p.EgressBps != 0 && p.EgressBps < minRate:
		return invalid("EgressBps %d: at least %d bytes a second", p.EgressBps, minRate)
	case p.EgressBps != 0 && (p.Shaper == "" || p.ShaperPeer == ""):
		return invalid("Shaper %q and ShaperPeer %q: EgressBps needs both", p.Shaper, p.ShaperPeer)
	case p.EgressBps == 0 && (p.Shaper != "" || p.ShaperPeer != ""):
		return invalid("Shaper %q and ShaperPeer %q: are for a port with EgressBps", p.Shaper, p.ShaperPeer)
	case s.near < 0 || s.far < 0:
		return invalid("Facts.Ifindex: negative for %q or %q", p.Shaper, p.ShaperPeer)
	case s.near != 0 && (s.near == s.far || s.near == ifindex):
		return invalid("Shaper %q: must be a device of its own, apart from Interface and ShaperPeer", p.Shaper)
	}
	return nil
}
