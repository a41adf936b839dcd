// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package seccomp compiles an OCI seccomp profile to the classic BPF program that
// the kernel takes, without libseccomp: the guest's agent has no cgo, and the host
// knows the guest's architecture. Calls of another ABI than the architecture's own
// (32-bit programs on amd64, x32) get the default action.
package seccomp

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// table has a line for each system call: name, number on amd64, on arm64, "-" =
// none. TestTable compares it with golang.org/x/sys.
//
//go:embed table.txt
var table string

// Offsets in struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

// x32Bit marks calls of the x32 ABI, which come with amd64's arch.
const x32Bit = 0x40000000

// maxInstructions of a program.
const maxInstructions = 4096

// numbers of the system calls of an architecture, and its AUDIT_ARCH.
func numbers(goarch string) (map[string]uint32, uint32, error) {
	column, audit := 1, uint32(unix.AUDIT_ARCH_X86_64)
	switch goarch {
	case "amd64":
	case "arm64":
		column, audit = 2, unix.AUDIT_ARCH_AARCH64
	default:
		return nil, 0, fmt.Errorf("seccomp: no table of %q", goarch)
	}
	m := make(map[string]uint32, 400)
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if n, err := strconv.ParseUint(f[column], 10, 32); err == nil {
			m[f[0]] = uint32(n)
		}
	}
	return m, audit, nil
}

// call is what is said of one system call.
type call struct {
	rules []rule  // with conditions, in the order of the profile
	plain *uint32 // without
}

type rule struct {
	args []specs.LinuxSeccompArg
	ret  uint32
}

// Compile returns the program, 8 bytes an instruction, little endian as both
// architectures are. Names that the architecture does not have are left out, as
// libseccomp does.
func Compile(p *specs.LinuxSeccomp, goarch string) ([]byte, error) {
	nums, audit, err := numbers(goarch)
	if err != nil {
		return nil, err
	}
	def, err := action(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	calls := map[uint32]*call{}
	highest := uint32(0)
	for _, s := range p.Syscalls {
		ret, err := action(s.Action, s.ErrnoRet)
		if err != nil {
			return nil, err
		}
		for _, name := range s.Names {
			nr, ok := nums[name]
			if !ok {
				continue
			}
			highest = max(highest, nr)
			c := calls[nr]
			if c == nil {
				c = &call{}
				calls[nr] = c
			}
			c.add(s.Args, ret)
		}
	}
	code := program(calls, def, audit, highest, goarch == "amd64")
	if len(code) > maxInstructions {
		return nil, fmt.Errorf("seccomp: %d instructions, at most %d", len(code), maxInstructions)
	}
	raw, err := bpf.Assemble(code)
	if err != nil {
		return nil, fmt.Errorf("seccomp: %w", err)
	}
	var out bytes.Buffer
	for _, i := range raw {
		_ = binary.Write(&out, binary.LittleEndian, i) // a Buffer takes all
	}
	return out.Bytes(), nil
}

// add keeps a rule. Conditions on one argument twice mean either, as runc has it.
func (c *call) add(args []specs.LinuxSeccompArg, ret uint32) {
	if len(args) == 0 {
		if c.plain == nil {
			c.plain = &ret
		}
		return
	}
	seen := map[uint]bool{}
	for _, a := range args {
		if seen[a.Index] {
			for _, one := range args {
				c.rules = append(c.rules, rule{[]specs.LinuxSeccompArg{one}, ret})
			}
			return
		}
		seen[a.Index] = true
	}
	c.rules = append(c.rules, rule{args, ret})
}

// action is the return value of the filter.
func action(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if errno != nil {
		if *errno > unix.SECCOMP_RET_DATA {
			return 0, fmt.Errorf("seccomp: errnoRet %d", *errno)
		}
		data = uint32(*errno)
	}
	switch a {
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data, nil
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	}
	return 0, fmt.Errorf("seccomp: action %q is not supported in a utility VM", a)
}

func program(calls map[uint32]*call, def, audit, highest uint32, x32 bool) []bpf.Instruction {
	ret := func(v uint32) bpf.Instruction { return bpf.RetConstant{Val: v} }
	code := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: audit, SkipTrue: 1},
		ret(def),
		bpf.LoadAbsolute{Off: offNumber, Size: 4},
	}
	if x32 {
		code = append(code, bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: x32Bit, SkipFalse: 1}, ret(def))
	}
	// A call newer than the profile does not exist for the program, which then does
	// without; EPERM it would take for an answer.
	if def&unix.SECCOMP_RET_ACTION_FULL == unix.SECCOMP_RET_ERRNO && len(calls) > 0 {
		code = append(code, bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: highest, SkipFalse: 1}, ret(unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS)))
	}
	var nrs []uint32
	for nr := range calls {
		nrs = append(nrs, nr)
	}
	slices.Sort(nrs)
	for i := 0; i < len(nrs); {
		lo := nrs[i]
		if c := calls[lo]; len(c.rules) > 0 {
			code = append(code, conditional(lo, c, def)...)
			i++
			continue
		}
		v, hi := *calls[lo].plain, lo
		for i++; i < len(nrs) && nrs[i] == hi+1 && len(calls[nrs[i]].rules) == 0 && *calls[nrs[i]].plain == v; i++ {
			hi = nrs[i]
		}
		if lo == hi {
			code = append(code, bpf.JumpIf{Cond: bpf.JumpEqual, Val: lo, SkipFalse: 1}, ret(v))
		} else {
			code = append(code, bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: lo, SkipFalse: 2},
				bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: hi, SkipTrue: 1}, ret(v))
		}
	}
	return append(code, ret(def))
}

