// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/door/host"
	"gatehouse.dev/gatehouse/internal/network"
	"gatehouse.dev/gatehouse/internal/pcap"
	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/datapath"
)

// portNames are names of ports that follow the moment, for streams.
type portNames struct {
	hns  *network.HNS
	all  map[vswitch.PortID]network.PortName
	made time.Time
}

// namesFresh is how old names in a stream may be: our choice, for making them
// costs a walk over all endpoints.
const namesFresh = time.Second

func (n *portNames) of(id vswitch.PortID) network.PortName {
	p, ok := n.all[id]
	if old := time.Since(n.made); old > namesFresh || !ok && old > namesFresh/20 {
		n.all, n.made = n.hns.PortNames(), time.Now()
		p = n.all[id]
	}
	return p
}

func (n *portNames) text(id vswitch.PortID) string {
	if id == vswitch.UplinkAny {
		return "outside"
	}
	p := n.of(id)
	if p.Kind == "" {
		return fmt.Sprintf("port %d", id)
	}
	return p.String()
}

// watchSwitch writes an event of the switch a line, until its client leaves.
func (d *daemon) watchSwitch(ctx context.Context, q url.Values, w io.Writer) error {
	o := datapath.WatchOptions{Drops: q.Get("drops") == "true", Flows: q.Get("flows") == "true"}
	if !o.Drops && !o.Flows {
		return fmt.Errorf("drops=true, flows=true, or both are needed: %w", errdefs.ErrInvalidArgument)
	}
	var only []vswitch.PortID
	if ref := q.Get("endpoint"); ref != "" {
		var err error
		if only, err = d.hns.PortsOf(ref); err != nil {
			return err
		}
	}
	in, err := d.dp.Watch(o)
	if err != nil {
		return err
	}
	defer in.Close()
	// The first line is empty: from here on nothing is missed.
	if _, err := w.Write([]byte("\n")); err != nil {
		return err
	}
	names := &portNames{hns: d.hns}
	send := func(e host.SwitchEvent) error {
		b, err := json.Marshal(e)
		if err != nil {
			return err
		}
		_, err = w.Write(append(b, '\n'))
		return err
	}
	lost := uint64(0)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-in.Failed:
			return err
		case e := <-in.C:
			if len(only) > 0 && !slices.Contains(only, e.Port) && !slices.Contains(only, e.Flow.Out) {
				continue
			}
			if err := send(switchEvent(names, e)); err != nil {
				return err
			}
		case <-tick.C:
			if n := in.Lost(); n != lost {
				lost = n
				if err := send(host.SwitchEvent{Time: time.Now(), Kind: "lost", Lost: n}); err != nil {
					return err
				}
			}
		}
	}
}

func switchEvent(names *portNames, e datapath.Event) host.SwitchEvent {
	o := host.SwitchEvent{Time: wall(e.Since), Kind: string(e.Kind), Port: uint16(e.Port), Suppressed: e.Suppressed, Why: e.Why}
	if e.Port != 0 {
		if p := names.of(e.Port); p.Kind == "endpoint" {
			o.Endpoint, o.ID, o.Network = p.Name, p.ID, p.Network
		}
		o.From = names.text(e.Port)
	}
	if e.Kind == datapath.EventDrop {
		o.Reason, o.Layer, o.Length, o.Packet = e.Reason, e.Layer, e.Length, pcap.Decode(e.Data).String()
		o.Ifindex = e.Ifindex
		return o
	}
	f := hostFlow(names, &e.Flow)
	o.Flow = &f
	return o
}

// wall is a time of CLOCK_MONOTONIC on the clock of people.
func wall(since time.Duration) time.Time {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return time.Now()
	}
	return time.Now().Add(since - time.Duration(ts.Nano()))
}

func hostFlow(names *portNames, c *datapath.Conversation) host.Flow {
	f := host.Flow{
		Zone: uint16(c.Zone), Network: uint16(c.Network), Proto: c.Proto, Src: c.Src, Dst: c.Dst, In: uint16(c.In), Out: uint16(c.Out),
		From: names.text(c.In), To: names.text(c.Out), State: c.State,
		Service: c.Service, Backend: c.Backend, Rule: c.Rule, NAT: c.NAT,
		Packets: c.Packets, Bytes: c.Bytes, ReplyPackets: c.ReplyPackets, ReplyBytes: c.ReplyBytes,
		IdleSeconds: c.Idle.Seconds(), AgeSeconds: c.Age.Seconds(), TimeoutSeconds: c.Timeout.Seconds(),
	}
	f.NATSrc, f.NATDst = changed(c.Src, c.NewSrc), changed(c.Dst, c.NewDst)
	return f
}

// changed is what an address becomes, invalid if it stays.
func changed(old, now netip.AddrPort) netip.AddrPort {
	if now == old {
		return netip.AddrPort{}
	}
	return now
}

// flows lists conversations that all parameters fit: endpoint, address (or a
// prefix), port, proto, state. Either end may fit, as asked or translated.
func (d *daemon) flows(q url.Values) (any, error) {
	want, err := d.flowFilter(q)
	if err != nil {
		return nil, err
	}
	names := &portNames{hns: d.hns}
	out := []host.Flow{}
	err = d.dp.Conversations(want, func(c datapath.Conversation) bool {
		out = append(out, hostFlow(names, &c))
		return true
	})
	return out, err
}

func (d *daemon) flowFilter(q url.Values) (func(*datapath.Flow) bool, error) {
	var all []func(*datapath.Flow) bool
	bad := func(name, rule string) error {
		return fmt.Errorf("%s %q: %s: %w", name, q.Get(name), rule, errdefs.ErrInvalidArgument)
	}
	ends := func(f *datapath.Flow, fits func(netip.AddrPort) bool) bool {
		return fits(f.Src) || fits(f.Dst) || fits(f.NewSrc) || fits(f.NewDst)
	}
	if ref := q.Get("endpoint"); ref != "" {
		ports, err := d.hns.PortsOf(ref)
		if err != nil {
			return nil, err
		}
		all = append(all, func(f *datapath.Flow) bool { return slices.Contains(ports, f.In) || slices.Contains(ports, f.Out) })
	}
	if s := q.Get("address"); s != "" {
		p, err := netip.ParsePrefix(s)
		if a, aerr := netip.ParseAddr(s); aerr == nil {
			p, err = a.Unmap().Prefix(a.Unmap().BitLen())
		}
		if err != nil {
			return nil, bad("address", "an address or a prefix")
		}
		all = append(all, func(f *datapath.Flow) bool {
			return ends(f, func(a netip.AddrPort) bool { return p.Contains(a.Addr()) })
		})
	}
	if s := q.Get("port"); s != "" {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			return nil, bad("port", "a number up to 65535")
		}
		all = append(all, func(f *datapath.Flow) bool {
			return ends(f, func(a netip.AddrPort) bool { return a.Port() == uint16(n) })
		})
	}
	if s := q.Get("proto"); s != "" {
		n, ok := pcap.Protocol(s)
		if !ok {
			return nil, bad("proto", "tcp, udp, icmp, icmp6, sctp or a number up to 255")
		}
		all = append(all, func(f *datapath.Flow) bool { return f.Proto == n })
	}
	if s := q.Get("state"); s != "" {
		if !slices.Contains(datapath.FlowStates(), s) {
			return nil, bad("state", fmt.Sprintf("one of %v", datapath.FlowStates()))
		}
		all = append(all, func(f *datapath.Flow) bool { return f.State == s })
	}
	return func(f *datapath.Flow) bool {
		for _, fits := range all {
			if !fits(f) {
				return false
			}
		}
		return true
	}, nil
}
