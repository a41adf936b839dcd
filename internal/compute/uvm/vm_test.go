// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package uvm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/held"
	"gatehouse.dev/gatehouse/internal/compute/model"
	"gatehouse.dev/gatehouse/internal/compute/silo"
)

// The first thread stays what /proc/self tells of, as a worker's does.
func init() { runtime.LockOSThread() }

// kernel is any kernel that QEMU boots: the guest of these tests has no root file
// system, so it panics, which is what is wanted.
func kernel(t *testing.T) string {
	if os.Geteuid() != 0 {
		t.Skip("requires root: it starts QEMU as another user")
	}
	for _, p := range []string{os.Getenv("GATEHOUSE_TEST_KERNEL"), "/var/tmp/gatehouse-vm/vmlinuz"} {
		if _, err := os.Stat(p); p != "" && err == nil {
			return p
		}
	}
	t.Skip("requires a kernel: run scripts/test-vm.sh once, or name one by GATEHOUSE_TEST_KERNEL")
	return ""
}

func qemu(t *testing.T) string {
	p, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("requires QEMU: qemu-system-x86_64 is not installed")
	}
	return p
}

// reaper of all tests: a process has one.
var reaper = sync.OnceValue(func() *silo.Reaper {
	r, err := silo.NewReaper()
	if err != nil {
		panic(err)
	}
	go r.Run(context.Background())
	return r
})

func start(t *testing.T, vm hcs.VirtualMachine) *VM {
	t.Helper()
	on, err := silo.LoadCgroups()
	if err != nil {
		t.Fatal(err)
	}
	m := model.CompileMachine(model.MachineInput{RuntimeID: "test", VM: vm, Facts: model.Facts{CPUs: 2, TSCKHz: TSCKHz()}, QEMU: qemu(t),
		Accelerator: held.AcceleratorTCG, UID: 0x67fff001})
	g := silo.Cgroup{On: on, Path: fmt.Sprintf("/gatehouse-uvmtest-%d", os.Getpid())}
	dir := t.TempDir()
	v, err := Start(t.Context(), Config{Machine: m, Dir: dir, Serial: filepath.Join(dir, "serial.log"), Group: g, Reaper: reaper()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := v.Kill(ctx); err != nil {
			t.Error(err)
		}
		if err := g.Remove(ctx); err != nil {
			t.Error(err)
		}
	})
	return v
}

func ended(t *testing.T, v *VM, limit time.Duration) End {
	t.Helper()
	select {
	case <-v.Ended():
	case <-time.After(limit):
		s, _ := v.Serial()
		t.Fatalf("it does not end; serial: %s", s)
	}
	return v.End()
}

