// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"gatehouse.dev/gatehouse/images"
)

// Load takes in every image of an archive, all or none: what `docker save`
// writes, or an OCI image layout in a tar; plain, gzip or zstd. r as for Pull.
func (s *Store) Load(ctx context.Context, archive io.Reader, r func(images.Progress)) ([]images.Image, error) {
	out, err := s.load(ctx, archive, r)
	if err != nil {
		return nil, classify("load", err)
	}
	return out, nil
}

func (s *Store) load(ctx context.Context, archive io.Reader, r report) ([]images.Image, error) {
	dir, err := os.MkdirTemp(s.ingest(), "load-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	a, err := s.stage(ctx, archive, dir, r)
	if err != nil {
		return nil, err
	}
	found, err := a.images(s.lim)
	if err != nil && a.cut {
		return nil, bad("the archive is truncated")
	}
	if err != nil {
		return nil, err
	}
	l := s.newLease()
	defer s.releaseLease(l)
	var rows []imageRow
	var layers []layerRow
	for _, f := range found {
		row, ls, err := s.bring(ctx, l, f, r)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", f, err)
		}
		for _, n := range f.names {
			row.Names = addTo(row.Names, n.String())
		}
		rows, layers = append(rows, row), append(layers, ls...)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.commit(l, rows, layers); err != nil {
		return nil, err
	}
	var out []images.Image
	for _, row := range rows {
		out = append(out, s.document(s.images[row.ID]))
	}
	return out, nil
}

// staged is an archive in pieces: each file by its name in the archive, on disk
// under its number, hashed. Nothing of the archive's names reaches the disk.
type staged struct {
	files map[string]stagedFile
	cut   bool // it does not end as a tar does, at a block's end
}

type stagedFile struct {
	path   string // on disk
	digest string
	size   int64
	link   string // name of another file, for a link
}

// stage reads the archive to its end. It streams: an archive may come through a
// pipe, and the file that says what it is may be the last.
func (s *Store) stage(ctx context.Context, archive io.Reader, dir string, r report) (*staged, error) {
	in := &meteredReader{ctx: ctx, r: archive, say: r.every(images.Progress{Status: images.StatusReading})}
	zr, _, err := decompress(in)
	if err != nil {
		return nil, err
	}
	defer zr.Close()
	out := &meteredReader{ctx: ctx, r: &cappedReader{r: zr, left: s.lim.ArchiveBytes,
		what: fmt.Sprintf("archive: more than %d bytes", s.lim.ArchiveBytes)}}
	tr := tar.NewReader(out)
	a := &staged{files: map[string]stagedFile{}}
	for n := 0; ; n++ {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			if n == 0 && !hasClass(err) && ctx.Err() == nil {
				return nil, bad("not an archive of images: neither `docker save` nor an OCI image layout in a tar")
			}
			return nil, badStream(err)
		}
		if n >= s.lim.ArchiveEntries {
			return nil, bad("archive: more than %d entries", s.lim.ArchiveEntries)
		}
		name, err := clean(h.Name)
		if err != nil {
			return nil, wrapEntry(h.Name, err)
		}
		switch h.Typeflag {
		case tar.TypeDir, tar.TypeXGlobalHeader:
		case tar.TypeReg, '\x00':
			if _, ok := a.files[name]; ok {
				return nil, wrapEntry(h.Name, bad("stands in the archive twice"))
			}
			f, err := s.stageFile(tr, filepath.Join(dir, fmt.Sprint(n)))
			if err != nil {
				return nil, wrapEntry(h.Name, err)
			}
			a.files[name] = f
		case tar.TypeSymlink, tar.TypeLink: // old Docker links equal layers
			target := h.Linkname
			if h.Typeflag == tar.TypeSymlink && !strings.HasPrefix(target, "/") {
				target = path.Join(path.Dir(name), target) // a name among names; it never reaches the disk
			}
			a.files[name] = stagedFile{link: strings.TrimPrefix(target, "/")}
		default:
			return nil, wrapEntry(h.Name, bad("kind %q has no place in an archive of images", h.Typeflag))
		}
	}
	// What follows the end mark belongs to the stream, whose check sum comes last.
	if _, err := io.Copy(io.Discard, out); err != nil {
		return nil, badStream(err)
	}
	a.cut = out.n%512 != 0
	return a, nil
}

// stageFile takes one file of the archive in.
func (s *Store) stageFile(r io.Reader, to string) (stagedFile, error) {
	w, err := s.newBlob()
	if err != nil {
		return stagedFile{}, err
	}
	defer w.abort()
	buf := make([]byte, 128<<10)
	for {
		n, err := r.Read(buf)
		if _, werr := w.Write(buf[:n]); werr != nil {
			return stagedFile{}, werr
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return stagedFile{}, badStream(err)
		}
	}
	// Blobs are linked into place from here: they must be durable by then.
	if err := w.f.Sync(); err != nil {
		return stagedFile{}, err
	}
	return stagedFile{path: to, digest: w.digest(), size: w.size}, os.Rename(w.f.Name(), to)
}

