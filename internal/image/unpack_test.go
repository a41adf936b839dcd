// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/images"
)

// unpackTo unpacks below a directory whose neighbours are canaries: outside/ holds
// a file that hostile archives aim at.
func unpackTo(t testing.TB, lim Limits, archive []byte) (root string, sum unpacked, err error) {
	t.Helper()
	needRoot(t)
	base := t.TempDir()
	root = filepath.Join(base, "root")
	outside := filepath.Join(base, "outside")
	for _, d := range []string{root, outside} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	canary := filepath.Join(outside, "canary")
	if err := os.WriteFile(canary, []byte("alive"), 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(root, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	lim = lim.withDefaults()
	sum, err = unpack(context.Background(), fd, bytes.NewReader(archive), lim, lim.budget(int64(len(archive))))
	checkCanary(t, base)
	return root, sum, err
}

func checkCanary(t testing.TB, base string) {
	t.Helper()
	if n := names(t, base); len(n) != 2 {
		t.Fatalf("beside the root there is %v", n)
	}
	if n := names(t, filepath.Join(base, "outside")); len(n) != 1 {
		t.Fatalf("outside the root there is %v", n)
	}
	canary := filepath.Join(base, "outside", "canary")
	var st unix.Stat_t
	if err := unix.Lstat(canary, &st); err != nil || st.Mode != unix.S_IFREG|0o600 || st.Nlink != 1 || st.Uid != 0 {
		t.Fatalf("the canary was touched: %+v, %v", st, err)
	}
	if b, err := os.ReadFile(canary); err != nil || string(b) != "alive" {
		t.Fatalf("the canary says %q, %v", b, err)
	}
}

func TestUnpackKeepsEverything(t *testing.T) {
	caps := string([]byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}) // cap_net_bind_service=p
	x := file("bin/x", "program")
	x.Mode, x.Uid, x.Gid = 0o6755, 1000, 70000
	x.PAXRecords = map[string]string{"SCHILY.xattr.user.note": "hi", "SCHILY.xattr.security.capability": caps,
		"SCHILY.xattr.security.selinux": "dropped"}
	d := dir("var")
	d.Mode, d.Uid = 0o1777, 7
	root, sum, err := unpackTo(t, Limits{}, tarOf(t, dir("."), dir("bin"), x, d, file("var/a", "1"),
		symlink("link", "/etc/passwd"), hardlink("bin/y", "/bin/x"), file("implied/deep/f", "2"),
		entry{tar.Header{Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o622, Uid: 5}, ""},
		file("/abs", "3"), symlink("lib", "usr/lib"), dir("usr"), dir("usr/lib"), file("lib/through", "4")))
	if err != nil {
		t.Fatal(err)
	}
	stat := func(name string) (st unix.Stat_t) {
		t.Helper()
		if err := unix.Lstat(filepath.Join(root, name), &st); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return st
	}
	st := stat("bin/x")
	if st.Mode != unix.S_IFREG|0o6755 || st.Uid != 1000 || st.Gid != 70000 || st.Nlink != 2 || st.Mtim.Sec != testTime.Unix() {
		t.Errorf("bin/x: %+v", st)
	}
	if st := stat("var"); st.Mode != unix.S_IFDIR|0o1777 || st.Uid != 7 || st.Mtim.Sec != testTime.Unix() {
		t.Errorf("var: %+v", st)
	}
	if st := stat("pipe"); st.Mode != unix.S_IFIFO|0o622 || st.Uid != 5 {
		t.Errorf("pipe: %+v", st)
	}
	if st := stat("implied/deep"); st.Mode != unix.S_IFDIR|0o755 {
		t.Errorf("implied: %+v", st)
	}
	if st := stat("link"); st.Mtim.Sec != testTime.Unix() {
		t.Errorf("link: %+v", st)
	}
	stat("abs")
	stat("usr/lib/through")
	buf := make([]byte, 100)
	if n, err := unix.Getxattr(filepath.Join(root, "bin/x"), "security.capability", buf); err != nil || string(buf[:n]) != caps {
		t.Errorf("capability: %q %v", buf[:max(n, 0)], err)
	}
	if n, err := unix.Getxattr(filepath.Join(root, "bin/x"), "user.note", buf); err != nil || string(buf[:n]) != "hi" {
		t.Errorf("user attribute: %q %v", buf[:max(n, 0)], err)
	}
	if _, err := unix.Getxattr(filepath.Join(root, "bin/x"), "security.selinux", buf); err != unix.ENODATA && err != unix.EOPNOTSUPP {
		t.Errorf("label was kept: %v", err)
	}
	if sum.Bytes != int64(len("program"))+4 {
		t.Errorf("%d bytes", sum.Bytes)
	}
}

func TestUnpackWhiteouts(t *testing.T) {
	root, sum, err := unpackTo(t, Limits{}, tarOf(t,
		dir("a"), file("a/.wh.gone", ""), file("a/.wh..wh.plnk", ""),
		dir("o"), file("o/.wh.inner", ""), file("o/.wh..wh..opq", ""), file("o/deep/.wh.inner", ""), file("o/kept", "1"),
		file(".wh.r", ""), dir("r"), file("r/new", "1"), // removed and made anew: opaque
		file(".wh.q", ""), file("q/new", "1"), // the same, implied
		file("own", "1"), file(".wh.own", "")))
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(root, "a/gone"), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		t.Errorf("a/gone: %+v %v", st, err)
	}
	if n := names(t, filepath.Join(root, "a")); len(n) != 1 {
		t.Errorf("a holds %v", n)
	}
	for _, d := range []string{"o", "r", "q"} {
		buf := make([]byte, 8)
		if n, err := unix.Getxattr(filepath.Join(root, d), opaqueXattr, buf); err != nil || string(buf[:n]) != "y" {
			t.Errorf("%s: not opaque: %v", d, err)
		}
	}
	for _, f := range []string{"o/inner", "o/deep/inner"} {
		if _, err := os.Lstat(filepath.Join(root, f)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: whiteout inside an opaque directory stayed: %v", f, err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(root, "own")); err != nil || string(b) != "1" {
		t.Errorf("own: %q %v", b, err)
	}
	if sum.OpaqueRoot {
		t.Error("root is said to be opaque")
	}
	if _, sum, err := unpackTo(t, Limits{}, tarOf(t, file(".wh..wh..opq", ""), file("f", ""))); err != nil || !sum.OpaqueRoot {
		t.Errorf("opaque root: %+v %v", sum, err)
	}
}

func TestUnpackDuplicates(t *testing.T) {
	root, _, err := unpackTo(t, Limits{}, tarOf(t, file("f", "old"), file("f", "new"), dir("d"), file("d", "file now"),
		file("e", "x"), dir("e"), file("e/in", "y"), file("h", "z"), hardlink("h", "h"), symlink("s", "/outside"), file("s", "plain")))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"f": "new", "d": "file now", "e/in": "y", "h": "z", "s": "plain"} {
		if b, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q %v, want %q", name, b, err, want)
		}
	}
}

