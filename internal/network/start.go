// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package network

import (
	"context"
	"errors"
	"fmt"
	"os"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/failpoint"
	"gatehouse.dev/gatehouse/internal/network/model"
)

// Start loads the World, makes the kernel so, and removes what is ours and not in
// it. At the first start it makes the default network. What cannot be made is
// logged and told by Trouble; it does not keep the rest from working. The error is
// that of the store, or of a switch that cannot be programmed at all.
func (h *HNS) Start(ctx context.Context) error {
	h.mu.Lock()
	w, m, err := h.load()
	if err == nil {
		h.world.Store(&w)
		err = h.reconcile(ctx, w)
	}
	h.mu.Unlock()
	if err != nil {
		return wrap("start networking", err)
	}
	if err := errors.Join(h.leaveBehind(ctx, w, m), h.followUplinks(ctx)); err != nil {
		return wrap("start networking", err)
	}
	if m.Started || h.o.NoDefaultNetwork {
		return nil
	}
	body := []byte(`{"Name":"` + model.DefaultNetwork + `","Type":"NAT","Owner":"gatehouse"}`)
	if h.o.DefaultNetwork != nil {
		body = h.o.DefaultNetwork
	}
	// A crash may have come between the network and the note of it.
	if _, made := h.World().NetworkNamed(model.DefaultNetwork); !made {
		if _, _, err := h.CreateNetwork(ctx, body); err != nil {
			return wrap("start networking", err)
		}
	}
	return wrap("start networking", h.markStarted())
}

// reconcile makes the kernel as w says, whatever it is now; h.mu is held.
func (h *HNS) reconcile(ctx context.Context, w model.World) error {
	want := w.Desired()
	var trouble error
	if err := h.holdPorts(ctx, want.HostPorts, true); err != nil {
		trouble = err
	}
	facts, err := h.o.Compartments.Ensure(ctx, want)
	h.facts.Store(&facts)
	if err != nil {
		h.log.Warn("some compartments are not as they should be", "error", err)
		trouble = err
	}
	if err := h.program(ctx, want, facts); err != nil {
		return err
	}
	if err := failpoint.Hit("network.reconciled"); err != nil {
		return err
	}
	h.nameThem(want, true)
	if err := h.o.Compartments.Prune(ctx, want); err != nil {
		h.log.Warn("devices or namespaces are left over", "error", err)
		trouble = err
	}
	h.setTrouble(trouble)
	return nil
}

// Recompile brings the kernel in line after the host changed: an uplink, an
// address, a device of ours that somebody removed. While there is Trouble it does
// everything again, so calling it now and then is the way out. Documents follow: the
// provider addresses that an uplink now has.
func (h *HNS) Recompile(ctx context.Context) error {
	return errors.Join(h.recompile(ctx), h.followUplinks(ctx))
}

func (h *HNS) followUplinks(ctx context.Context) error {
	if h.stopped.Load() {
		return nil
	}
	return h.change(ctx, "follow uplinks", func(w model.World, in model.Input) (model.World, error) {
		return w.FollowUplinks(in), nil
	})
}

func (h *HNS) recompile(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped.Load() {
		return nil
	}
	if h.Trouble() != "" {
		return wrap("repair", h.reconcile(ctx, h.World()))
	}
	want := h.World().Desired()
	facts, err := h.o.Compartments.Ensure(ctx, want)
	h.facts.Store(&facts)
	if err != nil {
		h.log.Warn("some compartments are not as they should be", "error", err)
	}
	h.setTrouble(err)
	if perr := h.program(ctx, want, facts); perr != nil {
		h.setTrouble(perr)
		return wrap("follow the host", perr)
	}
	return nil
}

// leaveBehind removes what does not outlive its host or its maker: non-persistent
// networks of another boot, and namespaces that were handed in and are gone.
func (h *HNS) leaveBehind(ctx context.Context, w model.World, m meta) error {
	if h.o.BootID != "" && m.BootID != "" && m.BootID != h.o.BootID {
		for _, n := range w.AllNetworks() {
			if n.Doc.Flags&hcn.EnableNonPersistent == 0 {
				continue
			}
			h.log.Info("network ends with the boot it was made in", "network", n.Doc.Id)
			if err := h.DeleteNetwork(ctx, n.Doc.Id, 0); err != nil {
				return err
			}
		}
	}
	for _, ns := range w.AllNamespaces() {
		if !ns.Foreign {
			continue
		}
		if _, err := os.Stat(ns.Doc.NetNsPath); !os.IsNotExist(err) {
			continue
		}
		h.log.Info("namespace is gone with its maker", "namespace", ns.Doc.Id, "path", ns.Doc.NetNsPath)
		err := h.change(ctx, "remove namespace", func(w model.World, in model.Input) (model.World, error) {
			return w.Unplug(ns.Doc.Id, in), nil
		})
		if err != nil {
			return fmt.Errorf("namespace %s: %w", ns.Doc.Id, err)
		}
	}
	return nil
}
