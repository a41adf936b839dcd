// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/profiles/seccomp"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gatehouse.dev/gatehouse/hcs"
)

// Input is everything the OCI spec of a silo follows from.
type Input struct {
	ID, RuntimeID string
	Doc           hcs.ComputeSystem // normalized and valid
	Image         *ispec.ImageConfig
	Facts         Facts
	// User is Command.User, resolved inside the root file system.
	User specs.User
	// NetNsPath is the network namespace; "" = a new one with a loopback only.
	NetNsPath string
	// OwnNetNs: the namespace was made for this system, so its sysctls are ours.
	OwnNetNs bool
	// EtcDir has the generated hosts, hostname and resolv.conf; "" = none.
	EtcDir string
	// CgroupPath below each hierarchy's root.
	CgroupPath string
	// Devices that AssignedDevices stand for, in order.
	Devices []specs.LinuxDevice
}

// Silo is a compiled silo.
type Silo struct {
	Spec        specs.Spec
	Terminal    bool
	ConsoleSize [2]uint16
	Stdin       bool
	// Log: init's output was asked for.
	Log        bool
	StopSignal int
}

// Compile turns a container document into an OCI runtime spec.
func Compile(in Input) (Silo, error) {
	c := in.Doc.Container
	if c.Isolation == hcs.IsolationLibraryOS { // its runtime knows neither
		in.Facts.NoSeccomp, in.Facts.RecursiveReadOnly = true, false
	}
	p := *c.InitProcess
	whole := c.Oci != nil && len(c.Oci.Mounts) > 0
	s := defaultSpec(in.Facts)
	if c.Oci != nil {
		var err error
		if s, err = takeOver(s, *c.Oci, whole); err != nil {
			return Silo{}, err
		}
	}
	if p.Oci == nil && c.Oci != nil {
		p.Oci = c.Oci.Process
	} else if c.Oci != nil && c.Oci.Process != nil {
		rights(s.Process, *c.Oci.Process)
	}
	p.EmulateConsole = p.EmulateConsole || p.Oci != nil && p.Oci.Terminal
	cmd, err := InitCommand(p, in.Image, c.GuestOs.HostName)
	if err != nil {
		return Silo{}, err
	}
	proc := process(*s.Process, p, cmd, in.User)
	proc.Capabilities = known(proc.Capabilities, in.Facts.LastCapability)
	s.Process = &proc

	s.Hostname = c.GuestOs.HostName
	s.Root = &specs.Root{Path: "rootfs", Readonly: c.RootReadOnly || c.Oci != nil && c.Oci.Root != nil && c.Oci.Root.Readonly}
	s.Linux.CgroupsPath = in.CgroupPath
	in.network(&s, whole)
	if !whole {
		s.Mounts = append(s.Mounts, in.etc(s.Mounts, s.Root.Readonly)...)
	}
	s.Mounts = append(s.Mounts, in.binds()...)
	in.limits(&s)
	for _, d := range in.Devices {
		s.Linux.Devices = append(s.Linux.Devices, d)
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices,
			specs.LinuxDeviceCgroup{Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: "rwm"})
	}
	if s.Linux.Seccomp == nil && !whole && !in.Facts.NoSeccomp {
		if s.Linux.Seccomp, err = seccomp.GetDefaultProfile(&s); err != nil {
			return Silo{}, fmt.Errorf("default seccomp profile: %w", err)
		}
	}
	s.Annotations = annotations(in, s.Annotations)
	return Silo{Spec: s, Terminal: proc.Terminal, ConsoleSize: p.ConsoleSize, Stdin: p.CreateStdInPipe,
		Log: p.CreateStdOutPipe || p.CreateStdErrPipe || proc.Terminal, StopSignal: in.stopSignal()}, nil
}