func TestUnpackRefuses(t *testing.T) {
	dev := func(kind byte) entry {
		return entry{tar.Header{Name: "dev/x", Typeflag: kind, Devmajor: 1, Devminor: 3}, ""}
	}
	xattr := func(name, value string) entry {
		e := file("x", "1")
		e.PAXRecords = map[string]string{"SCHILY.xattr." + name: value}
		return e
	}
	owner := file("f", "")
	owner.Uid = 1<<32 - 1
	cases := []struct {
		name string
		lim  Limits
		es   []entry
		want string
	}{
		{"up", Limits{}, []entry{file("../outside/canary", "dead")}, ".."},
		{"up inside", Limits{}, []entry{dir("a"), file("a/../../outside/canary", "dead")}, ".."},
		{"absolute symlink, then through it", Limits{}, []entry{symlink("l", "/outside"), file("l/canary", "dead")}, "leads nowhere"},
		{"relative symlink, then through it", Limits{}, []entry{symlink("l", "../outside"), file("l/canary", "dead")}, "leads nowhere"},
		{"symlink to symlink", Limits{}, []entry{symlink("a", ".."), symlink("b", "a/outside"), file("b/canary", "dead")}, "leads nowhere"},
		{"symlink loop", Limits{}, []entry{symlink("a", "b"), symlink("b", "a"), file("a/f", "dead")}, "leads nowhere"},
		{"through a file", Limits{}, []entry{file("a", ""), file("a/b", "")}, "leads nowhere"},
		{"magic link", Limits{}, []entry{symlink("p", "/proc/self/root"), file("p/outside/canary", "dead")}, "leads nowhere"},
		{"hard link out", Limits{}, []entry{hardlink("h", "../outside/canary")}, ".."},
		{"hard link out, absolute", Limits{}, []entry{hardlink("h", "/outside/canary")}, "not in this layer"},
		{"hard link through symlink", Limits{}, []entry{symlink("l", "../outside"), hardlink("h", "l/canary")}, "not in this layer"},
		{"hard link to directory", Limits{}, []entry{dir("d"), hardlink("h", "d")}, "neither file"},
		{"hard link to whiteout", Limits{}, []entry{file(".wh.w", ""), hardlink("h", "w")}, "neither file"},
		{"hard link to root", Limits{}, []entry{hardlink("h", "/")}, "not in this layer"},
		{"character device", Limits{}, []entry{dev(tar.TypeChar)}, "device node"},
		{"block device", Limits{}, []entry{dev(tar.TypeBlock)}, "device node"},
		{"trusted attribute", Limits{}, []entry{xattr("trusted.overlay.redirect", "/etc")}, "trusted.overlay.redirect"},
		{"user overlay attribute", Limits{}, []entry{xattr("user.overlay.opaque", "y")}, "user.overlay.opaque"},
		{"huge attribute", Limits{}, []entry{xattr("user.big", strings.Repeat("x", 70000))}, "70000 bytes"},
		{"bad capability", Limits{}, []entry{xattr("security.capability", "junk")}, "refuses its value"},
		{"owner", Limits{}, []entry{owner}, "out of range"},
		{"long name", Limits{}, []entry{file(strings.Repeat("n", 256), "")}, "longer than 255"},
		{"long path", Limits{}, []entry{file(strings.Repeat("n/", 3000)+"f", "")}, "longer than 4095"},
		{"root as file", Limits{}, []entry{file("./.", "")}, "root of a layer"},
		{"over a full directory", Limits{}, []entry{file("d/f", ""), file("d", "")}, "has filled"},
		{"entries", Limits{Entries: 3}, []entry{file("a", ""), file("b", ""), file("c", ""), file("d", "")}, "more than 3 entries"},
		{"implied entries", Limits{Entries: 50}, []entry{file(strings.Repeat("d/", 100)+"f", "")}, "more than 50 entries"},
		{"bytes", Limits{Bytes: 10, RatioFloor: 10}, []entry{file("a", "12345"), file("b", "123456")}, "unpack to more"},
		{"empty whiteout", Limits{}, []entry{file(".wh.", "")}, "no name"},
		{"whiteout of parent", Limits{}, []entry{file("a/.wh...", "")}, "no name"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := unpackTo(t, c.lim, tarOf(t, c.es...))
			if err == nil {
				t.Fatal("was accepted")
			}
			wantError(t, err, images.CodeInvalidData, "")
			if !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %q, want %q in it", err, c.want)
			}
		})
	}
}

