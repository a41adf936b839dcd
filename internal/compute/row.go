// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/model"
	"gatehouse.dev/gatehouse/internal/resource"
	"gatehouse.dev/gatehouse/internal/store"
)

// stateCreating is a row's state before the system can be seen: its ids are
// committed, its resources may or may not be there.
const stateCreating hcs.State = "creating"

// row is what the store keeps of one system, under its RuntimeId. A row that was
// published is never changed in place.
type row struct {
	ID, RuntimeID string
	State         hcs.State
	Doc           hcs.ComputeSystem
	By            resource.Caller // who made it
	Image         string          `json:",omitempty"`
	Command       []string        `json:",omitempty"`
	StopSignal    int             `json:",omitempty"`

	CreateTime time.Time
	StartTime  time.Time `json:",omitzero"`
	StopTime   time.Time `json:",omitzero"`

	// Namespace is the HCN namespace; Plugged: it was planned by and dies with us.
	Namespace string   `json:",omitempty"`
	Plugged   bool     `json:",omitempty"`
	NetNsPath string   `json:",omitempty"`
	Endpoints []string `json:",omitempty"`

	// Journal is the last entry of the worker's journal that this row knows.
	Journal   uint64                `json:",omitempty"`
	Processes map[string]processRow `json:",omitempty"`
	OOM       bool                  `json:",omitempty"`
	Exit      *hcs.SystemExitStatus `json:",omitempty"`

	// Ending is who asked for the end: client or internal. Stored with the next
	// commit only: the worker knows it too.
	Ending string `json:",omitempty"`
	// Unclean: stopped, and not everything it used is known to be gone.
	Unclean bool `json:",omitempty"`
	// Committing: frozen while its files are read; who finds it so thaws it.
	Committing bool `json:",omitempty"`
	// Forgotten: a tombstone that only answers waits.
	Forgotten bool `json:",omitempty"`
}

type processRow struct {
	PID    uint32             // where its kernel counts
	Host   uint32             `json:",omitempty"` // of the machine that it is in; 0 = PID
	Seq    uint64             // of its creation, for the order
	Status *hcs.ProcessStatus `json:",omitempty"`
}

func (p processRow) hostPID() uint32 {
	if p.Host != 0 {
		return p.Host
	}
	return p.PID
}

// maxExited processes are kept a system.
const maxExited = 1024

func systems() store.Bucket[row] { return store.Bucket[row]{Name: "systems"} }

func (r *row) clone() *row {
	c := *r
	c.Processes = maps.Clone(r.Processes)
	if c.Processes == nil {
		c.Processes = map[string]processRow{}
	}
	return &c
}

func (r *row) keep() bool   { return r.Doc.Annotations[hcs.AnnotationKeep] == "true" }
func (r *row) remove() bool { return r.Doc.Annotations[hcs.AnnotationRemove] == "true" }
func (r *row) inMachine() bool {
	return r.Doc.Container.Isolation == hcs.IsolationHypervisor
}
func (r *row) stopped() bool { return r.State == hcs.StateStopped }

func (r *row) init() hcs.ProcessInformation {
	p := r.Processes[initKey]
	return hcs.ProcessInformation{ProcessId: p.PID, HostProcessId: p.hostPID(), Key: initKey}
}

const initKey = "init"

// base is what Properties always answers.
func (r *row) base() hcs.Properties {
	p := hcs.Properties{Id: r.ID, SystemType: hcs.TypeContainer, Name: r.ID, Owner: r.Doc.Owner, RuntimeId: r.RuntimeID,
		State: r.State, RuntimeOsType: "Linux", TerminateOnLastHandleClosed: r.Doc.ShouldTerminateOnLastHandleClosed,
		Isolation: r.Doc.Container.Isolation, Annotations: r.Doc.Annotations, Image: r.Image, Command: r.Command,
		CreateTime: r.CreateTime, StartTime: r.StartTime, Namespace: r.Namespace}
	if r.State == hcs.StateRunning || r.State == hcs.StatePaused {
		p.HostProcessId = r.Processes[initKey].hostPID()
	}
	if r.stopped() {
		p.Stopped, p.StopTime, p.ExitStatus = true, r.StopTime, r.Exit
		if r.Exit != nil {
			p.ExitType, p.Reason = r.Exit.ExitType, r.Exit.Reason
		}
	}
	return p
}

// change collects what one transaction does to a row.
type change struct {
	*row
	events []store.Event
}

