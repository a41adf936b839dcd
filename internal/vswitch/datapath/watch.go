// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Attachments are looked at when the kernel tells of a change of traffic control,
// a moment later, for changes come in bursts; and now and then, because it tells
// nobody about tcx and cgroup links. A look costs some system calls for each
// uplink.
const (
	lookQuiet = 20 * time.Millisecond
	lookEvery = 250 * time.Millisecond
	// lookPatience is how long a look may fail before it is told: who took the
	// anchor out of the block makes it fail until the anchor is back there.
	lookPatience = time.Second
)

// damageBuffer is how many wait for a reader of Damages.
const damageBuffer = 16

// Damages yields what Run had to put right. A slow reader loses some; Metrics
// count them all. The channel is never closed.
func (d *Datapath) Damages() <-chan Damage { return d.damages }

// guard keeps what is attached as it should be until ctx ends.
func (d *Datapath) guard(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	sock, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_TC)
	if err != nil {
		return fmt.Errorf("subscribe to changes of traffic control: %w", err)
	}
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		for ctx.Err() == nil {
			// Which change it was does not matter, and messages that were dropped
			// (ENOBUFS) were changes, too.
			if _, _, err := sock.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
				if ctx.Err() == nil {
					d.log.Warn("no news of traffic control", "error", err)
				}
				return
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}()
	defer func() { <-listening }()
	defer sock.Close()
	every := time.NewTicker(lookEvery)
	defer every.Stop()
	var trouble time.Time // since when looks fail; zero = they do not
	told := ""
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-every.C:
		case <-changed:
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(lookQuiet):
			}
		}
		found, err := d.Repair()
		for _, x := range found {
			select {
			case d.damages <- x:
			default:
			}
		}
		switch {
		case err == nil:
			trouble, told = time.Time{}, ""
		case trouble.IsZero():
			trouble = time.Now()
		case time.Since(trouble) > lookPatience && err.Error() != told: // once, not four times a second
			told = err.Error()
			d.count.repairErrors.Add(1)
			d.log.Warn("data plane incomplete", "error", err)
		}
	}
}
