// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package silo

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Root is a root file system: Lower, topmost first, over an upper directory; or
// Path, bound as it is.
type Root struct {
	Lower    []string
	Upper    string
	Work     string
	Path     string
	ReadOnly bool
}

// mountOptions is a page, less what the kernel keeps (mount(2)).
const mountOptions = 4000

// mountRoot mounts r at target. It runs on the Thread. links is a directory for
// short names, made if needed.
func mountRoot(r Root, target, links string) error {
	switch {
	case r.Path != "" && len(r.Lower) > 0:
		return errors.New("root file system: both Path and Lower")
	case r.Path != "":
		return bindRoot(r.Path, target, false)
	case len(r.Lower) == 0:
		return errors.New("root file system: neither Path nor Lower")
	case r.Upper == "" && len(r.Lower) == 1: // overlay wants two directories
		return bindRoot(r.Lower[0], target, true)
	case r.Upper != "" && r.Work == "":
		return errors.New("root file system: Upper without Work")
	}
	opts, short := overlayOptions(r)
	if short {
		if err := linkLayers(r, links); err != nil {
			return fmt.Errorf("root file system: %w", err)
		}
		// The thread's own working directory: relative names are looked up from it.
		if err := unix.Chdir(links); err != nil {
			return fmt.Errorf("root file system: chdir %s: %w", links, err)
		}
		defer func() { _ = unix.Chdir("/") }()
	}
	if err := unix.Mount("overlay", target, "overlay", 0, opts); err != nil {
		return fmt.Errorf("mount overlay of %d layers: %w%s", len(r.Lower), err, missing(r))
	}
	return nil
}

func bindRoot(path, target string, ro bool) error {
	if err := unix.Mount(path, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind root %s: %w", path, err)
	}
	if ro {
		if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("bind root %s read-only: %w", path, err)
		}
	}
	return nil
}

// overlayOptions returns mount options, and whether they name links made by
// linkLayers: when the real names are too long together, or hold what overlayfs
// takes for punctuation.
func overlayOptions(r Root) (opts string, short bool) {
	all := strings.Join(r.Lower, "") + r.Upper + r.Work
	short = strings.ContainsAny(all, `:,\`)
	build := func(lower []string, upper, work string) string {
		o := "lowerdir=" + strings.Join(lower, ":")
		if upper != "" {
			// The index would tie upper to these very lower directories.
			o += ",upperdir=" + upper + ",workdir=" + work + ",index=off"
		}
		return o
	}
	if !short {
		if opts = build(r.Lower, r.Upper, r.Work); len(opts) <= mountOptions {
			return opts, false
		}
	}
	lower := make([]string, len(r.Lower))
	for i := range lower {
		lower[i] = strconv.Itoa(i)
	}
	upper, work := "", ""
	if r.Upper != "" {
		upper, work = "u", "w"
	}
	return build(lower, upper, work), true
}

func linkLayers(r Root, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	link := func(to, name string) error {
		p := filepath.Join(dir, name)
		if err := os.Remove(p); err != nil && !os.IsNotExist(err) {
			return err
		}
		return os.Symlink(to, p)
	}
	for i, l := range r.Lower {
		if err := link(l, strconv.Itoa(i)); err != nil {
			return err
		}
	}
	if r.Upper == "" {
		return nil
	}
	return errors.Join(link(r.Upper, "u"), link(r.Work, "w"))
}

// missing finds the likely reason of a failed mount, for people.
func missing(r Root) string {
	for _, d := range append(append([]string{}, r.Lower...), r.Upper, r.Work) {
		if d == "" {
			continue
		}
		if st, err := os.Stat(d); err != nil {
			return fmt.Sprintf(" (%v)", err)
		} else if !st.IsDir() {
			return fmt.Sprintf(" (%s is no directory)", d)
		}
	}
	return ""
}

// unmountRoot undoes mountRoot; absent is no error.
func unmountRoot(target string) error {
	for {
		err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
		switch err {
		case nil:
			continue // stacked
		case unix.EINVAL, unix.ENOENT:
			return nil
		case unix.EBUSY:
			// Something below is mounted still, or a dying process holds it; in our
			// own namespace nobody can miss it.
			if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL {
				return fmt.Errorf("unmount %s: %w", target, err)
			}
		default:
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
}
