// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package uvm

import (
	"testing"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/silo"
)

// Each row of hcs.md §1.6 about a VM.
func TestEndStatus(t *testing.T) {
	for _, c := range []struct {
		name   string
		end    End
		told   Told
		exit   hcs.ExitType
		status hcs.Code
		reason string
		detail string // of WorkerExit or SystemExit
	}{
		{"powered off", End{Shutdown: "guest-shutdown"}, Told{}, hcs.GracefulExit, 0, "", hcs.DetailPowerOff},
		{"said goodbye", End{Exit: silo.Exit{Code: 137, Signal: 9}}, Told{Goodbye: true}, hcs.GracefulExit, 0, "", hcs.DetailPowerOff},
		{"panic", End{Shutdown: "guest-panic", Panicked: true, Serial: "x\n[ 1.0] Kernel panic - not syncing: why\r\nmore"}, Told{},
			hcs.UnexpectedExit, hcs.CodeGuestCriticalError, "guest panic: not syncing: why", ""},
		{"reset", End{Shutdown: "guest-reset"}, Told{}, hcs.UnexpectedExit, hcs.CodeUnexpectedExit, "guest reset", hcs.DetailReset},
		{"qemu killed", End{Exit: silo.Exit{Code: 137, Signal: 9}}, Told{}, hcs.UnexpectedExit, hcs.CodeUnexpectedExit, "qemu: signal 9", hcs.DetailProcessUnexpectedExit},
		{"qemu gave up", End{Exit: silo.Exit{Code: 1}, Stderr: "cannot\n"}, Told{}, hcs.UnexpectedExit, hcs.CodeUnexpectedExit, "qemu: exit status 1: cannot", hcs.DetailProcessUnexpectedExit},
		{"quit", End{Shutdown: "host-qmp-quit"}, Told{}, hcs.ForcedExit, 0, "", hcs.DetailTerminate},
		{"terminated", End{Exit: silo.Exit{Code: 137, Signal: 9}}, Told{Terminated: true}, hcs.ForcedExit, 0, "", hcs.DetailTerminate},
		{"silent", End{Exit: silo.Exit{Code: 137, Signal: 9}}, Told{Lost: true}, hcs.UnexpectedExit, hcs.CodeConnectionClosed, "the guest does not answer", hcs.DetailProcessUnexpectedExit},
	} {
		x := c.end.Status(c.told)
		if x.ExitType != c.exit || hcs.Code(uint32(x.Status)) != c.status || x.Reason != c.reason || len(x.Attribution) != 1 {
			t.Errorf("%s: %+v", c.name, x)
			continue
		}
		a := x.Attribution[0]
		switch {
		case a.WorkerExit != nil && a.WorkerExit.Detail == c.detail:
		case a.SystemExit != nil && a.SystemExit.Detail == c.detail:
		case a.GuestCrash != nil && c.detail == "":
		default:
			t.Errorf("%s: attribution %+v", c.name, a)
		}
	}
}
