// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcs

import (
	"encoding/json"
	"time"
)

// State of a compute system.
type State string

// States. StateUnknown: its worker cannot be reached.
const (
	StateCreated         State = "Created"
	StateRunning         State = "Running"
	StatePaused          State = "Paused"
	StateStopped         State = "Stopped"
	StateSavedAsTemplate State = "SavedAsTemplate"
	StateUnknown         State = "Unknown"
)

// System types.
const (
	TypeContainer      = "Container"
	TypeVirtualMachine = "VirtualMachine"
)

// Properties of a compute system. Id and SystemType are always there.
type Properties struct {
	Id                          string
	SystemType                  string
	Name                        string   `json:",omitempty"`
	Owner                       string   `json:",omitempty"`
	RuntimeId                   string   `json:",omitempty"`
	State                       State    `json:",omitempty"`
	HostingSystemId             string   `json:",omitempty"`
	RuntimeOsType               string   `json:",omitempty"`
	RuntimeTemplateId           string   `json:",omitempty"`
	TerminateOnLastHandleClosed bool     `json:",omitempty"`
	Stopped                     bool     `json:",omitempty"`
	ExitType                    ExitType `json:",omitempty"`
	// Isolation, HostProcessId and Reason [X].
	Isolation     Isolation `json:",omitempty"`
	HostProcessId uint32    `json:",omitempty"`
	Reason        string    `json:",omitempty"`
	// Annotations, Image, the times and ExitStatus [X] spare a listing one more
	// request for each system.
	Annotations map[string]string `json:",omitempty"`
	Image       string            `json:",omitempty"`
	Command     []string          `json:",omitempty"`
	CreateTime  time.Time         `json:",omitzero"`
	StartTime   time.Time         `json:",omitzero"`
	StopTime    time.Time         `json:",omitzero"`
	ExitStatus  *SystemExitStatus `json:",omitempty"`
	// NetNsPath and Endpoints [X] are the network of the system: full HCN documents.
	NetNsPath string            `json:",omitempty"`
	Namespace string            `json:",omitempty"`
	Endpoints []json.RawMessage `json:",omitempty"`

	Statistics  *Statistics      `json:",omitempty"`
	ProcessList []ProcessDetails `json:",omitempty"`

	GuestConnectionInfo *GuestConnectionInfo `json:",omitempty"`
	Memory              *MemoryInformation   `json:",omitempty"`
	LCOWMetrics         json.RawMessage      `json:",omitempty"`
	// PropertyResponses says why a part that was asked for is not there.
	PropertyResponses map[PropertyType]PropertyResponse `json:",omitempty"`
}

// PropertyResponse is one part's own answer.
type PropertyResponse struct {
	Error    *ResultError    `json:",omitempty"`
	Response json.RawMessage `json:",omitempty"`
}

// GuestConnectionInfo is what the agent of a utility VM said of itself.
type GuestConnectionInfo struct {
	SupportedSchemaVersions  []SchemaVersion `json:",omitempty"`
	ProtocolVersion          uint32          `json:",omitempty"`
	GuestDefinedCapabilities json.RawMessage `json:",omitempty"`
}

// MemoryInformation of a virtual machine; pages of 4 KiB.
type MemoryInformation struct {
	VirtualNodeCount     uint32                `json:",omitempty"`
	VirtualMachineMemory *VirtualMachineMemory `json:",omitempty"`
	VirtualNodes         json.RawMessage       `json:",omitempty"`
}

// VirtualMachineMemory is what a virtual machine has of memory.
type VirtualMachineMemory struct {
	AvailableMemory       int32  `json:",omitempty"`
	AvailableMemoryBuffer int32  `json:",omitempty"`
	ReservedMemory        uint64 `json:",omitempty"`
	AssignedMemory        uint64 `json:",omitempty"`
	SlpActive             bool   `json:",omitempty"`
	BalancingEnabled      bool   `json:",omitempty"`
	DmOperationInProgress bool   `json:",omitempty"`
}

