// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package proto

import (
	"encoding/json"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gatehouse.dev/gatehouse/hcs"
)

// Base is in every request.
type Base struct {
	ContainerId string // VM = the virtual machine itself
	ActivityId  string `json:",omitempty"`
}

// Result is in every response.
type Result struct {
	Result       int32         // HRESULT, 0 = done
	ErrorMessage string        `json:",omitempty"`
	ErrorRecords []ErrorRecord `json:",omitempty"`
	// Field [X] and ExitCode [X] as in hcs.ResultError.
	Field    string `json:",omitempty"`
	ExitCode int    `json:",omitempty"`
}

// ErrorRecord is one step of what went wrong.
type ErrorRecord struct {
	Result       int32
	Message      string
	StackTrace   string `json:",omitempty"`
	ModuleName   string `json:",omitempty"`
	FileName     string `json:",omitempty"`
	Line         uint32 `json:",omitempty"`
	FunctionName string `json:",omitempty"`
}

// ResultOf is an error as a response has it; nil is success.
func ResultOf(err error) Result {
	if err == nil {
		return Result{}
	}
	r := hcs.ResultOf(err)
	return Result{Result: r.Error, ErrorMessage: r.ErrorMessage, Field: r.Field, ExitCode: r.ExitCode}
}

// Err is the error of a response, or nil.
func (r Result) Err() error {
	if r.Result == 0 {
		return nil
	}
	return &hcs.Error{Code: hcs.Code(uint32(r.Result)), Message: r.ErrorMessage, ExitCode: r.ExitCode}
}

// NegotiateRequest is the first request of a session. It brings what a machine
// without a disk cannot know.
type NegotiateRequest struct {
	Base
	MinimumVersion, MaximumVersion uint32
	Time                           int64  // UnixNano; 0 = leave the clock alone
	Entropy                        []byte // 64 bytes; credited
	HostName                       string `json:",omitempty"`
	// TimeZone is the content of the host's /etc/localtime, at most 64 KiB.
	TimeZone []byte `json:",omitempty"`
}

// NegotiateResponse says what the agent can do.
type NegotiateResponse struct {
	Result
	Version      uint32
	Capabilities Capabilities
	Uptime100ns  uint64
}

// Capabilities of an agent.
type Capabilities struct {
	SendHostCreateMessage      bool
	SendHostStartMessage       bool
	HvSocketConfigOnStartup    bool
	SendLifecycleNotifications bool
	SupportedSchemaVersions    []hcs.SchemaVersion
	RuntimeOsType              string
	GuestDefinedCapabilities   GuestCapabilities
}

// GuestCapabilities are those of agents on Linux.
type GuestCapabilities struct {
	NamespaceAddRequestSupported  bool
	SignalProcessSupported        bool
	DumpStacksSupported           bool
	DeleteContainerStateSupported bool
	UpdateContainerSupported      bool
	// Ours.
	CloneSupported bool
	DialSupported  bool
	// Runtimes are the ways to start a container that need no disk: "own". What the
	// tools disk has, the image's Features say.
	Runtimes []string
}

// Modes of a container.
const (
	ModeHolder = "holder" // the agent's own reaper is process 1; processes come and go
	ModeInit   = "init"   // the caller's process is process 1; its end is the container's
)

// ContainerConfig says what to create.
type ContainerConfig struct {
	Id   string
	Mode string
	// RootPath is a directory of the guest: what CombinedLayers mounted, or a share.
	RootPath string
	// OCI is the spec, its root.path ignored. User names are resolved in RootPath.
	OCI *specs.Spec
	// Seccomp is OCI.Linux.Seccomp as a classic BPF program, 8 bytes an
	// instruction in the guest's byte order (package seccomp compiles it). Without
	// it a spec with a seccomp profile is left to crun, which makes its own.
	Seccomp []byte `json:",omitempty"`
	// Stdio of init, in init mode.
	Stdio Stdio
	// NamespaceId joins the network of the container of that Id, VM that of the
	// virtual machine (a pod's). "" = a network of its own, to be filled by AddNetwork.
	// Other namespaces are joined likewise: OCI.Linux.Namespaces[].Path is an Id or VM.
	NamespaceId string
	Isolation   string `json:",omitempty"`
}

