// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package proto

import (
	"encoding/binary"
	"io"
)

// Unreader is a Conn that takes bytes back: they come first in the next session.
type Unreader interface{ Unread([]byte) }

// frames watches the multiplexer's frames on their way to the guest. A host that
// went and came back so quickly that nobody saw it begins with a Hello, where a
// frame would begin: there the session ends, and the Hello is kept for the next.
type frames struct {
	Conn
	head []byte // of a header that is not whole yet
	skip uint32 // bytes of the frame still to come
	over bool
}

// Of yamux's specification: version, type, flags, stream, length; the version is 0,
// and only frames of type data have a body.
const (
	frameHeader = 12
	typeData    = 0
)

func (f *frames) Read(b []byte) (int, error) {
	if f.over {
		return 0, io.EOF
	}
	n, err := f.Conn.Read(b)
	for i := 0; i < n; {
		switch {
		case f.skip > 0:
			step := min(f.skip, uint32(n-i))
			f.skip -= step
			i += int(step)
		case len(f.head) == 0 && b[i] == hostMagic[0]:
			f.over = true
			if u, ok := f.Conn.(Unreader); ok {
				u.Unread(append([]byte(nil), b[i:n]...))
			}
			if i == 0 {
				return 0, io.EOF
			}
			return i, nil
		default:
			f.head = append(f.head, b[i])
			i++
			if len(f.head) == frameHeader {
				if f.head[1] == typeData {
					f.skip = binary.BigEndian.Uint32(f.head[8:])
				}
				f.head = f.head[:0]
			}
		}
	}
	return n, err
}
