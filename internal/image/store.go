// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gatehouse.dev/gatehouse/images"
	"gatehouse.dev/gatehouse/internal/failpoint"
	"gatehouse.dev/gatehouse/internal/store"
)

// Options of Open. Lib and DB are needed.
type Options struct {
	// Lib is the directory described in the package comment.
	Lib string
	DB  *store.DB
	Log *slog.Logger // nil = slog.Default
	Limits
	// Builtin are images that are made on first use, by complete name.
	Builtin map[string]func(arch string) (v1.Image, error)
	// Downloads at once over all pulls; 0 = 6. Unpacks at once; 0 = number of CPUs.
	Downloads, Unpacks int
	// RetryFor bounds how long a download that makes no progress is tried again; 0
	// = 45 s.
	RetryFor time.Duration
}

// Store keeps images. Safe for concurrent use. One process owns a directory: the
// lock of the database is what refuses the second.
type Store struct {
	dirs
	o         Options
	lim       Limits
	db        *store.DB
	log       *slog.Logger
	downloads flights[struct{}]
	unpacks   flights[layerRow]
	dlSlots   chan struct{}
	upSlots   chan struct{}

	// mu is the transaction lock: it guards the three maps below, which mirror the
	// rows, and leases, and is held over a commit.
	mu     sync.Mutex
	images map[string]imageRow // by ID
	layers map[string]layerRow // by diffID
	uses   map[string]useRow   // by RuntimeId
	leases map[string]int      // digests and diffIDs that running verbs rely on
}

// Rows.
type (
	imageRow struct {
		ID        string
		Names     []string `json:",omitempty"`
		Digests   []string `json:",omitempty"`
		Digest    string
		MediaType string
		Layers    []blobRow
		Config    ispec.ImageConfig
		Created   time.Time
		OS        string
		Arch      string
		Variant   string `json:",omitempty"`
	}
	// blobRow is one image layer as the manifest has it.
	blobRow struct {
		DiffID, Digest, MediaType string
		Size                      int64
	}
	// layerRow is one unpacked image layer. Format says what the files are; the
	// hcs document's other form is an EROFS file.
	layerRow struct {
		DiffID     string
		Format     string
		Bytes      int64 // of the files
		TarBytes   int64 // of the uncompressed archive
		Entries    int
		OpaqueRoot bool `json:",omitempty"`
	}
	// useRow pins what a compute system runs on.
	useRow struct {
		Image  string
		Layers []string // diffIDs
	}
)

// files are the digests and diffIDs an image is made of.
func (r imageRow) files() []string {
	out := []string{r.ID, r.Digest}
	for _, l := range r.Layers {
		out = append(out, l.Digest, l.DiffID)
	}
	return out
}

const formatOverlay = "overlay"

var (
	imageRows = store.Bucket[imageRow]{Name: "images"}
	layerRows = store.Bucket[layerRow]{Name: "layers"}
	useRows   = store.Bucket[useRow]{Name: "image-uses"}
)

// Open reads the rows and makes the directories. Call Recover before the first
// verb.
func Open(o Options) (*Store, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Downloads == 0 {
		o.Downloads = 6
	}
	if o.Unpacks == 0 {
		o.Unpacks = runtime.NumCPU()
	}
	if o.RetryFor == 0 {
		o.RetryFor = 45 * time.Second
	}
	s := &Store{
		dirs: dirs{o.Lib}, o: o, lim: o.Limits.withDefaults(), db: o.DB, log: o.Log,
		dlSlots: make(chan struct{}, o.Downloads), upSlots: make(chan struct{}, o.Unpacks),
		images: map[string]imageRow{}, layers: map[string]layerRow{}, uses: map[string]useRow{}, leases: map[string]int{},
	}
	if err := s.dirs.make(); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	err := s.db.View(func(tx *store.Tx) error {
		return errors.Join(
			imageRows.Each(tx, func(k string, v imageRow) error { s.images[k] = v; return nil }),
			layerRows.Each(tx, func(k string, v layerRow) error { s.layers[k] = v; return nil }),
			useRows.Each(tx, func(k string, v useRow) error { s.uses[k] = v; return nil }))
	})
	if err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	return s, nil
}

