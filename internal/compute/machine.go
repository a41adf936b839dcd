// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"context"
	"path/filepath"
	"runtime"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/held"
	"gatehouse.dev/gatehouse/internal/compute/model"
	"gatehouse.dev/gatehouse/internal/guest/seccomp"
	"gatehouse.dev/gatehouse/internal/instance"
)

// machinesAtATime an instance can run.
const machinesAtATime = instance.MachineUsers - 1 // the last is the probe's

// machine turns a worker's spec into that of a container in a machine of its own:
// the root file system on disks, and what QEMU and the agent are told.
func (m *making) machine(ctx context.Context, spec *held.Spec) error {
	policy := m.h.policy.Load()
	base, err := m.h.o.Machines.Base(ctx, policy.UvmImage, policy.Accelerators)
	if err != nil {
		return err
	}
	layers := make([]string, 0, len(spec.Root.Lower))
	for _, l := range spec.Root.Lower {
		disk, err := m.h.o.Machines.Layer(ctx, l)
		if err != nil {
			return &hcs.Error{Code: codeOf(err), Field: "Container.Image", Message: "make the disk of an image layer", Err: err}
		}
		layers = append(layers, disk)
	}
	scratch := filepath.Join(m.h.o.Instance.Scratch(m.row.RuntimeID), "disk.ext4")
	if err := m.h.o.Machines.Scratch(ctx, scratch); err != nil {
		return &hcs.Error{Code: codeOf(err), Message: "make the writable disk", Err: err}
	}
	vm, disks, err := model.MachineOf(*m.row.Doc.Container, layers, scratch)
	if err != nil {
		return err
	}
	uid, err := m.h.machineUID(m.s)
	if err != nil {
		return err
	}
	vm.Image = base.Image.Name
	facts := m.h.facts
	facts.TSCKHz = base.TSCKHz
	machine := model.CompileMachine(model.MachineInput{RuntimeID: m.row.RuntimeID, VM: vm, Image: base.Image, Facts: facts,
		QEMU: base.QEMU, Accelerator: base.Accelerator, UID: uid, Scratch: scratch})
	machine.Disks = disks
	g := model.GuestSpec(spec.OCI, m.etc())
	spec.OCI, machine.Copy, machine.Shares, machine.NetNsPath = g.Spec, g.Files, g.Shares, g.NetNsPath
	if p := spec.OCI.Linux.Seccomp; p != nil {
		if machine.Seccomp, err = seccomp.Compile(p, runtime.GOARCH); err != nil {
			return &hcs.Error{Code: hcs.CodeNotSupported, Field: "Container.Oci.linux.seccomp", Err: err}
		}
	}
	spec.Machine, spec.Root = &machine, held.Root{}
	return nil
}

// inMachine refuses what is done to files of a container on the host.
func inMachine() error {
	return &hcs.Error{Code: hcs.CodeNotSupported, Message: "the files of a utility VM cannot be had from outside yet"}
}

// machineUID takes the lowest user that no other machine runs as.
func (h *HCS) machineUID(s *system) (uint32, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	used := map[uint32]bool{}
	for _, o := range h.byRID {
		if o.row.Load().stopped() {
			select {
			case <-o.gone:
				continue
			default:
			}
		}
		o.mu.Lock()
		used[o.uid] = true
		if o.worker != nil && o.worker.Spec().Machine != nil { // of an earlier daemon
			used[o.worker.Spec().Machine.UID] = true
		}
		o.mu.Unlock()
	}
	for n := range uint32(machinesAtATime) {
		if uid := h.o.Instance.MachineUser(n); !used[uid] {
			s.mu.Lock()
			s.uid = uid
			s.mu.Unlock()
			return uid, nil
		}
	}
	return 0, &hcs.Error{Code: hcs.CodeNoMemory, Message: "every user of machines is in use"}
}
