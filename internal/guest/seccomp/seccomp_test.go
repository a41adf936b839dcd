// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package seccomp

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcs"
)

// TestTable holds the table against the library's numbers.
func TestTable(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	if err != nil {
		t.Skip("no module cache:", err)
	}
	line := regexp.MustCompile(`(?m)^\tSYS_([A-Z0-9_]+) += (\d+)$`)
	for _, goarch := range []string{"amd64", "arm64"} {
		src, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "unix/zsysnum_linux_"+goarch+".go"))
		if err != nil {
			t.Fatal(err)
		}
		nums, _, err := numbers(goarch)
		if err != nil {
			t.Fatal(err)
		}
		all := line.FindAllStringSubmatch(string(src), -1)
		for _, m := range all {
			if got := fmt.Sprint(nums[strings.ToLower(m[1])]); got != m[2] {
				t.Errorf("%s on %s: %s, want %s", m[1], goarch, got, m[2])
			}
		}
		if len(all) != len(nums) {
			t.Errorf("%s: %d calls, want %d", goarch, len(nums), len(all))
		}
	}
}

// filter runs a program on a call. The VM reads words big endian.
type filter struct {
	t  *testing.T
	vm *bpf.VM
}

func compile(t *testing.T, p *specs.LinuxSeccomp, goarch string) filter {
	t.Helper()
	raw, err := Compile(p, goarch)
	if err != nil {
		t.Fatal(err)
	}
	var code []bpf.RawInstruction
	for ; len(raw) > 0; raw = raw[8:] {
		code = append(code, bpf.RawInstruction{Op: binary.LittleEndian.Uint16(raw), Jt: raw[2], Jf: raw[3], K: binary.LittleEndian.Uint32(raw[4:])})
	}
	ins, ok := bpf.Disassemble(code)
	if !ok {
		t.Fatal("not disassembled")
	}
	vm, err := bpf.NewVM(ins)
	if err != nil {
		t.Fatal(err)
	}
	return filter{t, vm}
}

func (f filter) call(arch uint32, nr uint32, args ...uint64) uint32 {
	f.t.Helper()
	b := make([]byte, 64)
	binary.BigEndian.PutUint32(b, nr)
	binary.BigEndian.PutUint32(b[4:], arch)
	for i, a := range args {
		binary.BigEndian.PutUint32(b[offArgs+8*i:], uint32(a))
		binary.BigEndian.PutUint32(b[offArgs+8*i+4:], uint32(a>>32))
	}
	n, err := f.vm.Run(b)
	if err != nil {
		f.t.Fatal(err)
	}
	return uint32(n)
}

const (
	amd64 = unix.AUDIT_ARCH_X86_64
	eperm = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	allow = uint32(unix.SECCOMP_RET_ALLOW)
)

// Every comparison, at its edges and beyond 32 bits.
func TestConditions(t *testing.T) {
	values := []uint64{0, 1, 2, math.MaxUint32 - 1, math.MaxUint32, 1 << 32, 1<<32 + 1, 5<<32 + 7, math.MaxUint64}
	for op, want := range map[specs.LinuxSeccompOperator]func(a, v uint64) bool{
		specs.OpEqualTo: func(a, v uint64) bool { return a == v }, specs.OpNotEqual: func(a, v uint64) bool { return a != v },
		specs.OpLessThan: func(a, v uint64) bool { return a < v }, specs.OpLessEqual: func(a, v uint64) bool { return a <= v },
		specs.OpGreaterThan: func(a, v uint64) bool { return a > v }, specs.OpGreaterEqual: func(a, v uint64) bool { return a >= v },
		specs.OpMaskedEqual: func(a, v uint64) bool { return a&v == 1 },
	} {
		for _, v := range values {
			f := compile(t, &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"},
				Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 2, Value: v, ValueTwo: 1, Op: op}, {Index: 0, Value: 9, Op: specs.OpEqualTo}}}}}, "amd64")
			for _, a := range values {
				if got := f.call(amd64, 0, 9, 0, a) == allow; got != want(a, v) {
					t.Errorf("%#x %s %#x: %v", a, op, v, got)
				}
				if f.call(amd64, 0, 8, 0, a) == allow {
					t.Errorf("%s: the second condition does not count", op)
				}
			}
		}
	}
}

func TestWhatIsNotNamed(t *testing.T) {
	f := compile(t, &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"read", "write", "close", "no_such_call"}, Action: specs.ActAllow},
		{Names: []string{"clone"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 0, Value: 1, Op: specs.OpEqualTo}}},
		{Names: []string{"clone"}, Action: specs.ActLog},
		{Names: []string{"socket"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Value: 1, Op: specs.OpEqualTo}, {Value: 2, Op: specs.OpEqualTo}}},
		{Names: []string{"openat"}, Action: specs.ActErrno, ErrnoRet: new(uint(38))},
	}}, "amd64")
	for _, c := range []struct {
		arch, nr uint32
		arg      uint64
		want     uint32
	}{
		{amd64, 0, 0, allow}, {amd64, 1, 0, allow}, {amd64, 2, 0, eperm}, {amd64, 3, 0, allow}, {amd64, 4, 0, eperm},
		{amd64, 56, 1, allow}, {amd64, 56, 2, unix.SECCOMP_RET_LOG}, {amd64, 41, 1, allow}, {amd64, 41, 2, allow}, {amd64, 41, 3, eperm},
		{amd64, 257, 0, unix.SECCOMP_RET_ERRNO | 38}, {amd64, 258, 0, unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{amd64, x32Bit | 1, 0, eperm}, {0x40000003, 1, 0, eperm}, {unix.AUDIT_ARCH_AARCH64, 1, 0, eperm},
	} {
		if got := f.call(c.arch, c.nr, c.arg); got != c.want {
			t.Errorf("arch %#x call %d (%d): %#x, want %#x", c.arch, c.nr, c.arg, got, c.want)
		}
	}
	if _, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActNotify}, "amd64"); err == nil {
		t.Error("an action that needs a listener is accepted")
	}
}

// The default profile allows and refuses what Docker's documentation says.
func TestDefaultProfile(t *testing.T) {
	for _, goarch := range []string{"amd64", "arm64"} {
		p, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: hcs.CapabilitySet(hcs.DefaultCapabilities())}})
		if err != nil {
			t.Fatal(err)
		}
		f := compile(t, p, goarch)
		nums, audit, _ := numbers(goarch)
		for name, want := range map[string]uint32{"read": allow, "execve": allow, "mount": eperm, "reboot": eperm, "kexec_load": eperm,
			"clone3": unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS), "unshare": eperm, "bpf": eperm, "futex": allow} {
			if got := f.call(audit, nums[name]); got != want {
				t.Errorf("%s on %s: %#x, want %#x", name, goarch, got, want)
			}
		}
		if f.call(audit, nums["clone"], unix.CLONE_NEWUSER) != eperm || f.call(audit, nums["clone"], uint64(unix.SIGCHLD)) != allow {
			t.Errorf("clone on %s", goarch)
		}
	}
}
