// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package uvm

import (
	"fmt"
	"strings"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/silo"
)

// End is how a machine ended.
type End struct {
	silo.Exit
	// Shutdown is the reason of QMP's SHUTDOWN; "" = it ended without one.
	Shutdown string
	// Panicked: GUEST_PANICKED came before.
	Panicked bool
	// Serial and Stderr are the last of what guest and QEMU printed.
	Serial, Stderr string
}

// Told is what the worker knows beside the machine's own end.
type Told struct {
	Terminated bool // by Terminate or its like
	Shutdown   bool // Shutdown was asked for
	Goodbye    bool // the agent announced a power-off
	Lost       bool // the agent was silent, so the worker ended the machine
}

// stderrTail of QEMU goes into reports (hcs.md §1.6).
const stderrTail = 4 << 10

// Status is the exit status of a machine, the table of hcs.md §1.6.
func (e End) Status(t Told) *hcs.SystemExitStatus {
	code := uint32(e.Code)
	work := func(kind, detail, who string) []hcs.AttributionRecord {
		return []hcs.AttributionRecord{{WorkerExit: &hcs.WorkerExit{ExitCode: code, Type: kind, Detail: detail, Initiator: who}}}
	}
	bad := func(c hcs.Code, reason string, a []hcs.AttributionRecord) *hcs.SystemExitStatus {
		n := uint32(c)
		return &hcs.SystemExitStatus{Status: int32(n), ExitType: hcs.UnexpectedExit, Reason: reason, Attribution: a}
	}
	who := hcs.InitiatorGuestOS
	if t.Shutdown {
		who = hcs.InitiatorClient
	}
	switch {
	case t.Terminated:
		return &hcs.SystemExitStatus{ExitType: hcs.ForcedExit,
			Attribution: []hcs.AttributionRecord{{SystemExit: &hcs.SystemExit{Detail: hcs.DetailTerminate, Initiator: hcs.InitiatorClient}}}}
	case t.Lost:
		return bad(hcs.CodeConnectionClosed, "the guest does not answer", work(hcs.WorkerUnexpectedStop, hcs.DetailProcessUnexpectedExit, hcs.InitiatorInternal))
	case e.Panicked:
		return bad(hcs.CodeGuestCriticalError, "guest panic"+panicLine(e.Serial), []hcs.AttributionRecord{{GuestCrash: &hcs.GuestCrash{}}})
	case e.Shutdown == "guest-shutdown", t.Goodbye:
		return &hcs.SystemExitStatus{ExitType: hcs.GracefulExit, Attribution: work(hcs.WorkerStopped, hcs.DetailPowerOff, who)}
	case e.Shutdown == "host-qmp-quit":
		return &hcs.SystemExitStatus{ExitType: hcs.ForcedExit,
			Attribution: []hcs.AttributionRecord{{SystemExit: &hcs.SystemExit{Detail: hcs.DetailTerminate, Initiator: hcs.InitiatorInternal}}}}
	case e.Shutdown != "":
		return bad(hcs.CodeUnexpectedExit, "guest reset", work(hcs.WorkerStoppedOnReset, hcs.DetailReset, hcs.InitiatorGuestOS))
	}
	reason := fmt.Sprintf("qemu: exit status %d", e.Code)
	if e.Signal != 0 {
		reason = fmt.Sprintf("qemu: signal %d", e.Signal)
	}
	if s := strings.TrimSpace(e.Stderr[max(0, len(e.Stderr)-stderrTail):]); s != "" {
		reason += ": " + s
	}
	return bad(hcs.CodeUnexpectedExit, reason, work(hcs.WorkerUnexpectedStop, hcs.DetailProcessUnexpectedExit, hcs.InitiatorUnknown))
}

// panicLine is what the kernel said of its panic, with a colon before it.
func panicLine(serial string) string {
	const mark = "Kernel panic - "
	i := strings.LastIndex(serial, mark)
	if i < 0 {
		return ""
	}
	line, _, _ := strings.Cut(serial[i+len(mark):], "\n")
	return ": " + strings.TrimSpace(strings.ToValidUTF8(line, "?"))
}
