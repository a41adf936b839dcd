// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package daemon

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute"
	"gatehouse.dev/gatehouse/internal/compute/held"
	"gatehouse.dev/gatehouse/internal/compute/model"
	"gatehouse.dev/gatehouse/internal/compute/uvm"
	"gatehouse.dev/gatehouse/internal/door/host"
	"gatehouse.dev/gatehouse/internal/instance"
	"gatehouse.dev/gatehouse/internal/uvm/image"
)

// machineHand is what utility VMs are made of on this host.
type machineHand struct {
	uvm.Disks
	images image.Catalogue
	prober uvm.Prober
	uid    uint32 // of the probe
}

func newMachineHand(i instance.Instance) *machineHand {
	return &machineHand{
		Disks:  uvm.Disks{Dir: filepath.Join(i.Lib, "disks"), Layers: filepath.Join(i.Lib, "layers")},
		images: image.Catalogue{Dir: i.UVMImages()},
		prober: uvm.Prober{File: filepath.Join(i.Run, "kvm.json"), Dir: filepath.Join(i.Run, "probe"), Cgroup: i.Cgroup + "/probe"},
		uid:    i.MachineUser(instance.MachineUsers - 1),
	}
}

// Base never falls back to less isolation: TCG instead of KVM is the same, slower.
func (m *machineHand) Base(ctx context.Context, name string, accelerators []string) (compute.MachineBase, error) {
	missing := func(text string, err error) (compute.MachineBase, error) {
		return compute.MachineBase{}, &hcs.Error{Code: hcs.CodeHypervNotInstalled, Field: "Container.Isolation", Message: text, Err: err}
	}
	if runtime.GOARCH != "amd64" {
		return missing("utility VMs run on amd64 only yet", nil)
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return missing("QEMU is missing: apt install qemu-system-x86", nil)
	}
	if name == "" {
		name = image.DefaultName
	}
	img, err := m.images.Get(name)
	if err != nil {
		return missing("", err)
	}
	b := compute.MachineBase{QEMU: qemu, TSCKHz: uvm.TSCKHz(),
		Image: model.VMImage{Name: img.Name, Kernel: img.KernelPath(), Initrd: img.InitrdPath(), Tools: img.ToolsPath(), Cmdline: img.Cmdline}}
	var why []string
	for _, a := range accelerators {
		if a == held.AcceleratorKVM {
			if v := m.kvm(ctx, b); !v.Works {
				why = append(why, "kvm: "+v.Why)
				continue
			}
		}
		b.Accelerator = a
		return b, nil
	}
	return missing(fmt.Sprintf("no accelerator that the policy allows works (%s)", strings.Join(why, "; ")), nil)
}

// kvm is tried with the machine that would be started.
func (m *machineHand) kvm(ctx context.Context, b compute.MachineBase) uvm.Verdict {
	probe := model.CompileMachine(model.MachineInput{RuntimeID: "probe", Image: b.Image, QEMU: b.QEMU, Accelerator: held.AcceleratorKVM, UID: m.uid,
		Facts: model.Facts{CPUs: 1, TSCKHz: b.TSCKHz}, VM: hcs.VirtualMachine{GuestConnection: &hcs.GuestConnection{},
			ComputeTopology: &hcs.Topology{Memory: &hcs.VMMemory{SizeInMB: 256, AllowOvercommit: true}}}})
	return m.prober.KVM(ctx, probe)
}

// checkMachines is what isolation Hypervisor would get; it tries KVM if that was
// not done yet.
func (d *daemon) checkMachines(ctx context.Context) host.Check {
	c := host.Check{Name: "utility VMs", State: host.OK}
	policy, _ := d.hcs.Refusals()
	b, err := d.machines.Base(ctx, policy.UvmImage, policy.Accelerators)
	if err != nil {
		c.State, c.Found, c.Do = host.Warn, strings.TrimPrefix(err.Error(), "Container.Isolation: "), "needed for isolation hypervisor only"
		return c
	}
	c.Found = fmt.Sprintf("%s, image %s, by %s", filepath.Base(b.QEMU), b.Image.Name, b.Accelerator)
	if v := d.machines.kvm(ctx, b); b.Accelerator == held.AcceleratorTCG && v.Why != "" {
		c.Found += " (kvm: " + v.Why + ")"
	}
	return c
}
