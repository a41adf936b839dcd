// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/images"
	"gatehouse.dev/gatehouse/internal/image/slim"
)

// Slim makes a smaller image of one that is here: its layers become one, without
// what the level drops. The image it is made of stays as it is. What was written
// is read again from the unpacked layer and must be the same. r as for Pull.
func (s *Store) Slim(ctx context.Context, req images.SlimRequest, r func(images.Progress)) (images.Image, images.SlimReport, error) {
	img, rep, err := s.slim(ctx, req, r)
	if err != nil {
		return images.Image{}, images.SlimReport{}, classify("slim "+req.Ref, err)
	}
	return img, rep, nil
}

func (s *Store) slim(ctx context.Context, req images.SlimRequest, r report) (none images.Image, rep images.SlimReport, err error) {
	if req.Level == "" {
		req.Level = images.SlimLossless
	}
	b, err := s.newBuild(req.Name, nil)
	if err != nil {
		return none, rep, err
	}
	defer s.releaseLease(b.l)
	s.mu.Lock()
	base, _, err := s.resolve(req.Ref)
	layers := s.stackOf(s.pinOf(base))
	s.mu.Unlock()
	if err != nil {
		return none, rep, err
	}
	b.l.hold(base.files()...)
	raw, err := s.readBlob(base.ID, maxConfig)
	if err != nil {
		return none, rep, err
	}
	if err := json.Unmarshal(raw, &b.config); err != nil {
		return none, rep, fmt.Errorf("image %s: %w", base.ID, err)
	}
	r.say(images.Progress{Status: images.StatusReading, ID: base.ID})
	plan, err := planOf(ctx, layers, slim.Options{Level: slim.Level(req.Level), Rules: req.Rules, Keep: req.Keep, Observed: req.Observed, Config: base.Config})
	if err != nil {
		return none, rep, err
	}
	b.config.RootFS, b.config.History = ispec.RootFS{}, nil
	b.annotations = map[string]string{annotationSlimFrom: base.Digest, annotationSlimLevel: req.Level}
	if err := b.addLayer(func(w io.Writer) error { return writePart(ctx, w, layers, plan.Drops) }); err != nil {
		return none, rep, err
	}
	wrote := string(b.config.RootFS.DiffIDs[0])
	b.verify = func(got []layerRow) error {
		h := sha256.New()
		if err := writePart(ctx, h, []string{s.layerFS(got[0].DiffID)}, nil); err != nil {
			return err
		}
		if digestOf(h) != wrote {
			return errors.New("the smaller image does not show what was written; nothing was kept")
		}
		return nil
	}
	img, err := b.finish(ctx, ispec.History{CreatedBy: "gatehouse image slim --level " + req.Level + " " + req.Ref}, r)
	if err != nil {
		return none, rep, err
	}
	rep = images.SlimReport{From: base.Digest, Level: req.Level, Kept: filesOf(plan.Kept), Dropped: filesOf(plan.Dropped)}
	for _, l := range base.Layers {
		rep.BytesBefore += l.Size
	}
	for _, l := range img.Layers {
		rep.BytesAfter += l.Size
	}
	s.mu.Lock()
	rep.UnpackedBefore = s.document(base).Size
	s.mu.Unlock()
	rep.UnpackedAfter = img.Size
	return img, rep, nil
}

// Annotations of the manifest.
const (
	annotationSlimFrom  = "io.gatehouse.trim.from"  // digest of the manifest that it was made of
	annotationSlimLevel = "io.gatehouse.trim.level" // see package slim
)

func filesOf(list []slim.Decision) (out []images.SlimFile) {
	for _, d := range list {
		out = append(out, images.SlimFile(d))
	}
	return out
}

// planOf reads what layers show together and decides.
func planOf(ctx context.Context, layers []string, o slim.Options) (slim.Plan, error) {
	entries := map[string]slim.Entry{}
	index := &tree{ctx: ctx, visit: func(rel string, h *os.File, st unix.Stat_t) error {
		if rel == "." {
			return nil
		}
		e := slim.Entry{Kind: slim.Other, Size: st.Size}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			e.Kind = slim.Regular
		case unix.S_IFDIR:
			e.Kind = slim.Directory
		case unix.S_IFLNK:
			var err error
			e.Kind = slim.Symlink
			if e.Target, err = readlink(h); err != nil {
				return err
			}
		}
		entries[rel] = e
		return nil
	}}
	if err := index.read(layers); err != nil {
		return slim.Plan{}, err
	}
	files := &tree{ctx: ctx}
	if err := files.openAll(layers); err != nil {
		return slim.Plan{}, err
	}
	defer files.close()
	plan, err := slim.Make(slim.Tree{Entries: entries, Open: func(name string) (slim.File, error) { return files.readable(name) }}, o)
	if err != nil {
		return plan, images.Errorf(images.CodeInvalid, "%w", err)
	}
	return plan, nil
}

// readable opens a regular file of the topmost layer that has it.
func (t *tree) readable(rel string) (*os.File, error) {
	for i := range t.roots {
		h, st, err := t.open(i, rel)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		defer h.Close()
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			return nil, fmt.Errorf("%s: %w", rel, os.ErrNotExist)
		}
		return os.Open(itself(h))
	}
	return nil, fmt.Errorf("%s: %w", rel, os.ErrNotExist)
}

// writePart writes layers merged, but for what drops names.
func writePart(ctx context.Context, w io.Writer, layers []string, drops func(string) bool) error {
	tw := newTarWriter(ctx, w, false)
	t := &tree{ctx: ctx, visit: func(rel string, h *os.File, st unix.Stat_t) error {
		if drops != nil && drops(rel) {
			return nil
		}
		return tw.file(rel, h, st)
	}}
	if err := t.read(layers); err != nil {
		return err
	}
	return tw.Close()
}
