// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/images"
)

func lower(s string) string { return strings.ToLower(s) }

func (a *app) psCmd() *cobra.Command {
	var all, quiet bool
	var filters []string
	c := &cobra.Command{
		Use: "ps [-a] [--filter KEY=VALUE]… [-o json|wide|name]", Short: "list containers", Args: args(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			ctx := c.Context()
			want, err := parsePsFilters(filters)
			if err != nil {
				return usage(c, err)
			}
			if len(want["status"]) > 0 {
				all = true
			}
			if quiet {
				a.output = "name"
			}
			sys, err := a.hcs().Enumerate(ctx, hcs.SystemQuery{}, all)
			if err != nil {
				return err
			}
			if !all {
				sys = slices.DeleteFunc(sys, func(p hcs.Properties) bool { return p.Stopped || p.State == hcs.StateStopped })
			}
			sys = slices.DeleteFunc(sys, func(p hcs.Properties) bool { return !want.match(p) })
			var g hcn.Graph
			if a.output == "" || a.output == "wide" {
				g, _ = a.hcn().Graph(ctx) // a listing without addresses is better than none
			}
			return a.list(psTable(sys, g, time.Now()), sys, systemNames(sys))
		},
	}
	c.Flags().BoolVarP(&all, "all", "a", false, "stopped ones too")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "names alone, as -o name")
	c.Flags().StringArrayVarP(&filters, "filter", "f", nil, "name=, status=, image= or label=; repeatable: values of one key add up, keys narrow down")
	a.outputFlag(c.Flags())
	return c
}

func systemNames(sys []hcs.Properties) []string {
	out := make([]string, len(sys))
	for i, p := range sys {
		out[i] = p.Id
	}
	return out
}

