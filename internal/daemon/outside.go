// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package daemon

import (
	"net/netip"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// outsideACL is what the administrator says about clients outside; nil = nothing.
func outsideACL(p config.Publish) *vswitch.ACLSet {
	rules, err := p.Parsed()
	if err != nil { // config.Parse has refused it
		panic(err)
	}
	if len(rules) == 0 && !p.Closed() {
		return nil
	}
	actions := map[config.Action]vswitch.ACLAction{config.Allow: vswitch.ACLAllow, config.Deny: vswitch.ACLBlock, config.Reject: vswitch.ACLReject}
	set := &vswitch.ACLSet{ID: model.OutsideACL, Name: "publish"}
	add := func(r vswitch.ACLRule) {
		r.ID = model.FirstOutsideRule + vswitch.RuleID(len(set.Rules))
		r.Priority, r.Direction, r.View = uint32(len(set.Rules)), vswitch.ACLOut, vswitch.ViewOriginal
		set.Rules = append(set.Rules, r)
	}
	for _, r := range rules {
		rule := vswitch.ACLRule{Name: r.Text, Action: actions[r.Action]}
		if r.From.IsValid() {
			rule.Local = []netip.Prefix{r.From}
		}
		if r.Proto != 0 {
			rule.Protocols = []uint8{r.Proto}
		}
		for _, p := range r.Ports {
			rule.RemotePorts = append(rule.RemotePorts, vswitch.PortRange{First: p[0], Last: p[1]})
		}
		add(rule)
	}
	if p.Closed() {
		add(vswitch.ACLRule{Name: "default closed", Action: vswitch.ACLBlock})
	}
	return set
}
