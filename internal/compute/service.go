// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package compute is the Host Compute Service: it takes verbs on compute systems,
// writes down what is wanted, has it made by hands (images, networks, workers) and
// tells what became of it. States and documents are model's, processes are the
// worker's; here are order, crash and undo.
//
// A system is a row keyed by its RuntimeId. The row is committed with every id it
// will use before any resource is made, so whatever is found after a crash either
// has a row or is an orphan. The worker's journal is the only source of facts
// about a system that runs: one goroutine a system turns entries into row changes
// and events, each batch in one transaction.
package compute

import (
	"context"
	"iter"
	"log/slog"
	"net"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/model"
	"gatehouse.dev/gatehouse/internal/compute/held"
	"gatehouse.dev/gatehouse/internal/instance"
	"gatehouse.dev/gatehouse/internal/store"
)

// Options of New; Instance, Store, Images, Networks and Workers are needed.
type Options struct {
	Instance instance.Instance
	Store    *store.DB
	Images   Images
	Networks Networks
	Workers  Workers
	// Stats adds the network's counters to Statistics; nil = none.
	Stats EndpointStats
	// Runtime is the OCI runtime's path; "" = runc from PATH.
	Runtime string
	// Facts of the host; zero = found out by HostFacts.
	Facts model.Facts
	// LogMaxBytes a system before rotation; 0 = 10 MiB.
	LogMaxBytes int64
	Log         *slog.Logger // nil = discard
}

// CreateOptions of Create.
type CreateOptions struct {
	// Start runs the system as part of the create: nothing remains if that fails.
	Start bool
	// Lease opens a lease together with the create; close it with Result.Lease.
	Lease bool
	// Attach, when set, is called once after everything that can be refused was
	// checked and before init runs: it answers 101 and hands over the connection,
	// which then carries init's stdio from the first byte on. runtimeID is the new
	// system's. A failure to start is then told by an error frame too.
	Attach func(runtimeID string) (conn *net.UnixConn, early []byte, err error)
	// AttachOptions of that connection.
	AttachOptions held.AttachOptions
}

// Created is the answer of Create.
type Created struct {
	Properties hcs.Properties
	// Process is init's, when started.
	Process hcs.ProcessInformation
	// Lease is set when asked for.
	Lease *Lease
	// Revision of the commit that made the answer true.
	Revision uint64
}

// Lease keeps a system with ShouldTerminateOnLastHandleClosed alive. Close it once.
type Lease struct{ close func() }

// Close gives the lease back.
func (l *Lease) Close() { l.close() }

var errStub = &hcs.Error{Code: hcs.CodeNotImplemented}

// HCS is the service. Make it with New, then Recover, then Run.
type HCS struct{}

// New checks the options; it touches nothing.
func New(o Options) (*HCS, error) { return nil, errStub }

// Recover adopts the workers of an earlier daemon, replays their journals, undoes
// what was half made and removes what has no row. Verbs must wait for it.
func (h *HCS) Recover(ctx context.Context) error { return errStub }

// Run forgets old tombstones until ctx ends; then it lets go of all workers
// without ending them and returns.
func (h *HCS) Run(ctx context.Context) error { return errStub }

// Create makes a system, and starts it if asked. id must be free.
func (h *HCS) Create(ctx context.Context, id string, doc hcs.ComputeSystem, o CreateOptions) (Created, error) {
	return Created{}, errStub
}

// Start runs a Created system.
func (h *HCS) Start(ctx context.Context, id string) (hcs.ProcessInformation, error) {
	return hcs.ProcessInformation{}, errStub
}

// Shutdown asks the system to end; it does not wait for it.
func (h *HCS) Shutdown(ctx context.Context, id string, o hcs.ShutdownOptions) error { return errStub }

// Terminate ends the system and returns when it is Stopped. Idempotent.
func (h *HCS) Terminate(ctx context.Context, id string) error { return errStub }

// Crash sends init SIGABRT.
func (h *HCS) Crash(ctx context.Context, id string, o hcs.CrashOptions) error { return errStub }

