// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gatehouse.dev/gatehouse/images"
	"gatehouse.dev/gatehouse/internal/store"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("unpacking image layers (owners, whiteouts, trusted attributes) needs root")
	}
}

func testStore(t testing.TB, o Options) *Store {
	t.Helper()
	needRoot(t)
	s, db := openStore(t, t.TempDir(), o)
	t.Cleanup(func() {
		checkWhole(t, s)
		db.Close()
	})
	return s
}

func openStore(t testing.TB, lib string, o Options) (*Store, *store.DB) {
	t.Helper()
	db, err := store.Open(filepath.Join(lib, "gatehouse.db"))
	if err != nil {
		t.Fatal(err)
	}
	o.Lib, o.DB, o.Log = lib, db, slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Recover(context.Background()); err != nil {
		t.Fatal(err)
	}
	return s, db
}

// checkWhole demands that rows and files say the same and that nothing else lies
// about: the consistency check at the end of every test of the store.
func checkWhole(t testing.TB, s *Store) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.leases) > 0 {
		t.Errorf("leases left: %v", s.leases)
	}
	marked := s.marked()
	for id, r := range s.images {
		if m := s.missing(r); m != "" {
			t.Errorf("image %s: missing %s", id, m)
		}
	}
	for _, dir := range []string{s.blobs(), s.dirs.layers()} {
		for _, n := range names(t, dir) {
			if !marked["sha256:"+n] {
				t.Errorf("%s/%s is nobody's", filepath.Base(dir), n)
			}
		}
	}
	for d := range s.layers {
		if !marked[d] {
			t.Errorf("layer row %s is nobody's", d)
		}
	}
	if left := names(t, s.ingest()); len(left) > 0 {
		t.Errorf("ingest holds %v", left)
	}
	rows := 0
	if err := s.db.View(func(tx *store.Tx) error {
		return errors.Join(
			imageRows.Each(tx, func(k string, v imageRow) error { rows++; return nil }),
			layerRows.Each(tx, func(k string, v layerRow) error {
				if _, ok := s.layers[k]; !ok {
					t.Errorf("layer row %s is not in memory", k)
				}
				return nil
			}))
	}); err != nil {
		t.Error(err)
	}
	if rows != len(s.images) {
		t.Errorf("%d image rows, %d in memory", rows, len(s.images))
	}
}

func names(t testing.TB, dir string) (out []string) {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range es {
		out = append(out, e.Name())
	}
	return out
}

// entry is one tar entry of a test.
type entry struct {
	tar.Header
	body string
}

func file(name, body string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, body}
}
func dir(name string) entry {
	return entry{tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o755}, ""}
}
func symlink(name, to string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}, ""}
}
func hardlink(name, to string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}, ""}
}

var testTime = time.Date(2021, 2, 3, 4, 5, 6, 789, time.UTC)

func tarOf(t testing.TB, es ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range es {
		h := e.Header
		h.Size = int64(len(e.body))
		if h.ModTime.IsZero() {
			h.ModTime = testTime
		}
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gz(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zst(t testing.TB, b []byte) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return e.EncodeAll(b, nil)
}

// testLayer is a layer of a test: its tar, and the blob it comes as.
type testLayer struct {
	tar, blob []byte
	mediaType string
	diffID    string // "" = that of tar
}

func plainLayer(b []byte) testLayer {
	return testLayer{tar: b, blob: b, mediaType: ispec.MediaTypeImageLayer}
}
func gzLayer(t testing.TB, b []byte) testLayer {
	return testLayer{tar: b, blob: gz(t, b), mediaType: ispec.MediaTypeImageLayerGzip}
}
func zstLayer(t testing.TB, b []byte) testLayer {
	return testLayer{tar: b, blob: zst(t, b), mediaType: ispec.MediaTypeImageLayerZstd}
}

// testImage is an image of a test.
type testImage struct {
	config, manifest []byte
	layers           []testLayer
}

func makeImage(t testing.TB, layers ...testLayer) testImage {
	t.Helper()
	cfg := map[string]any{"architecture": hostPlatform().Architecture, "os": "linux", "created": testTime,
		"config": map[string]any{"Entrypoint": []string{"/hello"}, "Env": []string{"A=b"}}}
	diffIDs := []string{}
	ds := []descriptor{}
	for _, l := range layers {
		d := l.diffID
		if d == "" {
			d = digestBytes(l.tar)
		}
		diffIDs = append(diffIDs, d)
		ds = append(ds, descriptor{MediaType: l.mediaType, Digest: digestBytes(l.blob), Size: int64(len(l.blob))})
	}
	cfg["rootfs"] = map[string]any{"type": "layers", "diff_ids": diffIDs}
	img := testImage{layers: layers, config: mustJSON(t, cfg)}
	img.manifest = mustJSON(t, map[string]any{"schemaVersion": 2, "mediaType": ispec.MediaTypeImageManifest,
		"config": descriptor{MediaType: ispec.MediaTypeImageConfig, Digest: digestBytes(img.config), Size: int64(len(img.config))},
		"layers": ds})
	return img
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// layout is the image as a tar of an OCI image layout.
func (i testImage) layout(t testing.TB, name string) []byte {
	blob := func(b []byte) entry { return file("blobs/sha256/"+hexOf(digestBytes(b)), string(b)) }
	es := []entry{file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), blob(i.config), blob(i.manifest)}
	seen := map[string]bool{}
	for _, l := range i.layers {
		if d := digestBytes(l.blob); !seen[d] {
			seen[d] = true
			es = append(es, blob(l.blob))
		}
	}
	es = append(es, file("index.json", string(mustJSON(t, map[string]any{"schemaVersion": 2, "manifests": []any{map[string]any{
		"mediaType": ispec.MediaTypeImageManifest, "digest": digestBytes(i.manifest), "size": len(i.manifest),
		"annotations": map[string]string{containerdAnnotation: name}}}}))))
	return tarOf(t, es...)
}

// docker is the image as `docker save` of old writes it.
func (i testImage) docker(t testing.TB, tags ...string) []byte {
	m := dockerManifest{Config: hexOf(digestBytes(i.config)) + ".json", RepoTags: tags}
	var es []entry
	for n, l := range i.layers {
		name := string(rune('a'+n)) + "/layer.tar"
		es = append(es, file(name, string(l.tar)))
		m.Layers = append(m.Layers, name)
	}
	es = append(es, file(m.Config, string(i.config)), file("manifest.json", string(mustJSON(t, []dockerManifest{m}))))
	return tarOf(t, es...)
}

func mustLoad(t testing.TB, s *Store, archive []byte) images.Image {
	t.Helper()
	imgs, err := s.Load(context.Background(), bytes.NewReader(archive), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(imgs) != 1 {
		t.Fatalf("%d images", len(imgs))
	}
	return imgs[0]
}

func wantError(t testing.TB, err error, code uint32, text string) {
	t.Helper()
	var e *images.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an error with %q", err, text)
	}
	if e.Code != code || !strings.Contains(e.Text, text) {
		t.Fatalf("got %q (%#x), want %q (%#x)", e.Text, e.Code, text, code)
	}
}
