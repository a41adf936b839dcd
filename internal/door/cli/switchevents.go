// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"gatehouse.dev/gatehouse/internal/door/host"
	"gatehouse.dev/gatehouse/internal/pcap"
)

// switchEvents are the flags of events about the switch.
type switchEvents struct {
	drops, flows bool
	endpoint     string
}

func (a *app) switchEvents(c *cobra.Command, s switchEvents, filters []string) error {
	want, err := parseSwitchFilters(filters)
	if err != nil {
		return usage(c, err)
	}
	q := url.Values{}
	for name, on := range map[string]bool{"drops": s.drops, "flows": s.flows} {
		if on {
			q.Set(name, "true")
		}
	}
	if s.endpoint != "" {
		q.Set("endpoint", s.endpoint)
	}
	return a.host().Watch(c.Context(), q, func(raw json.RawMessage) error {
		var e host.SwitchEvent
		if err := json.Unmarshal(raw, &e); err != nil {
			return fmt.Errorf("event: %w", err)
		}
		if !want.match(e) {
			return nil
		}
		if a.output == "json" {
			_, err := fmt.Fprintf(a.out, "%s\n", raw)
			return err
		}
		_, err := fmt.Fprintln(a.out, switchEventText(e))
		return err
	})
}

// switchFilter is what each key may be, as in eventFilter.
type switchFilter map[string][]string

func parseSwitchFilters(args []string) (switchFilter, error) {
	f := switchFilter{}
	for _, s := range args {
		k, v, ok := strings.Cut(s, "=")
		if !ok || v == "" {
			return nil, fmt.Errorf("--filter %q: write KEY=VALUE", s)
		}
		if !slices.Contains([]string{"kind", "reason", "layer", "why", "network"}, k) {
			return nil, fmt.Errorf("--filter %q: the keys are kind, reason, layer, why and network", s)
		}
		f[k] = append(f[k], v)
	}
	return f, nil
}

// match takes also what tells of losses, whatever else is wanted.
func (f switchFilter) match(e host.SwitchEvent) bool {
	if e.Kind == "lost" {
		return true
	}
	for k, vs := range f {
		have := map[string]string{"kind": e.Kind, "reason": e.Reason, "layer": e.Layer, "why": e.Why, "network": e.Network}[k]
		if !slices.ContainsFunc(vs, func(v string) bool { return strings.EqualFold(v, have) }) {
			return false
		}
	}
	return true
}

// switchEventText is one event for people.
func switchEventText(e host.SwitchEvent) string {
	s := fmt.Sprintf("%s  %-8s  ", e.Time.Local().Format("2006-01-02T15:04:05.000"), e.Kind)
	from := e.From
	if from == "" {
		from = "outside"
	}
	switch e.Kind {
	case "lost":
		return s + fmt.Sprintf("%d events until now came faster than they were read", e.Lost)
	case "drop":
		if e.Port == 0 {
			from = fmt.Sprintf("device %d", e.Ifindex)
		}
		s += fmt.Sprintf("%s at layer %s, from %s: %s, length %d", e.Reason, e.Layer, from, e.Packet, e.Length)
	default:
		if f := e.Flow; f != nil {
			s += fmt.Sprintf("%s %s > %s", pcap.ProtoName(f.Proto), endText(f.Src), endText(f.Dst))
			if b := becomesText(*f); b != "" {
				s += " " + b
			}
			s += fmt.Sprintf(", %s to %s", from, f.To)
			if e.Kind == "flow-end" {
				s += fmt.Sprintf(", %d/%d packets, %s/%s, %s, after %s: %s", f.Packets, f.ReplyPackets, si(f.Bytes), si(f.ReplyBytes), f.State, short1s(f.AgeSeconds), e.Why)
			}
		}
	}
	if e.Suppressed > 0 {
		s += fmt.Sprintf(" (and %d more were held back)", e.Suppressed)
	}
	return s
}
