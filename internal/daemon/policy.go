// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package daemon

import (
	"context"
	"fmt"
	"strings"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute"
	"gatehouse.dev/gatehouse/internal/door/api"
	"gatehouse.dev/gatehouse/internal/door/host"
)

// systems is the compute service whose policy also opens and closes the socket.
type systems struct {
	*compute.HCS
	socket string
}

func (s systems) SetPolicy(ctx context.Context, p *hcs.Policy) (hcs.Policy, error) {
	now, err := s.HCS.SetPolicy(ctx, p)
	if err == nil {
		err = api.SetMode(s.socket, s.OpenToUsers())
	}
	return now, err
}

// checkPolicy lists the systems that run and would be refused today: a policy counts
// for creates only.
func (d *daemon) checkPolicy() host.Check {
	p, bad := d.hcs.Refusals()
	c := host.Check{Name: "policy", State: host.OK, Found: fmt.Sprintf("profile %s, %d rules", p.Profile, len(p.Rules))}
	if len(bad) > 0 {
		c.State = host.Warn
		c.Found += "; would be refused now: " + strings.Join(bad, "; ")
		c.Do = "they run on; end them with: gatehouse rm -f NAME"
	}
	return c
}
