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

// half is what sweeping needs of a flow entry of either family. An entry is one
// direction of a conversation; pair is the key of the other.
type half[K comparable] struct {
	last    uint32 // second of CLOCK_MONOTONIC of the last packet
	state   bpf.FlowState
	in, out vswitch.PortID
	reply   bool // the answering direction, which holds the NAT binding
	nat     bool
	pair    K
}

// flowTable is one of the two flow maps.
type flowTable[K comparable, V any] struct {
	m    *ebpf.Map
	half func(*V) half[K]
	flow func(now uint32, k *K, v *V) Flow
}

func (d *Datapath) flow4() flowTable[bpf.FlowKey4, bpf.Flow4] {
	return flowTable[bpf.FlowKey4, bpf.Flow4]{d.state[bpf.SwitchMapFlow4], func(v *bpf.Flow4) half[bpf.FlowKey4] {
		return half[bpf.FlowKey4]{
			last: v.LastS, state: bpf.FlowState(v.State), in: vswitch.PortID(v.InPort), out: vswitch.PortID(v.OutPort),
			reply: v.Reply != 0, nat: v.Nat != 0, pair: v.Pair,
		}
	}, flowOf4}
}

func (d *Datapath) flow6() flowTable[bpf.FlowKey6, bpf.Flow6] {
	return flowTable[bpf.FlowKey6, bpf.Flow6]{d.state[bpf.SwitchMapFlow6], func(v *bpf.Flow6) half[bpf.FlowKey6] {
		return half[bpf.FlowKey6]{
			last: v.LastS, state: bpf.FlowState(v.State), in: vswitch.PortID(v.InPort), out: vswitch.PortID(v.OutPort),
			reply: v.Reply != 0, nat: v.Nat != 0, pair: v.Pair,
		}
	}, flowOf6}
}

// dumpBatch is how many entries one call fetches; a hash bucket must fit whole.
const dumpBatch = 4096

// walk calls f for entries until it returns false. Entries that come or go
// meanwhile may be missed or seen twice.
func (t flowTable[K, V]) walk(f func(*K, *V) bool) error {
	size := dumpBatch
	for {
		err := t.walkBatch(size, f)
		if !errors.Is(err, errBucketTooLong) {
			return err
		}
		size *= 2
	}
}

var errBucketTooLong = errors.New("hash bucket longer than the batch")

func (t flowTable[K, V]) walkBatch(size int, f func(*K, *V) bool) error {
	size = min(size, int(t.m.MaxEntries()))
	keys, values := make([]K, size), make([]V, size)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := t.m.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			if !f(&keys[i], &values[i]) {
				return nil
			}
		}
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			return nil // the end
		case isNoSpace(err) && n == 0 && size < int(t.m.MaxEntries()):
			return errBucketTooLong
		case err != nil:
			return fmt.Errorf("dump flows: %w", err)
		}
	}
}

// value reads one half; ok is false when it is gone.
func (t flowTable[K, V]) value(k *K) (v V, ok bool, err error) {
	switch err := t.m.Lookup(k, &v); {
	case errors.Is(err, ebpf.ErrKeyNotExist):
		return v, false, nil
	case err != nil:
		return v, false, fmt.Errorf("read flow: %w", err)
	}
	return v, true, nil
}

// get reads what sweeping needs of one half.
func (t flowTable[K, V]) get(k *K) (h half[K], ok bool, err error) {
	v, ok, err := t.value(k)
	if ok {
		h = t.half(&v)
	}
	return h, ok, err
}

// end removes a conversation as remove does, and reports it if somebody wants to
// know.
func (t flowTable[K, V]) end(k K, h half[K], why string, o *ending) (int, error) {
	var c Conversation
	told := false
	if o.ended != nil {
		asks := k
		if h.reply {
			asks = h.pair
		}
		v, ok, err := t.value(&asks)
		if err == nil && ok && !t.half(&v).reply {
			c, err = t.conversation(o.now, &asks, &v)
			told = err == nil
		}
		if err != nil {
			return 0, err
		}
	}
	n, err := t.remove(k, h)
	if told && n > 0 {
		o.ended(c, why)
	}
	return n, err
}

// ending is what ending conversations needs to know.
type ending struct {
	now   uint32
	ended func(c Conversation, why string) // nil = nobody wants to know
	found flowsFound
	gone  map[vswitch.PortID]uint64 // ports that are no more
	// stillGone asks again whether one of two ports is: a number may be given anew.
	stillGone func(a, b vswitch.PortID) bool
}

// orphaned reports whether a flow has lost an end. Translated connections in
// TIME_WAIT stay their time: the other side must not see the NAT port again before.
func (h *half[K]) orphaned(gone map[vswitch.PortID]uint64) bool {
	return (gone[h.in] != 0 || gone[h.out] != 0) && !(h.nat && h.state == bpf.SwitchGhFlowStateGH_FLOW_TW)
}

// count adds what is known of a half that stays.
func (o *ending) count(state bpf.FlowState, reply, nat bool) {
	if reply {
		return
	}
	o.found.states[state&15]++
	if nat {
		o.found.bindings++
	}
}

// remove deletes both halves, the answering one last: it holds the NAT binding,
// which must not be free while the other still uses it. It tells how many were there.
func (t flowTable[K, V]) remove(k K, h half[K]) (int, error) {
	order := []K{k, h.pair}
	if h.reply {
		order[0], order[1] = h.pair, k
	}
	n := 0
	for i := range order {
		switch err := t.m.Delete(&order[i]); {
		case err == nil:
			n++
		case !errors.Is(err, ebpf.ErrKeyNotExist):
			return n, fmt.Errorf("delete flow: %w", err)
		}
	}
	return n, nil
}
