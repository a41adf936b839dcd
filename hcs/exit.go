// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package hcs

// SystemExitStatus is the data of SystemExited and the answer of Wait.
type SystemExitStatus struct {
	Status      int32               // HRESULT, 0 = as intended
	ExitType    ExitType            `json:",omitempty"`
	Attribution []AttributionRecord `json:",omitempty"`
	// InitExitCode [X] is present in init mode when init was reaped.
	InitExitCode *uint32 `json:",omitempty"`
	// Reason [X], for people: "oom", "signal 11".
	Reason string `json:",omitempty"`
}

// ExitType is HCS's NotificationType.
type ExitType string

// Exit types.
const (
	ExitNone       ExitType = "None"
	GracefulExit   ExitType = "GracefulExit"
	ForcedExit     ExitType = "ForcedExit"
	UnexpectedExit ExitType = "UnexpectedExit"
	ExitUnknown    ExitType = "Unknown"
)

// AttributionRecord has one member set.
type AttributionRecord struct {
	WorkerExit                 *WorkerExit           `json:",omitempty"`
	GuestCrash                 *GuestCrash           `json:",omitempty"`
	TripleFault                *struct{}             `json:",omitempty"`
	InjectNonMaskableInterrupt *struct{}             `json:",omitempty"`
	OperationFailure           *OperationFailure     `json:",omitempty"`
	SystemExit                 *SystemExit           `json:",omitempty"`
	VirtualDeviceFailure       *VirtualDeviceFailure `json:",omitempty"`
}

// WorkerExit: the process that held the system ended.
type WorkerExit struct {
	ExitCode  uint32
	Type      string `json:",omitempty"` // WorkerStopped …
	Detail    string `json:",omitempty"` // DetailPowerOff …
	Initiator string `json:",omitempty"` // InitiatorClient …
}

// GuestCrash carries the guest's own numbers.
type GuestCrash struct {
	CrashParameters []uint64 `json:",omitempty"`
}

// OperationFailure names the verb that failed.
type OperationFailure struct {
	Detail string
}

// SystemExit: the system ended by intent or by itself.
type SystemExit struct {
	Detail    string
	Initiator string `json:",omitempty"`
}

// VirtualDeviceFailure is never raised for silos.
type VirtualDeviceFailure struct {
	Detail string `json:",omitempty"`
	Name   string `json:",omitempty"`
}

// Values of SystemExit.Detail.
const (
	DetailInvalid          = "Invalid"
	DetailHcsApiFatalError = "HcsApiFatalError"
	DetailServiceStop      = "ServiceStop"
	DetailShutdown         = "Shutdown"
	DetailTerminate        = "Terminate"
	DetailUnexpectedExit   = "UnexpectedExit"
)

// Values of Initiator.
const (
	InitiatorNone     = "None"
	InitiatorGuestOS  = "GuestOS"
	InitiatorClient   = "Client"
	InitiatorInternal = "Internal"
	InitiatorUnknown  = "Unknown"
)

// Values of WorkerExit.Type.
const (
	WorkerNone                 = "None"
	WorkerInitializationFailed = "InitializationFailed"
	WorkerStopped              = "Stopped"
	WorkerSaved                = "Saved"
	WorkerStoppedOnReset       = "StoppedOnReset"
	WorkerUnexpectedStop       = "UnexpectedStop"
	WorkerResetFailed          = "ResetFailed"
	WorkerUnrecoverableError   = "UnrecoverableError"
)

// Values of WorkerExit.Detail used here.
const (
	DetailPowerOff              = "PowerOff"
	DetailReset                 = "Reset"
	DetailGuestCrash            = "GuestCrash"
	DetailProcessUnexpectedExit = "ProcessUnexpectedExit"
)

// SystemExitData is the data of SystemExited.
type SystemExitData struct {
	RuntimeId string `json:",omitempty"`
	SystemExitStatus
}