// Stdio says which streams with Key a process is joined to. Without a stream it
// gets /dev/null. With a terminal StdOut carries all output.
type Stdio struct {
	Key    uint64
	StdIn  bool `json:",omitempty"`
	StdOut bool `json:",omitempty"`
	StdErr bool `json:",omitempty"`
}

// CreateRequest makes a container that runs nothing yet. In init mode its process
// is prepared, and its streams must be open: they are waited for 5 s.
type CreateRequest struct {
	Base
	ContainerConfig ContainerConfig
}

// StartResponse: Pid is init's in the root pid namespace of the VM; 0 in holder mode.
type StartResponse struct {
	Result
	Pid uint32
}

// ShutdownRequest of ShutdownGraceful, ShutdownForced. For the VM there is no
// response: the goodbye is it.
type ShutdownRequest struct {
	Base
	Reason string     `json:",omitempty"`
	Signal hcs.Signal `json:",omitempty"` // replaces the stop signal
}

// ExecuteRequest runs a further process, with VM one outside of all containers.
type ExecuteRequest struct {
	Base
	Settings ExecuteSettings
}

// ExecuteSettings are of one process.
type ExecuteSettings struct {
	ProcessParameters hcs.ProcessParameters
	Stdio             Stdio
}

// ExecuteResponse: ProcessId in the root pid namespace of the VM.
type ExecuteResponse struct {
	Result
	ProcessId uint32
}

// WaitRequest waits for the end of a process that Start or ExecuteProcess made.
type WaitRequest struct {
	Base
	ProcessId   uint32
	TimeoutInMs uint32 // WaitForever = no limit
}

// WaitForever as WaitRequest.TimeoutInMs.
const WaitForever = 0xffffffff

// WaitResponse has the exit byte, or 128 + signal.
type WaitResponse struct {
	Result
	ExitCode uint32
}

// SignalRequest signals a process; gone is HCS_E_PROCESS_ALREADY_STOPPED.
type SignalRequest struct {
	Base
	ProcessId uint32
	Options   hcs.SignalProcessOptions
}

// ResizeRequest sizes a terminal.
type ResizeRequest struct {
	Base
	ProcessId     uint32
	Height, Width uint16
}

// PropertiesRequest asks for Statistics, ProcessList, Memory or LCOWMetrics.
type PropertiesRequest struct {
	Base
	Query hcs.PropertyQuery
}

// PropertiesResponse answers it. Every number in it is the guest's word.
type PropertiesResponse struct {
	Result
	Properties hcs.Properties
}

// ModifyRequest carries one of the documents below.
type ModifyRequest struct {
	Base
	Request hcs.GuestRequest
}

// ResourceTypes of a GuestRequest.
const (
	ResourceMappedDirectory   = "MappedDirectory"
	ResourceMappedVirtualDisk = "MappedVirtualDisk"
	ResourceCombinedLayers    = "CombinedLayers"
	ResourceNetwork           = "Network" // Settings: Network
	ResourceConstraints       = "ContainerConstraints"
)

// ShareTag is the tag of the one virtio-fs device of a VM.
const ShareTag = "gatehouse"

// MappedDirectory mounts ShareName, a path below the shared directory, at MountPath.
type MappedDirectory struct {
	MountPath string
	ShareName string
	Port      uint32 `json:",omitempty"`
	ReadOnly  bool   `json:",omitempty"`
}

// MappedVirtualDisk mounts the disk that is Lun of SCSI target 0 on Controller.
// The agent sees by itself whether it holds EROFS or ext4. Without a MountPath it
// only waits until the disk is there.
type MappedVirtualDisk struct {
	MountPath  string `json:",omitempty"`
	Lun        uint8
	Controller uint8    `json:",omitempty"`
	ReadOnly   bool     `json:",omitempty"`
	Options    []string `json:",omitempty"`
}

// CombinedLayers stacks Layers, topmost first, under a writable directory of
// ScratchPath (u and w below it). Without a ScratchPath the writable directory is
// memory. Without Layers it is the scratch directory itself.
type CombinedLayers struct {
	ContainerRootPath string
	Layers            []hcs.Layer `json:",omitempty"`
	ScratchPath       string      `json:",omitempty"`
}

