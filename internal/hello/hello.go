// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package hello is the image gatehouse/hello: one static program of ours
// (cmd/hello) and the few files a root file system needs. It ships inside the
// binary, so that a first container needs no registry.
//
// The program is built before the binary that embeds it; the Makefile puts it at
// bin/hello-<architecture>. A binary built without it says so when asked.
package hello

import (
	"archive/tar"
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

//go:embed all:bin
var bin embed.FS

// Name under which the image is known.
const Name = "docker.io/gatehouse/hello:latest"

// ErrNotBuilt: this binary does not hold the program.
var ErrNotBuilt = errors.New("this gatehouse was built without the hello image; run make")

// Image makes the image for an architecture (a GOARCH). The same program makes the
// same digests.
func Image(arch string) (v1.Image, error) {
	program, err := bin.ReadFile("bin/hello-" + arch)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("gatehouse/hello for %s: %w", arch, ErrNotBuilt)
	}
	if err != nil {
		return nil, fmt.Errorf("gatehouse/hello for %s: %w", arch, err)
	}
	return FromProgram(program, arch)
}

// FromProgram is Image of any static program.
func FromProgram(program []byte, arch string) (v1.Image, error) {
	archive, err := rootfs(program)
	if err != nil {
		return nil, fmt.Errorf("hello image: %w", err)
	}
	// Uncompressed: it never crosses a wire, and is unpacked at once.
	layer := static.NewLayer(archive, types.OCIUncompressedLayer)
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if img, err = mutate.Append(img, mutate.Addendum{Layer: layer, MediaType: types.OCIUncompressedLayer,
		History: v1.History{CreatedBy: "gatehouse", Comment: "cmd/hello"}}); err != nil {
		return nil, fmt.Errorf("hello image: %w", err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("hello image: %w", err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", arch
	cfg.Created = v1.Time{Time: epoch}
	cfg.Config = v1.Config{
		Entrypoint:   []string{"/hello"},
		Cmd:          []string{"serve"},
		Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/"},
		WorkingDir:   "/",
		ExposedPorts: map[string]struct{}{"80/tcp": {}, "7/tcp": {}, "7/udp": {}},
	}
	return mutate.ConfigFile(img, cfg)
}

// epoch of every file: a fixed day, so that digests depend on content alone.
var epoch = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

func rootfs(program []byte) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	put := func(name string, mode int64, content string) error {
		h := &tar.Header{Name: name, Mode: mode, ModTime: epoch, Format: tar.FormatUSTAR}
		if content == "" {
			h.Typeflag = tar.TypeDir
		} else {
			h.Typeflag, h.Size = tar.TypeReg, int64(len(content))
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.WriteString(w, content)
		return err
	}
	err := errors.Join(
		put("./", 0o755, ""),
		put("dev/", 0o755, ""),
		put("etc/", 0o755, ""),
		put("etc/passwd", 0o644, "root:x:0:0:root:/root:/hello\nnobody:x:65534:65534:nobody:/:/hello\n"),
		put("etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n"),
		put("etc/nsswitch.conf", 0o644, "hosts: files dns\n"),
		put("hello", 0o755, string(program)),
		put("proc/", 0o555, ""),
		put("root/", 0o700, ""),
		put("sys/", 0o555, ""),
		put("tmp/", 0o1777, ""),
		put("var/", 0o755, ""),
		w.Close())
	return buf.Bytes(), err
}