// takeOver lays a whole or partial OCI spec over the defaults, in a copy.
func takeOver(s, o specs.Spec, whole bool) (specs.Spec, error) {
	raw, err := json.Marshal(o)
	if err != nil {
		return s, badJSON("Container.Oci", "%v", err)
	}
	var in specs.Spec // our own copy of everything
	if err := json.Unmarshal(raw, &in); err != nil {
		return s, badJSON("Container.Oci", "%v", err)
	}
	if in.Linux == nil {
		in.Linux = &specs.Linux{}
	}
	if in.Linux.Resources == nil {
		in.Linux.Resources = &specs.LinuxResources{}
	}
	if whole {
		base := specs.Process{}
		if in.Process != nil {
			base = *in.Process
		}
		in.Process = &base
		if in.Version == "" {
			in.Version = s.Version
		}
		if len(in.Linux.Namespaces) == 0 {
			in.Linux.Namespaces = s.Linux.Namespaces
		}
		return in, nil
	}
	s.Domainname, s.Hooks, s.Annotations = in.Domainname, in.Hooks, in.Annotations
	l := in.Linux
	for _, n := range l.Namespaces {
		i := slices.IndexFunc(s.Linux.Namespaces, func(x specs.LinuxNamespace) bool { return x.Type == n.Type })
		if i < 0 {
			s.Linux.Namespaces = append(s.Linux.Namespaces, n)
		} else {
			s.Linux.Namespaces[i] = n
		}
	}
	if l.MaskedPaths != nil {
		s.Linux.MaskedPaths = l.MaskedPaths
	}
	if l.ReadonlyPaths != nil {
		s.Linux.ReadonlyPaths = l.ReadonlyPaths
	}
	l.Resources.Devices = append(s.Linux.Resources.Devices, l.Resources.Devices...)
	s.Linux.Resources = l.Resources
	s.Linux.Sysctl, s.Linux.Devices, s.Linux.Seccomp = l.Sysctl, l.Devices, l.Seccomp
	s.Linux.RootfsPropagation, s.Linux.MountLabel = l.RootfsPropagation, l.MountLabel
	s.Linux.IntelRdt, s.Linux.Personality, s.Linux.TimeOffsets = l.IntelRdt, l.Personality, l.TimeOffsets
	return s, nil
}

// known drops capabilities that the running kernel has not.
func known(c *specs.LinuxCapabilities, last int) *specs.LinuxCapabilities {
	all := hcs.AllCapabilities()
	if c == nil || last <= 0 || last+1 >= len(all) {
		return c
	}
	newer := all[last+1:]
	cut := func(in []string) []string {
		return slices.DeleteFunc(slices.Clone(in), func(s string) bool { return slices.Contains(newer, s) })
	}
	return &specs.LinuxCapabilities{Bounding: cut(c.Bounding), Effective: cut(c.Effective), Permitted: cut(c.Permitted),
		Inheritable: cut(c.Inheritable), Ambient: cut(c.Ambient)}
}

func (in Input) network(s *specs.Spec, whole bool) {
	ownName := false
	for i, n := range s.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace && in.NetNsPath != "" {
			s.Linux.Namespaces[i].Path = in.NetNsPath
		}
		ownName = ownName || n.Type == specs.UTSNamespace && n.Path == ""
	}
	if !ownName {
		s.Hostname, s.Domainname = "", "" // the runtime refuses to name another's
	}
	if whole || in.NetNsPath != "" && !in.OwnNetNs || in.Doc.Container.Isolation == hcs.IsolationLibraryOS {
		return
	}
	// As Docker: no capability is needed for low ports nor for ping.
	sysctl := map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
	maps.Copy(sysctl, s.Linux.Sysctl)
	s.Linux.Sysctl = sysctl
}

