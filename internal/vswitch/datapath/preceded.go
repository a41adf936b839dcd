// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// Ports hang on a shared block, and a tcx program of another process on a port's
// device runs before it. Ours cannot come before that but as a tcx program of its
// own, which costs an RCU grace period for each port. So it is only told of: it
// may be what somebody wants, and anti-spoofing and policy still come after it.

// LookForPreceded finds the devices of ports where another's tcx program comes
// before the switch, and tells of each once. Run calls it at each sweep; Metrics
// have the number.
func (d *Datapath) LookForPreceded() (ifindexes []int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || !d.live {
		return nil, nil
	}
	uplinks := map[int]bool{}
	for _, u := range d.tables.Uplinks {
		uplinks[u.Ifindex] = true
	}
	var ifindex, port uint32
	now := map[int]bool{}
	it := d.gen.coll.Maps[bpf.SwitchMapIfport].Iterate()
	for it.Next(&ifindex, &port) {
		if uplinks[int(ifindex)] {
			continue
		}
		q, err := link.QueryPrograms(link.QueryOptions{Target: int(ifindex), Attach: ebpf.AttachTCXIngress})
		if errors.Is(err, ebpf.ErrNotSupported) { // before Linux 6.6
			return nil, nil
		}
		if err != nil || len(q.Programs) == 0 {
			continue // its device is on its way out, or nobody is there
		}
		now[int(ifindex)] = true
		ifindexes = append(ifindexes, int(ifindex))
		if !d.preceded[int(ifindex)] {
			d.log.Warn("another's tcx program runs before the switch on a port's device; what it keeps the switch never sees",
				"port", port, "ifindex", ifindex, "programs", len(q.Programs))
		}
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, fmt.Errorf("list devices of ports: %w", err)
	}
	d.preceded = now
	d.count.preceded.Store(int64(len(now)))
	return ifindexes, nil
}
