// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package compute

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gatehouse.dev/gatehouse/hcs"
)

// checkHost checks what a document says of the host: that what is mapped exists
// (nothing is ever made for a document) and is of the right kind.
func checkHost(c *hcs.Container) ([]specs.LinuxDevice, error) {
	exists := func(field, path string) (fs.FileInfo, error) {
		fi, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			return nil, &hcs.Error{Code: hcs.CodeNotFound, Field: field, Message: fmt.Sprintf("%q does not exist; make it first", path)}
		}
		if err != nil {
			return nil, &hcs.Error{Code: hcs.CodeInvalidArg, Field: field, Err: err}
		}
		return fi, nil
	}
	for i, m := range c.MappedDirectories {
		if _, err := exists(fmt.Sprintf("Container.MappedDirectories[%d].HostPath", i), m.HostPath); err != nil {
			return nil, err
		}
	}
	for i, m := range c.MappedPipes {
		f := fmt.Sprintf("Container.MappedPipes[%d].HostPath", i)
		fi, err := exists(f, m.HostPath)
		if err != nil {
			return nil, err
		}
		if t := fi.Mode().Type(); t != fs.ModeSocket && t != fs.ModeNamedPipe {
			return nil, &hcs.Error{Code: hcs.CodeInvalidData, Field: f, Message: fmt.Sprintf("%q is neither a socket nor a FIFO", m.HostPath)}
		}
	}
	if st := c.Storage; st != nil {
		for i, l := range st.Layers {
			fi, err := os.Stat(l.Path)
			if err != nil || !fi.IsDir() {
				return nil, &hcs.Error{Code: hcs.CodeInvalidLayer, Field: fmt.Sprintf("Container.Storage.Layers[%d].Path", i),
					Message: fmt.Sprintf("%q is no directory with an unpacked image layer", l.Path)}
			}
		}
		if st.Path != "" && (len(st.Layers) > 0 || c.Image == "") {
			fi, err := exists("Container.Storage.Path", st.Path)
			if err != nil {
				return nil, err
			}
			if !fi.IsDir() {
				return nil, &hcs.Error{Code: hcs.CodeInvalidData, Field: "Container.Storage.Path", Message: fmt.Sprintf("%q is no directory", st.Path)}
			}
		}
	}
	if n := c.Networking; n != nil && n.NetNsPath != "" {
		fi, err := exists("Container.Networking.NetNsPath", n.NetNsPath)
		if err != nil {
			return nil, err
		}
		if own, err := os.Stat("/proc/self/ns/net"); c.Isolation == hcs.IsolationLibraryOS && (err != nil || os.SameFile(fi, own)) {
			return nil, &hcs.Error{Code: hcs.CodeNotSupported, Field: "Container.Networking.NetNsPath", Message: "a library OS has no part in the host's network"}
		}
	}
	var devices []specs.LinuxDevice
	for i, d := range c.AssignedDevices {
		f := fmt.Sprintf("Container.AssignedDevices[%d].LocationPath", i)
		fi, err := exists(f, d.LocationPath)
		if err != nil {
			return nil, err
		}
		dev, err := device(filepath.Clean(d.LocationPath), fi)
		if err != nil {
			return nil, &hcs.Error{Code: hcs.CodeInvalidData, Field: f, Err: err}
		}
		devices = append(devices, dev)
	}
	return devices, nil
}

func device(path string, fi fs.FileInfo) (specs.LinuxDevice, error) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || fi.Mode()&fs.ModeDevice == 0 {
		return specs.LinuxDevice{}, fmt.Errorf("%q is no device", path)
	}
	typ := "b"
	if fi.Mode()&fs.ModeCharDevice != 0 {
		typ = "c"
	}
	mode, uid, gid := fi.Mode().Perm(), st.Uid, st.Gid
	// dev_t as in glibc's sys/sysmacros.h.
	rdev := uint64(st.Rdev)
	major := int64(rdev>>8&0xfff | rdev>>32&^0xfff)
	minor := int64(rdev&0xff | rdev>>12&^0xff&0xffffffff)
	return specs.LinuxDevice{Path: path, Type: typ, Major: major, Minor: minor, FileMode: &mode, UID: &uid, GID: &gid}, nil
}
