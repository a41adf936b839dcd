// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"gatehouse.dev/gatehouse/internal/pcap"
)

func (a *app) captureCmd() *cobra.Command {
	var file, uplink string
	var count, snap int
	var text bool
	c := &cobra.Command{
		Use: "capture [-w FILE] [-c COUNT] [-s BYTES] {ENDPOINT | --uplink DEVICE} [FILTER…]", Short: "packets of an endpoint or an uplink, as pcapng on standard output",
		Args: func(c *cobra.Command, given []string) error {
			if uplink != "" {
				return nil
			}
			return args(1, -1, "an endpoint or a container, and a filter")(c, given)
		},
		Long: `Packets that an endpoint or a container sends, as they come to the switch, and
packets that are delivered to it, as they arrive: also what tcpdump on the host
cannot see. Packets that were dropped have the reason as their comment.

With --uplink, packets that come in by a device of the host, whoever takes them,
and what the switch sends out there.

The output is pcapng; on a terminal it is a line for each packet. FILTER is made of
  host ADDRESS   net PREFIX   port N    also after src or dst
  tcp udp icmp icmp6 sctp   proto N   ip ip6 arp
  dir in   dir out   dropped
with and, or, not and parentheses.`,
		Example: "  gatehouse capture web | tcpdump -nr -\n  gatehouse capture -w web.pcapng -c 100 web tcp and port 80\n  gatehouse capture web dropped\n  gatehouse capture --uplink eth0 port 53",
		RunE: func(c *cobra.Command, args []string) (err error) {
			q := url.Values{}
			if uplink != "" {
				q.Set("uplink", uplink)
			} else {
				q.Set("endpoint", args[0])
				args = args[1:]
			}
			filter := strings.Join(args, " ")
			if _, err := pcap.ParseFilter(filter); err != nil {
				return usage(c, err)
			}
			q.Set("filter", filter)
			if count < 0 || snap < 0 {
				return usage(c, errors.New("-c and -s are not negative"))
			}
			q.Set("count", strconv.Itoa(count))
			q.Set("snaplen", strconv.Itoa(snap))
			out := a.out
			if f, ok := a.out.(*os.File); ok && file == "" && term.IsTerminal(int(f.Fd())) {
				text = true
			}
			if file != "" && file != "-" {
				// Who may read the packets is not for a umask to say.
				f, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, f.Close()) }()
				out = f
			}
			return a.capture(c.Context(), q, out, text)
		},
	}
	fs := c.Flags()
	fs.StringVar(&uplink, "uplink", "", "of this device of the host instead of an endpoint")
	fs.StringVarP(&file, "write", "w", "", "write to FILE (- = standard output)")
	fs.IntVarP(&count, "count", "c", 0, "end after so many packets")
	fs.IntVarP(&snap, "snaplen", "s", 0, "at most so many bytes of each packet (default: all)")
	fs.BoolVar(&text, "text", false, "a line for each packet instead of pcapng")
	return c
}

func (a *app) capture(ctx context.Context, q url.Values, out io.Writer, text bool) error {
	var n int
	var lost uint64
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := a.host().Capture(ctx, q, func(in io.Reader) error {
		r, err := pcap.NewReader(in)
		if err != nil {
			return err
		}
		fmt.Fprintf(a.err, "capturing %s; end with ctrl-c\n", q.Get("endpoint")+q.Get("uplink"))
		if text {
			n, err = printPackets(out, r)
		} else {
			n, err = r.Copy(out)
		}
		lost = r.Lost()
		return err
	})
	if ctx.Err() != nil { // ctrl-c is how it ends
		err = nil
	}
	if err == nil {
		fmt.Fprintf(a.err, "%s captured, %d lost\n", plural(n, "packet", "packets"), lost)
	}
	return err
}

// printPackets writes a line for each packet until the end of r.
func printPackets(w io.Writer, r *pcap.Reader) (n int, err error) {
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		n++
		if _, err := fmt.Fprintln(w, packetText(p)); err != nil {
			return n, err
		}
	}
}

func packetText(p pcap.Packet) string {
	s := fmt.Sprintf("%s  %-3s  %s  length %d", p.Time.Local().Format("15:04:05.000000"), p.Direction, pcap.Decode(p.Data), p.Length)
	if p.Comment != "" {
		s += "  (" + p.Comment + ")"
	}
	return s
}
