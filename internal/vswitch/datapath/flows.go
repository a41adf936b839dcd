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
	In, Out        vswitch.PortID // vswitch.UplinkAny for uplinks
	Zone           vswitch.Zone
	Network        vswitch.NetworkID
	State          string // "est", "udp1"
	Reply          bool   // the answering direction
	Dropped        string // reason of a cached drop, else ""
	Packets, Bytes uint64
	Idle, Age      time.Duration
}

// Flows lists the flow tables as they are passed over: entries that come or go
// meanwhile may be missed or listed twice. It stops when yield returns false.
func (d *Datapath) Flows(yield func(Flow) bool) error {
	now, err := monotonicSeconds()
	if err != nil {
		return err
	}
	stopped := false
	err = d.flow4().walk(func(k *bpf.FlowKey4, v *bpf.Flow4) bool {
		f := flowOf(k.Proto, k.Port, k.Zone, addrPort4(k.SrcBe, k.SportBe), addrPort4(k.DstBe, k.DportBe), flowCommon{
			now, v.Ops, v.Verdict, v.State, v.Reason, v.Reply, v.Net, v.OutPort, v.Packets, v.Bytes, v.LastS, v.BornS,
		}, addrPort4(v.NsrcBe, v.NsportBe), addrPort4(v.NdstBe, v.NdportBe))
		stopped = !yield(f)
		return !stopped
	})
	if err != nil || stopped {
		return err
	}
	return d.flow6().walk(func(k *bpf.FlowKey6, v *bpf.Flow6) bool {
		return yield(flowOf(k.Proto, k.Port, k.Zone, addrPort6(k.Src.B, k.SportBe), addrPort6(k.Dst.B, k.DportBe), flowCommon{
			now, v.Ops, v.Verdict, v.State, v.Reason, v.Reply, v.Net, v.OutPort, v.Packets, v.Bytes, v.LastS, v.BornS,
		}, addrPort6(v.Nsrc.B, v.NsportBe), addrPort6(v.Ndst.B, v.NdportBe)))
	})
}

// flowCommon is what the entries of both families have.
type flowCommon struct {
	now                           uint32
	ops                           uint16
	verdict, state, reason, reply uint8
	net, out                      uint16
	packets, bytes                uint64
	last, born                    uint32
}

func flowOf(proto uint8, port, zone uint16, src, dst netip.AddrPort, c flowCommon, nsrc, ndst netip.AddrPort) Flow {
	f := Flow{
		Proto: proto, Src: src, Dst: dst, NewSrc: src, NewDst: dst,
		In: vswitch.PortID(port), Out: vswitch.PortID(c.out), Zone: vswitch.Zone(zone), Network: vswitch.NetworkID(c.net),
		State: stateName(c.state), Reply: c.reply != 0, Packets: c.packets, Bytes: c.bytes,
		Idle: seconds(c.now, c.last), Age: seconds(c.now, c.born),
	}
	has := func(op bpf.Op) bool { return c.ops&uint16(op) != 0 }
	f.NewSrc = translated(src, nsrc, has(bpf.SwitchGhOpGH_OP_NSRC), has(bpf.SwitchGhOpGH_OP_NSPORT))
	f.NewDst = translated(dst, ndst, has(bpf.SwitchGhOpGH_OP_NDST), has(bpf.SwitchGhOpGH_OP_NDPORT))
	if c.verdict == uint8(bpf.SwitchGhVerdictGH_VERDICT_DROP) {
		f.Dropped = ReasonName(c.reason)
	}
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

func port(be uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], be)
	return binary.BigEndian.Uint16(b[:])
}
