// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package start

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// options of one mount, taken apart.
type options struct {
	flags       uintptr
	propagation []uintptr
	data        string
	// readonly everywhere below a recursive bind.
	deepReadonly bool
}

var flagOf = map[string]struct {
	clear bool
	flag  uintptr
}{
	"defaults": {false, 0}, "rw": {true, unix.MS_RDONLY}, "ro": {false, unix.MS_RDONLY},
	"suid": {true, unix.MS_NOSUID}, "nosuid": {false, unix.MS_NOSUID},
	"dev": {true, unix.MS_NODEV}, "nodev": {false, unix.MS_NODEV},
	"exec": {true, unix.MS_NOEXEC}, "noexec": {false, unix.MS_NOEXEC},
	"async": {true, unix.MS_SYNCHRONOUS}, "sync": {false, unix.MS_SYNCHRONOUS}, "dirsync": {false, unix.MS_DIRSYNC},
	"atime": {true, unix.MS_NOATIME}, "noatime": {false, unix.MS_NOATIME},
	"diratime": {true, unix.MS_NODIRATIME}, "nodiratime": {false, unix.MS_NODIRATIME},
	"relatime": {false, unix.MS_RELATIME}, "norelatime": {true, unix.MS_RELATIME}, "strictatime": {false, unix.MS_STRICTATIME},
	"bind": {false, unix.MS_BIND}, "rbind": {false, unix.MS_BIND | unix.MS_REC},
}

