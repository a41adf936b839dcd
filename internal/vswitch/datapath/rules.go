// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// RuleStats counts the packets that an ACL rule decided. Those are packets that
// walked the layers: the first of a conversation, and after a change its next
// one. What a flow carries is not asked again and not counted here.
type RuleStats struct {
	Rule           vswitch.RuleID
	Set, Name      string
	Priority       uint32
	Action         vswitch.ACLAction
	Packets, Bytes uint64
}

// RuleStats lists the rules that have decided anything, by number.
func (d *Datapath) RuleStats() ([]RuleStats, error) {
	d.mu.Lock()
	rules := d.tables.Rules()
	d.mu.Unlock()
	var all []RuleStats
	err := d.eachRule(func(id vswitch.RuleID, perCPU []bpf.ACLStats) {
		r, ok := rules[id]
		if !ok {
			return // it went a moment ago
		}
		s := RuleStats{Rule: id, Set: r.Set.Name, Name: r.Rule.Name, Priority: r.Rule.Priority, Action: r.Rule.Action}
		for _, c := range perCPU {
			s.Packets += c.Packets
			s.Bytes += c.Bytes
		}
		all = append(all, s)
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b RuleStats) int { return int(a.Rule) - int(b.Rule) })
	return all, nil
}

func (d *Datapath) eachRule(f func(vswitch.RuleID, []bpf.ACLStats)) error {
	var id uint32
	var perCPU []bpf.ACLStats
	it := d.state[bpf.SwitchMapAclstats].Iterate()
	for it.Next(&id, &perCPU) {
		f(vswitch.RuleID(id), perCPU)
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("read counters of rules: %w", err)
	}
	return nil
}

// forgetRules removes the counters of rules that are not any more, so that their
// numbers may be used anew. whole looks at every counter, for what an earlier
// process left.
func (d *Datapath) forgetRules(old, now vswitch.Tables, whole bool) error {
	gone := vswitch.GoneRules(old, now)
	if whole {
		rules := now.Rules()
		err := d.eachRule(func(id vswitch.RuleID, _ []bpf.ACLStats) {
			if _, ok := rules[id]; !ok {
				gone = append(gone, id)
			}
		})
		if err != nil {
			return err
		}
	}
	for _, id := range gone {
		if err := d.state[bpf.SwitchMapAclstats].Delete(uint32(id)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove counters of rule %d: %w", id, err)
		}
	}
	return nil
}