// Constraints are limits of a running container.
type Constraints struct {
	Linux specs.LinuxResources
}

// StacksResponse of DumpStacks.
type StacksResponse struct {
	Result
	GuestStacks string
}

// UpdateRequest of UpdateContainer.
type UpdateRequest struct {
	Base
	Resources specs.LinuxResources
}

// SetTimeRequest steps the clock when it is more than 50 ms off. With Monotone it
// never goes back.
type SetTimeRequest struct {
	Base
	UnixNano int64
	Monotone bool `json:",omitempty"`
}

// EntropyRequest mixes bytes in, credits them, and reseeds.
type EntropyRequest struct {
	Base
	Entropy []byte
}

// NetworkRequest of AddNetwork and RemoveNetwork (there MacAddress alone counts).
type NetworkRequest struct {
	Base
	Network Network
}

// Network is an endpoint, flattened: what one NIC is to have. ContainerId of the
// request says in whose network it goes; VM = the root network, a pod's.
type Network struct {
	EndpointId string `json:",omitempty"`
	// MacAddress finds the NIC, 00-15-5D-52-C0-10 or with colons. With Slot, the
	// NIC is the Slot-th (from 1) and gets that address.
	MacAddress string
	Slot       uint32      `json:",omitempty"`
	MTU        uint32      `json:",omitempty"`
	Name       string      `json:",omitempty"` // eth0
	Addresses  []string    `json:",omitempty"` // 10.0.0.5/24, fd00::5/64
	Routes     []Route     `json:",omitempty"`
	Neighbours []Neighbour `json:",omitempty"` // permanent
	Dns        *Dns        `json:",omitempty"`
	HostName   string      `json:",omitempty"`
	Hosts      []Host      `json:",omitempty"` // beside localhost
}

// Route of a Network.
type Route struct {
	Destination string // 0.0.0.0/0
	NextHop     string `json:",omitempty"`
	Metric      uint32 `json:",omitempty"`
	Scope       string `json:",omitempty"` // global, link, host
}

// Neighbour of a Network.
type Neighbour struct{ IP, MAC string }

// Dns is what resolv.conf says.
type Dns struct {
	Servers []string `json:",omitempty"`
	Search  []string `json:",omitempty"`
	Options []string `json:",omitempty"`
}

// Host is a line of the hosts file.
type Host struct {
	IP    string
	Names []string
}

// FreezeRequest of Freeze and Thaw names the mount point, "" = every scratch.
type FreezeRequest struct {
	Base
	Path string `json:",omitempty"`
}

// PrepareRequest ends the session from the guest's side: the answer is its last
// message, then the agent waits for a new Hello.
type PrepareRequest struct {
	Base
	Template bool
}

// FilesRoot is below which CopyFile writes.
const FilesRoot = "/run/gatehouse/files"

// CopyFileRequest writes the content of the copy stream with Key to Path, below
// FilesRoot, whole or not at all.
type CopyFileRequest struct {
	Base
	Path     string
	Mode     uint32
	Uid, Gid uint32
	Key      uint64
}

// ContainerNotification is the end of a container.
type ContainerNotification struct {
	Base
	Type       hcs.ExitType
	Operation  string // ActiveOperation: None, Create …
	Result     int32
	ResultInfo json.RawMessage `json:",omitempty"`
}

// ProcessExitedNotification comes after the process's streams are at their end,
// or 1 s after its exit. Key is that of its Stdio.
type ProcessExitedNotification struct {
	Base
	ProcessId uint32
	Key       uint64
	ExitCode  uint32
	Signal    uint32 `json:",omitempty"`
	OOM       bool   `json:",omitempty"`
}

// Goodbye reasons.
const (
	GoodbyePowerOff   = "PowerOff"
	GoodbyeReboot     = "Reboot"
	GoodbyeAgentPanic = "AgentPanic"
)

// GoodbyeNotification is the last word before power off.
type GoodbyeNotification struct {
	Base
	Reason  string
	Message string `json:",omitempty"`
}

// PipeNotification: something inside connected to a mapped pipe; the host opens a
// dial stream with Key.
type PipeNotification struct {
	Base
	Pipe string
	Key  uint64
}

// LogNotification is a line of the agent's log.
type LogNotification struct {
	Base
	Line string
}
