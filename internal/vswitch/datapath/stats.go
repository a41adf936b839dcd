// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// counters count what this process did.
type counters struct {
	applies, applyErrors, applyNanos, rows  atomic.Int64
	sweeps, swept, flows4, flows6           atomic.Int64
	sweepNanos                              atomic.Int64
	eventsRead, eventsLost, eventsMalformed atomic.Int64
	repairedGone, repairedBehind            atomic.Int64
	repairedUnpinned, repairErrors          atomic.Int64
	readErrors                              atomic.Int64
	preceded                                atomic.Int64
	eventsHeld, samples, samplesLost        atomic.Int64
	crowded4, crowded6                      atomic.Bool
	found                                   atomic.Pointer[flowsFound] // by the last sweep
}

// Metrics are the counters of this process since Open, and gauges as of the last
// sweep.
type Metrics struct {
	Generation           uint32
	InDoubt              bool // the last change failed, and none has put it right
	Applies, ApplyErrors int64
	ApplyTime            time.Duration // sum over Applies
	RowsWritten          int64
	Sweeps, FlowsSwept   int64
	Flows4, Flows6       int64 // entries; a conversation has two
	SweepTime            time.Duration
	// Events read from the programs; of those, Lost by watchers that were too slow;
	// Held back by the programs, beyond their rates; Malformed, of a newer program.
	Events, EventsLost, EventsHeld, EventsMalformed int64
	// FlowsLimit is how many entries the tables can hold.
	FlowsLimit4, FlowsLimit6 int64
	// Conversations by state, and those with a NAT binding, as of the last sweep.
	Conversations map[string]int64
	NATBindings   int64
	Captures      int // that run
	// Samples for captures, and those that nobody was fast enough for.
	Samples, SamplesLost int64
	ReadErrors           int64 // times that events or packets could not be read, which ended what clients watched
	// Repaired counts attachments that other processes had taken away or got before,
	// and the times that pins were missing.
	RepairedGone, RepairedBehind, RepairedUnpinned int64
	RepairErrors                                   int64 // times that something could not be put right within a second
	Preceded                                       int64 // ports on whose device another's tcx program runs first, as of the last sweep
}

// Metrics returns the counters.
func (d *Datapath) Metrics() Metrics {
	d.mu.Lock()
	generation, dirty := d.gen.number, d.doubtful()
	d.mu.Unlock()
	c := &d.count
	found := c.found.Load()
	if found == nil {
		found = &flowsFound{}
	}
	states := map[string]int64{}
	for i, n := range found.states {
		if n > 0 {
			states[stateName(uint8(i))] = n
		}
	}
	return Metrics{
		FlowsLimit4: int64(d.state[bpf.SwitchMapFlow4].MaxEntries()), FlowsLimit6: int64(d.state[bpf.SwitchMapFlow6].MaxEntries()),
		Conversations: states, NATBindings: found.bindings, Captures: d.captures.count(),
		Generation: generation, InDoubt: dirty, Applies: c.applies.Load(), ApplyErrors: c.applyErrors.Load(),
		ApplyTime: time.Duration(c.applyNanos.Load()), RowsWritten: c.rows.Load(),
		Sweeps: c.sweeps.Load(), FlowsSwept: c.swept.Load(), Flows4: c.flows4.Load(), Flows6: c.flows6.Load(),
		SweepTime: time.Duration(c.sweepNanos.Load()),
		Events:    c.eventsRead.Load(), EventsLost: c.eventsLost.Load(), EventsHeld: c.eventsHeld.Load(), EventsMalformed: c.eventsMalformed.Load(),
		Samples: c.samples.Load(), SamplesLost: c.samplesLost.Load(),
		RepairedGone: c.repairedGone.Load(), RepairedBehind: c.repairedBehind.Load(), RepairedUnpinned: c.repairedUnpinned.Load(), RepairErrors: c.repairErrors.Load(),
		Preceded: c.preceded.Load(), ReadErrors: c.readErrors.Load(),
	}
}

// flowsFound is what a sweep found, of the asking direction of each conversation.
type flowsFound struct {
	states   [16]int64 // by enum gh_flow_state
	bindings int64
}

// PortFlows is how many conversations a port began that are still known, and how
// many it may have; 0 = any number.
func (d *Datapath) PortFlows(port vswitch.PortID) (used, limit uint32, err error) {
	if err := d.state[bpf.SwitchMapPflows].Lookup(uint32(port), &used); err != nil {
		return 0, 0, fmt.Errorf("flows of port %d: %w", port, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	row, _ := d.base.Port(port)
	return bpf.Tallied(used), row.MaxFlows, nil
}

// PortStats count what passed a port since it was first used, seen from the vNIC:
// received is towards it, be it forwarded, a copy or an answer of the switch. What
// it sent is either in TxPackets or in TxDrops. RxDrops are those that its own
// rules refused; they are among the TxDrops of who sent them.
type PortStats struct {
	RxPackets, RxBytes uint64
	TxPackets, TxBytes uint64
	RxDrops, TxDrops   uint64
}

// Stats returns the counters of a port. Port numbers are used again, and the
// counters go on: remember them at the start where that matters.
func (d *Datapath) Stats(port vswitch.PortID) (PortStats, error) {
	var perCPU []bpf.PortStats
	if err := d.state[bpf.SwitchMapPstats].Lookup(uint32(port), &perCPU); err != nil {
		return PortStats{}, fmt.Errorf("read counters of port %d: %w", port, err)
	}
	s := bpf.SumPortStats(perCPU)
	return PortStats{
		RxPackets: s.RxPackets, RxBytes: s.RxBytes, TxPackets: s.TxPackets, TxBytes: s.TxBytes, RxDrops: s.RxDrops, TxDrops: s.TxDrops,
	}, nil
}

// ResetStats zeroes the counters of a port; for a number that is used anew.
func (d *Datapath) ResetStats(port vswitch.PortID) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("reset counters of port %d: %w", port, err)
	}
	if err := d.state[bpf.SwitchMapPstats].Put(uint32(port), make([]bpf.PortStats, cpus)); err != nil {
		return fmt.Errorf("reset counters of port %d: %w", port, err)
	}
	return nil
}

// Drop counts the packets dropped for one reason at one port, where a port of 0
// is an unknown device.
type Drop struct {
	Port           vswitch.PortID
	Reason         string // as in drop.h, lower case: "spoof_ip"
	Layer          string // "spoof", "route"
	Packets, Bytes uint64
}

// Drops lists all drop counters, most packets first.
func (d *Datapath) Drops() ([]Drop, error) {
	var all []Drop
	var k bpf.DropKey
	var perCPU []bpf.DropVal
	it := d.state[bpf.SwitchMapDrops].Iterate()
	for it.Next(&k, &perCPU) {
		drop := Drop{Port: vswitch.PortID(k.Port), Reason: ReasonName(k.Reason), Layer: LayerName(k.Layer)}
		for _, c := range perCPU {
			drop.Packets += c.Packets
			drop.Bytes += c.Bytes
		}
		all = append(all, drop)
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, fmt.Errorf("read drop counters: %w", err)
	}
	slices.SortFunc(all, func(a, b Drop) int {
		return cmp.Or(cmp.Compare(b.Packets, a.Packets), cmp.Compare(a.Port, b.Port), strings.Compare(a.Reason, b.Reason))
	})
	return all, nil
}
