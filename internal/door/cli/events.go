// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// event is one line of the stream, whatever its kind.
type event struct {
	Revision uint64
	Time     time.Time
	Name     string
	Kind     string
	ID       string
	Status   int64
	Data     json.RawMessage
}

func (a *app) eventsCmd() *cobra.Command {
	var since, until string
	var filters []string
	var s switchEvents
	c := &cobra.Command{
		Use: "events [--since TIME] [--until TIME] [--filter KEY=VALUE] [--drops] [--flows]", Short: "what happens, as it happens", Args: args(0, 0, ""),
		Long: `What happens to containers, networks and images, as it happens. With --drops and
--flows it is what the switch drops, and conversations that begin and end: samples,
for a busy port may send only so many a second; how many were held back is said.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if s.drops || s.flows {
				if since != "" || until != "" {
					return usage(c, errors.New("--drops and --flows are not kept; leave out --since and --until"))
				}
				return a.switchEvents(c, s, filters)
			}
			if s.endpoint != "" {
				return usage(c, errors.New("--endpoint goes with --drops or --flows; else use --filter id=, name="))
			}
			now := time.Now()
			from, err := moment(since, now)
			if err != nil {
				return usage(c, fmt.Errorf("--since %w", err))
			}
			to, err := moment(until, now)
			if err != nil {
				return usage(c, fmt.Errorf("--until %w", err))
			}
			want, err := parseFilters(filters)
			if err != nil {
				return usage(c, err)
			}
			q := url.Values{}
			if since != "" {
				q.Set("since", "0")
			}
			if until != "" && !to.After(now) {
				q.Set("follow", "false")
			}
			err = a.host().Events(c.Context(), q, func(raw json.RawMessage) error {
				var e event
				if err := json.Unmarshal(raw, &e); err != nil {
					return fmt.Errorf("event: %w", err)
				}
				if !to.IsZero() && e.Time.After(to) {
					return errDone
				}
				if e.Time.Before(from) || !want.match(e) {
					return nil
				}
				if a.output == "json" {
					_, err := fmt.Fprintf(a.out, "%s\n", raw)
					return err
				}
				_, err := fmt.Fprintln(a.out, eventText(e))
				return err
			})
			if errors.Is(err, errDone) {
				return nil
			}
			return err
		},
	}
	fs := c.Flags()
	fs.StringVar(&since, "since", "", "from this time on: 10m, 2h, or an RFC 3339 time (default: now)")
	fs.StringVar(&until, "until", "", "up to this time, then end")
	fs.StringArrayVarP(&filters, "filter", "f", nil, "kind=, id= or name=; repeatable: values of one key add up, keys narrow down")
	fs.BoolVar(&s.drops, "drops", false, "packets that the switch drops, with the reason; --filter reason=, layer=")
	fs.BoolVar(&s.flows, "flows", false, "conversations that begin and end; --filter kind=flow-new, kind=flow-end, why=")
	fs.StringVar(&s.endpoint, "endpoint", "", "of this endpoint or container alone; with --drops or --flows")
	a.outputFlag(fs)
	return c
}

var errDone = errors.New("done")

// eventFilter is what each key may be; a key that is absent may be anything.
type eventFilter map[string][]string

func parseFilters(args []string) (eventFilter, error) {
	f := eventFilter{}
	for _, s := range args {
		k, v, ok := strings.Cut(s, "=")
		if !ok || v == "" {
			return nil, fmt.Errorf("--filter %q: write KEY=VALUE", s)
		}
		switch k {
		case "kind", "id", "name":
		case "container":
			k = "id"
		case "event":
			k = "name"
		default:
			return nil, fmt.Errorf("--filter %q: the keys are kind, id and name", s)
		}
		f[k] = append(f[k], v)
	}
	return f, nil
}

func (f eventFilter) match(e event) bool {
	for k, vs := range f {
		have := map[string]string{"kind": e.Kind, "id": e.ID, "name": e.Name}[k]
		hit := false
		for _, v := range vs {
			hit = hit || strings.EqualFold(v, have) || k == "kind" && strings.EqualFold(v+"s", have)
		}
		if !hit {
			return false
		}
	}
	return true
}

// eventText is one event for people.
func eventText(e event) string {
	s := fmt.Sprintf("%s  %-10s %-28s %s", e.Time.Local().Format("2006-01-02T15:04:05.000"), e.Kind, e.Name, e.ID)
	var d struct {
		Name         string
		ExitCode     *uint32
		InitExitCode *uint32
		Key          string
		ExitType     string
	}
	if json.Unmarshal(e.Data, &d) == nil {
		var more []string
		if d.Name != "" && d.Name != e.ID {
			more = append(more, "name="+d.Name)
		}
		if d.Key != "" {
			more = append(more, "process="+d.Key)
		}
		if d.ExitCode != nil {
			more = append(more, fmt.Sprintf("exit=%d", *d.ExitCode))
		}
		if d.InitExitCode != nil {
			more = append(more, fmt.Sprintf("exit=%d", *d.InitExitCode))
		}
		if d.ExitType != "" {
			more = append(more, d.ExitType)
		}
		if len(more) > 0 {
			s += " (" + strings.Join(more, ", ") + ")"
		}
	}
	return strings.TrimRight(s, " ")
}
