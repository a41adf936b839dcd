// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"encoding/binary"
	"net/netip"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// addr is an address as rows hold it: 16 bytes, IPv4 v4-mapped.
type addr = [16]byte

func ip(a addr) netip.Addr { return netip.AddrFrom16(a).Unmap() }

// be turns a number in wire order, as the generated types hold it, into one of
// this machine, and back.
func be(n uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], n)
	return binary.NativeEndian.Uint16(b[:])
}

func word4(a addr) uint32 { return binary.NativeEndian.Uint32(a[12:]) }

func addr4(w uint32) (a addr) {
	a[10], a[11] = 0xff, 0xff
	binary.NativeEndian.PutUint32(a[12:], w)
	return a
}

// key is a flow key of either family; ports are of this machine's order.
type key struct {
	fam          uint8
	src, dst     addr
	sport, dport uint16
	port, zone   uint16
	proto, flags uint8
}

func (k key) v4() bpf.FlowKey4 {
	return bpf.FlowKey4{SrcBe: word4(k.src), DstBe: word4(k.dst), SportBe: be(k.sport), DportBe: be(k.dport),
		Port: k.port, Zone: k.zone, Proto: k.proto, Flags: k.flags}
}

func (k key) v6() (o bpf.FlowKey6) {
	o.Src.B, o.Dst.B = k.src, k.dst
	o.SportBe, o.DportBe, o.Port, o.Zone, o.Proto, o.Flags = be(k.sport), be(k.dport), k.port, k.zone, k.proto, k.flags
	return o
}

func key4(k bpf.FlowKey4) key {
	return key{4, addr4(k.SrcBe), addr4(k.DstBe), be(k.SportBe), be(k.DportBe), k.Port, k.Zone, k.Proto, k.Flags}
}

func key6(k bpf.FlowKey6) key {
	return key{6, k.Src.B, k.Dst.B, be(k.SportBe), be(k.DportBe), k.Port, k.Zone, k.Proto, k.Flags}
}

// line is the first line of a flow entry: what is done to its packets.
type line struct {
	ops            bpf.Op
	outKind        bpf.OutKind
	outIfindex     uint32
	dmac, smac     [6]byte
	nsrc, ndst, nh addr
	nsport, ndport uint16
	outMTU         uint16
	outPort        uint16
	eIn, eOut      uint32
	eNet           uint32
	tun            uint32
	vtep           uint16
	class          uint16
}

// flow is an entry of either family.
type flow struct {
	line
	packets         uint64
	last            uint32
	tcpOwn, tcpPeer uint8
	state           bpf.FlowState
	inPort, net     uint16
	reply, nat      bool
	svc, backend    uint32
	rule            uint16 // ACL rule that let it in
	pair            key
	busy            bool // being written
}

func flow4(f bpf.Flow4) *flow {
	return &flow{
		line: line{ops: bpf.Op(f.Ops), outKind: bpf.OutKind(f.OutKind),
			outIfindex: f.OutIfindex, dmac: f.Dmac, smac: f.Smac, nsrc: addr4(f.NsrcBe), ndst: addr4(f.NdstBe), nh: addr4(f.NhBe),
			nsport: be(f.NsportBe), ndport: be(f.NdportBe), outMTU: f.OutMtu, outPort: f.OutPort, eIn: f.E_in, eOut: f.E_out, eNet: f.E_net,
			tun: f.Tun, vtep: f.Vtep, class: f.Prio},
		packets: f.Packets, last: f.LastS, tcpOwn: f.TcpOwn, tcpPeer: f.TcpPeer, state: bpf.FlowState(f.State), inPort: f.InPort, net: f.Net,
		reply: f.Reply != 0, nat: f.Nat != 0, svc: f.Svc, backend: f.Backend, rule: f.Rule, pair: key4(f.Pair), busy: f.Tag&1 != 0,
	}
}

func flow6(f bpf.Flow6) *flow {
	return &flow{
		line: line{ops: bpf.Op(f.Ops), outKind: bpf.OutKind(f.OutKind),
			outIfindex: f.OutIfindex, dmac: f.Dmac, smac: f.Smac, nsrc: f.Nsrc.B, ndst: f.Ndst.B, nh: f.Nh.B,
			nsport: be(f.NsportBe), ndport: be(f.NdportBe), outMTU: f.OutMtu, outPort: f.OutPort, eIn: f.E_in, eOut: f.E_out, eNet: f.E_net,
			tun: f.Tun, vtep: f.Vtep, class: f.Prio},
		packets: f.Packets, last: f.LastS, tcpOwn: f.TcpOwn, tcpPeer: f.TcpPeer, state: bpf.FlowState(f.State), inPort: f.InPort, net: f.Net,
		reply: f.Reply != 0, nat: f.Nat != 0, svc: f.Svc, backend: f.Backend, rule: f.Rule, pair: key6(f.Pair), busy: f.Tag&1 != 0,
	}
}

