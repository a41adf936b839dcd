// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package uvm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"gatehouse.dev/gatehouse/internal/compute/held"
	"gatehouse.dev/gatehouse/internal/compute/silo"
)

// ProbeName is the argv[0] under which the binary tries an accelerator.
const ProbeName = "gatehouse-probe"

// probeBoot is what a boot that works needs a tenth of.
const probeBoot = 3 * time.Second

// Prober finds out whether KVM works here, by booting a machine: /dev/kvm opens on
// hosts where every boot hangs. The answer is kept for as long as host, QEMU and
// kernel are the same.
type Prober struct {
	// File keeps the answer, Dir is for the machine. Exe is the program that is a
	// probe when named ProbeName; "" = this one.
	File, Dir, Exe string
	// Cgroup of the machine, below each hierarchy's root.
	Cgroup string

	mu sync.Mutex // one at a time
}

// Verdict of a probe.
type Verdict struct {
	Key   string // of what was tried
	Works bool
	Why   string `json:",omitempty"` // it does not
}

// KVM tries the machine m, whose guest has the agent, with KVM. It takes up to
// three seconds, the first time.
func (p *Prober) KVM(ctx context.Context, m held.Machine) Verdict {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return Verdict{Why: "no /dev/kvm"}
	}
	key := probeKey(m)
	p.mu.Lock()
	defer p.mu.Unlock()
	var v Verdict
	if b, err := os.ReadFile(p.File); err == nil && json.Unmarshal(b, &v) == nil && v.Key == key {
		return v
	}
	v = Verdict{Key: key}
	err := p.try(ctx, m)
	if ctx.Err() != nil {
		return Verdict{Why: ctx.Err().Error()} // says nothing about KVM
	}
	if v.Works = err == nil; err != nil {
		v.Why = err.Error()
	}
	if b, err := json.Marshal(v); err == nil {
		_ = os.WriteFile(p.File, b, 0o600) // else it is tried again
	}
	return v
}

// probeKey changes with the boot of the host, and with QEMU's and the kernel's file.
func probeKey(m held.Machine) string {
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	key := strings.TrimSpace(string(boot))
	for _, f := range []string{m.QEMU, m.Kernel, m.Initrd} {
		if st, err := os.Stat(f); err == nil {
			key += fmt.Sprintf(" %s:%d:%d", f, st.Size(), st.ModTime().UnixNano())
		}
	}
	return key
}

// try boots in a process of its own, which nothing of the machine outlives.
func (p *Prober) try(ctx context.Context, m held.Machine) error {
	exe := p.Exe
	if exe == "" {
		exe = "/proc/self/exe"
	}
	b, err := json.Marshal(probeOrder{Machine: m, Dir: p.Dir, Cgroup: p.Cgroup})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, probeBoot+5*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, exe)
	c.Args = []string{ProbeName}
	c.Stdin = bytes.NewReader(b)
	out, err := c.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if s := strings.TrimSpace(string(exit.Stderr)); s != "" {
			return errors.New(s[strings.LastIndexByte(s, '\n')+1:])
		}
	}
	if err == nil && strings.TrimSpace(string(out)) != probeWorks {
		err = fmt.Errorf("the probe says %q", out)
	}
	return err
}

type probeOrder struct {
	Machine     held.Machine
	Dir, Cgroup string
}

const probeWorks = "works"

// IsProbe reports whether args are those of a probe.
func IsProbe(args []string) bool { return len(args) > 0 && filepath.Base(args[0]) == ProbeName }

// ProbeMain is the probe's process; it returns the exit status. Call it from the
// goroutine of main, locked to its thread.
func ProbeMain() int {
	if err := probe(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(probeWorks)
	return 0
}

func probe() error {
	runtime.LockOSThread() // /proc/self stays the host's
	var o probeOrder
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		return fmt.Errorf("%s: is started by gatehouse: %w", ProbeName, err)
	}
	on, err := silo.LoadCgroups()
	if err != nil {
		return err
	}
	reaper, err := silo.NewReaper()
	if err != nil {
		return err
	}
	go reaper.Run(context.Background())
	ctx, cancel := context.WithTimeout(context.Background(), probeBoot)
	defer cancel()
	group := silo.Cgroup{On: on, Path: o.Cgroup}
	vm, err := Start(ctx, Config{Machine: o.Machine, Dir: o.Dir, Group: group, Reaper: reaper})
	if err != nil {
		return err
	}
	g, err := connect(ctx, vm, "probe")
	if err == nil {
		g.session.Close()
	} else if ctx.Err() != nil {
		err = fmt.Errorf("a guest does not come up within %v", probeBoot)
	}
	_ = syscall.Kill(vm.PID(), syscall.SIGKILL)
	clean, stop := context.WithTimeout(context.Background(), 4*time.Second)
	defer stop()
	return errors.Join(err, vm.Kill(clean), group.Remove(clean))
}
