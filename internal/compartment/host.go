// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/instance"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// Options of Open.
type Options struct {
	Instance instance.Instance // required
	Users    map[string]uint32 // of the host, by the SID that redirects name
	Log      *slog.Logger      // nil = nowhere
}

// Host is one instance's devices and compartments on this host. Its methods may
// be called concurrently; changes happen one after the other.
type Host struct {
	inst     instance.Instance
	users    map[string]uint32
	log      *slog.Logger
	nl       *netlink.Handle // in the host's namespace
	conf     confDirs        // of the host's namespace
	view     *view           // the host's other devices, kept current by events
	pool     *pool
	reaper   *reaper
	cookie   uint64
	local    [2]uint16   // ip_local_port_range
	reserved [][2]uint16 // ip_local_reserved_ports

	closing sync.Once

	mu sync.Mutex
	// What the kernel has, by name, orphans included. Filled by load.
	loaded  bool
	swept   bool
	devices map[string]int // changed by setDevice and dropDevice alone
	told    map[string]int // a copy for Facts; nil = devices has changed since
	version uint64         // of told
	joined  map[int]bool   // by ifindex: member of the switch's block
	queued  map[int]bool   // by ifindex: has a queue of ours
	anchor  int
	// What was made true, by name and by HCN id; broken ones are looked at again.
	nics    map[string]*nicRecord
	tunnels map[string]*tunnelRecord
	taps    map[string]*tapRecord
	comps   map[string]*compRecord
	foreign map[string]*compRecord // those of comps whose namespace is not ours
	kept    []*keptPart            // as in what was wanted last; nil = to be looked into
	follows *mtus                  // what those in kept follow
	// shaped is by host-side device of the port.
	shaped map[string]shaping
}

type nicRecord struct {
	want   model.HostNIC
	mtu    int
	broken bool
}

type compRecord struct {
	id        string
	path      string
	foreign   bool
	follows   *mtus              // what vNICs without an MTU of their own follow
	last      []model.VNIC       // the slice given last, to see at a glance that nothing changed
	vnics     map[string]*record // by PortName
	redirects []model.Redirect
	looked    bool // at the namespace: it has redirects and no others of ours
	broken    bool
	dead      bool // foreign, and its owner took the namespace away
}

type record struct {
	want   model.VNIC
	mtu    int
	broken bool
}

// Open takes hold of the host's namespace (the one the process runs in). It makes
// nothing there. Close ends it.
func Open(o Options) (*Host, error) {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	h := &Host{inst: o.Instance, users: o.Users, log: log}
	h.forget()
	if err := shareDir(h.dir()); err != nil {
		return nil, fmt.Errorf("open compartments: %w", err)
	}
	var err error
	if h.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("open compartments: netlink: %w", err)
	}
	fail := func(err error) (*Host, error) {
		h.nl.Close()
		return nil, fmt.Errorf("open compartments: %w", err)
	}
	if h.cookie, err = netnsCookie(); err != nil {
		return fail(err)
	}
	if h.local, h.reserved, err = localPorts(); err != nil {
		return fail(err)
	}
	if h.conf, err = openConfDirs(); err != nil {
		return fail(err)
	}
	if h.view, err = openView(o.Instance.OwnsDevice, log); err != nil {
		h.conf.close()
		return fail(err)
	}
	h.pool = newPool(log)
	h.reaper = newReaper(o.Instance.Block, log)
	return h, nil
}

// Close finishes what goes on in the background. Devices and namespaces stay.
func (h *Host) Close() error {
	h.closing.Do(func() {
		h.reaper.close()
		h.pool.close()
		h.view.close()
		h.mu.Lock()
		defer h.mu.Unlock()
		h.nl.Close()
		h.conf.close()
	})
	return nil
}

// Watch returns a channel that gets a value when something outside changed what
// Facts say, a route of the host, or a device of ours; several changes make one
// value. Ensure then tells the new facts and repairs. The channel is closed when
// ctx ends or the Host is closed.
func (h *Host) Watch(ctx context.Context) <-chan struct{} { return h.view.watch(ctx) }

// Settle waits until everything pruned is gone from the kernel.
func (h *Host) Settle(ctx context.Context) error { return h.reaper.settle(ctx) }

func (h *Host) dir() string { return filepath.Join(h.inst.Run, "netns") }

// forget drops what we believe the kernel has; the next Ensure looks.
func (h *Host) forget() {
	h.loaded, h.swept = false, false
	h.forgetDevices()
	h.joined, h.queued = map[int]bool{}, map[int]bool{}
	h.kept = nil
	h.shaped = map[string]shaping{}
	h.nics, h.comps, h.tunnels = map[string]*nicRecord{}, map[string]*compRecord{}, map[string]*tunnelRecord{}
	h.taps = map[string]*tapRecord{}
	h.foreign = map[string]*compRecord{}
	h.anchor = 0
}

func (h *Host) forgetDevices() { h.devices, h.told = map[string]int{}, nil }

func (h *Host) setDevice(name string, index int) {
	if h.devices[name] != index {
		h.devices[name], h.told = index, nil
	}
}

func (h *Host) dropDevice(name string) {
	delete(h.devices, name)
	h.told = nil
}

// load lists our devices and the members of our block, once.
func (h *Host) load() error {
	if h.loaded {
		return nil
	}
	links, err := dump(h.nl.LinkList)
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	if h.joined, h.queued, err = h.listQdiscs(); err != nil {
		return err
	}
	for _, l := range links {
		if a := l.Attrs(); h.inst.OwnsDevice(a.Name) && !h.reaper.pending(a.Index) {
			h.setDevice(a.Name, a.Index)
		}
	}
	h.loaded = true
	return nil
}

// Facts says what the kernel has now; it asks nothing of the kernel.
func (h *Host) Facts() vswitch.Facts {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.facts()
}

func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("netns cookie: %w", err)
	}
	defer unix.Close(fd)
	c, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE) // Linux 5.14
	if err != nil {
		return 0, fmt.Errorf("netns cookie: %w", err)
	}
	return c, nil
}
