// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcs

import (
	"encoding/json"
	"time"
)

// Event is one line of the event stream. Match on Name.
type Event struct {
	Revision  uint64
	Time      time.Time
	Type      EventType
	Name      string
	Kind      string          // systems, processes, layers; collections of HCN too
	ID        string          // the system's Id
	RuntimeId string          `json:",omitempty"`
	Flags     uint32          `json:",omitempty"`
	Status    int64           `json:",omitempty"`
	Data      json.RawMessage `json:",omitempty"`
}

// Kinds of events.
const (
	KindSystems   = "systems"
	KindProcesses = "processes"
	KindLayers    = "layers"
)

// EventType is the documented HCS_EVENT_TYPE.
type EventType uint32

// Event types; those from 0x80000001 on are ours.
const (
	EventSystemExited                EventType = 0x1
	EventSystemCrashInitiated        EventType = 0x2
	EventSystemCrashReport           EventType = 0x3
	EventSystemSiloJobCreated        EventType = 0x5
	EventSystemGuestConnectionClosed EventType = 0x6
	EventProcessExited               EventType = 0x00010000
	EventOperationCallback           EventType = 0x01000000
	EventServiceDisconnect           EventType = 0x02000000

	EventSystemCreated     EventType = 0x80000001
	EventSystemStarted     EventType = 0x80000002
	EventSystemPaused      EventType = 0x80000003
	EventSystemResumed     EventType = 0x80000004
	EventSystemSaved       EventType = 0x80000005
	EventSystemModified    EventType = 0x80000006
	EventProcessCreated    EventType = 0x80000007
	EventOutOfMemory       EventType = 0x80000008
	EventSystemUnreachable EventType = 0x80000009
	EventSystemReachable   EventType = 0x8000000a
	EventSystemForgotten   EventType = 0x8000000b
	EventLayerCreated      EventType = 0x8000000c
	EventLayerDestroyed    EventType = 0x8000000d
)

func (t EventType) String() string {
	switch t {
	case EventSystemExited:
		return "SystemExited"
	case EventSystemCrashInitiated:
		return "SystemCrashInitiated"
	case EventSystemCrashReport:
		return "SystemCrashReport"
	case EventSystemSiloJobCreated:
		return "SystemSiloJobCreated"
	case EventSystemGuestConnectionClosed:
		return "SystemGuestConnectionClosed"
	case EventProcessExited:
		return "ProcessExited"
	case EventOperationCallback:
		return "OperationCallback"
	case EventServiceDisconnect:
		return "ServiceDisconnect"
	case EventSystemCreated:
		return "SystemCreated"
	case EventSystemStarted:
		return "SystemStarted"
	case EventSystemPaused:
		return "SystemPaused"
	case EventSystemResumed:
		return "SystemResumed"
	case EventSystemSaved:
		return "SystemSaved"
	case EventSystemModified:
		return "SystemModified"
	case EventProcessCreated:
		return "ProcessCreated"
	case EventOutOfMemory:
		return "OutOfMemory"
	case EventSystemUnreachable:
		return "SystemUnreachable"
	case EventSystemReachable:
		return "SystemReachable"
	case EventSystemForgotten:
		return "SystemForgotten"
	case EventLayerCreated:
		return "LayerCreated"
	case EventLayerDestroyed:
		return "LayerDestroyed"
	}
	return "Unknown"
}

// ProcessEventData is the data of ProcessCreated.
type ProcessEventData struct {
	RuntimeId string
	ProcessInformation
}

// ProcessExitData is the data of ProcessExited.
type ProcessExitData struct {
	RuntimeId string `json:",omitempty"`
	ProcessStatus
}

// SiloJobData [X] is the data of SystemSiloJobCreated.
type SiloJobData struct {
	CgroupPath    string
	HostProcessId uint32
}

// CrashReport of a system.
type CrashReport struct {
	SystemId              string          `json:",omitempty"`
	ActivityId            string          `json:",omitempty"`
	WindowsCrashInfo      json.RawMessage `json:",omitempty"`
	CrashParameters       []uint64        `json:",omitempty"`
	CrashLog              string          `json:",omitempty"`
	Status                int32           `json:",omitempty"`
	PreOSId               uint32          `json:",omitempty"`
	CrashStackUnavailable bool            `json:",omitempty"`
}
