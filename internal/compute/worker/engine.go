// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package worker

import (
	"context"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/silo"
	"gatehouse.dev/gatehouse/internal/compute/uvm"
)

// engine runs what a worker holds: package silo's or package uvm's Engine, which
// say what each method does.
type engine interface {
	Prepare() error
	Start(ctx context.Context, io silo.IO) (*silo.Process, error)
	Exec(ctx context.Context, name string, p specs.Process, io silo.IO) (*silo.Process, error)
	Signal(ctx context.Context, pid, signal int) (bool, error)
	Kill(ctx context.Context) error
	Pause(ctx context.Context, on bool) error
	Update(ctx context.Context, r specs.LinuxResources) error
	Statistics(started time.Time) hcs.Statistics
	ProcessDetails() []hcs.ProcessDetails
	WatchOOM(ctx context.Context, f func())
	OOMKills() uint64
	// HostPID is the process that the whole is to the host; 0 = each is its own.
	HostPID() int
	// Fault says how what runs the container ended, if it did so by itself, and the
	// last that its console said.
	Fault() (*hcs.SystemExitStatus, string)
	Cleanup(ctx context.Context) error
}

// siloEngine is a silo, which has neither a machine nor a console.
type siloEngine struct{ *silo.Engine }

func (e siloEngine) ProcessDetails() []hcs.ProcessDetails   { return e.Group().ProcessDetails() }
func (e siloEngine) WatchOOM(ctx context.Context, f func()) { e.Group().WatchOOM(ctx, f) }
func (e siloEngine) OOMKills() uint64                       { return e.Group().OOMKills() }
func (siloEngine) HostPID() int                             { return 0 }
func (siloEngine) Fault() (*hcs.SystemExitStatus, string)   { return nil, "" }

func newEngine(spec Spec, thread *silo.Thread, reaper *silo.Reaper) (engine, error) {
	if spec.Machine == nil {
		e, err := silo.New(siloConfig(spec), thread, reaper)
		return siloEngine{e}, err
	}
	on, err := silo.LoadCgroups()
	if err != nil {
		return nil, err
	}
	return uvm.NewEngine(uvm.Silo{ID: "gh-" + spec.RuntimeID, Machine: *spec.Machine, Spec: spec.OCI,
		Dir: spec.Dir, Serial: filepath.Join(spec.Dir, "serial.log"), Group: silo.Cgroup{On: on, Path: spec.CgroupPath}, Reaper: reaper}), nil
}
