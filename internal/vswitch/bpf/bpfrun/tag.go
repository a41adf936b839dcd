// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpfrun

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// Tagger puts frames with a VLAN tag beside them into programs, which TEST_RUN
// cannot do by itself: a small program pushes the tag and goes on with the other.
type Tagger struct {
	progs *ebpf.Map
	run   *ebpf.Program
}

// NewTagger makes one for the programs, which Run names by their position.
func NewTagger(programs ...*ebpf.Program) (*Tagger, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: uint32(len(programs))})
	if err != nil {
		return nil, err
	}
	for i, p := range programs {
		if err := m.Put(uint32(i), uint32(p.FD())); err != nil {
			m.Close()
			return nil, err
		}
	}
	const cb3, cb4 = 60, 64 // of struct __sk_buff
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "Dual BSD/GPL", Instructions: asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R1, cb3, asm.Word),
		asm.Mov.Imm(asm.R2, 0x0081), // ETH_P_8021Q in wire order
		asm.LoadMem(asm.R3, asm.R1, cb4, asm.Word),
		asm.FnSkbVlanPush.Call(),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMapPtr(asm.R2, m.FD()),
		asm.Mov.Reg(asm.R3, asm.R7),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, 99), // no such program
		asm.Return(),
	}})
	if err != nil {
		m.Close()
		return nil, err
	}
	return &Tagger{progs: m, run: p}, nil
}

// Run is the function Run for a program of NewTagger and a frame with a tag.
func (t *Tagger) Run(program int, tci uint16, ctx *Context, frame []byte, room int) (ret uint32, out []byte, after Context, err error) {
	c := *ctx
	c.CB[3], c.CB[4] = uint32(program), uint32(tci)
	return Run(t.run, &c, frame, room)
}

// Close gives the kernel back what it holds.
func (t *Tagger) Close() {
	t.run.Close()
	t.progs.Close()
}
