// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// fillFlows leaves no room in the flow tables: conversations of the host's own
// port take it, which are as alive as one of a minute ago. Packets of those that
// find no room walk the layers, and try to insert, each time.
func (h *switchHost) fillFlows() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return err
	}
	s := uint32(now.Sec)
	const est, port = uint8(bpf.SwitchGhFlowStateGH_FLOW_EST), uint16(hostPort)
	err := errors.Join(h.forgetFlows(),
		fillMap(h.pins, bpf.SwitchMapFlow4, func(i uint32) (k bpf.FlowKey4, v bpf.Flow4) {
			k = bpf.FlowKey4{SrcBe: i, DstBe: ^i, Port: port, Zone: 1, Proto: unix.IPPROTO_TCP}
			pair := k
			pair.SrcBe, pair.DstBe = k.DstBe, k.SrcBe
			return k, bpf.Flow4{State: est, LastS: s, BornS: s, InPort: port, OutPort: port, Reply: uint8(i >> 31), Pair: pair}
		}),
		fillMap(h.pins, bpf.SwitchMapFlow6, func(i uint32) (k bpf.FlowKey6, v bpf.Flow6) {
			k = bpf.FlowKey6{Port: port, Zone: 1, Proto: unix.IPPROTO_TCP}
			binary.NativeEndian.PutUint32(k.Src.B[12:], i)
			binary.NativeEndian.PutUint32(k.Dst.B[12:], ^i)
			pair := k
			pair.Src, pair.Dst = k.Dst, k.Src
			return k, bpf.Flow6{State: est, LastS: s, BornS: s, InPort: port, OutPort: port, Reply: uint8(i >> 31), Pair: pair}
		}))
	if err == nil {
		_, err = h.order(order{Sweep: true})
	}
	return err
}

// fillMap puts pairs of entries, of i and ^i, until there is no room.
func fillMap[K, V any](pins, name string, entry func(i uint32) (K, V)) error {
	m, err := ebpf.LoadPinnedMap(filepath.Join(pins, "state", "v"+bpf.StateLayout, name), nil)
	if err != nil {
		return err
	}
	defer m.Close()
	for i := uint32(0); ; i++ {
		for _, half := range []uint32{i, ^i} {
			k, v := entry(half)
			err := m.Put(k, v)
			if errors.Is(err, unix.E2BIG) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("fill %s: %w", name, err)
			}
		}
	}
}
