// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"gatehouse.dev/gatehouse/images"
)

// Push sends an image to the registry in its name, with the blobs it came with.
func (s *Store) Push(ctx context.Context, req images.PushRequest, r func(images.Progress)) (images.Image, error) {
	op := "push " + req.Ref
	ref, err := images.ParseReference(req.Ref)
	if err != nil {
		return images.Image{}, classify("push", err)
	}
	if ref.Digest != "" {
		return images.Image{}, images.Errorf(images.CodeInvalid, "%s: give a name with a tag, not a digest", op)
	}
	l := s.newLease()
	defer s.releaseLease(l)
	s.mu.Lock()
	row, _, err := s.resolve(ref.String())
	doc := s.document(row)
	s.mu.Unlock()
	if err != nil {
		return images.Image{}, classify(op, err)
	}
	l.hold(row.blobs()...)
	repo, err := dialRepo(ctx, ref.Repository(), transport.PushScope, req.Registry)
	if err != nil {
		return images.Image{}, classify(op, hint(err, ref, req.Registry))
	}
	defer repo.close()
	img, err := partial.CompressedToImage(storedImage{s, row})
	if err != nil {
		return images.Image{}, classify(op, err)
	}
	updates := make(chan v1.Update, 64)
	var told sync.WaitGroup
	told.Go(func() {
		for u := range updates {
			report(r).say(images.Progress{Status: images.StatusPushing, Current: u.Complete, Total: u.Total})
		}
	})
	err = remote.Write(repo.repo.Tag(ref.Tag), img, remote.WithTransport(repo.transport), remote.WithContext(ctx), remote.WithProgress(updates))
	told.Wait() // remote.Write closes updates
	if err != nil {
		return images.Image{}, classify(op, hint(err, ref, req.Registry))
	}
	return doc, nil
}

// storedImage gives the registry library an image of ours.
type storedImage struct {
	s   *Store
	row imageRow
}

func (i storedImage) MediaType() (types.MediaType, error) {
	return types.MediaType(i.row.MediaType), nil
}
func (i storedImage) RawManifest() ([]byte, error) { return i.s.readBlob(i.row.Digest, maxManifest) }
func (i storedImage) RawConfigFile() ([]byte, error) {
	return i.s.readBlob(i.row.ID, maxConfig)
}

func (i storedImage) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	for _, l := range i.row.Layers {
		if l.Digest == h.String() {
			return storedLayer{i.s, l, h}, nil
		}
	}
	return nil, fmt.Errorf("layer %s: not in image %s", h, i.row.ID)
}

type storedLayer struct {
	s   *Store
	row blobRow
	h   v1.Hash
}

func (l storedLayer) Digest() (v1.Hash, error) { return l.h, nil }
func (l storedLayer) Size() (int64, error)     { return l.row.Size, nil }
func (l storedLayer) MediaType() (types.MediaType, error) {
	return types.MediaType(l.row.MediaType), nil
}
func (l storedLayer) Compressed() (io.ReadCloser, error) { return os.Open(l.s.blob(l.row.Digest)) }
