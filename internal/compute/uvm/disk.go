// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package uvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcs"
)

// scratchBytes is the apparent size of a writable disk; it takes what is written.
const scratchBytes = 20 << 30

// Disks makes the disks of machines.
type Disks struct {
	// Dir has the template of scratches, Layers is where unpacked image layers are,
	// each in a directory of its own.
	Dir, Layers string

	mu     sync.Mutex // guards the rest
	making map[string]chan struct{}
}

// Layer returns the EROFS file of an image layer: the layer itself if it is one,
// else one beside the unpacked directory, which is made at the first time and goes
// with it.
func (d *Disks) Layer(ctx context.Context, layer string) (string, error) {
	st, err := os.Stat(layer)
	if err != nil {
		return "", err
	}
	rel, err := filepath.Rel(d.Layers, layer)
	switch {
	case st.Mode().IsRegular():
		return layer, nil // the guest finds out whether it is EROFS
	case err != nil || !filepath.IsLocal(rel):
		return "", &hcs.Error{Code: hcs.CodeInvalidLayer, Message: layer + ": a utility VM takes image layers as EROFS files; make one with mkfs.erofs"}
	}
	to := layer + ".erofs"
	return to, d.once(ctx, to, func(tmp string) error {
		id := uuid.NewSHA1(uuid.NameSpaceOID, []byte(rel)) // the same content is the same file
		return tool(ctx, "erofs-utils", "mkfs.erofs", "-zlz4", "-T0", "-U"+id.String(), "--quiet", tmp, layer)
	})
}

// Scratch makes an empty writable disk.
func (d *Disks) Scratch(ctx context.Context, path string) error {
	template := filepath.Join(d.Dir, fmt.Sprintf("scratch-%d.ext4", scratchBytes>>30))
	err := d.once(ctx, template, func(tmp string) error {
		full := tmp + ".full" // mkfs writes zeroes, which the copy leaves out
		defer os.Remove(full)
		f, err := os.OpenFile(full, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Truncate(scratchBytes), f.Close()); err != nil {
			return err
		}
		if err := tool(ctx, "e2fsprogs", "mkfs.ext4", "-q", "-E", "lazy_itable_init=0,nodiscard", "-O", "^has_journal,sparse_super2,^resize_inode", full); err != nil {
			return err
		}
		return copySparse(tmp, full)
	})
	if err != nil {
		return err
	}
	return copySparse(path, template)
}

// once makes a file under a name of its own and puts it in its place when it is
// whole. Several who want it wait for one.
func (d *Disks) once(ctx context.Context, to string, fill func(tmp string) error) error {
	for {
		if _, err := os.Stat(to); err == nil {
			return nil
		}
		d.mu.Lock()
		busy := d.making[to]
		if busy == nil {
			if d.making == nil {
				d.making = map[string]chan struct{}{}
			}
			d.making[to] = make(chan struct{})
		}
		d.mu.Unlock()
		if busy == nil {
			break
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer func() {
		d.mu.Lock()
		close(d.making[to])
		delete(d.making, to)
		d.mu.Unlock()
	}()
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	tmp := to + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := fill(tmp); err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	return os.Rename(tmp, to)
}

func tool(ctx context.Context, pkg, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return &hcs.Error{Code: hcs.CodeHypervNotInstalled, Message: fmt.Sprintf("%s is missing: apt install %s", name, pkg)}
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// copySparse copies a file, without its holes and blocks of zeroes.
func copySparse(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, out.Close()); err != nil {
			err = errors.Join(err, os.Remove(to))
		}
	}()
	if err := out.Truncate(st.Size()); err != nil {
		return err
	}
	buf, zero := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); at < st.Size(); {
		data, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO { // nothing but a hole is left
			return nil
		}
		if err != nil {
			return err
		}
		hole, err := unix.Seek(int(in.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		for at = data; at < hole; {
			n, err := in.ReadAt(buf[:min(int64(len(buf)), hole-at)], at)
			if n == 0 && err != nil && err != io.EOF {
				return err
			}
			if !bytes.Equal(buf[:n], zero[:n]) {
				if _, err := out.WriteAt(buf[:n], at); err != nil {
					return err
				}
			}
			at += int64(n)
		}
	}
	return nil
}