var propagationOf = map[string]uintptr{
	"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC,
	"slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
	"unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

// parseOptions refuses what would need more than mount(2) and this kernel.
func parseOptions(list []string) (options, error) {
	var o options
	var data []string
	for _, s := range list {
		if f, ok := flagOf[s]; ok {
			if f.clear {
				o.flags &^= f.flag
			} else {
				o.flags |= f.flag
			}
			continue
		}
		if p, ok := propagationOf[s]; ok {
			o.propagation = append(o.propagation, p)
			continue
		}
		switch s {
		case "rro":
			o.deepReadonly = true
		case "shared", "rshared", "idmap", "ridmap", "tmpcopyup", "rrw", "rnosuid", "rnodev", "rnoexec", "rsuid", "rdev", "rexec":
			return options{}, fmt.Errorf("mount option %q", s)
		default:
			data = append(data, s)
		}
	}
	o.data = strings.Join(data, ",")
	return o, nil
}

// root makes the container's view of the file system; the calling process is
// alone in a new mount namespace.
func (c *config) root() error {
	// Nothing of ours goes back to where the namespace came from.
	prop := propagationOf["rslave"]
	if p, ok := propagationOf[c.RootPropagation]; ok {
		prop = p
	}
	if err := unix.Mount("", "/", "", prop, ""); err != nil {
		return fmt.Errorf("make mounts slaves: %w", err)
	}
	if err := unix.Mount(c.Root, c.Root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind root %s: %w", c.Root, err)
	}
	if err := unix.Mount("", c.Root, "", unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	root, err := os.OpenFile(c.Root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, m := range c.Mounts {
		if err := c.mount(root, m); err != nil {
			return fmt.Errorf("mount %s: %w", m.Destination, err)
		}
	}
	if err := c.devices(root); err != nil {
		return err
	}
	if err := pivot(c.Root); err != nil {
		return err
	}
	for k, v := range c.Sysctl {
		if err := os.WriteFile(filepath.Join("/proc/sys", strings.ReplaceAll(k, ".", "/")), []byte(v), 0); err != nil {
			return fmt.Errorf("sysctl %s: %w", k, err)
		}
	}
	for _, p := range c.Readonly {
		if err := readonly(p); err != nil {
			return fmt.Errorf("read-only path %s: %w", p, err)
		}
	}
	for _, p := range c.Masked {
		if err := mask(p); err != nil {
			return fmt.Errorf("masked path %s: %w", p, err)
		}
	}
	if c.ReadonlyRoot {
		if err := remount("/", unix.MS_RDONLY); err != nil {
			return fmt.Errorf("read-only root: %w", err)
		}
	}
	return nil
}

// mount makes one mount. Its destination is resolved inside of the root and held
// by a descriptor: links in the image lead nowhere else, whoever else writes there.
func (c *config) mount(root *os.File, m specs.Mount) error {
	o, err := parseOptions(m.Options)
	if err != nil {
		return err
	}
	bind := o.flags&unix.MS_BIND != 0 || m.Type == "bind"
	if bind {
		o.flags |= unix.MS_BIND
	}
	dir := true
	if bind {
		st, err := os.Stat(m.Source)
		if err != nil {
			return err
		}
		dir = st.IsDir()
	}
	at, err := inRoot(root, m.Destination, dir)
	if err != nil {
		return err
	}
	defer at.Close()
	target := procFd(at)
	switch {
	case bind:
		if err := unix.Mount(m.Source, target, "", o.flags&(unix.MS_BIND|unix.MS_REC), ""); err != nil {
			return err
		}
	case m.Type == "cgroup" || m.Type == "cgroup2":
		if err := unix.Mount("cgroup", target, "cgroup2", o.flags|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return err
		}
	default:
		source := m.Source
		if source == "" {
			source = m.Type
		}
		if err := unix.Mount(source, target, m.Type, o.flags, o.data); err != nil {
			return err
		}
	}
	if !bind && len(o.propagation) == 0 && !o.deepReadonly {
		return nil
	}
	// What was mounted is on top of what the descriptor shows: look again.
	top, err := inRoot(root, m.Destination, dir)
	if err != nil {
		return err
	}
	defer top.Close()
	on := procFd(top)
	if rest := o.flags &^ (unix.MS_BIND | unix.MS_REC); bind && rest != 0 {
		if err := remount(on, rest); err != nil {
			return err
		}
	}
	if o.deepReadonly {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(int(top.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
			return err
		}
	}
	for _, p := range o.propagation {
		if err := unix.Mount("", on, "", p, ""); err != nil {
			return err
		}
	}
	return nil
}

// inRoot opens a path below the root, made where it is not there.
func inRoot(root *os.File, path string, dir bool) (*os.File, error) {
	h, err := pathrs.OpenatInRoot(root, path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return h, err
	}
	parent := path
	if !dir {
		parent = filepath.Dir(path)
	}
	p, err := pathrs.MkdirAllHandle(root, parent, 0o755)
	if err != nil {
		return nil, err
	}
	if dir {
		return p, nil
	}
	defer p.Close()
	fd, err := unix.Openat(int(p.Fd()), filepath.Base(path), unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	unix.Close(fd)
	return pathrs.OpenatInRoot(root, path)
}

func procFd(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// remount adds flags to a mount and keeps those it has.
func remount(path string, flags uintptr) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return err
	}
	for have, flag := range map[int64]uintptr{unix.ST_NOSUID: unix.MS_NOSUID, unix.ST_NODEV: unix.MS_NODEV,
		unix.ST_NOEXEC: unix.MS_NOEXEC, unix.ST_RDONLY: unix.MS_RDONLY, unix.ST_NOATIME: unix.MS_NOATIME,
		unix.ST_NODIRATIME: unix.MS_NODIRATIME, unix.ST_RELATIME: unix.MS_RELATIME} {
		if int64(st.Flags)&have != 0 {
			flags |= flag
		}
	}
	return unix.Mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|flags, "")
}

func readonly(path string) error {
	if err := unix.Mount(path, path, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return remount(path, unix.MS_RDONLY)
}

func mask(path string) error {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.IsDir() {
		return unix.Mount("tmpfs", path, "tmpfs", unix.MS_RDONLY, "size=0k")
	}
	return unix.Mount("/dev/null", path, "", unix.MS_BIND, "")
}

// pivot makes dir the root and lets go of what was there.
func pivot(dir string) error {
	if err := unix.Chdir(dir); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	return unix.Chdir("/")
}

// standard are the devices every container has (runtime-spec, default devices).
func standard() []specs.LinuxDevice {
	mode := os.FileMode(0o666)
	d := func(name string, major, minor int64) specs.LinuxDevice {
		return specs.LinuxDevice{Path: "/dev/" + name, Type: "c", Major: major, Minor: minor, FileMode: &mode}
	}
	return []specs.LinuxDevice{d("null", 1, 3), d("zero", 1, 5), d("full", 1, 7), d("random", 1, 8), d("urandom", 1, 9), d("tty", 5, 0)}
}

// devices fills /dev where a mount of the spec made one.
func (c *config) devices(root *os.File) error {
	own := false
	for _, m := range c.Mounts {
		own = own || filepath.Clean(m.Destination) == "/dev" && m.Type != "bind"
	}
	if !own {
		return nil
	}
	for _, d := range append(standard(), c.Devices...) {
		if err := device(root, d); err != nil {
			return fmt.Errorf("device %s: %w", d.Path, err)
		}
	}
	dev, err := pathrs.OpenatInRoot(root, "/dev")
	if err != nil {
		return err
	}
	defer dev.Close()
	for name, to := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
		"stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"} {
		if err := unix.Symlinkat(to, int(dev.Fd()), name); err != nil && err != unix.EEXIST {
			return fmt.Errorf("link /dev/%s: %w", name, err)
		}
	}
	return nil
}

func device(root *os.File, d specs.LinuxDevice) error {
	kind, ok := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}[d.Type]
	if !ok {
		return fmt.Errorf("no type %q", d.Type)
	}
	dir, err := pathrs.MkdirAllHandle(root, filepath.Dir(d.Path), 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	mode, uid, gid := uint32(0o666), 0, 0
	if d.FileMode != nil {
		mode = uint32(d.FileMode.Perm())
	}
	if d.UID != nil {
		uid = int(*d.UID)
	}
	if d.GID != nil {
		gid = int(*d.GID)
	}
	name := filepath.Base(d.Path)
	if err := unix.Mknodat(int(dir.Fd()), name, kind|mode, int(unix.Mkdev(uint32(d.Major), uint32(d.Minor)))); err == unix.EEXIST {
		return nil
	} else if err != nil {
		return err
	}
	at := filepath.Join(procFd(dir), name) // the node just made: no link
	if err := unix.Chmod(at, mode); err != nil {
		return err
	}
	return unix.Lchown(at, uid, gid)
}
