// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gatehouse.dev/gatehouse/internal/door/host"
	"gatehouse.dev/gatehouse/internal/pcap"
)

func (a *app) flowsCmd() *cobra.Command {
	var drops bool
	ask := map[string]*string{}
	c := &cobra.Command{
		Use: "flows [--drops] [flags]", Short: "conversations that the switch tracks, or what it dropped and why", Args: args(0, 0, ""),
		Long: `Conversations that the switch tracks, both directions as one, told from the side
that began. Flags narrow down; an address or a port may be of either end, as it
was asked for or as it is translated.`,
		Example: "  gatehouse flows --endpoint web --state est\n  gatehouse flows --address 10.0.0.0/8 --proto udp -o wide",
		RunE: func(c *cobra.Command, _ []string) error {
			q := url.Values{}
			for name, v := range ask {
				if *v != "" {
					q.Set(name, *v)
				}
			}
			if drops {
				if len(q) > 0 {
					return usage(c, fmt.Errorf("--drops lists counters; narrow events down instead: gatehouse events --drops"))
				}
				return a.drops(c)
			}
			fl, err := a.host().Flows(c.Context(), q)
			if err != nil {
				return err
			}
			t, names := flowTable(fl)
			return a.list(t, fl, names)
		},
	}
	fs := c.Flags()
	fs.BoolVar(&drops, "drops", false, "what was dropped, by port and reason")
	for name, help := range map[string]string{
		"endpoint": "of this endpoint or container", "address": "an address or a prefix", "port": "a port number",
		"proto": "tcp, udp, icmp, icmp6, sctp or a number", "state": "syn, est, fin, tw, rst, udp1, udp2, icmp or other",
	} {
		ask[name] = fs.String(name, "", help)
	}
	a.outputFlag(fs)
	return c
}

func (a *app) drops(c *cobra.Command) error {
	ds, err := a.host().Drops(c.Context())
	if err != nil {
		return err
	}
	t := &table{head: []string{"PORT", "LAYER", "REASON", "PACKETS", "BYTES", "AT"}}
	var names []string
	for _, d := range ds {
		t.add(fmt.Sprint(d.Port), d.Layer, d.Reason, fmt.Sprint(d.Packets), si(d.Bytes), orDash(d.At))
		names = append(names, d.Reason)
	}
	return a.list(t, ds, names)
}

// flowTable is conversations for people.
func flowTable(fl []host.Flow) (t *table, names []string) {
	t = &table{head: []string{"PROTO", "FROM", "TO", "BECOMES", "STATE", "PACKETS", "BYTES", "IDLE",
		"AGE", "EXPIRES", "BY", "TOWARDS", "SERVICE", "RULE"}, wide: 8}
	for _, f := range fl {
		expires := "-"
		if left := f.TimeoutSeconds - f.IdleSeconds; f.TimeoutSeconds > 0 {
			expires = short1s(max(left, 0))
		}
		service, rule := "-", "-"
		if f.Service != 0 {
			service = fmt.Sprintf("%d backend %d", f.Service, f.Backend)
		}
		if f.Rule != 0 {
			rule = fmt.Sprint(f.Rule)
		}
		t.add(pcap.ProtoName(f.Proto), endText(f.Src), endText(f.Dst), orDash(becomesText(f)), orDash(f.State),
			fmt.Sprintf("%d/%d", f.Packets, f.ReplyPackets), si(f.Bytes)+"/"+si(f.ReplyBytes), short1s(f.IdleSeconds),
			short1s(f.AgeSeconds), expires, orDash(f.From), orDash(f.To), service, rule)
		names = append(names, f.Src.String()+">"+f.Dst.String())
	}
	return t, names
}

// endText is an address with its port where it has one.
func endText(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}

// becomesText says what is translated.
func becomesText(f host.Flow) string {
	var s []string
	if f.NATSrc.IsValid() {
		s = append(s, "from "+endText(f.NATSrc))
	}
	if f.NATDst.IsValid() {
		s = append(s, "to "+endText(f.NATDst))
	}
	return strings.Join(s, " ")
}

// short1s is a number of seconds as "1m20s".
func short1s(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Second).String()
}
