// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package agent

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcs"
	"gatehouse.dev/gatehouse/internal/guest/modules"
	"gatehouse.dev/gatehouse/internal/guest/proto"
)

// deviceLimit is how long a disk or NIC may take to appear.
const deviceLimit = 10 * time.Second

// shares is where the one virtio-fs of the machine is mounted.
const shares = "/s"

// toolsDir is where the tools disk, LUN 0, is mounted when there is one.
const toolsDir = "/tools"

// disks are the file systems that the host asked for.
type disks struct {
	modules *loader

	toolsOnce sync.Once
	toolsErr  error

	mu     sync.Mutex // guards the rest
	shared bool       // shares is mounted
	// mounted, in the order of mounting; ext4 says which can be frozen.
	mounted []mounted
}

type mounted struct {
	path string
	ext4 bool
}

func (a *Agent) modify(q proto.ModifyRequest) (any, error) {
	r := q.Request
	add := r.RequestType != hcs.RequestRemove
	switch r.ResourceType {
	case proto.ResourceMappedVirtualDisk:
		return nil, decoded(r.Settings, add, a.disks.addDisk, func(d proto.MappedVirtualDisk) error { return a.disks.remove(d.MountPath) })
	case proto.ResourceMappedDirectory:
		return nil, decoded(r.Settings, add, a.disks.addShare, func(d proto.MappedDirectory) error { return a.disks.remove(d.MountPath) })
	case proto.ResourceCombinedLayers:
		return nil, decoded(r.Settings, add, a.disks.addLayers, func(d proto.CombinedLayers) error { return a.disks.removeLayers(d) })
	case proto.ResourceNetwork:
		return nil, decoded(r.Settings, add, func(n proto.Network) error {
			_, err := a.addNetwork(proto.NetworkRequest{Base: q.Base, Network: n})
			return err
		}, func(n proto.Network) error {
			_, err := a.removeNetwork(proto.NetworkRequest{Base: q.Base, Network: n})
			return err
		})
	case proto.ResourceConstraints:
		return nil, decoded(r.Settings, true, func(c proto.Constraints) error {
			_, err := a.update(proto.UpdateRequest{Base: q.Base, Resources: c.Linux})
			return err
		}, nil)
	}
	return nil, &hcs.Error{Code: hcs.CodeNotSupported, Field: "Request.ResourceType", Message: fmt.Sprintf("%q", r.ResourceType)}
}

func decoded[T any](raw json.RawMessage, add bool, onAdd, onRemove func(T) error) error {
	var t T
	if err := json.Unmarshal(raw, &t); err != nil {
		return &hcs.Error{Code: hcs.CodeInvalidJSON, Field: "Request.Settings", Err: err}
	}
	if add {
		return onAdd(t)
	}
	return onRemove(t)
}

// disk waits for a LUN and returns its device.
func (d *disks) disk(controller, lun uint8) (string, error) {
	if err := d.modules.load(modules.SCSI); err != nil {
		return "", err
	}
	pattern := fmt.Sprintf("/sys/bus/scsi/devices/%d:0:0:%d/block/*", controller, lun)
	for end := time.Now().Add(deviceLimit); ; time.Sleep(retry) {
		m, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		if len(m) == 1 {
			dev := filepath.Join("/dev", filepath.Base(m[0]))
			if _, err := os.Stat(dev); err == nil {
				return dev, nil
			}
		}
		if time.Now().After(end) {
			return "", &hcs.Error{Code: hcs.CodeNotFound, Message: fmt.Sprintf("no disk at controller %d, LUN %d", controller, lun)}
		}
	}
}

func (d *disks) addDisk(m proto.MappedVirtualDisk) error {
	dev, err := d.disk(m.Controller, m.Lun)
	if err != nil || m.MountPath == "" {
		return err
	}
	kind, err := fileSystem(dev)
	if err != nil {
		return err
	}
	set := modules.EROFS
	if kind == "ext4" {
		set = modules.Ext4
	}
	if err := d.modules.load(set); err != nil {
		return err
	}
	var flags uintptr
	if m.ReadOnly || kind == "erofs" {
		flags |= unix.MS_RDONLY
	}
	return d.mount(dev, m.MountPath, kind, flags, strings.Join(m.Options, ","))
}

