// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package model is the pure half of the Host Compute Service: the states of a
// compute system and the verbs they allow, what makes a document valid, what a
// document becomes as an OCI spec, and what an exit is called. No clock, no disk.
package model

// CgroupMode is the layout of the host's cgroup hierarchies.
type CgroupMode string

// Layouts. In Hybrid the controllers are on v1 and a v2 mount has none.
const (
	CgroupV1     CgroupMode = "v1"
	CgroupHybrid CgroupMode = "hybrid"
	CgroupV2     CgroupMode = "v2"
)

// Facts are what only the host knows.
type Facts struct {
	Cgroup CgroupMode
	CPUs   int
	// LastCapability is the highest capability number of the kernel; 0 = 40.
	LastCapability int
	// NoSeccomp: the kernel or the runtime has none.
	NoSeccomp bool
	// RecursiveReadOnly: the runtime knows the mount option rro.
	RecursiveReadOnly bool
	// NoSwapLimit: the memory controller does not account swap.
	NoSwapLimit bool
	// MaxOpenFiles is the highest RLIMIT_NOFILE that can be given to a process;
	// 0 = any, which takes CAP_SYS_RESOURCE.
	MaxOpenFiles uint64
	// Machines: this service runs utility VMs.
	Machines bool
	// LibraryOS: the runtime of library OSes is installed.
	LibraryOS bool
	// TSCKHz is the frequency of the time stamp counter, which emulation passes on
	// to guests; 0 = unknown, or another architecture.
	TSCKHz uint64
}
