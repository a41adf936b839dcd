// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/images"
	"gatehouse.dev/gatehouse/internal/hello"
)

func threeLayers(t testing.TB) testImage {
	return makeImage(t, gzLayer(t, tarOf(t, dir("etc"), file("etc/a", "base"), file("gone", "x"))),
		zstLayer(t, tarOf(t, file(".wh.gone", ""), file("etc/b", strings.Repeat("b", 100000)))),
		plainLayer(tarOf(t, file("hello", "top"))))
}

func TestLoadLayoutAndDocker(t *testing.T) {
	s := testStore(t, Options{})
	img := threeLayers(t)
	got := mustLoad(t, s, img.layout(t, "docker.io/library/x:1"))
	if got.ID != digestBytes(img.config) || got.Digest != digestBytes(img.manifest) || len(got.Layers) != 3 ||
		!slices.Equal(got.Names, []string{"docker.io/library/x:1"}) || got.Config.Entrypoint[0] != "/hello" {
		t.Errorf("layout: %+v", got)
	}
	// The same content as docker save writes it: one image, one more name, and the
	// image layers are shared.
	before := names(t, s.dirs.layers())
	got = mustLoad(t, s, gz(t, img.docker(t, "x:2", "localhost:5000/y")))
	if got.ID != digestBytes(img.config) ||
		!slices.Equal(got.Names, []string{"docker.io/library/x:1", "docker.io/library/x:2", "localhost:5000/y:latest"}) {
		t.Errorf("docker: %+v", got)
	}
	if after := names(t, s.dirs.layers()); !slices.Equal(before, after) {
		t.Errorf("layers: %v, then %v", before, after)
	}
	u, err := s.Use(context.Background(), "r1", "x:2")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(u.Layers[0], "hello")); err != nil || string(b) != "top" {
		t.Errorf("topmost layer: %q %v", b, err)
	}
	if b, err := os.ReadFile(filepath.Join(u.Layers[2], "etc/a")); err != nil || string(b) != "base" {
		t.Errorf("base layer: %q %v", b, err)
	}
	// What lies in the blob directory is an OCI layout to others.
	p, err := layout.FromPath(s.layout())
	if err != nil {
		t.Fatal(err)
	}
	idx, err := p.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	if m, err := idx.IndexManifest(); err != nil || len(m.Manifests) != 3 {
		t.Errorf("index.json: %+v %v", m, err)
	}
}

