// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gatehouse.dev/gatehouse/hcs"
)

// library checks what a library OS cannot do: it has a kernel of its own, and of the
// host's only files, sockets and a vNIC.
func library(c hcs.Container, f Facts) error {
	if !f.LibraryOS {
		return refuse("Container.Isolation", "this host has no library OS; install one with: apt install runsc")
	}
	no := func(field, why string) error { return refuse("Container."+field, "a library OS %s", why) }
	if len(c.AssignedDevices) > 0 {
		return no("AssignedDevices", "sees no devices of the host")
	}
	if c.PidsLimit > 0 {
		return no("PidsLimit", "does not limit processes: they are none of the host's")
	}
	if n := c.Networking; n != nil && n.NetworkSharedContainerName != "" {
		return no("Networking.NetworkSharedContainerName", "takes a network over and shares it with nobody")
	}
	if p := c.InitProcess; p != nil {
		if err := libraryProcess("Container.InitProcess.Oci", p.Oci); err != nil {
			return err
		}
	}
	o := c.Oci
	if o == nil {
		return nil
	}
	if err := libraryProcess("Container.Oci.process", o.Process); err != nil || o.Linux == nil {
		return err
	}
	for i, n := range o.Linux.Namespaces {
		if n.Path != "" {
			return no(fmt.Sprintf("Oci.linux.namespaces[%d].path", i), "has namespaces of its own")
		}
	}
	for _, x := range []struct {
		field string
		has   bool
	}{{"devices", len(o.Linux.Devices) > 0}, {"sysctl", len(o.Linux.Sysctl) > 0}, {"seccomp", o.Linux.Seccomp != nil},
		{"intelRdt", o.Linux.IntelRdt != nil}, {"personality", o.Linux.Personality != nil}, {"timeOffsets", len(o.Linux.TimeOffsets) > 0},
		{"resources.pids", o.Linux.Resources != nil && o.Linux.Resources.Pids != nil}} {
		if x.has {
			return no("Oci.linux."+x.field, "knows nothing of it")
		}
	}
	return nil
}

// libraryProcess checks what an OCI process asks of the kernel.
func libraryProcess(field string, p *specs.Process) error {
	if p == nil {
		return nil
	}
	for _, x := range []struct {
		member string
		has    bool
	}{{"apparmorProfile", p.ApparmorProfile != ""}, {"selinuxLabel", p.SelinuxLabel != ""}, {"scheduler", p.Scheduler != nil},
		{"ioPriority", p.IOPriority != nil}, {"execCPUAffinity", p.ExecCPUAffinity != nil}} {
		if x.has {
			return refuse(field+"."+x.member, "a library OS knows nothing of it")
		}
	}
	return nil
}

// LibraryProcess checks a further process of a library OS.
func LibraryProcess(p hcs.ProcessParameters) error { return libraryProcess("Oci", p.Oci) }
