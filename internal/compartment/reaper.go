// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compartment

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A veth whose namespace was dropped goes with it, in the kernel's own batch and
// without holding up anybody; after reapAfter the reaper takes those that stayed
// because a process still sits in the namespace or because it was not ours.
const reapAfter = 500 * time.Millisecond

// reaper deletes devices in the background, many in one transaction.
type reaper struct {
	group uint32
	log   *slog.Logger
	kick  chan struct{} // do it now
	stop  chan struct{}
	done  chan struct{}

	mu   sync.Mutex
	todo map[int]string // by ifindex, which the kernel does not give out again soon
	now  map[int]string // being deleted
	busy bool           // todo or now has something
	idle *sync.Cond
	// seen are those that somebody would still meet; gone is closed when there are
	// none any more, and nil then.
	seen map[int]bool
	gone chan struct{}
}

func newReaper(group uint32, log *slog.Logger) *reaper {
	r := &reaper{
		group: group, log: log, todo: map[int]string{}, seen: map[int]bool{},
		kick: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	r.idle = sync.NewCond(&r.mu)
	go r.run()
	return r
}

// add takes a device; seen says that somebody would meet it, and it goes now.
func (r *reaper) add(index int, name string, seen bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.todo[index] = name
	if seen {
		r.seen[index] = true
		if r.gone == nil {
			r.gone = make(chan struct{})
		}
		defer r.hurry()
	}
	if !r.busy {
		r.busy = true
		time.AfterFunc(reapAfter, r.hurry)
	}
}

// pending reports whether a device waits to be deleted.
func (r *reaper) pending(index int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, waits := r.todo[index]
	_, goes := r.now[index]
	return waits || goes
}

// leaving is closed when what is seen is gone; nil where nothing is.
func (r *reaper) leaving() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gone
}

func (r *reaper) hurry() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

func (r *reaper) run() {
	defer close(r.done)
	for {
		select {
		case <-r.stop:
			r.reap()
			return
		case <-r.kick:
			r.reap()
		}
	}
}

func (r *reaper) reap() {
	r.mu.Lock()
	batch := r.todo
	r.todo, r.now = map[int]string{}, batch
	r.mu.Unlock()
	err := r.delete(batch)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = nil
	if err != nil {
		// Nobody else knows of them any more: they wait for the next time.
		r.log.Error("delete devices; it is tried again", "count", len(batch), "err", err)
		maps.Copy(r.todo, batch)
	} else {
		for index := range batch {
			delete(r.seen, index)
		}
	}
	if r.gone != nil && len(r.seen) == 0 {
		close(r.gone)
		r.gone = nil
	}
	if r.busy = len(r.todo) > 0; r.busy {
		time.AfterFunc(reapAfter, r.hurry)
	}
	r.idle.Broadcast()
}

// delete puts the devices that still exist in our link group and deletes it.
func (r *reaper) delete(batch map[int]string) error {
	if len(batch) == 0 {
		return nil
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	return deleteDevices(h, r.group, batch)
}

func deleteDevices(h *netlink.Handle, group uint32, batch map[int]string) error {
	var errs []error
	left := 0
	for index := range batch {
		switch err := h.LinkSetGroup(byIndex(index), int(group)); {
		case errors.Is(err, unix.ENODEV), errors.Is(err, os.ErrNotExist):
		case err != nil:
			errs = append(errs, err)
		default:
			left++
		}
	}
	if left > 0 {
		errs = append(errs, deleteGroup(group))
	}
	return errors.Join(errs...)
}

// settle deletes now what waits, and waits.
func (r *reaper) settle(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.idle.Broadcast()
	})
	defer stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.busy && ctx.Err() == nil {
		r.hurry()
		r.idle.Wait()
	}
	return ctx.Err()
}

func (r *reaper) close() {
	close(r.stop)
	<-r.done
}
