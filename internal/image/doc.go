// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package image keeps images: it pulls them from registries, takes archives in and
// writes them, and unpacks image layers to directories that overlayfs stacks.
//
//	<lib>/blobs/oci-layout, index.json   written after each change, for other tools; never read
//	<lib>/blobs/blobs/sha256/<hex>       manifests, configurations, layers as they came
//	<lib>/layers/<diffID hex>/fs         one unpacked image layer, shared, never changed
//	<lib>/ingest/                        what is still arriving
//
// The rows are the truth (store buckets images, layers, image-uses): a file that
// no row names is removed by Recover and a file is in its place before the row
// that names it. A verb that fails leaves nothing.
//
// Unpacking is a security border. An archive may hold anything; it touches only
// what is under its own new directory (openat2 with RESOLVE_IN_ROOT on directory
// descriptors), makes no device node, and is bounded by Limits.
//
// Be aware:
//   - a layer directory is in overlayfs format: a whiteout is a character device
//     0:0, an opaque directory has trusted.overlay.opaque=y. Both need root and a
//     file system that takes them (ext4, xfs, btrfs; not overlayfs itself).
//   - layers are unpacked each for itself, so a directory that a layer implies but
//     does not hold gets mode 0755 and root, as Docker's overlay2 does.
package image
