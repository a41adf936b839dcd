// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

// Damage is something that another process did to an attachment or pins of ours
// and that was put right.
type Damage struct {
	Kind DamageKind
	What string // "uplink eth0"
}

// DamageKind says what was done.
type DamageKind string

const (
	// DamageGone: the attachment had been taken away.
	DamageGone DamageKind = "gone"
	// DamageBehind: another's program had been put before ours.
	DamageBehind DamageKind = "behind"
	// DamageUnpinned: what outlives the daemon had been unpinned.
	DamageUnpinned DamageKind = "unpinned"
)

func (x Damage) String() string {
	switch x.Kind {
	case DamageBehind:
		return x.What + " was behind another program"
	case DamageUnpinned:
		return x.What + " were not pinned any more"
	}
	return x.What + " was gone"
}

// Two programs that each want to be the first would move for ever: after so many
// moves in so long a time ours stays where it is and says so. Our choice.
const (
	movesMost = 5
	movesTime = time.Minute
)

// moves counts how often an attachment was moved to the front.
type moves struct {
	since time.Time
	n     int
}

// Repair looks at what is attached and pinned and puts it right: a root process that removes
// a device's clsact, or all tcx programs, takes ours along; one that attaches at
// the head comes before ours. Run calls it whenever traffic control changes. It
// returns what it had to put right.
func (d *Datapath) Repair() ([]Damage, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || !d.live || d.doubtful() {
		return nil, nil
	}
	found, err := d.repair()
	for _, x := range found {
		switch x.Kind {
		case DamageGone:
			d.count.repairedGone.Add(1)
		case DamageBehind:
			d.count.repairedBehind.Add(1)
		case DamageUnpinned:
			d.count.repairedUnpinned.Add(1)
		}
		d.log.Warn("another process changed what is attached or pinned; it was put right", "what", x.String())
	}
	if err != nil {
		return found, fmt.Errorf("repair data plane: %w", err)
	}
	return found, nil
}

func (d *Datapath) repair() (found []Damage, err error) {
	ep, err := d.gen.program(endpointProgram)
	if err != nil {
		return nil, err
	}
	all, err := filtersOn(d.nl, &blockLink, d.o.Block)
	if err != nil {
		return nil, fmt.Errorf("list filters of block %#x: %w", d.o.Block, err)
	}
	what := fmt.Sprintf("filter on block %#x", d.o.Block)
	if kind := damage(all, blockFilterName(d.o.Block), ep); kind != "" && d.mayMove(kind, what) {
		if err := d.attachBlock(ep); err != nil {
			return nil, err
		}
		found = append(found, Damage{kind, what})
	}
	n, err := d.repairPins()
	if n > 0 {
		found = append(found, Damage{DamageUnpinned, fmt.Sprintf("%d maps and programs", n)})
	}
	errs := []error{err}
	for _, u := range d.tables.Uplinks {
		x, err := d.repairUplink(u)
		if x.Kind != "" {
			found = append(found, x)
		}
		errs = append(errs, err)
		if !u.Bound {
			continue
		}
		if x, err = d.repairOut(u); x.Kind != "" {
			found = append(found, x)
		}
		errs = append(errs, err)
	}
	if d.tables.SocketHooks {
		if n, err := d.hooksLost(); err != nil || n > 0 {
			errs = append(errs, err)
			if err := d.attachHooks(d.gen); err != nil {
				errs = append(errs, err)
			} else if n > 0 {
				found = append(found, Damage{DamageGone, fmt.Sprintf("%d socket hooks", n)})
			}
		}
	}
	return found, errors.Join(errs...)
}

// damage says what is wrong with our filter among all of its place.
func damage(all []tcFilter, name string, p *ebpf.Program) DamageKind {
	switch i := firstNamed(all, name); {
	case i < 0 || all[i].program != programID(p):
		return DamageGone
	case i > 0:
		return DamageBehind
	}
	return ""
}

// mayMove says whether moving to the front is not a quarrel yet.
func (d *Datapath) mayMove(kind DamageKind, what string) bool {
	if kind != DamageBehind {
		return true
	}
	m, now := d.moved[what], time.Now()
	if now.Sub(m.since) > movesTime {
		m = moves{since: now}
	}
	m.n++
	d.moved[what] = m
	if m.n == movesMost+1 {
		d.log.Error("another program insists on being the first; it sees packets before the switch, and may keep them", "what", what)
	}
	return m.n <= movesMost
}

// repairUplink puts one uplink's attachment right. A device that is gone is no
// damage: the Facts will say so.
func (d *Datapath) repairUplink(u vswitch.UplinkPort) (Damage, error) {
	up, err := d.gen.program(uplinkProgram)
	if err != nil {
		return Damage{}, err
	}
	x := Damage{What: "uplink " + u.Name}
	switch place, err := d.tcxPlace(u.Ifindex); {
	case errors.Is(err, os.ErrNotExist): // attached by a filter, or not at all
		all, err := filtersOn(d.nl, deviceLink(u.Ifindex), netlink.HANDLE_MIN_INGRESS)
		if err != nil {
			if d.deviceGone(u.Ifindex) {
				return Damage{}, nil
			}
			return Damage{}, fmt.Errorf("list filters of %s: %w", u.Name, err)
		}
		x.Kind = damage(all, uplinkFilterName(d.o.Block), up)
	case err != nil:
		if d.deviceGone(u.Ifindex) {
			return Damage{}, nil
		}
		return Damage{}, err
	case place < 0:
		x.Kind = DamageGone
	case place > 0:
		x.Kind = DamageBehind
		if !d.mayMove(x.Kind, x.What) {
			return Damage{}, nil
		}
		if err := d.moveTCXFirst(u.Ifindex); err != nil {
			return Damage{}, fmt.Errorf("move to the front of uplink %s: %w", u.Name, err)
		}
		return x, nil
	}
	if x.Kind == "" || d.deviceGone(u.Ifindex) || !d.mayMove(x.Kind, x.What) {
		return Damage{}, nil
	}
	if err := d.attachUplink(u.Ifindex, u.Name, up); err != nil {
		return Damage{}, err
	}
	return x, nil
}

func (d *Datapath) deviceGone(ifindex int) bool {
	_, err := d.nl.LinkByIndex(ifindex)
	return errors.As(err, &netlink.LinkNotFoundError{})
}

// tcxPlace is where our link is among the tcx programs of a device: 0 = the
// first, -1 = not there. Without a link the error is os.ErrNotExist.
func (d *Datapath) tcxPlace(ifindex int) (int, error) {
	l, err := link.LoadPinnedLink(d.linkPin(uplinkPin(ifindex)), nil)
	if err != nil {
		return 0, err
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return 0, err
	}
	q, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return 0, err
	}
	for i, p := range q.Programs {
		if id, ok := p.LinkID(); ok && id == info.ID {
			return i, nil
		}
	}
	return -1, nil
}

// hooksLost counts the socket hooks that are not where they should be.
func (d *Datapath) hooksLost() (n int, err error) {
	if d.cgroup == "" {
		return 0, nil
	}
	for _, h := range socketHooks {
		l, err := link.LoadPinnedLink(d.linkPin(h.program), nil)
		if err != nil {
			n++
			continue
		}
		info, err := l.Info()
		l.Close()
		if err != nil {
			return n, fmt.Errorf("socket hook %s: %w", h.program, err)
		}
		if cg := info.Cgroup(); cg == nil || cg.CgroupId == 0 {
			n++
		}
	}
	return n, nil
}
