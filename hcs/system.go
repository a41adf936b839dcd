// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package hcs has the documents of the Host Compute Service, version 2 of its
// schema, with their codes and errors, and a thin client. It decides nothing:
// what a document means is in the service.
//
// Member names are the wire's, PascalCase. Zero and absent are the same for
// numbers and booleans. Members marked [X] are extensions of ours.
//
// How the wishes of a container's user are said in a document:
//
//	image                 Container.Image
//	command               Container.InitProcess.CommandArgs (absent = the image's)
//	entry point           InitProcess.ApplicationName; the image's command is then not used
//	environment, user, working directory, terminal
//	                      InitProcess.Environment, User, WorkingDirectory, EmulateConsole
//	interactive           InitProcess.CreateStdInPipe
//	capabilities          InitProcess.Oci.Capabilities, a whole set made with Capabilities(add, drop)
//	rlimits, oom score, no new privileges
//	                      InitProcess.Oci
//	binds                 Container.MappedDirectories
//	memory, pids          Container.Memory.SizeInMB, Container.PidsLimit
//	fractions of a CPU    Container.Processor.Maximum made with ProcessorMaximum(cpus, hostCPUs),
//	                      or exactly: Container.Oci.Linux.Resources.CPU quota and period
//	read-only root        Container.RootReadOnly
//	host name             Container.GuestOs.HostName
//	networks, addresses, published ports
//	                      Container.Networking.Endpoints, HCN endpoint documents
//	stop signal           Annotations[AnnotationStopSignal]
//	forget at exit, keep after exit, labels
//	                      Annotations[AnnotationRemove], [AnnotationKeep], any other key
//
// Container.Oci may be partial: what it has and the members of this schema have
// not is taken over. It is complete (and nothing is filled in) when it has mounts
// of its own.
//
// A start that the runtime refused answers an error whose ResultError.ExitCode
// is what a shell would say: 127 not found, 126 not executable, else 125.
package hcs