// Live is a read-only view of the switch's state maps. Nil is a switch without
// any: what a new packet would meet.
type Live interface {
	Flow4(bpf.FlowKey4) (bpf.Flow4, bool)
	Flow6(bpf.FlowKey6) (bpf.Flow6, bool)
	Frag4(bpf.FragKey4) (bpf.FragVal, bool)
	Frag6(bpf.FragKey6) (bpf.FragVal, bool)
	Affinity(bpf.AffinityKey) (bpf.AffinityVal, bool)
	// Epoch is the entry of the epoch map.
	Epoch(index uint32) uint32
	// Flows is how many flows count against the quota of a port.
	Flows(port uint32) uint32
	// Fill is how many conversations the table of a family (4 or 6) holds.
	Fill(family uint8) uint32
	// Second is now, in seconds of CLOCK_MONOTONIC.
	Second() uint32
}

// memory is Live with what the packet in hand would do to it.
type memory struct {
	live Live
	seen map[key]*flow // nil value: not there, or removed by this packet
	// freed counts what its removals give back to the quotas of ports.
	freed map[uint16]uint32
	// and what they give back to the tables of IPv4 and IPv6.
	freedOf [2]uint32
}

func (m *memory) get(k key) *flow {
	if m.live == nil {
		return nil
	}
	if f, ok := m.seen[k]; ok {
		return f
	}
	var f *flow
	if k.fam == 4 {
		if v, ok := m.live.Flow4(k.v4()); ok {
			f = flow4(v)
		}
	} else if v, ok := m.live.Flow6(k.v6()); ok {
		f = flow6(v)
	}
	if m.seen == nil {
		m.seen = map[key]*flow{}
	}
	m.seen[k] = f
	return f
}

// unlink removes both halves; f was found by k.
func (m *memory) unlink(k key, f *flow) {
	counted := -1
	if !f.reply {
		counted = int(f.inPort)
	}
	if r := m.get(f.pair); r != nil && r.pair == k {
		if !r.reply {
			counted = int(r.inPort)
		}
		m.seen[f.pair] = nil
	}
	m.seen[k] = nil
	if counted >= 0 {
		if m.freed == nil {
			m.freed = map[uint16]uint32{}
		}
		m.freed[uint16(counted)]++
		m.freedOf[k.fam/6]++
	}
}

// used is how many flows count against a port's quota.
func (m *memory) used(port uint16) uint32 {
	if m.live == nil {
		return 0
	}
	n := bpf.Tallied(m.live.Flows(uint32(port)))
	return n - min(n, m.freed[port]) // the sweeper may have corrected it downwards
}

// crowded: the table of a family (4 or 6) is more than four fifths full.
func (m *memory) crowded(fam uint8) bool {
	if m.live == nil {
		return false
	}
	n := bpf.Tallied(m.live.Fill(fam))
	return bpf.Crowded(n-min(n, m.freedOf[fam/6]), fam)
}

func (m *memory) epoch(i uint32) uint32 {
	if m.live == nil {
		return 0
	}
	return m.live.Epoch(i)
}

func (m *memory) second() uint32 {
	if m.live == nil {
		return 0
	}
	return m.live.Second()
}

func (m *memory) idle(f *flow, now uint32) bool {
	after := bpf.FlowTimeout(f.state)
	if f.state == bpf.SwitchGhFlowStateGH_FLOW_SYN && m.crowded(f.pair.fam) {
		after = bpf.CrowdedSYN
	}
	return int32(now-f.last) > int32(after)
}

// dead: both halves are idle.
func (m *memory) dead(k key, f *flow, now uint32) bool {
	if !m.idle(f, now) {
		return false
	}
	r := m.get(f.pair)
	return r == nil || r.pair != k || m.idle(r, now)
}

func (f *flow) changesState(h *header) bool {
	return h.tcpFlags&(tcpSYN|tcpFIN|tcpRST) != 0 || f.state == bpf.SwitchGhFlowStateGH_FLOW_UDP1 && f.reply
}

// reopened: a SYN on a connection that is over, or that its initiator forgot.
func (f *flow) reopened(flags uint8) bool {
	if flags&(tcpSYN|tcpACK) != tcpSYN {
		return false
	}
	switch f.state {
	case bpf.SwitchGhFlowStateGH_FLOW_FIN, bpf.SwitchGhFlowStateGH_FLOW_TW, bpf.SwitchGhFlowStateGH_FLOW_RST:
		return true
	}
	return f.state == bpf.SwitchGhFlowStateGH_FLOW_EST && !f.reply && f.packets > 4
}
