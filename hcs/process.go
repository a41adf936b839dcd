// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcs

import (
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ProcessParameters describes a process to create, or a container's init.
// Absent CommandLine and CommandArgs on an init process mean the image's own.
type ProcessParameters struct {
	// ApplicationName, when not empty, is the file to run; the rest is argv[1:].
	// For init it stands for the image's entry point, as --entrypoint does.
	ApplicationName string `json:",omitempty"`
	// CommandLine is split by POSIX shell word rules without expansion; it counts
	// only where CommandArgs is empty.
	CommandLine string   `json:",omitempty"`
	CommandArgs []string `json:",omitempty"`
	// User is name, uid, uid:gid or name:group, resolved inside the container's
	// root file system. Absent = the container's, then root.
	User string `json:",omitempty"`
	// WorkingDirectory is absolute. Absent = the container's, then "/".
	WorkingDirectory string `json:",omitempty"`
	// Environment is added over the container's own.
	Environment map[string]string `json:",omitempty"`
	// EmulateConsole asks for a terminal: stderr joins stdout.
	EmulateConsole bool `json:",omitempty"`
	// ConsoleSize is height, width.
	ConsoleSize [2]uint16 `json:",omitzero"`
	// CreateStd*Pipe: false = /dev/null. With EmulateConsole the console stands
	// for all of them and CreateStdInPipe says whether input is taken.
	CreateStdInPipe  bool `json:",omitempty"`
	CreateStdOutPipe bool `json:",omitempty"`
	CreateStdErrPipe bool `json:",omitempty"`
	// RestrictedToken drops all capabilities and sets no_new_privs.
	RestrictedToken  bool `json:",omitempty"`
	UseExistingLogin bool `json:",omitempty"`
	UseLegacyConsole bool `json:",omitempty"`
	// Oci [X] has all else: capabilities (they replace the default set, see
	// Capabilities), rlimits, oomScoreAdj, noNewPrivileges, apparmor, selinux. Its
	// args, env, cwd, user and terminal count where the members above are absent.
	Oci *specs.Process `json:",omitempty"`
	// OciProcess is the older spelling of Oci.
	OciProcess *specs.Process `json:",omitempty"`
}

// ProcessInformation is the answer of CreateProcess and of Start in init mode.
type ProcessInformation struct {
	ProcessId     uint32
	HostProcessId uint32 `json:",omitempty"` // [X] 0 if there is none
	// Key [X] is "init" or "p<n>": unlike ProcessId never reused in its system.
	Key string
	// StdInput, StdOutput, StdError are paths of the API to upgrade.
	StdInput  string `json:",omitempty"`
	StdOutput string `json:",omitempty"`
	StdError  string `json:",omitempty"`
}

// ProcessStatus says how a process stands. ExitCode counts only when Exited and
// LastWaitResult is 0; it is the exit byte, or 128 + signal.
type ProcessStatus struct {
	ProcessId      uint32
	Exited         bool
	ExitCode       uint32
	LastWaitResult int32
	// Key [X] as in ProcessInformation.
	Key string `json:",omitempty"`
	// ExitedAt [X] is when it was reaped.
	ExitedAt time.Time `json:",omitzero"`
}

// ProcessDetails is one row of Properties.ProcessList.
type ProcessDetails struct {
	ProcessId                    uint32
	ImageName                    string    `json:",omitempty"`
	CreateTimestamp              time.Time `json:",omitzero"`
	UserTime100ns                uint64    `json:",omitempty"`
	KernelTime100ns              uint64    `json:",omitempty"`
	MemoryCommitBytes            uint64    `json:",omitempty"`
	MemoryWorkingSetPrivateBytes uint64    `json:",omitempty"`
	MemoryWorkingSetSharedBytes  uint64    `json:",omitempty"`
	// Key [X] is set on processes that were made by a verb.
	Key string `json:",omitempty"`
}

// ProcessModifyRequest resizes a console or closes a handle.
type ProcessModifyRequest struct {
	Operation   string       // ConsoleSize, CloseHandle
	ConsoleSize *ConsoleSize `json:",omitempty"`
	CloseHandle *CloseHandle `json:",omitempty"`
}

// Values of ProcessModifyRequest.Operation and CloseHandle.Handle.
const (
	ModifyConsoleSize = "ConsoleSize"
	ModifyCloseHandle = "CloseHandle"

	HandleStdIn  = "StdIn"
	HandleStdOut = "StdOut"
	HandleStdErr = "StdErr"
	HandleAll    = "All"
)

// ConsoleSize in characters; zeroes are ignored.
type ConsoleSize struct{ Height, Width uint16 }

// CloseHandle names the stream to close.
type CloseHandle struct{ Handle string }

// SignalDelivered [X] answers a signal: false means that the process was gone.
type SignalDelivered struct{ Delivered bool }
