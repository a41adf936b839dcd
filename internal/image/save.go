// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gatehouse.dev/gatehouse/images"
)

// Saver writes the archive that Save has prepared. Close it.
type Saver struct {
	s      *Store
	l      *lease
	format string
	rows   []imageRow
	names  map[string][]string // by ID: under which names it was asked for
}

// Save finds the images and holds them; the archive is written by Write. So a name
// that is not here is known before the first byte.
func (s *Store) Save(_ context.Context, refs []string, format string) (*Saver, error) {
	if format == "" {
		format = images.FormatDocker
	}
	if format != images.FormatDocker && format != images.FormatOCI {
		return nil, images.Errorf(images.CodeInvalid, "save: format %q: must be %s or %s", format, images.FormatDocker, images.FormatOCI)
	}
	if len(refs) == 0 {
		return nil, images.Errorf(images.CodeInvalid, "save: no image is named")
	}
	v := &Saver{s: s, l: s.newLease(), format: format, names: map[string][]string{}}
	err := func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, ref := range refs {
			r, name, err := s.resolve(ref)
			if err != nil {
				return err
			}
			if _, ok := v.names[r.ID]; !ok {
				v.rows = append(v.rows, r)
				v.names[r.ID] = nil
			}
			if name != "" {
				v.names[r.ID] = addTo(v.names[r.ID], name)
			}
		}
		return nil
	}()
	if err != nil {
		return nil, classify("save", err)
	}
	for _, r := range v.rows {
		v.l.hold(r.files()...)
	}
	return v, nil
}

// Close lets go of the images.
func (v *Saver) Close() error { return v.l.release() }

// Write writes the archive. The same images make the same bytes.
func (v *Saver) Write(ctx context.Context, w io.Writer) error {
	tw := tar.NewWriter(w)
	var err error
	if v.format == images.FormatOCI {
		err = v.writeLayout(ctx, tw)
	} else {
		err = v.writeDocker(ctx, tw)
	}
	if err = errors.Join(err, tw.Close()); err != nil {
		return classify("save", err)
	}
	return nil
}

func putFile(tw *tar.Writer, name string, b []byte) error {
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(b))}); err != nil {
		return err
	}
	_, err := tw.Write(b)
	return err
}

func putJSON(tw *tar.Writer, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return putFile(tw, name, b)
}

func (v *Saver) writeLayout(ctx context.Context, tw *tar.Writer) error {
	if err := putJSON(tw, ispec.ImageLayoutFile, ispec.ImageLayout{Version: ispec.ImageLayoutVersion}); err != nil {
		return err
	}
	done := map[string]bool{}
	for _, r := range v.rows {
		for _, d := range r.blobs() {
			if done[d] {
				continue
			}
			done[d] = true
			if err := v.putBlob(ctx, tw, d); err != nil {
				return err
			}
		}
	}
	idx, err := v.s.index(v.rows, v.names)
	if err != nil {
		return err
	}
	return putJSON(tw, ispec.ImageIndexFile, idx)
}

// blobs of an image, each once.
func (r imageRow) blobs() []string {
	out := []string{r.Digest, r.ID}
	for _, l := range r.Layers {
		if !slices.Contains(out, l.Digest) {
			out = append(out, l.Digest)
		}
	}
	return out
}

func (v *Saver) putBlob(ctx context.Context, tw *tar.Writer, digest string) error {
	f, err := os.Open(v.s.blob(digest))
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: "blobs/sha256/" + hexOf(digest), Mode: 0o644, Size: st.Size()}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(tw, &meteredReader{ctx: ctx, r: f})
	return err
}

// index names images as an OCI index, with an entry for each name.
func (s *Store) index(rows []imageRow, names map[string][]string) (ispec.Index, error) {
	idx := ispec.Index{MediaType: ispec.MediaTypeImageIndex, Manifests: []ispec.Descriptor{}}
	idx.SchemaVersion = 2
	for _, r := range rows {
		st, err := os.Stat(s.blob(r.Digest))
		if err != nil {
			return idx, err
		}
		d := ispec.Descriptor{MediaType: r.MediaType, Digest: ociDigest(r.Digest), Size: st.Size(),
			Platform: &ispec.Platform{OS: r.OS, Architecture: r.Arch, Variant: r.Variant}}
		if r.OS == "" || r.Arch == "" {
			d.Platform = nil
		}
		for _, n := range names[r.ID] {
			ref, err := images.ParseReference(n)
			if err != nil {
				return idx, err
			}
			d.Annotations = map[string]string{containerdAnnotation: n, refNameAnnotation: ref.Tag}
			idx.Manifests = append(idx.Manifests, d)
		}
		if len(names[r.ID]) == 0 {
			idx.Manifests = append(idx.Manifests, d)
		}
	}
	return idx, nil
}

func (v *Saver) writeDocker(ctx context.Context, tw *tar.Writer) error {
	done := map[string]bool{}
	var list []dockerManifest
	for _, r := range v.rows {
		m := dockerManifest{Config: hexOf(r.ID) + ".json", Layers: []string{}, RepoTags: []string{}}
		for _, n := range v.names[r.ID] {
			m.RepoTags = append(m.RepoTags, images.Familiar(n))
		}
		raw, err := v.s.readBlob(r.ID, maxConfig)
		if err != nil {
			return err
		}
		if err := putFile(tw, m.Config, raw); err != nil {
			return err
		}
		for _, l := range r.Layers {
			name := hexOf(l.DiffID) + ".tar"
			m.Layers = append(m.Layers, name)
			if done[name] {
				continue
			}
			done[name] = true
			if err := v.putLayer(ctx, tw, name, l); err != nil {
				return fmt.Errorf("image layer %s: %w", images.ShortID(l.DiffID), err)
			}
		}
		list = append(list, m)
	}
	return putJSON(tw, "manifest.json", list)
}

// putLayer writes a layer uncompressed, as this form wants it.
func (v *Saver) putLayer(ctx context.Context, tw *tar.Writer, name string, l blobRow) error {
	v.s.mu.Lock()
	size := v.s.layers[l.DiffID].TarBytes
	v.s.mu.Unlock()
	t, err := v.s.openTar(ctx, l, nil)
	if err != nil {
		return err
	}
	defer t.close()
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size}); err != nil {
		return err
	}
	if _, err := io.Copy(tw, t); err != nil {
		return badStream(err)
	}
	return checkDiffID(t, l)
}

// writeIndex keeps oci-layout and index.json beside the blobs, so that any OCI
// tool can read the directory. Nothing of ours reads them. mu is held.
func (s *Store) writeIndex() {
	rows := make([]imageRow, 0, len(s.images))
	names := map[string][]string{}
	for _, id := range slices.Sorted(maps.Keys(s.images)) {
		rows = append(rows, s.images[id])
		names[id] = s.images[id].Names
	}
	idx, err := s.index(rows, names)
	if err == nil {
		err = writeJSON(filepath.Join(s.layout(), ispec.ImageIndexFile), idx)
	}
	if err == nil {
		err = writeJSON(filepath.Join(s.layout(), ispec.ImageLayoutFile), ispec.ImageLayout{Version: ispec.ImageLayoutVersion})
	}
	if err != nil {
		s.log.Warn("index.json of the blob directory is not up to date", "error", err)
	}
}

func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