// conditional decides one call by its arguments. It always returns, so that the
// number is still loaded for what stands behind it.
func conditional(nr uint32, c *call, def uint32) []bpf.Instruction {
	var body []bpf.Instruction
	for _, r := range c.rules {
		one := []bpf.Instruction{bpf.RetConstant{Val: r.ret}}
		for _, a := range slices.Backward(r.args) {
			one = append(condition(a, len(one)), one...)
		}
		body = append(body, one...)
	}
	last := def
	if c.plain != nil {
		last = *c.plain
	}
	body = append(body, bpf.RetConstant{Val: last})
	// The distance may be more than a conditional jump's 255.
	return append([]bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpEqual, Val: nr, SkipTrue: 1}, bpf.Jump{Skip: uint32(len(body))}}, body...)
}

// condition goes on behind itself when an argument is as wanted, else rest
// instructions further. Arguments have 64 bits, instructions 32: the high half
// decides, unless it is equal.
func condition(a specs.LinuxSeccompArg, rest int) []bpf.Instruction {
	at := offArgs + 8*uint32(a.Index)
	low, high := bpf.LoadAbsolute{Off: at, Size: 4}, bpf.LoadAbsolute{Off: at + 4, Size: 4}
	vl, vh := uint32(a.Value), uint32(a.Value>>32)
	fail := uint8(rest)
	switch a.Op {
	case specs.OpMaskedEqual:
		return []bpf.Instruction{
			high, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: vh}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(a.ValueTwo >> 32), SkipFalse: fail + 3},
			low, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: vl}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(a.ValueTwo), SkipFalse: fail},
		}
	case specs.OpNotEqual:
		return []bpf.Instruction{
			high, bpf.JumpIf{Cond: bpf.JumpEqual, Val: vh, SkipFalse: 2},
			low, bpf.JumpIf{Cond: bpf.JumpEqual, Val: vl, SkipTrue: fail},
		}
	case specs.OpGreaterThan, specs.OpGreaterEqual:
		cond := bpf.JumpGreaterThan
		if a.Op == specs.OpGreaterEqual {
			cond = bpf.JumpGreaterOrEqual
		}
		return []bpf.Instruction{
			high, bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: vh, SkipTrue: 3},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: vh, SkipFalse: fail + 2},
			low, bpf.JumpIf{Cond: cond, Val: vl, SkipFalse: fail},
		}
	case specs.OpLessThan, specs.OpLessEqual:
		cond := bpf.JumpGreaterOrEqual
		if a.Op == specs.OpLessEqual {
			cond = bpf.JumpGreaterThan
		}
		return []bpf.Instruction{
			high, bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: vh, SkipFalse: 3},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: vh, SkipFalse: fail + 2},
			low, bpf.JumpIf{Cond: cond, Val: vl, SkipTrue: fail},
		}
	}
	return []bpf.Instruction{ // equal
		high, bpf.JumpIf{Cond: bpf.JumpEqual, Val: vh, SkipFalse: fail + 2},
		low, bpf.JumpIf{Cond: bpf.JumpEqual, Val: vl, SkipFalse: fail},
	}
}
