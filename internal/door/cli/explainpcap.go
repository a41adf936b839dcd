// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/pcap"
)

// pcapQuestion asks about packets of a capture.
type pcapQuestion struct {
	file   string // "-" = standard input
	from   string
	packet int // 0 = all
}

// explained is one packet and what would happen to it.
type explained struct {
	Packet      int // from 1
	Summary     string
	Direction   string `json:",omitempty"`
	Comment     string `json:",omitempty"`
	Explanation hcn.Explanation
}

func (a *app) explainPcap(ctx context.Context, q pcapQuestion) error {
	in := a.in
	if q.file != "-" {
		f, err := os.Open(q.file)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	r, err := pcap.NewReader(in)
	if err != nil {
		return fmt.Errorf("%s: %w", q.file, err)
	}
	all := []explained{}
	skipped := 0
	for n := 1; ; n++ {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: packet %d: %w", q.file, n, err)
		}
		if q.packet > 0 && n != q.packet {
			continue
		}
		if q.packet == 0 && p.Direction == pcap.In {
			skipped++ // it was delivered, not sent
			continue
		}
		x, err := a.explainPacket(ctx, q, r, p)
		if err != nil {
			return fmt.Errorf("%s: packet %d: %w", q.file, n, err)
		}
		x.Packet = n
		all = append(all, x)
		if a.output == "" {
			a.printExplained(x, q.packet > 0)
		}
		if q.packet > 0 {
			break
		}
	}
	if q.packet > 0 && len(all) == 0 {
		return fmt.Errorf("%s has no packet %d", q.file, q.packet)
	}
	if skipped > 0 {
		fmt.Fprintf(a.err, "%s left out: the capture says that the interface got them; ask for one with --packet\n", plural(skipped, "packet", "packets"))
	}
	if a.output == "json" {
		return a.json(all)
	}
	return nil
}

func (a *app) explainPacket(ctx context.Context, q pcapQuestion, r *pcap.Reader, p pcap.Packet) (explained, error) {
	if l := r.Interfaces[p.Interface].Link; l != pcap.LinkEthernet {
		return explained{}, fmt.Errorf("its link is of type %d; only Ethernet can be explained", l)
	}
	x := explained{Summary: pcap.Decode(p.Data).String(), Direction: p.Direction.String(), Comment: p.Comment}
	frame := p.Data
	if p.Length > len(frame) && p.Length <= 1<<16 {
		// Cut by the capture: what is missing is data, which no layer looks at, but
		// its length counts.
		frame = append(frame[:len(frame):len(frame)], make([]byte, p.Length-len(frame))...)
	}
	var err error
	x.Explanation, err = a.hcn().Explain(ctx, hcn.ExplainRequest{From: q.from, Frame: frame})
	return x, err
}

func (a *app) printExplained(x explained, whole bool) {
	was := ""
	if x.Comment != "" {
		was = "  (then: " + x.Comment + ")"
	}
	fmt.Fprintf(a.out, "%-4d  %s%s\n", x.Packet, x.Summary, was)
	if whole {
		fmt.Fprintln(a.out)
		writeWalks(a.out, x.Explanation)
		return
	}
	fmt.Fprintf(a.out, "      %s: %s\n", strings.ToUpper(x.Explanation.Verdict), x.Explanation.Text)
}
