// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"fmt"
	"io"
)

// cpio writes an archive of the "newc" form (initramfs: buffer-format of the
// kernel's documentation). Every file is root's and of the same day.
type cpio struct {
	w   io.Writer
	ino int
	at  int64
	err error
}

func (c *cpio) entry(name string, mode uint32, rdev [2]uint32, content []byte) {
	c.ino++
	c.bytes(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", c.ino, mode, 0, 0, 1, 0,
		len(content), 0, 0, rdev[0], rdev[1], len(name)+1, 0))
	c.bytes(append([]byte(name), 0))
	c.pad()
	c.bytes(content)
	c.pad()
}

func (c *cpio) bytes(b []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(b)
		c.at += int64(len(b))
	}
}

func (c *cpio) pad() { c.bytes(make([]byte, -c.at&3)) }

func (c *cpio) dir(name string)                  { c.entry(name, 0o040755, [2]uint32{}, nil) }
func (c *cpio) file(name string, content []byte) { c.entry(name, 0o100755, [2]uint32{}, content) }
func (c *cpio) char(name string, rdev [2]uint32) { c.entry(name, 0o020600, rdev, nil) }
func (c *cpio) end() error {
	c.ino = -1
	c.entry("TRAILER!!!", 0, [2]uint32{}, nil)
	return c.err
}
