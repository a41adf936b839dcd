// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"

	"gatehouse.dev/gatehouse/hcs"
)

// Seen is what was seen of a system's end.
type Seen struct {
	// Code is init's exit code, 128 + signal where a signal ended it.
	Code uint32
	// Signal that ended init; 0 = it exited.
	Signal int
	// Reaped is false when nobody saw init's exit code.
	Reaped bool
	// Sent is the last signal that a client sent to init through us; 0 = none.
	Sent int
	// OOM: the kernel killed in the system's cgroup for want of memory.
	OOM bool
	// Terminated: Terminate, or the last lease's end (then Internal).
	Terminated, Internal bool
	// ServiceStop: the service was stopped with "stop all".
	ServiceStop bool
	// WorkerDied: the holding process is gone without a word.
	WorkerDied bool
}

// Classify names the end of a container.
func Classify(s Seen) hcs.SystemExitStatus {
	var out hcs.SystemExitStatus
	if s.Reaped {
		out.InitExitCode = &s.Code
	}
	system := func(t hcs.ExitType, detail, initiator string) hcs.SystemExitStatus {
		out.ExitType = t
		out.Attribution = []hcs.AttributionRecord{{SystemExit: &hcs.SystemExit{Detail: detail, Initiator: initiator}}}
		return out
	}
	by := hcs.InitiatorClient
	if s.Internal {
		by = hcs.InitiatorInternal
	}
	switch {
	case s.ServiceStop:
		return system(hcs.ForcedExit, hcs.DetailServiceStop, hcs.InitiatorInternal)
	case s.Terminated:
		return system(hcs.ForcedExit, hcs.DetailTerminate, by)
	case s.WorkerDied:
		out.Status = hcs.CodeUnexpectedExit.HRESULT()
		out.ExitType = hcs.UnexpectedExit
		out.Attribution = []hcs.AttributionRecord{{WorkerExit: &hcs.WorkerExit{Type: hcs.WorkerUnexpectedStop,
			Detail: hcs.DetailProcessUnexpectedExit, Initiator: hcs.InitiatorInternal}}}
		out.Reason = "worker died"
		return out
	case s.Signal != 0 && s.Signal == s.Sent && s.Signal == int(hcs.SIGKILL):
		return system(hcs.ForcedExit, hcs.DetailTerminate, hcs.InitiatorClient)
	case s.Signal != 0 && s.Signal == s.Sent:
		return system(hcs.GracefulExit, hcs.DetailShutdown, hcs.InitiatorClient)
	case s.Signal != 0:
		out.Status = hcs.CodeUnexpectedExit.HRESULT()
		out.Reason = fmt.Sprintf("signal %d", s.Signal)
		if s.OOM && s.Signal == int(hcs.SIGKILL) {
			out.Reason = "oom"
		}
		return system(hcs.UnexpectedExit, hcs.DetailUnexpectedExit, hcs.InitiatorGuestOS)
	case s.Sent != 0:
		return system(hcs.GracefulExit, hcs.DetailShutdown, hcs.InitiatorClient)
	}
	return system(hcs.GracefulExit, hcs.DetailShutdown, hcs.InitiatorGuestOS)
}
