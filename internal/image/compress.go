// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"bufio"
	"bytes"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow bounds what a zstd frame makes us allocate. RFC 8878 recommends 8 MiB
// for interchange; --ultra -22 and --long=27 reach 128 MiB.
const maxWindow = 128 << 20

var (
	gzipMagic = []byte{0x1f, 0x8b}             // RFC 1952 section 2.3.1
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd} // RFC 8878 section 3.1.1
)

type compression int

const (
	plain compression = iota
	gzipped
	zstded
)

func sniff(head []byte) compression {
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		return gzipped
	case bytes.HasPrefix(head, zstdMagic):
		return zstded
	}
	return plain
}

// decompress looks at the first bytes of r and undoes gzip or zstd; anything else
// passes as it is.
func decompress(r io.Reader) (io.ReadCloser, compression, error) {
	br := bufio.NewReaderSize(r, 128<<10)
	head, err := br.Peek(4)
	if err != nil && err != io.EOF {
		return nil, plain, err
	}
	switch c := sniff(head); c {
	case gzipped:
		zr, err := gzip.NewReader(br)
		if err != nil {
			return nil, c, badStream(err)
		}
		return zr, c, nil
	case zstded:
		zr, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, c, badStream(err)
		}
		return zr.IOReadCloser(), c, nil
	}
	return io.NopCloser(br), plain, nil
}

// cappedReader fails once more than left bytes were read.
type cappedReader struct {
	r    io.Reader
	left int64
	what string // of the error
}

func (c *cappedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.left -= int64(n); c.left < 0 {
		return 0, bad("%s", c.what)
	}
	return n, err
}
