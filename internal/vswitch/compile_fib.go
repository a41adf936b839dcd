// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import "slices"

// compileFIB makes stale what follows the host's routes when these have changed:
// flows by uplinks and tunnels remember next hop and MTU. It has no rows.
func (c *Compiler) compileFIB(s State, f Facts, t *Tables) error {
	ports := make([]PortID, 0, len(t.Uplinks)+len(s.Tunnels))
	for _, u := range t.Uplinks {
		ports = append(ports, u.Port)
	}
	for i := range s.Tunnels {
		ports = append(ports, s.Tunnels[i].ID)
	}
	if t.fib == nil || t.fib.stamp != f.Routes || !slices.Equal(t.fib.epochPorts, ports) {
		t.fib = &block{epochPorts: ports, stamp: f.Routes}
	}
	return nil
}
