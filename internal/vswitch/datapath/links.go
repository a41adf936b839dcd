// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/failpoint"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// Programs that are entry points.
const (
	endpointProgram = bpf.SwitchProgEpIn
	uplinkProgram   = bpf.SwitchProgUplinkIn
)

// socketHooks are the programs for host processes and where each goes.
var socketHooks = []struct {
	program string
	attach  ebpf.AttachType
}{
	// What answers comes first, so that no answer is seen untranslated.
	{bpf.SwitchProgSockRecvmsg4, ebpf.AttachCGroupUDP4Recvmsg},
	{bpf.SwitchProgSockRecvmsg6, ebpf.AttachCGroupUDP6Recvmsg},
	{bpf.SwitchProgSockGetpeername4, ebpf.AttachCgroupInet4GetPeername},
	{bpf.SwitchProgSockGetpeername6, ebpf.AttachCgroupInet6GetPeername},
	{bpf.SwitchProgSockConnect4, ebpf.AttachCGroupInet4Connect},
	{bpf.SwitchProgSockConnect6, ebpf.AttachCGroupInet6Connect},
	{bpf.SwitchProgSockSendmsg4, ebpf.AttachCGroupUDP4Sendmsg},
	{bpf.SwitchProgSockSendmsg6, ebpf.AttachCGroupUDP6Sendmsg},
	{bpf.SwitchProgSockRelease, ebpf.AttachCgroupInetSockRelease},
}

// How long an attachment that lost its last reference may linger: the kernel
// removes it from a work queue and then waits for RCU, 30 ms at most when idle.
const (
	detachTries = 100
	detachPause = 10 * time.Millisecond
)

func uplinkPin(ifindex int) string { return "uplink_" + strconv.Itoa(ifindex) }

func (d *Datapath) linkPin(name string) string { return filepath.Join(d.linkDir(), name) }

// pinnedLinks lists the names of the pinned links.
func pinnedLinks(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// attachUplink makes the program run first on what a device receives.
func (d *Datapath) attachUplink(ifindex int, name string, p *ebpf.Program) error {
	err := d.attachTCX(ifindex, p)
	if errors.Is(err, ebpf.ErrNotSupported) { // before Linux 6.6
		err = d.attachClsact(ifindex, p)
	}
	if errors.Is(err, unix.ENODEV) {
		// It went after the Facts were gathered; they will say so next time.
		d.log.Warn("uplink is gone", "device", name, "ifindex", ifindex)
		return nil
	}
	if err != nil {
		return fmt.Errorf("attach to uplink %s (ifindex %d): %w", name, ifindex, err)
	}
	return nil
}

func (d *Datapath) attachTCX(ifindex int, p *ebpf.Program) error {
	if d.o.NoTCX {
		return ebpf.ErrNotSupported
	}
	return d.moveLink(uplinkPin(ifindex), p, func(info *link.Info) bool {
		tcx := info.TCX()
		return tcx != nil && int(tcx.Ifindex) == ifindex && onDevice(ifindex, ebpf.AttachTCXIngress, info.ID)
	}, func() (link.Link, error) {
		for try := 1; ; try++ {
			l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: p, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
			if !errors.Is(err, unix.EEXIST) || try == detachTries {
				return l, err
			}
			// The program is still there by a link whose last reference has just
			// gone (a daemon killed before the pin): the kernel detaches it soon.
			time.Sleep(detachPause)
		}
	})
}

// onDevice asks the device itself: a pinned link may belong to a device of the
// same number in another namespace.
func onDevice(ifindex int, at ebpf.AttachType, id link.ID) bool {
	q, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: at})
	if err != nil {
		return false
	}
	for _, p := range q.Programs {
		if got, ok := p.LinkID(); ok && got == id {
			return true
		}
	}
	return false
}

func (d *Datapath) attachHooks(g *generation) error {
	if d.cgroup == "" { // Open has said so
		return nil
	}
	for _, h := range socketHooks {
		p, err := g.program(h.program)
		if err != nil {
			return err
		}
		err = d.moveLink(h.program, p, func(info *link.Info) bool {
			cg := info.Cgroup()
			return cg != nil && cg.CgroupId != 0
		}, func() (link.Link, error) {
			return link.AttachCgroup(link.CgroupOptions{Path: d.cgroup, Attach: h.attach, Program: p})
		})
		if err != nil {
			return fmt.Errorf("attach %s to cgroup %s: %w", h.program, d.cgroup, err)
		}
	}
	return nil
}

func (d *Datapath) detachHooks() error {
	var errs []error
	for _, h := range socketHooks {
		errs = append(errs, d.removeLink(h.program))
	}
	return errors.Join(errs...)
}

func (d *Datapath) detachUplink(ifindex int) error {
	err := d.removeLink(uplinkPin(ifindex))
	found, ferr := findFilters(d.nl, d.o.Block)
	if ferr != nil {
		return errors.Join(err, ferr)
	}
	for _, f := range found {
		if f.ifindex == ifindex {
			err = errors.Join(err, removeFilter(d.nl, f))
		}
	}
	return err
}

// removeLink detaches and takes away the pin.
func (d *Datapath) removeLink(name string) error { return detachPin(d.linkPin(name)) }

// detachPin detaches a pinned link at once; taking away the last reference alone
// would do it a little later.
func detachPin(path string) error {
	if err := failpoint.Hit("datapath.call"); err != nil {
		return err
	}
	if l, err := link.LoadPinnedLink(path, nil); err == nil {
		// Its device may be gone already, so an error is no news.
		_ = l.Detach()
		l.Close()
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// moveLink makes the pinned link run p. Where there is none, or not one that is
// good, it makes and pins a new one.
func (d *Datapath) moveLink(name string, p *ebpf.Program, good func(*link.Info) bool, attach func() (link.Link, error)) error {
	if err := failpoint.Hit("datapath.call"); err != nil {
		return err
	}
	path := d.linkPin(name)
	l, err := link.LoadPinnedLink(path, nil)
	switch {
	case err == nil:
		defer l.Close()
		info, err := l.Info()
		if err == nil && good(info) {
			if info.Program == programID(p) {
				return nil
			}
			if err := l.Update(p); err == nil {
				return nil
			}
		}
		// Its device or cgroup went and came again.
		if err := detachPin(path); err != nil {
			return err
		}
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	l, err = attach()
	if err != nil {
		return err
	}
	defer l.Close()
	if err := l.Pin(path); err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	return nil
}

func programID(p *ebpf.Program) ebpf.ProgramID {
	info, err := p.Info()
	if err != nil {
		return 0
	}
	id, _ := info.ID()
	return id
}

// attachedPrograms are the programs that packets or sockets meet now.
func (d *Datapath) attachedPrograms() (map[ebpf.ProgramID]bool, error) {
	ids := map[ebpf.ProgramID]bool{}
	filters, err := findFilters(d.nl, d.o.Block)
	if err != nil {
		return nil, err
	}
	for _, f := range filters {
		ids[f.program] = true
	}
	names, err := pinnedLinks(d.linkDir())
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		l, err := link.LoadPinnedLink(d.linkPin(name), nil)
		if err != nil {
			return nil, fmt.Errorf("link %s: %w", name, err)
		}
		info, err := l.Info()
		l.Close()
		if err != nil {
			return nil, fmt.Errorf("link %s: %w", name, err)
		}
		ids[info.Program] = true
	}
	return ids, nil
}

// ifindexOf reads the number back from the name of an uplink's pin.
func ifindexOf(pin string) (int, bool) {
	s, ok := strings.CutPrefix(pin, "uplink_")
	n, err := strconv.Atoi(s)
	return n, ok && err == nil
}
