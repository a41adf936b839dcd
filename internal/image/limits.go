// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import "gatehouse.dev/gatehouse/images"

// Limits bound what one archive may cost. Zero members take the default.
type Limits struct {
	// Entries of one layer, implied directories included. Default 2^20, five times
	// a large distribution.
	Entries int
	// Bytes of one layer: of its uncompressed archive, and of its files. Default 64 GiB.
	Bytes int64
	// Ratio of uncompressed to compressed bytes from RatioFloor on. Default 256 and
	// 256 MiB: deflate can reach 1032, real layers stay below 30.
	Ratio      int64
	RatioFloor int64
	// Layers of one image. Default 256; overlayfs stacks up to 500.
	Layers int
	// ArchiveBytes and ArchiveEntries of what Load takes in. Default 256 GiB, 65536.
	ArchiveBytes   int64
	ArchiveEntries int
}

// Caps that are not ours to move.
const (
	maxPath     = 4095    // PATH_MAX - 1, limits.h
	maxName     = 255     // NAME_MAX, limits.h
	maxXattr    = 65536   // XATTR_SIZE_MAX, linux/limits.h
	maxManifest = 4 << 20 // distribution refuses larger ones
	maxConfig   = 8 << 20 // our choice: the largest seen are some 100 KiB
)

func (l Limits) withDefaults() Limits {
	if l.Entries == 0 {
		l.Entries = 1 << 20
	}
	if l.Bytes == 0 {
		l.Bytes = 64 << 30
	}
	if l.Ratio == 0 {
		l.Ratio = 256
	}
	if l.RatioFloor == 0 {
		l.RatioFloor = 256 << 20
	}
	if l.Layers == 0 {
		l.Layers = 256
	}
	if l.ArchiveBytes == 0 {
		l.ArchiveBytes = 256 << 30
	}
	if l.ArchiveEntries == 0 {
		l.ArchiveEntries = 65536
	}
	return l
}

// budget is how many bytes a layer whose blob has size bytes may unpack to.
func (l Limits) budget(size int64) int64 {
	if size > l.Bytes/l.Ratio {
		return l.Bytes
	}
	return min(l.Bytes, max(l.RatioFloor, size*l.Ratio))
}

func bad(format string, args ...any) error {
	return images.Errorf(images.CodeInvalidData, format, args...)
}
