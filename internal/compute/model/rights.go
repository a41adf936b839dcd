// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gatehouse.dev/gatehouse/hcs"
)

// Rights checks what an applied document takes of the host against what its rule
// grants. Without a rule everything is granted: only callers with full rights come
// without one. resolve follows the symbolic links of a host path.
func (g Grant) Rights(d hcs.ComputeSystem, resolve func(string) (string, error)) error {
	if v := d.VirtualMachine; v != nil {
		extra := []string(nil)
		if g.rule != nil {
			extra = g.rule.UvmImages
		}
		if v.Image != g.policy.UvmImage && !slices.Contains(extra, v.Image) && (g.policy.PinUvmImage || g.rule != nil) {
			return denied("VirtualMachine.Image", "%q: %s allows %q", v.Image, g.by, append([]string{g.policy.UvmImage}, extra...))
		}
		if g.rule != nil && !g.rule.AllowPrivileged {
			if field := left(stripVM(*v)); field != "" {
				return denied("VirtualMachine."+field, "needs AllowPrivileged, which %s does not grant", g.by)
			}
		}
	}
	r := g.rule
	if r == nil {
		return nil
	}
	if !r.AllowTemplates && (d.Template != "" || d.VirtualMachine != nil && d.VirtualMachine.RestoreState != nil) {
		return denied("Template", "needs AllowTemplates, which %s does not grant", g.by)
	}
	if len(d.HostedSystem) > 0 && !r.AllowPrivileged {
		return denied("HostedSystem", "needs AllowPrivileged, which %s does not grant; give Container", g.by)
	}
	if d.Container == nil {
		return nil
	}
	if !r.AllowPrivileged {
		if err := g.unprivileged(d); err != nil {
			return err
		}
	}
	if !r.AllowHostNamespaces {
		if err := g.ownNamespaces(*d.Container); err != nil {
			return err
		}
	}
	for _, h := range hostPaths(*d.Container) {
		real, err := resolve(h.path)
		if err != nil {
			return denied(h.field, "%q: %v", h.path, err)
		}
		below := func(root string) bool { return within(root, path.Clean(h.path)) && within(root, real) }
		if !slices.ContainsFunc(r.AllowHostPaths, below) {
			return denied(h.field, "%q is not below a path that %s allows: %q", real, g.by, r.AllowHostPaths)
		}
	}
	return nil
}

func within(root, p string) bool {
	return root == "/" || p == root || strings.HasPrefix(p, root+"/")
}

type hostPath struct{ field, path string }

// hostPaths are all that a container takes from the host's file system.
func hostPaths(c hcs.Container) (out []hostPath) {
	for i, m := range c.MappedDirectories {
		out = append(out, hostPath{fmt.Sprintf("Container.MappedDirectories[%d].HostPath", i), m.HostPath})
	}
	for i, m := range c.MappedPipes {
		out = append(out, hostPath{fmt.Sprintf("Container.MappedPipes[%d].HostPath", i), m.HostPath})
	}
	if s := c.Storage; s != nil {
		for i, l := range s.Layers {
			out = append(out, hostPath{fmt.Sprintf("Container.Storage.Layers[%d].Path", i), l.Path})
		}
		if s.Path != "" {
			out = append(out, hostPath{"Container.Storage.Path", s.Path})
		}
	}
	return out
}

// runtimeAnnotations are prefixes of annotations that make an OCI runtime do things.
var runtimeAnnotations = []string{"run.oci.", "org.systemd.property.", "dev.gvisor.", "io.katacontainers."}

// unprivileged finds what loosens a container.
func (g Grant) unprivileged(d hcs.ComputeSystem) error {
	no := func(field string) error {
		return denied(field, "needs AllowPrivileged, which %s does not grant", g.by)
	}
	c := *d.Container
	if len(c.AssignedDevices) > 0 {
		return no("Container.AssignedDevices")
	}
	for k := range d.Annotations {
		if slices.ContainsFunc(runtimeAnnotations, func(p string) bool { return strings.HasPrefix(k, p) }) {
			return no("Annotations." + k)
		}
	}
	if c.InitProcess != nil {
		if err := g.Process("Container.InitProcess.", *c.InitProcess); err != nil {
			return err
		}
	}
	if c.Oci != nil {
		if err := g.process("Container.Oci.process", c.Oci.Process); err != nil {
			return err
		}
		if field := left(stripSpec(*c.Oci)); field != "" {
			return no("Container.Oci." + field)
		}
	}
	if c.Networking != nil && !g.who.Admin {
		for i, e := range c.Networking.Endpoints {
			if err := g.endpoint(fmt.Sprintf("Container.Networking.Endpoints[%d]", i), e); err != nil {
				return err
			}
		}
	}
	return nil
}