// get finds a file by name, through links.
func (a *staged) get(name string) (stagedFile, error) {
	asked := name
	for range 8 {
		f, ok := a.files[path.Clean(name)]
		if !ok {
			return f, bad("archive: %q is not in it", asked)
		}
		if f.link == "" {
			return f, nil
		}
		name = f.link
	}
	return stagedFile{}, bad("archive: %q: too many links", asked)
}

func (a *staged) read(name string, limit int64) ([]byte, error) {
	f, err := a.get(name)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readLimited(file, limit, "archive: "+name)
}

// stagedImage is one image of an archive.
type stagedImage struct {
	raw       []byte
	mediaType string
	names     []images.Reference
	blobs     map[string]stagedFile // by digest
}

func (f *stagedImage) String() string {
	if len(f.names) > 0 {
		return f.names[0].String()
	}
	return images.ShortID(digestBytes(f.raw))
}

func (f *stagedImage) manifest(context.Context) ([]byte, string, error) {
	return f.raw, f.mediaType, nil
}

func (f *stagedImage) adopt(d descriptor, to string) (bool, error) {
	b, ok := f.blobs[d.Digest]
	if !ok {
		return false, bad("archive: blob %s is not in it", d.Digest)
	}
	if b.digest != d.Digest {
		return false, bad("content has digest %s, the archive names it %s", b.digest, d.Digest)
	}
	if b.size != d.Size {
		return false, bad("got %d bytes, the manifest says %d", b.size, d.Size)
	}
	if err := os.Link(b.path, to); err != nil {
		return false, err
	}
	return true, syncDir(filepath.Dir(to))
}

func (f *stagedImage) fetch(context.Context, descriptor, *blobWriter, report) error {
	return bad("archive: blob is not in it") // adopt answers for every blob
}

// images says what the archive holds. Newer Docker writes both forms at once: then
// the layout counts, and what only the other says of names.
func (a *staged) images(lim Limits) ([]*stagedImage, error) {
	_, layout := a.files["index.json"]
	_, docker := a.files["manifest.json"]
	switch {
	case layout:
		return a.layoutImages(lim)
	case docker:
		return a.dockerImages(lim)
	}
	return nil, bad("not an archive of images: it has neither manifest.json (docker save) nor index.json (OCI image layout)")
}

// maxListed bounds the lists that name the images of an archive.
const maxListed = 1024

// dockerManifest is an element of manifest.json, Docker's image save format 1.2.
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (a *staged) dockerList() ([]dockerManifest, error) {
	raw, err := a.read("manifest.json", maxManifest)
	if err != nil {
		return nil, err
	}
	var list []dockerManifest
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, bad("archive: manifest.json: %w", err)
	}
	if len(list) == 0 || len(list) > maxListed {
		return nil, bad("archive: manifest.json: %d images: must be 1 to %d", len(list), maxListed)
	}
	return list, nil
}

func (a *staged) dockerImages(lim Limits) ([]*stagedImage, error) {
	list, err := a.dockerList()
	if err != nil {
		return nil, err
	}
	var out []*stagedImage
	for i, d := range list {
		img, err := a.dockerImage(d, lim)
		if err != nil {
			return nil, fmt.Errorf("archive: manifest.json[%d]: %w", i, err)
		}
		out = append(out, img)
	}
	return out, nil
}

// dockerImage writes the manifest that the form does without. Layers keep the
// bytes they have, mostly an uncompressed tar.
func (a *staged) dockerImage(d dockerManifest, lim Limits) (*stagedImage, error) {
	img := &stagedImage{mediaType: string(types.OCIManifestSchema1), blobs: map[string]stagedFile{}}
	for _, t := range d.RepoTags {
		ref, err := images.ParseReference(t)
		if err != nil {
			return nil, err
		}
		img.names = append(img.names, ref)
	}
	cfg, err := a.get(d.Config)
	if err != nil {
		return nil, err
	}
	m := manifest{SchemaVersion: 2, MediaType: img.mediaType,
		Config: descriptor{MediaType: string(types.OCIConfigJSON), Digest: cfg.digest, Size: cfg.size}, Layers: []descriptor{}}
	img.blobs[cfg.digest] = cfg
	if len(d.Layers) > lim.Layers {
		return nil, bad("%d layers: more than %d", len(d.Layers), lim.Layers)
	}
	for _, name := range d.Layers {
		f, err := a.get(name)
		if err != nil {
			return nil, err
		}
		mt, err := f.layerType()
		if err != nil {
			return nil, err
		}
		img.blobs[f.digest] = f
		m.Layers = append(m.Layers, descriptor{MediaType: mt, Digest: f.digest, Size: f.size})
	}
	img.raw, err = json.Marshal(struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Config        descriptor   `json:"config"`
		Layers        []descriptor `json:"layers"`
	}{m.SchemaVersion, m.MediaType, m.Config, m.Layers})
	return img, err
}

