// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

// Package start is the guest agent's own way to start a container: the agent
// executes itself again in new namespaces and in the container's cgroup; that
// child (Main) makes the mounts, enters the root, drops what the process may not
// have, and becomes the process. It does what Supported admits and nothing else.
package start

import (
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gatehouse.dev/gatehouse/hcs"
)

// Name is argv[0] of the child.
const Name = "gatehouse-start"

// config is what the child reads.
type config struct {
	Process specs.Process
	Seccomp []byte `json:",omitempty"`
	// Join: the container is there, its mount namespace is descriptor fdMount.
	Join bool `json:",omitempty"`
	// Hold: after the set-up the child stays, as process 1 that reaps.
	Hold bool `json:",omitempty"`
	// Wait for a byte on fdGate before becoming the process.
	Wait bool `json:",omitempty"`

	// Not with Join.
	Root            string              `json:",omitempty"`
	ReadonlyRoot    bool                `json:",omitempty"`
	Hostname        string              `json:",omitempty"`
	Domainname      string              `json:",omitempty"`
	Mounts          []specs.Mount       `json:",omitempty"`
	Devices         []specs.LinuxDevice `json:",omitempty"`
	Masked          []string            `json:",omitempty"`
	Readonly        []string            `json:",omitempty"`
	Sysctl          map[string]string   `json:",omitempty"`
	RootPropagation string              `json:",omitempty"`
}

// Descriptors of the child beside 0, 1 and 2.
const (
	fdConfig = 3
	fdStatus = 4 // a socket: terminal's master, "ready", or what is wrong
	fdGate   = 5
	fdMount  = 6
)

// status is what the child reports; end of file without one means that the
// process runs.
type status struct {
	Ready    bool   `json:",omitempty"`
	Error    string `json:",omitempty"`
	ExitCode int    `json:",omitempty"` // 127 not found, 126 not executable, 125 all else
}

// Supported reports nil when this package can start a spec as it stands; else
// the error names the member that it cannot honour.
func Supported(s *specs.Spec, seccomp []byte) error {
	no := func(field string) error {
		return &hcs.Error{Code: hcs.CodeNotSupported, Field: field, Message: "the agent's own starter cannot do this, and there is no crun on the tools disk"}
	}
	if s.Process != nil {
		if f := processField(s.Process); f != "" {
			return no("OCI.process." + f)
		}
	}
	if s.Hooks != nil {
		return no("OCI.hooks")
	}
	for i, m := range s.Mounts {
		if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
			return no(fmt.Sprintf("OCI.mounts[%d].uidMappings", i))
		}
		if _, err := parseOptions(m.Options); err != nil {
			return no(fmt.Sprintf("OCI.mounts[%d].options", i))
		}
	}
	l := s.Linux
	if l == nil {
		return nil
	}
	for _, n := range l.Namespaces {
		if n.Type == specs.UserNamespace || n.Type == specs.TimeNamespace {
			return no("OCI.linux.namespaces." + string(n.Type))
		}
	}
	switch {
	case !hasNamespace(l.Namespaces, specs.MountNamespace):
		return no("OCI.linux.namespaces.mount")
	case len(l.UIDMappings)+len(l.GIDMappings) > 0:
		return no("OCI.linux.uidMappings")
	case l.Seccomp != nil && len(seccomp) == 0:
		return no("OCI.linux.seccomp")
	case l.MountLabel != "":
		return no("OCI.linux.mountLabel")
	case l.IntelRdt != nil:
		return no("OCI.linux.intelRdt")
	case l.Personality != nil:
		return no("OCI.linux.personality")
	case !slices.Contains([]string{"", "private", "rprivate", "slave", "rslave"}, l.RootfsPropagation):
		return no("OCI.linux.rootfsPropagation")
	}
	return nil
}

// processField names the member of a process that cannot be honoured, or "".
func processField(p *specs.Process) string {
	switch {
	case p.ApparmorProfile != "":
		return "apparmorProfile"
	case p.SelinuxLabel != "":
		return "selinuxLabel"
	case p.Scheduler != nil:
		return "scheduler"
	case p.IOPriority != nil:
		return "ioPriority"
	case p.ExecCPUAffinity != nil:
		return "execCPUAffinity"
	}
	return ""
}

func hasNamespace(l []specs.LinuxNamespace, t specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(l, func(n specs.LinuxNamespace) bool { return n.Type == t })
}
