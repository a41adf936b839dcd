// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"gatehouse.dev/gatehouse/images"
	"gatehouse.dev/gatehouse/internal/failpoint"
	"gatehouse.dev/gatehouse/internal/store"
)

// lease keeps files from being swept while a verb relies on them without a row.
type lease struct {
	s        *Store
	keys     []string
	replaced []string // not held, but looked at on release
}

func (s *Store) newLease() *lease { return &lease{s: s} }

// hold is called before looking whether the file is there.
func (l *lease) hold(digests ...string) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	for _, d := range digests {
		l.s.leases[d]++
		l.keys = append(l.keys, d)
	}
}

// release ends the lease. What no row names by now is removed: after a verb that
// failed, that is everything it brought.
func (l *lease) release() error {
	l.s.mu.Lock()
	for _, k := range l.keys {
		if l.s.leases[k]--; l.s.leases[k] == 0 {
			delete(l.s.leases, k)
		}
	}
	l.s.mu.Unlock()
	return l.s.sweep(append(l.keys, l.replaced...))
}

// marked are the digests and diffIDs that rows or leases name. mu is held.
func (s *Store) marked() map[string]bool {
	m := map[string]bool{}
	for _, r := range s.images {
		for _, f := range r.files() {
			m[f] = true
		}
	}
	for _, u := range s.uses {
		for _, d := range u.Layers {
			m[d] = true
		}
	}
	for k := range s.leases {
		m[k] = true
	}
	return m
}

// sweep removes those of the digests that nothing names any more. Names go under
// the lock, bytes after it.
func (s *Store) sweep(digests []string) error {
	if len(digests) == 0 {
		return nil
	}
	var errs []error
	var finish []func() error
	s.mu.Lock()
	keep := s.marked()
	var rows []string
	for _, d := range digests {
		if keep[d] {
			continue
		}
		if _, ok := s.layers[d]; ok {
			rows = append(rows, d)
		}
	}
	// The row goes first: a crash in between leaves a directory without a row,
	// which Recover removes.
	if len(rows) > 0 {
		if _, err := s.db.Update(func(tx *store.Tx) error {
			for _, d := range rows {
				if err := layerRows.Delete(tx, d); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			s.mu.Unlock()
			return fmt.Errorf("sweep: store: %w", err)
		}
		for _, d := range rows {
			delete(s.layers, d)
		}
	}
	for _, d := range digests {
		if keep[d] {
			continue
		}
		for _, path := range []string{s.blob(d), s.layer(d)} {
			if _, err := os.Lstat(path); err != nil {
				continue
			}
			f, err := s.discard(path)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			finish = append(finish, f)
		}
	}
	s.mu.Unlock()
	if len(finish) > 0 {
		errs = append(errs, failpoint.Hit("image.discarded"))
	}
	for _, f := range finish {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// Recover ends what a crash interrupted: it empties ingest/, removes files that no
// row names, and drops images whose files are gone. Call it once, before any verb.
func (s *Store) Recover(ctx context.Context) error {
	var errs []error
	if err := removeAllIn(s.ingest()); err != nil {
		errs = append(errs, err)
	}
	s.mu.Lock()
	var lost []string
	for id, r := range s.images {
		if missing := s.missing(r); missing != "" {
			s.log.Warn("image has lost files; it is dropped, pull it again", "image", id, "names", r.Names, "missing", missing)
			lost = append(lost, id)
		}
	}
	if len(lost) > 0 {
		if _, err := s.db.Update(func(tx *store.Tx) error {
			for _, id := range lost {
				if err := imageRows.Delete(tx, id); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			s.mu.Unlock()
			return fmt.Errorf("recover images: store: %w", err)
		}
		for _, id := range lost {
			delete(s.images, id)
		}
	}
	s.writeIndex()
	candidates := slices.Collect(maps.Keys(s.layers))
	s.mu.Unlock()
	for _, dir := range []string{s.blobs(), s.dirs.layers()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, e := range entries {
			d := "sha256:" + e.Name()
			if checkDigest("", d) != nil { // not a name of ours; we own the directory
				errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
				continue
			}
			candidates = append(candidates, d)
		}
	}
	errs = append(errs, s.sweep(candidates), ctx.Err())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("recover images: %w", err)
	}
	return nil
}

// missing names the first file of an image that is not there.
func (s *Store) missing(r imageRow) string {
	for _, d := range []string{r.ID, r.Digest} {
		if !s.haveBlob(d) {
			return "blob " + d
		}
	}
	for _, l := range r.Layers {
		if !s.haveBlob(l.Digest) {
			return "blob " + l.Digest
		}
		if _, ok := s.layers[l.DiffID]; !ok || !s.haveLayer(l.DiffID) {
			return "layer " + l.DiffID
		}
	}
	return ""
}

func removeAllIn(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

// Remove as documented on images.Client.
func (s *Store) Remove(_ context.Context, ref string, force bool) (images.Removed, error) {
	op := "remove image " + ref
	var out images.Removed
	candidates, err := func() ([]string, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		r, name, err := s.resolve(ref)
		if err != nil {
			return nil, err
		}
		if name != "" && len(r.Names) > 1 {
			r.Names = slices.DeleteFunc(slices.Clone(r.Names), func(n string) bool { return n == name })
			if _, err := s.db.Update(func(tx *store.Tx) error { return imageRows.Put(tx, r.ID, r) }); err != nil {
				return nil, fmt.Errorf("store: %w", err)
			}
			s.images[r.ID] = r
			s.writeIndex()
			out.Untagged = []string{name}
			return nil, nil
		}
		if len(r.Names) > 1 && !force {
			return nil, images.Errorf(images.CodeInUse, "it has %d names (%s …); remove those, or force", len(r.Names), r.Names[0])
		}
		if users := s.usersOf(r.ID); len(users) > 0 && !force {
			return nil, images.Errorf(images.CodeInUse, "in use by %d compute systems (%s …); remove those, or force", len(users), users[0])
		}
		if _, err := s.db.Update(func(tx *store.Tx) error { return imageRows.Delete(tx, r.ID) }); err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
		_ = failpoint.Hit("image.removed") // too late for an error
		delete(s.images, r.ID)
		s.writeIndex()
		out = images.Removed{Untagged: r.Names, Deleted: []string{r.ID}}
		return r.files(), nil
	}()
	if err != nil {
		return images.Removed{}, classify(op, err)
	}
	if err := s.sweep(candidates); err != nil { // gone for everybody; the rest waits for Recover
		s.log.Warn("removed image left files behind", "image", ref, "error", err)
	}
	return out, nil
}
