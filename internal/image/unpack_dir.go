// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"archive/tar"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// attrs is what a file gets besides its content.
type attrs struct {
	uid, gid int
	mode     uint32 // permission bits with setuid, setgid, sticky
	times    [2]unix.Timespec
	xattrs   []xattr
}

type xattr struct{ name, value string }

func attrsOf(h *tar.Header) (attrs, error) {
	// (uid_t)-1 means "leave it" to chown, uid_t is 32 bits.
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= 1<<32-1 || int64(h.Gid) >= 1<<32-1 {
		return attrs{}, bad("owner %d:%d is out of range", h.Uid, h.Gid)
	}
	a := attrs{uid: h.Uid, gid: h.Gid, mode: uint32(h.Mode) & 0o7777}
	if !h.ModTime.IsZero() {
		ts := unix.Timespec{Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond())}
		a.times = [2]unix.Timespec{ts, ts}
	}
	var err error
	a.xattrs, err = xattrsOf(h)
	return a, err
}

// apply sets everything but times on an open file or directory. The order is the
// kernel's: chown clears setuid bits and capabilities.
func (a attrs) apply(fd int) error {
	if err := unix.Fchown(fd, a.uid, a.gid); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	if err := unix.Fchmod(fd, a.mode); err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	for _, x := range a.xattrs {
		switch err := unix.Fsetxattr(fd, x.name, []byte(x.value), 0); {
		case err == nil:
		case err == unix.EINVAL:
			return bad("extended attribute %q: the kernel refuses its value", x.name)
		default:
			return fmt.Errorf("set extended attribute %q: %w", x.name, err)
		}
	}
	return nil
}

// open opens a directory of the layer; symbolic links on the way are followed as
// if the layer were the root, so none leads out.
func (u *unpacker) open(dir string, flags uint64) (int, error) {
	if dir == "" {
		dir = "."
	}
	how := unix.OpenHow{
		Flags:   flags | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	for range 1000 {
		fd, err := unix.Openat2(u.root, dir, &how)
		// EAGAIN: somebody renamed anywhere while a ".." of a link was resolved,
		// openat2(2).
		if err == unix.EAGAIN || err == unix.EINTR {
			continue
		}
		if err == unix.ENOSYS {
			return -1, errors.New("unpacking image layers requires Linux 5.6 (openat2)")
		}
		return fd, err
	}
	return -1, unix.EAGAIN
}

func (u *unpacker) resolve(dir string) (int, error) { return u.open(dir, unix.O_PATH) }

func isMissing(err error) bool {
	return err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP
}

func (u *unpacker) forgetParent() {
	if u.haveParent {
		unix.Close(u.parentFD)
		u.haveParent = false
	}
}

// forgetParentUnless makes the next entry look its directory up again, because a
// name is about to be replaced; the descriptor in use stays open until then.
func (u *unpacker) forgetParentUnless(fd int) {
	if u.haveParent && u.parentFD == fd {
		u.parentName = "\x00" // no directory's name
		return
	}
	u.forgetParent()
}

// parent answers a descriptor of dir, making what is missing of it. It belongs to
// u and lives until the next call.
func (u *unpacker) parent(dir string) (int, error) {
	if u.haveParent && u.parentName == dir {
		return u.parentFD, nil
	}
	u.forgetParent()
	fd, err := u.resolve(dir)
	if isMissing(err) {
		fd, err = u.imply(dir)
	}
	if err != nil {
		if isMissing(err) {
			return -1, bad("its directory %q is reached through a file or a symbolic link that leads nowhere", dir)
		}
		return -1, fmt.Errorf("open directory %q: %w", dir, err)
	}
	u.parentName, u.parentFD, u.haveParent = dir, fd, true
	return fd, nil
}

// imply makes the directories of dir that no entry has brought.
func (u *unpacker) imply(dir string) (int, error) {
	cur, err := u.resolve("")
	if err != nil {
		return -1, err
	}
	for i := 0; i <= len(dir); i++ {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		path := dir[:i]
		next, err := u.resolve(path)
		if isMissing(err) {
			_, base := split(path)
			err = u.implyOne(cur, base, path)
			if err == nil {
				next, err = u.resolve(path)
			}
		}
		unix.Close(cur)
		if err != nil {
			return -1, err
		}
		cur = next
	}
	return cur, nil
}

func (u *unpacker) implyOne(parent int, base, path string) error {
	if err := u.count(1); err != nil {
		return err
	}
	err := unix.Mkdirat(parent, base, 0o755)
	whiteout := false
	if err == unix.EEXIST {
		var st unix.Stat_t
		if unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR {
			if err := unix.Unlinkat(parent, base, 0); err != nil {
				return err
			}
			whiteout, err = true, unix.Mkdirat(parent, base, 0o755)
		} else {
			return unix.ENOTDIR
		}
	}
	if err != nil {
		return err
	}
	if err := unix.Fchmodat(parent, base, 0o755, 0); err != nil { // whatever our umask
		return err
	}
	if whiteout {
		return u.markOpaque(path)
	}
	return nil
}
