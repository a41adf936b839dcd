// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"maps"
	"path"
	"slices"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gatehouse.dev/gatehouse/hcs"
)

// CommitConfig is what a container of the image that is made of this one starts
// with: the image's configuration, with what the container was told besides.
func CommitConfig(doc hcs.ComputeSystem, img ispec.ImageConfig) (ispec.ImageConfig, error) {
	c := img
	p := doc.Container.InitProcess
	if p == nil {
		return c, nil
	}
	args, err := given(*p)
	if err != nil {
		return c, err
	}
	switch {
	case p.ApplicationName != "":
		c.Entrypoint, c.Cmd = []string{p.ApplicationName}, args
	case len(args) > 0:
		c.Cmd = args
	}
	if len(p.Environment) > 0 {
		env := map[string]string{}
		overlay(env, img.Env)
		maps.Copy(env, p.Environment)
		c.Env = nil
		for _, k := range slices.Sorted(maps.Keys(env)) {
			c.Env = append(c.Env, k+"="+env[k])
		}
	}
	if p.User != "" {
		c.User = p.User
	}
	if p.WorkingDirectory != "" {
		c.WorkingDir = p.WorkingDirectory
	}
	return c, nil
}

// MountPoints are the paths in the container that are not its own files: the kernel
// and the host have something mounted there.
func MountPoints(doc hcs.ComputeSystem) []string {
	c := doc.Container
	out := []string{"/etc/resolv.conf", "/etc/hostname", "/etc/hosts"}
	for _, m := range mounts() {
		out = append(out, m.Destination)
	}
	if c.Oci != nil {
		for _, m := range c.Oci.Mounts {
			out = append(out, path.Clean("/"+m.Destination))
		}
	}
	for _, m := range (Input{Doc: doc}).binds() {
		out = append(out, m.Destination)
	}
	return out
}
