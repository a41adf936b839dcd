// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"context"
	"io"
	"path/filepath"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/compute/model"
	"gatehouse.dev/gatehouse/internal/failpoint"
	"gatehouse.dev/gatehouse/internal/resource"
)

// Files is what a system was given and what it wrote, for the image store.
type Files struct {
	Pinned string   // RuntimeId under which Use pinned image layers; empty = none
	Lower  []string // further directories, topmost first
	Upper  string   // what the system wrote; empty = nothing
	Hide   []string // paths on which something is mounted
}

// CommitRequest is a commit as the image store is asked for it.
type CommitRequest struct {
	// Configure makes the configuration of that of the system's image.
	Configure             func(ispec.ImageConfig) (ispec.ImageConfig, error)
	Name, Author, Message string
	Changes               []string
	Command               []string
}

// files finds the files of a system that runs, or has stopped and is kept.
func (h *HCS) files(r *row) (Files, error) {
	if r.State == stateCreating {
		return Files{}, &hcs.Error{Code: hcs.CodeInvalidState, Message: "the system is not created yet"}
	}
	if r.stopped() && !r.keep() {
		return Files{}, &hcs.Error{Code: hcs.CodeSystemAlreadyStopped,
			Message: "its files went with it; to keep them, create with the annotation " + hcs.AnnotationKeep}
	}
	if r.inMachine() {
		return Files{}, inMachine()
	}
	c := r.Doc.Container
	f := Files{Hide: model.MountPoints(r.Doc)}
	st := hcs.Storage{}
	if c.Storage != nil {
		st = *c.Storage
	}
	if c.Image != "" {
		f.Pinned = r.RuntimeID
	}
	for _, l := range st.Layers {
		f.Lower = append(f.Lower, l.Path)
	}
	switch {
	case f.Pinned == "" && len(f.Lower) == 0:
		f.Lower = []string{st.Path}
	case st.Path != "":
		f.Upper = filepath.Join(st.Path, "upper")
	default:
		f.Upper = filepath.Join(h.o.Instance.Scratch(r.RuntimeID), "upper")
	}
	return f, nil
}

// Export finds the files of a system; what it answers writes them as a tar, as the
// system sees them without what is mounted.
func (h *HCS) Export(ctx context.Context, id string) (func(context.Context, io.Writer) error, error) {
	const op = "export"
	s, err := h.find(ctx, op, id)
	if err != nil {
		return nil, err
	}
	f, err := h.files(s.row.Load())
	if err != nil {
		return nil, s.err(op, err)
	}
	return func(ctx context.Context, w io.Writer) error { return s.err(op, h.o.Images.Export(ctx, f, w)) }, nil
}

// Commit makes an image of what a system was made of and what it changed. A
// running system stands still meanwhile unless it is asked not to.
func (h *HCS) Commit(ctx context.Context, id string, o hcs.CommitOptions) (hcs.CommitResult, error) {
	var out hcs.CommitResult
	const op = "commit"
	if !resource.CallerFrom(ctx).Admin { // images are everybody's
		return out, fail(op, id, adminOnly)
	}
	s, err := h.find(ctx, op, id)
	if err != nil {
		return out, err
	}
	r := s.row.Load()
	f, err := h.files(r)
	if err != nil {
		return out, s.err(op, err)
	}
	if !o.NoPause && s.state() == hcs.StateRunning {
		if _, err := s.commit(func(c *change) error { c.Committing = true; return nil }); err != nil {
			return out, s.err(op, err)
		}
		defer h.thaw(s)
		if err := failpoint.Hit("compute.committing"); err != nil {
			return out, s.err(op, err)
		}
		if err := h.Pause(ctx, id, hcs.PauseOptions{}); err != nil {
			return out, s.err(op, err)
		}
	}
	img, err := h.o.Images.Commit(ctx, f, CommitRequest{
		Configure: func(c ispec.ImageConfig) (ispec.ImageConfig, error) { return model.CommitConfig(r.Doc, c) },
		Name:      o.Name, Author: o.Author, Message: o.Message, Changes: o.Changes, Command: r.Command})
	if err != nil {
		return out, s.err(op, err)
	}
	return hcs.CommitResult{Image: img}, nil
}

// thaw ends what Commit froze, whatever became of it: nothing stays frozen.
func (h *HCS) thaw(s *system) {
	ctx, cancel := context.WithTimeout(h.life, undoLimit)
	defer cancel()
	w := s.client()
	if w == nil || s.row.Load().stopped() {
		return
	}
	err := w.Resume(ctx)
	if err == nil {
		_, err = s.until(ctx, func(r *row) bool { return r.State != hcs.StatePaused })
	}
	if err != nil && s.state() == hcs.StatePaused {
		h.log.Warn("a system that was frozen for a commit cannot be thawed", "system", s.row.Load().ID, "err", err)
		return // the next daemon tries again
	}
	if _, err := s.commit(func(c *change) error { c.Committing = false; return nil }); err != nil {
		h.log.Warn("thaw", "system", s.row.Load().ID, "err", err)
	}
}
