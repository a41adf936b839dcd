// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// Live reads the state maps entry by entry, for explain. It cannot write: its
// descriptors are read-only, and the kernel holds to that.
type Live struct{ maps map[string]*ebpf.Map }

// Live is the switch's state as it is when each method is called.
func (d *Datapath) Live() Live { return Live{d.view} }

// openView opens the state maps a second time, for reading alone. A ring buffer
// cannot be opened so, and nobody looks things up in one.
func (d *Datapath) openView() error {
	for name, m := range d.state {
		if m.Type() == ebpf.RingBuf {
			continue
		}
		ro, err := ebpf.LoadPinnedMap(filepath.Join(d.stateDir(), name), &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			return fmt.Errorf("state map %s, for reading: %w", name, err)
		}
		d.view[name] = ro
	}
	return nil
}

// get is one entry; an error is an entry that is not there.
func get[K, V any](l Live, name string, k K) (v V, ok bool) {
	ok = l.maps[name].Lookup(&k, &v) == nil
	return v, ok
}

// Flow4 is an entry of flow4.
func (l Live) Flow4(k bpf.FlowKey4) (bpf.Flow4, bool) {
	return get[bpf.FlowKey4, bpf.Flow4](l, bpf.SwitchMapFlow4, k)
}

// Flow6 is an entry of flow6.
func (l Live) Flow6(k bpf.FlowKey6) (bpf.Flow6, bool) {
	return get[bpf.FlowKey6, bpf.Flow6](l, bpf.SwitchMapFlow6, k)
}

// Frag4 is an entry of frag4.
func (l Live) Frag4(k bpf.FragKey4) (bpf.FragVal, bool) {
	return get[bpf.FragKey4, bpf.FragVal](l, bpf.SwitchMapFrag4, k)
}

// Frag6 is an entry of frag6.
func (l Live) Frag6(k bpf.FragKey6) (bpf.FragVal, bool) {
	return get[bpf.FragKey6, bpf.FragVal](l, bpf.SwitchMapFrag6, k)
}

// Affinity is an entry of affinity.
func (l Live) Affinity(k bpf.AffinityKey) (bpf.AffinityVal, bool) {
	return get[bpf.AffinityKey, bpf.AffinityVal](l, bpf.SwitchMapAffinity, k)
}

// Epoch is an entry of epoch.
func (l Live) Epoch(i uint32) uint32 {
	n, _ := get[uint32, uint32](l, bpf.SwitchMapEpoch, i)
	return n
}

// Flows is how many flows count against a port's quota.
func (l Live) Flows(port uint32) uint32 {
	n, _ := get[uint32, uint32](l, bpf.SwitchMapPflows, port)
	return n
}

// Fill is how many conversations the table of a family (4 or 6) holds.
func (l Live) Fill(family uint8) uint32 {
	n, _ := get[uint32, uint32](l, bpf.SwitchMapFill, uint32(family/6))
	return n
}

// Second is now on the clock of the flows.
func (l Live) Second() uint32 {
	n, _ := monotonicSeconds()
	return n
}