// List answers all images, newest first, without Config.
func (s *Store) List(context.Context) ([]images.Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]images.Image, 0, len(s.images))
	for _, r := range s.images {
		d := s.document(r)
		d.Config = nil
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b images.Image) int {
		if c := b.Created.Compare(a.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out, nil
}

// Inspect answers one image by name, digest or ID.
func (s *Store) Inspect(_ context.Context, ref string) (images.Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, _, err := s.resolve(ref)
	if err != nil {
		return images.Image{}, err
	}
	return s.document(r), nil
}

// document makes the public form. mu is held.
func (s *Store) document(r imageRow) images.Image {
	d := images.Image{
		ID: r.ID, Names: slices.Clone(r.Names), Digests: slices.Clone(r.Digests), Digest: r.Digest, MediaType: r.MediaType,
		Created: r.Created, OS: r.OS, Architecture: r.Arch, Variant: r.Variant, Config: &r.Config,
	}
	for _, l := range r.Layers {
		d.Layers = append(d.Layers, images.Layer{DiffID: l.DiffID, Digest: l.Digest, MediaType: l.MediaType,
			Size: l.Size, UnpackedSize: s.layers[l.DiffID].Bytes})
		d.Size += s.layers[l.DiffID].Bytes
	}
	d.UsedBy = s.usersOf(r.ID)
	return d
}

func (s *Store) usersOf(id string) (users []string) {
	for _, k := range slices.Sorted(maps.Keys(s.uses)) {
		if s.uses[k].Image == id {
			users = append(users, k)
		}
	}
	return users
}

// resolve finds the image of a name, digest or ID; name is the complete name if it
// was found by one of its Names. mu is held.
func (s *Store) resolve(ref string) (r imageRow, name string, err error) {
	parsed, perr := images.ParseReference(ref)
	if perr == nil {
		want := parsed.String()
		for _, r := range s.images {
			if parsed.Digest == "" && slices.Contains(r.Names, want) {
				return r, want, nil
			}
			if parsed.Digest != "" && slices.Contains(r.Digests, parsed.Repository()+"@"+parsed.Digest) {
				return r, "", nil
			}
		}
	}
	if images.IsIDPrefix(ref) {
		var found []imageRow
		for id, r := range s.images {
			if strings.HasPrefix(hexOf(id), hexOf(ref)) {
				found = append(found, r)
			}
		}
		switch {
		case len(found) == 1:
			return found[0], "", nil
		case len(found) > 1:
			return r, "", images.Errorf(images.CodeInvalid, "image %q: %d images have an ID that begins so; give more digits", ref, len(found))
		}
	}
	if perr != nil && !images.IsIDPrefix(ref) {
		return r, "", perr
	}
	return r, "", images.Errorf(images.CodeNotFound, "image %q is not here; pull or load it first", ref)
}

// Tag makes target one more name of source.
func (s *Store) Tag(_ context.Context, source, target string) (images.Image, error) {
	op := fmt.Sprintf("tag %s", source)
	t, err := images.ParseReference(target)
	if err != nil {
		return images.Image{}, classify(op, err)
	}
	if t.Digest != "" {
		return images.Image{}, images.Errorf(images.CodeInvalid, "%s: the new name %q must not hold a digest", op, target)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, _, err := s.resolve(source)
	if err != nil {
		return images.Image{}, classify(op, err)
	}
	r.Names = addTo(r.Names, t.String())
	if err := s.commit(nil, []imageRow{r}, nil); err != nil {
		return images.Image{}, classify(op, err)
	}
	return s.document(r), nil
}

// addTo is list and v, sorted, each once; list itself stays as it is.
func addTo(list []string, v ...string) []string {
	out := append(slices.Clone(list), v...)
	slices.Sort(out)
	return slices.Compact(out)
}

// commit writes images and layers in one transaction. A name that one of them
// carries is taken from whoever had it. The release of l, which may be nil, sweeps
// what the rows no longer name. mu is held.
func (s *Store) commit(l *lease, imgs []imageRow, layers []layerRow) error {
	changed := map[string]imageRow{}
	get := func(id string) (imageRow, bool) {
		if r, ok := changed[id]; ok {
			return r, true
		}
		r, ok := s.images[id]
		return r, ok
	}
	for _, r := range imgs {
		if old, ok := get(r.ID); ok { // another manifest of the same content, or again
			r.Names, r.Digests = addTo(r.Names, old.Names...), addTo(r.Digests, old.Digests...)
		}
		for id := range s.images {
			other, _ := get(id)
			if id == r.ID || !slices.ContainsFunc(other.Names, func(n string) bool { return slices.Contains(r.Names, n) }) {
				continue
			}
			other.Names = slices.DeleteFunc(slices.Clone(other.Names), func(n string) bool { return slices.Contains(r.Names, n) })
			changed[id] = other
		}
		changed[r.ID] = r
	}
	_, err := s.db.Update(func(tx *store.Tx) error {
		for id, r := range changed {
			if err := imageRows.Put(tx, id, r); err != nil {
				return err
			}
		}
		for _, l := range layers {
			if err := layerRows.Put(tx, l.DiffID, l); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	_ = failpoint.Hit("image.committed") // too late for an error
	for id := range changed {
		if old, ok := s.images[id]; ok && l != nil {
			l.replaced = append(l.replaced, old.files()...)
		}
	}
	maps.Copy(s.images, changed)
	for _, l := range layers {
		s.layers[l.DiffID] = l
	}
	s.writeIndex()
	return nil
}