// endpoint lets an endpoint's owner choose its network, addresses, names and
// published ports; all else belongs to the networks' administrators, an ID that
// another endpoint may have above all.
func (g Grant) endpoint(field string, raw json.RawMessage) error {
	m, err := members(raw)
	if err != nil {
		return badJSON(field, "%v", err)
	}
	for k, v := range m {
		switch {
		case slices.ContainsFunc([]string{"Name", "HostComputeNetwork", "HostComputeNetworkName", "IpConfigurations", "MacAddress", "Dns", "SchemaVersion"},
			func(x string) bool { return strings.EqualFold(x, k) }):
		case strings.EqualFold(k, "AdditionalParams"):
			if a, err := members(v); err != nil || len(a) > 1 || len(a) == 1 && a["Aliases"] == nil {
				return denied(field+"."+k, "needs AllowPrivileged, which %s does not grant", g.by)
			}
		case strings.EqualFold(k, "Policies"):
			var ps []struct{ Type string }
			if err := json.Unmarshal(v, &ps); err != nil {
				return badJSON(field+"."+k, "%v", err)
			}
			for _, p := range ps {
				if p.Type != "PortMapping" {
					return denied(field+"."+k, "policy %q needs AllowPrivileged, which %s does not grant", p.Type, g.by)
				}
			}
		default:
			return denied(field+"."+k, "needs AllowPrivileged, which %s does not grant", g.by)
		}
	}
	return nil
}

// Process checks the rights of a process; prefix is that of the field names.
func (g Grant) Process(prefix string, p hcs.ProcessParameters) error {
	if g.rule == nil || g.rule.AllowPrivileged {
		return nil
	}
	return g.process(prefix+"Oci", p.Oci)
}

func (g Grant) process(field string, p *specs.Process) error {
	if p == nil {
		return nil
	}
	no := func(member string) error {
		return denied(field+"."+member, "needs AllowPrivileged, which %s does not grant", g.by)
	}
	if c := p.Capabilities; c != nil {
		usual := hcs.DefaultCapabilities()
		for _, set := range [][]string{c.Bounding, c.Effective, c.Inheritable, c.Permitted, c.Ambient} {
			for _, name := range set {
				if !slices.Contains(usual, name) {
					return no("capabilities." + name)
				}
			}
		}
	}
	if p.OOMScoreAdj != nil && *p.OOMScoreAdj < 0 {
		return no("oomScoreAdj")
	}
	// rlimits: the kernel bounds what they cost by the cgroup's limits.
	if p.ApparmorProfile != "" || p.SelinuxLabel != "" {
		return no("apparmorProfile")
	}
	if p.Scheduler != nil || p.IOPriority != nil || p.ExecCPUAffinity != nil {
		return no("scheduler")
	}
	return nil
}

// stripSpec leaves of a partial OCI spec only what loosens a container or is about
// the host; processes and namespaces are checked by themselves.
func stripSpec(o specs.Spec) specs.Spec {
	o.Version, o.Process, o.Hostname, o.Domainname = "", nil, "", ""
	if o.Root != nil && o.Root.Path == "" {
		o.Root = nil
	}
	if o.Linux == nil {
		return o
	}
	l := *o.Linux
	l.Namespaces = nil
	if l.Resources != nil {
		r := *l.Resources
		if r.Memory != nil {
			m := *r.Memory
			m.Limit, m.Reservation, r.Memory = nil, nil, &m
		}
		if r.CPU != nil {
			p := *r.CPU
			p.Quota, p.Period, p.Shares, p.Cpus, p.Mems, r.CPU = nil, nil, nil, "", "", &p
		}
		r.Pids = nil
		l.Resources = &r
	}
	o.Linux = &l
	return o
}

// stripVM leaves of a virtual machine what is about the host's files and devices.
func stripVM(v hcs.VirtualMachine) hcs.VirtualMachine {
	v.Version, v.StopOnReset, v.Image, v.ComputeTopology, v.StorageQoS, v.GuestConnection, v.Services = nil, false, "", nil, nil, nil, nil
	return v
}

// left names a member that is still there, however deep; "" = none.
func left(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return "unreadable"
	}
	return deepest(raw)
}

func deepest(raw json.RawMessage) string {
	m, err := members(raw)
	if err != nil {
		return ""
	}
	names := make([]string, 0, len(m))
	for k := range m {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		switch text := string(m[k]); {
		case text == "null" || text == "{}" || text == "[]" || text == `""` || text == "false" || text == "0":
		case text[0] == '{':
			if inner := deepest(m[k]); inner != "" {
				return k + "." + inner
			}
		default:
			return k
		}
	}
	return ""
}

// ownNamespaces refuses the host's namespaces and any by path.
func (g Grant) ownNamespaces(c hcs.Container) error {
	no := func(field string) error {
		return denied(field, "needs AllowHostNamespaces, which %s does not grant", g.by)
	}
	if n := c.Networking; n != nil {
		if n.NetNsPath != "" {
			return no("Container.Networking.NetNsPath")
		}
		if n.Namespace != "" && !g.who.Admin { // it may be anybody's
			return no("Container.Networking.Namespace")
		}
	}
	if c.Oci != nil && c.Oci.Linux != nil {
		for i, n := range c.Oci.Linux.Namespaces {
			if n.Path != "" {
				return no(fmt.Sprintf("Container.Oci.linux.namespaces[%d].path", i))
			}
		}
		// A complete spec that leaves one out shares the host's.
		if len(c.Oci.Mounts) > 0 && len(c.Oci.Linux.Namespaces) > 0 {
			for _, t := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.NetworkNamespace, specs.MountNamespace} {
				if !slices.ContainsFunc(c.Oci.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == t }) {
					return no("Container.Oci.linux.namespaces")
				}
			}
		}
	}
	return nil
}
