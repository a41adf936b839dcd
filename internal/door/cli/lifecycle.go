// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"gatehouse.dev/gatehouse/hcs"
)

// stopTimeout is how long stop waits before it kills: Docker's.
const stopTimeout = 10 * time.Second

// each does a verb on every name at once, goes on after an error, prints the name
// of what is done, and joins what failed.
func (a *app) each(names []string, f func(name string) error) error {
	errs := make([]error, len(names))
	limit := make(chan struct{}, 16)
	var wg sync.WaitGroup
	for i, n := range names {
		wg.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			errs[i] = f(n)
		})
	}
	wg.Wait()
	for i, n := range names {
		if errs[i] == nil {
			fmt.Fprintln(a.out, n)
		}
	}
	return errors.Join(errs...)
}

func (a *app) stopCmd() *cobra.Command {
	var seconds int
	var sig string
	c := &cobra.Command{
		Use: "stop [-t SECONDS] NAME…", Short: "ask containers to stop, then kill them", Args: args(1, -1, "one name or more"),
		RunE: func(c *cobra.Command, args []string) error {
			limit := time.Duration(-1)
			if c.Flags().Changed("time") {
				if seconds < 0 {
					return usage(c, fmt.Errorf("-t %d: must not be negative", seconds))
				}
				limit = time.Duration(seconds) * time.Second
			}
			var o hcs.ShutdownOptions
			if sig != "" {
				s, err := hcs.ParseSignal(sig)
				if err != nil {
					return usage(c, err)
				}
				o.Signal = s
			}
			return a.each(args, func(n string) error { return a.stop(c.Context(), n, limit, o) })
		},
	}
	c.Flags().IntVarP(&seconds, "time", "t", 10, "seconds to wait before the kill")
	c.Flags().StringVarP(&sig, "signal", "s", "", "signal instead of the container's stop signal")
	return c
}

// stop shuts a system down and terminates it when limit has passed; limit < 0 is
// the system's own.
func (a *app) stop(ctx context.Context, name string, limit time.Duration, o hcs.ShutdownOptions) error {
	c := a.hcs()
	if limit < 0 {
		limit = stopTimeout
		if p, err := c.Properties(ctx, name); err == nil {
			if n, err := strconv.Atoi(p.Annotations[annotationStopTimeout]); err == nil && n > 0 {
				limit = time.Duration(n) * time.Second
			}
		}
	}
	err := c.Shutdown(ctx, name, o)
	switch hcs.CodeOf(err) {
	case 0:
		short, cancel := context.WithTimeout(ctx, max(limit, time.Millisecond))
		defer cancel()
		if _, err := c.Wait(short, name); err == nil || hcs.IsNotExist(err) {
			return nil
		} else if short.Err() == nil {
			return err
		}
	case hcs.CodeSystemAlreadyStopped:
		return nil
	case hcs.CodeInvalidState: // created or paused: it cannot answer
	default:
		return err
	}
	if err := c.Terminate(ctx, name); err != nil && !hcs.IsAlreadyStopped(err) && !hcs.IsNotExist(err) {
		return err
	}
	return nil
}

func (a *app) killCmd() *cobra.Command {
	var sig string
	c := &cobra.Command{
		Use: "kill [-s SIGNAL] NAME…", Short: "send a signal to containers, SIGKILL by default", Args: args(1, -1, "one name or more"),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := hcs.ParseSignal(sig)
			if err != nil {
				return usage(c, err)
			}
			return a.each(args, func(n string) error {
				ok, err := a.hcs().SignalProcess(c.Context(), n, "init", s)
				if err == nil && !ok {
					return fmt.Errorf("%s is not running; see: gatehouse ps -a", n)
				}
				return err
			})
		},
	}
	c.Flags().StringVarP(&sig, "signal", "s", "KILL", "name or number of the signal")
	return c
}

func (a *app) rmCmd() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "rm [-f] NAME…", Short: "remove stopped containers with their logs and files", Args: args(1, -1, "one name or more"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.each(args, func(n string) error {
				if !force {
					p, err := a.hcs().Properties(c.Context(), n)
					if err != nil {
						return err
					}
					switch p.State {
					case hcs.StateRunning, hcs.StatePaused, hcs.StateUnknown:
						return fmt.Errorf("%s is %s; stop it first or use rm -f", n, lower(string(p.State)))
					}
				}
				return a.hcs().Delete(c.Context(), n)
			})
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "kill it if it runs")
	return c
}

func (a *app) waitCmd() *cobra.Command {
	return &cobra.Command{
		Use: "wait NAME…", Short: "wait until containers stop and print their exit codes", Args: args(1, -1, "one name or more"),
		RunE: func(c *cobra.Command, args []string) error {
			codes := make([]string, len(args))
			errs := make([]error, len(args))
			var wg sync.WaitGroup
			for i, n := range args {
				wg.Go(func() {
					st, err := a.hcs().Wait(c.Context(), n)
					if errs[i] = err; err != nil {
						return
					}
					codes[i] = strconv.Itoa(exitOf(st))
				})
			}
			wg.Wait()
			for _, s := range codes {
				if s != "" {
					fmt.Fprintln(a.out, s)
				}
			}
			return errors.Join(errs...)
		},
	}
}

// exitOf is the number people expect of a stopped system.
func exitOf(st hcs.SystemExitStatus) int {
	switch {
	case st.InitExitCode != nil:
		return int(*st.InitExitCode)
	case st.ExitType == hcs.ForcedExit:
		return 137
	case st.Status != 0:
		return 255
	}
	return 0
}

func (a *app) pauseCmd() *cobra.Command {
	return &cobra.Command{
		Use: "pause NAME…", Short: "freeze containers", Args: args(1, -1, "one name or more"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.each(args, func(n string) error { return a.hcs().Pause(c.Context(), n) })
		},
	}
}

func (a *app) resumeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "resume NAME…", Aliases: []string{"unpause"}, Short: "thaw frozen containers", Args: args(1, -1, "one name or more"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.each(args, func(n string) error { return a.hcs().Resume(c.Context(), n) })
		},
	}
}
