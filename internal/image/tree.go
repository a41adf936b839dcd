// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tree walks stacked directories in overlayfs format: merged, as a container sees
// them; or, with diff, the one directory that holds a container's changes, as an
// image layer has them.
//
// A container may change what is read meanwhile, and may wish us to read something
// else: no symbolic link is followed, no mount is entered, and a file is opened
// only after it was seen to be a regular one.
type tree struct {
	ctx  context.Context
	diff bool
	// hide are paths, relative to the root, on which something is mounted in the
	// container: what is below shows only what the runtime made to mount on. Merged,
	// the place itself stays; in a diff it goes, too.
	hide  map[string]bool
	roots []*os.File // topmost first
	// visit gets each file, the root as ".", a directory before what is in it.
	visit func(rel string, h *os.File, st unix.Stat_t) error
	// removed gets, with diff, the names that mark a removal.
	removed func(name string, st unix.Stat_t) error
}

type inode struct{ dev, ino uint64 }

// tarWriter writes what a tree has.
type tarWriter struct {
	*tar.Writer
	ctx   context.Context
	diff  bool // for an image layer
	links map[inode]string
}

func newTarWriter(ctx context.Context, w io.Writer, diff bool) *tarWriter {
	return &tarWriter{Writer: tar.NewWriter(w), ctx: ctx, diff: diff, links: map[inode]string{}}
}

// writeTree writes layers, topmost first, to w. See tree.
func writeTree(ctx context.Context, w io.Writer, layers []string, diff bool, hide []string) error {
	tw := newTarWriter(ctx, w, diff)
	t := &tree{ctx: ctx, diff: diff, hide: map[string]bool{}, visit: tw.file, removed: tw.mark}
	for _, h := range hide {
		if p := strings.Trim(path.Clean("/"+h), "/"); p != "" {
			t.hide[p] = true
		}
	}
	if err := t.read(layers); err != nil {
		return err
	}
	return tw.Close()
}

// openAll gets hold of layers; close lets go.
func (t *tree) openAll(layers []string) error {
	for _, l := range layers {
		fd, err := unix.Open(l, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.close()
			return &os.PathError{Op: "open", Path: l, Err: err}
		}
		t.roots = append(t.roots, os.NewFile(uintptr(fd), l))
	}
	if len(layers) == 0 {
		return errors.New("no directory to read")
	}
	return nil
}

// read walks layers.
func (t *tree) read(layers []string) error {
	if err := t.openAll(layers); err != nil {
		return err
	}
	defer t.close()
	all := make([]int, len(layers))
	for i := range all {
		all[i] = i
	}
	top, st, err := t.open(0, ".")
	if err != nil {
		return fmt.Errorf("%s: %w", layers[0], err)
	}
	err = t.visit(".", top, st)
	top.Close()
	if err == nil {
		err = t.walk(".", all)
	}
	if err != nil {
		return err
	}
	// Who removed the container meanwhile left us with a part of it.
	for i, l := range layers {
		var now, then unix.Stat_t
		if err := errors.Join(unix.Stat(l, &now), unix.Fstat(int(t.roots[i].Fd()), &then)); err != nil || now.Ino != then.Ino || now.Dev != then.Dev {
			return fmt.Errorf("%s was removed while it was read", l)
		}
	}
	return nil
}

func (t *tree) close() {
	for _, f := range t.roots {
		f.Close()
	}
	t.roots = nil
}

// open gets hold of what a layer has at rel, without opening it for anything.
func (t *tree) open(layer int, rel string) (*os.File, unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := unix.Openat2(int(t.roots[layer].Fd()), rel, &unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV})
	if err != nil {
		return nil, st, err
	}
	f := os.NewFile(uintptr(fd), rel)
	if err := unix.Fstat(fd, &st); err != nil {
		f.Close()
		return nil, st, err
	}
	return f, st, nil
}

