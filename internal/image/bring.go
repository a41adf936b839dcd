// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/images"
	"gatehouse.dev/gatehouse/internal/failpoint"
)

// source is where an image comes from.
type source interface {
	// manifest answers the image's manifest and its media type; digests are the
	// names by content under which the image was asked for.
	manifest(ctx context.Context) (raw []byte, mediaType string, err error)
	// fetch writes the blob to w; who calls checks size and digest. It may call
	// w.restart.
	fetch(ctx context.Context, d descriptor, w *blobWriter, r report) error
}

// bring takes in everything of one image but its rows: blobs and unpacked layers,
// held by l. The rows it answers are complete but for the names.
func (s *Store) bring(ctx context.Context, l *lease, src source, r report) (imageRow, []layerRow, error) {
	var row imageRow
	raw, mediaType, err := src.manifest(ctx)
	if err != nil {
		return row, nil, err
	}
	m, err := parseManifest(raw, mediaType, s.lim)
	if err != nil {
		return row, nil, err
	}
	if isIndex(m.MediaType) {
		return row, nil, bad("manifest: an index where an image was expected")
	}
	row.Digest, row.MediaType, row.ID = digestBytes(raw), m.MediaType, m.Config.Digest
	l.hold(row.Digest, row.ID)
	if err := s.ensureBlob(ctx, src, m.Config, nil); err != nil {
		return row, nil, fmt.Errorf("image configuration: %w", err)
	}
	rawConfig, err := s.readBlob(m.Config.Digest, maxConfig)
	if err != nil {
		return row, nil, err
	}
	c, err := parseConfig(rawConfig, m)
	if err != nil {
		return row, nil, err
	}
	row.Config, row.OS, row.Arch, row.Variant = c.Config, c.OS, c.Architecture, c.Variant
	if c.Created != nil {
		row.Created = *c.Created
	}
	for i, d := range m.Layers {
		b := blobRow{DiffID: string(c.RootFS.DiffIDs[i]), Digest: d.Digest, MediaType: d.MediaType, Size: d.Size}
		l.hold(b.DiffID, b.Digest)
		row.Layers = append(row.Layers, b)
	}
	layers := make([]layerRow, len(row.Layers))
	g, gctx := errgroup.WithContext(ctx)
	for i, b := range row.Layers {
		g.Go(func() (err error) {
			if err = s.ensureBlob(gctx, src, m.Layers[i], r); err == nil {
				err = failpoint.Hit("image.blob")
			}
			if err == nil {
				layers[i], err = s.ensureLayer(gctx, b, r)
			}
			if err != nil {
				return fmt.Errorf("image layer %s: %w", images.ShortID(b.Digest), err)
			}
			r.say(images.Progress{ID: b.Digest, Status: images.StatusComplete, Total: b.Size})
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return row, nil, err
	}
	if _, err := s.putBlob(raw); err != nil {
		return row, nil, fmt.Errorf("manifest: %w", err)
	}
	return row, layers, nil
}

// add brings one image and commits it under ref.
func (s *Store) add(ctx context.Context, src source, ref images.Reference, r report) (images.Image, error) {
	l := s.newLease()
	defer s.releaseLease(l)
	row, layers, err := s.bring(ctx, l, src, r)
	if err != nil {
		return images.Image{}, err
	}
	if ref.Digest != "" {
		row.Digests = []string{ref.Repository() + "@" + ref.Digest}
	} else {
		row.Names = []string{ref.String()}
	}
	row.Digests = addTo(row.Digests, ref.Repository()+"@"+row.Digest)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.commit(l, []imageRow{row}, layers); err != nil {
		return images.Image{}, err
	}
	return s.document(s.images[row.ID]), nil
}

// releaseLease is release at the end of a verb: its outcome stands, what could
// not be removed waits for Recover.
func (s *Store) releaseLease(l *lease) {
	if err := l.release(); err != nil {
		s.log.Warn("image verb left files behind", "error", err)
	}
}

// adopter is a source whose blobs are files on the same file system already.
type adopter interface {
	// adopt links the blob to path; false if it has none such.
	adopt(d descriptor, path string) (bool, error)
}

// ensureBlob brings a blob unless it is here; the caller holds a lease on it.
func (s *Store) ensureBlob(ctx context.Context, src source, d descriptor, r report) error {
	if s.haveBlob(d.Digest) {
		r.say(images.Progress{ID: d.Digest, Status: images.StatusExists, Total: d.Size})
		return nil
	}
	_, err := s.downloads.do(ctx, d.Digest, r, func(ctx context.Context, r report) (_ struct{}, err error) {
		if s.haveBlob(d.Digest) {
			return
		}
		if a, ok := src.(adopter); ok {
			if ok, err := a.adopt(d, s.blob(d.Digest)); ok || err != nil {
				return struct{}{}, err
			}
		}
		select {
		case s.dlSlots <- struct{}{}:
			defer func() { <-s.dlSlots }()
		case <-ctx.Done():
			return struct{}{}, ctx.Err()
		}
		w, err := s.newBlob()
		if err != nil {
			return struct{}{}, err
		}
		defer w.abort()
		w.limit = d.Size
		if err := src.fetch(ctx, d, w, r); err != nil {
			return struct{}{}, err
		}
		if w.size != d.Size {
			return struct{}{}, bad("got %d bytes, the manifest says %d", w.size, d.Size)
		}
		if got := w.digest(); got != d.Digest {
			return struct{}{}, bad("content has digest %s, the manifest says %s", got, d.Digest)
		}
		return struct{}{}, w.commit()
	})
	return err
}

// ensureLayer unpacks a blob that is here unless its layer is; the caller holds a
// lease on both.
func (s *Store) ensureLayer(ctx context.Context, b blobRow, r report) (layerRow, error) {
	if row, ok := s.knownLayer(b, true); ok {
		return row, nil
	}
	return s.unpacks.do(ctx, b.DiffID+b.Digest, r, func(ctx context.Context, r report) (layerRow, error) {
		select {
		case s.upSlots <- struct{}{}:
			defer func() { <-s.upSlots }()
		case <-ctx.Done():
			return layerRow{}, ctx.Err()
		}
		if row, ok := s.knownLayer(b, false); ok {
			// The layer is here, from another blob. That this one holds the same is
			// what a configuration claims; Save would hand it out under that name.
			return row, s.verifyBlob(ctx, b)
		}
		row, err := s.unpackBlob(ctx, b, r)
		if err != nil {
			return row, err
		}
		s.mu.Lock()
		s.layers[b.DiffID] = row // its row is committed with the image
		s.mu.Unlock()
		return row, nil
	})
}

// knownLayer answers a layer that is in its place; with pair set only if some
// image has it from the very same blob.
func (s *Store) knownLayer(b blobRow, pair bool) (layerRow, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	row, ok := s.layers[b.DiffID]
	if !ok || !pair {
		return row, ok
	}
	if b.DiffID == b.Digest {
		return row, true
	}
	for _, img := range s.images {
		for _, l := range img.Layers {
			if l.DiffID == b.DiffID && l.Digest == b.Digest {
				return row, true
			}
		}
	}
	return row, false
}

// tarReader reads a blob as the tar it holds: decompressed, hashed, bounded,
// cancellable, with progress in bytes of the blob.
type tarReader struct {
	io.Reader
	digest func() string
	size   func() int64
	close  func() error
}

func (s *Store) openTar(ctx context.Context, b blobRow, r report) (*tarReader, error) {
	f, err := os.Open(s.blob(b.Digest))
	if err != nil {
		return nil, err
	}
	in := &meteredReader{ctx: ctx, r: f, say: r.every(images.Progress{ID: b.Digest, Status: images.StatusUnpacking, Total: b.Size})}
	zr, _, err := decompress(in)
	if err != nil {
		f.Close()
		return nil, err
	}
	h := sha256.New()
	budget := s.lim.budget(b.Size)
	out := &meteredReader{ctx: ctx, r: &cappedReader{r: zr, left: budget + s.lim.RatioFloor,
		what: fmt.Sprintf("unpacks to more than the %d bytes that its size of %d allows", budget, b.Size)}}
	return &tarReader{
		Reader: bufio.NewReaderSize(io.TeeReader(out, h), 256<<10),
		digest: func() string { return digestOf(h) },
		size:   func() int64 { return out.n },
		close:  func() error { return errors.Join(zr.Close(), f.Close()) },
	}, nil
}

func (s *Store) verifyBlob(ctx context.Context, b blobRow) error {
	t, err := s.openTar(ctx, b, nil)
	if err != nil {
		return err
	}
	defer t.close()
	if _, err := io.Copy(io.Discard, t); err != nil {
		return badStream(err)
	}
	return checkDiffID(t, b)
}

func checkDiffID(t *tarReader, b blobRow) error {
	if got := t.digest(); got != b.DiffID {
		return bad("unpacks to %s, the image configuration says %s", got, b.DiffID)
	}
	return nil
}

func (s *Store) unpackBlob(ctx context.Context, b blobRow, r report) (layerRow, error) {
	var row layerRow
	t, err := s.openTar(ctx, b, r)
	if err != nil {
		return row, err
	}
	defer t.close()
	tmp, err := os.MkdirTemp(s.ingest(), "layer-")
	if err != nil {
		return row, err
	}
	defer os.RemoveAll(tmp) // after the rename there is nothing to remove
	fsdir := filepath.Join(tmp, "fs")
	if err := os.Mkdir(fsdir, 0o755); err != nil {
		return row, err
	}
	if err := os.Chmod(fsdir, 0o755); err != nil { // whatever our umask
		return row, err
	}
	root, err := unix.Open(fsdir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return row, err
	}
	defer unix.Close(root)
	sum, err := unpack(ctx, root, t, s.lim, s.lim.budget(b.Size))
	if err != nil {
		return row, err
	}
	if _, err := io.Copy(io.Discard, t); err != nil { // the digest is over what follows the tar's end, too
		return row, badStream(err)
	}
	if err := checkDiffID(t, b); err != nil {
		return row, err
	}
	if err := unix.Syncfs(root); err != nil {
		return row, fmt.Errorf("sync: %w", err)
	}
	err = os.Rename(tmp, s.layer(b.DiffID))
	if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.ENOTEMPTY) { // another blob of the same layer was faster
		return row, err
	}
	if err := syncDir(s.dirs.layers()); err != nil {
		return row, err
	}
	if err := failpoint.Hit("image.layer"); err != nil {
		return row, err
	}
	return layerRow{DiffID: b.DiffID, Format: formatOverlay, Bytes: sum.Bytes, TarBytes: t.size(),
		Entries: sum.Entries, OpaqueRoot: sum.OpaqueRoot}, nil
}