func TestUnpackDamagedStream(t *testing.T) {
	whole := tarOf(t, file("a", strings.Repeat("x", 5000)), file("b", "y"))
	_, _, err := unpackTo(t, Limits{}, whole[:2000])
	wantError(t, err, images.CodeInvalidData, "truncated")
	junk := bytes.Clone(whole)
	copy(junk[100:], "garbage")
	_, _, err = unpackTo(t, Limits{}, junk)
	wantError(t, err, images.CodeInvalidData, "damaged")
}

// FuzzUnpack: whatever the bytes, nothing outside the root is touched and no
// device but a whiteout comes to be.
func FuzzUnpack(f *testing.F) {
	for _, es := range [][]entry{
		{file("../outside/canary", "dead")},
		{symlink("l", "../outside"), file("l/canary", "dead"), hardlink("h", "l/canary")},
		{dir("a"), file("a/.wh.b", ""), file("a/.wh..wh..opq", ""), dir("a/b")},
		{file(".wh.r", ""), file("r/new", ""), symlink("r/up", "../../outside"), file("r/up/canary", "")},
		{{tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, ""}},
	} {
		f.Add(tarOf(f, es...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		root, _, err := unpackTo(t, Limits{Entries: 1000, Bytes: 1 << 20, RatioFloor: 1 << 20}, b)
		if err != nil && errors.As(err, new(unix.Errno)) && !errors.Is(err, unix.ENOSPC) {
			t.Logf("refused by the kernel, not by us: %v", err)
		}
		if err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var st unix.Stat_t
			if err := unix.Lstat(p, &st); err != nil {
				return err
			}
			if k := st.Mode & unix.S_IFMT; k == unix.S_IFBLK || k == unix.S_IFCHR && st.Rdev != 0 || k == unix.S_IFSOCK {
				t.Errorf("%s: mode %o rdev %x", p, st.Mode, st.Rdev)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	})
}
