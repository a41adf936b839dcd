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
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Names of whiteouts, OCI image-spec layer.md.
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// opaqueXattr as overlayfs reads it, Documentation/filesystems/overlayfs.rst.
const opaqueXattr = "trusted.overlay.opaque"

// unpacked says what a layer came to.
type unpacked struct {
	Entries int
	Bytes   int64 // of regular files
	// OpaqueRoot: nothing below this layer shows. overlayfs does not look at the
	// mark on a layer's root, so who stacks the layers must stop here.
	OpaqueRoot bool
}

// unpack writes the tar stream r under the empty directory that root is open on.
// It is the caller who hashes r, makes the result durable, and removes it after
// an error. budget bounds the sum of file sizes.
func unpack(ctx context.Context, root int, r io.Reader, lim Limits, budget int64) (unpacked, error) {
	u := &unpacker{root: root, lim: lim, budget: budget, opaque: map[string]bool{}, buf: make([]byte, 256<<10)}
	defer u.forgetParent()
	tr := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return u.sum, err
		}
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return u.sum, badStream(err)
		}
		if err := u.entry(h, tr); err != nil {
			return u.sum, wrapEntry(h.Name, err)
		}
	}
	return u.sum, u.finish()
}

// badStream turns what a reader of compressed data or tar says of wrong bytes
// into our class; an error that already has one keeps it.
func badStream(err error) error {
	var errno unix.Errno
	switch {
	case hasClass(err), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.As(err, &errno):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return bad("the archive is truncated")
	}
	return bad("the archive is damaged: %w", err)
}

func wrapEntry(name string, err error) error {
	if len(name) > 200 {
		name = name[:200] + "…"
	}
	return fmt.Errorf("entry %q: %w", name, err)
}

// unpacker is the state of one layer.
type unpacker struct {
	root   int
	lim    Limits
	budget int64
	sum    unpacked
	buf    []byte

	// The directory of the last entry, because entries come in groups.
	parentName string
	parentFD   int
	haveParent bool

	dirs      []dirTime       // set at the end, since filling a directory changes its time
	opaque    map[string]bool // directories marked opaque
	whiteouts []string
}

type dirTime struct {
	path string
	ts   [2]unix.Timespec
}

// clean splits an entry's or link's name. Leading slashes fall away as for a
// change of root; a parent reference is refused rather than resolved.
func clean(name string) (string, error) {
	if len(name) > maxPath {
		return "", bad("path of %d bytes: longer than %d", len(name), maxPath)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", bad("path holds a zero byte")
	}
	parts := strings.Split(name, "/")
	out := parts[:0]
	for _, p := range parts {
		switch {
		case p == "" || p == ".":
			continue
		case p == "..":
			return "", bad("path goes up with ..")
		case len(p) > maxName:
			return "", bad("name of %d bytes: longer than %d", len(p), maxName)
		}
		out = append(out, p)
	}
	return strings.Join(out, "/"), nil
}

func split(path string) (dir, base string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

func (u *unpacker) count(n int) error {
	u.sum.Entries += n
	if u.sum.Entries > u.lim.Entries {
		return bad("more than %d entries in one layer", u.lim.Entries)
	}
	return nil
}

func (u *unpacker) entry(h *tar.Header, data io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	path, err := clean(h.Name)
	if err != nil {
		return err
	}
	if err := u.count(1); err != nil {
		return err
	}
	attrs, err := attrsOf(h)
	if err != nil {
		return err
	}
	if path == "" {
		if h.Typeflag != tar.TypeDir {
			return bad("the root of a layer must be a directory")
		}
		return u.dirAttrs(u.root, ".", path, attrs)
	}
	dir, base := split(path)
	if strings.HasPrefix(base, whiteoutPrefix) {
		return u.whiteout(dir, base)
	}
	parent, err := u.parent(dir)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return u.dir(parent, base, path, attrs)
	case tar.TypeReg, '\x00', tar.TypeCont, tar.TypeGNUSparse: // '\x00' is a regular file before POSIX
		return u.file(parent, base, h.Size, data, attrs)
	case tar.TypeSymlink:
		return u.symlink(parent, base, h.Linkname, attrs)
	case tar.TypeLink:
		return u.link(parent, base, h.Linkname)
	case tar.TypeFifo:
		return u.fifo(parent, base, attrs)
	case tar.TypeChar, tar.TypeBlock:
		return bad("device node: image layers may hold none (the runtime fills /dev); make the layer without it")
	}
	return bad("unknown kind of entry %q", h.Typeflag)
}

