// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// FIB asks the kernel's routing table, and for its sockets, by the very helpers that
// the programs use, from programs of its own that BPF_PROG_TEST_RUN runs: nothing is
// sent. The answer is that of the calling thread's network namespace.
type FIB struct {
	prog    *ebpf.Program
	sockets [4]*ebpf.Program // TCP and UDP, by IPv4 and by IPv6
}

// Offsets in struct bpf_fib_lookup, linux/bpf.h.
const (
	fibFamily, fibProto, fibTotLen, fibIfindex, fibTOS = 0, 1, 6, 8, 12
	fibSrc, fibDst, fibSize                            = 16, 32, 64
	fibHead                                            = 14 // TEST_RUN wants an Ethernet header in front

	// enum of bpf_fib_lookup's results.
	fibSuccess, fibNoNeigh = 0, 7

	// BPF_FIB_LOOKUP_SKIP_NEIGH, since 6.3: without it a route whose neighbour is
	// not known yet does not tell its MTU.
	fibSkipNeigh = 1 << 2
)

// NewFIB loads the program. Close it.
func NewFIB() (*FIB, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "gh_fib", Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.Mov.Imm(asm.R2, fibHead),
			asm.Mov.Reg(asm.R3, asm.RFP),
			asm.Add.Imm(asm.R3, -fibSize),
			asm.Mov.Imm(asm.R4, fibSize),
			asm.FnSkbLoadBytes.Call(),
			asm.JNE.Imm(asm.R0, 0, "bad"),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -fibSize),
			asm.Mov.Imm(asm.R3, fibSize),
			asm.Mov.Imm(asm.R4, fibSkipNeigh),
			asm.FnFibLookup.Call(),
			asm.Mov.Reg(asm.R7, asm.R0),
			asm.JNE.Imm(asm.R7, -int32(unix.EINVAL), "answered"),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -fibSize),
			asm.Mov.Imm(asm.R3, fibSize),
			asm.Mov.Imm(asm.R4, 0),
			asm.FnFibLookup.Call(),
			asm.Mov.Reg(asm.R7, asm.R0),
			asm.Mov.Reg(asm.R1, asm.R6).WithSymbol("answered"),
			asm.Mov.Imm(asm.R2, fibHead),
			asm.Mov.Reg(asm.R3, asm.RFP),
			asm.Add.Imm(asm.R3, -fibSize),
			asm.Mov.Imm(asm.R4, fibSize),
			asm.Mov.Imm(asm.R5, 0),
			asm.FnSkbStoreBytes.Call(),
			asm.Mov.Reg(asm.R0, asm.R7),
			asm.Return(),
			asm.Mov.Imm(asm.R0, -1).WithSymbol("bad"),
			asm.Return(),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("load routing question: %w", err)
	}
	f := &FIB{prog: p}
	for i := range f.sockets {
		if f.sockets[i], err = socketProgram(i&1 != 0, i&2 != 0); err != nil {
			return nil, errors.Join(fmt.Errorf("load question for sockets: %w", err), f.Close())
		}
	}
	return f, nil
}

// Sizes of the two members of struct bpf_sock_tuple, linux/bpf.h.
const tuple4, tuple6 = 12, 36

// socketProgram answers 1 where a socket takes what has the tuple behind the header.
func socketProgram(udp, v6 bool) (*ebpf.Program, error) {
	size, look := int32(tuple4), asm.FnSkcLookupTcp
	if v6 {
		size = tuple6
	}
	if udp {
		look = asm.FnSkLookupUdp
	}
	return ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "gh_socket", Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.Mov.Imm(asm.R2, fibHead),
			asm.Mov.Reg(asm.R3, asm.RFP),
			asm.Add.Imm(asm.R3, -40),
			asm.Mov.Imm(asm.R4, size),
			asm.FnSkbLoadBytes.Call(),
			asm.JNE.Imm(asm.R0, 0, "none"),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -40),
			asm.Mov.Imm(asm.R3, size),
			asm.Mov.Imm(asm.R4, -1), // BPF_F_CURRENT_NETNS
			asm.Mov.Imm(asm.R5, 0),
			look.Call(),
			asm.JEq.Imm(asm.R0, 0, "none"),
			asm.Mov.Reg(asm.R1, asm.R0),
			asm.FnSkRelease.Call(),
			asm.Mov.Imm(asm.R0, 1),
			asm.Return(),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("none"),
			asm.Return(),
		},
	})
}

// Close releases the programs.
func (f *FIB) Close() error {
	err := f.prog.Close()
	for _, p := range f.sockets {
		if p != nil {
			err = errors.Join(err, p.Close())
		}
	}
	return err
}

// Socket reports whether a socket gets what comes from remote for local by proto, 6 or 17.
func (f *FIB) Socket(proto uint8, local, remote netip.AddrPort) (bool, error) {
	i := 0
	if proto == unix.IPPROTO_UDP {
		i |= 1
	}
	if local.Addr().Is6() {
		i |= 2
	}
	b := append(make([]byte, fibHead), remote.Addr().AsSlice()...)
	b = append(b, local.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, remote.Port()), local.Port())
	ret, err := f.sockets[i].Run(&ebpf.RunOptions{Data: b})
	if err != nil {
		return false, fmt.Errorf("look up socket of %s: %w", local, err)
	}
	return ret == 1, nil
}

// FIBAnswer is where a packet would go.
type FIBAnswer struct {
	Ifindex int
	NextHop netip.Addr // invalid: a router of the other family
	MTU     int
}

// Lookup asks with the anchor as input device. ok is false where the table has no
// forwarding route.
func (f *FIB) Lookup(anchor int, src, dst netip.Addr, proto, tos uint8) (a FIBAnswer, ok bool, err error) {
	if src.Is4() != dst.Is4() {
		return a, false, errors.New("look up route: addresses of two families")
	}
	b := make([]byte, fibHead+fibSize)
	q := b[fibHead:]
	q[fibFamily], q[fibProto] = unix.AF_INET6, proto
	if dst.Is4() {
		q[fibFamily], q[fibTOS] = unix.AF_INET, tos
	}
	binary.NativeEndian.PutUint16(q[fibTotLen:], 1)
	binary.NativeEndian.PutUint32(q[fibIfindex:], uint32(anchor))
	copy(q[fibSrc:], src.AsSlice())
	copy(q[fibDst:], dst.AsSlice())
	out := make([]byte, len(b))
	ret, err := f.prog.Run(&ebpf.RunOptions{Data: b, DataOut: out})
	if err != nil {
		return a, false, fmt.Errorf("look up route to %s: %w", dst, err)
	}
	if ret != fibSuccess && ret != fibNoNeigh {
		return a, false, nil
	}
	q = out[fibHead:]
	a.Ifindex = int(binary.NativeEndian.Uint32(q[fibIfindex:]))
	a.MTU = int(binary.NativeEndian.Uint16(q[fibTotLen:]))
	switch {
	case q[fibFamily] == unix.AF_INET && dst.Is4():
		a.NextHop = netip.AddrFrom4([4]byte(q[fibDst : fibDst+4]))
	case dst.Is6():
		a.NextHop = netip.AddrFrom16([16]byte(q[fibDst : fibDst+16]))
	}
	return a, true, nil
}
