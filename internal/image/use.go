// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"context"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gatehouse.dev/gatehouse/images"
	"gatehouse.dev/gatehouse/internal/store"
)

// Used is a resolved reference: what the compute service needs of an image. It
// has the members of compute.Image, to which it converts; hands and services do
// not import each other.
type Used struct {
	ID     string // config digest
	Name   string // as asked, complete
	Layers []string
	Config ispec.ImageConfig
	OS     string
	Arch   string
}

// Use resolves a reference and pins its image layers for the compute system until
// Release; again for the same system replaces the pin. Layers are directories,
// topmost first, ready for overlayfs.
func (s *Store) Use(ctx context.Context, systemRuntimeID, ref string) (Used, error) {
	op := "use image " + ref
	if err := s.ensureBuiltin(ctx, ref); err != nil {
		return Used{}, classify(op, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, _, err := s.resolve(ref)
	if err != nil {
		return Used{}, classify(op, err)
	}
	out := Used{ID: r.ID, Name: ref, Config: r.Config, OS: r.OS, Arch: r.Arch}
	if p, err := images.ParseReference(ref); err == nil {
		out.Name = p.String()
	}
	use := s.pinOf(r)
	out.Layers = s.stackOf(use)
	if _, err := s.db.Update(func(tx *store.Tx) error { return useRows.Put(tx, systemRuntimeID, use) }); err != nil {
		return Used{}, classify(op, fmt.Errorf("store: %w", err))
	}
	s.uses[systemRuntimeID] = use
	return out, nil
}

// pinOf are the layers of an image that can be seen, topmost first. mu is held.
func (s *Store) pinOf(r imageRow) useRow {
	use := useRow{Image: r.ID}
	for i := len(r.Layers) - 1; i >= 0; i-- {
		use.Layers = append(use.Layers, r.Layers[i].DiffID)
		if s.layers[r.Layers[i].DiffID].OpaqueRoot {
			break
		}
	}
	return use
}

// stackOf are the directories of a pin, topmost first. mu is held.
func (s *Store) stackOf(use useRow) (dirs []string) {
	for _, d := range use.Layers {
		if s.layers[d].Entries > 0 { // an empty layer changes nothing
			dirs = append(dirs, s.layerFS(d))
		}
	}
	if len(dirs) == 0 && len(use.Layers) > 0 { // overlayfs needs one lower directory
		dirs = []string{s.layerFS(use.Layers[0])}
	}
	return dirs
}

// Release ends what Use pinned. Absent is no error.
func (s *Store) Release(_ context.Context, systemRuntimeID string) error {
	s.mu.Lock()
	use, ok := s.uses[systemRuntimeID]
	if ok {
		if _, err := s.db.Update(func(tx *store.Tx) error { return useRows.Delete(tx, systemRuntimeID) }); err != nil {
			s.mu.Unlock()
			return classify("release image of "+systemRuntimeID, fmt.Errorf("store: %w", err))
		}
		delete(s.uses, systemRuntimeID)
	}
	s.mu.Unlock()
	if err := s.sweep(use.Layers); err != nil {
		s.log.Warn("released image left files behind", "system", systemRuntimeID, "error", err)
	}
	return nil
}

// ReleaseExcept ends every pin of a system that is not live. The daemon calls it at
// its start, when it knows which systems there are.
func (s *Store) ReleaseExcept(ctx context.Context, live func(systemRuntimeID string) bool) error {
	s.mu.Lock()
	var gone []string
	for id := range s.uses {
		if !live(id) {
			gone = append(gone, id)
		}
	}
	s.mu.Unlock()
	for _, id := range gone {
		if err := s.Release(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// HelloName is the image that comes with the binary.
const HelloName = "docker.io/gatehouse/hello:latest"

// EnsureHello makes gatehouse/hello if it is not here.
func (s *Store) EnsureHello(ctx context.Context) error {
	if err := s.ensureBuiltin(ctx, HelloName); err != nil {
		return classify("image gatehouse/hello", err)
	}
	return nil
}

func (s *Store) ensureBuiltin(ctx context.Context, ref string) error {
	p, err := images.ParseReference(ref)
	if err != nil {
		return nil // an ID, or wrong: resolve says which
	}
	mk, ok := s.o.Builtin[p.String()]
	if !ok {
		return nil
	}
	s.mu.Lock()
	_, _, err = s.resolve(p.String())
	s.mu.Unlock()
	if err == nil {
		return nil
	}
	img, err := mk(hostPlatform().Architecture)
	if err != nil {
		return err
	}
	_, err = s.Add(ctx, img, p.String())
	return err
}

// Add stores an image that is at hand as a value, under a name.
func (s *Store) Add(ctx context.Context, img v1.Image, name string) (images.Image, error) {
	op := "add image " + name
	ref, err := images.ParseReference(name)
	if err != nil {
		return images.Image{}, classify(op, err)
	}
	out, err := s.add(ctx, valueSource{img}, ref, nil)
	if err != nil {
		return images.Image{}, classify(op, err)
	}
	return out, nil
}
