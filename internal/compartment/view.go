// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

// view keeps the host's links and addresses current from the kernel's events, one
// delta at a time: listing them at each event would cost their square.
type view struct {
	owns func(name string) bool
	log  *slog.Logger
	sock *nl.NetlinkSocket
	done chan struct{}
	// changes is what became of uplinks, for whoever wants to know.
	changes chan UplinkChange

	mu       sync.Mutex
	links    map[int]link
	addrs    map[int][]address
	bound    map[string]bool  // names of uplinks that L2 networks are bound to
	uplinks  []vswitch.Uplink // follow from links, addrs and bound
	running  map[int]bool     // whether each of them has a carrier
	hostAddr []netip.Addr
	last     *mtus
	lost     []loss
	expected map[int]bool // devices that we delete ourselves
	lifted   map[int]bool // devices whose queue we take away ourselves
	routes   uint64       // changes of others' routes
	missed   bool         // events were dropped: nothing is certain about our devices
	watchers map[chan struct{}]bool
	timer    *time.Timer // runs while a signal is due
	closed   bool
}

type link struct {
	name     string
	mac      vswitch.MAC
	mtu      int
	ours     bool
	up       bool
	loopback bool
	ethernet bool
	carrier  bool
}

type address struct {
	prefix netip.Prefix
	global bool
}

// loss is something of ours that somebody took away.
type loss struct {
	name   string
	index  int
	device bool // the device itself; else its qdisc or an address
}

// quiet is how long a burst of changes is collected before it is told.
const quiet = 50 * time.Millisecond

// groups are the multicast groups of rtnetlink(7) that we listen to.
var groups = []uint{unix.RTNLGRP_LINK, unix.RTNLGRP_TC, unix.RTNLGRP_IPV4_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE}

func openView(owns func(string) bool, log *slog.Logger) (*view, error) {
	sock, err := nl.Subscribe(unix.NETLINK_ROUTE, groups...)
	if err != nil {
		return nil, fmt.Errorf("subscribe to network events: %w", err)
	}
	// A thousand devices made at once tell of themselves several times each.
	_ = sock.SetReceiveBufferSize(4<<20, true)
	v := &view{
		owns: owns, log: log, sock: sock, done: make(chan struct{}), changes: make(chan UplinkChange, changesBuffer),
		expected: map[int]bool{}, lifted: map[int]bool{}, watchers: map[chan struct{}]bool{},
	}
	if err := v.list(); err != nil {
		sock.Close()
		return nil, err
	}
	go v.run()
	return v, nil
}

// list asks the kernel for everything.
func (v *view) list() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer h.Close()
	links, err := dump(h.LinkList)
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.links, v.addrs = map[int]link{}, map[int][]address{}
	clear(v.expected)
	clear(v.lifted)
	for _, l := range links {
		a := l.Attrs()
		out := link{
			name: a.Name, mtu: a.MTU, ours: v.owns(a.Name), up: a.RawFlags&unix.IFF_UP != 0,
			loopback: a.RawFlags&unix.IFF_LOOPBACK != 0, ethernet: a.EncapType == "ether",
			carrier: a.RawFlags&unix.IFF_LOWER_UP != 0,
		}
		copy(out.mac[:], a.HardwareAddr)
		v.links[a.Index] = out
	}
	for _, a := range addrs {
		if p, ok := fromNet(a.IPNet); ok {
			v.addrs[a.LinkIndex] = append(v.addrs[a.LinkIndex], address{p, isGlobal(uint8(a.Scope))})
		}
	}
	v.follow()
	return nil
}

func isGlobal(scope uint8) bool { return scope < unix.RT_SCOPE_LINK }

func (v *view) run() {
	defer close(v.done)
	for {
		messages, _, err := v.sock.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			v.mu.Lock()
			v.missed = true
			v.routes++
			v.mu.Unlock()
			if err := v.list(); err != nil {
				v.log.Error("follow network events", "err", err)
			}
			v.mu.Lock()
			v.signal()
			v.mu.Unlock()
		case err != nil:
			v.mu.Lock()
			closed := v.closed
			v.mu.Unlock()
			if closed {
				return
			}
			v.log.Error("follow network events", "err", err)
			time.Sleep(quiet) // a broken socket must not become a busy loop
		default:
			v.take(messages)
		}
	}
}

// take applies a batch of events and says so when it matters to others.
func (v *view) take(messages []syscall.NetlinkMessage) {
	v.mu.Lock()
	defer v.mu.Unlock()
	changed, told := false, false
	for i := range messages {
		c, t := v.event(&messages[i])
		changed, told = changed || c, told || t
	}
	if changed && v.follow() || told {
		v.signal()
	}
}

// bind says which uplinks networks name. Who calls it asks for the facts next, so
// nobody is told.
func (v *view) bind(networks []vswitch.Network) {
	bound := map[string]bool{}
	for i := range networks {
		if u := networks[i].Uplink; u != "" {
			bound[u] = true
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if maps.Equal(bound, v.bound) {
		return
	}
	v.bound = bound
	v.follow()
}

// facts returns copies, the addresses with room to append.
func (v *view) facts() (uplinks []vswitch.Uplink, addrs []netip.Addr, routes uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.uplinks), slices.Clone(v.hostAddr), v.routes
}

// mtus is what devices without an MTU of their own follow; another one where it
// changed.
type mtus struct {
	least int            // of the uplinks with addresses
	of    map[string]int // of each uplink
}

// at is what a device follows whose network is bound to an uplink; "" = to none.
func (m *mtus) at(uplink string) int {
	if mtu := m.of[uplink]; mtu != 0 {
		return mtu
	}
	return m.least
}

func (v *view) mtus() *mtus {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := mtus{of: map[string]int{}}
	for _, u := range v.uplinks {
		now.of[u.Name] = int(u.MTU)
		if len(u.Addrs) > 0 && (now.least == 0 || int(u.MTU) < now.least) {
			now.least = int(u.MTU)
		}
	}
	if now.least == 0 {
		now.least = 1500
	}
	if v.last == nil || v.last.least != now.least || !maps.Equal(v.last.of, now.of) {
		v.last = &now
	}
	return v.last
}

// losses hands over what was lost since the last call; all says that there may
// be more.
func (v *view) losses() (lost []loss, all bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	lost, all = v.lost, v.missed
	v.lost, v.missed = nil, false
	return lost, all
}

// expect says that we delete a device of ours, which is no loss.
func (v *view) expect(index int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, there := v.links[index]; there {
		v.expected[index] = true
	}
}

// expectQdisc says that we take the queue of a device of ours away.
func (v *view) expectQdisc(index int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lifted[index] = true
}

func (v *view) watch(ctx context.Context) <-chan struct{} {
	c := make(chan struct{}, 1)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		close(c)
		return c
	}
	v.watchers[c] = true
	context.AfterFunc(ctx, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.watchers[c] {
			delete(v.watchers, c)
			close(c)
		}
	})
	return c
}

// signal tells the watchers, a moment later; v.mu is held.
func (v *view) signal() {
	if v.timer != nil || v.closed {
		return
	}
	v.timer = time.AfterFunc(quiet, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.timer = nil
		for c := range v.watchers {
			select {
			case c <- struct{}{}:
			default: // one is waiting already
			}
		}
	})
}

func (v *view) close() {
	v.mu.Lock()
	v.closed = true
	if v.timer != nil {
		v.timer.Stop()
	}
	for c := range v.watchers {
		close(c)
	}
	clear(v.watchers)
	v.mu.Unlock()
	v.sock.Close()
	<-v.done
}
