// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package modules is the list of kernel modules in a utility VM's initrd, as who
// builds the image and who loads them know it.
package modules

import (
	"fmt"
	"strings"
)

// Dir has the modules and Index, in the initrd.
const (
	Dir   = "/modules"
	Index = "index"
)

// Names of sets. The agent loads a set when the machine has the device or a
// request needs it; one without modules is built into the kernel.
const (
	Channel  = "channel" // what the agent's port needs
	SCSI     = "scsi"
	EROFS    = "erofs"
	Ext4     = "ext4"
	Overlay  = "overlay"
	Net      = "net"
	VirtioFS = "virtiofs"
	RNG      = "rng"
	Balloon  = "balloon"
	Panic    = "panic"
)

// Set is modules in the order of loading: each after what it needs.
type Set struct {
	Name    string
	Modules []string // file names in Dir
}

// Write is the text of an index: a line a set, "name: file file".
func Write(sets []Set) string {
	var b strings.Builder
	for _, s := range sets {
		fmt.Fprintf(&b, "%s: %s\n", s.Name, strings.Join(s.Modules, " "))
	}
	return b.String()
}

// Parse reads an index.
func Parse(text string) (map[string][]string, error) {
	sets := map[string][]string{}
	for line := range strings.Lines(text) {
		name, files, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			return nil, fmt.Errorf("index of modules: %q is no set", line)
		}
		sets[name] = strings.Fields(files)
	}
	return sets, nil
}
