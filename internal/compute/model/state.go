// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import "gatehouse.dev/gatehouse/hcs"

// Verb on an existing system.
type Verb uint8

// Verbs whose permission depends on the state.
const (
	Start Verb = iota
	Pause
	Resume
	Save
	Shutdown
	Terminate
	Modify
	CreateProcess
	GetProperties
	verbs // how many
)

func (v Verb) String() string {
	return [...]string{"start", "pause", "resume", "save", "shutdown", "terminate", "modify", "create process", "get properties"}[v]
}

// Allow says whether a verb may begin in a state and which state it leads to (the
// same where it changes none). code is 0 when it may. A Stopped system answers
// Terminate with SYSTEM_ALREADY_STOPPED, which callers take for success.
func Allow(s hcs.State, v Verb) (next hcs.State, code hcs.Code) {
	const (
		is = hcs.CodeInvalidState
		as = hcs.CodeSystemAlreadyStopped
		sn = hcs.CodeServiceNotAvailable
	)
	type cell struct {
		next hcs.State
		code hcs.Code
	}
	no := func(c hcs.Code) cell { return cell{s, c} }
	to := func(n hcs.State) cell { return cell{n, 0} }
	ok := to(s)
	var row [verbs]cell
	switch s {
	case hcs.StateCreated:
		row = [verbs]cell{Start: to(hcs.StateRunning), Pause: no(is), Resume: no(is), Save: no(is), Shutdown: no(is),
			Terminate: to(hcs.StateStopped), Modify: ok, CreateProcess: no(is), GetProperties: ok}
	case hcs.StateRunning:
		row = [verbs]cell{Start: no(is), Pause: to(hcs.StatePaused), Resume: no(is), Save: no(is), Shutdown: ok,
			Terminate: to(hcs.StateStopped), Modify: ok, CreateProcess: ok, GetProperties: ok}
	case hcs.StatePaused:
		row = [verbs]cell{Start: no(is), Pause: no(is), Resume: to(hcs.StateRunning), Save: ok, Shutdown: no(is),
			Terminate: to(hcs.StateStopped), Modify: ok, CreateProcess: no(is), GetProperties: ok}
	case hcs.StateSavedAsTemplate:
		row = [verbs]cell{Start: no(is), Pause: no(is), Resume: no(is), Save: no(is), Shutdown: no(is),
			Terminate: to(hcs.StateStopped), Modify: no(is), CreateProcess: no(is), GetProperties: ok}
	case hcs.StateStopped:
		row = [verbs]cell{Start: no(as), Pause: no(as), Resume: no(as), Save: no(as), Shutdown: no(as),
			Terminate: no(as), Modify: no(as), CreateProcess: no(as), GetProperties: ok}
	case hcs.StateUnknown:
		row = [verbs]cell{Start: no(sn), Pause: no(sn), Resume: no(sn), Save: no(sn), Shutdown: no(sn),
			Terminate: to(hcs.StateStopped), Modify: no(sn), CreateProcess: no(sn), GetProperties: ok}
	default:
		return s, hcs.CodeSystemNotFound
	}
	return row[v].next, row[v].code
}
