// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package api

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// maxSocketPath is sizeof(sockaddr_un.sun_path) less the terminator, unix(7).
const maxSocketPath = 107

// Listen makes the API socket: owner root, group the one named (-1 = the daemon's
// own), mode 0660, or 0666 with open, where the server decides by itself. The socket is made in a private directory and renamed into
// place, so that nobody can connect before its mode is right, and the socket that
// a dead daemon left is replaced. One that still answers is an error.
func Listen(path string, gid int, open bool) (*net.UnixListener, error) {
	if len(path)+len("/.s/s") > maxSocketPath {
		return nil, fmt.Errorf("socket path %s: longer than %d bytes; choose a shorter --root or --socket", path, maxSocketPath-len("/.s/s"))
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("make socket directory: %w", err)
	}
	switch fi, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("socket %s: %w", path, err)
	case fi.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("socket %s: a %s is in the way; remove it or choose another --socket", path, kindOf(fi.Mode()))
	default:
		c, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			c.Close()
			return nil, fmt.Errorf("another daemon answers on %s; stop it or choose another --socket", path)
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("socket %s: %w", path, err)
		}
	}
	private := filepath.Join(dir, ".s")
	if err := os.RemoveAll(private); err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	if err := os.Mkdir(private, 0o700); err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	defer os.RemoveAll(private)
	tmp := filepath.Join(private, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false) // it will have moved
	err = errors.Join(os.Chown(tmp, -1, gid), SetMode(tmp, open))
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	return l, nil
}

// SetMode says who may connect at all: root and the socket's group, or with open
// everybody.
func SetMode(path string, open bool) error {
	mode := os.FileMode(0o660)
	if open {
		mode = 0o666
	}
	return os.Chmod(path, mode)
}

func kindOf(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "directory"
	case m.Type() == fs.ModeSymlink:
		return "symbolic link"
	}
	return "file"
}

// GroupID looks up the group that may use the socket; -1 if there is none of that name.
func GroupID(name string) int {
	g, err := user.LookupGroup(name)
	if err != nil {
		return -1
	}
	id, err := strconv.Atoi(g.Gid)
	if err != nil {
		return -1
	}
	return id
}
