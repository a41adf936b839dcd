// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Source says where the kernel comes from: a package of this host's distribution
// (Debian's names; "" = its kernel for clouds), a package file, this host's own
// kernel, or Kernel with the directory of its Modules.
type Source struct {
	// Architecture is a GOARCH; "" = this host's.
	Architecture string
	Package      string
	Deb          string
	Host         bool
	Kernel       string
	Modules      string
}

func (s Source) check() error {
	n := 0
	for _, given := range []bool{s.Package != "", s.Deb != "", s.Host, s.Kernel != "" || s.Modules != ""} {
		if given {
			n++
		}
	}
	switch {
	case n > 1:
		return fmt.Errorf("more than one kernel given; name one: a package, a package's file, the host's own, or a kernel with its modules: %w", errdefs.ErrInvalidArgument)
	case (s.Kernel == "") != (s.Modules == ""):
		return fmt.Errorf("a kernel needs the directory of its modules, and these their kernel: %w", errdefs.ErrInvalidArgument)
	case s.Host && s.arch() != runtime.GOARCH:
		return fmt.Errorf("this host's own kernel is %s, not %s: %w", runtime.GOARCH, s.arch(), errdefs.ErrInvalidArgument)
	}
	_, err := archOf(s.arch())
	return err
}

func (s Source) arch() string {
	if s.Architecture == "" {
		return runtime.GOARCH
	}
	return s.Architecture
}

// arch is what depends on the architecture.
type arch struct {
	deb     string // Debian's name
	cmdline string
}

const cmdline = "quiet panic=-1 random.trust_cpu=on"

func archOf(goarch string) (arch, error) {
	switch goarch {
	case "amd64":
		// reboot=t: a triple fault ends the machine, whatever the kernel's state.
		return arch{"amd64", "console=ttyS0 " + cmdline + " reboot=t tsc=reliable"}, nil
	case "arm64":
		return arch{"arm64", "console=ttyAMA0 " + cmdline}, nil
	}
	return arch{}, fmt.Errorf("no utility VM for architecture %q; known: amd64, arm64: %w", goarch, errdefs.ErrInvalidArgument)
}

// files are a kernel and its modules, unpacked.
type files struct {
	kernel  string // as the distribution has it
	modules string // lib/modules/<version>
	version string
}

// fetch brings the kernel; what it must unpack goes into work.
func (s Source) fetch(ctx context.Context, work string, progress func(string)) (files, error) {
	switch {
	case s.Kernel != "":
		return files{s.Kernel, s.Modules, filepath.Base(filepath.Clean(s.Modules))}, nil
	case s.Host:
		var u unix.Utsname
		if err := unix.Uname(&u); err != nil {
			return files{}, err
		}
		v := unix.ByteSliceToString(u.Release[:])
		f := files{filepath.Join("/boot", "vmlinuz-"+v), filepath.Join("/lib/modules", v), v}
		for _, p := range []string{f.kernel, f.modules} {
			if _, err := os.Stat(p); err != nil {
				return files{}, fmt.Errorf("this host's own kernel: %w; name a package instead", err)
			}
		}
		return f, nil
	}
	deb := s.Deb
	if deb == "" {
		var err error
		if deb, err = s.download(ctx, work, progress); err != nil {
			return files{}, err
		}
	}
	root := filepath.Join(work, "package")
	progress("unpacking " + filepath.Base(deb))
	if _, err := run(ctx, "", "dpkg-deb", "-x", deb, root); err != nil {
		return files{}, err
	}
	modules, err := one(filepath.Join(root, "lib/modules/*"), filepath.Join(root, "usr/lib/modules/*"))
	if err != nil {
		return files{}, fmt.Errorf("%s: modules: %w", filepath.Base(deb), err)
	}
	v := filepath.Base(modules)
	kernel, err := one(filepath.Join(root, "boot/vmlinu?-"+v), filepath.Join(modules, "vmlinuz"))
	if err != nil {
		return files{}, fmt.Errorf("%s: kernel: %w", filepath.Base(deb), err)
	}
	return files{kernel, modules, v}, nil
}

// download lets apt bring and verify the package.
func (s Source) download(ctx context.Context, work string, progress func(string)) (string, error) {
	a, err := archOf(s.arch())
	if err != nil {
		return "", err
	}
	name := s.Package
	if name == "" {
		name = "linux-image-cloud-" + a.deb
	}
	// Another architecture's packages are looked up beside the host's own lists,
	// which do not change.
	var apt []string
	if s.arch() != runtime.GOARCH {
		for _, d := range []string{"lists/partial", "cache"} {
			if err := os.MkdirAll(filepath.Join(work, d), 0o755); err != nil {
				return "", err
			}
		}
		apt = []string{"-o", "APT::Architecture=" + a.deb, "-o", "APT::Architectures=" + a.deb,
			"-o", "Dir::State::Lists=" + filepath.Join(work, "lists"), "-o", "Dir::Cache=" + filepath.Join(work, "cache")}
		progress("looking up packages of " + a.deb)
		if _, err := run(ctx, work, "apt-get", append(apt, "-q", "update")...); err != nil {
			return "", err
		}
	}
	hint := "; see that apt knows it (apt-get update), or give a package's file"
	// A package without files names the one that has them.
	deps, err := run(ctx, "", "apt-cache", append(apt, "depends", name)...)
	if err != nil {
		return "", fmt.Errorf("%w%s", err, hint)
	}
	for line := range strings.Lines(deps) {
		if d, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: linux-image-"); ok {
			name = "linux-image-" + d
			break
		}
	}
	progress("downloading " + name)
	if _, err := run(ctx, work, "apt-get", append(apt, "-q", "download", name)...); err != nil {
		return "", fmt.Errorf("%w%s", err, hint)
	}
	return one(filepath.Join(work, "*.deb"))
}

// one finds the only match of the first pattern that has any.
func one(patterns ...string) (string, error) {
	for _, p := range patterns {
		m, err := filepath.Glob(p)
		if err != nil {
			return "", err
		}
		if len(m) == 1 {
			return m[0], nil
		}
		if len(m) > 1 {
			return "", fmt.Errorf("%d files match %s", len(m), filepath.Base(p))
		}
	}
	return "", fmt.Errorf("nothing matches %s: %w", strings.Join(patterns, " or "), fs.ErrNotExist)
}

// run returns what a program printed; its error has the last of what it complained.
func run(ctx context.Context, dir, name string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = dir
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("%s is not installed: %w", name, errdefs.ErrFailedPrecondition)
	case err != nil:
		lines := strings.Split(strings.TrimSpace(errs.String()), "\n")
		return "", fmt.Errorf("%s: %w: %s", name, err, lines[len(lines)-1])
	}
	return string(out), nil
}
