// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpfrun

import (
	"encoding/binary"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// Tunneller puts frames into a program as if they came out of a tunnel, which
// TEST_RUN's context cannot say: a program before it sets the metadata.
type Tunneller struct {
	coll *ebpf.Collection
}

// tunnelKeySize is that of struct bpf_tunnel_key, linux/bpf.h.
const tunnelKeySize = 44

// NewTunneller makes one for p. Close it.
func NewTunneller(p *ebpf.Program) (*Tunneller, error) {
	program := func(flags int32) *ebpf.ProgramSpec {
		return &ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.LoadMapPtr(asm.R1, 0).WithReference("key"),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Reg(asm.R2, asm.R0),
			asm.Mov.Imm(asm.R3, tunnelKeySize),
			asm.Mov.Imm(asm.R4, flags),
			asm.FnSkbSetTunnelKey.Call(),
			asm.JNE.Imm(asm.R0, 0, "out"),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.LoadMapPtr(asm.R2, 0).WithReference("next"),
			asm.Mov.Imm(asm.R3, 0),
			asm.FnTailCall.Call(),
			asm.Mov.Imm(asm.R0, 99).WithSymbol("out"),
			asm.Return(),
		}}
	}
	coll, err := ebpf.NewCollection(&ebpf.CollectionSpec{
		Maps: map[string]*ebpf.MapSpec{
			"key":  {Type: ebpf.Array, KeySize: 4, ValueSize: tunnelKeySize, MaxEntries: 1},
			"next": {Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1},
		},
		Programs: map[string]*ebpf.ProgramSpec{"v4": program(0), "v6": program(1)}, // BPF_F_TUNINFO_IPV6
	})
	if err != nil {
		return nil, err
	}
	if err := coll.Maps["next"].Put(uint32(0), p); err != nil {
		coll.Close()
		return nil, err
	}
	return &Tunneller{coll}, nil
}

// Close releases the programs.
func (t *Tunneller) Close() { t.coll.Close() }

// Program is what to run for a frame with this VNI from that outer source, until
// the next call.
func (t *Tunneller) Program(vni uint32, from netip.Addr) (*ebpf.Program, error) {
	// What the receiving side calls remote is the sender's local address.
	key := make([]byte, tunnelKeySize)
	binary.NativeEndian.PutUint32(key, vni)
	name := "v6"
	if from.Is4() {
		name = "v4"
		a := from.As4()
		binary.NativeEndian.PutUint32(key[28:], binary.BigEndian.Uint32(a[:]))
	} else {
		a := from.As16()
		copy(key[28:], a[:])
	}
	return t.coll.Programs[name], t.coll.Maps["key"].Put(uint32(0), key)
}
