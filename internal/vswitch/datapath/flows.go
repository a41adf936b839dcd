// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"encoding/binary"
	"net/netip"
	"time"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// Flow is one direction of a conversation and what is done to its packets.
type Flow struct {
	Proto    uint8
	Src, Dst netip.AddrPort // as the packets arrive; ICMP echo: the id is Src's port
	// NewSrc and NewDst are what they leave with; equal where nothing is translated.
	NewSrc, NewDst netip.AddrPort
	In, Out        vswitch.PortID // In is vswitch.UplinkAny for uplinks
	Zone           vswitch.Zone
	Network        vswitch.NetworkID
	State          string // "est", "udp1"
	Reply          bool   // the answering direction
	NAT            bool   // holds a NAT binding
	Packets, Bytes uint64
	Idle, Age      time.Duration
	// Rule is the number of the ACL rule that let it in, Service and Backend those
	// of a published port; 0 = none.
	Rule             uint16
	Service, Backend uint32
	// Timeout is the silence after which it does not exist any more.
	Timeout time.Duration
}

// Conversation is both directions, told from the asking one.
type Conversation struct {
	Flow                     // Idle is of the direction that spoke last
	ReplyPackets, ReplyBytes uint64
}

// ReplySrc and ReplyDst are the ends as answers arrive.
func (c *Conversation) ReplySrc() netip.AddrPort { return c.NewDst }

// ReplyDst is where they are sent to.
func (c *Conversation) ReplyDst() netip.AddrPort { return c.NewSrc }

// Flows lists the flow tables as they are passed over: entries that come or go
// meanwhile may be missed or listed twice. It stops when yield returns false.
func (d *Datapath) Flows(yield func(Flow) bool) error {
	now, err := monotonicSeconds()
	if err != nil {
		return err
	}
	more, err := listFlows(d.flow4(), now, yield)
	if err != nil || !more {
		return err
	}
	_, err = listFlows(d.flow6(), now, yield)
	return err
}

func listFlows[K comparable, V any](t flowTable[K, V], now uint32, yield func(Flow) bool) (more bool, err error) {
	more = true
	err = t.walk(func(k *K, v *V) bool {
		more = yield(t.flow(now, k, v))
		return more
	})
	return more, err
}

// Conversations lists what Flows does with both directions as one, where want is
// true for the asking one. nil = all.
func (d *Datapath) Conversations(want func(*Flow) bool, yield func(Conversation) bool) error {
	now, err := monotonicSeconds()
	if err != nil {
		return err
	}
	more, err := listConversations(d.flow4(), now, want, yield)
	if err != nil || !more {
		return err
	}
	_, err = listConversations(d.flow6(), now, want, yield)
	return err
}

func listConversations[K comparable, V any](t flowTable[K, V], now uint32, want func(*Flow) bool, yield func(Conversation) bool) (more bool, err error) {
	more = true
	var failed error
	err = t.walk(func(k *K, v *V) bool {
		f := t.flow(now, k, v)
		if f.Reply || want != nil && !want(&f) {
			return true
		}
		var c Conversation
		if c, failed = t.conversation(now, k, v); failed != nil {
			return false
		}
		more = yield(c)
		return more
	})
	if failed != nil {
		err = failed
	}
	return more, err
}

// conversation joins the asking half with the answering one, if that is there.
func (t flowTable[K, V]) conversation(now uint32, k *K, v *V) (Conversation, error) {
	c := Conversation{Flow: t.flow(now, k, v)}
	h := t.half(v)
	r, ok, err := t.value(&h.pair)
	if err != nil || !ok || t.half(&r).pair != *k {
		return c, err
	}
	f := t.flow(now, &h.pair, &r)
	c.ReplyPackets, c.ReplyBytes, c.Idle = f.Packets, f.Bytes, min(c.Idle, f.Idle)
	return c, nil
}

// flowCommon is what the entries of both families have.
type flowCommon struct {
	now               uint32
	ops               uint16
	state, reply, nat uint8
	net, out          uint16
	packets, bytes    uint64
	last, born        uint32
	rule              uint16
	svc, backend      uint32
}

func flowOf4(now uint32, k *bpf.FlowKey4, v *bpf.Flow4) Flow {
	return flowOf(k.Proto, k.Port, k.Zone, addrPort4(k.SrcBe, k.SportBe), addrPort4(k.DstBe, k.DportBe), flowCommon{
		now, v.Ops, v.State, v.Reply, v.Nat, v.Net, v.OutPort, v.Packets, v.Bytes, v.LastS, v.BornS, v.Rule, v.Svc, v.Backend,
	}, addrPort4(v.NsrcBe, v.NsportBe), addrPort4(v.NdstBe, v.NdportBe))
}

func flowOf6(now uint32, k *bpf.FlowKey6, v *bpf.Flow6) Flow {
	return flowOf(k.Proto, k.Port, k.Zone, addrPort6(k.Src.B, k.SportBe), addrPort6(k.Dst.B, k.DportBe), flowCommon{
		now, v.Ops, v.State, v.Reply, v.Nat, v.Net, v.OutPort, v.Packets, v.Bytes, v.LastS, v.BornS, v.Rule, v.Svc, v.Backend,
	}, addrPort6(v.Nsrc.B, v.NsportBe), addrPort6(v.Ndst.B, v.NdportBe))
}

func flowOf(proto uint8, port, zone uint16, src, dst netip.AddrPort, c flowCommon, nsrc, ndst netip.AddrPort) Flow {
	f := Flow{
		Proto: proto, Src: src, Dst: dst, NewSrc: src, NewDst: dst,
		In: vswitch.PortID(port), Out: vswitch.PortID(c.out), Zone: vswitch.Zone(zone), Network: vswitch.NetworkID(c.net),
		State: stateName(c.state), Reply: c.reply != 0, NAT: c.nat != 0, Packets: c.packets, Bytes: c.bytes,
		Idle: seconds(c.now, c.last), Age: seconds(c.now, c.born), Rule: c.rule, Service: c.svc, Backend: c.backend,
		Timeout: time.Duration(bpf.FlowTimeout(bpf.FlowState(c.state))) * time.Second,
	}
	has := func(op bpf.Op) bool { return c.ops&uint16(op) != 0 }
	f.NewSrc = translated(src, nsrc, has(bpf.SwitchGhOpGH_OP_NSRC), has(bpf.SwitchGhOpGH_OP_NSPORT))
	f.NewDst = translated(dst, ndst, has(bpf.SwitchGhOpGH_OP_NDST), has(bpf.SwitchGhOpGH_OP_NDPORT))
	return f
}

func translated(is, becomes netip.AddrPort, addr, port bool) netip.AddrPort {
	a, p := is.Addr(), is.Port()
	if addr {
		a = becomes.Addr()
	}
	if port {
		p = becomes.Port()
	}
	return netip.AddrPortFrom(a, p)
}

func seconds(now, then uint32) time.Duration {
	return time.Duration(max(int32(now-then), 0)) * time.Second
}

// Fields in wire order are plain integers here: their bytes in memory count.

func addrPort4(a uint32, p uint16) netip.AddrPort {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], a)
	return netip.AddrPortFrom(netip.AddrFrom4(b), port(p))
}

func addrPort6(a [16]byte, p uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(a), port(p))
}

// addrPort16 is of an address of either family, IPv4 v4-mapped.
func addrPort16(a [16]byte, p uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(a).Unmap(), port(p))
}

func port(be uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], be)
	return binary.BigEndian.Uint16(b[:])
}
