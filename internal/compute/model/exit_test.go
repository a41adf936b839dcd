// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"testing"

	"gatehouse.dev/gatehouse/hcs"
)

func TestClassify(t *testing.T) {
	unexpected := hcs.CodeUnexpectedExit.HRESULT()
	for name, c := range map[string]struct {
		seen              Seen
		typ               hcs.ExitType
		status            int32
		detail, initiator string
		reason            string
	}{
		"exits by itself, 0":       {Seen{Reaped: true}, hcs.GracefulExit, 0, "Shutdown", "GuestOS", ""},
		"exits by itself, 3":       {Seen{Reaped: true, Code: 3}, hcs.GracefulExit, 0, "Shutdown", "GuestOS", ""},
		"exits after stop signal":  {Seen{Reaped: true, Sent: 15}, hcs.GracefulExit, 0, "Shutdown", "Client", ""},
		"ends by stop signal":      {Seen{Reaped: true, Code: 143, Signal: 15, Sent: 15}, hcs.GracefulExit, 0, "Shutdown", "Client", ""},
		"killed by a client":       {Seen{Reaped: true, Code: 137, Signal: 9, Sent: 9}, hcs.ForcedExit, 0, "Terminate", "Client", ""},
		"terminated":               {Seen{Reaped: true, Code: 137, Signal: 9, Terminated: true}, hcs.ForcedExit, 0, "Terminate", "Client", ""},
		"last lease closed":        {Seen{Signal: 9, Terminated: true, Internal: true}, hcs.ForcedExit, 0, "Terminate", "Internal", ""},
		"service stops":            {Seen{Signal: 9, ServiceStop: true}, hcs.ForcedExit, 0, "ServiceStop", "Internal", ""},
		"segfault":                 {Seen{Reaped: true, Code: 139, Signal: 11}, hcs.UnexpectedExit, unexpected, "UnexpectedExit", "GuestOS", "signal 11"},
		"other signal than asked":  {Seen{Reaped: true, Code: 139, Signal: 11, Sent: 15}, hcs.UnexpectedExit, unexpected, "UnexpectedExit", "GuestOS", "signal 11"},
		"out of memory":            {Seen{Reaped: true, Code: 137, Signal: 9, OOM: true}, hcs.UnexpectedExit, unexpected, "UnexpectedExit", "GuestOS", "oom"},
		"a child out of memory":    {Seen{Reaped: true, Code: 1, OOM: true}, hcs.GracefulExit, 0, "Shutdown", "GuestOS", ""},
		"worker died":              {Seen{WorkerDied: true}, hcs.UnexpectedExit, unexpected, "", "", "worker died"},
		"worker died on terminate": {Seen{WorkerDied: true, Terminated: true}, hcs.ForcedExit, 0, "Terminate", "Client", ""},
	} {
		got := Classify(c.seen)
		if got.ExitType != c.typ || got.Status != c.status || got.Reason != c.reason || (got.InitExitCode != nil) != c.seen.Reaped {
			t.Errorf("%s: got %+v", name, got)
		}
		if len(got.Attribution) != 1 {
			t.Errorf("%s: %d attributions", name, len(got.Attribution))
			continue
		}
		if s := got.Attribution[0].SystemExit; c.detail != "" && (s == nil || s.Detail != c.detail || s.Initiator != c.initiator) {
			t.Errorf("%s: attribution %+v", name, s)
		}
	}
}
