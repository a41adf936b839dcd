// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package image is the catalogue of utility-VM images: a directory for each, with
// a kernel, an initrd whose init is the guest agent, a disk of tools, and
// image.json which says what they are. Build makes one from a distribution's
// kernel. An image is never changed: building again under its name puts another
// in its place, and machines that run keep the files they have open.
package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// DefaultName of the image that a machine gets which names none.
const DefaultName = "default"

// Image is image.json. Kernel, Initrd and Tools are names of files beside it.
type Image struct {
	Name          string
	OS            string // linux, as images of containers say it
	Architecture  string // a GOARCH
	KernelVersion string
	Kernel        string
	Initrd        string
	Tools         string // "" = none
	// Cmdline is what this kernel needs on every host; what depends on the host
	// comes from who starts it.
	Cmdline string
	// Features: erofs, virtiofs, overlay, seccomp, crun.
	Features     []string
	AgentVersion string // digest of the agent
	Digest       string // of kernel, initrd and tools

	dir string
}

// KernelPath, InitrdPath and ToolsPath are absolute when the catalogue's is.
func (i Image) KernelPath() string { return filepath.Join(i.dir, i.Kernel) }
func (i Image) InitrdPath() string { return filepath.Join(i.dir, i.Initrd) }

// Dir of the image.
func (i Image) Dir() string { return i.dir }

// ToolsPath is "" for an image without tools.
func (i Image) ToolsPath() string {
	if i.Tools == "" {
		return ""
	}
	return filepath.Join(i.dir, i.Tools)
}

// Catalogue is the directory of all images.
type Catalogue struct{ Dir string }

var nameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

func checkName(name string) error {
	if !nameRule.MatchString(name) {
		return fmt.Errorf("utility-VM image %q: a name is 1 to 64 of A-Z a-z 0-9 _ . -, the first a letter or digit: %w", name, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Get reads one image.
func (c Catalogue) Get(name string) (Image, error) {
	if err := checkName(name); err != nil {
		return Image{}, err
	}
	dir := filepath.Join(c.Dir, name)
	raw, err := os.ReadFile(filepath.Join(dir, "image.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, fmt.Errorf("no utility-VM image %q; make one with: gatehouse uvm build %s: %w", name, name, errdefs.ErrNotFound)
	}
	if err != nil {
		return Image{}, err
	}
	var i Image
	if err := json.Unmarshal(raw, &i); err != nil {
		return Image{}, fmt.Errorf("utility-VM image %q: image.json: %w", name, err)
	}
	for _, f := range []string{i.Kernel, i.Initrd, i.Tools} {
		if f != filepath.Base(f) && f != "" {
			return Image{}, fmt.Errorf("utility-VM image %q: image.json names %q, which is no file beside it", name, f)
		}
	}
	i.dir = dir
	return i, nil
}

// List returns every image, by name. One that cannot be read is left out, with
// what is wrong with it in the error.
func (c Catalogue) List() ([]Image, error) {
	entries, err := os.ReadDir(c.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Image
	var wrong []error
	for _, e := range entries {
		if !e.IsDir() || !nameRule.MatchString(e.Name()) {
			continue
		}
		i, err := c.Get(e.Name())
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		all = append(all, i)
	}
	return all, errors.Join(wrong...)
}

// Remove takes an image away. Machines that run keep what they have open.
func (c Catalogue) Remove(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	dir := filepath.Join(c.Dir, name)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no utility-VM image %q; list them with: gatehouse uvm ls: %w", name, errdefs.ErrNotFound)
	}
	gone := filepath.Join(c.Dir, building+name+".rm")
	if err := os.Rename(dir, gone); err != nil {
		return err
	}
	return os.RemoveAll(gone)
}

// building is how names of directories start that are no image yet, or no more.
const building = ".build-"

// lock is held by whoever changes the catalogue; what a dead one left behind goes.
func (c Catalogue) lock() (unlock func(), err error) {
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Open(c.Dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: another build or removal is under way: %w", c.Dir, errdefs.ErrUnavailable)
	}
	names, err := f.Readdirnames(-1)
	for _, n := range names {
		if strings.HasPrefix(n, building) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(c.Dir, n)))
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// publish puts a finished directory under its name, in one step even when there
// is an image of that name.
func (c Catalogue) publish(dir, name string) error {
	for _, f := range []string{dir, c.Dir} {
		if err := syncDir(f); err != nil {
			return err
		}
	}
	to := filepath.Join(c.Dir, name)
	err := unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
	if err == unix.ENOENT {
		err = os.Rename(dir, to)
	} else if err == nil {
		err = os.RemoveAll(dir) // the image that was there
	}
	return errors.Join(err, syncDir(c.Dir))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Options of Build.
type Options struct {
	Source Source
	// Tools are the programs of the tools disk, by name on this host's PATH; nil =
	// DefaultTools. One that this host lacks is left out.
	Tools []string
	// Progress is told what is being done, if not nil.
	Progress func(string)
}

// DefaultTools of the tools disk.
func DefaultTools() []string { return []string{"crun", "mkfs.ext4", "busybox"} }

// Build makes an image and puts it into the catalogue. Nothing is left when it fails.
func (c Catalogue) Build(ctx context.Context, name string, o Options) (Image, error) {
	program, err := agent(o.Source.arch())
	if err != nil {
		return Image{}, fmt.Errorf("utility-VM image %q: %w", name, err)
	}
	return c.build(ctx, name, o, program)
}

func (c Catalogue) build(ctx context.Context, name string, o Options, program []byte) (Image, error) {
	if err := checkName(name); err != nil {
		return Image{}, err
	}
	unlock, err := c.lock()
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	dir := filepath.Join(c.Dir, building+name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return Image{}, err
	}
	defer os.RemoveAll(dir)
	b := builder{Options: o, dir: dir, agent: program, image: Image{Name: name, OS: "linux"}}
	if err := b.build(ctx); err != nil {
		return Image{}, fmt.Errorf("utility-VM image %q: %w", name, err)
	}
	if err := c.publish(dir, name); err != nil {
		return Image{}, fmt.Errorf("utility-VM image %q: %w", name, err)
	}
	return c.Get(name)
}

// Has reports a feature.
func (i Image) Has(feature string) bool { return slices.Contains(i.Features, feature) }
