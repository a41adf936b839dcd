// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
)

// maxUserFile bounds /etc/passwd and /etc/group of an image. Ours: some 50 000 users.
const maxUserFile = 4 << 20

// stack reads files of stacked image layers, topmost first, as overlayfs would
// show them, without a mount. Symbolic links lead nowhere but into the stack.
type stack []string

// read returns a file's content; fs.ErrNotExist if there is none.
func (st stack) read(name string) ([]byte, error) {
	todo := strings.Split(filepath.Clean("/"+name), "/")[1:]
	// dirs[i] are the real directories that make up the i-th merged directory on
	// the way; the last one is where we are.
	dirs := [][]string{st}
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(dirs) > 1 {
				dirs = dirs[:len(dirs)-1]
			}
			continue
		}
		found, merged, err := lookup(dirs[len(dirs)-1], part)
		if err != nil {
			return nil, err
		}
		switch {
		case found == "":
			return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
		case merged != nil:
			dirs = append(dirs, merged)
			continue
		}
		fi, err := os.Lstat(found)
		if err != nil {
			return nil, err
		}
		if fi.Mode().Type() == fs.ModeSymlink {
			if links++; links > 40 { // MAXSYMLINKS, include/linux/namei.h
				return nil, fmt.Errorf("%s: %w", name, syscall.ELOOP)
			}
			to, err := os.Readlink(found)
			if err != nil {
				return nil, err
			}
			if filepath.IsAbs(to) {
				dirs = dirs[:1]
			}
			todo = append(strings.Split(to, "/"), todo...)
			continue
		}
		if !fi.Mode().IsRegular() || len(todo) > 0 {
			return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
		}
		f, err := os.OpenFile(found, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return bounded(f, name)
	}
	return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
}

// lookup finds part in a merged directory: its path when it is no directory, the
// directories that it merges when it is, neither when it is not there.
func lookup(dirs []string, part string) (found string, merged []string, err error) {
	for _, d := range dirs {
		p := filepath.Join(d, part)
		fi, err := os.Lstat(p)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			continue
		}
		if err != nil {
			return "", nil, err
		}
		if !fi.IsDir() {
			switch {
			case merged != nil: // a file below a directory ends the merge
				return merged[0], merged, nil
			case whiteout(fi):
				return "", nil, nil
			}
			return p, nil, nil
		}
		merged = append(merged, p)
		if opaque(p) {
			break
		}
	}
	if merged != nil {
		return merged[0], merged, nil
	}
	return "", nil, nil
}

// whiteout: the file is removed by this layer, Documentation/filesystems/overlayfs.rst.
func whiteout(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && fi.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0
}

func opaque(dir string) bool {
	for _, name := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
		b := make([]byte, 1)
		if n, err := syscall.Getxattr(dir, name, b); err == nil && n == 1 && b[0] == 'y' {
			return true
		}
	}
	return false
}

func bounded(r io.Reader, name string) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxUserFile+1))
	if err == nil && len(b) > maxUserFile {
		err = fmt.Errorf("%s: over %d bytes", name, maxUserFile)
	}
	return b, err
}

// readInRoot reads a file below root, a root file system that others may change
// meanwhile; links lead nowhere but below root.
func readInRoot(root, name string) ([]byte, error) {
	h, err := pathrs.OpenInRoot(root, name)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	fi, err := h.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	f, err := pathrs.Reopen(h, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return bounded(f, name)
}

// userFiles reads /etc/passwd and /etc/group; absent ones are empty.
func userFiles(read func(string) ([]byte, error)) (passwd, group []byte, err error) {
	for name, to := range map[string]*[]byte{"etc/passwd": &passwd, "etc/group": &group} {
		b, err := read(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, fmt.Errorf("read /%s of the container: %w", name, err)
		}
		*to = b
	}
	return passwd, group, nil
}
