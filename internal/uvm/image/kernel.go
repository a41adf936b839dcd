// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os/exec"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// maxUnpacked bounds what a compressed kernel or module may become.
const maxUnpacked = 512 << 20

// plainKernel is the kernel as QEMU starts it fastest: uncompressed. On amd64 an
// ELF file, entered through PVH; on arm64 an Image.
func plainKernel(raw []byte, goarch string) ([]byte, error) {
	if goarch == "amd64" && !bytes.HasPrefix(raw, []byte("\x7fELF")) {
		payload, err := bzImagePayload(raw)
		if err != nil {
			return nil, err
		}
		raw = payload
	}
	plain, err := decompress(raw)
	if err != nil {
		return nil, err
	}
	switch {
	case goarch == "amd64" && !bytes.HasPrefix(plain, []byte("\x7fELF")):
		return nil, errors.New("what is in the bzImage is no ELF file")
	case goarch == "arm64" && (len(plain) < 64 || string(plain[56:60]) != "ARM\x64"):
		return nil, errors.New("no arm64 Image")
	}
	return plain, nil
}

// bzImagePayload finds the compressed kernel by the header of the x86 boot
// protocol (2.08 and later): payload_offset counts from the protected-mode code,
// which follows setup_sects+1 sectors.
func bzImagePayload(b []byte) ([]byte, error) {
	if len(b) < 0x250 || string(b[0x202:0x206]) != "HdrS" || binary.LittleEndian.Uint16(b[0x206:]) < 0x208 {
		return nil, errors.New("no bzImage of boot protocol 2.08 or later")
	}
	sects := int64(b[0x1f1])
	if sects == 0 {
		sects = 4
	}
	from := (sects+1)*512 + int64(binary.LittleEndian.Uint32(b[0x248:]))
	to := from + int64(binary.LittleEndian.Uint32(b[0x24c:]))
	if to > int64(len(b)) || from >= to {
		return nil, fmt.Errorf("bzImage: its payload is said to be at %d to %d of %d bytes", from, to, len(b))
	}
	return b[from:to], nil
}

// decompress by the magic; bytes without one that it knows are plain. What
// follows the stream (a kernel's payload ends with its size) is ignored.
func decompress(b []byte) ([]byte, error) {
	is := func(magic string) bool { return bytes.HasPrefix(b, []byte(magic)) }
	switch {
	case is("\x1f\x8b"):
		r, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		r.Multistream(false)
		return readAll(r)
	case is("\x28\xb5\x2f\xfd"):
		r, err := zstd.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		defer r.Close()
		out, err := readAll(r)
		if len(out) > 0 && errors.Is(err, zstd.ErrMagicMismatch) {
			err = nil // the size after the stream
		}
		return out, err
	case is("\x02\x21\x4c\x18") && len(b) > 8:
		return readAll(lz4.NewReader(bytes.NewReader(b[:len(b)-4])))
	case is("\xfd7zXZ\x00"):
		// Kernels use the x86 filter, which no Go library has.
		c := exec.Command("xz", "-dc", "--single-stream")
		c.Stdin = bytes.NewReader(b)
		var errs bytes.Buffer
		c.Stderr = &errs
		out, err := c.Output()
		if err != nil {
			return nil, fmt.Errorf("xz: %w: %s", err, bytes.TrimSpace(errs.Bytes()))
		}
		return out, nil
	}
	return b, nil
}

func readAll(r io.Reader) ([]byte, error) {
	out, err := io.ReadAll(io.LimitReader(r, maxUnpacked+1))
	if len(out) > maxUnpacked {
		return nil, fmt.Errorf("larger than %d MiB", maxUnpacked>>20)
	}
	return out, err
}