import (
	"encoding/json"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// SchemaVersion of a document. Absent in create means 2.1; we emit 2.6.
type SchemaVersion struct {
	Major uint32
	Minor uint32
}

// NewestSchema is the version that we emit.
func NewestSchema() SchemaVersion { return SchemaVersion{Major: 2, Minor: 6} }

func (v SchemaVersion) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// ComputeSystem is the create document. Exactly one of Container, VirtualMachine
// and HostedSystem is present.
type ComputeSystem struct {
	// Owner is who made it; absent = uid:<n> of the caller.
	Owner         string         `json:",omitempty"`
	SchemaVersion *SchemaVersion `json:",omitempty"`
	// HostingSystemId is the running virtual machine that hosts this container.
	HostingSystemId string          `json:",omitempty"`
	HostedSystem    json.RawMessage `json:",omitempty"`
	Container       *Container      `json:",omitempty"`
	VirtualMachine  *VirtualMachine `json:",omitempty"`
	// ShouldTerminateOnLastHandleClosed ends the system with its last lease.
	ShouldTerminateOnLastHandleClosed bool `json:",omitempty"`
	// Annotations [X] go to the OCI annotations and to Properties.
	Annotations map[string]string `json:",omitempty"`
	// Template [X] clones a system that was saved as template.
	Template string `json:",omitempty"`
}

// Annotations that the service itself reads.
const (
	// AnnotationKeep "true": after the stop the system stays listed with all=true,
	// with its log and writable layer, until it is deleted.
	AnnotationKeep = "io.gatehouse.keep"
	// AnnotationRemove "true": the system is forgotten as soon as it stopped. Its
	// exit status can still be had by RuntimeId for ten minutes.
	AnnotationRemove = "io.gatehouse.rm"
	// AnnotationStopSignal is what Shutdown sends to init, a number or a name.
	AnnotationStopSignal = "org.opencontainers.image.stopSignal"
	// AnnotationOwner repeats the owner in the OCI spec.
	AnnotationOwner = "io.gatehouse.owner"
	// AnnotationID and AnnotationRuntimeID name the system in the OCI spec.
	AnnotationID        = "io.gatehouse.id"
	AnnotationRuntimeID = "io.gatehouse.runtime-id"
)

// Isolation [X] says which kernel runs a container.
type Isolation string

// Isolations.
const (
	IsolationDefault    Isolation = "Default"
	IsolationProcess    Isolation = "Process"
	IsolationHypervisor Isolation = "Hypervisor"
	IsolationLibraryOS  Isolation = "LibraryOS"
)

// Container is a compute system that shares a kernel: the host's, a virtual
// machine's or a library's.
type Container struct {
	Isolation Isolation `json:",omitempty"` // [X]
	// Image [X, beyond the schema's own extensions] is an image reference. Layers,
	// command, environment, user and working directory come from it, so that
	// running an image is one request and needs no knowledge of the image store.
	// Exclusive with Storage.Layers.
	Image string `json:",omitempty"`
	// InitProcess [X] makes the container end with this process (init mode).
	// Absent = a holder keeps it until it is told to stop.
	InitProcess *ProcessParameters `json:",omitempty"`
	// Oci [X] is an OCI runtime spec, whole or in part.
	Oci *specs.Spec `json:",omitempty"`

	GuestOs           *GuestOs          `json:",omitempty"`
	Storage           *Storage          `json:",omitempty"`
	MappedDirectories []MappedDirectory `json:",omitempty"`
	MappedPipes       []MappedPipe      `json:",omitempty"`
	Memory            *Memory           `json:",omitempty"`
	Processor         *Processor        `json:",omitempty"`
	PidsLimit         int64             `json:",omitempty"` // [X] tasks; absent = no limit
	RootReadOnly      bool              `json:",omitempty"` // [X]
	Networking        *Networking       `json:",omitempty"`
	HvSocket          *HvSocket         `json:",omitempty"`
	AssignedDevices   []Device          `json:",omitempty"`

	// Known and refused: no counterpart on Linux.
	AdditionalDeviceNamespace json.RawMessage `json:",omitempty"`
	RegistryChanges           json.RawMessage `json:",omitempty"`
	ContainerCredentialGuard  json.RawMessage `json:",omitempty"`
}

// GuestOs names the container. Absent HostName = the first 12 characters of Id.
type GuestOs struct {
	HostName string `json:",omitempty"`
}

// Storage is the root file system.
type Storage struct {
	// Layers are read-only image layers, topmost first, base last.
	Layers []Layer `json:",omitempty"`
	// Path holds the writable layer (upper, work); without Layers and Image it is
	// the root file system itself. Absent = a scratch of the service.
	Path string      `json:",omitempty"`
	QoS  *StorageQoS `json:",omitempty"`
}

// Layer is one read-only image layer: a directory or an EROFS file.
type Layer struct {
	Id       string `json:",omitempty"`
	Path     string
	PathType string `json:",omitempty"` // AbsolutePath
	Cache    string `json:",omitempty"` // accepted
}

// StorageQoS caps reads and writes together.
type StorageQoS struct {
	IopsMaximum      uint64 `json:",omitempty"`
	BandwidthMaximum uint64 `json:",omitempty"` // bytes a second
}

// MappedDirectory shows a host directory or file inside. HostPath must exist.
type MappedDirectory struct {
	HostPath          string
	HostPathType      string `json:",omitempty"` // AbsolutePath
	ContainerPath     string
	ReadOnly          bool `json:",omitempty"`
	SupportCloudFiles bool `json:",omitempty"` // accepted
}

// MappedPipe shows a host socket or FIFO inside, below /run unless absolute.
type MappedPipe struct {
	ContainerPipeName string
	HostPath          string
	HostPathType      string `json:",omitempty"`
}

// Memory limit in MiB; absent = none.
type Memory struct {
	SizeInMB uint64 `json:",omitempty"`
}

// Processor limits; Count, Maximum and Weight exclude each other.
type Processor struct {
	Count   uint32 `json:",omitempty"` // CPUs' worth of time
	Maximum int64  `json:",omitempty"` // share of all host CPUs, 1/100 %, 1 to 10000
	Weight  int64  `json:",omitempty"` // relative, 1 to 10000, default 100
	Cpus    string `json:",omitempty"` // [X] "0-1,3": where it may run
}

// ProcessorMaximum turns a fraction of CPUs into Processor.Maximum, rounded up.
func ProcessorMaximum(cpus float64, hostCPUs int) int64 {
	m := cpus / float64(max(hostCPUs, 1)) * 10000
	n := int64(m)
	if float64(n) < m {
		n++
	}
	return min(max(n, 1), 10000)
}

// Networking of a container. Absent, or present with no way in, is a loopback only.
// Namespace, NetNsPath, NetworkSharedContainerName, NetworkAdapters and Endpoints
// exclude each other.
type Networking struct {
	// Namespace is the id of an HCN namespace.
	Namespace string `json:",omitempty"`
	// NetNsPath [X] is a network namespace made by another.
	NetNsPath string `json:",omitempty"`
	// DnsSearchList is a comma-separated list that precedes the endpoint's own.
	DnsSearchList            string `json:",omitempty"`
	AllowUnqualifiedDnsQuery bool   `json:",omitempty"`
	// NetworkSharedContainerName is the Id of a system whose network is shared.
	NetworkSharedContainerName string `json:",omitempty"`
	// NetworkAdapters are ids of HCN endpoints without a namespace.
	NetworkAdapters []string `json:",omitempty"`
	// Endpoints [X, beyond the schema's own extensions] are HCN endpoint documents
	// that live and die with the system: its network is made, plugged and removed
	// by the verbs that make and end the system, so that a client that dies half
	// way leaves nothing. ID and Name are filled in where absent (Name = Id).
	Endpoints []json.RawMessage `json:",omitempty"`
}

// HvSocket is accepted; ServiceTable rules count for MappedPipes.
type HvSocket struct {
	Config                 json.RawMessage `json:",omitempty"`
	EnablePowerShellDirect bool            `json:",omitempty"`
}

// Device assigns a host device below /dev.
type Device struct {
	Type               string `json:",omitempty"` // ClassGuid, DeviceInstance, GpuMirror
	InterfaceClassGuid string `json:",omitempty"`
	LocationPath       string `json:",omitempty"`
}
