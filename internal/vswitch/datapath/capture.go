// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf/perf"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// Sample is one packet at a captured port.
type Sample struct {
	Time time.Time
	Port vswitch.PortID
	// Out: the vNIC sent it, and so it came to the switch. Else it is what is
	// delivered to the vNIC, after rewriting. Of an uplink the other way round: Out
	// is what leaves by it; else it is what the wire brought, whoever takes it.
	Out bool
	// Made: the switch itself made what is delivered: an answer to ARP or neighbour
	// discovery, a reset, an ICMP error.
	Made bool
	// Dropped has the reason of a packet that came no further, "" = none. Of one
	// that was made, Reason and Layer say what it answers.
	Dropped       bool
	Reason, Layer string
	Length        int // of the packet; Data may end before
	Data          []byte
}

// Captured is what a capture gets at once, in the order of time.
type Captured struct {
	Samples []Sample
	Lost    uint64 // packets since the capture began that nobody was fast enough for
}

// ErrPortGone ends the capture of a port that is not there any more.
var ErrPortGone = fmt.Errorf("the port is gone: %w", errdefs.ErrNotFound)

const (
	// captureBuffers is the size of all perf buffers together, which CPUs share
	// evenly within the bounds.
	captureBuffers                     = 32 << 20
	captureBufferMin, captureBufferMax = 256 << 10, 8 << 20

	// captureHold is how long packets wait to be put in order: buffers are read one
	// CPU after the other, and the drop of a packet comes after the packet.
	captureHold = 60 * time.Millisecond
	capturePoll = 20 * time.Millisecond
	// captureQueue is how many portions, and captureHeld how many bytes, wait for a
	// slow taker.
	captureQueue = 64
	captureHeld  = 32 << 20
)

// capture is one who captures.
type capture struct {
	ports map[vswitch.PortID]vswitch.MAC
	snap  uint16
	out   chan []Sample
	held  atomic.Int64 // bytes in out
	lost  atomic.Uint64
	gone  chan struct{} // closed when it cannot go on
	why   error         // set before
	once  sync.Once
}

// end tells who captures why it cannot go on.
func (c *capture) end(why error) {
	c.once.Do(func() {
		c.why = why
		close(c.gone)
	})
}

// sampleReader is perf.Reader.
type sampleReader interface {
	SetDeadline(time.Time)
	ReadInto(*perf.Record) error
	Close() error
}

// captures are all of them, and the reader they share.
type captures struct {
	mu   sync.Mutex
	all  map[*capture]bool
	stop func() // ends the reader, and waits for it
}

// Capture copies what passes ports to take until ctx ends, take returns an error,
// a port goes (ErrPortGone), or the packets cannot be read any more. take is called at once, with nothing, when from
// then on nothing is missed. snap bounds the bytes of each packet; 0 = all. It
// sees also what no device of the host shows: what is handed straight into a
// container, and what was dropped, with the reason.
//
// A taker that is too slow loses packets, and is told how many. Flows through the
// ports are decided anew at the beginning and at the end. When this process dies,
// captures end with it.
func (d *Datapath) Capture(ctx context.Context, ports []vswitch.PortID, snap int, take func(Captured) error) error {
	if snap <= 0 || snap > vswitch.MaxSnap {
		snap = vswitch.MaxSnap
	}
	c := &capture{ports: map[vswitch.PortID]vswitch.MAC{}, snap: uint16(snap), out: make(chan []Sample, captureQueue), gone: make(chan struct{})}
	if err := d.startCapture(c, ports); err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	err := c.run(ctx, take)
	if serr := d.stopCapture(c); serr != nil {
		err = errors.Join(err, fmt.Errorf("end capture: %w", serr))
	}
	return err
}

func (c *capture) run(ctx context.Context, take func(Captured) error) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	told := uint64(0)
	if err := take(Captured{}); err != nil {
		return err
	}
	for {
		var got []Sample
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.gone:
			return c.why
		case got = <-c.out:
		case <-tick.C:
			if c.lost.Load() == told {
				continue
			}
		}
		told = c.lost.Load()
		if err := take(Captured{got, told}); err != nil {
			return err
		}
		for i := range got {
			c.held.Add(-int64(len(got[i].Data)))
		}
	}
}