// Statistics of a compute system; a part without a source is absent.
type Statistics struct {
	Timestamp          time.Time `json:",omitzero"`
	ContainerStartTime time.Time `json:",omitzero"`
	Uptime100ns        uint64    `json:",omitempty"`

	Processor *ProcessorStats `json:",omitempty"`
	Memory    *MemoryStats    `json:",omitempty"`
	Storage   *StorageStats   `json:",omitempty"`
	// Network is as in version 1 of the schema: one row an endpoint.
	Network []NetworkStats `json:",omitempty"`
	// Pids [X].
	Pids *PidsStats `json:",omitempty"`
}

// ProcessorStats in units of 100 ns.
type ProcessorStats struct {
	TotalRuntime100ns  uint64 `json:",omitempty"`
	RuntimeUser100ns   uint64 `json:",omitempty"`
	RuntimeKernel100ns uint64 `json:",omitempty"`
}

// MemoryStats in bytes.
type MemoryStats struct {
	MemoryUsageCommitBytes            uint64 `json:",omitempty"`
	MemoryUsageCommitPeakBytes        uint64 `json:",omitempty"`
	MemoryUsagePrivateWorkingSetBytes uint64 `json:",omitempty"`
	// LimitBytes [X] is the limit in force; absent = none.
	LimitBytes uint64 `json:",omitempty"`
}

// StorageStats count operations as the kernel does.
type StorageStats struct {
	ReadCountNormalized  uint64 `json:",omitempty"`
	ReadSizeBytes        uint64 `json:",omitempty"`
	WriteCountNormalized uint64 `json:",omitempty"`
	WriteSizeBytes       uint64 `json:",omitempty"`
}

// NetworkStats of one endpoint, seen from the endpoint.
type NetworkStats struct {
	EndpointId             string
	InstanceId             string `json:",omitempty"`
	BytesReceived          uint64
	BytesSent              uint64
	PacketsReceived        uint64
	PacketsSent            uint64
	DroppedPacketsIncoming uint64
	DroppedPacketsOutgoing uint64
}

// PidsStats [X] counts the tasks of the system.
type PidsStats struct {
	Current uint64
	Limit   uint64 `json:",omitempty"` // absent = none
}

// PropertyType names a part of Properties that must be asked for.
type PropertyType string

// Property types.
const (
	PropertyMemory                      PropertyType = "Memory"
	PropertyGuestMemory                 PropertyType = "GuestMemory"
	PropertyStatistics                  PropertyType = "Statistics"
	PropertyProcessList                 PropertyType = "ProcessList"
	PropertyTerminateOnLastHandleClosed PropertyType = "TerminateOnLastHandleClosed"
	PropertySharedMemoryRegion          PropertyType = "SharedMemoryRegion"
	PropertyContainerCredentialGuard    PropertyType = "ContainerCredentialGuard"
	PropertyGuestConnection             PropertyType = "GuestConnection"
	PropertyICHeartbeatStatus           PropertyType = "ICHeartbeatStatus"
	PropertyProcessorTopology           PropertyType = "ProcessorTopology"
	PropertyCpuGroup                    PropertyType = "CpuGroup"
	// PropertyNetwork [X] fills NetNsPath, Namespace and Endpoints.
	PropertyNetwork PropertyType = "Network"
)

// PropertyQuery asks for parts of Properties.
type PropertyQuery struct {
	PropertyTypes []PropertyType             `json:",omitempty"`
	Queries       map[string]json.RawMessage `json:",omitempty"`
}

// SystemQuery filters Enumerate: AND between members, OR inside one.
type SystemQuery struct {
	Ids    []string `json:",omitempty"`
	Names  []string `json:",omitempty"`
	Types  []string `json:",omitempty"`
	Owners []string `json:",omitempty"`
}
