// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/instance"
)

// Inventory is what one instance has in the kernel, wanted or not.
type Inventory struct {
	Devices    []string // by name, in the host's namespace
	Namespaces []string // paths, mounted or left-over files
	Mounts     []string // mount points in the namespace directory, itself included
}

// Owned finds everything of an instance without a daemon or its store.
func Owned(inst instance.Instance) (Inventory, error) {
	var inv Inventory
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return inv, fmt.Errorf("find devices: netlink: %w", err)
	}
	defer h.Close()
	links, err := dump(h.LinkList)
	if err != nil {
		return inv, fmt.Errorf("find devices: %w", err)
	}
	for _, l := range links {
		if inst.OwnsDevice(l.Attrs().Name) {
			inv.Devices = append(inv.Devices, l.Attrs().Name)
		}
	}
	dir := filepath.Join(inst.Run, "netns")
	if inv.Namespaces, err = namespacesIn(dir); err != nil {
		return inv, err
	}
	mounts, err := mountPoints()
	if err != nil {
		return inv, fmt.Errorf("find mounts: %w", err)
	}
	for _, m := range mounts {
		if m.path == dir || strings.HasPrefix(m.path, dir+"/") {
			inv.Mounts = append(inv.Mounts, m.path)
		}
	}
	slices.Sort(inv.Devices)
	return inv, nil
}

// Owned is the function of the same name for this instance.
func (h *Host) Owned(context.Context) (Inventory, error) { return Owned(h.inst) }

// Destroy removes everything of an instance and waits until it is gone. No
// daemon of the instance may run.
func Destroy(ctx context.Context, inst instance.Instance) error {
	inv, err := Owned(inst)
	if err != nil {
		return err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("remove devices: netlink: %w", err)
	}
	defer h.Close()
	var errs []error
	batch := map[int]string{}
	for _, name := range inv.Devices {
		l, err := findLink(h, name)
		if err != nil {
			errs = append(errs, err)
		} else if l != nil {
			batch[l.Attrs().Index] = name
		}
	}
	errs = append(errs, deleteDevices(h, inst.Block, batch))
	for _, path := range inv.Namespaces {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		errs = append(errs, dropNamespace(path))
	}
	dir := filepath.Join(inst.Run, "netns")
	if slices.Contains(inv.Mounts, dir) {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

// Destroy is the function of the same name; the Host forgets what it knew.
func (h *Host) Destroy(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forget()
	return Destroy(ctx, h.inst)
}