// fileSystem tells by the superblock: EROFS and ext4 have their magic at 1024 and
// at 1080.
func fileSystem(dev string) (string, error) {
	f, err := os.Open(dev)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var b [64]byte
	if _, err := f.ReadAt(b[:], 1024); err != nil {
		return "", fmt.Errorf("%s: %w", dev, err)
	}
	switch {
	case binary.LittleEndian.Uint32(b[:]) == 0xe0f5e1e2:
		return "erofs", nil
	case binary.LittleEndian.Uint16(b[56:]) == 0xef53:
		return "ext4", nil
	}
	return "", &hcs.Error{Code: hcs.CodeInvalidLayer, Message: dev + ": neither EROFS nor ext4"}
}

// mount mounts once: what is mounted there already is left.
func (d *disks) mount(source, target, kind string, flags uintptr, data string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.at(target) >= 0 {
		return &hcs.Error{Code: hcs.CodeExists, Message: target + " is in use"}
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	d.mounted = append(d.mounted, mounted{target, kind == "ext4" && flags&unix.MS_RDONLY == 0})
	return nil
}

func (d *disks) at(target string) int {
	return slices.IndexFunc(d.mounted, func(m mounted) bool { return m.path == target })
}

// remove unmounts; what is not mounted is removed already.
func (d *disks) remove(target string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := d.at(target)
	if i < 0 {
		return nil
	}
	if err := unix.Unmount(target, 0); err != nil && err != unix.EINVAL {
		return &hcs.Error{Code: hcs.CodeSharing, Message: "unmount " + target, Err: err}
	}
	d.mounted = slices.Delete(d.mounted, i, i+1)
	return nil
}

func (d *disks) addShare(m proto.MappedDirectory) error {
	if err := d.modules.load(modules.VirtioFS); err != nil {
		return err
	}
	if err := d.mountShares(); err != nil {
		return err
	}
	from, err := pathrs.OpenInRoot(shares, m.ShareName)
	if err != nil {
		return &hcs.Error{Code: hcs.CodeNotFound, Field: "Request.Settings.ShareName", Err: err}
	}
	defer from.Close()
	st, err := from.Stat()
	if err != nil {
		return err
	}
	if !st.IsDir() {
		if err := touch(m.MountPath); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.at(m.MountPath) >= 0 {
		return &hcs.Error{Code: hcs.CodeExists, Message: m.MountPath + " is in use"}
	}
	if st.IsDir() {
		if err := os.MkdirAll(m.MountPath, 0o755); err != nil {
			return err
		}
	}
	source := fmt.Sprintf("/proc/self/fd/%d", from.Fd())
	if err := unix.Mount(source, m.MountPath, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount %s: %w", m.MountPath, err)
	}
	if m.ReadOnly {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(unix.AT_FDCWD, m.MountPath, unix.AT_RECURSIVE, &attr); err != nil {
			return errors.Join(fmt.Errorf("make %s read-only: %w", m.MountPath, err), unix.Unmount(m.MountPath, unix.MNT_DETACH))
		}
	}
	d.mounted = append(d.mounted, mounted{path: m.MountPath})
	return nil
}

func touch(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

func (d *disks) mountShares() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shared {
		return nil
	}
	if err := unix.Mount(proto.ShareTag, shares, "virtiofs", unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return &hcs.Error{Code: hcs.CodeNotFound, Message: "the machine's virtio-fs", Err: err}
	}
	d.shared = true
	return nil
}

// addLayers makes a container's root of read-only layers and a writable one.
func (d *disks) addLayers(l proto.CombinedLayers) error {
	if l.ContainerRootPath == "" {
		return &hcs.Error{Code: hcs.CodeInvalidArg, Field: "Request.Settings.ContainerRootPath", Message: "empty"}
	}
	scratch := l.ScratchPath
	if scratch == "" {
		scratch = memoryScratch(l)
		if err := d.mount("tmpfs", scratch, "tmpfs", unix.MS_NODEV, "mode=0755"); err != nil {
			return err
		}
	}
	err := d.stack(l, scratch)
	if err != nil && l.ScratchPath == "" {
		err = errors.Join(err, d.remove(scratch))
	}
	return err
}

// memoryScratch is beside the root: /c/1/r has /c/1/m.
func memoryScratch(l proto.CombinedLayers) string {
	return filepath.Join(filepath.Dir(l.ContainerRootPath), "m")
}

func (d *disks) stack(l proto.CombinedLayers, scratch string) error {
	upper, work := filepath.Join(scratch, "u"), filepath.Join(scratch, "w")
	for _, dir := range []string{upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if len(l.Layers) == 0 {
		return d.mount(upper, l.ContainerRootPath, "", unix.MS_BIND, "")
	}
	if err := d.modules.load(modules.Overlay); err != nil {
		return err
	}
	var lower []string
	for i, layer := range l.Layers {
		if strings.ContainsAny(layer.Path, `:,\`) || !filepath.IsAbs(layer.Path) {
			return &hcs.Error{Code: hcs.CodeInvalidLayer, Field: fmt.Sprintf("Request.Settings.Layers[%d].Path", i), Message: fmt.Sprintf("%q", layer.Path)}
		}
		lower = append(lower, layer.Path)
	}
	return d.mount("overlay", l.ContainerRootPath, "overlay", 0,
		"lowerdir="+strings.Join(lower, ":")+",upperdir="+upper+",workdir="+work)
}

func (d *disks) removeLayers(l proto.CombinedLayers) error {
	err := d.remove(l.ContainerRootPath)
	if err == nil && l.ScratchPath == "" {
		err = d.remove(memoryScratch(l))
	}
	return err
}

// tools mounts the tools disk if LUN 0 is one, once.
func (d *disks) tools() error {
	d.toolsOnce.Do(func() { d.toolsErr = d.mountTools() })
	return d.toolsErr
}

func (d *disks) mountTools() error {
	if sets, err := d.modules.present(); err != nil || !slices.Contains(sets, modules.SCSI) {
		return err // a machine without disks
	}
	if err := errors.Join(d.modules.load(modules.SCSI), d.modules.load(modules.EROFS)); err != nil {
		return err
	}
	for end := time.Now().Add(time.Second); ; time.Sleep(retry) { // the bus is looked through meanwhile
		if _, err := os.Stat("/sys/bus/scsi/devices/0:0:0:0"); err == nil {
			break
		}
		if time.Now().After(end) {
			return nil // a machine without tools
		}
	}
	dev, err := d.disk(0, 0)
	if err != nil {
		return err
	}
	if kind, err := fileSystem(dev); err != nil || kind != "erofs" {
		return nil // somebody else's disk
	}
	return d.mount(dev, toolsDir, "erofs", unix.MS_RDONLY, "")
}

// unmountAll makes scratches whole before the machine goes.
func (d *disks) unmountAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range slices.Backward(d.mounted) {
		if err := unix.Unmount(m.path, 0); err != nil {
			log("unmount %s: %v", m.path, err)
		}
	}
	d.mounted = nil
}

// The numbers of FIFREEZE and FITHAW, _IOWR('X', 119 and 120, int).
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

func (a *Agent) freeze(q proto.FreezeRequest) (any, error) {
	return nil, a.disks.freeze(q.Path, fiFreeze)
}
func (a *Agent) thaw(q proto.FreezeRequest) (any, error) { return nil, a.disks.freeze(q.Path, fiThaw) }

// freeze stops (or lets go) writing to one scratch, or to all.
func (d *disks) freeze(path string, what uint) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range d.mounted {
		if !m.ext4 || path != "" && path != m.path {
			continue
		}
		f, err := os.Open(m.path)
		if err != nil {
			return err
		}
		err = unix.IoctlSetInt(int(f.Fd()), what, 0)
		f.Close()
		if err != nil && err != unix.EBUSY && err != unix.EINVAL { // frozen, or not, already
			return fmt.Errorf("%s: %w", m.path, err)
		}
	}
	return nil
}
