// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcs

import "encoding/json"

// VirtualMachine is a compute system with a kernel of its own.
type VirtualMachine struct {
	Version     *SchemaVersion `json:",omitempty"`
	StopOnReset bool           `json:",omitempty"`
	// Image [X] is a name in the catalogue of utility-VM images.
	Image           string           `json:",omitempty"`
	Chipset         *Chipset         `json:",omitempty"`
	ComputeTopology *Topology        `json:",omitempty"`
	Devices         *Devices         `json:",omitempty"`
	GuestState      *GuestState      `json:",omitempty"`
	RestoreState    *RestoreState    `json:",omitempty"`
	StorageQoS      *StorageQoS      `json:",omitempty"`
	GuestConnection *GuestConnection `json:",omitempty"`
	Services        json.RawMessage  `json:",omitempty"` // accepted
	RegistryChanges json.RawMessage  `json:",omitempty"` // refused
}

// Chipset says how the machine boots.
type Chipset struct {
	LinuxKernelDirect     *LinuxKernelDirect `json:",omitempty"`
	Uefi                  json.RawMessage    `json:",omitempty"` // refused
	IsNumLockDisabled     bool               `json:",omitempty"`
	BaseBoardSerialNumber string             `json:",omitempty"`
	ChassisSerialNumber   string             `json:",omitempty"`
	ChassisAssetTag       string             `json:",omitempty"`
	EnableHibernation     bool               `json:",omitempty"`
	UseUtc                bool               `json:",omitempty"`
}

// LinuxKernelDirect boots a kernel file.
type LinuxKernelDirect struct {
	KernelFilePath string `json:",omitempty"`
	InitRdPath     string `json:",omitempty"`
	KernelCmdLine  string `json:",omitempty"`
}

// Topology of a virtual machine.
type Topology struct {
	Memory    *VMMemory    `json:",omitempty"`
	Processor *VMProcessor `json:",omitempty"`
}

// VMMemory in MiB.
type VMMemory struct {
	SizeInMB                       uint64 `json:",omitempty"`
	AllowOvercommit                bool   `json:",omitempty"`
	BackingPageSize                string `json:",omitempty"` // Small, Large
	EnableColdDiscardHint          bool   `json:",omitempty"`
	EnableHotHint                  bool   `json:",omitempty"`
	EnableColdHint                 bool   `json:",omitempty"`
	EnableDeferredCommit           bool   `json:",omitempty"`
	FaultClusterSizeShift          uint32 `json:",omitempty"`
	DirectMapFaultClusterSizeShift uint32 `json:",omitempty"`
	PinBackingPages                bool   `json:",omitempty"`
	ForbidSmallBackingPages        bool   `json:",omitempty"`
	LowMmioGapInMB                 uint64 `json:",omitempty"`
	HighMmioBaseInMB               uint64 `json:",omitempty"`
	HighMmioGapInMB                uint64 `json:",omitempty"`
}

// VMProcessor of a virtual machine. Limit is a share of its own CPUs in 1/1000 %.
type VMProcessor struct {
	Count                          uint32 `json:",omitempty"`
	Limit                          uint64 `json:",omitempty"`
	Weight                         uint64 `json:",omitempty"`
	Reservation                    uint64 `json:",omitempty"`
	MaximumFrequencyMHz            uint32 `json:",omitempty"`
	ExposeVirtualizationExtensions bool   `json:",omitempty"`
	EnablePerfmonPmu               bool   `json:",omitempty"`
	CpuGroup                       *struct {
		Id string
	} `json:",omitempty"`
}

// Devices of a virtual machine.
type Devices struct {
	ComPorts            map[string]ComPort        `json:",omitempty"`
	VirtioSerial        *VirtioSerial             `json:",omitempty"`
	Scsi                map[string]Scsi           `json:",omitempty"`
	VirtualPMem         *VirtualPMem              `json:",omitempty"`
	NetworkAdapters     map[string]NetworkAdapter `json:",omitempty"`
	HvSocket            *HvSocketDevice           `json:",omitempty"`
	Plan9               *Plan9                    `json:",omitempty"`
	VirtioFs            *VirtioFs                 `json:",omitempty"` // [X]
	VirtualPci          json.RawMessage           `json:",omitempty"` // refused
	GuestCrashReporting json.RawMessage           `json:",omitempty"`
	VideoMonitor        json.RawMessage           `json:",omitempty"` // refused, as all below but three
	Keyboard            json.RawMessage           `json:",omitempty"` // accepted
	Mouse               json.RawMessage           `json:",omitempty"` // accepted
	EnhancedModeVideo   json.RawMessage           `json:",omitempty"`
	Battery             json.RawMessage           `json:",omitempty"` // accepted
	VirtualSmb          json.RawMessage           `json:",omitempty"`
	SharedMemory        json.RawMessage           `json:",omitempty"`
	FlexibleIov         json.RawMessage           `json:",omitempty"`
}

