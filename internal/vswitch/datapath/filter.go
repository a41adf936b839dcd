// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/failpoint"
)

// Our filters have one place, so that putting one twice replaces it, and another
// one to come before filters that somebody put before ours; see putFilter.
const (
	filterPriority = 1
	filterHandle   = 1
	otherHandle    = 2
)

// blockIndex stands where a device's ifindex would (TCM_IFINDEX_MAGIC_BLOCK,
// include/uapi/linux/rtnetlink.h); the block's number is then in the parent.
const blockIndex = -1

// blockLink makes a block look like a link to the netlink library.
var blockLink = netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: blockIndex}}

func blockFilterName(block uint32) string  { return fmt.Sprintf("gh_ep_%08x", block) }
func uplinkFilterName(block uint32) string { return fmt.Sprintf("gh_uplink_%08x", block) }

// attachBlock puts the program on the shared block: all ports at once.
func (d *Datapath) attachBlock(p *ebpf.Program) error {
	if err := failpoint.Hit("datapath.call"); err != nil {
		return err
	}
	err := d.putFilter(&blockLink, d.o.Block, blockFilterName(d.o.Block), p)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		// net/sched/cls_api.c, __tcf_block_find: "Block of given index was not found"
		return fmt.Errorf("attach to ingress block %#x: %w: no device is a member; the anchor device has to join it first: %w",
			d.o.Block, err, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return fmt.Errorf("attach to ingress block %#x: %w", d.o.Block, err)
	}
	return nil
}

// attachClsact puts the program on one device, for kernels without tcx.
func (d *Datapath) attachClsact(ifindex int, p *ebpf.Program) error {
	if err := d.addClsact(ifindex); err != nil {
		return err
	}
	if err := d.putFilter(deviceLink(ifindex), netlink.HANDLE_MIN_INGRESS, uplinkFilterName(d.o.Block), p); err != nil {
		return fmt.Errorf("add filter: %w", err)
	}
	return nil
}

func (d *Datapath) addClsact(ifindex int) error {
	qdisc := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	}
	if err := d.nl.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact: %w", err)
	}
	return nil
}

// deviceLink makes a device's number look like a link to the netlink library.
func deviceLink(ifindex int) netlink.Link {
	return &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
}

// putFilter makes our filter run p, and run before those of others. A filter that
// is the first is replaced in its place, atomically. Before others it comes by
// being put anew under its other handle, for the kernel puts a new one before
// those of its priority (net/sched/cls_bpf.c); only then the old one is removed,
// so that at no time there is none.
func (d *Datapath) putFilter(link netlink.Link, parent uint32, name string, p *ebpf.Program) error {
	all, err := filtersOn(d.nl, link, parent)
	if err != nil {
		return err
	}
	handle := uint32(filterHandle)
	if mine := firstNamed(all, name); mine == 0 {
		handle = all[0].attrs.Handle
	} else if mine > 0 && all[mine].attrs.Handle == filterHandle {
		handle = otherHandle
	}
	err = d.nl.FilterReplace(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: link.Attrs().Index, Parent: parent, Handle: handle, Priority: filterPriority, Protocol: unix.ETH_P_ALL,
		},
		Fd: p.FD(), Name: name, DirectAction: true,
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range all {
		if f.name == name && f.attrs.Handle != handle {
			errs = append(errs, removeFilter(d.nl, f))
		}
	}
	return errors.Join(errs...)
}

// firstNamed is the place of the first filter of a name, or -1.
func firstNamed(all []tcFilter, name string) int {
	return slices.IndexFunc(all, func(f tcFilter) bool { return f.name == name })
}

// tcFilter is a filter as found in the kernel.
type tcFilter struct {
	ifindex int // blockIndex for the shared block
	program ebpf.ProgramID
	attrs   netlink.FilterAttrs
	name    string // of ours; of others what they say
}

// findFilters lists the filters of an instance: on the block, and on devices.
func findFilters(nl *netlink.Handle, block uint32) ([]tcFilter, error) {
	all, err := filtersOn(nl, &blockLink, block)
	if err != nil {
		return nil, fmt.Errorf("list filters of block %#x: %w", block, err)
	}
	found := named(all, blockFilterName(block))
	qdiscs, err := dump(func() ([]netlink.Qdisc, error) { return nl.QdiscList(nil) })
	if err != nil {
		return nil, fmt.Errorf("list qdiscs: %w", err)
	}
	for _, q := range qdiscs {
		if q.Type() != "clsact" || q.Attrs().IngressBlock != nil {
			continue
		}
		for parent, name := range map[uint32]string{
			netlink.HANDLE_MIN_INGRESS: uplinkFilterName(block), netlink.HANDLE_MIN_EGRESS: outFilterName(block),
		} {
			all, err := filtersOn(nl, deviceLink(q.Attrs().LinkIndex), parent)
			if err != nil && !errors.Is(err, unix.ENODEV) {
				return nil, fmt.Errorf("list filters of device %d: %w", q.Attrs().LinkIndex, err)
			}
			found = append(found, named(all, name)...)
		}
	}
	return found, nil
}

func named(all []tcFilter, name string) []tcFilter {
	return slices.DeleteFunc(all, func(f tcFilter) bool { return f.name != name })
}

// filtersOn lists the filters of a block or a device, in the order in which a
// packet meets them.
func filtersOn(nl *netlink.Handle, link netlink.Link, parent uint32) ([]tcFilter, error) {
	filters, err := dump(func() ([]netlink.Filter, error) { return nl.FilterList(link, parent) })
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil, nil // no such block
	}
	if err != nil {
		return nil, err
	}
	var found []tcFilter
	for _, f := range filters {
		attrs := *f.Attrs()
		if attrs.Handle == 0 {
			continue // not a filter, but the head of those of one priority
		}
		attrs.LinkIndex, attrs.Parent = link.Attrs().Index, parent
		one := tcFilter{ifindex: link.Attrs().Index, attrs: attrs, name: f.Type()}
		if b, ok := f.(*netlink.BpfFilter); ok {
			one.program, one.name = ebpf.ProgramID(b.Id), b.Name
		}
		found = append(found, one)
	}
	return found, nil
}

func removeFilter(nl *netlink.Handle, f tcFilter) error {
	err := nl.FilterDel(&netlink.BpfFilter{FilterAttrs: f.attrs, Name: f.name})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

// dump retries a listing that the kernel says it changed under.
func dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range 10 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}
