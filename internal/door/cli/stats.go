// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"gatehouse.dev/gatehouse/hcs"
)

// sample is one reading of one system.
type sample struct {
	name string
	hcs.Statistics
	err error
}

func (a *app) statsCmd() *cobra.Command {
	var once, all bool
	c := &cobra.Command{
		Use: "stats [--no-stream] [NAME…]", Short: "show what containers use, again each second", Args: args(0, -1, "names"),
		RunE: func(c *cobra.Command, args []string) error {
			ctx := c.Context()
			live := !once && a.output == "" && isTerminal(a.out)
			prev := map[string]hcs.Statistics{}
			for first := true; ; first = false {
				names := args
				if len(names) == 0 {
					sys, err := a.hcs().Enumerate(ctx, hcs.SystemQuery{}, all)
					if err != nil {
						return err
					}
					names = systemNames(sys)
				}
				now := a.samples(ctx, names)
				for _, s := range now {
					if s.err != nil && len(args) > 0 {
						return s.err
					}
				}
				if first && len(now) > 0 {
					// A rate needs two readings; the first table waits for the second.
					for _, s := range now {
						prev[s.name] = s.Statistics
					}
					select {
					case <-time.After(500 * time.Millisecond):
					case <-ctx.Done():
						return ctx.Err()
					}
					now = a.samples(ctx, names)
				}
				t := statsTable(now, prev)
				if live {
					fmt.Fprint(a.out, "\x1b[H\x1b[2J")
				}
				if err := a.list(t, statsDocs(now), names); err != nil {
					return err
				}
				if once || a.output != "" && a.output != "wide" {
					return nil
				}
				for _, s := range now {
					prev[s.name] = s.Statistics
				}
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		},
	}
	c.Flags().BoolVar(&once, "no-stream", false, "once")
	c.Flags().BoolVarP(&all, "all", "a", false, "stopped ones too")
	a.outputFlag(c.Flags())
	return c
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (a *app) samples(ctx context.Context, names []string) []sample {
	out := make([]sample, len(names))
	var wg sync.WaitGroup
	c := a.hcs()
	for i, n := range names {
		wg.Go(func() {
			st, err := c.Stats(ctx, n)
			out[i] = sample{n, st, err}
		})
	}
	wg.Wait()
	return out
}

func statsDocs(s []sample) any {
	type doc struct {
		Name       string
		Statistics hcs.Statistics
	}
	out := []doc{}
	for _, x := range s {
		if x.err == nil {
			out = append(out, doc{x.name, x.Statistics})
		}
	}
	return out
}

// statsTable is pure: readings against the ones before.
func statsTable(now []sample, prev map[string]hcs.Statistics) *table {
	t := &table{head: []string{"NAME", "CPU %", "MEMORY / LIMIT", "MEM %", "NET IN / OUT", "BLOCK IN / OUT", "PIDS"}}
	for _, s := range now {
		cpu, mem, pct, net, blk, pids := "-", "-", "-", "-", "-", "-"
		if s.err == nil {
			if p := s.Processor; p != nil {
				if b, ok := prev[s.name]; ok && b.Processor != nil && s.Timestamp.After(b.Timestamp) {
					cpu = fmt.Sprintf("%.2f%%", float64(p.TotalRuntime100ns-b.Processor.TotalRuntime100ns)*100/
						float64(s.Timestamp.Sub(b.Timestamp).Nanoseconds())*100)
				}
			}
			if m := s.Memory; m != nil {
				use := m.MemoryUsagePrivateWorkingSetBytes
				if use == 0 {
					use = m.MemoryUsageCommitBytes
				}
				limit := "none"
				if m.LimitBytes > 0 {
					limit = iec(m.LimitBytes)
					pct = fmt.Sprintf("%.2f%%", float64(use)*100/float64(m.LimitBytes))
				}
				mem = iec(use) + " / " + limit
			}
			if len(s.Network) > 0 {
				var in, out uint64
				for _, n := range s.Network {
					in, out = in+n.BytesReceived, out+n.BytesSent
				}
				net = si(in) + " / " + si(out)
			}
			if b := s.Storage; b != nil {
				blk = si(b.ReadSizeBytes) + " / " + si(b.WriteSizeBytes)
			}
			if s.Pids != nil {
				pids = fmt.Sprint(s.Pids.Current)
			}
		}
		t.add(s.name, cpu, mem, pct, net, blk, pids)
	}
	return t
}