// emit adds an event to the transaction.
func (c *change) emit(t hcs.EventType, kind string, at time.Time, data any) {
	e := store.Event{Time: at.UTC(), Type: uint32(t), Name: t.String(), Kind: kind, ID: c.ID}
	if data != nil {
		e.Data, _ = json.Marshal(data) // our own documents
	}
	if kind == hcs.KindSystems && t == hcs.EventSystemExited && c.Exit != nil {
		e.Status = int64(c.Exit.Status)
	}
	c.events = append(c.events, e)
}

func (c *change) started(at time.Time, pid, host int) {
	if c.State == stateCreating {
		c.created()
	}
	c.State, c.StartTime = hcs.StateRunning, at
	c.Processes[initKey] = processRow{PID: uint32(pid), Host: uint32(host), Seq: c.Journal}
	c.emit(hcs.EventSystemStarted, hcs.KindSystems, at, c.base())
	c.processCreated(initKey, pid, host, at) // its own entry follows: one transaction less to wait for
}

func (c *change) processCreated(key string, pid, host int, at time.Time) {
	p := processRow{PID: uint32(pid), Host: uint32(host), Seq: c.Journal}
	c.Processes[key] = p
	c.emit(hcs.EventProcessCreated, hcs.KindProcesses, at, hcs.ProcessEventData{RuntimeId: c.RuntimeID,
		ProcessInformation: hcs.ProcessInformation{ProcessId: p.PID, HostProcessId: p.hostPID(), Key: key}})
}

func (c *change) created() {
	c.State = hcs.StateCreated
	c.emit(hcs.EventSystemCreated, hcs.KindSystems, c.CreateTime, c.base())
}

// exited makes the system Stopped. Processes that nobody saw end are said to have
// been killed.
func (c *change) exited(at time.Time, x *hcs.SystemExitStatus) {
	for _, k := range c.keys() {
		p := c.Processes[k]
		if p.Status == nil || !p.Status.Exited {
			c.processExited(k, at, &hcs.ProcessStatus{ProcessId: p.PID, Exited: true, ExitCode: 137, Key: k, ExitedAt: at})
		}
	}
	c.State, c.StopTime, c.Exit, c.Unclean = hcs.StateStopped, at, x, true
	c.emit(hcs.EventSystemExited, hcs.KindSystems, at, hcs.SystemExitData{RuntimeId: c.RuntimeID, SystemExitStatus: *x})
}

func (c *change) processExited(key string, at time.Time, st *hcs.ProcessStatus) {
	p := c.Processes[key]
	p.Status = st
	c.Processes[key] = p
	c.emit(hcs.EventProcessExited, hcs.KindProcesses, at, hcs.ProcessExitData{RuntimeId: c.RuntimeID, ProcessStatus: *st})
	for len(c.Processes) > maxExited {
		oldest := ""
		for k, p := range c.Processes {
			if k != initKey && p.Status != nil && p.Status.Exited && (oldest == "" || p.Seq < c.Processes[oldest].Seq) {
				oldest = k
			}
		}
		if oldest == "" {
			return
		}
		delete(c.Processes, oldest)
	}
}

// keys of the processes in the order of their creation, init last.
func (r *row) keys() []string {
	keys := make([]string, 0, len(r.Processes))
	for k := range r.Processes {
		keys = append(keys, k)
	}
	sortBy(keys, func(a, b string) bool {
		if (a == initKey) != (b == initKey) {
			return b == initKey
		}
		return r.Processes[a].Seq < r.Processes[b].Seq
	})
	return keys
}

// classify names an exit that the worker did not name.
func (r *row) classify(died bool) *hcs.SystemExitStatus {
	s := model.Seen{OOM: r.OOM, WorkerDied: died, Terminated: r.Ending != "", Internal: r.Ending == endInternal}
	if p, ok := r.Processes[initKey]; ok && p.Status != nil && p.Status.Exited {
		s.Reaped, s.Code = true, p.Status.ExitCode
		s.WorkerDied = false // it had told how it ended
	}
	x := model.Classify(s)
	return &x
}

const (
	endClient   = "client"
	endInternal = "internal"
)

var errAbandoned = errors.New("the system is being undone")

// commit runs fn on a copy of the row, stores it with its events in one
// transaction and publishes it. Nothing happens when fn or the store fails.
func (s *system) commit(fn func(*change) error) (uint64, error) {
	s.write.Lock()
	defer s.write.Unlock()
	if s.abandoned {
		return 0, errAbandoned
	}
	c := &change{row: s.row.Load().clone()}
	if err := fn(c); err != nil {
		return 0, err
	}
	rev, err := s.h.o.Store.Update(func(tx *store.Tx) error {
		if err := systems().Put(tx, c.RuntimeID, *c.row); err != nil {
			return err
		}
		for _, e := range c.events {
			if err := tx.Append(e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("store: %w", err)
	}
	s.row.Store(c.row)
	s.notify()
	return rev, nil
}
