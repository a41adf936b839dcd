// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package held

// Machine is a virtual machine as its worker starts it.
type Machine struct {
	// QEMU is the program, Args its arguments without the program's name. Files are
	// named there by descriptor: the first of them is 3.
	QEMU  string
	Args  []string
	Files []MachineFile
	NICs  []MachineNIC `json:",omitempty"`
	Disks Disks
	// Copy are files put into the guest: paths below the agent's own directory to
	// those of the host.
	Copy map[string]string `json:",omitempty"`
	// Shares are directories and files of the host that the guest may mount, by their
	// index.
	Shares []Share `json:",omitempty"`
	// NetNsPath is the network whose interfaces the guest has in their stead; "" = none.
	NetNsPath string `json:",omitempty"`
	// Seccomp is the OCI spec's filter, compiled.
	Seccomp []byte `json:",omitempty"`
	// Kernel and Initrd are files of the host; QEMU sees them at MachineKernel and
	// MachineInitrd, and nothing else of the host but the distribution's /usr.
	Kernel, Initrd string
	// Accelerator is AcceleratorKVM or AcceleratorTCG.
	Accelerator string
	// UID is the user and group that QEMU runs as.
	UID uint32
	// Agent: the guest runs our agent, and is up when that has answered.
	Agent bool
	// Processors and MemoryMB of the guest.
	Processors uint32
	MemoryMB   uint64
	// QuotaMicros of CPU time in each PeriodMicros, and Weight (100 = the default) of
	// QEMU's cgroup; 0 = none.
	QuotaMicros  int64  `json:",omitempty"`
	PeriodMicros uint64 `json:",omitempty"`
	Weight       uint64 `json:",omitempty"`
}

// MachineFile is a descriptor that QEMU inherits.
type MachineFile struct {
	Role MachineRole
	// Path of a RoleDisk.
	Path     string `json:",omitempty"`
	ReadOnly bool   `json:",omitempty"`
}

// MachineNIC is a vNIC on a tap of the host's namespace.
type MachineNIC struct {
	Tap string
	MAC string
	MTU int `json:",omitempty"` // 0 = the guest's own default
}

// Share is a directory or a file of the host.
type Share struct {
	Path     string
	ReadOnly bool `json:",omitempty"`
}

// Disks say what LUNs of the first SCSI controller are for: image layers, topmost
// first, and the writable one.
type Disks struct {
	Layers  []int
	Scratch int
}

// MachineRole says what a descriptor is.
type MachineRole string

// Roles. The sockets are pairs whose other end the worker keeps, so that QEMU
// listens nowhere.
const (
	RoleQMP    MachineRole = "qmp"
	RoleSerial MachineRole = "serial"
	RoleAgent  MachineRole = "agent"
	RoleDisk   MachineRole = "disk"
)

// Accelerators.
const (
	AcceleratorKVM = "kvm"
	AcceleratorTCG = "tcg" // emulation: any host, some ten times slower
)

// Where QEMU sees its kernel.
const (
	MachineKernel = "/boot/kernel"
	MachineInitrd = "/boot/initrd"
)
