// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/image-spec/specs-go"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gatehouse.dev/gatehouse/images"
)

// Files are a container's: what it was given and what it wrote.
type Files struct {
	// Pinned: below the directories come the image layers that Use pinned for the
	// system.
	Pinned string // its RuntimeId; empty = none
	// Lower are further directories, topmost first, under the pinned ones.
	Lower []string
	// Upper holds what the container wrote; empty = nothing.
	Upper string
	// Hide are paths in the container that are not its own: what is mounted.
	Hide []string
}

// Export writes the container's files to w as a tar, as it sees them.
func (s *Store) Export(ctx context.Context, f Files, w io.Writer) error {
	var dirs []string
	if f.Upper != "" {
		dirs = append(dirs, f.Upper)
	}
	if f.Pinned != "" {
		s.mu.Lock()
		use, ok := s.uses[f.Pinned]
		dirs = append(dirs, s.stackOf(use)...)
		s.mu.Unlock()
		if !ok {
			return images.Errorf(images.CodeNotFound, "export: the image of system %s is not held any more", f.Pinned)
		}
	}
	if err := writeTree(ctx, w, append(dirs, f.Lower...), false, f.Hide); err != nil {
		return classify("export", err)
	}
	return nil
}

// CommitRequest of Commit.
type CommitRequest struct {
	// Configure makes the configuration of that of the container's image; Changes in
	// the words of a Dockerfile are made to it.
	Configure func(ispec.ImageConfig) (ispec.ImageConfig, error)
	Name      string // empty = none: by its ID only
	Author    string
	Message   string
	Changes   []string
	Command   []string // what the container ran, for the history
}

// Commit makes an image: that of the container, and a layer of what it changed.
func (s *Store) Commit(ctx context.Context, f Files, req CommitRequest) (images.Image, error) {
	img, err := s.commitFiles(ctx, f, req)
	if err != nil {
		return images.Image{}, classify("commit", err)
	}
	return img, nil
}

func (s *Store) commitFiles(ctx context.Context, f Files, req CommitRequest) (images.Image, error) {
	s.mu.Lock()
	base, ok := s.images[s.uses[f.Pinned].Image]
	s.mu.Unlock()
	if !ok || len(f.Lower) > 0 {
		return images.Image{}, images.Errorf(images.CodeInvalid, "the container was not made of an image of this store; use export and import")
	}
	if f.Upper == "" {
		return images.Image{}, images.Errorf(images.CodeInvalid, "the container could not write: there is nothing to keep")
	}
	b, err := s.newBuild(req.Name, req.Changes)
	if err != nil {
		return images.Image{}, err
	}
	defer s.releaseLease(b.l)
	b.l.hold(base.files()...)
	raw, err := s.readBlob(base.ID, maxConfig)
	if err != nil {
		return images.Image{}, err
	}
	if err := json.Unmarshal(raw, &b.config); err != nil {
		return images.Image{}, fmt.Errorf("image %s: %w", base.ID, err)
	}
	for _, l := range base.Layers {
		b.layers = append(b.layers, ispec.Descriptor{MediaType: ociLayer(l.MediaType), Digest: ociDigest(l.Digest), Size: l.Size})
	}
	if b.config.Config, err = req.Configure(b.config.Config); err != nil {
		return images.Image{}, err
	}
	b.config.Author = req.Author
	if err := b.addLayer(func(w io.Writer) error { return writeTree(ctx, w, []string{f.Upper}, true, f.Hide) }); err != nil {
		return images.Image{}, err
	}
	return b.finish(ctx, ispec.History{CreatedBy: strings.Join(req.Command, " "), Author: req.Author, Comment: req.Message}, nil)
}

// Import makes an image of one layer: what a tar holds, plain or compressed with
// gzip or zstd. r as for Pull.
func (s *Store) Import(ctx context.Context, req images.ImportRequest, archive io.Reader, r func(images.Progress)) (images.Image, error) {
	img, err := s.importTar(ctx, req, archive, r)
	if err != nil {
		return images.Image{}, classify("import", err)
	}
	return img, nil
}

func (s *Store) importTar(ctx context.Context, req images.ImportRequest, archive io.Reader, r report) (images.Image, error) {
	b, err := s.newBuild(req.Name, req.Changes)
	if err != nil {
		return images.Image{}, err
	}
	defer s.releaseLease(b.l)
	p := hostPlatform()
	if req.Platform != "" {
		if p, err = parsePlatform(req.Platform); err != nil {
			return images.Image{}, err
		}
	}
	b.config.Platform = ispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
	in := &meteredReader{ctx: ctx, r: archive, say: r.every(images.Progress{Status: images.StatusReading})}
	zr, _, err := decompress(in)
	if err != nil {
		return images.Image{}, err
	}
	defer zr.Close()
	files := &cappedReader{r: zr, left: s.lim.Bytes, what: fmt.Sprintf("the archive holds more than %d bytes", s.lim.Bytes)}
	if err := b.addLayer(func(w io.Writer) error { return withoutDevices(w, files) }); err != nil {
		return images.Image{}, err
	}
	from := req.From
	if from == "" {
		from = "an archive"
	}
	return b.finish(ctx, ispec.History{CreatedBy: "imported from " + from, Comment: req.Message}, r)
}