// Pause freezes a Running system, Resume thaws it.
func (h *HCS) Pause(ctx context.Context, id string, o hcs.PauseOptions) error { return errStub }

// Resume as on Pause.
func (h *HCS) Resume(ctx context.Context, id string) error { return errStub }

// Save is for virtual machines.
func (h *HCS) Save(ctx context.Context, id string, o hcs.SaveOptions) error { return errStub }

// Modify changes settings of a system.
func (h *HCS) Modify(ctx context.Context, id string, r hcs.ModifySettingRequest) error {
	return errStub
}

// Delete terminates the system and forgets it with its log and writable layer.
func (h *HCS) Delete(ctx context.Context, id string) error { return errStub }

// Properties answers the base and the parts asked for.
func (h *HCS) Properties(ctx context.Context, id string, q hcs.PropertyQuery) (hcs.Properties, error) {
	return hcs.Properties{}, errStub
}

// Document is the create document after defaults.
func (h *HCS) Document(ctx context.Context, id string) (hcs.ComputeSystem, error) {
	return hcs.ComputeSystem{}, errStub
}

// Enumerate lists systems in the order of their creation; all = stopped ones too.
func (h *HCS) Enumerate(ctx context.Context, q hcs.SystemQuery, all bool) ([]hcs.Properties, error) {
	return nil, errStub
}

// Wait returns the exit status when the system has stopped and its network and
// mounts are gone. Any number may wait, also later. It ends with ctx's error.
func (h *HCS) Wait(ctx context.Context, id string) (hcs.SystemExitStatus, error) {
	return hcs.SystemExitStatus{}, errStub
}

// OpenLease opens a lease on a system.
func (h *HCS) OpenLease(ctx context.Context, id string) (*Lease, error) { return nil, errStub }

// CreateProcess runs one more process in a Running system. Attach to its Key with
// Replay to lose nothing.
func (h *HCS) CreateProcess(ctx context.Context, id string, p hcs.ProcessParameters) (hcs.ProcessInformation, error) {
	return hcs.ProcessInformation{}, errStub
}

// Processes lists every process of the system.
func (h *HCS) Processes(ctx context.Context, id string) ([]hcs.ProcessDetails, error) {
	return nil, errStub
}

// OpenProcess finds a process by "init", "p<n>" or ProcessId.
func (h *HCS) OpenProcess(ctx context.Context, id, process string) (hcs.ProcessInformation, hcs.ProcessStatus, error) {
	return hcs.ProcessInformation{}, hcs.ProcessStatus{}, errStub
}

// SignalProcess sends a signal. delivered is false, without an error, when the
// process had exited.
func (h *HCS) SignalProcess(ctx context.Context, id, process string, s hcs.Signal) (delivered bool, err error) {
	return false, errStub
}

// TerminateProcess kills one process.
func (h *HCS) TerminateProcess(ctx context.Context, id, process string) (delivered bool, err error) {
	return false, errStub
}

// ModifyProcess resizes its console or closes its stdin.
func (h *HCS) ModifyProcess(ctx context.Context, id, process string, r hcs.ProcessModifyRequest) error {
	return errStub
}

// WaitProcess returns the status when the process has exited.
func (h *HCS) WaitProcess(ctx context.Context, id, process string) (hcs.ProcessStatus, error) {
	return hcs.ProcessStatus{}, errStub
}

// Attach hands conn, on which 101 was answered, to the worker, which speaks stdio
// frames on it. The caller closes its own conn afterwards. early is what was
// already read from it.
func (h *HCS) Attach(ctx context.Context, id, process string, o held.AttachOptions, conn *net.UnixConn, early []byte) error {
	return errStub
}

// Logs yields the lines of init's output. A follower ends when the system stopped
// and all was read, or with ctx.
func (h *HCS) Logs(ctx context.Context, id string, o hcs.LogOptions) (iter.Seq2[hcs.LogRecord, error], error) {
	return nil, errStub
}

// ServiceProperties answers GET /service/properties.
func (h *HCS) ServiceProperties(ctx context.Context, types []string) (map[string]any, error) {
	return nil, errStub
}
