// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// ServiceStats count what a service, or a published port, was asked since it is
// there.
type ServiceStats struct {
	vswitch.ServiceInfo
	New     uint64 // conversations given to a backend
	Refused uint64 // that none was there for
}

// Services lists the services of the Tables applied last and their counters, by
// number.
func (d *Datapath) Services() ([]ServiceStats, error) {
	d.mu.Lock()
	t := d.tables
	d.mu.Unlock()
	counted := map[vswitch.ServiceID]bpf.SvcStat{}
	err := d.serviceCounters(func(id vswitch.ServiceID, sum bpf.SvcStat) { counted[id] = sum })
	if err != nil {
		return nil, fmt.Errorf("read counters of services: %w", err)
	}
	var all []ServiceStats
	for _, s := range t.Services() {
		c := counted[s.ID]
		all = append(all, ServiceStats{s, c.Fresh, c.Refused})
	}
	return all, nil
}

func (d *Datapath) serviceCounters(yield func(vswitch.ServiceID, bpf.SvcStat)) error {
	var id uint32
	var perCPU []bpf.SvcStat
	it := d.state[bpf.SwitchMapSvcstat].Iterate()
	for it.Next(&id, &perCPU) {
		var sum bpf.SvcStat
		for _, c := range perCPU {
			sum.Fresh += c.Fresh
			sum.Refused += c.Refused
		}
		yield(vswitch.ServiceID(id), sum)
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return err
	}
	return nil
}

// sweepServices removes the counters of services that are gone. Before the first
// Apply nobody knows which these are.
func (d *Datapath) sweepServices() error {
	d.mu.Lock()
	live, t := d.live, d.tables
	d.mu.Unlock()
	if !live {
		return nil
	}
	there := map[vswitch.ServiceID]bool{}
	for _, s := range t.Services() {
		there[s.ID] = true
	}
	var gone []uint32
	err := d.serviceCounters(func(id vswitch.ServiceID, _ bpf.SvcStat) {
		if !there[id] {
			gone = append(gone, uint32(id))
		}
	})
	for _, id := range gone {
		if e := d.state[bpf.SwitchMapSvcstat].Delete(id); e != nil && !errors.Is(e, ebpf.ErrKeyNotExist) {
			err = errors.Join(err, e)
		}
	}
	if err != nil {
		return fmt.Errorf("counters of services: %w", err)
	}
	return nil
}