func (f stagedFile) layerType() (string, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	head := make([]byte, 4)
	n, _ := io.ReadFull(file, head)
	switch sniff(head[:n]) {
	case gzipped:
		return string(types.OCILayer), nil
	case zstded:
		return string(types.OCILayerZStd), nil
	}
	return string(types.OCIUncompressedLayer), nil
}

// Annotations that hold an image's name: OCI's (a tag or a name) and containerd's.
const (
	refNameAnnotation    = "org.opencontainers.image.ref.name"
	containerdAnnotation = "io.containerd.image.name"
)

func (a *staged) layoutImages(lim Limits) ([]*stagedImage, error) {
	raw, err := a.read("index.json", maxManifest)
	if err != nil {
		return nil, err
	}
	top, err := parseManifest(raw, string(types.OCIImageIndex), lim)
	if err != nil {
		return nil, fmt.Errorf("archive: index.json: %w", err)
	}
	if len(top.Manifests) > maxListed {
		return nil, bad("archive: index.json: %d manifests: more than %d", len(top.Manifests), maxListed)
	}
	blobs := map[string]stagedFile{}
	for name, f := range a.files {
		if h, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && f.link == "" {
			blobs["sha256:"+h] = f
		}
	}
	tags := a.dockerTags()
	byDigest := map[string]*stagedImage{}
	var out []*stagedImage
	for i, d := range top.Manifests {
		if d.Annotations["vnd.docker.reference.type"] != "" || !isManifest(d.MediaType) && !isIndex(d.MediaType) && d.MediaType != "" {
			continue
		}
		img, err := a.layoutImage(d, blobs, lim)
		if err != nil {
			return nil, fmt.Errorf("archive: index.json: manifests[%d]: %w", i, err)
		}
		if have, ok := byDigest[digestBytes(img.raw)]; ok {
			img = have // the same image under one more name
		} else {
			byDigest[digestBytes(img.raw)] = img
			out = append(out, img)
		}
		names, err := namesIn(d.Annotations)
		if err != nil {
			return nil, fmt.Errorf("archive: index.json: manifests[%d]: %w", i, err)
		}
		if len(names) == 0 {
			if m, err := parseManifest(img.raw, img.mediaType, lim); err == nil {
				names = tags[m.Config.Digest]
			}
		}
		img.names = append(img.names, names...)
	}
	if len(out) == 0 {
		return nil, bad("archive: index.json names no image")
	}
	return out, nil
}

// layoutImage follows a descriptor to the manifest for this host.
func (a *staged) layoutImage(d descriptor, blobs map[string]stagedFile, lim Limits) (*stagedImage, error) {
	for range maxNesting {
		b, ok := blobs[d.Digest]
		if !ok {
			return nil, bad("blob %s is not in the archive", d.Digest)
		}
		if b.digest != d.Digest {
			return nil, bad("content has digest %s, the archive names it %s", b.digest, d.Digest)
		}
		raw, err := a.read("blobs/sha256/"+hexOf(d.Digest), maxManifest)
		if err != nil {
			return nil, err
		}
		m, err := parseManifest(raw, d.MediaType, lim)
		if err != nil {
			return nil, err
		}
		if !isIndex(m.MediaType) {
			return &stagedImage{raw: raw, mediaType: m.MediaType, blobs: blobs}, nil
		}
		if d, err = choose(m, hostPlatform()); err != nil {
			return nil, err
		}
	}
	return nil, bad("more than %d indexes in each other", maxNesting)
}

// namesIn reads the annotations of an index entry. A bare tag is no name.
func namesIn(an map[string]string) ([]images.Reference, error) {
	for _, k := range []string{containerdAnnotation, refNameAnnotation} {
		v := an[k]
		if v == "" || k == refNameAnnotation && !strings.ContainsAny(v, "/:") {
			continue
		}
		ref, err := images.ParseReference(v)
		if err != nil {
			return nil, bad("annotation %s: %w", k, err)
		}
		if ref.Digest != "" {
			continue
		}
		return []images.Reference{ref}, nil
	}
	return nil, nil
}

// dockerTags are the names that a manifest.json beside a layout gives, by config.
func (a *staged) dockerTags() map[string][]images.Reference {
	if _, ok := a.files["manifest.json"]; !ok {
		return nil
	}
	list, err := a.dockerList()
	if err != nil {
		return nil // the layout is what counts
	}
	out := map[string][]images.Reference{}
	for _, d := range list {
		f, err := a.get(d.Config)
		if err != nil {
			continue
		}
		for _, t := range d.RepoTags {
			if ref, err := images.ParseReference(t); err == nil {
				out[f.digest] = append(out[f.digest], ref)
			}
		}
	}
	return out
}
