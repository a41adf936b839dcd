// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"gatehouse.dev/gatehouse/hcn"
)

func (a *app) explainCmd() *cobra.Command {
	var r hcn.ExplainRequest
	var k pcapQuestion
	c := &cobra.Command{
		Use: "explain [flags] FROM TO[:PORT][/PROTO]", Short: "which layer and rule decides about a packet, and why",
		Args: func(c *cobra.Command, words []string) error {
			if k.file != "" {
				return args(0, 0, "")(c, words)
			}
			return args(2, 2, "FROM and TO[:PORT][/PROTO], or --pcap and --from")(c, words)
		},
		Long: `Which layer and rule of the switch decides about the first packet from FROM to TO,
and why. Nothing is sent.

FROM and TO are a container or an endpoint (name or id), an address, host,
gateway (TO only) or outside. Without a port the packet is a ping.

With --pcap, packets of a capture are explained as if the endpoint of --from, or an
uplink, sent them as they are.`,
		Example: "  gatehouse explain --pcap web.pcapng --packet 3 --from web\n  gatehouse explain web db:5432\n  gatehouse explain outside host:8080\n  gatehouse explain web gateway:53/udp",
		RunE: func(c *cobra.Command, args []string) error {
			if a.output != "" && a.output != "json" {
				return &exit{2, fmt.Errorf("-o %q: json or nothing", a.output)}
			}
			if k.file != "" {
				if k.from == "" || k.packet < 0 {
					return usage(c, errors.New("--pcap needs --from ENDPOINT or --from \"uplink NAME\"; packets count from 1"))
				}
				return a.explainPcap(c.Context(), k)
			}
			if k.from != "" || k.packet != 0 {
				return usage(c, errors.New("--from and --packet go with --pcap"))
			}
			r.From = strings.Trim(args[0], "[]")
			var err error
			if r.To, r.Port, r.Protocol, err = target(args[1]); err != nil {
				return usage(c, err)
			}
			x, err := a.hcn().Explain(c.Context(), r)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.json(x)
			}
			writeExplanation(a.out, x)
			return nil
		},
	}
	c.Flags().StringVar(&r.Source, "source", "", "address that FROM claims to have (default: its own)")
	c.Flags().Uint16Var(&r.SourcePort, "source-port", 0, "source port, or id of a ping (default: 50000); a conversation that exists is decided by its flow")
	c.Flags().StringVarP(&a.output, "output", "o", "", "json")
	c.Flags().StringVar(&k.file, "pcap", "", "explain packets of this capture, pcap or pcapng (- = standard input)")
	c.Flags().StringVar(&k.from, "from", "", "who sends them: an endpoint, or \"uplink NAME\"")
	c.Flags().IntVar(&k.packet, "packet", 0, "this one alone, with every step (default: all that were sent, in two lines)")
	return c
}

// target reads TO[:PORT][/PROTO].
func target(s string) (to string, port uint16, proto uint8, err error) {
	text, name, has := strings.Cut(s, "/")
	if has {
		p, ok := map[string]uint8{"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "ping": 1}[strings.ToLower(name)]
		if !ok {
			return "", 0, 0, fmt.Errorf("%q: protocol %q is none of tcp, udp, sctp, icmp", s, name)
		}
		proto = p
	}
	if a, aerr := netip.ParseAddr(strings.Trim(text, "[]")); aerr == nil {
		return a.String(), 0, proto, nil
	}
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return text, 0, proto, nil
	}
	n, err := strconv.ParseUint(text[i+1:], 10, 16)
	if err != nil || n == 0 {
		return "", 0, 0, fmt.Errorf("%q: %q is not a port", s, text[i+1:])
	}
	return strings.Trim(text[:i], "[]"), uint16(n), proto, nil
}

// writeExplanation is an explanation for people: a line for each step, what came
// of it last.
func writeExplanation(w io.Writer, x hcn.Explanation) {
	fmt.Fprintf(w, "%s to %s\n\n", x.From, x.To)
	writeWalks(w, x)
}

func writeWalks(w io.Writer, x hcn.Explanation) {
	for i, k := range x.Walks {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if k.Packet != "" {
			fmt.Fprintln(w, k.Packet)
		}
		var width [2]int
		for _, s := range k.Steps {
			width[0] = max(width[0], utf8.RuneCountInString(s.Layer))
			width[1] = max(width[1], utf8.RuneCountInString(s.Verdict))
		}
		for _, s := range k.Steps {
			fmt.Fprintf(w, "  %-*s  %-*s  %s\n", width[0], s.Layer, width[1], s.Verdict, s.Reason)
			indent := strings.Repeat(" ", width[0]+width[1]+6)
			if s.Before != "" {
				fmt.Fprintf(w, "%s%s  =>  %s\n", indent, s.Before, s.After)
			}
			if s.Rule != "" {
				fmt.Fprintf(w, "%srule: %s\n", indent, s.Rule)
			}
		}
	}
	fmt.Fprintf(w, "\n%s: %s\n", strings.ToUpper(x.Verdict), x.Text)
}
