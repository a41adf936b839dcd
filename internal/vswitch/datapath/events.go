// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// EventKind says what an Event tells.
type EventKind string

// The kinds.
const (
	EventDrop    EventKind = "drop"     // a sample of something dropped
	EventFlowNew EventKind = "flow-new" // a conversation began
	EventFlowEnd EventKind = "flow-end" // and ended
)

// Event is something that happened in the switch. Counters count all, events only
// some.
type Event struct {
	Kind       EventKind
	Since      time.Duration // CLOCK_MONOTONIC
	Port       vswitch.PortID
	Suppressed int // like events held back before this one

	// Of a drop.
	Ifindex int
	Reason  string
	Layer   string
	Length  int    // of the packet
	Data    []byte // its beginning

	// Of a conversation. Idle and Age are as of its end.
	Flow Conversation
	// Why it ended: "idle", "reopened" (a SYN began another one with its tuple),
	// "changed" (what it was made with is not legal any more), "port-gone".
	Why string
}

// Why a conversation ended, besides what the programs say.
const (
	whyIdle = "idle"
	whyGone = "port-gone"
)

// eventBuffer is how many events wait for one Watcher.
const eventBuffer = 1024

// eventPoll bounds how long an event waits in the ring: the programs wake the
// reader only for the first drop of a second.
const eventPoll = time.Second

// eventRetry is how soon a ring that could not be read is tried again.
const eventRetry = time.Second

// followEvents reads events until ctx ends. When they cannot be read, watchers are
// told and the ring is opened anew.
func (d *Datapath) followEvents(ctx context.Context) error {
	for {
		err := d.readEvents(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		d.count.readErrors.Add(1)
		d.log.Warn("events of the switch are not read, trying again", "error", err)
		d.watchers.end(err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(eventRetry):
		}
	}
}

// readEvents is the one reader of the ring. It reads whether or not somebody
// watches, so that a full ring does not hold back what is news later.
func (d *Datapath) readEvents(ctx context.Context) error {
	r, err := ringbuf.NewReader(d.state[bpf.SwitchMapEvents])
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { r.Close() })
	defer func() {
		if stop() {
			r.Close()
		}
	}()
	var rec ringbuf.Record
	for {
		r.SetDeadline(time.Now().Add(eventPoll))
		switch err := r.ReadInto(&rec); {
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case errors.Is(err, ringbuf.ErrClosed):
			return ctx.Err()
		case err != nil:
			return fmt.Errorf("read events: %w", err)
		}
		e, err := decodeEvent(rec.RawSample)
		if err != nil {
			d.count.eventsMalformed.Add(1) // of a newer layout; nothing to do
			continue
		}
		d.count.eventsRead.Add(1)
		d.count.eventsHeld.Add(int64(e.Suppressed))
		d.publish(e)
	}
}

func decodeEvent(b []byte) (Event, error) {
	const kindAt = 22 // gh_event.kind, and gh_flow_event's
	if len(b) <= kindAt {
		return Event{}, fmt.Errorf("event of %d bytes", len(b))
	}
	switch kind := bpf.EventKind(b[kindAt]); kind {
	case bpf.SwitchGhEventKindGH_EVENT_DROP:
		return decodeDrop(b)
	case bpf.SwitchGhEventKindGH_EVENT_FLOW_NEW:
		return decodeFlowEvent(b, EventFlowNew)
	case bpf.SwitchGhEventKindGH_EVENT_FLOW_END:
		return decodeFlowEvent(b, EventFlowEnd)
	default:
		return Event{}, fmt.Errorf("event of kind %d", kind)
	}
}

func decodeDrop(b []byte) (Event, error) {
	var raw bpf.Event
	if _, err := binary.Decode(b, binary.NativeEndian, &raw); err != nil {
		return Event{}, fmt.Errorf("drop event of %d bytes: %w", len(b), err)
	}
	n := min(int(raw.Caplen), len(raw.Data))
	return Event{
		Kind: EventDrop, Since: time.Duration(raw.TimeNs), Port: vswitch.PortID(raw.Port), Ifindex: int(raw.Ifindex),
		Reason: ReasonName(raw.Reason), Layer: LayerName(raw.Layer), Length: int(raw.Len), Suppressed: int(raw.Suppressed),
		Data: bytes.Clone(raw.Data[:n]),
	}, nil
}

func decodeFlowEvent(b []byte, kind EventKind) (Event, error) {
	var raw bpf.FlowEvent
	if _, err := binary.Decode(b, binary.NativeEndian, &raw); err != nil {
		return Event{}, fmt.Errorf("flow event of %d bytes: %w", len(b), err)
	}
	e := Event{
		Kind: kind, Since: time.Duration(raw.Head.TimeNs), Port: vswitch.PortID(raw.Head.Port), Suppressed: int(raw.Head.Suppressed),
		Flow: Conversation{
			Flow: Flow{
				Proto: raw.Proto, Src: addrPort16(raw.Src.B, raw.SportBe), Dst: addrPort16(raw.Dst.B, raw.DportBe),
				NewSrc: addrPort16(raw.Nsrc.B, raw.NsportBe), NewDst: addrPort16(raw.Ndst.B, raw.NdportBe),
				In: vswitch.PortID(raw.Head.Port), Out: vswitch.PortID(raw.OutPort), Network: vswitch.NetworkID(raw.Net),
				State: stateName(raw.State), Packets: raw.Packets, Bytes: raw.Bytes,
				Rule: raw.Rule, Service: raw.Svc, Backend: raw.Backend,
			},
			ReplyPackets: raw.Rpackets, ReplyBytes: raw.Rbytes,
		},
	}
	if kind == EventFlowEnd {
		e.Why = map[bpf.FlowEnd]string{
			bpf.SwitchGhFlowEndGH_FLOW_END_IDLE: whyIdle, bpf.SwitchGhFlowEndGH_FLOW_END_REOPENED: "reopened", bpf.SwitchGhFlowEndGH_FLOW_END_CHANGED: "changed",
		}[bpf.FlowEnd(raw.Why)]
		now := uint32(raw.Head.TimeNs / 1e9)
		e.Flow.Age, e.Flow.Idle = seconds(now, raw.BornS), seconds(now, raw.LastS)
	}
	return e, nil
}