// ComPort is a serial port on a unix socket.
type ComPort struct {
	NamedPipe           string `json:",omitempty"`
	OptimizeForDebugger bool   `json:",omitempty"`
}

// VirtioSerial ports by number.
type VirtioSerial struct {
	Ports map[string]VirtioSerialPort `json:",omitempty"`
}

// VirtioSerialPort is a named channel on a unix socket.
type VirtioSerialPort struct {
	NamedPipe string `json:",omitempty"`
	Name      string `json:",omitempty"`
}

// Scsi controller: attachments by LUN.
type Scsi struct {
	Attachments map[string]Attachment `json:",omitempty"`
}

// Attachment is a disk.
type Attachment struct {
	Type        string `json:",omitempty"` // VirtualDisk, Iso, PassThru
	Path        string `json:",omitempty"`
	CachingMode string `json:",omitempty"` // Uncached, Cached, ReadOnlyCached
	ReadOnly    bool   `json:",omitempty"`
}

// VirtualPMem devices by number.
type VirtualPMem struct {
	Devices          map[string]VirtualPMemDevice `json:",omitempty"`
	MaximumCount     uint32                       `json:",omitempty"`
	MaximumSizeBytes uint64                       `json:",omitempty"`
}

// VirtualPMemDevice is an image layer as a device.
type VirtualPMemDevice struct {
	HostPath    string          `json:",omitempty"`
	ReadOnly    bool            `json:",omitempty"`
	ImageFormat string          `json:",omitempty"`
	SizeBytes   uint64          `json:",omitempty"`
	Mappings    json.RawMessage `json:",omitempty"`
}

// NetworkAdapter is a vNIC.
type NetworkAdapter struct {
	EndpointId               string          `json:",omitempty"`
	MacAddress               string          `json:",omitempty"`
	InstanceId               string          `json:",omitempty"`
	ConnectionState          string          `json:",omitempty"`
	IovSettings              json.RawMessage `json:",omitempty"`
	DisableInterruptBatching bool            `json:",omitempty"`
	Placeholder              bool            `json:",omitempty"` // [X]
}

// HvSocketDevice configures sockets between host and guest.
type HvSocketDevice struct {
	HvSocketConfig json.RawMessage `json:",omitempty"`
}

// Plan9 shares; served as VirtioFs under the same names.
type Plan9 struct {
	Shares []Plan9Share `json:",omitempty"`
}

// Plan9Share is a directory.
type Plan9Share struct {
	Name                 string   `json:",omitempty"`
	AccessName           string   `json:",omitempty"`
	Path                 string   `json:",omitempty"`
	Port                 uint32   `json:",omitempty"`
	Flags                uint32   `json:",omitempty"`
	ReadOnly             bool     `json:",omitempty"`
	UseShareRootIdentity bool     `json:",omitempty"`
	AllowedFiles         []string `json:",omitempty"`
}

// VirtioFs [X] shares.
type VirtioFs struct {
	Shares []VirtioFsShare `json:",omitempty"`
}

// VirtioFsShare is a directory.
type VirtioFsShare struct {
	Name     string
	Path     string
	ReadOnly bool `json:",omitempty"`
}

// GuestState is accepted.
type GuestState struct {
	GuestStateFilePath   string `json:",omitempty"`
	RuntimeStateFilePath string `json:",omitempty"`
	ForceTransientState  bool   `json:",omitempty"`
}

// RestoreState starts from saved state.
type RestoreState struct {
	SaveStateFilePath string `json:",omitempty"`
	TemplateSystemId  string `json:",omitempty"`
}

// GuestConnection says that our agent is inside.
type GuestConnection struct {
	UseVsock            bool `json:",omitempty"`
	UseConnectedSuspend bool `json:",omitempty"`
	UseHostTimeZone     bool `json:",omitempty"`
}