// build is an image on its way.
type build struct {
	s      *Store
	l      *lease
	ref    images.Reference // zero = no name
	words  []change
	config ispec.Image
	layers []ispec.Descriptor
	// annotations of the manifest; verify is asked before the image is there.
	annotations map[string]string
	verify      func([]layerRow) error
}

// newBuild checks everything that needs no work.
func (s *Store) newBuild(name string, changes []string) (*build, error) {
	b := &build{s: s}
	var err error
	if name != "" {
		if b.ref, err = images.ParseReference(name); err != nil {
			return nil, err
		}
		if b.ref.Digest != "" {
			return nil, images.Errorf(images.CodeInvalid, "name %q: a digest follows from the content; leave it out", name)
		}
	}
	if b.words, err = parseChanges(changes); err != nil {
		return nil, err
	}
	b.l = s.newLease()
	return b, nil
}

// addLayer puts the tar that write writes on top.
func (b *build) addLayer(write func(io.Writer) error) error {
	w, err := b.s.newBlob()
	if err != nil {
		return err
	}
	defer w.abort()
	zw := gzip.NewWriter(w)
	diff := sha256.New()
	if err := write(io.MultiWriter(diff, zw)); err != nil {
		return err
	}
	if err := zw.Close(); err != nil {
		return err
	}
	d := w.digest()
	b.l.hold(d, digestOf(diff))
	if err := w.commit(); err != nil {
		return err
	}
	b.layers = append(b.layers, ispec.Descriptor{MediaType: ispec.MediaTypeImageLayerGzip, Digest: ociDigest(d), Size: w.size})
	b.config.RootFS.Type = "layers"
	b.config.RootFS.DiffIDs = append(b.config.RootFS.DiffIDs, ociDigest(digestOf(diff)))
	return nil
}

// finish writes configuration and manifest and commits the image.
func (b *build) finish(ctx context.Context, h ispec.History, r report) (images.Image, error) {
	var none images.Image
	for _, c := range b.words {
		c(&b.config.Config)
	}
	now := time.Now().UTC()
	h.Created, b.config.Created = &now, &now
	b.config.History = append(b.config.History, h)
	raw, err := json.Marshal(b.config)
	if err != nil {
		return none, err
	}
	b.l.hold(digestBytes(raw))
	id, err := b.s.putBlob(raw)
	if err != nil {
		return none, err
	}
	manifest, err := json.Marshal(ispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ispec.MediaTypeImageManifest,
		Config: ispec.Descriptor{MediaType: ispec.MediaTypeImageConfig, Digest: ociDigest(id), Size: int64(len(raw))},
		Layers: b.layers, Annotations: b.annotations})
	if err != nil {
		return none, err
	}
	row, layers, err := b.s.bring(ctx, b.l, here(manifest), r)
	if err != nil {
		return none, err
	}
	if b.verify != nil {
		if err := b.verify(layers); err != nil {
			return none, err
		}
	}
	if b.ref != (images.Reference{}) {
		row.Names = []string{b.ref.String()}
		row.Digests = []string{b.ref.Repository() + "@" + row.Digest}
	}
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	if err := b.s.commit(b.l, []imageRow{row}, layers); err != nil {
		return none, err
	}
	return b.s.document(b.s.images[row.ID]), nil
}

// withoutDevices copies a tar but for device nodes: a whole root file system has
// some in /dev, image layers may hold none.
func withoutDevices(w io.Writer, r io.Reader) error {
	tr, tw := tar.NewReader(r), tar.NewWriter(w)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return tw.Close()
		}
		if err != nil {
			return badStream(err)
		}
		switch h.Typeflag {
		case tar.TypeChar, tar.TypeBlock:
			continue
		case tar.TypeGNUSparse: // read with its holes, and not written otherwise
			h.Typeflag = tar.TypeReg
		}
		h.Format = tar.FormatUnknown
		if err := tw.WriteHeader(h); err != nil {
			return wrapEntry(h.Name, err)
		}
		if _, err := io.Copy(tw, tr); err != nil {
			return wrapEntry(h.Name, badStream(err))
		}
	}
}

// here is the source of an image whose blobs are all in their place.
type here []byte

func (h here) manifest(context.Context) ([]byte, string, error) {
	return h, ispec.MediaTypeImageManifest, nil
}

func (here) fetch(_ context.Context, d descriptor, _ *blobWriter, _ report) error {
	return fmt.Errorf("blob %s: %w", d.Digest, os.ErrNotExist)
}

// ociLayer names the kind of a layer that came in a manifest of Docker's as an OCI
// manifest must.
func ociLayer(mediaType string) string {
	switch mediaType {
	case string(types.DockerLayer):
		return ispec.MediaTypeImageLayerGzip
	case string(types.DockerUncompressedLayer):
		return ispec.MediaTypeImageLayer
	case dockerLayerZstd:
		return ispec.MediaTypeImageLayerZstd
	}
	return mediaType
}