// psTable is pure: what ps shows of systems and the network's graph at a time.
func psTable(sys []hcs.Properties, g hcn.Graph, now time.Time) *table {
	t := &table{head: []string{"NAME", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NETWORK", "ADDRESS", "RUNTIME ID", "PID", "ISOLATION", "OWNER"}, wide: 8}
	for _, p := range sys {
		var ports, nets, addrs []string
		for _, n := range g.Networks {
			for _, e := range n.Endpoints {
				if !slices.Contains(e.Container, p.Id) && !slices.Contains(e.Container, p.RuntimeId) && (p.Namespace == "" || !strings.EqualFold(e.Namespace, p.Namespace)) {
					continue
				}
				nets = append(nets, n.Name)
				addrs = append(addrs, e.Addresses...)
				for _, m := range e.Published {
					ports = append(ports, publishedText(m))
				}
			}
		}
		pid := ""
		if p.HostProcessId != 0 {
			pid = fmt.Sprint(p.HostProcessId)
		}
		for i, x := range addrs {
			addrs[i], _, _ = strings.Cut(x, "/")
		}
		t.add(p.Id, orDash(images.Familiar(p.Image)), commandText(p.Command), age(now, p.CreateTime), statusText(p, now),
			orDash(strings.Join(ports, ", ")), orDash(strings.Join(nets, ",")), orDash(strings.Join(addrs, ",")),
			p.RuntimeId, orDash(pid), orDash(lower(string(p.Isolation))), orDash(p.Owner))
	}
	return t
}

func commandText(args []string) string {
	if len(args) == 0 {
		return "-"
	}
	return ellipsis(strings.Join(args, " "), 24)
}

func age(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return ago(now.Sub(t)) + " ago"
}

func statusText(p hcs.Properties, now time.Time) string {
	switch p.State {
	case hcs.StateRunning:
		return "Up " + ago(now.Sub(p.StartTime))
	case hcs.StatePaused:
		return "Up " + ago(now.Sub(p.StartTime)) + " (Paused)"
	case hcs.StateStopped:
		s := "Exited"
		if p.ExitStatus != nil {
			s += fmt.Sprintf(" (%d)", exitOf(*p.ExitStatus))
			if p.ExitStatus.Reason == "oom" {
				s += " out of memory,"
			}
		}
		if !p.StopTime.IsZero() {
			s += " " + ago(now.Sub(p.StopTime)) + " ago"
		}
		return s
	case "":
		return "-"
	}
	return string(p.State)
}

// publishedText is a published port as people read it, "8080->80/tcp".
func publishedText(m hcn.GraphPublished) string {
	host := ""
	if m.Address != "" {
		host = m.Address + ":"
		if strings.Contains(m.Address, ":") {
			host = "[" + m.Address + "]:"
		}
	}
	return fmt.Sprintf("%s%d->%d/%s", host, m.Port, m.To, protoName(m.Protocol))
}

func (a *app) logsCmd() *cobra.Command {
	var follow, stamps bool
	var tail, since, until string
	c := &cobra.Command{
		Use: "logs [-f] [-t] [--tail N] [--since TIME] NAME", Short: "show what a container wrote", Args: args(1, 1, "one name"),
		RunE: func(c *cobra.Command, args []string) error {
			o := hcs.LogOptions{Follow: follow}
			if tail != "all" {
				var n int
				if _, err := fmt.Sscanf(tail, "%d", &n); err != nil || n < 0 || fmt.Sprint(n) != tail {
					return usage(c, fmt.Errorf("--tail %q: a number of lines, or all", tail))
				}
				o.Tail = &n
			}
			var err error
			if o.Since, err = moment(since, time.Now()); err != nil {
				return usage(c, fmt.Errorf("--since %w", err))
			}
			if o.Until, err = moment(until, time.Now()); err != nil {
				return usage(c, fmt.Errorf("--until %w", err))
			}
			p := logPrinter{out: a.out, err: a.err, stamps: stamps}
			for rec, err := range a.hcs().Logs(c.Context(), args[0], o) {
				if err != nil {
					return err
				}
				if err := p.print(rec); err != nil {
					return err
				}
			}
			return nil
		},
	}
	fs := c.Flags()
	fs.BoolVarP(&follow, "follow", "f", false, "go on as more is written, until it stops")
	fs.BoolVarP(&stamps, "timestamps", "t", false, "the time before each line")
	fs.StringVarP(&tail, "tail", "n", "all", "how many of the last lines to begin with")
	fs.StringVar(&since, "since", "", "lines from this time on: 10m, 2h, or an RFC 3339 time")
	fs.StringVar(&until, "until", "", "lines up to this time")
	return c
}

// logPrinter puts parts of long lines together again.
type logPrinter struct {
	out, err io.Writer
	stamps   bool
	open     map[string]bool // streams whose line goes on
}

func (p *logPrinter) print(r hcs.LogRecord) error {
	w := p.out
	if r.Stream == "stderr" {
		w = p.err
	}
	var b []byte
	if p.stamps && !p.open[r.Stream] {
		b = append(r.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000000Z"), ' ')
	}
	if p.open == nil {
		p.open = map[string]bool{}
	}
	p.open[r.Stream] = r.Partial
	b = append(b, r.Bytes()...)
	if !r.Partial {
		b = append(b, '\n')
	}
	_, err := w.Write(b)
	return err
}

// moment reads a time: how long ago (10m), RFC 3339, or seconds since 1970.
func moment(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	for _, f := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02"} {
		if t, err := time.ParseInLocation(f, s, time.Local); err == nil {
			return t, nil
		}
	}
	var sec float64
	if n, err := fmt.Sscanf(s, "%g", &sec); n == 1 && err == nil {
		return time.UnixMilli(int64(sec * 1000)), nil
	}
	return time.Time{}, fmt.Errorf("%q: write 10m, 2h or 2006-01-02T15:04:05Z", s)
}

func (a *app) inspectCmd() *cobra.Command {
	return &cobra.Command{
		Use: "inspect NAME…", Short: "show a container's document, properties and endpoints", Args: args(1, -1, "one name or more"),
		RunE: func(c *cobra.Command, args []string) error {
			var out []any
			for _, n := range args {
				v, err := a.inspect(c.Context(), n)
				if err != nil {
					return err
				}
				out = append(out, v)
			}
			return a.json(out)
		},
	}
}

func (a *app) inspect(ctx context.Context, name string) (any, error) {
	p, err := a.hcs().Properties(ctx, name, hcs.PropertyNetwork, hcs.PropertyProcessList)
	if err != nil {
		return nil, err
	}
	var doc json.RawMessage
	if d, err := a.hcs().Document(ctx, name); err == nil {
		if doc, err = json.Marshal(d); err != nil {
			return nil, err
		}
	}
	eps := p.Endpoints
	p.Endpoints = nil
	p.PropertyResponses = nil
	return struct {
		Properties hcs.Properties
		Document   json.RawMessage   `json:",omitempty"`
		Endpoints  []json.RawMessage `json:",omitempty"`
	}{p, doc, eps}, nil
}
