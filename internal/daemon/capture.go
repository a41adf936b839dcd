// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package daemon

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"gatehouse.dev/gatehouse/internal/network"
	"gatehouse.dev/gatehouse/internal/pcap"
	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/datapath"
)

// filterSnap is how many bytes a filter needs to see, however short a capture is.
const filterSnap = 160

// errEnough ends a capture that has as many packets as were asked for.
var errEnough = errors.New("enough")

// capture writes pcapng of what passes an endpoint or an uplink, until its client leaves.
func (d *daemon) capture(ctx context.Context, q url.Values, w io.Writer) error {
	names := d.hns.PortNames()
	ports, err := d.captured(q, names)
	if err != nil {
		return err
	}
	c := &capture{out: bufio.NewWriterSize(w, 64<<10), at: map[vswitch.PortID]int{}}
	if c.filter, err = pcap.ParseFilter(q.Get("filter")); err != nil {
		return err
	}
	if c.snap, err = number(q, "snaplen", vswitch.MaxSnap, vswitch.MaxSnap); err != nil {
		return err
	}
	if c.count, err = number(q, "count", 0, 1<<31-1); err != nil {
		return err
	}
	err = d.dp.Capture(ctx, ports, max(c.snap, filterSnap), func(got datapath.Captured) error {
		if c.w == nil {
			if err := c.begin(ports, names); err != nil {
				return err
			}
		}
		return c.take(got)
	})
	switch {
	case errors.Is(err, errEnough):
		return nil
	case errors.Is(err, datapath.ErrPortGone):
		return fmt.Errorf("%s is gone: %w", q.Get("endpoint")+q.Get("uplink"), errdefs.ErrNotFound)
	}
	return err
}

// captured are the ports that a question is about.
func (d *daemon) captured(q url.Values, names map[vswitch.PortID]network.PortName) ([]vswitch.PortID, error) {
	device := q.Get("uplink")
	switch {
	case device == "":
		return d.hns.PortsOf(q.Get("endpoint"))
	case q.Get("endpoint") != "":
		return nil, fmt.Errorf("endpoint %q and uplink %q: one of the two: %w", q.Get("endpoint"), device, errdefs.ErrInvalidArgument)
	}
	var there []string
	for id, p := range names {
		if p.Kind == "uplink" {
			if p.Name == device {
				return []vswitch.PortID{id}, nil
			}
			there = append(there, p.Name)
		}
	}
	slices.Sort(there)
	return nil, fmt.Errorf("uplink %q: the switch has %s: %w", device, cmp.Or(strings.Join(there, ", "), "none"), errdefs.ErrNotFound)
}

// number is a parameter from 1 to most; what it is when absent or 0.
func number(q url.Values, name string, absent, most int) (int, error) {
	s := q.Get(name)
	if s == "" || s == "0" {
		return absent, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > most {
		return 0, fmt.Errorf("%s %q: a number up to %d: %w", name, s, most, errdefs.ErrInvalidArgument)
	}
	return n, nil
}

// capture is one client's.
type capture struct {
	out    *bufio.Writer
	w      *pcap.Writer
	at     map[vswitch.PortID]int // interface of the file
	filter pcap.Filter
	snap   int
	count  int // 0 = no end

	seen int
	lost uint64
}

// begin writes the head of the file: an interface for each port.
func (c *capture) begin(ports []vswitch.PortID, names map[vswitch.PortID]network.PortName) (err error) {
	if c.w, err = pcap.NewWriter(c.out, "gatehouse "+Version); err != nil {
		return err
	}
	for _, id := range slices.Sorted(slices.Values(ports)) {
		p := names[id]
		i := pcap.Interface{Name: p.Name, Link: pcap.LinkEthernet, Snaplen: uint32(c.snap)}
		if i.Name == "" {
			i.Name = p.ID
		}
		i.Description = fmt.Sprintf("endpoint %s, network %s, port %d", p.ID, p.Network, id)
		if p.Kind == "uplink" {
			i.Description = fmt.Sprintf("uplink, port %d", id)
		}
		if len(p.Containers) > 0 {
			i.Description += ", container " + strings.Join(p.Containers, " ")
		}
		if c.at[id], err = c.w.Interface(i); err != nil {
			return err
		}
	}
	return nil
}

func (c *capture) take(got datapath.Captured) error {
	for i := range got.Samples {
		s := &got.Samples[i]
		dir := pcap.In
		if s.Out {
			dir = pcap.Out
		}
		if !c.filter.Match(&pcap.Subject{Head: pcap.Decode(s.Data), Direction: dir, Dropped: s.Dropped}) {
			continue
		}
		err := c.w.Packet(pcap.Packet{Time: s.Time, Interface: c.at[s.Port], Direction: dir, Length: s.Length,
			Data: s.Data[:min(len(s.Data), c.snap)], Comment: comment(s)})
		if err != nil {
			return err
		}
		if c.seen++; c.count > 0 && c.seen >= c.count {
			return errors.Join(c.flush(got.Lost), errEnough)
		}
	}
	return c.flush(got.Lost)
}

// flush sends what there is, and tells about losses when there are more.
func (c *capture) flush(lost uint64) error {
	if lost != c.lost {
		c.lost = lost
		for _, i := range c.at {
			if err := c.w.Stats(i, time.Now(), uint64(c.seen), lost); err != nil {
				return err
			}
		}
	}
	return c.out.Flush()
}

// comment is what the bytes of a packet do not say.
func comment(s *datapath.Sample) string {
	switch {
	case s.Dropped:
		return fmt.Sprintf("dropped: %s, at layer %s", s.Reason, s.Layer)
	case s.Made && s.Reason != "":
		return fmt.Sprintf("made by the switch: %s, at layer %s", s.Reason, s.Layer)
	case s.Made:
		return "made by the switch"
	}
	return ""
}
