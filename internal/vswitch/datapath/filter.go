// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Our filters have one place, so that putting one twice replaces it.
const (
	filterPriority = 1
	filterHandle   = 1
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
	err := d.nl.FilterReplace(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: blockIndex, Parent: d.o.Block, Handle: filterHandle, Priority: filterPriority, Protocol: unix.ETH_P_ALL,
		},
		Fd: p.FD(), Name: blockFilterName(d.o.Block), DirectAction: true,
	})
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
	qdisc := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	}
	if err := d.nl.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact: %w", err)
	}
	err := d.nl.FilterReplace(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: ifindex, Parent: netlink.HANDLE_MIN_INGRESS, Handle: filterHandle, Priority: filterPriority, Protocol: unix.ETH_P_ALL,
		},
		Fd: p.FD(), Name: uplinkFilterName(d.o.Block), DirectAction: true,
	})
	if err != nil {
		return fmt.Errorf("add filter: %w", err)
	}
	return nil
}

// tcFilter is a filter of ours as found in the kernel.
type tcFilter struct {
	ifindex int // blockIndex for the shared block
	program ebpf.ProgramID
	attrs   netlink.FilterAttrs
	name    string
}

// findFilters lists the filters of an instance: on the block, and on devices.
func findFilters(nl *netlink.Handle, block uint32) ([]tcFilter, error) {
	found, err := filtersOn(nl, &blockLink, block, blockFilterName(block))
	if err != nil {
		return nil, fmt.Errorf("list filters of block %#x: %w", block, err)
	}
	qdiscs, err := dump(func() ([]netlink.Qdisc, error) { return nl.QdiscList(nil) })
	if err != nil {
		return nil, fmt.Errorf("list qdiscs: %w", err)
	}
	for _, q := range qdiscs {
		if q.Type() != "clsact" || q.Attrs().IngressBlock != nil {
			continue
		}
		link := netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: q.Attrs().LinkIndex}}
		on, err := filtersOn(nl, &link, netlink.HANDLE_MIN_INGRESS, uplinkFilterName(block))
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return nil, fmt.Errorf("list filters of device %d: %w", q.Attrs().LinkIndex, err)
		}
		found = append(found, on...)
	}
	return found, nil
}

func filtersOn(nl *netlink.Handle, link netlink.Link, parent uint32, name string) ([]tcFilter, error) {
	filters, err := dump(func() ([]netlink.Filter, error) { return nl.FilterList(link, parent) })
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil, nil // no such block
	}
	if err != nil {
		return nil, err
	}
	var found []tcFilter
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok && b.Name == name {
			attrs := b.FilterAttrs
			attrs.LinkIndex, attrs.Parent = link.Attrs().Index, parent
			found = append(found, tcFilter{ifindex: link.Attrs().Index, program: ebpf.ProgramID(b.Id), attrs: attrs, name: name})
		}
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