func (d *Datapath) startCapture(c *capture, ports []vswitch.PortID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return os.ErrClosed
	}
	for _, id := range ports {
		row, ok := d.base.Port(id)
		if !ok {
			return fmt.Errorf("port %d: %w", id, ErrPortGone)
		}
		c.ports[id] = row.Mac
	}
	if err := d.sure(); err != nil {
		return err
	}
	if err := d.captures.add(c, d); err != nil {
		return err
	}
	if err := d.rewatch(); err != nil {
		d.captures.remove(c)
		return err
	}
	return nil
}

func (d *Datapath) stopCapture(c *capture) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.captures.remove(c)
	if d.closed {
		return nil
	}
	return d.rewatch()
}

// rewatch makes the kernel's tables so that they serve who looks now. The caller
// holds mu.
func (d *Datapath) rewatch() error {
	if !d.live || d.doubtful() {
		return nil // the next Apply does it
	}
	err := d.applyBase(context.Background(), d.base)
	if err != nil { // nobody applies anything now, who would try again
		d.log.Error("what the switch holds is in doubt", "error", err)
		select {
		case d.doubts <- struct{}{}:
		default:
		}
	}
	return err
}

// Doubts gets a value when what the kernel holds has become uncertain other than
// by an Apply, whose caller knows: the next Apply puts it right. The channel is
// never closed.
func (d *Datapath) Doubts() <-chan struct{} { return d.doubts }

// InDoubt says whether the next Apply has to put right what a failed one left.
// Packets go on by what was written.
func (d *Datapath) InDoubt() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.doubtful()
}

// sure refuses what would see nothing, or not all, while the switch is in doubt.
// The caller holds mu.
func (d *Datapath) sure() error {
	if d.doubtful() {
		return fmt.Errorf("a change of the switch failed halfway and is being put right; try again in a moment: %w", errdefs.ErrUnavailable)
	}
	return nil
}

// watch is what somebody looks at now.
func (d *Datapath) watch() vswitch.Watch {
	w := vswitch.Watch{Capture: d.captures.ports()}
	if d.watchers.flows() {
		w.FlowEvents = flowEventRate
	}
	return w
}

// ports are those that are captured, and how many bytes of each packet.
func (cs *captures) ports() map[vswitch.PortID]uint16 {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	all := map[vswitch.PortID]uint16{}
	for c := range cs.all {
		for id := range c.ports {
			all[id] = max(all[id], c.snap)
		}
	}
	return all
}

func (cs *captures) count() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.all)
}

// settle ends captures of ports that t lacks or that are somebody else's in it: a
// number is used again.
func (cs *captures) settle(t vswitch.Tables) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for c := range cs.all {
		for id, mac := range c.ports {
			if row, ok := t.Port(id); !ok || row.Mac != mac {
				c.end(ErrPortGone)
				delete(cs.all, c)
				break
			}
		}
	}
}

