// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package uvm

import (
	"encoding/json"
	"os"

	"golang.org/x/sys/unix"
)

// duplicate returns a file of its own whose Close ends a read or write under way.
func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// socketPair stands for a terminal whose real one is in the guest.
func socketPair() (a, b *os.File, err error) {
	sp, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(sp[0]), "console"), os.NewFile(uintptr(sp[1]), "console"), nil
}

func marshal(v any) (json.RawMessage, error) { return json.Marshal(v) }