// itself is a path to an open file whose name may be gone.
func itself(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// gone: what was listed is no more, or is something else by now.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// walk writes what is in the directory rel, merged of these layers.
func (t *tree) walk(rel string, layers []int) error {
	in := map[string][]int{}
	for _, i := range layers {
		names, err := t.list(i, rel)
		if err != nil && !gone(err) {
			return fmt.Errorf("read directory %s: %w", rel, err)
		}
		for _, n := range names {
			in[n] = append(in[n], i)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(in)) {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		child := path.Join(rel, name)
		if len(child) > maxPath {
			return fmt.Errorf("a path is longer than the %d bytes that an archive may hold: %.100s…", maxPath, child)
		}
		if t.hide[child] && t.diff {
			continue
		}
		if err := t.entry(child, in[name]); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) list(layer int, rel string) ([]string, error) {
	h, st, err := t.open(layer, rel)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, unix.ENOTDIR
	}
	d, err := os.Open(itself(h))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

// entry writes what layers, topmost first, make of one path.
func (t *tree) entry(rel string, layers []int) error {
	var merged []int // of a directory
	for _, i := range layers {
		more, err := t.layer(rel, i, merged == nil)
		if err != nil {
			return fmt.Errorf("%s: %w", rel, err)
		}
		if more >= 0 {
			merged = append(merged, i)
		}
		if more <= 0 {
			break
		}
	}
	if merged == nil || t.hide[rel] {
		return nil
	}
	return t.walk(rel, merged)
}

// layer looks at what one layer has at rel and, being the first to have it, writes
// it. It answers -1 when there is no directory here and lower ones do not count, 0
// for a directory that hides lower ones, 1 for one that lets them through.
func (t *tree) layer(rel string, i int, first bool) (int, error) {
	h, st, err := t.open(i, rel)
	switch {
	case gone(err):
		return -1, nil
	case errors.Is(err, unix.EXDEV): // mounted here, in the layer itself: not the container's
		return -1, nil
	case err != nil:
		return -1, err
	}
	defer h.Close()
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFCHR && st.Rdev == 0 { // a whiteout, Documentation/filesystems/overlayfs.rst
		if first && t.diff {
			dir, base := path.Split(rel)
			return -1, t.removed(dir+whiteoutPrefix+base, st)
		}
		return -1, nil
	}
	if first {
		if t.diff && strings.HasPrefix(path.Base(rel), whiteoutPrefix) {
			return -1, fmt.Errorf("names that begin with %q mark in an image layer what it removes; rename the file, or use export", whiteoutPrefix)
		}
		if err := t.visit(rel, h, st); err != nil {
			return -1, err
		}
	}
	if kind != unix.S_IFDIR {
		return -1, nil
	}
	if !yes(itself(h), opaqueXattr) {
		return 1, nil
	}
	if first && t.diff {
		return 0, t.removed(path.Join(rel, whiteoutOpaque), st)
	}
	return 0, nil
}

func yes(file, xattr string) bool {
	b := make([]byte, 2)
	n, err := unix.Getxattr(file, xattr, b)
	return err == nil && n == 1 && b[0] == 'y'
}

// mark writes one of the empty files that mean a removal.
func (t *tarWriter) mark(name string, st unix.Stat_t) error {
	return t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX})
}

// file writes one, whatever it is.
func (t *tarWriter) file(rel string, h *os.File, st unix.Stat_t) error {
	hd := &tar.Header{Name: rel, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid), ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX}
	id := inode{st.Dev, st.Ino}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		if to, ok := t.links[id]; ok {
			hd.Typeflag, hd.Linkname = tar.TypeLink, to
			return t.WriteHeader(hd)
		}
	}
	switch kind {
	case unix.S_IFREG:
		hd.Typeflag, hd.Size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		hd.Typeflag, hd.Name = tar.TypeDir, rel+"/"
	case unix.S_IFLNK:
		to, err := readlink(h)
		if err != nil {
			return err
		}
		hd.Typeflag, hd.Linkname = tar.TypeSymlink, to
	case unix.S_IFIFO:
		hd.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		if t.diff { // image layers may hold none
			return nil
		}
		hd.Typeflag = tar.TypeChar
		if kind == unix.S_IFBLK {
			hd.Typeflag = tar.TypeBlock
		}
		hd.Devmajor, hd.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	default:
		return nil // a socket means nothing without its process
	}
	if kind == unix.S_IFREG || kind == unix.S_IFDIR {
		var err error
		if hd.PAXRecords, err = xattrRecords(itself(h)); err != nil {
			return err
		}
	}
	if kind != unix.S_IFREG {
		if err := t.WriteHeader(hd); err != nil {
			return err
		}
	} else if err := t.content(hd, h); err != nil {
		return err
	}
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		t.links[id] = rel
	}
	return nil
}

// content writes a regular file. One that shrinks meanwhile ends in zeros, as GNU
// tar has it; what grows is cut.
func (t *tarWriter) content(hd *tar.Header, h *os.File) error {
	f, err := os.Open(itself(h))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := t.WriteHeader(hd); err != nil {
		return err
	}
	n, err := io.Copy(t, &meteredReader{ctx: t.ctx, r: io.LimitReader(f, hd.Size)})
	if err != nil {
		return err
	}
	_, err = io.CopyN(t, zeros{}, hd.Size-n)
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func readlink(h *os.File) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(h.Fd()), "", b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// xattrRecords are the extended attributes that unpacking keeps. One that says the
// file's content is elsewhere is an error: we would write something else.
func xattrRecords(file string) (map[string]string, error) {
	n, err := unix.Listxattr(file, nil)
	if err != nil || n == 0 {
		if errors.Is(err, unix.ENOTSUP) {
			err = nil
		}
		return nil, err
	}
	b := make([]byte, n)
	if n, err = unix.Listxattr(file, b); err != nil {
		return nil, err
	}
	var out map[string]string
	for _, name := range strings.Split(strings.TrimRight(string(b[:n]), "\x00"), "\x00") {
		if name == "trusted.overlay.redirect" || name == "trusted.overlay.metacopy" {
			return nil, fmt.Errorf("was written by overlayfs with %s, which no archive can tell", strings.TrimPrefix(name, "trusted.overlay."))
		}
		if !keptXattr(name) {
			continue
		}
		v := make([]byte, maxXattr)
		n, err := unix.Getxattr(file, name, v)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("extended attribute %q: %w", name, err)
		}
		if out == nil {
			out = map[string]string{}
		}
		out[paxXattr+name] = string(v[:n])
	}
	return out, nil
}
