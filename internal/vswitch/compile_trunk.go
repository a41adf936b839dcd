// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

// trunkFacts are what the ports of a trunk take from it. The zero value is of no
// trunk.
type trunkFacts struct {
	kind    PortKind
	ifindex int
	ready   bool // it is up and has what it needs
	queue   bool // what its vNIC gets passes a queue
}

// trunksOf are the ports that others share the vNIC of.
func trunksOf(s State, f Facts) map[PortID]trunkFacts {
	var trunks map[PortID]trunkFacts
	for _, p := range s.special() {
		if id := p.Trunk; id != 0 {
			if trunks == nil {
				trunks = map[PortID]trunkFacts{}
			}
			trunks[id] = trunkFacts{}
		}
	}
	if trunks == nil {
		return nil
	}
	for p := range s.AllPorts() {
		if _, ok := trunks[p.ID]; ok && p.Trunk == 0 {
			trunks[p.ID] = trunkFacts{p.Kind, f.Ifindex[p.Interface], p.Up && shaperOf(p, f).ready(p), p.IngressBps != 0}
		}
	}
	return trunks
}

// passes: a port of a trunk is open while its trunk is.
func (t trunkFacts) passes(p *Port) bool { return p.Trunk == 0 || t.ready }

// fill makes the row that of a port of the trunk, or of a trunk without native VLAN.
func (t trunkFacts) fill(row *PortRow, p *Port) {
	row.Vlan = p.VLAN
	if t.queue {
		row.Flags |= portNoPeer
	}
	if p.TaggedOnly {
		row.Tagged = 1
		row.Flags |= portGuard
	}
}

func checkTrunk(p *Port, t trunkFacts, trunks map[PortID]trunkFacts) error {
	_, isTrunk := trunks[p.ID]
	switch {
	case p.TaggedOnly && (p.Trunk != 0 || p.Kind == PortHost):
		return invalid("TaggedOnly: is for the trunk itself, of kind container or vm")
	case p.TaggedOnly && len(p.Addrs) != 0:
		return invalid("Addrs: a trunk with TaggedOnly gets nothing; its VLANs have addresses")
	case p.Trunk == 0 && p.VLAN != 0:
		return invalid("VLAN %d: is that of a port of a Trunk; a network's tag at its uplink is Network.VLAN", p.VLAN)
	case p.Trunk == 0:
		return nil
	case t.kind == PortNone:
		return invalid("Trunk %d: no such port, or itself one of a trunk", p.Trunk)
	case isTrunk:
		return invalid("Trunk %d: others name this port as theirs", p.Trunk)
	case p.Kind != t.kind || p.Kind == PortHost:
		return invalid("Kind %s: trunk %d is of kind %s; trunks are containers' and virtual machines'", p.Kind, p.Trunk, t.kind)
	case p.Interface != "":
		return invalid("Interface %q: is that of trunk %d; leave it empty", p.Interface, p.Trunk)
	case p.VLAN == 0 || p.VLAN > MaxVLAN:
		return invalid("VLAN %d: tags are 1 to %d; frames without one are the trunk's", p.VLAN, MaxVLAN)
	case p.IngressBps != 0 || p.EgressBps != 0 || p.PPS != 0:
		return invalid("IngressBps, EgressBps, PPS: are the trunk's, whose device all its VLANs share")
	}
	return nil
}
