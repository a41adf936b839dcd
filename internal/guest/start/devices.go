// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package start

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcs"
)

// Bits of an access, as the kernel asks (uapi/linux/bpf.h, BPF_DEVCG_ACC_*), and
// the two kinds of device.
const (
	accMknod, accRead, accWrite = 1, 2, 4
	accAll                      = accMknod | accRead | accWrite

	devBlock, devChar = 1, 2
)

// alwaysAllowed is what every container may: make nodes of any device, and use the
// standard ones and terminals. As runc and crun have it.
func alwaysAllowed() []specs.LinuxDeviceCgroup {
	allow := func(kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		r := specs.LinuxDeviceCgroup{Allow: true, Type: kind, Access: access}
		if major >= 0 {
			r.Major = &major
		}
		if minor >= 0 {
			r.Minor = &minor
		}
		return r
	}
	l := []specs.LinuxDeviceCgroup{allow("c", -1, -1, "m"), allow("b", -1, -1, "m"), allow("c", 5, 2, "rwm"), allow("c", 136, -1, "rwm")}
	for _, d := range standard() {
		l = append(l, allow("c", d.Major, d.Minor, "rwm"))
	}
	return l
}

// LimitDevices lets the processes of a cgroup use the devices that rules allow.
// The last rule that fits decides; without any rule all is allowed.
func LimitDevices(cgroup *os.File, rules []specs.LinuxDeviceCgroup) error {
	if len(rules) == 0 {
		return nil
	}
	code, err := deviceProgram(append(slices.Clone(rules), alwaysAllowed()...))
	if err != nil {
		return err
	}
	license := [...]byte{'A', 'p', 'a', 'c', 'h', 'e', 0}
	load := struct {
		kind, count    uint32
		insns, license uint64
		_              [96]byte
	}{unix.BPF_PROG_TYPE_CGROUP_DEVICE, uint32(len(code) / 8), uint64(uintptr(unsafe.Pointer(&code[0]))), uint64(uintptr(unsafe.Pointer(&license))), [96]byte{}}
	fd, _, e := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&load)), unsafe.Sizeof(load))
	runtime.KeepAlive(code)
	runtime.KeepAlive(&license)
	if e != 0 {
		return fmt.Errorf("limit devices: load: %w", e)
	}
	defer unix.Close(int(fd)) // the group holds the program
	attach := struct{ group, prog, kind, flags uint32 }{uint32(cgroup.Fd()), uint32(fd), unix.BPF_CGROUP_DEVICE, unix.BPF_F_ALLOW_MULTI}
	if _, _, e := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_ATTACH, uintptr(unsafe.Pointer(&attach)), unsafe.Sizeof(attach)); e != 0 {
		return fmt.Errorf("limit devices: attach: %w", e)
	}
	return nil
}

// deviceProgram asks the rules from the last to the first. It is the kernel's
// struct bpf_cgroup_dev_ctx that it reads: access << 16 | kind, major, minor.
func deviceProgram(rules []specs.LinuxDeviceCgroup) ([]byte, error) {
	var code []byte
	op := func(code8 byte, dst, src byte, off int16, imm int32) []byte {
		b := []byte{code8, src<<4 | dst}
		b = binary.LittleEndian.AppendUint16(b, uint16(off))
		return binary.LittleEndian.AppendUint32(b, uint32(imm))
	}
	const (
		ldxw, and, rsh, movx, mov, jne, jeq, exit = 0x61, 0x57, 0x77, 0xbf, 0xb7, 0x55, 0x15, 0x95

		kind, access, major, minor, temp = 3, 2, 4, 5, 6 // registers
	)
	code = slices.Concat(op(ldxw, access, 1, 0, 0), op(ldxw, major, 1, 4, 0), op(ldxw, minor, 1, 8, 0),
		op(movx, kind, access, 0, 0), op(and, kind, 0, 0, 0xffff), op(rsh, access, 0, 0, 16))
	for i, r := range slices.Backward(rules) {
		mask, want, err := deviceRule(r)
		if err != nil {
			return nil, &hcs.Error{Code: hcs.CodeInvalidArg, Field: fmt.Sprintf("OCI.linux.resources.devices[%d]", i), Err: err}
		}
		verdict := int32(0)
		if r.Allow {
			verdict = 1
		}
		rule := slices.Concat(op(mov, 0, 0, 0, verdict), op(exit, 0, 0, 0, 0))
		// Built from its end: each test that fails jumps over what is there already.
		test := func(jump, reg byte, imm int32) {
			rule = append(op(jump, reg, 0, int16(len(rule)/8), imm), rule...)
		}
		if r.Minor != nil && *r.Minor >= 0 {
			test(jne, minor, int32(*r.Minor))
		}
		if r.Major != nil && *r.Major >= 0 {
			test(jne, major, int32(*r.Major))
		}
		if mask != accAll {
			bits, jump := int32(accAll&^mask), byte(jne) // allowed: nothing else is asked for
			if !r.Allow {
				bits, jump = int32(mask), jeq // denied: any of it is asked for
			}
			test(jump, temp, 0)
			rule = slices.Concat(op(movx, temp, access, 0, 0), op(and, temp, 0, 0, bits), rule)
		}
		if want != 0 {
			test(jne, kind, want)
		}
		code = append(code, rule...)
		if len(rule) == 16 { // without a test: what stands before is never asked
			return code, nil
		}
	}
	return slices.Concat(code, op(mov, 0, 0, 0, 1), op(exit, 0, 0, 0, 0)), nil
}

func deviceRule(r specs.LinuxDeviceCgroup) (mask int, kind int32, err error) {
	for _, c := range r.Access {
		bit := map[rune]int{'r': accRead, 'w': accWrite, 'm': accMknod}[c]
		if bit == 0 {
			return 0, 0, fmt.Errorf("access %q", r.Access)
		}
		mask |= bit
	}
	if mask == 0 {
		mask = accAll
	}
	kind, ok := map[string]int32{"": 0, "a": 0, "b": devBlock, "c": devChar}[strings.ToLower(r.Type)]
	if !ok {
		return 0, 0, fmt.Errorf("type %q", r.Type)
	}
	return mask, kind, nil
}