func (cs *captures) add(c *capture, d *Datapath) error {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.stop == nil {
		size := min(max(captureBuffers/runtime.NumCPU(), captureBufferMin), captureBufferMax)
		r, err := perf.NewReaderWithOptions(d.samples, size, perf.ReaderOptions{Watermark: size / 4})
		if err != nil {
			return fmt.Errorf("open perf buffers: %w", err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			cs.serve(r, d)
		}()
		cs.stop = func() {
			r.Close()
			<-done
		}
	}
	if cs.all == nil {
		cs.all = map[*capture]bool{}
	}
	cs.all[c] = true
	return nil
}

// remove ends one, and with the last one the reader.
func (cs *captures) remove(c *capture) {
	cs.mu.Lock()
	delete(cs.all, c)
	var stop func()
	if len(cs.all) == 0 {
		stop, cs.stop = cs.stop, nil
	}
	cs.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// held is a packet that waits to be put in order.
type held struct {
	ns   uint64 // CLOCK_MONOTONIC
	sent bool   // it came to the switch
	Sample
}

// serve reads until r is closed. A reader that fails ends all captures; the next
// one opens another.
func (cs *captures) serve(r sampleReader, d *Datapath) {
	err := cs.read(r, d)
	if err == nil {
		return
	}
	r.Close()
	d.count.readErrors.Add(1)
	d.log.Warn("captures ended early", "error", err)
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for c := range cs.all {
		c.end(err)
	}
	clear(cs.all)
	cs.stop = nil
}

// read takes packets out of the buffers until r is closed.
func (cs *captures) read(r sampleReader, d *Datapath) error {
	var rec perf.Record
	var waiting []held
	var last time.Time
	for {
		r.SetDeadline(time.Now().Add(capturePoll))
		err := r.ReadInto(&rec)
		switch {
		case errors.Is(err, perf.ErrClosed):
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
		case err != nil:
			return fmt.Errorf("read perf buffers: %w", err)
		case rec.LostSamples > 0:
			cs.lose(rec.LostSamples)
			d.count.samplesLost.Add(int64(rec.LostSamples))
		default:
			d.count.samples.Add(1)
			waiting = keep(waiting, rec.RawSample)
		}
		if now := time.Now(); now.Sub(last) >= capturePoll {
			last = now
			waiting = cs.release(waiting, d)
		}
	}
}

// lose counts for everybody what no port is known of.
func (cs *captures) lose(n uint64) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for c := range cs.all {
		c.lost.Add(n)
	}
}

// keep adds a record to those that wait; of a drop, it marks the packet that was
// dropped.
func keep(waiting []held, raw []byte) []held {
	var m bpf.Sample
	n, err := binary.Decode(raw, binary.NativeEndian, &m)
	if err != nil {
		return waiting
	}
	what := bpf.CopyWhat(m.What)
	if what == bpf.SwitchGhCopyWhatGH_COPY_DROPPED {
		// Its packet came from the same CPU a moment ago.
		for i := len(waiting) - 1; i >= 0; i-- {
			if w := &waiting[i]; w.ns == m.OfNs && w.Port == vswitch.PortID(m.Port) && w.sent {
				w.Dropped, w.Reason, w.Layer = true, ReasonName(m.Reason), LayerName(m.Layer)
				break
			}
		}
		return waiting
	}
	sent := what == bpf.SwitchGhCopyWhatGH_COPY_SENT
	h := held{m.TimeNs, sent, Sample{
		Port: vswitch.PortID(m.Port), Out: sent != (m.Port >= uint16(vswitch.FirstUplinkPort)), Made: what == bpf.SwitchGhCopyWhatGH_COPY_ANSWER,
		Dropped: what == bpf.SwitchGhCopyWhatGH_COPY_REFUSED, Length: int(m.Len),
		// The kernel pads a record to eight bytes; what is beyond the packet is none of it.
		Data: slices.Clone(raw[n:min(len(raw), n+int(m.Len))]),
	}}
	if m.Reason != 0 {
		h.Reason, h.Layer = ReasonName(m.Reason), LayerName(m.Layer)
	}
	if m.Vlan&bpf.SampleTagged != 0 && len(h.Data) >= 12 {
		h.Data = slices.Insert(h.Data, 12, 0x81, 0, byte(m.Vlan>>8), byte(m.Vlan))
		h.Length += 4
	}
	return append(waiting, h)
}

// release hands out what has waited long enough, in the order of time.
func (cs *captures) release(waiting []held, d *Datapath) []held {
	var ts unix.Timespec
	if len(waiting) == 0 || unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return waiting
	}
	mono, wall := uint64(ts.Nano()), time.Now()
	slices.SortStableFunc(waiting, func(a, b held) int { return int(int64(a.ns - b.ns)) })
	n := 0
	for n < len(waiting) && mono-waiting[n].ns >= uint64(captureHold) {
		waiting[n].Time = wall.Add(-time.Duration(mono - waiting[n].ns))
		n++
	}
	if n == 0 {
		return waiting
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for c := range cs.all {
		var mine []Sample
		size := int64(0)
		for i := range waiting[:n] {
			s := waiting[i].Sample
			if _, ok := c.ports[s.Port]; !ok {
				continue
			}
			s.Data = s.Data[:min(len(s.Data), int(c.snap))]
			mine = append(mine, s)
			size += int64(len(s.Data))
		}
		if len(mine) == 0 {
			continue
		}
		if c.held.Add(size) <= captureHeld {
			select {
			case c.out <- mine:
				continue
			default:
			}
		}
		c.held.Add(-size)
		c.lost.Add(uint64(len(mine)))
		d.count.samplesLost.Add(int64(len(mine)))
	}
	return slices.Delete(waiting, 0, n)
}
