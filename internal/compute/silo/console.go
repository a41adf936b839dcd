// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package silo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// consoleSocket is where the runtime hands over the master of a terminal (OCI
// runtime command line, --console-socket).
type consoleSocket struct {
	l    *net.UnixListener
	path string
}

func listenConsole(dir, name string) (*consoleSocket, error) {
	l, err := ListenUnix(dir, name)
	if err != nil {
		return nil, err
	}
	return &consoleSocket{l, filepath.Join(dir, name)}, nil
}

// ListenUnix listens on dir/name whatever the length of dir: a socket's address
// holds 108 bytes (unix(7)). The file is not removed by Close.
func ListenUnix(dir, name string) (*net.UnixListener, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name)})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", filepath.Join(dir, name), err)
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

// Close stops listening and removes the file.
func (c *consoleSocket) Close() error {
	return errors.Join(c.l.Close(), os.Remove(c.path))
}

func (c *consoleSocket) receive(ctx context.Context) (*os.File, error) {
	limit := time.Now().Add(time.Minute) // as long as the runtime may take
	if d, ok := ctx.Deadline(); ok && d.Before(limit) {
		limit = d
	}
	_ = c.l.SetDeadline(limit)
	conn, err := c.l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(limit)
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, err
	}
	fds, err := rights(oob[:n])
	if err != nil {
		return nil, err
	}
	if len(fds) != 1 {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, fmt.Errorf("%d descriptors", len(fds))
	}
	// In the poller, so that Close ends a Read.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "console"), nil
}

func rights(oob []byte) ([]int, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_RIGHTS {
			f, err := unix.ParseUnixRights(&m)
			if err != nil {
				return nil, err
			}
			fds = append(fds, f...)
		}
	}
	return fds, nil
}

// Resize sets the size of a terminal by its master.
func Resize(console *os.File, height, width uint16) error {
	raw, err := console.SyscallConn()
	if err != nil {
		return err
	}
	err2 := raw.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width})
	})
	return errors.Join(err, err2)
}