// etc are the generated files, unless something else is mounted there.
func (in Input) etc(have []specs.Mount, readonly bool) []specs.Mount {
	if in.EtcDir == "" {
		return nil
	}
	taken := map[string]bool{}
	for _, m := range have {
		taken[path.Clean(m.Destination)] = true
	}
	for _, m := range in.Doc.Container.MappedDirectories {
		taken[path.Clean(m.ContainerPath)] = true
	}
	mode := "rw"
	if readonly {
		mode = "ro"
	}
	var out []specs.Mount
	for _, name := range []string{"resolv.conf", "hostname", "hosts"} {
		dst := "/etc/" + name
		if taken[dst] || taken["/etc"] {
			continue
		}
		out = append(out, specs.Mount{Destination: dst, Type: "bind", Source: filepath.Join(in.EtcDir, name), Options: []string{"rbind", "rprivate", mode}})
	}
	return out
}

func (in Input) binds() []specs.Mount {
	c := in.Doc.Container
	var out []specs.Mount
	for _, m := range c.MappedDirectories {
		o := []string{"rbind", "rprivate"}
		switch {
		case m.ReadOnly && in.Facts.RecursiveReadOnly:
			o = append(o, "rro")
		case m.ReadOnly:
			o = append(o, "ro")
		}
		out = append(out, specs.Mount{Destination: path.Clean(m.ContainerPath), Type: "bind", Source: m.HostPath, Options: o})
	}
	for _, m := range c.MappedPipes {
		out = append(out, specs.Mount{Destination: path.Clean(pipePath(m.ContainerPipeName)), Type: "bind", Source: m.HostPath, Options: []string{"rbind", "rprivate"}})
	}
	// An outer directory first, or it would hide the inner one.
	slices.SortStableFunc(out, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	return out
}

func (in Input) limits(s *specs.Spec) {
	c, r := in.Doc.Container, s.Linux.Resources
	if c.Memory != nil && c.Memory.SizeInMB > 0 {
		m := Memory(c.Memory.SizeInMB, in.Facts)
		if r.Memory != nil {
			all := *r.Memory
			all.Limit, all.Swap = m.Limit, m.Swap
			m = &all
		}
		r.Memory = m
	}
	if c.Processor != nil {
		cpu, unified := CPU(*c.Processor, in.Facts)
		if cpu != nil && r.CPU != nil {
			all := *r.CPU
			if cpu.Quota != nil {
				all.Quota, all.Period = cpu.Quota, cpu.Period
			}
			if cpu.Shares != nil {
				all.Shares = cpu.Shares
			}
			if cpu.Cpus != "" {
				all.Cpus = cpu.Cpus
			}
			cpu = &all
		}
		if cpu != nil {
			r.CPU = cpu
		}
		for k, v := range unified {
			if r.Unified == nil {
				r.Unified = map[string]string{}
			}
			r.Unified[k] = v
		}
	}
	if c.PidsLimit > 0 {
		n := c.PidsLimit
		r.Pids = &specs.LinuxPids{Limit: &n}
	}
}

func annotations(in Input, have map[string]string) map[string]string {
	out := map[string]string{}
	maps.Copy(out, have)
	maps.Copy(out, in.Doc.Annotations)
	out[hcs.AnnotationID] = in.ID
	out[hcs.AnnotationRuntimeID] = in.RuntimeID
	out[hcs.AnnotationOwner] = in.Doc.Owner
	return out
}

// stopSignal is the document's, then the image's, then SIGTERM.
func (in Input) stopSignal() int {
	for _, s := range []string{in.Doc.Annotations[hcs.AnnotationStopSignal], imageStop(in.Image)} {
		if n, err := hcs.ParseSignal(s); err == nil && n > 0 {
			return int(n)
		}
	}
	return int(hcs.SIGTERM)
}

func imageStop(i *ispec.ImageConfig) string {
	if i == nil {
		return ""
	}
	return i.StopSignal
}

// InitUser is the user that init runs as, before it is resolved.
func InitUser(d hcs.ComputeSystem, img *ispec.ImageConfig) (string, error) {
	c := d.Container
	p := *c.InitProcess
	if p.Oci == nil && c.Oci != nil {
		p.Oci = c.Oci.Process
	}
	cmd, err := InitCommand(p, img, c.GuestOs.HostName)
	return cmd.User, err
}
