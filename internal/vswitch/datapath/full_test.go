// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"testing"

	"github.com/cilium/ebpf"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// fillFlows takes every place of flow4 with entries that are nobody's.
func fillFlows(t *testing.T, d *Datapath) {
	t.Helper()
	m := d.state[bpf.SwitchMapFlow4]
	const batch = 8192
	keys, values := make([]bpf.FlowKey4, batch), make([]bpf.Flow4, batch)
	for n := uint32(0); ; n += batch {
		for i := range keys {
			keys[i] = bpf.FlowKey4{SrcBe: n + uint32(i), Flags: 0xff}
		}
		if _, err := m.BatchUpdate(keys, values, &ebpf.BatchOptions{ElemFlags: uint64(ebpf.UpdateAny)}); err != nil {
			break
		}
		if n > 2*m.MaxEntries() {
			t.Fatal("the table does not fill")
		}
	}
	// The last places, one by one: batches stop at the first that has none.
	for i := uint32(0); i < batch; i++ {
		if m.Put(bpf.FlowKey4{SrcBe: i, DstBe: 1, Flags: 0xff}, bpf.Flow4{}) != nil {
			return
		}
	}
}

// TestFullTableAndRules: without room, conversations that both sides' rules let
// pass unasked go on without a flow; others are refused and say why.
func TestFullTableAndRules(t *testing.T) {
	l := newLab(t)
	a, b := l.container(10), l.container(11)
	echo(b, "0.0.0.0:7")
	d := l.open()
	l.apply(d)
	fillFlows(t, d)
	refused := func() (n uint64) {
		all, err := d.Drops()
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range all {
			if x.Port == 10 && x.Reason == "flow_full" {
				n += x.Packets
			}
		}
		return n
	}
	for _, c := range []struct {
		name  string
		rules []vswitch.ACLRule
		works bool
	}{
		{"no rules", nil, true},
		{"all of UDP and TCP may come in", []vswitch.ACLRule{{ID: 1, Direction: vswitch.ACLIn}}, true},
		{"nothing may come in", []vswitch.ACLRule{{ID: 1, Direction: vswitch.ACLIn, Action: vswitch.ACLBlock}}, false},
	} {
		l.rules(d, c.rules...)
		was := refused()
		for _, network := range []string{"udp", "tcp"} {
			err := a.Ask(network, "10.1.0.11:7", c.name, silence)
			if (err == nil) != c.works {
				t.Errorf("%s, %s: %v", c.name, network, err)
			}
		}
		if n := refused() - was; (n == 0) != c.works {
			t.Errorf("%s: %d refused for the full table", c.name, n)
		}
	}
}
