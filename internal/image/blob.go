// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// digestBytes is the sha256 digest of b in its text form.
func digestBytes(b []byte) string {
	h := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(h[:])
}

func digestOf(h hash.Hash) string { return "sha256:" + hex.EncodeToString(h.Sum(nil)) }

// checkDigest is the form of every digest before it becomes a file name.
func checkDigest(field, d string) error {
	h, ok := strings.CutPrefix(d, "sha256:")
	if !ok || len(h) != 64 || strings.Trim(h, "0123456789abcdef") != "" {
		return bad("%s %q: must be sha256: and 64 hex digits", field, d)
	}
	return nil
}

func hexOf(digest string) string { return strings.TrimPrefix(digest, "sha256:") }

// dirs is where everything lies.
type dirs struct{ lib string }

func (d dirs) layout() string            { return filepath.Join(d.lib, "blobs") }
func (d dirs) blobs() string             { return filepath.Join(d.lib, "blobs", "blobs", "sha256") }
func (d dirs) blob(digest string) string { return filepath.Join(d.blobs(), hexOf(digest)) }
func (d dirs) layers() string            { return filepath.Join(d.lib, "layers") }
func (d dirs) layer(diffID string) string {
	return filepath.Join(d.layers(), hexOf(diffID))
}
func (d dirs) layerFS(diffID string) string { return filepath.Join(d.layer(diffID), "fs") }
func (d dirs) ingest() string               { return filepath.Join(d.lib, "ingest") }

func (d dirs) make() error {
	for _, p := range []string{d.blobs(), d.layers(), d.ingest()} {
		if err := os.MkdirAll(p, 0o700); err != nil {
			return err
		}
	}
	return nil
}

func (d dirs) haveBlob(digest string) bool {
	_, err := os.Lstat(d.blob(digest))
	return err == nil
}

func (d dirs) haveLayer(diffID string) bool {
	_, err := os.Lstat(d.layerFS(diffID))
	return err == nil
}

// blobWriter takes a blob in: bytes go to a file of ingest/ and through the hash.
type blobWriter struct {
	d    dirs
	f    *os.File
	hash hash.Hash
	size int64
	// limit is the size the blob should have: one byte more is an error. 0 of a
	// blob that nothing is known of = no limit.
	limit int64
}

func (d dirs) newBlob() (*blobWriter, error) {
	f, err := os.CreateTemp(d.ingest(), "blob-")
	if err != nil {
		return nil, err
	}
	return &blobWriter{d: d, f: f, hash: sha256.New()}, nil
}

func (w *blobWriter) Write(p []byte) (int, error) {
	if w.limit > 0 && w.size+int64(len(p)) > w.limit {
		return 0, bad("more than the %d bytes that the manifest says", w.limit)
	}
	n, err := w.f.Write(p)
	w.hash.Write(p[:n])
	w.size += int64(n)
	return n, err
}

// restart throws away what was written.
func (w *blobWriter) restart() error {
	if err := w.f.Truncate(0); err != nil {
		return err
	}
	if _, err := w.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	w.hash.Reset()
	w.size = 0
	return nil
}

func (w *blobWriter) digest() string { return digestOf(w.hash) }

// commit makes the blob durable under its digest and closes w.
func (w *blobWriter) commit() error {
	if err := w.f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(w.f.Name(), w.d.blob(w.digest())); err != nil {
		return err
	}
	if err := w.f.Close(); err != nil {
		return err
	}
	return syncDir(w.d.blobs())
}

// abort removes what commit has not put in place; after commit it does nothing.
func (w *blobWriter) abort() {
	w.f.Close()
	os.Remove(w.f.Name())
}

// putBlob stores small content (a manifest, a configuration).
func (d dirs) putBlob(b []byte) (string, error) {
	digest := digestBytes(b)
	if d.haveBlob(digest) {
		return digest, nil
	}
	w, err := d.newBlob()
	if err != nil {
		return "", err
	}
	defer w.abort()
	if _, err := w.Write(b); err != nil {
		return "", err
	}
	return digest, w.commit()
}

func (d dirs) readBlob(digest string, limit int64) ([]byte, error) {
	f, err := os.Open(d.blob(digest))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readLimited(f, limit, "blob "+digest)
}

func readLimited(r io.Reader, limit int64, what string) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, bad("%s: larger than %d bytes", what, limit)
	}
	return b, nil
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// discard moves path out of sight and removes it. The move is what makes it gone;
// Recover ends what a crash interrupts.
func (d dirs) discard(path string) (finish func() error, err error) {
	tmp, err := os.MkdirTemp(d.ingest(), "trash-")
	if err != nil {
		return nil, err
	}
	err = os.Rename(path, filepath.Join(tmp, "x"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		os.Remove(tmp)
		return nil, fmt.Errorf("remove %s: %w", filepath.Base(path), err)
	}
	return func() error { return os.RemoveAll(tmp) }, nil
}
