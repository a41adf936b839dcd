// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
)

// Owned lists everything of an instance's data plane in the kernel, whether or
// not anybody has it open: pins and filters. Filters are looked for in the
// caller's network namespace. It needs Pins and Block of the options only.
func Owned(o Options) ([]string, error) {
	var all []string
	err := filepath.WalkDir(o.Pins, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && !e.IsDir() {
			all = append(all, "pin "+path)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	nl, err := netlink.NewHandle()
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer nl.Close()
	filters, err := findFilters(nl, o.Block)
	if err != nil {
		return nil, err
	}
	for _, f := range filters {
		where := fmt.Sprintf("block %#x", o.Block)
		if f.ifindex != blockIndex {
			where = fmt.Sprintf("ifindex %d", f.ifindex)
		}
		all = append(all, fmt.Sprintf("filter %s on %s", f.name, where))
	}
	slices.Sort(all)
	return all, nil
}

// Destroy removes everything that Owned lists: traffic stops and flows are
// forgotten. A Datapath of the instance must be closed before. It goes on after
// an error and returns all of them; what is gone already is no error.
func Destroy(o Options) error {
	var errs []error
	nl, err := netlink.NewHandle()
	if err != nil {
		return fmt.Errorf("destroy data plane: open netlink: %w", err)
	}
	defer nl.Close()
	// What is attached first; then what it runs.
	errs = append(errs, destroyMACs(nl, o.Pins))
	links := filepath.Join(o.Pins, "links")
	names, err := pinnedLinks(links)
	errs = append(errs, err)
	for _, name := range names {
		errs = append(errs, detachPin(filepath.Join(links, name)))
	}
	filters, err := findFilters(nl, o.Block)
	errs = append(errs, err)
	for _, f := range filters {
		errs = append(errs, removeFilter(nl, f))
	}
	errs = append(errs, os.RemoveAll(o.Pins))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("destroy data plane: %w", err)
	}
	return nil
}
