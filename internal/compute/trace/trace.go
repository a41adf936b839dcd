// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package trace tells which files of a file system are opened: those of a
// container, seen from outside, from before its first instruction on.
//
// It uses fanotify, which does not see what only looks at a file's attributes or
// follows a link (stat, access, readlink).
package trace

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Session tells of one file system until it is closed.
type Session struct {
	f    *os.File
	told map[string]bool
}

// Start watches the file system that holds path, whoever mounted it where.
func Start(path string) (*Session, error) {
	// The queue's bound is that of what happens to be running, times what a user
	// waits: none of ours would be right, and an event that is lost is a file lost.
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK|unix.FAN_UNLIMITED_QUEUE,
		unix.O_RDONLY|unix.O_LARGEFILE|unix.O_CLOEXEC|unix.O_NOATIME|unix.O_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch files: fanotify: %w", err)
	}
	s := &Session{f: os.NewFile(uintptr(fd), "fanotify"), told: map[string]bool{}}
	const what = unix.FAN_OPEN | unix.FAN_OPEN_EXEC | unix.FAN_ONDIR
	if err := unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, what, unix.AT_FDCWD, path); err != nil {
		s.Close()
		return nil, fmt.Errorf("watch files of %s: %w", path, err)
	}
	return s, nil
}

// Next waits for files that were not opened before, and answers their paths in the
// file system. What happened before it is called is answered even when ctx has
// ended; then, and after Close, comes an error.
func (s *Session) Next(ctx context.Context) ([]string, error) {
	stop := context.AfterFunc(ctx, func() { _ = s.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 64<<10)
	for {
		n, err := s.f.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// It may have been an earlier call's. First this, then the look at ctx: one
			// that ends later sets a new deadline.
			if err := s.f.SetReadDeadline(time.Time{}); err != nil {
				return nil, fmt.Errorf("watch files: %w", err)
			}
			if ctx.Err() == nil {
				continue
			}
			// A deadline hides what is there already.
			if n, err = unix.Read(int(s.f.Fd()), buf); err != nil || n <= 0 {
				return nil, ctx.Err()
			}
		}
		if err != nil {
			return nil, fmt.Errorf("watch files: %w", err)
		}
		paths, err := s.paths(buf[:n])
		if len(paths) > 0 || err != nil {
			return paths, err
		}
	}
}

// metadataSize is that of struct fanotify_event_metadata, linux/fanotify.h.
const metadataSize = 24

// paths reads events: length u32, version u8, reserved u8, metadata length u16,
// mask u64, descriptor s32, process s32.
func (s *Session) paths(b []byte) (out []string, err error) {
	for len(b) >= metadataSize {
		size := binary.NativeEndian.Uint32(b)
		if size < metadataSize || int(size) > len(b) {
			return out, fmt.Errorf("watch files: an event of %d bytes in %d", size, len(b))
		}
		mask, fd := binary.NativeEndian.Uint64(b[8:]), int32(binary.NativeEndian.Uint32(b[16:]))
		b = b[size:]
		if mask&unix.FAN_Q_OVERFLOW != 0 {
			err = errors.New("watch files: more were opened than the kernel could tell")
		}
		if fd < 0 {
			continue
		}
		p, e := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(fd)))
		unix.Close(int(fd))
		if e != nil {
			err = errors.Join(err, e)
		} else if !s.told[p] {
			s.told[p] = true
			out = append(out, p)
		}
	}
	return out, err
}

// Close ends the session.
func (s *Session) Close() error { return s.f.Close() }
