// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"

	"gatehouse.dev/gatehouse/internal/failpoint"
	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// Options say which data plane of the host is meant; see package instance.
type Options struct {
	// Pins is our directory on a bpffs. If it is below /sys/fs/bpf, the file
	// system is mounted there when it is not.
	Pins string
	// Block is the shared ingress block of all switch ports. It exists once a
	// device has joined it, which must have happened before the first Apply.
	Block uint32
	// CgroupRoot is the cgroup2 directory where socket hooks go; "" = the root of
	// the hierarchy as found in mountinfo, or by a mount of our own that nobody sees.
	CgroupRoot string
	// Log; nil = none.
	Log *slog.Logger
	// NoTCX attaches uplinks by clsact, as on kernels before 6.6.
	NoTCX bool
	// object is what tests load in place of this build's own programs: those of
	// another version.
	object *object
}

// object is programs and the layout of their state maps.
type object struct {
	layout string
	load   func() (*ebpf.CollectionSpec, error)
}

// Datapath is one loaded generation and the state it shares with all others.
// Make it with Open. Its methods are safe for concurrent use.
type Datapath struct {
	o      Options
	log    *slog.Logger
	cgroup string   // "" = no hooks
	hidden *os.File // the root of cgroup2 where nobody mounted it
	nl     *netlink.Handle
	state  map[string]*ebpf.Map // by name, of bpf.StateMaps
	// damages is what Run put right, for whoever wants to know.
	damages chan Damage
	// doubts says that an Apply failed where no caller of Apply learns it.
	doubts chan struct{}
	view   map[string]*ebpf.Map // the same, but the kernel refuses writes by these
	// samples is the perf buffers of captures. Every generation of this process
	// writes to them, and they end with it.
	samples  *ebpf.Map
	captures captures
	watchers watchers

	// mu serialises Apply and guards what follows.
	mu       sync.Mutex
	closed   bool
	gen      *generation               // what Apply writes to
	live     bool                      // gen is attached
	tables   vswitch.Tables            // what gen's maps hold
	tried    []vswitch.Tables          // what they may hold instead, row by row: Applies of it failed
	lost     bool                      // a map of gen cannot be written any more: no mend can help
	last     vswitch.Tables            // what an earlier gen's held that was live, until this one is
	gone     map[vswitch.PortID]uint64 // ports whose flows the next sweep takes, and the number of their going
	going    uint64
	moved    map[string]moves // by what was moved to the front
	preceded map[int]bool     // devices of ports where another's program comes first
	carry    []*carryover     // until the first switch: state of other versions
	shared   bool             // programs used our state maps before the switch
	macs     *ebpf.Map        // what uplinks hear for us; nil = nothing yet
	base     vswitch.Tables   // what Apply was asked for: tables without who looks

	count counters
}

// Open loads a new generation of programs. Packets do not meet it before the
// first Apply. What a killed predecessor left half-made is removed.
//
// Errors name the missing kernel feature and the version that has it.
func Open(o Options) (*Datapath, error) {
	d, err := open(o)
	if err != nil {
		return nil, fmt.Errorf("open data plane: %w", err)
	}
	return d, nil
}

func open(o Options) (_ *Datapath, err error) {
	d := &Datapath{o: o, log: o.Log, damages: make(chan Damage, damageBuffer), doubts: make(chan struct{}, 1),
		moved: map[string]moves{}, state: map[string]*ebpf.Map{}, view: map[string]*ebpf.Map{}, gone: map[vswitch.PortID]uint64{}}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	defer func() {
		if err != nil {
			d.closeAll()
		}
	}()
	if o.Pins == "" || o.Block == 0 {
		return nil, fmt.Errorf("options: Pins %q and Block %d are both needed", o.Pins, o.Block)
	}
	if err := mountBPF(o.Pins); err != nil {
		return nil, err
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise the limit of locked memory: %w", err)
	}
	for _, dir := range []string{d.stateDir(), d.genRoot(), d.linkDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	if d.nl, err = netlink.NewHandle(); err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	d.cgroup = o.CgroupRoot
	if d.cgroup == "" {
		if d.cgroup, err = cgroup2Root("/proc/self/mountinfo"); err != nil {
			return nil, err
		}
	}
	if d.cgroup == "" {
		if d.hidden, err = cgroup2Detached(); err != nil {
			d.log.Warn("no cgroup2 hierarchy: processes of this host reach published ports by the host's outside addresses only through the network", "error", err)
		} else {
			d.cgroup = fmt.Sprintf("/proc/self/fd/%d", d.hidden.Fd())
		}
	}
	spec, err := d.loadSpec()
	if err != nil {
		return nil, fmt.Errorf("read programs: %w", err)
	}
	if err := d.openState(spec); err != nil {
		return nil, explain(err)
	}
	if err := failpoint.Hit("datapath.carried"); err != nil {
		return nil, err
	}
	if err := d.openView(); err != nil {
		return nil, err
	}
	if d.samples, err = ebpf.NewMap(spec.Maps[bpf.SwitchMapSamples]); err != nil {
		return nil, fmt.Errorf("map %s: %w", bpf.SwitchMapSamples, explain(err))
	}
	if err := d.removeGenerations(nil); err != nil {
		return nil, err
	}
	if d.gen, err = d.loadGeneration(spec); err != nil {
		return nil, explain(err)
	}
	if err := failpoint.Hit("datapath.loaded"); err != nil {
		return nil, err
	}
	d.log.Info("data plane loaded", "generation", d.gen.number, "pins", o.Pins)
	return d, nil
}

// Close releases descriptors. The kernel goes on with what is pinned.
func (d *Datapath) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	return d.closeAll()
}

func (d *Datapath) closeAll() error {
	var errs []error
	if d.gen != nil {
		errs = append(errs, d.gen.close())
	}
	for _, c := range d.carry {
		c.close()
	}
	for _, m := range d.state {
		errs = append(errs, m.Close())
	}
	for _, m := range d.view {
		errs = append(errs, m.Close())
	}
	errs = append(errs, d.samples.Close(), d.macs.Close()) // nil closes well
	if d.nl != nil {
		d.nl.Close()
	}
	if d.hidden != nil {
		errs = append(errs, d.hidden.Close())
	}
	return errors.Join(errs...)
}

func (d *Datapath) stateDir() string { return filepath.Join(d.o.Pins, "state", "v"+d.layout()) }
func (d *Datapath) genRoot() string  { return filepath.Join(d.o.Pins, "gen") }
func (d *Datapath) linkDir() string  { return filepath.Join(d.o.Pins, "links") }

func (d *Datapath) layout() string {
	if d.o.object != nil {
		return d.o.object.layout
	}
	return bpf.StateLayout
}

func (d *Datapath) loadSpec() (*ebpf.CollectionSpec, error) {
	if d.o.object != nil {
		return d.o.object.load()
	}
	return bpf.LoadSwitch()
}