func (u *unpacker) dir(parent int, base, path string, a attrs) error {
	was, err := u.create(parent, base, true, func() error { return unix.Mkdirat(parent, base, 0o700) })
	if err != nil {
		return err
	}
	if err := u.dirAttrs(parent, base, path, a); err != nil {
		return err
	}
	if was == wasWhiteout {
		return u.markOpaque(path)
	}
	return nil
}

func (u *unpacker) dirAttrs(parent int, base, path string, a attrs) error {
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	defer unix.Close(fd)
	u.dirs = append(u.dirs, dirTime{path, a.times})
	return a.apply(fd)
}

func (u *unpacker) file(parent int, base string, size int64, data io.Reader, a attrs) error {
	if size < 0 || size > u.budget-u.sum.Bytes {
		return bad("file of %d bytes: the layer would unpack to more than the %d that its size allows", size, u.budget)
	}
	u.sum.Bytes += size
	fd := -1
	_, err := u.create(parent, base, false, func() (err error) {
		fd, err = unix.Openat(parent, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for {
		n, err := data.Read(u.buf)
		if werr := writeAll(fd, u.buf[:n]); werr != nil {
			return fmt.Errorf("write: %w", werr)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return badStream(err)
		}
	}
	if err := a.apply(fd); err != nil {
		return err
	}
	return u.times(parent, base, a)
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func (u *unpacker) symlink(parent int, base, target string, a attrs) error {
	if target == "" || len(target) > maxPath || strings.IndexByte(target, 0) >= 0 {
		return bad("symbolic link to a target of %d bytes: empty, too long, or with a zero byte", len(target))
	}
	if _, err := u.create(parent, base, false, func() error { return unix.Symlinkat(target, parent, base) }); err != nil {
		return err
	}
	if err := unix.Fchownat(parent, base, a.uid, a.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	return u.times(parent, base, a)
}

func (u *unpacker) fifo(parent int, base string, a attrs) error {
	if _, err := u.create(parent, base, false, func() error { return unix.Mknodat(parent, base, unix.S_IFIFO|0o600, 0) }); err != nil {
		return err
	}
	if err := unix.Fchownat(parent, base, a.uid, a.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	// fchmodat follows links, but we just made this name and nobody else writes here.
	if err := unix.Fchmodat(parent, base, a.mode, 0); err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	return u.times(parent, base, a)
}

func (u *unpacker) link(parent int, base, target string) error {
	path, err := clean(target)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	dir, name := split(path)
	from, err := u.resolve(dir)
	if isMissing(err) || path == "" {
		return bad("hard link to %q: not in this layer", target)
	}
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	defer unix.Close(from)
	var src, dst unix.Stat_t
	if err := unix.Fstatat(from, name, &src, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return bad("hard link to %q: not in this layer", target)
	}
	switch src.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFLNK, unix.S_IFIFO:
	default:
		return bad("hard link to %q: neither file nor symbolic link", target)
	}
	if err := unix.Fstatat(parent, base, &dst, unix.AT_SYMLINK_NOFOLLOW); err == nil && dst.Ino == src.Ino {
		return nil // already the same file; replacing it would lose it
	}
	_, err = u.create(parent, base, false, func() error { return unix.Linkat(from, name, parent, base, 0) })
	return err
}

// What create found in its place.
type replaced int

const (
	wasNothing replaced = iota
	wasDir              // kept, because a directory was wanted
	wasWhiteout
	wasOther
)

// create runs mk; if the name is taken by an earlier entry of this layer, the
// later one wins as in tar, except over a directory that has something in it.
func (u *unpacker) create(parent int, base string, wantDir bool, mk func() error) (replaced, error) {
	err := mk()
	if err == nil {
		return wasNothing, nil
	}
	if err != unix.EEXIST {
		return 0, fmt.Errorf("create: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, fmt.Errorf("stat: %w", err)
	}
	was, flags := wasOther, 0
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if wantDir {
			return wasDir, nil
		}
		flags = unix.AT_REMOVEDIR
	case unix.S_IFCHR:
		was = wasWhiteout
	}
	u.forgetParentUnless(parent)
	if err := unix.Unlinkat(parent, base, flags); err != nil {
		if err == unix.ENOTEMPTY || err == unix.EEXIST {
			return 0, bad("takes the place of a directory that this layer has filled")
		}
		return 0, fmt.Errorf("replace: %w", err)
	}
	if err := mk(); err != nil {
		return 0, fmt.Errorf("create: %w", err)
	}
	return was, nil
}

// times is last: everything before it would change them.
func (u *unpacker) times(parent int, base string, a attrs) error {
	if err := unix.UtimesNanoAt(parent, base, a.times[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

func (u *unpacker) whiteout(dir, base string) error {
	if base == whiteoutOpaque {
		if _, err := u.parent(dir); err != nil {
			return err
		}
		return u.markOpaque(dir)
	}
	if strings.HasPrefix(base, whiteoutMeta) {
		return nil // aufs bookkeeping, layer.md says to ignore it
	}
	name := strings.TrimPrefix(base, whiteoutPrefix)
	if name == "" || name == "." || name == ".." {
		return bad("whiteout of no name")
	}
	parent, err := u.parent(dir)
	if err != nil {
		return err
	}
	path := name
	if dir != "" {
		path = dir + "/" + name
	}
	switch err := unix.Mknodat(parent, name, unix.S_IFCHR, 0); err {
	case nil:
		u.whiteouts = append(u.whiteouts, path)
		return nil
	case unix.EEXIST: // the layer brought its own: it hides what is below
		var st unix.Stat_t
		if err := unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("stat: %w", err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return u.markOpaque(path)
		}
		return nil
	default:
		return fmt.Errorf("make whiteout: %w", err)
	}
}

func (u *unpacker) markOpaque(dir string) error {
	fd, err := u.open(dir, unix.O_RDONLY)
	if err != nil {
		return fmt.Errorf("mark opaque: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Fsetxattr(fd, opaqueXattr, []byte("y"), 0); err != nil {
		return fmt.Errorf("mark opaque: %w", err)
	}
	u.opaque[dir] = true
	u.sum.OpaqueRoot = u.sum.OpaqueRoot || dir == ""
	return nil
}

// finish drops whiteouts under opaque directories, where overlayfs would show
// them, and sets the directories' times.
func (u *unpacker) finish() error {
	if len(u.opaque) > 0 {
		for _, w := range u.whiteouts {
			if err := u.dropHidden(w); err != nil {
				return wrapEntry(w, err)
			}
		}
	}
	for _, d := range slices.Backward(u.dirs) {
		fd, err := u.open(d.path, unix.O_RDONLY)
		if isMissing(err) {
			continue // replaced by a later entry
		}
		if err != nil {
			return wrapEntry(d.path, err)
		}
		// An empty path and AT_EMPTY_PATH need Linux 5.8; "." is the same.
		err = unix.UtimesNanoAt(fd, ".", d.ts[:], 0)
		unix.Close(fd)
		if err != nil {
			return wrapEntry(d.path, fmt.Errorf("set times: %w", err))
		}
	}
	return nil
}

func (u *unpacker) dropHidden(path string) error {
	dir, base := split(path)
	hidden := u.opaque[""]
	for d := dir; d != "" && !hidden; d, _ = split(d) {
		hidden = u.opaque[d]
	}
	if !hidden {
		return nil
	}
	fd, err := u.open(dir, unix.O_PATH)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return nil
	}
	return unix.Unlinkat(fd, base, 0)
}

// paxXattr is what star, GNU tar and Docker put before an attribute's name.
const paxXattr = "SCHILY.xattr."

// keptXattr: user.* and file capabilities; user.overlay.* has a meaning to overlayfs.
func keptXattr(name string) bool {
	return name == "security.capability" ||
		strings.HasPrefix(name, "user.") && len(name) > len("user.") && !strings.HasPrefix(name, "user.overlay.")
}

// xattrs of a header: user.* and file capabilities are kept. Names that overlayfs
// gives a meaning to would let a layer lie about the ones below it.
func xattrsOf(h *tar.Header) ([]xattr, error) {
	var out []xattr
	for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		name, ok := strings.CutPrefix(k, paxXattr)
		if !ok {
			continue
		}
		v := h.PAXRecords[k]
		switch {
		case strings.HasPrefix(name, "trusted."), strings.HasPrefix(name, "user.overlay."):
			return nil, bad("extended attribute %q: refused in an image layer", name)
		case keptXattr(name):
		default:
			continue // labels and ACLs of the machine that made it
		}
		if len(name) > maxName || len(v) > maxXattr {
			return nil, bad("extended attribute of %d bytes named by %d: over %d or %d", len(v), len(name), maxXattr, maxName)
		}
		out = append(out, xattr{name, v})
	}
	return out, nil
}
