// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/held"
)

const (
	// guestOverheadMB is what a machine needs beside its container's limit.
	guestOverheadMB = 256
	// guestFiles is where the agent keeps files that were copied in, fixed by the
	// guest protocol.
	guestFiles = "/run/gatehouse/files"
	// firstLayerLUN: LUN 0 is the image's tools.
	firstLayerLUN = toolsLUN + 1
	// maxGuestLayers that a machine stacks, each a disk of its own.
	maxGuestLayers = maxLUNs - firstLayerLUN - 1
)

// GuestFacts are those of the kernel in a machine, where the host's do not count:
// every guest has cgroups of version 2 and all capabilities.
func GuestFacts(host Facts) Facts {
	return Facts{Cgroup: CgroupV2, CPUs: host.CPUs}
}

// MachineOf is the machine that a container gets for itself: disks are its image
// layers' EROFS files, topmost first, and scratch its writable one. The second
// result says which LUN is which.
func MachineOf(c hcs.Container, layers []string, scratch string) (hcs.VirtualMachine, held.Disks, error) {
	var d held.Disks
	if len(layers) > maxGuestLayers {
		return hcs.VirtualMachine{}, d, &hcs.Error{Code: hcs.CodeInvalidLayer, Field: "Container.Storage.Layers",
			Message: fmt.Sprintf("%d layers, over the %d that a machine can have", len(layers), maxGuestLayers)}
	}
	disks := map[string]hcs.Attachment{}
	for i, l := range layers {
		lun := firstLayerLUN + i
		disks[strconv.Itoa(lun)] = hcs.Attachment{Type: "VirtualDisk", Path: l, ReadOnly: true}
		d.Layers = append(d.Layers, lun)
	}
	d.Scratch = firstLayerLUN + len(layers)
	disks[strconv.Itoa(d.Scratch)] = hcs.Attachment{Type: "VirtualDisk", Path: scratch}
	memory := hcs.VMMemory{AllowOvercommit: true}
	if c.Memory != nil && c.Memory.SizeInMB > 0 {
		memory.SizeInMB = c.Memory.SizeInMB + guestOverheadMB
	}
	top := &hcs.Topology{Memory: &memory}
	if c.Processor != nil && c.Processor.Count > 0 {
		top.Processor = &hcs.VMProcessor{Count: c.Processor.Count}
	}
	return hcs.VirtualMachine{ComputeTopology: top, GuestConnection: &hcs.GuestConnection{},
		Devices: &hcs.Devices{Scsi: map[string]hcs.Scsi{"0": {Attachments: disks}}}}, d, nil
}

// ValidateGuest checks what a valid container's document asks and a machine's
// kernel cannot give.
func ValidateGuest(c hcs.Container) error {
	const prefix = "Container."
	switch {
	case len(c.MappedPipes) > 0:
		return refuse(prefix+"MappedPipes", "sockets of the host are not shown in utility VMs yet; use isolation Process")
	case len(c.AssignedDevices) > 0:
		return refuse(prefix+"AssignedDevices", "a utility VM has no devices of the host")
	case c.Storage != nil && c.Storage.Path != "":
		return refuse(prefix+"Storage.Path", "the writable layer of a utility VM is a disk of the service; leave it out")
	case c.Processor != nil && c.Processor.Cpus != "":
		return refuse(prefix+"Processor.Cpus", "the processors of a utility VM are not the host's")
	}
	if n := c.Networking; n != nil && n.NetworkSharedContainerName != "" {
		return refuse(prefix+"Networking.NetworkSharedContainerName", "only containers of one kernel can share a network")
	}
	o := c.Oci
	if o == nil {
		return nil
	}
	for i, m := range o.Mounts {
		for _, o := range m.Options {
			if slices.Contains([]string{"shared", "rshared", "slave", "rslave"}, o) {
				return refuse(fmt.Sprintf("%sOci.mounts[%d].options", prefix, i), "%s: mounts do not come and go across a utility VM's border", o)
			}
		}
	}
	if o.Hooks != nil {
		return refuse(prefix+"Oci.hooks", "programs of the host do not run in a utility VM")
	}
	if o.Linux == nil {
		return nil
	}
	for i, n := range o.Linux.Namespaces {
		if n.Path != "" && n.Type != specs.NetworkNamespace {
			return refuse(fmt.Sprintf("%sOci.linux.namespaces[%d].path", prefix, i), "a utility VM has no namespaces of the host")
		}
	}
	if len(o.Linux.Devices) > 0 {
		return refuse(prefix+"Oci.linux.devices", "a utility VM has no devices of the host")
	}
	return nil
}

// Guest is a compiled container as the agent is told of it.
type Guest struct {
	Spec specs.Spec
	// Files are copied into the machine: names below the agent's directory, to those
	// of the host.
	Files map[string]string
	// Shares of the host, mounted inside at /m/<index>.
	Shares []held.Share
	// NetNsPath is the network that the machine has in its stead; "" = none.
	NetNsPath string
}

// GuestSpec makes a spec for the host's kernel one for a machine's.
func GuestSpec(s specs.Spec, etcDir string) Guest {
	g := Guest{Files: map[string]string{}}
	l := *s.Linux
	l.Namespaces = slices.Clone(l.Namespaces)
	for i, n := range l.Namespaces {
		if n.Type == specs.NetworkNamespace {
			g.NetNsPath = n.Path
		}
		l.Namespaces[i].Path = ""
	}
	l.CgroupsPath, l.IntelRdt = "", nil
	if l.Resources != nil {
		r := *l.Resources
		r.BlockIO, r.HugepageLimits, r.Network, r.Rdma = nil, nil, nil, nil
		l.Resources = &r
	}
	s.Linux, s.Hooks, s.Mounts = &l, nil, slices.Clone(s.Mounts)
	for i, m := range s.Mounts {
		switch {
		case !isBind(m):
		case etcDir != "" && filepath.Dir(m.Source) == etcDir:
			name := path.Join("etc", filepath.Base(m.Source))
			g.Files[name] = m.Source
			s.Mounts[i].Source = path.Join(guestFiles, name)
		default:
			s.Mounts[i].Source = fmt.Sprintf("/m/%d", len(g.Shares))
			g.Shares = append(g.Shares, held.Share{Path: m.Source, ReadOnly: slices.Contains(m.Options, "ro") || slices.Contains(m.Options, "rro")})
		}
	}
	g.Spec = s
	return g
}

func isBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}
