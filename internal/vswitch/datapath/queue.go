// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"fmt"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// The programs put every new conversation into a queue, and look after dead ones
// themselves when nobody has swept for GH_REAP_PATIENCE (reap.h).

// beat tells the programs that somebody sweeps.
func (d *Datapath) beat() error {
	now, err := monotonicSeconds()
	if err != nil {
		return err
	}
	if err := d.state[bpf.SwitchMapReap].Put(uint32(bpf.SwitchGhReapAtGH_REAP_BEAT), now); err != nil {
		return fmt.Errorf("tell the programs of the sweep: %w", err)
	}
	return nil
}

// queue is one of the two queues.
type queue[K any] struct {
	d          *Datapath
	name       string
	head, tail bpf.ReapAt
}

func (d *Datapath) queue4() queue[bpf.FlowKey4] {
	return queue[bpf.FlowKey4]{d, bpf.SwitchMapQueue4, bpf.SwitchGhReapAtGH_REAP_HEAD4, bpf.SwitchGhReapAtGH_REAP_TAIL4}
}

func (d *Datapath) queue6() queue[bpf.FlowKey6] {
	return queue[bpf.FlowKey6]{d, bpf.SwitchMapQueue6, bpf.SwitchGhReapAtGH_REAP_HEAD6, bpf.SwitchGhReapAtGH_REAP_TAIL6}
}

func (q queue[K]) position(at bpf.ReapAt) (n uint32, err error) {
	if err := q.d.state[bpf.SwitchMapReap].Lookup(uint32(at), &n); err != nil {
		return 0, fmt.Errorf("queue of flows: %w", err)
	}
	return n, nil
}

// worn reports whether the queue ought to be written anew: while a sweeper is
// there it only grows, and from its size on the oldest are written over. head is
// where it ends.
func (q queue[K]) worn() (head uint32, worn bool, err error) {
	if head, err = q.position(q.head); err != nil {
		return 0, false, err
	}
	tail, err := q.position(q.tail)
	return head, head-tail > q.d.state[q.name].MaxEntries()/2, err
}

// renew writes the conversations that were found in place of all that were queued
// before head, which was read before they were looked for: what came since is
// behind it. Half of the queue holds as many as the flow table does.
func (q queue[K]) renew(head uint32, live []K) error {
	m := q.d.state[q.name]
	size := m.MaxEntries()
	live = live[:min(len(live), int(size/2))]
	tail := head - uint32(len(live))
	at := make([]uint32, len(live))
	for i := range at {
		at[i] = (tail + uint32(i)) % size
	}
	if len(live) > 0 {
		if _, err := m.BatchUpdate(at, live, nil); err != nil {
			return fmt.Errorf("queue of flows: %w", err)
		}
	}
	if err := q.d.state[bpf.SwitchMapReap].Put(uint32(q.tail), tail); err != nil {
		return fmt.Errorf("queue of flows: %w", err)
	}
	return nil
}
