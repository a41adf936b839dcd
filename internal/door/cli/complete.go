// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/hcs"
)

// completeNames lets the shell complete what exists: systems, images and networks.
// A shell waits for it, so a daemon that does not answer soon gives nothing.
func (a *app) completeNames(root *cobra.Command) {
	systems := func(ctx context.Context) (out []string) {
		sys, _ := a.hcs().Enumerate(ctx, hcs.SystemQuery{}, true)
		return systemNames(sys)
	}
	imgs := func(ctx context.Context) []string {
		all, _ := a.images().List(ctx)
		_, names := imageTable(all, time.Now())
		return names
	}
	networks := func(ctx context.Context) []string {
		all, _ := a.hcn().ListNetworks(ctx, hcn.HostComputeQuery{})
		_, names := networkTable(all, nil)
		return names
	}
	lbs := func(ctx context.Context) []string {
		all, _ := a.hcn().ListLoadBalancers(ctx, hcn.HostComputeQuery{})
		var ids []string
		for _, lb := range all {
			ids = append(ids, lb.Id)
		}
		return ids
	}
	services := func(ctx context.Context) []string {
		all, _ := a.hcn().ListServices(ctx, hcn.HostComputeQuery{})
		_, names := serviceTable(all)
		return names
	}
	for c := range walk(root) {
		if parent := c.Parent(); parent != nil && parent.Name() == "policy" {
			_ = c.RegisterFlagCompletionFunc("network", complete(-1, networks))
			_ = c.RegisterFlagCompletionFunc("endpoint", complete(-1, systems))
		}
		switch words(c) {
		case "stop", "kill", "rm", "wait", "inspect", "stats", "pause", "resume":
			c.ValidArgsFunction = complete(-1, systems)
		case "exec", "logs", "attach", "capture", "commit", "export":
			c.ValidArgsFunction = complete(1, systems)
		case "run":
			c.ValidArgsFunction = complete(1, imgs)
			_ = c.RegisterFlagCompletionFunc("network", complete(-1, func(ctx context.Context) []string {
				return append(networks(ctx), "none", "host", "container:")
			}))
		case "image rm", "image inspect", "image save", "image push", "image tag":
			c.ValidArgsFunction = complete(-1, imgs)
		case "network rm", "network inspect":
			c.ValidArgsFunction = complete(-1, networks)
		case "lb rm", "lb inspect":
			c.ValidArgsFunction = complete(-1, lbs)
		case "policy add", "policy rm":
			c.ValidArgsFunction = complete(1, func(context.Context) []string { return []string{"acl", "nat", "port", "qos"} })
		case "service rm", "service inspect":
			c.ValidArgsFunction = complete(-1, services)
		case "service backend add", "service backend rm", "service backend drain":
			c.ValidArgsFunction = complete(1, services)
		}
	}
}

// complete offers what list gives for the first most words, those typed already
// left out; past them a shell's own files.
func complete(most int, list func(context.Context) []string) cobra.CompletionFunc {
	return func(c *cobra.Command, typed []string, part string) ([]string, cobra.ShellCompDirective) {
		if most >= 0 && len(typed) >= most {
			return nil, cobra.ShellCompDirectiveDefault
		}
		parent := c.Context()
		if parent == nil {
			parent = context.Background()
		}
		ctx, cancel := context.WithTimeout(parent, time.Second)
		defer cancel()
		used := " " + strings.Join(typed, " ") + " "
		var out []string
		for _, n := range list(ctx) {
			if strings.HasPrefix(n, part) && !strings.Contains(used, " "+n+" ") {
				out = append(out, n)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}
