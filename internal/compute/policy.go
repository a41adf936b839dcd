// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/model"
	"gatehouse.dev/gatehouse/internal/resource"
	"gatehouse.dev/gatehouse/internal/store"
)

// The policy that was set through the API; without one the configuration's counts.
func policies() store.Bucket[hcs.Policy] { return store.Bucket[hcs.Policy]{Name: "policy"} }

const policyKey = "host"

func (h *HCS) loadPolicy() error {
	p, from := h.o.Policy, "configured policy"
	if err := h.o.Store.View(func(tx *store.Tx) error {
		set, err := policies().Get(tx, policyKey)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return nil
		case err == nil:
			p, from = set, "policy that was set"
		}
		return err
	}); err != nil {
		return fmt.Errorf("policy that was set: %w", err)
	}
	whole, err := p.WithDefaults()
	if err != nil { // never a laxer one instead
		return fmt.Errorf("%s: %w", from, err)
	}
	h.policy.Store(&whole)
	return nil
}

// Policy is the one in force, whole.
func (h *HCS) Policy(context.Context) (hcs.Policy, error) { return *h.policy.Load(), nil }

// SetPolicy replaces the policy, also beyond the daemon's life; nil goes back to
// the configuration's. It counts for creates from now on.
func (h *HCS) SetPolicy(ctx context.Context, p *hcs.Policy) (hcs.Policy, error) {
	const op = "set policy"
	if !resource.CallerFrom(ctx).Admin {
		return hcs.Policy{}, fail(op, "", adminOnly)
	}
	h.setting.Lock()
	defer h.setting.Unlock()
	if p != nil {
		if _, err := p.WithDefaults(); err != nil {
			return hcs.Policy{}, fail(op, "", err)
		}
	}
	if _, err := h.o.Store.Update(func(tx *store.Tx) error {
		if p == nil {
			return policies().Delete(tx, policyKey)
		}
		return policies().Put(tx, policyKey, *p)
	}); err != nil {
		return hcs.Policy{}, fail(op, "", fmt.Errorf("store: %w", err))
	}
	if err := h.loadPolicy(); err != nil {
		return hcs.Policy{}, fail(op, "", err)
	}
	return *h.policy.Load(), nil
}

var adminOnly = &hcs.Error{Code: hcs.CodeAccessDenied, Message: "is for administrators: become root or join the socket's group"}

// Admits tells whether the policy lets in a caller without full rights.
func (h *HCS) Admits(who resource.Caller) bool { return model.Admits(*h.policy.Load(), who) }

// OpenToUsers tells whether any rule is about callers by their user or group.
func (h *HCS) OpenToUsers() bool {
	return slices.ContainsFunc(h.policy.Load().Rules, func(r hcs.PolicyRule) bool { return r.Match.Uid != nil || r.Match.Gid != nil })
}

// owns tells whether a system is its caller's to see: any for those with full rights.
func owns(who resource.Caller, s *system) bool {
	return who.Admin || s.row.Load().Doc.Owner == who.Owner()
}

// Owns tells whether a caller may know of a system.
func (h *HCS) Owns(ctx context.Context, runtimeID string) bool {
	s := h.look("rid:" + runtimeID)
	return s != nil && owns(resource.CallerFrom(ctx), s)
}

// allowed checks what a granted document takes and wants against its rule.
func (h *HCS) allowed(g model.Grant, doc hcs.ComputeSystem) error {
	if err := g.Rights(doc, filepath.EvalSymlinks); err != nil {
		return err
	}
	return g.Quotas(doc, h.facts)
}

// platform asks the policy again once it is known what the image is for.
func (m *making) platform() error {
	g, err := m.grant.Platform(m.image.OS, m.image.Arch, runtime.GOARCH, m.open)
	if err == nil && g.Isolation == hcs.IsolationHypervisor && m.image.Arch != "" && m.image.Arch != runtime.GOARCH {
		err = &hcs.Error{Code: hcs.CodeHypervNotInstalled, Field: "Container.Image",
			Message: fmt.Sprintf("there is no utility VM image for linux/%s, which the image is for", m.image.Arch)}
	}
	return err
}

// grant is what whoever asks now may do with a system that is there; its isolation
// was decided when it was made.
func (h *HCS) grant(ctx context.Context, r *row) (model.Grant, error) {
	return model.Find(*h.policy.Load(), resource.CallerFrom(ctx), r.Doc)
}

// Refusals are the policy and the systems that run and would be refused under it.
func (h *HCS) Refusals() (hcs.Policy, []string) {
	p := *h.policy.Load()
	var out []string
	for _, s := range h.all() {
		r := s.row.Load()
		if r.State == stateCreating || r.stopped() {
			continue
		}
		g, err := model.Decide(p, r.By, r.Doc)
		if err == nil {
			err = h.allowed(g, r.Doc)
		}
		var e *hcs.Error
		if errors.As(err, &e) {
			out = append(out, r.ID+" ("+e.Message+")")
		}
	}
	return p, out
}
