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

// Event is a sample of something dropped. Counters count all, events only some.
type Event struct {
	Since      time.Duration // CLOCK_MONOTONIC
	Port       vswitch.PortID
	Ifindex    int
	Reason     string
	Layer      string
	Length     int    // of the packet
	Suppressed int    // like events held back before this one
	Data       []byte // the packet's beginning
}

// eventBuffer is how many events wait for a reader of Events.
const eventBuffer = 256

// eventPoll bounds how long an event waits in the ring: the programs wake the
// reader only when the ring fills up.
const eventPoll = time.Second

// Events yields drop events while Run runs. A slow reader loses events, which
// Metrics counts. The channel is never closed.
func (d *Datapath) Events() <-chan Event { return d.events }

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
		select {
		case d.events <- e:
		default:
			d.count.eventsLost.Add(1)
		}
	}
}

func decodeEvent(b []byte) (Event, error) {
	var raw bpf.Event
	if _, err := binary.Decode(b, binary.NativeEndian, &raw); err != nil {
		return Event{}, fmt.Errorf("event of %d bytes: %w", len(b), err)
	}
	n := min(int(raw.Caplen), len(raw.Data))
	return Event{
		Since: time.Duration(raw.TimeNs), Port: vswitch.PortID(raw.Port), Ifindex: int(raw.Ifindex),
		Reason: ReasonName(raw.Reason), Layer: LayerName(raw.Layer), Length: int(raw.Len), Suppressed: int(raw.Suppressed),
		Data: bytes.Clone(raw.Data[:n]),
	}, nil
}