// What QEMU can reach of the host, and that it is somebody else.
func TestMachineIsCaged(t *testing.T) {
	v := start(t, hcs.VirtualMachine{Chipset: &hcs.Chipset{LinuxKernelDirect: &hcs.LinuxKernelDirect{KernelFilePath: kernel(t)}},
		ComputeTopology: &hcs.Topology{Memory: &hcs.VMMemory{SizeInMB: 128, AllowOvercommit: true}, Processor: &hcs.VMProcessor{Limit: 90000, Weight: 50}},
		StorageQoS:      &hcs.StorageQoS{IopsMaximum: 100}, GuestConnection: &hcs.GuestConnection{}})
	proc := func(name string) string { return fmt.Sprintf("/proc/%d/%s", v.PID(), name) }
	read := func(name string) string { b, _ := os.ReadFile(proc(name)); return string(b) }
	root, err := os.ReadDir(proc("root"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range root {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != "boot dev lib lib64 usr" {
		t.Errorf("root of QEMU: %s", got)
	}
	if err := os.WriteFile(proc("root/x"), nil, 0o600); err == nil {
		t.Error("its root is writable")
	}
	for _, ns := range []string{"ns/net", "ns/mnt"} {
		mine, _ := os.Readlink("/proc/self/" + ns)
		if its, _ := os.Readlink(proc(ns)); its == mine || its == "" {
			t.Errorf("%s is %q, the host's is %q", ns, its, mine)
		}
	}
	if n := strings.Count(read("net/dev"), ":"); n != 1 {
		t.Errorf("%d network devices, wanted lo alone", n)
	}
	for _, line := range []string{"Uid:\t1744826369\t1744826369", "Gid:\t1744826369\t1744826369", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "Groups:\t \n"} {
		if s := read("status"); !strings.Contains(s, line) {
			t.Errorf("status lacks %q:\n%s", line, s)
		}
	}
	if s := read("limits"); !strings.Contains(strings.Join(strings.Fields(s), " "), "Max core file size 0 0") {
		t.Errorf("it may leave a core:\n%s", s)
	}
	if pids := v.c.Group.Processes(); len(pids) != 1 || pids[0] != v.PID() {
		t.Errorf("its cgroup has %v, wanted %d", pids, v.PID())
	}
	var st struct{ Running bool }
	if err := v.QMP().Call(t.Context(), "query-status", nil, &st); err != nil || !st.Running {
		t.Errorf("query-status: %+v, %v", st, err)
	}
	if err := v.QMP().Call(t.Context(), "stop", nil, nil); err != nil {
		t.Error(err)
	}
	err = v.QMP().Call(t.Context(), "device_add", map[string]string{"driver": "nonsense"}, nil)
	if err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("a refusal: %v", err)
	}
	if err := v.QMP().Call(t.Context(), "quit", nil, nil); err != nil {
		t.Error(err)
	}
	e := ended(t, v, 5*time.Second)
	if s := e.Status(Told{}); e.Shutdown != "host-qmp-quit" || s.ExitType != hcs.ForcedExit {
		t.Errorf("after quit: %+v %+v", e, s)
	}
	if err := v.QMP().Call(t.Context(), "query-status", nil, nil); err == nil {
		t.Error("a call after the end succeeds")
	}
}

// A guest that panics says so on its console, which is kept.
func TestMachinePanics(t *testing.T) {
	v := start(t, hcs.VirtualMachine{Chipset: &hcs.Chipset{LinuxKernelDirect: &hcs.LinuxKernelDirect{KernelFilePath: kernel(t)}},
		ComputeTopology: &hcs.Topology{Memory: &hcs.VMMemory{SizeInMB: 128, AllowOvercommit: true}}})
	e := ended(t, v, 60*time.Second)
	if !strings.Contains(e.Serial, "Kernel panic") {
		t.Errorf("serial: %q", e.Serial)
	}
	// Without the guest's pvpanic a panic looks like a reset (hcs.md §1.6).
	s := e.Status(Told{})
	if e.Shutdown != "guest-reset" || s.ExitType != hcs.UnexpectedExit || s.Attribution[0].WorkerExit.Type != hcs.WorkerStoppedOnReset {
		t.Errorf("%+v %+v", e, s)
	}
	if b, err := os.ReadFile(v.c.Serial); err != nil || !strings.Contains(string(b), "Kernel panic") {
		t.Errorf("serial.log: %v, %d bytes", err, len(b))
	}
}

// QEMU that is refused, and one that is killed.
func TestMachineEnds(t *testing.T) {
	k := kernel(t)
	on, err := silo.LoadCgroups()
	if err != nil {
		t.Fatal(err)
	}
	g := silo.Cgroup{On: on, Path: fmt.Sprintf("/gatehouse-uvmtest-%d", os.Getpid())}
	_, err = Start(t.Context(), Config{Dir: t.TempDir(), Group: g, Reaper: reaper(), Machine: held.Machine{QEMU: qemu(t), Kernel: k, UID: 0x67fff002,
		Args: []string{"-M", "nonsense"}, Files: []held.MachineFile{{Role: held.RoleSerial}, {Role: held.RoleQMP}}}})
	if err == nil || !strings.Contains(err.Error(), "unsupported machine type") {
		t.Errorf("a machine that QEMU refuses: %v", err)
	}
	if g.Exists() {
		t.Error("its cgroup is left")
	}
	v := start(t, hcs.VirtualMachine{Chipset: &hcs.Chipset{LinuxKernelDirect: &hcs.LinuxKernelDirect{KernelFilePath: k}},
		ComputeTopology: &hcs.Topology{Memory: &hcs.VMMemory{SizeInMB: 128, AllowOvercommit: true}}})
	if err := v.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	e := ended(t, v, 5*time.Second)
	if s := e.Status(Told{}); e.Signal != 9 || s.ExitType != hcs.UnexpectedExit || !strings.HasPrefix(s.Reason, "qemu: signal 9") {
		t.Errorf("killed by a stranger: %+v %+v", e, s)
	}
	if s := e.Status(Told{Terminated: true}); s.ExitType != hcs.ForcedExit || s.Status != 0 {
		t.Errorf("killed by us: %+v", s)
	}
}
