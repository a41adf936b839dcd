// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/held"
	"gatehouse.dev/gatehouse/internal/compute/model"
	"net"
)

// CreateProcess runs one more process in a Running system. Attach to its Key with
// Replay to lose nothing of its first output.
func (h *HCS) CreateProcess(ctx context.Context, id string, p hcs.ProcessParameters) (hcs.ProcessInformation, error) {
	const op = "create process"
	var none hcs.ProcessInformation
	s, err := h.find(ctx, op, id)
	if err != nil {
		return none, err
	}
	p = model.NormalizeProcess(p)
	if err := model.Process("", p); err != nil {
		return none, s.err(op, err)
	}
	r, end, err := s.begin(ctx, model.CreateProcess)
	if err != nil {
		return none, err
	}
	defer end()
	grant, err := h.grant(ctx, r)
	if err == nil {
		err = grant.Process("", p)
	}
	if err == nil && r.Doc.Container.Isolation == hcs.IsolationLibraryOS {
		err = model.LibraryProcess(p)
	}
	if err != nil {
		return none, s.err(op, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	w := s.client()
	if w == nil {
		return none, s.refused(op, hcs.CodeServiceNotAvailable, hcs.StateUnknown)
	}
	init := w.Spec().OCI.Process
	if init == nil {
		init = &specs.Process{}
	}
	cmd, err := model.ExecCommand(p, *init)
	if err != nil {
		return none, s.err(op, err)
	}
	user := init.User
	if cmd.User != "" && r.inMachine() {
		user = specs.User{Username: cmd.User} // the agent sees the files that it means
	} else if cmd.User != "" {
		root := fmt.Sprintf("/proc/%d/root", r.Processes[initKey].PID)
		if r.Doc.Container.Isolation == hcs.IsolationLibraryOS { // that is its kernel, which sees nothing
			root = fmt.Sprintf("/proc/%d/root%s", w.PID(), held.RootFS(w.Spec().Dir))
		}
		passwd, group, err := userFiles(func(name string) ([]byte, error) { return readInRoot(root, name) })
		if err != nil {
			return none, s.err(op, err)
		}
		if user, err = model.ResolveUser(cmd.User, passwd, group); err != nil {
			return none, s.err(op, &hcs.Error{Code: hcs.CodeInvalidArg, Field: "User", Err: err})
		}
	}
	proc := model.ExecProcess(p, *init, cmd, user)
	if proc.Terminal && p.ConsoleSize != [2]uint16{} {
		proc.ConsoleSize = &specs.Box{Height: uint(p.ConsoleSize[0]), Width: uint(p.ConsoleSize[1])}
	}
	info, err := w.Exec(ctx, proc, p.CreateStdInPipe)
	if err != nil {
		if st := s.state(); st == hcs.StateStopped {
			return none, s.refused(op, hcs.CodeSystemAlreadyStopped, st)
		}
		return none, s.err(op, err)
	}
	now, err := s.until(ctx, func(r *row) bool { _, ok := r.Processes[info.Key]; return ok || r.stopped() })
	if err != nil {
		return none, s.err(op, err)
	}
	if _, ok := now.Processes[info.Key]; !ok {
		return none, s.refused(op, hcs.CodeSystemAlreadyStopped, hcs.StateStopped)
	}
	return hcs.ProcessInformation{ProcessId: uint32(info.PID), HostProcessId: now.Processes[info.Key].hostPID(), Key: info.Key}, nil
}

// Processes lists every process of the system.
func (h *HCS) Processes(ctx context.Context, id string) ([]hcs.ProcessDetails, error) {
	const op = "list processes"
	s, err := h.find(ctx, op, id)
	if err != nil {
		return nil, err
	}
	w := s.client()
	if st := s.state(); w == nil || st != hcs.StateRunning && st != hcs.StatePaused {
		if st == hcs.StateCreated {
			return nil, nil
		}
		_, code := model.Allow(st, model.CreateProcess)
		return nil, s.refused(op, code, st)
	}
	out, err := w.Processes(ctx)
	return out, s.err(op, err)
}

// process finds a process of a system by "init", "p<n>" or ProcessId; a number
// that was used twice is the newer process.
func (s *system) process(op, name string) (key string, p processRow, err error) {
	r := s.row.Load()
	if p, ok := r.Processes[name]; ok {
		return name, p, nil
	}
	if name == initKey && r.State == hcs.StateCreated { // its stdio is there from Create on
		return initKey, processRow{}, nil
	}
	if n, err := strconv.ParseUint(name, 10, 32); err == nil && n > 0 {
		keys := r.keys()
		slices.Reverse(keys)
		for _, k := range keys {
			if p := r.Processes[k]; p.PID == uint32(n) {
				return k, p, nil
			}
		}
	}
	return "", p, s.err(op, &hcs.Error{Code: hcs.CodeProcessInfoNotAvailable, Message: fmt.Sprintf("process %q not found", name)})
}

// OpenProcess finds a process and tells how it stands.
func (h *HCS) OpenProcess(ctx context.Context, id, process string) (hcs.ProcessInformation, hcs.ProcessStatus, error) {
	s, err := h.find(ctx, "open process", id)
	if err != nil {
		return hcs.ProcessInformation{}, hcs.ProcessStatus{}, err
	}
	key, p, err := s.process("open process", process)
	if err != nil {
		return hcs.ProcessInformation{}, hcs.ProcessStatus{}, err
	}
	info := hcs.ProcessInformation{ProcessId: p.PID, HostProcessId: p.hostPID(), Key: key}
	st := hcs.ProcessStatus{ProcessId: p.PID, Key: key}
	if p.Status != nil {
		st, info.HostProcessId = *p.Status, 0
	}
	return info, st, nil
}

// live finds a process that can be spoken to.
func (h *HCS) live(ctx context.Context, op, id, process string) (*system, string, held.Client, bool, error) {
	s, err := h.find(ctx, op, id)
	if err != nil {
		return nil, "", nil, false, err
	}
	key, p, err := s.process(op, process)
	if err != nil {
		return nil, "", nil, false, err
	}
	if p.Status != nil && p.Status.Exited || s.row.Load().stopped() {
		return s, key, nil, false, nil
	}
	w := s.client()
	if w == nil || s.state() == hcs.StateUnknown {
		return nil, "", nil, false, s.refused(op, hcs.CodeServiceNotAvailable, hcs.StateUnknown)
	}
	return s, key, w, true, nil
}

// SignalProcess sends a signal. delivered is false, without an error, when the
// process had exited.
func (h *HCS) SignalProcess(ctx context.Context, id, process string, sig hcs.Signal) (delivered bool, err error) {
	const op = "signal process"
	s, key, w, ok, err := h.live(ctx, op, id, process)
	if err != nil || !ok {
		return false, err
	}
	if sig < 0 || sig > hcs.MaxSignal {
		return false, s.err(op, &hcs.Error{Code: hcs.CodeInvalidArg, Field: "Signal", Message: fmt.Sprintf("%d: not within 1 and %d", sig, hcs.MaxSignal)})
	}
	if s.row.Load().State == hcs.StateCreated {
		return false, s.refused(op, hcs.CodeInvalidState, hcs.StateCreated)
	}
	if sig == 0 { // only whether it lives
		return true, nil
	}
	delivered, err = w.Signal(ctx, key, int(sig))
	return delivered, s.err(op, err)
}

// TerminateProcess kills one process; init's end is the system's.
func (h *HCS) TerminateProcess(ctx context.Context, id, process string) (delivered bool, err error) {
	return h.SignalProcess(ctx, id, process, hcs.SIGKILL)
}

// ModifyProcess resizes its console or closes its stdin. Both succeed on a
// process that has exited.
func (h *HCS) ModifyProcess(ctx context.Context, id, process string, q hcs.ProcessModifyRequest) error {
	const op = "modify process"
	s, key, w, ok, err := h.live(ctx, op, id, process)
	if err != nil {
		return err
	}
	switch q.Operation {
	case hcs.ModifyConsoleSize:
		if q.ConsoleSize == nil {
			return s.err(op, &hcs.Error{Code: hcs.CodeInvalidJSON, Field: "ConsoleSize", Message: "is missing"})
		}
		if !ok || q.ConsoleSize.Height == 0 || q.ConsoleSize.Width == 0 {
			return nil
		}
		return s.err(op, w.Resize(ctx, key, q.ConsoleSize.Height, q.ConsoleSize.Width))
	case hcs.ModifyCloseHandle:
		if q.CloseHandle == nil {
			return s.err(op, &hcs.Error{Code: hcs.CodeInvalidJSON, Field: "CloseHandle", Message: "is missing"})
		}
		switch q.CloseHandle.Handle {
		case hcs.HandleStdIn, hcs.HandleAll:
		case hcs.HandleStdOut, hcs.HandleStdErr:
			return nil // they close with the process
		default:
			return s.err(op, &hcs.Error{Code: hcs.CodeInvalidJSON, Field: "CloseHandle.Handle", Message: fmt.Sprintf("%q: none of StdIn, StdOut, StdErr, All", q.CloseHandle.Handle)})
		}
		if !ok {
			return nil
		}
		return s.err(op, w.CloseStdin(ctx, key))
	}
	return s.err(op, &hcs.Error{Code: hcs.CodeInvalidJSON, Field: "Operation", Message: fmt.Sprintf("%q: neither ConsoleSize nor CloseHandle", q.Operation)})
}

// WaitProcess returns the status when the process has exited. Any number may
// wait, also later.
func (h *HCS) WaitProcess(ctx context.Context, id, process string) (hcs.ProcessStatus, error) {
	const op = "wait for process"
	s := h.lookFor(ctx, id)
	if s == nil {
		return hcs.ProcessStatus{}, notFound(op, id)
	}
	if err := h.made(ctx, s); err != nil {
		return hcs.ProcessStatus{}, s.err(op, err)
	}
	if s.row.Load().State == stateCreating {
		return hcs.ProcessStatus{}, notFound(op, id)
	}
	key, _, err := s.process(op, process)
	if err != nil {
		return hcs.ProcessStatus{}, err
	}
	r, err := s.until(ctx, func(r *row) bool {
		p, ok := r.Processes[key]
		return ok && p.Status != nil && p.Status.Exited || r.stopped()
	})
	if err != nil {
		return hcs.ProcessStatus{}, s.err(op, err)
	}
	p, ok := r.Processes[key]
	if !ok || p.Status == nil {
		return hcs.ProcessStatus{}, s.err(op, &hcs.Error{Code: hcs.CodeProcessInfoNotAvailable, Message: fmt.Sprintf("process %q was never started", key)})
	}
	return *p.Status, nil
}

// Attach hands conn, on which 101 was answered, to the worker, which speaks stdio
// frames on it. The caller closes its own conn afterwards. early is what was
// already read from it.
func (h *HCS) Attach(ctx context.Context, id, process string, o held.AttachOptions, conn *net.UnixConn, early []byte) error {
	const op = "attach"
	s, err := h.find(ctx, op, id)
	if err != nil {
		return err
	}
	key, _, err := s.process(op, process)
	if err != nil {
		return err
	}
	w := s.client()
	if w == nil || s.row.Load().stopped() {
		return s.refused(op, hcs.CodeSystemAlreadyStopped, hcs.StateStopped)
	}
	// Of a process that has exited the worker still has what was not read.
	return s.err(op, w.Attach(ctx, key, o, conn, early))
}
