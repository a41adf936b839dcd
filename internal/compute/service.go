// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package compute is the Host Compute Service: it takes verbs on compute systems,
// writes down what is wanted, has it made by hands (images, networks, workers) and
// tells what became of it. States and documents are model's, processes are the
// worker's; here are order, crash and undo.
//
// Be aware:
//   - Terminate, Wait, Properties and signals overtake the verb that a system is
//     busy with; all other verbs on one system queue.
//   - A row whose system is stopped stays as a tombstone for ten minutes (or until
//     it is deleted, where it is to be kept), so its exit status can be had.
//   - Failpoints, in order: compute.{reserved,plugged,prepared,spawned,started,
//     stopped,freed,deleted}.
//
// A system is a row keyed by its RuntimeId. The row is committed with every id it
// will use before any resource is made, so whatever is found after a crash either
// has a row or is an orphan. The worker's journal is the only source of facts
// about a system that runs: one goroutine a system turns entries into row changes
// and events, each batch in one transaction.
package compute

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/held"
	"gatehouse.dev/gatehouse/internal/compute/model"
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
	// Machines are utility VMs; nil = isolation Hypervisor is refused.
	Machines Machines
	// Stats adds the network's counters to Statistics; nil = none.
	Stats EndpointStats
	// Tracer tells which files systems open; nil = cannot.
	Tracer Tracer
	// Policy says who may have which isolation, as configured.
	Policy hcs.Policy
	// Runtime is the OCI runtime's path; "" = runc from PATH.
	Runtime string
	// LibraryOS is the path of the runtime of library OSes, "" = runsc from PATH, and
	// LibraryPlatform how it catches system calls, "" = ptrace.
	LibraryOS, LibraryPlatform string
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

// HCS is the service. Make it with New, then Recover, then Run.
type HCS struct {
	o     Options
	facts model.Facts
	log   *slog.Logger

	policy  atomic.Pointer[hcs.Policy] // whole
	setting sync.Mutex                 // one SetPolicy at a time

	life context.Context // ends when the service lets go of its workers
	stop context.CancelFunc
	wg   sync.WaitGroup // pumps and endings

	mu    sync.Mutex // guards byID and byRID, not the systems
	byID  map[string]*system
	byRID map[string]*system
}

// New checks the options and asks the host for its facts; it changes nothing.
func New(o Options) (*HCS, error) {
	if o.Store == nil || o.Images == nil || o.Networks == nil || o.Workers == nil {
		return nil, errors.New("compute: store, images, networks and workers are needed")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Runtime == "" {
		o.Runtime = "runc"
	}
	if p, err := exec.LookPath(o.Runtime); err == nil {
		o.Runtime = p
	}
	if o.LibraryOS == "" {
		o.LibraryOS = "runsc"
	}
	if o.LibraryPlatform == "" {
		o.LibraryPlatform = "ptrace"
	}
	if o.Facts.Cgroup == "" {
		o.Facts = HostFacts(o.Runtime)
		if p, err := exec.LookPath(o.LibraryOS); err == nil {
			o.LibraryOS, o.Facts.LibraryOS = p, true
		}
	}
	o.Facts.Machines = o.Machines != nil
	h := &HCS{o: o, facts: o.Facts, log: o.Log, byID: map[string]*system{}, byRID: map[string]*system{}}
	if err := h.loadPolicy(); err != nil {
		return nil, err
	}
	h.life, h.stop = context.WithCancel(context.Background())
	return h, nil
}

// Run forgets what is old and repeats what could not be removed, until ctx ends;
// then it lets go of all workers without ending them and returns.
func (h *HCS) Run(ctx context.Context) error {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			h.Close()
			h.sweep(context.WithoutCancel(ctx), time.Now())
			return nil
		case <-t.C:
			h.sweep(ctx, time.Now())
		}
	}
}

// Close lets go of all workers without ending them. Leases that end after it have
// no effect: call it before the API goes down. Idempotent.
func (h *HCS) Close() {
	h.stop()
	h.wg.Wait()
}
