// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

// outProgram stands behind the host's stack at uplinks that networks are bound to.
const outProgram = bpf.SwitchProgUplinkOut

const outPrefix = "out_"

func outPin(ifindex int) string { return outPrefix + strconv.Itoa(ifindex) }

// outIfindexOf reads the number back from the name of such a link's pin.
func outIfindexOf(pin string) (int, bool) {
	s, ok := strings.CutPrefix(pin, outPrefix)
	n, err := strconv.Atoi(s)
	return n, ok && err == nil
}

func outFilterName(block uint32) string { return fmt.Sprintf("gh_out_%08x", block) }

// attachOut makes the program run on what the host sends by a device.
func (d *Datapath) attachOut(u vswitch.UplinkPort) error {
	p, err := d.gen.program(outProgram)
	if err != nil {
		return err
	}
	err = d.attachOutTCX(u.Ifindex, p)
	if errors.Is(err, ebpf.ErrNotSupported) { // before Linux 6.6
		if err = d.addClsact(u.Ifindex); err == nil {
			err = d.putFilter(deviceLink(u.Ifindex), netlink.HANDLE_MIN_EGRESS, outFilterName(d.o.Block), p)
		}
	}
	if errors.Is(err, unix.ENODEV) {
		d.log.Warn("uplink is gone", "device", u.Name, "ifindex", u.Ifindex)
		return nil
	}
	if err != nil {
		return fmt.Errorf("attach to what the host sends by uplink %s (ifindex %d): %w", u.Name, u.Ifindex, err)
	}
	return nil
}

func (d *Datapath) attachOutTCX(ifindex int, p *ebpf.Program) error {
	if d.o.NoTCX {
		return ebpf.ErrNotSupported
	}
	return d.moveLink(outPin(ifindex), p, func(info *link.Info) bool {
		tcx := info.TCX()
		return tcx != nil && int(tcx.Ifindex) == ifindex && onDevice(ifindex, ebpf.AttachTCXEgress, info.ID)
	}, func() (link.Link, error) {
		for try := 1; ; try++ {
			l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: p, Attach: ebpf.AttachTCXEgress})
			if !errors.Is(err, unix.EEXIST) || try == detachTries {
				return l, err
			}
			time.Sleep(detachPause) // see attachTCX
		}
	})
}

func (d *Datapath) detachOut(ifindex int) error {
	err := d.removeLink(outPin(ifindex))
	found, ferr := findFilters(d.nl, d.o.Block)
	if ferr != nil {
		return errors.Join(err, ferr)
	}
	for _, f := range found {
		if f.ifindex == ifindex && f.name == outFilterName(d.o.Block) {
			err = errors.Join(err, removeFilter(d.nl, f))
		}
	}
	return err
}

// repairOut puts back the attachment on what the host sends.
func (d *Datapath) repairOut(u vswitch.UplinkPort) (Damage, error) {
	p, err := d.gen.program(outProgram)
	if err != nil {
		return Damage{}, err
	}
	l, err := link.LoadPinnedLink(d.linkPin(outPin(u.Ifindex)), nil)
	switch {
	case errors.Is(err, os.ErrNotExist):
		all, err := filtersOn(d.nl, deviceLink(u.Ifindex), netlink.HANDLE_MIN_EGRESS)
		if err == nil && damage(named(all, outFilterName(d.o.Block)), outFilterName(d.o.Block), p) == "" {
			return Damage{}, nil
		}
	case err != nil:
		return Damage{}, err
	default:
		info, err := l.Info()
		l.Close()
		if err == nil && onDevice(u.Ifindex, ebpf.AttachTCXEgress, info.ID) {
			return Damage{}, nil
		}
	}
	if d.deviceGone(u.Ifindex) {
		return Damage{}, nil
	}
	if err := d.attachOut(u); err != nil {
		return Damage{}, err
	}
	return Damage{DamageGone, "what the host sends by uplink " + u.Name}, nil
}
