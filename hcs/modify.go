// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcs

import "encoding/json"

// ModifySettingRequest changes a running system: the host's part, the guest's, or both.
type ModifySettingRequest struct {
	ResourcePath string          `json:",omitempty"`
	RequestType  RequestType     `json:",omitempty"`
	Settings     json.RawMessage `json:",omitempty"`
	GuestRequest *GuestRequest   `json:",omitempty"`
}

// GuestRequest is the guest's part.
type GuestRequest struct {
	RequestType  RequestType     `json:",omitempty"`
	ResourceType string          `json:",omitempty"`
	Settings     json.RawMessage `json:",omitempty"`
}

// RequestType of a modify request; absent = Update.
type RequestType string

// Request types.
const (
	RequestAdd    RequestType = "Add"
	RequestRemove RequestType = "Remove"
	RequestUpdate RequestType = "Update"
	RequestPreAdd RequestType = "PreAdd" // treated as Add
)

// Resource paths of a container.
const (
	ResourceMappedDirectories = "Container/MappedDirectories"
	ResourceMappedPipes       = "Container/MappedPipes"
	ResourceMemory            = "Container/Memory/SizeInMB"
	ResourceProcessor         = "Container/Processor"
	ResourceDevices           = "Container/Devices/Generic"
	ResourceNetworking        = "Container/Networking" // [X]
	ResourcePids              = "Container/PidsLimit"  // [X]
)

// ShutdownOptions of Shutdown; only Type Shutdown is known.
type ShutdownOptions struct {
	Mechanism string `json:",omitempty"` // GuestConnection, IntegrationService
	Type      string `json:",omitempty"` // Shutdown, Hibernate, Reboot
	Force     bool   `json:",omitempty"` // kill what has not ended after 10 s
	Reason    string `json:",omitempty"`
	// Signal [X] replaces the stop signal, as docker stop --signal does.
	Signal Signal `json:",omitempty"`
}

// PauseOptions are accepted.
type PauseOptions struct {
	SuspensionLevel    string `json:",omitempty"`
	HostedNotification *struct {
		Reason string `json:",omitempty"`
	} `json:",omitempty"`
}

// SaveOptions of Save, for virtual machines.
type SaveOptions struct {
	SaveType          string `json:",omitempty"` // ToFile, AsTemplate
	SaveStateFilePath string `json:",omitempty"`
}

// CrashOptions of Crash.
type CrashOptions struct {
	Type string `json:",omitempty"`
}
