// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"context"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/google/uuid"
)

// tools puts programs of this host and the libraries they need into a directory:
// bin/, lib/, and the loader where each program says it is. The agent makes the
// root's bin, lib and lib64 links to them, where Debian's loader looks.
func tools(names []string, dir string) (have []string, err error) {
	for _, d := range []string{"bin", "lib", "lib64"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		path, err := look(name)
		if err != nil {
			continue
		}
		if err := elfFile(path, filepath.Join(dir, "bin", name), dir); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		have = append(have, name)
	}
	if len(have) > 0 && has(have, "busybox") {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin/sh")); err != nil {
			return nil, err
		}
	}
	return have, nil
}

// look is LookPath that also knows where programs for root are.
func look(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, d := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if p, err := exec.LookPath(filepath.Join(d, name)); err == nil {
			return p, nil
		}
	}
	return "", exec.ErrNotFound
}

// elfFile copies a program or library with all it is linked to.
func elfFile(from, to, dir string) error {
	if _, err := os.Lstat(to); err == nil {
		return nil
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to, b, 0o755); err != nil {
		return err
	}
	f, err := elf.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		raw := make([]byte, p.Filesz)
		if _, err := p.ReadAt(raw, 0); err != nil {
			return err
		}
		loader := string(raw[:max(0, len(raw)-1)])
		at := filepath.Join(dir, loader)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		if err := elfFile(loader, at, dir); err != nil {
			return err
		}
	}
	libs, err := f.ImportedLibraries()
	if err != nil {
		return err
	}
	for _, l := range libs {
		path, err := library(l)
		if err != nil {
			return err
		}
		if err := elfFile(path, filepath.Join(dir, "lib", l), dir); err != nil {
			return err
		}
	}
	return nil
}

func library(name string) (string, error) {
	triplet := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]
	for _, d := range []string{"/lib/" + triplet, "/usr/lib/" + triplet, "/usr/lib64", "/lib64", "/usr/lib", "/lib"} {
		p := filepath.Join(d, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", fmt.Errorf("library %s not found", name)
}

// mkfs makes an EROFS of a directory: the same content gives the same file.
func mkfs(ctx context.Context, dir, out string) error {
	_, err := run(ctx, "", "mkfs.erofs", "-zlz4", "-T0", "-U"+uuid.NewSHA1(uuid.NameSpaceURL, []byte("gatehouse:tools")).String(), "--all-root", out, dir)
	return err
}