func TestUseRemoveRelease(t *testing.T) {
	ctx := context.Background()
	s := testStore(t, Options{})
	mustLoad(t, s, threeLayers(t).layout(t, "docker.io/library/x:1"))
	if _, err := s.Tag(ctx, "x:1", "x:2"); err != nil {
		t.Fatal(err)
	}
	u, err := s.Use(ctx, "r1", "x:1")
	if err != nil {
		t.Fatal(err)
	}
	short := images.ShortID(u.ID)
	if _, err := s.Remove(ctx, short, false); err == nil || !strings.Contains(err.Error(), "2 names") {
		t.Errorf("by ID with two names: %v", err)
	}
	if r, err := s.Remove(ctx, "x:2", false); err != nil || len(r.Deleted) != 0 || len(r.Untagged) != 1 {
		t.Errorf("untag: %+v %v", r, err)
	}
	_, err = s.Remove(ctx, "x:1", false)
	wantError(t, err, images.CodeInUse, "in use by 1 compute systems (r1")
	if r, err := s.Remove(ctx, short, true); err != nil || len(r.Deleted) != 1 {
		t.Errorf("forced: %+v %v", r, err)
	}
	for _, l := range u.Layers {
		if _, err := os.Stat(l); err != nil {
			t.Errorf("a layer in use is gone: %v", err)
		}
	}
	_, err = s.Use(ctx, "r2", "x:1")
	wantError(t, err, images.CodeNotFound, "pull or load it first")
	if err := s.Release(ctx, "r1"); err != nil {
		t.Fatal(err)
	}
	if n := names(t, s.dirs.layers()); len(n) != 0 {
		t.Errorf("layers left: %v", n)
	}
	if err := s.Release(ctx, "r1"); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestReleaseExcept(t *testing.T) {
	ctx := context.Background()
	s := testStore(t, Options{})
	mustLoad(t, s, threeLayers(t).layout(t, "x"))
	for _, id := range []string{"a", "b", "c"} {
		if _, err := s.Use(ctx, id, "x"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.ReleaseExcept(ctx, func(id string) bool { return id == "b" }); err != nil {
		t.Fatal(err)
	}
	if img, _ := s.Inspect(ctx, "x"); !slices.Equal(img.UsedBy, []string{"b"}) {
		t.Errorf("used by %v", img.UsedBy)
	}
}

func TestNameMoves(t *testing.T) {
	ctx := context.Background()
	s := testStore(t, Options{})
	one := mustLoad(t, s, makeImage(t, plainLayer(tarOf(t, file("f", "1")))).layout(t, "x"))
	two := mustLoad(t, s, makeImage(t, plainLayer(tarOf(t, file("f", "2")))).layout(t, "x"))
	if got, err := s.Inspect(ctx, "x"); err != nil || got.ID != two.ID {
		t.Errorf("x is %s, %v", got.ID, err)
	}
	if got, err := s.Inspect(ctx, one.ID); err != nil || len(got.Names) != 0 {
		t.Errorf("the old one: %v %v", got.Names, err)
	}
	if list, _ := s.List(ctx); len(list) != 2 {
		t.Errorf("%d images", len(list))
	}
	if r, err := s.Remove(ctx, one.ID, false); err != nil || len(r.Deleted) != 1 {
		t.Errorf("remove without a name: %+v %v", r, err)
	}
}

func TestSaveLoadRoundTrip(t *testing.T) {
	ctx := context.Background()
	img := threeLayers(t)
	for _, format := range []string{images.FormatOCI, images.FormatDocker} {
		t.Run(format, func(t *testing.T) {
			s := testStore(t, Options{})
			first := mustLoad(t, s, img.layout(t, "docker.io/library/x:1"))
			if _, err := s.Tag(ctx, "x:1", "y/z:2"); err != nil {
				t.Fatal(err)
			}
			save := func() []byte {
				v, err := s.Save(ctx, []string{"x:1", "y/z:2"}, format)
				if err != nil {
					t.Fatal(err)
				}
				defer v.Close()
				var b bytes.Buffer
				if err := v.Write(ctx, &b); err != nil {
					t.Fatal(err)
				}
				return b.Bytes()
			}
			archive := save()
			if !bytes.Equal(archive, save()) {
				t.Error("the same image made two archives")
			}
			other := testStore(t, Options{})
			got := mustLoad(t, other, zst(t, archive))
			if got.ID != first.ID || !slices.Equal(got.Names, []string{"docker.io/library/x:1", "docker.io/y/z:2"}) {
				t.Errorf("got %+v", got)
			}
			if format == images.FormatOCI && got.Digest != first.Digest {
				t.Errorf("digest %s, want %s", got.Digest, first.Digest)
			}
			if format == images.FormatDocker { // and what others read of it
				path := filepath.Join(t.TempDir(), "x.tar")
				if err := os.WriteFile(path, archive, 0o600); err != nil {
					t.Fatal(err)
				}
				v, err := tarball.ImageFromPath(path, nil)
				if err != nil {
					t.Fatal(err)
				}
				if n, err := v.ConfigName(); err != nil || n.String() != first.ID {
					t.Errorf("config %s %v", n, err)
				}
			}
		})
	}
}

func TestLoadRefusesAndLeavesNothing(t *testing.T) {
	good := gzLayer(t, tarOf(t, file("a", "good")))
	evil := func(es ...entry) []byte { return makeImage(t, good, gzLayer(t, tarOf(t, es...))).layout(t, "x") }
	wrongID := good
	wrongID.diffID = digestBytes([]byte("something else"))
	cut := good
	cut.blob = good.blob[:len(good.blob)-12]
	bomb := gzLayer(t, tarOf(t, file("zeros", strings.Repeat("\x00", 40<<20))))
	trailing := plainLayer(append(tarOf(t, file("a", "1")), make([]byte, 40<<20)...))
	trailing.blob = gz(t, trailing.tar)
	rename := func(b []byte, from, to string) []byte {
		if !bytes.Contains(b, []byte(from)) || len(from) != len(to) {
			t.Fatalf("%q is not in the archive", from)
		}
		return bytes.Replace(b, []byte(from), []byte(to), 1)
	}
	whole := threeLayers(t)
	noConfig := whole
	noConfig.config = []byte(`{}`)
	cases := []struct {
		name    string
		archive []byte
		want    string
	}{
		{"nothing", nil, "not an archive of images"},
		{"junk", []byte(strings.Repeat("junk ", 1000)), "not an archive of images"},
		{"other tar", tarOf(t, file("readme", "hi")), "neither manifest.json"},
		{"path escape", evil(file("../../etc/cron.d/x", "")), ".."},
		{"symlink and write through", evil(symlink("l", "/etc"), file("l/cron.d/x", "")), "leads nowhere"},
		{"hard link escape", evil(hardlink("h", "/etc/shadow")), "not in this layer"},
		{"device", evil(entry{tar.Header{Name: "sda", Typeflag: tar.TypeBlock, Devmajor: 8}, ""}), "device node"},
		{"bomb", makeImage(t, bomb).layout(t, "x"), "allows"},
		{"bomb behind the end", makeImage(t, trailing).layout(t, "x"), "allows"},
		{"wrong diffID", makeImage(t, wrongID).layout(t, "x"), "configuration says"},
		{"truncated layer", makeImage(t, cut).layout(t, "x"), "truncated"},
		{"truncated archive", whole.layout(t, "x")[:2900], "truncated"},
		{"wrong digest", rename(whole.layout(t, "x"), "blobs/sha256/"+hexOf(digestBytes(whole.layers[0].blob)),
			"blobs/sha256/"+hexOf(digestBytes([]byte("other")))), "damaged"}, // the header's sum
		{"missing blob", makeImageWithout(t, whole), "is not in"},
		{"config of other layers", func() []byte {
			i := whole
			i.config = mustJSON(t, map[string]any{"os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": []string{digestBytes(nil)}}})
			return i.docker(t, "x")
		}(), "1 rootfs.diff_ids for 3 layers"},
		{"config not JSON", func() []byte { i := whole; i.config = []byte("{"); return i.docker(t, "x") }(), "image configuration"},
		{"bad tag", whole.docker(t, "NOT A NAME"), "image name"},
		{"twice", tarOf(t, file("index.json", "{}"), file("index.json", "{}")), "twice"},
		{"archive goes up", tarOf(t, file("../index.json", "{}")), ".."},
		{"link loop", tarOf(t, symlink("a", "b"), symlink("b", "a"), file("manifest.json", `[{"Config":"a"}]`)), "too many links"},
		{"device in archive", tarOf(t, entry{tar.Header{Name: "x", Typeflag: tar.TypeChar}, ""}), "has no place"},
		{"no manifests", tarOf(t, file("index.json", `{"schemaVersion":2,"manifests":[]}`)), "names no image"},
		{"old schema", tarOf(t, file("index.json", `{"schemaVersion":1}`)), "schemaVersion 1"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := testStore(t, Options{Limits: Limits{RatioFloor: 1 << 20, Ratio: 20}})
			_, err := s.Load(context.Background(), bytes.NewReader(c.archive), nil)
			if err == nil {
				t.Fatal("was accepted")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q, want %q in it", err, c.want)
			}
			var e *images.Error
			if !errors.As(err, &e) || e.Code != images.CodeInvalidData && e.Code != images.CodeInvalid {
				t.Errorf("class of %v", err)
			}
			for _, d := range []string{s.blobs(), s.dirs.layers(), s.ingest()} {
				if n := names(t, d); len(n) != 0 {
					t.Errorf("%s holds %v", filepath.Base(d), n)
				}
			}
		})
	}
}

func makeImageWithout(t testing.TB, i testImage) []byte {
	j := i
	j.layers = i.layers[:2]
	return j.layout(t, "x")
}

// A layer that claims the diffID of one that is here must hold the same.
func TestClaimedLayerIsVerified(t *testing.T) {
	s := testStore(t, Options{})
	mustLoad(t, s, makeImage(t, gzLayer(t, tarOf(t, file("secret", "1")))).layout(t, "mine"))
	liar := gzLayer(t, tarOf(t, file("other", "2")))
	liar.diffID = digestBytes(tarOf(t, file("secret", "1")))
	_, err := s.Load(context.Background(), bytes.NewReader(makeImage(t, liar).layout(t, "x")), nil)
	wantError(t, err, images.CodeInvalidData, "configuration says")
}

func TestHelloImage(t *testing.T) {
	ctx := context.Background()
	made := 0
	s := testStore(t, Options{Builtin: map[string]func(string) (v1.Image, error){hello.Name: func(arch string) (v1.Image, error) {
		made++
		return hello.FromProgram([]byte("program"), arch)
	}}})
	if err := s.EnsureHello(ctx); err != nil {
		t.Fatal(err)
	}
	u, err := s.Use(ctx, "r1", "gatehouse/hello")
	if err != nil {
		t.Fatal(err)
	}
	if u.Name != hello.Name || u.Config.Entrypoint[0] != "/hello" || len(u.Layers) != 1 || made != 1 {
		t.Errorf("got %+v, made %d times", u, made)
	}
	st, err := os.Stat(filepath.Join(u.Layers[0], "hello"))
	if err != nil || st.Mode() != 0o755 {
		t.Errorf("hello: %v %v", st, err)
	}
	if st, err := os.Stat(filepath.Join(u.Layers[0], "tmp")); err != nil || st.Mode()&os.ModeSticky == 0 {
		t.Errorf("tmp: %v %v", st, err)
	}
	_, err = s.Inspect(ctx, "nosuch")
	wantError(t, err, images.CodeNotFound, `"nosuch" is not here`)
}

func TestRecoverRemovesWhatNobodyNames(t *testing.T) {
	ctx := context.Background()
	s := testStore(t, Options{})
	kept := mustLoad(t, s, threeLayers(t).layout(t, "x"))
	lost := mustLoad(t, s, makeImage(t, plainLayer(tarOf(t, file("f", "1")))).layout(t, "lost"))
	orphan := hexOf(digestBytes([]byte("orphan")))
	for _, p := range []string{filepath.Join(s.blobs(), orphan), filepath.Join(s.ingest(), "blob-1"), filepath.Join(s.blobs(), "strange")} {
		if err := os.WriteFile(p, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{filepath.Join(s.dirs.layers(), orphan, "fs", "d"), filepath.Join(s.ingest(), "layer-1", "fs")} {
		if err := os.MkdirAll(p, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(s.layer(lost.Layers[0].DiffID)); err != nil {
		t.Fatal(err)
	}
	if err := s.Recover(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Inspect(ctx, "lost"); err == nil {
		t.Error("an image without its files is still listed")
	}
	if got, err := s.Inspect(ctx, "x"); err != nil || got.ID != kept.ID {
		t.Errorf("the whole one: %v", err)
	}
} // checkWhole looks for the rest

func TestReopen(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	lib := t.TempDir()
	s, db := openStore(t, lib, Options{})
	want := mustLoad(t, s, threeLayers(t).layout(t, "x"))
	if _, err := s.Use(ctx, "r1", "x"); err != nil {
		t.Fatal(err)
	}
	want.UsedBy = []string{"r1"}
	db.Close()
	s, db = openStore(t, lib, Options{})
	defer db.Close()
	got, err := s.Inspect(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("after reopening (-want +got):\n%s", d)
	}
	checkWhole(t, s)
}

func TestClientAndHandler(t *testing.T) {
	ctx := context.Background()
	s := testStore(t, Options{})
	srv := httptest.NewServer(NewHandler(s))
	defer srv.Close()
	c := &images.Client{Transport: rewrite{srv}}
	var seen []string
	imgs, err := c.Load(ctx, bytes.NewReader(threeLayers(t).layout(t, "docker.io/a/b:1")), func(p images.Progress) { seen = append(seen, p.Status) })
	if err != nil || len(imgs) != 1 {
		t.Fatalf("load: %v %v", imgs, err)
	}
	if len(seen) == 0 || seen[len(seen)-1] != images.StatusDone {
		t.Errorf("progress %v", seen)
	}
	if got, err := c.Inspect(ctx, "a/b:1"); err != nil || got.ID != imgs[0].ID || got.Config == nil {
		t.Errorf("inspect: %+v %v", got, err)
	}
	if _, err := c.Tag(ctx, "a/b:1", "localhost:5000/c/d:2"); err != nil {
		t.Error(err)
	}
	if list, err := c.List(ctx); err != nil || len(list) != 1 || len(list[0].Names) != 2 {
		t.Errorf("list: %+v %v", list, err)
	}
	var b bytes.Buffer
	if err := c.Save(ctx, []string{"a/b:1"}, &b, images.FormatOCI); err != nil {
		t.Fatal(err)
	}
	_, err = c.Inspect(ctx, "no/such:thing")
	wantError(t, err, images.CodeNotFound, "is not here")
	err = c.Save(ctx, []string{"no/such"}, io.Discard, "")
	wantError(t, err, images.CodeNotFound, "is not here")
	_, err = c.Load(ctx, strings.NewReader(strings.Repeat("junk", 4<<20)), nil) // more than any buffer between us
	wantError(t, err, images.CodeInvalidData, "not an archive")
	if r, err := c.Remove(ctx, "localhost:5000/c/d:2", false); err != nil || len(r.Untagged) != 1 {
		t.Errorf("remove: %+v %v", r, err)
	}
	if _, err := c.Remove(ctx, imgs[0].ID, true); err != nil {
		t.Error(err)
	}
	// A directory goes as a tar.
	dir := t.TempDir()
	untar(t, dir, b.Bytes())
	if imgs, err := c.LoadPath(ctx, dir, nil); err != nil || len(imgs) != 1 || imgs[0].Names[0] != "docker.io/a/b:1" {
		t.Errorf("directory: %+v %v", imgs, err)
	}
	resp, err := srv.Client().Post(srv.URL+"/images/v1/pull", "", strings.NewReader(`{"Registry":{"Password":"geheim"},`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 400 || strings.Contains(string(body), "geheim") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

type rewrite struct{ srv *httptest.Server }

func (r rewrite) RoundTrip(q *http.Request) (*http.Response, error) {
	q.URL.Host = r.srv.Listener.Addr().String()
	return r.srv.Client().Transport.RoundTrip(q)
}

func untar(t testing.TB, dir string, b []byte) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		p := filepath.Join(dir, h.Name)
		body, err := io.ReadAll(r)
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(p), 0o700), os.WriteFile(p, body, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// FuzzArchive: no archive makes Load panic or leaves anything behind when refused.
func FuzzArchive(f *testing.F) {
	f.Add(threeLayers(f).layout(f, "x"))
	f.Add(threeLayers(f).docker(f, "x"))
	f.Add(tarOf(f, symlink("a", "b"), file("manifest.json", `[{"Config":"a","Layers":["a"]}]`)))
	s := testStore(f, Options{Limits: Limits{ArchiveBytes: 1 << 20, Bytes: 1 << 20, RatioFloor: 1 << 20, Entries: 1000}})
	f.Fuzz(func(t *testing.T, b []byte) {
		imgs, err := s.Load(context.Background(), bytes.NewReader(b), nil)
		if err == nil {
			for _, i := range imgs {
				if _, err := s.Remove(context.Background(), i.ID, true); err != nil {
					t.Errorf("remove what was loaded: %v", err)
				}
			}
		}
		checkWhole(t, s)
	})
}

// FuzzManifest: what parses has the form that the rest relies on.
func FuzzManifest(f *testing.F) {
	f.Add(threeLayers(f).manifest)
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"mediaType":"` + ispec.MediaTypeImageManifest + `","digest":"sha256:x","size":1}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		lim := Limits{}.withDefaults()
		m, err := parseManifest(b, "", lim)
		if err != nil {
			return
		}
		for _, d := range append(slices.Clone(m.Layers), m.Manifests...) {
			if checkDigest("", d.Digest) != nil || d.Size < 0 {
				t.Errorf("accepted %+v", d)
			}
		}
		if _, err := choose(m, hostPlatform()); err == nil && len(m.Manifests) == 0 {
			t.Error("chose from nothing")
		}
		_, _ = parseConfig(b, m)
	})
}

func TestChoosePlatform(t *testing.T) {
	entry := func(arch, variant string) descriptor {
		return descriptor{MediaType: ispec.MediaTypeImageManifest, Digest: digestBytes([]byte(arch + variant)),
			Platform: &v1.Platform{OS: "linux", Architecture: arch, Variant: variant}}
	}
	attestation := entry("unknown", "")
	attestation.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	m := manifest{Manifests: []descriptor{attestation, entry("arm", "v5"), entry("arm", "v7"), entry("arm", "v6"), entry("arm64", "v8"), entry("amd64", "")}}
	for platform, want := range map[string]string{"linux/amd64": "amd64", "linux/arm64": "arm64v8", "linux/arm64/v8": "arm64v8",
		"linux/arm/v7": "armv7", "linux/arm/v6": "armv6", "linux/s390x": ""} {
		p, err := parsePlatform(platform)
		if err != nil {
			t.Fatal(err)
		}
		d, err := choose(m, p)
		if want == "" {
			if err == nil || !strings.Contains(err.Error(), "linux/arm/v5") {
				t.Errorf("%s: %v", platform, err)
			}
			continue
		}
		if err != nil || d.Digest != digestBytes([]byte(want)) {
			t.Errorf("%s: %v %v", platform, d.Platform, err)
		}
	}
	for _, bad := range []string{"linux", "linux/", "a/b/c/d", "windows/amd64"} {
		if _, err := parsePlatform(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func BenchmarkUse(b *testing.B) {
	s := testStore(b, Options{})
	mustLoad(b, s, threeLayers(b).layout(b, "x"))
	for i := 0; b.Loop(); i++ {
		id := fmt.Sprint(i)
		if _, err := s.Use(context.Background(), id, "x"); err != nil {
			b.Fatal(err)
		}
		if err := s.Release(context.Background(), id); err != nil {
			b.Fatal(err)
		}
	}
}

// The layers as overlayfs sees them, and not as we think it does.
func TestOverlayShowsTheImage(t *testing.T) {
	s := testStore(t, Options{})
	mustLoad(t, s, makeImage(t,
		plainLayer(tarOf(t, dir("etc"), file("etc/a", "base"), file("gone", "x"), dir("o"), file("o/below", "x"), dir("r"), file("r/below", "x"))),
		gzLayer(t, tarOf(t, file(".wh.gone", ""), file("etc/b", "b"), dir("o"), file("o/.wh..wh..opq", ""), file("o/.wh.below", ""), file("o/new", ""),
			file(".wh.r", ""), dir("r"), file("r/new", ""))),
		plainLayer(tarOf(t)), // empty, as a RUN that changed nothing
	).layout(t, "x"))
	u, err := s.Use(context.Background(), "r1", "x")
	if err != nil {
		t.Fatal(err)
	}
	if len(u.Layers) != 2 {
		t.Errorf("layers %v", u.Layers)
	}
	at := t.TempDir()
	if err := unix.Mount("overlay", at, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(u.Layers, ":")); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	}()
	for dir, want := range map[string][]string{".": {"etc", "o", "r"}, "etc": {"a", "b"}, "o": {"new"}, "r": {"new"}} {
		if got := names(t, filepath.Join(at, dir)); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", dir, got, want)
		}
	}
}

func TestDiskFull(t *testing.T) {
	needRoot(t)
	lib := t.TempDir()
	if err := unix.Mount("tmpfs", lib, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(lib, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	s, db := openStore(t, lib, Options{})
	defer db.Close()
	big := tarOf(t, file("big", strings.Repeat("x", 12<<20)))
	_, err := s.Load(context.Background(), bytes.NewReader(makeImage(t, gzLayer(t, big)).layout(t, "x")), nil) // full while unpacking
	wantError(t, err, images.CodeDiskFull, "no space left")
	_, err = s.Load(context.Background(), bytes.NewReader(makeImage(t, plainLayer(big)).layout(t, "x")), nil) // full while staging
	wantError(t, err, images.CodeDiskFull, "no space left")
	checkWhole(t, s)
	mustLoad(t, s, makeImage(t, plainLayer(tarOf(t, file("f", "1")))).layout(t, "x"))
	checkWhole(t, s)
}
