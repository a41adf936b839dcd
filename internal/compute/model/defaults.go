// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gatehouse.dev/gatehouse/hcs"
)

// What a container has when its document has no OCI spec of its own: as strict as
// Docker's defaults, and the same wherever a program could notice.

// maskedPaths as in moby daemon/pkg/oci/defaults.go.
func maskedPaths() []string {
	return []string{"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"}
}

// readonlyPaths as there.
func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

func mounts() []specs.Mount {
	m := func(dst, typ, src string, options ...string) specs.Mount {
		return specs.Mount{Destination: dst, Type: typ, Source: src, Options: options}
	}
	return []specs.Mount{
		m("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
		m("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
		m("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
		m("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
		m("/sys/fs/cgroup", "cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev"),
		m("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
		m("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
	}
}

func namespaces(f Facts) []specs.LinuxNamespace {
	n := []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace},
		{Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace}}
	if f.Cgroup == CgroupV2 {
		n = append(n, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return n
}

// defaultProcess has the rights of a container's processes.
func defaultProcess(f Facts) specs.Process {
	files := uint64(524288) // what systemd gives a service, and so Docker since 25
	if f.MaxOpenFiles != 0 {
		files = min(files, f.MaxOpenFiles)
	}
	zero := 0 // not the service's own, which systemd may have lowered
	return specs.Process{
		Capabilities: hcs.CapabilitySet(hcs.DefaultCapabilities()),
		Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: min(1024, files), Hard: files}},
		OOMScoreAdj:  &zero,
	}
}

func defaultSpec(f Facts) specs.Spec {
	p := defaultProcess(f)
	return specs.Spec{
		Version: "1.0.2-dev", // what the oldest runtime that we support knows: runc 1.1
		Process: &p,
		Mounts:  mounts(),
		Linux: &specs.Linux{
			Namespaces:    namespaces(f),
			MaskedPaths:   maskedPaths(),
			ReadonlyPaths: readonlyPaths(),
			Resources: &specs.LinuxResources{
				// The runtime allows its own default devices after this.
				Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
			},
		},
	}
}
