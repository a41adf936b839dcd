// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"errors"
	"fmt"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/door/host"
)

func (a *app) serveCmd() *cobra.Command {
	var config string
	c := &cobra.Command{
		Use: "serve [--config FILE]", Short: "the daemon", Args: args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			o := ServeOptions{Root: a.root, Config: config}
			if c.Flags().Changed("socket") || c.InheritedFlags().Changed("socket") || a.socket != "" {
				o.Socket = a.socket
			}
			return a.Serve(ctx, o)
		},
	}
	c.Flags().StringVar(&config, "config", "", "configuration (default: config.toml of the root, /etc/gatehouse/config.toml)")
	return c
}

func (a *app) versionCmd() *cobra.Command {
	var short bool
	c := &cobra.Command{
		Use: "version", Short: "versions of this program and of the daemon", Args: args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			if short {
				fmt.Fprintln(a.out, a.Version)
				return nil
			}
			v := struct {
				Version, Go, Platform string
				Daemon                *host.Version `json:",omitempty"`
			}{Version: a.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
			if d, err := a.host().Version(c.Context()); err == nil {
				v.Daemon = &d
			}
			if a.output == "json" {
				return a.json(v)
			}
			fmt.Fprintf(a.out, "gatehouse %s (%s, %s)\n", v.Version, v.Go, v.Platform)
			if v.Daemon != nil {
				fmt.Fprintf(a.out, "daemon    %s (%s, kernel %s, pid %d, up %s)\n", v.Daemon.Version, v.Daemon.Go, v.Daemon.Kernel, v.Daemon.PID, ago(time.Since(v.Daemon.Started)))
			} else {
				fmt.Fprintf(a.out, "daemon    none on %s\n", a.socketPath())
			}
			return nil
		},
	}
	c.Flags().BoolVar(&short, "short", false, "this program's alone")
	a.outputFlag(c.Flags())
	return c
}

func (a *app) doctorCmd() *cobra.Command {
	var leaks, remove bool
	c := &cobra.Command{
		Use: "doctor [--leaks [--remove]]", Short: "what this host can do, and what to install; what a root has left behind", Args: args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			if leaks || remove {
				return a.leaks(c, remove)
			}
			checks := a.Doctor(c.Context())
			if more, err := a.host().Doctor(c.Context()); err == nil { // a daemon knows of itself, too
				for _, k := range more {
					if !slices.ContainsFunc(checks, func(h host.Check) bool { return h.Name == k.Name }) {
						checks = append(checks, k)
					}
				}
			}
			failed := 0
			t := &table{head: []string{"CHECK", "STATE", "FOUND", "WHAT TO DO"}}
			var names []string
			for _, k := range checks {
				if k.State == host.Fail {
					failed++
				}
				t.add(k.Name, k.State, k.Found, k.Do)
				names = append(names, k.Name)
			}
			if err := a.list(t, checks, names); err != nil {
				return err
			}
			if failed > 0 {
				return fmt.Errorf("%s on this host; do what stands in the last column", plural(failed, "thing is missing", "things are missing"))
			}
			return nil
		},
	}
	c.Flags().BoolVar(&leaks, "leaks", false, "what the root owns in the kernel and on disk, and what of it is orphaned")
	c.Flags().BoolVar(&remove, "remove", false, "with --leaks, when no daemon runs: remove the orphans")
	a.outputFlag(c.Flags())
	return c
}

func (a *app) leaks(c *cobra.Command, remove bool) error {
	l, err := a.host().Leaks(c.Context())
	if errdefs.IsUnavailable(err) {
		i, ierr := a.instance()
		if ierr != nil {
			return ierr
		}
		l, err = a.Leaks(c.Context(), i.Root, remove)
	} else if err == nil && remove {
		return errors.New("a daemon runs, which removes orphans itself; stop it first or leave --remove out")
	}
	if err != nil {
		return err
	}
	t := &table{head: []string{"ORPHAN", "NAME"}}
	var names []string
	for _, o := range l.Orphans {
		t.add(o.Kind, o.Name)
		names = append(names, o.Name)
	}
	if a.output == "" || a.output == "wide" {
		if a.output == "wide" {
			own := &table{head: []string{"OWNED", "NAME", "OF"}}
			for _, o := range l.Owned {
				own.add(o.Kind, o.Name, orDash(o.Of))
			}
			own.write(a.out, true)
		}
		if len(l.Orphans) == 0 {
			fmt.Fprintf(a.out, "%s owned, none orphaned\n", plural(len(l.Owned), "object", "objects"))
			return nil
		}
	}
	if err := a.list(t, l, names); err != nil {
		return err
	}
	if len(l.Orphans) > 0 {
		do := "a daemon started on this root removes them, or: gatehouse doctor --leaks --remove"
		if remove {
			do = "they could not be removed"
		}
		return fmt.Errorf("%s; %s", plural(len(l.Orphans), "orphan", "orphans"), do)
	}
	return nil
}

func (a *app) metricsCmd() *cobra.Command {
	return &cobra.Command{
		Use: "metrics", Short: "counters in Prometheus' form", Args: args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error { return a.host().Metrics(c.Context(), a.out) },
	}
}

func (a *app) whoCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "who ADDRESS|PORT|MAC", Short: "who holds it, and since when", Args: args(1, 1, "an address, a port (8080, 53/udp) or a MAC"),
		RunE: func(c *cobra.Command, args []string) error {
			hs, err := a.hcn().Who(c.Context(), args[0])
			if err != nil {
				return err
			}
			if hs == nil {
				hs = []hcn.Holder{}
			}
			t := &table{head: []string{"WHAT", "VALUE", "HELD BY", "NAME", "NETWORK", "SINCE", "OWNER", "ID"}}
			var names []string
			for _, h := range hs {
				since := "-"
				if !h.Since.IsZero() {
					since = h.Since.Local().Format("2006-01-02 15:04:05")
				}
				t.add(h.What, h.Value, strings.TrimSuffix(h.Kind, "s"), orDash(h.Name), orDash(h.Network), since, orDash(h.Owner), h.ID)
				names = append(names, h.ID)
			}
			if len(hs) == 0 && a.output != "json" {
				return fmt.Errorf("nobody here holds %s; list with: gatehouse endpoint ls", args[0])
			}
			return a.list(t, hs, names)
		},
	}
	a.outputFlag(c.Flags())
	return c
}
