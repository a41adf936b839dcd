// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// stacked mounts layers, topmost first, under an upper directory of its own.
func stacked(t *testing.T, upper string, layers ...string) (merged string) {
	t.Helper()
	base := filepath.Dir(upper)
	merged, work := filepath.Join(base, "merged"), filepath.Join(base, "work")
	for _, d := range []string{upper, merged, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("overlay", merged, "overlay", 0, "lowerdir="+strings.Join(layers, ":")+",upperdir="+upper+",workdir="+work+",index=off"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(merged, 0) })
	return merged
}

// seen is a tree as a program sees it: a line for each file.
func seen(t *testing.T, root string) (lines []string) {
	t.Helper()
	links := map[uint64]string{}
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		l := fmt.Sprintf("%s %o %d:%d %d.%d", rel, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			v := make([]byte, 100)
			n, _ := unix.Getxattr(p, "user.note", v)
			l += fmt.Sprintf(" %x %q", sha256.Sum256(b), v[:max(n, 0)])
			if first := links[st.Ino]; first != "" {
				l += " = " + first
			}
			links[st.Ino] = rel
		case unix.S_IFLNK:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			l += " -> " + to
		}
		lines = append(lines, l)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// TestTreeIsWhatOverlayShows: what a container did to its files, packed as a layer
// and unpacked again, shows the same; and so does the whole as one archive.
func TestTreeIsWhatOverlayShows(t *testing.T) {
	needRoot(t)
	base := t.TempDir()
	long := strings.Repeat("n", 200)
	low, mid := filepath.Join(base, "low"), filepath.Join(base, "mid")
	sh := func(dir, script string) {
		t.Helper()
		cmd := exec.Command("sh", "-ec", script)
		cmd.Dir = dir
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", script, err, out)
		}
	}
	sh(low, `mkdir -p a/b etc gone/x kept/deep re; echo 1 >a/b/f; echo 2 >a/g; echo 3 >gone/x/y; echo 4 >kept/deep/k; ln kept/deep/k kept/hard
		echo old >re/old; ln -s ../etc a/link; echo base >etc/base; chmod 1777 a; touch -d 2001-02-03T04:05:06.789 a/g`)
	sh(mid, `mkdir -p a; echo middle >a/mid; mknod a/g c 0 0`)
	upper := filepath.Join(base, "1", "upper")
	merged := stacked(t, upper, mid, low)
	sh(merged, `rm -r gone re; mkdir re; echo new >re/new; echo changed >a/b/f; echo more >>kept/deep/k; ln re/new re/again
		mkfifo -m 640 pipe; ln -s nowhere dangling; touch `+long+` "two
lines" ; chown 7:70000 etc/base; chmod 4755 a/b/f; truncate -s 3M sparse; printf x >>sparse
		mkdir -p d/e && echo f >d/e/f && rm a/mid; chmod 700 .; setfattr -n user.note -v hi sparse || true`)
	want := seen(t, merged)

	// As an image layer.
	var layer bytes.Buffer
	if err := writeTree(t.Context(), &layer, []string{upper}, true, nil); err != nil {
		t.Fatal(err)
	}
	root, _, err := unpackTo(t, Limits{}, layer.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	again := stacked(t, filepath.Join(base, "2", "upper"), root, mid, low)
	ignoreRoot := func(lines []string) []string { return lines[1:] } // the upper above it is a new one
	if d := cmp.Diff(ignoreRoot(want), ignoreRoot(seen(t, again))); d != "" {
		t.Errorf("as a layer (- container, + image):\n%s", d)
	}

	// As one archive.
	var whole bytes.Buffer
	if err := writeTree(t.Context(), &whole, []string{upper, mid, low}, false, nil); err != nil {
		t.Fatal(err)
	}
	flat, _, err := unpackTo(t, Limits{}, whole.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, seen(t, flat)); d != "" {
		t.Errorf("as an archive (- container, + archive):\n%s", d)
	}
	var second bytes.Buffer
	if err := writeTree(t.Context(), &second, []string{upper, mid, low}, false, nil); err != nil || !bytes.Equal(whole.Bytes(), second.Bytes()) {
		t.Errorf("the same files make another archive, %v", err)
	}
}

func tarNames(t *testing.T, b []byte) (names []string) {
	t.Helper()
	for tr := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}

// TestTreeHides: what the runtime made to mount on is not the container's.
func TestTreeHides(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	for _, d := range []string{"proc/1", "etc", "vol"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"etc/hosts", "etc/mine", "vol/below"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	hide := []string{"/proc", "/etc/hosts", "/vol/"}
	for diff, want := range map[bool][]string{
		true:  {"./", "etc/", "etc/mine"},
		false: {"./", "etc/", "etc/hosts", "etc/mine", "proc/", "vol/"},
	} {
		var b bytes.Buffer
		if err := writeTree(t.Context(), &b, []string{dir}, diff, hide); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, tarNames(t, b.Bytes())); d != "" {
			t.Errorf("diff %v:\n%s", diff, d)
		}
	}
}

// TestTreeRefuses what no layer can say, and a container that goes meanwhile.
func TestTreeRefuses(t *testing.T) {
	needRoot(t)
	for name, c := range map[string]struct {
		make func(dir string) error
		want string
	}{
		"whiteout name": {func(d string) error { return os.WriteFile(filepath.Join(d, ".wh.x"), nil, 0o644) }, `".wh."`},
		"redirect": {func(d string) error {
			return unix.Setxattr(d, "trusted.overlay.redirect", []byte("/x"), 0)
		}, "redirect"},
	} {
		dir := t.TempDir()
		if err := c.make(dir); err != nil {
			t.Fatal(err)
		}
		err := writeTree(t.Context(), io.Discard, []string{dir}, true, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := filepath.Join(t.TempDir(), "upper")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	// The first bytes come when the walk has begun.
	err := writeTree(t.Context(), writerFunc(func([]byte) error { return os.RemoveAll(dir) }), []string{dir}, true, nil)
	if err == nil || !strings.Contains(err.Error(), "removed while it was read") {
		t.Errorf("a container that went: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := writeTree(ctx, io.Discard, []string{low(t)}, true, nil); err == nil {
		t.Error("goes on after its end")
	}
}

func low(t *testing.T) string {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

type writerFunc func([]byte) error

func (f writerFunc) Write(p []byte) (int, error) { return len(p), f(p) }

// TestTreeStaysInside: a container that swaps directories for links while it is
// read gets nothing of the host into its archive.
func TestTreeStaysInside(t *testing.T) {
	needRoot(t)
	base := t.TempDir()
	dir, secret := filepath.Join(base, "upper"), filepath.Join(base, "secret")
	for _, d := range []string{filepath.Join(dir, "d"), secret} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{filepath.Join(dir, "d", "f"), filepath.Join(secret, "f")} {
		if err := os.WriteFile(f, []byte(f), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(secret, filepath.Join(dir, "e")); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, "d"), unix.AT_FDCWD, filepath.Join(dir, "e"), unix.RENAME_EXCHANGE)
			}
		}
	}()
	read := 0
	for range 2000 {
		var b bytes.Buffer
		if err := writeTree(t.Context(), &b, []string{dir}, false, nil); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b.Bytes(), []byte("secret/f")) {
			t.Fatal("a file of the host is in the archive")
		}
		if bytes.Contains(b.Bytes(), []byte("upper/d/f")) {
			read++
		}
	}
	close(stop)
	<-done
	if read == 0 {
		t.Error("the container's own file was never read: nothing was tried")
	}
}

func TestChanges(t *testing.T) {
	for _, s := range []string{"", "RUN x", "CMD", `CMD ["a"`, "ENV X", "WORKDIR x", `ENV A="`, "COPY a b"} {
		if _, err := parseChanges([]string{s}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", s)) {
			t.Errorf("%q: %v", s, err)
		}
	}
	changes, err := parseChanges([]string{`cmd ["a", "b c"]`, "ENTRYPOINT run it", `ENV A=1 B="x y"`, "ENV A 2 3", "EXPOSE 80 53/udp",
		"LABEL k=v", `VOLUME ["/a"]`, "VOLUME /b", "USER web", "WORKDIR /w", "STOPSIGNAL SIGINT", `CMD ["c"]`})
	if err != nil {
		t.Fatal(err)
	}
	c := ispec.ImageConfig{Env: []string{"A=0", "Z=9"}}
	for _, f := range changes {
		f(&c)
	}
	want := ispec.ImageConfig{Entrypoint: []string{"/bin/sh", "-c", "run it"}, Cmd: []string{"c"}, Env: []string{"A=2 3", "Z=9", "B=x y"},
		ExposedPorts: map[string]struct{}{"80/tcp": {}, "53/udp": {}}, Labels: map[string]string{"k": "v"},
		Volumes: map[string]struct{}{"/a": {}, "/b": {}}, User: "web", WorkingDir: "/w", StopSignal: "SIGINT"}
	if d := cmp.Diff(want, c); d != "" {
		t.Error(d)
	}
}

func FuzzChanges(f *testing.F) {
	for _, s := range []string{`CMD ["a"]`, `ENV A="1 2" B=3`, "EXPOSE 80", "LABEL a b", `VOLUME ["/x"]`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		changes, err := parseChanges([]string{s})
		if err != nil {
			return
		}
		for _, change := range changes {
			change(&ispec.ImageConfig{})
		}
	})
}
